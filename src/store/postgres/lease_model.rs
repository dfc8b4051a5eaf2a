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

/// One fault, and two tokens that Concur may issue.
const ONE_FAULT: Budget = Budget { faults: 1, restores: 0, removals: 0, tokens: 2, sign_ins: 0, sign_outs: 0 };
const TWO_FAULTS: Budget = Budget { faults: 2, ..ONE_FAULT };
const SIGN_IN: Budget = Budget { sign_ins: 1, ..ONE_FAULT };
const TWO_SIGN_INS: Budget = Budget { sign_ins: 2, ..ONE_FAULT };
const SIGN_OUT: Budget = Budget { sign_outs: 1, ..ONE_FAULT };
const SIGN_OUT_AND_IN: Budget = Budget { sign_outs: 1, sign_ins: 1, tokens: 1, ..ONE_FAULT };
const REMOVAL: Budget = Budget { removals: 1, ..SIGN_OUT };
const RESTORE: Budget = Budget { restores: 1, ..ONE_FAULT };
const RESTORE_ONLY: Budget = Budget { faults: 0, ..RESTORE };

#[test]
fn rules() {
    use Rule::*;
    let all = [
    (RepeatedSaveChangesNothing, TWO_FAULTS), (SaveReplacesOlderVersions,RESTORE_ONLY), (SaveEndsOwnLeaseOnly,ONE_FAULT),
    (SaveClearsTheRefusal,ONE_FAULT), (UnsavedIsKept,ONE_FAULT), (ReleaseComparesOwner,ONE_FAULT), (ReleaseKeepsDoubt,ONE_FAULT), (ReadAgainAfter108,ONE_FAULT), (WaitForALateSave,ONE_FAULT), (RememberComparesSaveId,ONE_FAULT),
    (RememberComparesOwner,ONE_FAULT), (ReplaceIgnoresSaveId,SIGN_IN), (ReplaceComparesSignIn,SIGN_IN), (RemoveComparesSignIn,SIGN_OUT_AND_IN), (RemoveEmptiesSaveId,SIGN_OUT), (RestoreMarksDoubt,RESTORE_ONLY), (RestoreLeases,RESTORE_ONLY)];
    let _ = (Invariant::NoDeadEnd, TWO_SIGN_INS, REMOVAL, Rules::WHOLE);
    'rules: for (rule, left) in all {
            for revokes in [true, false] {
                match explore(State::first(left, revokes), Rules::without(rule)) {
                Err(e) => {
                    eprintln!("RULE {rule:?} {left:?} {revokes} {e:?}");
                    continue 'rules;
                }
                Ok(n) => eprintln!("{n}")
            }
        }
        eprintln!("RULE {rule:?} NOTHING");
    }
}
#[test]
fn time() { eprintln!("{:?}", explore(State::first(SIGN_IN, true), Rules::WHOLE)); }
