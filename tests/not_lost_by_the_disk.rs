//! Not lost by the disk: what would keep a token from being saved shows before a grant is spent, and a token that cannot be
//! saved all the same is handed out, kept with the store's lock, and saved later (promise 4 of docs/promises.md). The tests
//! that need mounts run as root on Linux only.

#![cfg(all(feature = "simulator", target_os = "linux"))]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Error, ErrorKind, TokenManager, TokenStore as _,
    simulator::{ConcurSimulator, ManualClock, Rotation},
};
use support::{Call, HOUR, Scene, Watched, alone, skip, succeeds_as_nobody, until};

/// Mounts go away when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this user may not mount.
    fn new(arguments: &[&str], target: &Path) -> Option<Self> {
        let status =
            Command::new("mount").args(arguments).arg(target).stderr(std::process::Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then(|| Self(target.to_owned()))
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

const NO_MOUNTS: &str = "this user may not mount file systems";

/// Takes what room is left.
fn fill(folder: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(folder.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// Whatever is wrong beforehand: no request, and an error that says so.
async fn nothing_is_sent(scene: &Scene, cause: &str) {
    let before = scene.concur.token_requests();
    let error = scene.manager().refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains(cause), "{error}: {source}");
    assert!(error.to_string().contains(scene.dir.path().to_str().unwrap()), "{error}");
    assert_eq!(scene.concur.token_requests(), before, "{error}");
}

#[tokio::test]
async fn a_full_disk_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], scene.dir.path()) else {
        return skip(NO_MOUNTS);
    };
    scene.write_credentials(&scene.concur.credentials_json());
    scene.write_token(&scene.concur.token_json());
    fill(scene.dir.path());
    nothing_is_sent(&scene, "No space left").await;
    fs::remove_file(scene.token_path()).unwrap();
    fill(scene.dir.path());
    nothing_is_sent(&scene, "No space left").await;
    // Room for the token as it is is not room for any reply.
    fs::remove_file(scene.dir.path().join("filler")).unwrap();
    fill(scene.dir.path());
    fs::File::options()
        .write(true)
        .open(scene.dir.path().join("filler"))
        .unwrap()
        .set_len(900 * 1024)
        .unwrap();
    nothing_is_sent(&scene, "No space left").await;
    let names = scene.folder();
    assert!(names.iter().all(|name| !name.contains(".tmp-")), "{names:?}");

    fs::remove_file(scene.dir.path().join("filler")).unwrap();
    scene.manager().refresh().await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let Some(mount) = Mount::new(&["-t", "tmpfs", "tmpfs"], scene.dir.path()) else {
        return skip(NO_MOUNTS);
    };
    scene.write_credentials(&scene.concur.credentials_json());
    scene.write_token(&scene.concur.token_json());
    mount.remount("ro");
    nothing_is_sent(&scene, "Read-only file system").await;
    // A valid token is served from it.
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn a_file_that_is_a_mount_by_itself_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    scene.write_token(&scene.concur.token_json());
    let token = scene.token_path();
    let Some(_mount) = Mount::new(&["--bind", token.to_str().unwrap()], &token) else {
        return skip(NO_MOUNTS);
    };
    nothing_is_sent(&scene, "resource busy").await;
    assert_eq!(
        scene.folder(),
        ["credentials.json", "refreshTokenObjectFile.json", "refreshTokenObjectFile.json.lock"]
    );
}

#[tokio::test]
async fn an_immutable_file_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    scene.write_token(&scene.concur.token_json());
    let token = scene.token_path();
    let token = token.to_str().unwrap();
    // Not every file system has the attribute.
    if !Command::new("chattr").args(["+i", token]).status().is_ok_and(|status| status.success()) {
        return skip("this user, or the file system, cannot make a file immutable with chattr");
    }
    nothing_is_sent(&scene, "not permitted").await;
    run("chattr", &["-i", token]);
    scene.manager().refresh().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_gone_or_a_folder_in_the_files_place_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    fs::create_dir(scene.token_path()).unwrap();
    nothing_is_sent(&scene, "not a regular file").await;

    let scene = Scene::among_forks(Rotation::Never).await;
    let gone = scene.dir.path().join("gone");
    let store = concur_auth::JsonFileStore::new(gone.join("token.json"));
    let error = scene.builder().store(store).build().unwrap().access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(
        error.to_string().starts_with(&format!("could not find the place of {}", gone.display())),
        "{error}"
    );
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn a_folder_without_permission_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    // Root may write anywhere, so the program runs as somebody else.
    if !succeeds_as_nobody("as_nobody", scene.dir.path()) {
        return;
    }
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn as_nobody() {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let store = concur_auth::JsonFileStore::new(dir.join("refreshTokenObjectFile.json"));
    let error = store.try_lock().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
}

/// Lets the four pauses end that a flight makes between its five attempts to save, and nothing that sleeps afterwards.
async fn pass_the_pauses_of_a_save(scene: &Scene) {
    for _ in 0..4 {
        until(|| scene.clock.sleepers() == 1).await;
        scene.clock.advance(Duration::from_millis(500));
    }
}

/// The disk fails between the rehearsal and the save.
#[tokio::test]
async fn a_token_that_cannot_be_saved_is_handed_out_and_its_lock_kept_until_it_is() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "tmpfs"], scene.dir.path()) else {
        return skip(NO_MOUNTS);
    };
    scene.write_credentials(&scene.concur.credentials_json());
    let old = scene.concur.token_json();
    scene.write_token(&old);
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();

    let held = scene.concur.hold_replies();
    let renewal = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    // A folder over the file: a rename onto it fails until it has gone, and the rest of the disk works.
    fs::rename(scene.token_path(), scene.dir.path().join("old")).unwrap();
    fs::create_dir(scene.token_path()).unwrap();
    held.release();
    pass_the_pauses_of_a_save(&scene).await;
    let renewed = renewal.await.unwrap().unwrap();
    // What saves in the background sleeps: it touches nothing while the test looks.
    until(|| scene.clock.sleepers() == 1).await;
    assert!(!old.contains(renewed.secret()));
    assert!(tokens.status().unsaved);

    // Should the process be killed now, the next one finds the token beside the file.
    let names = scene.folder();
    let copy = names.iter().find(|name| name.contains(".tmp-")).expect("no copy on the disk");
    assert!(fs::read_to_string(scene.dir.path().join(copy)).unwrap().contains(renewed.secret()));

    // It is what this manager hands out, though the file says otherwise.
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), renewed.secret());
    // A sibling cannot spend the old one.
    let store = concur_auth::JsonFileStore::new(scene.token_path());
    assert!(store.try_lock().await.unwrap().is_none());
    // shutdown() names it.
    let deadline = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.shutdown(HOUR).await }
    });
    until(|| scene.clock.sleepers() >= 2).await;
    scene.clock.advance(HOUR);
    let error = deadline.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the newest refresh token is still not saved to {}, and ends with this process; make room there, then call \
             shutdown again",
            scene.token_path().display()
        )
    );

    // Once there is room, it is saved.
    fs::remove_dir(scene.token_path()).unwrap();
    until(|| {
        scene.clock.advance(Duration::from_secs(30));
        !tokens.status().unsaved
    })
    .await;
    assert_eq!(scene.stored_refresh_token(), renewed.secret());
    // The status says so while the background save is still at its end. Time stands still, so this waits for that end;
    // from then on there is nothing to wait for.
    tokens.shutdown(HOUR).await.unwrap();
    tokens.shutdown(Duration::ZERO).await.unwrap();
    // The lock goes in the same breath, and a moment later.
    while store.try_lock().await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(scene.concur.is_live(renewed.secret()));
    tokens.refresh().await.unwrap();
    let names = scene.folder();
    assert!(names.iter().all(|name| !name.contains(".tmp-")), "{names:?}");
}

/// The folder is taken away while the reply is on its way, and made again later.
#[tokio::test]
async fn a_folder_that_comes_back_gets_the_token() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
    let folder = scene.dir.path().join("tokens");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("token.json");
    fs::write(&path, scene.concur.token_json()).unwrap();
    let clock = ManualClock::skipping(support::noon());
    let store = concur_auth::JsonFileStore::new(&path);
    let tokens = scene.builder().clock(clock).store(store).build().unwrap();
    let held = scene.concur.hold_replies();
    let renewal = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    fs::remove_dir_all(&folder).unwrap();
    held.release();
    let renewed = renewal.await.unwrap().unwrap();
    fs::create_dir(&folder).unwrap();
    until(|| !tokens.status().unsaved).await;
    assert!(fs::read_to_string(&path).unwrap().contains(renewed.secret()));
}

/// The next flight takes the kept lock over instead of waiting for it.
#[tokio::test]
async fn the_next_renewal_saves_first_and_goes_on_under_the_same_lock() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
    scene.write_token(&scene.concur.token_json());
    let tokens = scene.manager();
    let held = scene.concur.hold_replies();
    let renewal = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    fs::remove_file(scene.token_path()).unwrap();
    fs::create_dir(scene.token_path()).unwrap();
    held.release();
    pass_the_pauses_of_a_save(&scene).await;
    renewal.await.unwrap().unwrap();
    assert!(tokens.status().unsaved);
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(scene.concur.token_requests(), 1, "nothing more is spent");
    fs::remove_dir(scene.token_path()).unwrap();
    let renewed = tokens.refresh().await.unwrap();
    assert_eq!(scene.stored_refresh_token(), renewed.secret());
    assert!(!tokens.status().unsaved);
}

/// What the rehearsal reserved is what the save writes to.
#[tokio::test]
async fn a_disk_that_fills_up_behind_the_rehearsal_still_takes_the_token() {
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
    let Some(_mount) = Mount::new(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"], scene.dir.path()) else {
        return skip(NO_MOUNTS);
    };
    scene.write_credentials(&scene.concur.credentials_json());
    scene.write_token(&scene.concur.token_json());
    // A reply almost as long as one may be.
    scene.concur.set_reply_member("padding", Some(&format!("\"{}\"", "x".repeat(250 * 1024))));
    let clock = ManualClock::skipping(support::noon());
    let tokens = scene.builder().clock(clock).build().unwrap();
    let held = scene.concur.hold_replies();
    let renewal = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.refresh().await }
    });
    until(|| scene.concur.token_requests() == 1).await;
    fill(scene.dir.path());
    held.release();
    let renewed = renewal.await.unwrap().unwrap();
    assert!(!tokens.status().unsaved);
    assert_eq!(scene.stored_refresh_token(), renewed.secret());
    assert!(scene.concur.is_live(renewed.secret()));
}

/// Whatever becomes of the process after that, the next one finds the token beside the file.
#[tokio::test]
async fn a_token_whose_rename_fails_is_on_the_disk_all_the_same() {
    use concur_auth::{JsonFileStore, RefreshTokenObject};
    let _alone = alone().await;
    let scene = Scene::among_forks(Rotation::Never).await;
    let old = scene.concur.token_json();
    scene.write_token(&old);
    let store = JsonFileStore::new(scene.token_path());
    let lock = store.try_lock().await.unwrap().unwrap();
    store.rehearse(RefreshTokenObject::from_json(&old).ok().as_ref(), &lock).await.unwrap();
    let token = scene.token_path();
    let Some(mount) = Mount::new(&["--bind", token.to_str().unwrap()], &token) else {
        return skip(NO_MOUNTS);
    };
    let rotated = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    store.save(&rotated, &lock).await.unwrap_err();
    drop(lock);
    drop(mount);
    JsonFileStore::new(scene.token_path()).try_lock().await.unwrap().unwrap();
    assert_eq!(scene.stored_refresh_token(), rotated.secret());
}

/// Many tenants on one full disk: while they wait for room the threads are there for others.
#[tokio::test]
async fn tokens_that_wait_for_the_disk_take_no_threads() {
    let full = || {
        Watched::new(|call| match call {
            Call::Save => Err(concur_auth::Error::store("no room", "on purpose")),
            _ => Ok(()),
        })
    };
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let scene = Scene::new().await;
    let client = concur_auth::OAuthClient::new();
    let mut waiting = Vec::new();
    let before = threads();
    for tenant in 1..=60 {
        scene.concur.issue_request_token();
        let tokens = scene
            .builder()
            .oauth_client(client.clone())
            .credentials(scene.concur.credentials())
            .store(full())
            .build()
            .unwrap();
        let obtaining = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.get_valid_refresh_token().await }
        });
        while !obtaining.is_finished() {
            // The pauses of the first five attempts, and not those of the savers before.
            if scene.clock.sleepers() >= tenant {
                scene.clock.advance(Duration::from_millis(500));
            }
            tokio::task::yield_now().await;
        }
        obtaining.await.unwrap().unwrap();
        assert!(tokens.status().unsaved);
        waiting.push(tokens);
    }
    let taken = threads().saturating_sub(before);
    assert!(taken < 30, "{taken} threads");
}

/// A folder that belongs to user 65534; `None`, after a [`skip`], where this user may not give files away.
async fn scene_of_nobody() -> Option<Scene> {
    let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
    let nobodys = std::os::unix::fs::chown(scene.dir.path(), Some(65534), Some(65534));
    if nobodys.is_err() {
        skip("this user is not root");
        return None;
    }
    set_mode(scene.dir.path(), 0o755);
    Some(scene)
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

/// An administrator tries the program out as root, in the folder of the user that runs it every day.
#[tokio::test]
async fn what_root_makes_belongs_to_the_owner_of_the_folder_who_can_go_on() {
    let _alone = alone().await;
    let Some(scene) = scene_of_nobody().await else { return };
    // In real time, as the other user's process.
    let concur = ConcurSimulator::start().await;
    scene.write_credentials(&concur.credentials_json());
    set_mode(&scene.credentials_path(), 0o644);
    let template = scene.dir.path().join("template.json");
    let source = concur_auth::CredentialsFile::new(&template);
    concur_auth::CredentialSource::credentials(&source).await.unwrap_err();
    let tokens = TokenManager::load_from(scene.dir.path()).await.unwrap();
    tokens.get_valid_refresh_token().await.unwrap();
    let store = concur_auth::JsonFileStore::new(scene.token_path());
    let lock = store.try_lock().await.unwrap().unwrap();
    store.remember(Some("a note"), &lock).await.unwrap();
    drop(lock);
    for name in ["", ".lock", ".note"] {
        let path = scene.dir.path().join(format!("refreshTokenObjectFile.json{name}"));
        assert_eq!(owner_and_mode(&path), (65534, 65534, 0o600), "{name}");
    }
    assert_eq!(owner_and_mode(&template), (65534, 65534, 0o600));
    // What was there before is left as it is.
    assert_eq!(owner_and_mode(&scene.credentials_path()).0, 0);

    if !succeeds_as_nobody("renews", scene.dir.path()) {
        return;
    }
    assert_eq!((concur.count("password"), concur.count("refresh_token")), (1, 1));
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn renews() {
    let tokens = TokenManager::load_from(std::env::var_os("DIR").unwrap()).await.unwrap();
    tokens.refresh().await.unwrap();
}

/// The owner of the file comes before that of the folder. Also where only the group is another one.
#[tokio::test]
async fn what_root_renews_stays_the_owners() {
    let _alone = alone().await;
    for owner in [65533, 0] {
        let scene = Scene::among_forks(Rotation::AlwaysAndRevokeFamily).await;
        scene.write_token(&scene.concur.token_json());
        if std::os::unix::fs::chown(scene.token_path(), Some(owner), Some(65532)).is_err() {
            return skip("this user is not root");
        }
        scene.manager().refresh().await.unwrap();
        for name in ["", ".lock"] {
            let path = scene.dir.path().join(format!("refreshTokenObjectFile.json{name}"));
            assert_eq!(owner_and_mode(&path), (owner, 65532, 0o600), "{name}");
        }
    }
}

#[tokio::test]
async fn another_users_token_file_shows_before_the_grant_is_spent() {
    let _alone = alone().await;
    let Some(scene) = scene_of_nobody().await else { return };
    // Readable for all, and replaceable for the owner of the folder.
    scene.write_token(&scene.concur.token_json());
    set_mode(&scene.token_path(), 0o644);
    let before = (scene.folder(), scene.token_file());
    if !succeeds_as_nobody("finds_roots_token_file", scene.dir.path()) {
        return;
    }
    assert_eq!(before, (scene.folder(), scene.token_file()));

    // The lock is there already.
    let lock = scene.dir.path().join("refreshTokenObjectFile.json.lock");
    fs::write(&lock, "").unwrap();
    std::os::unix::fs::chown(&lock, Some(65534), None).unwrap();
    let before = scene.folder();
    assert!(succeeds_as_nobody("finds_roots_token_file_under_the_lock", scene.dir.path()));
    assert_eq!(before, scene.folder());

    set_mode(&scene.token_path(), 0o600);
    assert!(succeeds_as_nobody("cannot_read_roots_token_file", scene.dir.path()));
    assert_eq!(scene.concur.token_requests(), 0);
}

/// A root's token file in the folder of user 65534, seen by that user.
fn advice(doing: &str, dir: &Path, mode: &str, us: &str, cause: &str) -> String {
    let token = dir.join("refreshTokenObjectFile.json");
    format!(
        "Store: could not {doing}; {} belongs to user 0 (mode {mode}), its folder belongs to user 65534 (mode 0755){us}; run \
         this program as the user that owns them, or give them to the user that runs it (chown); if that is so already, look for a read-only mount or an attribute (lsattr)\n  caused by: {cause}",
        token.display()
    )
}

const US: &str = ", and this process runs as user 65534";
const CANNOT_GIVE: &str =
    "user 65534 cannot make a file that belongs to user 0: Operation not permitted (os error 1)";

/// Renewing fails as user 65534, who is told what could not be done with the token file or a file beside it.
async fn is_denied(doing: &str, suffix: &str, mode: &str, us: &str, cause: &str) {
    let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
    let tokens = TokenManager::load_from(&dir).await.unwrap();
    let doing = format!("{doing} {}/refreshTokenObjectFile.json{suffix}", dir.display());
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(format!("{error:?}"), advice(&doing, &dir, mode, us, cause));
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn finds_roots_token_file() {
    is_denied("open the lock file", ".lock", "0644", US, CANNOT_GIVE).await;
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn finds_roots_token_file_under_the_lock() {
    is_denied("save a token to", "", "0644", US, CANNOT_GIVE).await;
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn cannot_read_roots_token_file() {
    is_denied("read", "", "0600", "", "Permission denied (os error 13)").await;
}

/// A link could lead to any file, which root would then lock, write or give away.
#[tokio::test]
async fn a_lock_or_a_note_that_is_a_symbolic_link_is_refused() {
    let scene = Scene::new().await;
    scene.write_token(&scene.concur.token_json());
    let victim = scene.dir.path().join("victim");
    fs::write(&victim, "whatever").unwrap();
    let before = owner_and_mode(&victim);
    let store = concur_auth::JsonFileStore::new(scene.token_path());
    let note = scene.dir.path().join("refreshTokenObjectFile.json.note");
    let lock = scene.dir.path().join("refreshTokenObjectFile.json.lock");
    for target in [&victim, &scene.dir.path().join("nothing there")] {
        std::os::unix::fs::symlink(target, &note).unwrap();
        let held = store.try_lock().await.unwrap().unwrap();
        let error = store.remember(Some("a note"), &held).await.unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it is a symbolic link");
        drop(held);
        fs::remove_file(&note).unwrap();

        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(target, &lock).unwrap();
        let error = scene.manager().refresh().await.unwrap_err();
        assert_eq!(
            format!("{error:?}"),
            format!(
                "Store: could not open the lock file {}; check that it is no symbolic link, and that this user may write in \
                 its folder\n  caused by: it is a symbolic link",
                lock.display()
            )
        );
        fs::remove_file(&lock).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "whatever");
    assert_eq!(owner_and_mode(&victim), before);
    assert!(!scene.dir.path().join("nothing there").exists());
    assert_eq!(scene.concur.token_requests(), 0);
}

/// By then it may have lapsed, and another process may have gone on from there.
#[tokio::test]
async fn after_a_late_save_the_lease_is_taken_once_more() {
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let (is_full, leases) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (full, taken) = (Arc::clone(&is_full), Arc::clone(&leases));
    let store = Watched::new(move |call| match call {
        Call::Save if full.load(Ordering::SeqCst) => Err(Error::store("full", "no room")),
        Call::TryLock => {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        _ => Ok(()),
    });
    let tokens = scene.builder().store(store.leased(HOUR)).build().unwrap();
    let signing_in = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.get_valid_refresh_token().await }
    });
    until(|| {
        scene.clock.advance(Duration::from_millis(100));
        signing_in.is_finished()
    })
    .await;
    signing_in.await.unwrap().unwrap();
    assert!(tokens.status().unsaved);
    assert_eq!(leases.load(Ordering::SeqCst), 1);
    is_full.store(false, Ordering::SeqCst);
    tokens.refresh().await.unwrap();
    assert!(!tokens.status().unsaved);
    assert_eq!(leases.load(Ordering::SeqCst), 2);
}
