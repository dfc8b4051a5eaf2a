//! A renewal by the real program on real files, killed at each call of the system that touches its folder, with each error that a disk
//! can give there, and cut off from its power after each.
//!
//! strace makes the kills and errors. Always: the token file is whole, and a token that Concur has issued is not lost, unless the kill came
//! between the request and the write of its reply.

#![cfg(all(feature = "cli", feature = "simulator", target_os = "linux"))]

#[path = "every_step/power.rs"]
mod power;
#[path = "cli/scene.rs"]
mod scene;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "support/skip.rs"]
mod skip;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    process::Command,
};

use concur_auth::simulator::{ConcurSimulator, Rotation};
use serde_json::Value;

use self::scene::{Ran, Scene};

const TOKEN: &str = "refreshTokenObjectFile.json";
/// What the folder may hold when no program runs.
const AT_REST: [&str; 3] = ["credentials.json", TOKEN, "refreshTokenObjectFile.json.lock"];

/// A call of the system that touches the folder.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// The file, relative to the folder; `None` for a temporary file, whose name is random.
    path: Option<String>,
    /// The how manieth of its name it is: of those with that path, or of its thread.
    number: usize,
    /// The whole line of strace.
    line: String,
}

impl Call {
    /// The beginning of strace's line.
    fn shown(&self) -> String {
        self.line.chars().take(200).collect()
    }
}

/// For `.ci/reliability`.
fn held(what: &str) {
    skip::say(&format!("held {what}"));
}

fn has_strace() -> bool {
    let is_there = Command::new("strace").arg("--version").output().is_ok();
    if !is_there {
        skip::skip("there is no strace");
    }
    is_there
}

async fn scene() -> Scene {
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let scene = Scene::with(concur);
    scene.run(&["refresh-token"]).ok();
    scene
}

/// A renewal under strace with these arguments; what strace has written is in the file `trace` of another folder.
fn renewal(scene: &Scene, trace: &Path, strace: &[&str]) -> Ran {
    let mut command = Command::new("strace");
    // With cargo's folders of libraries, the program's start would open more files than a renewal does.
    scene::without_settings(&mut command);
    command.env_remove("LD_LIBRARY_PATH");
    command.args(["--follow-forks", "--quiet=all", "--decode-fds=path", "--output"]).arg(trace).args(strace);
    command.args([env!("CARGO_BIN_EXE_concur-auth"), "renew", "--now"]);
    command.current_dir(scene.dir.path()).env("CONCUR_BASE_URI", scene.concur.base_uri());
    Ran::of(command.output().unwrap())
}

/// The calls of a renewal that touch the folder, in their order. All are of one thread.
fn calls(scene: &Scene, trace: &Path) -> Vec<Call> {
    let ran = renewal(scene, trace, &[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = fs::read_to_string(trace).unwrap();
    let folder = fs::canonicalize(scene.dir.path()).unwrap().display().to_string();
    let call = |line: &str| {
        let (thread, rest) = line.split_once(' ')?;
        let name = rest.trim_start().split_once('(')?.0;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| (thread.to_owned(), name.to_owned()))
    };
    let touches = |line: &str| {
        line.contains(&format!("\"{folder}"))
            || line.contains(&format!("<{folder}/"))
            || fd_of_folder(line, &folder)
    };
    let thread = text.lines().find(|line| line.contains(&format!("{TOKEN}.lock"))).and_then(call).unwrap().0;
    // Of the other threads: an injection counts for each thread, and hits the first that gets there.
    let mut elsewhere: HashMap<(String, String), usize> = HashMap::new();
    let (mut of_thread, mut of_path) =
        (HashMap::<String, usize>::new(), HashMap::<(String, String), usize>::new());
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((by, name)) = call(line) else { continue };
        if by != thread {
            *elsewhere.entry((by, name)).or_default() += 1;
            continue;
        }
        let number = of_thread.entry(name.clone()).or_default();
        *number += 1;
        let number = *number;
        // What is closed was synced before.
        if !touches(line) || ["close", "fcntl", "getcwd"].contains(&&*name) {
            continue;
        }
        let path = ["credentials.json", &format!("{TOKEN}.lock"), &format!("{TOKEN}.note"), TOKEN]
            .into_iter()
            .find(|path| !line.contains(".tmp-") && line.contains(&format!("{folder}/{path}")))
            .map_or_else(|| (!line.contains(".tmp-")).then(String::new), |path| Some(path.to_owned()));
        let number = match &path {
            None => number,
            Some(path) => {
                let number = of_path.entry((name.clone(), path.clone())).or_default();
                *number += 1;
                *number
            }
        };
        found.push(Call { name, path, number, line: line.to_owned() });
    }
    let can_be_hit = |call: &Call| {
        let others = elsewhere.iter().filter(|((_, name), _)| *name == call.name).map(|(_, count)| *count);
        call.path.is_some() || call.number > others.max().unwrap_or(0)
    };
    let all = found.len();
    found.retain(can_be_hit);
    assert!(found.len() + 2 >= all, "only {} of {all} calls can be hit", found.len());
    found
}

fn fd_of_folder(line: &str, folder: &str) -> bool {
    // Not the current folder, which each call with a path names, too.
    line.contains(&format!("<{folder}>")) && !line.contains(&format!("AT_FDCWD<{folder}>"))
}

/// The renewal to which this happened at a call. `None` where it cannot be done: the thread also writes to wake others, and how often
/// depends on who sleeps, so that another write may be hit.
fn hit(scene: &Scene, trace: &Path, call: &Call, what: &str) -> Option<Ran> {
    let arguments = injection(scene, call, what);
    let arguments: Vec<_> = arguments.iter().map(|it| &**it).collect();
    for _ in 0..20 {
        let ran = renewal(scene, trace, &arguments);
        let text = fs::read_to_string(trace).unwrap();
        let is_hit = |line: &&str| {
            let is_it = call.path.is_some() || line.contains(".tmp-");
            is_it
                && (line.contains("(INJECTED)")
                    || line.ends_with("<unfinished ...>")
                    || line.ends_with("= ?"))
        };
        if text.lines().filter(|line| line.contains(&format!("{}(", call.name))).any(|line| is_hit(&line)) {
            return Some(ran);
        }
        recovered(scene, &format!("{what} at another call than {}", call.shown()));
    }
    None
}

/// The arguments that make this happen at a call.
fn injection(scene: &Scene, call: &Call, what: &str) -> Vec<String> {
    let mut arguments = vec![format!("--inject={}:{what}:when={}", call.name, call.number)];
    if let Some(path) = &call.path {
        let folder = fs::canonicalize(scene.dir.path()).unwrap();
        let path = if path.is_empty() { folder } else { folder.join(path) };
        arguments.push(format!("--trace-path={}", path.display()));
    }
    arguments
}

fn stored(scene: &Scene) -> String {
    let text = fs::read_to_string(scene.path(TOKEN)).unwrap();
    // Whole at any time.
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    object["refresh_token"].as_str().unwrap().to_owned()
}

/// Whether a file of the folder, of whatever name, has a whole reply whose token Concur accepts.
fn holds_live_token(scene: &Scene) -> bool {
    fs::read_dir(scene.dir.path()).unwrap().any(|entry| {
        let text = fs::read(entry.unwrap().path()).unwrap();
        let object: Value = serde_json::from_slice(&text).unwrap_or_default();
        object["refresh_token"].as_str().is_some_and(|token| scene.concur.is_live(token))
    })
}

/// What the next run of the program finds: whether Concur accepts it. Afterwards the folder is as it should be.
fn recovered(scene: &Scene, what: &str) -> bool {
    stored(scene);
    let ran = scene.run(&["refresh-token"]);
    assert!(ran.code == Some(0) && ran.out.contains("(stored)"), "{what}: {ran:?}");
    let names = fs::read_dir(scene.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<_> = names.filter(|name| !AT_REST.contains(&&**name)).collect();
    assert!(strange.is_empty(), "{what} leaves {strange:?}");
    let is_live = scene.concur.is_live(&stored(scene));
    if !is_live {
        scene.write(TOKEN, &scene.concur.token_json());
    }
    is_live
}

/// Where the reply is written: the second to last file of a renewal is that with the room for it.
fn write_of_reply(calls: &[Call]) -> usize {
    calls.iter().rposition(|call| call.name == "write").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_call_loses_no_token_that_was_written() {
    if !has_strace() {
        return;
    }
    let (scene, traces) = (scene().await, tempfile::tempdir().unwrap());
    let trace = traces.path().join("trace");
    let calls = calls(&scene, &trace);
    let written = write_of_reply(&calls);
    let mut lost = Vec::new();
    for (i, call) in calls.iter().enumerate() {
        let ran = hit(&scene, &trace, call, "signal=KILL");
        let ran = ran.unwrap_or_else(|| panic!("not hit: {}", call.shown()));
        assert_ne!(ran.code, Some(0), "{}: {ran:?}", call.shown());
        if !recovered(&scene, &call.shown()) {
            lost.push(i);
        }
    }
    // Between the request and the write of its reply.
    let lines: Vec<_> = lost.iter().map(|i| calls[*i].shown()).collect();
    assert!(!lost.is_empty() && lost.iter().all(|i| (written - 1..=written).contains(i)), "{lines:#?}");
    assert!(calls.len() > 60, "{}", calls.len());
    held(&format!("after {} kills at a call that touches the folder", calls.len()));
}

/// On each of its threads.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_call_of_the_whole_program_loses_no_token_that_was_written() {
    if !has_strace() {
        return;
    }
    let (scene, traces) = (scene().await, tempfile::tempdir().unwrap());
    let trace = traces.path().join("trace");
    renewal(&scene, &trace, &[]).ok();
    let text = fs::read_to_string(&trace).unwrap();
    let mut of_threads: HashMap<(&str, &str), usize> = HashMap::new();
    for (thread, call) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Some((name, _)) = call.trim_start().split_once('(').filter(|(name, _)| !name.contains(' ')) {
            *of_threads.entry((thread, name)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    for ((_, name), count) in of_threads {
        let known = most.entry(name).or_default();
        *known = count.max(*known);
    }
    let (mut kills, mut lost) = (0, 0);
    for (name, count) in most {
        for number in 1..=count {
            let ran = renewal(&scene, &trace, &[&format!("--inject={name}:signal=KILL:when={number}")]);
            kills += usize::from(ran.code != Some(0));
            let what = format!("a kill at {name} number {number}");
            // The trace cannot say it: a call that the kill of another thread cut off was carried out, or was not.
            let is_written = holds_live_token(&scene);
            let is_live = recovered(&scene, &what);
            assert!(is_live || !is_written, "{what} loses a token that was written");
            lost += usize::from(!is_live);
        }
    }
    assert!(kills > 200 && lost > 0, "{kills} {lost}");
    held(&format!("after {kills} kills at any call"));
}

/// What each call can fail with.
fn errors(name: &str) -> &'static [&'static str] {
    match name {
        "openat" => &["EACCES", "EIO", "EMFILE", "ENOSPC"],
        // A full disk, and a call of the same thread that wakes another: `not_lost_by_the_disk.rs` has writes that fail.
        "write" => &[],
        "fsync" => &["EIO", "ENOSPC", "EDQUOT"],
        "rename" => &["EIO", "ENOSPC", "EACCES"],
        "flock" => &["EINTR", "ENOLCK", "EIO"],
        "fchmod" => &["EPERM", "EIO"],
        _ => &["EIO"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_any_call_loses_no_token() {
    if !has_strace() {
        return;
    }
    let (scene, traces) = (scene().await, tempfile::tempdir().unwrap());
    let trace = traces.path().join("trace");
    let mut runs = 0;
    for call in calls(&scene, &trace) {
        for error in errors(&call.name) {
            let ran = hit(&scene, &trace, &call, &format!("error={error}"));
            let ran = ran.unwrap_or_else(|| panic!("not hit: {}", call.shown()));
            let what = format!("{error} at {}: {ran:?}", call.shown());
            let is_explained = matches!(ran.code, Some(1 | 2)) && ran.err.starts_with("concur-auth: ");
            assert!(ran.code == Some(0) || is_explained, "{what}");
            assert!(!ran.err.contains("panicked"), "{what}");
            assert!(recovered(&scene, &what), "lost after {what}");
            runs += 1;
        }
    }
    assert!(runs > 80, "{runs}");
    held(&format!("after {runs} errors of a disk"));
}
