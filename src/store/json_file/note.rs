//! The note beside the token file: what Concur refused, for all processes on the file.
//!
//! Always: written under the lock and read without it; a note that is half written is one that cannot be understood, which
//! counts as none. A file of its own, because a locked file cannot be read through a second handle on Windows.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::files;

pub(super) fn read(target: &Path) -> io::Result<Option<String>> {
    match files::read(&path_for(target)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        note => Ok(std::str::from_utf8(&note?).ok().map(str::to_owned)),
    }
}

pub(super) fn write(target: &Path, note: Option<&str>) -> io::Result<()> {
    let path = path_for(target);
    let Some(note) = note else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    };
    let mut file = files::open_or_create_private(&path)?;
    file.set_len(0)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()
}

fn path_for(target: &Path) -> PathBuf {
    files::beside(target, ".note")
}
