//! A folder, a clock, a simulated Concur, and managers on all three.
//!
//! What is random in a test comes from [`seed`]. A test that fails prints `CONCUR_AUTH_SEED=…`; with that environment
//! variable set, the random part is the same again, in every test.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test file uses its own part")]

#[path = "../../src/seed.rs"]
mod seed;
mod seen;
mod skip;
mod watched;

use std::{
    future::{Future, poll_fn},
    panic::Location,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake},
    time::{Duration, Instant},
};

use concur_auth::{
    Clock as _, CredentialsFile, JsonFileStore, TokenManager, TokenManagerBuilder,
    simulator::{ConcurSimulator, ManualClock, Rotation},
    time::OffsetDateTime,
};
use tempfile::TempDir;
use tokio::net::TcpSocket;

pub(crate) use self::seed::{seed, seeded};
pub use self::{
    seen::Seen,
    skip::{say, skip},
    watched::{Call, Watched},
};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// Where injected clocks start: 28 May 2026, 20:26:40 UTC.
pub fn noon() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_780_000_000).unwrap()
}

/// How much time has passed since [`noon`], to the nanosecond: [`ManualClock::now_utc`] knows whole seconds only.
pub fn passed(clock: &ManualClock) -> Duration {
    clock.now().duration_since(noon().into()).unwrap()
}

/// A loopback address at which every connection is refused, for as long as the guard lives: a socket that does not listen is
/// bound to its port. So no other process or test can begin to listen there, and no connection to it begins at that very
/// port, which would connect it with itself.
pub fn nobody_listens() -> (String, impl Sized) {
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (format!("http://{}", bound.local_addr().unwrap()), bound)
}

/// A child shares its parent's locks from its `fork` to its `exec`, which would puzzle tests on a clock that stands
/// still. So those that start processes run alone. Counts the scenes that such a process would puzzle; -1 while one
/// may be started. (A fair lock would not do: a test with two scenes could wait for itself.)
static SCENES: Mutex<i32> = Mutex::new(0);

/// A part of what [`SCENES`] counts, given back when dropped.
pub struct Turn(i32);

impl Turn {
    async fn take(part: i32, allowed: impl Fn(i32) -> bool) -> Self {
        // As long as the others take, who have deadlines of their own.
        for turn in 0.. {
            {
                let mut scenes = SCENES.lock().unwrap();
                if allowed(*scenes) {
                    *scenes += part;
                    return Self(part);
                }
            }
            let_others_run(turn).await;
        }
        unreachable!("a test that waited for ever")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *SCENES.lock().unwrap() -= self.0;
    }
}

/// Held by a test that starts processes.
pub async fn alone() -> Turn {
    Turn::take(-1, |scenes| scenes == 0).await
}

/// Time flies once a test has ended, well or not: a flight under way keeps the test's runtime from ending, and may wait on the
/// clock, since the test's Concur is gone.
pub struct FliesAtTheEnd(pub ManualClock);

impl Drop for FliesAtTheEnd {
    #[allow(clippy::disallowed_methods, reason = "a flight takes real time between two pauses")]
    fn drop(&mut self) {
        let clock = self.0.clone();
        std::thread::spawn(move || {
            // Fast at first, for a flight has few pauses; and then seldom, for most tests have left no flight.
            for milliseconds in (0..10).map(|step| 1 << step).chain([1000; 60]) {
                clock.advance(HOUR);
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
        });
    }
}

pub struct Scene {
    _no_forks: Option<Turn>,
    pub concur: ConcurSimulator,
    pub clock: ManualClock,
    pub dir: TempDir,
    _clock: FliesAtTheEnd,
}

impl Scene {
    /// Right credentials, and no token file.
    pub async fn new() -> Self {
        Self::with(Rotation::Never).await
    }

    pub async fn with(rotation: Rotation) -> Self {
        let no_forks = Turn::take(1, |scenes| scenes >= 0).await;
        Self { _no_forks: Some(no_forks), ..Self::among_forks(rotation).await }
    }

    /// On a clock that skips the pauses between the attempts at a grant.
    pub async fn skipping(rotation: Rotation) -> Self {
        let no_forks = Turn::take(1, |scenes| scenes >= 0).await;
        let scene = Self::on(ManualClock::skipping(noon()), rotation).await;
        Self { _no_forks: Some(no_forks), ..scene }
    }

    /// For a test that starts processes and runs [`alone`].
    pub async fn among_forks(rotation: Rotation) -> Self {
        Self::on(ManualClock::new(noon()), rotation).await
    }

    async fn on(clock: ManualClock, rotation: Rotation) -> Self {
        let concur = ConcurSimulator::builder().clock(clock.clone()).rotation(rotation).start().await;
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { _no_forks: None, concur, _clock: FliesAtTheEnd(clock.clone()), clock, dir };
        scene.write_credentials(&scene.concur.credentials_json());
        scene
    }

    /// A manager as `load_from` builds it, on the scene's clock.
    pub fn manager(&self) -> TokenManager {
        self.builder().build().unwrap()
    }

    pub fn builder(&self) -> TokenManagerBuilder {
        TokenManager::builder()
            .credentials(CredentialsFile::new(self.credentials_path()))
            .store(JsonFileStore::new(self.token_path()))
            .clock(self.clock.clone())
    }

    pub fn credentials_path(&self) -> PathBuf {
        self.dir.path().join("credentials.json")
    }

    pub fn token_path(&self) -> PathBuf {
        self.dir.path().join("refreshTokenObjectFile.json")
    }

    pub fn write_credentials(&self, json: &str) {
        std::fs::write(self.credentials_path(), json).unwrap();
    }

    pub fn write_token(&self, json: &str) {
        std::fs::write(self.token_path(), json).unwrap();
    }

    pub fn token_file(&self) -> String {
        std::fs::read_to_string(self.token_path()).unwrap()
    }

    /// The refresh token in the file, read without this crate.
    pub fn stored_refresh_token(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.token_file()).unwrap();
        json["refresh_token"].as_str().unwrap().to_owned()
    }

    /// The names in the folder, sorted.
    pub fn folder(&self) -> Vec<String> {
        names_in(self.dir.path())
    }
}

pub fn names_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs one `#[ignore]`d test of this very binary as a process of its own.
pub fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs one `#[ignore]`d test of this very binary as user 65534, with `DIR` set to `folder`; it must succeed. `false`, after
/// a [`skip`], where this user is not root, or the other user may not even run the test.
pub fn succeeds_as_nobody(test: &str, folder: &Path) -> bool {
    let child = child(test);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--"])
        .arg(child.get_program())
        .args(child.get_args())
        .env("DIR", folder)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => {
            skip(&format!("setpriv: {e}"));
            return false;
        }
    };
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if complained.contains("setpriv") {
        skip(&complained);
        return false;
    }
    assert!(output.status.success(), "{said}\n{complained}");
    true
}

/// Runs one `#[ignore]`d test of this very binary as a user that may have so many threads, and no other process in the system; `None`,
/// after a [`skip`], where this user may not become another.
#[cfg(target_os = "linux")]
pub fn as_a_user_with(threads: usize, test: &str) -> Option<Command> {
    let tested = child(test);
    let user = (100_000 + std::process::id()).to_string();
    let as_the_user = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // Only root may become another user, and that user has to reach this program.
    let may_run = as_the_user("test").arg("-x").arg(tested.get_program()).output();
    if !may_run.is_ok_and(|tried| tried.status.success()) {
        skip("this user may not become another, which may run the test");
        return None;
    }
    let mut command = as_the_user("prlimit");
    command.arg(format!("--nproc={threads}")).arg(tested.get_program()).args(tested.get_args());
    Some(command)
}

/// The calls of the operating system that a child process makes with `DIR` set to `folder`, with so many bytes of each text; `None`,
/// after a [`skip`], where they cannot be seen.
#[cfg(target_os = "linux")]
pub fn traced(test: &str, calls: &str, bytes: usize, folder: &Path) -> Option<String> {
    let elsewhere = tempfile::tempdir().unwrap();
    let trace = elsewhere.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", &bytes.to_string(), "-e", &format!("trace={calls}"), "-o"]).arg(&trace);
    strace.env("DIR", folder.canonicalize().unwrap());
    under(strace, test, |_| false)?;
    Some(std::fs::read_to_string(trace).unwrap())
}

/// Runs a child under strace. Whether it has succeeded, or has ended as expected; `None`, after a [`skip`], where it did neither: not every
/// machine has strace, and not every container lets it look.
#[cfg(target_os = "linux")]
fn under(
    mut strace: Command,
    test: &str,
    has_ended: impl Fn(std::process::ExitStatus) -> bool,
) -> Option<bool> {
    let child = child(test);
    match strace.arg(child.get_program()).args(child.get_args()).output() {
        Ok(output) if output.status.success() => return Some(true),
        Ok(output) if has_ended(output.status) => return Some(false),
        Ok(output) => skip(&format!(
            "strace: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(e) => skip(&format!("strace: {e}")),
    }
    None
}

/// Runs a child, and kills it with SIGKILL as one of its threads makes this call of the operating system for the `nth` time. Whether that
/// happened, or the child has succeeded before; `None`, after a [`skip`], where that cannot be done.
#[cfg(target_os = "linux")]
pub fn is_killed_at(test: &str, call: &str, nth: usize, variables: &[(&str, &str)]) -> Option<bool> {
    use std::os::unix::process::ExitStatusExt as _;

    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}")]).envs(variables.iter().copied());
    let is_killed =
        |status: std::process::ExitStatus| status.signal() == Some(9) || status.code() == Some(137);
    Some(!under(strace, test, is_killed)?)
}

/// Waits for all, and for each to have succeeded.
pub fn all_succeed(children: Vec<Child>) {
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// What no test waits for: a limit on hanging, many times longer than the slowest wait on a busy machine.
const FOR_EVER: Duration = Duration::from_secs(300);

/// Lets other tasks, threads and processes run until `condition` holds. No time passes on any injected clock; five
/// minutes of real time are taken for ever.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "a test that waits for ever should say for what")]
pub fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        for turn in 0.. {
            if condition() {
                return;
            }
            assert!(
                start.elapsed() < FOR_EVER,
                "what {caller} waits for has not come about within five minutes"
            );
            let_others_run(turn).await;
        }
    }
}

/// The other tasks of this runtime get their turn, and after a while the other threads and processes the processor: on
/// a busy machine those that wait must not keep it from those that they wait for.
#[allow(clippy::disallowed_methods, reason = "other threads and processes take real time")]
async fn let_others_run(turn: u32) {
    if turn > 100 {
        std::thread::sleep(Duration::from_micros(100));
    }
    tokio::task::yield_now().await;
}

/// Polls `future` as an executor does, when it is woken, `times` times at most, then drops it. Whether it was
/// ready by then.
pub async fn poll_and_drop<F: Future>(future: F, times: usize) -> bool {
    let mut future = Box::pin(future);
    let mut polls = 0;
    poll_fn(|context| {
        if polls == times {
            return Poll::Ready(false);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if polls == times => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// For what happens in another process or thread at moments that no injected clock can name.
#[allow(clippy::disallowed_methods, reason = "real processes take real time")]
pub async fn really_wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// An executor of one's own, which blocks its thread and drives no tokio runtime.
pub fn without_tokio<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = Box::pin(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
