//! Files that are never half written, whose mode is never wider than 0600, and that stay their owner's.
//!
//! Always: a file that appears under its name is complete and synced, and no other user could read it before.
//! On Windows there are no modes and owners and no syncing of folders; the rest holds.

#[cfg(unix)]
mod owner;
mod stamp;

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

pub(crate) use self::{
    owner::{owners, with_path},
    stamp::Stamp,
};

/// Where files have no owner that matters here.
#[cfg(not(unix))]
mod owner {
    use std::{fs::File, io, path::Path};

    pub(crate) fn with_path(path: &Path, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("{}: {e}", path.display()))
    }

    pub(super) fn keep(_: &File, _: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn owners(_: &Path, _: &io::Error) -> Option<String> {
        None
    }
}

/// Larger than any token or credentials file can be: a reply is read up to 256 KiB.
const MAX_SIZE: u64 = 1 << 20;

/// Reads a whole file of secrets.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Asked before opening: to open a named pipe would wait for its writer.
    regular(&fs::metadata(path)?)?;
    read_open(&mut File::open(path)?)
}

pub(crate) fn read_open(file: &mut File) -> io::Result<Zeroizing<Vec<u8>>> {
    let size = file.metadata()?.len().min(MAX_SIZE);
    // Sized beforehand: a growing buffer would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size + 2).unwrap_or(0)));
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

pub(crate) fn regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// `path` with every symbolic link followed, even if the last link leads to no file yet.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many links as Linux follows before it calls them a loop.
    for _ in 0..40 {
        if let Some(found) = if_there(fs::canonicalize(&path))? {
            return Ok(found);
        }
        let folder = folder_of(&path).to_owned();
        match fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => {
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                return Ok(fs::canonicalize(folder)?.join(name));
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a loop of symbolic links"))
}

/// `path` with `suffix` added to its last part.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A new file that only the owner of `original` may read, whatever the umask. It belongs to this user where there is no
/// `original`, except that root leaves it to the owner of the folder.
fn create_private(path: &Path, original: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    if let Err(e) = set_private_mode(&file).and_then(|()| owner::keep(&file, original)) {
        let _ = fs::remove_file(path);
        return Err(e);
    }
    Ok(file)
}

/// What is in a folder, in the order of its names.
pub(crate) fn paths_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// `None` where there is nothing.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Another process may have removed it already.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    if_there(fs::remove_file(path)).map(drop)
}

/// A new folder that only its owner may use, whatever the umask; a folder that is there already stays as it is. Root leaves
/// the new folder to the owner of the folder that it is in.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    #[allow(unused_mut, reason = "where there are no modes")]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    #[cfg(unix)]
    {
        let set_up = || {
            // A umask may have taken the owner's bits away, so the mode is set by name first.
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
            owner::keep_folder(&File::open(path)?, path)
        };
        if let Err(e) = set_up() {
            let _ = fs::remove_dir(path);
            return Err(e);
        }
    }
    sync_folder(folder_of(path))
}

/// A umask may have taken even the owner's bits away.
fn set_private_mode(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Opens a file, or makes a new private file for the owner of `original`; an existing file keeps owner and mode. A
/// symbolic link is refused: it could lead to any file.
pub(crate) fn open_or_create_private(path: &Path, original: &Path) -> io::Result<File> {
    if let Some(opened) = if_there(open_itself(path))? {
        return Ok(opened);
    }
    if fs::exists(original)? {
        // Whether the owner can be kept is found out with a file that no other process uses: to take a lock file away
        // again could leave two processes with a lock each.
        drop(TempFile::create(original)?);
    }
    match create_private(path, original) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open_itself(path),
        created => created,
    }
}

/// Opens an existing file, which must not be a symbolic link.
fn open_itself(path: &Path) -> io::Result<File> {
    let before = fs::symlink_metadata(path)?;
    if before.is_symlink() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"));
    }
    regular(&before)?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let opened = file.metadata()?;
        if (opened.dev(), opened.ino()) != (before.dev(), before.ino()) {
            return Err(io::Error::other("it was replaced while it was opened"));
        }
    }
    Ok(file)
}

/// Makes a rename, link or removal in `folder` survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    match File::open(folder)?.sync_all() {
        // Some network and FUSE file systems cannot sync folders and say so.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {}
        synced => synced?,
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// A file next to its target that becomes the target, complete, or is deleted when dropped.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    keep: bool,
}

impl TempFile {
    /// What a temporary file's name adds to its target's, before the random part.
    pub(crate) const INFIX: &str = ".tmp-";

    /// Whether [`Self::create`] could have given this name to a file beside one called `target`.
    pub(crate) fn is_made(name: &OsStr, target: &OsStr) -> bool {
        let rest = name.as_encoded_bytes().strip_prefix(target.as_encoded_bytes());
        let random = rest.and_then(|rest| rest.strip_prefix(Self::INFIX.as_bytes()));
        random.is_some_and(|it| it.len() == 16 && it.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
    }

    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        loop {
            let path = beside(target, &format!("{}{:016x}", Self::INFIX, fastrand::u64(..)));
            match create_private(&path, target) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(file) => {
                    return Ok(Self { file, path, target: target.to_owned(), keep: false });
                }
            }
        }
    }

    /// Fills `size` bytes of the disk with spaces, over which JSON can be written later.
    ///
    /// JSON at the start of a file of spaces is complete as soon as it is written.
    pub(crate) fn reserve(&mut self, size: usize) -> io::Result<()> {
        self.file.write_all(&vec![b' '; size])?;
        self.file.sync_all()
    }

    /// Makes `content` the whole content of the file.
    pub(crate) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(content)?;
        self.file.set_len(content.len() as u64)?;
        self.file.sync_all()
    }

    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    /// From here on the file is not deleted on drop: it may be the only copy of a token.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Puts the file in its target's place. After a failure, this can be called again.
    pub(crate) fn rename(&mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.target)?;
        self.keep = true;
        Ok(())
    }

    /// Puts the file in its target's place only if there is no file yet.
    pub(crate) fn publish_new(self) -> io::Result<()> {
        fs::hard_link(&self.path, &self.target)?;
        sync_folder(folder_of(&self.target))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_nothing_and_every_other_failure_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        assert_eq!(if_there(fs::read(&file)).unwrap(), None);
        remove_if_there(&file).unwrap();
        fs::write(&file, "text").unwrap();
        assert_eq!(if_there(fs::read(&file)).unwrap().unwrap(), b"text");
        assert_ne!(if_there(fs::read_dir(&file)).unwrap_err().kind(), io::ErrorKind::NotFound);
        remove_if_there(dir.path()).unwrap_err();
        remove_if_there(&file).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn only_names_that_are_made_here_are_those_of_temporary_files() {
        for (name, is_made) in [
            ("t.json.tmp-0123456789abcdef", true),
            ("t.json.tmp-0123456789ABCDEF", false),
            ("t.json.tmp-0123456789abcdeg", false),
            ("t.json.tmp-0123456789abcde", false),
            ("t.json.tmp-0123456789abcdef0", false),
            ("t.json.tmp-0123456789abcdef.bak", false),
            ("t.json.tmp-backup", false),
            ("t.json.tmp-", false),
            ("t.json.tmp_0123456789abcdef", false),
            ("t.json", false),
            ("u.json.tmp-0123456789abcdef", false),
            ("t.json.lock.tmp-0123456789abcdef", false),
        ] {
            assert_eq!(TempFile::is_made(name.as_ref(), "t.json".as_ref()), is_made, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let temp = TempFile::create(&dir.path().join("t.json")).unwrap();
        assert!(TempFile::is_made(temp.path.file_name().unwrap(), "t.json".as_ref()));
    }
}
