//! The lease of the PostgreSQL store as a model, explored exhaustively: every order of the steps of three workers on one row,
//! with faults at every step.
//!
//! The files: `rules` names what the statements and functions obey, `state` is what is known at one moment and what must hold,
//! `statements` are the SQL statements, `steps` is the protocol; `crate::exploration` finds the shortest way to a violation.
//!
//! Always, in every state that can be reached:
//!
//! - **No token is lost.** A token that Concur accepts and that reached a worker is in the row, or in a worker's memory, or was
//!   replaced by a sign-in or removed. Or nothing could keep it: its worker crashed between POST and SAVE, the answer of POST
//!   was lost, a restore lost its commit.
//! - **No token is presented twice**, with one exception: a worker was held up between its check of the lease and the end of
//!   its save (suspended, or cut off from the database) until the other worker could claim the row. That takes the rest of the
//!   lease; where the other worker is keep-alive, an hour more. Or the successor was lost as above.
//! - **No newer token is overwritten**: neither by a late save of the same sign-in, nor a sign-in by an older one.
//! - **No save is superseded by itself**, when it is repeated because its answer was lost.
//! - **No lease of another claim is ended or prolonged**, and none is prolonged for a token that was replaced.
//! - **No person is asked for in vain**: no row with a token that Concur accepts is in `needs_reauthorization`, and none is
//!   marked while a worker that runs is about to save such a token.
//! - **Nothing revoked comes back** after REMOVE, and no sign-out revokes or removes a later sign-in.
//! - **No dead end**: from every state, time and running workers alone lead to a row that can be claimed, and whose token is
//!   accepted, or which says that a person is needed, or which is empty.
//!
//! The bounds. A worker begins any flight at any time: for a caller, keep-alive, a sign-in (or adopted token), a sign-out. What
//! is bounded is the number of faults and of tokens, by the [`Budget`] of each test. Time is abstract: a lease lives or has
//! lapsed, a doubt is minutes old or more than an hour; an hour passes for all at once. The largest search
//! (`larger_bounds_hold`) has three faults and 730,000 states. Concur rotates at every use; each search
//! is made twice: once where reuse revokes the family, once where it is only refused. The claim of a batch is, for each of its
//! rows, CLAIM ahead of time. ASSIGN is a step of the row that the token comes to. Not in the model: replies that leave the
//! refresh token as it is, which the worlds of `manager::simulation::chaos` have; the row that the token leaves, where no lease
//! is live then; when a token is due; the exception of the last 7 days; the spool; the note's back-off. A restore or failover is
//! marked before any worker is let in: what workers send before that mark is outside.

mod rules;
mod state;
mod statements;
mod steps;

use self::{
    rules::{Rule, Rules},
    state::{Budget, Invariant, State},
    steps::{Step, steps},
};
use crate::exploration::{Counterexample, Model, explore};

impl Model for State {
    type Key = [u64; 7];
    type Step = Step;
    type Rules = Rules;
    type Invariant = Invariant;

    const NO_DEAD_END: Invariant = Invariant::NoDeadEnd;

    fn steps(&self, rules: Rules) -> Vec<(Step, Self)> {
        steps(self, rules)
    }

    fn is_fault(step: Step) -> bool {
        step.is_fault()
    }

    fn broken(&self) -> Option<Invariant> {
        self.broken
    }

    fn canonical(&self) -> Self {
        self.canonical()
    }

    fn key(&self) -> [u64; 7] {
        self.key()
    }

    fn is_at_rest(&self, rules: Rules) -> bool {
        self.is_at_rest(rules)
    }

    fn shown(&self) -> String {
        let row = self.row;
        format!(
            "row: token {}, save_id {}, sign-in {}, version {}, lease {:?} {:?}, doubt {:?}{}",
            row.token,
            row.save_id,
            row.sign_in,
            row.version,
            row.lease_owner.map(|owner| owner + 1),
            row.lapsed,
            row.in_doubt,
            if row.needs_reauthorization { ", needs_reauthorization" } else { "" },
        )
    }
}

const NO_FAULT: Budget =
    Budget { faults: 0, restores: 0, removals: 0, tokens: 2, sign_ins: 0, sign_outs: 0, assignments: 0 };
const ONE_FAULT: Budget = Budget { faults: 1, ..NO_FAULT };
const TWO_FAULTS: Budget = Budget { faults: 2, ..NO_FAULT };
const SIGN_IN: Budget = Budget { sign_ins: 1, ..ONE_FAULT };
const SIGN_OUT: Budget = Budget { sign_outs: 1, ..ONE_FAULT };
const SIGN_IN_AND_OUT: Budget = Budget { sign_ins: 1, sign_outs: 1, tokens: 1, ..ONE_FAULT };
const ASSIGNMENT: Budget = Budget { assignments: 1, ..ONE_FAULT };
const RESTORE: Budget = Budget { restores: 1, ..NO_FAULT };

/// A server that revokes the family when a token is used twice, and one that only refuses the token.
const SERVERS: [bool; 2] = [true, false];

fn explored(left: Budget, rules: Rules) -> Result<Vec<usize>, Counterexample<State>> {
    SERVERS.iter().map(|revokes_on_reuse| explore(State::first(left, *revokes_on_reuse), rules)).collect()
}

/// Shown with `--nocapture`: the numbers of states, and the traces.
#[allow(clippy::print_stderr, reason = "it is for a person who wants to see what was explored")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[track_caller]
fn holds(left: Budget) {
    match explored(left, Rules::WHOLE) {
        Ok(states) => tell(&format!("{states:?} states with {left:?}")),
        Err(found) => panic!("{left:?}: {found:?}"),
    }
}

#[test]
fn renewals_hold_with_one_fault() {
    holds(Budget { tokens: 3, ..ONE_FAULT });
}

#[test]
fn one_renewal_holds_with_two_faults() {
    holds(Budget { tokens: 1, ..TWO_FAULTS });
}

#[test]
fn a_sign_in_holds_with_one_fault() {
    holds(SIGN_IN);
}

#[test]
fn two_sign_ins_hold_with_one_fault() {
    holds(Budget { sign_ins: 2, tokens: 2, ..ONE_FAULT });
}

#[test]
fn a_sign_out_holds_with_one_fault() {
    holds(SIGN_OUT);
    holds(SIGN_IN_AND_OUT);
}

#[test]
fn an_assignment_holds_with_one_fault() {
    holds(ASSIGNMENT);
    holds(Budget { sign_ins: 1, faults: 0, tokens: 3, ..ASSIGNMENT });
    holds(Budget { sign_outs: 1, tokens: 1, ..ASSIGNMENT });
    holds(Budget { assignments: 1, ..RESTORE });
}

#[test]
fn a_deleted_row_holds_with_one_fault() {
    holds(Budget { removals: 1, ..ONE_FAULT });
    holds(Budget { removals: 1, ..SIGN_IN_AND_OUT });
}

#[test]
fn two_restores_hold() {
    holds(Budget { restores: 2, ..RESTORE });
    holds(Budget { sign_ins: 1, ..RESTORE });
    holds(Budget { sign_outs: 1, ..RESTORE });
}

#[test]
fn a_restore_holds_with_one_fault() {
    holds(Budget { faults: 1, tokens: 1, ..RESTORE });
}

#[test]
#[ignore = "takes three minutes"]
fn larger_bounds_hold() {
    holds(TWO_FAULTS);
    holds(Budget { faults: 3, tokens: 1, ..TWO_FAULTS });
    holds(Budget { faults: 1, ..RESTORE });
    holds(Budget { removals: 1, ..SIGN_IN });
}

/// Each rule is needed: what falls without it, and what has to happen for that.
const NEEDED: [(Rule, Budget, Invariant); 33] = [
    (Rule::ClaimLeavesLiveLeases, NO_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::ClaimTakesLapsedLeases, ONE_FAULT, Invariant::NoDeadEnd),
    (Rule::KeepAliveWaitsTheHour, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::DoubtIsOfTheLatestLapse, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::CheckBeforeSend, NO_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::CheckBeforeRepetition, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::ClockReadBeforeClaim, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::ClockCountsSuspension, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::ProlongComparesOwner, NO_FAULT, Invariant::NoLeaseOfAnotherClaimIsTouched),
    (Rule::ProlongComparesSaveId, ONE_FAULT, Invariant::NothingIsSentForATokenThatWasReplaced),
    (Rule::SaveComparesSaveId, ONE_FAULT, Invariant::NoNewerTokenIsOverwritten),
    (Rule::SaveIdIsFixedPerReply, ONE_FAULT, Invariant::NoSaveIsSupersededByItself),
    (Rule::RepeatedSaveFindsItsOwn, ONE_FAULT, Invariant::NoSaveIsSupersededByItself),
    (Rule::RepeatedSaveChangesNothing, TWO_FAULTS, Invariant::NoTokenIsPresentedTwice),
    (Rule::SaveReplacesOlderVersions, RESTORE, Invariant::NoTokenIsLost),
    (Rule::SaveEndsOwnLeaseOnly, ONE_FAULT, Invariant::NoLeaseOfAnotherClaimIsTouched),
    (Rule::SaveClearsTheRefusal, ONE_FAULT, Invariant::NoPersonIsAskedForInVain),
    (Rule::UnsavedIsKept, ONE_FAULT, Invariant::NoTokenIsLost),
    (Rule::ReleaseComparesOwner, NO_FAULT, Invariant::NoLeaseOfAnotherClaimIsTouched),
    (Rule::ReleaseKeepsDoubt, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::ReadAgainAfter108, ONE_FAULT, Invariant::NoPersonIsAskedForInVain),
    (Rule::WaitForALateSave, ONE_FAULT, Invariant::NoPersonIsAskedForInVain),
    (Rule::RememberComparesSaveId, ONE_FAULT, Invariant::NoPersonIsAskedForInVain),
    (Rule::RememberComparesOwner, ONE_FAULT, Invariant::NoPersonIsAskedForInVain),
    (Rule::ReplaceIgnoresSaveId, SIGN_IN, Invariant::NoTokenIsLost),
    (Rule::ReplaceComparesSignIn, SIGN_IN, Invariant::NoNewerTokenIsOverwritten),
    (Rule::AssignIsANewSignIn, ASSIGNMENT, Invariant::NoNewerTokenIsOverwritten),
    (Rule::AssignRaisesTheVersion, Budget { assignments: 1, ..RESTORE }, Invariant::NoTokenIsLost),
    (Rule::AssignLeavesTheLease, ASSIGNMENT, Invariant::NoLeaseOfAnotherClaimIsTouched),
    (Rule::RemoveComparesSignIn, SIGN_IN_AND_OUT, Invariant::NoNewSignInIsRevoked),
    (Rule::RemoveEmptiesSaveId, SIGN_OUT, Invariant::NothingRevokedComesBack),
    (Rule::RestoreMarksTheRows, RESTORE, Invariant::NoTokenIsPresentedTwice),
    (Rule::RestoreMarksWithALease, RESTORE, Invariant::NoTokenIsPresentedTwice),
];

#[test]
fn without_any_one_rule_an_invariant_falls() {
    let mut wrong = Vec::new();
    for (rule, left, invariant) in NEEDED {
        let explored = explored(left, Rules::without(rule));
        if let Err(found) = &explored {
            tell(&format!("Without {rule:?}: {found:?}"));
        }
        if explored.as_ref().err().map(|found| found.invariant) != Some(invariant) {
            wrong.push((rule, explored.map_err(|found| found.invariant)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
