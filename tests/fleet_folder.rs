//! A fleet on a folder.

#![cfg(feature = "simulator")]

#[path = "fleet/folder.rs"]
mod folder;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use concur_auth::{
    AppCredentials, BoxedStore, DueToken, DueTokens, Error, ErrorKind, Fleet, FleetMember, FleetStore,
    FolderFleet, Grant, MemberKind, MemberState, MemoryStore, RefreshTokenObject, StoreLock, TokenStore,
};
use folder::Folder;
use suite::Place as _;

suite!(Some(Folder::new));

/// It cannot say which tokens are due, and counts how often it is asked.
#[derive(Clone, Debug)]
struct Failing(Error, Arc<AtomicUsize>);

impl FleetStore for Failing {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        MemoryStore::new().boxed()
    }

    async fn claim_due(&self, _: &str, _: usize) -> Result<DueTokens, Error> {
        self.1.fetch_add(1, SeqCst);
        Err(self.0.clone())
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<FleetMember>, Error> {
        Err(self.0.clone())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Err(self.0.clone())
    }
}

/// A failure that may pass is waited for, but not for long.
#[tokio::test]
async fn a_round_ends_while_the_store_fails() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let down = || Error::store("the database is out of reach", "connection refused");
        for (error, asked) in [(down().transient(), 5), (down(), 1)] {
            let store = Failing(error, Arc::default());
            let fleet = scene.builder().store(store.clone()).build().unwrap();
            let error = scene.while_time_passes(fleet.renew_due()).await.unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::Store, store.0.to_string()));
            assert_eq!(store.1.load(SeqCst), asked);
        }
    })
    .await;
}

#[test]
fn a_margin_for_a_store_that_knows_none_is_refused() {
    let store = Failing(Error::store("no", "no"), Arc::default());
    let builder = Fleet::builder().app(AppCredentials::new("the app's id", "its secret")).store(store);
    let error = builder.refresh_token_margin(suite::UNTIL_DUE).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "fleet_folder::Failing knows no margin; implement FleetStore::refresh_token_margin, or give the fleet no margin"
    );
}

#[test]
fn a_rate_that_is_no_positive_number_is_refused() {
    let builder = || Fleet::builder().app(AppCredentials::new("the app's id", "its secret"));
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = builder().max_requests_per_second(rate).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            format!("max_requests_per_second({rate}) is no positive number; pass one, such as 20.0")
        );
    }
}

#[test]
fn a_fleets_base_uri_may_name_a_host_that_is_trusted() {
    let gateway = "https://gateway.example";
    let builder =
        || Fleet::builder().app(AppCredentials::new("the app's id", "its secret")).base_uri(gateway);
    assert_eq!(builder().build().unwrap_err().kind(), ErrorKind::Untrusted);
    builder().trust_host("gateway.example").build().unwrap();
}

/// Nothing of it is ever due. It keeps how many tokens it was asked for each time.
#[derive(Clone, Debug, Default)]
struct Idle(Arc<Mutex<Vec<usize>>>);

impl FleetStore for Idle {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        MemoryStore::new().boxed()
    }

    async fn claim_due(&self, _: &str, most: usize) -> Result<DueTokens, Error> {
        self.0.lock().unwrap().push(most);
        Ok(DueTokens::new(Vec::new(), None))
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<FleetMember>, Error> {
        Ok(Vec::new())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(Duration::from_secs(90))
    }
}

/// 0.3 requests a second are 6 in a quarter of the lease.
#[tokio::test]
async fn a_store_of_which_nothing_is_due_is_asked_once_a_minute_and_for_no_more_than_can_be_presented() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let store = Idle::default();
        let fleet = scene.builder().store(store.clone()).max_requests_per_second(0.3).build().unwrap();
        let worker = fleet.keep_alive().await.unwrap();
        support::until(|| !store.0.lock().unwrap().is_empty()).await;
        for _ in 0..20 {
            scene.minute().await;
        }
        drop(worker);
        let asked = store.0.lock().unwrap().clone();
        assert!((2..=21).contains(&asked.len()), "{asked:?}");
        assert!(asked.iter().all(|most| *most == 6), "{asked:?}");
    })
    .await;
}

/// Never says when the next token is due.
#[derive(Debug)]
struct KnowsNoNext(FolderFleet);

impl FleetStore for KnowsNoNext {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        self.0.of(app_id, principal)
    }

    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        Ok(DueTokens::new(self.0.claim_due(app_id, most).await?.tokens, None))
    }

    async fn list(&self, app_id: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        self.0.list(app_id, after, most).await
    }

    async fn assign(&self, app_id: &str, pending: &str, principal: &str) -> Result<(), Error> {
        self.0.assign(app_id, pending, principal).await
    }
}

#[tokio::test]
async fn a_store_that_found_as_many_as_it_was_asked_for_is_asked_again() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        scene.companies(&scene.fleet(), 3).await;
        scene.pass(suite::UNTIL_DUE);
        let store = KnowsNoNext(scene.place.store());
        let fleet = scene.builder().store(store).max_concurrent(1).build().unwrap();
        let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
        assert_eq!((renewals.renewed, renewals.failed), (3, 0));
    })
    .await;
}

/// Knows its members and nothing else.
#[derive(Debug)]
struct Listed(Vec<FleetMember>);

impl FleetStore for Listed {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        MemoryStore::new().boxed()
    }

    async fn claim_due(&self, _: &str, _: usize) -> Result<DueTokens, Error> {
        Ok(DueTokens::new(Vec::new(), None))
    }

    async fn list(&self, _: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        let is_after = |member: &&FleetMember| after.is_none_or(|after| *member.uuid > *after);
        Ok(self.0.iter().filter(is_after).take(most).cloned().collect())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_store_of_ones_own_leaves_out_is_done_with_its_list() {
    let member = |number: usize| {
        let state = if number == 1500 { MemberState::NeedsPerson } else { MemberState::Active };
        FleetMember::new(format!("{number:08}-0000-4000-8000-000000000000"), MemberKind::Company, state)
    };
    let store = Listed((0..2000).map(member).collect());
    assert_eq!(store.lease(), None);
    let fleet = Fleet::builder().app(AppCredentials::new("the app's id", "its secret")).store(store);
    let fleet = fleet.build().unwrap();
    let wanted = member(1500);
    assert_eq!(fleet.member(&wanted.uuid).await.unwrap().unwrap().uuid, wanted.uuid);
    assert!(fleet.member(&member(2000).uuid).await.unwrap().is_none());
    let needing: Vec<_> =
        fleet.needing_a_person().await.unwrap().into_iter().map(|member| member.uuid).collect();
    assert_eq!(needing, [wanted.uuid]);
    let health = fleet.health().await.unwrap();
    assert_eq!((health.active, health.needing_a_person, health.signed_out), (1999, 1, 0));
    let renewed = fleet.renew_due().await.unwrap();
    assert_eq!((renewed.renewed, renewed.skipped), (0, 0));
    #[cfg(feature = "sealing")]
    assert_eq!(
        fleet.count_by_sealing_key().await.unwrap_err().to_string(),
        "fleet_folder::Listed takes no sealing keys; implement FleetStore::seal_with and count_by_sealing_key, or give the fleet no \
         keys"
    );
}

/// Says twice that the token of the only member is due. Another process replaces it while this one presents it.
#[derive(Clone, Debug)]
struct Overtaken {
    before: RefreshTokenObject,
    replaced: RefreshTokenObject,
    looks: Arc<AtomicUsize>,
    claims: Arc<AtomicUsize>,
    /// How many locks it got back.
    unlocked: Arc<AtomicUsize>,
}

impl TokenStore for Overtaken {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        let is_first = self.looks.fetch_add(1, SeqCst) == 0;
        Ok(Some(if is_first { &self.before } else { &self.replaced }.clone()))
    }

    async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        unreachable!("the member stays")
    }

    async fn unlock(&self, _: StoreLock) {
        self.unlocked.fetch_add(1, SeqCst);
    }
}

impl FleetStore for Overtaken {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        self.clone().boxed()
    }

    async fn claim_due(&self, _: &str, most: usize) -> Result<DueTokens, Error> {
        let claims = self.claims.fetch_add(1, SeqCst);
        let due = DueToken::new(self.before.company_uuid().unwrap(), MemberKind::Company, StoreLock::new(()));
        assert!(most > 1);
        Ok(DueTokens::new(vec![due], (claims == 0).then_some(Duration::ZERO)))
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<FleetMember>, Error> {
        Ok(Vec::new())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn what_another_process_has_renewed_is_not_counted_and_every_lock_is_given_back() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let elsewhere = scene.fleet();
        let uuid = elsewhere.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        let replaced = elsewhere.company(&uuid).get_valid_refresh_token().await.unwrap();
        let json = format!(r#"{{"refresh_token": "replaced long ago", "companyUUID": "{uuid}"}}"#);
        let store = Overtaken {
            before: RefreshTokenObject::from_json(&json).unwrap(),
            replaced,
            looks: Arc::default(),
            claims: Arc::default(),
            unlocked: Arc::default(),
        };
        let fleet = scene.builder().store(store.clone()).build().unwrap();
        let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
        assert_eq!((renewals.renewed, renewals.failed, renewals.needs_person), (0, 0, 0));
        assert_eq!((store.claims.load(SeqCst), store.unlocked.load(SeqCst)), (2, 2));
        assert_eq!(scene.concur.count("refresh_token"), 1);
    })
    .await;
}

/// Also through a store that another app uses already.
#[tokio::test]
async fn a_folder_is_one_apps_alone() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let store = scene.place.store();
        let fleet = scene.builder().store(store.clone()).build().unwrap();
        let uuid = fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        let error = store.list("another app", None, 1).await.unwrap_err();
        assert!(error.to_string().contains("not of app another app"), "{error}");
        let error = store.of("another app", &uuid).load().await.unwrap_err();
        assert!(error.to_string().contains("not of app another app"), "{error}");
    })
    .await;
}

/// Once, although the folder is looked into again while the round goes on.
#[tokio::test]
async fn a_round_counts_a_token_that_cannot_be_read_as_failed() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.builder().max_concurrent(1).max_requests_per_second(1.0 / 90.0).build().unwrap();
        let mut uuids = Vec::new();
        for _ in 0..3 {
            uuids.push(scene.fleet().connect(suite::grant(&scene.concur.add_company())).await.unwrap());
        }
        let file =
            scene.place.path().join(&uuids[0][..2]).join(&uuids[0]).join("refreshTokenObjectFile.json");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        scene.pass(suite::UNTIL_DUE);
        let renewing = tokio::spawn(async move { fleet.renew_due().await });
        scene.minutes_until(async || renewing.is_finished()).await;
        let renewals = renewing.await.unwrap().unwrap();
        assert_eq!((renewals.renewed, renewals.failed, renewals.needs_person), (2, 1, 0));
    })
    .await;
}

/// A program that does not know of which kind a member is may use managers of both.
#[tokio::test]
async fn no_manager_of_any_kind_serves_what_is_disconnected() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let (fleet, uuid) = (scene.fleet(), scene.concur.company_uuid());
        let mut owned_by_none: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
        owned_by_none.as_object_mut().unwrap().remove("companyUUID");
        let token = RefreshTokenObject::from_json(&owned_by_none.to_string()).unwrap();
        fleet.adopt(&uuid, token).await.unwrap();
        let managers = [fleet.user(&uuid), fleet.company(&uuid)];
        for manager in &managers {
            manager.access_token().await.unwrap();
        }
        fleet.disconnect(&uuid).await.unwrap();
        for manager in &managers {
            assert!(manager.status().signed_out);
            assert_eq!(manager.access_token().await.unwrap_err().kind(), ErrorKind::CredentialsNeeded);
        }
    })
    .await;
}

/// Its token tells whose it is, and the assignment has failed.
#[tokio::test]
async fn a_pending_member_is_renewed_and_disconnected_as_any_other() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let (fleet, user) = (scene.fleet(), scene.concur.add_user());
        let uuid = fleet.connect(Grant::user_password(user.username(), user.password())).await.unwrap();
        let token = fleet.user(&uuid).get_valid_refresh_token().await.unwrap();
        assert!(token.principal_uuid().is_some());
        let pending = "pending-0123456789abcdef0123456789abcdef";
        let credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
        let store = scene.place.store().of(credentials["appID"].as_str().unwrap(), pending);
        let lock = store.try_lock().await.unwrap().unwrap();
        store.save(&token, &lock).await.unwrap();
        store.unlock(lock).await;
        for manager in [fleet.company(pending), fleet.user(pending)] {
            manager.access_token().await.unwrap();
        }
        fleet.disconnect(pending).await.unwrap();
        assert!(!scene.concur.is_live(token.secret()));
        assert!(fleet.company(pending).status().signed_out);
    })
    .await;
}

/// It fails in what a fleet calls outside of any future, too.
#[derive(Debug)]
struct Panicking;

impl FleetStore for Panicking {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        panic!("no store")
    }

    fn claim_due(&self, _: &str, _: usize) -> impl Future<Output = Result<DueTokens, Error>> + Send {
        let due = DueToken::new("m", MemberKind::Company, StoreLock::new(()));
        std::future::ready(Ok(DueTokens::new(vec![due], None)))
    }

    fn list(
        &self,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> impl Future<Output = Result<Vec<FleetMember>, Error>> + Send {
        assert!(self.lease().is_some(), "no list");
        std::future::ready(Ok(Vec::new()))
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        panic!("no assignment")
    }

    fn refresh_token_margin(&mut self, _: Duration) -> Result<(), Error> {
        panic!("no margin")
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn describe(&self) -> String {
        panic!("no name")
    }
}

#[tokio::test]
async fn a_fleet_store_that_panics_is_an_error_of_the_store() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.builder().store(Panicking).build().unwrap();
        for error in
            [fleet.company("m").access_token().await.unwrap_err(), fleet.list(None, 1).await.unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::Store);
            assert_eq!(error.to_string(), "fleet_folder::Panicking panicked; see the panic's message");
        }
        let builder = scene.builder().store(Panicking).refresh_token_margin(support::DAY);
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Store);
        let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
        assert_eq!((renewals.renewed, renewals.failed), (0, 1));
    })
    .await;
}

/// It is no token, so there was none.
#[tokio::test]
async fn a_forgotten_file_that_holds_no_token_is_set_aside() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.fleet();
        let uuid = fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        let folder = scene.place.path().join(&uuid[..2]).join(&uuid);
        std::fs::write(folder.join("refreshTokenObjectFile.json"), "not a token").unwrap();
        assert!(!fleet.forget(&uuid).await.unwrap());
        let files = support::names_in(&folder);
        let kept =
            files.iter().find(|name| name.starts_with("refreshTokenObjectFile.json.corrupt-")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join(kept)).unwrap(), "not a token");
        assert!(!files.iter().any(|name| name == "refreshTokenObjectFile.json"), "{files:?}");
        assert_eq!(scene.concur.token_requests(), 1);
    })
    .await;
}

/// In this process, until the token is saved; another process cannot know.
#[tokio::test]
async fn a_member_whose_newest_token_is_in_memory_only_is_shown_so() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let (fleet, other_process) = (scene.fleet(), scene.fleet());
        let mut uuids = Vec::new();
        for _ in 0..2 {
            uuids.push(fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap());
        }
        let tokens = fleet.company(&uuids[0]);
        let file =
            scene.place.path().join(&uuids[0][..2]).join(&uuids[0]).join("refreshTokenObjectFile.json");
        let replies = scene.concur.hold_replies();
        let renewal = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.refresh().await }
        });
        support::until(|| scene.concur.count("refresh_token") == 1).await;
        assert_eq!(fleet.health().await.unwrap().unsaved, 0);
        // Nothing can be renamed to the name of a folder.
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        replies.release();
        scene.while_time_passes(renewal).await.unwrap().unwrap();
        let unsaved = async |fleet: &concur_auth::Fleet| {
            let listed = fleet.list(None, 10).await.unwrap().into_iter();
            let named = fleet.needing_a_person().await.unwrap().into_iter();
            let member = fleet.member(&uuids[0]).await.unwrap().into_iter();
            listed
                .chain(named)
                .chain(member)
                .filter(|member| member.unsaved)
                .map(|member| member.uuid)
                .collect()
        };
        let here: Vec<_> = unsaved(&fleet).await;
        assert_eq!(here, [&*uuids[0]; 3], "in the list, by its need of a person, and by its UUID");
        assert_eq!(unsaved(&other_process).await, Vec::<String>::new());
        for (fleet, unsaved) in [(&fleet, 1), (&other_process, 0)] {
            assert_eq!(fleet.health().await.unwrap().unsaved, unsaved);
        }
        std::fs::remove_dir(&file).unwrap();
        scene.minutes_until(async || !tokens.status().unsaved).await;
        assert_eq!(unsaved(&fleet).await, Vec::<String>::new());
    })
    .await;
}

/// Everything works but the assignment.
#[derive(Debug)]
struct AssignsNothing(FolderFleet);

impl FleetStore for AssignsNothing {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        self.0.of(app_id, principal)
    }

    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        self.0.claim_due(app_id, most).await
    }

    async fn list(&self, app_id: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        self.0.list(app_id, after, most).await
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Err(Error::store("the database is out of reach", "connection refused"))
    }
}

#[tokio::test]
async fn a_sign_in_whose_token_could_not_be_assigned_says_how_that_is_done() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.builder().store(AssignsNothing(scene.place.store())).build().unwrap();
        let user = scene.concur.add_user();
        let error = fleet.connect(Grant::user_password(user.username(), user.password())).await.unwrap_err();
        let names = scene.place.names();
        let pending = &*names[0];
        assert!(pending.starts_with("pending-") && names.len() == 1, "{names:?}");
        assert_eq!(error.kind(), ErrorKind::Store);
        let uuid = user.uuid();
        assert_eq!(
            error.to_string(),
            format!(
                "signed in, and the token was saved as {pending}, but it could not be moved to {uuid}; call \
                 Fleet::assign(\"{pending}\", \"{uuid}\")"
            )
        );
        let fleet = scene.fleet();
        fleet.assign(pending, uuid).await.unwrap();
        assert_eq!(scene.place.names(), [uuid]);
        let stored = fleet.user(uuid).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(stored.secret()));
        assert_eq!(scene.concur.token_requests(), 1);
    })
    .await;
}

/// The renewal goes on, and a second call waits for it.
#[tokio::test]
async fn a_shutdown_without_time_names_the_renewal_under_way() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.fleet();
        let uuid = fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        scene.pass(suite::UNTIL_DUE);
        let replies = scene.concur.hold_replies();
        let renewing = tokio::spawn({
            let fleet = fleet.clone();
            async move { fleet.renew_due().await }
        });
        support::until(|| scene.concur.count("refresh_token") == 1).await;
        let error = fleet.shutdown(Duration::ZERO).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        let text = error.to_string();
        assert!(text.starts_with("a renewal for ") && text.contains(&uuid), "{text}");
        assert!(text.ends_with(" has not come to its end; call shutdown again"), "{text}");
        replies.release();
        scene.while_time_passes(fleet.shutdown(support::MINUTE)).await.unwrap();
        scene.while_time_passes(renewing).await.unwrap().unwrap();
        let stored = scene.fleet().company(&uuid).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(stored.secret()));
        assert_eq!(scene.concur.count("refresh_token"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_round_counts_a_reply_that_cannot_be_used_as_failed_and_keeps_its_token() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.fleet();
        let uuid = fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        let before = fleet.company(&uuid).get_valid_refresh_token().await.unwrap();
        scene.concur.set_reply_member("expires_in", Some(r#""""#));
        scene.pass(suite::UNTIL_DUE);
        let renewals = scene.while_time_passes(fleet.renew_due()).await.unwrap();
        assert_eq!((renewals.renewed, renewals.failed, renewals.needs_person), (0, 1, 0));
        assert_eq!(scene.concur.count("refresh_token"), 1);
        scene.concur.clear_faults();
        let stored = scene.fleet().company(&uuid).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(stored.secret()) && stored.secret() != before.secret());
        assert_eq!(scene.concur.count("refresh_token"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_fleets_http_client_and_its_patience_with_a_lock_can_be_chosen() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        // These settings can never make a client.
        let settings = concur_auth::reqwest::Client::builder().user_agent("\n");
        let builder = scene.builder().base_uri("https://us.api.concursolutions.com").http_client(settings);
        let company = scene.concur.add_company();
        let error = builder.build().unwrap().connect(suite::grant(&company)).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("no HTTP client could be built from the settings given to http_client"),
            "{text}"
        );

        let fleet = scene.builder().lock_timeout(Duration::from_secs(3)).build().unwrap();
        let uuid = fleet.connect(suite::grant(&company)).await.unwrap();
        // As another process that works on it.
        let store = scene.place.store().of(scene.concur.app().id(), &uuid);
        let lock = store.try_lock().await.unwrap().unwrap();
        let error = scene.while_time_passes(fleet.company(&uuid).refresh()).await.unwrap_err();
        assert!(error.to_string().starts_with("waited 3 s for the lock of "), "{error}");
        store.unlock(lock).await;
        assert_eq!(scene.concur.token_requests(), 1);
    })
    .await;
}
