//! What this process knows of when each token of a folder is due.
//!
//! ```text
//! waiting, by time ──▶ due, by expiry ──▶ taken: waiting again, until its pause is over
//! ```
//!
//! Always: each step costs the logarithm of how many tokens there are, and a token takes less than 300 bytes. No I/O and no
//! clock here. Times are Unix seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::outlook::Outlook;
use crate::backoff::Backoff;

/// The pauses of a token that was claimed and not saved.
const CLAIMED: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(3600));

pub(super) type Name = Arc<str>;

#[derive(Default)]
pub(super) struct Index {
    tokens: BTreeMap<Name, Entry>,
    /// Those that are not due yet, by when they are.
    waiting: BTreeSet<(u64, Name)>,
    /// Those that are due, by their expiry.
    due: BTreeSet<(u64, Name)>,
    /// Those that were taken, and then found to be another process's.
    busy: BTreeSet<Name>,
}

struct Entry {
    outlook: Outlook,
    /// Until when the token is left alone after a claim.
    rests_until: u64,
    /// How many times it was claimed since the last save.
    claims: u32,
    is_due: bool,
}

impl Entry {
    fn due_at(&self) -> u64 {
        self.outlook.due_at.max(self.rests_until)
    }
}

impl Index {
    pub(super) fn knows(&self, name: &str) -> bool {
        self.tokens.contains_key(name)
    }

    /// A token has just been saved; the claims before that are forgotten.
    pub(super) fn saved(&mut self, name: &str, outlook: Outlook) {
        self.put(name, Entry { outlook, rests_until: 0, claims: 0, is_due: false });
    }

    /// What was found in the folder. While that is the same token, its pause goes on. `None`: no token can be due.
    pub(super) fn found(&mut self, name: &str, outlook: Option<Outlook>, now: u64) {
        let Some(outlook) = outlook else {
            self.take_out(name);
            return;
        };
        let known = self.tokens.get(name).filter(|known| known.outlook.expires_at == outlook.expires_at);
        let (rests_until, claims) = known.map_or((0, 0), |known| (known.rests_until, known.claims));
        // A longer pause began before the clock was set back.
        let rests_until = Some(rests_until).filter(|until| *until <= now + CLAIMED.longest.as_secs());
        let rests_until = rests_until.unwrap_or_default();
        self.put(name, Entry { outlook, rests_until, claims, is_due: false });
    }

    /// The due token that expires first. It rests for a minute now, so that it is looked at once.
    pub(super) fn take_due(&mut self, now: u64) -> Option<Name> {
        while let Some((due_at, _)) = self.waiting.first()
            && *due_at <= now
            && let Some((_, name)) = self.waiting.pop_first()
        {
            if let Some(entry) = self.tokens.get_mut(&name) {
                entry.is_due = true;
                self.due.insert((entry.outlook.expires_at, name));
            }
        }
        let (_, name) = self.due.pop_first()?;
        let entry = self.tokens.get_mut(&name)?;
        entry.is_due = false;
        entry.rests_until = now + CLAIMED.first.as_secs();
        self.waiting.insert((entry.due_at(), Arc::clone(&name)));
        Some(name)
    }

    /// A token that was taken is claimed: it rests the longer, the more often it was claimed without a save.
    pub(super) fn claimed(&mut self, name: &str, now: u64) {
        if let Some((name, mut entry)) = self.take_out(name) {
            entry.rests_until = now + CLAIMED.nth(entry.claims).as_secs();
            entry.claims = entry.claims.saturating_add(1);
            self.put_in(name, entry);
        }
    }

    /// A token that was taken is being renewed by another process, or was a moment ago.
    pub(super) fn busy(&mut self, name: &str) {
        if let Some((name, _)) = self.tokens.get_key_value(name) {
            self.busy.insert(Arc::clone(name));
        }
    }

    /// How many tokens were busy when they were last taken.
    pub(super) fn busy_ones(&self) -> u64 {
        self.busy.len() as u64
    }

    pub(super) fn removed(&mut self, name: &str) {
        self.take_out(name);
    }

    /// In how long the next token is due.
    pub(super) fn next(&self, now: u64) -> Option<Duration> {
        if !self.due.is_empty() {
            return Some(Duration::ZERO);
        }
        let (due_at, _) = self.waiting.first()?;
        Some(Duration::from_secs(due_at.saturating_sub(now)))
    }

    fn put(&mut self, name: &str, entry: Entry) {
        let name = self.take_out(name).map_or_else(|| Arc::from(name), |(name, _)| name);
        self.put_in(name, entry);
    }

    fn put_in(&mut self, name: Name, mut entry: Entry) {
        entry.is_due = false;
        self.waiting.insert((entry.due_at(), Arc::clone(&name)));
        self.tokens.insert(name, entry);
    }

    fn take_out(&mut self, name: &str) -> Option<(Name, Entry)> {
        let (name, entry) = self.tokens.remove_entry(name)?;
        self.busy.remove(&name);
        let key = (if entry.is_due { entry.outlook.expires_at } else { entry.due_at() }, name);
        if entry.is_due {
            self.due.remove(&key)
        } else {
            self.waiting.remove(&key)
        };
        Some((key.1, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(due_at: u64, expires_at: u64) -> Outlook {
        Outlook { due_at, expires_at }
    }

    fn taken(index: &mut Index, now: u64) -> Vec<String> {
        std::iter::from_fn(|| index.take_due(now)).map(|name| name.to_string()).collect()
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_expiry_and_once() {
        let mut index = Index::default();
        for (name, due_at, expires_at) in
            [("late", 10, 300), ("first", 20, 100), ("second", 5, 200), ("not due", 31, 50)]
        {
            index.found(name, Some(outlook(due_at, expires_at)), 0);
        }
        assert_eq!(index.next(3), Some(Duration::from_secs(2)));
        assert_eq!(taken(&mut index, 30), ["first", "second", "late"]);
        assert_eq!(index.next(30), Some(Duration::from_secs(1)));
        assert_eq!(taken(&mut index, 31), ["not due"]);
        assert_eq!(Index::default().next(0), None);
    }

    #[test]
    fn a_claimed_token_rests_a_minute_then_two_up_to_an_hour_until_it_is_saved() {
        let mut index = Index::default();
        index.found("a", Some(outlook(0, 1_000_000)), 0);
        let mut now = 100;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(taken(&mut index, now), ["a"]);
            index.claimed("a", now);
            // That it is found again is no news.
            index.found("a", Some(outlook(0, 1_000_000)), now);
            assert_eq!(index.next(now), Some(Duration::from_secs(60 * minutes)));
            now += 60 * minutes;
            assert_eq!(taken(&mut index, now - 1), [""; 0]);
        }
        index.saved("a", outlook(now, 2_000_000));
        assert_eq!(taken(&mut index, now), ["a"]);
        index.claimed("a", now);
        assert_eq!(index.next(now), Some(Duration::from_secs(60)));
        // Another process has saved.
        index.found("a", Some(outlook(now, 3_000_000)), now);
        assert_eq!(taken(&mut index, now), ["a"]);
    }

    #[test]
    fn a_token_that_another_process_works_on_is_looked_at_after_a_minute_each_time() {
        let mut index = Index::default();
        index.found("a", Some(outlook(0, 1)), 0);
        for minute in 0..5 {
            assert_eq!(taken(&mut index, 60 * minute), ["a"]);
            index.busy("a");
            assert_eq!(taken(&mut index, 60 * minute + 59), [""; 0]);
            assert_eq!(index.busy_ones(), 1);
        }
        index.found("a", Some(outlook(0, 2)), 300);
        assert_eq!(index.busy_ones(), 0, "it was looked at under its lock");
        index.busy("unknown");
        assert_eq!(index.busy_ones(), 0);
    }

    #[test]
    fn a_pause_from_before_the_clock_was_set_back_is_over() {
        let mut index = Index::default();
        index.found("a", Some(outlook(0, 9_000_000)), 0);
        assert_eq!(taken(&mut index, 1_000_000), ["a"]);
        index.found("a", Some(outlook(0, 9_000_000)), 5000);
        assert_eq!(taken(&mut index, 5000), ["a"]);
    }

    #[test]
    fn what_is_taken_out_is_in_no_set() {
        let mut index = Index::default();
        for name in ["waiting", "due", "other"] {
            index.found(name, Some(outlook(if name == "waiting" { 9 } else { 1 }, 5)), 0);
        }
        assert_eq!(index.take_due(1).as_deref(), Some("due"));
        index.busy("due");
        index.found("due", Some(outlook(0, 6)), 1);
        assert_eq!(index.due.len(), 1, "other");
        index.busy("due");
        for name in ["waiting", "due", "other", "unknown"] {
            index.found(name, None, 1);
        }
        assert!(index.tokens.is_empty() && index.waiting.is_empty() && index.due.is_empty());
        assert_eq!(index.busy_ones(), 0);
    }

    #[test]
    fn a_token_takes_less_than_300_bytes_in_whichever_order_it_comes_and_state_it_is() {
        const MANY: u64 = 100_000;
        let name = |n: u64| format!("{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(2_654_435_761) as u32);
        let mut names: Vec<_> = (0..MANY).map(name).collect();
        for is_sorted in [false, true] {
            if is_sorted {
                names.sort();
            }
            let mut made = None;
            let info = allocation_counter::measure(|| {
                let mut index = Index::default();
                for (n, name) in (0..).zip(&names) {
                    index.found(name, Some(outlook(n, MANY + n)), 0);
                }
                made = Some(index);
            });
            let mut index = made.unwrap();
            let waiting = info.bytes_current / MANY as i64;
            let info = allocation_counter::measure(|| drop(index.take_due(MANY)));
            let due = waiting + info.bytes_current / MANY as i64;
            assert!((100..300).contains(&waiting) && (100..300).contains(&due), "{waiting} {due}");
        }
    }
}
