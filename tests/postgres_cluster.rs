//! What tests with a real PostgreSQL stand on: it never outlives its program, and its faults hit exactly what they say.

#![cfg(all(feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

#[test]
fn it_starts() {
    use postgres::{Postgres, Server};
    let Some(p) = Postgres::start("it_starts") else { return };
    let d = p.database();
    assert_eq!(d.psql("SELECT 1"), "1");
}
