//! Known bugs of others' token management, to see that each is found: in what this crate is given, since the crate itself
//! is what is tested.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The lock is looked at, and taken a moment later.
    CheckedThenLocked,
    /// Whoever unlocks frees the lock of whoever has it.
    UnlocksAnybodys,
    /// The lease is shorter than the store says.
    ShortLease,
    /// A save overwrites what another holder has saved since.
    LateSaveOverwrites,
    /// A save is answered before it would survive a kill.
    AnsweredBeforeSaved,
    /// A save that failed is answered as done.
    FailureSwallowed,
    /// What a killed process had written, and not yet renamed, is deleted.
    LeftoverDeleted,
    /// Reading under the lock returns what was read before.
    StaleUnderTheLock,
    /// What Concur refused is forgotten.
    NoteForgotten,
    /// A flight ends with the caller that is dropped.
    DiesWithItsCaller,
    /// Below the retries, a request whose reply was lost is sent again.
    SentTwice,
    /// A lost reply counts as "not connected", so that a sign-in is repeated.
    LostCountsAsUnsent,
    /// `Retry-After` does not arrive.
    PauseIgnored,
}

pub(super) const ALL: [Bug; 13] = [
    Bug::CheckedThenLocked,
    Bug::UnlocksAnybodys,
    Bug::ShortLease,
    Bug::LateSaveOverwrites,
    Bug::AnsweredBeforeSaved,
    Bug::FailureSwallowed,
    Bug::LeftoverDeleted,
    Bug::StaleUnderTheLock,
    Bug::NoteForgotten,
    Bug::DiesWithItsCaller,
    Bug::SentTwice,
    Bug::LostCountsAsUnsent,
    Bug::PauseIgnored,
];
