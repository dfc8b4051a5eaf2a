//! The program `concur-auth` hands out no expired token, whatever happens in a day.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, dead_code, reason = "other tests need its other part")]
#[path = "../src/seed.rs"]
mod seed;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{process::Command, time::Duration};

use concur_auth::{
    Clock as _, SystemClock,
    simulator::{ConcurSimulator, Fault, ManualClock, Rotation},
    time::{self, OffsetDateTime},
};
use serde_json::Value;

use self::scene::{Ran, Scene, Serving, json_of, status_of};

const DAY: i64 = 24 * 3600;

/// How Concur is for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Concur {
    Well,
    Down,
    Busy,
    /// A gateway answers in its place.
    Away,
}

impl Concur {
    fn set(self, concur: &ConcurSimulator) {
        concur.clear_faults();
        match self {
            Self::Well => {}
            Self::Down => concur.set_fault(Fault::status(503).retry_after("900")),
            Self::Busy => concur.set_fault(Fault::status(429).retry_after("600")),
            Self::Away => concur.set_fault(Fault::html(502).retry_after("900")),
        }
    }
}

/// Each run of the program is a restart. Some runs are killed, some serve.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_day_of_restarts_and_outages_no_expired_token_is_printed() {
    // The program that comes with the library knows where it is.
    let Ok(found) = Command::new("faketime").args(["now", "printenv", "LD_PRELOAD"]).output() else {
        return skip::skip("there is no faketime");
    };
    let library = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let seed = seed::seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = ManualClock::new(SystemClock.now());
    // What a killed run has not saved is not lost, or a person would have to act.
    let concur = ConcurSimulator::builder().clock(clock.clone()).rotation(Rotation::Never).start().await;
    let mut scene = Scene::with(concur);
    scene.run(&["refresh-token"]).ok();
    let end = clock.now_utc() + time::Duration::seconds(DAY);
    let (mut state, mut until) = (Concur::Well, clock.now_utc());
    let (mut printed, mut refused, mut tokens) = (0, 0, std::collections::HashSet::new());
    while clock.now_utc() < end {
        clock.advance(Duration::from_secs(random.u64(60..900)));
        // To the second, as the program is told the time.
        clock.set(clock.now_utc().replace_nanosecond(0).unwrap());
        let now = clock.now_utc();
        scene.time = Some((library.clone(), now));
        if until <= now {
            let down = [Concur::Down, Concur::Busy, Concur::Away];
            state = if state == Concur::Well { random.choice(down).unwrap() } else { Concur::Well };
            let minutes = if state == Concur::Well { 60..180 } else { 10..100 };
            until = now + time::Duration::minutes(random.i64(minutes));
            state.set(&scene.concur);
        }
        match random.u8(0..10) {
            0 => {
                let mut child = scene.command(&["access-token"]).spawn().unwrap();
                #[allow(
                    clippy::disallowed_methods,
                    reason = "real time, in which the process gets as far as it gets"
                )]
                std::thread::sleep(Duration::from_millis(random.u64(0..40)));
                child.kill().unwrap();
                child.wait().unwrap();
                continue;
            }
            1 => {
                let serving = Serving::start(&scene, &[]);
                let reply = serving.get("/token");
                if status_of(&reply) == 200 {
                    printed += 1;
                    check(&scene, &clock, now, &json_of(&reply), 60);
                } else {
                    assert!(status_of(&reply) == 503 && state != Concur::Well, "{now} {state:?}: {reply}");
                }
                assert_eq!(serving.end(), Some(0));
                continue;
            }
            _ => {}
        }
        let least = *random.choice(&[60, 60, 300, 1800]).unwrap();
        let ran = scene.run(&["access-token", "--format", "json", "--min-validity", &least.to_string()]);
        match ran {
            Ran { code: Some(0), out, .. } => {
                let token: Value = serde_json::from_str(&out).unwrap();
                check(&scene, &clock, now, &token, least);
                tokens.insert(token["access_token"].to_string());
                printed += 1;
            }
            ran => {
                assert!(
                    state != Concur::Well && ran.code == Some(1) && ran.out.is_empty(),
                    "{now} {state:?}: {ran:?}"
                );
                refused += 1;
            }
        }
    }
    // The day was one in which all of this happens.
    assert!(printed > 60 && refused > 0 && tokens.len() > 10, "{printed} {refused} {}", tokens.len());
}

/// The token lives for at least so many seconds from `now`, by what the program says and by what Concur says.
fn check(scene: &Scene, clock: &ManualClock, now: OffsetDateTime, token: &Value, least: i64) {
    assert!(token["expires_in"].as_i64().unwrap() >= least, "{now} {least}: {}", token["expires_in"]);
    let bearer = token["access_token"].as_str().unwrap();
    clock.set(now + time::Duration::seconds(least - 1));
    assert!(scene.concur.is_live_access(bearer), "{now} {least}: {}", token["expires_at"]);
    clock.set(now);
}
