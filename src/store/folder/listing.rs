//! The list of members, read from their files.
//!
//! Always: nothing is locked and nothing written, and no more files are read than a page needs.

use std::{io, path::Path, time::SystemTime};

use super::{Shared, layout, member_store::is_missing, outlook};
use crate::{
    Clock as _, Error, FleetMember, JsonFileStore, MemberState,
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
    let groups = match layout::groups(place) {
        // No token was ever saved.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(members),
        groups => groups.map_err(|e| not_read(place, e))?,
    };
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
    let groups = match layout::groups(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(count),
        groups => groups.map_err(|e| not_read(place, e))?,
    };
    for group in groups {
        for name in layout::members(place, &group).map_err(|e| not_read(&place.join(&group), e))? {
            for path in layout::files(place, &name).map_err(|e| not_read(&place.join(&group), e))? {
                let text = match crate::files::read(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    text => text.map_err(|e| {
                        could_not("read", &path, "check that it is a file this user may read", e)
                    })?,
                };
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

fn not_read(folder: &Path, e: io::Error) -> Error {
    could_not("read the folder", folder, "check that this user may read it", e)
}
