//! Claims of tokens that are due.
//!
//! Always: what is returned is locked and was due when it was read under that lock. What cannot be claimed comes back after
//! its pause and does not stop the rest.

use super::{Shared, layout, member_store::is_missing, outlook};
use crate::{Clock as _, DueToken, DueTokens, Error, TokenStore as _, clock, log};

/// How many tokens are looked at in vain before what was found is returned.
const IN_VAIN: usize = 256;

pub(super) async fn claim(shared: &Shared, app_id: &str, most: usize) -> DueTokens {
    let (mut tokens, mut failed) = (Vec::new(), Vec::new());
    let mut in_vain = 0;
    while tokens.len() < most && in_vain < IN_VAIN {
        let now = clock::unix_seconds(shared.clock.now());
        // Not in the condition of a loop: its guard would live as long as the body.
        let taken = shared.index().take_due(now);
        let Some(name) = taken else { break };
        match claim_one(shared, app_id, &name).await {
            Ok(Some(token)) => tokens.push(token),
            Ok(None) => in_vain += 1,
            Err(error) => {
                in_vain += 1;
                shared.index().claimed(&name, now);
                log::event!(warn, name = &*name, %error, cause = log::causes(&error), "could not claim a token that is due");
                failed.push(name.to_string());
            }
        }
    }
    let now = clock::unix_seconds(shared.clock.now());
    let mut due = DueTokens::new(tokens, shared.index().next(now));
    due.failed = failed;
    due
}

/// `None` where the token is not due any more, or another process works on it.
async fn claim_one(shared: &Shared, app_id: &str, name: &str) -> Result<Option<DueToken>, Error> {
    // Not the member's own store, which would make the folder again.
    if is_missing(&layout::member_folder(&shared.place, name)) {
        shared.index().removed(name);
        return Ok(None);
    }
    let file = shared.file(app_id, name);
    let Some(lock) = file.try_lock_ahead_of_time().await? else {
        shared.index().busy(name);
        return Ok(None);
    };
    let stored = file.read_locked(&lock).await?;
    let now = shared.clock.now();
    let seconds = clock::unix_seconds(now);
    let outlook = shared.outlook(&stored, name, now);
    let is_due = outlook.is_some_and(|outlook| outlook.due_at <= seconds);
    let mut index = shared.index();
    index.found(name, outlook, seconds);
    if !is_due {
        return Ok(None);
    }
    index.claimed(name, seconds);
    Ok(Some(DueToken::new(name, outlook::kind(name, stored.token.as_ref()), lock)))
}
