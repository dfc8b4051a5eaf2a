//! The store of one member: a token file in a folder of its own.
//!
//! Always: a read makes no folder, and nothing is read from the folder of another app. What is saved or removed through it is known to the index at once.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Shared, outlook::Outlook};
use crate::{
    Clock as _, Error, RefreshTokenObject, StoreLock, Stored, TokenStore, files,
    store::{
        JsonFileStore,
        delegated::{Wrapper, delegate_others},
        file_failure::could_not,
    },
};

/// Small, because a process may hold many.
#[derive(Debug)]
pub(super) struct MemberStore {
    file: JsonFileStore,
    shared: Arc<Shared>,
    app_id: Arc<str>,
}

impl MemberStore {
    pub(super) fn new(shared: Arc<Shared>, app_id: Arc<str>, name: &str) -> Self {
        let file = shared.file(&app_id, name);
        Self { file, shared, app_id }
    }

    pub(super) fn file(&self) -> &JsonFileStore {
        &self.file
    }

    fn name(&self) -> &str {
        self.file.folder().file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Makes the folders that are missing.
    fn make_folder(&self) -> Result<(), Error> {
        self.shared.make(&self.app_id)?;
        let folder = self.file.folder();
        if folder.is_dir() {
            return Ok(());
        }
        let made = files::create_private_folder(files::folder_of(folder))
            .and_then(|()| files::create_private_folder(folder));
        let advice = "check that this user can create folders there";
        made.map_err(|e| could_not("make the folder", folder, advice, e))
    }

    fn saved(&self, token: &RefreshTokenObject) {
        let name = self.name();
        let outlook = Outlook::of_token(token, name, self.shared.clock.now(), self.shared.margin);
        self.shared.tell(|index| index.saved(name, outlook));
    }
}

impl Wrapper for MemberStore {
    type Inner = JsonFileStore;

    fn inner(&self) -> &JsonFileStore {
        &self.file
    }
}

impl TokenStore for MemberStore {
    delegate_others!(JsonFileStore as TokenStore);

    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.read().await?.token)
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.shared.check(&self.app_id)?;
        match self.file.read().await {
            // A member that has never been connected.
            Err(_) if is_missing(self.file.folder()) => Ok(Stored::default()),
            read => read,
        }
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.make_folder()?;
        self.file.try_lock().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        self.file.save(token, lock).await?;
        self.saved(token);
        Ok(())
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.file.remove(lock).await?;
        self.shared.tell(|index| index.removed(self.name()));
        Ok(())
    }
}

pub(super) fn is_missing(folder: &Path) -> bool {
    folder.try_exists().is_ok_and(|exists| !exists)
}
