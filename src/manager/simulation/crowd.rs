//! Many principals in one process: a manager for each, all of them on one `OAuthClient`, and a Concur that counts.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::world::{Watch, World};
use crate::{
    Clock as _, Credentials, MemoryStore, OAuthClient, RefreshTokenObject, TokenManager, TokenManagerBuilder,
    TokenStore,
    caught::locked,
    clock::unix_seconds,
    oauth_client::{Failure, Headers, OutgoingCall, Response, Sent, Transport},
};

const BASE: &str = "https://us.api.concursolutions.com";

/// What a request is answered with, and after how long; the argument is how many requests came before it.
type Answer = dyn Fn(&OutgoingCall<'_>, usize) -> (Duration, Result<Response, Failure>) + Send + Sync;

/// A Concur that any number of requests may ask at once.
pub(super) struct Counting {
    world: Arc<World>,
    answer: Box<Answer>,
    /// When each request came.
    requests: Mutex<Vec<Duration>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Counting {
    pub(super) fn new(
        world: &Arc<World>,
        answer: impl Fn(&OutgoingCall<'_>, usize) -> (Duration, Result<Response, Failure>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            answer: Box::new(answer),
            requests: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
        })
    }

    pub(super) fn requests(&self) -> Vec<Duration> {
        locked(&self.requests).clone()
    }

    /// How many requests there were in each second.
    pub(super) fn by_second(&self) -> Vec<usize> {
        let mut seconds = Vec::new();
        for at in self.requests() {
            let second = usize::try_from(at.as_secs()).unwrap();
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
        seconds
    }

    pub(super) fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::Relaxed)
    }
}

impl Transport for Counting {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(async move {
            let before = {
                let mut requests = locked(&self.requests);
                requests.push(self.world.passed());
                requests.len() - 1
            };
            let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_under_way.fetch_max(under_way, Ordering::Relaxed);
            let (elapsed, outcome) = (self.answer)(call, before);
            Watch(Arc::clone(&self.world)).sleep(elapsed).await;
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            Sent { elapsed, outcome }
        })
    }
}

/// The reply with which Concur asks for a pause of this many seconds.
pub(super) fn asks_for_a_pause(
    call: &OutgoingCall<'_>,
    status: u16,
    body: &serde_json::Value,
    seconds: u64,
) -> Response {
    let retry_after = Some(Duration::from_secs(seconds));
    Response::json(status, body, Headers { retry_after, ..Headers::none(call.clock.now()) })
}

pub(super) fn tokens(call: &OutgoingCall<'_>) -> Response {
    call.reply(200, &json!({"refresh_token": "refresh", "access_token": "access", "expires_in": 3600}))
}

pub(super) fn client(concur: &Arc<Counting>) -> OAuthClient {
    OAuthClient::on(Arc::clone(concur))
}

/// A manager of a principal of its own.
pub(super) fn manager(
    world: &Arc<World>,
    client: &OAuthClient,
    number: usize,
    store: impl TokenStore,
) -> TokenManager {
    builder(world, client, number).store(store).build().unwrap()
}

pub(super) fn builder(world: &Arc<World>, client: &OAuthClient, number: usize) -> TokenManagerBuilder {
    let credentials = Credentials::new("app", "secret").company(format!("company {number}"), "request token");
    TokenManager::builder()
        .credentials(credentials)
        .base_uri(BASE)
        .oauth_client(client.clone())
        .machine(world.machine(number))
}

pub(super) fn stored(world: &Arc<World>, left: Duration) -> MemoryStore {
    MemoryStore::with(token(world, left))
}

/// A refresh token of which a third of its six months has passed, and so its renewal is wanted.
pub(super) fn due(world: &Arc<World>) -> RefreshTokenObject {
    let now = unix_seconds(Watch(Arc::clone(world)).now());
    let day = 24 * 3600;
    let token = json!({
        "refresh_token": "refresh", "refreshTokenExpiresAt": now + 119 * day, "refreshTokenReceivedAt": now - 61 * day,
        "geolocation": BASE,
    });
    RefreshTokenObject::from_json(&token.to_string()).unwrap()
}

/// A refresh token of six months, and an access token that has this long to live.
pub(super) fn token(world: &Arc<World>, left: Duration) -> RefreshTokenObject {
    let now = unix_seconds(Watch(Arc::clone(world)).now());
    let token = json!({
        "refresh_token": "refresh", "refreshTokenExpiresAt": now + 180 * 24 * 3600, "geolocation": BASE,
        "access_token": "access", "expires_in": 3600, "accessTokenExpiresAt": now + left.as_secs(),
    });
    RefreshTokenObject::from_json(&token.to_string()).unwrap()
}
