//! A fleet on a folder.

#![cfg(feature = "simulator")]

#[path = "fleet/folder.rs"]
mod folder;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;

use folder::Folder;

suite!(Some(Folder::new));
