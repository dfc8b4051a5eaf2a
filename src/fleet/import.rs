//! Taking over the tokens of another place.
//!
//! Always: the token's place is locked there from before it is read until it is saved here, so no process renews it in between. Of
//! two tokens of one member, the one of the later grant stays. The other place keeps its tokens.

use std::{cmp::Ordering, path::Path};

use super::{Fleet, Inner, managers::AskedBy};
use crate::{
    Clock as _, CredentialSource as _, CredentialsFile, Error, ErrorKind, FleetStore, JsonFileStore,
    MemberKind, RefreshTokenObject, StoreLock, Stored, TokenStore,
    clock::SystemClock,
    failed_requests::{REFUSED_BEFORE, is_dead},
    files, log,
    principal::Principal,
    sealing::TokenText,
    store::{BoxFuture, DynFleetStore, DynTokenStore, LockWait, member_name},
};

/// How long a lock is waited for that another process holds.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// What SAP's sample program calls its token file.
const SAMPLES_FILE: &str = "refreshTokenObjectFile.json";
/// How many members of another fleet are listed at once.
const PAGE: usize = 1_000;

/// What became of the tokens of another place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// How many tokens the fleet has taken over.
    pub taken_over: u64,
    /// How many members have the same token here, or a newer one, which stays.
    pub there_already: u64,
    /// Which tokens were refused, by file or name, and why.
    pub refused: Vec<(String, String)>,
}

enum Outcome {
    TakenOver,
    ThereAlready,
}

/// What happened to a token; or an error of this fleet's own store, after which no other token could be taken over.
type OfOne = Result<Result<Outcome, Error>, Error>;

impl Imported {
    fn note(&mut self, what: impl FnOnce() -> String, outcome: Result<Outcome, Error>) {
        match outcome {
            Ok(Outcome::TakenOver) => self.taken_over += 1,
            Ok(Outcome::ThereAlready) => self.there_already += 1,
            Err(error) => self.refuse(what(), &error),
        }
    }

    fn refuse(&mut self, what: String, error: &Error) {
        log::event!(warn, what, %error, cause = log::causes(error), "a token was not taken over");
        self.refused.push((what, error.to_string()));
    }

    fn stopped(&self, error: Error) -> Error {
        let message = format!(
            "stopped after {} tokens were taken over, and the next may have been; call this again once the store of the fleet works, \
             and before the old place is used again",
            self.taken_over
        );
        Error::new(error.kind(), message).transient().caused_by(error)
    }
}

impl Fleet {
    /// Takes over every token file in a folder: each file called `*.json` that holds a refresh token object, those of SAP's sample
    /// program too. A token belongs to the company or user that it names. A `refreshTokenObjectFile.json` that names none, as the
    /// sample's, belongs to the company in `credentials.json` in the same folder. Sealed files are read with the fleet's keys.
    ///
    /// Each file is locked until its token is saved here; of two tokens of one member the one of the later grant stays. The old
    /// files are not changed, but lock files are made next to them. Can be repeated. **End the programs that use them first**: once
    /// this fleet has renewed a token, a program that presents the old token makes Concur revoke both.
    ///
    /// ```no_run
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// let imported = fleet.import_files("/srv/node-script").await?;
    /// for (file, why) in &imported.refused {
    ///     eprintln!("{file}: {why}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the folder cannot be read, or the fleet's store is out of reach. What is wrong with one file is in
    /// [`Imported::refused`].
    pub async fn import_files(&self, folder: impl AsRef<Path>) -> Result<Imported, Error> {
        let folder = std::path::absolute(folder.as_ref()).unwrap_or_else(|_| folder.as_ref().to_owned());
        self.import(move |fleet| Box::pin(async move { fleet.import_files(&folder).await })).await
    }

    /// Takes over the tokens of another fleet store, of the same app: from a folder into PostgreSQL, for example, or back. As
    /// [`import_files`](Self::import_files). A source with a spool must be given its spool folder.
    ///
    /// ```no_run
    /// use concur_auth::FolderFleet;
    ///
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// let imported = fleet.import_fleet(FolderFleet::new("/var/lib/my-app/tokens")).await?;
    /// println!("{} tokens taken over", imported.taken_over);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the members there cannot be listed, or the fleet's store is out of reach; [`ErrorKind::Config`]
    /// when the source is this fleet's own store. What is wrong with one token is in [`Imported::refused`].
    pub async fn import_fleet(&self, source: impl FleetStore) -> Result<Imported, Error> {
        self.import(move |fleet| Box::pin(async move { fleet.import_members(&source).await })).await
    }

    async fn import(
        &self,
        work: impl for<'a> FnOnce(&'a Inner) -> BoxFuture<'a, (Imported, Changed)> + Send + 'static,
    ) -> Result<Imported, Error> {
        let (imported, changed) = self.0.call(work).await?;
        for (kind, name) in changed {
            // What is in memory is the member's token before.
            if self.0.managers.has(kind, &name) {
                self.0.manager(kind, &name, AskedBy::Program).read_status().await;
            }
        }
        Ok(imported)
    }
}

type Changed = Vec<(MemberKind, String)>;

impl Inner {
    async fn import_files(&self, folder: &Path) -> Result<(Imported, Changed), Error> {
        let (mut imported, mut changed) = (Imported::default(), Vec::new());
        let mut paths = files::paths_in(folder).map_err(|e| {
            Error::store(
                format!("could not read the folder {}; check that this user may read it", folder.display()),
                e,
            )
        })?;
        paths.retain(|path| {
            path.extension().is_some_and(|extension| extension == "json")
                && path.file_name().is_some_and(|name| name != "credentials.json" && name != "fleet.json")
        });
        let credentials = folder.join("credentials.json");
        let company = company_in(&credentials).await.unwrap_or_else(|error| {
            imported.refuse(credentials.display().to_string(), &error);
            None
        });
        for path in paths {
            let text = self.keys.clone().map_or_else(TokenText::default, |keys| TokenText::sealed(keys, ""));
            let source = JsonFileStore::new(&path).with_text(text).boxed().into_dyn();
            let is_samples = path.file_name().is_some_and(|name| name == SAMPLES_FILE);
            let company = company.as_deref().filter(|_| is_samples);
            let outcome = self.import_token(&*source, company, None, &mut changed).await;
            imported.note(|| path.display().to_string(), outcome.map_err(|e| imported.stopped(e))?);
        }
        Ok((imported, changed))
    }

    async fn import_members(&self, source: &impl FleetStore) -> Result<(Imported, Changed), Error> {
        let (mut imported, mut changed) = (Imported::default(), Vec::new());
        let app_id = self.app.app_id();
        let place = self.store.describe();
        if DynFleetStore::describe(source) == place {
            let message = format!(
                "{place} cannot be imported into itself; pass the fleet store that the tokens are to come from"
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
        let mut after: Option<String> = None;
        loop {
            let page = DynFleetStore::list(source, app_id, after.as_deref(), PAGE).await?;
            for member in &page {
                let store = DynFleetStore::of(source, app_id, &member.uuid).into_dyn();
                if store.read().await.is_ok_and(|stored| stored.token.is_none()) {
                    continue;
                }
                let outcome =
                    self.import_token(&*store, None, Some((&member.uuid, member.kind)), &mut changed).await;
                imported.note(|| member.uuid.clone(), outcome.map_err(|e| imported.stopped(e))?);
            }
            let Some(last) = page.last() else { return Ok((imported, changed)) };
            after = Some(last.uuid.clone());
        }
    }

    /// Of the member of this name, or whose it says that it is, or of this company.
    async fn import_token(
        &self,
        source: &dyn DynTokenStore,
        company: Option<&str>,
        member: Option<(&str, MemberKind)>,
        changed: &mut Changed,
    ) -> OfOne {
        let source_lock = match lock(source).await {
            Ok(lock) => lock,
            Err(e) => return Ok(Err(e)),
        };
        let outcome = match read(source, &source_lock, company, member).await {
            Ok((name, kind, token)) => {
                let outcome = self.take_over(&name, &token, source, &source_lock).await;
                if matches!(outcome, Ok(Ok(Outcome::TakenOver))) {
                    changed.push((kind, name));
                }
                outcome
            }
            Err(e) => Ok(Err(e)),
        };
        // A lock that could not be given back ends with its process, or lapses.
        let _ = source.unlock(source_lock).await;
        outcome
    }

    async fn take_over(
        &self,
        name: &str,
        token: &RefreshTokenObject,
        source: &dyn DynTokenStore,
        source_lock: &StoreLock,
    ) -> OfOne {
        let store = self.store.of(self.app.app_id(), name).into_dyn();
        let replaced = async {
            let ours = lock(&*store).await?;
            let replaced = replace(&*store, &ours, name, token, source, source_lock).await;
            let _ = store.unlock(ours).await;
            replaced
        };
        match replaced.await {
            Err(e) if e.is_transient() => Err(e),
            outcome => Ok(outcome),
        }
    }
}

/// Whose token is there, and the token.
async fn read(
    source: &dyn DynTokenStore,
    lock: &StoreLock,
    company: Option<&str>,
    member: Option<(&str, MemberKind)>,
) -> Result<(String, MemberKind, RefreshTokenObject), Error> {
    let Stored { token, note, .. } = source.read_locked(lock).await?;
    let token = token.ok_or_else(|| {
        let message = format!("there is no refresh token in {}", source.describe());
        Error::new(ErrorKind::Config, message)
    })?;
    if is_dead(&token, note.as_deref()) {
        return Err(Error::new(ErrorKind::ReauthorizationRequired, REFUSED_BEFORE));
    }
    let (name, kind) = match member {
        Some((name, kind)) => (name.to_owned(), kind),
        None => (owner(&token, company)?, member_name::kind_of_token(&token)),
    };
    Ok((name, kind, token))
}

/// Unless what is stored is as new.
async fn replace(
    store: &dyn DynTokenStore,
    lock: &StoreLock,
    name: &str,
    token: &RefreshTokenObject,
    source: &dyn DynTokenStore,
    source_lock: &StoreLock,
) -> Result<Outcome, Error> {
    let Stored { token: there, note, .. } = store.read_locked(lock).await?;
    if let Some(there) = there.filter(|there| !is_dead(there, note.as_deref())) {
        match token.compare_age(&there) {
            Some(Ordering::Greater) => {}
            Some(_) => return Ok(Outcome::ThereAlready),
            None => {
                let message = format!(
                    "the fleet has another token of {name}, and it cannot be told which of them comes from the later grant; find out, \
                     and pass that token to Fleet::adopt"
                );
                return Err(Error::new(ErrorKind::Config, message));
            }
        }
    }
    if source_lock.lease().is_some() {
        // To wait for the other lock took time.
        source.prolong(source_lock).await?;
    }
    store.replace(token, lock).await?;
    Ok(Outcome::TakenOver)
}

/// Not of a token in doubt: its successor may come yet.
async fn lock(store: &dyn DynTokenStore) -> Result<StoreLock, Error> {
    let mut wait = LockWait::new(store.longest_poll(), LOCK_TIMEOUT);
    loop {
        if let Some(lock) = store.try_lock_ahead_of_time().await? {
            return Ok(lock);
        }
        if wait.is_over() {
            return Err(wait.timed_out(&store.describe()));
        }
        // Real time: another process is waited for.
        SystemClock.sleep(wait.pause()).await;
    }
}

fn owner(token: &RefreshTokenObject, company: Option<&str>) -> Result<String, Error> {
    let named = match Principal::of(token) {
        Some(Principal::Company(uuid) | Principal::User(uuid)) => Some(uuid),
        None => company.map(str::to_owned),
    };
    let Some(name) = named else {
        let message = format!(
            "the token does not say whose it is, and this is no {SAMPLES_FILE} with a credentials.json next to it that has a \
             companyUUID; find out, and pass it to Fleet::adopt with that UUID"
        );
        return Err(Error::new(ErrorKind::Config, message));
    };
    Ok(member_name::normalized(&name)?.into_owned())
}

/// The company of the tutorial's file, if there is one.
async fn company_in(path: &Path) -> Result<Option<String>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let credentials = CredentialsFile::new(path).credentials().await?;
    Ok(credentials.company_uuid().map(str::to_owned))
}
