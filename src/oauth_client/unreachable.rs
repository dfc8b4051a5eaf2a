//! Why no reply came, or no whole one, and what to do about it.

use super::Grant;
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
    pub(super) fn explain(self, host: &str, grant: &Grant) -> Error {
        let protocol = |what| {
            Error::new(
                ErrorKind::Protocol,
                format!("{host} answered with {what}; check the base URI and any proxy"),
            )
        };
        match self {
            Self::Off(e) => error(e, host, grant),
            Self::TooLong => protocol("more than 256 KiB"),
            Self::Garbled(fault) => protocol("what is not a JSON object").caused_by(fault),
        }
    }
}

pub(super) fn error(e: reqwest::Error, host: &str, grant: &Grant) -> Error {
    let advice = if grant.is_repeatable() {
        "try again"
    } else {
        "the grant may have been spent all the same, so find out why before you try again"
    };
    let message = if e.is_connect() {
        format!("could not connect to {host}; check the network, any proxy, and the base URI")
    } else if e.is_timeout() {
        format!("{host} did not answer in time; {advice}")
    } else {
        format!("the connection to {host} broke off; {advice}")
    };
    Error::new(ErrorKind::Unavailable, message).caused_by(e.without_url())
}
