//! What a fleet promises, wherever its tokens lie: the same tests for the folder and for PostgreSQL.

#![allow(unreachable_pub, reason = "two test files use it")]

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use concur_auth::{
    AppCenterRedirect, AppCredentials, Clock as _, ErrorKind, Fleet, FleetBuilder, FleetStore, Grant, Health,
    MemberKind, MemberState, RefreshTokenObject, SystemClock, TokenStore as _,
    simulator::{ConcurSimulator, Fault, ManualClock, Rotation, SimulatedCompany},
};

use crate::support::{FliesAtTheEnd, HOUR, MINUTE, really_wait, until};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// After so long every token of SAP's six months is due.
pub const UNTIL_DUE: Duration = Duration::from_secs(61 * 24 * 3600);

/// Where the tokens of one test's fleets lie.
pub trait Place: Send + Sync {
    type Store: FleetStore;

    /// As another process opens it.
    fn store(&self) -> Self::Store;

    /// So much time passes for what is stored. On the clock of the test it has passed already.
    fn pass(&self, time: Duration);

    /// The names of the rows or folders that there are.
    fn names(&self) -> Vec<String>;
}

/// A Concur, a place, and what fleets need to work on both.
pub struct Scene<P> {
    pub concur: ConcurSimulator,
    pub clock: ManualClock,
    pub place: P,
    _clock: FliesAtTheEnd,
}

impl<P: Place> Scene<P> {
    pub async fn new(place: impl FnOnce(&ManualClock) -> P) -> Self {
        let clock = ManualClock::new(SystemClock.now());
        let rotation = Rotation::AlwaysAndRevokeFamily;
        let concur = ConcurSimulator::builder().clock(clock.clone()).rotation(rotation).start().await;
        let place = place(&clock);
        Self { concur, _clock: FliesAtTheEnd(clock.clone()), clock, place }
    }

    pub fn app(&self) -> AppCredentials {
        let app = self.concur.app();
        AppCredentials::new(app.id(), app.secret())
    }

    pub fn builder(&self) -> FleetBuilder {
        Fleet::builder()
            .app(self.app())
            .base_uri(self.concur.base_uri())
            .store(self.place.store())
            .clock(self.clock.clone())
    }

    /// As in a process of its own.
    pub fn fleet(&self) -> Fleet {
        self.builder().build().unwrap()
    }

    /// So many companies that are connected.
    pub async fn companies(&self, fleet: &Fleet, count: usize) -> Vec<SimulatedCompany> {
        let mut companies = Vec::new();
        for _ in 0..count {
            let company = self.concur.add_company();
            assert_eq!(fleet.connect(grant(&company)).await.unwrap(), company.uuid());
            companies.push(company);
        }
        companies
    }

    pub fn pass(&self, time: Duration) {
        self.place.pass(time);
        self.clock.advance(time);
    }

    /// How often each company's token was renewed.
    fn renewals(&self) -> HashMap<String, usize> {
        let mut renewals = HashMap::new();
        for request in self.concur.requests() {
            if request.grant_type() == Some("refresh_token") && request.status() == Some(200) {
                *renewals.entry(request.body().to_owned()).or_default() += 1;
            }
        }
        renewals
    }

    /// Lets minutes pass until the condition holds, as workers look once a minute at the latest.
    pub async fn minutes_until(&self, condition: impl AsyncFn() -> bool) {
        for _ in 0..10_000 {
            if condition().await {
                return;
            }
            self.minute().await;
        }
        panic!("it has not come about");
    }

    /// A minute in which workers, flights and requests get on.
    pub async fn minute(&self) {
        for _ in 0..6 {
            really_wait(Duration::from_millis(5)).await;
            self.clock.advance(Duration::from_secs(10));
        }
        self.place.pass(MINUTE);
    }

    /// Has what waits for the clock get on, at ten times its speed.
    pub async fn while_time_passes<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let tick = pin!(really_wait(Duration::from_millis(10)));
            match select(work.as_mut(), tick).await {
                Some(output) => return output,
                None => self.clock.advance(Duration::from_millis(100)),
            }
        }
    }
}

/// The output of `work`, or `None` if `tick` ends first.
async fn select<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    mut tick: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => tick.as_mut().poll(context).map(|()| None),
    })
    .await
}

pub fn grant(company: &SimulatedCompany) -> Grant {
    Grant::company_request_token(company.uuid(), company.request_token())
}

/// A company connects by its request token or from the App Center, in one request; another process has the token, and asks
/// Concur for nothing.
pub async fn a_company_connects_once<P: Place>(scene: Scene<P>) {
    let (fleet, other_process) = (scene.fleet(), scene.fleet());
    let company = scene.concur.add_company();
    let uuid = fleet.connect(grant(&company)).await.unwrap();
    assert_eq!(uuid, company.uuid());
    let access = fleet.company(&uuid.to_uppercase()).access_token().await.unwrap();
    assert_eq!(other_process.company(&uuid).access_token().await.unwrap().secret(), access.secret());
    assert_eq!(scene.concur.token_requests(), 1);
    assert_eq!(scene.place.names(), [&*uuid]);

    let landing = scene.concur.app_center_redirect("https://app.example.com/connect");
    let uuid = fleet.connect(AppCenterRedirect::from_url(&landing).unwrap()).await.unwrap();
    assert_eq!(uuid, scene.concur.company_uuid());
    assert_eq!(scene.concur.token_requests(), 2);
    let health = fleet.health().await.unwrap();
    assert_eq!((health.active, health.needing_a_person, health.signed_out, health.unsaved), (2, 0, 0, 0));
}

/// Of an authorization code, a password or a one-time password, only Concur's reply says who has signed in.
pub async fn a_user_connects_and_is_found_by_the_reply<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let user = scene.concur.add_user();
    let sign_in = || Grant::user_password(user.username(), user.password());
    for requests in 1..=2 {
        // The second time the user is there already.
        assert_eq!(fleet.connect(sign_in()).await.unwrap(), user.uuid());
        assert_eq!(scene.place.names(), [user.uuid()], "no pending name is left");
        let stored = fleet.user(user.uuid()).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(stored.secret()));
        assert_eq!(scene.concur.token_requests(), requests);
    }
    let members = fleet.list(None, 10).await.unwrap();
    assert_eq!((members.len(), &*members[0].uuid, members[0].kind), (1, user.uuid(), MemberKind::User));
    assert_eq!(members[0].state, MemberState::Active);
}

/// Without an `id_token` the token stays where it is, and the error says how it is given to its user.
pub async fn a_grant_that_names_nobody_waits_for_its_user<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let user = scene.concur.add_user();
    scene.concur.set_reply_member("id_token", None);
    let error = fleet.connect(Grant::user_password(user.username(), user.password())).await.unwrap_err();
    let names = scene.place.names();
    let pending = &*names[0];
    assert!(pending.starts_with("pending-") && names.len() == 1, "{names:?}");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!(
            "the token was saved, but Concur's reply does not say who has signed in; find out, and call \
             Fleet::assign(\"{pending}\", the UUID)"
        )
    );
    let members = fleet.list(None, 10).await.unwrap();
    assert_eq!((members.len(), members[0].kind), (1, MemberKind::Pending));

    fleet.assign(pending, user.uuid()).await.unwrap();
    assert_eq!(scene.place.names(), [user.uuid()]);
    let stored = fleet.user(user.uuid()).get_valid_refresh_token().await.unwrap();
    assert!(scene.concur.is_live(stored.secret()));
    assert_eq!(scene.concur.token_requests(), 1);

    let error = fleet.assign(pending, user.uuid()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let error = fleet.assign(user.uuid(), "other").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("\"{}\" is no name that Fleet::connect has made; pass that name, pending-…", user.uuid())
    );
}

/// A sign-in that Concur refuses leaves nothing behind.
pub async fn a_sign_in_that_is_refused_leaves_no_active_member<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let company = scene.concur.add_company();
    let user = scene.concur.add_user();
    let wrong = Grant::company_request_token(company.uuid(), "wrong");
    assert_eq!(fleet.connect(wrong).await.unwrap_err().code().unwrap().number(), 5);
    let wrong = Grant::user_password(user.username(), "wrong");
    assert_eq!(fleet.connect(wrong).await.unwrap_err().code().unwrap().number(), 5);
    assert!(fleet.connect(Grant::client_credentials()).await.unwrap_err().kind() == ErrorKind::Config);
    assert_eq!(fleet.health().await.unwrap().active, 0);
}

/// A token from another system.
pub async fn a_token_is_adopted<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    fleet.adopt(&scene.concur.company_uuid(), token.clone()).await.unwrap();
    let other_process = scene.fleet();
    let stored = other_process.company(&scene.concur.company_uuid()).get_valid_refresh_token().await.unwrap();
    assert_eq!(stored.secret(), token.secret());
    assert_eq!(scene.concur.token_requests(), 0);
    let error = fleet.adopt(scene.concur.add_company().uuid(), token).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "another company's: {error}");
}

/// What is revoked at Concur is removed from the store, for all processes.
pub async fn a_member_is_disconnected<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let company = scene.companies(&fleet, 1).await.remove(0);
    let token = fleet.company(company.uuid()).get_valid_refresh_token().await.unwrap();
    fleet.disconnect(company.uuid()).await.unwrap();
    assert!(!scene.concur.is_live(token.secret()));
    let error = scene.fleet().company(company.uuid()).access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    let health = fleet.health().await.unwrap();
    assert_eq!((health.active, health.needing_a_person), (0, 0));
    // And comes back.
    fleet.connect(grant(&company)).await.unwrap();
    assert_eq!(fleet.health().await.unwrap().active, 1);
}

/// Forgotten is what the store and this process have, whatever the member's kind: nothing is sent, and the token stays valid.
pub async fn a_member_is_forgotten_without_a_request<P: Place>(scene: Scene<P>) {
    let (fleet, other_process) = (scene.fleet(), scene.fleet());
    let company = scene.companies(&fleet, 1).await.remove(0);
    let user = scene.concur.add_user();
    fleet.connect(Grant::user_password(user.username(), user.password())).await.unwrap();
    let requests = scene.concur.requests().len();
    // The user's UUID was taken for a company's, too.
    let mut tokens = Vec::new();
    for manager in [fleet.company(company.uuid()), fleet.user(user.uuid()), fleet.company(user.uuid())] {
        manager.access_token().await.unwrap();
        tokens.push(manager.get_valid_refresh_token().await.unwrap());
    }
    for uuid in [company.uuid(), user.uuid()] {
        assert!(fleet.forget(&uuid.to_uppercase()).await.unwrap());
        assert_eq!(fleet.member(uuid).await.unwrap().unwrap().state, MemberState::SignedOut);
        assert!(!fleet.forget(uuid).await.unwrap(), "there is none any more");
        for manager in [fleet.company(uuid), fleet.user(uuid), other_process.company(uuid)] {
            let error = manager.access_token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CredentialsNeeded, "{error}");
        }
        assert!(fleet.company(uuid).status().signed_out);
    }
    let stranger = "b3f4e2a0-0000-4000-8000-000000000000";
    assert!(!fleet.forget(stranger).await.unwrap());
    assert!(!scene.place.names().iter().any(|name| name == stranger));
    assert_eq!(scene.concur.requests().len(), requests, "nothing is sent");
    assert!(tokens.iter().all(|token| scene.concur.is_live(token.secret())));
    // The same token comes back.
    fleet.adopt(company.uuid(), tokens.remove(0)).await.unwrap();
    other_process.company(company.uuid()).get_valid_refresh_token().await.unwrap();
    fleet.company(company.uuid()).access_token().await.unwrap();
}

/// A renewal under way comes to its end first.
pub async fn a_member_is_forgotten_after_the_renewal_under_way<P: Place>(scene: Scene<P>) {
    let (fleet, other_process) = (scene.fleet(), scene.fleet());
    let company = scene.companies(&fleet, 1).await.remove(0);
    let replies = scene.concur.hold_replies();
    let tokens = other_process.company(company.uuid());
    let renewal = tokio::spawn(async move { tokens.refresh().await });
    until(|| scene.concur.count("refresh_token") == 1).await;
    let uuid = company.uuid().to_owned();
    let forgetting = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.forget(&uuid).await }
    });
    until(|| scene.clock.sleepers() > 0).await;
    replies.release();
    assert!(scene.while_time_passes(forgetting).await.unwrap().unwrap());
    let renewed = renewal.await.unwrap().unwrap();
    assert!(scene.concur.is_live(renewed.secret()), "saved, and then removed");
    assert_eq!(fleet.member(company.uuid()).await.unwrap().unwrap().state, MemberState::SignedOut);
    assert_eq!(scene.concur.token_requests(), 2);
}

/// A UUID that was mistyped makes neither a row nor a folder, and the error says what to do.
pub async fn who_is_not_connected_is_told_so<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let uuid = "b3f4e2a0-0000-4000-8000-000000000000";
    for (tokens, who, how) in [
        (
            fleet.company(uuid),
            "company",
            "create a company request token at https://www.concursolutions.com/nui/authadmin/companytokens, and pass \
             Grant::company_request_token, or what the App Center sends, to Fleet::connect",
        ),
        (fleet.user(uuid), "user", "let the user sign in, and pass the grant to Fleet::connect"),
    ] {
        let error = tokens.access_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
        assert_eq!(
            error.to_string(),
            format!("{who} {uuid} is not connected: the fleet has no token; {how}")
        );
    }
    assert_eq!(scene.place.names(), Vec::<String>::new());
    for name in ["", "../x", "a/b", "*"] {
        let error = fleet.company(name).access_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "the name of a member of a fleet consists of 1 to 64 ASCII letters, digits, hyphens and underscores; pass the UUID \
             of the company or user"
        );
    }
    assert_eq!(scene.concur.token_requests(), 0);
}

/// By its UUID alone, in upper case too, a member is found with its kind. Where there is no such member, to ask makes neither a row
/// nor a folder.
pub async fn a_member_is_found_by_its_uuid<P: Place>(scene: Scene<P>) {
    let (fleet, other_process) = (scene.fleet(), scene.fleet());
    let stranger = "b3f4e2a0-0000-4000-8000-000000000000";
    assert_eq!(fleet.member(stranger).await.unwrap(), None);
    let company = scene.companies(&fleet, 1).await.remove(0);
    let user = scene.concur.add_user();
    fleet.connect(Grant::user_password(user.username(), user.password())).await.unwrap();
    for (uuid, kind) in [(company.uuid(), MemberKind::Company), (user.uuid(), MemberKind::User)] {
        let found = other_process.member(&uuid.to_uppercase()).await.unwrap().unwrap();
        assert_eq!((&*found.uuid, found.kind, found.state), (uuid, kind, MemberState::Active));
        let listed = other_process.list(None, 10).await.unwrap();
        assert_eq!(listed.iter().filter(|member| **member == found).count(), 1, "{listed:?}");
    }
    // A token that does not say whose it is, such as those of SAP's sample program, is a company's.
    let sample = RefreshTokenObject::from_json(r#"{"refresh_token": "of a company"}"#).unwrap();
    fleet.adopt("0f", sample).await.unwrap();
    assert_eq!(fleet.member("0f").await.unwrap().unwrap().kind, MemberKind::Company);
    fleet.disconnect(company.uuid()).await.unwrap();
    assert_eq!(fleet.member(company.uuid()).await.unwrap().unwrap().state, MemberState::SignedOut);
    assert_eq!(fleet.member(stranger).await.unwrap(), None);
    assert_eq!(fleet.member("../x").await.unwrap_err().kind(), ErrorKind::Config);
    assert!(!scene.place.names().iter().any(|name| name == stranger));
}

/// Two processes keep 40 companies alive: once each token is due, it is renewed once, by one of them.
pub async fn workers_share_what_is_due<P: Place>(scene: Scene<P>) {
    let fleets = [scene.fleet(), scene.fleet()];
    let companies = scene.companies(&fleets[0], 40).await;
    let _workers = [fleets[0].keep_alive().await.unwrap(), fleets[1].keep_alive().await.unwrap()];
    for period in 1..=2 {
        // The database's clock does not pass with the test's, so what it stores meanwhile expires later, and is due later.
        scene.pass(UNTIL_DUE + u32::try_from(period - 1).unwrap() * 40 * DAY);
        scene.minutes_until(async || scene.concur.count("refresh_token") >= 40 * period).await;
        // No more than that, however long they go on.
        for _ in 0..10 {
            scene.minute().await;
        }
        assert_eq!(scene.concur.count("refresh_token"), 40 * period);
    }
    assert!(scene.renewals().values().all(|renewed| *renewed == 1), "no token was presented twice");
    for company in &companies {
        let stored = fleets[0].company(company.uuid()).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(stored.secret()));
    }
    assert_eq!(scene.concur.token_requests(), 40 + 80);
}

/// For cron: what is due is renewed, the call ends, and its counts say what became of each.
pub async fn a_round_renews_what_is_due_and_counts_what_became_of_it<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let companies = scene.companies(&fleet, 6).await;
    assert_eq!(round(&scene, &fleet).await, [0; 4], "nothing is due");
    let [locked, dead, out_of_reach, busy, ..] = &companies[..] else { panic!() };
    scene.concur.refuse_principal(locked.uuid(), 14);
    scene.concur.refuse_principal(dead.uuid(), 108);
    scene.concur.refuse_principal(out_of_reach.uuid(), 134);
    scene.pass(UNTIL_DUE);
    // As another process that works on it.
    let store = scene.place.store().of(scene.concur.app().id(), busy.uuid());
    let lock = store.try_lock().await.unwrap().unwrap();
    assert_eq!(round(&scene, &fleet).await, [2, 1, 2, 1]);
    assert_eq!(scene.concur.count("refresh_token"), 5);
    assert_eq!(fleet.needing_a_person().await.unwrap().len(), 2);
    assert_eq!(round(&scene, &fleet).await, [0, 0, 0, 1], "the others rest");
    store.unlock(lock).await;
    scene.concur.end_refusals();
    scene.pass(HOUR);
    let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
    let json = serde_json::to_string(&renewals).unwrap();
    assert_eq!(json, r#"{"renewed":3,"failed":0,"needs_person":0,"skipped":0}"#, "all but the dead one");
    assert_eq!(scene.concur.count("refresh_token"), 5 + 3);
    assert!(scene.renewals().values().all(|renewed| *renewed == 1), "no token was presented twice");
}

/// What a call of `renew_due` counts: renewed, failed, needing a person, skipped.
async fn round<P: Place>(scene: &Scene<P>, fleet: &Fleet) -> [u64; 4] {
    let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
    [renewals.renewed, renewals.failed, renewals.needs_person, renewals.skipped]
}

/// Two processes do this at once: each token is renewed by one of them, and more than either has slots for.
pub async fn rounds_share_what_is_due<P: Place>(scene: Scene<P>) {
    let fleets = [(); 2].map(|()| scene.builder().max_concurrent(4).build().unwrap());
    scene.companies(&fleets[0], 30).await;
    scene.pass(UNTIL_DUE);
    let both = async { tokio::join!(fleets[0].renew_due(), fleets[1].renew_due()) };
    let (one, other) = scene.while_time_passes(both).await;
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!((one.renewed + other.renewed, one.failed + other.failed), (30, 0), "{one:?} {other:?}");
    assert_eq!((scene.concur.count("refresh_token"), scene.renewals().len()), (30, 30));
}

pub async fn a_round_sends_no_more_at_once_than_the_fleet_may<P: Place>(scene: Scene<P>) {
    let fleet = scene.builder().max_concurrent(2).build().unwrap();
    scene.companies(&fleet, 6).await;
    scene.pass(UNTIL_DUE);
    scene.concur.set_fault(Fault::Delay(Duration::from_secs(1)));
    let renewing = tokio::spawn(async move { fleet.renew_due().await });
    until(|| scene.concur.count("refresh_token") == 2).await;
    really_wait(Duration::from_millis(200)).await;
    assert_eq!(scene.concur.count("refresh_token"), 2);
    scene.concur.clear_faults();
    assert_eq!(scene.while_time_passes(renewing).await.unwrap().unwrap().renewed, 6);
    assert_eq!(scene.concur.count("refresh_token"), 6);
}

/// Concur is down: one token at a time tries it, six times in less than a minute. What has not tried it remains due.
pub async fn a_round_ends_while_concur_is_down<P: Place>(scene: Scene<P>) {
    let fleet = scene.builder().max_concurrent(1).build().unwrap();
    scene.companies(&fleet, 10).await;
    scene.concur.set_fault(Fault::status(503));
    scene.pass(UNTIL_DUE);
    let (before, began) = (scene.concur.token_requests(), scene.clock.now());
    assert_eq!(round(&scene, &fleet).await, [0, 6, 0, 0]);
    assert_eq!(scene.concur.token_requests() - before, 6);
    let took = scene.clock.now().duration_since(began).unwrap();
    assert!((Duration::from_secs(15)..MINUTE).contains(&took), "{took:?}");
    scene.concur.clear_faults();
    scene.pass(HOUR);
    assert_eq!(round(&scene, &fleet).await, [10, 0, 0, 0]);
    assert_eq!(scene.concur.token_requests() - before, 6 + 10);
}

/// A renewal that fails is due again before the round is over, which takes minutes: a later round tries it again.
pub async fn a_round_presents_no_token_twice<P: Place>(scene: Scene<P>) {
    let fleet = scene.builder().max_concurrent(1).max_requests_per_second(1.0 / 90.0).build().unwrap();
    let companies = scene.companies(&scene.fleet(), 4).await;
    scene.concur.refuse_principal(companies[0].uuid(), 134);
    scene.pass(UNTIL_DUE);
    let renewing = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.renew_due().await }
    });
    scene.minutes_until(async || renewing.is_finished()).await;
    let renewals = renewing.await.unwrap().unwrap();
    assert_eq!((renewals.renewed, renewals.failed, renewals.skipped), (3, 1, 0));
    assert_eq!(scene.concur.count("refresh_token"), 4);
    scene.concur.end_refusals();
    scene.pass(HOUR);
    assert_eq!(round(&scene, &fleet).await, [1, 0, 0, 0]);
}

/// By its caller, who goes away, or by the fleet, which is shut down: what was claimed and not presented is given back.
pub async fn a_round_that_is_stopped_gives_back_what_it_has_not_presented<P: Place>(scene: Scene<P>) {
    scene.companies(&scene.fleet(), 8).await;
    scene.pass(UNTIL_DUE);
    for (is_dropped, sent) in [(true, 1), (false, 2)] {
        let fleet = scene.builder().max_concurrent(4).max_requests_per_second(1.0 / 60.0).build().unwrap();
        let renewing = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.renew_due().await }
        });
        // The first request is sent at once. The others wait for a minute each.
        until(|| scene.renewals().len() == sent).await;
        until(|| scene.clock.sleepers() > 1).await;
        if is_dropped {
            renewing.abort();
            assert!(renewing.await.unwrap_err().is_cancelled());
            // Time enough for all requests.
            for _ in 0..5 {
                scene.minute().await;
            }
        } else {
            scene.while_time_passes(fleet.shutdown(MINUTE / 3)).await.unwrap();
            assert_eq!(scene.while_time_passes(renewing).await.unwrap().unwrap().failed, 0);
        }
        assert_eq!(scene.concur.count("refresh_token"), sent);
        scene.pass(2 * MINUTE);
    }
    assert_eq!(round(&scene, &scene.fleet()).await, [6, 0, 0, 0]);
    assert_eq!((scene.concur.count("refresh_token"), scene.renewals().len()), (8, 8));
}

/// Sooner than the store would have it; but not twice in a day, however large the margin, and not against the pause after a refusal.
pub async fn a_margin_makes_tokens_due_earlier<P: Place>(scene: Scene<P>) {
    let with_margin = |margin| scene.builder().refresh_token_margin(margin).build().unwrap();
    let fleet = scene.fleet();
    let companies = scene.companies(&fleet, 4).await;
    // Of 182 days, 149 are left.
    scene.pass(33 * DAY);
    for fleet in [&fleet, &with_margin(148 * DAY)] {
        assert_eq!(round(&scene, fleet).await, [0; 4]);
    }
    scene.concur.refuse_principal(companies[0].uuid(), 14);
    assert_eq!(round(&scene, &with_margin(150 * DAY)).await, [3, 0, 1, 0]);
    // Longer than any life.
    let always = with_margin(Duration::MAX);
    for _ in 0..2 {
        assert_eq!(round(&scene, &always).await, [0; 4]);
        scene.pass(10 * MINUTE);
    }
    assert_eq!(scene.concur.count("refresh_token"), 4);
    scene.concur.end_refusals();
    scene.pass(DAY);
    assert_eq!(round(&scene, &always).await, [4, 0, 0, 0]);
    assert_eq!(round(&scene, &always).await, [0; 4]);
    let members = fleet.list(None, 10).await.unwrap();
    let left = members.iter().map(|member| {
        let (expires_at, renew_at) = (member.refresh_token_expires_at.unwrap(), member.renew_at.unwrap());
        (expires_at - renew_at).whole_days()
    });
    assert!(left.into_iter().all(|days| (119..=170).contains(&days)), "the store's own time: {members:?}");
    let _worker = always.keep_alive().await.unwrap();
    scene.pass(DAY);
    scene.minutes_until(async || scene.concur.count("refresh_token") >= 4 + 4 + 4).await;
    assert_eq!(scene.concur.count("refresh_token"), 4 + 4 + 4);
}

/// Who is refused needs a person, and all processes know it; the others are renewed. Once the administrator has unlocked the
/// account, renewal goes on by itself.
pub async fn who_needs_a_person_is_named<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let companies = scene.companies(&fleet, 3).await;
    let [locked, dead, well] = &companies[..] else { panic!() };
    scene.concur.refuse_principal(locked.uuid(), 14);
    scene.concur.refuse_principal(dead.uuid(), 108);
    scene.pass(UNTIL_DUE);
    let _worker = fleet.keep_alive().await.unwrap();
    let other_process = scene.fleet();
    scene
        .minutes_until(async || {
            let needing = other_process.needing_a_person().await.unwrap();
            needing.len() == 2 && scene.concur.count("refresh_token") >= 3
        })
        .await;
    let mut needing = other_process.needing_a_person().await.unwrap();
    needing.sort_by_key(|member| member.uuid == dead.uuid());
    assert_eq!([&*needing[0].uuid, &*needing[1].uuid], [locked.uuid(), dead.uuid()]);
    assert!(
        needing.iter().all(|member| member.needs.is_some() && member.needed_since.is_some()),
        "{needing:?}"
    );
    let [locked_until, dead_until] = [0, 1].map(|n| needing[n].refresh_token_expires_at);
    assert!(locked_until.is_some() && dead_until.is_some(), "{needing:?}");
    assert_eq!((needing[0].act_before, needing[1].act_before), (locked_until, None));
    let active = other_process.member(well.uuid()).await.unwrap().unwrap();
    assert!(active.refresh_token_expires_at.is_some() && active.act_before.is_none(), "{active:?}");
    let health = fleet.health().await.unwrap();
    assert_eq!((health.active, health.needing_a_person), (1, 2));
    assert_eq!(health.soonest_expiry, active.refresh_token_expires_at);
    let status = fleet.company(locked.uuid()).read_status().await;
    assert_eq!(status.health(), Health::PersonNeeded);
    assert_eq!(fleet.company(well.uuid()).read_status().await.health(), Health::Healthy);

    scene.concur.end_refusals();
    scene.pass(HOUR);
    scene
        .minutes_until(async || {
            let needing = other_process.needing_a_person().await.unwrap();
            needing.iter().map(|member| &*member.uuid).eq([dead.uuid()])
        })
        .await;
    let request_token = scene.concur.issue_request_token_for(dead.uuid());
    fleet.connect(Grant::company_request_token(dead.uuid(), request_token)).await.unwrap();
    assert_eq!(other_process.needing_a_person().await.unwrap(), []);
}

/// While Concur is down, one token at a time tries it; afterwards all are renewed.
pub async fn an_outage_is_waited_out<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    scene.companies(&fleet, 20).await;
    scene.concur.set_fault(Fault::status(503));
    scene.pass(UNTIL_DUE);
    let before = scene.concur.token_requests();
    let _worker = fleet.keep_alive().await.unwrap();
    for _ in 0..60 {
        scene.minute().await;
    }
    let tried = scene.concur.token_requests() - before;
    // Those that were claimed at first, six pauses that grow to half a minute or more, and one in each half of a minute.
    assert!((1..=20 + 6 + 120).contains(&tried), "{tried} requests in an hour's outage");
    scene.concur.clear_faults();
    scene.minutes_until(async || scene.renewals().len() == 20).await;
    scene.while_time_passes(fleet.shutdown(MINUTE)).await.unwrap();
}

/// Concur is down for a day, and is tried in each hour. When Concur is back, all tokens are renewed once, those first that expire
/// first.
pub async fn a_day_of_outage_is_made_up_for_in_the_order_of_expiry<P: Place>(scene: Scene<P>) {
    const COMPANIES: usize = 8;
    let fleet = scene.builder().max_concurrent(1).build().unwrap();
    let mut tokens = Vec::new();
    for _ in 0..COMPANIES {
        let company = scene.companies(&fleet, 1).await.remove(0);
        tokens.push(fleet.company(company.uuid()).get_valid_refresh_token().await.unwrap());
        scene.pass(DAY);
    }
    scene.concur.set_fault(Fault::status(503));
    scene.pass(UNTIL_DUE);
    let worker = fleet.keep_alive().await.unwrap();
    for _ in 0..24 {
        let tried = scene.concur.token_requests();
        scene.pass(HOUR);
        scene.minutes_until(async || scene.concur.token_requests() > tried).await;
    }
    drop(worker);
    scene.while_time_passes(fleet.shutdown(MINUTE)).await.unwrap();
    scene.concur.clear_faults();
    // Also those that were tried last are due again. Which of them the same process may try at once, its pauses say; another
    // process has none.
    scene.pass(HOUR);
    let other = scene.builder().max_concurrent(1).build().unwrap();
    let before = scene.concur.requests().len();
    let _worker = other.keep_alive().await.unwrap();
    scene.minutes_until(async || scene.renewals().len() == COMPANIES).await;
    scene.while_time_passes(other.shutdown(MINUTE)).await.unwrap();
    let requests = scene.concur.requests().split_off(before);
    let order = requests
        .iter()
        .filter(|request| request.status() == Some(200))
        .map(|request| tokens.iter().position(|token| request.body().contains(token.secret())).unwrap());
    assert_eq!(order.collect::<Vec<_>>(), Vec::from_iter(0..COMPANIES));
    assert!(scene.renewals().values().all(|renewed| *renewed == 1));
}

/// The access tokens that this process asks for are renewed before they expire; the others are not.
pub async fn what_is_in_use_is_kept_warm<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let companies = scene.companies(&scene.fleet(), 3).await;
    let _worker = fleet.keep_alive().await.unwrap();
    let used = fleet.company(companies[0].uuid());
    used.access_token().await.unwrap();
    let before = scene.concur.token_requests();
    scene.minutes_until(async || scene.concur.token_requests() > before).await;
    assert_eq!(scene.concur.token_requests(), before + 1);
    assert!(scene.clock.now().duration_since(SystemClock.now()).unwrap() < HOUR);
}

/// Listeners hear of each renewal, by name.
pub async fn events_name_the_member<P: Place>(scene: Scene<P>) {
    let fleet = scene.fleet();
    let mut events = fleet.events();
    let company = scene.companies(&fleet, 1).await.remove(0);
    let event = events.next().await.unwrap();
    assert_eq!((&*event.uuid, event.kind), (company.uuid(), MemberKind::Company));
    assert!(event.status.refresh_token_valid);
    drop(fleet);
    assert!(events.next().await.is_none());
}

/// Two processes connect one company at once, each with its own request token: one sign-in counts for both.
pub async fn two_processes_connect_one_company<P: Place>(scene: Scene<P>) {
    let (one, other) = (scene.fleet(), scene.fleet());
    let company = scene.concur.add_company();
    let both = async { tokio::join!(one.connect(grant(&company)), other.connect(grant(&company))) };
    let (first, second) = scene.while_time_passes(both).await;
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    let [first, second] = [
        one.company(company.uuid()).get_valid_refresh_token().await.unwrap(),
        other.company(company.uuid()).get_valid_refresh_token().await.unwrap(),
    ];
    assert_eq!(first.secret(), second.secret());
    assert!(scene.concur.is_live(first.secret()));
    assert_eq!(scene.place.names().len(), 1);
}

/// What was claimed and not presented is given back, and another process goes on.
pub async fn a_shut_down_worker_gives_back_what_it_has_not_presented<P: Place>(scene: Scene<P>) {
    let fleet = scene.builder().max_concurrent(4).max_requests_per_second(1.0 / 60.0).build().unwrap();
    scene.companies(&scene.fleet(), 4).await;
    scene.pass(UNTIL_DUE);
    let worker = fleet.keep_alive().await.unwrap();
    // The first request is sent at once. The others wait for half a minute, which is less than they would have to.
    until(|| scene.concur.count("refresh_token") == 1).await;
    until(|| scene.clock.sleepers() > 1).await;
    scene.while_time_passes(fleet.shutdown(MINUTE / 3)).await.unwrap();
    drop(worker);
    assert_eq!(scene.concur.count("refresh_token"), 1);
    let other = scene.fleet();
    let _worker = other.keep_alive().await.unwrap();
    scene.minutes_until(async || scene.renewals().len() == 4).await;
    assert_eq!(scene.concur.count("refresh_token"), 4);
}

/// Runs a test of the suite.
pub async fn run<P, F>(place: impl FnOnce(&ManualClock) -> P, test: impl FnOnce(Scene<P>) -> F)
where
    P: Place,
    F: Future<Output = ()>,
{
    test(Scene::new(place).await).await;
}

/// A test function for each promise.
macro_rules! suite {
    ($place:expr; $($test:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $test() {
                let Some(place) = $place else { return };
                suite::run(place, suite::$test).await;
            }
        )+
    };
    ($place:expr) => {
        suite!($place;
            a_company_connects_once,
            a_user_connects_and_is_found_by_the_reply,
            a_grant_that_names_nobody_waits_for_its_user,
            a_sign_in_that_is_refused_leaves_no_active_member,
            a_token_is_adopted,
            a_member_is_disconnected,
            a_member_is_forgotten_without_a_request,
            a_member_is_forgotten_after_the_renewal_under_way,
            who_is_not_connected_is_told_so,
            a_member_is_found_by_its_uuid,
            workers_share_what_is_due,
            a_round_renews_what_is_due_and_counts_what_became_of_it,
            rounds_share_what_is_due,
            a_round_sends_no_more_at_once_than_the_fleet_may,
            a_round_ends_while_concur_is_down,
            a_round_presents_no_token_twice,
            a_round_that_is_stopped_gives_back_what_it_has_not_presented,
            a_margin_makes_tokens_due_earlier,
            who_needs_a_person_is_named,
            an_outage_is_waited_out,
            a_day_of_outage_is_made_up_for_in_the_order_of_expiry,
            what_is_in_use_is_kept_warm,
            events_name_the_member,
            two_processes_connect_one_company,
            a_shut_down_worker_gives_back_what_it_has_not_presented,
        );
    };
}
