//! The rules of the lease, each of which can be broken.

use crate::exploration;

/// One rule of the lease. The comment says what the statement or function does because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// CLAIM hits no row with a live lease.
    ClaimLeavesLiveLeases,
    /// CLAIM takes over a lease that has lapsed.
    ClaimTakesLapsedLeases,
    /// CLAIM ahead of time hits no row that has been in doubt for less than an hour.
    KeepAliveWaitsTheHour,
    /// CLAIM over a lapsed lease sets `in_doubt_since` to the end of that lease, also if an earlier doubt was noted.
    DoubtIsOfTheLatestLapse,
    /// The lease is checked before the first request.
    CheckBeforeSend,
    /// The lease is checked before a request is repeated.
    CheckBeforeRepetition,
    /// What is left of the lease counts from before CLAIM or PROLONG was sent, not from its answer.
    ClockReadBeforeClaim,
    /// What is left of the lease shrinks while the process or its machine is suspended.
    ClockCountsSuspension,
    /// PROLONG hits only the lease of its own claim.
    ProlongComparesOwner,
    /// PROLONG hits only the row whose token was read by the claim.
    ProlongComparesSaveId,
    /// SAVE hits only the row whose token was presented.
    SaveComparesSaveId,
    /// The `save_id` is fixed once for each reply, not for each attempt to save it.
    SaveIdIsFixedPerReply,
    /// SAVE that finds the `save_id` of its own reply has succeeded.
    RepeatedSaveFindsItsOwn,
    /// SAVE that finds the `save_id` of its own reply changes nothing.
    RepeatedSaveChangesNothing,
    /// SAVE and REPLACE also hit a row of an older version of the same sign-in, as a restore brings it back.
    SaveReplacesOlderVersions,
    /// SAVE ends only the lease of its own claim.
    SaveEndsOwnLeaseOnly,
    /// SAVE makes the row active.
    SaveClearsTheRefusal,
    /// A save that failed or whose outcome is unknown is repeated.
    UnsavedIsKept,
    /// RELEASE ends only the lease of its own claim.
    ReleaseComparesOwner,
    /// RELEASE leaves `in_doubt_since` as it is.
    ReleaseKeepsDoubt,
    /// Code 108 is believed only after the row was read again.
    ReadAgainAfter108,
    /// After code 108 on a row in doubt, a late save is waited for.
    WaitForALateSave,
    /// REMEMBER hits only the row whose token was presented.
    RememberComparesSaveId,
    /// REMEMBER hits only the lease of its own claim.
    RememberComparesOwner,
    /// REPLACE does not compare `save_id`.
    ReplaceIgnoresSaveId,
    /// REPLACE hits only the row whose sign-in is the one that the claim has read.
    ReplaceComparesSignIn,
    /// ASSIGN counts as a sign-in after any that the row has seen.
    AssignIsANewSignIn,
    /// ASSIGN makes the version larger than any that the row has had.
    AssignRaisesTheVersion,
    /// ASSIGN leaves the lease of another claim as it is.
    AssignLeavesTheLease,
    /// REMOVE compares the sign-in, not `save_id`.
    RemoveComparesSignIn,
    /// REMOVE empties `save_id`.
    RemoveEmptiesSaveId,
    /// After a restore or failover every row is marked before any worker is let in.
    RestoreMarksTheRows,
    /// The mark is a lease of no worker, which lapses into doubt, not `in_doubt_since` alone.
    RestoreMarksWithALease,
}

pub(super) type Rules = exploration::Rules<Rule>;
