//! The time of day and sleeping: the only place that asks the operating system for either.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use time::OffsetDateTime;

use crate::{
    caught::{caught, locked},
    per_process::PerProcess,
};

/// Where a [`TokenManager`](crate::TokenManager) takes the time from, and how it sleeps.
///
/// Programs use [`SystemClock`], the default. Tests inject a clock that they move by hand
/// (`simulator::ManualClock`, with the feature `simulator`).
///
/// ```
/// use std::{future::Future, pin::Pin, time::{Duration, SystemTime}};
/// use concur_auth::Clock;
///
/// /// Always shows the first second of Unix time; sleeping takes no time.
/// #[derive(Debug)]
/// struct Stopped;
///
/// impl Clock for Stopped {
///     fn now(&self) -> SystemTime {
///         SystemTime::UNIX_EPOCH
///     }
///     fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         Box::pin(std::future::ready(()))
///     }
/// }
/// # let _: std::sync::Arc<dyn Clock> = std::sync::Arc::new(Stopped);
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day; it may jump either way.
    fn now(&self) -> SystemTime;

    /// A future that is ready once `duration` has passed.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// How much time has passed since some moment, by a clock that never goes back: what leases are measured with.
    ///
    /// The default goes by the machine: it also counts the time in which the machine, or a virtual machine, was suspended,
    /// as far as its time of day tells. Where the time of day is set forward, it goes too fast.
    fn monotonic(&self) -> Duration {
        uptime()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        (**self).sleep(duration)
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a name for the machine's clock has no parts to add")]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // The caller's runtime may have no timers, or there may be none.
            let Ok(handle) = crate::runtime::handle() else {
                return std::thread::sleep(duration);
            };
            let sleep = {
                let _entered = handle.enter();
                tokio::time::sleep(duration)
            };
            sleep.await;
        })
    }
}

/// What [`Clock::monotonic`] tells by default. Between two readings the longer of two times has passed: by the monotonic
/// clock, which stands still while the machine is suspended, or by the time of day, which can be set back.
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
fn uptime() -> Duration {
    static LAST: PerProcess<Mutex<Option<Reading>>> = PerProcess::new(|| Mutex::new(None));
    struct Reading {
        at: Instant,
        time_of_day: SystemTime,
        uptime: Duration,
    }
    let mut last = locked(LAST.get());
    let (at, time_of_day) = (Instant::now(), SystemTime::now());
    let uptime = last.as_ref().map_or(Duration::ZERO, |last| {
        let by_day = time_of_day.duration_since(last.time_of_day).unwrap_or_default();
        last.uptime.saturating_add(at.saturating_duration_since(last.at).max(by_day))
    });
    *last = Some(Reading { at, time_of_day, uptime });
    uptime
}

/// The output of `work`, or `None` if `limit` ends first. `limit` is polled only while `work` is pending, so work that is
/// ready takes no time.
pub(crate) async fn within<T>(limit: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut limit, mut work) = (pin!(limit), pin!(work));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => limit.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// A user's clock. If it panics, the machine's clock is asked instead.
#[derive(Debug)]
pub(crate) struct Guarded<C>(pub(crate) C);

impl<C: Clock> Clock for Guarded<C> {
    fn now(&self) -> SystemTime {
        catch_unwind(AssertUnwindSafe(|| self.0.now())).unwrap_or_else(|_| SystemClock.now())
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let sleep = catch_unwind(AssertUnwindSafe(|| self.0.sleep(duration)));
        Box::pin(async move {
            let slept = match sleep {
                Ok(sleep) => {
                    let whole = async {
                        sleep.await;
                        true
                    };
                    caught(whole, || false).await
                }
                Err(_) => false,
            };
            if !slept {
                SystemClock.sleep(duration).await;
            }
        })
    }

    fn monotonic(&self) -> Duration {
        catch_unwind(AssertUnwindSafe(|| self.0.monotonic())).unwrap_or_else(|_| uptime())
    }
}

/// Measures real time, which no injected clock controls, such as the time of a request.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The end of the year 9999, the last that [`OffsetDateTime`] can hold.
const LAST_SECOND: u64 = 253_402_300_799;

/// 2001-09-09, in Unix seconds. SAP sends no earlier time: such a number is no time, or comes from a clock that was never
/// set.
pub(crate) const FIRST_PLAUSIBLE: u64 = 1_000_000_000;

/// `seconds` after the Unix epoch; `None` where that is not a date.
pub(crate) fn from_unix_seconds(seconds: u64) -> Option<SystemTime> {
    (seconds <= LAST_SECOND).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Seconds after the Unix epoch, rounded down; 0 for anything before it.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The public form of an internal time; dates after the last one that the type can hold become its last second.
pub(crate) fn public_time(time: SystemTime) -> OffsetDateTime {
    let seconds = unix_seconds(time).min(LAST_SECOND).cast_signed();
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics, in `sleep` either at once or when it is waited for.
    #[derive(Debug)]
    struct Broken {
        sleeps_at_first: bool,
    }

    impl Clock for Broken {
        fn now(&self) -> SystemTime {
            panic!("no time of day")
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            assert!(self.sleeps_at_first, "no sleep");
            Box::pin(async { panic!("no sleep any more") })
        }

        fn monotonic(&self) -> Duration {
            panic!("no uptime")
        }
    }

    #[tokio::test]
    async fn where_a_users_clock_panics_the_machines_is_asked() {
        for sleeps_at_first in [false, true] {
            let clock = Guarded(Broken { sleeps_at_first });
            let before = (SystemClock.now(), SystemClock.monotonic());
            clock.sleep(Duration::from_millis(20)).await;
            let now = clock.now();
            assert!(before.0 <= now && now <= SystemClock.now());
            assert!(clock.monotonic() >= before.1 + Duration::from_millis(20));
        }
    }

    #[test]
    fn times_that_no_date_can_be_are_cut_off() {
        assert_eq!(from_unix_seconds(LAST_SECOND + 1), None);
        let last = from_unix_seconds(LAST_SECOND).unwrap();
        assert_eq!(unix_seconds(last), LAST_SECOND);
        assert_eq!(public_time(last + Duration::from_secs(1)), public_time(last));
        assert_eq!(public_time(last).year(), 9999);
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!((unix_seconds(before), public_time(before)), (0, OffsetDateTime::UNIX_EPOCH));
    }
}
