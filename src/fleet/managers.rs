//! The managers of the members that are in use.
//!
//! Always: one manager for a member, for as long as anything holds that manager. A manager that was not asked for in an hour is
//! dropped, unless the program holds it, it renews, or it holds a token that is not saved. To ask for a manager that is there
//! costs a lookup under a lock that readers share, and no look at a clock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::{Clock, MemberKind, TokenManager, caught::locked};

/// So that threads seldom wait for each other.
const SHARDS: usize = 64;
/// How long a manager that was asked for is kept, and kept warm, in minutes.
const IN_USE: u32 = 60;
/// The minute at which a manager was last asked for that no caller has asked for.
const NEVER: u32 = 0;
const FIRST_MINUTE: u32 = 1;
const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct Managers {
    shards: [Shard; SHARDS],
    /// How many minutes have passed since the first look at the clock, as of the last look.
    minute: AtomicU32,
    /// When that minute began.
    began: Mutex<Option<SystemTime>>,
}

/// By name: companies, users, and principals that are not known yet.
type Shard = RwLock<[HashMap<Arc<str>, Entry>; 3]>;

struct Entry {
    manager: TokenManager,
    asked_for_at: AtomicU32,
}

/// Who asks for a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedBy {
    Program,
    /// To renew what is due: no reason to keep the manager.
    Worker,
}

impl Managers {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            minute: AtomicU32::new(FIRST_MINUTE),
            began: Mutex::default(),
        }
    }

    /// The member's manager; `make` makes it if there is none. A new one is a reason to drop those that are not in use.
    pub(super) fn get(
        &self,
        kind: MemberKind,
        name: &str,
        asked_by: AskedBy,
        clock: &dyn Clock,
        make: impl FnOnce(Arc<str>) -> TokenManager,
    ) -> TokenManager {
        if let Some(entry) = read(self.shard_of(name))[index(kind)].get(name) {
            self.note(entry, asked_by);
            return entry.manager.clone();
        }
        if self.minutes_passed(clock.now()) > 0 {
            self.drop_unused();
        }
        let (mut shard, of_kind) = (write(self.shard_of(name)), index(kind));
        // Another caller may have been faster.
        if !shard[of_kind].contains_key(name) {
            let name: Arc<str> = name.into();
            let manager = make(Arc::clone(&name));
            shard[of_kind].insert(name, Entry { manager, asked_for_at: AtomicU32::new(NEVER) });
        }
        let entry = &shard[of_kind][name];
        self.note(entry, asked_by);
        entry.manager.clone()
    }

    fn note(&self, entry: &Entry, asked_by: AskedBy) {
        let minute = self.minute.load(Ordering::Relaxed);
        // Seldom: a write would take the entry away from other processors' caches.
        if asked_by == AskedBy::Program && entry.asked_for_at.load(Ordering::Relaxed) != minute {
            entry.asked_for_at.store(minute, Ordering::Relaxed);
        }
    }

    /// Whether this manager is in memory.
    pub(super) fn has(&self, kind: MemberKind, name: &str) -> bool {
        read(self.shard_of(name))[index(kind)].contains_key(name)
    }

    /// Whether this holds for a manager of this name, of any kind.
    pub(super) fn any(&self, name: &str, is_so: impl Fn(&TokenManager) -> bool) -> bool {
        let shard = read(self.shard_of(name));
        shard.iter().any(|of_kind| of_kind.get(name).is_some_and(|entry| is_so(&entry.manager)))
    }

    /// Forgets a manager that is not in use any more, such as that of a principal whose name has become known.
    pub(super) fn forget(&self, kind: MemberKind, name: &str) {
        write(self.shard_of(name))[index(kind)].remove(name);
    }

    /// Drops what is not in use, and returns the managers that the program uses.
    pub(super) fn tidy(&self, now: SystemTime) -> Vec<TokenManager> {
        self.minutes_passed(now);
        self.drop_unused()
    }

    /// Since the last look. A clock that was set back begins again.
    fn minutes_passed(&self, now: SystemTime) -> u32 {
        let mut began = locked(&self.began);
        let passed = began.and_then(|began| now.duration_since(began).ok());
        let minutes = passed.map_or(0, |passed| u32::try_from(passed.as_secs() / 60).unwrap_or(u32::MAX));
        *began = match *began {
            Some(at) if passed.is_some() => at.checked_add(MINUTE.saturating_mul(minutes)),
            _ => Some(now),
        };
        let minute = self.minute.load(Ordering::Relaxed).saturating_add(minutes);
        self.minute.store(minute, Ordering::Relaxed);
        minutes
    }

    fn drop_unused(&self) -> Vec<TokenManager> {
        let minute = self.minute.load(Ordering::Relaxed);
        let mut in_use = Vec::new();
        for shard in &self.shards {
            for entries in &mut *write(shard) {
                entries.retain(|_, entry| {
                    let asked_for_at = entry.asked_for_at.load(Ordering::Relaxed);
                    let was_asked_for =
                        asked_for_at != NEVER && minute.saturating_sub(asked_for_at) <= IN_USE;
                    // While the shard is locked no caller gets hold of the manager.
                    let is_kept = was_asked_for || entry.manager.is_in_use();
                    // A manager that only renews what is due has no reader of its access token.
                    if is_kept && asked_for_at != NEVER {
                        in_use.push(entry.manager.clone());
                    }
                    is_kept
                });
                entries.shrink_to_fit();
            }
        }
        in_use
    }

    /// Those for which something is under way, or that the program holds.
    pub(super) fn in_use(&self) -> Vec<TokenManager> {
        let mut found = Vec::new();
        for shard in &self.shards {
            for entries in &*read(shard) {
                let managers = entries.values().map(|entry| &entry.manager);
                found.extend(managers.filter(|manager| manager.is_in_use()).cloned());
            }
        }
        found
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).iter().map(HashMap::len).sum::<usize>()).sum()
    }

    /// The last characters of a UUID are as good as random.
    fn shard_of(&self, name: &str) -> &Shard {
        let mix = |mixed: usize, byte: u8| mixed.wrapping_mul(31).wrapping_add(usize::from(byte));
        &self.shards[name.bytes().rev().take(4).fold(0, mix) % SHARDS]
    }
}

fn index(kind: MemberKind) -> usize {
    match kind {
        MemberKind::Company => 0,
        MemberKind::User => 1,
        MemberKind::Pending => 2,
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use super::*;
    use crate::{Credentials, MemoryStore, clock::from_unix_seconds};

    /// It stands still.
    #[derive(Clone, Copy, Debug)]
    struct At(u64);

    impl Clock for At {
        fn now(&self) -> SystemTime {
            from_unix_seconds(60 * self.0).unwrap()
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    fn manager(_: Arc<str>) -> TokenManager {
        TokenManager::builder()
            .credentials(Credentials::new("a", "s"))
            .store(MemoryStore::new())
            .build()
            .unwrap()
    }

    fn no_other(_: Arc<str>) -> TokenManager {
        panic!("there is one already")
    }

    fn get(managers: &Managers, name: &str, minute: u64) -> TokenManager {
        managers.get(MemberKind::Company, name, AskedBy::Program, &At(minute), manager)
    }

    fn tidy(managers: &Managers, minute: u64) -> usize {
        managers.tidy(At(minute).now()).len()
    }

    #[test]
    fn a_member_has_one_manager_and_each_kind_its_own() {
        let managers = Managers::new();
        let held = get(&managers, "b", 0);
        drop(managers.get(MemberKind::Company, "b", AskedBy::Worker, &At(0), no_other));
        drop(managers.get(MemberKind::User, "b", AskedBy::Program, &At(0), manager));
        assert_eq!(managers.len(), 2);
        assert_eq!(managers.in_use().len(), 1);
        drop(held);
        assert_eq!(managers.in_use().len(), 0);
        managers.forget(MemberKind::User, "b");
        assert_eq!(managers.len(), 1);
    }

    #[test]
    fn what_was_not_asked_for_in_an_hour_and_is_not_in_use_is_dropped() {
        let managers = Managers::new();
        drop(get(&managers, "asked once", 0));
        let held = get(&managers, "held", 0);
        drop(get(&managers, "asked again", 0));
        drop(managers.get(MemberKind::Company, "renewed", AskedBy::Worker, &At(0), manager));
        assert_eq!(managers.len(), 4);
        for minute in 1..=59 {
            assert_eq!(tidy(&managers, minute), 3, "{minute}");
        }
        drop(get(&managers, "asked again", 59));
        assert_eq!(tidy(&managers, 60), 3);
        // However often it is looked at in a minute.
        assert_eq!(tidy(&managers, 60), 3);
        assert_eq!(tidy(&managers, 61), 2);
        drop(held);
        assert_eq!([tidy(&managers, 62), tidy(&managers, 119)], [1, 1]);
        drop(managers.get(MemberKind::Company, "asked again", AskedBy::Worker, &At(119), no_other));
        assert_eq!(tidy(&managers, 120), 0, "a worker's question is none");
        assert_eq!(managers.len(), 0);
    }

    #[test]
    fn a_manager_that_only_a_worker_uses_is_kept_and_not_kept_warm() {
        let managers = Managers::new();
        let renewing = managers.get(MemberKind::Company, "due", AskedBy::Worker, &At(0), manager);
        assert_eq!((tidy(&managers, 1), managers.len()), (0, 1));
        let used = managers.get(MemberKind::Company, "due", AskedBy::Program, &At(1), no_other);
        assert_eq!(tidy(&managers, 2), 1);
        drop((renewing, used));
    }

    #[test]
    fn without_a_worker_a_new_manager_drops_those_that_are_not_in_use() {
        let managers = Managers::new();
        for minute in 0..500 {
            drop(get(&managers, &minute.to_string(), minute));
        }
        assert_eq!(managers.len(), 61);
    }

    #[test]
    fn a_clock_that_is_set_back_drops_nothing_too_early() {
        let managers = Managers::new();
        drop(get(&managers, "asked for", 1000));
        assert_eq!([tidy(&managers, 10), tidy(&managers, 69)], [1, 1]);
        assert_eq!(tidy(&managers, 71), 0);
    }

    #[test]
    fn minutes_are_counted_from_the_first_look_and_from_the_first_after_a_clock_was_set_back() {
        let managers = Managers::new();
        for (now, passed) in [
            (1_000, 0),
            (1_059, 0),
            (1_090, 1),
            (1_119, 0),
            (1_120, 1),
            (1_300, 3),
            (500, 0),
            (559, 0),
            (560, 1),
        ] {
            assert_eq!(managers.minutes_passed(from_unix_seconds(now).unwrap()), passed, "at {now}");
        }
    }

    #[test]
    fn managers_that_were_dropped_leave_no_room_behind() {
        let managers = Managers::new();
        let room = || managers.shards.iter().map(|shard| read(shard)[0].capacity()).sum::<usize>();
        for number in 0..1_000 {
            managers.get(MemberKind::Company, &format!("{number}"), AskedBy::Worker, &At(1), manager);
        }
        assert!(room() >= 1_000);
        assert_eq!(managers.tidy(At(1).now()).len(), 0);
        assert_eq!((managers.len(), room()), (0, 0));
    }
}
