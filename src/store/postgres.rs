//! The token in PostgreSQL.
#![expect(dead_code, reason = "the store itself is not there yet")]

mod connection;
mod database;
mod failure;
mod tls;
mod url;
