//! What a Concur notes of its companies, and what must not happen to them.
//!
//! Always: whether a token may have been lost is judged by the sky, by what Concur granted and by what reached a process.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    super::times::{DAY, HOUR, MINUTE},
    Company, Concur, Grants, OUTSIDE, refresh_token,
};
use crate::{Clock as _, caught::locked, manager::simulation::world::Watch};

/// Every token is renewed by then: ten minutes before the hour, up to a minute later, and what a request takes.
const RENEWED_BY: Duration = Duration::from_secs(56 * 60);

/// What happened in all companies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Tally {
    pub(in super::super) requests: usize,
    pub(in super::super) grants: usize,
    pub(in super::super) sign_ins: usize,
    /// Lives that a grant does not extend, and which came to their end.
    pub(in super::super) ended_lives: usize,
    /// Lives that ended while nothing could be renewed.
    pub(in super::super) outlived_by_an_outage: usize,
    /// Tokens that were lost with a reply, and those that a kill lost between the grant and the save.
    pub(in super::super) lost_replies: usize,
    pub(in super::super) kills_in_flight: usize,
    /// Request tokens that became necessary after one of these losses.
    pub(in super::super) lapses_by_loss: usize,
    pub(in super::super) kills: usize,
    pub(in super::super) calls: usize,
    pub(in super::super) most_in_a_quiet_day: usize,
    pub(in super::super) most_in_a_day: usize,
    pub(in super::super) most_at_once: usize,
}

impl Concur {
    /// A panic in a flight would be caught by what is tested.
    pub(in super::super) fn breaks(&self, promise: impl Into<String>) {
        let mut broken = locked(&self.broken);
        if broken.len() < 10 {
            broken.push(format!("at {:?}: {}", self.world.passed(), promise.into()));
        }
    }

    pub(super) fn asked(&self, number: usize) {
        let now = self.world.passed();
        locked(&self.requests).count(now);
        let at_once = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut tally = locked(&self.tally);
            tally.requests += 1;
            tally.most_at_once = tally.most_at_once.max(at_once);
        }
        if locked(&self.pause).contains(&now) {
            self.breaks(format!("company {number} is asked for in the pause {:?}", locked(&self.pause)));
        }
        let mut company = locked(&self.companies[number]);
        company.requests += 1;
        if std::mem::replace(&mut company.is_asking, true) {
            self.breaks(format!("company {number} has two requests at once"));
        }
        let day = now.as_secs() / DAY.as_secs();
        if company.today.0 != day {
            self.end_of_day(number, &company);
            company.today = (day, 0);
        }
        company.today.1 += 1;
        drop(company);
        if self.is_armed.swap(false, Ordering::Relaxed) {
            self.asked.notify_one();
        }
    }

    /// 60 minutes, less 8 to 10, up to a minute until the next look: 29 renewals fit into a day. While renewing fails 60 do;
    /// each start and each step of the clock makes pauses begin again, from half a minute to half an hour.
    fn end_of_day(&self, number: usize, company: &Company) {
        let (day, requests) = company.today;
        let start = DAY * u32::try_from(day).unwrap();
        let is_signed_in = company.lapsed.is_none() && company.person_until < start;
        let is_quiet = is_signed_in && locked(&self.calm).is_settled_throughout(start..start + DAY);
        let began = self.begun().filter(|at| (start..start + DAY).contains(at)).count();
        let most = if is_quiet { 29 } else { 60 + 8 * began };
        let mut tally = locked(&self.tally);
        if is_quiet {
            tally.most_in_a_quiet_day = tally.most_in_a_quiet_day.max(requests);
        }
        tally.most_in_a_day = tally.most_in_a_day.max(requests);
        if requests > most {
            self.breaks(format!("company {number} sent {requests} requests on day {day}, more than {most}"));
        }
    }

    /// In calm weather each token is renewed within its hour.
    pub(super) fn check_gap(&self, number: usize, company: &Company, now: Duration) {
        let Some(granted) = company.granted.filter(|_| company.lapsed.is_none()) else { return };
        let settled = locked(&self.calm).first_settled((granted + RENEWED_BY).max(company.person_until));
        if settled < now {
            self.breaks(format!("company {number} was not renewed from {granted:?} to {settled:?}"));
        }
    }

    /// A refresh token is refused. A person makes a request token some time later.
    pub(super) fn lapses(self: &Arc<Self>, number: usize, company: &mut Company) {
        if company.lapsed.is_some() {
            return;
        }
        let now = self.world.passed();
        let mut tally = locked(&self.tally);
        if company.is_lost {
            tally.lapses_by_loss += 1;
        } else if now >= company.expires && company.grants == Grants::KeepExpiry {
            tally.ended_lives += 1;
        } else if now >= company.expires {
            tally.outlived_by_an_outage += 1;
            let due = company.granted.unwrap_or_default() + RENEWED_BY;
            let settled = locked(&self.calm).first_settled(due.max(company.person_until));
            if settled < company.expires {
                self.breaks(format!(
                    "company {number} has lapsed, and could have been renewed at {settled:?}"
                ));
            }
        } else {
            self.breaks(format!("company {number} presents a token that is not the last that it received"));
        }
        company.lapsed = Some(now);
        let concur = Arc::clone(self);
        self.world.spawn(OUTSIDE, async move {
            let pause = |time| Watch(Arc::clone(&concur.world)).sleep(time);
            pause(concur.world.up_to(12 * HOUR)).await;
            loop {
                {
                    let mut company = locked(&concur.companies[number]);
                    if company.lapsed.is_none() || concur.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    company.request_token += 1;
                    company.request_token_until = concur.world.passed() + DAY;
                    company.acted.get_or_insert(concur.world.passed());
                }
                pause(DAY + MINUTE).await;
            }
        });
    }

    /// When processes were started, and the clock was set.
    pub(in super::super) fn begun(&self) -> impl Iterator<Item = Duration> {
        let ups: Vec<_> = locked(&self.downs).iter().map(|down| down.end).collect();
        let steps = self.sky.steps.iter().map(|step| step.from);
        [Duration::ZERO].into_iter().chain(ups).chain(steps)
    }

    /// For `benches/plot`: what happened, and how many requests there were in each minute.
    pub(in super::super) fn write(&self, end: Duration) {
        let troubles = self.sky.troubles.iter().map(|(span, trouble)| (format!("{trouble:?}"), span.clone()));
        let downs = locked(&self.downs).clone().into_iter().map(|down| ("Down".to_owned(), down));
        let steps = self.sky.steps.iter().map(|step| ("Step".to_owned(), step.from..step.from));
        let spans: Vec<_> = troubles.chain(downs).chain(steps).collect();
        locked(&self.requests).write(self.companies.len(), &spans, end);
    }

    /// The process was killed, with every request that was under way, and the next one is started later.
    pub(in super::super) fn killed(&self, down_for: Duration) {
        let down = self.world.passed()..self.world.passed() + down_for;
        locked(&self.calm).disturb(down.clone());
        *locked(&self.pause) = Duration::ZERO..Duration::ZERO;
        locked(&self.downs).push(down);
        let mut tally = locked(&self.tally);
        tally.kills += 1;
        for company in &self.companies {
            let mut company = locked(company);
            if company.unsaved.take().is_some() && !company.is_lost {
                company.is_lost = true;
                tally.kills_in_flight += 1;
            }
        }
    }

    /// The company's store holds this refresh token from now on.
    pub(in super::super) fn saved(&self, number: usize, secret: &str) {
        let mut company = locked(&self.companies[number]);
        if company.unsaved.is_some_and(|unsaved| secret == refresh_token(number, unsaved)) {
            company.unsaved = None;
        }
    }

    /// Whether this is the refresh token that is good, or was until a reply that is on its way.
    pub(in super::super) fn is_good(&self, number: usize, secret: &str) -> bool {
        let company = locked(&self.companies[number]);
        let oldest = company.refresh - u32::from(company.unsaved.is_some());
        !company.is_revoked && (oldest..=company.refresh).any(|good| secret == refresh_token(number, good))
    }

    /// At the end of the years.
    pub(in super::super) fn check_the_end(&self, end: Duration) {
        for (number, company) in self.companies.iter().enumerate() {
            let company = locked(company);
            self.check_gap(number, &company, end);
            self.end_of_day(number, &company);
        }
        let tally = locked(&self.tally);
        if tally.lapses_by_loss > tally.lost_replies + tally.kills_in_flight {
            self.breaks(format!("more tokens were lost than replies and processes: {tally:?}"));
        }
    }
}
