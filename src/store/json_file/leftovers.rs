//! What killed processes and broken files leave next to the token file.
//!
//! Always: files are renamed or deleted only under the lock, when no other living process has a temporary file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::usable;
use crate::{
    clock,
    files::{self, TempFile},
    log,
};

/// Whether there are temporary files. This needs no lock.
pub(super) fn are_there(target: &Path) -> io::Result<bool> {
    Ok(!temp_files_of(target)?.is_empty())
}

/// Puts the newest complete temporary file in the target's place, and deletes the others.
///
/// A complete file that is not older than the target is a save that was killed before its rename: the only copy of a
/// token whose predecessor may already be used up. A file that cannot be read may be such a copy, so it is an error.
pub(super) fn adopt(target: &Path) -> io::Result<()> {
    let mut leftovers = temp_files_of(target)?;
    if leftovers.is_empty() {
        return Ok(());
    }
    let not_before = match fs::metadata(target) {
        Ok(metadata) => metadata.modified()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
        Err(e) => return Err(e),
    };
    leftovers.sort();
    let mut newest = None;
    for (index, (modified, path)) in leftovers.iter().enumerate() {
        if *modified >= not_before && holds_token(path)? {
            newest = Some(index);
        }
    }
    if let Some(index) = newest {
        let (_, path) = leftovers.remove(index);
        set_aside_if_unusable(target)?;
        // The process that wrote it may have been killed before the sync.
        fs::File::open(&path)?.sync_all()?;
        fs::rename(&path, target)?;
        files::sync_folder(files::folder_of(target))?;
        log::event!(warn, file = %target.display(), "recovered the token that a killed process had not finished saving");
    }
    for (_, path) in leftovers {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn temp_files_of(target: &Path) -> io::Result<Vec<(SystemTime, PathBuf)>> {
    let mut found = Vec::new();
    let Some(name) = target.file_name() else {
        return Ok(found);
    };
    let mut prefix = name.as_encoded_bytes().to_owned();
    prefix.extend_from_slice(TempFile::INFIX.as_bytes());
    for entry in fs::read_dir(files::folder_of(target))? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(&prefix) && entry.file_type()?.is_file() {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    Ok(found)
}

/// A file without a usable token may still matter to its owner: it is moved out of the way.
pub(super) fn set_aside_if_unusable(target: &Path) -> io::Result<()> {
    if fs::exists(target)? && !holds_token(target)? { set_aside(target) } else { Ok(()) }
}

fn holds_token(path: &Path) -> io::Result<bool> {
    match files::read(path) {
        Ok(json) => Ok(usable(&json).is_some()),
        // Larger than any token file: a reservation, or a file of another program.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
    }
}

/// Renames a file without a usable token to `….corrupt-<time>`, its own modification time.
fn set_aside(target: &Path) -> io::Result<()> {
    let modified = clock::public_time(fs::metadata(target)?.modified()?);
    let (date, (hour, minute, second)) = (modified.date(), modified.to_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let time = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
    let mut aside = files::beside(target, &format!(".corrupt-{time}"));
    let mut copy = 1;
    while fs::exists(&aside)? {
        copy += 1;
        aside = files::beside(target, &format!(".corrupt-{time}-{copy}"));
    }
    fs::rename(target, &aside)?;
    log::event!(warn, file = %target.display(), kept_as = %aside.display(), "moved an unusable token file aside");
    files::sync_folder(files::folder_of(target))
}
