//! What a day of failures costs: the requests of each minute, for each kind of failure and each kind of caller, while nothing
//! valid is held, and of an hour in which a valid refresh token is due. `cargo test --lib hammers -- --nocapture` prints both
//! tables.

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    MINUTE,
    crowd::{Counting, client, due, manager, stored},
    world::{Watch, World},
};
use crate::{
    AppTokens, Clock as _, Credentials, MemoryStore, OAuthClient, TokenManager,
    oauth_client::{Failure, OutgoingCall, Response},
    seed::seed,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CRON: Duration = Duration::from_secs(5 * 60);
/// A loop that pays no attention to its errors asks so often, at the beginning of the day and at noon. At other times one loop
/// asks, once a minute: that makes the test short, and what is sent no less often than the longest pause allows.
const TIGHT: Duration = Duration::from_millis(100);
const TIGHT_FOR: Duration = Duration::from_secs(10);

type Answer = fn(&OutgoingCall<'_>) -> (Duration, Result<Response, Failure>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Loop,
    EightLoops,
    /// A new process every five minutes, on the same store.
    CronJob,
    KeepAlive,
    /// A loop that wants access tokens of the app itself.
    AppLoop,
}

/// How often what follows a failure is sent, and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// So many attempts in a flight, and flights that are 1 s apart, then twice that, up to a minute.
    Passing(usize),
    /// So many requests in a flight, and flights that are a minute apart, then twice that, up to an hour.
    InDoubt(usize),
    /// So many requests in a flight, and flights that are an hour apart.
    Lifted(usize),
    /// So many requests in a flight, and flights that are an hour apart, then twice that, up to a day.
    Refused(usize),
}
use Course::{InDoubt, Lifted, Passing, Refused};

/// A failure, and what follows it: with a refresh token in the store, with an empty store.
fn failures() -> Vec<(&'static str, Answer, Course, Course)> {
    fn says(
        call: &OutgoingCall<'_>,
        status: u16,
        body: serde_json::Value,
    ) -> (Duration, Result<Response, Failure>) {
        (SECOND / 10, Ok(call.reply(status, &body)))
    }
    let both = |name, answer: Answer, course| (name, answer, course, course);
    vec![
        both("connection refused", |call| (SECOND / 100, Err(call.not_connected())), Passing(4)),
        (
            "time-out",
            |call| {
                let (longest, failure) = call.no_answer();
                (longest, Err(failure))
            },
            Passing(1),
            InDoubt(1),
        ),
        ("401 without a code", |call| says(call, 401, json!({})), Passing(1), InDoubt(1)),
        ("403 without a code", |call| says(call, 403, json!({})), Passing(1), InDoubt(1)),
        both("501", |call| says(call, 501, json!({})), Passing(1)),
        (
            "a captive portal's page",
            |call| {
                let page = b"<html>Welcome to our WLAN</html>".to_vec().into();
                (SECOND / 10, Ok(Response { body: page, ..call.reply(200, &json!({})) }))
            },
            Passing(1),
            InDoubt(1),
        ),
        (
            "no access token",
            |call| says(call, 200, json!({"refresh_token": format!("{:?}", call.clock.now())})),
            Passing(1),
            Passing(1),
        ),
        ("no refresh token", |call| says(call, 200, json!({"access_token": "a"})), Passing(1), InDoubt(1)),
        both("429", |call| says(call, 429, json!({})), Passing(4)),
        both("503", |call| says(call, 503, json!({})), Passing(4)),
        both("code 134", |call| says(call, 400, json!({"code": 134})), Passing(4)),
        both("code 14", |call| says(call, 400, json!({"code": 14, "error": "invalid_grant"})), Lifted(1)),
        both("code 64", |call| says(call, 401, json!({"code": 64, "error": "invalid_client"})), Refused(1)),
        (
            "code 108, then 5",
            |call| {
                let code = if call.grant_type() == Some("refresh_token") { 108 } else { 5 };
                says(call, 400, json!({"code": code, "error": "invalid_grant"}))
            },
            Refused(2),
            Refused(1),
        ),
    ]
}

/// How many requests there were in each minute.
fn a_day(seed: u64, answer: Answer, caller: Caller, has_token: bool) -> Vec<usize> {
    let world = World::new(seed);
    let concur = Counting::new(&world, move |call, _| answer(call));
    let client = client(&concur);
    let store = if has_token { stored(&world, Duration::ZERO) } else { MemoryStore::new() };
    let tokens = || manager(&world, &client, 0, store.clone());
    let end = Watch(Arc::clone(&world)).sleep(DAY);
    match caller {
        Caller::Loop | Caller::EightLoops => {
            let tokens = tokens();
            for number in 0..if caller == Caller::Loop { 1 } else { 8 } {
                let tokens = tokens.clone();
                let ask = move || {
                    let tokens = tokens.clone();
                    async move { drop(tokens.access_token().await.unwrap_err()) }
                };
                world.spawn(0, in_a_loop(Arc::clone(&world), number, ask));
            }
        }
        Caller::AppLoop => {
            let tokens = app(&world, &client);
            let ask = move || {
                let tokens = tokens.clone();
                async move { drop(tokens.access_token().await.unwrap_err()) }
            };
            world.spawn(0, in_a_loop(Arc::clone(&world), 0, ask));
        }
        Caller::CronJob => {
            let (at, client) = (Arc::clone(&world), client.clone());
            world.spawn(0, async move {
                for run in 0..DAY.as_secs() / CRON.as_secs() {
                    let next = Duration::from_secs(run * CRON.as_secs());
                    Watch(Arc::clone(&at)).sleep(next.saturating_sub(at.passed())).await;
                    let tokens = manager(&at, &client, 0, store.clone());
                    tokens.access_token().await.unwrap_err();
                }
            });
        }
        Caller::KeepAlive => {
            let tokens = tokens();
            world.spawn(0, async move {
                let _kept = tokens.keep_alive().await.unwrap();
                end.await;
            });
        }
    }
    world.run();
    by_minute(&concur.requests(), DAY)
}

/// How many requests there were in each minute of the time from the beginning.
fn by_minute(requests: &[Duration], time: Duration) -> Vec<usize> {
    let mut minutes = vec![0; usize::try_from(time.as_secs() / 60).unwrap()];
    for at in requests {
        if let Some(minute) = minutes.get_mut(usize::try_from(at.as_secs() / 60).unwrap()) {
            *minute += 1;
        }
    }
    minutes
}

async fn in_a_loop<F: Future<Output = ()>>(world: Arc<World>, number: usize, ask: impl Fn() -> F) {
    let is_tight = |at| at < TIGHT_FOR || (DAY / 2..DAY / 2 + TIGHT_FOR).contains(&at);
    while world.passed() < DAY {
        if number == 0 || is_tight(world.passed()) {
            ask().await;
        }
        let pause = if is_tight(world.passed()) { TIGHT } else { MINUTE };
        Watch(Arc::clone(&world)).sleep(pause).await;
    }
}

fn app(world: &Arc<World>, client: &OAuthClient) -> AppTokens {
    TokenManager::builder()
        .credentials(Credentials::new("app", "secret"))
        .base_uri("https://us.api.concursolutions.com")
        .oauth_client(client.clone())
        .machine(world.machine(0))
        .build_for_app()
        .unwrap()
}

/// Exact counts, but for the jitter of what may pass.
fn check(course: Course, caller: Caller, minutes: &[usize], what: &str) {
    let all: usize = minutes.iter().sum();
    let most = *minutes[1..].iter().max().unwrap();
    match (course, caller) {
        (Passing(_), Caller::KeepAlive) => {
            assert!((24..=60).contains(&all) && most <= 2, "{what}");
        }
        (Passing(attempts), Caller::CronJob) => {
            let expected = |minute| if minute % 5 == 0 { attempts } else { 0 };
            assert!(minutes.iter().enumerate().all(|(minute, count)| *count == expected(minute)), "{what}");
        }
        // Flights that begin after 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s at the earliest, and then 30 s apart.
        (Passing(attempts), _) => {
            assert!(minutes[0] <= 7 * attempts && most <= 3 * attempts, "{what}");
            assert!((900 * attempts..=(2 * 24 * 60 + 7) * attempts).contains(&all), "{what}");
        }
        (_, Caller::KeepAlive) => assert!((1..=most_in(course)).contains(&all), "{what}"),
        // What is noted in whole seconds, and looked at every five minutes, comes a little later.
        (InDoubt(_), Caller::CronJob) => assert!((24..=most_in(course)).contains(&all), "{what}"),
        _ => assert_eq!(all, most_in(course), "{what}"),
    }
}

fn most_in(course: Course) -> usize {
    match course {
        Passing(attempts) => (2 * 24 * 60 + 7) * attempts,
        // After 0, 1, 3, 7, 15, 31 and 63 minutes, and then once an hour.
        InDoubt(requests) => (6 + 23) * requests,
        Lifted(requests) => 24 * requests,
        // After 0, 1, 3, 7 and 15 hours.
        Refused(requests) => 5 * requests,
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the table is for a person who asks for it with --nocapture")]
fn no_failure_and_no_caller_hammers() {
    const CALLERS: [Caller; 5] =
        [Caller::Loop, Caller::EightLoops, Caller::CronJob, Caller::KeepAlive, Caller::AppLoop];
    let seed = seed();
    println!(
        "{:25} {:12} {:>10} first minute, most in any later minute, in the day",
        "failure", "stored", "caller"
    );
    for (failure, answer, with_token, without) in failures() {
        for (caller, has_token) in CALLERS.into_iter().flat_map(|caller| [(caller, true), (caller, false)]) {
            let course = match (caller, failure) {
                // An app has no token to store, and eight loops differ from one in the same way.
                (Caller::AppLoop | Caller::EightLoops, _) if !has_token => continue,
                (Caller::AppLoop, "no refresh token") => continue,
                (Caller::AppLoop, "code 108, then 5") => Refused(1),
                _ if has_token => with_token,
                _ => without,
            };
            let minutes = a_day(seed, answer, caller, has_token);
            let (first, most) = (minutes[0], minutes[1..].iter().max().unwrap());
            let stored = if has_token { "a token" } else { "nothing" };
            let all: usize = minutes.iter().sum();
            let row =
                format!("{failure:25} {stored:12} {:>10} {first:4} {most:4} {all:6}", format!("{caller:?}"));
            println!("{row}");
            check(course, caller, &minutes, &row);
        }
    }
}

/// A loop that asks once a second while a renewal is wanted and fails. A refresh token that Concur says is dead is served no more.
#[test]
#[allow(clippy::print_stdout, reason = "the table is for a person who asks for it with --nocapture")]
fn no_failure_hammers_while_a_valid_refresh_token_is_served() {
    let seed = seed();
    println!("{:25} first minute, most in any later minute, in the hour", "failure");
    for (failure, answer, course, _) in failures() {
        let world = World::new(seed);
        let concur = Counting::new(&world, move |call, _| answer(call));
        // A third of its six months has passed.
        let store = MemoryStore::with(due(&world));
        let tokens = manager(&world, &client(&concur), 0, store);
        let at = Arc::clone(&world);
        world.spawn(0, async move {
            while at.passed() < HOUR {
                let served = tokens.get_valid_refresh_token().await;
                assert_eq!(served.is_ok(), !matches!(course, Refused(2)), "{failure}: {served:?}");
                Watch(Arc::clone(&at)).sleep(SECOND).await;
            }
        });
        world.run();
        // A flight that began in the last minute may end after it.
        let minutes = by_minute(&concur.requests(), HOUR + MINUTE);
        let (first, most) = (minutes[0], *minutes[1..].iter().max().unwrap());
        let all: usize = minutes.iter().sum();
        let row = format!("{failure:25} {first:4} {most:4} {all:6}");
        println!("{row}");
        match course {
            // One attempt in a flight, while there is time for many more.
            Passing(_) | InDoubt(_) => assert!(first <= 7 && most <= 3 && all <= 7 + 2 * 60, "{row}"),
            Lifted(requests) | Refused(requests) => assert_eq!(all, requests, "{row}"),
        }
    }
}
