//! A fleet whose tokens are sealed, in a folder and in PostgreSQL: it keeps every promise that a fleet keeps, and nothing that it
//! leaves can be read.

#![cfg(all(feature = "postgres", feature = "sealing", feature = "simulator", unix))]

#[path = "fleet/folder.rs"]
mod folder;
#[path = "support/postgres/mod.rs"]
mod postgres;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;
#[path = "fleet/table.rs"]
mod table;

use std::{fs, path::Path, time::Duration};

use concur_auth::{FolderFleet, PostgresFleet, SealingKeys};

use self::{folder::Folder, suite::Place, table::Table};

fn keys() -> SealingKeys {
    "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=".parse().unwrap()
}

/// Every file that the test has left, side files too, is sealed.
struct SealedFolder(Folder);

impl Place for SealedFolder {
    type Store = FolderFleet;

    fn store(&self) -> FolderFleet {
        self.0.store().sealed_with(keys())
    }

    fn pass(&self, time: Duration) {
        self.0.pass(time);
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

impl Drop for SealedFolder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            check(&self.0.path());
        }
    }
}

fn check(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path);
        } else if path.file_name().unwrap() != "fleet.json" {
            let content = fs::read_to_string(&path).unwrap_or_default();
            // A renewal under way may just have reserved room, with spaces.
            let content = content.trim();
            assert!(content.is_empty() || content.starts_with("{\"sealed\":\"v1.k1."), "{path:?}: {content}");
        }
    }
}

/// Every token that the test has left is sealed.
struct SealedTable(Table);

impl Place for SealedTable {
    type Store = PostgresFleet;

    fn store(&self) -> PostgresFleet {
        self.0.store().sealed_with(keys())
    }

    fn pass(&self, time: Duration) {
        self.0.pass(time);
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

impl Drop for SealedTable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let plain = "SELECT token FROM concur_auth_tokens WHERE token NOT LIKE '{\"sealed\":\"v1.k1.%' OR refusal NOT LIKE '{\"sealed\":\"v1.k1.%'";
            assert_eq!(self.0.0.psql(plain), "");
        }
    }
}

mod in_a_folder {
    use super::{Folder, SealedFolder, suite};

    suite!(Some(|clock: &_| SealedFolder(Folder::new(clock))));
}

mod in_postgres {
    use super::{SealedTable, Table, suite};

    suite!(Table::available().map(|table| |clock: &_| SealedTable(table(clock))));
}
