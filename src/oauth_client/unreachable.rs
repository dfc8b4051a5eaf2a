//! Why no reply arrived, or only part of one, and what to do about it.
//!
//! Always: nothing is sent to a server that cannot prove its identity, and nothing that a server says about itself is shown.

#[cfg(feature = "rustls-no-provider")]
use rustls::{AlertDescription, PeerIncompatible};

use super::{
    failure::{Failure, Fate},
    outgoing_request::OutgoingRequest,
};
#[cfg(feature = "rustls-no-provider")]
use crate::tls::{self, Advice, tls_refusal};
use crate::{Error, ErrorKind, members::BadJson, shown};

/// Why a reply could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("it has more than 256 KiB")]
    TooLong,
    #[error(transparent)]
    Off(Broken),
    #[error(transparent)]
    Garbled(BadJson),
}

/// An error of the HTTP library, and what it may show: the libraries below it quote the names in a server's certificate,
/// and the words with which it ends a connection.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Broken {
    text: String,
    is_timeout: bool,
    is_connect: bool,
    tls: Option<(&'static str, &'static str)>,
}

impl Broken {
    /// The time for a request has passed.
    pub(super) fn too_late() -> Self {
        let text = "there was no whole reply after 30 s".to_owned();
        Self { text, is_timeout: true, is_connect: false, tls: None }
    }
}

impl From<reqwest::Error> for Broken {
    fn from(e: reqwest::Error) -> Self {
        let e = e.without_url();
        Self {
            text: shown::with_causes(&e),
            is_timeout: e.is_timeout(),
            is_connect: e.is_connect(),
            #[cfg(feature = "rustls-no-provider")]
            tls: tls_refusal(&e).filter(|_| e.is_connect()).and_then(explain_tls),
            #[cfg(not(feature = "rustls-no-provider"))]
            tls: None,
        }
    }
}

impl Cut {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Off(_) => ErrorKind::Unavailable,
            Self::TooLong | Self::Garbled(_) => ErrorKind::Protocol,
        }
    }

    /// The failure for a reply of which no part can be used.
    pub(super) fn explain(self, host: &str, request: &OutgoingRequest) -> Failure {
        let protocol = |what| {
            Error::new(
                ErrorKind::Protocol,
                format!("{host} answered with {what}; check the base URI and any proxy"),
            )
        };
        match self {
            Self::Off(e) => failure(e, host, request),
            Self::TooLong => protocol("more than 256 KiB").into(),
            Self::Garbled(fault) => protocol("text that is not a JSON object").caused_by(fault).into(),
        }
    }
}

/// The failure for an error of the HTTP library.
pub(super) fn failure(e: Broken, host: &str, request: &OutgoingRequest) -> Failure {
    if let Some((what, advice)) = e.tls {
        let message = format!("sent nothing to {host}: {what}; {advice}");
        return Error::new(ErrorKind::Untrusted, message).caused_by(e).into();
    }
    let timed_out = e.is_timeout;
    let Failure { error, fate, .. } = if e.is_connect {
        not_connected(host)
    } else if timed_out {
        no_answer(host, request)
    } else {
        broken_off(host, request)
    };
    Failure { error: error.caused_by(e), fate, timed_out }
}

/// Nothing was sent, because no connection could be opened.
pub(super) fn not_connected(host: &str) -> Failure {
    let message = format!("could not connect to {host}; check the network, any proxy, and the base URI");
    Failure::new(Error::new(ErrorKind::Unavailable, message), Fate::NothingIssued)
}

/// The request may have been processed, and no reply came in time.
pub(super) fn no_answer(host: &str, request: &OutgoingRequest) -> Failure {
    Failure { timed_out: true, ..lost(&format!("{host} did not answer in time"), request) }
}

/// The request may have been processed, and its reply was lost with the connection.
pub(super) fn broken_off(host: &str, request: &OutgoingRequest) -> Failure {
    lost(&format!("the connection to {host} broke off"), request)
}

fn lost(what: &str, request: &OutgoingRequest) -> Failure {
    let advice = if request.is_repeatable() { "try again" } else { request.what_may_have_happened() };
    let message = format!("{what}; {advice}");
    Failure::new(Error::new(ErrorKind::Unavailable, message), Fate::Unknown)
}

/// What is wrong with the server's TLS, and what to do about it; `None` for a fault that may pass, such as most alerts.
#[cfg(feature = "rustls-no-provider")]
fn explain_tls(refusal: &rustls::Error) -> Option<(&'static str, &'static str)> {
    const ANOTHER: &str = "check the base URI and any proxy";
    const ADVICE: Advice = Advice {
        authority: "if the host is your own gateway or proxy, give the authority's certificate to \
                    TokenManagerBuilder::http_client",
        clock: "check this machine's clock, then ask the administrator of that host, or of the proxy in front of it, for a \
                certificate that is valid now",
        ca: "let an authority sign a certificate for that host, and give the authority's certificate to \
             TokenManagerBuilder::http_client",
        host: ANOTHER,
    };
    Some(match refusal {
        rustls::Error::InvalidCertificate(fault) => tls::explain(fault, &ADVICE),
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            ("it offers no TLS 1.2 or later", ANOTHER)
        }
        rustls::Error::InvalidMessage(_) => ("it does not speak TLS", ANOTHER),
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => ("no safe TLS connection could be made", ANOTHER),
        _ => return None,
    })
}
