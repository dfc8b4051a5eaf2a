//! Why a request was not answered with what it asked for, and what that says about the grant.
//!
//! Always: a failure is final unless its fate says otherwise.

use crate::{Error, Geolocation};

pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) fate: Fate,
    /// No answer came in the time that a request may take.
    pub(crate) timed_out: bool,
}

/// What happened to a grant that was not answered with tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Concur decided about it, or sending it again would not help.
    Final,
    /// Concur certainly issued nothing, and may issue tokens the next time.
    NothingIssued,
    /// Concur may have issued tokens that did not arrive.
    Unknown,
    /// The grant is to be sent to this base URI instead.
    Elsewhere(Box<Geolocation>),
}

impl Failure {
    pub(super) fn new(error: Error, fate: Fate) -> Self {
        Self { error, fate, timed_out: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error, Fate::Final)
    }
}
