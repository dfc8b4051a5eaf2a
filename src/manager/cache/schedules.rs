//! Looks, renewals, sign-outs and other processes on threads of their own, in many orders.

mod parties;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use shuttle::thread;

use self::parties::{Process, Program, number_of, token};
use super::*;
use crate::schedules::{Fault, World, any_of, one_in};

/// Runs all of them to their ends.
fn all(parties: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = parties.into_iter().map(thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A sign-out, and at times another sign-in after it, while callers look.
const SIGN_OUT: World = World::new(|| {
    let ours = Program::new(Process::with(token(1)));
    if one_in(2) {
        ours.look();
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (signs_in_again, is_forgotten, cannot_be_removed) = (one_in(2), one_in(2), one_in(4));
    let looks = |_| -> Box<dyn FnOnce() + Send> {
        let (ours, is_over) = (ours.clone(), Arc::clone(&is_over));
        Box::new(move || {
            for _ in 0..2 {
                let was_over = is_over.load(SeqCst);
                let found = ours.look();
                let held = ours.held();
                if was_over {
                    assert_ne!(found, Some(1), "a look finds nothing that was revoked");
                    assert_ne!(held, Some(1), "nothing that was revoked is held");
                }
            }
        })
    };
    let mut parties: Vec<_> = (0..2).map(looks).collect();
    let signs_out = ours.clone();
    let over = Arc::clone(&is_over);
    parties.push(Box::new(move || {
        signs_out.in_flight(|flight| {
            let revoked = (!is_forgotten).then(|| token(1));
            signs_out.store.refuses_to_remove(!is_forgotten && cannot_be_removed);
            _ = flight.empty(revoked.as_ref());
            assert_eq!(signs_out.held(), None);
            over.store(true, SeqCst);
        });
        if signs_in_again {
            signs_out.in_flight(|flight| flight.sign_in(token(2)));
        }
    }));
    all(parties);
    assert_eq!(ours.held(), signs_in_again.then_some(2));
    assert_eq!(ours.cache.is_signed_out(), !signs_in_again);
});

/// Renewals of this program and of another process, whose turn comes as soon as a token is saved, while callers look.
const RENEWALS: World = World::new(|| {
    let ours = Program::new(Process::with(token(1)));
    if one_in(2) {
        ours.look();
    }
    let newest = Arc::new(AtomicUsize::new(0));
    let sees = |ours: &Program, newest: &AtomicUsize| {
        let before = newest.load(SeqCst);
        let held = ours.held().unwrap_or_default();
        assert!(held >= before, "what is held does not become older: {before} was held, now {held}");
        assert!(held <= ours.store.saved(), "only what was saved is held");
        newest.fetch_max(held, SeqCst);
    };
    let looks = |_| -> Box<dyn FnOnce() + Send> {
        let (ours, newest) = (ours.clone(), Arc::clone(&newest));
        Box::new(move || {
            for _ in 0..2 {
                ours.look();
                sees(&ours, &newest);
            }
        })
    };
    let mut parties: Vec<_> = (0..1 + any_of(2)).map(looks).collect();
    let (renews, sees_it) = (ours.clone(), Arc::clone(&newest));
    parties.push(Box::new(move || {
        for _ in 0..any_of(3) {
            renews.in_flight(|flight| flight.renew());
            sees(&renews, &sees_it);
        }
    }));
    let other = ours.store.clone();
    parties.push(Box::new(move || other.renew()));
    all(parties);
    ours.look();
    assert_eq!(ours.held(), Some(ours.store.saved()));
});

/// An API refuses an access token while the program looks, renews, and is renewed for.
const REFUSAL: World = World::new(|| {
    let ours = Program::new(Process::with(token(1)));
    ours.look();
    let refused = ours.cache.held().unwrap().access().unwrap().token.clone();
    let (refuses, looks, prepares, renews) = (ours.clone(), ours.clone(), ours.clone(), ours.clone());
    all(vec![
        Box::new(move || {
            refuses.cache.refuse(&refused, refuses.now());
            for _ in 0..3 {
                let is_back = refuses.cache.held().is_some_and(|held| held.still_has(&refused));
                assert!(!is_back, "an access token that was refused does not come back");
            }
        }),
        Box::new(move || {
            for _ in 0..2 {
                looks.look();
            }
        }),
        Box::new(move || prepares.cache.renew_from(prepares.now())),
        Box::new(move || {
            if one_in(2) {
                renews.in_flight(|flight| flight.renew());
            }
        }),
    ]);
});

/// A token that cannot be saved at once, and is saved in the background while callers look.
const UNSAVED: World = World::new(|| {
    let ours = Program::new(Process::with(token(1)));
    ours.look();
    ours.store.refuses_saves(any_of(8));
    let (renews, saves, other) = (ours.clone(), ours.clone(), ours.store.clone());
    let looks = |_| -> Box<dyn FnOnce() + Send> {
        let ours = ours.clone();
        Box::new(move || {
            let mut newest = 0;
            for _ in 0..3 {
                let found = ours.look().unwrap();
                let held = ours.cache.held().unwrap();
                let number = number_of(&held.object);
                assert!(found >= newest && number >= newest, "{newest}, then {found} and {number}");
                assert!(
                    held.is_unsaved || number <= ours.store.saved(),
                    "only what was saved is held as saved"
                );
                newest = number;
            }
        })
    };
    let mut parties: Vec<_> = (0..2).map(looks).collect();
    parties.push(Box::new(move || renews.in_flight(|flight| flight.renew())));
    parties.push(Box::new(move || {
        for _ in 0..3 {
            saves.save_unsaved();
        }
    }));
    all(parties);
    while ours.cache.held().unwrap().is_unsaved {
        ours.save_unsaved();
    }
    other.renew();
    assert_eq!(ours.look(), Some(3), "the lock is free once the token is saved");
});

/// Another process revokes the token and cannot remove it, but leaves a note.
const REVOKED_ELSEWHERE: World = World::new(|| {
    let ours = Program::new(Process::with(token(1)));
    if one_in(2) {
        ours.look();
    }
    let looks = |_| -> Box<dyn FnOnce() + Send> {
        let ours = ours.clone();
        Box::new(move || {
            for _ in 0..2 {
                let is_known = ours.look().is_none();
                assert!(!is_known || ours.held().is_none(), "what is known to be revoked is not held");
            }
        })
    };
    let mut parties: Vec<_> = (0..3).map(looks).collect();
    let other = ours.store.clone();
    parties.push(Box::new(move || other.note_as_revoked(&token(1))));
    all(parties);
    ours.look();
    assert_eq!(ours.held(), None);
});

#[test]
fn nothing_that_was_revoked_or_forgotten_comes_back() {
    SIGN_OUT.holds_in(12_000);
}

#[test]
fn what_is_held_was_saved_and_does_not_become_older() {
    RENEWALS.holds_in(12_000);
}

#[test]
fn an_access_token_that_was_refused_does_not_come_back() {
    REFUSAL.holds_in(6_000);
}

#[test]
fn what_could_not_be_saved_is_held_until_it_is() {
    UNSAVED.holds_in(6_000);
}

#[test]
fn what_another_process_revoked_does_not_come_back() {
    REVOKED_ELSEWHERE.holds_in(6_000);
}

/// A look that began before a sign-out, or a save, and publishes after it.
#[test]
fn a_look_that_was_not_overtaken_by_a_change_is_found() {
    SIGN_OUT.finds(Fault::AddsNothing, 4_000);
    RENEWALS.finds(Fault::AddsNothing, 10_000);
    REVOKED_ELSEWHERE.finds(Fault::AddsNothing, 4_000);
}

#[test]
fn a_look_that_replaces_what_it_does_not_know_is_found() {
    RENEWALS.finds(Fault::SwapsWithoutComparing, 10_000);
}

#[test]
fn a_refusal_that_is_overwritten_is_found() {
    REFUSAL.finds(Fault::ChangesWithoutComparing, 2_000);
}

/// What a person relies on who repeats a failure.
#[test]
fn the_same_seed_repeats_the_schedules() {
    let find = |seed| RENEWALS.finds_from(seed, Fault::SwapsWithoutComparing, 10_000);
    assert_eq!([1, 2, 3].map(find), [1, 2, 3].map(find));
}
