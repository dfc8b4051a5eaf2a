//! A process of its own: one `#[ignore]`d test of this very binary.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use super::Log;
use crate::{
    postgres::{is_running, kill, wait_until},
    support::child,
};

/// Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    pub process: Child,
    pub log: PathBuf,
}

impl Worker {
    /// Runs the test `works` with the log `NAME.log` in `folder`. The process finds the two in `DIR` and `LOG`.
    pub fn start<'a>(
        folder: &Path,
        name: &str,
        settings: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let mut command = child("works");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(settings).env("DIR", folder).env("LOG", &log);
        Self { process: command.spawn().unwrap(), log }
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Returns when all its threads stand still.
    pub fn suspend(&self) {
        assert!(kill("STOP", self.process.id()));
        assert!(wait_until(|| stands_still(self.process.id())), "it does not stop");
    }

    pub fn go_on(&self) {
        assert!(kill("CONT", self.process.id()));
    }

    pub fn is_running(&self) -> bool {
        is_running(self.process.id())
    }

    pub fn log(&self) -> Log {
        Log::read(&self.log)
    }

    /// How long the log is by now.
    pub fn logged(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |file| usize::try_from(file.len()).unwrap())
    }

    /// What came of the work, once the process has ended.
    pub fn outcome(&mut self) -> String {
        assert!(self.process.wait().unwrap().success(), "{}", fs::read_to_string(&self.log).unwrap());
        self.log().outcome().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn stands_still(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        // A system without /proc: the signal has been delivered at least.
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.contains(") T ") || stat.contains(") t ")
    })
}
