//! What is below the imports is the store in the guide "A store of your own", word for word but for `pub(crate)`.

use std::{fs, io::ErrorKind, path::PathBuf};

use concur_auth::{Error, RefreshTokenObject, StoreLock, TokenStore};

#[derive(Debug)]
pub(crate) struct MyStore(pub(crate) PathBuf);

impl TokenStore for MyStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        match fs::read_to_string(&self.0) {
            Ok(json) => RefreshTokenObject::from_json(&json).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::store("could not read the token", e)),
        }
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        fs::write(&self.0, token.to_json()).map_err(|e| Error::store("could not save the token", e))
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        match fs::remove_file(&self.0) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| Error::store("could not remove the token", e)),
        }
    }
}
