//! Thousands of managers kept alive in one process: how many requests each second sees.

use std::{ops::Range, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    HOUR, MINUTE,
    crowd::{Counting, builder, client, manager, stored, tokens},
    wall_clock::WallClock,
    world::{Watch, World},
};
use crate::{Clock as _, KeepAlive, MemoryStore, TokenManager, seed::seed};

const SECOND: Duration = Duration::from_secs(1);
const MANAGERS: usize = 1000;

/// All started in the same instant, with access tokens that were issued together and have this long to live, or with none.
fn kept_alive(managers: usize, left: Option<Duration>, time: Duration) -> Vec<usize> {
    let world = World::new(seed());
    let at = Arc::clone(&world);
    let concur = Counting::new(&world, move |call, _| (at.up_to(SECOND), Ok(tokens(call))));
    let client = client(&concur);
    let managers: Vec<_> = (0..managers)
        .map(|number| {
            let store = left.map_or_else(MemoryStore::new, |left| stored(&world, left));
            manager(&world, &client, number, store)
        })
        .collect();
    let end = Watch(Arc::clone(&world)).sleep(time);
    world.spawn(0, async move {
        let mut kept = Vec::new();
        for manager in &managers {
            kept.push(manager.keep_alive().await.unwrap());
        }
        end.await;
        for manager in &managers {
            assert!(manager.status().access_token_valid);
        }
    });
    world.run();
    let mut seconds = concur.by_second();
    seconds.resize(usize::try_from(time.as_secs()).unwrap().max(seconds.len()), 0);
    seconds
}

fn most(seconds: &[usize], range: Range<Duration>) -> usize {
    let [from, to] = [range.start, range.end].map(|time| usize::try_from(time.as_secs()).unwrap());
    *seconds[from..to].iter().max().unwrap()
}

/// Not one of the first hours' minutes stands out: 1,000 renewals in some 51 minutes make 20 in each, give or take 5.
fn is_even(seconds: &[usize], range: Range<Duration>) {
    let [from, to] = [range.start, range.end].map(|time| usize::try_from(time.as_secs()).unwrap());
    for (minute, of_minute) in seconds[from..to].chunks(60).enumerate() {
        let requests: usize = of_minute.iter().sum();
        assert!(requests <= 50, "{requests} in minute {minute}");
    }
}

#[test]
fn tokens_that_were_issued_together_are_not_renewed_together() {
    let seconds = kept_alive(MANAGERS, Some(HOUR), 3 * HOUR);
    assert_eq!(most(&seconds, Duration::ZERO..MINUTE), 0, "they are valid");
    assert!(most(&seconds, MINUTE..3 * HOUR) <= 12, "{}", most(&seconds, MINUTE..3 * HOUR));
    is_even(&seconds, MINUTE..3 * HOUR);
    let all: usize = seconds.iter().sum();
    assert!(all <= MANAGERS * 4, "{all}");
}

#[test]
fn managers_that_start_without_a_token_spread_over_a_minute_and_then_over_the_hour() {
    let seconds = kept_alive(MANAGERS, None, 2 * HOUR);
    assert_eq!(seconds[..61].iter().sum::<usize>(), MANAGERS);
    assert!(most(&seconds, Duration::ZERO..MINUTE) <= 45, "{}", most(&seconds, Duration::ZERO..MINUTE));
    assert!(most(&seconds, 2 * MINUTE..2 * HOUR) <= 12, "{}", most(&seconds, 2 * MINUTE..2 * HOUR));
    is_even(&seconds, 2 * MINUTE..2 * HOUR);
}

#[test]
fn tokens_that_are_about_to_expire_are_renewed_in_what_is_left_and_spread_afterwards() {
    let seconds = kept_alive(MANAGERS, Some(15 * MINUTE), 2 * HOUR);
    assert!(most(&seconds, Duration::ZERO..HOUR / 4) <= 40, "{}", most(&seconds, Duration::ZERO..HOUR / 4));
    assert!(most(&seconds, HOUR / 4..2 * HOUR) <= 12, "{}", most(&seconds, HOUR / 4..2 * HOUR));
    is_even(&seconds, HOUR / 4..2 * HOUR);
}

#[test]
fn each_manager_asks_some_28_times_a_day() {
    let seconds = kept_alive(100, Some(HOUR), 24 * HOUR);
    let all: usize = seconds.iter().sum();
    assert!((27 * 100..=30 * 100).contains(&all), "{all}");
}

/// Clones of one manager, each with guards of its own.
#[test]
fn a_day_of_failures_costs_60_requests_however_many_guards_there_are() {
    for guards in [1, 20] {
        let world = World::new(seed());
        let concur = Counting::new(&world, |call, _| (SECOND, Ok(call.reply(503, &json!({})))));
        let tokens = manager(&world, &client(&concur), 0, stored(&world, 11 * MINUTE));
        let end = Watch(Arc::clone(&world)).sleep(24 * HOUR);
        world.spawn(0, async move {
            let mut kept: Vec<KeepAlive> = Vec::new();
            for _ in 0..guards {
                kept.push(tokens.clone().keep_alive().await.unwrap());
            }
            end.await;
        });
        world.run();
        let requests = concur.requests().len();
        assert!((24..=60).contains(&requests), "{requests} with {guards} guards");
    }
}

/// What happens to all at once, such as an outage, brings them together; what follows does not keep them so.
#[test]
fn after_an_outage_managers_neither_come_back_together_nor_stay_together() {
    let world = World::new(seed());
    let at = Arc::clone(&world);
    let concur = Counting::new(&world, move |call, _| {
        let is_down = (2 * HOUR..5 * HOUR).contains(&at.passed());
        (at.up_to(SECOND), Ok(if is_down { call.reply(503, &json!({})) } else { tokens(call) }))
    });
    let client = client(&concur);
    let managers: Vec<_> =
        (0..250).map(|number| manager(&world, &client, number, stored(&world, HOUR))).collect();
    let end = Watch(Arc::clone(&world)).sleep(9 * HOUR);
    world.spawn(0, async move {
        let mut kept = Vec::new();
        for manager in &managers {
            kept.push(manager.keep_alive().await.unwrap());
        }
        end.await;
        for manager in &managers {
            assert!(manager.status().access_token_valid);
        }
    });
    world.run();
    let seconds = concur.by_second();
    // Together they would be 250 in a second; by chance there are two on average at the worst time.
    assert!(most(&seconds, 2 * HOUR..8 * HOUR) <= 20, "{}", most(&seconds, 2 * HOUR..8 * HOUR));
}

/// Set back by less than a token's age, it makes the token look younger, and by more, as if it came from the future.
#[test]
fn a_clock_that_is_set_back_makes_no_access_token_live_longer() {
    let issued = |at: Duration| format!("access-{}", at.as_millis());
    let seed = seed();
    for minutes_back in [5, 12, 30, 45, 60, 24 * 60] {
        for is_down in [false, true] {
            let world = World::new(seed);
            let (at, answered) = (Arc::clone(&world), Arc::clone(&world));
            let set_at = 2 * HOUR + world.up_to(HOUR);
            let concur = Counting::new(&world, move |call, _| {
                let now = answered.passed();
                let reply =
                    json!({"refresh_token": "refresh", "access_token": issued(now), "expires_in": 3600});
                let is_down = is_down && now > set_at;
                (SECOND, Ok(call.reply(if is_down { 503 } else { 200 }, &reply)))
            });
            let clock = WallClock::new(&world);
            let tokens = builder(&world, &client(&concur), 0)
                .store(MemoryStore::new())
                .clock(clock.clone())
                .build()
                .unwrap();
            world.spawn(0, async move {
                let _kept = tokens.keep_alive().await.unwrap();
                Watch(Arc::clone(&at)).sleep(set_at).await;
                clock.set(-60_000 * minutes_back);
                while at.passed() < set_at + 3 * HOUR {
                    Watch(Arc::clone(&at)).sleep(MINUTE / 2).await;
                    let Some(access) = tokens.0.cache.fresh_access(tokens.0.now()) else { continue };
                    let age = at.passed() - issued_at(access.secret());
                    // It is looked at every minute, and renewed ahead of time by its age.
                    let longest = if is_down { HOUR + MINUTE + SECOND } else { 54 * MINUTE };
                    assert!(age < longest, "set back by {minutes_back} min: {age:?}");
                }
                assert_eq!(tokens.status().access_token_valid, !is_down);
            });
            world.run();
        }
    }
}

/// By less than an hour more than a pause was ago, which is over: the clock says that it is to come.
#[test]
fn after_a_clock_was_set_back_no_pause_from_before_holds_again() {
    let seed = seed();
    for (age, minutes_back) in [(25, 70), (45, 61), (45, 94), (45, 104)] {
        let world = World::new(seed);
        let (at, answered) = (Arc::clone(&world), Arc::clone(&world));
        let concur = Counting::new(&world, move |call, _| {
            let access = format!("access-{}", answered.passed().as_millis());
            let reply = json!({"refresh_token": "refresh", "access_token": access, "expires_in": 3600});
            (SECOND, Ok(call.reply(200, &reply)))
        });
        let clock = WallClock::new(&world);
        let builder = builder(&world, &client(&concur), 0).store(MemoryStore::new());
        let tokens = builder.clock(clock.clone()).build().unwrap();
        world.spawn(0, async move {
            let _kept = tokens.keep_alive().await.unwrap();
            let held = || tokens.0.cache.held().unwrap().access().unwrap().token.clone();
            Watch(Arc::clone(&at)).sleep(3 * HOUR).await;
            while at.passed() - issued_at(held().secret()) > (age + 1) * MINUTE {
                Watch(Arc::clone(&at)).sleep(MINUTE).await;
            }
            while at.passed() - issued_at(held().secret()) < age * MINUTE {
                Watch(Arc::clone(&at)).sleep(SECOND).await;
            }
            clock.set(-60_000 * minutes_back);
            Watch(Arc::clone(&at)).sleep(2 * MINUTE).await;
            let set_at = at.passed();
            while at.passed() < set_at + 3 * HOUR {
                let renewed = at.passed() - issued_at(held().secret());
                assert!(renewed < 54 * MINUTE, "at {age} min set back by {minutes_back}: {renewed:?}");
                Watch(Arc::clone(&at)).sleep(MINUTE / 2).await;
            }
        });
        world.run();
    }
}

fn issued_at(access: &str) -> Duration {
    Duration::from_millis(access.strip_prefix("access-").unwrap().parse().unwrap())
}

/// Set back, all tokens come from the future; set forward, some have expired, and some are in their last minutes. Either way
/// many are renewed within a minute, and at moments of their own from then on.
#[test]
fn after_a_clock_was_set_managers_do_not_stay_together() {
    let seed = seed();
    for minutes in [-48 * 60, -2 * 60, 30, 48 * 60] {
        let world = World::new(seed);
        let at = Arc::clone(&world);
        let concur = Counting::new(&world, move |call, _| (at.up_to(SECOND), Ok(tokens(call))));
        let (client, clock) = (client(&concur), WallClock::new(&world));
        let of = |number| {
            let builder = builder(&world, &client, number).store(stored(&world, HOUR));
            builder.clock(clock.clone()).build().unwrap()
        };
        let managers: Vec<TokenManager> = (0..250).map(of).collect();
        let pause = |time| Watch(Arc::clone(&world)).sleep(time);
        let (set, end, setting) = (pause(2 * HOUR), pause(8 * HOUR), clock.clone());
        world.spawn(0, async move {
            let mut kept = Vec::new();
            for manager in &managers {
                kept.push(manager.keep_alive().await.unwrap());
            }
            set.await;
            setting.set(minutes * 60_000);
            end.await;
        });
        world.run();
        let of_each: Vec<usize> = concur.by_second().chunks(60).map(|minute| minute.iter().sum()).collect();
        let together: usize = of_each[120..122].iter().sum();
        assert!(together >= if minutes == 30 { 100 } else { 250 }, "set by {minutes} min: {of_each:?}");
        // 250 in some 51 minutes make 5 in each.
        assert!(of_each[123..].iter().all(|requests| *requests <= 20), "set by {minutes} min: {of_each:?}");
    }
}

#[test]
fn the_last_guard_ends_the_renewing() {
    let world = World::new(seed());
    let concur = Counting::new(&world, |call, _| (SECOND, Ok(tokens(call))));
    let tokens = manager(&world, &client(&concur), 0, MemoryStore::new());
    let at = Arc::clone(&world);
    let (served, counted) = (tokens.clone(), Arc::clone(&concur));
    world.spawn(0, async move {
        let (one, other) = (served.keep_alive().await.unwrap(), served.keep_alive().await.unwrap());
        Watch(Arc::clone(&at)).sleep(2 * MINUTE).await;
        drop(one);
        Watch(Arc::clone(&at)).sleep(3 * HOUR).await;
        assert!(served.status().access_token_valid);
        drop(other);
        let before = counted.requests().len();
        assert!(before >= 4, "{before}");
        Watch(Arc::clone(&at)).sleep(3 * HOUR).await;
        assert_eq!(counted.requests().len(), before);
    });
    // Ends, although the manager is still there.
    world.run();
    assert!(!tokens.status().access_token_valid);
}
