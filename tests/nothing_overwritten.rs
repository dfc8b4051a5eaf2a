//! Nothing of the user's is overwritten: credentials are never written over, and a token file without a usable token is moved
//! aside before it is replaced (promise 6 of docs/promises.md).

#![cfg(feature = "simulator")]

mod support;

use std::{fs, path::PathBuf, sync::Mutex};

use concur_auth::{
    CredentialSource, CredentialsFile, Error, ErrorKind, JsonFileStore, RefreshTokenObject, StoreLock,
    Stored, TokenManager, TokenStore,
};
use support::{Scene, names_in};

/// The message after `<path>`, for credentials that cannot be used or need something.
async fn complaint_about(credentials: &[u8]) -> (ErrorKind, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.json");
    fs::write(&path, credentials).unwrap();
    let error = CredentialsFile::new(&path).credentials().await.err();
    let error = match error {
        Some(error) => error,
        // Blank members are the manager's to complain about: it knows which it needs.
        None => concur_auth::TokenManager::load_from(dir.path()).await.unwrap_err(),
    };
    assert_eq!(fs::read(&path).unwrap(), credentials, "credentials.json was modified");
    assert_eq!(names_in(dir.path()), ["credentials.json"]);
    (error.kind(), error.to_string().replace(&path.display().to_string(), "<path>"))
}

#[tokio::test]
async fn credentials_that_cannot_be_read_or_made_say_what_to_check() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no folder/credentials.json");
    for (path, kind, message) in [
        (
            dir.path(),
            ErrorKind::CredentialsInvalid,
            "<path>: cannot be read; check that it is a file this user may read",
        ),
        (
            &missing,
            ErrorKind::CredentialsNeeded,
            "<path> does not exist, and a template could not be written there; name a folder in which this user can create files",
        ),
    ] {
        let error = CredentialsFile::new(path).credentials().await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.to_string().replace(&path.display().to_string(), "<path>"), message);
    }
    assert!(names_in(dir.path()).is_empty());
}

#[tokio::test]
async fn broken_credentials_are_explained_and_left_alone() {
    for (credentials, message) in [
        (
            &b"{\"appID\": \"a\",\n \"clientSecret\": SECRET}"[..],
            "<path>: not valid JSON at line 2, column 18; fix it, or move it away and run again to get a blank \
             template",
        ),
        (
            b"",
            "<path>: the JSON text ends too early at line 1, column 0; fix it, or move it away and run again to \
             get a blank template",
        ),
        (
            b"[\"SECRET\"]",
            "<path>: not a JSON object at line 1, column 0; fix it, or move it away and run again to get a blank \
             template",
        ),
        (
            b"{\"appID\": \"\xff\"}",
            "<path>: not UTF-8 text; fix it, or move it away and run again to get a blank template",
        ),
        (
            b"{\"appID\": 12345, \"clientSecret\": \"SECRET\"}",
            "<path>: the member appID is not a string; put its value in double quotes",
        ),
        (
            b"{\"appID\": \"a\", \"clientSecret\": \"s\", \"grantType\": \"SECRET\"}",
            "<path>: the member grantType has a value that this file cannot serve; set it to \"password\"; the other grants \
             start with a browser, an e-mail or the app alone: pass them to TokenManager::sign_in or \
             OAuthClient::request_token",
        ),
        (
            b"{\"appID\": \"a\", \"clientSecret\": \"s\", \"credentialType\": \"SECRET\"}",
            "<path>: the member credentialType has a value that this file cannot serve; set it to \"authtoken\" for a company \
             (companyUUID, companyRequestToken) or to \"password\" for a user (name and password in the same two members)",
        ),
    ] {
        let complaint = complaint_about(credentials).await;
        assert_eq!(complaint, (ErrorKind::CredentialsInvalid, message.to_owned()));
    }
}

#[tokio::test]
async fn blank_members_are_named_each() {
    for (credentials, message) in [
        (
            "{}",
            "appID and clientSecret are blank in <path>; the app's page \
             https://www.concursolutions.com/nui/ocstool shows both, then fill them in",
        ),
        (
            r#"{"appID": "a", "clientSecret": "  "}"#,
            "clientSecret is blank in <path>; the app's page https://www.concursolutions.com/nui/ocstool shows \
             both, then fill it in",
        ),
    ] {
        let complaint = complaint_about(credentials.as_bytes()).await;
        assert_eq!(complaint, (ErrorKind::CredentialsNeeded, message.to_owned()));
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_tolerated() {
    let scene = Scene::new().await;
    scene.write_credentials(&format!("\u{feff}{}", scene.concur.credentials_json()));
    scene.write_token(&format!("\u{feff}{}", scene.concur.token_json()));
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn an_unusable_token_file_is_kept_aside() {
    for content in
        ["", "{\"refresh_token\": \"cut sho", "{\"companyUUID\": \"c\"}", "[]", "{\"refresh_token\": 7}"]
    {
        let scene = Scene::new().await;
        scene.write_token(content);
        let token = scene.manager().get_valid_refresh_token().await.unwrap();
        assert_eq!(scene.stored_refresh_token(), token.secret(), "{content}");

        let names = scene.folder();
        let aside: Vec<_> = names.iter().filter(|name| name.contains(".corrupt-")).collect();
        assert_eq!(aside.len(), 1, "{content}: {names:?}");
        assert_eq!(fs::read_to_string(scene.dir.path().join(aside[0])).unwrap(), content);
    }
}

#[tokio::test]
async fn two_unusable_files_of_one_second_are_both_kept() {
    let scene = Scene::new().await;
    let tokens = scene.manager();
    for content in ["first", "second", "third"] {
        scene.write_token(content);
        let file = fs::File::options().append(true).open(scene.token_path()).unwrap();
        file.set_modified(support::noon().into()).unwrap();
        tokens.get_valid_refresh_token().await.unwrap();
    }
    let corrupt: Vec<_> = scene.folder().into_iter().filter(|name| name.contains(".corrupt-")).collect();
    assert_eq!(
        corrupt,
        [
            "refreshTokenObjectFile.json.corrupt-20260528T202640Z",
            "refreshTokenObjectFile.json.corrupt-20260528T202640Z-2",
            "refreshTokenObjectFile.json.corrupt-20260528T202640Z-3"
        ]
    );
}

#[tokio::test]
async fn another_companys_token_is_refused_untouched() {
    let scene = Scene::new().await;
    let foreign = r#"{"refresh_token": "theirs", "companyUUID": "another"}"#;
    scene.write_token(foreign);
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!(
            "the token in {} belongs to a company without a UUID, but the credentials name company {}; keep this \
             company's token in a separate store, or move the other token away",
            scene.token_path().display(),
            scene.concur.company_uuid()
        )
    );
    assert_eq!(scene.manager().access_token().await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(scene.token_file(), foreign);
    assert_eq!(scene.concur.token_requests(), 0);
}

#[tokio::test]
async fn an_unreadable_file_is_an_error_and_not_a_missing_token() {
    let scene = Scene::new().await;
    fs::create_dir(scene.token_path()).unwrap();
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(
        error.to_string(),
        format!(
            "could not read {}; check that it is a file this user may read",
            scene.token_path().display()
        )
    );
    assert_eq!(scene.concur.token_requests(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_a_token_file_is_an_error_that_says_why() {
    let large = " ".repeat((1 << 20) + 1);
    for (link, why) in
        [(None, "it is larger than 1 MiB"), (Some("refreshTokenObjectFile.json"), "symbolic links")]
    {
        let scene = Scene::new().await;
        match link {
            Some(target) => std::os::unix::fs::symlink(target, scene.token_path()).unwrap(),
            None => scene.write_token(&large),
        }
        let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(why), "{error}: {cause}");
        assert_eq!(scene.concur.token_requests(), 0);
        if link.is_none() {
            assert_eq!(fs::read_to_string(scene.token_path()).unwrap(), large);
        }
    }
}

/// Whoever comes second sees the first one's template, whole, and never writes over what a person put there.
#[test]
fn a_template_never_replaces_a_file_even_in_a_race() {
    for round in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.json");
        let is_the_persons = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            for thread in 0..4 {
                let (path, is_the_persons) = (&path, &is_the_persons);
                threads.spawn(move || {
                    if thread == round % 4 {
                        let created = fs::OpenOptions::new().write(true).create_new(true).open(path);
                        is_the_persons.store(created.is_ok(), std::sync::atomic::Ordering::Relaxed);
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let outcome = runtime.block_on(CredentialsFile::new(path).credentials());
                    // An empty file is the person's, and complete: it must stay empty.
                    if fs::read(path).unwrap().is_empty() {
                        assert_ne!(outcome.map(drop).unwrap_err().to_string(), "");
                    }
                });
            }
        });
        let content = fs::read_to_string(&path).unwrap();
        if is_the_persons.into_inner() {
            assert_eq!(content, "", "a template over the person's file");
        } else {
            assert!(content.ends_with("\"authtoken\"\n}\n"), "half a template: {content}");
        }
        assert_eq!(names_in(dir.path()), ["credentials.json"]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn template_and_token_file_are_private_under_any_umask() {
    let _alone = support::alone().await;
    use std::os::unix::fs::PermissionsExt as _;
    for umask in ["000", "022", "077", "777"] {
        let dir = tempfile::tempdir().unwrap();
        let child = support::child("files_under_a_umask");
        let status = std::process::Command::new("sh")
            .args(["-c", "umask \"$0\"; exec \"$@\"", umask])
            .arg(child.get_program())
            .args(child.get_args())
            .env("DIR", dir.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        for name in ["credentials.json", "refreshTokenObjectFile.json", "refreshTokenObjectFile.json.lock"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name} under umask {umask}");
        }
    }
}

#[tokio::test]
#[ignore = "runs as a child process"]
async fn files_under_a_umask() {
    use concur_auth::{JsonFileStore, TokenManager};
    let dir = std::path::PathBuf::from(std::env::var_os("DIR").unwrap());
    let credentials = dir.join("credentials.json");
    CredentialsFile::new(&credentials).credentials().await.unwrap_err();

    let concur = concur_auth::simulator::ConcurSimulator::start().await;
    let tokens = TokenManager::builder()
        .credentials(concur.credentials())
        .store(JsonFileStore::new(dir.join("refreshTokenObjectFile.json")))
        .build()
        .unwrap();
    tokens.get_valid_refresh_token().await.unwrap();
}

/// A link tells where the file belongs: something that is to be mounted, perhaps.
#[cfg(unix)]
#[tokio::test]
async fn a_link_that_leads_to_no_credentials_is_left_alone() {
    let scene = Scene::new().await;
    fs::remove_file(scene.credentials_path()).unwrap();
    let target = scene.dir.path().join("not-mounted.json");
    std::os::unix::fs::symlink(&target, scene.credentials_path()).unwrap();
    let error = CredentialsFile::new(scene.credentials_path()).credentials().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    assert_eq!(
        error.to_string(),
        format!(
            "{} is a symbolic link to {}, which does not exist; put the credentials there, or remove the link and run \
             again to get a blank template",
            scene.credentials_path().display(),
            target.display()
        )
    );
    assert_eq!(scene.folder(), ["credentials.json"]);
}

/// The lock is of the file that the link led to when it was got.
#[cfg(unix)]
#[tokio::test]
async fn a_link_that_is_changed_under_the_lock_moves_nothing_aside() {
    use concur_auth::{JsonFileStore, RefreshTokenObject, TokenStore as _};
    let scene = Scene::new().await;
    let (first, second) = (scene.dir.path().join("first.json"), scene.dir.path().join("second.json"));
    fs::write(&first, scene.concur.token_json()).unwrap();
    fs::write(&second, "not a token").unwrap();
    std::os::unix::fs::symlink(&first, scene.token_path()).unwrap();
    let store = JsonFileStore::new(scene.token_path());
    let lock = store.try_lock().await.unwrap().unwrap();
    fs::remove_file(scene.token_path()).unwrap();
    std::os::unix::fs::symlink(&second, scene.token_path()).unwrap();
    let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    store.save(&token, &lock).await.unwrap();
    assert!(fs::read_to_string(&first).unwrap().contains(token.secret()));
    assert_eq!(fs::read_to_string(&second).unwrap(), "not a token");
    assert!(scene.folder().iter().all(|name| !name.contains("corrupt")), "{:?}", scene.folder());
}

/// The sample writes in place, and twice within one tick of the file system's clock leaves nothing to see but the text.
#[tokio::test]
async fn under_the_lock_the_file_is_read_whatever_its_metadata_says() {
    use concur_auth::{JsonFileStore, TokenStore as _};
    let scene = Scene::new().await;
    let write = |name| scene.write_token(&format!("{{\"refresh_token\": \"{name}\"}}"));
    write("first");
    for _ in 0..1000 {
        let store = JsonFileStore::new(scene.token_path());
        write("other");
        assert_eq!(store.load().await.unwrap().unwrap().secret(), "other");
        write("first");
        // Where the metadata tells the two apart nothing is shown.
        let unseen = store.load().await.unwrap().unwrap().secret() == "other";
        let _lock = store.try_lock().await.unwrap().unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().secret(), "first");
        if unseen {
            break;
        }
    }
}

const CLEAN: [&str; 3] =
    ["credentials.json", "refreshTokenObjectFile.json", "refreshTokenObjectFile.json.lock"];

/// SAP's sample, or an administrator, between the read under the lock and the rehearsal.
#[tokio::test]
async fn a_rehearsal_overwrites_nothing_that_was_written_without_the_lock() {
    let scene = Scene::new().await;
    let (first, second) = (scene.concur.token_json(), scene.concur.token_json());
    let store = JsonFileStore::new(scene.token_path());
    let put = |content: Option<&String>| match content {
        Some(json) => scene.write_token(json),
        None => _ = fs::remove_file(scene.token_path()),
    };
    let unusable = "not a token".to_owned();
    for (before, after) in [
        (Some(&first), Some(&second)),
        (Some(&first), Some(&unusable)),
        (Some(&first), None),
        (None, Some(&second)),
        (None, Some(&unusable)),
    ] {
        put(before);
        let lock = store.try_lock().await.unwrap().unwrap();
        let read = store.read_locked(&lock).await.unwrap().token;
        // Our own writing is not another program's.
        for _ in 0..2 {
            store.rehearse(read.as_ref(), &lock).await.unwrap();
        }
        put(after);
        // What others read meanwhile is not what this holder has read.
        let _ = store.read().await.unwrap();
        for _ in 0..2 {
            let error = store.rehearse(read.as_ref(), &lock).await.unwrap_err();
            assert_eq!(
                format!("{error:?}"),
                format!(
                    "Store: {} was changed by a program that does not take its lock; read it again",
                    scene.token_path().display()
                )
            );
        }
        assert_eq!(fs::read_to_string(scene.token_path()).ok().as_ref(), after);
        // Having read it, it goes on.
        let read = store.read_locked(&lock).await.unwrap().token;
        store.rehearse(read.as_ref(), &lock).await.unwrap();
        // So it does after its own save and removal.
        let token = RefreshTokenObject::from_json(&first).unwrap();
        store.save(&token, &lock).await.unwrap();
        store.rehearse(Some(&token), &lock).await.unwrap();
        store.remove(&lock).await.unwrap();
        store.rehearse(None, &lock).await.unwrap();
        drop(lock);
        for name in scene.folder().iter().filter(|name| name.contains(".corrupt-")) {
            fs::remove_file(scene.dir.path().join(name)).unwrap();
        }
        assert_eq!(scene.folder(), [CLEAN[0], CLEAN[2]]);
    }
}

/// A token file into which a program without the lock writes right before each rehearsal, as long as it has something to.
#[derive(Debug)]
struct Meddled {
    store: JsonFileStore,
    path: PathBuf,
    writes: Mutex<Vec<String>>,
}

impl Meddled {
    fn with(scene: &Scene, writes: &[String]) -> TokenManager {
        let (path, store) = (scene.token_path(), JsonFileStore::new(scene.token_path()));
        let writes = writes.iter().rev().cloned().collect();
        scene.builder().store(Self { store, path, writes: Mutex::new(writes) }).build().unwrap()
    }
}

impl TokenStore for Meddled {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.store.save(token, lock).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }
    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock().await
    }
    async fn read_locked(&self, lock: &StoreLock) -> Result<Stored, Error> {
        self.store.read_locked(lock).await
    }
    async fn rehearse(&self, held: Option<&RefreshTokenObject>, lock: &StoreLock) -> Result<(), Error> {
        if let Some(json) = self.writes.lock().unwrap().pop() {
            fs::write(&self.path, json).unwrap();
        }
        self.store.rehearse(held, lock).await
    }
    fn describe(&self) -> String {
        self.store.describe()
    }
}

/// A token as the sample keeps it, and one without an access token that a revocation could use.
fn refresh_token_only(json: &str) -> String {
    let mut json: serde_json::Value = serde_json::from_str(json).unwrap();
    json.as_object_mut().unwrap().remove("access_token").unwrap();
    json.to_string()
}

fn secret_in(json: &str) -> String {
    RefreshTokenObject::from_json(json).unwrap().secret().to_owned()
}

#[tokio::test]
async fn a_token_written_right_before_the_rehearsal_is_the_one_that_is_used() {
    let scene = Scene::new().await;
    let [old, new] = [(); 2].map(|()| refresh_token_only(&scene.concur.token_json()));
    scene.write_token(&old);
    Meddled::with(&scene, std::slice::from_ref(&new)).refresh().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 1);
    assert!(scene.concur.requests()[0].body().contains(&secret_in(&new)));

    // A sign-in that is asked for replaces what is stored, whatever that is.
    scene.write_token(&old);
    let adopted = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    Meddled::with(&scene, std::slice::from_ref(&new)).adopt(adopted.clone()).await.unwrap();
    assert_eq!(scene.stored_refresh_token(), adopted.secret());
    assert_eq!(scene.concur.token_requests(), 1);

    // What is signed out is the token that is stored now.
    scene.write_token(&old);
    Meddled::with(&scene, std::slice::from_ref(&new)).revoke().await.unwrap();
    assert_eq!(scene.concur.token_requests(), 2);
    let grants: Vec<_> =
        scene.concur.requests().into_iter().filter(|it| it.grant_type() == Some("refresh_token")).collect();
    assert!(grants[1].body().contains(&secret_in(&new)));
    assert_eq!(scene.folder(), [CLEAN[0], CLEAN[2]]);
}

#[tokio::test]
async fn a_program_that_keeps_replacing_the_token_is_told_of_and_nothing_is_spent() {
    let scene = Scene::new().await;
    let tokens = [(); 4].map(|()| refresh_token_only(&scene.concur.token_json()));
    let message = format!(
        "another program keeps replacing the token in {}; stop that program",
        scene.token_path().display()
    );
    for call in ["refresh", "adopt", "revoke"] {
        scene.write_token(&tokens[0]);
        let manager = Meddled::with(&scene, &tokens[1..]);
        let error = match call {
            "refresh" => manager.refresh().await.map(drop),
            "adopt" => manager.adopt(RefreshTokenObject::from_json(&tokens[0]).unwrap()).await.map(drop),
            _ => manager.revoke().await,
        };
        assert_eq!(error.unwrap_err().to_string(), message, "{call}");
        assert_eq!(scene.token_file(), tokens[3], "{call}");
        assert_eq!(scene.folder(), CLEAN, "{call}");
    }
    assert_eq!(scene.concur.token_requests(), 0);
}
