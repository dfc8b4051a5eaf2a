//! What happens to a Concur, a machine and a process in the course of years, drawn from the seed before the years begin.
//!
//! Always: lists of times and nothing else, so that a check that goes by them does not depend on what it checks.

use std::{ops::Range, time::Duration};

use super::times::{DAY, HOUR, MINUTE, SECOND};

/// Concur's times of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Answers 503 or not at all, drops connections, and loses replies.
    Outage,
    /// Cannot be reached.
    Cut,
    /// Answers 429, and asks for a pause of seconds to hours.
    Storm,
}

/// A moment from which something is so far off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shift {
    pub(super) from: Duration,
    pub(super) seconds: i64,
}

/// The process is killed, and another is started later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    pub(super) at: Duration,
    /// Not at once, but in the first request after that.
    pub(super) in_flight: bool,
    pub(super) down_for: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sky {
    pub(super) troubles: Vec<(Range<Duration>, Trouble)>,
    pub(super) kills: Vec<Kill>,
    /// How far the machine's clock is ahead.
    pub(super) steps: Vec<Shift>,
    /// How far the clock of Concur's servers is ahead.
    pub(super) skews: Vec<Shift>,
}

/// How much happens: the longest times between two events of a kind, and the longest that they last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climate {
    pub(super) between_troubles: Duration,
    pub(super) longest_outage: Duration,
    pub(super) longest_storm: Duration,
    pub(super) between_kills: Duration,
    pub(super) longest_down: Duration,
    pub(super) between_steps: Duration,
    /// Of either clock.
    pub(super) farthest_off: Duration,
}

impl Climate {
    /// Outages of a minute to three weeks, in a tenth to a fifth of the time.
    pub(super) const OF_YEARS: Self = Self {
        between_troubles: Duration::from_secs(16 * 24 * 3600),
        longest_outage: Duration::from_secs(21 * 24 * 3600),
        longest_storm: Duration::from_secs(24 * 3600),
        between_kills: Duration::from_secs(30 * 24 * 3600),
        longest_down: Duration::from_secs(14 * 24 * 3600),
        between_steps: Duration::from_secs(30 * 24 * 3600),
        farthest_off: Duration::from_secs(5 * 24 * 3600),
    };

    /// As much as that in a few days.
    pub(super) const OF_DAYS: Self = Self {
        between_troubles: Duration::from_secs(10 * 3600),
        longest_outage: Duration::from_secs(5 * 3600),
        longest_storm: Duration::from_secs(2 * 3600),
        between_kills: Duration::from_secs(16 * 3600),
        longest_down: Duration::from_secs(2 * 3600),
        between_steps: Duration::from_secs(16 * 3600),
        farthest_off: Duration::from_secs(24 * 3600),
    };
}

/// The longest that a client believes a pause that Concur asks for.
const LONGEST_BELIEVED: Duration = HOUR;

/// Short times as often as long ones.
fn of_any_length(dice: &mut fastrand::Rng, shortest: Duration, longest: Duration) -> Duration {
    shortest.mul_f64((longest.as_secs_f64() / shortest.as_secs_f64()).powf(dice.f64()))
}

impl Sky {
    /// The first hours have no trouble: the company is connected then.
    pub(super) fn new(seed: u64, climate: &Climate, end: Duration) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut sky = Self::default();
        let mut at = 3 * HOUR + climate.between_troubles.mul_f64(dice.f64());
        while at < end {
            let (trouble, longest) = match dice.u8(..4) {
                0 => (Trouble::Storm, climate.longest_storm),
                1 => (Trouble::Cut, climate.longest_outage),
                _ => (Trouble::Outage, climate.longest_outage),
            };
            let span = at..at + of_any_length(&mut dice, MINUTE, longest);
            at = span.end + climate.between_troubles.mul_f64(dice.f64());
            sky.troubles.push((span, trouble));
        }
        let mut at = 3 * HOUR + climate.between_kills.mul_f64(dice.f64());
        while at < end {
            // Mostly short: as a program's next version is started.
            let down = of_any_length(&mut dice, 10 * SECOND, climate.longest_down);
            let down_for = if dice.u8(..4) > 0 { down.min(10 * MINUTE) } else { down };
            sky.kills.push(Kill { at, in_flight: dice.bool(), down_for });
            at += down_for + 3 * HOUR + climate.between_kills.mul_f64(dice.f64());
        }
        for of_machine in [true, false] {
            let shifts = sky.shifts(&mut dice, climate, of_machine, end);
            *(if of_machine { &mut sky.steps } else { &mut sky.skews }) = shifts;
        }
        sky
    }

    /// A clock is set wrong, and some time later right again.
    fn shifts(
        &self,
        dice: &mut fastrand::Rng,
        climate: &Climate,
        of_machine: bool,
        end: Duration,
    ) -> Vec<Shift> {
        // A pause of Concur's lasts longer where the clock is set back meanwhile: that is not a case of these years.
        let is_in_a_pause = |at: Duration| {
            let storms = self.troubles.iter().filter(|(_, trouble)| *trouble == Trouble::Storm);
            storms.into_iter().any(|(span, _)| span.start <= at && at < span.end + LONGEST_BELIEVED)
        };
        let mut shifts = Vec::new();
        let mut at = 3 * HOUR + climate.between_steps.mul_f64(dice.f64());
        while at < end {
            let off = of_any_length(dice, MINUTE, climate.farthest_off).as_secs().cast_signed();
            let back = at + of_any_length(dice, 10 * MINUTE, climate.between_steps);
            if !of_machine || !(is_in_a_pause(at) || is_in_a_pause(back)) {
                shifts.push(Shift { from: at, seconds: if dice.bool() { off } else { -off } });
                shifts.push(Shift { from: back, seconds: 0 });
            }
            at = back + climate.between_steps.mul_f64(dice.f64());
        }
        shifts
    }

    pub(super) fn trouble_at(&self, at: Duration) -> Option<Trouble> {
        let next = self.troubles.partition_point(|(span, _)| span.end <= at);
        self.troubles.get(next).filter(|(span, _)| span.start <= at).map(|(_, trouble)| *trouble)
    }

    pub(super) fn skew_at(&self, at: Duration) -> i64 {
        let next = self.skews.partition_point(|skew| skew.from <= at);
        next.checked_sub(1).map_or(0, |last| self.skews[last].seconds)
    }

    /// Whether the machine's clock was set back in this time.
    pub(super) fn was_set_back(&self, time: Range<Duration>) -> bool {
        let steps = std::iter::once(0).chain(self.steps.iter().map(|step| step.seconds));
        let mut pairs = steps.zip(&self.steps);
        pairs.any(|(before, step)| time.contains(&step.from) && step.seconds < before)
    }

    /// What is known before the years begin. How long the process is down, turns out later.
    pub(super) fn calm(&self) -> Calm {
        let mut calm = Calm::default();
        calm.disturb(Duration::ZERO..Duration::ZERO);
        for (span, trouble) in &self.troubles {
            let after = if *trouble == Trouble::Storm { LONGEST_BELIEVED } else { Duration::ZERO };
            calm.disturb(span.start..span.end + after);
        }
        for step in &self.steps {
            calm.disturb(step.from..step.from);
        }
        calm
    }
}

/// `keep_alive` has tried again by then, whatever failed before: it pauses for an hour at most, looks once a minute, and a
/// request that waits for its turn and gets no answer takes another minute and a half.
pub(super) const PATIENCE: Duration = Duration::from_secs(65 * 60);

/// The times in which something is not as it should be, in their order and apart from each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Calm(Vec<Range<Duration>>);

impl Calm {
    pub(super) fn disturb(&mut self, span: Range<Duration>) {
        let first = self.0.partition_point(|other| other.end < span.start);
        let past = self.0.partition_point(|other| other.start <= span.end);
        let merged = self.0[first..past]
            .iter()
            .fold(span, |all, other| all.start.min(other.start)..all.end.max(other.end));
        self.0.splice(first..past, [merged]);
    }

    /// The first moment, from this on, before which all has been well for so long that every token must have been renewed.
    pub(super) fn first_settled(&self, from: Duration) -> Duration {
        let next = self.0.partition_point(|span| span.end + PATIENCE <= from);
        let mut settled = from;
        for span in &self.0[next..] {
            if settled < span.start {
                break;
            }
            settled = span.end + PATIENCE;
        }
        settled
    }

    pub(super) fn is_settled(&self, at: Duration) -> bool {
        self.first_settled(at) == at
    }

    /// Whether it is settled all the time.
    pub(super) fn is_settled_throughout(&self, time: Range<Duration>) -> bool {
        let next = self.0.partition_point(|span| span.end + PATIENCE <= time.start);
        self.0.get(next).is_none_or(|span| time.end <= span.start)
    }
}

#[test]
fn what_is_settled() {
    let at = |minutes: u32| minutes * MINUTE;
    let mut calm = Calm::default();
    for (start, end) in [(1000, 1010), (0, 0), (1005, 1020), (1040, 1040), (3000, 3100)] {
        calm.disturb(at(start)..at(end));
    }
    assert_eq!(calm.0, [at(0)..at(0), at(1000)..at(1020), at(1040)..at(1040), at(3000)..at(3100)]);
    for (from, settled) in [
        (0, 65),
        (64, 65),
        (65, 65),
        (999, 999),
        (1000, 1105),
        (1030, 1105),
        (1104, 1105),
        (2000, 2000),
        (3050, 3165),
    ] {
        assert_eq!(calm.first_settled(at(from)), at(settled), "{from}");
        assert_eq!(calm.is_settled(at(from)), from == settled);
    }
    assert!(calm.is_settled_throughout(at(65)..at(1000)) && !calm.is_settled_throughout(at(65)..at(1001)));
    assert!(!calm.is_settled_throughout(at(64)..at(100)) && calm.is_settled_throughout(at(3165)..DAY));
}
