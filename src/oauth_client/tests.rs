//! The client on a simulated Concur in memory: one thread, no runtime, no network, exact counts.

use std::{
    collections::VecDeque,
    future::{Future, ready},
    pin::{Pin, pin},
    sync::Mutex,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::*;
use crate::{AccessToken, Clock, ErrorKind, access_token::IssuedAccess, random::Random, secret::Secret};

const US: &str = "us.api.concursolutions.com";
const EU: &str = "eu.api.concursolutions.com";

/// A Concur in memory, which answers with one script entry after the other.
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    /// Of each request: the host, the path, the grant type or the bearer token, and the refresh token.
    requests: Mutex<Vec<[String; 4]>>,
}

type Answer = fn(&OutgoingCall<'_>) -> Result<Response, Failure>;

impl Script {
    fn client(answers: &[Answer]) -> (OAuthClient, Arc<Self>) {
        let answers = Mutex::new(answers.iter().copied().collect());
        let script = Arc::new(Self { answers, requests: Mutex::default() });
        (OAuthClient::on(Arc::clone(&script)), script)
    }

    fn requests(&self) -> Vec<[String; 4]> {
        self.requests.lock().unwrap().clone()
    }
}

impl Transport for Script {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(async move {
            assert!(tokio::runtime::Handle::try_current().is_err(), "a runtime is not needed");
            let texts = [
                call.host(),
                call.path(),
                call.grant_type().or(call.bearer_token()).unwrap_or_default(),
                call.field("refresh_token").unwrap_or_default(),
            ];
            self.requests.lock().unwrap().push(texts.map(str::to_owned));
            let answer = self.answers.lock().unwrap().pop_front().expect("a request too many");
            Sent { elapsed: Duration::from_secs(2), outcome: answer(call) }
        })
    }
}

/// Stands still, except for sleeping, which takes no real time.
#[derive(Debug, Default)]
struct Slept(Mutex<Duration>);

impl Slept {
    fn total(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

impl Clock for Slept {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + self.total()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        *self.0.lock().unwrap() += duration;
        Box::pin(ready(()))
    }
}

/// Polls the future on this thread until it is ready.
fn block_on<T>(future: impl Future<Output = T> + Send) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

fn seeded() -> Random {
    Random::Seeded(Mutex::new(fastrand::Rng::with_seed(7)))
}

fn send(client: &OAuthClient, grant: &Grant, clock: &Slept) -> Result<TokenReply, Error> {
    let (base, app) = (format!("https://{US}").parse().unwrap(), Credentials::new("app", "secret"));
    let (random, budget) = (seeded(), RetryBudget::repeat(&|| false));
    let conditions = Conditions { clock, random: &random, budget: &budget, heeds_pause: true, hold: None };
    block_on(client.send(&base, &app, grant, &conditions))
}

fn unreachable(call: &OutgoingCall<'_>) -> Result<Response, Failure> {
    Err(call.not_connected())
}

fn success(call: &OutgoingCall<'_>) -> Result<Response, Failure> {
    let tokens =
        json!({ "refresh_token": "r2", "access_token": "a", "expires_in": 3600, "token_type": "Bearer" });
    Ok(call.reply(200, &tokens))
}

#[test]
fn a_503_and_a_lost_reply_cost_three_requests_without_a_runtime() {
    let (client, script) =
        Script::client(&[|call| Ok(call.reply(503, &json!({}))), |call| Err(call.lost_reply()), success]);
    let clock = Slept::default();
    let reply = send(&client, &Grant::refresh_token("r1"), &clock).unwrap();
    assert_eq!(reply.refresh_token_object().unwrap().secret(), "r2");

    let request = [US, "/oauth2/v0/token", "refresh_token", "r1"].map(str::to_owned);
    assert_eq!(script.requests(), [request.clone(), request.clone(), request]);
    let random = seeded();
    let pauses =
        Duration::from_secs(1).mul_f64(random.fraction()) + Duration::from_secs(2).mul_f64(random.fraction());
    assert_eq!(clock.total(), pauses);
    let expiry = clock.now() + Duration::from_secs(3600);
    assert_eq!(reply.access_token().unwrap().expires_at().unix_timestamp(), {
        expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
    });
}

#[test]
fn a_lost_reply_to_a_company_request_token_costs_one_request() {
    let (client, script) = Script::client(&[|call| Err(call.lost_reply())]);
    let clock = Slept::default();
    let error = send(&client, &Grant::company_request_token("company", "at-token"), &clock).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "the connection to {US} broke off; the grant may nevertheless have been used, so find out why before you \
             try again"
        )
    );
    assert!(error.is_in_doubt());
    assert_eq!((script.requests().len(), clock.total()), (1, Duration::ZERO));
}

#[test]
fn a_server_that_cannot_be_reached_is_tried_four_times() {
    let (client, script) = Script::client(&[unreachable as Answer; 4]);
    let error = send(&client, &Grant::refresh_token("r1"), &Slept::default()).err().unwrap();
    assert_eq!((error.kind(), error.is_in_doubt()), (ErrorKind::Unavailable, false));
    assert_eq!(script.requests().len(), 4);
}

#[test]
fn retry_after_is_waited_for_and_code_16_is_followed_at_once() {
    let (client, script) = Script::client(&[
        |call| {
            let pause = Some(Duration::from_secs(7));
            let headers = Headers { retry_after: pause, ..Headers::none(call.clock.now()) };
            Ok(Response::json(429, &json!({}), headers))
        },
        |call| Ok(call.reply(400, &json!({ "code": 16, "geolocation": format!("https://{EU}") }))),
        success,
    ]);
    let clock = Slept::default();
    let reply = send(&client, &Grant::refresh_token("r1"), &clock).unwrap();
    assert_eq!(reply.access_token().unwrap().geolocation().host(), EU);
    assert_eq!(script.requests().iter().map(|request| request[0].as_str()).collect::<Vec<_>>(), [US, US, EU]);
    assert_eq!(clock.total(), Duration::from_secs(7));
}

fn revoke(client: &OAuthClient, clock: &Slept) -> Result<(), NotRevoked> {
    let issued = IssuedAccess {
        secret: Secret::new("the-access-token"),
        expires_at: clock.now(),
        lifetime: Duration::ZERO,
    };
    let access = AccessToken::new(issued, format!("https://{EU}").parse().unwrap(), Arc::new([]));
    let (random, budget) = (seeded(), RetryBudget::one_attempt());
    let conditions = Conditions { clock, random: &random, budget: &budget, heeds_pause: true, hold: None };
    block_on(client.send_revocation(&access, &conditions))
}

#[test]
fn a_revocation_carries_the_access_token_and_says_if_it_is_not_accepted() {
    let (client, script) = Script::client(&[
        |call| Ok(call.reply(401, &json!({}))),
        |call| Err(call.lost_reply()),
        |call| Ok(call.reply(204, &json!({}))),
    ]);
    let clock = Slept::default();
    let outcomes = [(); 3].map(|()| revoke(&client, &clock).map_err(|e| e.unauthorized));
    assert_eq!(outcomes, [Err(true), Err(false), Ok(())]);
    let request = [EU, "/app-mgmt/v0/connections", "the-access-token", ""].map(str::to_owned);
    assert_eq!(script.requests(), [request.clone(), request.clone(), request]);
}

/// Each host says that the principal lives at the other one.
#[test]
fn a_revocation_that_is_led_in_circles_ends() {
    fn elsewhere(call: &OutgoingCall<'_>) -> Result<Response, Failure> {
        let host = if call.host() == EU { US } else { EU };
        let location = Some(format!("https://{host}/app-mgmt/v0/connections"));
        Ok(Response::json(307, &json!({}), Headers { location, ..Headers::none(call.clock.now()) }))
    }
    let (client, script) = Script::client(&[elsewhere as Answer; 4]);
    let error = revoke(&client, &Slept::default()).unwrap_err().error;
    assert!(error.to_string().contains("its answers lead back to itself, or in circles"), "{error}");
    assert_eq!(script.requests().len(), 4);
}

#[test]
fn a_limit_leaves_the_other_one_as_it_is() {
    let one = OAuthClient::new().max_concurrent_requests(3).max_requests_per_second(5.0);
    let other = OAuthClient::new().max_requests_per_second(5.0).max_concurrent_requests(3);
    for client in [one, other] {
        let Gated { gates, rate, .. } = &*client.0;
        assert_eq!(
            (gates.most_at_once(), rate.as_ref().unwrap().describe()),
            (3, "5 requests a second".to_owned())
        );
    }
}
