//! Thousands of simulated processes on one thread: one company, one store, one Concur, and a seed that repeats the run.
//!
//! Always: the code that runs is the code of a program; simulated are only the time, chance, threads, the network and the
//! disk. A failure prints the seed; `CONCUR_AUTH_SEED` repeats it.

mod a_day;
mod at_random;
mod calendar;
mod chaos;
mod crowd;
mod kept_alive;
mod one_host;
mod out_of_date;
mod parties;
mod wall_clock;
mod world;
mod years;

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use self::{
    parties::{Concur, Disk, Line},
    world::{Crowded, Watch, World},
};
use super::{
    need::{Need, Outcome},
    renewal::fly,
    single_flight::Join,
};
use crate::{
    Clock as _, CredentialSource, Credentials, Error, ErrorKind, MemoryStore, OAuthClient,
    RefreshTokenObject, TokenManager, TokenStore as _, caught::locked, machine::Machine, seed::seed,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A process of its own, on the same store and the same Concur.
fn process(world: &Arc<World>, number: usize, concur: &Arc<Concur>, store: Disk) -> TokenManager {
    process_on(world.machine(number), number, concur, store)
}

fn process_on(machine: Machine, number: usize, concur: &Arc<Concur>, store: Disk) -> TokenManager {
    let credentials = Credentials::new("app", "secret").company("company", "request token");
    TokenManager::builder()
        .credentials(credentials)
        .base_uri("https://us.api.concursolutions.com")
        .store(store)
        .oauth_client(OAuthClient::on(Line { concur: Arc::clone(concur), process: number }))
        .machine(machine)
        .build()
        .unwrap()
}

/// A day in which each of many processes asks for an access token or the refresh token now and then.
fn a_day(seed: u64, processes: usize) -> (Arc<World>, Arc<Concur>) {
    let world = World::new(seed);
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    for number in 0..processes {
        let (disk, at, asked) = (disk.clone(), Arc::clone(&world), Arc::clone(&concur));
        let tokens = process(&world, number, &concur, disk.clone());
        world.spawn(number, async move {
            while at.passed() < 24 * HOUR {
                Watch(Arc::clone(&at)).sleep(at.up_to(4 * HOUR)).await;
                let begun = at.passed();
                if locked(&at.dice).bool() {
                    let access = tokens.access_token().await.unwrap();
                    assert!(at.passed() < asked.issued_at(access.secret()) + HOUR, "an expired access token");
                } else {
                    let refresh = tokens.get_valid_refresh_token().await.unwrap();
                    let replaced = disk.replaced_at(refresh.secret());
                    assert!(replaced.is_none_or(|at| begun <= at), "a refresh token that was rotated away");
                }
                at.note(format!("{number} was served"));
            }
        });
    }
    world.run();
    (world, concur)
}

#[test]
fn two_thousand_processes_send_one_request_an_hour() {
    let (_, concur) = a_day(seed(), 2000);
    assert_eq!(concur.count("password"), 1);
    assert_eq!(concur.refusals.load(Ordering::Relaxed), 0);
    // After the day the processes stop one by one.
    let mut times: Vec<_> = concur.grants().into_iter().map(|(at, _)| at).collect();
    times.retain(|at| *at < 24 * HOUR);
    // A token is renewed in the last five of its 60 minutes, and not before; a process asks every few seconds.
    assert!(*times.last().unwrap() > 23 * HOUR, "{times:?}");
    for (before, next) in times.iter().zip(&times[1..]) {
        assert!((54 * MINUTE..61 * MINUTE).contains(&(*next - *before)), "{before:?} {next:?}");
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let seed = seed();
    let diary = |seed| locked(&a_day(seed, 50).0.diary).clone();
    let (first, second) = (diary(seed), diary(seed));
    assert!(first.len() > 500, "{}", first.len());
    assert_eq!(first, second);
    assert_ne!(first, diary(seed.wrapping_add(1)));
}

/// Where refresh tokens stay the same, no kill can lose one, so each kill costs one request at most: that of a renewal
/// which was begun and not saved.
#[test]
fn processes_that_are_killed_at_any_moment_leave_the_rest_signed_in() {
    const KILLS: usize = 10;
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, false), Disk::new(&world));
    concur.kills.store(KILLS, Ordering::Relaxed);
    let survivors = Arc::new(AtomicUsize::new(0));
    for number in 0..500 {
        let tokens = process(&world, number, &concur, disk.clone());
        let (at, survived) = (Arc::clone(&world), Arc::clone(&survivors));
        world.spawn(number, async move {
            while at.passed() < 24 * HOUR {
                Watch(Arc::clone(&at)).sleep(at.up_to(2 * HOUR)).await;
                tokens.access_token().await.unwrap();
                tokens.get_valid_refresh_token().await.unwrap();
            }
            survived.fetch_add(1, Ordering::Relaxed);
        });
    }
    world.run();
    assert_eq!(concur.kills.load(Ordering::Relaxed), 0, "all kills have happened");
    assert_eq!(survivors.load(Ordering::Relaxed), 500 - KILLS);
    let (grants, lifetimes) = (concur.grants().len(), world.passed().as_secs() / (54 * 60));
    assert!(grants <= usize::try_from(lifetimes).unwrap() + 1 + KILLS, "{grants} in {lifetimes}");
    assert!(concur.count("password") <= 1 + KILLS, "only a kill around the first sign-in costs another");
    assert_eq!(concur.refusals.load(Ordering::Relaxed), 0);
}

/// Many callers of a few processes at once: first the store is empty, then the token has expired.
#[test]
fn a_stampede_costs_one_request_and_sees_only_what_is_saved() {
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    for number in 0..20 {
        let tokens = process(&world, number, &concur, disk.clone());
        for _ in 0..40 {
            let (at, disk, tokens) = (Arc::clone(&world), disk.clone(), tokens.clone());
            world.spawn(number, async move {
                for hour in 0..2 {
                    let start = hour * (HOUR + MINUTE) + at.up_to(Duration::from_secs(3));
                    Watch(Arc::clone(&at)).sleep(start.saturating_sub(at.passed())).await;
                    let access = tokens.access_token().await.unwrap();
                    // Panics if the refresh token of the same reply was never saved.
                    disk.replaced_at(&access.secret().replace("access", "refresh"));
                }
            });
        }
    }
    world.run();
    assert_eq!(concur.grants().len(), 2);
}

/// As a worker does that has locked many companies in one statement.
#[test]
fn a_flight_begins_with_a_lock_that_is_already_held() {
    for is_waiting in [false, true] {
        let world = World::new(seed());
        let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
        let own = disk.counting_apart();
        let (holder, sibling) =
            (process(&world, 1, &concur, own.clone()), process(&world, 2, &concur, disk.clone()));
        let at = Arc::clone(&world);
        let pause = move |time| Watch(Arc::clone(&at)).sleep(time);
        let (waiting, waited) = (holder.clone(), pause.clone());
        world.spawn(1, async move {
            let lock = own.store.try_lock().await.unwrap().unwrap();
            waited(MINUTE / 2).await;
            // One flight may be under way by now, and wait for this very lock.
            holder.0.cache.store.hand_in(lock, holder.0.machine.clock.monotonic()).await;
            let outcome = fly(&holder.0, &Need::KeepAlive, Join::Any).await;
            assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
            let taken = own.locks.load(Ordering::Relaxed);
            assert_eq!(taken > 0, is_waiting, "the flight asked the store for the lock {taken} times");
        });
        if is_waiting {
            world.spawn(1, async move { drop(waiting.access_token().await.unwrap()) });
        }
        // Another process waits meanwhile, and is served what the flight brings.
        world.spawn(2, async move {
            pause(MINUTE / 4).await;
            drop(sibling.access_token().await.unwrap());
        });
        world.run();
        assert_eq!(concur.grants().len(), 1);
    }
}

/// A disk that is full for a while: the token is handed out, its lock is kept, and the background saves it.
#[test]
fn a_token_that_could_not_be_saved_is_saved_later_and_spent_by_no_other_process() {
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    disk.failing.store(8, Ordering::Relaxed);
    let (first, second) =
        (process(&world, 1, &concur, disk.clone()), process(&world, 2, &concur, disk.clone()));
    let stored = disk.store.clone();
    let at = Arc::clone(&world);
    world.spawn(1, async move {
        let handed_out = first.get_valid_refresh_token().await.unwrap();
        assert!(first.status().unsaved);
        assert!(stored.load().await.unwrap().is_none() && stored.try_lock().await.unwrap().is_none());
        Watch(at).sleep(MINUTE).await;
        assert!(!first.status().unsaved);
        assert_eq!(stored.load().await.unwrap().unwrap().secret(), handed_out.secret());
    });
    let later = Watch(Arc::clone(&world)).sleep(Duration::from_millis(200));
    world.spawn(2, async move {
        // Not before the first process has the lock.
        later.await;
        drop(second.get_valid_refresh_token().await.unwrap());
    });
    world.run();
    assert_eq!(concur.grants().len(), 1);
}

/// What a caller waits for a store that never answers: one call's deadline, and no longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Neither a renewal nor a look at the store holds up its caller.
#[test]
fn a_store_that_never_answers_costs_a_caller_ten_seconds() {
    for held_before in [false, true] {
        let world = World::new(seed());
        let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
        let tokens = process(&world, 1, &concur, disk.clone());
        let at = Arc::clone(&world);
        world.spawn(1, async move {
            if held_before {
                tokens.get_valid_refresh_token().await.unwrap();
            }
            disk.is_silent.store(true, Ordering::Relaxed);
            let begun = at.passed();
            let mut errors = vec![tokens.get_valid_refresh_token().await.unwrap_err()];
            assert_eq!(at.passed() - begun, DEADLINE);
            if !held_before {
                errors.push(tokens.access_token().await.unwrap_err());
            }
            errors.push(tokens.refresh().await.unwrap_err());
            assert_eq!(at.passed() - begun, DEADLINE * u32::try_from(errors.len()).unwrap());
            for error in errors {
                assert!(error.is_transient());
                assert!(error.to_string().contains(" did not answer within 10 s; "), "{error}");
            }
            disk.is_silent.store(false, Ordering::Relaxed);
            drop(tokens.refresh().await.unwrap());
            at.note("served");
        });
        world.run();
        assert_eq!(locked(&world.diary).last().unwrap().1, "served");
    }
}

#[derive(Debug)]
struct SilentSource;

impl CredentialSource for SilentSource {
    async fn credentials(&self) -> Result<Credentials, Error> {
        pending().await
    }
}

#[test]
fn a_credential_source_that_never_answers_costs_a_caller_half_a_minute() {
    let world = World::new(seed());
    let at = Arc::clone(&world);
    world.spawn(1, async move {
        let builder = || TokenManager::builder().credentials(SilentSource).machine(at.machine(1));
        let tokens = builder().store(MemoryStore::new()).build().unwrap();
        let app = builder().build_for_app().unwrap();
        let errors = [tokens.access_token().await.unwrap_err(), app.access_token().await.unwrap_err()];
        assert_eq!(at.passed(), MINUTE);
        for error in errors {
            assert!(error.is_transient());
            let source = std::any::type_name::<SilentSource>();
            assert_eq!(
                error.to_string(),
                format!(
                    "the credential source {source} did not answer within 30 s; check that its server runs and can be reached"
                )
            );
        }
        at.note("told");
    });
    world.run();
    assert_eq!(locked(&world.diary).last().unwrap().1, "told");
}

/// The calls of the store itself take about half as long as the pauses between them, and count.
#[test]
fn the_lock_is_waited_for_two_minutes_however_slow_the_store_is() {
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    let tokens = process(&world, 1, &concur, disk.clone());
    let at = Arc::clone(&world);
    world.spawn(1, async move {
        let _held = disk.store.try_lock().await.unwrap().unwrap();
        let error = tokens.access_token().await.unwrap_err();
        assert!(error.to_string().starts_with("waited 120 s for the lock of "), "{error}");
        let waited = at.passed();
        assert!((2 * MINUTE..2 * MINUTE + Duration::from_secs(1)).contains(&waited), "{waited:?}");
        at.note("told");
    });
    world.run();
    assert_eq!(locked(&world.diary).last().unwrap().1, "told");
}

/// Whether the save was done is not known then, so it is repeated, and its lock is kept until it has been answered.
#[test]
fn a_save_whose_answer_is_lost_is_repeated_in_the_background() {
    for was_done in [false, true] {
        let world = World::new(seed());
        let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
        let tokens = process(&world, 1, &concur, disk.clone());
        let lost = if was_done { &disk.unanswered } else { &disk.stuck };
        lost.store(1, Ordering::Relaxed);
        let ended = Arc::clone(&world);
        world.spawn(1, async move {
            let handed_out = tokens.get_valid_refresh_token().await.unwrap();
            assert!(tokens.status().unsaved);
            let saved = |held: Option<RefreshTokenObject>| held.map(|token| token.secret().to_owned());
            let in_store = saved(disk.store.load().await.unwrap());
            assert_eq!(in_store, was_done.then(|| handed_out.secret().to_owned()));
            assert!(disk.store.try_lock().await.unwrap().is_none(), "the lock is kept");

            Watch(Arc::clone(&ended)).sleep(MINUTE).await;
            assert!(!tokens.status().unsaved);
            assert_eq!(saved(disk.store.load().await.unwrap()).as_deref(), Some(handed_out.secret()));
            assert_eq!(disk.saves(), if was_done { 2 } else { 1 });
            assert!(disk.store.try_lock().await.unwrap().is_some(), "the lock is free again");
            ended.note("saved");
        });
        world.run();
        assert_eq!(locked(&world.diary).last().unwrap().1, "saved");
        assert_eq!(concur.grants().len(), 1);
    }
}

/// A caller who has a valid token is served it then, and the others are told; a flight that no caller waits for any more
/// sends nothing.
#[test]
fn a_caller_waits_a_minute_at_most_for_a_flight_to_begin() {
    let world = World::new(seed());
    let (concur, disk) = (Concur::new(&world, true), Disk::new(&world));
    let queue = Arc::new(Mutex::new(3 * MINUTE / 2));
    let mut machine = world.machine(1);
    machine.executor = Arc::new(Crowded(machine.executor, Arc::clone(&queue)));
    let (tokens, asked) = (process_on(machine, 1, &concur, disk), Arc::clone(&concur));
    let at = Arc::clone(&world);
    world.spawn(1, async move {
        let pause = |time| Watch(Arc::clone(&at)).sleep(time);
        for _ in 0..2 {
            // The second caller joins a flight that is late already, and is told at once.
            let error = tokens.access_token().await.unwrap_err();
            assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Unavailable, true));
            assert_eq!(
                error.to_string(),
                "the renewal has waited 60 s for its turn and goes on waiting, because as many renewals as this process \
                 runs at once (64) are under way; let fewer managers renew at once, and find out whether a token store \
                 or credential source blocks its thread, then try again"
            );
            assert_eq!(at.passed(), MINUTE);
        }
        pause(MINUTE).await;
        assert_eq!(asked.grants().len(), 0, "nothing was sent");

        *locked(&queue) = MINUTE / 2;
        let access = tokens.access_token().await.unwrap();
        // In the advisory window the first caller carries the renewal, and the next is served meanwhile.
        pause(57 * MINUTE).await;
        *locked(&queue) = 3 * MINUTE / 2;
        let begun = at.passed();
        for _ in 0..2 {
            assert_eq!(tokens.access_token().await.unwrap().secret(), access.secret());
            assert_eq!(at.passed(), begun + MINUTE);
        }
    });
    world.run();
    assert_eq!(concur.grants().len(), 1);
}
