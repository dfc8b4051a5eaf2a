//! A breadth-first search through all states of a model, and the shortest way to one that breaks an invariant. For tests only.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::{self, Write as _},
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// What is known at one moment, and what can happen next.
pub(crate) trait Model: Copy {
    /// The whole state in a few words, to compare and to hash it fast in unoptimised tests.
    type Key: Copy + Eq + Hash;
    type Step: Copy + fmt::Display;
    type Rules: Copy;
    type Invariant: Copy + fmt::Debug;

    /// What falls where no way without a fault leads to rest.
    const NO_DEAD_END: Self::Invariant;

    /// Every step that is possible, and the state after it.
    fn steps(&self, rules: Self::Rules) -> Vec<(Self::Step, Self)>;

    /// Whether it is a fault, or what only a person does. All else happens sooner or later by itself.
    fn is_fault(step: Self::Step) -> bool;

    /// What the last step broke.
    fn broken(&self) -> Option<Self::Invariant>;

    /// The one of all states that differ from this one only in what has no effect.
    fn canonical(&self) -> Self;

    fn key(&self) -> Self::Key;

    /// Whether all is settled.
    fn is_at_rest(&self, rules: Self::Rules) -> bool;

    /// For a line of a trace.
    fn shown(&self) -> String;
}

/// The rules that hold: all but one at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<R> {
    broken: Option<R>,
}

impl<R: Copy + PartialEq> Rules<R> {
    pub(crate) const WHOLE: Self = Self { broken: None };

    pub(crate) fn without(rule: R) -> Self {
        Self { broken: Some(rule) }
    }

    pub(crate) fn has(self, rule: R) -> bool {
        self.broken != Some(rule)
    }
}

/// What was found wrong.
pub(crate) struct Counterexample<M: Model> {
    pub(crate) invariant: M::Invariant,
    /// Step by step.
    pub(crate) trace: String,
}

impl<M: Model> fmt::Debug for Counterexample<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{}", self.invariant, self.trace)
    }
}

/// How many states there are, or the shortest way to a violation.
pub(crate) fn explore<M: Model>(first: M, rules: M::Rules) -> Result<usize, Counterexample<M>> {
    let mut search = Search::new(first);
    let mut next = 0;
    while next < search.states.len() {
        let from = next as u32;
        for (step, to) in search.states[next].steps(rules) {
            if let Some(invariant) = to.broken() {
                search.parents.push(from);
                search.states.push(to.canonical());
                let last = search.states.len() - 1;
                return Err(Counterexample { invariant, trace: search.trace(last, rules) });
            }
            let to = search.number(to.canonical(), from);
            if !M::is_fault(step) {
                search.arrows.push((from, to));
            }
        }
        next += 1;
    }
    match search.dead_end(rules) {
        Some(state) => Err(Counterexample { invariant: M::NO_DEAD_END, trace: search.trace(state, rules) }),
        None => Ok(search.states.len()),
    }
}

struct Search<M: Model> {
    states: Vec<M>,
    parents: Vec<u32>,
    numbers: HashMap<M::Key, u32, BuildHasherDefault<Mixer>>,
    /// The steps that are no faults.
    arrows: Vec<(u32, u32)>,
}

impl<M: Model> Search<M> {
    fn new(first: M) -> Self {
        let mut search =
            Self { states: Vec::new(), parents: Vec::new(), numbers: HashMap::default(), arrows: Vec::new() };
        search.number(first.canonical(), 0);
        search
    }

    fn number(&mut self, state: M, parent: u32) -> u32 {
        match self.numbers.entry(state.key()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let number = self.states.len() as u32;
                new.insert(number);
                self.states.push(state);
                self.parents.push(parent);
                number
            }
        }
    }

    /// The first state from which no way without a fault leads to rest.
    fn dead_end(&mut self, rules: M::Rules) -> Option<usize> {
        self.arrows.sort_unstable_by_key(|(_, to)| *to);
        let mut leads_to_rest: Vec<bool> = self.states.iter().map(|state| state.is_at_rest(rules)).collect();
        let mut open: Vec<u32> =
            (0..self.states.len() as u32).filter(|state| leads_to_rest[*state as usize]).collect();
        while let Some(reached) = open.pop() {
            let first = self.arrows.partition_point(|(_, to)| *to < reached);
            for (from, _) in self.arrows[first..].iter().take_while(|(_, to)| *to == reached) {
                if !std::mem::replace(&mut leads_to_rest[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        leads_to_rest.iter().position(|leads| !leads)
    }

    /// The steps to a state. The states are known as canonical ones only; the trace keeps each worker's number.
    fn trace(&self, last: usize, rules: M::Rules) -> String {
        let mut way = vec![last];
        while way[way.len() - 1] != 0 {
            way.push(self.parents[way[way.len() - 1]] as usize);
        }
        way.reverse();
        let mut state = self.states[0];
        let mut trace = String::new();
        for (number, &next) in way[1..].iter().enumerate() {
            let found = state
                .steps(rules)
                .into_iter()
                .find(|(_, to)| to.canonical().key() == self.states[next].key());
            let Some((step, to)) = found else { break };
            _ = writeln!(trace, "{:>3}. {step}\n     {}", number + 1, to.shown());
            state = to;
        }
        trace
    }
}

/// A multiplication mixes keys well enough, and unoptimised tests spend much time here.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()) {
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _length: usize) {}
}
