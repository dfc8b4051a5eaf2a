//! What a process has once: a forked child makes its own.
//!
//! Always: a child gets none of its parent's values. The threads that serve them do not run in the child, and their locks may
//! have been taken at the moment of the fork.

use std::{process, sync::Arc};

use crate::sync::ArcSwapOption;

/// The value of the running process, made when it is first asked for, and never dropped: to drop a runtime in a child would
/// be to wait for its parent's threads.
pub(crate) struct PerProcess<T: 'static> {
    known: ArcSwapOption<Of<T>>,
    make: fn() -> T,
}

struct Of<T: 'static> {
    process: u32,
    value: &'static T,
}

impl<T> PerProcess<T> {
    pub(crate) const fn new(make: fn() -> T) -> Self {
        Self { known: ArcSwapOption::const_empty(), make }
    }

    pub(crate) fn get(&self) -> &'static T {
        self.of(process::id())
    }

    fn of(&self, process: u32) -> &'static T {
        let is_ours = |known: &Option<Arc<Of<T>>>| match known {
            Some(known) if known.process == process => Some(known.value),
            _ => None,
        };
        if let Some(value) = is_ours(&self.known.load()) {
            return value;
        }
        // No lock, which a fork could leave taken. Two threads that come at once may each make a value; one of them is used.
        let made: &'static T = Box::leak(Box::new((self.make)()));
        self.known.rcu(|known| match known {
            Some(known) if known.process == process => Arc::clone(known),
            _ => Arc::new(Of { process, value: made }),
        });
        is_ours(&self.known.load()).unwrap_or(made)
    }
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use std::{ptr, sync::Mutex};

    use super::*;

    #[test]
    fn a_process_has_one_value_and_its_child_another() {
        static COUNTS: PerProcess<Mutex<u32>> = PerProcess::new(Mutex::default);
        let (parent, child) = (process::id(), process::id() + 1);
        *COUNTS.of(parent).lock().unwrap() += 1;
        assert!(ptr::eq(COUNTS.get(), COUNTS.of(parent)));
        let _taken_at_the_fork = COUNTS.of(parent).lock().unwrap();
        assert_eq!(*COUNTS.of(child).lock().unwrap(), 0);
        assert!(ptr::eq(COUNTS.of(child), COUNTS.of(child)));
    }
}
