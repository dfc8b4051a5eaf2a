//! A fleet's tokens in a folder: what lies where, and which process finds what is due, and when.

#![cfg(feature = "simulator")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use concur_auth::{
    Clock as _, DueTokens, ErrorKind, FleetStore, FolderFleet, MemberKind, MemberState, RefreshTokenObject,
    StoreLock, TokenStore as _,
    simulator::{ManualClock, SharedLock, StoreCondition, shared_store_contract, store_contract},
};
use support::{DAY, HOUR, MINUTE, names_in, noon, seed, until};
use tempfile::TempDir;

const APP: &str = "9a6c3e1c-1111-4000-8000-000000000000";
const TOKEN_FILE: &str = "refreshTokenObjectFile.json";

/// A folder and a clock. Each store that it opens stands for a process.
struct Scene {
    dir: TempDir,
    clock: ManualClock,
}

impl Scene {
    fn new() -> Self {
        Self::on(ManualClock::new(noon()))
    }

    fn on(clock: ManualClock) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock }
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    fn store(&self) -> FolderFleet {
        FolderFleet::new(self.place()).clock(self.clock.clone())
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.place().join(&name[..2]).join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder(name).join(TOKEN_FILE)
    }

    fn seconds(&self) -> i64 {
        self.clock.now_utc().unix_timestamp()
    }

    /// Of a company, received so many days ago, of a life of 180 days.
    fn token(&self, secret: &str, days_ago: i64) -> RefreshTokenObject {
        let received_at = self.seconds() - days_ago * 24 * 3600;
        let expires_at = received_at + 180 * 24 * 3600;
        RefreshTokenObject::from_json(&format!(
            r#"{{"refresh_token": "{secret}", "refreshTokenReceivedAt": {received_at},
            "refreshTokenExpiresAt": {expires_at}, "companyUUID": "c"}}"#
        ))
        .unwrap()
    }

    async fn save(&self, name: &str, days_ago: i64) {
        save(&self.store(), name, &self.token(name, days_ago)).await;
    }

    /// What is stored, read without this crate.
    fn stored(&self, name: &str) -> Option<String> {
        let json = fs::read(self.file(name)).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        Some(json["refresh_token"].as_str().unwrap().to_owned())
    }
}

fn uuid(number: usize) -> String {
    format!("{:08x}-0000-4000-8000-{number:012x}", number.wrapping_mul(2_654_435_761) & 0xffff_ffff)
}

async fn save(store: &FolderFleet, name: &str, token: &RefreshTokenObject) {
    let store = store.of(APP, name);
    let lock = store.try_lock().await.unwrap().unwrap();
    store.save(token, &lock).await.unwrap();
}

async fn claim(store: &FolderFleet, most: usize) -> DueTokens {
    store.claim_due(APP, most).await.unwrap()
}

/// Claims all that is due, and gives it back.
async fn due(store: &FolderFleet) -> Vec<String> {
    claim(store, 1000).await.tokens.into_iter().map(|token| token.principal).collect()
}

/// The paths of all files and folders, relative to the place.
fn tree(place: &Path) -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![place.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(place).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn each_member_has_a_private_folder_of_its_own() {
    let scene = Scene::new();
    let store = scene.store();
    save(&store, "B3F4E2A0-0000-4000-8000-000000000000", &scene.token("r", 0)).await;
    let member = "b3/b3f4e2a0-0000-4000-8000-000000000000";
    let expected = [
        "fleet.json",
        "b3",
        member,
        &format!("{member}/{TOKEN_FILE}"),
        &format!("{member}/{TOKEN_FILE}.lock"),
    ]
    .map(str::to_owned);
    assert_eq!(tree(&scene.place()), BTreeSet::from(expected.clone()));
    let marker = fs::read_to_string(scene.place().join("fleet.json")).unwrap();
    assert_eq!(marker, format!("{{\"format\": 1, \"appID\": \"{APP}\"}}\n"));
    #[cfg(unix)]
    for path in expected.iter().map(|path| scene.place().join(path)).chain([scene.place()]) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_root_makes_belongs_to_the_owner_of_the_folder_that_it_is_in() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let scene = Scene::new();
    if chown(scene.dir.path(), Some(65534), Some(65534)).is_err() {
        return support::skip("only root can give a folder away");
    }
    scene.save(&uuid(1), 0).await;
    for path in tree(scene.dir.path()) {
        let metadata = fs::metadata(scene.dir.path().join(&path)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (65534, 65534), "{path}");
    }
}

#[tokio::test]
async fn a_look_makes_nothing() {
    let scene = Scene::new();
    let store = scene.store();
    let member = store.of(APP, &uuid(1));
    let stored = member.read().await.unwrap();
    assert!(stored.token.is_none() && stored.note.is_none() && member.load().await.unwrap().is_none());
    assert_eq!(store.list(APP, None, 10).await.unwrap(), []);
    assert_eq!(store.assign(APP, "../x", "a").await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(names_in(scene.dir.path()), [""; 0]);
    assert!(member.is_local() && member.describe().ends_with(TOKEN_FILE));
    // A claim writes locks, and finds out early whether it can.
    assert_eq!(due(&store).await, [""; 0]);
    assert_eq!(names_in(&scene.place()), ["fleet.json"]);
    // Of a member that was never there, nothing is moved.
    store.assign(APP, "pending-0", &uuid(1)).await.unwrap_err();
    assert_eq!(names_in(&scene.place()), ["fleet.json"]);
}

#[tokio::test]
async fn the_store_of_a_member_keeps_the_contract() {
    let scene = Scene::new();
    let file = scene.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let open = || FolderFleet::new(scene.place()).of(APP, &uuid(1));
    let broken = || FolderFleet::new(&file).of(APP, &uuid(1));
    store_contract(|it| Some(if it == StoreCondition::Broken { broken() } else { open() })).await.unwrap();
    shared_store_contract(open, SharedLock::new()).await.unwrap();
}

#[tokio::test]
async fn the_folder_of_another_app_or_format_is_left_alone() {
    let scene = Scene::new();
    scene.save(&uuid(1), 100).await;
    let marker = scene.place().join("fleet.json");
    let path = marker.display();
    let app = "an-app";
    let whole = r#"{"format": 1, "appID": "an-app"}"#;
    for (content, what) in [
        (
            fs::read_to_string(&marker).unwrap(),
            format!("the tokens in the folder are those of app {APP}, not of app {app}; give each app a folder of its own"),
        ),
        (
            r#"{"format": 1, "appID": "s3cret"}"#.to_owned(),
            format!("the tokens in the folder are those of another app, not of app {app}; give each app a folder of its own"),
        ),
        (
            r#"{"format": 2, "further": []}"#.to_owned(),
            "the folder has format 2, and this version of concur-auth knows format 1; use the version that made the folder, or \
             name another folder"
                .to_owned(),
        ),
        (
            "{}".to_owned(),
            format!(
                "the file does not say which app's tokens are in the folder; if they are those of app {app}, make its content \
                 {whole}, otherwise name another folder"
            ),
        ),
    ] {
        fs::write(&marker, &content).unwrap();
        let before = tree(&scene.place());
        let store = scene.store();
        let errors = [
            store.claim_due(app, 1).await.unwrap_err(),
            store.list(app, None, 1).await.unwrap_err(),
            store.assign(app, "pending-0", "a").await.unwrap_err(),
            store.of(app, &uuid(2)).try_lock().await.unwrap_err(),
            store.of(app, &uuid(1)).try_lock().await.unwrap_err(),
            store.of(app, &uuid(1)).load().await.unwrap_err(),
            store.of(app, &uuid(1)).read().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Config);
            assert_eq!(error.to_string(), format!("{path}: {what}; nothing was changed"));
        }
        assert_eq!(tree(&scene.place()), before);
        assert_eq!(fs::read_to_string(&marker).unwrap(), content);
    }
    // What was put right by hand is found.
    fs::write(&marker, whole).unwrap();
    assert_eq!(scene.store().claim_due(app, 9).await.unwrap().tokens.len(), 1);
}

#[tokio::test]
async fn a_folder_whose_parent_is_missing_is_not_made() {
    let scene = Scene::new();
    let place = scene.dir.path().join("mistyped").join("tokens");
    let error = FolderFleet::new(&place).claim_due(APP, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let place = place.display();
    assert_eq!(
        error.to_string(),
        format!("could not make the folder {place}; make the folder that it is to be in")
    );
    assert_eq!(names_in(scene.dir.path()), [""; 0]);
}

#[tokio::test]
async fn many_processes_that_start_at_once_make_one_folder() {
    let scene = Scene::new();
    let place = Arc::new(scene.place());
    let start = Arc::new(std::sync::Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|n| {
            let (place, start) = (Arc::clone(&place), Arc::clone(&start));
            std::thread::spawn(move || {
                let store = FolderFleet::new(&*place);
                start.wait();
                support::without_tokio(async {
                    let member = store.of(APP, &uuid(n % 2));
                    member.try_lock().await.map(drop)
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    let groups = [&uuid(0)[..2], &uuid(1)[..2], "fleet.json"].map(str::to_owned);
    assert_eq!(names_in(&place).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(groups));
}

#[tokio::test]
async fn what_is_due_comes_in_the_order_of_expiry_with_its_lock() {
    let scene = Scene::new();
    for (number, days_ago) in [(1, 70), (2, 90), (3, 0), (4, 80), (5, 39)] {
        scene.save(&uuid(number), days_ago).await;
    }
    let store = scene.store();
    let claimed = claim(&store, 2).await;
    assert_eq!(claimed.next, Some(Duration::ZERO), "there is another");
    let names: Vec<_> = claimed.tokens.iter().map(|token| token.principal.clone()).collect();
    assert_eq!(names, [uuid(2), uuid(4)]);
    for token in &claimed.tokens {
        assert_eq!(token.kind, MemberKind::Company);
        let member = store.of(APP, &token.principal);
        assert!(member.try_lock().await.unwrap().is_none(), "it is locked");
        let stored = member.read_locked(&token.lock).await.unwrap().token.unwrap();
        assert_eq!(stored.secret(), token.principal);
        member.finish(&scene.token("new", 0), None, &token.lock).await.unwrap();
    }
    let rest = claim(&store, 2).await;
    assert_eq!((rest.tokens.len(), &*rest.tokens[0].principal), (1, &*uuid(1)));
    assert_eq!(rest.next, Some(MINUTE), "then the claimed one is due again");
    assert_eq!(scene.stored(&uuid(2)).unwrap(), "new");
}

/// Each principal has a day of its own between the 40th and the 60th.
#[tokio::test]
async fn tokens_that_were_imported_together_become_due_one_after_the_other() {
    let scene = Scene::new();
    let store = scene.store();
    for number in 0..100 {
        save(&store, &uuid(number), &scene.token("r", 0)).await;
    }
    let mut days = Vec::new();
    scene.clock.advance(DAY * 39);
    for day in 40..=60 {
        let next = claim(&store, 1000).await.next.unwrap();
        assert!(next > Duration::ZERO);
        scene.clock.advance(DAY);
        let due = claim(&store, 1000).await.tokens;
        for token in &due {
            let member = store.of(APP, &token.principal);
            member.save(&scene.token("new", 0), &token.lock).await.unwrap();
        }
        days.extend(due.iter().map(|_| day));
    }
    assert_eq!(days.len(), 100);
    let distinct: BTreeSet<_> = days.iter().collect();
    assert!(distinct.len() >= 15, "{days:?}");
}

#[tokio::test]
async fn each_due_token_is_claimed_by_one_of_two_processes() {
    let scene = Scene::new();
    for number in 0..60 {
        scene.save(&uuid(number), 100).await;
    }
    let processes = [scene.store(), scene.store()];
    let (mut claimed, mut held) = (Vec::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(seed());
    for _ in 0..100 {
        let process = random.usize(..2);
        for token in claim(&processes[process], random.usize(1..4)).await.tokens {
            claimed.push(token.principal.clone());
            held.push((process, token));
        }
        // Some are renewed meanwhile.
        if !held.is_empty() && random.bool() {
            let (process, token) = held.swap_remove(random.usize(..held.len()));
            let member = processes[process].of(APP, &token.principal);
            member.finish(&scene.token("new", 0), None, &token.lock).await.unwrap();
            member.unlock(token.lock).await;
        }
    }
    assert_eq!(claimed.len(), 60);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 60);
}

#[tokio::test]
async fn a_claimed_token_comes_back_after_a_minute_then_two_up_to_an_hour() {
    let scene = Scene::new();
    let name = uuid(1);
    scene.save(&name, 100).await;
    let store = scene.store();
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(due(&store).await, [&*name]);
        scene.clock.advance(MINUTE * minutes - Duration::from_secs(1));
        assert_eq!(due(&store).await, [""; 0], "{minutes}");
        scene.clock.advance(Duration::from_secs(1));
    }
    // A save forgets the claims.
    save(&store, &name, &scene.token("also due", 90)).await;
    for minutes in [1, 2] {
        assert_eq!(due(&store).await, [&*name]);
        scene.clock.advance(MINUTE * minutes);
    }
}

#[tokio::test]
async fn a_locked_token_is_looked_at_again_in_a_minute_and_a_renewed_one_is_not_due() {
    let scene = Scene::new();
    let name = uuid(1);
    scene.save(&name, 100).await;
    let (ours, sibling) = (scene.store(), scene.store());
    let mut held = claim(&sibling, 1).await.tokens;
    assert_eq!(due(&ours).await, [""; 0]);
    let token = held.remove(0);
    let member = sibling.of(APP, &name);
    member.finish(&scene.token("new", 0), None, &token.lock).await.unwrap();
    member.unlock(token.lock).await;
    scene.clock.advance(MINUTE);
    assert_eq!(due(&ours).await, [""; 0], "the sibling has renewed it");
    scene.clock.advance(DAY * 60);
    assert_eq!(due(&ours).await, [&*name]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_member_of_another_process_is_found_within_a_minute() {
    let scene = Scene::new();
    let store = scene.store();
    for number in 0..50 {
        scene.save(&uuid(number), 0).await;
    }
    assert_eq!(due(&store).await, [""; 0]);
    for number in 50..60 {
        scene.save(&uuid(number), 100).await;
    }
    assert_eq!(due(&store).await, [""; 0], "within that minute nothing is looked at");
    scene.clock.advance(MINUTE);
    assert_eq!(due(&store).await.len(), 10);
    // One whose sign-in takes longer than that.
    let (late, other_process) = (uuid(99), scene.store());
    let member = other_process.of(APP, &late);
    let lock = member.try_lock().await.unwrap().unwrap();
    // So that its next change is certain to show, and there is none.
    let group = scene.place().join(&late[..2]);
    fs::File::open(group).unwrap().set_modified(concur_auth::SystemClock.now() - HOUR).unwrap();
    for _ in 0..3 {
        scene.clock.advance(MINUTE);
        assert!(!due(&store).await.contains(&late));
    }
    member.save(&scene.token("r", 120), &lock).await.unwrap();
    drop(lock);
    scene.clock.advance(MINUTE);
    assert_eq!(due(&store).await[0], late);
}

#[cfg(unix)]
#[tokio::test]
async fn a_member_that_another_process_connects_again_is_found_within_an_hour() {
    let scene = Scene::new();
    let other_process = scene.store();
    for number in 0..100 {
        scene.save(&uuid(number), 0).await;
    }
    let gone = other_process.of(APP, &uuid(7));
    let lock = gone.try_lock().await.unwrap().unwrap();
    gone.remove(&lock).await.unwrap();
    drop(lock);
    let store = scene.store();
    // Nothing looks new, also not by the clock of the file system.
    let long_ago = concur_auth::SystemClock.now() - DAY;
    for number in 0..100 {
        for folder in [scene.folder(&uuid(number)), scene.place().join(&uuid(number)[..2])] {
            fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
        }
    }
    assert_eq!(due(&store).await, [""; 0]);
    // Everything is due earlier than it was, by what another process has done.
    for number in 0..100 {
        scene.save(&uuid(number), 100).await;
    }
    let mut found = BTreeSet::new();
    for _ in 0..60 {
        scene.clock.advance(MINUTE);
        found.extend(due(&store).await);
    }
    assert_eq!(found.len(), 100);
}

/// Of two groups, that is one.
#[tokio::test]
async fn a_minute_reads_a_60th_of_the_groups_and_half_a_minute_nothing() {
    let scene = Scene::new();
    let members = [1, 2].map(uuid);
    assert_ne!(members[0][..2], members[1][..2]);
    for member in &members {
        scene.save(member, 0).await;
    }
    let store = scene.store();
    assert!(due(&store).await.is_empty());
    // Another process stores tokens that are due.
    for member in &members {
        scene.save(member, 100).await;
    }
    for (seconds, found) in [(30, 0), (30, 1), (30, 0), (30, 2)] {
        scene.clock.advance(Duration::from_secs(seconds));
        assert_eq!(due(&store).await.len(), found);
    }
}

#[tokio::test]
async fn what_this_process_saves_or_removes_is_known_at_once() {
    let scene = Scene::new();
    let store = scene.store();
    assert_eq!(claim(&store, 1).await.next, None);
    let clone = store.clone();
    save(&clone, &uuid(1), &scene.token("r", 100)).await;
    save(&clone, &uuid(2), &scene.token("r", 100)).await;
    let member = clone.of(APP, &uuid(1));
    let lock = member.try_lock().await.unwrap().unwrap();
    member.remove(&lock).await.unwrap();
    drop(lock);
    let claimed = claim(&store, 9).await;
    assert_eq!((claimed.tokens.len(), &*claimed.tokens[0].principal), (1, &*uuid(2)));
    let member = store.of(APP, &uuid(2));
    member.replace(&scene.token("new", 0), &claimed.tokens[0].lock).await.unwrap();
    let next = claim(&store, 9).await.next.unwrap();
    assert!((DAY * 40..=DAY * 60).contains(&next), "{next:?}");
}

#[tokio::test]
async fn a_member_that_was_deleted_is_not_made_again() {
    let scene = Scene::new();
    scene.save(&uuid(1), 39).await;
    let store = scene.store();
    assert_eq!(due(&store).await, [""; 0]);
    fs::remove_dir_all(scene.folder(&uuid(1))).unwrap();
    scene.clock.advance(DAY * 30);
    assert_eq!(claim(&store, 1).await.next, None);
    assert!(!scene.folder(&uuid(1)).exists());
}

/// As a process leaves it that was killed between a save and its rename, at the first sign-in and at a renewal.
#[tokio::test]
async fn what_a_killed_process_left_is_found() {
    let scene = Scene::new();
    let (first, renewed) = (uuid(1), uuid(2));
    for name in [&first, &renewed] {
        scene.save(name, 100).await;
    }
    let leftover = |name: &str| scene.folder(name).join(format!("{TOKEN_FILE}.tmp-0000000000000001"));
    fs::rename(scene.file(&first), leftover(&first)).unwrap();
    fs::write(leftover(&renewed), scene.token("renewed", 0).to_json()).unwrap();
    let store = scene.store();
    assert_eq!(due(&store).await, [&*first]);
    assert_eq!((scene.stored(&first), scene.stored(&renewed)), (Some(first), Some("renewed".to_owned())));
}

#[tokio::test]
async fn what_cannot_be_read_does_not_stop_the_rest() {
    let scene = Scene::new();
    for number in 1..=4 {
        scene.save(&uuid(number), 100).await;
    }
    // A token file that is a folder, and one that becomes a folder after the look.
    fs::remove_file(scene.file(&uuid(1))).unwrap();
    fs::create_dir(scene.file(&uuid(1))).unwrap();
    // What no version of this crate makes.
    fs::write(scene.place().join("ab"), "").unwrap();
    fs::create_dir_all(scene.place().join("UP").join("UPPER")).unwrap();
    fs::create_dir_all(scene.place().join("lost+found")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(scene.place().join("ab"), scene.place().join("zz")).unwrap();
    let store = scene.store();
    let DueTokens { tokens, failed, .. } = claim(&store, 1).await;
    // A folder that cannot be read is told with each look, for its members may be due.
    let folder = cfg!(unix).then(|| "zz".to_owned());
    let unreadable = |uuids: &[&String]| {
        uuids.iter().map(|uuid| (*uuid).clone()).chain(folder.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!((tokens.len(), BTreeSet::from_iter(failed)), (1, unreadable(&[&uuid(1)])));
    drop(tokens);
    let left = due(&scene.store()).await;
    assert_eq!(left.len(), 3);
    fs::remove_file(scene.file(&left[1])).unwrap();
    fs::create_dir(scene.file(&left[1])).unwrap();
    scene.clock.advance(HOUR);
    let again = claim(&store, 1000).await;
    assert_eq!(again.tokens.len(), 2);
    assert_eq!(BTreeSet::from_iter(again.failed), unreadable(&[&uuid(1), &left[1]]));

    #[cfg(unix)]
    fs::remove_file(scene.place().join("zz")).unwrap();
    let members = store.list(APP, None, 10).await.unwrap();
    assert_eq!(members.len(), 4);
    let unreadable = members.iter().find(|member| member.uuid == uuid(1)).unwrap();
    assert_eq!(unreadable.state, MemberState::NeedsPerson);
    let file = scene.file(&uuid(1));
    let needs = format!("could not read {}; check that it is a file this user may read", file.display());
    assert_eq!(unreadable.needs, Some(needs));
}

/// Many that are locked, or cannot be read, hold up no others for long.
#[tokio::test]
async fn a_claim_ends_after_256_that_it_got_in_vain() {
    for is_locked in [true, false] {
        let scene = Scene::new();
        for number in 0..300 {
            scene.save(&uuid(number), 100).await;
        }
        let (store, sibling) = (scene.store(), scene.store());
        let first = claim(&store, 0).await;
        assert_eq!((first.tokens.len(), first.next), (0, Some(Duration::ZERO)));
        let mut locks = Vec::new();
        for number in 0..300 {
            if is_locked {
                locks.push(sibling.of(APP, &uuid(number)).try_lock().await.unwrap().unwrap());
            } else {
                fs::remove_file(scene.file(&uuid(number))).unwrap();
                fs::create_dir(scene.file(&uuid(number))).unwrap();
            }
        }
        for (in_vain, tried) in [(256, 256), (300 - 256, 300)] {
            let DueTokens { tokens, failed, .. } = claim(&store, 10).await;
            assert_eq!((tokens.len(), failed.len()), (0, if is_locked { 0 } else { in_vain }));
            let busy = store.count_busy(APP).await.unwrap();
            assert_eq!(busy, if is_locked { tried as u64 } else { 0 });
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_listed_is_an_error_and_what_is_not_there_is_none() {
    use std::os::unix::fs::symlink;

    let scene = Scene::new();
    let store = scene.store();
    assert_eq!(store.list(APP, None, 10).await.unwrap().len(), 0);
    scene.save(&uuid(1), 100).await;
    let is_listed = async || store.list(APP, None, 10).await.map(|members| members.len());
    assert_eq!(is_listed().await.unwrap(), 1);
    let file = scene.place().join("a-file");
    fs::write(&file, "").unwrap();
    // Not a group of this crate's: a name of more than two characters.
    symlink(&file, scene.place().join("backup")).unwrap();
    assert_eq!(is_listed().await.unwrap(), 1);
    symlink(&file, scene.place().join("zz")).unwrap();
    let not_read = |path: &Path| {
        format!("could not read the folder {}; check that this user may read it", path.display())
    };
    assert_eq!(is_listed().await.unwrap_err().to_string(), not_read(&scene.place().join("zz")));
    fs::rename(scene.place(), scene.dir.path().join("moved")).unwrap();
    assert_eq!(is_listed().await.unwrap(), 0);
    fs::write(scene.place(), "").unwrap();
    assert_eq!(is_listed().await.unwrap_err().to_string(), not_read(&scene.place()));
    let error = scene.store().list(APP, None, 10).await.unwrap_err();
    let marker = scene.place().join("fleet.json");
    assert_eq!(
        error.to_string(),
        format!("could not read {}; check that it is a file this user may read", marker.display())
    );
}

#[cfg(all(unix, feature = "sealing"))]
#[tokio::test]
async fn what_is_counted_by_key_are_token_files_and_their_side_files() {
    use std::os::unix::fs::symlink;

    let scene = Scene::new();
    let store = scene.store();
    let count =
        async || store.count_by_sealing_key(APP).await.map(|count| count.get(&None).copied().unwrap_or(0));
    assert_eq!(count().await.unwrap(), 0);
    scene.save(&uuid(1), 100).await;
    let (folder, token) = (scene.folder(&uuid(1)), fs::read(scene.file(&uuid(1))).unwrap());
    assert_eq!(count().await.unwrap(), 1);
    let side_file = |name: &str| folder.join(format!("{TOKEN_FILE}.{name}"));
    fs::write(side_file("corrupt-1"), &token).unwrap();
    assert_eq!(count().await.unwrap(), 2);
    fs::write(folder.join("mine.json"), &token).unwrap();
    fs::write(side_file("lock"), &token).unwrap();
    assert_eq!(count().await.unwrap(), 2);
    // Gone since it was listed: a member, and a side file.
    symlink("nowhere", folder.with_file_name(&uuid(1)[..35])).unwrap();
    symlink("nowhere", side_file("tmp-1")).unwrap();
    assert_eq!(count().await.unwrap(), 2);
    fs::create_dir(side_file("corrupt-2")).unwrap();
    assert_eq!(
        count().await.unwrap_err().to_string(),
        format!(
            "could not read {}; check that it is a file this user may read",
            side_file("corrupt-2").display()
        )
    );
    fs::remove_dir(side_file("corrupt-2")).unwrap();
    symlink(scene.file(&uuid(1)), folder.with_file_name(&uuid(1)[..34])).unwrap();
    let group = folder.parent().unwrap().display();
    assert_eq!(
        count().await.unwrap_err().to_string(),
        format!("could not read the folder {group}; check that this user may read it")
    );
    fs::remove_dir_all(scene.place()).unwrap();
    assert_eq!(count().await.unwrap(), 0);
    fs::write(scene.place(), "").unwrap();
    count().await.unwrap_err();
}

/// No process can write there, not even root's.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_takes_no_file_is_an_error() {
    let error = FolderFleet::new("/proc").claim_due(APP, 1).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Store, "could not write /proc/fleet.json; check that this user can create files there")
    );
}

#[tokio::test]
async fn members_are_listed_in_pages_in_the_order_of_their_names() {
    let scene = Scene::new();
    let mut names: Vec<_> = (0..30).map(uuid).collect();
    names.extend(["a".repeat(64), "00".to_owned(), "pending-00".to_owned()]);
    for name in &names {
        scene.save(name, 0).await;
    }
    let signed_out = scene.store().of(APP, &names[0]);
    signed_out.remove(&signed_out.try_lock().await.unwrap().unwrap()).await.unwrap();
    // A sign-in that failed is no member.
    drop(scene.store().of(APP, "pending-01").try_lock().await.unwrap());
    let before = tree(&scene.place());
    names.sort();
    let store = scene.store();
    let mut listed = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(APP, after.as_deref(), 7).await.unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = Some(last.uuid.clone());
        listed.extend(page);
    }
    assert_eq!(
        listed.iter().map(|member| &member.uuid).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    for member in &listed {
        let (is_out, is_pending) = (member.uuid == uuid(0), member.uuid == "pending-00");
        assert_eq!(member.state == MemberState::SignedOut, is_out);
        assert_eq!(member.kind == MemberKind::Pending, is_pending);
        let left = member.renew_at.map(|at| at.unix_timestamp() - scene.seconds());
        assert!(is_out || (40 * 86_400..=60 * 86_400).contains(&left.unwrap()), "{member:?}");
        let expiry = member.refresh_token_expires_at.map(|at| at.unix_timestamp() - scene.seconds());
        assert_eq!(expiry, (!is_out).then_some(180 * 86_400));
    }
    let health = store.health(APP).await.unwrap();
    assert_eq!((health.active, health.needing_a_person, health.signed_out), (32, 0, 1));
    assert_eq!(tree(&scene.place()), before);
}

#[tokio::test]
async fn a_name_that_could_lead_elsewhere_leads_nowhere() {
    let scene = Scene::new();
    let store = scene.store();
    let message = "the name of a member of a fleet consists of 1 to 64 ASCII letters, digits, hyphens and underscores; \
                   pass the UUID of the company or user";
    for name in ["", "..", "../other", "a/b", "a\\b", "a.b", "ä", &"a".repeat(65)] {
        let member = store.of(APP, name);
        let error = member.try_lock().await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, message.to_owned()));
        assert_eq!(member.read().await.unwrap_err().to_string(), message);
        let lock = StoreLock::new(());
        assert!(
            member.save(&scene.token("r", 0), &lock).await.is_err() && member.remove(&lock).await.is_err()
        );
        assert_eq!(store.assign(APP, name, "a").await.unwrap_err().to_string(), message);
        assert_eq!(store.assign(APP, "a", name).await.unwrap_err().to_string(), message);
    }
    assert_eq!(names_in(scene.dir.path()), [""; 0]);
}

const PENDING: &str = "pending-00000000000000000000000000000001";

#[tokio::test]
async fn a_pending_token_takes_the_place_of_its_users_token() {
    for is_known in [false, true] {
        let scene = Scene::new();
        let (store, user) = (scene.store(), uuid(1));
        due(&store).await;
        if is_known {
            save(&store, &user, &scene.token("old", 100)).await;
            let member = store.of(APP, &user);
            let lock = member.try_lock().await.unwrap().unwrap();
            member.remember(Some("Concur refused the old one"), &lock).await.unwrap();
        }
        save(&store, PENDING, &scene.token("new", 0)).await;
        store.assign(APP, PENDING, &user).await.unwrap();
        assert_eq!(scene.stored(&user).as_deref(), Some("new"));
        assert_eq!(names_in(&scene.folder(&user)), [TOKEN_FILE, "refreshTokenObjectFile.json.lock"]);
        assert!(!scene.folder(PENDING).exists());
        // The index knows of it, too.
        let claimed = claim(&store, 9).await;
        assert!(claimed.tokens.is_empty() && claimed.next.unwrap() > DAY * 39);
        scene.clock.advance(DAY * 61);
        assert_eq!(due(&store).await, [&*user]);
    }
}

#[tokio::test]
async fn a_token_that_is_not_there_is_not_assigned() {
    let scene = Scene::new();
    let (store, user) = (scene.store(), uuid(1));
    save(&store, &user, &scene.token("old", 0)).await;
    let message = format!(
        "there is no token of {PENDING} in {}; it may have been assigned already: look at the list of members, or let the user \
         sign in again",
        scene.folder(PENDING).display()
    );
    // Neither where there is no folder, nor where there is no usable token in it.
    for content in [None, Some(""), Some("{}")] {
        if let Some(content) = content {
            drop(store.of(APP, PENDING).try_lock().await.unwrap());
            fs::write(scene.file(PENDING), content).unwrap();
        }
        let error = store.assign(APP, PENDING, &user).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, message.clone()));
        assert_eq!(scene.stored(&user).as_deref(), Some("old"));
        store.assign(APP, PENDING, &uuid(2)).await.unwrap_err();
        assert!(!scene.folder(&uuid(2)).exists());
    }
    let error = store.assign(APP, &user, &user.to_uppercase()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!("{user} cannot be assigned to itself; pass the UUID of the user who has signed in")
    );
}

/// A sign-in of an unknown user that failed leaves a folder without a token; later that folder is of no use.
#[cfg(unix)]
#[tokio::test]
async fn what_failed_sign_ins_leave_is_removed() {
    let scene = Scene::new();
    let store = scene.store();
    let names = [1, 2, 3, 4].map(|n| format!("pending-{n}"));
    let [failed, under_way, recent, with_more] = &names;
    for name in &names {
        drop(store.of(APP, name).try_lock().await.unwrap());
    }
    fs::write(scene.folder(with_more).join("a person's file"), "").unwrap();
    let _lock = store.of(APP, under_way).try_lock().await.unwrap().unwrap();
    let an_hour_ago = concur_auth::SystemClock.now() - HOUR;
    for name in [failed, under_way, with_more] {
        fs::File::open(scene.folder(name)).unwrap().set_modified(an_hour_ago).unwrap();
    }
    due(&scene.store()).await;
    assert_eq!(names_in(&scene.place().join("pe")), [under_way, recent, with_more].map(String::as_str));
    assert_eq!(names_in(&scene.folder(with_more)), ["a person's file"]);
}

/// As killed processes leave it: saves that were not renamed on both sides, and an assignment that was not tidied up.
#[tokio::test]
async fn after_a_crash_at_any_step_of_an_assignment_the_token_is_in_one_place() {
    let scene = Scene::new();
    let (store, user) = (scene.store(), uuid(1));
    let leftover = |name: &str| scene.folder(name).join(format!("{TOKEN_FILE}.tmp-0000000000000001"));
    // Before: the pending token is in a file that was not renamed, and the user's newest one is, too.
    save(&store, &user, &scene.token("old", 0)).await;
    fs::write(leftover(&user), scene.token("newer", 0).to_json()).unwrap();
    save(&store, PENDING, &scene.token("pending", 0)).await;
    fs::rename(scene.file(PENDING), leftover(PENDING)).unwrap();
    store.assign(APP, PENDING, &user).await.unwrap();
    assert_eq!(scene.stored(&user).as_deref(), Some("pending"));
    assert_eq!(names_in(&scene.folder(&user)), [TOKEN_FILE, "refreshTokenObjectFile.json.lock"]);
    assert!(!scene.folder(PENDING).exists());

    // Between the rename and the rest: the folder of the pending name is still there.
    save(&store, PENDING, &scene.token("pending", 0)).await;
    fs::rename(scene.file(PENDING), scene.file(&user)).unwrap();
    assert_eq!(store.assign(APP, PENDING, &user).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(scene.stored(&user).as_deref(), Some("pending"));
    let members = scene.store().list(APP, None, 9).await.unwrap();
    assert_eq!(members.iter().map(|member| &*member.uuid).collect::<Vec<_>>(), [&*user]);
}

#[tokio::test]
async fn an_assignment_waits_two_minutes_for_each_lock() {
    let scene = Scene::on(ManualClock::skipping(noon()));
    let (store, user) = (scene.store(), uuid(1));
    save(&store, PENDING, &scene.token("r", 0)).await;
    for held in [&*user, PENDING] {
        let member = scene.store().of(APP, held);
        let lock = member.try_lock().await.unwrap().unwrap();
        let start = scene.clock.now();
        let error = store.assign(APP, PENDING, &user).await.unwrap_err();
        let waited = scene.clock.now().duration_since(start).unwrap();
        assert!((MINUTE * 2..MINUTE * 2 + Duration::from_millis(50)).contains(&waited), "{waited:?}");
        assert_eq!(error.kind(), ErrorKind::Store);
        assert_eq!(
            error.to_string(),
            format!(
                "waited 120 s for the lock of {}, which another process, or another manager of this one, holds; find out what it is doing (it may be \
                 suspended), then try again",
                scene.file(held).display()
            )
        );
        member.unlock(lock).await;
    }
    store.assign(APP, PENDING, &user).await.unwrap();
}

/// Two that cross each other would wait for ever otherwise.
#[tokio::test]
async fn an_assignment_that_waits_for_one_lock_leaves_the_other_free() {
    let scene = Scene::new();
    let (store, user) = (scene.store(), uuid(1));
    save(&store, PENDING, &scene.token("r", 0)).await;
    for held in [PENDING, &user] {
        let free = if held == PENDING { &*user } else { PENDING };
        let lock = scene.store().of(APP, held).try_lock().await.unwrap().unwrap();
        let assignment = {
            let (store, user) = (store.clone(), user.clone());
            tokio::spawn(async move { store.assign(APP, PENDING, &user).await })
        };
        until(|| scene.clock.sleepers() == 1).await;
        assert!(scene.store().of(APP, free).try_lock().await.unwrap().is_some());
        drop(lock);
        scene.clock.advance(MINUTE);
        assignment.await.unwrap().unwrap();
        assert_eq!(scene.stored(&user).as_deref(), Some("r"));
        save(&store, PENDING, &scene.token("r", 0)).await;
    }
}

/// A note that says that Concur has refused this refresh token for good.
fn note_of_the_dead(secret: &str) -> String {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(0);
    hasher.write_u64(secret.len() as u64);
    hasher.write(secret.as_bytes());
    let fingerprint = hasher.finish() & 0xffff_ffff;
    format!(r#"{{"failures":[],"dead_tokens":[{{"salt":0,"fingerprint":{fingerprint},"revoked":false}}]}}"#)
}

#[tokio::test]
async fn a_dead_token_is_not_due_and_takes_no_other_tokens_place() {
    let scene = Scene::new();
    let (store, user) = (scene.store(), uuid(1));
    save(&store, &user, &scene.token("living", 0)).await;
    scene.save(PENDING, 100).await;
    let member = scene.store().of(APP, PENDING);
    let lock = member.try_lock().await.unwrap().unwrap();
    // Found alive, and then refused in another process.
    assert_eq!(due(&store).await, [""; 0]);
    member.remember(Some(&note_of_the_dead(PENDING)), &lock).await.unwrap();
    drop(lock);
    scene.clock.advance(MINUTE);
    assert_eq!(due(&store).await, [""; 0]);
    assert_eq!(due(&scene.store()).await, [""; 0]);
    let members = store.list(APP, None, 9).await.unwrap();
    let dead = members.iter().find(|member| member.uuid == PENDING).unwrap();
    assert_eq!((dead.state, dead.renew_at), (MemberState::NeedsPerson, None));

    let error = store.assign(APP, PENDING, &user).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!("Concur has refused the token of {PENDING} since it was saved; let the user sign in again")
    );
    assert_eq!(scene.stored(&user).as_deref(), Some("living"));
}

#[tokio::test]
async fn a_clock_that_was_set_back_stops_nothing() {
    let scene = Scene::new();
    let store = scene.store();
    scene.save(&uuid(1), 100).await;
    assert_eq!(due(&store).await, [uuid(1)]);
    scene.clock.rewind(DAY * 30);
    scene.save(&uuid(2), 100).await;
    assert_eq!(due(&store).await, [uuid(2)]);
    let mut found = BTreeSet::new();
    for _ in 0..3 {
        scene.clock.advance(MINUTE);
        found.extend(due(&store).await);
    }
    assert!(found.contains(&uuid(1)), "the pause from before is over");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_or_read_is_named() {
    let scene = Scene::new();
    let (store, name) = (scene.store(), uuid(1));
    assert_eq!(due(&store).await, [""; 0]);
    // A file where the folder of the member's group would be.
    fs::write(scene.place().join(&name[..2]), "").unwrap();
    let error = store.of(APP, &name).try_lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(
        error.to_string(),
        format!(
            "could not make the folder {}; check that this user can create folders there",
            scene.folder(&name).display()
        )
    );
    assert_eq!(store.member(APP, "../other").await.unwrap_err().kind(), ErrorKind::Config);
    let not_read = |path: &Path| {
        format!("could not read the folder {}; check that this user may read it", path.display())
    };
    #[cfg(all(unix, feature = "sealing"))]
    {
        let group = scene.place().join("zz");
        std::os::unix::fs::symlink(scene.place().join(&name[..2]), &group).unwrap();
        assert_eq!(store.count_by_sealing_key(APP).await.unwrap_err().to_string(), not_read(&group));
    }
    // Taken away while a worker runs: no member is taken for gone.
    fs::remove_dir_all(scene.place()).unwrap();
    scene.clock.advance(MINUTE);
    assert_eq!(store.claim_due(APP, 1).await.unwrap_err().to_string(), not_read(&scene.place()));
}

#[tokio::test]
async fn a_pending_folder_with_a_persons_file_stays_and_a_pending_token_that_cannot_be_read_is_shown() {
    let scene = Scene::new();
    let (store, user) = (scene.store(), uuid(1));
    save(&store, PENDING, &scene.token("new", 0)).await;
    fs::write(scene.folder(PENDING).join("a person's file"), "").unwrap();
    store.assign(APP, PENDING, &user).await.unwrap();
    assert_eq!(scene.stored(&user).as_deref(), Some("new"));
    assert_eq!(names_in(&scene.folder(PENDING)), ["a person's file"]);

    fs::create_dir(scene.file(PENDING)).unwrap();
    let member = store.member(APP, PENDING).await.unwrap().unwrap();
    assert_eq!((member.kind, member.state), (MemberKind::Pending, MemberState::NeedsPerson));
    let needs = format!(
        "could not read {}; check that it is a file this user may read; if it was being assigned when a process was killed, call \
         Fleet::assign again",
        scene.file(PENDING).display()
    );
    assert_eq!(member.needs, Some(needs));
}
