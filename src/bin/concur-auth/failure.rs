//! What a command can fail with, and the exit code of each.

use std::{error::Error as StdError, process::ExitCode};

use concur_auth::{Error, ErrorKind};

/// The exit code for wrong usage, as in sysexits.h.
pub(crate) const USAGE: u8 = 64;
/// The exit code where a person must act.
pub(crate) const PERSON: u8 = 2;

pub(crate) enum Failure {
    /// An error of the library's.
    Error(Error),
    /// The command line cannot be used.
    Usage(String),
    /// Anything else.
    Other(String),
    /// All is said already.
    Said(u8),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// An I/O error, and what it happened to.
    pub(crate) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::Other(format!("{what}: {error}"))
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Error(error) if needs_person_here(error.kind()) => PERSON,
            Self::Error(_) | Self::Other(_) => 1,
            Self::Usage(_) => USAGE,
            Self::Said(code) => *code,
        }
    }

    /// The message, and one line for each cause.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Error(error) => explain(error),
            Self::Usage(message) | Self::Other(message) => message.clone(),
            Self::Said(_) => String::new(),
        }
    }

    /// Says it on standard error, and returns the exit code.
    pub(crate) fn end(&self) -> ExitCode {
        let text = self.text();
        if !text.is_empty() {
            crate::say::note(&text);
        }
        ExitCode::from(self.code())
    }
}

/// Those that a person puts right at this machine.
fn needs_person_here(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CredentialsNeeded | ErrorKind::CredentialsInvalid | ErrorKind::ReauthorizationRequired
    )
}

/// The message, and one line for each cause.
pub(crate) fn explain(error: &Error) -> String {
    chain(error, "\n  caused by: ")
}

/// An error and its causes.
pub(crate) fn chain(error: &(dyn StdError + 'static), between: &str) -> String {
    let all = std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(between)
}
