//! A server that never outlives the program of tests that started it.
//!
//! Always: the server is a child of a shell that does nothing but wait for the end of a pipe (`watchdog.sh`). The program
//! holds the other end, so a return, a panic, a signal and SIGKILL are one case. Where somebody kills the shell, too, the
//! next run finds its folder, because the lock in it is free, stops the server and removes the folder.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, chown},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Once, OnceLock},
    time::{Duration, Instant},
};

/// Both servers refuse to run as root. This is `nobody` on Linux, who owns nothing.
const NOBODY: u32 = 65534;

const PREFIX: &str = "concur-auth-";

/// The name of the socket in a server's folder. The number is the port in a client's settings.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";

/// What a system takes as a socket's path (on Linux 107 bytes), with room for the folder of a proxy.
const LONGEST_PLACE: usize = 50;

#[derive(Debug)]
pub(super) struct Watchdog {
    shell: Child,
    /// `None` once the shell has been told to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Watchdog {
    /// With a folder of its own, for a server that `signal` stops at once.
    pub(super) fn start(signal: &str) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);

        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place()).unwrap().keep();
        let lock = locked(&folder);
        give_to_the_servers_user(&folder.join("lock"));
        give_to_the_servers_user(&folder);
        let mut shell = Command::new("sh");
        shell.args(["-c", include_str!("watchdog.sh"), "watchdog", signal]).arg(&folder);
        without_settings(&mut shell).env("LC_ALL", "C").current_dir(&folder);
        // Its own process group: Ctrl-C at a terminal is for the program of tests.
        shell.process_group(0);
        if is_root() {
            shell.uid(NOBODY).gid(NOBODY);
        }
        // The lock is the shell's from here on, for as long as it lives.
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(lock);
        let mut shell = shell.spawn().unwrap_or_else(|e| panic!("sh in {}: {e}", folder.display()));
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, orders, answers, folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process ids of the server that was started last, and of the shell.
    pub(super) fn processes(&self) -> [u32; 2] {
        let (_, server) = stopped_by(&self.folder).unwrap();
        [server, self.shell.id()]
    }

    /// Runs a command to its end.
    pub(super) fn run(&mut self, command: &str) {
        let code = self.order(&format!("run {command}"));
        assert_eq!(code, "0", "{command}\n{}", self.log());
    }

    /// Starts the server, waits until `is_ready`, and returns its process id.
    ///
    /// # Errors
    ///
    /// The server's log, when it ends before.
    pub(super) fn start_server(
        &mut self,
        command: &str,
        is_ready: impl Fn(u32) -> bool,
    ) -> Result<u32, String> {
        let server = self.order(&format!("start {command}")).parse().unwrap();
        let mut is_up = true;
        let ready_or_not = wait_until(|| {
            is_up = is_running(server);
            !is_up || is_ready(server)
        });
        if is_up && ready_or_not { Ok(server) } else { Err(format!("{command}\n{}", self.log())) }
    }

    /// Sends `signal` to the server, if one runs, and waits for its end.
    pub(super) fn end_server(&mut self, signal: &str) {
        assert_eq!(self.order(&format!("end {signal}")), "ended");
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}

/// Where folders are made: short enough for a socket's path, and within reach of the server's user.
fn place() -> PathBuf {
    let place = std::env::temp_dir();
    if is_root() || place.as_os_str().len() > LONGEST_PLACE { PathBuf::from("/tmp") } else { place }
}

/// A locked file in `folder`. It gets its name when it is locked, so that nobody finds it free.
fn locked(folder: &Path) -> File {
    let unnamed = folder.join("new");
    let lock = File::create(&unnamed).unwrap();
    lock.lock().unwrap();
    fs::rename(&unnamed, folder.join("lock")).unwrap();
    lock
}

/// Stops and removes what killed programs, whose shells were killed, too, have left.
fn sweep() {
    for entry in fs::read_dir(place()).unwrap().flatten() {
        let folder = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(&folder).is_ok_and(|it| it.is_dir() && it.uid() == servers_user());
        if !is_ours {
            continue;
        }
        let Ok(lock) = File::open(folder.join("lock")) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        // A server that answers on its socket is alive, so its process id is still its own.
        if UnixStream::connect(folder.join(SOCKET)).is_ok()
            && let Some((signal, server)) = stopped_by(&folder)
        {
            kill(&signal, server);
            wait_until(|| !is_running(server));
        }
        // What takes long goes first, as long as the lock tells what this folder is.
        let _ = fs::remove_dir_all(folder.join("data"));
        let _ = fs::remove_dir_all(&folder);
    }
}

/// What the shell has noted: a signal, and a server's process id.
fn stopped_by(folder: &Path) -> Option<(String, u32)> {
    let noted = fs::read_to_string(folder.join("stopped-by")).ok()?;
    let (signal, server) = noted.trim().split_once(' ')?;
    Some((signal.to_owned(), server.parse().ok()?))
}

/// `false` where there is no such process, or this user may not.
pub fn kill(signal: &str, process: u32) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &process.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

/// Whether it exists and has not ended.
pub fn is_running(process: u32) -> bool {
    match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat.contains(") Z "),
        // Not every system has /proc.
        Err(_) => !Path::new("/proc/self").exists() && kill("0", process),
    }
}

/// Looks every millisecond, for a minute at most. `false` when that was not enough.
#[allow(clippy::disallowed_methods, reason = "a real server takes real time")]
pub fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn is_root() -> bool {
    user() == 0
}

/// Of this process.
fn user() -> u32 {
    static USER: OnceLock<u32> = OnceLock::new();
    *USER.get_or_init(|| tempfile::tempfile().unwrap().metadata().unwrap().uid())
}

fn servers_user() -> u32 {
    if is_root() { NOBODY } else { user() }
}

/// Does nothing where the server runs as the user of the tests.
pub(super) fn give_to_the_servers_user(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Without what a person has set for PostgreSQL's programs.
pub(super) fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}
