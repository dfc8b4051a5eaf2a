//! What tells one state of a file or folder from the next, for the price of one `stat`.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{if_there, regular};

/// Time stamps of file systems are coarse, up to the 2 s of FAT: after that long, a change shows in them.
const COARSEST: Duration = Duration::from_secs(2);

/// Changes whenever the file is replaced or written, and whenever a file is made in the folder. That there is nothing is a
/// state, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(Option<Parts>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, number on it, and when anything about it changed, which no program can set.
    #[cfg(unix)]
    identity: (u64, u64, i64),
}

impl Stamp {
    pub(crate) const NOTHING: Self = Self(None);

    /// Of a regular file, or of none. Asked before opening: to open a named pipe would wait for its writer.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let Some(metadata) = if_there(fs::metadata(path))? else { return Ok(Self::NOTHING) };
        regular(&metadata)?;
        Ok(Self::of(&metadata))
    }

    pub(crate) fn of_folder(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
    }

    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self(Some(Parts {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            identity: (
                metadata.dev(),
                metadata.ino(),
                metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec()),
            ),
        }))
    }

    /// Whether a change from `now` on is certain to show: the last one was long enough ago.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let modified = self.0.and_then(|parts| parts.modified);
        modified.is_some_and(|modified| now.duration_since(modified).is_ok_and(|age| age > COARSEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_within_the_last_2_seconds_may_change_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Stamp::of_folder(dir.path()).unwrap();
        let modified = fs::metadata(dir.path()).unwrap().modified().unwrap();
        for (milliseconds, is_settled) in [(0, false), (2000, false), (2001, true), (3_600_000, true)] {
            assert_eq!(stamp.is_settled(modified + Duration::from_millis(milliseconds)), is_settled);
        }
        // A clock that is behind the file server's.
        assert!(!stamp.is_settled(modified - Duration::from_secs(3600)));
        assert!(!Stamp::NOTHING.is_settled(modified));
    }
}
