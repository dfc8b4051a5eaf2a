//! A clock that stands still until a test moves it.
//!
//! Always: the time of day and the time that passes are two things, as on a real machine. Only [`ManualClock::advance`]
//! lets time pass and ends sleeps; a jump of the time of day does not change sleeps. Leases go by the machine's own clock, for
//! they are shared with other processes.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use time::OffsetDateTime;

use crate::{Clock, caught::locked, clock};

/// A [`Clock`] that a test moves by hand. Clones are one clock: give one to the code under test, one to the
/// [`ConcurSimulator`](super::ConcurSimulator), and keep one.
///
/// ```
/// use std::time::Duration;
/// use concur_auth::{Clock, simulator::ManualClock, time::OffsetDateTime};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
/// let nap = clock.sleep(Duration::from_secs(60));
/// assert_eq!(clock.sleepers(), 1);
///
/// clock.advance(Duration::from_secs(60));
/// nap.await;
/// assert_eq!(clock.now_utc().unix_timestamp(), 60);
/// # }
/// ```
#[derive(Clone)]
pub struct ManualClock {
    hands: Arc<Mutex<Hands>>,
    skips: bool,
}

struct Hands {
    now: SystemTime,
    /// The time that has passed, which sleeps are measured with.
    passed: Duration,
    sleepers: HashMap<u64, Sleeper>,
    next_sleeper: u64,
}

struct Sleeper {
    wakes_at: Duration,
    /// Set at the first poll.
    waker: Option<Waker>,
}

impl ManualClock {
    /// A clock that stands still at `start` (a [`SystemTime`] or an [`OffsetDateTime`]). A sleep ends once
    /// [`advance`](Self::advance) has let enough time pass.
    pub fn new(start: impl Into<SystemTime>) -> Self {
        Self::starting(start.into(), false)
    }

    /// A clock that skips every sleep: the first poll of a sleep advances the time by the whole sleep, which is then
    /// over.
    ///
    /// For code that backs off and tries again: the pauses take no real time, and the clock counts them.
    ///
    /// ```
    /// use std::time::Duration;
    /// use concur_auth::{Clock, simulator::ManualClock, time::OffsetDateTime};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let clock = ManualClock::skipping(OffsetDateTime::UNIX_EPOCH);
    /// clock.sleep(Duration::from_secs(60)).await;
    /// assert_eq!(clock.now_utc().unix_timestamp(), 60);
    /// # }
    /// ```
    pub fn skipping(start: impl Into<SystemTime>) -> Self {
        Self::starting(start.into(), true)
    }

    fn starting(now: SystemTime, skips: bool) -> Self {
        let hands = Hands { now, passed: Duration::ZERO, sleepers: HashMap::new(), next_sleeper: 0 };
        Self { hands: Arc::new(Mutex::new(hands)), skips }
    }

    /// Lets time pass: the time of day moves on, and every sleep whose time has come ends.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands();
        hands.now = hands.now.checked_add(by).unwrap_or(hands.now);
        hands.passed = hands.passed.saturating_add(by);
        let passed = hands.passed;
        let over: Vec<Sleeper> =
            hands.sleepers.extract_if(|_, sleeper| sleeper.wakes_at <= passed).map(|(_, s)| s).collect();
        // A waker may run code that asks for the time.
        drop(hands);
        over.into_iter().filter_map(|sleeper| sleeper.waker).for_each(Waker::wake);
    }

    /// The time of day jumps back, as when a machine's clock is corrected. Sleeps stay as long as they are.
    pub fn rewind(&self, by: Duration) {
        let mut hands = self.hands();
        hands.now = hands.now.checked_sub(by).unwrap_or(hands.now);
    }

    /// The time of day jumps to `time` (a [`SystemTime`] or an [`OffsetDateTime`]), either way. Sleeps
    /// stay as long as they are.
    pub fn set(&self, time: impl Into<SystemTime>) {
        self.hands().now = time.into();
    }

    /// The time of day, in whole seconds.
    #[must_use]
    pub fn now_utc(&self) -> OffsetDateTime {
        clock::public_time(self.hands().now)
    }

    /// How many sleeps have started and are neither over nor dropped.
    ///
    /// A test waits for the code under test to go to sleep, and then advances the time:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use concur_auth::{Clock, simulator::ManualClock, time::OffsetDateTime};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
    /// # let sleeper = clock.clone();
    /// # let task = tokio::spawn(async move { sleeper.sleep(Duration::from_secs(60)).await });
    /// while clock.sleepers() == 0 {
    ///     tokio::task::yield_now().await;
    /// }
    /// clock.advance(Duration::from_secs(60));
    /// # task.await.unwrap();
    /// # }
    /// ```
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.hands().sleepers.len()
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        locked(&self.hands)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.hands().now
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = self.clone();
        if self.skips {
            // Not before the first poll: a deadline that is never reached must not move the time.
            return Box::pin(async move { clock.advance(duration) });
        }
        let mut hands = self.hands();
        let id = hands.next_sleeper;
        hands.next_sleeper += 1;
        if !duration.is_zero() {
            let wakes_at = hands.passed.saturating_add(duration);
            hands.sleepers.insert(id, Sleeper { wakes_at, waker: None });
        }
        drop(hands);
        Box::pin(Sleep { clock, id })
    }
}

/// Over when the clock has removed its sleeper.
struct Sleep {
    clock: ManualClock,
    id: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.clock.hands().sleepers.get_mut(&self.id) {
            Some(sleeper) => {
                sleeper.waker = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // The waker is dropped after the lock: it may own the last handle on a task that sleeps, too.
        let _sleeper = self.clock.hands().sleepers.remove(&self.id);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now", &self.now_utc())
            .field("sleepers", &self.sleepers())
            .field("skips", &self.skips)
            .finish()
    }
}
