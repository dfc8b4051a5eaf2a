//! The protocol: every step that is possible in a state, and the state after it.

use std::fmt;

use super::{
    rules::{Rule, Rules},
    state::{Ago, At, FORGOTTEN, Flight, Invariant, State, WORKERS, Worker, bit},
};

/// What happens. The name of a statement or function is in capitals or as in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Claim(Flight),
    /// The process is suspended before the answer arrives.
    ClaimSuspended(Flight),
    ClaimAnswered,
    ClaimAnswerLost,
    LeaseCheckPassed,
    Prolong,
    ProlongSuspended,
    ProlongAnswered,
    ProlongHitsNoRow,
    GiveUpUnsent,
    Post,
    PostAnswerLost,
    PostNotDone,
    Save,
    SaveAnswerLost,
    SaveNotDone,
    ReadAgain,
    Remember,
    Assign,
    Remove,
    RemoveAnswerLost,
    Release,
    Crash,
    Suspend,
    Continue,
    LeaseLapses,
    HourPasses,
    RowDeleted,
    BackupRestored,
    FailoverWithoutTheLastSave,
    FailoverWithoutTheLastClaim,
}

impl Action {
    /// Whether it is a fault, or what only a person does. All else happens sooner or later by itself.
    fn is_fault(self) -> bool {
        use Action::*;
        let is_of_a_worker = matches!(
            self,
            ClaimAnswerLost | PostAnswerLost | PostNotDone | SaveAnswerLost | SaveNotDone | RemoveAnswerLost
        );
        let is_of_the_row = matches!(
            self,
            Assign | RowDeleted | BackupRestored | FailoverWithoutTheLastSave | FailoverWithoutTheLastClaim
        );
        is_of_a_worker
            || is_of_the_row
            || matches!(self, Crash | Suspend | ClaimSuspended(_) | ProlongSuspended)
    }
}

/// What happens, and to which worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) worker: Option<usize>,
    pub(super) action: Action,
}

impl Step {
    pub(super) fn is_fault(self) -> bool {
        self.action.is_fault()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(w) = self.worker {
            write!(f, "worker {}: ", w + 1)?;
        }
        f.write_str(match self.action {
            Action::Claim(Flight::Caller) => "CLAIM, for a caller",
            Action::Claim(Flight::KeepAlive) => "CLAIM ahead of time",
            Action::Claim(Flight::SignIn) => "CLAIM, to sign in",
            Action::Claim(Flight::SignOut) => "CLAIM, to sign out",
            Action::ClaimSuspended(_) => "CLAIM, and SIGSTOP before its answer",
            Action::ClaimAnswered => "answer of CLAIM",
            Action::ClaimAnswerLost => "CLAIM is committed, its answer lost",
            Action::LeaseCheckPassed => "check of the lease before the send: passed",
            Action::Prolong => "check of the lease: too little left; PROLONG",
            Action::ProlongSuspended => "PROLONG, and SIGSTOP before its answer",
            Action::ProlongAnswered => "answer of PROLONG",
            Action::ProlongHitsNoRow => {
                "check of the lease: too little left; PROLONG hits no row, nothing is sent"
            }
            Action::GiveUpUnsent => "gives up, nothing is sent",
            Action::Post => "POST of the grant, or of the revocation",
            Action::PostAnswerLost => "POST is done at Concur, its answer lost",
            Action::PostNotDone => "POST fails, nothing is done at Concur",
            Action::Save => "SAVE, or REPLACE for a sign-in",
            Action::SaveAnswerLost => "SAVE or REPLACE is committed, its answer lost",
            Action::SaveNotDone => "SAVE or REPLACE fails, nothing is committed",
            Action::ReadAgain => "READ after code 108",
            Action::Remember => "REMEMBER of code 108",
            Action::Assign => "ASSIGN, the token of a sign-in under another name",
            Action::Remove => "REMOVE",
            Action::RemoveAnswerLost => "REMOVE is committed, its answer lost",
            Action::Release => "RELEASE",
            Action::Crash => "process crash",
            Action::Suspend => "SIGSTOP",
            Action::Continue => "SIGCONT",
            Action::LeaseLapses => "time: the lease lapses",
            Action::HourPasses => "time: an hour passes",
            Action::RowDeleted => "an administrator deletes the row",
            Action::BackupRestored => "the oldest backup is restored",
            Action::FailoverWithoutTheLastSave => "failover to a replica without the last save",
            Action::FailoverWithoutTheLastClaim => "failover to a replica without the last claim",
        })
    }
}

/// Collects the steps that are possible.
struct Steps<'a> {
    from: &'a State,
    worker: Option<usize>,
    found: Vec<(Step, State)>,
}

impl Steps<'_> {
    fn add(&mut self, action: Action, change: impl FnOnce(&mut State)) {
        let mut next = *self.from;
        change(&mut next);
        if let Some(broken) = next.check() {
            next.break_(broken);
        }
        self.found.push((Step { worker: self.worker, action }, next));
    }

    fn add_fault(&mut self, action: Action, change: impl FnOnce(&mut State)) {
        if self.from.left.faults > 0 {
            self.add(action, |next| {
                next.left.faults -= 1;
                change(next);
            });
        }
    }
}

/// Every step that is possible.
pub(super) fn steps(state: &State, rules: Rules) -> Vec<(Step, State)> {
    let mut steps = Steps { from: state, worker: None, found: Vec::new() };
    for (w, worker) in state.workers.iter().enumerate() {
        steps.worker = Some(w);
        if worker.is_suspended {
            steps.add(Action::Continue, |next| next.workers[w].is_suspended = false);
        } else {
            run(&mut steps, w, rules);
        }
        if worker.is_busy() {
            steps.add_fault(Action::Crash, |next| next.crash(w));
        }
        if worker.is_busy() && !worker.is_suspended {
            steps.add_fault(Action::Suspend, |next| next.suspend(w));
        }
    }
    steps.worker = None;
    pass_time(&mut steps, rules);
    change_the_database(&mut steps, rules);
    steps.found
}

/// What a worker does next.
fn run(steps: &mut Steps<'_>, w: usize, rules: Rules) {
    let state = *steps.from;
    let worker = state.workers[w];
    match worker.at {
        At::Idle => begin(steps, w, rules),
        At::Claiming | At::Prolonging => {
            let is_claim = worker.at == At::Claiming;
            let answered = if is_claim { Action::ClaimAnswered } else { Action::ProlongAnswered };
            steps.add(answered, |next| {
                next.workers[w].at = At::Claimed;
                next.workers[w].has_time_left |= !rules.has(Rule::ClockReadBeforeClaim);
            });
        }
        At::Claimed | At::BackingOff => {
            if state.may_send(w, rules) {
                steps.add(Action::LeaseCheckPassed, |next| {
                    next.workers[w].at = At::Checked;
                    next.workers[w].was_held_up = false;
                });
            } else {
                let mut prolonged = state;
                let is_hit = prolonged.prolong(w, rules);
                let action = if is_hit { Action::Prolong } else { Action::ProlongHitsNoRow };
                steps.add(action, |next| {
                    if !next.prolong(w, rules) {
                        next.forget_claim(w);
                    }
                });
                if is_hit {
                    steps.add_fault(Action::ProlongSuspended, |next| {
                        next.prolong(w, rules);
                        (next.workers[w].at, next.workers[w].is_suspended) = (At::Prolonging, true);
                    });
                }
            }
            steps.add(Action::GiveUpUnsent, |next| next.workers[w].at = At::Releasing);
        }
        At::Checked => send(steps, w),
        At::Holding => {
            steps.add(Action::Save, |next| {
                next.save(w, rules);
                next.forget_claim(w);
            });
            // More attempts differ in nothing.
            if worker.attempts < 2 {
                steps.add_fault(Action::SaveAnswerLost, |next| {
                    next.save(w, rules);
                    next.has_not_saved(w, rules);
                });
                steps.add_fault(Action::SaveNotDone, |next| next.has_not_saved(w, rules));
            }
        }
        At::Refused if rules.has(Rule::ReadAgainAfter108) => {
            steps.add(Action::ReadAgain, |next| next.read_again(w))
        }
        At::WaitingForALateSave => {
            // Ten seconds are enough for every worker that runs and reaches the database.
            let is_saving = |it: &Worker| it.at == At::Holding && it.is_quick();
            if !rules.has(Rule::WaitForALateSave) || !state.workers.iter().any(is_saving) {
                steps.add(Action::ReadAgain, |next| next.read_again(w));
            }
        }
        At::Refused | At::Marking => steps.add(Action::Remember, |next| next.remember(w, rules)),
        At::Removing => {
            steps.add(Action::Remove, |next| {
                next.remove(w, rules);
                next.workers[w].at = At::Releasing;
            });
            steps.add_fault(Action::RemoveAnswerLost, |next| next.remove(w, rules));
        }
        At::Releasing => steps.add(Action::Release, |next| next.release(w, rules)),
    }
}

/// A process without a flight may begin one at any time.
fn begin(steps: &mut Steps<'_>, w: usize, rules: Rules) {
    let State { row, concur, left, .. } = *steps.from;
    // A token that Concur would refuse is found out also when no more tokens may be issued.
    let is_due = left.tokens > 0 || !concur.is_live(row.token);
    let is_renewable = row.token != 0 && !row.needs_reauthorization && is_due;
    let flights = [
        (Flight::Caller, is_renewable),
        (Flight::KeepAlive, is_renewable),
        (Flight::SignIn, left.sign_ins > 0),
        (Flight::SignOut, left.sign_outs > 0 && row.token != 0),
    ];
    for (flight, is_wanted) in flights {
        if is_wanted && steps.from.can_claim(flight, rules) {
            let claim = |next: &mut State| {
                next.left.sign_ins -= u8::from(flight == Flight::SignIn);
                next.left.sign_outs -= u8::from(flight == Flight::SignOut);
                next.claim(w, flight, rules);
            };
            steps.add(Action::Claim(flight), claim);
            steps.add_fault(Action::ClaimSuspended(flight), |next| {
                claim(next);
                (next.workers[w].at, next.workers[w].is_suspended) = (At::Claiming, true);
            });
            steps.add_fault(Action::ClaimAnswerLost, |next| {
                claim(next);
                next.forget_claim(w);
            });
        }
    }
}

/// The request to Concur.
fn send(steps: &mut Steps<'_>, w: usize) {
    let State { concur, left, workers, .. } = *steps.from;
    let Worker { token, flight, .. } = workers[w];
    let issues = match flight {
        Flight::SignIn => true,
        Flight::Caller | Flight::KeepAlive => concur.is_live(token),
        Flight::SignOut => false,
    };
    steps.add_fault(Action::PostNotDone, |next| next.workers[w].at = At::BackingOff);
    if issues && left.tokens == 0 {
        steps.add(Action::GiveUpUnsent, |next| next.workers[w].at = At::Releasing);
        return;
    }
    steps.add(Action::Post, |next| next.present(w));
    if issues && flight != Flight::SignIn {
        steps.add_fault(Action::PostAnswerLost, |next| {
            next.present(w);
            let reply = std::mem::take(&mut next.workers[w].reply);
            next.causes.lost |= bit(reply);
            next.excuse(token, Some(Ago::OverAnHour));
            next.workers[w].at = At::BackingOff;
        });
    }
}

impl State {
    /// Concur answers the request of worker `w`.
    fn present(&mut self, w: usize) {
        let Worker { token, flight, .. } = self.workers[w];
        let family = match flight {
            Flight::SignIn => {
                self.concur.families += 1;
                self.concur.families
            }
            _ => self.concur.family(token),
        };
        if flight == Flight::SignOut {
            self.concur.revoked |= bit(family);
            self.workers[w].at = At::Removing;
        } else if flight == Flight::SignIn || self.concur.is_live(token) {
            self.left.tokens -= 1;
            self.workers[w].reply = self.concur.issue(family);
            self.workers[w].at = At::Holding;
            if flight == Flight::KeepAlive {
                self.causes.spent_by_keep_alive |= bit(token);
            }
            if flight != Flight::SignIn {
                self.note_held_up(w);
            }
        } else {
            if self.concur.revoked & bit(family) == 0 {
                self.judge_second_presentation(w);
                self.concur.revoked |= if self.concur.revokes_on_reuse { bit(family) } else { 0 };
            }
            self.workers[w].at = At::Refused;
        }
    }

    /// Only what no rule can prevent may be the cause: one of the two workers was held up between its check and its save until
    /// the other could claim the row, which for keep-alive takes an hour longer; or the new token is lost.
    fn judge_second_presentation(&mut self, w: usize) {
        let Worker { token, flight, late, was_held_up, .. } = self.workers[w];
        let needed = |by_keep_alive| Some(if by_keep_alive { Ago::OverAnHour } else { Ago::Minutes });
        let first_was_by_keep_alive = self.causes.spent_by_keep_alive & bit(token) != 0;
        let is_first_late = self.causes.held_up[usize::from(token)] >= needed(flight == Flight::KeepAlive);
        let is_second_late = was_held_up && late >= needed(first_was_by_keep_alive);
        if !is_first_late && !is_second_late {
            self.break_(Invariant::NoTokenIsPresentedTwice);
        }
    }

    /// The reply of worker `w` is unsaved, as far as it knows.
    fn has_not_saved(&mut self, w: usize, rules: Rules) {
        if rules.has(Rule::UnsavedIsKept) {
            self.workers[w].attempts += 1;
            self.workers[w].was_held_up = true;
        } else {
            self.forget_claim(w);
        }
    }

    fn crash(&mut self, w: usize) {
        let Worker { token, reply, flight, .. } = self.workers[w];
        if reply != 0 && self.row.token != reply {
            self.causes.lost |= bit(reply);
            if flight != Flight::SignIn {
                self.excuse(token, Some(Ago::OverAnHour));
            }
        }
        self.forget_claim(w);
    }

    fn suspend(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        worker.is_suspended = true;
        worker.was_held_up |= matches!(worker.at, At::Checked | At::Holding);
    }
}

fn pass_time(steps: &mut Steps<'_>, rules: Rules) {
    let State { row, workers, .. } = *steps.from;
    let owner = row.lease_owner.filter(|owner| *owner != FORGOTTEN).map(usize::from);
    // Who claimed before a lease that was restored or replaced is no slower than who has the lease.
    let is_quick = |worker: &Worker| worker.is_quick() && worker.late.is_none();
    let is_used_in_time = match owner {
        Some(owner) => workers[owner].is_quick(),
        None => workers.iter().any(is_quick),
    };
    if row.has_live_lease() && !is_used_in_time {
        steps.add(Action::LeaseLapses, |next| {
            next.row.lapsed = Some(Ago::Minutes);
            for (w, worker) in workers.iter().enumerate() {
                let is_over = owner == Some(w) || (owner.is_none() && worker.is_busy());
                if is_over && !is_quick(worker) {
                    next.is_late(w, Ago::Minutes, rules);
                }
            }
        });
    }
    let is_waiting =
        |it: &Worker| !it.is_busy() || it.is_suspended || (it.at == At::Holding && !it.is_quick());
    let is_awaited = [row.lapsed, row.in_doubt].contains(&Some(Ago::Minutes))
        || workers.iter().any(|it| it.is_busy() && it.late == Some(Ago::Minutes));
    if !row.has_live_lease() && is_awaited && workers.iter().all(is_waiting) {
        steps.add(Action::HourPasses, |next| {
            for age in [&mut next.row.lapsed, &mut next.row.in_doubt] {
                *age = age.map(|_| Ago::OverAnHour);
            }
            for w in (0..WORKERS).filter(|w| workers[*w].is_busy()) {
                next.is_late(w, Ago::OverAnHour, rules);
            }
        });
    }
}

impl State {
    /// The time of worker `w`'s claim is over.
    fn is_late(&mut self, w: usize, ago: Ago, rules: Rules) {
        let worker = &mut self.workers[w];
        worker.late = worker.late.max(Some(ago));
        if !worker.is_suspended || rules.has(Rule::ClockCountsSuspension) {
            worker.has_time_left = false;
        }
        self.note_held_up(w);
    }
}

fn change_the_database(steps: &mut Steps<'_>, rules: Rules) {
    let State { row, replica, left, .. } = *steps.from;
    if left.assignments > 0 && left.tokens > 0 {
        steps.add(Action::Assign, |next| {
            next.left.assignments -= 1;
            next.assign(rules);
        });
    }
    if left.removals > 0 && row.sign_in != 0 {
        steps.add(Action::RowDeleted, |next| {
            next.left.removals -= 1;
            next.row = super::state::Row::default();
        });
    }
    if left.restores == 0 {
        return;
    }
    let older = [
        (Action::BackupRestored, steps.from.backup()),
        (Action::FailoverWithoutTheLastSave, replica),
        (Action::FailoverWithoutTheLastClaim, super::state::Row { lease_owner: None, lapsed: None, ..row }),
    ];
    for (action, older) in older {
        steps.add(action, |next| {
            next.left.restores -= 1;
            next.restore(older, rules);
        });
    }
}
