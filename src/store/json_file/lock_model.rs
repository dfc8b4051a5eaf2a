//! The token file, its lock and its temporary files as a model, explored exhaustively: every order of the steps of three processes in
//! one folder, each of which may be killed after any step.
//!
//! The files: `rules` names what the functions obey, `state` is what is known at one moment and what must hold, `steps` is the
//! protocol, each step with the name of its function; `crate::exploration` finds the shortest way to a violation.
//!
//! Always, in every state that can be reached:
//!
//! - **One holder of the lock.**
//! - **No token is lost.** A token that Concur accepts is in the token file, or in a temporary file that is adopted next, or in a
//!   process's memory; or a person has signed in again. Or its process was killed between the request and the end of the write, or its
//!   reply was lost.
//! - **No token is presented twice**, unless its successor was lost as above.
//! - **No newer token is replaced by an older one.**
//! - **Nothing of a person's is overwritten** that was written before the request was sent.
//! - **No reader sees half a file.**
//! - **No dead end**: from every state the steps of living processes lead to a folder without leftovers, whose token is accepted.
//!
//! Concur rotates at every use. Not in the model: the order of what a disk writes when the power fails (`tests/every_step.rs`), and the
//! microseconds between the last look before a rename and that rename.

mod rules;
mod state;
mod steps;

use self::{
    rules::{Rule, Rules},
    state::{Budget, Invariant, State},
    steps::{Step, steps},
};
use crate::exploration::{Counterexample, Model, explore};

impl Model for State {
    type Key = [u64; 3];
    type Step = Step;
    type Rules = Rules;
    type Invariant = Invariant;

    const NO_DEAD_END: Invariant = Invariant::NoDeadEnd;

    fn steps(&self, rules: Rules) -> Vec<(Step, Self)> {
        steps(self, rules)
    }

    fn is_fault(step: Step) -> bool {
        step.is_fault()
    }

    fn broken(&self) -> Option<Invariant> {
        self.broken
    }

    fn canonical(&self) -> Self {
        self.canonical()
    }

    fn key(&self) -> [u64; 3] {
        self.key()
    }

    fn is_at_rest(&self, _: Rules) -> bool {
        self.is_at_rest()
    }

    fn shown(&self) -> String {
        let temps: Vec<_> = self.temps.iter().map(|temp| temp.file.content).collect();
        format!("token file {:?}, temporary files {temps:?}, issued {}", self.target.content, self.issued)
    }
}

const NO_FAULT: Budget = Budget { faults: 0, tokens: 2, foreign: 0 };
const ONE_FAULT: Budget = Budget { faults: 1, ..NO_FAULT };
const TWO_FAULTS: Budget = Budget { faults: 2, ..NO_FAULT };
const PERSON: Budget = Budget { foreign: 1, ..NO_FAULT };
const PERSON_AND_FAULT: Budget = Budget { foreign: 1, ..ONE_FAULT };

fn explored(left: Budget, rules: Rules) -> Result<usize, Counterexample<State>> {
    explore(State::first(left), rules)
}

/// Shown with `--nocapture`: the numbers of states, and the traces.
#[allow(clippy::print_stderr, reason = "it is for a person who wants to see what was explored")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[test]
fn three_processes_hold_whatever_is_killed() {
    for left in [NO_FAULT, TWO_FAULTS, PERSON, PERSON_AND_FAULT] {
        match explored(left, Rules::WHOLE) {
            Ok(states) => tell(&format!("{states} states with {left:?}")),
            Err(found) => panic!("{left:?}: {found:?}"),
        }
    }
}

/// Each rule is needed: what falls without it, and what has to happen for that.
const NEEDED: [(Rule, Budget, Invariant); 13] = [
    (Rule::TheLockExcludes, NO_FAULT, Invariant::OneHolderOfTheLock),
    (Rule::TheLockFileStays, NO_FAULT, Invariant::OneHolderOfTheLock),
    (Rule::LeftoversAreAdoptedFirst, ONE_FAULT, Invariant::NoTokenIsLost),
    (Rule::LeftoversAreAdoptedUnderTheLock, ONE_FAULT, Invariant::NoTokenIsLost),
    (Rule::OlderLeftoversAreNotAdopted, PERSON_AND_FAULT, Invariant::NothingOfAPersonIsOverwritten),
    (Rule::ReadAgainUnderTheLock, NO_FAULT, Invariant::NoNewerTokenIsReplacedByAnOlder),
    (Rule::WhatWasReadIsCompared, PERSON, Invariant::NothingOfAPersonIsOverwritten),
    (Rule::WhatWasReadIsComparedLast, PERSON, Invariant::NothingOfAPersonIsOverwritten),
    (Rule::RoomIsReserved, TWO_FAULTS, Invariant::NoTokenIsLost),
    (Rule::NothingIsWrittenInPlace, NO_FAULT, Invariant::NoReaderSeesHalfAFile),
    (Rule::WrittenRepliesAreKept, TWO_FAULTS, Invariant::NoTokenIsLost),
    (Rule::UnsavedKeepsTheLock, ONE_FAULT, Invariant::NoTokenIsPresentedTwice),
    (Rule::FailedSavesAreRepeated, ONE_FAULT, Invariant::NoTokenIsLost),
];

#[test]
fn without_any_one_rule_an_invariant_falls() {
    let mut wrong = Vec::new();
    for (rule, left, invariant) in NEEDED {
        let explored = explored(left, Rules::without(rule));
        if let Err(found) = &explored {
            tell(&format!("Without {rule:?}: {found:?}"));
        }
        if explored.as_ref().err().map(|found| found.invariant) != Some(invariant) {
            wrong.push((rule, explored.map_err(|found| found.invariant)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
