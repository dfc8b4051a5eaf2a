//! What the program costs as a process.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use concur_auth::simulator::ConcurSimulator;

use super::{
    PROGRAM, alternating, bare,
    served::{itself, program, write_valid_files},
    turns,
};
use crate::support::{is_dry_run, timed};

/// How many processes start at once.
const CROWD: usize = 30;
const TURNS: usize = 300;
const TURNS_OF_CROWD: usize = 20;
/// Nothing is sent there.
const NOWHERE: &str = "http://127.0.0.1:9";

fn nanoseconds(work: impl FnOnce()) -> f64 {
    timed(work).as_secs_f64() * 1e9
}

fn run(command: &mut Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    nanoseconds(|| assert!(command.status().expect("a process").success(), "{command:?}"))
}

/// `access-token` from a valid file.
pub fn start() {
    let dir = tempfile::tempdir().expect("a folder");
    write_valid_files(dir.path(), NOWHERE);
    let ours = || {
        let mut command = program(dir.path(), NOWHERE);
        run(command.arg("access-token"))
    };
    let floors: [(&str, &dyn Fn() -> Command); 3] = [
        ("true", &|| Command::new("true")),
        ("a Rust process", &|| itself(bare::NOTHING)),
        ("--version", &|| {
            let mut command = Command::new(PROGRAM);
            command.arg("--version");
            command
        }),
    ];
    for (name, floor) in floors {
        let what = format!("access-token, valid file (floor: {name})");
        alternating(&what, turns(TURNS), None, || run(&mut floor()), ours);
    }
}

/// Thirty at once: with a valid file, and with one request for all of them.
pub fn crowd() {
    let dir = tempfile::tempdir().expect("a folder");
    write_valid_files(dir.path(), NOWHERE);
    let nothing = || all_at_once(|| Command::new("true"));
    let valid = || {
        all_at_once(|| {
            let mut command = program(dir.path(), NOWHERE);
            command.arg("access-token");
            command
        })
    };
    let what = format!("{CROWD} x access-token at once");
    alternating(&format!("{what}, valid file"), turns(TURNS_OF_CROWD), None, nothing, valid);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let one_request = || {
        let (concur, dir) =
            (runtime.block_on(ConcurSimulator::start()), tempfile::tempdir().expect("a folder"));
        fs::write(dir.path().join("credentials.json"), concur.credentials_json()).expect("a file");
        let taken = all_at_once(|| {
            let mut command = program(dir.path(), &concur.base_uri());
            command.arg("access-token");
            command
        });
        assert_eq!(concur.token_requests(), 1);
        taken
    };
    alternating(&format!("{what}, empty folder"), turns(TURNS_OF_CROWD), None, nothing, one_request);
}

fn all_at_once(command: impl Fn() -> Command) -> f64 {
    nanoseconds(|| {
        let start = |mut command: Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process")
        };
        let children: Vec<_> = (0..CROWD).map(|_| start(command())).collect();
        for mut child in children {
            assert!(child.wait().expect("a process").success());
        }
    })
}

/// The stripped program, built as `cargo install` builds it.
pub fn size() {
    if is_dry_run() {
        return;
    }
    for features in ["cli", "cli,postgres"] {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([
                "build",
                "--release",
                "--quiet",
                "--locked",
                "--bin",
                "concur-auth",
                "--features",
                features,
            ])
            .status();
        assert!(built.expect("cargo").success(), "the program does not build");
        let (built, stripped) = (PathBuf::from(PROGRAM), tempfile::NamedTempFile::new().expect("a file"));
        let ran = Command::new("strip").arg("-o").arg(stripped.path()).arg(&built).status();
        if !ran.is_ok_and(|ran| ran.success()) {
            println!("  >> strip is not installed: the size was not measured");
            return;
        }
        let bytes = fs::metadata(stripped.path()).expect("a file").len();
        println!("  >> the stripped program, features {features}: {bytes} bytes");
    }
}
