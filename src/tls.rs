//! TLS by rustls, for all servers that this crate connects to: its cryptography, and in words why a server is not trusted.
//!
//! Always: nothing that the server says about itself is in the words.

use std::{error::Error as StdError, io, sync::Arc};

use rustls::{CertificateError, crypto::CryptoProvider};

use crate::{Error, ErrorKind};

/// The cryptography that the program has installed for its process, or else what comes with the feature `rustls`.
pub(crate) fn cryptography() -> Result<Arc<CryptoProvider>, Error> {
    let installed = CryptoProvider::get_default().cloned();
    #[cfg(feature = "rustls")]
    let installed = installed.or_else(|| Some(Arc::new(rustls::crypto::aws_lc_rs::default_provider())));
    installed.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            "there is no cryptography for TLS; install a provider when the program starts, as with \
             rustls::crypto::ring::default_provider().install_default(), or enable the feature `rustls` of concur-auth",
        )
    })
}

/// What to do about each fault. It depends on how the connecting program is configured.
pub(crate) struct Advice {
    /// No known authority vouches for the certificate.
    pub(crate) authority: &'static str,
    /// It is not valid now.
    pub(crate) clock: &'static str,
    /// It is a certificate authority's own.
    pub(crate) ca: &'static str,
    /// Anything else, such as another host's certificate.
    pub(crate) host: &'static str,
}

/// What is wrong with a certificate, and what to do.
pub(crate) fn explain(fault: &CertificateError, advice: &Advice) -> (&'static str, &'static str) {
    match fault {
        // rustls looks an issuer up by its name. So an unknown authority with the NAME of a known one, but with another key,
        // is found, and then the signature does not fit its key: BadSignature, not UnknownIssuer.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "its certificate is self-signed, or signed by an authority that this machine does not know",
            advice.authority,
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("its certificate has expired", advice.clock)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("its certificate is not valid yet", advice.clock)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ("its certificate is for another host", advice.host)
        }
        CertificateError::Revoked => ("its certificate has been revoked", advice.host),
        // `openssl req -x509` makes such certificates. The name is compared because this error is a type of the verifier's
        // own crate, which rustls does not export.
        CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => {
            ("its certificate is a CA certificate, which a server must not use", advice.ca)
        }
        _ => ("its certificate cannot be accepted", advice.host),
    }
}

/// The TLS library's reason, from any depth of a chain of causes.
pub(crate) fn tls_refusal<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if let Some(refusal) = e.downcast_ref() {
            return Some(refusal);
        }
        // The `source` of an I/O error skips the error that it holds and returns that error's source.
        cause = match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => e.source(),
        };
    }
    None
}
