//! What really happened in a world: what Concur issued, to whom, and what became of it.
//!
//! Always: from here it is judged whether a request was right, and whether a token was lost that need not have been.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::super::{HOUR, MINUTE};

const SECOND: Duration = Duration::from_secs(1);
/// How long a lease is.
pub(super) const LEASE: Duration = Duration::from_secs(90);

/// So many requests in a minute are more than any flights with their pauses make.
const MOST_IN_A_MINUTE: usize = 45;
/// So many more for each call that asks for a request explicitly.
const MOST_OF_A_CALL: usize = 8;
/// The effects of an explicit call are over by then.
const LONGEST_EXPLICIT: Duration = Duration::from_secs(6 * 60);

/// A reply's number at its company: its access token has that number, too.
pub(super) type Number = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// On its way, or in the memory of the process that asked for it.
    AtRisk,
    /// In the store.
    Saved,
    /// It never arrived, or its process ended before the save, or it was suspended past its lease: which no client can help.
    Lost,
}

pub(super) struct Issued {
    pub(super) at: Duration,
    pub(super) to: usize,
    /// The first reply with the same refresh token.
    pub(super) refresh: Number,
    pub(super) whereabouts: Whereabouts,
    /// Its process was suspended past its lease, which another process has taken over or may take over.
    is_late: bool,
    /// When it was saved all the same.
    saved_late_at: Option<Duration>,
    /// The reply that made the refresh token useless.
    replaced_by: Option<Number>,
    family: usize,
    is_new_refresh: bool,
}

#[derive(Default)]
pub(super) struct Company {
    pub(super) issued: Vec<Issued>,
    /// The refresh token that is good, by family.
    good: BTreeMap<usize, Number>,
    /// The process whose request is under way.
    under_way: Option<usize>,
    /// Tokens that were lost since the last sign-in.
    losses: usize,
    /// What the store held, and from when on.
    stored: Vec<(Duration, Option<Number>)>,
    /// Explicit sign-ins under way.
    pub(super) signing_in: usize,
}

/// What one process did, and was told.
#[derive(Default)]
struct Client {
    requests: VecDeque<Duration>,
    /// Calls that ask for a request explicitly.
    explicit: VecDeque<Duration>,
    /// Until when no sign-in may follow one whose outcome is not known.
    in_doubt_until: Duration,
    dead: BTreeSet<Number>,
}

#[derive(Default)]
pub(super) struct Books {
    companies: BTreeMap<usize, Company>,
    clients: BTreeMap<(usize, usize), Client>,
    /// Until when each process was asked to send nothing.
    paused_until: BTreeMap<usize, Duration>,
}

/// What a process is about to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) at: Duration,
    pub(super) process: usize,
    pub(super) company: usize,
    /// The refresh token that is presented; `None` for a sign-in.
    pub(super) presents: Option<Number>,
    /// Only a lease that has lapsed can have made that possible.
    pub(super) has_lock: bool,
    pub(super) lock_lapses: bool,
}

impl Books {
    pub(super) fn company(&mut self, company: usize) -> &mut Company {
        self.companies.entry(company).or_default()
    }

    fn client(&mut self, process: usize, company: usize) -> &mut Client {
        self.clients.entry((process, company)).or_default()
    }

    pub(super) fn asks_explicitly(&mut self, at: Duration, process: usize, company: usize) {
        self.client(process, company).explicit.push_back(at);
    }

    /// What is wrong with sending this now.
    pub(super) fn judge(&mut self, asking: Asking, heeds_pauses: bool) -> Vec<String> {
        let Asking { at, process, company, presents, has_lock, lock_lapses } = asking;
        let mut wrong = Vec::new();
        let books = self.company(company);
        let is_excused = lock_lapses && !has_lock;
        if !has_lock && !lock_lapses {
            wrong.push("without the lock".to_owned());
        }
        if let Some(other) = books.under_way.replace(process)
            && !lock_lapses
        {
            wrong.push(format!("while {other} is asking"));
        }
        match presents {
            Some(refresh) => {
                let replaced_by = books.issued[refresh].replaced_by;
                if let Some(next) = replaced_by
                    && books.issued[next].could_be_known(at)
                    && !is_excused
                {
                    wrong.push(format!("{refresh}, which was spent for {next}"));
                }
            }
            None => {
                let is_stored = books.stored.last().is_some_and(|(_, token)| token.is_some());
                let is_at_risk = books.issued.iter().any(|reply| reply.whereabouts == Whereabouts::AtRisk);
                let is_justified = books.losses > 0 || books.signing_in > 0 || is_excused;
                if (is_stored || is_at_risk) && !is_justified {
                    wrong.push("a sign-in, though nothing was lost".to_owned());
                }
                let is_explicit = books.signing_in > 0;
                if at < self.client(process, company).in_doubt_until && !is_explicit && heeds_pauses {
                    wrong.push("a sign-in right after one whose outcome is not known".to_owned());
                }
            }
        }
        if heeds_pauses && self.paused_until.get(&process).is_some_and(|until| at + SECOND < *until) {
            wrong.push("in a pause that Concur asked for".to_owned());
        }
        let client = self.client(process, company);
        client.requests.push_back(at);
        forget(&mut client.requests, at, MINUTE);
        forget(&mut client.explicit, at, LONGEST_EXPLICIT);
        if client.requests.len() > MOST_IN_A_MINUTE + MOST_OF_A_CALL * client.explicit.len() {
            wrong.push(format!("the {}th time within a minute", client.requests.len()));
        }
        wrong
    }

    pub(super) fn request_ended(&mut self, process: usize, company: usize) {
        let under_way = &mut self.company(company).under_way;
        *under_way = under_way.filter(|asking| *asking != process);
    }

    pub(super) fn asked_for_a_pause(&mut self, process: usize, until: Duration) {
        self.paused_until.insert(process, until);
    }

    pub(super) fn told_nothing(&mut self, asking: Asking, now: Duration) {
        if asking.presents.is_none() {
            self.client(asking.process, asking.company).in_doubt_until = now + MINUTE / 2;
        }
    }

    pub(super) fn told_dead(&mut self, process: usize, company: usize, refresh: Number) {
        self.client(process, company).dead.insert(refresh);
    }

    pub(super) fn is_told_dead(&mut self, process: usize, company: usize, refresh: Number) -> bool {
        self.client(process, company).dead.contains(&refresh)
    }

    /// A process ended in the middle of everything.
    pub(super) fn died(&mut self, process: usize) {
        self.lose(|_, reply| reply.to == process);
    }

    /// The lease of whoever held this company's lock has been taken over.
    pub(super) fn lapsed(&mut self, company: usize, was_suspended: bool) {
        for reply in &mut self.company(company).issued {
            reply.is_late |= was_suspended && reply.whereabouts == Whereabouts::AtRisk;
        }
        self.lose(|of, _| of == company);
    }

    /// Issued to a process whose lease has lapsed.
    pub(super) fn late(&mut self, company: usize, number: Number, was_suspended: bool) {
        self.company(company).issued[number].is_late = was_suspended;
        self.lost(company, number);
    }

    pub(super) fn lost(&mut self, company: usize, number: Number) {
        self.company(company).lose(number);
    }

    fn lose(&mut self, such: impl Fn(usize, &Issued) -> bool) {
        for (&company, books) in &mut self.companies {
            for number in 0..books.issued.len() {
                if such(company, &books.issued[number]) {
                    books.lose(number);
                }
            }
        }
    }
}

fn forget(times: &mut VecDeque<Duration>, now: Duration, after: Duration) {
    while times.front().is_some_and(|at| *at + after < now) {
        times.pop_front();
    }
}

impl Issued {
    /// Whether a process that asks now could have read that this reply was issued, when it took the lock.
    fn could_be_known(&self, now: Duration) -> bool {
        self.whereabouts != Whereabouts::Lost && self.saved_late_at.is_none_or(|at| at + LEASE <= now)
    }
}

impl Company {
    fn lose(&mut self, number: Number) {
        let reply = &mut self.issued[number];
        if reply.whereabouts == Whereabouts::AtRisk {
            reply.whereabouts = Whereabouts::Lost;
            self.losses += usize::from(reply.is_new_refresh);
        }
    }

    /// All that was stored is gone with the process that had it in memory.
    pub(super) fn forgotten(&mut self, now: Duration) {
        self.losses += 1;
        self.stored.push((now, None));
    }

    /// The answer to a refresh grant; `None` if the token is dead, which ends its family.
    pub(super) fn refresh(
        &mut self,
        at: Duration,
        to: usize,
        presented: Number,
        rotates: bool,
    ) -> Option<Number> {
        let family = self.issued[presented].family;
        if self.good.get(&family) != Some(&presented) {
            // Who presents an old one may have stolen it.
            if self.good.remove(&family).is_some() {
                self.losses += 1;
            }
            return None;
        }
        let number = self.issued.len();
        let refresh = if rotates { number } else { presented };
        if rotates {
            self.issued[presented].replaced_by = Some(number);
        }
        self.issue(at, to, family, refresh);
        Some(number)
    }

    pub(super) fn sign_in(&mut self, at: Duration, to: usize) -> Number {
        let number = self.issued.len();
        self.losses = 0;
        self.issue(at, to, number, number);
        number
    }

    fn issue(&mut self, at: Duration, to: usize, family: usize, refresh: Number) {
        let is_new_refresh = refresh == self.issued.len();
        let whereabouts = Whereabouts::AtRisk;
        self.issued.push(Issued {
            at,
            to,
            refresh,
            whereabouts,
            is_late: false,
            saved_late_at: None,
            replaced_by: None,
            family,
            is_new_refresh,
        });
        self.good.insert(family, refresh);
    }

    pub(super) fn is_good(&self, refresh: Number) -> bool {
        self.good.get(&self.issued[refresh].family) == Some(&refresh)
    }

    /// From now on the reply is safe, whatever is killed.
    pub(super) fn saved(&mut self, now: Duration, number: Number) {
        let reply = &mut self.issued[number];
        if reply.whereabouts == Whereabouts::Lost && reply.is_late {
            reply.saved_late_at = Some(now);
        }
        reply.whereabouts = Whereabouts::Saved;
    }

    /// From now on the reply is what processes read.
    pub(super) fn shown(&mut self, at: Duration, number: Number) {
        let refresh = self.issued[number].refresh;
        if self.stored.last().is_none_or(|(_, stored)| *stored != Some(refresh)) {
            self.stored.push((at, Some(refresh)));
        }
    }

    /// When Concur replaced this refresh token.
    pub(super) fn spent_at(&self, refresh: Number) -> Option<Duration> {
        self.issued[refresh].replaced_by.map(|next| self.issued[next].at)
    }

    /// When another refresh token took the place of this one in the store, the last time.
    pub(super) fn replaced_at(&self, refresh: Number) -> Option<Duration> {
        let last = self.stored.iter().rposition(|(_, stored)| *stored == Some(refresh))?;
        self.stored.get(last + 1).map(|(at, _)| *at)
    }

    pub(super) fn is_stored(&self, refresh: Number) -> bool {
        self.stored.last().is_some_and(|(_, stored)| *stored == Some(refresh))
    }

    /// How long an access token is good: an hour from the moment at which it was issued.
    pub(super) fn access_ends(&self, number: Number) -> Duration {
        self.issued[number].at + HOUR
    }
}
