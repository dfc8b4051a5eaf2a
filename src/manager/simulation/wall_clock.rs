//! The clock of a machine that is set now and then.
//!
//! Always: only the time of day jumps. The time that passes does not.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::world::{Watch, World};
use crate::Clock;

/// Clones are one clock.
#[derive(Clone, Debug)]
pub(super) struct WallClock {
    watch: Watch,
    /// How many milliseconds it is ahead.
    ahead: Arc<AtomicI64>,
}

impl WallClock {
    pub(super) fn new(world: &Arc<World>) -> Self {
        Self { watch: Watch(Arc::clone(world)), ahead: Arc::default() }
    }

    /// Sets it so many milliseconds ahead of the world's time, or behind.
    pub(super) fn set(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }
}

impl Clock for WallClock {
    fn now(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        if ahead < 0 { self.watch.now() - by } else { self.watch.now() + by }
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.watch.sleep(duration)
    }

    fn monotonic(&self) -> Duration {
        self.watch.monotonic()
    }
}
