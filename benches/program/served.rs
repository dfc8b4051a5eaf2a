//! Processes that serve until they are dropped.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use concur_auth::{Clock as _, SystemClock};

use super::{PROGRAM, bare};
use crate::support::{self, process};

pub struct Served {
    child: Child,
    /// The first line that it printed.
    pub said: String,
    pub socket: PathBuf,
}

impl Served {
    fn start(command: &mut Command, socket: PathBuf) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut said = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut said).expect("a line");
        Self { child, said: said.trim().to_owned(), socket }
    }

    /// One of the bare processes.
    pub fn bare(role: &str, dir: &Path, argument: &str) -> Self {
        let socket = dir.join(format!("{role}.sock"));
        Self::start(itself(role).arg(&socket).arg(argument), socket)
    }

    /// What is forwarded to; it says its URL.
    pub fn upstream() -> Self {
        Self::start(&mut itself(bare::UPSTREAM), PathBuf::new())
    }

    /// The program, with a token that is good for this upstream.
    pub fn program(dir: &Path, upstream: &str) -> Self {
        write_valid_files(dir, upstream);
        let socket = dir.join("concur-auth.sock");
        let mut command = program(dir, upstream);
        Self::start(command.args(["serve", "--proxy", "--socket"]).arg(&socket), socket)
    }

    pub fn processor_time(&self) -> Duration {
        process::processor_time_of(self.child.id())
    }

    pub fn peak_memory(&self) -> u64 {
        process::peak_memory_of(self.child.id())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This bench, in another role.
pub fn itself(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a path"));
    command.arg(role);
    command
}

/// The program in a folder, without what the environment says to it.
pub fn program(dir: &Path, base_uri: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    let is_ours = |name: &OsStr| name.to_string_lossy().starts_with("CONCUR_");
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.env("CONCUR_BASE_URI", base_uri).arg("--dir").arg(dir);
    command
}

/// The tutorial's two files, with a token of the usual length that is valid for an hour.
pub fn write_valid_files(dir: &Path, geolocation: &str) {
    let expires = concur_auth::time::OffsetDateTime::from(SystemClock.now()).unix_timestamp() + 3600;
    let token = format!(r#""accessTokenExpiresAt":{expires},"access_token":"{}","#, "a".repeat(900));
    let stored = support::STORED.replace("https://us.api.concursolutions.com", geolocation);
    let (before, after) = stored.split_once(r#""access_token""#).expect("a token");
    let (_, after) = after.split_once(',').expect("more members");
    support::write_files(dir);
    fs::write(dir.join("refreshTokenObjectFile.json"), format!("{before}{token}{after}")).expect("a file");
}
