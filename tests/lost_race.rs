//! A lost race is not an error: where another program has replaced the token that Concur refuses, the replacement is used
//! (promise 8 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::sync::{Arc, Mutex};

use concur_auth::{
    Error, ErrorKind, RefreshTokenObject, StoreLock, TokenManager, TokenOrigin, TokenStore,
    simulator::{ConcurSimulator, Fault, ManualClock, Rotation},
};
use support::{DAY, Scene, all_succeed, alone, child, noon, passed, until};

/// A store that another program writes without asking for a lock: just before the grant is sent.
#[derive(Debug)]
struct Contended {
    held: Mutex<Option<RefreshTokenObject>>,
    theirs: Arc<Mutex<Option<RefreshTokenObject>>>,
}

impl Contended {
    /// The token that Concur refuses is replaced by a token that it accepts.
    fn by_a_live_token(scene: &Scene) -> Self {
        let stale = token(r#"{"refresh_token": "rotated away"}"#);
        let theirs = token(&scene.concur.token_json());
        Self { held: Mutex::new(Some(stale)), theirs: Arc::new(Mutex::new(Some(theirs))) }
    }
}

impl TokenStore for Contended {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.held.lock().unwrap().clone())
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        *self.held.lock().unwrap() = Some(token.clone());
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        *self.held.lock().unwrap() = None;
        Ok(())
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        if let Some(theirs) = self.theirs.lock().unwrap().take() {
            *self.held.lock().unwrap() = Some(theirs);
        }
        Ok(())
    }
}

fn token(json: &str) -> RefreshTokenObject {
    RefreshTokenObject::from_json(json).unwrap()
}

#[tokio::test]
async fn another_token_in_the_store_is_used() {
    let scene = Scene::new().await;
    let store = Contended::by_a_live_token(&scene);
    let tokens = scene.builder().store(store).build().unwrap();
    tokens.access_token().await.unwrap();
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (2, 0));
}

/// Only the store knows: it says so when the reply is to be saved.
#[derive(Debug)]
struct Superseding(Contended);

impl TokenStore for Superseding {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.0.load().await
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        if self.0.theirs.lock().unwrap().is_some() {
            self.0.rehearse(None, lock).await?;
            return Err(Error::superseded("another process has saved a newer token"));
        }
        self.0.save(token, lock).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.0.remove(lock).await
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reply_that_comes_too_late_is_not_used() {
    let scene = Scene::with(Rotation::Always).await;
    let [ours, theirs] = [(), ()].map(|()| token(&scene.concur.token_json()));
    let store =
        Contended { held: Mutex::new(Some(ours)), theirs: Arc::new(Mutex::new(Some(theirs.clone()))) };
    let tokens = scene.builder().store(Superseding(store)).build().unwrap();
    tokens.refresh().await.unwrap();
    assert!(!tokens.status().unsaved);
    // It was asked for a token of a grant: the next grant goes on from theirs.
    let presented: Vec<_> =
        scene.concur.requests().iter().map(|it| it.body().contains(theirs.secret())).collect();
    assert_eq!(presented, [false, true]);
}

/// Another process empties it just before the first save, as by a revocation.
#[derive(Debug)]
struct EmptiedMeanwhile {
    held: Mutex<Option<RefreshTokenObject>>,
    was_emptied: Mutex<bool>,
}

impl TokenStore for EmptiedMeanwhile {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.held.lock().unwrap().clone())
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        let was_emptied = std::mem::replace(&mut *self.was_emptied.lock().unwrap(), true);
        *self.held.lock().unwrap() = was_emptied.then(|| token.clone());
        if was_emptied { Ok(()) } else { Err(Error::superseded("another process has removed the token")) }
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        *self.held.lock().unwrap() = None;
        Ok(())
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reply_that_comes_after_a_sign_out_is_not_used() {
    let scene = Scene::with(Rotation::Always).await;
    let ours = token(&scene.concur.token_json());
    let store = EmptiedMeanwhile { held: Mutex::new(Some(ours)), was_emptied: Mutex::new(false) };
    let tokens = scene.builder().store(store).build().unwrap();
    tokens.access_token().await.unwrap();
    assert!(!tokens.status().unsaved);
    // Who needs a token signs in again.
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
}

/// Five saves fail. The next one comes too late: this is what is stored by then, and whether it can be read.
#[derive(Clone, Debug)]
struct TooLate(Arc<Mutex<Shelf>>);

#[derive(Debug)]
struct Shelf {
    stored: Option<RefreshTokenObject>,
    is_readable: bool,
    saves: usize,
    then: (Option<RefreshTokenObject>, bool),
}

impl TokenStore for TooLate {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        let shelf = self.0.lock().unwrap();
        let stored = shelf.is_readable.then(|| shelf.stored.clone());
        stored.ok_or_else(|| Error::store("the shelf cannot be read", "it is dark"))
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        let mut shelf = self.0.lock().unwrap();
        shelf.saves += 1;
        match shelf.saves {
            1..=5 => return Err(Error::store("the shelf is full", "no room")),
            6 => {
                (shelf.stored, shelf.is_readable) = shelf.then.clone();
                return Err(Error::superseded("another process was faster"));
            }
            _ => shelf.stored = Some(token.clone()),
        }
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.0.lock().unwrap().stored = None;
        Ok(())
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }
}

/// A manager that has renewed a token, could save the new one only in the background, and was too late.
async fn too_late(
    scene: &Scene,
    clock: &ManualClock,
    then: (Option<RefreshTokenObject>, bool),
) -> (TokenManager, TooLate, String) {
    let stored = Some(token(&scene.concur.token_json()));
    let store = TooLate(Arc::new(Mutex::new(Shelf { stored, is_readable: true, saves: 0, then })));
    let tokens = scene.builder().clock(clock.clone()).store(store.clone()).build().unwrap();
    let ours = tokens.refresh().await.unwrap();
    until(|| store.0.lock().unwrap().saves == 6 && !tokens.status().unsaved).await;
    (tokens, store, ours.secret().to_owned())
}

/// What is in no store is not handed out: not even its access token, which lives.
#[tokio::test]
async fn a_reply_that_is_late_in_the_background_gives_way_to_what_is_stored() {
    let scene = Scene::with(Rotation::Always).await;
    let theirs = token(&scene.concur.token_json());
    let clock = ManualClock::skipping(noon());
    let (tokens, store, _) = too_late(&scene, &clock, (Some(theirs.clone()), true)).await;
    // Without a call.
    until(|| tokens.status().source == Some(TokenOrigin::Stored)).await;
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), theirs.secret());
    assert_eq!((scene.concur.token_requests(), store.0.lock().unwrap().saves), (1, 6));

    let (tokens, store, ours) = too_late(&scene, &clock, (Some(theirs.clone()), false)).await;
    until(|| tokens.status().last_error.is_some()).await;
    assert_eq!(tokens.status().source, None);
    assert_eq!(tokens.access_token().await.unwrap_err().to_string(), "the shelf cannot be read");
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap_err().kind(), ErrorKind::Store);
    store.0.lock().unwrap().is_readable = true;
    tokens.access_token().await.unwrap();
    assert_eq!(tokens.status().last_error, None);
    assert_eq!(scene.concur.token_requests(), 3);
    let last = scene.concur.requests().pop().unwrap();
    assert!(last.body().contains(theirs.secret()) && !last.body().contains(&ours));
}

/// What was handed out lives at Concur, although no store holds it and none ever did.
#[tokio::test]
async fn a_reply_that_is_late_for_an_emptied_store_is_revoked_too() {
    let scene = Scene::with(Rotation::Always).await;
    let (tokens, _, ours) = too_late(&scene, &ManualClock::skipping(noon()), (None, true)).await;
    tokens.revoke().await.unwrap();
    assert!(tokens.status().signed_out && !scene.concur.is_live(&ours));
    assert_eq!(scene.concur.count("password"), 0);
}

#[tokio::test]
async fn a_revocation_leaves_alone_what_another_principal_held() {
    let scene = Scene::with(Rotation::Always).await;
    let (tokens, _, ours) = too_late(&scene, &ManualClock::skipping(noon()), (None, true)).await;
    let other = scene.concur.add_company();
    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyUUID"] = other.uuid().into();
    credentials["companyRequestToken"] = other.request_token().into();
    scene.write_credentials(&credentials.to_string());
    tokens.revoke().await.unwrap();
    assert!(scene.concur.is_live(&ours));
    assert_eq!(scene.concur.requests().len(), 1);
}

/// As after another process has signed out: only a caller signs in again.
#[tokio::test]
async fn a_reply_that_is_late_for_an_emptied_store_makes_no_one_sign_in() {
    let scene = Scene::with(Rotation::Always).await;
    let clock = ManualClock::skipping(noon());
    let (tokens, ..) = too_late(&scene, &clock, (None, true)).await;
    assert!(!tokens.status().signed_out, "another process did that");
    let kept = tokens.keep_alive().await.unwrap();
    until(|| passed(&clock) > DAY).await;
    drop(kept);
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 0));
    tokens.access_token().await.unwrap();
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
}

#[tokio::test]
async fn on_108_or_without_a_code_the_request_token_is_used() {
    for fault in [
        Fault::code(108),
        Fault::status(400).body(r#"{"error": "invalid_grant"}"#),
        Fault::status(400).body(r#"{"code": "108", "error": "invalid_request"}"#),
    ] {
        let scene = Scene::new().await;
        let old = scene.concur.token_json();
        scene.write_token(&old);
        scene.concur.fault_next(1, fault);
        scene.manager().access_token().await.unwrap();
        assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
        assert!(!old.contains(&scene.stored_refresh_token()));
    }
}

/// Another code means that the account is locked or denied.
#[tokio::test]
async fn on_any_other_code_no_request_token_is_spent() {
    for code in [5, 10, 14, 20, 105] {
        let scene = Scene::new().await;
        let old = scene.concur.token_json();
        scene.write_token(&old);
        scene.concur.set_fault(Fault::code(code));
        let error = scene.manager().access_token().await.unwrap_err();
        assert_eq!((error.kind(), error.code().map(|code| code.number())), (ErrorKind::Refused, Some(code)));
        assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 0));
        assert!(old.contains(&scene.stored_refresh_token()), "the stored token is kept");
    }
}

/// What a server that is down says of the grant means nothing.
#[tokio::test]
async fn on_a_failure_of_the_server_no_request_token_is_spent() {
    for status in [429, 500, 503] {
        let scene = Scene::skipping(Rotation::Never).await;
        scene.write_token(&scene.concur.token_json());
        scene.concur.set_fault(Fault::status(status).body(r#"{"code": 108, "error": "invalid_grant"}"#));
        let error = scene.manager().access_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(scene.concur.count("password"), 0, "on {status}");
    }
}

#[tokio::test]
async fn without_a_request_token_a_person_must_act() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.revoke();
    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyRequestToken"] = "".into();
    scene.write_credentials(&credentials.to_string());
    let error = scene.manager().access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        error.to_string(),
        format!(
            "the refresh token in {} is no longer accepted, and there is no company request token to sign in again \
             with; create a new company request token at \
             https://www.concursolutions.com/nui/authadmin/companytokens and put it into {} (code 108, correlation id \
             {})",
            scene.token_path().display(),
            scene.credentials_path().display(),
            error.correlation_id().unwrap()
        )
    );
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 0));
}

#[tokio::test]
async fn when_the_request_token_is_refused_too_a_person_must_act() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.revoke();
    scene.clock.advance(2 * support::DAY);
    let error = scene.manager().access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert!(error.to_string().contains("and signing in again was refused too; create a new"), "{error}");
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
}

/// With a server that revokes the whole family when an old token comes back, one mistake would end it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_with_sixty_renewals_each_end_with_a_live_token() {
    let _alone = alone().await;
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
    let path = dir.path().join("refreshTokenObjectFile.json");
    std::fs::write(&path, concur.token_json()).unwrap();
    all_succeed((0..8).map(|_| child("one_of_eight").env("DIR", dir.path()).spawn().unwrap()).collect());
    assert_eq!((concur.count("refresh_token"), concur.count("password")), (480, 0));
    let stored: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(concur.is_live(stored["refresh_token"].as_str().unwrap()));
    assert_eq!(
        support::names_in(dir.path()),
        ["credentials.json", "refreshTokenObjectFile.json", "refreshTokenObjectFile.json.lock"]
    );
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn one_of_eight() {
    let tokens = TokenManager::load_from(std::env::var_os("DIR").unwrap()).await.unwrap();
    for _ in 0..60 {
        tokens.refresh().await.unwrap();
    }
}

/// What is revoked is what would otherwise go on living.
#[tokio::test]
async fn a_revocation_revokes_the_token_that_was_stored_meanwhile() {
    let scene = Scene::new().await;
    let store = Contended::by_a_live_token(&scene);
    let tokens = scene.builder().store(store).build().unwrap();
    tokens.revoke().await.unwrap();
    assert!(tokens.status().signed_out);
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (2, 0));
    let last = scene.concur.requests().pop().unwrap();
    assert_eq!((last.method(), last.path()), ("DELETE", "/app-mgmt/v0/connections"));
}

/// Another program replaces the token before each grant, and each is refused.
#[derive(Debug, Default)]
struct Restless(Mutex<usize>);

impl TokenStore for Restless {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(Some(token(&format!(r#"{{"refresh_token": "number {}"}}"#, self.0.lock().unwrap()))))
    }
    async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        Ok(())
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        *self.0.lock().unwrap() += 1;
        Ok(())
    }
}

#[tokio::test]
async fn a_revocation_names_a_program_that_replaces_the_token_all_the_time() {
    let scene = Scene::new().await;
    let tokens = scene.builder().store(Restless::default()).build().unwrap();
    let error = tokens.revoke().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(
        error.to_string(),
        "another program keeps replacing the token in lost_race::Restless; stop that program"
    );
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (3, 0));
}

/// Whatever code the refusal has, another token in the store is tried before anything else.
#[tokio::test]
async fn another_token_in_the_store_is_used_whatever_the_refusals_code() {
    for code in [5, 14, 108] {
        let scene = Scene::new().await;
        let store = Contended::by_a_live_token(&scene);
        scene.concur.fault_next(1, Fault::code(code));
        scene.builder().store(store).build().unwrap().access_token().await.unwrap();
        let counts = (scene.concur.count("refresh_token"), scene.concur.count("password"));
        assert_eq!(counts, (2, 0), "code {code}");
    }
}

/// For whatever reason: the refresh token is gone, and only a person can bring another.
#[tokio::test]
async fn when_the_sign_in_is_refused_with_another_code_a_person_must_act_too() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    scene.concur.fault_next(1, Fault::code(108));
    scene.concur.set_fault(Fault::code(14));
    let error = scene.manager().access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(error.code().map(|code| code.number()), Some(14));
    assert_eq!((scene.concur.count("refresh_token"), scene.concur.count("password")), (1, 1));
}
