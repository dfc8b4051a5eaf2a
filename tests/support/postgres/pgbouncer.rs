//! A real PgBouncer in transaction mode before a cluster.
//!
//! Always: nothing of a session outlives its transaction: no named statement, no setting, no lock. What relies on a session shows
//! at once. (A connection for each transaction would show it, too, but on a busy machine a new connection takes a second, which is
//! all that the contract of a store gives to an unlock.)

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Postgres, Server, quoted,
    skip::skip_named,
    watchdog::{SOCKET, Watchdog, give_to_the_servers_user},
};

/// Stopped when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    folder: PathBuf,
    watchdog: Watchdog,
}

impl Server for PgBouncer {
    fn host(&self) -> &Path {
        &self.folder
    }
}

impl PgBouncer {
    /// `None`, after the test was said to be skipped, where PgBouncer is not installed.
    pub fn start(postgres: &Postgres, test: &str) -> Option<Self> {
        let Some(program) = installed() else {
            skip_named(test, "no PgBouncer: pgbouncer is not on PATH, nor in /usr/sbin");
            return None;
        };
        // It keeps nothing, and would wait for its clients on a gentler signal.
        let mut watchdog = Watchdog::start("KILL");
        let folder = watchdog.folder().to_owned();
        let (before, own) = (postgres.host().display(), folder.display());
        let mut settings = format!(
            "[databases]\n* = host={before} port=5432 user=postgres\n[pgbouncer]\nunix_socket_dir = {own}\n\
             listen_port = 5432\nauth_type = any\npool_mode = transaction\n\
             server_reset_query = DISCARD ALL\nserver_reset_query_always = 1\n\
             default_pool_size = 20\nmax_client_conn = 500\nserver_login_retry = 0.05\n"
        );
        // 1.21 can carry named statements over, and 1.24 does unless told otherwise; earlier ones do not know the setting.
        if version(&program) >= (1, 21) {
            settings.push_str("max_prepared_statements = 0\n");
        }
        let ini = folder.join("pgbouncer.ini");
        fs::write(&ini, settings).unwrap();
        give_to_the_servers_user(&ini);
        let socket = folder.join(SOCKET);
        let is_ready = |_| UnixStream::connect(&socket).is_ok();
        let started = watchdog.start_server(&format!("{} pgbouncer.ini", quoted(&program)), is_ready);
        started.unwrap_or_else(|log| panic!("{log}"));
        Some(Self { folder, watchdog })
    }

    /// The process ids of PgBouncer and of the shell that watches over it.
    pub fn processes(&self) -> [u32; 2] {
        self.watchdog.processes()
    }
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|it| it.join("pgbouncer"));
    places.find(|it| it.exists())
}

/// Of a first line as `PgBouncer 1.18.0`.
fn version(program: &Path) -> (u32, u32) {
    let output = Command::new(program).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = numbers.split('.').map(|it| it.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
