//! Start-up: the whole program (`examples/refresh_token_management.rs`, default features) as a process that finds a
//! valid token, from its start to its end.
//!
//! The floor is a process that does nothing. If `node` is installed, `node -e 0` is measured in the same run: the time
//! that any Node.js script takes before its first line. If GNU time is installed, the peak memory of both is measured,
//! too.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

mod support;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use criterion::Criterion;
use support::{beside, human, median, rounds, write_files};

/// Set when this bench starts itself as the process that does nothing.
const DO_NOTHING: &str = "CONCUR_AUTH_BENCH_DO_NOTHING";
/// How many times each of two programs runs.
const TURNS: usize = 100;
const GNU_TIME: &str = "/usr/bin/time";

/// Builds the program as a user does: optimised, with default features.
fn program() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let example = "refresh_token_management";
    // A dry run measures nothing, so it takes what the tests have built.
    let (profile, folder) = if support::is_dry_run() { ("dev", "debug") } else { ("release", "release") };
    let built = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--locked", "--quiet", "--profile", profile, "--example", example])
        .status();
    assert!(built.expect("cargo").success(), "the program does not build");
    let bench = env::current_exe().expect("a path");
    // It is `target/PROFILE/deps/BENCH`.
    let target = bench.ancestors().nth(3).expect("the folder of all builds");
    target.join(folder).join("examples").join(example)
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("a process");
    assert!(status.success(), "{command:?}: {status}");
}

/// The most memory that the process had at once, in KiB.
fn peak_memory(command: &Command) -> Option<u64> {
    let arguments = command.get_args();
    let output =
        Command::new(GNU_TIME).args(["-f", "%M"]).arg(command.get_program()).args(arguments).output().ok()?;
    String::from_utf8(output.stderr).ok()?.trim().parse().ok()
}

fn start_up(criterion: &mut Criterion) {
    support::explain(include_str!("start_up.rs"));
    let program = program();
    let dir = tempfile::tempdir().expect("a folder");
    write_files(dir.path());
    let nothing = || {
        let mut command = Command::new(env::current_exe().expect("a path"));
        command.env(DO_NOTHING, "");
        command
    };
    let ours = || valid_run(&program, dir.path());
    let node = || {
        let mut command = Command::new("node");
        command.args(["-e", "0"]);
        command
    };
    beside(
        criterion,
        "start-up, beside a process that does nothing",
        None,
        |n| rounds(n, || run(&mut nothing())),
        |n| rounds(n, || run(&mut ours())),
    );

    if support::is_dry_run() {
        return;
    }
    if Command::new("node").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("  >> node is not installed: nothing to compare with");
        return;
    }
    let (mut of_ours, mut of_node) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        of_ours.push(rounds(1, || run(&mut ours())).as_secs_f64() * 1e9);
        of_node.push(rounds(1, || run(&mut node())).as_secs_f64() * 1e9);
    }
    let (of_ours, of_node) = (median(of_ours.into_iter()), median(of_node.into_iter()));
    println!(
        "  >> a valid run takes {}, `node -e 0` {}: 1/{:.1} (goal: 1/30)",
        human(of_ours),
        human(of_node),
        of_node / of_ours
    );
    match (peak_memory(&ours()), peak_memory(&node())) {
        (Some(of_ours), Some(of_node)) => println!(
            "  >> at its peak it holds {of_ours} KiB, `node -e 0` {of_node} KiB: 1/{:.1} (goal: 1/4)",
            of_node as f64 / of_ours as f64
        ),
        _ => println!("  >> GNU time is not installed: the peak memory was not measured"),
    }
}

fn valid_run(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir);
    command
}

fn main() {
    if env::var_os(DO_NOTHING).is_some() {
        return;
    }
    let mut criterion = support::criterion().sample_size(50).configure_from_args();
    start_up(&mut criterion);
    criterion.final_summary();
}
