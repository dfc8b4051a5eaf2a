//! A real PostgreSQL in a temporary folder, on a Unix socket, for tests, benches and examples. It blocks; it is no part of
//! `support`, so that whoever needs it takes it by itself:
//!
//! ```ignore
//! #[path = "support/postgres/mod.rs"]
//! mod postgres;
//!
//! let Some(postgres) = Postgres::shared("name of the test") else { return };
//! let database = postgres.database();
//! connect(&database.url());
//! ```
//!
//! Always: the server runs as `nobody` where the tests run as root; it ends with the program that started it, however that
//! ends (`watchdog.rs`); where PostgreSQL is not installed, the test says that it is skipped. Nothing of the machine is used
//! but the binaries: no service, no configuration, no data. Starting a process lends it this process's file locks until it
//! has begun, so a test that has both, locks and a clock that stands still, runs `support::alone`.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every user needs its own part")]
#![allow(missing_docs, missing_debug_implementations, reason = "a private module of tests")]

mod pgbouncer;
mod proxy;
#[allow(clippy::duplicate_mod, reason = "it is `support`'s, too, which not every user has")]
#[path = "../skip.rs"]
mod skip;
mod watchdog;

use std::{
    env, fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

pub use self::{
    pgbouncer::PgBouncer,
    proxy::{Held, Proxy},
    watchdog::{is_running, kill, wait_until},
};
use self::{
    skip::skip_named,
    watchdog::{SOCKET, Watchdog, give_to_the_servers_user, without_settings},
};

/// Where its clients find a server: PostgreSQL itself, PgBouncer, or a proxy.
pub trait Server {
    /// The folder with the socket, which clients take as the host. The port is 5432, the user `postgres`.
    fn host(&self) -> &Path;

    /// For libpq and tokio-postgres.
    fn url(&self, database: &str) -> String {
        format!("postgresql:///{database}?host={}&port=5432&user=postgres", self.host().display())
    }
}

/// How a cluster differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct Options {
    tls: Option<(String, String)>,
    settings: Vec<(String, String)>,
}

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    /// Also listens on 127.0.0.1, where it admits who comes with TLS and a password (SCRAM): see
    /// [`Postgres::tcp_port`] and [`Postgres::user_with_password`]. Both in DER, the key as PKCS #8.
    pub fn tls(mut self, certificate: &[u8], key: &[u8]) -> Self {
        self.tls = Some((pem("CERTIFICATE", certificate), pem("PRIVATE KEY", key)));
        self
    }

    /// A line of `postgresql.conf`; the later of two wins.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Faster, and not for tests of what a crash of the machine leaves: that of the server leaves the same.
    pub fn without_fsync(self) -> Self {
        self.setting("fsync", "off")
    }
}

/// A cluster. Stopped, and removed, when dropped.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    folder: PathBuf,
    tcp_port: Option<u16>,
    databases: AtomicUsize,
    watchdog: Mutex<Watchdog>,
}

impl Server for Postgres {
    fn host(&self) -> &Path {
        &self.folder
    }
}

impl Postgres {
    /// One for this test alone, which may stop it. `None`, after the test was said to be skipped, where PostgreSQL is not
    /// installed.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, &Options::new())
    }

    pub fn start_with(test: &str, options: &Options) -> Option<Self> {
        let binaries = installed().map_err(|why| skip_named(test, why)).ok()?;
        Some(Self::with(binaries, options))
    }

    /// One for all tests of this program, each of which makes a [`database`](Self::database). It runs until the program
    /// ends, and waits for no disk: where many tests write, a commit could take longer than the second that a store has for its
    /// unlock.
    pub fn shared(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        let shared =
            SHARED.get_or_init(|| Some(Self::with(installed().ok()?, &Options::new().without_fsync())));
        if shared.is_none() {
            skip_named(test, NOT_INSTALLED);
        }
        shared.as_ref()
    }

    fn with(binaries: PathBuf, options: &Options) -> Self {
        // The signal for an immediate shutdown: what is in a cluster of tests is thrown away.
        let mut watchdog = Watchdog::start("QUIT");
        let folder = watchdog.folder().to_owned();
        let initdb = quoted(&binaries.join("initdb"));
        watchdog.run(&format!("{initdb} -D data -U postgres -A trust -E UTF8 --no-locale --no-sync"));
        let watchdog = watchdog.into();
        let mut cluster = Self { binaries, folder, tcp_port: None, databases: AtomicUsize::new(0), watchdog };
        cluster.configure(options);
        match options.tls {
            None => cluster.start_again(),
            Some(_) => cluster.start_on_a_free_port(),
        }
        cluster
    }

    fn configure(&self, options: &Options) {
        let folder = self.folder.display();
        let mut lines = vec![
            format!("unix_socket_directories = '{folder}'"),
            "listen_addresses = ''".to_owned(),
            "shared_buffers = 16MB".to_owned(),
            // All tests of a program share a cluster.
            "max_connections = 400".to_owned(),
            "password_encryption = 'scram-sha-256'".to_owned(),
        ];
        if let Some((certificate, key)) = &options.tls {
            self.add_private_file("server.crt", certificate);
            self.add_private_file("server.key", key);
            lines.extend(["listen_addresses = '127.0.0.1'".to_owned(), "ssl = on".to_owned()]);
            // The first line that fits counts, and initdb's own trust whoever comes by TCP.
            let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            self.add_private_file("pg_hba.conf", rules);
        }
        lines.extend(options.settings.iter().map(|(name, value)| format!("{name} = '{value}'")));
        self.append_settings(&lines.join("\n"));
    }

    /// The port is free when it is looked for, and may be taken when the server comes to it.
    fn start_on_a_free_port(&mut self) {
        let attempts = (0..10).map(|_| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            self.tcp_port = Some(port);
            self.append_settings(&format!("port = {port}"));
            // The port is a part of the socket's name, too. Clients on the socket always use 5432.
            let socket = self.folder.join(SOCKET);
            let _ = fs::remove_file(&socket);
            symlink(format!(".s.PGSQL.{port}"), socket).unwrap();
            self.try_to_start()
        });
        let failures: Vec<_> = attempts.map_while(Result::err).collect();
        assert!(failures.len() < 10, "{}", failures.concat());
    }

    fn add_private_file(&self, name: &str, text: &str) {
        let path = self.folder.join("data").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        give_to_the_servers_user(&path);
    }

    fn append_settings(&self, lines: &str) {
        let path = self.folder.join("data/postgresql.conf");
        let mut file = fs::File::options().append(true).open(path).unwrap();
        writeln!(file, "{lines}").unwrap();
    }

    fn watchdog(&self) -> MutexGuard<'_, Watchdog> {
        self.watchdog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As a power cut: connections break, nothing is written any more, and the next start recovers from the log. Does
    /// nothing where the server is stopped.
    pub fn stop_immediate(&self) {
        self.watchdog().end_server("QUIT");
    }

    /// As an operator does: open transactions are rolled back, connections are told (57P01), and all is written.
    pub fn stop_fast(&self) {
        self.watchdog().end_server("INT");
    }

    pub fn start_again(&self) {
        self.try_to_start().unwrap_or_else(|log| panic!("{log}"));
    }

    fn try_to_start(&self) -> Result<(), String> {
        let status = self.folder.join("data/postmaster.pid");
        let is_ready = |server: u32| {
            let status = fs::read_to_string(&status).unwrap_or_default();
            let lines: Vec<_> = status.lines().map(str::trim).collect();
            lines.first() == Some(&server.to_string().as_str()) && lines.get(7) == Some(&"ready")
        };
        let postgres = quoted(&self.binaries.join("postgres"));
        self.watchdog().start_server(&format!("{postgres} -D data"), is_ready).map(drop)
    }

    pub fn restart_immediate(&self) {
        self.stop_immediate();
        self.start_again();
    }

    /// What the server has logged since the cluster was made.
    pub fn log(&self) -> String {
        self.watchdog().log()
    }

    /// The major version, for example 15.
    pub fn version(&self) -> u32 {
        let number: u32 = self.psql("SHOW server_version_num").parse().unwrap();
        number / 10_000
    }

    /// On 127.0.0.1, with [`Options::tls`].
    pub fn tcp_port(&self) -> Option<u16> {
        self.tcp_port
    }

    /// A role that may log in by TCP, with [`Options::tls`].
    pub fn user_with_password(&self, name: &str, password: &str) {
        self.psql(&format!("CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"));
    }

    /// A new, empty database, with a name that no other has.
    pub fn database(&self) -> Database<'_> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("CREATE DATABASE {name}"));
        Database { postgres: self, name }
    }

    /// What psql prints for these statements in the maintenance database: a line a row, `|` between columns.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    fn psql_in(&self, database: &str, sql: &str) -> String {
        let printed = self.try_psql_by(self, database, sql);
        printed.unwrap_or_else(|complaint| panic!("{sql}\n{complaint}"))
    }

    /// By way of `server`: this one, or one in front of it. Each statement is a transaction; the first that fails ends it.
    ///
    /// # Errors
    ///
    /// What psql says, with the SQLSTATE.
    pub fn try_psql_by(&self, server: &dyn Server, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]);
        psql.args(["-d", &server.url(database), "-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut psql = psql.spawn().unwrap();
        let mut input = psql.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            // It may end before it has read all.
            scope.spawn(move || input.write_all(sql.as_bytes()));
            psql.wait_with_output().unwrap()
        });
        let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// One of PostgreSQL's own programs, as `pg_dump`.
    pub fn program(&self, name: &str) -> Command {
        let mut program = Command::new(self.binaries.join(name));
        without_settings(&mut program).env("LC_ALL", "C");
        program
    }

    /// The process ids of the running server and of the shell that watches over it.
    pub fn processes(&self) -> [u32; 2] {
        self.watchdog().processes()
    }
}

/// A database for one test. It goes with its cluster.
#[derive(Debug)]
pub struct Database<'a> {
    postgres: &'a Postgres,
    name: String,
}

impl Database<'_> {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn postgres(&self) -> &Postgres {
        self.postgres
    }

    /// For libpq and tokio-postgres, on the socket.
    pub fn url(&self) -> String {
        self.postgres.url(&self.name)
    }

    /// As [`url`](Self::url), by way of PgBouncer or a proxy.
    pub fn url_by(&self, server: &dyn Server) -> String {
        server.url(&self.name)
    }

    /// As [`Postgres::psql`].
    pub fn psql(&self, sql: &str) -> String {
        self.postgres.psql_in(&self.name, sql)
    }

    /// As [`Postgres::try_psql_by`], on the socket.
    ///
    /// # Errors
    ///
    /// What psql says, with the SQLSTATE.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        self.postgres.try_psql_by(self.postgres, &self.name, sql)
    }

    /// As [`Postgres::try_psql_by`].
    ///
    /// # Errors
    ///
    /// What psql says, with the SQLSTATE.
    pub fn try_psql_by(&self, server: &dyn Server, sql: &str) -> Result<String, String> {
        self.postgres.try_psql_by(server, &self.name, sql)
    }

    /// Cuts the connections that there are, as an operator does (57P01), and returns when they are gone, with their number.
    pub fn terminate_connections(&self) -> usize {
        let pids = format!("SELECT pid FROM pg_stat_activity WHERE datname = '{}'", self.name);
        let pids = self.postgres.psql(&pids);
        let pids: Vec<_> = pids.lines().collect();
        let those = format!("FROM pg_stat_activity WHERE pid = ANY ('{{{}}}')", pids.join(","));
        self.postgres.psql(&format!("SELECT pg_terminate_backend(pid) {those}"));
        let gone = wait_until(|| self.postgres.psql(&format!("SELECT count(*) {those}")) == "0");
        assert!(gone, "connections that do not end: {pids:?}");
        pids.len()
    }

    /// Cuts all connections; later ones find a database that refuses writes (25006), or again one that does not.
    pub fn read_only(&self, is: bool) {
        let setting = format!("ALTER DATABASE {} SET default_transaction_read_only = {is}", self.name);
        self.postgres.psql(&setting);
        self.terminate_connections();
    }

    /// Every statement that writes to `table` fails with this SQLSTATE from now on, at once and on open connections: 53100
    /// is a full disk. [`takes_writes`](Self::takes_writes) ends it.
    pub fn refuses_writes(&self, table: &str, sqlstate: &str) {
        self.psql(&format!(
            "CREATE OR REPLACE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{sqlstate}'; END $$;
             DROP TRIGGER IF EXISTS refused ON {table};
             CREATE TRIGGER refused BEFORE INSERT OR UPDATE OR DELETE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION refused();"
        ));
    }

    pub fn takes_writes(&self, table: &str) {
        self.psql(&format!("DROP TRIGGER refused ON {table}"));
    }
}

const NOT_INSTALLED: &str =
    "no PostgreSQL: initdb, postgres and psql are not together on PATH, nor in /usr/lib/postgresql";

/// The folder with PostgreSQL's programs: the first on PATH that has all, else Debian's newest, which PATH does not name.
fn installed() -> Result<PathBuf, &'static str> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).collect::<Vec<_>>();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let mut debian: Vec<_> = debian.map(|entry| entry.path()).collect();
    debian.sort_by_key(version);
    let places = on_path.into_iter().chain(debian.into_iter().rev().map(|it| it.join("bin")));
    let mut complete =
        places.filter(|it| ["initdb", "postgres", "psql"].iter().all(|program| it.join(program).exists()));
    complete.next().ok_or(NOT_INSTALLED)
}

/// As PostgreSQL and its clients read certificates and keys from files.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    // Lines of 64 characters, as the format demands.
    let lines = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap());
    let lines: Vec<_> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
