//! The SQL statements, as changes of the row. Each is one transaction.

use super::{
    rules::{Rule, Rules},
    state::{Ago, At, FORGOTTEN, Flight, Invariant, Row, State, Worker, bit},
};

impl State {
    /// Whether CLAIM, or for keep-alive CLAIM ahead of time, hits the row.
    pub(super) fn can_claim(&self, flight: Flight, rules: Rules) -> bool {
        let Row { lease_owner, lapsed, in_doubt, .. } = self.row;
        let is_free = match (lease_owner, lapsed) {
            (None, _) => true,
            (Some(_), None) => !rules.has(Rule::ClaimLeavesLiveLeases),
            (Some(_), Some(_)) => rules.has(Rule::ClaimTakesLapsedLeases),
        };
        let is_fresh = [lapsed, in_doubt].contains(&Some(Ago::Minutes));
        let waits = flight == Flight::KeepAlive && rules.has(Rule::KeepAliveWaitsTheHour);
        is_free && !(waits && is_fresh)
    }

    pub(super) fn claim(&mut self, w: usize, flight: Flight, rules: Rules) {
        self.forget_claim(w);
        let row = &mut self.row;
        if row.lapsed.is_some() {
            let is_news = rules.has(Rule::DoubtIsOfTheLatestLapse) || row.in_doubt.is_none();
            row.in_doubt = if is_news { row.lapsed } else { row.in_doubt };
        }
        row.lease_owner = Some(w as u8);
        row.lapsed = None;
        self.workers[w] = Worker {
            at: At::Claimed,
            flight,
            token: row.token,
            base: row.save_id,
            base_sign_in: row.sign_in,
            base_version: row.version,
            was_in_doubt: row.in_doubt.is_some(),
            has_time_left: true,
            ..Worker::default()
        };
    }

    /// Whether the lease was prolonged. If not, nothing is sent.
    pub(super) fn prolong(&mut self, w: usize, rules: Rules) -> bool {
        let is_mine = self.row.lease_owner == Some(w as u8);
        let is_base = self.row.save_id == self.workers[w].base;
        let hits = (is_mine || !rules.has(Rule::ProlongComparesOwner))
            && (is_base || !rules.has(Rule::ProlongComparesSaveId))
            && self.row.lease_owner.is_some();
        if hits && !is_mine {
            self.break_(Invariant::NoLeaseOfAnotherClaimIsTouched);
        }
        if hits && !is_base {
            self.break_(Invariant::NothingIsSentForATokenThatWasReplaced);
        }
        if hits {
            self.row.lapsed = None;
            let worker = &mut self.workers[w];
            (worker.at, worker.has_time_left, worker.late) = (At::Claimed, true, None);
        }
        hits
    }

    /// SAVE, and REPLACE for the token of a sign-in. Whether it changed the row or not, the reply is dealt with.
    pub(super) fn save(&mut self, w: usize, rules: Rules) {
        let (row, worker) = (self.row, self.workers[w]);
        let save_id = self.save_id(w, rules);
        if row.save_id == save_id && rules.has(Rule::RepeatedSaveFindsItsOwn) {
            if !rules.has(Rule::RepeatedSaveChangesNothing) {
                self.row.in_doubt = None;
                self.row.needs_reauthorization = false;
            }
            return;
        }
        let family = self.concur.family(worker.reply);
        let is_base = row.save_id == worker.base;
        // What was saved since came late from an earlier holder. It makes a difference only where Concur accepts a token twice.
        let is_own_lease = row.token != 0
            && row.lease_owner == Some(w as u8)
            && row.sign_in == worker.base_sign_in
            && row.save_id != save_id;
        // A restore has brought back what was stored before the token that was presented.
        let is_older = rules.has(Rule::SaveReplacesOlderVersions)
            && row.token != 0
            && row.version < worker.base_version
            && row.sign_in <= worker.base_sign_in;
        let hits = if worker.flight == Flight::SignIn && rules.has(Rule::ReplaceIgnoresSaveId) {
            let is_done = row.sign_in == family;
            let is_same = row.sign_in == worker.base_sign_in || is_older;
            !rules.has(Rule::ReplaceComparesSignIn) || (is_same && !is_done)
        } else {
            is_base || is_own_lease || is_older || !rules.has(Rule::SaveComparesSaveId)
        };
        if hits {
            self.write(w, save_id, rules);
        } else if row.token == worker.reply {
            self.break_(Invariant::NoSaveIsSupersededByItself);
        }
    }

    fn save_id(&self, w: usize, rules: Rules) -> u8 {
        let Worker { reply, attempts, .. } = self.workers[w];
        if rules.has(Rule::SaveIdIsFixedPerReply) { reply } else { reply | attempts << 4 }
    }

    fn write(&mut self, w: usize, save_id: u8, rules: Rules) {
        let (old, worker) = (self.row, self.workers[w]);
        let family = self.concur.family(worker.reply);
        let old_family = self.concur.family(old.token);
        let is_newer = if family == old_family { worker.reply >= old.token } else { family > old_family };
        if !is_newer {
            self.break_(Invariant::NoNewerTokenIsOverwritten);
        }
        self.replica = old;
        self.row = Row {
            token: worker.reply,
            save_id,
            sign_in: family,
            version: old.version.max(worker.base_version) + 1,
            in_doubt: None,
            needs_reauthorization: old.needs_reauthorization && !rules.has(Rule::SaveClearsTheRefusal),
            ..old
        };
        self.end_lease(w, rules.has(Rule::SaveEndsOwnLeaseOnly));
    }

    /// ASSIGN: the token of a sign-in under another name takes the place of what is stored, without any claim of this row.
    pub(super) fn assign(&mut self, rules: Rules) {
        let old = self.row;
        self.concur.families += 1;
        let family = self.concur.families;
        let token = self.concur.issue(family);
        self.left.tokens -= 1;
        self.replica = old;
        let version = if rules.has(Rule::AssignRaisesTheVersion) { old.version + 1 } else { 1 };
        self.row = Row {
            token,
            save_id: token,
            sign_in: if rules.has(Rule::AssignIsANewSignIn) { family } else { old.sign_in },
            version,
            in_doubt: None,
            needs_reauthorization: false,
            ..old
        };
        if !rules.has(Rule::AssignLeavesTheLease) && old.lease_owner.is_some() {
            self.break_(Invariant::NoLeaseOfAnotherClaimIsTouched);
        }
    }

    fn end_lease(&mut self, w: usize, compares_owner: bool) {
        let is_mine = self.row.lease_owner == Some(w as u8);
        if self.row.lease_owner.is_none() || (compares_owner && !is_mine) {
            return;
        }
        if !is_mine {
            self.break_(Invariant::NoLeaseOfAnotherClaimIsTouched);
        }
        (self.row.lease_owner, self.row.lapsed) = (None, None);
    }

    /// READ after code 108.
    pub(super) fn read_again(&mut self, w: usize) {
        let is_saved_soon =
            |it: &Worker| it.at == At::Holding && it.is_quick() && self.concur.is_live(it.reply);
        let ignores_a_save = self.workers.iter().any(is_saved_soon);
        let worker = &mut self.workers[w];
        worker.ignores_a_save = ignores_a_save;
        worker.at = match worker.at {
            _ if self.row.save_id != worker.base => At::Releasing,
            At::Refused if worker.was_in_doubt => At::WaitingForALateSave,
            _ => At::Marking,
        };
    }

    /// REMEMBER of code 108.
    pub(super) fn remember(&mut self, w: usize, rules: Rules) {
        let worker = self.workers[w];
        let is_base = self.row.save_id == worker.base || !rules.has(Rule::RememberComparesSaveId);
        let is_mine = self.row.lease_owner == Some(w as u8) || !rules.has(Rule::RememberComparesOwner);
        if is_base && is_mine {
            self.row.needs_reauthorization = true;
            if worker.ignores_a_save {
                self.break_(Invariant::NoPersonIsAskedForInVain);
            }
        } else if !rules.has(Rule::ReadAgainAfter108) && self.concur.is_live(self.row.token) {
            // The caller is told that a person is needed.
            self.break_(Invariant::NoPersonIsAskedForInVain);
        }
        self.workers[w].at = At::Releasing;
    }

    /// Whether REMOVE is done with the row.
    pub(super) fn remove(&mut self, w: usize, rules: Rules) {
        let (row, worker) = (self.row, self.workers[w]);
        if row.token == 0 {
            self.row.version += u8::from(row.sign_in == worker.base_sign_in);
            return;
        }
        if row.sign_in != worker.base_sign_in {
            if !rules.has(Rule::RemoveComparesSignIn) {
                // A token that is not the base is revoked and removed, too.
                self.break_(Invariant::NoNewSignInIsRevoked);
            }
            return;
        }
        if self.concur.family(row.token) != row.sign_in {
            // The revoked family is another one.
            self.break_(Invariant::NoNewSignInIsRevoked);
        }
        self.causes.removed |= bit(row.sign_in);
        self.replica = row;
        self.row = Row {
            token: 0,
            save_id: if rules.has(Rule::RemoveEmptiesSaveId) { 0 } else { row.save_id },
            version: row.version + 1,
            in_doubt: None,
            needs_reauthorization: false,
            ..row
        };
        self.end_lease(w, true);
    }

    pub(super) fn release(&mut self, w: usize, rules: Rules) {
        let is_mine = self.row.lease_owner == Some(w as u8);
        self.end_lease(w, rules.has(Rule::ReleaseComparesOwner));
        if is_mine && !rules.has(Rule::ReleaseKeepsDoubt) {
            self.row.in_doubt = None;
        }
        self.forget_claim(w);
    }

    /// The database has an older row now. The operator marks it before any worker is let in.
    pub(super) fn restore(&mut self, mut older: Row, rules: Rules) {
        let lost = self.row;
        for token in 1..=self.concur.issued {
            let is_kept = token == older.token || self.is_in_hand(token);
            if self.concur.is_live(token) && !is_kept {
                self.causes.lost |= bit(token);
                self.excuse(token, Some(Ago::OverAnHour));
            }
        }
        // What the lost commit had replaced is presented again, unless a worker holds a newer token and saves it.
        let family = self.concur.family(lost.token);
        let is_held = self.workers.iter().any(|it| it.reply != 0 && self.concur.family(it.reply) == family);
        let before = (1..lost.token).rev().find(|it| self.concur.family(*it) == family);
        if let Some(before) = before.filter(|_| lost.token != older.token && !is_held) {
            self.excuse(before, Some(Ago::OverAnHour));
        }
        self.causes.removed = 0;
        if !rules.has(Rule::RestoreMarksWithALease) {
            older.in_doubt = Some(Ago::Minutes);
        } else if rules.has(Rule::RestoreMarksTheRows) {
            (older.lease_owner, older.lapsed) = (Some(FORGOTTEN), None);
        }
        self.row = older;
    }
}
