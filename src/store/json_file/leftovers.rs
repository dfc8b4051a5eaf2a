//! What killed processes and broken files leave next to the token file.
//!
//! Always: files are renamed or deleted only under the lock, when no other living process has a temporary file that matters,
//! and only files whose names this crate makes. A folder that has not changed is not listed again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    Error, clock,
    files::{self, Stamp, TempFile},
    log,
    sealing::{TokenText, Unusable},
};

/// The temporary files in a folder, and what the folder looked like before they were listed.
pub(super) struct Listing {
    folder: Stamp,
    files: Vec<(SystemTime, PathBuf)>,
}

impl Listing {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What the folder looks like until another file is made in it; `None` if that cannot be told.
    pub(super) fn folder(&self, now: SystemTime) -> Option<Stamp> {
        Some(self.folder).filter(|folder| folder.is_settled(now))
    }
}

/// Looks for temporary files of `target`. This needs no lock.
pub(super) fn list(target: &Path) -> io::Result<Listing> {
    // Before the list: what is made in between shows in the next stamp.
    let folder = Stamp::of_folder(files::folder_of(target))?;
    let mut found = Vec::new();
    let Some(name) = target.file_name() else {
        return Ok(Listing { folder, files: found });
    };
    for entry in fs::read_dir(files::folder_of(target))? {
        let entry = entry?;
        if TempFile::is_made(&entry.file_name(), name) && entry.file_type()?.is_file() {
            // Another process may have put it in its place meanwhile.
            if let Some(metadata) = files::if_there(entry.metadata())? {
                found.push((metadata.modified()?, entry.path()));
            }
        }
    }
    Ok(Listing { folder, files: found })
}

/// Puts the newest complete temporary file in the target's place, and deletes the others. The list was made under the lock.
///
/// A complete file that is not older than the target is a save that was killed before its rename: the only copy of a
/// token whose predecessor may already be used up. A file that cannot be read may be such a copy, so it is an error.
pub(super) fn adopt(listing: Listing, target: &Path, text: &TokenText) -> io::Result<()> {
    let mut leftovers = listing.files;
    if leftovers.is_empty() {
        return Ok(());
    }
    let not_before = match files::if_there(fs::metadata(target))? {
        Some(metadata) => metadata.modified()?,
        None => SystemTime::UNIX_EPOCH,
    };
    leftovers.sort();
    let mut newest = None;
    for (index, (modified, path)) in leftovers.iter().enumerate() {
        if *modified >= not_before && holds_token(path, text)? {
            newest = Some(index);
        }
    }
    if let Some(index) = newest {
        let (_, path) = leftovers.remove(index);
        set_aside_if_unusable(target, text)?;
        // The process that wrote it may have been killed before the sync. Windows syncs only what may be written.
        fs::OpenOptions::new().read(true).write(true).open(&path)?.sync_all()?;
        fs::rename(&path, target)?;
        files::sync_folder(files::folder_of(target))?;
        log::event!(warn, file = %target.display(), "recovered the token that a killed process had not finished saving");
    }
    for (_, path) in leftovers {
        // It may be a file with which a process has tried out, without the lock, whose files it can make.
        files::remove_if_there(&path)?;
    }
    Ok(())
}

/// A file without a usable token may still matter to its owner: it is moved out of the way. Whether that was so.
pub(super) fn set_aside_if_unusable(target: &Path, text: &TokenText) -> io::Result<bool> {
    let is_unusable = fs::exists(target)? && !holds_token(target, text)?;
    if is_unusable {
        set_aside(target)?;
    }
    Ok(is_unusable)
}

fn holds_token(path: &Path, text: &TokenText) -> io::Result<bool> {
    let content = match files::if_there(files::read(path)) {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(false),
        // Larger than any token file: a reservation, or a file of another program.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(e) => return Err(files::with_path(path, &e)),
    };
    match text.token(&content) {
        Ok(_) => Ok(true),
        Err(Unusable::NotAToken(_)) => Ok(false),
        Err(Unusable::Sealed(e)) => {
            let message = format!("{}: {}", path.display(), e.message());
            Err(io::Error::other(Error::new(e.kind(), message)))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_too_large_or_no_token_holds_none_and_what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.json");
        let text = TokenText::default();
        assert!(!holds_token(&path, &text).unwrap());
        for (content, holds) in [
            (r#"{"refresh_token": "r"}"#.to_owned(), true),
            ("{}".to_owned(), false),
            (" ".repeat(16 << 20) + r#"{"refresh_token": "r"}"#, false),
        ] {
            fs::write(&path, &content).unwrap();
            assert_eq!(holds_token(&path, &text).unwrap(), holds, "{} bytes", content.len());
        }
        let error = holds_token(dir.path(), &text).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{}: ", dir.path().display())), "{error}");
    }
}
