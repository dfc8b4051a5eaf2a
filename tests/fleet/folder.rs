//! The folder of one test's fleets.

#![allow(unreachable_pub, reason = "two test files use it")]

use std::{fs, path::PathBuf, time::Duration};

use concur_auth::{FolderFleet, simulator::ManualClock};
use tempfile::TempDir;

use crate::{suite::Place, support::names_in};

pub struct Folder {
    dir: TempDir,
    clock: ManualClock,
}

impl Folder {
    pub fn new(clock: &ManualClock) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: clock.clone() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }
}

impl Place for Folder {
    type Store = FolderFleet;

    fn store(&self) -> FolderFleet {
        FolderFleet::new(self.path()).clock(self.clock.clone())
    }

    /// By the test's clock.
    fn pass(&self, _: Duration) {}

    fn names(&self) -> Vec<String> {
        let Ok(prefixes) = fs::read_dir(self.path()) else { return Vec::new() };
        let folders = prefixes.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let mut names: Vec<_> = folders.flat_map(|folder| names_in(&folder)).collect();
        names.sort();
        names
    }
}
