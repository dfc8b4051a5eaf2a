//! The rows of the table: what each measures, and what it is compared with.

mod bare;
mod burst;
mod database;
mod endpoint;
mod growth;
mod held;
mod idle;
mod members;
mod outage;
mod paper;
mod renewals;

use std::env;

use crate::{
    postgres::Postgres,
    support::{explain, is_dry_run},
};

/// The first argument of a process that is a worker.
const WORKER: &str = "worker";
/// The same of a process whose memory is measured.
const USER: &str = "user";

/// How much is measured.
#[derive(Clone, Copy)]
enum Scale {
    /// Everything once, small: whether the bench works.
    Dry,
    Usual,
    /// With the largest numbers, which takes minutes: the argument `long`.
    Long,
}

impl Scale {
    fn of<T>(self, dry: T, usual: T) -> T {
        if matches!(self, Self::Dry) { dry } else { usual }
    }

    fn long_of<T>(self, dry: T, usual: T, long: T) -> T {
        if matches!(self, Self::Long) { long } else { self.of(dry, usual) }
    }
}

pub fn main() {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.first().map(String::as_str) {
        Some(WORKER) => return renewals::worker(&arguments[1..]),
        Some(USER) => return held::user(&arguments[1..]),
        _ => {}
    }
    explain(include_str!("../fleet.rs"));
    let is_long = arguments.iter().any(|argument| argument == "long");
    let scale = match (is_dry_run(), is_long) {
        (true, _) => Scale::Dry,
        (false, true) => Scale::Long,
        (false, false) => Scale::Usual,
    };
    let names: Vec<_> = arguments.iter().filter(|argument| *argument != "long").collect();
    let is_wanted = |row: &str| names.is_empty() || names.iter().any(|name| row.contains(name.as_str()));

    for (row, measure) in [
        ("warm", held::warm_path as fn(Scale)),
        ("memory folder", held::memory_in_a_folder),
        ("burst folder", burst::in_a_folder),
        ("growth folder", growth::in_a_folder),
        ("idle folder", idle::in_a_folder),
    ] {
        if is_wanted(row) {
            measure(scale);
        }
    }
    let Some(postgres) = Postgres::start_with("benches/fleet.rs", &database::options()) else { return };
    for (row, measure) in [
        ("renewals", renewals::and_the_bare_loop as fn(&Postgres, Scale)),
        ("statements", renewals::count_statements),
        ("workers", renewals::workers),
        ("memory postgres", held::memory_on_postgres),
        ("burst postgres", burst::on_postgres),
        ("growth postgres", growth::on_postgres),
        ("idle postgres", idle::on_postgres),
        ("outage", outage::catch_up),
        ("paper", paper::ten_million),
    ] {
        if is_wanted(row) {
            measure(&postgres, scale);
        }
    }
    drop(postgres);
    if is_wanted("renewals") {
        let options = database::options().without_fsync();
        let Some(postgres) = Postgres::start_with("benches/fleet.rs", &options) else { return };
        renewals::without_fsync(&postgres, scale);
        renewals::save_statements(&postgres, scale);
    }
}
