//! Many companies: what the fleet costs on PostgreSQL and in a folder, beside its floors.
//!
//! Renewals by one worker are compared with a bare loop that claims the same rows in batches, sends each token, and saves the
//! reply: tokio-postgres and reqwest, as many at once, and no guarantee. A claim is compared with the bare loop's claim, or
//! with opening, locking and reading the same files. A warm call is compared with `access_token()` of a manager in hand.
//! What is counted, such as statements, threads and requests in a second, is compared with its goal.
//!
//! The endpoint gives a new refresh token each time, and revokes a family whose token comes twice. PostgreSQL is started in a
//! temporary folder, and syncs each commit. With names as arguments (`renewals`, `statements`, `workers`, `growth`, `burst`,
//! `idle`, `memory`, `warm`, `outage`, `paper`) only those rows are measured; with `long` the largest ones, which takes minutes.

#![allow(missing_docs, unreachable_pub, reason = "a program has no users of its items")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

#[cfg(target_os = "linux")]
#[path = "fleet/mod.rs"]
mod fleet;
#[cfg(target_os = "linux")]
#[path = "../tests/support/postgres/mod.rs"]
mod postgres;
mod support;

fn main() {
    #[cfg(target_os = "linux")]
    fleet::main();
}
