//! What the log is told never ends what it is told about: a subscriber may write to a closed pipe or a full disk.

#![cfg(feature = "simulator")]

mod support;

use std::{
    io, panic,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use concur_auth::{ErrorKind, simulator::Fault, simulator::Rotation};
use support::{DAY, HOUR, Scene};
use tracing::Instrument as _;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::Context, prelude::*};

static EVENTS: AtomicUsize = AtomicUsize::new(0);
/// Where the token is by the time that the log hears of the reply that it came with.
static TOKEN_FILE: Mutex<Option<PathBuf>> = Mutex::new(None);
static ANSWERS_TOLD_BEFORE_THE_SAVE: AtomicUsize = AtomicUsize::new(0);

/// As a subscriber does whose own complaint about a full stderr cannot be written either.
struct Full;

impl io::Write for Full {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        EVENTS.fetch_add(1, Ordering::Relaxed);
        let is_answer = String::from_utf8_lossy(event).contains("token request answered");
        let file = TOKEN_FILE.lock().unwrap().clone().unwrap();
        if is_answer && !std::fs::read_to_string(file).is_ok_and(|json| json.contains("accessTokenExpiresAt"))
        {
            ANSWERS_TOLD_BEFORE_THE_SAVE.fetch_add(1, Ordering::Relaxed);
        }
        panic!("no room for the log")
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writes;

impl MakeWriter<'_> for Writes {
    type Writer = Full;
    fn make_writer(&self) -> Full {
        Full
    }
}

/// And as one does that cannot bear the spans of other threads than the test's own.
struct NoSpans;

fn elsewhere() -> bool {
    !std::thread::current().name().is_some_and(|name| name.starts_with("a_subscriber"))
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for NoSpans {
    fn on_enter(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        assert!(!elsewhere(), "entered");
    }
    fn on_exit(&self, _: &tracing::span::Id, _: Context<'_, S>) {
        assert!(!elsewhere(), "left");
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_at_every_event_costs_no_token_and_no_request() {
    let filter = EnvFilter::new("concur_auth=trace,a_caller=trace");
    let events = tracing_subscriber::fmt::layer().with_writer(Writes);
    tracing_subscriber::registry().with(filter).with(events).with(NoSpans).init();
    let said = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));

    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    *TOKEN_FILE.lock().unwrap() = Some(scene.token_path());
    // One that has to be moved aside, which is an event, too.
    scene.write_token("not a token");
    let tokens = scene.manager();
    let span = tracing::info_span!(target: "a_caller", "caller");
    tokens.access_token().instrument(span).await.unwrap();
    let renewed = tokens.refresh().await.unwrap();
    assert_eq!(scene.stored_refresh_token(), renewed.secret());
    assert!(scene.concur.is_live(renewed.secret()));

    // Refused, so that the request token is spent; and once more, so that a person must act.
    scene.concur.revoke();
    tokens.refresh().await.unwrap();
    scene.concur.revoke();
    scene.clock.advance(2 * DAY);
    let refused = tokens.refresh().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!((scene.concur.count("password"), scene.concur.count("refresh_token")), (3, 3));
    tokens.refresh().await.unwrap_err();
    assert_eq!(scene.concur.token_requests(), 6, "the refusal is remembered");

    scene.concur.issue_request_token();
    scene.write_credentials(&scene.concur.credentials_json());
    scene.concur.fault_next(1, Fault::status(400).body("{}"));
    scene.clock.advance(HOUR);
    tokens.refresh().await.unwrap_err();
    panic::set_hook(said);
    assert_eq!(ANSWERS_TOLD_BEFORE_THE_SAVE.load(Ordering::Relaxed), 0);
    assert!(EVENTS.load(Ordering::Relaxed) > 0, "nothing was told to the log");
}
