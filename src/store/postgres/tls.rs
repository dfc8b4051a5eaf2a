//! TLS to the database server.
//!
//! Always: the server's certificate and host name are checked, with the cryptography that reqwest uses.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;

use super::url::Roots;
use crate::{Error, tls};

/// Registered for TLS without the exchange before it (`sslnegotiation=direct`), which requires it.
const ALPN: &[u8] = b"postgresql";

/// Makes connections with TLS.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Reads the certificates of the authorities.
    pub(super) fn new(roots: &Roots) -> Result<Self, Error> {
        let cannot =
            |e| Error::store("could not prepare TLS for the database; check this machine's certificates", e);
        let builder = ClientConfig::builder_with_provider(tls::cryptography()?)
            .with_safe_default_protocol_versions()
            .map_err(cannot)?;
        let builder = match roots {
            Roots::Platform => builder.with_platform_verifier().map_err(cannot)?,
            Roots::File(path) => {
                let unread = |e: Box<dyn std::error::Error + Send + Sync>| {
                    let path = path.display();
                    Error::store(
                        format!(
                            "could not read certificates from {path}; check sslrootcert in the database URL"
                        ),
                        e,
                    )
                };
                let mut store = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unread(e.into()))? {
                    store.add(certificate.map_err(|e| unread(e.into()))?).map_err(|e| unread(e.into()))?;
                }
                if store.is_empty() {
                    return Err(unread("the file has no PEM certificate".into()));
                }
                builder.with_root_certificates(store)
            }
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Arc::new(config).into()))
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ToHost> {
        let host = ServerName::try_from(host.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        Ok(ToHost { connector: self.0.clone(), host })
    }
}

/// The handshake with one host.
pub(super) struct ToHost {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl<S> TlsConnect<S> for ToHost
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.host, stream).await.map(Stream) })
    }
}

/// An encrypted connection.
pub(super) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Stream<S> {
    /// The check of the certificate and of the host name already ties the sign-in to this server.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock as _, SystemClock, clock::within};

    /// Through a pipe that takes less than a record at a time.
    #[tokio::test]
    async fn what_is_flushed_arrives_and_a_shutdown_is_told() {
        use base64::Engine as _;
        use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
        use std::io::Write as _;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let base64 = base64::engine::general_purpose::STANDARD.encode(certificate.cert.der());
        write!(file, "-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n").unwrap();
        let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(tls::cryptography().unwrap())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key.into())
            .unwrap();
        // The client reads nothing.
        config.send_tls13_tickets = 0;
        let (near, far) = tokio::io::duplex(64);
        let mut tls = Tls::new(&Roots::File(file.path().to_owned())).unwrap();
        let to_host: ToHost =
            MakeTlsConnect::<tokio::io::DuplexStream>::make_tls_connect(&mut tls, "localhost").unwrap();
        let received = tokio::spawn(async move {
            let mut theirs = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(far).await.unwrap();
            let mut received = [0; 1000];
            theirs.read_exact(&mut received).await.unwrap();
            (theirs, received)
        });
        let mut ours = to_host.connect(near).await.unwrap();
        ours.write_all(&[7; 1000]).await.unwrap();
        ours.flush().await.unwrap();
        let late = || SystemClock.sleep(std::time::Duration::from_secs(20));
        let (mut theirs, received) = within(late(), received).await.unwrap().unwrap();
        assert_eq!(received, [7; 1000]);
        ours.shutdown().await.unwrap();
        assert_eq!(within(late(), theirs.read(&mut [0])).await.unwrap().unwrap(), 0);
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("authorities.pem");
        let not_one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for content in [None, Some(""), Some("no PEM"), Some("-----BEGIN CERTIFICATE-----\n"), Some(not_one)]
        {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = Tls::new(&Roots::File(path.clone())).map(drop).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Store);
            assert_eq!(
                error.to_string(),
                format!(
                    "could not read certificates from {}; check sslrootcert in the database URL",
                    path.display()
                )
            );
            assert!(std::error::Error::source(&error).is_some(), "{content:?}");
        }
    }
}
