//! The program `concur-auth`: what it costs as a process, and what its endpoint costs between a client and Concur, each figure
//! compared with its floor.
//!
//! `access-token` from a valid file is compared with a process that does nothing, thirty at once with thirty such processes.
//! `GET /token` over the Unix socket is compared with a bare hyper server that answers with as many bytes, `--proxy` with a bare
//! hyper server that forwards by reqwest, the client that the program uses, too. Bare servers and upstream are processes of their
//! own, with as many threads as the program; the client is this process, with one thread, which takes a part of the two sides'
//! time alike, so the processor time of the servers alone is printed, too. Both sides alternate.
//!
//! With names as arguments (`start`, `crowd`, `token`, `small`, `large`, `memory`) only those rows are measured; with `size`, which
//! builds the program twice, its size.

#![allow(missing_docs, unreachable_pub, reason = "a program has no users of its items")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

#[cfg(target_os = "linux")]
#[path = "program/mod.rs"]
mod program;
mod support;

fn main() {
    #[cfg(target_os = "linux")]
    program::main();
}
