//! What PostgreSQL does not take is on the local disk at once, and saved by the next process there.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use concur_auth::{
    ErrorKind, FleetStore as _, PostgresFleet, PostgresStore, RefreshTokenObject, StoreLock, TokenStore as _,
    simulator::Rotation,
};
use support::{Scene, names_in, until};
use tempfile::TempDir;

use crate::postgres::{Database, Postgres};

const APP: &str = "9a6c3e1c-1111-4000-8000-000000000000";
const UUID: &str = "b3f4e2a0-0000-4000-8000-000000000000";
const OTHER: &str = "c3f4e2a0-0000-4000-8000-000000000000";

fn token(secret: &str) -> RefreshTokenObject {
    let json = format!(
        r#"{{"refresh_token": "{secret}", "refreshTokenExpiresAt": 2900000000, "companyUUID": "c"}}"#
    );
    RefreshTokenObject::from_json(&json).unwrap()
}

/// A cluster that can be stopped, and a spool. Each store that it opens stands for a process.
struct Place<'a> {
    database: Database<'a>,
    dir: TempDir,
}

impl<'a> Place<'a> {
    fn on(postgres: &'a Postgres) -> Self {
        let database = postgres.database();
        database.psql(&PostgresStore::schema());
        Self { database, dir: tempfile::tempdir().unwrap() }
    }

    fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    fn fleet(&self) -> PostgresFleet {
        PostgresFleet::new(&self.database.url()).unwrap().spool(self.spool())
    }

    fn store(&self, principal: &str) -> PostgresStore {
        PostgresStore::new(&self.database.url(), principal).unwrap().app_id(APP).spool(self.spool())
    }

    /// What is spooled.
    fn files(&self) -> Vec<PathBuf> {
        if !self.spool().exists() {
            return Vec::new();
        }
        names_in(&self.spool()).into_iter().map(|name| self.spool().join(name)).collect()
    }

    async fn save(&self, principal: &str, secret: &str) {
        let store = self.store(principal);
        let lock = store.try_lock().await.unwrap().unwrap();
        store.finish(&token(secret), None, &lock).await.unwrap();
        store.unlock(lock).await;
    }

    async fn save_with_sign_in(&self, principal: &str, secret: &str) {
        let store = self.store(principal);
        let lock = store.try_lock().await.unwrap().unwrap();
        store.replace(&token(secret), &lock).await.unwrap();
        store.unlock(lock).await;
    }

    /// A token is saved in vain, by a process that then goes: returns the file in which the token waits.
    async fn save_in_vain(&self, principal: &str, secret: &str, is_sign_in: bool) -> PathBuf {
        let store = self.store(principal);
        let lock = store.try_lock().await.unwrap().unwrap();
        self.database.postgres().stop_immediate();
        let error = save_with(&store, secret, &lock, is_sign_in).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store, "{error}");
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        // Again: the same token is there once.
        save_with(&store, secret, &lock, is_sign_in).await.unwrap_err();
        assert_eq!(self.files(), files);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&self.spool()), mode(&files[0])), (0o700, 0o600));
        drop(lock);
        self.database.postgres().start_again();
        files[0].clone()
    }

    /// A save for each of them waits on the disk, whatever the database does.
    async fn spool_for(&self, principals: &[&str], secret: &str) {
        let mut locks = Vec::new();
        for principal in principals {
            let store = self.store(principal);
            let lock = store.try_lock().await.unwrap().unwrap();
            locks.push((store, lock));
        }
        let check = "ALTER TABLE concur_auth_tokens ADD CONSTRAINT full_disk CHECK (token NOT LIKE '%second%') NOT VALID";
        self.database.psql(check);
        for (store, lock) in &locks {
            store.finish(&token(secret), None, lock).await.unwrap_err();
        }
        self.database.psql("ALTER TABLE concur_auth_tokens DROP CONSTRAINT full_disk");
        for (store, lock) in locks {
            store.unlock(lock).await;
        }
    }

    async fn spooled_text(&self, secret: &str) -> String {
        self.spool_for(&[UUID], secret).await;
        fs::read_to_string(&self.files()[0]).unwrap()
    }

    /// What the next process finds in the row.
    async fn next(&self, principal: &str) -> String {
        let store = self.store(principal);
        let lock = store.try_lock().await.unwrap().unwrap();
        let stored = store.read_locked(&lock).await.unwrap();
        store.unlock(lock).await;
        stored.token.unwrap().secret().to_owned()
    }

    fn column(&self, name: &str) -> String {
        self.database.psql(&format!("SELECT {name} FROM concur_auth_tokens WHERE principal = '{UUID}'"))
    }
}

async fn save_with(
    store: &PostgresStore,
    secret: &str,
    lock: &StoreLock,
    is_sign_in: bool,
) -> Result<(), concur_auth::Error> {
    let token = token(secret);
    if is_sign_in { store.replace(&token, lock).await } else { store.finish(&token, None, lock).await }
}

#[tokio::test]
async fn what_the_database_does_not_take_is_saved_by_the_next_process() {
    let Some(postgres) = Postgres::start("what_the_database_does_not_take_is_saved_by_the_next_process")
    else {
        return;
    };
    let place = Place::on(&postgres);
    place.save(UUID, "first").await;
    place.save_in_vain(UUID, "second", false).await;
    assert_eq!(place.column("lease_owner IS NOT NULL"), "t", "the process that died had it");
    assert_eq!(place.next(UUID).await, "second");
    assert_eq!(place.files(), Vec::<PathBuf>::new());
    // A sign-in that comes after a renewal, and the first token of all.
    place.save_in_vain(UUID, "signed in", true).await;
    assert_eq!(place.next(UUID).await, "signed in");
    place.save_in_vain(OTHER, "of another", true).await;
    assert_eq!(place.next(OTHER).await, "of another");
    assert_eq!(place.files(), Vec::<PathBuf>::new());
}

/// Also by a process that only looks, and by a worker for any row.
#[tokio::test]
async fn any_look_at_the_database_saves_what_waits() {
    let Some(postgres) = Postgres::start("any_look_at_the_database_saves_what_waits") else { return };
    let place = Place::on(&postgres);
    place.save(UUID, "first").await;
    place.save_in_vain(UUID, "second", false).await;
    assert_eq!(place.store(UUID).load().await.unwrap().unwrap().secret(), "second");
    place.save_in_vain(UUID, "third", false).await;
    place.fleet().claim_due(APP, 1).await.unwrap();
    assert_eq!(place.files(), Vec::<PathBuf>::new());
    assert!(place.column("token").contains("third"));
}

/// The steps: written, renamed, saved, removed.
#[tokio::test]
async fn a_process_that_dies_at_any_step_loses_no_token() {
    let Some(postgres) = Postgres::start("a_process_that_dies_at_any_step_loses_no_token") else { return };
    let place = Place::on(&postgres);
    place.save(UUID, "0").await;

    // Written, and not renamed. Half a file, which another process is writing, is left alone.
    let file = place.save_in_vain(UUID, "1", false).await;
    let temporary = |digits: &str| PathBuf::from(format!("{}.tmp-{digits}", file.display()));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(temporary("0123456789abcdef"), &text[..text.len() / 2]).unwrap();
    fs::rename(&file, temporary("fedcba9876543210")).unwrap();
    assert_eq!(place.next(UUID).await, "1");
    assert_eq!(place.files(), [temporary("0123456789abcdef")]);
    fs::remove_file(temporary("0123456789abcdef")).unwrap();

    // Saved, and not removed; by then the next renewal may have come.
    let file = place.save_in_vain(UUID, "2", false).await;
    let text = fs::read(&file).unwrap();
    assert_eq!(place.next(UUID).await, "2");
    let version = place.column("version");
    fs::write(&file, &text).unwrap();
    assert_eq!(place.next(UUID).await, "2");
    assert_eq!((place.column("version"), place.files()), (version, Vec::new()));
    place.save(UUID, "3").await;
    fs::write(&file, &text).unwrap();
    assert_eq!(place.next(UUID).await, "3");
    assert_eq!(place.files(), Vec::<PathBuf>::new());

    // Two processes at once.
    place.save_in_vain(UUID, "4", false).await;
    let (one, other) = (place.store(UUID), place.store(UUID));
    let (one, other) = tokio::join!(one.load(), other.load());
    assert_eq!([one, other].map(|token| token.unwrap().unwrap().secret().to_owned()), ["4", "4"]);
}

/// Real kills, at each call that the operating system is asked for.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn kills_at_each_system_call_lose_no_token_that_is_on_the_disk() {
    let Some(postgres) = Postgres::shared("kills_at_each_system_call_lose_no_token_that_is_on_the_disk")
    else {
        return;
    };
    let _alone = support::alone().await;
    let place = Place::on(postgres);
    let (url, spool) = (place.database.url(), place.spool().display().to_string());
    let variables = [("DATABASE", &*url), ("SPOOL", &*spool)];
    // While it is written.
    let full =
        "ALTER TABLE concur_auth_tokens ADD CONSTRAINT full_disk CHECK (token NOT LIKE '%second%') NOT VALID";
    let mut found = Vec::new();
    for call in ["mkdir", "chmod", "fchmod", "fsync", "fdatasync", "rename"] {
        for nth in 1.. {
            place.database.psql("DELETE FROM concur_auth_tokens");
            place.save(UUID, "first").await;
            place.database.psql(full);
            let Some(is_killed) = support::is_killed_at("saves_in_vain", call, nth, &variables) else {
                return;
            };
            place.database.psql(
                "ALTER TABLE concur_auth_tokens DROP CONSTRAINT full_disk;
                 UPDATE concur_auth_tokens SET lease_owner = NULL, lease_until = NULL",
            );
            let is_complete = place
                .files()
                .iter()
                .any(|file| serde_json::from_slice::<serde_json::Value>(&fs::read(file).unwrap()).is_ok());
            let secret = place.next(UUID).await;
            assert_eq!(secret == "second", is_complete, "{call} {nth}");
            let _ = fs::remove_dir_all(place.spool());
            if !is_killed {
                assert!(is_complete);
                break;
            }
            found.push((call, nth, secret));
        }
    }
    let count = |secret| found.iter().filter(|(_, _, it)| it == secret).count();
    // The making of the folder; the syncs of file and folder, and the rename between them.
    assert!(count("first") >= 2 && count("second") >= 3, "{found:?}");

    // While it is saved.
    let mut kills = 0;
    for call in ["sendto", "sendmsg", "write", "writev", "unlink"] {
        for nth in 1.. {
            place.database.psql("DELETE FROM concur_auth_tokens");
            place.save(UUID, "first").await;
            let text = place.spooled_text("second").await;
            let Some(is_killed) = support::is_killed_at("looks", call, nth, &variables) else { return };
            assert_eq!(place.next(UUID).await, "second", "{call} {nth}: {text}");
            assert_eq!(place.files(), Vec::<PathBuf>::new(), "{call} {nth}");
            if !is_killed {
                break;
            }
            kills += 1;
        }
    }
    // The questions before and after the save, the save, and the removal.
    assert!(kills >= 4, "{kills}");
}

fn store_of_the_parent() -> PostgresStore {
    let [database, spool] = ["DATABASE", "SPOOL"].map(|name| std::env::var(name).unwrap());
    PostgresStore::new(&database, UUID).unwrap().app_id(APP).spool(spool)
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn saves_in_vain() {
    let store = store_of_the_parent();
    let lock = store.try_lock().await.unwrap().unwrap();
    store.finish(&token("second"), None, &lock).await.unwrap_err();
}

#[tokio::test]
#[ignore = "run by the test above"]
async fn looks() {
    assert_eq!(store_of_the_parent().load().await.unwrap().unwrap().secret(), "second");
}

/// Of two renewals from one token, one is the stored token's successor; the other token was the price of a suspension.
#[tokio::test]
async fn of_two_spools_of_one_row_the_first_is_saved() {
    let Some(postgres) = Postgres::start("of_two_spools_of_one_row_the_first_is_saved") else { return };
    let place = Place::on(&postgres);
    place.save(UUID, "first").await;
    let aside = place.dir.path().join("aside");
    let mut files = Vec::new();
    for secret in ["of one machine", "of the other"] {
        let file = place.save_in_vain(UUID, secret, false).await;
        fs::rename(&file, &aside).unwrap();
        files.push((file, fs::read(&aside).unwrap()));
        // The lease of the machine that is suspended.
        place.database.psql("UPDATE concur_auth_tokens SET lease_owner = NULL, lease_until = NULL");
    }
    for (n, (file, text)) in files.iter().enumerate() {
        fs::write(file, text).unwrap();
        assert_eq!(place.next(UUID).await, "of one machine", "{n}");
        assert_eq!(place.files(), Vec::<PathBuf>::new());
    }
}

/// A worker takes no row for which a token waits that cannot be saved; nor does a caller. Other rows are not concerned.
#[tokio::test]
async fn a_row_is_left_alone_while_its_token_waits() {
    let Some(postgres) = Postgres::start("a_row_is_left_alone_while_its_token_waits") else { return };
    let place = Place::on(&postgres);
    for principal in [UUID, OTHER] {
        place.save(principal, "first").await;
    }
    let file = place.save_in_vain(UUID, "second", false).await;
    let text = fs::read_to_string(&file).unwrap();
    // Also in doubt for over an hour.
    place.database.psql(
        "UPDATE concur_auth_tokens SET renew_at = now() - interval '1 minute', lease_owner = NULL, lease_until = NULL,
                in_doubt_since = NULL",
    );
    let is_claimed = async || {
        place.database.psql("UPDATE concur_auth_tokens SET renew_at = now() - interval '1 minute'");
        let due = place.fleet().claim_due(APP, 10).await.unwrap();
        let mut due: Vec<_> = due.tokens.into_iter().map(|it| it.principal).collect();
        due.sort();
        // What was claimed is given back in the background.
        let leased = "SELECT count(*) FROM concur_auth_tokens WHERE lease_owner IS NOT NULL";
        until(|| place.database.psql(leased) == "0").await;
        let single = place.store(UUID).try_lock().await.map(|lock| lock.is_some());
        let other = place.store(OTHER).try_lock().await.map(|lock| lock.is_some());
        until(|| place.database.psql(leased) == "0").await;
        (due, single, other)
    };
    // Of a later version, and not readable at all.
    for (content, says) in [
        (text.replace("\"format\":1", "\"format\":2"), "is not what this version of concur-auth writes"),
        (text[..text.len() / 2].to_owned(), "is not what this version of concur-auth writes"),
    ] {
        fs::write(&file, content).unwrap();
        let (due, single, other) = is_claimed().await;
        assert_eq!(due, [OTHER]);
        let error = single.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(says), "{error}");
        assert!(other.unwrap());
        assert!(place.store(UUID).read().await.is_err(), "the old token is not shown as the newest");
    }
    fs::write(&file, text).unwrap();
    // Saved by the look, the token is not due for now.
    let (due, single, _) = is_claimed().await;
    assert_eq!((due, single.unwrap()), (vec![OTHER.to_owned()], true));
    assert_eq!((place.next(UUID).await, place.files()), ("second".to_owned(), Vec::new()));
    let (due, _, _) = is_claimed().await;
    assert_eq!(due, [UUID, OTHER]);
}

/// The same database by another name: what a save starts from tells that it is the same.
#[tokio::test]
async fn a_database_may_move() {
    let Some(postgres) = Postgres::start("a_database_may_move") else { return };
    let place = Place::on(&postgres);
    place.save(UUID, "first").await;
    for (secret, is_sign_in) in [("second", false), ("third", true)] {
        let file = place.save_in_vain(UUID, secret, is_sign_in).await;
        let text = fs::read_to_string(&file).unwrap();
        let database: serde_json::Value = serde_json::from_str(&text).unwrap();
        let name = database["database"].as_str().unwrap();
        fs::write(&file, text.replace(name, "PostgreSQL database concur at db.example:5432")).unwrap();
        assert_eq!(place.next(UUID).await, secret);
        assert_eq!(place.files(), Vec::<PathBuf>::new());
    }
}

/// After a restore from before the company came, and of a row that an administrator deleted: the file stays, for a person to see.
#[tokio::test]
async fn without_its_row_a_token_stays_on_the_disk() {
    let Some(postgres) = Postgres::start("without_its_row_a_token_stays_on_the_disk") else { return };
    let place = Place::on(&postgres);
    place.save(UUID, "first").await;
    let file = place.save_in_vain(UUID, "second", false).await;
    place.database.psql("DELETE FROM concur_auth_tokens");
    assert!(place.store(UUID).load().await.unwrap().is_none());
    assert_eq!(place.files(), [file]);
    // The company signs in again, which comes after all that.
    place.save_with_sign_in(UUID, "third").await;
    assert_eq!((place.next(UUID).await, place.files()), ("third".to_owned(), Vec::new()));
}

/// Also before its first token was saved.
#[tokio::test]
async fn what_was_disconnected_does_not_come_back() {
    let Some(postgres) = Postgres::start("what_was_disconnected_does_not_come_back") else { return };
    let place = Place::on(&postgres);
    for (is_first, is_sign_in) in [(true, true), (true, false), (false, true), (false, false)] {
        place.database.psql("DELETE FROM concur_auth_tokens");
        if !is_first {
            place.save(UUID, "first").await;
        }
        let file = place.save_in_vain(UUID, "second", is_sign_in).await;
        let elsewhere = PostgresStore::new(&place.database.url(), UUID).unwrap().app_id(APP);
        place.database.psql("UPDATE concur_auth_tokens SET lease_owner = NULL, lease_until = NULL");
        let lock = elsewhere.try_lock().await.unwrap().unwrap();
        elsewhere.remove(&lock).await.unwrap();
        elsewhere.unlock(lock).await;
        assert!(place.store(UUID).load().await.unwrap().is_none(), "{is_first} {is_sign_in}");
        assert!(!file.exists());
    }
}

#[tokio::test]
async fn a_file_of_another_database_and_one_that_is_none_are_left_alone() {
    let Some(postgres) = Postgres::start("a_file_of_another_database_and_one_that_is_none_are_left_alone")
    else {
        return;
    };
    let (place, elsewhere) = (Place::on(&postgres), Place::on(&postgres));
    place.save(UUID, "first").await;
    elsewhere.save(UUID, "elsewhere").await;
    let file = place.save_in_vain(UUID, "second", false).await;
    let other = elsewhere.store(UUID).spool(place.spool());
    assert_eq!(other.load().await.unwrap().unwrap().secret(), "elsewhere");
    assert!(other.try_lock().await.unwrap().is_some());
    assert_eq!(place.files(), std::slice::from_ref(&file));
    let broken = place.spool().join("0123456789abcdef.0123456789abcdef0123456789abcdef.spooled");
    fs::write(&broken, "{}").unwrap();
    fs::write(place.spool().join("README"), "mine").unwrap();
    assert_eq!(place.next(UUID).await, "second");
    assert_eq!(place.files(), [broken, place.spool().join("README")]);
}

/// A database that does not answer: the token is on the disk after a second, and goes from there once it is saved.
#[tokio::test]
async fn a_save_that_takes_long_is_on_the_disk_meanwhile() {
    let Some(postgres) = Postgres::shared("a_save_that_takes_long_is_on_the_disk_meanwhile") else { return };
    let place = Place::on(postgres);
    let proxy = postgres::Proxy::before(postgres);
    place.save(UUID, "first").await;
    let store =
        PostgresStore::new(&place.database.url_by(&proxy), UUID).unwrap().app_id(APP).spool(place.spool());
    let lock = store.try_lock().await.unwrap().unwrap();
    let held = proxy.hold_next_request("sign_in = $9,");
    let saving = tokio::spawn(async move { save_with(&store, "second", &lock, false).await });
    until(|| place.files().len() == 1).await;
    drop(held);
    saving.await.unwrap().unwrap();
    assert_eq!(place.files(), Vec::<PathBuf>::new());
    assert!(place.column("token").contains("second"));
}

/// A renewal while the database goes: no request is repeated, and the next process goes on with the new token.
#[tokio::test]
async fn a_renewal_outlives_the_database_and_its_process() {
    let Some(postgres) = Postgres::start("a_renewal_outlives_the_database_and_its_process") else { return };
    let place = Place::on(&postgres);
    let scene = Scene::with(Rotation::AlwaysAndRevokeFamily).await;
    let tokens = || scene.builder().store(place.store(UUID)).build().unwrap();
    let first = tokens().get_valid_refresh_token().await.unwrap();
    let dying = tokens();
    let replies = scene.concur.hold_replies();
    let renewal = tokio::spawn({
        let dying = dying.clone();
        async move { dying.refresh().await.map(|_| ()) }
    });
    until(|| scene.concur.token_requests() == 2).await;
    postgres.stop_immediate();
    replies.release();
    until(|| place.files().iter().any(|file| file.extension().is_some_and(|it| it == "spooled"))).await;
    let text = fs::read_to_string(&place.files()[0]).unwrap();
    assert!(!text.contains(first.secret()));
    let spooled =
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["token"].as_str().unwrap().to_owned();
    assert!(scene.concur.is_live(RefreshTokenObject::from_json(&spooled).unwrap().secret()));
    renewal.abort();
    postgres.start_again();
    // As another process. The one that lives on finds its own save done.
    let next = tokens();
    let second = next.refresh().await.unwrap();
    assert!(scene.concur.is_live(next.get_valid_refresh_token().await.unwrap().secret()));
    assert_ne!(RefreshTokenObject::from_json(&spooled).unwrap().secret(), second.secret());
    assert_eq!((scene.concur.count("refresh_token"), place.files()), (2, Vec::new()));
}

#[cfg(feature = "sealing")]
#[tokio::test]
async fn a_sealed_row_has_a_sealed_spool() {
    use concur_auth::SealingKeys;

    let Some(postgres) = Postgres::start("a_sealed_row_has_a_sealed_spool") else { return };
    let place = Place::on(&postgres);
    let keys: SealingKeys = SealingKeys::generate("k1").unwrap().parse().unwrap();
    let store = || place.store(UUID).sealed_with(keys.clone());
    let lock = store().try_lock().await.unwrap().unwrap();
    postgres.stop_immediate();
    let claimed = store();
    claimed.finish(&token("secret"), None, &lock).await.unwrap_err();
    let text = fs::read_to_string(&place.files()[0]).unwrap();
    assert!(text.contains("v1.k1.") && !text.contains("secret"), "{text}");
    drop(lock);
    postgres.start_again();
    // Without the key, nothing may be done with what is stored.
    let error = place.store(UUID).try_lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("sealed with the key \"k1\""), "{error}");
    assert_eq!(place.files().len(), 1);
    assert_eq!(store().load().await.unwrap().unwrap().secret(), "secret");
    assert_eq!(place.files(), Vec::<PathBuf>::new());
}

#[cfg(feature = "sealing")]
#[tokio::test]
async fn what_waits_on_the_disk_counts_for_its_key_too() {
    let Some(postgres) = Postgres::shared("what_waits_on_the_disk_counts_for_its_key_too") else { return };
    let place = Place::on(postgres);
    place.save(UUID, "first").await;
    place.save(OTHER, "other").await;
    place.spool_for(&[UUID, OTHER], "second").await;
    assert_eq!(place.fleet().count_by_sealing_key(APP).await.unwrap(), [(None, 4)].into());
}

/// For each process with this spool.
#[tokio::test]
async fn a_member_whose_newest_token_waits_on_the_disk_is_shown_so() {
    let test = "a_member_whose_newest_token_waits_on_the_disk_is_shown_so";
    let Some(postgres) = Postgres::shared(test) else { return };
    let place = Place::on(postgres);
    place.save(UUID, "first").await;
    place.save(OTHER, "other").await;
    place.spooled_text("second").await;
    place.database.psql("UPDATE concur_auth_tokens SET state = 'needs_reauthorization'");
    let elsewhere = PostgresFleet::new(&place.database.url()).unwrap();
    for (fleet, unsaved) in [(place.fleet(), true), (elsewhere, false)] {
        let expected = [(UUID, unsaved), (OTHER, false)];
        for members in [fleet.list(APP, None, 10).await.unwrap(), fleet.needing_a_person(APP).await.unwrap()]
        {
            let told = members.iter().map(|member| (&*member.uuid, member.unsaved));
            assert_eq!(told.collect::<Vec<_>>(), expected);
        }
        assert_eq!(fleet.member(APP, UUID).await.unwrap().unwrap().unsaved, unsaved);
    }
    assert_eq!(place.next(UUID).await, "second");
    assert!(!place.fleet().member(APP, UUID).await.unwrap().unwrap().unsaved);
}

/// Neither the database nor the disk takes a token: who saves is told what the database says, and can save again.
#[tokio::test]
async fn where_the_spool_takes_no_file_a_later_attempt_does() {
    let Some(postgres) = Postgres::shared("where_the_spool_takes_no_file_a_later_attempt_does") else {
        return;
    };
    let place = Place::on(postgres);
    place.save(UUID, "first").await;
    let store = place.store(UUID);
    let lock = store.try_lock().await.unwrap().unwrap();
    place.database.psql(
        "ALTER TABLE concur_auth_tokens ADD CONSTRAINT full_disk CHECK (token NOT LIKE '%second%') NOT VALID",
    );
    fs::remove_dir_all(place.spool()).unwrap();
    fs::write(place.spool(), "").unwrap();
    let error = save_with(&store, "second", &lock, false).await.unwrap_err();
    assert!(error.to_string().contains("23514"), "{error}");
    // What may lie there cannot be known.
    let error = place.store(UUID).load().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("could not read the folder {}; check that this user may read it", place.spool().display())
    );
    fs::remove_file(place.spool()).unwrap();
    save_with(&store, "second", &lock, false).await.unwrap_err();
    assert_eq!(place.files().len(), 1);
    drop(lock);
    place.database.psql("ALTER TABLE concur_auth_tokens DROP CONSTRAINT full_disk");
    assert_eq!(place.next(UUID).await, "second");
    assert_eq!(place.files(), Vec::<PathBuf>::new());
}
