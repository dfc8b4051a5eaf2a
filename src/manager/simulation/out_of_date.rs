//! What was right when it was looked at, and is not any more when its caller goes on: the process was suspended, or the store
//! took its time. Each case was found in a world of `chaos`.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{
    HOUR, MINUTE, Watch, World,
    crowd::{Counting, builder, client, due, manager, token},
    world::Fate,
};
use crate::{
    Clock as _, Error, MemoryStore, RefreshTokenObject, StoreLock, Stored, TokenManager, TokenStore,
    caught::locked,
    oauth_client::{OutgoingCall, Response},
    seed::seed,
};

const SECOND: Duration = Duration::from_secs(1);
const ASLEEP: Duration = Duration::from_secs(3 * 3600);

/// A reply whose tokens have its number.
fn issue(call: &OutgoingCall<'_>, number: usize) -> Response {
    let refresh = format!("refresh-{number}");
    let access = format!("access-{number}");
    call.reply(200, &json!({"refresh_token": refresh, "access_token": access, "expires_in": 3600}))
}

/// A store that answers with what it held when it was asked, however long the answer takes.
struct Slow {
    store: MemoryStore,
    world: Arc<World>,
    is_slow: Arc<AtomicBool>,
}

impl Slow {
    async fn answer<T>(&self, call: impl Future<Output = T>) -> T {
        let answer = call.await;
        if self.is_slow.swap(false, Ordering::Relaxed) {
            Watch(Arc::clone(&self.world)).sleep(8 * SECOND).await;
        }
        answer
    }
}

impl TokenStore for Slow {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.answer(self.store.save(token, lock)).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock().await
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.answer(self.store.read()).await
    }

    async fn read_locked(&self, _: &StoreLock) -> Result<Stored, Error> {
        self.store.read().await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.store.remember(note, lock).await
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

/// Suspends the process once, when `is_time` says so.
fn suspended_once(world: &Arc<World>, is_time: impl Fn() -> bool) {
    let mut is_over = false;
    world.run_with(|_| {
        if is_over || !is_time() {
            return Fate::GoesOn;
        }
        is_over = true;
        Fate::IsSuspended(ASLEEP)
    });
    assert!(is_over);
}

fn has_token(store: &MemoryStore) -> bool {
    let mut stored = std::pin::pin!(store.load());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    matches!(stored.as_mut().poll(&mut context), std::task::Poll::Ready(Ok(Some(_))))
}

/// A laptop that is closed while a reply is on its way, or is being saved. What has expired meanwhile is of no use to the caller.
#[test]
fn what_expired_while_the_process_was_suspended_is_not_served() {
    for is_on_its_way in [true, false] {
        let world = World::new(seed());
        let concur = Counting::new(&world, |call, number| (SECOND, Ok(issue(call, number))));
        let store = MemoryStore::new();
        let tokens = manager(&world, &client(&concur), 0, store.clone());
        let at = Arc::clone(&world);
        world.spawn(0, async move {
            let access = tokens.access_token().await.unwrap();
            assert_eq!(access.secret(), "access-1");
            assert!(at.passed() > ASLEEP);
            let left = access.expires_at() - crate::time::OffsetDateTime::from(Watch(Arc::clone(&at)).now());
            assert!(left > HOUR - MINUTE, "{left}");
            at.note("served");
        });
        let is_sent = || concur.requests().len() == 1;
        suspended_once(&world, || if is_on_its_way { is_sent() } else { has_token(&store) });
        assert_eq!(locked(&world.diary).last().unwrap().1, "served");
        assert_eq!(concur.requests().len(), 2);
    }
}

/// The process is suspended right after a save. When it goes on, a caller looks, finds that another process has replaced the token,
/// and joins the flight that has saved it.
#[test]
fn what_was_replaced_while_its_flight_was_suspended_is_not_served() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, number| (SECOND, Ok(issue(call, number))));
    let store = MemoryStore::new();
    let slow = Slow { store: store.clone(), world: Arc::clone(&world), is_slow: Arc::default() };
    let is_slow = Arc::clone(&slow.is_slow);
    let tokens = manager(&world, &client(&concur), 0, slow);
    let starting = tokens.clone();
    world.spawn(0, async move { drop(starting.access_token().await) });
    let (theirs, later) = (store.clone(), Watch(Arc::clone(&world)).sleep(Duration::from_secs(3600)));
    world.spawn(1, async move {
        later.await;
        let expired = r#"{"refresh_token": "theirs", "refreshTokenExpiresAt": 1000000000}"#;
        let expired = RefreshTokenObject::from_json(expired).unwrap();
        theirs.save(&expired, &StoreLock::new(())).await.unwrap();
    });
    // Before the flight, so that it also goes on before the flight does.
    let (at, woken) = (Arc::clone(&world), Watch(Arc::clone(&world)).sleep(3 * SECOND));
    world.spawn(0, async move {
        woken.await;
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), "refresh-1");
        at.note("served");
    });
    suspended_once(&world, || {
        let has_saved = has_token(&store);
        // From the request on, so that it is the save that is slow.
        is_slow.store(!has_saved && concur.requests().len() == 1, Ordering::Relaxed);
        has_saved
    });
    assert_eq!(locked(&world.diary).last().unwrap().1, "served");
}

/// A token of another hour in a store that is slow to read, and a second caller who renews meanwhile.
fn while_a_caller_looks(
    answer: impl Fn(&OutgoingCall<'_>, usize) -> Response + Send + Sync + 'static,
    then: impl FnOnce(Result<RefreshTokenObject, Error>) + Send + 'static,
) {
    let world = World::new(seed());
    let concur = Counting::new(&world, move |call, number| (SECOND, Ok(answer(call, number))));
    let is_slow = Arc::new(AtomicBool::new(false));
    let store = MemoryStore::with(token(&world, HOUR));
    let store = Slow { store, world: Arc::clone(&world), is_slow: Arc::clone(&is_slow) };
    let tokens: TokenManager = manager(&world, &client(&concur), 0, store);
    let at = Arc::clone(&world);
    world.spawn(0, async move {
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), "refresh");
        is_slow.store(true, Ordering::Relaxed);
        let (renewing, later) = (tokens.clone(), Watch(Arc::clone(&at)).sleep(SECOND));
        at.spawn(0, async move {
            later.await;
            drop(renewing.refresh().await);
        });
        then(tokens.get_valid_refresh_token().await);
        assert!(at.passed() >= 8 * SECOND);
        at.note("served");
    });
    world.run();
    assert_eq!(locked(&world.diary).last().unwrap().1, "served");
}

#[test]
fn a_look_that_began_before_a_renewal_ends_with_the_renewed_token() {
    while_a_caller_looks(issue, |served| assert_eq!(served.unwrap().secret(), "refresh-0"));
}

/// The refusal is noted in the store, and what is read of the note is older.
#[test]
fn a_look_that_began_before_a_refusal_does_not_forget_it() {
    let refuse = |call: &OutgoingCall<'_>, _| match call.grant_type() {
        Some("refresh_token") => call.reply(400, &json!({"code": 108, "error": "invalid_grant"})),
        _ => call.reply(503, &json!({})),
    };
    while_a_caller_looks(refuse, |served| {
        let error = served.unwrap_err();
        assert!(error.is_transient(), "{error}");
    });
}

/// Another process renews during the look, and the caller's own flight finds that, but cannot renew.
#[test]
fn what_a_flight_has_found_before_it_failed_comes_before_what_its_caller_looked_at() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, number| {
        // By the end of the look its access token has expired, so that its refresh token may be renewed.
        let issued = json!({"refresh_token": "new", "access_token": "new", "expires_in": 5});
        let answer = if number == 0 { call.reply(200, &issued) } else { call.reply(503, &json!({})) };
        (SECOND, Ok(answer))
    });
    let store = MemoryStore::with(due(&world));
    let theirs = manager(&world, &client(&concur), 0, store.clone());
    let slow = Slow { store, world: Arc::clone(&world), is_slow: Arc::default() };
    let is_slow = Arc::clone(&slow.is_slow);
    let always = 200 * 24 * HOUR;
    let ours = builder(&world, &client(&concur), 0).store(slow).refresh_token_margin(always).build().unwrap();
    let at = Arc::clone(&world);
    world.spawn(0, async move {
        // To know whose tokens these are.
        assert!(ours.read_status().await.refresh_token_valid);
        is_slow.store(true, Ordering::Relaxed);
        let later = Watch(Arc::clone(&at)).sleep(SECOND);
        let renewing = at.clone();
        at.spawn(0, async move {
            later.await;
            assert_eq!(theirs.get_valid_refresh_token().await.unwrap().secret(), "new");
            renewing.note("renewed");
        });
        assert_eq!(ours.get_valid_refresh_token().await.unwrap().secret(), "new");
        assert!(!is_slow.load(Ordering::Relaxed) && at.passed() >= 8 * SECOND);
        at.note("served");
    });
    world.run();
    let diary: Vec<_> = locked(&world.diary).iter().map(|(_, what)| what.clone()).collect();
    assert_eq!(diary, ["renewed", "served"]);
    assert_eq!(concur.requests().len(), 2);
}
