//! The list of members, read from their files.
//!
//! Always: nothing is locked and nothing written, and no more files are read than a page needs.

use std::{io, path::Path, time::SystemTime};

use super::{layout, outlook};
use crate::{
    Error, FleetMember, JsonFileStore, MemberState,
    store::{file_failure::could_not, member_name::is_pending},
};

pub(super) fn list(
    place: &Path,
    after: Option<&str>,
    most: usize,
    now: SystemTime,
) -> Result<Vec<FleetMember>, Error> {
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
            members.extend(member(place, name, now));
        }
    }
    Ok(members)
}

/// `None` for a sign-in of an unknown user that is not done, or failed.
fn member(place: &Path, name: &str, now: SystemTime) -> Option<FleetMember> {
    match JsonFileStore::new(layout::token_file(place, name)).peek() {
        Ok(stored) if stored.token.is_none() && is_pending(name) => None,
        Ok(stored) => Some(outlook::member(name, &stored, now)),
        Err(error) => {
            // Nothing can be renewed from such a file, until a person has put it right.
            let mut member = FleetMember::new(name, outlook::kind(name, None), MemberState::NeedsPerson);
            member.needs = Some(error.to_string());
            Some(member)
        }
    }
}

fn not_read(folder: &Path, e: io::Error) -> Error {
    could_not("read the folder", folder, "check that this user may read it", e)
}
