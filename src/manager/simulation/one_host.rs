//! Many managers on one client: what a host asks for, and how slow it is, is known to all of them.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use serde_json::json;

use super::{
    HOUR, MINUTE,
    crowd::{Counting, asks_for_a_pause, client, manager, stored, token, tokens},
    parties::Disk,
    world::{Watch, World},
};
use crate::{Clock as _, Error, ErrorKind, MemoryStore, TokenManager, caught::locked, seed::seed};

const SECOND: Duration = Duration::from_secs(1);

type Outcomes = Arc<Mutex<Vec<Result<Duration, Error>>>>;

/// All ask in the same instant; the results are when each was served, or its error.
fn all_ask(world: &Arc<World>, managers: Vec<TokenManager>) -> Outcomes {
    let outcomes = Outcomes::default();
    for (number, manager) in managers.into_iter().enumerate() {
        let (at, outcomes) = (Arc::clone(world), Arc::clone(&outcomes));
        world.spawn(number, async move {
            let outcome = manager.access_token().await.map(|_| at.passed());
            locked(&outcomes).push(outcome);
        });
    }
    outcomes
}

#[test]
fn no_more_requests_run_at_once_than_the_client_allows() {
    for (limit, at_once) in [(None, 64), (Some(5), 5), (Some(0), 1)] {
        let world = World::new(seed());
        let concur = Counting::new(&world, |call, _| (SECOND / 10, Ok(tokens(call))));
        let client = client(&concur);
        let client = limit.map_or(client.clone(), |limit| client.max_concurrent_requests(limit));
        let managers = (0..200).map(|number| manager(&world, &client, number, MemoryStore::new())).collect();
        let outcomes = all_ask(&world, managers);
        world.run();
        assert!(locked(&outcomes).iter().all(Result::is_ok) && locked(&outcomes).len() == 200);
        assert_eq!((concur.requests().len(), concur.most_under_way()), (200, at_once));
    }
}

#[test]
fn a_request_that_gets_no_turn_within_a_minute_fails_and_its_lock_is_free_again() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, _| (25 * SECOND, Ok(tokens(call))));
    let client = client(&concur).max_concurrent_requests(1);
    let stores: Vec<_> = (0..4).map(|_| Disk::new(&world)).collect();
    let managers = stores.iter().enumerate().map(|(n, store)| manager(&world, &client, n, store.clone()));
    let outcomes = all_ask(&world, managers.collect());
    world.run();
    assert_eq!(concur.requests().len(), 3);
    let outcomes = locked(&outcomes);
    let error = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert!(error.is_transient() && !error.is_held_back());
    assert_eq!(
        error.to_string(),
        "sent no token request to us.api.concursolutions.com: it waited 60 s for its turn, because all turns at that host \
         were taken (1 at once); try again later, or allow more with OAuthClient::max_concurrent_requests"
    );
}

/// It ends within the minute in which its callers wait for it.
#[test]
fn with_a_valid_token_in_hand_a_request_waits_half_a_minute_for_its_turn() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, _| (29 * SECOND, Ok(tokens(call))));
    let client = client(&concur).max_concurrent_requests(1);
    let empty = (0..3).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
    let _others = all_ask(&world, empty);
    let (at, store) = (Arc::clone(&world), stored(&world, 4 * MINUTE));
    let waiting = manager(&world, &client, 3, store);
    world.spawn(3, async move {
        // The store is looked at by the first call.
        waiting.get_valid_refresh_token().await.unwrap();
        Watch(Arc::clone(&at)).sleep(SECOND).await;
        let begun = at.passed();
        waiting.access_token().await.unwrap();
        let waited = at.passed() - begun;
        assert!((30 * SECOND..31 * SECOND).contains(&waited), "{waited:?}");
        assert!(waiting.status().last_error.unwrap().message.contains("it waited 30 s for its turn"));
    });
    world.run();
}

#[test]
fn after_three_time_outs_a_host_gets_one_request_at_a_time_until_it_answers() {
    let world = World::new(seed());
    // The first five hang; the sixth is refused, after ten seconds.
    let concur = Counting::new(&world, |call, before| match before {
        0..5 => {
            let (longest, failure) = call.no_answer();
            (longest, Err(failure))
        }
        5 => (10 * SECOND, Ok(call.reply(400, &json!({"code": 14, "error": "invalid_grant"})))),
        _ => (SECOND, Ok(tokens(call))),
    });
    let client = client(&concur);
    let at_first: Vec<_> = (0..3).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
    let slow = all_ask(&world, at_first);
    let later: Vec<_> = (3..13).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
    let (then, pause) = (Arc::clone(&world), Watch(Arc::clone(&world)).sleep(31 * SECOND));
    let fast: Arc<Mutex<Option<Outcomes>>> = Arc::default();
    let asked = Arc::clone(&fast);
    world.spawn(0, async move {
        pause.await;
        *locked(&asked) = Some(all_ask(&then, later));
    });
    world.run();
    assert!(locked(&slow).iter().all(Result::is_err));
    let times: Vec<_> = concur.requests();
    let at = |request: usize| times[request].as_secs();
    assert_eq!((at(2), at(3), at(4), at(5)), (0, 31, 61, 91), "one at a time");
    // The others waited for a minute, and were not sent.
    assert_eq!(times.len(), 5 + 1);
    let fast = locked(&fast).take().unwrap();
    let errors: Vec<_> = locked(&fast).iter().filter_map(|outcome| outcome.clone().err()).collect();
    assert_eq!(errors.len(), 10);
    assert!(
        errors.iter().any(|error| error.to_string().ends_with(
            "it waited 60 s for its turn, because that host did not answer the last 5 requests in time, and gets one at a \
             time until it answers; try again later"
        )),
        "{errors:?}"
    );
    // It has answered.
    let more = (13..23).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
    let served = all_ask(&world, more);
    world.run();
    assert!(locked(&served).iter().all(Result::is_ok));
    assert_eq!((times.len() + 10, concur.most_under_way()), (concur.requests().len(), 10));
}

/// One request, and no store is locked for it; who holds something valid is served.
#[test]
fn a_hundred_managers_believe_the_pause_that_one_was_told() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, before| {
        let told = if before == 0 { asks_for_a_pause(call, 429, &json!({}), 3600) } else { tokens(call) };
        (SECOND, Ok(told))
    });
    let client = client(&concur);
    let first = manager(&world, &client, 0, MemoryStore::new());
    world.spawn(0, async move {
        let error = first.access_token().await.unwrap_err();
        assert_eq!(error.retry_after(), Some(HOUR));
    });
    let disk = Disk::new(&world);
    for number in 1..100 {
        let own = Disk { store: MemoryStore::new(), ..disk.clone() };
        let holds_a_token = number % 2 == 0;
        // In the last minute, where callers wait for a renewal.
        let waiting = manager(&world, &client, number, own.clone());
        let at = Arc::clone(&world);
        world.spawn(number, async move {
            if holds_a_token {
                // The first of its calls brings it into memory.
                waiting.adopt(token(&at, MINUTE / 2 + 5 * SECOND)).await.unwrap();
            }
            Watch(Arc::clone(&at)).sleep(5 * SECOND).await;
            let locks = own.locks.load(Ordering::Relaxed);
            for _ in 0..3 {
                let begun = at.passed();
                match waiting.access_token().await {
                    Ok(_) => assert!(holds_a_token && at.passed() == begun, "{number}"),
                    Err(error) => {
                        assert!(!holds_a_token && error.is_held_back());
                        let left = error.retry_after().unwrap();
                        assert!((HOUR - 10 * SECOND..HOUR).contains(&left), "{left:?}");
                        let seconds = left.as_secs_f64().ceil();
                        assert_eq!(
                            error.to_string(),
                            format!(
                                "us.api.concursolutions.com answered 429 Too Many Requests; try again later [not sent: \
                                 Concur asked for a pause; the next attempt is possible in {seconds} s]"
                            )
                        );
                        assert_eq!(waiting.status().last_error, None, "it is no failure of this manager's");
                    }
                }
            }
            waiting.refresh().await.unwrap_err();
            assert_eq!(own.locks.load(Ordering::Relaxed), locks, "the store was locked for nothing");
            // And afterwards all is well.
            Watch(Arc::clone(&at)).sleep(HOUR).await;
            waiting.access_token().await.unwrap();
        });
    }
    world.run();
    assert_eq!(concur.requests().iter().filter(|at| **at < HOUR).count(), 1);
    assert_eq!(concur.requests().len(), 100);
}

/// As for the end of a pause that it was told itself.
#[test]
fn a_flight_under_way_waits_for_the_end_of_a_short_pause() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, before| {
        let reply = match before {
            0 => call.reply(503, &json!({})),
            1 => asks_for_a_pause(call, 503, &json!({}), 10),
            _ => tokens(call),
        };
        (SECOND, Ok(reply))
    });
    let client = client(&concur);
    let managers = (0..2).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
    let outcomes = all_ask(&world, managers);
    world.run();
    assert!(locked(&outcomes).iter().all(Result::is_ok));
    let times = concur.requests();
    assert_eq!(times.len(), 4);
    assert!(times[2..].iter().all(|at| *at >= 11 * SECOND), "{times:?}");
}

#[test]
fn with_a_code_a_pause_concerns_one_principal_only() {
    for status in [503, 400] {
        let world = World::new(seed());
        let concur = Counting::new(&world, move |call, _| {
            let is_ours = call.field("username") == Some("company 0");
            let maintenance = json!({"code": 134, "error": "invalid_request"});
            let reply =
                if is_ours { asks_for_a_pause(call, status, &maintenance, 3600) } else { tokens(call) };
            (SECOND, Ok(reply))
        });
        let client = client(&concur);
        let managers: Vec<_> = (0..10).map(|n| manager(&world, &client, n, MemoryStore::new())).collect();
        let ours = managers[0].clone();
        let outcomes = all_ask(&world, managers);
        world.run();
        assert_eq!(locked(&outcomes).iter().filter(|outcome| outcome.is_ok()).count(), 9);
        world.spawn(0, async move {
            let error = ours.access_token().await.unwrap_err();
            assert!(error.is_held_back() && error.to_string().ends_with("s] (code 134)"), "{error}");
        });
        world.run();
        assert_eq!(concur.requests().len(), 10);
    }
}

/// The slowest flight there is: three slow requests, and saves.
#[test]
fn the_lock_is_waited_for_longer_than_a_flight_can_hold_it() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, before| match before {
        0 => (14 * SECOND, Ok(call.reply(503, &json!({})))),
        1 => (29 * SECOND, Ok(call.reply(400, &json!({"code": 108, "error": "invalid_grant"})))),
        2 => {
            let elsewhere = json!({"code": 16, "geolocation": "https://eu.api.concursolutions.com"});
            (14 * SECOND, Ok(call.reply(400, &elsewhere)))
        }
        _ => (29 * SECOND, Ok(tokens(call))),
    });
    let client = client(&concur);
    let disk = Disk { store: stored(&world, Duration::ZERO), ..Disk::new(&world) };
    let siblings = (0..2).map(|_| manager(&world, &client, 0, disk.clone())).collect();
    let outcomes = all_ask(&world, siblings);
    world.run();
    for outcome in &*locked(&outcomes) {
        let served = outcome.as_ref().unwrap();
        assert!((86 * SECOND..91 * SECOND).contains(served), "{served:?}");
    }
    assert_eq!(concur.requests().len(), 4);
}

/// The sign-in that follows takes its time, and until then the token looks valid by its expiry.
#[test]
fn a_token_that_concur_has_just_refused_is_served_to_no_caller_meanwhile() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, _| match call.grant_type() {
        Some("refresh_token") => {
            (SECOND, Ok(call.reply(400, &json!({"code": 108, "error": "invalid_grant"}))))
        }
        _ => (
            20 * SECOND,
            Ok(call
                .reply(200, &json!({"refresh_token": "another", "access_token": "a", "expires_in": 3600}))),
        ),
    });
    let waiting = manager(&world, &client(&concur), 0, stored(&world, HOUR));
    let (at, refreshing) = (Arc::clone(&world), waiting.clone());
    world.spawn(0, async move {
        assert_eq!(waiting.get_valid_refresh_token().await.unwrap().secret(), "refresh", "valid so far");
        at.spawn(0, async move { drop(refreshing.refresh().await.unwrap()) });
        Watch(Arc::clone(&at)).sleep(5 * SECOND).await;
        assert_eq!(waiting.get_valid_refresh_token().await.unwrap().secret(), "another");
        at.note("served");
    });
    world.run();
    assert_eq!(locked(&world.diary).last().unwrap().1, "served");
    assert_eq!(concur.requests().len(), 2);
}

/// Each says that it came too late, not that Concur sent it in circles or refused it.
#[test]
fn what_there_is_no_time_for_says_so() {
    let elsewhere = || json!({"code": 16, "geolocation": "https://eu.api.concursolutions.com"});
    let refused = || json!({"code": 108, "error": "invalid_grant"});
    let detour_to =
        |host: &str| json!({"code": 16, "geolocation": format!("https://{host}.api.concursolutions.com")});
    for (replies, requests, message) in [
        (
            [(14, 503, json!({})), (29, 400, detour_to("us2")), (29, 400, elsewhere())],
            3,
            "us2.api.concursolutions.com says that the principal lives at eu.api.concursolutions.com, but the requests took \
             72 s, so there was no time left to ask there; try again (code 16)",
        ),
        (
            [(14, 503, json!({})), (29, 400, elsewhere()), (29, 400, refused())],
            3,
            "sent no token request to us.api.concursolutions.com: the requests before it took 72 s; try again",
        ),
    ] {
        let world = World::new(seed());
        let concur = Counting::new(&world, move |call, before| {
            let (seconds, status, body) = &replies[before];
            (*seconds * SECOND, Ok(call.reply(*status, body)))
        });
        let slow = manager(&world, &client(&concur), 0, stored(&world, Duration::ZERO));
        let outcomes = all_ask(&world, vec![slow]);
        world.run();
        let error = locked(&outcomes).pop().unwrap().unwrap_err();
        let shown = error.to_string();
        // Without the pause before the second attempt, which chance decides.
        let is_same = (72..74).any(|seconds| shown == message.replace("72 s", &format!("{seconds} s")));
        assert!(is_same, "{shown}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(concur.requests().len(), requests);
    }
}
