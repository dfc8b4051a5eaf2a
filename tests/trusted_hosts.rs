//! Secrets go to Concur's hosts and to those that the configuration named, wherever a URI comes from and however it is
//! written; nothing at all goes to any other.

#![cfg(feature = "simulator")]

mod support;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    future::{Future, ready},
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use concur_auth::{
    Clock, Credentials, CredentialsFile, ErrorKind, Grant, JsonFileStore, RefreshTokenObject, SystemClock,
    TokenManager, TokenManagerBuilder, reqwest, simulator::Rotation,
};
use support::Scene;

/// What becomes of a URI, be it a base URI, a geolocation in a reply, or one in a file.
#[derive(Clone, Copy)]
enum Verdict {
    /// It is this host of Concur's.
    Concur(&'static str),
    /// It is none of Concur's, and is called this.
    Refused(&'static str),
    NotAUrl,
}
use Verdict::{Concur, NotAUrl, Refused};

const US: &str = "us.api.concursolutions.com";

const TABLE: [(&str, Verdict); 74] = [
    // As SAP writes them, and as they have been seen.
    ("https://us.api.concursolutions.com", Concur(US)),
    ("https://us.api.Concursolutions.com/oauth2/v0/token?a#b", Concur(US)),
    ("https://cn.api.concurcdc.cn/", Concur("cn.api.concurcdc.cn")),
    ("https://not.yet.known.concursolutions.com", Concur("not.yet.known.concursolutions.com")),
    ("https://us-impl.api.concursolutions.com", Concur("us-impl.api.concursolutions.com")),
    // Names that only look like it.
    ("https://evilconcursolutions.com", Refused("https://evilconcursolutions.com")),
    ("https://evil-concursolutions.com", Refused("https://evil-concursolutions.com")),
    ("https://evilconcurcdc.cn", Refused("https://evilconcurcdc.cn")),
    (
        "https://us.api.concursolutions.com.example.net",
        Refused("https://us.api.concursolutions.com.example.net"),
    ),
    ("https://us.api.concursolutions.co", Refused("https://us.api.concursolutions.co")),
    ("https://us.api.concursolutions.com.cn", Refused("https://us.api.concursolutions.com.cn")),
    ("https://concursolutions.com", Refused("https://concursolutions.com")),
    ("https://.concursolutions.com", Refused("https://.concursolutions.com")),
    ("https://us..concursolutions.com", Refused("https://us..concursolutions.com")),
    ("https://us.api.concursolutions.com.", Refused("https://us.api.concursolutions.com.")),
    ("https://example.net/.concursolutions.com", Refused("https://example.net")),
    ("https://example.net?.concursolutions.com", Refused("https://example.net")),
    ("https://example.net#.concursolutions.com", Refused("https://example.net")),
    ("https://example.net\\.concursolutions.com", Refused("https://example.net")),
    ("https://example.net%2f.concursolutions.com", NotAUrl),
    ("https://us.api.concursolutions.com%00.example.net", NotAUrl),
    // User information.
    ("https://user@us.api.concursolutions.com", Refused("a URI with user information")),
    ("https://user:pass@us.api.concursolutions.com", Refused("a URI with user information")),
    ("https://:pass@us.api.concursolutions.com", Refused("a URI with user information")),
    ("https://us.api.concursolutions.com@example.net", Refused("a URI with user information")),
    ("https://us.api.concursolutions.com:443@example.net", Refused("a URI with user information")),
    ("https://example.net\\@us.api.concursolutions.com", Refused("https://example.net")),
    ("https://@us.api.concursolutions.com", Concur(US)),
    // Ports.
    ("https://us.api.concursolutions.com:443", Concur(US)),
    ("https://us.api.concursolutions.com:", Concur(US)),
    ("https://us.api.concursolutions.com:8443", Refused("https://us.api.concursolutions.com")),
    ("https://us.api.concursolutions.com:80", Refused("https://us.api.concursolutions.com")),
    ("https://us.api.concursolutions.com:0", Refused("https://us.api.concursolutions.com")),
    ("https://us.api.concursolutions.com:65979", NotAUrl),
    // Letters of other alphabets: a Cyrillic es, a dotless i; and some that mean the same letter (UTS 46).
    ("https://us.api.сoncursolutions.com", Refused("https://us.api.xn--oncursolutions-40l.com")),
    ("https://us.api.concursolutıons.com", Refused("https://us.api.xn--concursolutons-ggc.com")),
    ("https://us.api.xn--oncursolutions-40l.com", Refused("https://us.api.xn--oncursolutions-40l.com")),
    ("https://us.api.ｃｏｎｃｕｒｓｏｌｕｔｉｏｎｓ.com", Concur(US)),
    ("https://us。api．concursolutions｡com", Concur(US)),
    ("https://us.api.concurſolutions.com", Concur(US)),
    ("https://ⓤⓢ.api.concursolutions.com", Concur(US)),
    ("https://us.api.con\u{ad}cur\u{200b}solutions.com", Concur(US)),
    ("https://us.api.concursolutions.com。", Refused("https://us.api.concursolutions.com.")),
    ("https://us.api.concursolutions.com／.example.net", NotAUrl),
    ("https://us.api.concursolutions%2Ecom", Concur(US)),
    ("https://xn--us.api.concursolutions.com", NotAUrl),
    // Addresses, in every notation.
    ("https://192.0.2.1", Refused("https://192.0.2.1")),
    ("https://3221225985", Refused("https://192.0.2.1")),
    ("https://0xC0000201", Refused("https://192.0.2.1")),
    ("https://0300.0.02.01", Refused("https://192.0.2.1")),
    ("https://0.0.0.0", Refused("https://0.0.0.0")),
    ("https://[2001:db8::1]", Refused("https://[2001:db8::1]")),
    ("https://[::ffff:192.0.2.1]", Refused("https://[::ffff:c000:201]")),
    ("https://[us.api.concursolutions.com]", NotAUrl),
    // Schemes.
    ("http://us.api.concursolutions.com", Refused("http://us.api.concursolutions.com")),
    ("ftp://us.api.concursolutions.com", Refused("ftp://us.api.concursolutions.com")),
    ("wss://us.api.concursolutions.com", Refused("wss://us.api.concursolutions.com")),
    ("concur://us.api.concursolutions.com", Refused("concur://us.api.concursolutions.com")),
    ("file://us.api.concursolutions.com/", Refused("file://us.api.concursolutions.com")),
    ("file:///etc/passwd", Refused("a URI without a host")),
    ("data:text/plain,us.api.concursolutions.com", Refused("a URI without a host")),
    ("javascript:us.api.concursolutions.com", Refused("a URI without a host")),
    ("blob:https://us.api.concursolutions.com", Refused("a URI without a host")),
    ("us.api.concursolutions.com", NotAUrl),
    ("//us.api.concursolutions.com", NotAUrl),
    ("https:us.api.concursolutions.com", Concur(US)),
    ("https:\\\\us.api.concursolutions.com", Concur(US)),
    ("https://", NotAUrl),
    // Line breaks and tabs, which the URL standard takes out; other white space and control characters.
    ("\n https://us.api.concursolutions.com\t\r\n", Concur(US)),
    ("https://us.api.\nconcursol\tutions.com", Concur(US)),
    (
        "https://us.api.concursolutions.com\t.example.net",
        Refused("https://us.api.concursolutions.com.example.net"),
    ),
    ("https://us.api.concursolutions.com\r\n@example.net", Refused("a URI with user information")),
    ("https://us.api.concur solutions.com", NotAUrl),
    ("https://us.api.concur\u{1}solutions.com", NotAUrl),
];

fn refused(what: &str, origin: &str) -> String {
    format!(
        "refused to send secrets to {what} ({origin}); Concur's hosts are https, below concursolutions.com or \
         concurcdc.cn, without a port (a host of your own must be named with TokenManagerBuilder::trust_host)"
    )
}

/// What the configuration's author is told, or where the request goes.
fn outcome_of_configured(verdict: Verdict, origin: &str) -> String {
    match verdict {
        Concur(host) => format!("CONNECT {host}:443"),
        Refused(what) => format!("Untrusted: {}", refused(what, origin)),
        NotAUrl => format!(
            "Config: the base URI ({origin}) is not a URL; write it like https://glz.api.concursolutions.com"
        ),
    }
}

/// Of a URI that came from outside only what can be no secret is shown.
fn received(what: &'static str) -> &'static str {
    match what.split_once("://") {
        None | Some(("http" | "https", US | "localhost" | "127.0.0.1" | "[::1]")) => what,
        Some(("http" | "https", _)) => "a host that is not Concur's",
        Some(_) => "a URI that is not Concur's",
    }
}

/// What is told of a URI that came from outside.
fn message_of_received(verdict: Verdict) -> Result<String, String> {
    const ORIGIN: &str = "the geolocation that came with the token";
    match verdict {
        Concur(host) => Ok(format!("https://{host}/")),
        Refused(what) => Err(refused(received(what), ORIGIN)),
        NotAUrl => Err(refused("a text that is not a URL", ORIGIN)),
    }
}

/// A proxy that lets nothing through and remembers where everything was to go.
#[derive(Clone)]
struct Proxy {
    uri: String,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<BTreeSet<String>>>::default();
        let shared = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && connection.read_exact(&mut byte).is_ok() {
                    request.push(byte[0]);
                }
                let first = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
                shared.lock().unwrap().insert(first.trim_end_matches(" HTTP/1.1").to_owned());
                let _ = connection.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Self { uri, asked }
    }

    /// A manager whose every request over TLS would come by here.
    fn builder(&self, dir: &Path) -> TokenManagerBuilder {
        TokenManager::builder()
            .credentials(app())
            .store(JsonFileStore::new(dir.join("token.json")))
            .http_client(reqwest::Client::builder().proxy(reqwest::Proxy::all(&self.uri).unwrap()))
            .clock(Impatient)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().collect()
    }

    /// Where the manager turns to, or why it does not.
    async fn outcome(&self, manager: Result<TokenManager, concur_auth::Error>) -> String {
        let error = match manager {
            Ok(manager) => manager.get_valid_refresh_token().await.unwrap_err(),
            Err(e) => e,
        };
        let asked = self.asked();
        match error.kind() {
            ErrorKind::Unavailable => asked.join(", "),
            kind => {
                assert_eq!(asked, [""; 0], "{error}");
                format!("{kind:?}: {error}")
            }
        }
    }
}

/// For whom every pause has passed at once.
#[derive(Debug)]
struct Impatient;

impl Clock for Impatient {
    fn now(&self) -> SystemTime {
        SystemClock.now()
    }
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ready(()))
    }
}

fn app() -> Credentials {
    Credentials::new("the-app", "the-secret").company("uuid", "at-token")
}

#[tokio::test]
async fn a_base_uri_given_to_the_builder() {
    let proxy = Proxy::start();
    let dir = tempfile::tempdir().unwrap();
    for (uri, verdict) in TABLE.into_iter().chain([("", NotAUrl), (" \n", NotAUrl)]) {
        let manager = proxy.builder(dir.path()).base_uri(uri).build();
        let expected = outcome_of_configured(verdict, "given to the builder");
        assert_eq!(proxy.outcome(manager).await, expected, "{uri:?}");
    }
}

#[tokio::test]
async fn a_base_uri_in_the_credentials_file() {
    let proxy = Proxy::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.json");
    let glz = Concur("glz.api.concursolutions.com");
    for (uri, verdict) in TABLE.into_iter().chain([("", glz), (" \n", glz)]) {
        let json = serde_json::json!({
            "appID": "the-app", "clientSecret": "the-secret", "companyUUID": "uuid", "companyRequestToken": "at-token",
            "baseURI": uri,
        });
        std::fs::write(&path, json.to_string()).unwrap();
        let manager = proxy.builder(dir.path()).credentials(CredentialsFile::new(&path)).build();
        let expected = outcome_of_configured(verdict, &format!("baseURI in {}", path.display()));
        assert_eq!(proxy.outcome(manager).await, expected, "{uri:?}");
    }
}

#[tokio::test]
async fn a_base_uri_in_the_environment() {
    let _alone = support::alone().await;
    let glz = Concur("glz.api.concursolutions.com");
    let mut cases: Vec<(OsString, String)> = TABLE
        .into_iter()
        .chain([("", glz), (" \n", glz)])
        .map(|(uri, verdict)| {
            (uri.into(), outcome_of_configured(verdict, "the environment variable CONCUR_BASE_URI"))
        })
        .collect();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt as _;
        let message = "Config: the environment variable CONCUR_BASE_URI is not UTF-8 text; set it again";
        cases.push((OsString::from_vec(b"https://\xff".to_vec()), message.to_owned()));
    }
    for some in cases.chunks(8) {
        let children = some.iter().map(|(uri, outcome)| {
            let mut child = support::child("turns_to_the_base_uri_in_its_environment");
            child.env("CONCUR_BASE_URI", uri).env("OUTCOME", outcome).spawn().unwrap()
        });
        support::all_succeed(children.collect());
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn turns_to_the_base_uri_in_its_environment() {
    let proxy = Proxy::start();
    let dir = tempfile::tempdir().unwrap();
    let outcome = proxy.outcome(proxy.builder(dir.path()).build()).await;
    assert_eq!(outcome, std::env::var("OUTCOME").unwrap());
}

/// The refresh token itself is good, so it is saved first; then nobody gets anything until the file is mended.
#[tokio::test]
async fn a_geolocation_in_a_reply() {
    let proxy = Proxy::start();
    let scene = Scene::with(Rotation::Always).await;
    for (uri, verdict) in TABLE {
        let dir = tempfile::tempdir().unwrap();
        let manager = proxy
            .builder(dir.path())
            .credentials(scene.concur.credentials())
            .clock(scene.clock.clone())
            .build()
            .unwrap();
        scene.concur.issue_request_token();
        scene.concur.set_reply_member("geolocation", Some(&serde_json::to_string(uri).unwrap()));
        let requests = scene.concur.token_requests();
        let outcome = manager.get_valid_refresh_token().await;

        let json = std::fs::read_to_string(dir.path().join("token.json")).unwrap();
        let saved = RefreshTokenObject::from_json(&json).unwrap();
        assert!(scene.concur.is_live(saved.secret()), "{uri:?}");
        assert_eq!(saved.geolocation(), Some(uri.trim()), "as received");
        // Before that it would be held back by the failure of the request.
        scene.clock.advance(std::time::Duration::from_secs(1));
        let access = manager.access_token().await;
        match message_of_received(verdict) {
            Ok(base) => {
                assert_eq!(outcome.unwrap().secret(), saved.secret(), "{uri:?}");
                assert_eq!(access.unwrap().geolocation().as_str(), base, "{uri:?}");
            }
            Err(message) => {
                for error in [outcome.unwrap_err(), access.unwrap_err()] {
                    assert_eq!(
                        (error.kind(), error.to_string()),
                        (ErrorKind::Untrusted, message.clone()),
                        "{uri:?}"
                    );
                }
            }
        }
        assert_eq!(scene.concur.token_requests() - requests, 1, "{uri:?}");
    }
    assert_eq!(proxy.asked(), [""; 0]);
}

/// Neither is its access token handed out, which a caller would send there, nor its refresh token sent.
#[tokio::test]
async fn a_geolocation_in_the_token_file() {
    let proxy = Proxy::start();
    let dir = tempfile::tempdir().unwrap();
    // Loopback is for those who configured it.
    let loopback = [
        ("https://localhost", Refused("https://localhost")),
        ("http://127.0.0.1:9", Refused("http://127.0.0.1")),
        ("https://127.1", Refused("https://127.0.0.1")),
        ("https://[::1]", Refused("https://[::1]")),
    ];
    for (uri, verdict) in TABLE.into_iter().chain(loopback) {
        let json = serde_json::json!({
            "refresh_token": "r", "geolocation": uri,
            "access_token": "a", "expires_in": 3600, "accessTokenExpiresAt": 253_402_300_799_u64,
        });
        let json = json.to_string();
        std::fs::write(dir.path().join("token.json"), &json).unwrap();
        let manager =
            proxy.builder(dir.path()).base_uri("https://eu.api.concursolutions.com").build().unwrap();
        let access = manager.access_token().await;
        match message_of_received(verdict) {
            Ok(base) => {
                assert_eq!(access.unwrap().geolocation().as_str(), base, "{uri:?}");
                // And the refresh token goes there, too.
                assert_eq!(manager.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable, "{uri:?}");
                let host = base.trim_start_matches("https://").trim_end_matches('/');
                assert_eq!(proxy.asked(), [format!("CONNECT {host}:443")], "{uri:?}");
            }
            Err(message) => {
                // The first call asks the source, and the second only looks at the store.
                let first = manager.get_valid_refresh_token().await.unwrap_err();
                let second = manager.get_valid_refresh_token().await.unwrap_err();
                let third = manager.retry_now().await.unwrap_err();
                for error in [access.unwrap_err(), manager.refresh().await.unwrap_err(), first, second, third]
                {
                    assert_eq!(
                        (error.kind(), error.to_string()),
                        (ErrorKind::Untrusted, message.clone()),
                        "{uri:?}"
                    );
                }
                assert_eq!(proxy.asked(), [""; 0], "{uri:?}");
                assert_eq!(std::fs::read_to_string(dir.path().join("token.json")).unwrap(), json);
            }
        }
        assert_eq!(RefreshTokenObject::from_json(&json).unwrap().geolocation(), Some(uri.trim()));
    }
}

#[tokio::test]
async fn what_a_person_brings_replaces_a_token_that_names_a_foreign_host() {
    let scene = Scene::new().await;
    let foreign = r#"{"refresh_token": "r", "geolocation": "https://example.com"}"#;
    let tokens = scene.manager();
    let request_token = scene.concur.issue_request_token();
    let grant = Grant::company_request_token(scene.concur.company_uuid(), request_token);
    scene.write_token(foreign);
    assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Untrusted);
    tokens.sign_in(grant).await.unwrap();
    tokens.refresh().await.unwrap();
    scene.write_token(foreign);
    assert_eq!(tokens.refresh().await.unwrap_err().kind(), ErrorKind::Untrusted);
    tokens.adopt(RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap()).await.unwrap();
    tokens.refresh().await.unwrap();
}

#[tokio::test]
async fn a_blank_geolocation_is_none() {
    let proxy = Proxy::start();
    let scene = Scene::new().await;
    for (number, uri) in ["\"\"", "\" \\n\"", "null"].into_iter().enumerate() {
        scene.concur.set_reply_member("geolocation", Some(uri));
        let dir = scene.dir.path().join(number.to_string());
        std::fs::create_dir(&dir).unwrap();
        let manager = proxy.builder(&dir).credentials(scene.concur.credentials()).clock(scene.clock.clone());
        let manager = manager.build().unwrap();
        let access = manager.access_token().await.unwrap();
        assert_eq!(access.geolocation().as_str(), format!("{}/", scene.concur.base_uri()));
    }
    assert_eq!(proxy.asked(), [""; 0]);
}
