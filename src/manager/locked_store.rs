//! The store, and its lock while it is this manager's.
//!
//! Always:
//! - One flight at a time uses the lock, and no other flight releases it.
//! - From a token's arrival until it is saved, the token is kept here together with the store's lock, so that neither a full
//!   disk nor a panic loses it, and no other process spends the token that it replaced.
//! - A store that does not answer, or answers late, holds up no caller of a save for longer than the deadline.
//! - Nothing is sent on a lease that may lapse before the reply is saved.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, oneshot};

use crate::{
    Clock, Error, ErrorKind, RefreshTokenObject, StoreLock, Stored,
    clock::within,
    machine::Executor,
    measured,
    oauth_client::REQUEST_TIMEOUT,
    store::{BoxFuture, DynTokenStore},
};

/// How long a call of a store may take. Real time: a real server is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

/// What must be left of a lease when a request is sent: the time for the request, and for its save.
const TO_SEND_AND_SAVE: Duration = REQUEST_TIMEOUT.saturating_add(DEADLINE);

/// The pauses between the attempts that a flight makes before it gives up for the time being: about a second.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(500),
];

pub(super) struct LockedStore {
    store: Arc<dyn DynTokenStore>,
    executor: Arc<dyn Executor>,
    /// Boxed, since most managers hold no lock most of the time.
    ours: Mutex<Option<Box<Ours>>>,
}

/// The store's lock, and what is done under it.
struct Ours {
    lock: StoreLock,
    /// The number of the flight that uses the lock. An abandoned flight may still come to its end while the next one is under
    /// way.
    flight: Option<u64>,
    /// To be saved before anything else is done under the lock.
    unsaved: Option<Unsaved>,
    /// When the lease lapses, by the monotonic clock, if the lock is one.
    lapses_at: Option<Duration>,
    /// A fleet has taken the lock, for a flight that has not begun.
    is_handed_in: bool,
}

struct Unsaved {
    token: RefreshTokenObject,
    replaces: Replaces,
    /// From the first failure on.
    _counted: Option<measured::UnsavedToken>,
}

/// What a token takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaces {
    /// The token that it was renewed from. If another one is stored by now, that one counts.
    Predecessor,
    /// Whatever is stored: it does not descend from that.
    Anything,
}

/// Whether a save is the last thing that a flight does under the lock: the store may release it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Save {
    Last,
    More,
}

/// How a token is saved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saving<'a> {
    pub(super) save: Save,
    pub(super) replaces: Replaces,
    /// What the store remembers once the token is saved.
    pub(super) note: Option<&'a str>,
}

/// What became of a token that could not be saved at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnsavedToken {
    /// There was none.
    None,
    Saved,
    Superseded,
}

/// Proof that the store is locked and was found able to save a reply.
pub(super) struct Rehearsed(());

impl Ours {
    /// `asked_at`: a reading of the monotonic clock from before the lock was asked for.
    fn new(lock: StoreLock, asked_at: Duration) -> Box<Self> {
        let lapses_at = lock.lease().map(|lease| asked_at.saturating_add(lease.lasts));
        if lock.lease().is_some_and(|lease| !lease.late_save.is_zero()) {
            measured::lease_taken_over();
        }
        Box::new(Self { lock, flight: None, unsaved: None, lapses_at, is_handed_in: false })
    }
}

impl LockedStore {
    pub(super) fn new(store: Arc<dyn DynTokenStore>, executor: Arc<dyn Executor>) -> Self {
        Self { store, executor, ours: Mutex::new(None) }
    }

    /// For a caller outside of any flight. What opens connections does so on this crate's runtime, where they live on.
    pub(super) async fn read_for_caller(&self) -> Result<Stored, Error> {
        if self.store.is_local() {
            return self.store.read().await;
        }
        let (store, executor) = (Arc::clone(&self.store), Arc::clone(&self.executor));
        let (told, loaded) = oneshot::channel();
        self.executor.spawn_blocking(Box::pin(async move {
            // Without a deadline of its own a read that stands still would keep what the next one needs.
            if let Some(answer) = within(executor.wait(DEADLINE), store.read()).await {
                let _ = told.send(answer);
            }
        }))?;
        // The read may also block its thread, where no deadline ends it.
        self.call(Box::pin(async { loaded.await.unwrap_or_else(|_| Err(self.no_answer())) })).await
    }

    /// What is stored by now.
    pub(super) async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.call(self.store.load()).await
    }

    pub(super) async fn read(&self) -> Result<Stored, Error> {
        self.call(self.store.read()).await
    }

    /// Whether the lock is this flight's now; `false` while another process or flight holds it, or an unsaved token keeps it, or
    /// another process may have something to save while this flight `can_wait`.
    pub(super) async fn try_lock(
        &self,
        flight: u64,
        can_wait: bool,
        clock: &dyn Clock,
    ) -> Result<bool, Error> {
        let mut ours = self.ours.lock().await;
        if ours.is_none() {
            let asked_at = clock.monotonic();
            let asked = if can_wait { self.store.try_lock_ahead_of_time() } else { self.store.try_lock() };
            *ours = self.call(asked).await?.map(|lock| Ours::new(lock, asked_at));
        }
        // What an unsaved token keeps is the lock of an earlier flight. If that is a lease, it has probably lapsed.
        Ok(ours.as_mut().filter(|ours| ours.unsaved.is_none()).is_some_and(|ours| {
            ours.is_handed_in = false;
            *ours.flight.get_or_insert(flight) == flight
        }))
    }

    /// At the end of a flight. The lock stays with a token that could not be saved.
    pub(super) async fn release(&self, flight: u64) {
        let mut ours = self.ours.lock().await;
        match ours.as_mut() {
            Some(ours) if ours.flight == Some(flight) => ours.flight = None,
            _ => return,
        }
        let done = take_if_done(&mut ours);
        self.unlock(done).await;
    }

    pub(super) async fn read_locked(&self) -> Result<Stored, Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.read_locked(lock_in(&ours)?)).await
    }

    /// Right before a request: prolongs a lease that may lapse before the reply is saved.
    pub(super) async fn hold_for_a_request(&self, flight: u64, clock: &dyn Clock) -> Result<(), Error> {
        let mut slot = self.ours.lock().await;
        let ours = slot.as_mut().filter(|ours| ours.flight == Some(flight)).ok_or_else(not_locked)?;
        let Some(lease) = ours.lock.lease() else { return Ok(()) };
        let lasts_long_enough = |ours: &Ours| {
            let left = ours.lapses_at.map_or(Duration::MAX, |at| at.saturating_sub(clock.monotonic()));
            left >= TO_SEND_AND_SAVE.min(lease.lasts / 2)
        };
        if lasts_long_enough(ours) {
            return Ok(());
        }
        let asked_at = clock.monotonic();
        let lasts = self.call(self.store.prolong(&ours.lock)).await?;
        ours.lapses_at = Some(asked_at.saturating_add(lasts));
        if lasts_long_enough(ours) {
            return Ok(());
        }
        let message = format!(
            "the lock of {} lapses before the next request would be answered, so that request was not sent; try again",
            self.describe()
        );
        Err(Error::new(ErrorKind::Store, message).transient())
    }

    /// How long a save is waited for that the holder before may still have to make.
    pub(super) async fn late_save(&self) -> Duration {
        let ours = self.ours.lock().await;
        ours.as_ref().and_then(|ours| ours.lock.lease()).map_or(Duration::ZERO, |lease| lease.late_save)
    }

    /// Finds out whether a reply could be saved, before a grant is spent for it.
    pub(super) async fn rehearse(&self, stored: Option<&RefreshTokenObject>) -> Result<Rehearsed, Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.rehearse(stored, lock_in(&ours)?)).await?;
        Ok(Rehearsed(()))
    }

    /// Whether the store keeps the note, for all processes; `false` if it keeps none.
    pub(super) async fn remember(&self, note: Option<&str>) -> Result<bool, Error> {
        let ours = self.ours.lock().await;
        let lock = lock_in(&ours)?;
        self.call(self.store.remember(note, lock)).await?;
        Ok(!lock.has_no_notes())
    }

    pub(super) async fn remove(&self) -> Result<(), Error> {
        let ours = self.ours.lock().await;
        self.call(self.store.remove(lock_in(&ours)?)).await
    }

    /// Saves a token, then calls `publish` with how that went. Nothing else saves the token in between.
    pub(super) async fn save_then<T>(
        &self,
        token: &RefreshTokenObject,
        saving: Saving<'_>,
        clock: &dyn Clock,
        publish: impl FnOnce(&Result<(), Error>) -> T,
    ) -> (T, Result<(), Error>) {
        let mut slot = self.ours.lock().await;
        let saved = match slot.as_mut() {
            Some(ours) => {
                ours.unsaved =
                    Some(Unsaved { token: token.clone(), replaces: saving.replaces, _counted: None });
                let saved = self.save_within_a_second(token, saving, &ours.lock, clock).await;
                if saved.as_ref().map_or_else(Error::is_superseded, |()| true) {
                    ours.unsaved = None;
                } else if let Some(unsaved) = &mut ours.unsaved {
                    unsaved._counted = Some(measured::UnsavedToken::new());
                }
                saved
            }
            None => Err(not_locked()),
        };
        (publish(&saved), saved)
    }

    /// The attempts end early where the store takes too long: the next attempt is the background's.
    async fn save_within_a_second(
        &self,
        token: &RefreshTokenObject,
        saving: Saving<'_>,
        lock: &StoreLock,
        clock: &dyn Clock,
    ) -> Result<(), Error> {
        self.call(Box::pin(async move {
            for pause in PAUSES {
                match self.attempt(token, saving, lock).await {
                    Err(e) if !e.is_superseded() => clock.sleep(pause).await,
                    answer => return answer,
                }
            }
            self.attempt(token, saving, lock).await
        }))
        .await
    }

    /// One attempt at saving.
    fn attempt<'a>(
        &'a self,
        token: &'a RefreshTokenObject,
        saving: Saving<'a>,
        lock: &'a StoreLock,
    ) -> BoxFuture<'a, ()> {
        match (saving.replaces, saving.save) {
            (Replaces::Anything, _) => self.store.replace(token, lock),
            (Replaces::Predecessor, Save::Last) => self.store.finish(token, saving.note, lock),
            (Replaces::Predecessor, Save::More) => self.store.save(token, lock),
        }
    }

    /// Saves the token that is still unsaved, then calls `publish` with what became of it. It is also done with where another
    /// process has stored a newer one.
    pub(super) async fn save_unsaved(
        &self,
        publish: impl FnOnce(UnsavedToken),
    ) -> Result<UnsavedToken, Error> {
        let mut slot = self.ours.lock().await;
        let Some(ours) = slot.as_mut() else { return Ok(UnsavedToken::None) };
        let Some(Unsaved { token, replaces, .. }) = &ours.unsaved else { return Ok(UnsavedToken::None) };
        let saving = Saving { save: Save::More, replaces: *replaces, note: None };
        let unsaved = match self.call(self.attempt(token, saving, &ours.lock)).await {
            Ok(()) => UnsavedToken::Saved,
            Err(e) if e.is_superseded() => UnsavedToken::Superseded,
            Err(e) => return Err(e),
        };
        ours.unsaved = None;
        publish(unsaved);
        let done = take_if_done(&mut slot);
        // A caller who asks whether a token is unsaved need not wait for the end of the lock.
        drop(slot);
        self.unlock(done).await;
        Ok(unsaved)
    }

    pub(super) async fn has_unsaved(&self) -> bool {
        self.ours.lock().await.as_ref().is_some_and(|ours| ours.unsaved.is_some())
    }

    /// Whether a renewal asks for the lock before it looks.
    pub(super) fn reads_by_locking(&self) -> bool {
        self.store.reads_by_locking()
    }

    /// Hands in the store's lock, which a fleet asked for at `asked_at`: for the next flight, or for one that waits for the lock.
    pub(super) async fn hand_in(&self, lock: StoreLock, asked_at: Duration) {
        let mut ours = self.ours.lock().await;
        let needless = if ours.is_none() {
            *ours = Some(Box::new(Ours { is_handed_in: true, ..*Ours::new(lock, asked_at) }));
            None
        } else {
            // The lock of a flight, or of an unsaved token.
            Some(lock)
        };
        drop(ours);
        if let Some(lock) = needless {
            self.decline(lock).await;
        }
    }

    /// Gives back a lock that was not handed in.
    pub(super) async fn decline(&self, lock: StoreLock) {
        // A store that cannot unlock says so itself, and its lock lapses.
        let _ = self.call(self.store.unlock(lock)).await;
    }

    /// Whether the lock that was handed in is this flight's now.
    pub(super) async fn take_handed_in(&self, flight: u64) -> bool {
        let mut ours = self.ours.lock().await;
        let handed_in = ours.as_mut().filter(|ours| ours.is_handed_in && ours.flight.is_none());
        handed_in.map(|ours| (ours.is_handed_in, ours.flight) = (false, Some(flight))).is_some()
    }

    /// Gives back a lock that was handed in, if no flight has taken it.
    pub(super) async fn give_back(&self) {
        let done = self.ours.lock().await.take_if(|ours| ours.is_handed_in && ours.flight.is_none());
        self.unlock(done).await;
    }

    /// The longest pause between two looks while another process holds the lock.
    pub(super) fn longest_poll(&self) -> Duration {
        self.store.longest_poll()
    }

    /// What errors and logs call the store.
    pub(super) fn describe(&self) -> String {
        self.store.describe()
    }

    async fn unlock(&self, done: Option<Box<Ours>>) {
        if let Some(ours) = done {
            self.decline(ours.lock).await;
        }
    }

    /// The answer of a call, within the deadline. The calls of a local store end, or block their thread, which is noticed
    /// elsewhere.
    async fn call<T>(&self, call: BoxFuture<'_, T>) -> Result<T, Error> {
        if self.store.is_local() {
            return call.await;
        }
        within(self.executor.wait(DEADLINE), call).await.unwrap_or_else(|| Err(self.no_answer()))
    }

    fn no_answer(&self) -> Error {
        let message = format!(
            "{} did not answer within {} s; check that its server runs and can be reached",
            self.describe(),
            DEADLINE.as_secs()
        );
        Error::new(ErrorKind::Store, message).transient()
    }
}

fn take_if_done(slot: &mut Option<Box<Ours>>) -> Option<Box<Ours>> {
    slot.take_if(|ours| ours.flight.is_none() && ours.unsaved.is_none())
}

fn lock_in(ours: &Option<Box<Ours>>) -> Result<&StoreLock, Error> {
    ours.as_ref().map(|ours| &ours.lock).ok_or_else(not_locked)
}

fn not_locked() -> Error {
    Error::new(ErrorKind::Store, "the store was used without its lock; please report this")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::{Future, poll_fn, ready},
        pin::Pin,
        sync::atomic::{AtomicU64, AtomicUsize, Ordering},
        task::Poll,
        time::SystemTime,
    };

    use super::*;
    use crate::{
        MemoryStore, SystemClock, TokenStore,
        machine::{Threads, Work},
    };

    /// Its saves are answered so, one after the other, and then done. Its lock is a lease of 50 seconds.
    #[derive(Debug, Default)]
    struct Answers(Mutex<VecDeque<Error>>, AtomicUsize);

    impl TokenStore for Answers {
        async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
            Ok(None)
        }

        async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.lock().await.pop_front().map_or(Ok(()), Err)
        }

        async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
            Ok(())
        }

        async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
            Ok(Some(StoreLock::new(()).with_lease(Duration::from_secs(50))))
        }

        fn reads_by_locking(&self) -> bool {
            true
        }
    }

    /// Sleeps take no time.
    #[derive(Debug, Default)]
    struct At(AtomicU64);

    impl Clock for At {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + self.monotonic()
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }

        fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(ready(()))
        }
    }

    async fn saved(answers: Vec<Error>) -> (LockedStore, Arc<Answers>, Result<(), Error>) {
        let store = Arc::new(Answers(Mutex::new(answers.into()), AtomicUsize::new(0)));
        let locked = LockedStore::new(store.clone(), Arc::new(Threads));
        let clock = At::default();
        assert!(locked.try_lock(1, false, &clock).await.unwrap());
        let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
        let saving = Saving { save: Save::More, replaces: Replaces::Predecessor, note: None };
        let ((), saved) = locked.save_then(&token, saving, &clock, |_| ()).await;
        (locked, store, saved)
    }

    #[tokio::test]
    async fn a_save_is_tried_five_times_unless_another_token_counts() {
        let fails = || Error::store("the disk is full", "no room");
        for (answers, saves, is_saved) in [
            (vec![], 1, true),
            (vec![fails(); 4], 5, true),
            (vec![fails(); 5], 5, false),
            (vec![Error::superseded("another process was faster")], 1, false),
        ] {
            let (_, store, saved) = saved(answers).await;
            assert_eq!((store.1.load(Ordering::Relaxed), saved.is_ok()), (saves, is_saved));
        }
    }

    /// Real time passes with the calls of the store only.
    #[derive(Debug, Default)]
    struct Slow(Arc<AtomicU64>);

    impl Executor for Slow {
        fn launch(&self, _: Work, _: bool) -> Result<(), Error> {
            unreachable!()
        }

        fn spawn_blocking(&self, _: Work) -> Result<(), Error> {
            unreachable!()
        }

        fn spawn(&self, _: Work) -> Result<(), Error> {
            unreachable!()
        }

        fn wait(&self, time: Duration) -> Work {
            let passed = Arc::clone(&self.0);
            let end = passed.load(Ordering::Relaxed) + time.as_secs();
            Box::pin(poll_fn(move |_| match passed.load(Ordering::Relaxed) < end {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }))
        }

        fn process(&self) -> u32 {
            0
        }
    }

    /// Each of its saves fails after four seconds.
    impl TokenStore for Slow {
        async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
            Ok(None)
        }

        async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
            self.0.fetch_add(4, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err(Error::store("the database is not there", "it hangs"))
        }

        async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_slowly_holds_up_a_save_for_no_longer_than_one_that_does_not_answer() {
        let passed = Arc::new(AtomicU64::new(0));
        let locked =
            LockedStore::new(Arc::new(Slow(Arc::clone(&passed))), Arc::new(Slow(Arc::clone(&passed))));
        let clock = At::default();
        assert!(locked.try_lock(1, false, &clock).await.unwrap());
        let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
        let saving = Saving { save: Save::More, replaces: Replaces::Predecessor, note: None };
        let ((), saved) = locked.save_then(&token, saving, &clock, |_| ()).await;
        assert!(saved.unwrap_err().to_string().contains("did not answer within 10 s"));
        assert_eq!(passed.load(Ordering::Relaxed), 12);
        assert!(locked.has_unsaved().await);
    }

    /// Its token is not saved yet.
    #[tokio::test]
    async fn a_lock_that_no_fleet_has_handed_in_is_neither_taken_as_such_nor_given_back() {
        let (locked, _, saved) = saved(vec![Error::store("the disk is full", "no room"); 5]).await;
        saved.unwrap_err();
        locked.release(1).await;
        assert!(!locked.take_handed_in(2).await);
        locked.give_back().await;
        assert!(locked.has_unsaved().await);
    }

    /// Whoever saves the token, in the background say: by then the lease may have lapsed, or another process may have taken it over.
    #[tokio::test]
    async fn no_flight_goes_on_with_the_lock_that_an_unsaved_token_kept() {
        let full = || Error::store("the disk is full", "no room");
        for (last, becomes) in [
            (vec![], UnsavedToken::Saved),
            (vec![Error::superseded("another process was faster")], UnsavedToken::Superseded),
        ] {
            let (locked, ..) = saved([vec![full(), full(), full(), full(), full()], last].concat()).await;
            locked.release(1).await;
            assert!(!locked.try_lock(2, false, &At::default()).await.unwrap());
            let mut published = None;
            assert_eq!(locked.save_unsaved(|unsaved| published = Some(unsaved)).await.unwrap(), becomes);
            assert!(published == Some(becomes) && !locked.has_unsaved().await);
            // The next lock lasts for 50 seconds from now.
            let clock = At(40.into());
            assert!(locked.try_lock(2, false, &clock).await.unwrap());
            locked.hold_for_a_request(2, &clock).await.unwrap();
        }
    }

    #[tokio::test]
    async fn half_of_a_short_lease_is_enough_for_a_request() {
        let (locked, _, _) = saved(vec![]).await;
        for (seconds, is_enough) in [(25, true), (26, false)] {
            let clock = At(seconds.into());
            assert_eq!(locked.hold_for_a_request(1, &clock).await.is_ok(), is_enough, "after {seconds} s");
        }
        assert!(locked.reads_by_locking());
    }

    /// As when all callers leave a flight that waits, and the next caller starts another before that one has ended.
    #[tokio::test]
    async fn a_flight_releases_no_other_flights_lock() {
        let store = MemoryStore::new();
        let locked = LockedStore::new(Arc::new(store.clone()), Arc::new(Threads));
        let (abandoned, next) = (1, 2);
        assert!(locked.try_lock(next, false, &SystemClock).await.unwrap());
        assert!(!locked.try_lock(abandoned, false, &SystemClock).await.unwrap());
        locked.release(abandoned).await;
        locked.hold_for_a_request(next, &SystemClock).await.unwrap();
        locked.hold_for_a_request(abandoned, &SystemClock).await.unwrap_err();
        assert!(TokenStore::try_lock(&store).await.unwrap().is_none(), "still held");
        locked.release(next).await;
        assert!(TokenStore::try_lock(&store).await.unwrap().is_some());
    }
}
