//! A fleet in PostgreSQL.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;
#[path = "fleet/table.rs"]
mod table;

use table::Table;

suite!(Table::available());
