//! Where each member's token file is, and which members there are.
//!
//! ```text
//! PLACE/fleet.json
//! PLACE/b3/b3f4e2a0-…/refreshTokenObjectFile.json, and its side files
//! ```
//!
//! Always: a name leads to no place outside of the folder; what has another form than this crate makes is left alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::store::member_name::is_name;

const TOKEN_FILE: &str = "refreshTokenObjectFile.json";
/// How many characters of its name a member's group consists of.
const PREFIX: usize = 2;

/// The folder that a member's own folder is in.
fn group_of(name: &str) -> String {
    format!("{:_<PREFIX$}", name.get(..PREFIX).unwrap_or(name))
}

pub(super) fn member_folder(place: &Path, name: &str) -> PathBuf {
    place.join(group_of(name)).join(name)
}

pub(super) fn token_file(place: &Path, name: &str) -> PathBuf {
    member_folder(place, name).join(TOKEN_FILE)
}

/// The groups that there are, in order; `NotFound`: the place is missing.
pub(super) fn groups(place: &Path) -> io::Result<Vec<String>> {
    names_in(place, |name| name.len() == PREFIX && is_name(name))
}

/// The members of a group, in order.
pub(super) fn members(place: &Path, group: &str) -> io::Result<Vec<String>> {
    names_in(&place.join(group), |name| is_name(name) && group_of(name) == group)
}

/// The token file of a member, and its side files.
#[cfg(feature = "sealing")]
pub(super) fn files(place: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    let paths = crate::files::if_there(crate::files::paths_in(&member_folder(place, name)))?;
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.contains(TOKEN_FILE) && !name.ends_with(".lock"))
    };
    Ok(paths.unwrap_or_default().into_iter().filter(is_ours).collect())
}

/// The names of what may be folders.
fn names_in(folder: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && is_ours(&name)
            && !entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Where members are looked for, one after the other, so that they come in the order of their names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// No name in an earlier part is larger, and none in this part is smaller.
    from: String,
    group: String,
}

impl Part {
    /// A name of one character is not next to the others of its group.
    pub(super) fn all(groups: Vec<String>) -> Vec<Self> {
        let single = |group: &str| {
            let from = group.strip_suffix('_')?.to_owned();
            Some(Self { from, group: group.to_owned() })
        };
        let mut parts: Vec<_> = groups.iter().filter_map(|group| single(group)).collect();
        parts.extend(groups.into_iter().map(|group| Self { from: group.clone(), group }));
        parts.sort_unstable();
        parts
    }

    /// Whether there may be names after this one in it.
    pub(super) fn may_have_names_after(&self, after: &str) -> bool {
        self.from.as_str() > after || after.starts_with(&self.from)
    }

    pub(super) fn members(&self, place: &Path) -> io::Result<Vec<String>> {
        let mut members = members(place, &self.group)?;
        members.retain(|name| (name.len() < PREFIX) == (self.from.len() < PREFIX));
        Ok(members)
    }

    pub(super) fn folder(&self, place: &Path) -> PathBuf {
        place.join(&self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_a_folder_in_the_place() {
        let uuid = "b3f4e2a0-0000-4000-8000-000000000000";
        let file = token_file(Path::new("/t"), uuid);
        assert_eq!(file, Path::new("/t/b3").join(uuid).join("refreshTokenObjectFile.json"));
        assert_eq!(member_folder(Path::new("/t"), "a"), Path::new("/t/a_/a"));
    }

    #[test]
    fn all_names_come_in_their_order_from_any_name_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut names =
            ["a", "a-", "a-z", "a0", "a_", "a__", "aa", "aab", "b", "b_", "_", "-", "-_", "00", "0"];
        for name in names {
            fs::create_dir_all(member_folder(dir.path(), name)).unwrap();
        }
        // What is not a member.
        fs::create_dir_all(dir.path().join("aa").join("ab")).unwrap();
        fs::create_dir_all(dir.path().join("aaa").join("aaa")).unwrap();
        fs::create_dir_all(dir.path().join("aa").join("AA")).unwrap();
        fs::write(dir.path().join("aa").join("aac"), "").unwrap();
        fs::write(dir.path().join("ac"), "").unwrap();
        names.sort_unstable();
        let parts = Part::all(groups(dir.path()).unwrap());
        for (n, after) in [(0, "")].into_iter().chain((1..).zip(names)) {
            let mut found = Vec::new();
            for part in parts.iter().filter(|part| part.may_have_names_after(after)) {
                found.extend(
                    part.members(dir.path()).unwrap().into_iter().filter(|name| name.as_str() > after),
                );
            }
            assert_eq!(found, names[n..], "after {after}");
        }
    }
}
