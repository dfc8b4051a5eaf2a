//! How many requests a client sends in a second, to all hosts together.
//!
//! Always: no burst: requests are sent one by one, in the order in which they came, an equal time apart, and in no second more
//! than that many and one. A clock that jumps holds up no request for longer than that time. Who waits no more takes no other's
//! place.

use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use crate::Clock;

/// The slowest rate: one request a minute, so that each request can get its turn within a flight's time.
const SLOWEST: Duration = Duration::from_secs(60);
/// How much later than its time a request may be sent without those behind it coming later, too: sleeps are not exact. Never
/// more than the time between two requests.
const MOST_SLACK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Rate {
    /// Between two requests.
    interval: Duration,
    /// When the next request may be sent. Locked by the request that waits for that moment; those behind it wait for the lock,
    /// which is fair.
    next: Mutex<Option<SystemTime>>,
}

impl Rate {
    /// A number that is not positive counts as the slowest rate.
    pub(super) fn per_second(most: f64) -> Self {
        let is_possible = most > 1.0 / SLOWEST.as_secs_f64();
        let interval = if is_possible { Duration::from_secs_f64(1.0 / most) } else { SLOWEST };
        Self { interval, next: Mutex::default() }
    }

    /// Waits until the next request may be sent.
    pub(super) async fn wait(&self, clock: &dyn Clock) {
        let mut next = self.next.lock().await;
        let now = clock.now();
        let slack = self.interval.min(MOST_SLACK);
        let earliest = now.checked_sub(slack).unwrap_or(now);
        // Otherwise the clock was set back.
        let latest = now.checked_add(self.interval).unwrap_or(now);
        let moment = next.filter(|moment| *moment >= earliest).unwrap_or(now).min(latest);
        if let Ok(left) = moment.duration_since(now)
            && !left.is_zero()
        {
            clock.sleep(left).await;
        }
        let sent = clock.now();
        *next = moment.max(sent.checked_sub(slack).unwrap_or(sent)).checked_add(self.interval);
    }

    pub(super) fn describe(&self) -> String {
        if self.interval <= Duration::from_secs(1) {
            format!("{} requests a second", (1.0 / self.interval.as_secs_f64() * 100.0).round() / 100.0)
        } else {
            format!("one request every {} s", (self.interval.as_secs_f64() * 10.0).round() / 10.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::{Pin, pin},
        sync::{Arc, Mutex},
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::clock::from_unix_seconds;

    /// Its sleeps take as long as they should, plus `late`.
    #[derive(Clone, Debug)]
    struct Hands {
        now: Arc<Mutex<SystemTime>>,
        late: Duration,
    }

    impl Hands {
        fn at(seconds: u64, late: Duration) -> Self {
            Self { now: Arc::new(Mutex::new(from_unix_seconds(seconds).unwrap())), late }
        }

        fn set(&self, seconds: u64) {
            *self.now.lock().unwrap() = from_unix_seconds(seconds).unwrap();
        }
    }

    impl Clock for Hands {
        fn now(&self) -> SystemTime {
            *self.now.lock().unwrap()
        }

        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let hands = self.clone();
            Box::pin(async move { *hands.now.lock().unwrap() += duration + hands.late })
        }
    }

    /// Its sleeps do not end.
    #[derive(Debug)]
    struct Stopped(SystemTime);

    impl Clock for Stopped {
        fn now(&self) -> SystemTime {
            self.0
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    fn done(wait: impl Future<Output = ()>) {
        let mut wait = pin!(wait);
        assert_eq!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
    }

    fn sent(rate: &Rate, hands: &Hands, requests: usize) -> Vec<Duration> {
        let start = hands.now();
        let send = |_| {
            done(rate.wait(hands));
            hands.now().duration_since(start).unwrap()
        };
        (0..requests).map(send).collect()
    }

    #[test]
    fn requests_are_sent_an_equal_time_apart() {
        let (rate, hands) = (Rate::per_second(4.0), Hands::at(1000, Duration::ZERO));
        assert_eq!(sent(&rate, &hands, 4), [0, 250, 500, 750].map(Duration::from_millis));
        // What was not used is not saved up.
        hands.set(2000);
        assert_eq!(sent(&rate, &hands, 3), [0, 250, 500].map(Duration::from_millis));
    }

    #[test]
    fn sleeps_that_end_late_make_nothing_slower() {
        let (rate, hands) = (Rate::per_second(100.0), Hands::at(1000, Duration::from_millis(2)));
        let sent = sent(&rate, &hands, 101);
        assert_eq!(sent[100], Duration::from_millis(1002));
        assert!(sent.is_sorted());
    }

    #[test]
    fn however_late_sleeps_end_no_second_has_more_than_its_requests_and_one() {
        let seed = crate::seed::seed();
        let mut random = fastrand::Rng::with_seed(seed);
        for per_second in [20_u32, 100, 500] {
            let rate = Rate::per_second(per_second.into());
            let mut hands = Hands::at(1000, Duration::ZERO);
            let start = hands.now();
            let mut sent = Vec::new();
            for _ in 0..10 * per_second {
                // Most sleeps are a little late, some much.
                let late = if random.u8(..) < 250 { random.u64(..2500) } else { random.u64(..30_000) };
                hands.late = Duration::from_micros(late);
                done(rate.wait(&hands));
                sent.push(hands.now().duration_since(start).unwrap());
            }
            for (n, first) in sent.iter().enumerate() {
                let second = sent[n..].iter().take_while(|moment| **moment - *first < Duration::from_secs(1));
                let count = second.count();
                assert!(count <= per_second as usize + 1, "{count} at {per_second}; CONCUR_AUTH_SEED={seed}");
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_holds_up_no_request_for_longer_than_the_time_between_two() {
        let (rate, hands) = (Rate::per_second(1.0), Hands::at(5000, Duration::ZERO));
        assert_eq!(sent(&rate, &hands, 2), [0, 1].map(Duration::from_secs));
        for seconds in [1000, 9000, 10] {
            hands.set(seconds);
            let first = sent(&rate, &hands, 2);
            assert!(first[0] <= Duration::from_secs(1), "{first:?}");
            assert_eq!(first[1] - first[0], Duration::from_secs(1));
        }
    }

    #[test]
    fn who_waits_no_more_takes_no_place() {
        let (rate, hands) = (Rate::per_second(1.0), Hands::at(1000, Duration::ZERO));
        done(rate.wait(&hands));
        // It has begun to wait, and its caller has gone.
        let stopped = Stopped(hands.now());
        let mut gone = Box::pin(rate.wait(&stopped));
        assert_eq!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        drop(gone);
        assert_eq!(sent(&rate, &hands, 2), [1, 2].map(Duration::from_secs));
    }

    #[test]
    fn every_number_is_a_rate() {
        for (most, said) in [
            (20.0, "20 requests a second"),
            (1.0, "1 requests a second"),
            (0.5, "one request every 2 s"),
            (1.0 / 60.0, "one request every 60 s"),
            (0.0, "one request every 60 s"),
            (-1.0, "one request every 60 s"),
            (f64::NAN, "one request every 60 s"),
        ] {
            assert_eq!(Rate::per_second(most).describe(), said, "{most}");
        }
    }
}
