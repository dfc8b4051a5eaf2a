//! Why no reply came, or no whole one, and what to do about it.
//!
//! Always: where a server could not prove that it is the one meant, nothing was sent to it.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::{
    Form,
    attempts::{Failure, Fate},
};
use crate::{Error, ErrorKind, members::Fault};

/// Why no more of a reply could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("it has more than 256 KiB")]
    TooLong,
    #[error(transparent)]
    Off(reqwest::Error),
    #[error(transparent)]
    Garbled(Fault),
}

impl Cut {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Off(_) => ErrorKind::Unavailable,
            Self::TooLong | Self::Garbled(_) => ErrorKind::Protocol,
        }
    }

    /// For a reply of which nothing can be used.
    pub(super) fn explain(self, host: &str, form: &Form) -> Failure {
        let protocol = |what| {
            Error::new(
                ErrorKind::Protocol,
                format!("{host} answered with {what}; check the base URI and any proxy"),
            )
        };
        match self {
            Self::Off(e) => failure(e, host, form),
            Self::TooLong => protocol("more than 256 KiB").into(),
            Self::Garbled(fault) => protocol("what is not a JSON object").caused_by(fault).into(),
        }
    }
}

pub(super) fn failure(e: reqwest::Error, host: &str, form: &Form) -> Failure {
    if let Some((what, advice)) = tls_refusal(&e).filter(|_| e.is_connect()).and_then(explain_tls) {
        let message = format!("sent nothing to {host}: {what}; {advice}");
        return Error::new(ErrorKind::Untrusted, message).caused_by(e.without_url()).into();
    }
    let advice = if form.is_repeatable() { "try again" } else { form.what_may_have_happened() };
    let message = if e.is_connect() {
        format!("could not connect to {host}; check the network, any proxy, and the base URI")
    } else if e.is_timeout() {
        format!("{host} did not answer in time; {advice}")
    } else {
        format!("the connection to {host} broke off; {advice}")
    };
    let fate = if e.is_connect() { Fate::NothingIssued } else { Fate::Unknown };
    Failure { error: Error::new(ErrorKind::Unavailable, message).caused_by(e.without_url()), fate }
}

/// The reason that the TLS library gave, wherever in the chain of causes it is.
fn tls_refusal<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if let Some(refusal) = e.downcast_ref() {
            return Some(refusal);
        }
        // An I/O error names as its source not what it holds, but that one's source.
        cause = match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => e.source(),
        };
    }
    None
}

/// What is wrong with the server, and what to do about it; `None` for what may pass, such as an alert.
fn explain_tls(refusal: &rustls::Error) -> Option<(&'static str, &'static str)> {
    const CLOCK: &str = "check this machine's clock, then ask whoever runs that host, or the proxy before it, for a \
                         certificate that is valid now";
    const ANOTHER: &str = "check the base URI and any proxy";
    Some(match refusal {
        rustls::Error::InvalidCertificate(fault) => match fault {
            // The latter of an authority that has only the name of a known one.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                "its certificate is self-signed, or signed by an authority that this machine does not know",
                "if it is that of your own gateway or proxy, give the authority's certificate to \
                 TokenManagerBuilder::http_client",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ("its certificate has expired", CLOCK)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("its certificate is not valid yet", CLOCK)
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ("its certificate is for another host", ANOTHER)
            }
            CertificateError::Revoked => ("its certificate has been revoked", ANOTHER),
            // What `openssl req -x509` makes. The verifier's own type of error is not rustls's to name.
            CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => (
                "its certificate is self-signed, as only an authority's own may be",
                "let an authority sign one for that host, and give the authority's certificate to \
                 TokenManagerBuilder::http_client",
            ),
            _ => ("its certificate cannot be accepted", ANOTHER),
        },
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            ("it offers no TLS 1.2 or later", ANOTHER)
        }
        rustls::Error::InvalidMessage(_) => ("it does not speak TLS", ANOTHER),
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => ("no TLS connection that is safe could be made", ANOTHER),
        _ => return None,
    })
}
