//! Tokens move from another place into a fleet: each once, under its lock, and never in place of a newer one.

#![cfg(feature = "simulator")]

#[cfg(all(feature = "postgres", unix))]
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use concur_auth::{
    AppCredentials, ErrorKind, Fleet, FleetStore, FolderFleet, Grant, JsonFileStore, RefreshTokenObject,
    TokenStore as _,
    simulator::{ConcurSimulator, Rotation},
};
use support::really_wait;
use tempfile::TempDir;

const APP: &str = "9a6c3e1c-1111-4000-8000-000000000000";
const NOW: u64 = 1_800_000_000;

fn uuid(number: usize) -> String {
    format!("{number:08x}-0000-4000-8000-{number:012x}")
}

/// `age`: the larger, the older.
fn json(secret: &str, company: Option<&str>, age: u64) -> String {
    let company = company.map(|company| format!(r#", "companyUUID": "{company}""#)).unwrap_or_default();
    format!(
        r#"{{"refresh_token": "{secret}", "refresh_expires_in": {}{company}}}"#,
        NOW + 1_000_000_000 - age
    )
}

fn token(secret: &str, company: Option<&str>, age: u64) -> RefreshTokenObject {
    RefreshTokenObject::from_json(&json(secret, company, age)).unwrap()
}

async fn save(store: &impl FleetStore, name: &str, token: &RefreshTokenObject) {
    let store = store.of(APP, name);
    let lock = store.try_lock().await.unwrap().unwrap();
    store.save(token, &lock).await.unwrap();
    store.unlock(lock).await;
}

async fn secret_in(store: &impl FleetStore, name: &str) -> Option<String> {
    store.of(APP, name).load().await.unwrap().map(|token| token.secret().to_owned())
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn files(&self) -> PathBuf {
        let folder = self.dir.path().join("files");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.files().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn store(&self, name: &str) -> FolderFleet {
        FolderFleet::new(self.dir.path().join(name))
    }
}

fn fleet(store: impl FleetStore) -> Fleet {
    Fleet::builder().app(AppCredentials::new(APP, "secret")).store(store).build().unwrap()
}

#[tokio::test]
async fn token_files_are_taken_over_and_what_is_wrong_is_told_by_file() {
    let place = Place::new();
    let files = [
        place.write("a.json", &json("a", Some(&uuid(1)), 0)),
        place.write("b.json", &json("b", Some(&uuid(2).to_uppercase()), 0)),
        place.write("broken.json", r#"{"refresh_token": "#),
        // What SAP's sample program leaves: its token names no company.
        place.write("refreshTokenObjectFile.json", &json("sample", None, 0)),
    ];
    let credentials = format!(r#"{{"appID": "{APP}", "clientSecret": "s", "companyUUID": "{}"}}"#, uuid(3));
    place.write("credentials.json", &credentials);
    place.write("notes.txt", "mine");
    let store = place.store("tokens");
    let fleet = fleet(store.clone());
    let imported = fleet.import_files(place.files()).await.unwrap();
    assert_eq!((imported.taken_over, imported.there_already), (3, 0));
    let broken = format!("there is no refresh token in {}", files[2].display());
    assert_eq!(imported.refused, [(files[2].display().to_string(), broken)]);
    for (number, secret) in [(1, "a"), (2, "b"), (3, "sample")] {
        assert_eq!(secret_in(&store, &uuid(number)).await.as_deref(), Some(secret));
        assert_eq!(fleet.company(&uuid(number)).get_valid_refresh_token().await.unwrap().secret(), secret);
    }
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), json("a", Some(&uuid(1)), 0), "the files stay");
    let again = fleet.import_files(place.files()).await.unwrap();
    assert_eq!((again.taken_over, again.there_already, again.refused.len()), (0, 3, 1));

    fs::remove_file(place.files().join("credentials.json")).unwrap();
    let without = fleet.import_files(place.files()).await.unwrap();
    let why = &without.refused[1].1;
    assert!(
        why.starts_with(
            "the token does not say whose it is, and this is no refreshTokenObjectFile.json with"
        ),
        "{why}"
    );
    let missing = fleet.import_files(place.dir.path().join("none")).await.unwrap_err();
    assert!(missing.to_string().starts_with("could not read the folder"), "{missing}");
}

/// By the date of its grant, or else by its expiry: servers may extend no token's life.
#[tokio::test]
async fn the_token_of_the_later_grant_stays() {
    let place = Place::new();
    let store = place.store("tokens");
    let fleet = fleet(store.clone());
    let granted =
        |json: String, at: u64| json.replace('}', &format!(r#", "refreshTokenReceivedAt": {at}}}"#));
    let of = |secret: &str, uuid: &str, (age, granted_at): (u64, Option<u64>)| {
        let json = json(secret, Some(uuid), age);
        granted_at.map_or(json.clone(), |at| granted(json, at))
    };
    for (number, here, there, stays) in [
        (1, (5, None), (3, None), Some("there")),
        (2, (3, None), (5, None), Some("here")),
        (3, (4, None), (4, None), None),
        (4, (3, Some(NOW)), (5, Some(NOW + 1)), Some("there")),
        (5, (4, Some(NOW)), (4, Some(NOW - 1)), Some("here")),
        (6, (4, Some(NOW)), (3, None), Some("there")),
    ] {
        let uuid = uuid(number);
        let token = RefreshTokenObject::from_json(&of("here", &uuid, here)).unwrap();
        save(&store, &uuid, &token).await;
        // The program has it in memory already.
        let held = fleet.company(&uuid);
        assert_eq!(held.get_valid_refresh_token().await.unwrap().secret(), "here");
        let path = place.write(&format!("{number}.json"), &of("there", &uuid, there));
        let imported = fleet.import_files(place.files()).await.unwrap();
        assert_eq!(imported.taken_over, u64::from(stays == Some("there")), "{number}");
        assert_eq!(imported.there_already, u64::from(stays == Some("here")), "{number}");
        if stays.is_none() {
            let (file, why) = &imported.refused[0];
            assert_eq!(file, &path.display().to_string());
            assert!(
                why.starts_with(&format!("the fleet has another token of {uuid}, and it cannot be told")),
                "{why}"
            );
        }
        let now = held.get_valid_refresh_token().await.unwrap();
        assert_eq!(now.secret(), stays.unwrap_or("here"));
        fs::remove_file(path).unwrap();
    }
}

/// Only the sample's own file is the company's that the credentials name: a backup next to it may be another's.
#[tokio::test]
async fn a_token_that_names_nobody_is_not_guessed() {
    let place = Place::new();
    place.write("backup.json", &json("backup", None, 0));
    place.write("credentials.json", "{");
    place.write("refreshTokenObjectFile.json", &json("sample", None, 0));
    let fleet = fleet(place.store("tokens"));
    let refused = async || {
        let imported = fleet.import_files(place.files()).await.unwrap();
        let names = imported.refused.iter().map(|(file, _)| file.rsplit('/').next().unwrap().to_owned());
        (imported.taken_over, names.collect::<Vec<_>>())
    };
    let all = ["credentials.json", "backup.json", "refreshTokenObjectFile.json"].map(str::to_owned).to_vec();
    assert_eq!(refused().await, (0, all));
    let credentials = format!(r#"{{"appID": "{APP}", "clientSecret": "s", "companyUUID": "{}"}}"#, uuid(3));
    place.write("credentials.json", &credentials);
    assert_eq!(refused().await, (1, vec!["backup.json".to_owned()]));
}

#[cfg(feature = "sealing")]
#[tokio::test]
async fn sealed_files_are_read_with_the_keys_of_the_fleet() {
    use concur_auth::SealingKeys;

    let place = Place::new();
    let keys: SealingKeys = SealingKeys::generate("k1").unwrap().parse().unwrap();
    let file = JsonFileStore::new(place.files().join("a.json")).sealed_with(keys.clone());
    let lock = file.try_lock().await.unwrap().unwrap();
    file.save(&token("sealed", Some(&uuid(1)), 0), &lock).await.unwrap();
    file.unlock(lock).await;
    let imported = fleet(place.store("tokens")).import_files(place.files()).await.unwrap();
    assert_eq!(imported.taken_over, 0);
    assert!(imported.refused[0].1.contains("sealed with the key \"k1\""), "{imported:?}");
    let builder = Fleet::builder().app(AppCredentials::new(APP, "secret")).store(place.store("tokens"));
    let with_keys = builder.sealed_with(keys.clone()).build().unwrap();
    assert_eq!(with_keys.import_files(place.files()).await.unwrap().taken_over, 1);
    let sealed = place.store("tokens").sealed_with(keys);
    assert_eq!(secret_in(&sealed, &uuid(1)).await.as_deref(), Some("sealed"));
}

/// While another process has the lock, it may be renewing: what it saves is what is taken over.
#[tokio::test]
async fn the_lock_of_each_source_is_waited_for() {
    let place = Place::new();
    let path = place.write("a.json", &json("old", Some(&uuid(1)), 1));
    let source = JsonFileStore::new(&path);
    let lock = source.try_lock().await.unwrap().unwrap();
    let store = place.store("tokens");
    let fleet = fleet(store.clone());
    let import = tokio::spawn(async move { fleet.import_files(path.parent().unwrap()).await });
    really_wait(std::time::Duration::from_millis(100)).await;
    assert!(!import.is_finished());
    assert_eq!(secret_in(&store, &uuid(1)).await, None);
    source.save(&token("new", Some(&uuid(1)), 0), &lock).await.unwrap();
    source.unlock(lock).await;
    assert_eq!(import.await.unwrap().unwrap().taken_over, 1);
    assert_eq!(secret_in(&store, &uuid(1)).await.as_deref(), Some("new"));
}

/// The same with a fleet as the source.
async fn waits_for_the_lock<A: FleetStore + Clone, B: FleetStore + Clone>(from: A, to: B) {
    let name = uuid(1);
    save(&from, &name, &token("old", Some(&name), 1)).await;
    let source = from.of(APP, &name);
    let lock = source.try_lock().await.unwrap().unwrap();
    let fleet = fleet(to.clone());
    let import = tokio::spawn(async move { fleet.import_fleet(from).await });
    really_wait(std::time::Duration::from_millis(300)).await;
    assert!(!import.is_finished());
    source.save(&token("new", Some(&name), 0), &lock).await.unwrap();
    source.unlock(lock).await;
    assert_eq!(import.await.unwrap().unwrap().taken_over, 1);
    assert_eq!(secret_in(&to, &name).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn the_lock_of_a_member_is_waited_for() {
    let place = Place::new();
    waits_for_the_lock(place.store("from"), place.store("to")).await;
}

/// 2,100 members are more than two pages.
async fn moves<A: FleetStore + Clone, B: FleetStore + Clone>(from: A, to: B, count: usize) {
    for number in 0..count {
        save(&from, &uuid(number), &token(&format!("of {number}"), Some(&uuid(number)), 1)).await;
    }
    save(&to, &uuid(0), &token("newer", Some(&uuid(0)), 0)).await;
    let fleet = fleet(to.clone());
    let imported = fleet.import_fleet(from).await.unwrap();
    assert_eq!((imported.taken_over, imported.there_already), (count as u64 - 1, 1));
    assert_eq!(imported.refused, []);
    assert_eq!(secret_in(&to, &uuid(0)).await.as_deref(), Some("newer"));
    for number in 1..count {
        assert_eq!(secret_in(&to, &uuid(number)).await, Some(format!("of {number}")));
    }
    assert_eq!(fleet.health().await.unwrap().active, count as u64);
}

#[tokio::test]
async fn a_fleets_folder_moves_into_another() {
    let place = Place::new();
    moves(place.store("from"), place.store("to"), 2_100).await;
}

/// A refused token is no use in the new place, and a member without a token is none.
#[tokio::test]
async fn a_dead_token_is_refused_and_one_that_was_signed_out_left_out() {
    let place = Place::new();
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let app = concur.app();
    let fleet = |store: FolderFleet| {
        let app = AppCredentials::new(app.id(), app.secret());
        Fleet::builder().app(app).store(store).base_uri(concur.base_uri()).build().unwrap()
    };
    let from = fleet(place.store("from"));
    let [dead, signed_out, live] = std::array::from_fn(|_| concur.add_company());
    for company in [&dead, &signed_out, &live] {
        from.connect(Grant::company_request_token(company.uuid(), company.request_token())).await.unwrap();
    }
    from.disconnect(signed_out.uuid()).await.unwrap();
    concur.refuse_principal(dead.uuid(), 108);
    from.company(dead.uuid()).refresh().await.unwrap_err();
    drop(from);
    let imported = fleet(place.store("to")).import_fleet(place.store("from")).await.unwrap();
    assert_eq!((imported.taken_over, imported.there_already), (1, 0));
    let why = "Concur has refused this refresh token before; sign in again".to_owned();
    assert_eq!(imported.refused, [(dead.uuid().to_owned(), why)]);
}

#[tokio::test]
async fn a_fleet_is_not_imported_into_itself() {
    let place = Place::new();
    save(&place.store("tokens"), &uuid(1), &token("a", Some(&uuid(1)), 0)).await;
    let error = fleet(place.store("tokens")).import_fleet(place.store("tokens")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("cannot be imported into itself; pass the fleet store"), "{error}");
}

/// The folder of another app is refused as a whole.
#[tokio::test]
async fn the_folder_of_another_app_is_refused() {
    let place = Place::new();
    save(&place.store("from"), &uuid(1), &token("a", Some(&uuid(1)), 0)).await;
    let other =
        Fleet::builder().app(AppCredentials::new("another", "s")).store(place.store("to")).build().unwrap();
    let error = other.import_fleet(place.store("from")).await.unwrap_err();
    assert!(error.to_string().contains("not of app another"), "{error}");
    assert!(!Path::new(&place.dir.path().join("to")).exists());
}

/// No token can be read from it or saved to it, for now.
#[derive(Debug)]
struct OutOfReach;

fn out_of_reach() -> concur_auth::Error {
    concur_auth::Error::store("the database is out of reach", "connection refused").transient()
}

impl concur_auth::TokenStore for OutOfReach {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, concur_auth::Error> {
        Err(out_of_reach())
    }

    async fn save(
        &self,
        _: &RefreshTokenObject,
        _: &concur_auth::StoreLock,
    ) -> Result<(), concur_auth::Error> {
        Err(out_of_reach())
    }

    async fn remove(&self, _: &concur_auth::StoreLock) -> Result<(), concur_auth::Error> {
        Err(out_of_reach())
    }
}

impl FleetStore for OutOfReach {
    fn of(&self, _: &str, _: &str) -> concur_auth::BoxedStore {
        OutOfReach.boxed()
    }

    async fn claim_due(&self, _: &str, _: usize) -> Result<concur_auth::DueTokens, concur_auth::Error> {
        Err(out_of_reach())
    }

    async fn list(
        &self,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<concur_auth::FleetMember>, concur_auth::Error> {
        Err(out_of_reach())
    }

    async fn assign(&self, _: &str, _: &str, _: &str) -> Result<(), concur_auth::Error> {
        Err(out_of_reach())
    }
}

/// What is wrong with a file concerns that file. What is wrong with the fleet's store concerns them all.
#[tokio::test]
async fn an_import_of_files_ends_where_the_fleets_store_does() {
    let place = Place::new();
    place.write("a.json", &json("a", Some(&uuid(1)), 0));
    let locked = place.write("b.json", &json("b", Some(&uuid(2)), 0));
    // No lock file can be made in its place.
    fs::create_dir(place.files().join("b.json.lock")).unwrap();
    let error = fleet(OutOfReach).import_files(place.files()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().starts_with("stopped after 0 tokens were taken over"), "{error}");

    let store = place.store("tokens");
    let imported = fleet(store.clone()).import_files(place.files()).await.unwrap();
    assert_eq!((imported.taken_over, imported.refused.len()), (1, 1), "{imported:?}");
    assert_eq!(imported.refused[0].0, locked.display().to_string());
    assert_eq!(secret_in(&store, &uuid(1)).await.as_deref(), Some("a"));
    assert_eq!(secret_in(&store, &uuid(2)).await, None);
}

#[cfg(all(feature = "postgres", unix))]
mod with_postgres {
    use concur_auth::PostgresFleet;

    use super::*;
    use crate::postgres::Postgres;

    #[tokio::test]
    async fn the_lease_of_a_member_is_waited_for() {
        let Some(postgres) = Postgres::shared("the_lease_of_a_member_is_waited_for") else { return };
        let place = Place::new();
        let database = postgres.database();
        database.psql(&PostgresFleet::schema());
        waits_for_the_lock(PostgresFleet::new(&database.url()).unwrap(), place.store("to")).await;
    }

    /// What could not be saved may be saved nevertheless: the caller is told, and no other source is touched.
    #[tokio::test]
    async fn a_move_ends_where_the_database_does() {
        let Some(postgres) = Postgres::start("a_move_ends_where_the_database_does") else { return };
        let place = Place::new();
        let database = postgres.database();
        database.psql(&PostgresFleet::schema());
        let fleet = fleet(PostgresFleet::new(&database.url()).unwrap());
        for number in 1..4 {
            save(&place.store("from"), &uuid(number), &token("a", Some(&uuid(number)), 0)).await;
        }
        postgres.stop_immediate();
        let error = fleet.import_fleet(place.store("from")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(error.to_string().starts_with("stopped after 0 tokens were taken over"), "{error}");
        postgres.start_again();
        assert_eq!(fleet.import_fleet(place.store("from")).await.unwrap().taken_over, 3);
    }

    #[tokio::test]
    async fn a_fleet_moves_from_a_folder_into_postgres_and_back() {
        let Some(postgres) = Postgres::shared("a_fleet_moves_from_a_folder_into_postgres_and_back") else {
            return;
        };
        let place = Place::new();
        for is_back in [false, true] {
            let database = postgres.database();
            database.psql(&PostgresFleet::schema());
            let table = PostgresFleet::new(&database.url()).unwrap();
            if is_back {
                moves(table, place.store("back"), 100).await;
            } else {
                moves(place.store("there"), table, 100).await;
            }
        }
    }
}
