//! The files that a program finds: the first byte says which one, the rest is its content.
#![no_main]

use std::{fs, sync::OnceLock};

use concur_auth::{
    AppCredentials, CredentialSource as _, CredentialsFile, Fleet, FolderFleet, JsonFileStore, TokenStore as _, fuzzing,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let [which, content @ ..] = input else { return };
    let folder = TempDir::new().unwrap();
    let token_file = folder.path().join("refreshTokenObjectFile.json");
    let file = match which % 4 {
        0 => token_file.clone(),
        1 => folder.path().join("refreshTokenObjectFile.json.note"),
        2 => folder.path().join("credentials.json"),
        _ => folder.path().join("fleet.json"),
    };
    fs::write(&file, content).unwrap();
    let told = |outcome: Result<(), concur_auth::Error>| {
        let _ = outcome.map_err(|error| fuzzing::shows_no_secret(&error));
    };
    runtime.block_on(async {
        let store = JsonFileStore::new(&token_file);
        told(store.read().await.map(drop));
        told(CredentialsFile::new(folder.path().join("credentials.json")).credentials().await.map(drop));
        if which % 4 == 3 {
            let app = AppCredentials::new("app", "secret");
            let fleet = Fleet::builder().app(app).store(FolderFleet::new(folder.path())).build().unwrap();
            told(fleet.list(None, 10).await.map(drop));
        }
    });
    // Nothing of the user's is overwritten by a look.
    assert_eq!(fs::read(&file).unwrap(), content);
});
