//! A fleet on a folder.

#![cfg(feature = "simulator")]

#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;

use std::{fs, time::Duration};

use concur_auth::{FolderFleet, simulator::ManualClock};
use tempfile::TempDir;

use self::suite::Place;

struct Folder {
    dir: TempDir,
    clock: ManualClock,
}

impl Folder {
    fn new(clock: &ManualClock) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: clock.clone() }
    }
}

impl Place for Folder {
    type Store = FolderFleet;

    fn store(&self) -> FolderFleet {
        FolderFleet::new(self.dir.path().join("tokens")).clock(self.clock.clone())
    }

    /// By the test's clock.
    fn pass(&self, _: Duration) {}

    fn names(&self) -> Vec<String> {
        let Ok(prefixes) = fs::read_dir(self.dir.path().join("tokens")) else { return Vec::new() };
        let folders = prefixes.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let mut names: Vec<_> = folders.flat_map(|folder| support::names_in(&folder)).collect();
        names.sort();
        names
    }
}

suite!(Some(Folder::new));
