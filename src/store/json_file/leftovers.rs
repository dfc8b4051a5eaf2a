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
    let mut files = Vec::new();
    let Some(name) = target.file_name() else {
        return Ok(Listing { folder, files });
    };
    for entry in fs::read_dir(files::folder_of(target))? {
        let entry = entry?;
        if TempFile::is_made(&entry.file_name(), name) && entry.file_type()?.is_file() {
            match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                metadata => files.push((metadata?.modified()?, entry.path())),
            }
        }
    }
    Ok(Listing { folder, files })
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
    let not_before = match fs::metadata(target) {
        Ok(metadata) => metadata.modified()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
        Err(e) => return Err(e),
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
    match files::read(path) {
        Ok(content) => match text.token(&content) {
            Ok(_) => Ok(true),
            Err(Unusable::NotAToken(_)) => Ok(false),
            Err(Unusable::Sealed(e)) => {
                let message = format!("{}: {}", path.display(), e.message());
                Err(io::Error::other(Error::new(e.kind(), message)))
            }
        },
        // Larger than any token file: a reservation, or a file of another program.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(files::with_path(path, &e)),
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
