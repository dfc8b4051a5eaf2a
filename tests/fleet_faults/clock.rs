//! Clocks on which the minutes of a fleet pass in a tenth of a second.

use std::{
    fs,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use concur_auth::{Clock, SystemClock};

use crate::workers::Writer;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What a fleet waits for when nothing is to be done. Shorter pauses are real: a server is waited for.
pub(crate) const SHORT: Duration = Duration::from_secs(2);

/// A long sleep takes a tenth of a second, and then the time of day leaps to the end of that sleep. Who sleeps until a time of
/// day would otherwise sleep again and again. Leases are measured in real time, and each look at them is told to the log.
///
/// Clones are one clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaping(Arc<Hands>);

#[derive(Debug, Default)]
struct Hands {
    ahead: Mutex<Duration>,
    slow: Duration,
    days: Option<PathBuf>,
}

impl Leaping {
    /// Behind the machine's clock.
    pub(crate) fn slow(by: Duration) -> Self {
        Self(Arc::new(Hands { slow: by, ..Hands::default() }))
    }

    /// Ahead of the machine's clock, in addition, by as many days as this file says: for all processes at once.
    pub(crate) fn with_days_in(file: PathBuf) -> Self {
        Self(Arc::new(Hands { days: Some(file), ..Hands::default() }))
    }

    fn leap_to(&self, time: SystemTime) {
        let mut ahead = self.0.ahead.lock().unwrap();
        let left = time.duration_since(self.0.shown(*ahead)).unwrap_or_default();
        *ahead += left;
    }
}

impl Hands {
    fn shown(&self, ahead: Duration) -> SystemTime {
        let days = self.days.as_ref().map_or(0, |file| fs::read_to_string(file).unwrap().parse().unwrap());
        SystemClock.now() + days * DAY + ahead - self.slow
    }
}

impl Clock for Leaping {
    fn now(&self) -> SystemTime {
        self.0.shown(*self.0.ahead.lock().unwrap())
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        if duration <= SHORT {
            return SystemClock.sleep(duration);
        }
        let (clock, end) = (self.clone(), self.now() + duration);
        Box::pin(async move {
            SystemClock.sleep(Duration::from_millis(100)).await;
            clock.leap_to(end);
        })
    }

    fn monotonic(&self) -> Duration {
        Writer::checked();
        SystemClock.monotonic()
    }
}
