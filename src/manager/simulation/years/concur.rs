//! A Concur with many companies, which has the troubles of the sky.
//!
//! Always: a request token is good only where a person has made it because a refresh token had lapsed.

mod checks;

use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::Notify;

pub(super) use self::checks::Tally;
use super::{
    requests::Requests,
    sky::{Calm, PATIENCE, Sky, Trouble},
    times::{DAY, HOUR, SECOND},
};
use crate::{
    Clock as _,
    caught::locked,
    clock,
    manager::simulation::world::{BEGINNING, Watch, World},
    oauth_client::{Failure, Headers, OutgoingCall, Response, Sent, Transport},
};

/// Tasks of this number belong to no process that is killed.
pub(super) const OUTSIDE: usize = usize::MAX;
/// Of a refresh token, from each grant on. An access token lives for an hour.
const LIFE: Duration = Duration::from_secs(180 * 24 * 3600);
/// A reply that is lost on its way with a token that replaces another loses both. So it is rare, while the others are not.
const LOST_WITH_ANOTHER_TOKEN: f64 = 0.003;

/// What a refresh grant does to the refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grants {
    /// The same token, which lives for another 180 days: what SAP says is usual.
    Extend,
    /// Usually the same, and one time in fifty another. The token before is refused from then on.
    Change,
    /// Always another, and who presents the token before loses both.
    RotateAndRevoke,
    /// The same token, and its life stays as it is. It ends, and a person has to sign the company in.
    KeepExpiry,
}

impl Grants {
    pub(super) const ALL: [Self; 4] = [Self::Extend, Self::Change, Self::RotateAndRevoke, Self::KeepExpiry];
}

/// What Concur knows of a company, and what became of it.
pub(super) struct Company {
    grants: Grants,
    /// The number of the refresh token that is good.
    refresh: u32,
    is_revoked: bool,
    pub(super) expires: Duration,
    /// When the last grant was.
    granted: Option<Duration>,
    /// The number of the request token that a person has made last, and until when it is good.
    pub(super) request_token: u32,
    request_token_until: Duration,
    /// The token that has reached no process's store so far.
    unsaved: Option<u32>,
    /// The token that replaced the stored one did not arrive, or its process was killed before it was saved.
    is_lost: bool,
    /// Since when a request token is needed.
    pub(super) lapsed: Option<Duration>,
    /// When a person has made a request token since.
    acted: Option<Duration>,
    /// Nothing is asked of a company before that: it was being signed in again.
    pub(super) person_until: Duration,
    is_asking: bool,
    pub(super) requests: usize,
    today: (u64, usize),
}

pub(super) struct Concur {
    pub(super) world: Arc<World>,
    pub(super) sky: Sky,
    pub(super) calm: Mutex<Calm>,
    pub(super) companies: Vec<Mutex<Company>>,
    pub(super) requests: Mutex<Requests>,
    pub(super) tally: Mutex<Tally>,
    /// A kill waits for the next request.
    pub(super) is_armed: AtomicBool,
    pub(super) asked: Notify,
    /// From the arrival of an answer that asks for a pause until its end, for the process that was told.
    pause: Mutex<Range<Duration>>,
    /// When no process ran.
    downs: Mutex<Vec<Range<Duration>>>,
    pub(super) broken: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    /// No process will be started any more, and so a person need not act.
    pub(super) is_over: AtomicBool,
}

/// Hangs up when dropped, also by a kill.
struct Asking<'a>(&'a Concur, usize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        locked(&self.0.companies[self.1]).is_asking = false;
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Concur {
    pub(super) fn new(world: &Arc<World>, sky: Sky, companies: impl Iterator<Item = Grants>) -> Arc<Self> {
        let company = |grants| {
            Mutex::new(Company {
                grants,
                refresh: 0,
                is_revoked: false,
                expires: Duration::ZERO,
                granted: None,
                request_token: 0,
                request_token_until: DAY,
                unsaved: None,
                is_lost: false,
                lapsed: None,
                acted: Some(Duration::ZERO),
                person_until: Duration::ZERO,
                is_asking: false,
                requests: 0,
                today: (0, 0),
            })
        };
        Arc::new(Self {
            world: Arc::clone(world),
            calm: Mutex::new(sky.calm()),
            pause: Mutex::default(),
            downs: Mutex::default(),
            sky,
            companies: companies.map(company).collect(),
            requests: Mutex::default(),
            tally: Mutex::default(),
            is_armed: AtomicBool::new(false),
            asked: Notify::new(),
            broken: Mutex::default(),
            under_way: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        })
    }

    fn chance(&self, probability: f64) -> bool {
        locked(&self.world.dice).f64() < probability
    }

    async fn travel(&self) {
        Watch(Arc::clone(&self.world)).sleep(self.world.up_to(SECOND)).await;
    }

    async fn answer(self: &Arc<Self>, call: &OutgoingCall<'_>) -> Sent {
        let begun = self.world.passed();
        let number = company_of(call);
        self.asked(number);
        let _asking = Asking(self, number);
        self.travel().await;
        let outcome = match self.sky.trouble_at(self.world.passed()) {
            None => Ok(self.process(call, number)),
            Some(Trouble::Cut) => Err(call.not_connected()),
            Some(Trouble::Storm) => Ok(self.asks_for_a_pause(call)),
            Some(Trouble::Outage) => self.fails(call, number).await,
        };
        if let Ok(reply) = &outcome {
            self.travel().await;
            self.arrives(reply);
        }
        Sent { elapsed: self.world.passed() - begun, outcome }
    }

    fn asks_for_a_pause(&self, call: &OutgoingCall<'_>) -> Response {
        let seconds = [0, 5, 30, 300, 1800, 7200][locked(&self.world.dice).usize(..6)];
        let retry_after = Some(Duration::from_secs(seconds));
        Response::json(429, &json!({}), Headers { retry_after, ..self.headers(call) })
    }

    /// A pause is believed for an hour at most.
    fn arrives(&self, reply: &Response) {
        let Some(pause) = reply.headers.retry_after else { return };
        let now = self.world.passed();
        let mut pausing = locked(&self.pause);
        pausing.end = pausing.end.max(now + pause.min(HOUR));
        pausing.start = now;
    }

    async fn fails(self: &Arc<Self>, call: &OutgoingCall<'_>, number: usize) -> Result<Response, Failure> {
        let kind = locked(&self.world.dice).u8(..10);
        match kind {
            0..4 => return Ok(Response::json(503, &json!({}), self.headers(call))),
            4..6 => return Err(call.not_connected()),
            6..8 => {
                let (longest, failure) = call.no_answer();
                Watch(Arc::clone(&self.world)).sleep(longest).await;
                return Err(failure);
            }
            8 => return Err(call.lost_reply()),
            _ => {}
        }
        let may_lose = matches!(locked(&self.companies[number]).grants, Grants::Extend | Grants::KeepExpiry);
        if may_lose || self.chance(LOST_WITH_ANOTHER_TOKEN) {
            self.process(call, number);
            let mut company = locked(&self.companies[number]);
            if company.unsaved.take().is_some() && !company.is_lost {
                company.is_lost = true;
                locked(&self.tally).lost_replies += 1;
            }
        }
        Err(call.lost_reply())
    }

    /// By the servers' clock.
    fn unix_seconds(&self, at: Duration) -> u64 {
        (BEGINNING + at.as_secs()).saturating_add_signed(self.sky.skew_at(self.world.passed()))
    }

    fn headers(&self, call: &OutgoingCall<'_>) -> Headers {
        let server_time = clock::from_unix_seconds(self.unix_seconds(self.world.passed()));
        Headers { server_time, ..Headers::none(call.clock.now()) }
    }

    fn process(self: &Arc<Self>, call: &OutgoingCall<'_>, number: usize) -> Response {
        let now = self.world.passed();
        let refused = |code| {
            let body = json!({"code": code, "error": "invalid_grant"});
            Response::json(400, &body, self.headers(call))
        };
        let mut company = locked(&self.companies[number]);
        let is_sign_in = call.grant_type() == Some("password");
        let is_good = if is_sign_in {
            call.field("password") == Some(&request_token(company.request_token))
                && now < company.request_token_until
        } else {
            let is_current = call.field("refresh_token") == Some(&refresh_token(number, company.refresh));
            company.is_revoked |= !is_current && company.grants == Grants::RotateAndRevoke;
            is_current && !company.is_revoked && now < company.expires
        };
        if !is_good {
            if !is_sign_in {
                self.lapses(number, &mut company);
            }
            return refused(if is_sign_in { 5 } else { 108 });
        }
        self.check_gap(number, &company, now);
        let is_another = is_sign_in
            || match company.grants {
                Grants::Extend | Grants::KeepExpiry => false,
                Grants::Change => self.chance(0.02),
                Grants::RotateAndRevoke => true,
            };
        if is_another {
            company.refresh += 1;
            company.unsaved = Some(company.refresh);
        }
        if is_sign_in || company.grants != Grants::KeepExpiry {
            // Companies that are connected in the same minute would lose tokens of the same life in the same minute.
            let is_another_start = is_sign_in && company.granted.is_none() && number > 0;
            let less = if is_another_start { self.world.up_to(LIFE / 2) } else { Duration::ZERO };
            company.expires = Duration::from_secs((now + LIFE - less).as_secs());
        }
        company.granted = Some(now);
        let mut tally = locked(&self.tally);
        tally.grants += 1;
        if is_sign_in {
            tally.sign_ins += 1;
            company.is_revoked = false;
            company.is_lost = false;
            if company.lapsed.take().is_some() {
                company.person_until = now + PATIENCE;
            }
            // After a sign-in in doubt there is a pause of up to an hour, and another until `keep_alive` tries again.
            let acted = company.acted.take().unwrap_or(now);
            let settled = locked(&self.calm).first_settled(acted + 2 * HOUR) + HOUR;
            if settled < now {
                self.breaks(format!(
                    "company {number} has a request token since {acted:?}, and was not signed in"
                ));
            }
        }
        let mut reply = json!({
            "refresh_token": refresh_token(number, company.refresh), "expires_in": 3600,
            "access_token": format!("access-{}", now.as_millis()),
        });
        // Absent in some replies.
        if self.chance(0.8) {
            reply["refresh_expires_in"] = json!(self.unix_seconds(company.expires));
        }
        Response::json(200, &reply, self.headers(call))
    }
}

/// When an access token was issued.
pub(super) fn issued_at(access: &str) -> Duration {
    Duration::from_millis(access.strip_prefix("access-").unwrap().parse().unwrap())
}

fn refresh_token(company: usize, number: u32) -> String {
    format!("refresh-{company}-{number}")
}

pub(super) fn request_token(number: u32) -> String {
    format!("request-{number}")
}

fn company_of(call: &OutgoingCall<'_>) -> usize {
    let name = call.field("username").or_else(|| call.field("refresh_token")).unwrap();
    name.split(['-', ' ']).nth(1).unwrap().parse().unwrap()
}

/// From a process to Concur.
pub(super) struct Line(pub(super) Arc<Concur>);

impl Transport for Line {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(self.0.answer(call))
    }
}
