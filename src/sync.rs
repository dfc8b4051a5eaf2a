//! Locks, atomics and channels of the code that many threads run at once: those of std, tokio and arc-swap.
//!
//! Always: outside of unit tests these are re-exports and nothing else. In unit tests `scheduled` has a twin of each, so that a
//! schedule (`crate::schedules`) decides which thread runs next.

#[cfg(test)]
mod scheduled;

#[cfg(test)]
pub(crate) use self::scheduled::{
    ArcSwapOption, AtomicU64, Condvar, Mutex, MutexGuard, Notify, locked, watch,
};
#[cfg(not(test))]
pub(crate) use {
    crate::caught::locked,
    arc_swap::ArcSwapOption,
    std::sync::{Condvar, Mutex, MutexGuard, atomic::AtomicU64},
    tokio::sync::{Notify, watch},
};
