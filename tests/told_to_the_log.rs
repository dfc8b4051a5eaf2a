//! What the log is told never ends what it is told about: a subscriber may write to a closed pipe or a full disk.

#![cfg(feature = "simulator")]

mod support;

use std::{
    io, panic,
    sync::atomic::{AtomicUsize, Ordering},
};

use concur_auth::{ErrorKind, simulator::Fault, simulator::Rotation};
use support::{DAY, HOUR, Scene};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

static EVENTS: AtomicUsize = AtomicUsize::new(0);

/// As a subscriber does whose own complaint about a full stderr cannot be written either.
struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        EVENTS.fetch_add(1, Ordering::Relaxed);
        panic!("no room for the log")
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Full {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        Self
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_at_every_event_costs_no_token_and_no_request() {
    let filter = EnvFilter::new("concur_auth=trace");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Full).init();
    let said = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));

    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    // One that has to be moved aside, which is an event, too.
    scene.write_token("not a token");
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
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
    assert!(EVENTS.load(Ordering::Relaxed) > 0, "nothing was told to the log");
}
