//! The rows of the table: what each measures, and what it is compared with.

mod bare;
mod client;
mod endpoint;
mod processes;
mod served;

use std::env;

use crate::support::{explain, human, is_dry_run, median, say};

/// The program.
const PROGRAM: &str = env!("CARGO_BIN_EXE_concur-auth");

pub fn main() {
    let names: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some((role, arguments)) = names.split_first()
        && bare::play(role, arguments)
    {
        return;
    }
    explain(include_str!("../program.rs"));
    for (row, measure) in [
        ("start", processes::start as fn()),
        ("crowd", processes::crowd),
        ("token", endpoint::token),
        ("small", endpoint::small),
        ("large", endpoint::large),
        ("memory", endpoint::memory),
    ] {
        if names.is_empty() || names.iter().any(|name| name == row) {
            measure();
        }
    }
    // Last, because it leaves the program with other features behind.
    if names.iter().any(|name| name == "size") {
        processes::size();
    }
}

/// How many times both sides are measured.
fn turns(usual: usize) -> usize {
    if is_dry_run() { 1 } else { usual }
}

/// Both sides in turn, each with its time in nanoseconds; the median of their ratios.
fn alternating(
    what: &str,
    turns: usize,
    goal: Option<f64>,
    mut floor: impl FnMut() -> f64,
    mut ours: impl FnMut() -> f64,
) {
    // The first turn opens connections and fills caches.
    let mut taken = Vec::new();
    for turn in 0..=turns {
        let (below, above) = if turn % 2 == 0 {
            let below = floor();
            (below, ours())
        } else {
            let above = ours();
            (floor(), above)
        };
        taken.push((below, above));
    }
    taken.remove(0);
    let of = |side: fn(&(f64, f64)) -> f64| median(taken.iter().map(side));
    let (floor, ours, ratio) = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.1 / turn.0));
    say(what, ours, floor, ratio, goal);
    if !is_dry_run() {
        println!("  >>   {:.0} % of its floor's speed; {} more", 100.0 / ratio, human(ours - floor));
    }
}
