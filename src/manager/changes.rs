//! Which looks at the store are overtaken: what they have read may be older than what this manager has saved, or may have been
//! removed since.
//!
//! Always: a change overtakes each look that begins before the end of the change and is asked about after its beginning.

use std::sync::atomic::Ordering::SeqCst;

use crate::sync::AtomicU64;

/// The changes that this manager makes to what is stored, or learns of.
#[derive(Default)]
pub(super) struct Changes {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A change under way. It ends when this is dropped.
#[must_use = "the change ends when this is dropped"]
pub(super) struct Change<'a>(&'a Changes);

/// How many changes had ended when a look began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began(u64);

/// What has happened since a look began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Nothing,
    /// A change is under way, and none has ended: a new look would be overtaken, too.
    UnderWay,
    /// At least one change has ended. A new look finds what it has changed, even while another change is under way.
    Changed,
}

impl Changes {
    pub(super) fn begin(&self) -> Change<'_> {
        self.begun.fetch_add(1, SeqCst);
        Change(self)
    }

    /// To be called before a look reads anything.
    pub(super) fn look_begins(&self) -> Began {
        Began(self.ended.load(SeqCst))
    }

    pub(super) fn since(&self, Began(before): Began) -> Since {
        if self.ended.load(SeqCst) != before {
            return Since::Changed;
        }
        // As many as had ended: none was under way then, and none has begun.
        if self.begun.load(SeqCst) == before { Since::Nothing } else { Since::UnderWay }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_overtakes_the_looks_that_begin_before_its_end() {
        let changes = Changes::default();
        let first = changes.look_begins();
        assert_eq!(changes.since(first), Since::Nothing);
        let change = changes.begin();
        let second = changes.look_begins();
        for look in [first, second] {
            assert_eq!(changes.since(look), Since::UnderWay);
        }
        drop(change);
        let third = changes.look_begins();
        for (look, since) in [(first, Since::Changed), (second, Since::Changed), (third, Since::Nothing)] {
            assert_eq!(changes.since(look), since);
        }
    }

    #[test]
    fn a_look_is_older_than_what_has_ended_while_another_change_is_under_way() {
        let changes = Changes::default();
        let look = changes.look_begins();
        drop(changes.begin());
        let _next = changes.begin();
        assert_eq!(changes.since(look), Since::Changed);
        assert_eq!(changes.since(changes.look_begins()), Since::UnderWay);
    }

    #[test]
    fn a_change_overtakes_looks_that_began_before_another_change_ended() {
        let changes = Changes::default();
        let (short, long) = (changes.begin(), changes.begin());
        drop(short);
        let look = changes.look_begins();
        assert_eq!(changes.since(look), Since::UnderWay);
        drop(long);
        assert_eq!(changes.since(look), Since::Changed);
        assert_eq!(changes.since(changes.look_begins()), Since::Nothing);
    }
}
