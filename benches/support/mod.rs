//! The tools of every bench: it is measured with its floor, alternating in the same run, on one small server.

#![allow(dead_code, unreachable_pub, reason = "every bench uses its own part")]
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure real time and print it")]

pub mod process;
pub mod server;

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use criterion::Criterion;

/// A token file as SAP's sample leaves it.
pub const STORED: &str = r#"{"expires_in":3600,"scope":"openid USER company.read","token_type":"Bearer",
"access_token":"eyJraWQiOiIxIn0.eyJzdWIiOiIyIn0.c2lnbmF0dXJl","refresh_token":"abcdefghijklmnopqrstuvwxyz0123",
"refresh_expires_in":9999999999,"geolocation":"https://us.api.concursolutions.com","companyUUID":"uuid"}"#;

pub const CREDENTIALS: &str = r#"{"appID": "app", "clientSecret": "secret", "companyUUID": "uuid"}"#;

/// The tutorial's two files, in `dir`.
pub fn write_files(dir: &Path) {
    std::fs::write(dir.join("refreshTokenObjectFile.json"), STORED).expect("a token file");
    std::fs::write(dir.join("credentials.json"), CREDENTIALS).expect("a credentials file");
}

/// Prints the purpose of a bench: the comment at the start of its source.
pub fn explain(source: &str) {
    if is_dry_run() {
        return;
    }
    let lines = source.lines().take_while(|line| line.starts_with("//!"));
    println!();
    lines.for_each(|line| println!("{}", line.trim_start_matches("//!").trim_start()));
    println!();
}

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// How long `n` rounds of `work` take.
pub fn rounds<T>(n: u64, mut work: impl FnMut() -> T) -> Duration {
    timed(|| {
        for _ in 0..n {
            std::hint::black_box(work());
        }
    })
}

/// Long enough for ratios, which do not need criterion's eight seconds for each function.
pub fn criterion() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3))
}

/// Measures `ours` and `floor`, the least work that any implementation must do. Both take a number of rounds and return
/// the time of these rounds; they alternate within each sample, so that a busy machine slows both. Prints the ratio,
/// and adds it to `target/ratios.tsv`, which `benches/plot` draws.
///
/// `goal` is the most that the ratio should be.
pub fn beside(
    criterion: &mut Criterion,
    what: &str,
    goal: Option<f64>,
    mut floor: impl FnMut(u64) -> Duration,
    mut ours: impl FnMut(u64) -> Duration,
) {
    let mut samples: Vec<(u64, f64, f64)> = Vec::new();
    let mut group = criterion.benchmark_group(what);
    group.bench_function("floor", |b| b.iter_custom(&mut floor));
    group.bench_function("ours", |b| {
        b.iter_custom(|n| {
            let (below, above) = (floor(n), ours(n));
            samples.push((n, per_round(below, n), per_round(above, n)));
            above
        });
    });
    group.finish();
    // The first samples are a warm-up, of few rounds each.
    let most = samples.iter().map(|&(n, ..)| n).max().unwrap_or(0);
    samples.retain(|&(n, ..)| n >= most.div_ceil(10));
    let floor = median(samples.iter().map(|&(_, floor, _)| floor));
    let ours = median(samples.iter().map(|&(.., ours)| ours));
    let ratio = median(samples.iter().map(|&(_, floor, ours)| ours / floor));
    say(what, ours, floor, ratio, goal);
}

/// Prints one result in nanoseconds, and writes it down for the plot.
pub fn say(what: &str, ours: f64, floor: f64, ratio: f64, goal: Option<f64>) {
    if is_dry_run() {
        return;
    }
    let goal_text = goal.map(|goal| format!(" (goal: {goal} at most)")).unwrap_or_default();
    println!("  >> {what}: {} = {ratio:.2} x its floor of {}{goal_text}", human(ours), human(floor));
    let goal = goal.map(|goal| goal.to_string()).unwrap_or_default();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target).expect("target");
    let file = OpenOptions::new().create(true).append(true).open(target.join("ratios.tsv"));
    let mut file = file.expect("target/ratios.tsv");
    writeln!(file, "{what}\t{ours:.1}\t{floor:.1}\t{ratio:.3}\t{goal}").expect("target/ratios.tsv");
}

/// `cargo bench -- --test` and `cargo test --benches` run everything once and measure nothing.
pub fn is_dry_run() -> bool {
    let mut arguments = std::env::args();
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    !is_bench || arguments.any(|argument| argument == "--test" || argument == "--list")
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds, in a readable unit.
pub fn human(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n.abs() < 1e3 => format!("{n:.1} ns"),
        n if n.abs() < 1e6 => format!("{:.1} µs", n / 1e3),
        n => format!("{:.2} ms", n / 1e6),
    }
}

fn per_round(duration: Duration, n: u64) -> f64 {
    duration.as_secs_f64() * 1e9 / n as f64
}

/// The floor of a save: the same file system calls, and nothing else.
pub fn bare_save(dir: &Path, json: &[u8]) {
    let (temp, target) = (dir.join("bare.tmp"), dir.join("bare.json"));
    let mut file = std::fs::File::create(&temp).expect("a file");
    file.write_all(json).expect("room");
    file.sync_all().expect("a disk");
    std::fs::rename(&temp, &target).expect("a folder");
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).expect("a disk");
}
