//! The looks into the folder, which find what other processes have connected, renewed and removed.
//!
//! ```text
//! first look:   every token file
//! each minute:  the groups that have changed: members that are new there
//!               members that were new without a token: whether it is there by now
//!               a 60th of the groups: every token file
//! ```
//!
//! Always: where nothing has changed, a minute costs one `stat` for each group and the files of a 60th. What cannot be read is
//! logged and does not stop the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Shared, layout};
use crate::{
    Clock as _, Error, JsonFileStore, Stored, SystemClock, TokenStore as _, clock,
    files::Stamp,
    log,
    store::{file_failure::could_not, member_name::is_pending},
};

const MINUTE: u64 = 60;
/// How many minutes a round through all groups takes.
const ROUND: u64 = 60;
/// How long after its folder was made the token of a new member is expected: longer than a sign-in holds its lock.
const EXPECTED: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Rounds {
    /// What each group looked like at the last look, if a later change is certain to show.
    groups: BTreeMap<String, Option<Stamp>>,
    /// New members that had no token yet.
    expected: BTreeSet<String>,
    /// Members whose token could not be read since they were last taken from here.
    unreadable: Vec<String>,
    /// The group that was read last.
    last_read: String,
    /// Unix seconds of the last look.
    looked_at: Option<u64>,
}

impl Rounds {
    /// The members whose token could not be read since this was last asked.
    pub(super) fn take_unreadable(&mut self) -> Vec<String> {
        std::mem::take(&mut self.unreadable)
    }

    /// Looks into the folder, if the last look is a minute ago.
    pub(super) async fn look(&mut self, shared: &Shared, app_id: &str, now: SystemTime) -> Result<(), Error> {
        let seconds = clock::unix_seconds(now);
        let minutes = match self.looked_at {
            None => ROUND,
            // The clock was set back.
            Some(at) if seconds < at => 1,
            Some(at) => (seconds - at) / MINUTE,
        };
        if minutes == 0 {
            return Ok(());
        }
        let groups = layout::groups(&shared.place).map_err(|e| {
            could_not("read the folder", &shared.place, "check that this user may read it", e)
        })?;
        if self.looked_at.is_none() {
            shared.keep_index();
        }
        let all = groups.len() as u64;
        let share = all.saturating_mul(minutes).div_ceil(ROUND).min(all);
        let after = groups.partition_point(|group| *group <= self.last_read);
        let to_read: BTreeSet<_> = (0..share)
            .filter_map(|n| groups.get((after + usize::try_from(n).unwrap_or(0)) % groups.len()))
            .cloned()
            .collect();
        if let Some(last) = (share as usize).checked_sub(1) {
            self.last_read = groups[(after + last) % groups.len()].clone();
        }
        for name in std::mem::take(&mut self.expected) {
            self.look_at(shared, app_id, &name, now).await;
        }
        self.groups.retain(|group, _| groups.binary_search(group).is_ok());
        for group in groups {
            let is_to_be_read = to_read.contains(&group);
            let folder = shared.place.join(&group);
            // Before the list: what is made in between shows in the next stamp.
            let stamp = Stamp::of_folder(&folder).ok();
            let has_changed = self.groups.get(&group) != Some(&stamp);
            if !is_to_be_read && !has_changed {
                continue;
            }
            self.groups.insert(group.clone(), stamp.filter(|stamp| stamp.is_settled(SystemClock.now())));
            match layout::members(&shared.place, &group) {
                Ok(names) => {
                    for name in names {
                        if is_to_be_read || !shared.index().knows(&name) {
                            self.look_at(shared, app_id, &name, now).await;
                        }
                    }
                }
                Err(error) => {
                    let shown = folder.display();
                    log::event!(warn, folder = %shown, %error, "could not read a folder of tokens; its members are left out");
                    // It is looked at again in a minute.
                    self.groups.insert(group.clone(), None);
                    self.unreadable.push(group);
                }
            }
        }
        self.looked_at = Some(seconds);
        Ok(())
    }

    async fn look_at(&mut self, shared: &Shared, app_id: &str, name: &str, now: SystemTime) {
        let file = shared.file(app_id, name);
        match read(&file).await {
            Ok(stored) => {
                if stored.token.is_none() {
                    if is_new(&layout::member_folder(&shared.place, name)) {
                        self.expected.insert(name.to_owned());
                    } else if is_pending(name) {
                        tidy_up(&file).await;
                    }
                }
                let outlook = shared.outlook(&stored, name, now);
                shared.index().found(name, outlook, clock::unix_seconds(now));
            }
            Err(error) => {
                log::event!(warn, name, %error, cause = log::causes(&error), "could not read a token; it is left out");
                self.unreadable.push(name.to_owned());
            }
        }
    }
}

/// A token that is not there may still lie in what a killed process left, for which the store looks.
async fn read(store: &JsonFileStore) -> Result<Stored, Error> {
    let stored = store.peek()?;
    if stored.token.is_some() { Ok(stored) } else { store.read().await }
}

/// Removes what a sign-in of an unknown user has left that failed; its name is not used again.
async fn tidy_up(store: &JsonFileStore) {
    let is_empty = match store.try_lock().await {
        Ok(Some(lock)) => store.read_locked(&lock).await.is_ok_and(|stored| stored.token.is_none()),
        _ => false,
    };
    if is_empty {
        // What is not this crate's stays, and the folder with it.
        let _ = store.remove_folder();
    }
}

fn is_new(folder: &Path) -> bool {
    let modified = fs::metadata(folder).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemClock.now().duration_since(modified).is_ok_and(|age| age < EXPECTED))
}
