//! The note beside the token file: what Concur refused, for all processes on the file.
//!
//! Always: written under the lock and read without it; a note that is half written is one that cannot be understood, which
//! counts as none. A file of its own, because a locked file cannot be read through a second handle on Windows.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    clock::{Clock as _, SystemClock},
    files::{self, Stamp},
    sealing::TokenText,
};

/// A note that was read while its time stamp was old enough to show every change since.
#[derive(Debug)]
pub(super) struct LastRead {
    stamp: Stamp,
    note: Option<String>,
}

/// The note beside the token file; not read again if it is unchanged since it was `last` read.
pub(super) fn read(
    target: &Path,
    last: &mut Option<Box<LastRead>>,
    text: &TokenText,
) -> io::Result<Option<String>> {
    let path = path_for(target);
    let stamp = Stamp::of_file(&path)?;
    if stamp == Stamp::NOTHING {
        return Ok(None);
    }
    if let Some(last) = last.as_ref().filter(|last| last.stamp == stamp) {
        return Ok(last.note.clone());
    }
    let Some(note) = files::if_there(files::read(&path))? else { return Ok(None) };
    let note = std::str::from_utf8(&note).ok().map(str::to_owned);
    let note = note.map(|note| text.note(note)).transpose().map_err(io::Error::other)?;
    *last = stamp.is_settled(SystemClock.now()).then(|| Box::new(LastRead { stamp, note: note.clone() }));
    Ok(note)
}

pub(super) fn write(target: &Path, note: Option<&str>, text: &TokenText) -> io::Result<()> {
    let path = path_for(target);
    let Some(note) = note else {
        return files::remove_if_there(&path);
    };
    let note = text.of_note(note).map_err(io::Error::other)?;
    let mut file = files::open_or_create_private(&path, target)?;
    file.set_len(0)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()
}

pub(super) fn path_for(target: &Path) -> PathBuf {
    files::beside(target, ".note")
}
