//! Threads that ask at once, in many orders.

use std::ptr;

use shuttle::thread;

use super::*;
use crate::schedules::{Fault, World};

const FIRST_USE: World = World::new(|| {
    let (known, parent, child) = (Arc::new(PerProcess::new(|| 0)), 1, 2);
    let all_ask = |process| {
        let ask = |_| {
            let known = Arc::clone(&known);
            thread::spawn(move || known.of(process))
        };
        let threads: Vec<_> = (0..3).map(ask).collect();
        let values: Vec<&u32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(values.iter().all(|value| ptr::eq(*value, values[0])), "a process has one value");
        values[0]
    };
    assert!(!ptr::eq(all_ask(parent), all_ask(child)), "a child makes its own");
});

#[test]
fn threads_that_ask_at_once_get_one_value() {
    FIRST_USE.holds_in(2_000);
}

#[test]
fn a_value_that_is_replaced_is_found() {
    FIRST_USE.finds(Fault::ChangesWithoutComparing, 1_000);
}
