//! How much trouble the requests for one purpose are worth: attempts, and time.
//!
//! Always: no request begins after the budget's last moment to begin, so the requests of one flight end at most 30 s
//! after that. Time is counted, not read from a clock: requests take real time, pauses take the injected clock's.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use super::transport::REQUEST_TIMEOUT;
use crate::{Clock, Error, SystemClock, caught::locked, random::Random};

const MOST_ATTEMPTS: u32 = 4;
/// From the first attempt to the answer of the last. A whole request must fit in, because a reply must not be missed
/// because earlier replies were late.
pub(super) const LONGEST: Duration = Duration::from_secs(45);
/// When the last request of a flight may begin, whatever it is for: another attempt, another data centre, or the sign-in
/// that a refused refresh token leads to. Waiting for a turn counts.
const LATEST_BEGIN: Duration = Duration::from_secs(60);
/// The same where callers hold something valid and wait in its last minute: the flight ends within that minute.
const LATEST_BEGIN_AHEAD_OF_TIME: Duration = Duration::from_secs(30);
/// How often a request that waits checks whether a caller still waits for it.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// What sending depends on, apart from the request.
#[derive(Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) random: &'a Random,
    pub(crate) budget: &'a RetryBudget<'a>,
    /// Nothing is sent while the host asks for a pause. A sign-in that a person makes is sent nevertheless.
    pub(crate) heeds_pause: bool,
    /// What must still be held when a request is sent.
    pub(crate) hold: Option<&'a dyn Hold>,
}

/// What the sender holds while a request is under way, such as a lease.
pub(crate) trait Hold: Sync {
    /// Asked right before each request. After an error it is not sent.
    fn hold_for_a_request(&self) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + '_>>;
}

impl<'a> Conditions<'a> {
    /// For a client that is used without a manager.
    pub(super) fn without_manager(budget: &'a RetryBudget<'a>) -> Self {
        Self { clock: &SystemClock, random: &Random::System, budget, heeds_pause: true, hold: None }
    }
}

/// How many attempts and how much time all requests for one purpose may use together.
pub(crate) struct RetryBudget<'a> {
    limits: Limits,
    is_given_up: &'a (dyn Fn() -> bool + Sync),
    spent: Mutex<Spent>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) most_attempts: u32,
    pub(super) latest_begin: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    pub(super) attempts: u32,
    /// By requests, and by the pauses between them.
    pub(super) passed: Duration,
    /// By waiting for turns. That is no part of the time for attempts: how busy the client is says nothing about the host.
    pub(super) waited: Duration,
    /// A request was sent, or tried to be: there may have been no connection.
    pub(super) has_sent: bool,
}

impl Spent {
    pub(super) fn leaves_time_to_repeat(self, pause: Duration, limits: Limits) -> bool {
        let begins = self.passed.saturating_add(pause);
        begins.saturating_add(REQUEST_TIMEOUT) <= LONGEST
            && begins.saturating_add(self.waited) <= limits.latest_begin
    }

    /// How long the next request may wait before it begins; `None` if it is too late already.
    pub(super) fn time_to_begin(self, limits: Limits) -> Option<Duration> {
        limits.latest_begin.checked_sub(self.total())
    }

    pub(super) fn total(self) -> Duration {
        self.passed.saturating_add(self.waited)
    }
}

impl<'a> RetryBudget<'a> {
    /// Repeats until `is_given_up` says that no caller waits any more.
    pub(crate) fn repeat(is_given_up: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let limits = Limits { most_attempts: MOST_ATTEMPTS, latest_begin: LATEST_BEGIN };
        Self { limits, is_given_up, spent: Mutex::default() }
    }

    /// For a caller that decides about the next attempt itself.
    pub(crate) fn one_attempt() -> Self {
        let limits = Limits { most_attempts: 1, latest_begin: LATEST_BEGIN };
        Self { limits, ..Self::repeat(&|| false) }
    }

    /// The same, unused, for a flight whose callers have something valid to fall back to.
    pub(crate) fn ahead_of_time(&self) -> Self {
        let limits = Limits { most_attempts: 1, latest_begin: LATEST_BEGIN_AHEAD_OF_TIME };
        Self { limits, ..Self::repeat(self.is_given_up) }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether any request was sent, or tried to be.
    pub(crate) fn has_sent(&self) -> bool {
        self.spent().has_sent
    }

    pub(super) fn is_given_up(&self) -> bool {
        (self.is_given_up)()
    }

    pub(super) fn spent(&self) -> MutexGuard<'_, Spent> {
        locked(&self.spent)
    }
}
