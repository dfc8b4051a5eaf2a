//! How much Concur puts up with: wrong passwords, and requests in a minute.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode,
    header::{HeaderValue, RETRY_AFTER},
};

use super::{
    endpoints::Concur,
    reply::{Code, ErrorBody, Reply},
};

const MINUTE: Duration = Duration::from_secs(60);
/// SAP's code for a locked account.
const LOCKED: Code = 14;

#[derive(Default)]
pub(super) struct Limits {
    pub(super) wrong_attempts: Option<u32>,
    pub(super) requests_per_minute: Option<usize>,
    /// By principal, in a row.
    wrong: HashMap<String, u32>,
    /// When the requests of the last minute came.
    recent: VecDeque<SystemTime>,
}

impl Limits {
    /// 429 for one request too many, until the first of the last minute is a minute ago.
    pub(super) fn count(&mut self, now: SystemTime) -> Option<Reply> {
        let most = self.requests_per_minute?;
        let is_over = |came: &SystemTime| now.duration_since(*came).is_ok_and(|ago| ago >= MINUTE);
        while self.recent.front().is_some_and(is_over) {
            self.recent.pop_front();
        }
        if self.recent.len() < most {
            self.recent.push_back(now);
            return None;
        }
        let first = self.recent.front().copied().unwrap_or(now);
        let left = MINUTE.saturating_sub(now.duration_since(first).unwrap_or_default());
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let mut reply = Reply::empty(StatusCode::TOO_MANY_REQUESTS);
        reply.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        Some(reply)
    }

    pub(super) fn forgive(&mut self) {
        self.wrong.clear();
    }
}

impl Concur {
    /// Locks the account after too many wrong passwords or request tokens in a row.
    pub(super) fn attempted<T>(&mut self, principal: &str, outcome: Result<T, Code>) -> Result<T, ErrorBody> {
        match (&outcome, self.limits.wrong_attempts) {
            (Err(5), Some(most)) => {
                let wrong = self.limits.wrong.entry(principal.to_owned()).or_default();
                *wrong += 1;
                if *wrong >= most {
                    self.refusals.insert(principal.to_owned(), LOCKED);
                }
            }
            (Ok(_), _) => drop(self.limits.wrong.remove(principal)),
            _ => {}
        }
        outcome.map_err(ErrorBody::from)
    }
}
