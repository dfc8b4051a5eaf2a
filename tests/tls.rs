//! Secrets are sent over TLS 1.2 or later, to a server that proves its identity; otherwise nothing is sent, and the
//! error says why.

#![cfg(feature = "rustls-no-provider")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use concur_auth::{
    Credentials, Error, ErrorKind, Grant, MemoryStore, OAuthClient, TokenManager,
    reqwest::{self, Certificate, ClientBuilder},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection, Stream, SupportedProtocolVersion,
    pki_types::PrivateKeyDer,
    version::{TLS12, TLS13},
};

/// What a server read after the TLS handshake, or all of it where there was none.
type Read = Arc<Mutex<Vec<u8>>>;

struct Server {
    uri: String,
    read: Read,
}

impl Server {
    fn new(serve: impl Fn(&mut TcpStream, &Read) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let read = Read::default();
        let shared = Arc::clone(&read);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                serve(&mut connection.unwrap(), &shared);
            }
        });
        Self { uri, read }
    }

    /// A server that shows this certificate, and sends a token to every client that accepts it.
    fn with(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let key = PrivateKeyDer::try_from(identity.key.clone()).unwrap();
        let config = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone().into()], key)
            .unwrap();
        let config = Arc::new(config);
        Self::new(move |connection, read| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = Stream::new(&mut tls, connection);
            let mut request = [0; 4096];
            // The form comes with the head, or after it.
            while let Ok(length @ 1..) = stream.read(&mut request) {
                read.lock().unwrap().extend_from_slice(&request[..length]);
                if String::from_utf8_lossy(&read.lock().unwrap()).contains("grant_type=") {
                    let body = r#"{"refresh_token": "r"}"#;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all((head + body).as_bytes()).unwrap();
                    return;
                }
            }
        })
    }

    /// A server that answers the first bytes it receives with these bytes, and reads on.
    fn answering(bytes: &'static [u8]) -> Self {
        Self::new(move |connection, read| {
            let mut buffer = [0; 4096];
            let mut answered = false;
            while let Ok(length @ 1..) = connection.read(&mut buffer) {
                read.lock().unwrap().extend_from_slice(&buffer[..length]);
                if !answered {
                    answered = connection.write_all(bytes).is_ok();
                }
                if bytes.is_empty() {
                    return;
                }
            }
        })
    }

    fn read(&self) -> String {
        String::from_utf8_lossy(&self.read.lock().unwrap()).into_owned()
    }

    /// Asks for a token, by the client and by a manager.
    async fn ask(&self, uri: &str, settings: impl Fn() -> ClientBuilder) -> [Result<(), Error>; 2] {
        // In the build whose programs bring their own cryptography.
        #[cfg(not(feature = "rustls"))]
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let app = Credentials::new("the-app", "the-secret").company("uuid", "at-token");
        let client = OAuthClient::with_http_client(settings());
        let grant = Grant::company_request_token("uuid", "at-token");
        let by_client = client.request_token(&uri.parse().unwrap(), &app, &grant).await;
        let manager = TokenManager::builder()
            .credentials(app)
            .store(MemoryStore::new())
            .base_uri(uri)
            .http_client(settings())
            .build()
            .unwrap();
        let by_manager = manager.get_valid_refresh_token().await;
        [by_client.map(drop), by_manager.map(drop)]
    }
}

/// A certificate and its key.
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed_by(authority: &CertifiedIssuer<'static, KeyPair>, params: &CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Identity { certificate: certificate.der().to_vec(), key: key.serialize_der() }
}

fn self_signed(params: &CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity { certificate: certificate.der().to_vec(), key: key.serialize_der() }
}

const OURS: [&str; 2] = ["localhost", "127.0.0.1"];
const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[tokio::test]
async fn a_server_is_trusted_when_its_authority_was_given() {
    let authority = authority();
    let root = || Certificate::from_der(authority.as_ref().der()).unwrap();
    let identity = signed_by(&authority, &params(&OURS));
    for versions in [&BOTH[..], &[&TLS12], &[&TLS13]] {
        let server = Server::with(&identity, versions);
        let by_address = server.uri.replace("localhost", "127.0.0.1");
        for uri in [&server.uri, &by_address] {
            let only = || reqwest::Client::builder().tls_certs_only([root()]);
            let merged = || reqwest::Client::builder().tls_certs_merge([root()]);
            for outcome in server.ask(uri, only).await.into_iter().chain(server.ask(uri, merged).await) {
                outcome.unwrap();
            }
        }
        assert_eq!(server.read().matches("POST /oauth2/v0/token").count(), 8);
    }
}

#[tokio::test]
async fn a_server_without_a_valid_certificate_is_refused_with_the_reason() {
    let authority = authority();
    let root = || Certificate::from_der(authority.as_ref().der()).unwrap();
    let ours = || reqwest::Client::builder().tls_certs_only([root()]);
    let merged = || reqwest::Client::builder().tls_certs_merge([root()]);
    let default = reqwest::Client::builder;
    let dated = |from: i32, to: i32| {
        let mut params = params(&OURS);
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        signed_by(&authority, &params)
    };
    let mut as_authority = params(&OURS);
    as_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);

    let clock = "check this machine's clock, then ask the administrator of that host, or of the proxy in front of \
                 it, for a certificate that is valid now";
    let proxy = "check the base URI and any proxy";
    let unknown = "sent nothing to localhost: its certificate is self-signed, or signed by an authority that this machine \
                   does not know; if the host is your own gateway or proxy, give the authority's certificate to \
                   TokenManagerBuilder::http_client"
        .to_owned();
    let as_authority_only = "sent nothing to localhost: its certificate is a CA certificate, which a server must not use; \
                             let an authority sign a certificate for that host, and give the authority's certificate to \
                             TokenManagerBuilder::http_client"
        .to_owned();
    let expired = format!("sent nothing to localhost: its certificate has expired; {clock}");
    let too_early = format!("sent nothing to localhost: its certificate is not valid yet; {clock}");
    let another = format!("sent nothing to localhost: its certificate is for another host; {proxy}");
    type Settings<'a> = &'a dyn Fn() -> ClientBuilder;
    for (what, identity, settings, message) in [
        ("signed by nobody known", signed_by(&authority, &params(&OURS)), &default as Settings<'_>, &unknown),
        ("signed by another", signed_by(&self::authority(), &params(&OURS)), &ours, &unknown),
        ("self-signed", self_signed(&params(&OURS)), &ours, &unknown),
        ("self-signed, merged", self_signed(&params(&OURS)), &merged, &unknown),
        ("self-signed as an authority", self_signed(&as_authority), &ours, &as_authority_only),
        ("expired", dated(2001, 2002), &ours, &expired),
        ("expired, merged", dated(2001, 2002), &merged, &expired),
        ("not valid yet", dated(3001, 3002), &ours, &too_early),
        ("another host's", signed_by(&authority, &params(&["us.api.concursolutions.com"])), &ours, &another),
        ("another host's, merged", signed_by(&authority, &params(&["127.0.0.1"])), &merged, &another),
    ] {
        let server = Server::with(&identity, &BOTH);
        for outcome in server.ask(&server.uri, settings).await {
            let error = outcome.unwrap_err();
            // A certificate's names are the server's words.
            assert!(!format!("{error:?}").contains("us.api"), "{error:?}");
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (ErrorKind::Untrusted, message.as_str()),
                "{what}"
            );
        }
        assert_eq!(server.read(), "", "{what}");
    }
}

#[tokio::test]
async fn a_server_without_safe_tls_is_refused_and_the_error_says_why() {
    // A record of a handshake: a ServerHello of 38 bytes, version 3.2, which is TLS 1.1, random bytes, no session,
    // cipher suite 0x002f, no compression.
    const HELLO_1_1: &[u8] = b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02\
        0123456789abcdef0123456789abcdef\x00\x00\x2f\x00";
    let refused = |what: &str| format!("sent nothing to localhost: {what}; check the base URI and any proxy");
    for (what, bytes, kind, message) in [
        ("TLS 1.1", HELLO_1_1, ErrorKind::Untrusted, refused("it offers no TLS 1.2 or later")),
        (
            "an alert: protocol_version",
            b"\x15\x03\x02\x00\x02\x02\x46",
            ErrorKind::Untrusted,
            refused("it offers no TLS 1.2 or later"),
        ),
        (
            "an alert: handshake_failure",
            b"\x15\x03\x03\x00\x02\x02\x28",
            ErrorKind::Untrusted,
            refused("no safe TLS connection could be made"),
        ),
        (
            "plain HTTP",
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            ErrorKind::Untrusted,
            refused("it does not speak TLS"),
        ),
        (
            "an alert that may pass: internal_error",
            b"\x15\x03\x03\x00\x02\x02\x50",
            ErrorKind::Unavailable,
            "could not connect to localhost; check the network, any proxy, and the base URI".to_owned(),
        ),
        (
            "nothing",
            b"",
            ErrorKind::Unavailable,
            "could not connect to localhost; check the network, any proxy, and the base URI".to_owned(),
        ),
    ] {
        let server = Server::answering(bytes);
        for outcome in server.ask(&server.uri, reqwest::Client::builder).await {
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (kind, message.clone()), "{what}");
        }
        let read = server.read();
        assert!(!read.is_empty(), "{what}");
        for secret in ["POST", "the-secret", "at-token"] {
            assert!(!read.contains(secret), "{what}");
        }
    }
}
