//! A token that was signed in under a pending name moves to its member.
//!
//! Always: the token is in one of the two places, also after a crash, and no process waits for a lock while it holds another.

use std::{sync::Arc, time::Duration};

use super::{Shared, member_store::MemberStore, outlook};
use crate::{
    Clock as _, Error, ErrorKind, JsonFileStore, RefreshTokenObject, StoreLock, Stored, TokenStore as _,
    failed_requests::is_dead,
    log,
    store::{LONGEST_POLL, LockWait},
};

/// As long as a manager waits by default.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

pub(super) async fn assign(
    shared: &Arc<Shared>,
    app_id: &Arc<str>,
    pending: &str,
    principal: &str,
) -> Result<(), Error> {
    if pending == principal {
        let message =
            format!("{pending} cannot be assigned to itself; pass the UUID of the user who has signed in");
        return Err(Error::new(ErrorKind::Config, message));
    }
    // A process that was killed may have sealed it for its new place already.
    let text = shared.text(app_id, pending).or_of(&shared.text(app_id, principal));
    let from = shared.file(app_id, pending).with_text(text);
    // Nothing is made for a token that is not there.
    if from.folder().is_dir() {
        usable(from.read().await?, pending, &from)?;
    } else {
        return Err(no_token(pending, &from));
    }
    let to = MemberStore::new(Arc::clone(shared), Arc::clone(app_id), principal);
    let (lock, from_lock) = both_locks(shared, &to, &from).await?;
    // The lock of the destination has brought what a killed process left there into its place.
    let token = usable(from.read_locked(&from_lock).await?, pending, &from)?;
    to.file().take_over(&token, &lock, &from, &from_lock)?;
    let outlook = outlook::Outlook::of_token(&token, principal, shared.clock.now(), shared.margin);
    shared.tell(|index| {
        index.removed(pending);
        index.saved(principal, outlook);
    });
    // Windows removes no folder in which a file is open. Who gets the lock in between finds no token.
    drop(from_lock);
    if let Err(error) = from.remove_folder() {
        let folder = from.folder().display();
        log::event!(warn, %folder, %error, "could not remove the folder of a token that was assigned; remove it by hand");
    }
    Ok(())
}

async fn both_locks(
    shared: &Shared,
    to: &MemberStore,
    from: &JsonFileStore,
) -> Result<(StoreLock, StoreLock), Error> {
    let mut wait = LockWait::new(LONGEST_POLL, LONGEST_WAIT);
    loop {
        let busy = match to.try_lock().await? {
            Some(lock) => match from.try_lock().await? {
                Some(from_lock) => return Ok((lock, from_lock)),
                None => from.describe(),
            },
            None => to.describe(),
        };
        if wait.is_over() {
            return Err(wait.timed_out(&busy));
        }
        shared.clock.sleep(wait.pause()).await;
    }
}

/// A token that is no use to its user must not take the place of one that may be.
fn usable(stored: Stored, pending: &str, from: &JsonFileStore) -> Result<RefreshTokenObject, Error> {
    let token = stored.token.ok_or_else(|| no_token(pending, from))?;
    if is_dead(&token, stored.note.as_deref()) {
        let message = format!(
            "Concur has refused the token of {pending} since it was saved; let the user sign in again"
        );
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(token)
}

fn no_token(pending: &str, from: &JsonFileStore) -> Error {
    let message = format!(
        "there is no token of {pending} in {}; it may have been assigned already: look at the list of members, or let the user \
         sign in again",
        from.folder().display()
    );
    Error::new(ErrorKind::Config, message)
}
