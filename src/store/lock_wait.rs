//! Waiting for a lock that another process holds.
//!
//! Always: the time is counted by pauses, not read from a clock, which may jump.

use std::time::Duration;

use crate::{Error, ErrorKind, backoff::Backoff};

/// The first pause between two attempts at the lock; the store says which is the longest.
const FIRST_POLL: Duration = Duration::from_millis(2);

pub(crate) struct LockWait {
    pauses: Backoff,
    polls: u32,
    waited: Duration,
    timeout: Duration,
}

impl LockWait {
    pub(crate) fn new(longest_poll: Duration, timeout: Duration) -> Self {
        Self { pauses: Backoff::new(FIRST_POLL, longest_poll), polls: 0, waited: Duration::ZERO, timeout }
    }

    /// Whether no pause was made yet.
    pub(crate) fn is_new(&self) -> bool {
        self.polls == 0
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pauses.nth(self.polls);
        self.waited += pause;
        self.polls += 1;
        pause
    }

    pub(crate) fn is_over(&self) -> bool {
        self.waited >= self.timeout
    }

    pub(crate) fn timed_out(&self, store: &str) -> Error {
        let message = format!(
            "waited {} s for the lock of {store}, which another process, or another manager of this one, holds; find out what it is \
             doing (it may be suspended), then try again",
            self.timeout.as_secs()
        );
        Error::new(ErrorKind::Store, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_add_up_to_the_time_out() {
        let ms = Duration::from_millis;
        let mut wait = LockWait::new(ms(10), ms(34));
        assert!(wait.is_new());
        for (pause, is_over) in [(2, false), (4, false), (8, false), (10, false), (10, true)] {
            assert!(!wait.is_over());
            assert_eq!((wait.pause(), wait.is_over(), wait.is_new()), (ms(pause), is_over, false));
        }
    }
}
