//! Moves tokens into a fleet: from the files of SAP's sample program, and from a table of one's own.
//!
//! ```text
//! cargo run --example import --features simulator
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{self, Write},
};

use concur_auth::{
    AppCredentials, Credentials, Fleet, FolderFleet, MemoryStore, RefreshTokenObject, TokenManager,
    simulator::ConcurSimulator,
};

/// The table of a program that kept its tokens by itself. Its lock stands for `SELECT … FOR UPDATE`.
type Table = tokio::sync::Mutex<BTreeMap<String, String>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir()?;

    // What other programs have left: a folder of files, and a table.
    let files = dir.path().join("node-script");
    fs::create_dir(&files)?;
    let first = concur.add_company();
    fs::write(files.join("refreshTokenObjectFile.json"), signed_in(&concur, &first).await?.to_json())?;
    fs::write(files.join("half-written.json"), "{\"refresh_token\": ")?;
    let second = concur.add_company();
    let table = Table::default();
    let row = signed_in(&concur, &second).await?.to_json();
    table.lock().await.insert(second.uuid().to_owned(), row);

    let app = concur.app();
    let fleet = Fleet::builder()
        .app(AppCredentials::new(app.id(), app.secret()))
        .base_uri(concur.base_uri())
        .store(FolderFleet::new(dir.path().join("tokens"))) // or a PostgresFleet
        .build()?;

    // The programs that use the files have ended.
    let imported = fleet.import_files(&files).await?;
    writeln!(out, "{} taken over, {} there already", imported.taken_over, imported.there_already)?;
    for (file, why) in &imported.refused {
        writeln!(out, "refused {}: {why}", file.rsplit(['/', '\\']).next().unwrap_or(file))?;
    }

    // Of a table of one's own, row by row: a row is locked until its token is saved here, and only then removed.
    let mut rows = table.lock().await;
    for (uuid, json) in rows.clone() {
        fleet.adopt(&uuid, RefreshTokenObject::from_json(&json)?).await?;
        rows.remove(&uuid);
    }

    for company in [&first, &second] {
        let access = fleet.company(company.uuid()).access_token().await?;
        writeln!(out, "{}: a token for {}", company.uuid(), access.geolocation())?;
    }
    writeln!(out, "{} requests were sent for the two sign-ins, none for the move", concur.token_requests())?;
    Ok(())
}

/// As another program has signed it in.
async fn signed_in(
    concur: &ConcurSimulator,
    company: &concur_auth::simulator::SimulatedCompany,
) -> Result<RefreshTokenObject, concur_auth::Error> {
    let app = concur.app();
    let credentials =
        Credentials::new(app.id(), app.secret()).company(company.uuid(), company.request_token());
    let tokens = TokenManager::builder()
        .credentials(credentials)
        .base_uri(concur.base_uri())
        .store(MemoryStore::new())
        .build()?;
    tokens.get_valid_refresh_token().await
}
