//! The lease of the PostgreSQL store as a model, explored exhaustively.

mod rules;
mod search;
mod state;
mod statements;
mod steps;

use self::{
    rules::{Rule, Rules},
    search::explore,
    state::{Budget, Invariant, State},
};

const SMALL: Budget = Budget { faults: 1, restores: 0, removals: 0, tokens: 2, sign_ins: 0, sign_outs: 0 };

fn whole(left: Budget) {
    for revokes in [true, false] {
        match explore(State::first(left, revokes), Rules::WHOLE) {
            Ok(n) => eprintln!("{n} states, revokes {revokes}, {left:?}"),
            Err(e) => panic!("revokes {revokes} {left:?} {e:?}"),
        }
    }
}

#[test]
fn a() {
    let _ = (Rule::ClaimLeavesLiveLeases, Rules::without(Rule::ReleaseComparesOwner), Invariant::NoDeadEnd);
    whole(SMALL);
    whole(Budget { faults: 2, tokens: 1, ..SMALL });
}
#[test]
fn b() {
    whole(Budget { sign_ins: 1, ..SMALL });
}
#[test]
fn c() {
    whole(Budget { sign_outs: 1, removals: 1, ..SMALL });
}
#[test]
fn d() {
    whole(Budget { restores: 1, tokens: 2, ..SMALL });
}
#[test]
fn e() {
    whole(Budget { faults: 2, ..SMALL });
}
#[test]
fn f() {
    whole(Budget { sign_ins: 2, ..SMALL });
}
#[test]
fn rules() {
    use Rule::*;
    let all = [ClaimLeavesLiveLeases, ClaimTakesLapsedLeases, KeepAliveWaitsTheHour, DoubtIsOfTheLatestLapse,
    CheckBeforeSend, CheckBeforeRepetition, ClockReadBeforeClaim, ClockCountsSuspension, ProlongComparesOwner, ProlongComparesSaveId,
    SaveComparesSaveId, SaveIdIsFixedPerReply, RepeatedSaveFindsItsOwn, RepeatedSaveChangesNothing, SaveReplacesOlderVersions, SaveEndsOwnLeaseOnly,
    SaveClearsTheRefusal, UnsavedIsKept, ReleaseComparesOwner, ReleaseKeepsDoubt, ReadAgainAfter108, WaitForALateSave, RememberComparesSaveId,
    RememberComparesOwner, ReplaceIgnoresSaveId, ReplaceComparesSignIn, RemoveComparesSignIn, RemoveEmptiesSaveId, RestoreMarksDoubt, RestoreLeases];
    let budgets = [SMALL, Budget{faults:2,tokens:1,..SMALL}, Budget{sign_ins:1,..SMALL}, Budget{sign_outs:1,..SMALL}, Budget{restores:1,faults:0,..SMALL}, Budget{restores:1,..SMALL}, Budget{sign_ins:1,sign_outs:1,tokens:1,..SMALL}, Budget{faults:2,..SMALL}];
    'rules: for rule in all {
        for left in budgets {
            for revokes in [true, false] {
                if let Err(e) = explore(State::first(left, revokes), Rules::without(rule)) {
                    eprintln!("RULE {rule:?} {left:?} {revokes} {e:?}");
                    continue 'rules;
                }
            }
        }
        eprintln!("RULE {rule:?} NOTHING");
    }
}
