//! Never half a file: a token file is replaced as a whole, is private from its creation, and whatever a killed process left
//! beside it is recovered or removed (promise 5 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use concur_auth::{
    JsonFileStore, RefreshTokenObject, TokenManager, TokenStore, reqwest,
    simulator::{ConcurSimulator, Fault, RecordedRequest, Rotation},
    url::form_urlencoded,
};
#[cfg(target_os = "linux")]
use support::traced;
use support::{Scene, alone, child, names_in, really_wait, seed, skip, succeeds_as_nobody, until};

const CLEAN: [&str; 3] =
    ["credentials.json", "refreshTokenObjectFile.json", "refreshTokenObjectFile.json.lock"];

#[tokio::test]
async fn a_renewal_leaves_no_litter() {
    let scene = Scene::skipping(Rotation::Never).await;
    scene.manager().refresh().await.unwrap();
    scene.manager().refresh().await.unwrap();
    assert_eq!(scene.folder(), CLEAN);
    scene.concur.set_fault(Fault::status(500));
    scene.manager().refresh().await.unwrap_err();
    assert_eq!(scene.folder(), CLEAN);
}

#[cfg(unix)]
#[tokio::test]
async fn side_files_of_a_symbolic_link_are_next_to_its_target() {
    let scene = Scene::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("real.json"), scene.token_path()).unwrap();
    for _ in 0..2 {
        scene.manager().refresh().await.unwrap();
        assert!(fs::symlink_metadata(scene.token_path()).unwrap().is_symlink());
        assert_eq!(names_in(elsewhere.path()), ["real.json", "real.json.lock"]);
    }
    assert_eq!(scene.folder(), ["credentials.json", "refreshTokenObjectFile.json"]);
}

/// Stands for a process that was killed between its reply and its rename.
#[tokio::test]
async fn the_only_copy_of_a_rotated_token_is_adopted() {
    let scene = Scene::new().await;
    let old = scene.concur.token_json();
    scene.write_token(&old);
    let rotated = scene.concur.token_json();
    // As a save leaves it that was cut off before the rest of its reservation was.
    fs::write(beside(&scene, ".tmp-0000000000000001"), format!("{rotated}{}", " ".repeat(1000))).unwrap();
    fs::write(beside(&scene, ".tmp-0000000000000002"), "{\"refresh_token\": \"cut sh").unwrap();
    fs::write(beside(&scene, ".tmp-0000000000000003"), " ".repeat(1000)).unwrap();

    scene.manager().access_token().await.unwrap();
    assert_eq!(scene.folder(), CLEAN);
    let requests = scene.concur.requests();
    assert_eq!(requests.len(), 1);
    let rotated: serde_json::Value = serde_json::from_str(&rotated).unwrap();
    assert!(requests[0].body().contains(rotated["refresh_token"].as_str().unwrap()));
}

#[tokio::test]
async fn a_leftover_older_than_the_token_file_is_deleted() {
    let scene = Scene::new().await;
    let leftover = beside(&scene, ".tmp-0000000000000001");
    fs::write(&leftover, scene.concur.token_json()).unwrap();
    let hour_ago = fs::metadata(&leftover).unwrap().modified().unwrap() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&leftover).unwrap().set_modified(hour_ago).unwrap();
    let current = scene.concur.token_json();
    scene.write_token(&current);

    JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    assert_eq!(scene.token_file(), current);
    assert_eq!(scene.folder(), CLEAN);
}

fn beside(scene: &Scene, suffix: &str) -> PathBuf {
    scene.dir.path().join(format!("refreshTokenObjectFile.json{suffix}"))
}

/// A process that renews as fast as it can is killed at random moments, and its folder looked at each time.
///
/// What reached the disk is found again. A token may be lost only with the reply to the last grant, which may die on the
/// wire or in the dead process's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_at_any_moment_leaves_one_readable_file_and_loses_nothing() {
    let _alone = alone().await;
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("refreshTokenObjectFile.json");
    let mut lost_with_a_reply = 0;
    let mut random = fastrand::Rng::with_seed(seed());
    for round in 0..60 {
        concur.issue_request_token();
        fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
        fs::write(&path, concur.token_json()).unwrap();
        let (before, requests) = (names_in(dir.path()), concur.count("refresh_token"));
        let mut process = child("renews_without_end").env("DIR", dir.path()).spawn().unwrap();
        match round % 3 {
            // At the first change in the folder.
            0 => until(|| names_in(dir.path()) != before || concur.count("refresh_token") > requests).await,
            1 => {
                until(|| concur.count("refresh_token") > requests).await;
                really_wait(Duration::from_micros(random.u64(0..4000))).await;
            }
            // Between a save and its rename, unless that is never seen.
            _ => {
                let saving = || leftovers(&path).into_iter().any(|token| Some(token) != token_in(&path));
                until(|| saving() || concur.count("refresh_token") > requests + 100).await;
            }
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // A request that the process had sent comes before this one.
        reqwest::get(concur.base_uri()).await.unwrap();

        let in_target = token_in(&path).expect("an unreadable file");
        let leftovers = leftovers(&path);
        assert!(leftovers.len() <= 1, "round {round}: one process saves one at a time");
        let newest = leftovers.first().unwrap_or(&in_target);
        let was_spent = !concur.is_live(newest);
        if was_spent {
            assert!(leftovers.is_empty(), "round {round}: spent while its successor was being saved");
            let requests = concur.requests();
            let last =
                requests.iter().rfind(|request| request.grant_type() == Some("refresh_token")).unwrap();
            assert_eq!(presented(last), *newest, "round {round}: more than a reply was lost");
            lost_with_a_reply += 1;
        }

        let before = concur.requests().len();
        let tokens = TokenManager::load_from(dir.path()).await.unwrap();
        tokens.refresh().await.unwrap();
        assert_eq!(presented(&concur.requests()[before]), *newest, "round {round}");
        assert_eq!(concur.count("password"), lost_with_a_reply, "round {round}");
        assert!(concur.is_live(&token_in(&path).unwrap()), "round {round}");
        assert_eq!(names_in(dir.path()), CLEAN, "round {round}");
    }
}

/// As above, at the one moment that matters most: the old token is spent, and the new one not in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_between_a_save_and_its_rename_loses_nothing() {
    let _alone = alone().await;
    // In real time, as the process that is killed.
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("refreshTokenObjectFile.json");
    fs::write(dir.path().join("credentials.json"), concur.credentials_json()).unwrap();
    fs::write(&path, concur.token_json()).unwrap();
    let long_lived = TokenManager::load_from(dir.path()).await.unwrap();
    long_lived.get_valid_refresh_token().await.unwrap();
    let held = concur.hold_replies();
    let mut process = child("renews_without_end").env("DIR", dir.path()).spawn().unwrap();
    until(|| concur.token_requests() == 1).await;
    // A folder in the file's place keeps the rename from succeeding.
    let elsewhere = dir.path().join("old");
    fs::rename(&path, &elsewhere).unwrap();
    fs::create_dir(&path).unwrap();
    held.release();
    until(|| !leftovers(&path).is_empty()).await;
    process.kill().unwrap();
    process.wait().unwrap();
    fs::remove_dir(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();

    let saved = leftovers(&path);
    assert_eq!(saved, [long_lived.get_valid_refresh_token().await.unwrap().secret()]);
    assert_eq!(concur.token_requests(), 1);
    TokenManager::load_from(dir.path()).await.unwrap().refresh().await.unwrap();
    assert_eq!(saved, [presented(&concur.requests()[1])]);
    assert_eq!((concur.count("refresh_token"), concur.count("password")), (2, 0));
    assert_eq!(names_in(dir.path()), CLEAN);
}

/// The refresh token in a file, if it is a whole one.
fn token_in(path: &Path) -> Option<String> {
    let token = RefreshTokenObject::from_json(&fs::read_to_string(path).ok()?).ok()?;
    Some(token.secret().to_owned())
}

/// The tokens in whole temporary files that are not older than the token file: those of saves without their rename.
fn leftovers(target: &Path) -> Vec<String> {
    let folder = target.parent().unwrap();
    let modified = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
    let is_current = |path: &PathBuf| Some(modified(path)? >= modified(target)?);
    let temporary = names_in(folder).into_iter().filter(|name| name.contains(".tmp-"));
    temporary
        .map(|name| folder.join(name))
        .filter(|path| is_current(path) == Some(true))
        .filter_map(|path| token_in(&path))
        .collect()
}

/// The refresh token in a request.
fn presented(request: &RecordedRequest) -> String {
    let mut form = form_urlencoded::parse(request.body().as_bytes());
    form.find(|(name, _)| name == "refresh_token").expect("no refresh grant").1.into_owned()
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn renews_without_end() {
    let tokens = TokenManager::load_from(std::env::var_os("DIR").unwrap()).await.unwrap();
    loop {
        tokens.refresh().await.unwrap();
    }
}

/// Readers look without the lock while a writer replaces the file as fast as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_never_see_half_a_file() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let store = JsonFileStore::new(scene.token_path());
    let lock = store.try_lock().await.unwrap().unwrap();
    let tokens: Vec<_> = (0..2)
        .map(|n| {
            let padding = "x".repeat(n * 100_000);
            let json = format!("{{\"refresh_token\": \"r{n}\", \"padding\": \"{padding}\"}}");
            RefreshTokenObject::from_json(&json).unwrap()
        })
        .collect();
    let path = scene.token_path();
    let reader = tokio::task::spawn_blocking(move || {
        for _ in 0..2000 {
            let json = fs::read_to_string(&path).unwrap();
            RefreshTokenObject::from_json(&json).unwrap();
        }
    });
    while !reader.is_finished() {
        for token in &tokens {
            store.save(token, &lock).await.unwrap();
        }
    }
    reader.await.unwrap();
}

fn set_modified(path: &Path, seconds_after_noon: i64) {
    let time = support::noon() + concur_auth::time::Duration::seconds(seconds_after_noon);
    fs::File::options().write(true).open(path).unwrap().set_modified(time.into()).unwrap();
}

/// Not before the token file's time: a save takes less than the clock of many a file system can tell.
#[tokio::test]
async fn the_newest_of_several_complete_leftovers_is_adopted() {
    let scene = Scene::new().await;
    for newest in [0, 2] {
        scene.write_token(&scene.concur.token_json());
        set_modified(&scene.token_path(), 0);
        let copies = [(1, newest, scene.concur.token_json()), (2, newest - 1, scene.concur.token_json())];
        for (number, seconds, json) in &copies {
            let leftover = beside(&scene, &format!(".tmp-000000000000000{number}"));
            fs::write(&leftover, json).unwrap();
            set_modified(&leftover, *seconds);
        }
        JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
        assert_eq!(scene.token_file(), copies[0].2, "{newest} s after the token file");
        assert_eq!(scene.folder(), CLEAN);
    }
}

#[tokio::test]
async fn an_adopted_leftover_does_not_overwrite_an_unusable_token_file() {
    let scene = Scene::new().await;
    scene.write_token("the user's own");
    set_modified(&scene.token_path(), 0);
    let only_copy = scene.concur.token_json();
    fs::write(beside(&scene, ".tmp-0000000000000001"), &only_copy).unwrap();
    JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    assert_eq!(scene.token_file(), only_copy);
    let aside = beside(&scene, ".corrupt-20260528T202640Z");
    assert_eq!(fs::read_to_string(aside).unwrap(), "the user's own");
    assert_eq!(scene.folder().len(), CLEAN.len() + 1);
}

/// What the operating system is asked for, in its order: private at once, synced, renamed, and the folder synced.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_save_is_private_from_its_creation_and_synced_around_its_rename() {
    let _alone = alone().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap().display().to_string();
    let Some(trace) = traced("saves_once", "openat,fsync,fdatasync,rename,renameat,renameat2", 0, dir.path())
    else {
        return;
    };
    let temp = format!("{folder}/token.json.tmp-");
    let steps: Vec<&str> = trace
        .lines()
        .filter_map(|line| {
            let is_temp = line.contains(&temp);
            match line.split_whitespace().nth(1)?.split('(').next()? {
                "openat" if is_temp && line.contains("O_CREAT|O_EXCL") => {
                    Some(if line.contains(", 0600)") { "create 0600" } else { "create" })
                }
                "fsync" | "fdatasync" if is_temp => Some("sync"),
                "fsync" if line.contains(&format!("<{folder}>")) => Some("sync folder"),
                call if call.starts_with("rename") && is_temp => Some("rename"),
                _ => None,
            }
        })
        .collect();
    let save = ["create 0600", "sync", "rename", "sync folder"];
    // A rehearsal is a save and a reservation; the save that follows writes over what was reserved.
    let rest = [&save[..], &["create 0600", "sync"], &["sync", "rename", "sync folder"]].concat();
    // Before the first lock it is tried out whether files can be made for the token file's owner.
    let all = [&["create 0600"], &rest[..]].concat();
    assert_eq!(steps, all, "{trace}");
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn saves_once() {
    let path = PathBuf::from(std::env::var_os("DIR").unwrap()).join("token.json");
    let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
    fs::write(&path, token.to_json()).unwrap();
    let store = JsonFileStore::new(path);
    let lock = store.try_lock().await.unwrap().unwrap();
    store.rehearse(Some(&token), &lock).await.unwrap();
    store.save(&token, &lock).await.unwrap();
}

/// The next program to look serves the recovered token, not the one that was spent for it.
#[tokio::test]
async fn what_a_killed_process_left_is_found_by_the_first_look() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let rotated = scene.concur.token_json();
    fs::write(beside(&scene, ".tmp-0000000000000001"), &rotated).unwrap();

    // While the process lives, it is its own affair.
    let lock = fs::File::create(beside(&scene, ".lock")).unwrap();
    lock.lock().unwrap();
    let before = scene.token_file();
    let waited = scene.manager();
    let served = waited.get_valid_refresh_token().await.unwrap();
    assert!(before.contains(served.secret()));
    assert_eq!(scene.token_file(), before);
    drop(lock);

    // Then, whoever looks: the same program, and the next one.
    assert!(rotated.contains(waited.get_valid_refresh_token().await.unwrap().secret()));
    let served = scene.manager().get_valid_refresh_token().await.unwrap();
    assert!(rotated.contains(served.secret()));
    assert_eq!(scene.folder(), CLEAN);
    assert_eq!(scene.concur.token_requests(), 0);
}

/// It may be the only copy of a token.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_leftover_that_cannot_be_read_is_not_deleted() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let leftover = beside(&scene, ".tmp-0000000000000001");
    fs::write(&leftover, scene.concur.token_json()).unwrap();
    fs::set_permissions(&leftover, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Root may read everything, so the program runs as somebody else who owns the folder.
    if chown(scene.dir.path(), Some(65534), None).is_err() {
        return skip("this user is not root");
    }
    if !succeeds_as_nobody("finds_a_leftover_it_cannot_read", scene.dir.path()) {
        return;
    }
    assert!(leftover.exists());
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn finds_a_leftover_it_cannot_read() {
    let path = std::path::Path::new(&std::env::var_os("DIR").unwrap()).join("refreshTokenObjectFile.json");
    let store = JsonFileStore::new(&path);
    assert!(store.load().await.unwrap().is_none());
    let error = store.try_lock().await.map(drop).unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        format!(
            "Store: could not look at unfinished saves of {0}; {0}.tmp-0000000000000001 belongs to user 0 (mode 0000), its \
             folder belongs to user 65534 (mode 0755); run this program as the user that owns them, or give them to the \
             user that runs it (chown); if that is so already, look for a read-only mount or an attribute (lsattr)\n  caused by: {0}.tmp-0000000000000001: Permission denied (os error 13)",
            path.display()
        )
    );
}

/// A user's own copy, an editor's, another version's: newer than the token file, whole, and none of this crate's business.
#[tokio::test]
async fn only_names_that_this_crate_makes_are_leftovers() {
    let scene = Scene::new().await;
    let current = scene.concur.token_json();
    scene.write_token(&current);
    let others = [
        ".tmp-backup",
        ".tmp-",
        ".tmp-0000000000000001.bak",
        ".tmp-00000000000000001",
        ".tmp-ABCDEFABCDEFABCD",
    ];
    let copy = scene.concur.token_json();
    for suffix in others {
        fs::write(beside(&scene, suffix), &copy).unwrap();
    }
    let served = scene.manager().get_valid_refresh_token().await.unwrap();
    assert!(current.contains(served.secret()));
    scene.manager().refresh().await.unwrap();
    assert_eq!(presented(&scene.concur.requests()[0]), served.secret());
    for suffix in others {
        assert_eq!(fs::read_to_string(beside(&scene, suffix)).unwrap(), copy, "{suffix}");
    }
    assert_eq!(scene.folder().len(), CLEAN.len() + others.len());
}

/// The folder was still for long, or was changed a moment ago: in both cases what comes next is seen.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_long_lived_manager_finds_what_a_sibling_leaves_later() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let tokens = scene.manager();
    for folder_was_still in [true, false, true] {
        if folder_was_still {
            let hour_ago = support::noon() - concur_auth::time::Duration::hours(1);
            fs::File::open(scene.dir.path()).unwrap().set_modified(hour_ago.into()).unwrap();
        }
        for _ in 0..2 {
            let served = tokens.get_valid_refresh_token().await.unwrap();
            assert_eq!(served.secret(), scene.stored_refresh_token());
        }
        let rotated = scene.concur.token_json();
        fs::write(beside(&scene, ".tmp-0000000000000001"), &rotated).unwrap();
        let served = tokens.get_valid_refresh_token().await.unwrap();
        assert!(rotated.contains(served.secret()), "{folder_was_still}");
        assert_eq!(scene.token_file(), rotated);
    }
    assert_eq!(scene.folder(), CLEAN);
    assert_eq!(scene.concur.token_requests(), 0);
}

/// In a folder with the tokens of many tenants a list takes long.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_unchanged_folder_costs_three_looks_and_is_not_listed_again() {
    let _alone = alone().await;
    let dir = tempfile::tempdir().unwrap();
    let Some(trace) = traced("looks_and_locks", "%file,getdents64", 0, dir.path()) else { return };
    let folder = dir.path().canonicalize().unwrap().display().to_string();
    let mut steps: Vec<Vec<&str>> = Vec::new();
    for line in trace.lines().filter(|line| line.contains(&folder)) {
        let Some(call) = line.split_whitespace().nth(1).and_then(|call| call.split('(').next()) else {
            continue;
        };
        if line.contains("/marker") {
            steps.push(Vec::new());
        } else if let Some(step) = steps.last_mut() {
            step.push(if line.contains("O_DIRECTORY") { "list" } else { call });
        }
    }
    let count = |step: usize, what: &str| steps[step].iter().filter(|call| **call == what).count();
    let [first, second, locked, looked_at_again, changed] = [0, 1, 2, 3, 4];
    assert_eq!(count(first, "list"), 1, "{trace}");
    assert_eq!(steps[second], ["statx"; 3], "{trace}");
    assert_eq!(count(locked, "list"), 0, "{trace}");
    assert_eq!(count(looked_at_again, "list"), 0, "{trace}");
    assert_eq!(count(changed, "list"), 1, "{trace}");
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn looks_and_locks() {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let path = dir.join("token.json");
    fs::write(&path, r#"{"refresh_token": "r"}"#).unwrap();
    fs::write(dir.join("token.json.lock"), "").unwrap();
    let still = || {
        let hour_ago = support::noon() - concur_auth::time::Duration::hours(1);
        fs::File::open(&dir).unwrap().set_modified(hour_ago.into()).unwrap();
    };
    // Shows in the trace.
    let begin = |step: &str| assert!(!dir.join(format!("marker-{step}")).exists());
    still();
    let store = JsonFileStore::new(&path);
    begin("first");
    store.read().await.unwrap();
    begin("second");
    store.read().await.unwrap();
    begin("locked");
    let lock = store.try_lock().await.unwrap().unwrap();
    store.unlock(lock).await;
    begin("looked at again");
    store.read().await.unwrap();
    fs::write(dir.join("another tenant's.json"), "").unwrap();
    begin("changed");
    store.read().await.unwrap();
}

/// Windows syncs only what was opened for writing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_leftover_is_opened_for_writing_before_it_is_synced() {
    let _alone = alone().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token.json.tmp-0000000000000001"), r#"{"refresh_token": "r"}"#).unwrap();
    let Some(trace) = traced("adopts", "openat,fsync,rename", 0, dir.path()) else { return };
    let of_leftover: Vec<&str> =
        trace.lines().filter(|line| line.contains(".tmp-0000000000000001")).collect();
    let [read, opened, synced, renamed] = of_leftover[..] else { panic!("{trace}") };
    assert!(read.contains("O_RDONLY"), "{trace}");
    assert!(opened.contains("O_RDWR"), "{trace}");
    assert!(synced.contains("fsync("), "{trace}");
    assert!(renamed.contains("rename("), "{trace}");
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn adopts() {
    let store = JsonFileStore::new(PathBuf::from(std::env::var_os("DIR").unwrap()).join("token.json"));
    assert_eq!(store.load().await.unwrap().unwrap().secret(), "r");
}

/// What a note says is read again when it has changed, by the same store and by another.
#[tokio::test]
async fn a_note_is_read_again_when_it_has_changed() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let (store, sibling) = (JsonFileStore::new(scene.token_path()), JsonFileStore::new(scene.token_path()));
    let old = support::noon();
    for note in [None, Some("one"), Some("two"), None, Some("six")] {
        let lock = sibling.try_lock().await.unwrap().unwrap();
        sibling.remember(note, &lock).await.unwrap();
        drop(lock);
        for _ in 0..2 {
            assert_eq!(store.read().await.unwrap().note.as_deref(), note);
            // So that it counts as unchanged since long ago.
            if let Ok(file) = fs::File::options().write(true).open(beside(&scene, ".note")) {
                file.set_modified(old.into()).unwrap();
            }
        }
    }
}
