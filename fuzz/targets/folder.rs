//! The files that a program finds: the first byte says which one, the rest is its content. A spool's file is found by its name: the
//! first line.
#![no_main]

use std::{fs, path::Path, sync::OnceLock};

use concur_auth::{
    AppCredentials, CredentialSource as _, CredentialsFile, Fleet, FolderFleet, JsonFileStore,
    TokenStore as _, fuzzing,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let [which, content @ ..] = input else { return };
    let folder = TempDir::new().unwrap();
    if which % 5 == 4 {
        return spool(folder.path(), content);
    }
    let token_file = folder.path().join("refreshTokenObjectFile.json");
    let file = match which % 5 {
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
        if which % 5 == 3 {
            let app = AppCredentials::new("app", "secret");
            let fleet = Fleet::builder().app(app).store(FolderFleet::new(folder.path())).build().unwrap();
            told(fleet.list(None, 10).await.map(drop));
        }
    });
    // Nothing of the user's is overwritten by a look.
    assert_eq!(fs::read(&file).unwrap(), content);
});

fn spool(folder: &Path, input: &[u8]) {
    let Some((name, content)) = str::from_utf8(input).ok().and_then(|input| input.split_once('\n')) else {
        return;
    };
    // A name that a file cannot have, or that leads out of the folder.
    if name.contains('/') || fs::write(folder.join(name), content).is_err() {
        return;
    }
    fuzzing::spool(folder);
    assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), content);
}
