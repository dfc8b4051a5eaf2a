//! The owners of files, on Unix: a file made beside another gets that file's owner.
//!
//! Always: only a file or folder that this process has just made changes its owner, by its descriptor.

use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, fchown},
    path::{Path, PathBuf},
};

/// Something was denied; says with which file that has to do.
#[derive(Debug)]
pub(super) struct Denied {
    path: PathBuf,
    /// The user that this process runs as, where that is known.
    us: Option<u32>,
    what: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Denied {}

/// Names the file in an error.
pub(crate) fn with_path(path: &Path, e: &io::Error) -> io::Error {
    let what = format!("{}: {e}", path.display());
    io::Error::new(e.kind(), Denied { path: path.to_owned(), us: None, what })
}

/// Gives `new` the owner of `original`. If there is no such file, root gives it the owner of the folder, so that the
/// program that owns the folder can use the file; what another user makes stays that user's.
pub(super) fn keep(new: &File, original: &Path) -> io::Result<()> {
    let ours = new.metadata()?;
    let wanted = match super::if_there(fs::symlink_metadata(original))? {
        Some(original) => original,
        None if ours.uid() == 0 => fs::metadata(super::folder_of(original))?,
        None => return Ok(()),
    };
    give(new, &ours, &wanted, original)
}

/// Leaves a folder that root has made at `path` to the owner of the folder that it is in.
pub(super) fn keep_folder(new: &File, path: &Path) -> io::Result<()> {
    let ours = new.metadata()?;
    if ours.uid() != 0 {
        return Ok(());
    }
    give(new, &ours, &fs::metadata(super::folder_of(path))?, path)
}

fn give(new: &File, ours: &fs::Metadata, wanted: &fs::Metadata, original: &Path) -> io::Result<()> {
    if wanted.uid() == ours.uid() {
        if wanted.gid() != ours.gid() {
            // Not every user may do that, and the mode gives a group nothing.
            let _ = fchown(new, None, Some(wanted.gid()));
        }
        return Ok(());
    }
    fchown(new, Some(wanted.uid()), Some(wanted.gid())).map_err(|e| {
        let (us, them) = (ours.uid(), wanted.uid());
        let what = format!("user {us} cannot make a file that belongs to user {them}: {e}");
        // Whatever it is called: a user that a container does not know is an invalid argument.
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            Denied { path: original.to_owned(), us: Some(us), what },
        )
    })
}

/// If access was denied: who owns the file at `path`, or the one that `e` names, and its folder, and their modes.
pub(crate) fn owners(path: &Path, e: &io::Error) -> Option<String> {
    if e.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let denied = e.get_ref().and_then(|inner| inner.downcast_ref::<Denied>());
    let path = denied.map_or(path, |denied| &denied.path);
    let path = super::resolve(path).ok()?;
    let describe = |metadata: fs::Metadata| {
        format!("belongs to user {} (mode {:04o})", metadata.uid(), metadata.mode() & 0o7777)
    };
    let mut owners = match fs::metadata(&path) {
        Ok(metadata) => format!("{} {}, its folder ", path.display(), describe(metadata)),
        Err(_) => format!("the folder of {} ", path.display()),
    };
    owners += &describe(fs::metadata(super::folder_of(&path)).ok()?);
    if let Some(us) = denied.and_then(|denied| denied.us) {
        owners += &format!(", and this process runs as user {us}");
    }
    Some(owners)
}
