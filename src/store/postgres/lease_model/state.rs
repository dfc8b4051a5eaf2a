//! What the model knows at one moment: the row, Concur, the workers, and what may still go wrong.
//!
//! Tokens are numbered in the order in which Concur issued them; 0 is none. The `save_id` of a reply is the number of its
//! token. Each sign-in begins a family of tokens, and its id in the row is the number of that family.

use super::rules::{Rule, Rules};

pub(super) const WORKERS: usize = 3;
/// A claim that no worker remembers.
pub(super) const FORGOTTEN: u8 = WORKERS as u8;
/// Tokens are numbered below this.
const TOKENS: usize = 8;
/// Families are numbered below this.
const FAMILIES: usize = 4;

/// How long ago a lease has lapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ago {
    Minutes,
    OverAnHour,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) token: u8,
    pub(super) save_id: u8,
    /// Of which sign-in the stored token descends. REMOVE keeps it.
    pub(super) sign_in: u8,
    pub(super) version: u8,
    /// Whose claim it is: a worker's latest, or [`FORGOTTEN`].
    pub(super) lease_owner: Option<u8>,
    /// Since when `lease_until` is over.
    pub(super) lapsed: Option<Ago>,
    pub(super) in_doubt: Option<Ago>,
    pub(super) needs_reauthorization: bool,
}

impl Row {
    fn key(&self) -> u64 {
        pack(&[
            (self.token, 3),
            (self.save_id, 8),
            (self.sign_in, 2),
            (self.version, 4),
            (self.lease_owner.map_or(0, |owner| owner + 1), 3),
            (age(self.lapsed), 2),
            (age(self.in_doubt), 2),
            (self.needs_reauthorization.into(), 1),
        ])
    }

    pub(super) fn has_live_lease(&self) -> bool {
        self.lease_owner.is_some() && self.lapsed.is_none()
    }
}

/// What a worker is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum At {
    #[default]
    Idle,
    /// CLAIM is committed, its answer is on the way.
    Claiming,
    /// The lease has to be checked before the request.
    Claimed,
    /// PROLONG is committed, its answer is on the way.
    Prolonging,
    /// The check has passed: the request is sent next.
    Checked,
    /// The request failed for a passing reason.
    BackingOff,
    /// A reply with a token has to be saved.
    Holding,
    /// Concur answered 108.
    Refused,
    /// The row still has the refused token and was in doubt.
    WaitingForALateSave,
    /// The row still has the refused token.
    Marking,
    /// Concur has revoked the family: the row is emptied next.
    Removing,
    Releasing,
}

/// What a worker claimed the row for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flight {
    /// A caller needs a token.
    #[default]
    Caller,
    KeepAlive,
    SignIn,
    SignOut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) at: At,
    pub(super) flight: Flight,
    // What CLAIM returned.
    pub(super) token: u8,
    pub(super) base: u8,
    pub(super) base_sign_in: u8,
    pub(super) base_version: u8,
    pub(super) was_in_doubt: bool,
    /// What the worker's own clock says: enough is left for a request and its save.
    pub(super) has_time_left: bool,
    /// The token of the reply in hand.
    pub(super) reply: u8,
    /// How many attempts to save it failed, or may have failed.
    pub(super) attempts: u8,
    pub(super) is_suspended: bool,
    // What no program knows; the invariants are judged by it.
    /// Since when the time of the claim is over.
    pub(super) late: Option<Ago>,
    /// Suspended, or cut off from the database, between the check of the lease and the end of the save.
    pub(super) was_held_up: bool,
    /// At the last READ after code 108, a worker that runs was about to save a token that Concur accepts.
    pub(super) ignores_a_save: bool,
}

impl Worker {
    fn key(&self) -> u64 {
        pack(&[
            (self.at as u8, 4),
            (self.flight as u8, 2),
            (self.token, 3),
            (self.base, 8),
            (self.base_sign_in, 2),
            (self.base_version, 4),
            (self.was_in_doubt.into(), 1),
            (self.has_time_left.into(), 1),
            (self.reply, 3),
            (self.attempts, 2),
            (self.is_suspended.into(), 1),
            (age(self.late), 2),
            (self.was_held_up.into(), 1),
            (self.ignores_a_save.into(), 1),
        ])
    }

    /// Between the check of the lease and the save a worker that runs is faster than its lease.
    pub(super) fn is_quick(&self) -> bool {
        let is_covered = match self.at {
            At::Claiming | At::Prolonging | At::Checked | At::Removing => true,
            At::Holding => self.attempts == 0,
            _ => false,
        };
        is_covered && !self.is_suspended
    }

    pub(super) fn is_busy(&self) -> bool {
        self.at != At::Idle
    }

    /// The same without what has no effect on the steps that are left.
    fn without_the_past(self) -> Self {
        let Self { at, base, base_sign_in, is_suspended, was_in_doubt, .. } = self;
        let refused = Self { at, base, is_suspended, ..Self::default() };
        match at {
            At::Idle | At::Releasing => Self { at, is_suspended, ..Self::default() },
            At::Refused => Self { was_in_doubt, ..refused },
            At::WaitingForALateSave => refused,
            At::Marking => Self { ignores_a_save: self.ignores_a_save, ..refused },
            At::Removing => Self { base_sign_in, flight: Flight::SignOut, ..refused },
            At::Holding if self.flight == Flight::KeepAlive => {
                Self { flight: Flight::Caller, was_in_doubt: false, has_time_left: false, ..self }
            }
            At::Holding => Self { was_in_doubt: false, has_time_left: false, ..self },
            _ => self,
        }
    }
}

/// What Concur knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Concur {
    pub(super) revokes_on_reuse: bool,
    pub(super) issued: u8,
    pub(super) families: u8,
    /// The family of each token.
    pub(super) family: [u8; TOKENS],
    /// The token of each family that was not presented yet.
    pub(super) unspent: [u8; FAMILIES],
    /// One bit for each family.
    pub(super) revoked: u8,
}

impl Concur {
    pub(super) fn family(&self, token: u8) -> u8 {
        self.family[usize::from(token)]
    }

    pub(super) fn is_live(&self, token: u8) -> bool {
        let family = self.family(token);
        token != 0 && self.revoked & bit(family) == 0 && self.unspent[usize::from(family)] == token
    }

    pub(super) fn issue(&mut self, family: u8) -> u8 {
        self.issued += 1;
        self.family[usize::from(self.issued)] = family;
        self.unspent[usize::from(family)] = self.issued;
        self.issued
    }
}

/// What has happened, as a judge needs it who asks why a token was lost or presented twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Causes {
    /// Lost for a reason that no rule can prevent. One bit for each token.
    pub(super) lost: u8,
    /// Spent by keep-alive. One bit for each token.
    pub(super) spent_by_keep_alive: u8,
    /// Spent tokens whose successor is not in the row, for a reason that no rule can prevent: how late the worker is that holds
    /// it. `OverAnHour` also where no worker holds it any more.
    pub(super) held_up: [Option<Ago>; TOKENS],
    /// Families that a sign-out has revoked and removed.
    pub(super) removed: u8,
}

impl Causes {
    /// What concerns tokens that can be neither lost nor presented twice any more.
    fn forget_what_is_over(&mut self, concur: &Concur) {
        for token in 1..=concur.issued {
            if !concur.is_live(token) {
                self.lost &= !bit(token);
            }
            if concur.revoked & bit(concur.family(token)) != 0 {
                self.spent_by_keep_alive &= !bit(token);
                self.held_up[usize::from(token)] = None;
            }
        }
    }
}

/// How much may still happen, so that the search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Crashes, suspensions, lost answers, statements and requests that fail.
    pub(super) faults: u8,
    pub(super) restores: u8,
    pub(super) removals: u8,
    /// Tokens that Concur issues.
    pub(super) tokens: u8,
    pub(super) sign_ins: u8,
    pub(super) sign_outs: u8,
    pub(super) assignments: u8,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invariant {
    NoTokenIsLost,
    NoTokenIsPresentedTwice,
    NoNewerTokenIsOverwritten,
    NoSaveIsSupersededByItself,
    NoLeaseOfAnotherClaimIsTouched,
    NothingIsSentForATokenThatWasReplaced,
    NoPersonIsAskedForInVain,
    NothingRevokedComesBack,
    NoNewSignInIsRevoked,
    NoDeadEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) row: Row,
    /// The row as it was before the last save: what a replica has that lacks the last commit.
    pub(super) replica: Row,
    pub(super) workers: [Worker; WORKERS],
    pub(super) concur: Concur,
    pub(super) causes: Causes,
    pub(super) left: Budget,
    /// What the last step broke.
    pub(super) broken: Option<Invariant>,
}

fn age(age: Option<Ago>) -> u8 {
    match age {
        None => 0,
        Some(Ago::Minutes) => 1,
        Some(Ago::OverAnHour) => 2,
    }
}

/// Values and their widths in bits, one after the other.
fn pack(values: &[(u8, u32)]) -> u64 {
    let mut packed = 0;
    for &(value, bits) in values {
        debug_assert!(u32::from(value) < 1 << bits, "{value} in {bits} bits");
        packed = packed << bits | u64::from(value);
    }
    packed
}

pub(super) fn bit(number: u8) -> u8 {
    1 << number
}

impl State {
    /// A company that has signed in; nothing was renewed yet.
    pub(super) fn first(left: Budget, revokes_on_reuse: bool) -> Self {
        let mut concur = Concur {
            revokes_on_reuse,
            issued: 0,
            families: 1,
            family: [0; TOKENS],
            unspent: [0; FAMILIES],
            revoked: 0,
        };
        let token = concur.issue(1);
        let row = Row { token, save_id: token, sign_in: 1, version: 1, ..Row::default() };
        let workers = [Worker::default(); WORKERS];
        Self { row, replica: row, workers, concur, causes: Causes::default(), left, broken: None }
    }

    /// The row as the oldest backup has it.
    pub(super) fn backup(&self) -> Row {
        Row { token: 1, save_id: 1, sign_in: 1, version: 1, ..Row::default() }
    }

    pub(super) fn break_(&mut self, invariant: Invariant) {
        self.broken.get_or_insert(invariant);
    }

    pub(super) fn is_in_hand(&self, token: u8) -> bool {
        self.workers.iter().any(|worker| worker.reply == token)
    }

    /// Worker `w` is idle now, and its claim belongs to no worker.
    pub(super) fn forget_claim(&mut self, w: usize) {
        for row in [&mut self.row, &mut self.replica] {
            if row.lease_owner == Some(w as u8) {
                row.lease_owner = Some(FORGOTTEN);
            }
        }
        self.workers[w] = Worker::default();
    }

    /// Notes that the token which worker `w` has spent, and all before it, are in use by a worker that is late.
    pub(super) fn note_held_up(&mut self, w: usize) {
        let Worker { late, was_held_up, token, reply, .. } = self.workers[w];
        if reply != 0 && was_held_up && late.is_some() {
            self.excuse(token, late);
        }
    }

    /// Presenting `spent`, or a token before it, is no mistake of any worker from now on.
    pub(super) fn excuse(&mut self, spent: u8, late: Option<Ago>) {
        let family = self.concur.family(spent);
        for token in (1..=spent).filter(|token| self.concur.family(*token) == family) {
            let known = &mut self.causes.held_up[usize::from(token)];
            *known = (*known).max(late);
        }
    }

    /// What holds in every state, whatever the step before.
    pub(super) fn check(&self) -> Option<Invariant> {
        let Self { row, concur, causes, .. } = self;
        if row.token != 0 && causes.removed & bit(concur.family(row.token)) != 0 {
            return Some(Invariant::NothingRevokedComesBack);
        }
        if row.needs_reauthorization && concur.is_live(row.token) {
            return Some(Invariant::NoPersonIsAskedForInVain);
        }
        for family in 1..=concur.families {
            let token = concur.unspent[usize::from(family)];
            let is_kept = row.token == token || self.is_in_hand(token);
            // The row was removed, or a person has signed in again.
            let stored = concur.family(row.token);
            let is_replaced = row.token == 0 || (stored != family && stored > 1);
            if concur.is_live(token) && !is_kept && !is_replaced && causes.lost & bit(token) == 0 {
                return Some(Invariant::NoTokenIsLost);
            }
        }
        None
    }

    /// Whether all is settled: nothing runs, and the row can be used or says that a person is needed.
    pub(super) fn is_at_rest(&self, rules: Rules) -> bool {
        let Row { token, needs_reauthorization, .. } = self.row;
        let is_settled = token == 0 || needs_reauthorization || self.concur.is_live(token);
        is_settled && self.can_claim(Flight::KeepAlive, rules) && !self.workers.iter().any(Worker::is_busy)
    }

    /// The one of all states that differ from this one only in the numbers of the workers, and in what has no effect any more.
    pub(super) fn canonical(&self) -> Self {
        let workers = self.workers.map(|worker| worker.without_the_past());
        let owns = |row: &Row, w: usize| row.lease_owner == Some(w as u8);
        let mut order = [0, 1, 2];
        let keys = [0, 1, 2].map(|w| (workers[w].key(), owns(&self.row, w), owns(&self.replica, w)));
        order.sort_unstable_by_key(|&w| keys[w]);
        let mut canonical = *self;
        canonical.workers = order.map(|w| workers[w]);
        let renumber = |owner: u8| {
            let place = order.iter().position(|&w| w as u8 == owner);
            place.map_or(FORGOTTEN, |place| place as u8)
        };
        canonical.row.lease_owner = self.row.lease_owner.map(renumber);
        canonical.replica.lease_owner = self.replica.lease_owner.map(renumber);
        if self.left.restores == 0 {
            canonical.replica = Row::default();
        }
        canonical.causes.forget_what_is_over(&self.concur);
        canonical
    }

    /// The whole state in a few words, to compare and to hash it fast in unoptimised tests.
    pub(super) fn key(&self) -> [u64; 7] {
        let Self { row, replica, workers, concur, causes, left, .. } = self;
        let family = concur.family.map(|it| (it, 2));
        let unspent = concur.unspent.map(|it| (it, 3));
        let held_up = causes.held_up.map(|it| (age(it), 2));
        let others = pack(&[
            (concur.revokes_on_reuse.into(), 1),
            (concur.issued, 3),
            (concur.families, 2),
            (concur.revoked, 4),
            (causes.lost, 8),
            (causes.spent_by_keep_alive, 8),
            (causes.removed, 4),
            (left.faults, 2),
            (left.restores, 2),
            (left.removals, 2),
            (left.tokens, 3),
            (left.sign_ins, 2),
            (left.sign_outs, 2),
            (left.assignments, 1),
        ]);
        let tables = pack(&family) << 28 | pack(&unspent) << 16 | pack(&held_up);
        let [a, b, c] = workers.map(|worker| worker.key());
        [row.key(), replica.key(), a, b, c, others, tables]
    }

    /// The check before a request to Concur.
    pub(super) fn may_send(&self, w: usize, rules: Rules) -> bool {
        let Worker { at, has_time_left, .. } = self.workers[w];
        let rule = if at == At::BackingOff { Rule::CheckBeforeRepetition } else { Rule::CheckBeforeSend };
        has_time_left || !rules.has(rule)
    }
}
