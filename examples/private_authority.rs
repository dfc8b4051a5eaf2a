//! Your own gateway in front of Concur, with a certificate that your own authority has signed. It uses a simulated Concur that this
//! program starts itself.
//!
//! ```text
//! cargo run --example private_authority --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post, serve::Listener};
use concur_auth::{MemoryStore, TokenManager, reqwest, simulator::ConcurSimulator};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let (authority, gateway) = start_gateway(&concur.base_uri()).await?;
    let manager = || {
        let builder = TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new());
        builder.base_uri(&gateway)
    };

    let unknown = manager().build()?.get_valid_refresh_token().await;
    writeln!(out, "Without the authority: {}", unknown.expect_err("it is not known"))?;
    writeln!(out, "   {} requests have reached Concur", concur.token_requests())?;

    // A real program reads the file of its authority: reqwest::Certificate::from_pem.
    let settings = reqwest::Client::builder().tls_certs_merge([authority]);
    let tokens = manager().http_client(settings).build()?;
    tokens.get_valid_refresh_token().await?;
    writeln!(out, "With it: {}", tokens.status())?;
    Ok(())
}

/// The certificate of the authority, and where the gateway listens.
async fn start_gateway(concur: &str) -> Result<(reqwest::Certificate, String), Box<dyn Error>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &authority)?;

    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der())?)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://localhost:{}", listener.local_addr()?.port());
    let routes = Router::new().route("/oauth2/v0/token", post(forward)).with_state(concur.to_owned());
    let gateway = Gateway { listener, tls: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(gateway, routes).await });
    Ok((reqwest::Certificate::from_der(authority.der())?, address))
}

async fn forward(State(concur): State<String>, form: Bytes) -> Result<(StatusCode, Bytes), StatusCode> {
    let to_concur = reqwest::Client::new().post(format!("{concur}/oauth2/v0/token"));
    let request = to_concur.header("content-type", "application/x-www-form-urlencoded").body(form);
    let reply = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok((reply.status(), reply.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?))
}

struct Gateway {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for Gateway {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (connection, from) = Listener::accept(&mut self.listener).await;
            // A client that does not trust the certificate ends the handshake.
            if let Ok(connection) = self.tls.accept(connection).await {
                return (connection, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
