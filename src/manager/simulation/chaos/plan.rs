//! What a world is like, drawn from its seed: who is there, what may go wrong, and how often.

use std::time::Duration;

use super::{super::HOUR, planted::Bug};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A process with the tokens in its memory: what it knew dies with it.
    Memory,
    /// A file with an advisory lock: a killed process frees it, a suspended process keeps it.
    File,
    /// A row of a database, with a lease that lapses.
    Row,
}

/// Chances that something goes wrong at one step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Troubles {
    /// Of a process, whenever one of its tasks would go on.
    pub(super) kill: f64,
    pub(super) suspend: f64,
    /// Of a caller, whenever it would go on.
    pub(super) drop_caller: f64,
    pub(super) jump_clock: f64,
    /// Of a request.
    pub(super) lose_reply: f64,
    pub(super) no_answer: f64,
    pub(super) not_connected: f64,
    pub(super) unavailable: f64,
    pub(super) too_many: f64,
    pub(super) maintenance: f64,
    pub(super) locked_account: f64,
    /// Of a step of a store.
    pub(super) store_fails: f64,
    pub(super) answer_lost: f64,
    pub(super) store_silent: f64,
    pub(super) store_slow: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) processes: usize,
    pub(super) tasks: usize,
    pub(super) companies: usize,
    /// How likely a refresh grant replaces the refresh token.
    pub(super) rotates: f64,
    /// Callers also renew, invalidate and sign in explicitly.
    pub(super) is_explicit: bool,
    pub(super) keeps_alive: bool,
    /// Until then something may go wrong.
    pub(super) trouble_until: Duration,
    pub(super) longest_pause: Duration,
    pub(super) troubles: Troubles,
    pub(super) bug: Option<Bug>,
}

impl Plan {
    pub(super) fn draw(seed: u64, bug: Option<Bug>) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let kind = [Kind::Memory, Kind::File, Kind::File, Kind::Row, Kind::Row][dice.usize(..5)];
        let mut often = |much: f64| match dice.usize(..6) {
            0 => much,
            1 => much / 5.0,
            2 => much / 30.0,
            _ => 0.0,
        };
        let troubles = Troubles {
            kill: often(0.01),
            suspend: often(0.01),
            drop_caller: often(0.05),
            jump_clock: often(0.2),
            lose_reply: often(0.3),
            no_answer: often(0.3),
            not_connected: often(0.3),
            unavailable: often(0.5),
            too_many: often(0.3),
            maintenance: often(0.2),
            locked_account: often(0.1),
            store_fails: often(0.15),
            answer_lost: often(0.1),
            store_silent: often(0.02),
            store_slow: often(0.05),
        };
        Self {
            kind,
            processes: if kind == Kind::Memory { 1 } else { 1 + dice.usize(..8) },
            tasks: 1 + dice.usize(..3),
            companies: if dice.usize(..3) == 0 { 2 + dice.usize(..3) } else { 1 },
            rotates: [1.0, 1.0, 0.3, 0.0][dice.usize(..4)],
            is_explicit: dice.bool(),
            keeps_alive: dice.usize(..3) == 0,
            trouble_until: HOUR.max(DAY.mul_f64(dice.f64())),
            longest_pause: [HOUR / 4, HOUR, 4 * HOUR][dice.usize(..3)],
            troubles,
            bug,
        }
    }
}
