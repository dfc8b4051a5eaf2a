//! Months of a few machines on one store, in which everything fails now and then: Concur, the store, the clocks, the callers.
//!
//! Always: what a caller sees is compared with what Concur and the callers did. A run that breaks a promise shows its seed.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{
    HOUR, MINUTE,
    crowd::asks_for_a_pause,
    wall_clock::WallClock,
    world::{Watch, World},
};
use crate::{
    AccessToken, Clock, Credentials, Error, Grant, Health, KeepAlive, MemoryStore, OAuthClient,
    RefreshTokenObject, StoreLock, Stored, TokenManager, TokenStore,
    caught::locked,
    consequences,
    machine::Machine,
    oauth_client::{OutgoingCall, Sent, Transport},
    seed::seed,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const BASE: &str = "https://us.api.concursolutions.com";
/// A flight of another caller, the wait for the lock, and a flight of its own.
const LONGEST_CALL: Duration = Duration::from_secs(6 * 60);
/// The longest pause in which an access token that an API refused is handed out.
const LONGEST_REFUSED: Duration = MINUTE;

/// What happened in a run, and what should not have.
struct Run {
    world: Arc<World>,
    broken: Mutex<Vec<String>>,
    concur: Mutex<Issued>,
    /// For each day, requests and how many of them callers asked for explicitly.
    days: Mutex<HashMap<u64, (usize, usize)>>,
    /// How much trouble there is, from 0 to 1, changed now and then.
    trouble: Mutex<[f64; 2]>,
    ended: AtomicUsize,
}

/// What Concur knows.
#[derive(Default)]
struct Issued {
    number: usize,
    /// Refresh tokens, and the family of each.
    families: HashMap<String, usize>,
    /// The refresh token of each living family that is good.
    good: HashMap<usize, String>,
    /// Those whose successor has arrived.
    succeeded: HashSet<String>,
    /// When each access token was issued.
    issued_at: HashMap<String, Duration>,
    /// Processes whose callers revoke: what only memory holds is sent, too, to revoke with what comes back.
    revoking: HashMap<usize, usize>,
    /// Those that a process was told are dead.
    told_dead: HashSet<(usize, String)>,
    requests: HashMap<usize, usize>,
}

impl Issued {
    fn issue(&mut self, family: usize) -> (String, String) {
        self.number += 1;
        let (refresh, access) = (format!("refresh-{}", self.number), format!("access-{}", self.number));
        self.families.insert(refresh.clone(), family);
        self.good.insert(family, refresh.clone());
        (refresh, access)
    }
}

impl Run {
    fn breaks(&self, promise: impl Into<String>) {
        let at = self.world.passed();
        locked(&self.broken).push(format!("at {at:?}: {}", promise.into()));
    }

    fn chance(&self, probability: f64) -> bool {
        locked(&self.world.dice).f64() < probability
    }

    fn number(&self, below: usize) -> usize {
        locked(&self.world.dice).usize(..below)
    }

    fn pause(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Watch(Arc::clone(&self.world)).sleep(time)
    }

    /// From a millisecond to three days, short times as often as long ones.
    fn some_time(&self) -> Duration {
        let exponent = locked(&self.world.dice).f64() * (3.0 * 86_400_000.0_f64).ln();
        Duration::from_secs_f64(exponent.exp() / 1000.0)
    }

    fn trouble(&self, of: usize) -> f64 {
        locked(&self.trouble)[of]
    }

    fn count(&self, requests: usize, explicit: usize) {
        let mut days = locked(&self.days);
        let day = days.entry(self.world.passed().as_secs() / DAY.as_secs()).or_default();
        *day = (day.0 + requests, day.1 + explicit);
    }
}

/// From one machine to Concur.
struct Wire {
    run: Arc<Run>,
    process: usize,
}

impl Wire {
    async fn answer(&self, call: &OutgoingCall<'_>) -> Sent {
        let run = &self.run;
        run.count(1, 0);
        *locked(&run.concur).requests.entry(self.process).or_default() += 1;
        let spent = call.field("refresh_token").map(str::to_owned);
        let is_spent = {
            let concur = locked(&run.concur);
            let may_be_old = concur.revoking.get(&self.process).is_some_and(|calls| *calls > 0);
            !may_be_old && spent.as_ref().is_some_and(|spent| concur.succeeded.contains(spent))
        };
        if is_spent {
            run.breaks(format!("{} spends {spent:?} a second time", self.process));
        }
        let elapsed = run.world.up_to(2 * SECOND);
        run.pause(elapsed / 2).await;
        let refused = |code| Ok(call.reply(400, &json!({"code": code, "error": "invalid_grant"})));
        let is_in_trouble = run.chance(run.trouble(0));
        let outcome = match if is_in_trouble { run.number(10) } else { 10 } {
            0 => Ok(call.reply(503, &json!({}))),
            1 => {
                let seconds = [0, 2, 30, 600, 5000][run.number(5)];
                Ok(asks_for_a_pause(call, 429, &json!({}), seconds))
            }
            2 => {
                let (longest, failure) = call.no_answer();
                run.pause(longest).await;
                return Sent { elapsed: longest, outcome: Err(failure) };
            }
            3 => Err(call.not_connected()),
            4 => refused(14),
            5 => refused(5),
            6 => Ok(asks_for_a_pause(call, 400, &json!({"code": 134}), 300)),
            7 => Ok(call.reply(200, &json!({"access_token": "a", "expires_in": 3600}))),
            what => {
                let replied = self.process_request(call, spent.as_deref());
                run.pause(elapsed / 2).await;
                if what < 10 {
                    return Sent { elapsed, outcome: Err(call.lost_reply()) };
                }
                if let (Some(spent), Ok(200)) = (&spent, replied.1) {
                    locked(&run.concur).succeeded.insert(spent.clone());
                }
                if let (Some(spent), Ok(108)) = (spent, replied.1) {
                    locked(&run.concur).told_dead.insert((self.process, spent));
                }
                return Sent { elapsed, outcome: Ok(replied.0) };
            }
        };
        run.pause(elapsed / 2).await;
        Sent { elapsed, outcome }
    }

    fn process_request(
        &self,
        call: &OutgoingCall<'_>,
        spent: Option<&str>,
    ) -> (crate::oauth_client::Response, Result<u32, ()>) {
        let mut concur = locked(&self.run.concur);
        let family = match (call.grant_type(), spent) {
            (None, _) => {
                concur.good.clear();
                return (call.reply(200, &json!({})), Err(()));
            }
            (_, Some(spent)) => {
                let family = concur.families[spent];
                if concur.good.get(&family).is_none_or(|good| good != spent) {
                    // Who presents an old one may have stolen it.
                    concur.good.remove(&family);
                    return (call.reply(400, &json!({"code": 108, "error": "invalid_grant"})), Ok(108));
                }
                family
            }
            _ => concur.number + 1,
        };
        let (refresh, access) = concur.issue(family);
        concur.issued_at.insert(access.clone(), self.run.world.passed());
        drop(concur);
        let mut reply = json!({"refresh_token": refresh, "access_token": access, "expires_in": 3600});
        let now = crate::clock::unix_seconds(Watch(Arc::clone(&self.run.world)).now());
        match self.run.number(40) {
            0 => drop(reply.as_object_mut().unwrap().remove("access_token")),
            1 => reply["expires_in"] = json!(60),
            2 => reply["refresh_expires_in"] = json!(now - 1000),
            3 => reply["refresh_expires_in"] = json!(now + 3 * 3600),
            4..20 => reply["refresh_expires_in"] = json!(now + 180 * 24 * 3600),
            _ => {}
        }
        (call.reply(200, &reply), Ok(200))
    }
}

impl Transport for Wire {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}

/// A database that is slow, fails and does not answer, before or after it has done what it was asked for.
#[derive(Clone)]
struct Shaky {
    run: Arc<Run>,
    store: MemoryStore,
}

impl Shaky {
    async fn trouble(&self) -> Result<(), Error> {
        self.run.pause(self.run.world.up_to(Duration::from_millis(50))).await;
        if !self.run.chance(self.run.trouble(1)) {
            return Ok(());
        }
        match self.run.number(4) {
            0 => pending().await,
            1 => {
                self.run.pause(self.run.world.up_to(8 * SECOND)).await;
                Ok(())
            }
            _ => Err(Error::store("the database fails", "no space left")),
        }
    }

    async fn around<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.trouble().await?;
        let done = call.await?;
        self.trouble().await?;
        Ok(done)
    }
}

impl TokenStore for Shaky {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.around(self.store.load()).await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.around(self.store.save(token, lock)).await
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.around(self.store.remove(lock)).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.around(self.store.try_lock()).await
    }

    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        self.around(self.store.rehearse(held, lock)).await
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.around(self.store.read()).await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.around(self.store.remember(note, lock)).await
    }
}

impl fmt::Debug for Shaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shaky")
    }
}

/// What one machine's callers did and saw.
struct Party {
    run: Arc<Run>,
    number: usize,
    tokens: TokenManager,
    clock: WallClock,
    jumps: AtomicUsize,
    /// When each access token was refused by an API.
    refused: Mutex<HashMap<String, Duration>>,
    /// The newest token when this machine last revoked all.
    revoked: AtomicUsize,
    last: Mutex<Option<AccessToken>>,
    kept: Mutex<Option<KeepAlive>>,
}

/// How things were before a call.
struct Before {
    at: Duration,
    requests: usize,
    jumps: usize,
    refused: HashMap<String, Duration>,
    dead: HashSet<String>,
    revoked: usize,
    held: Option<(String, bool)>,
}

impl Party {
    fn before(&self) -> Before {
        let concur = locked(&self.run.concur);
        let is_ours = |(process, token): &(usize, String)| (*process == self.number).then(|| token.clone());
        let held = self.tokens.0.cache.held().map(|held| held.object.secret().to_owned());
        Before {
            at: self.run.world.passed(),
            requests: concur.requests.get(&self.number).copied().unwrap_or_default(),
            jumps: self.jumps.load(Ordering::Relaxed),
            refused: locked(&self.refused).clone(),
            dead: concur.told_dead.iter().filter_map(is_ours).collect(),
            revoked: self.revoked.load(Ordering::Relaxed),
            held: held.map(|held| (held, self.tokens.status().refresh_token_valid)),
        }
    }

    fn number_of(secret: &str) -> usize {
        secret.rsplit('-').next().unwrap().parse().unwrap()
    }

    fn check_call<T>(&self, what: &str, before: &Before, outcome: &Result<T, Error>) {
        let run = &self.run;
        let took = run.world.passed() - before.at;
        if took > LONGEST_CALL {
            run.breaks(format!("{what} took {took:?}"));
        }
        let status = self.tokens.status();
        if let Err(e) = outcome {
            if e.to_string().contains("panicked") || e.to_string().contains("please report") {
                run.breaks(format!("{what}: {e}"));
            }
            if let Some(left) = e.retry_after().filter(|_| e.is_held_back()) {
                let next = self.tokens.0.now() + left;
                let told = status.next_attempt_at.map(SystemTime::from);
                if told.is_none_or(|told| told + 2 * SECOND < next) {
                    run.breaks(format!(
                        "{what} is held back for {left:?}, but the status says {told:?}: {e}"
                    ));
                }
            }
        }
        let is_refused = |e: &Error| e.is_held_back() && consequences::of(e.kind()).needs_person;
        if let Err(e) = outcome
            && is_refused(e)
            && status.health() != Health::PersonNeeded
        {
            run.breaks(format!("{what} needs a person, but the health is {:?}: {e}", status.health()));
        }
        let needs_person = status.last_error.as_ref().is_some_and(|e| consequences::of(e.kind).needs_person);
        if needs_person != (status.health() == Health::PersonNeeded) {
            run.breaks(format!("the health after {what} is {:?}", status.health()));
        }
        if status.act_before.is_some() && !(needs_person && status.refresh_token_valid) {
            run.breaks(format!("a person is to act for nothing after {what}"));
        }
    }

    fn check_refresh(&self, what: &str, before: &Before, token: &RefreshTokenObject) {
        let (run, secret) = (&self.run, token.secret());
        if before.dead.contains(secret) {
            run.breaks(format!("{what} of {} returned {secret}, which Concur refused", self.number));
        }
        if Self::number_of(secret) <= before.revoked {
            run.breaks(format!("{what} of {} returned {secret}, which was revoked", self.number));
        }
        let asked = locked(&run.concur).requests.get(&self.number).copied().unwrap_or_default();
        let is_same_time = before.jumps == self.jumps.load(Ordering::Relaxed);
        if before.held == Some((secret.to_owned(), false)) && asked == before.requests && is_same_time {
            run.breaks(format!("{what} returned {secret}, which the status called not valid"));
        }
    }

    fn check_access(&self, before: &Before, token: &AccessToken) {
        let (run, secret) = (&self.run, token.secret());
        if before.refused.get(secret).is_some_and(|at| run.world.passed() > *at + LONGEST_REFUSED) {
            run.breaks(format!("{} hands out {secret}, which an API refused", self.number));
        }
        if Self::number_of(secret) <= before.revoked {
            run.breaks(format!("{} hands out {secret}, which was revoked", self.number));
        }
        let asked = locked(&run.concur).requests.get(&self.number).copied().unwrap_or_default();
        let now = self.tokens.0.now();
        let is_same_time = before.jumps == self.jumps.load(Ordering::Relaxed);
        // What is received is not judged by a clock that was set while it was under way.
        let is_new = locked(&run.concur).issued_at.get(secret).is_some_and(|at| *at + MINUTE > before.at);
        let has_expired = SystemTime::from(token.expires_at()) <= now;
        if has_expired && asked == before.requests && is_same_time && !is_new {
            run.breaks(format!("{} hands out {secret}, which has expired", self.number));
        }
    }

    async fn call(&self) {
        let run = &self.run;
        let before = self.before();
        match run.number(100) {
            0..40 => {
                let outcome = self.tokens.access_token().await;
                self.check_call("access_token", &before, &outcome);
                if let Ok(token) = outcome {
                    self.check_access(&before, &token);
                    *locked(&self.last) = Some(token);
                }
            }
            40..65 => {
                let outcome = self.tokens.get_valid_refresh_token().await;
                self.check_call("get_valid_refresh_token", &before, &outcome);
                if let Ok(token) = outcome {
                    self.check_refresh("get_valid_refresh_token", &before, &token);
                }
            }
            65..72 => {
                run.count(0, 1);
                let outcome = self.tokens.refresh().await;
                self.check_call("refresh", &before, &outcome);
                if let Ok(token) = outcome {
                    self.check_refresh("refresh", &before, &token);
                }
            }
            72..82 => {
                let last = locked(&self.last).take();
                if let Some(token) = last {
                    self.tokens.invalidate(&token);
                    let at = run.world.passed();
                    locked(&self.refused).entry(token.secret().to_owned()).or_insert(at);
                }
            }
            82..85 => {
                run.count(0, 1);
                let outcome = self.tokens.retry_now().await;
                self.check_call("retry_now", &before, &outcome);
            }
            85 => {
                run.count(0, 1);
                let newest = locked(&run.concur).number;
                *locked(&run.concur).revoking.entry(self.number).or_default() += 1;
                let outcome = self.tokens.revoke().await;
                locked(&run.concur).revoking.entry(self.number).and_modify(|calls| *calls -= 1);
                self.check_call("revoke", &before, &outcome);
                if outcome.is_ok() {
                    self.revoked.fetch_max(newest, Ordering::Relaxed);
                }
            }
            86 => {
                let (refresh, _) = {
                    let mut concur = locked(&run.concur);
                    let family = concur.number + 1;
                    concur.issue(family)
                };
                let token = json!({"refresh_token": refresh, "geolocation": BASE}).to_string();
                let outcome = self.tokens.adopt(RefreshTokenObject::from_json(&token).unwrap()).await;
                self.check_call("adopt", &before, &outcome);
            }
            87 => {
                run.count(0, 1);
                let grant = Grant::company_request_token("company", "request token");
                let outcome = self.tokens.sign_in(grant).await;
                self.check_call("sign_in", &before, &outcome);
            }
            88..91 => {
                let status = self.tokens.read_status().await;
                let may_act = status.health() == Health::PersonNeeded && status.refresh_token_valid;
                if may_act && status.refresh_token_expires_at.is_some() && status.act_before.is_none() {
                    run.breaks("read_status does not say by when a person must act");
                }
            }
            91..94 => {
                let kept = self.tokens.keep_alive().await.unwrap();
                *locked(&self.kept) = Some(kept);
            }
            94..98 => drop(locked(&self.kept).take()),
            _ => {
                let jump = i64::try_from(run.world.up_to(5 * HOUR).as_millis()).unwrap();
                self.clock.set(if run.chance(0.5) { jump } else { -jump });
                self.jumps.fetch_add(1, Ordering::Relaxed);
                // How long a pause lasts whose clock was set meanwhile, is not known.
                let now = run.world.passed();
                locked(&self.refused).retain(|_, at| *at + LONGEST_REFUSED < now);
            }
        }
    }
}

/// What broke in the months of this seed.
fn months(seed: u64, calls: usize) -> Vec<String> {
    let world = World::new(seed);
    let run = Arc::new(Run {
        world: Arc::clone(&world),
        broken: Mutex::default(),
        concur: Mutex::default(),
        days: Mutex::default(),
        trouble: Mutex::default(),
        ended: AtomicUsize::new(0),
    });
    let store = Shaky { run: Arc::clone(&run), store: MemoryStore::new() };
    let machines = 1 + run.number(4);
    for number in 0..machines {
        let clock = WallClock::new(&world);
        let machine = Machine { clock: Arc::new(clock.clone()), ..world.machine(number) };
        let tokens = TokenManager::builder()
            .credentials(Credentials::new("app", "secret").company("company", "request token"))
            .base_uri(BASE)
            .store(store.clone())
            .oauth_client(OAuthClient::on(Wire { run: Arc::clone(&run), process: number }))
            .machine(machine)
            .build()
            .unwrap();
        let party = Arc::new(Party {
            run: Arc::clone(&run),
            number,
            tokens,
            clock,
            jumps: AtomicUsize::new(0),
            refused: Mutex::default(),
            revoked: AtomicUsize::new(0),
            last: Mutex::default(),
            kept: Mutex::default(),
        });
        for _ in 0..2 {
            let party = Arc::clone(&party);
            world.spawn(number, async move {
                for _ in 0..calls {
                    party.run.pause(party.run.some_time()).await;
                    party.call().await;
                }
                drop(locked(&party.kept).take());
                party.run.ended.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
    let weather = Arc::clone(&run);
    world.spawn(machines, async move {
        while weather.ended.load(Ordering::Relaxed) < 2 * machines {
            let trouble = [(); 2].map(|()| [0.0, 0.02, 0.2, 0.9][weather.number(4)]);
            *locked(&weather.trouble) = [trouble[0], trouble[1] / 2.0];
            weather.pause(weather.world.up_to(2 * DAY)).await;
        }
    });
    world.run();
    if run.ended.load(Ordering::Relaxed) < 2 * machines {
        run.breaks("a call never ended");
    }
    for (day, (requests, explicit)) in &*locked(&run.days) {
        if *requests > machines * (1500 + 8 * explicit) {
            run.breaks(format!("{requests} requests on day {day}"));
        }
    }
    locked(&run.broken).clone()
}

/// `CONCUR_AUTH_RUNS` says how many seeds are tried.
#[test]
fn whatever_fails_for_months_no_promise_is_broken() {
    let runs = std::env::var("CONCUR_AUTH_RUNS").map_or(4, |runs| runs.parse().unwrap());
    let first = seed();
    for seed in (0..runs).map(|run| first.wrapping_add(run)) {
        let broken = months(seed, 150);
        assert!(broken.is_empty(), "CONCUR_AUTH_SEED={seed}: {:#?}", &broken[..broken.len().min(5)]);
    }
}
