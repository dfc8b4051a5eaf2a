//! How many requests there were in each minute, and the minutes of the times that are like each other.

use std::{fmt::Write as _, fs, ops::Range, path::Path, time::Duration};

use super::{
    sky::{Calm, PATIENCE},
    times::MINUTE,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Vec<u32>);

/// The most requests in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Highest {
    /// Where all has been well for hours.
    pub(super) quiet: u32,
    /// In outages and storms, and in the hours after them.
    pub(super) troubled: u32,
    /// In the minutes after the start of a process, or a step of the clock: what has expired is renewed at once.
    pub(super) begun: u32,
}

fn minute_of(at: Duration) -> usize {
    usize::try_from(at.as_secs() / MINUTE.as_secs()).unwrap()
}

impl Requests {
    pub(super) fn count(&mut self, at: Duration) {
        let minute = minute_of(at);
        if self.0.len() <= minute {
            self.0.resize(minute + 1, 0);
        }
        self.0[minute] += 1;
    }

    fn most(&self, minutes: Range<usize>) -> u32 {
        self.0[minutes.start.min(self.0.len())..minutes.end.min(self.0.len())]
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// `begun`: when processes were started, and the clock was set.
    pub(super) fn highest(&self, calm: &Calm, begun: impl Iterator<Item = Duration>) -> Highest {
        let mut highest = Highest::default();
        let mut rest = self.0.clone();
        for at in begun {
            // What fails is repeated within the hour, and what has succeeded is not.
            let minutes = minute_of(at)..minute_of(at + PATIENCE);
            highest.begun = highest.begun.max(self.most(minutes.clone()));
            let past = minutes.end.min(rest.len());
            rest[minutes.start.min(past)..past].fill(0);
        }
        for (minute, requests) in rest.into_iter().enumerate() {
            let start = MINUTE * u32::try_from(minute).unwrap();
            // In the next hour after that the renewals are still as close together as they were.
            let is_quiet = calm.is_settled_throughout(start.saturating_sub(PATIENCE)..start + MINUTE);
            let of_kind = if is_quiet { &mut highest.quiet } else { &mut highest.troubled };
            *of_kind = (*of_kind).max(requests);
        }
        highest
    }

    /// For `benches/plot`: for how many managers, what happened, from which minute to which, and the requests of each minute.
    pub(super) fn write(&self, managers: usize, spans: &[(String, Range<Duration>)], end: Duration) {
        let mut text = format!("Managers\t{managers}\n");
        for (what, span) in spans {
            writeln!(text, "{what}\t{}\t{}", minute_of(span.start), minute_of(span.end.min(end))).unwrap();
        }
        for requests in &self.0[..self.0.len().min(minute_of(end))] {
            writeln!(text, "{requests}").unwrap();
        }
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("years.tsv"), text).unwrap();
    }
}
