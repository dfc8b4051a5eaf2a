//! The list of members, read from their files.
//!
//! Always: nothing is locked and nothing written, and no more files are read than a page needs.

use std::{io, path::Path, time::SystemTime};

use super::{Shared, layout, member_store::is_missing, outlook};
use crate::{
    Clock as _, Error, FleetMember, JsonFileStore, MemberState, files,
    store::{file_failure::could_not, member_name::is_pending},
};

pub(super) fn list(
    shared: &Shared,
    app_id: &str,
    after: Option<&str>,
    most: usize,
) -> Result<Vec<FleetMember>, Error> {
    let (place, now) = (&shared.place, shared.clock.now());
    let mut members = Vec::new();
    let groups = groups(place)?;
    let after = after.unwrap_or_default();
    for part in layout::Part::all(groups) {
        if !part.may_have_names_after(after) {
            continue;
        }
        let names = part.members(place).map_err(|e| not_read(&part.folder(place), e))?;
        for name in names.iter().filter(|name| name.as_str() > after) {
            if members.len() >= most {
                return Ok(members);
            }
            members.extend(member(&shared.file(app_id, name), name, now));
        }
    }
    Ok(members)
}

/// `None` where there is no folder of this name.
pub(super) fn member_called(shared: &Shared, app_id: &str, name: &str) -> Option<FleetMember> {
    if is_missing(&layout::member_folder(&shared.place, name)) {
        return None;
    }
    member(&shared.file(app_id, name), name, shared.clock.now())
}

/// `None` for a sign-in of an unknown user that is not done, or failed.
fn member(file: &JsonFileStore, name: &str, now: SystemTime) -> Option<FleetMember> {
    match file.peek() {
        Ok(stored) if stored.token.is_none() && is_pending(name) => None,
        Ok(stored) => Some(outlook::member(name, &stored, now)),
        Err(error) => {
            // Nothing can be renewed from such a file, until a person has put it right.
            let mut member = FleetMember::new(name, outlook::kind(name, None), MemberState::NeedsPerson);
            let needs = error.to_string();
            member.needs = Some(if is_pending(name) {
                format!(
                    "{needs}; if it was being assigned when a process was killed, call Fleet::assign again"
                )
            } else {
                needs
            });
            Some(member)
        }
    }
}

/// Reads every token file and its side files.
#[cfg(feature = "sealing")]
pub(super) fn count_by_sealing_key(
    place: &Path,
) -> Result<std::collections::BTreeMap<Option<String>, u64>, Error> {
    let mut count = std::collections::BTreeMap::new();
    for group in groups(place)? {
        for name in layout::members(place, &group).map_err(|e| not_read(&place.join(&group), e))? {
            for path in layout::files(place, &name).map_err(|e| not_read(&place.join(&group), e))? {
                let text = crate::store::file_failure::read_if_there(&path)?.unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let key = crate::SealingKeys::key_of(&text);
                if key.is_some() || crate::RefreshTokenObject::from_json(&text).is_ok() {
                    *count.entry(key).or_default() += 1;
                }
            }
        }
    }
    Ok(count)
}

/// None if no token was ever saved.
fn groups(place: &Path) -> Result<Vec<String>, Error> {
    let groups = files::if_there(layout::groups(place)).map_err(|e| not_read(place, e))?;
    Ok(groups.unwrap_or_default())
}

fn not_read(folder: &Path, e: io::Error) -> Error {
    could_not("read the folder", folder, "check that this user may read it", e)
}
