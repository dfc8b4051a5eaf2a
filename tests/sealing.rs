//! Sealed stores: what is kept cannot be read without its key, and a text that cannot be opened costs nothing.

#![cfg(all(feature = "sealing", feature = "simulator"))]

#[cfg(all(feature = "postgres", unix))]
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use concur_auth::{
    AppCredentials, BoxedStore, DueTokens, Error, ErrorKind, Fleet, FleetMember, FleetStore, FolderFleet,
    Grant, JsonFileStore, MemberState, MemoryStore, RefreshTokenObject, SealingKeys, StoreLock, TokenManager,
    TokenStore,
    simulator::{Fault, Rotation},
};
use proptest::prelude::*;
use support::{DAY, HOUR, Scene, seeded};

const KEY: &str = "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
/// Another key of the same name, without padding.
const SAME_NAME: &str = "k1:QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI";
const OTHER: &str = "k2:Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M=";

const APP: &str = "9a6c3e1c-1111-4000-8000-000000000000";
const UUID: &str = "b3f4e2a0-0000-4000-8000-000000000000";
const PENDING: &str = "pending-0";

fn keys(text: &str) -> SealingKeys {
    text.parse().unwrap()
}

fn token(secret: &str) -> RefreshTokenObject {
    let json = format!(
        r#"{{"refresh_token": "{secret}", "refreshTokenExpiresAt": 2900000000, "companyUUID": "c", "new": [1]}}"#
    );
    RefreshTokenObject::from_json(&json).unwrap()
}

/// Every file in a folder and below.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path, content);
            }
        }
    }
    found
}

/// Where a text stands.
fn files_with(text: &str, folder: &Path) -> Vec<PathBuf> {
    let has = |content: &[u8]| content.windows(text.len()).any(|window| window == text.as_bytes());
    files(folder).into_iter().filter(|(_, content)| has(content)).map(|(path, _)| path).collect()
}

async fn save(store: &impl TokenStore, token: &RefreshTokenObject) {
    let lock = store.try_lock().await.unwrap().unwrap();
    store.save(token, &lock).await.unwrap();
    store.unlock(lock).await;
}

fn is_config(error: &Error, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains(what), "{error}");
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn a_text_opens_with_its_key_in_its_place_and_unchanged_only(
        secret in "[!#-\\[\\]-~]{8,60}",
        place in ".{0,40}",
        more in ".{1,20}",
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let (ours, token) = (keys(KEY), token(&secret));
        let text = ours.seal(&token, &place).unwrap();
        prop_assert!(!text.contains(&secret));
        prop_assert_eq!(ours.open(&text, &place).unwrap().to_json(), token.to_json());
        prop_assert_ne!(&text, &ours.seal(&token, &place).unwrap());
        let elsewhere = format!("{place}{more}");
        for (keys, place) in [(&keys(SAME_NAME), &place), (&keys(OTHER), &place), (&ours, &elsewhere)] {
            prop_assert_eq!(keys.open(&text, place).unwrap_err().kind(), ErrorKind::Config);
        }
        let from_elsewhere = ours.seal(&token, &elsewhere).unwrap();
        prop_assert_eq!(ours.open(&from_elsewhere, &place).unwrap_err().kind(), ErrorKind::Config);
        let mut changed = text.into_bytes();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        if let Ok(changed) = String::from_utf8(changed) {
            prop_assert!(ours.open(&changed, &place).is_err());
        }
    }

    #[test]
    fn whatever_text_there_is_nothing_panics(text in ".{0,80}", content in "[A-Za-z0-9+/=.]{0,60}") {
        for text in [text, format!(r#"{{"sealed":"v1.k1.{content}"}}"#), format!(r#"{{"sealed":"{content}"}}"#)] {
            prop_assert!(keys(KEY).open(&text, "").is_err());
            let _ = SealingKeys::key_of(&text);
        }
    }
}

#[tokio::test]
async fn nothing_that_a_sealed_store_leaves_can_be_read() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let store = || JsonFileStore::new(scene.token_path()).sealed_with(keys(KEY));
    let tokens = || scene.builder().store(store()).build().unwrap();
    let mut secrets = Vec::new();
    for _ in 0..4 {
        let tokens = tokens();
        secrets.push(tokens.get_valid_refresh_token().await.unwrap().secret().to_owned());
        secrets.push(tokens.access_token().await.unwrap().secret().to_owned());
        scene.clock.advance(70 * DAY);
    }
    // What is noted of a refusal names no token, and is sealed like the token.
    scene.concur.fault_next(1, Fault::code(14));
    let refused = tokens().access_token().await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.number()), Some(14), "{refused}");
    assert_eq!(scene.concur.token_requests(), 5);
    let folder = scene.dir.path();
    for (path, content) in files(folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_sealed = content.starts_with(b"{\"sealed\":\"v1.k1.");
        assert!(is_sealed || content.is_empty() || name == "credentials.json", "{name}");
        assert!(is_sealed || !name.ends_with(".note"));
    }
    assert!(scene.folder().iter().any(|name| name.ends_with(".note")), "{:?}", scene.folder());
    for secret in &secrets {
        assert_eq!(files_with(secret, folder), Vec::<PathBuf>::new());
    }
    // The note is read by another process.
    let held_back = tokens().access_token().await.unwrap_err();
    assert_eq!(held_back.code().map(|code| code.number()), Some(14), "{held_back}");
    assert_eq!(scene.concur.token_requests(), 5);
}

/// Also of what was overwritten or removed since: each byte that a process gives to the operating system is looked at.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_that_a_sealed_store_ever_wrote_can_be_read() {
    let _alone = support::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let calls = "write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,rename";
    let Some(trace) = support::traced("writes_all_that_a_sealed_store_writes", calls, 100_000, dir.path())
    else {
        return;
    };
    let lines_with = |text: &str| trace.lines().filter(|line| line.contains(text)).collect::<Vec<_>>();
    assert_eq!(lines_with("s3cret"), Vec::<&str>::new());
    assert!(lines_with(r#"{\"sealed\":\"v1.k1."#).len() >= 8, "{trace}");
    assert!(!lines_with("pl4in").is_empty(), "what is not sealed shows");
    for side_file in [".tmp-", ".note"] {
        assert!(!lines_with(side_file).is_empty(), "{side_file} was not written");
    }
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn writes_all_that_a_sealed_store_writes() {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let note = "s3cret-note";
    let file = JsonFileStore::new(dir.join("token.json")).sealed_with(keys(KEY));
    for secret in ["s3cret-1", "s3cret-2"] {
        let lock = file.try_lock().await.unwrap().unwrap();
        file.rehearse(Some(&token(secret)), &lock).await.unwrap();
        file.save(&token(secret), &lock).await.unwrap();
        file.remember(Some(note), &lock).await.unwrap();
        file.finish(&token(secret), Some(note), &lock).await.unwrap();
        file.unlock(lock).await;
    }
    let fleet = FolderFleet::new(dir.join("tokens")).sealed_with(keys(KEY));
    save(&fleet.of(APP, PENDING), &token("s3cret-3")).await;
    fleet.assign(APP, PENDING, UUID).await.unwrap();
    save(&JsonFileStore::new(dir.join("plain.json")), &token("pl4in")).await;
}

#[tokio::test]
async fn a_plain_file_is_read_and_sealed_at_its_next_save() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    scene.manager().get_valid_refresh_token().await.unwrap();
    let plain = scene.stored_refresh_token();
    let store = JsonFileStore::new(scene.token_path()).sealed_with(keys(KEY));
    let sealed = scene.builder().store(store).build().unwrap();
    assert_eq!(sealed.get_valid_refresh_token().await.unwrap().secret(), plain);
    assert_eq!(scene.stored_refresh_token(), plain, "a read changes nothing");
    scene.clock.advance(70 * DAY);
    let renewed = sealed.get_valid_refresh_token().await.unwrap();
    assert_ne!(renewed.secret(), plain);
    assert_eq!(keys(KEY).open(&scene.token_file(), "").unwrap().secret(), renewed.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

/// Without the key, with another key of its name, and where the text was changed.
#[tokio::test]
async fn without_the_right_key_nothing_is_sent_moved_or_overwritten() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let path = scene.token_path();
    let store = |text: &str| JsonFileStore::new(&path).sealed_with(keys(text));
    let ours = scene.builder().store(store(KEY)).build().unwrap();
    ours.get_valid_refresh_token().await.unwrap();
    // A save that was killed before its rename is as good as a file.
    fs::copy(&path, scene.dir.path().join("refreshTokenObjectFile.json.tmp-0123456789abcdef")).unwrap();
    scene.clock.advance(70 * DAY);
    let own_token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    let (before, uses_left) = (files(scene.dir.path()), scene.concur.request_token_uses_left());
    let is_untouched = || {
        let mut now = files(scene.dir.path());
        now.retain(|path, content| before.contains_key(path) || !content.is_empty());
        assert_eq!(now, before);
    };
    for (store, says) in [
        (
            JsonFileStore::new(&path),
            "it is sealed with the key \"k1\"; give the store that key with sealed_with",
        ),
        (
            store(OTHER),
            "it is sealed with the key \"k1\", and the sealing keys here are \"k2\"; add that key to them",
        ),
        (store(SAME_NAME), "it is sealed, and does not open with the key \"k1\""),
    ] {
        is_config(&store.read().await.unwrap_err(), says);
        let tokens = scene.builder().store(store).build().unwrap();
        is_config(&tokens.get_valid_refresh_token().await.unwrap_err(), says);
        is_config(&tokens.access_token().await.unwrap_err(), says);
        is_config(&tokens.refresh().await.unwrap_err(), says);
        is_config(&tokens.adopt(own_token.clone()).await.unwrap_err(), says);
        is_untouched();
    }
    let mut changed = scene.token_file();
    let middle = changed.len() / 2;
    let other = if &changed[middle..=middle] == "A" { "B" } else { "A" };
    changed.replace_range(middle..=middle, other);
    fs::remove_file(scene.dir.path().join("refreshTokenObjectFile.json.tmp-0123456789abcdef")).unwrap();
    scene.write_token(&changed);
    let tokens = scene.builder().store(store(KEY)).build().unwrap();
    is_config(&tokens.access_token().await.unwrap_err(), "or the text was changed, or belongs elsewhere");
    assert_eq!(scene.token_file(), changed);
    assert_eq!((scene.concur.token_requests(), scene.concur.request_token_uses_left()), (1, uses_left));
}

/// What is sealed as a note opens as a note only.
#[tokio::test]
async fn a_note_cannot_be_passed_off_as_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    let store = || JsonFileStore::new(&path).sealed_with(keys(KEY));
    save(&store(), &token("secret")).await;
    let lock = store().try_lock().await.unwrap().unwrap();
    store().remember(Some(&token("noted").to_json()), &lock).await.unwrap();
    drop(lock);
    let note = dir.path().join("token.json.note");
    let (token_text, note_text) = (fs::read(&path).unwrap(), fs::read(&note).unwrap());
    assert_eq!(store().read().await.unwrap().note, Some(token("noted").to_json()));
    fs::write(&path, &note_text).unwrap();
    is_config(&store().read().await.unwrap_err(), "belongs elsewhere");
    fs::write(&path, &token_text).unwrap();
    fs::write(&note, &token_text).unwrap();
    is_config(&store().read().await.unwrap_err(), "belongs elsewhere");
}

/// A note may say that nothing must be sent, such as that an account is locked.
#[tokio::test]
async fn without_the_key_of_a_note_nothing_is_sent() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let manager = |text: Option<&str>| {
        let store = JsonFileStore::new(scene.token_path());
        let store = text.into_iter().fold(store, |store, text| store.sealed_with(keys(text)));
        scene.builder().store(store).build().unwrap()
    };
    manager(None).get_valid_refresh_token().await.unwrap();
    scene.clock.advance(70 * DAY);
    scene.concur.fault_next(1, Fault::code(14));
    manager(Some(KEY)).access_token().await.unwrap_err();
    let before = files(scene.dir.path());
    for text in [None, Some(OTHER)] {
        is_config(&manager(text).access_token().await.unwrap_err(), "it is sealed with the key \"k1\"");
    }
    assert_eq!((files(scene.dir.path()), scene.concur.token_requests()), (before, 2));
}

/// A worker that lacks the key of one member, and keeps the others.
#[tokio::test]
async fn a_worker_without_a_key_sends_nothing_and_renews_the_others() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let app = scene.concur.app();
    let fleet = |text: &str| {
        let place = FolderFleet::new(scene.dir.path().join("tokens")).clock(scene.clock.clone());
        let builder = Fleet::builder().app(AppCredentials::new(app.id(), app.secret())).store(place);
        let builder = builder.base_uri(scene.concur.base_uri()).clock(scene.clock.clone());
        builder.sealed_with(keys(text)).build().unwrap()
    };
    let companies = [scene.concur.add_company(), scene.concur.add_company()];
    for (company, text) in companies.iter().zip([KEY, OTHER]) {
        let grant = Grant::company_request_token(company.uuid(), company.request_token());
        fleet(text).connect(grant).await.unwrap();
    }
    scene.clock.advance(70 * DAY);
    let sealed = files_with("v1.k1.", scene.dir.path());
    let before: Vec<_> = sealed.iter().map(|path| fs::read(path).unwrap()).collect();
    let lacking = fleet(OTHER);
    let worker = lacking.keep_alive().await.unwrap();
    support::until(|| scene.concur.count("refresh_token") == 1).await;
    // It asks again and again.
    for _ in 0..5 {
        scene.clock.advance(HOUR);
        support::really_wait(std::time::Duration::from_millis(20)).await;
    }
    drop(worker);
    lacking.shutdown(HOUR).await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
    assert_eq!(sealed.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), before);
    let named = lacking.needing_a_person().await.unwrap();
    assert_eq!(named.iter().map(|member| &*member.uuid).collect::<Vec<_>>(), [companies[0].uuid()]);
    assert!(named[0].needs.as_ref().unwrap().contains("sealed with the key \"k1\""), "{named:?}");
}

/// A store of one's own, for example a column of a table.
#[derive(Clone, Debug, Default)]
struct Column(MemoryStore, std::sync::Arc<std::sync::Mutex<Option<String>>>);

impl TokenStore for Column {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        let text = self.1.lock().unwrap().clone();
        text.map(|text| keys(KEY).open(&text, "row 7")).transpose()
    }

    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        *self.1.lock().unwrap() = Some(keys(KEY).seal(token, "row 7")?);
        Ok(())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        *self.1.lock().unwrap() = None;
        Ok(())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.0.try_lock().await
    }
}

#[tokio::test]
async fn a_store_of_ones_own_seals_and_opens_by_itself() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let column = Column::default();
    let tokens = || scene.builder().store(column.clone()).build().unwrap();
    let first = tokens().get_valid_refresh_token().await.unwrap();
    let text = column.1.lock().unwrap().clone().unwrap();
    assert!(text.starts_with(r#"{"sealed":"v1.k1."#) && !text.contains(first.secret()), "{text}");
    scene.clock.advance(70 * DAY);
    let second = tokens().get_valid_refresh_token().await.unwrap();
    assert!(scene.concur.is_live(second.secret()));
    assert_eq!(scene.concur.token_requests(), 2);
    // Changed, it is an error, and never the absence of a token.
    column.1.lock().unwrap().as_mut().unwrap().push(' ');
    tokens().access_token().await.unwrap();
    *column.1.lock().unwrap() = Some(keys(KEY).seal(&second, "row 8").unwrap());
    is_config(&tokens().access_token().await.unwrap_err(), "belongs elsewhere");
    assert_eq!(scene.concur.token_requests(), 2);
}

#[tokio::test]
async fn a_sealed_save_that_was_killed_before_its_rename_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    let store = || JsonFileStore::new(&path).sealed_with(keys(KEY));
    save(&store(), &token("old")).await;
    save(&store(), &token("new")).await;
    fs::rename(&path, dir.path().join("token.json.tmp-0123456789abcdef")).unwrap();
    assert_eq!(store().load().await.unwrap().unwrap().secret(), "new");
    // Half a file is none.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(dir.path().join("token.json.tmp-0123456789abcdee"), &text[..text.len() - 9]).unwrap();
    assert_eq!(store().load().await.unwrap().unwrap().secret(), "new");
}

#[tokio::test]
async fn the_first_key_seals_and_any_key_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token.json");
    save(&JsonFileStore::new(&path).sealed_with(keys(KEY)), &token("secret")).await;
    let both = || JsonFileStore::new(&path).sealed_with(keys(&format!("{OTHER},{KEY}")));
    let key = || SealingKeys::key_of(&fs::read_to_string(&path).unwrap());
    assert_eq!(both().load().await.unwrap().unwrap().secret(), "secret");
    assert_eq!(key().as_deref(), Some("k1"));
    save(&both(), &token("secret")).await;
    assert_eq!(key().as_deref(), Some("k2"));
    let new = JsonFileStore::new(&path).sealed_with(keys(OTHER));
    assert_eq!(new.load().await.unwrap().unwrap().secret(), "secret");
}

#[test]
fn a_sealed_text_that_is_read_without_keys_says_what_opens_it() {
    let text = keys(KEY).seal(&token("secret"), "a place").unwrap();
    let error = RefreshTokenObject::from_json(&text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the text is a sealed refresh token object; open it with SealingKeys::open (feature sealing)"
    );
}

#[tokio::test]
async fn a_member_of_a_folder_cannot_be_passed_off_as_another() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = || FolderFleet::new(dir.path().join("tokens")).sealed_with(keys(KEY));
    let other = UUID.replace('b', "c");
    save(&fleet().of(APP, UUID), &token("secret")).await;
    save(&fleet().of(APP, &other), &token("other")).await;
    let file = |name: &str| {
        dir.path().join("tokens").join(&name[..2]).join(name).join("refreshTokenObjectFile.json")
    };
    fs::copy(file(UUID), file(&other)).unwrap();
    is_config(&fleet().of(APP, &other).read().await.unwrap_err(), "belongs elsewhere");
    let members = fleet().list(APP, None, 10).await.unwrap();
    assert_eq!(
        members.iter().map(|member| member.state).collect::<Vec<_>>(),
        [MemberState::Active, MemberState::NeedsPerson]
    );
    assert!(members[1].needs.as_ref().unwrap().contains("belongs elsewhere"), "{members:?}");
}

#[tokio::test]
async fn a_fleet_counts_what_each_key_has_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = FolderFleet::new(dir.path().join("tokens"));
    counts_by_key(fleet.clone(), |text| fleet.clone().sealed_with(keys(text))).await;
}

async fn counts_by_key<F: FleetStore + Clone>(plain: F, sealed: impl Fn(&str) -> F) {
    let name = |number: u32| format!("{number:08x}-0000-4000-8000-000000000000");
    let both = format!("{OTHER},{KEY}");
    for number in 0..6 {
        match number {
            0 => save(&plain.of(APP, &name(number)), &token("secret")).await,
            1 => save(&sealed(KEY).of(APP, &name(number)), &token("secret")).await,
            // As FleetBuilder::sealed_with does it.
            2 => {
                let mut fleet = plain.clone();
                fleet.seal_with(keys(KEY)).unwrap();
                save(&fleet.of(APP, &name(number)), &token("secret")).await;
            }
            _ => save(&sealed(&both).of(APP, &name(number)), &token("secret")).await,
        }
    }
    let count = async || {
        let fleet =
            Fleet::builder().app(AppCredentials::new(APP, "secret")).store(sealed(KEY)).build().unwrap();
        let count = fleet.count_by_sealing_key().await.unwrap();
        [None, Some("k1"), Some("k2")].map(|key| count.get(&key.map(str::to_owned)).copied().unwrap_or(0))
    };
    assert_eq!(count().await, [1, 2, 3]);
    for number in 0..3 {
        save(&sealed(&both).of(APP, &name(number)), &token("secret")).await;
    }
    assert_eq!(count().await, [0, 0, 6]);
}

#[test]
fn a_fleet_takes_keys_for_its_store_and_refuses_them_for_one_that_takes_none() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Fleet::builder().app(AppCredentials::new(APP, "secret")).sealed_with(keys(KEY));
    builder().store(FolderFleet::new(dir.path())).build().unwrap();
    let error = builder().store(Plain).build().unwrap_err();
    is_config(
        &error,
        "my store takes no sealing keys; implement FleetStore::seal_with and count_by_sealing_key, or give the fleet no keys",
    );
}

/// A fleet store that knows nothing of keys.
#[derive(Debug)]
struct Plain;

impl FleetStore for Plain {
    fn of(&self, _: &str, _: &str) -> BoxedStore {
        MemoryStore::new().boxed()
    }

    async fn claim_due(&self, _: &str, _: usize) -> Result<DueTokens, Error> {
        Ok(DueTokens::default())
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<FleetMember>, Error> {
        Ok(Vec::new())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Ok(())
    }

    fn describe(&self) -> String {
        "my store".to_owned()
    }
}

/// A kill between the steps of an assignment: the token is sealed for its new place, and lies in the old one, in a temporary file or
/// in place of the token before.
#[tokio::test]
async fn an_assignment_that_was_killed_is_done_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = || FolderFleet::new(dir.path().join("tokens")).sealed_with(keys(KEY));
    for left in
        [None, Some("refreshTokenObjectFile.json.tmp-0123456789abcdef"), Some("refreshTokenObjectFile.json")]
    {
        save(&fleet().of(APP, PENDING), &token("secret")).await;
        if let Some(left) = left {
            let text = keys(KEY).seal(&token("secret"), &format!("{APP}/{UUID}")).unwrap();
            fs::write(dir.path().join("tokens/pe").join(PENDING).join(left), text).unwrap();
            let refused = fleet().of(APP, PENDING).try_lock().await.map(drop);
            let refused = match refused {
                Ok(()) => fleet().of(APP, PENDING).read().await.map(drop),
                refused => refused,
            };
            is_config(&refused.unwrap_err(), "belongs elsewhere");
        }
        fleet().assign(APP, PENDING, UUID).await.unwrap();
        assert_eq!(fleet().of(APP, UUID).load().await.unwrap().unwrap().secret(), "secret");
        assert_eq!(fleet().of(APP, PENDING).load().await.unwrap().map(|_| ()), None);
        let member = fleet().of(APP, UUID);
        let lock = member.try_lock().await.unwrap().unwrap();
        member.remove(&lock).await.unwrap();
        member.unlock(lock).await;
    }
}

#[test]
fn keys_that_cannot_be_used_are_told_by_number_and_without_their_text() {
    for (text, says) in [
        ("", "there is no key; give one as id:base64"),
        ("# an old key, until May\n#k1:QUFB,k2:QUFB", "there is no key; give one as id:base64"),
        (" \n# k1:none\n", "there is no key; give one as id:base64"),
        ("QUFB", "key 1 is not of the form id:base64"),
        ("k1:QUFB", "key 1 (\"k1\") has 3 bytes; make one of 32 (openssl rand -base64 32)"),
        ("k1:%%", "key 1 (\"k1\") is not base64 text after its name"),
        (
            "k 1:QUFB",
            "key 1 has a name that cannot be one; it consists of 1 to 32 ASCII letters, digits, hyphens and underscores",
        ),
        (&format!("{KEY}\n{SAME_NAME}"), "key 2 has the same name as another, \"k1\"; give each its own"),
    ] {
        let error = text.parse::<SealingKeys>().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::Config, format!("the text of the sealing keys: {says}"))
        );
    }
    let many = keys(&format!("# the old one comes second\n{OTHER}\r\n\n  {KEY}\n"));
    assert_eq!(many.ids().collect::<Vec<_>>(), ["k2", "k1"]);
    assert_eq!(format!("{many:?}"), r#"SealingKeys(["k2", "k1"])"#);
}

#[tokio::test]
async fn keys_come_from_a_file_and_from_systemd() {
    let _alone = support::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sealing-keys");
    let missing = SealingKeys::from_file(&path).unwrap_err();
    is_config(&missing, "could not read the sealing keys in ");
    fs::write(&path, [KEY, "\n", OTHER, "\n"].concat()).unwrap();
    assert_eq!(SealingKeys::from_file(&path).unwrap().ids().collect::<Vec<_>>(), ["k1", "k2"]);
    fs::write(&path, b"k1:\xff").unwrap();
    is_config(&SealingKeys::from_file(&path).unwrap_err(), "it is not UTF-8 text");
    fs::write(&path, "k1").unwrap();
    let bad = SealingKeys::from_file(&path).unwrap_err();
    is_config(&bad, &format!("{}: key 1 is not of the form id:base64", path.display()));
    let generated = SealingKeys::generate("2026-11").unwrap();
    assert_eq!(keys(&generated).ids().collect::<Vec<_>>(), ["2026-11"]);
    assert_ne!(generated, SealingKeys::generate("2026-11").unwrap());
    is_config(&SealingKeys::generate("a.b").unwrap_err(), "a sealing key's name consists of");
    for (variable, folder, expected) in [
        (Some(KEY), None, Ok("k1")),
        (Some(KEY), Some(OTHER), Ok("k1")),
        (None, Some(OTHER), Ok("k2")),
        (Some("k1"), Some(OTHER), Err("CONCUR_AUTH_SEALING_KEYS: key 1 is not of the form id:base64")),
        (
            None,
            None,
            Err(
                "there are no sealing keys; set CONCUR_AUTH_SEALING_KEYS to id:base64, or give the service a credential sealing-keys",
            ),
        ),
    ] {
        let mut child = support::child("prints_the_keys_of_its_environment");
        child.env_remove("CONCUR_AUTH_SEALING_KEYS").env_remove("CREDENTIALS_DIRECTORY");
        if let Some(keys) = variable {
            child.env("CONCUR_AUTH_SEALING_KEYS", keys);
        }
        if let Some(keys) = folder {
            fs::write(&path, keys).unwrap();
            child.env("CREDENTIALS_DIRECTORY", dir.path());
        }
        let output = child.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let (Ok(expected) | Err(expected)) = expected;
        assert!(printed.contains(&format!("<{expected}>")), "{printed}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let mut child = support::child("prints_the_keys_of_its_environment");
        child.env("CONCUR_AUTH_SEALING_KEYS", std::ffi::OsStr::from_bytes(b"k1:\xff"));
        let output = child.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains("<CONCUR_AUTH_SEALING_KEYS: it is not UTF-8 text>"), "{printed}");
    }
}

#[test]
#[ignore = "run by the test above"]
#[allow(clippy::print_stdout, reason = "for the test that runs it")]
fn prints_the_keys_of_its_environment() {
    match SealingKeys::from_env() {
        Ok(keys) => println!("<{}>", keys.ids().collect::<Vec<_>>().join(",")),
        Err(e) => println!("<{e}>"),
    }
}

#[cfg(all(feature = "postgres", unix))]
mod in_postgres {
    use concur_auth::{PostgresFleet, PostgresStore};

    use super::*;
    use crate::postgres::Postgres;

    /// The whole cluster is searched, with its log of writes.
    #[tokio::test]
    async fn nothing_that_a_cluster_holds_can_be_read() {
        let Some(postgres) = Postgres::start("nothing_that_a_cluster_holds_can_be_read") else { return };
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
        let store = PostgresStore::new(&database.url(), UUID).unwrap().sealed_with(keys(KEY));
        let tokens = scene.builder().store(store).build().unwrap();
        let mut secrets = Vec::new();
        for _ in 0..3 {
            secrets.push(tokens.refresh().await.unwrap().secret().to_owned());
            secrets.push(tokens.access_token().await.unwrap().secret().to_owned());
        }
        // Its files stand still then, with all that was written.
        postgres.stop_fast();
        let folder = postgres::Server::host(&postgres).join("data");
        for secret in &secrets {
            assert_eq!(files_with(secret, &folder), Vec::<PathBuf>::new());
        }
        assert!(!files_with("{\"sealed\":\"v1.k1.", &folder).is_empty());
    }

    #[tokio::test]
    async fn a_row_opens_with_its_key_and_in_its_place_only() {
        let Some(postgres) = Postgres::shared("a_row_opens_with_its_key_and_in_its_place_only") else {
            return;
        };
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        let plain = PostgresFleet::new(&database.url()).unwrap();
        let fleet = |text: &str| plain.clone().sealed_with(keys(text));
        let other = UUID.replace('b', "c");
        save(&plain.of(APP, &other), &token("plain")).await;
        assert_eq!(fleet(KEY).of(APP, &other).load().await.unwrap().unwrap().secret(), "plain");
        for (name, secret) in [(UUID, "secret"), (&other, "other")] {
            save(&fleet(KEY).of(APP, name), &token(secret)).await;
        }
        let stored =
            || database.psql("SELECT token, save_id, lease_owner FROM concur_auth_tokens ORDER BY principal");
        let before = stored();
        for (store, says) in [
            (plain.clone(), "it is sealed with the key \"k1\"; give the store that key with sealed_with"),
            (fleet(OTHER), "the sealing keys here are \"k2\""),
            (fleet(SAME_NAME), "it is sealed, and does not open with the key \"k1\""),
        ] {
            let error = store.of(APP, UUID).read().await.unwrap_err();
            is_config(&error, says);
            assert!(
                error.to_string().starts_with(&format!("could not read the token in the row of {UUID}")),
                "{error}"
            );
        }
        assert_eq!(stored(), before);
        database.psql(&format!(
            "UPDATE concur_auth_tokens SET token = (SELECT token FROM concur_auth_tokens WHERE principal = '{UUID}')
              WHERE principal = '{other}'"
        ));
        is_config(&fleet(KEY).of(APP, &other).read().await.unwrap_err(), "belongs elsewhere");
    }

    #[tokio::test]
    async fn a_table_counts_what_each_key_has_sealed() {
        let Some(postgres) = Postgres::shared("a_table_counts_what_each_key_has_sealed") else { return };
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        let plain = PostgresFleet::new(&database.url()).unwrap();
        counts_by_key(plain.clone(), |text| plain.clone().sealed_with(keys(text))).await;
    }

    /// It may say that nothing must be sent.
    #[tokio::test]
    async fn without_the_key_of_a_rows_note_nothing_is_read() {
        let Some(postgres) = Postgres::shared("without_the_key_of_a_rows_note_nothing_is_read") else {
            return;
        };
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        let plain = || PostgresStore::new(&database.url(), UUID).unwrap();
        save(&plain(), &token("plain")).await;
        let sealed = plain().sealed_with(keys(KEY));
        let lock = sealed.try_lock().await.unwrap().unwrap();
        sealed.remember(Some("note"), &lock).await.unwrap();
        sealed.unlock(lock).await;
        let error = plain().read().await.unwrap_err();
        is_config(&error, "it is sealed with the key \"k1\"");
        assert!(
            error.to_string().starts_with(&format!("could not read the column refusal in the row of {UUID}")),
            "{error}"
        );
        assert_eq!(sealed.read().await.unwrap().note.as_deref(), Some("note"));
    }

    /// Not even a lease is left behind, which would put the row in doubt.
    #[tokio::test]
    async fn a_manager_without_the_key_changes_nothing() {
        let Some(postgres) = Postgres::shared("a_manager_without_the_key_changes_nothing") else { return };
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
        let store = PostgresStore::new(&database.url(), UUID).unwrap();
        let tokens = |store: PostgresStore| -> TokenManager { scene.builder().store(store).build().unwrap() };
        tokens(store.clone().sealed_with(keys(KEY))).get_valid_refresh_token().await.unwrap();
        scene.clock.advance(70 * DAY);
        let stored = || database.psql("SELECT token, save_id, lease_owner, state FROM concur_auth_tokens");
        let (before, uses_left) = (stored(), scene.concur.request_token_uses_left());
        for store in [store.clone(), store.clone().sealed_with(keys(OTHER))] {
            let error = tokens(store).get_valid_refresh_token().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        }
        support::until(|| stored() == before).await;
        assert_eq!((scene.concur.token_requests(), scene.concur.request_token_uses_left()), (1, uses_left));
    }
}
