//! What tests with a real PostgreSQL stand on: it never outlives its program, and its faults hit exactly what they name.

#![cfg(all(feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdout, Stdio},
    thread,
};

use postgres::{Database, Options, PgBouncer, Postgres, Proxy, Server, is_running, kill, pem, wait_until};
use support::child;

const TABLE: &str =
    "CREATE TABLE tokens (id int PRIMARY KEY, version int); INSERT INTO tokens VALUES (1, 0);";
const RENEW: &str = "UPDATE tokens SET version = version + 1 WHERE id = 1";
const VERSION: &str = "SELECT version FROM tokens WHERE id = 1";

// ---------------------------------------------------------------------------------------------------------------------
// It ends with its program.

/// What a child process holds: processes and folders.
struct Holding {
    child: Child,
    /// The child goes on writing to it.
    _stdout: BufReader<ChildStdout>,
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

impl Holding {
    /// A child that holds what `holds_servers` makes, until it ends as `ending` says. `None` where it was skipped.
    fn start(ending: &str) -> Option<Self> {
        let mut child = child("holds_servers");
        let mut child =
            child.env("ENDING", ending).env("RUST_BACKTRACE", "0").stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut processes, mut folders) = (Vec::new(), Vec::new());
        let mut line = String::new();
        while stdout.read_line(&mut line).unwrap() > 0 {
            let read = std::mem::take(&mut line);
            match read.trim_end().split_once("HOLDS ") {
                Some((_, "all")) => return Some(Self { child, _stdout: stdout, processes, folders }),
                Some((_, what)) => match what.parse() {
                    Ok(process) => processes.push(process),
                    Err(_) => folders.push(what.into()),
                },
                None => {}
            }
        }
        assert!(child.wait().unwrap().success());
        None
    }

    fn are_running(&self) -> Vec<bool> {
        self.processes.iter().map(|process| is_running(*process)).collect()
    }

    /// Waits until no process and no folder is left.
    fn nothing_stays(mut self) {
        self.child.wait().unwrap();
        let is_nothing_left =
            || !self.are_running().contains(&true) && !self.folders.iter().any(|folder| folder.exists());
        assert!(wait_until(is_nothing_left), "{:?} {:?}", self.are_running(), self.folders);
    }
}

#[test]
#[ignore = "runs as a child process"]
fn holds_servers() {
    let test = "holds_servers";
    let Some(shared) = Postgres::shared(test) else { return };
    let Some(own) = Postgres::start(test) else { return };
    let _proxy = Proxy::before(&own);
    let bouncer = PgBouncer::start(shared, test);
    let mut processes = [shared.processes(), own.processes()].concat();
    processes.extend(bouncer.iter().flat_map(PgBouncer::processes));
    let folders = [shared.host(), own.host()].into_iter().chain(bouncer.as_ref().map(Server::host));
    let mut stdout = std::io::stdout();
    for process in processes {
        writeln!(stdout, "HOLDS {process}").unwrap();
    }
    for folder in folders {
        writeln!(stdout, "HOLDS {}", folder.display()).unwrap();
    }
    writeln!(stdout, "HOLDS all").unwrap();
    match std::env::var("ENDING").unwrap().as_str() {
        "return" => {}
        "panic" => panic!("as the parent wishes"),
        _ => loop {
            thread::park();
        },
    }
}

#[test]
fn nothing_stays_when_the_program_returns_or_panics() {
    for ending in ["return", "panic"] {
        let Some(holding) = Holding::start(ending) else { return };
        holding.nothing_stays();
    }
}

/// Whether this process ignores a signal, where the system tells.
fn is_ignored(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored >> (signal - 1) & 1 == 1
}

#[test]
fn nothing_stays_when_the_program_is_ended_by_a_signal_or_killed() {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("KILL", 9)] {
        // As under `nohup`, which the child inherits.
        if is_ignored(number) {
            continue;
        }
        let Some(holding) = Holding::start("signal") else { return };
        assert!(!holding.are_running().contains(&false));
        assert!(kill(signal, holding.child.id()));
        holding.nothing_stays();
    }
}

#[test]
fn what_is_left_when_the_watchdogs_are_killed_too_is_stopped_by_the_next_run() {
    let Some(mut holding) = Holding::start("signal") else { return };
    // Servers and their watchdogs take turns in the list.
    for watchdog in holding.processes.iter().skip(1).step_by(2) {
        assert!(kill("KILL", *watchdog));
    }
    assert!(kill("KILL", holding.child.id()));
    holding.child.wait().unwrap();
    Holding::start("return").unwrap().nothing_stays();
    holding.nothing_stays();
}

/// The next run must tell what is left from what is in use.
#[test]
fn another_run_leaves_servers_alone_that_are_in_use() {
    let Some(mut holding) = Holding::start("signal") else { return };
    Holding::start("return").unwrap().nothing_stays();
    assert!(!holding.are_running().contains(&false));
    assert!(holding.folders.iter().all(|folder| folder.exists()));
    holding.child.kill().unwrap();
    holding.nothing_stays();
}

// ---------------------------------------------------------------------------------------------------------------------
// The server.

#[test]
fn tests_that_share_a_cluster_do_not_disturb_each_other() {
    let Some(postgres) = Postgres::shared("tests_that_share_a_cluster") else { return };
    let [one, other] = [postgres.database(), postgres.database()];
    assert_ne!(one.name(), other.name());
    one.psql(TABLE);
    assert_eq!(one.psql(VERSION), "0");
    let error = other.try_psql(VERSION).unwrap_err();
    assert!(error.contains("42P01"), "{error}");
    assert!(postgres.version() >= 13);
}

#[test]
fn what_was_committed_is_there_after_an_immediate_stop() {
    let Some(postgres) = Postgres::start("what_was_committed") else { return };
    let database = postgres.database();
    database.psql(TABLE);
    database.psql(RENEW);
    postgres.stop_immediate();
    let error = database.try_psql(VERSION).unwrap_err();
    assert!(error.contains("Is the server running"), "{error}");
    postgres.start_again();
    assert_eq!(database.psql(VERSION), "1");
    postgres.restart_immediate();
    postgres.stop_fast();
    postgres.start_again();
    assert_eq!(database.psql(VERSION), "1");
    let recoveries = postgres.log().matches("was not properly shut down").count();
    assert_eq!(recoveries, 2, "{}", postgres.log());
}

#[test]
fn connections_of_one_database_are_cut() {
    let Some(postgres) = Postgres::shared("connections_of_one_database") else { return };
    let [database, other] = [postgres.database(), postgres.database()];
    assert_eq!(database.terminate_connections(), 0);
    thread::scope(|scope| {
        let sleeping = scope.spawn(|| database.try_psql("SELECT pg_sleep(300)"));
        let others = scope.spawn(|| other.try_psql("SELECT 'woken' FROM pg_sleep(1)"));
        let counting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname IN ('{}', '{}')",
            database.name(),
            other.name()
        );
        // Through another database: a connection of this one could still be about to end.
        assert!(wait_until(|| postgres.psql(&counting) == "2"));
        assert_eq!(database.terminate_connections(), 1);
        let error = sleeping.join().unwrap().unwrap_err();
        assert!(error.contains("57P01"), "{error}");
        assert_eq!(others.join().unwrap().unwrap(), "woken");
    });
}

#[test]
fn a_database_is_read_only_or_full_and_then_no_more() {
    let Some(postgres) = Postgres::shared("a_database_is_read_only") else { return };
    let [database, other] = [postgres.database(), postgres.database()];
    for it in [&database, &other] {
        it.psql(TABLE);
    }
    database.read_only(true);
    let error = database.try_psql(RENEW).unwrap_err();
    assert!(error.contains("25006"), "{error}");
    database.read_only(false);
    database.psql(RENEW);

    for sqlstate in ["53100", "40001"] {
        database.refuses_writes("tokens", sqlstate);
        let error = database.try_psql(RENEW).unwrap_err();
        assert!(error.contains(sqlstate), "{error}");
        other.psql(RENEW);
    }
    database.takes_writes("tokens");
    database.psql(RENEW);
    assert_eq!(database.psql(VERSION), "2");
    assert_eq!(other.psql(VERSION), "2");
}

#[test]
fn tls_is_for_those_who_trust_the_certificate_and_know_the_password() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let options = Options::new().tls(cert.der(), &signing_key.serialize_der()).without_fsync();
    let Some(postgres) = Postgres::start_with("tls", &options) else { return };
    postgres.user_with_password("app", "secret");
    let trusted = tempfile::NamedTempFile::new().unwrap();
    fs::write(trusted.path(), pem("CERTIFICATE", cert.der())).unwrap();
    let port = postgres.tcp_port().unwrap();
    let connect = |user: &str, sslmode: &str, hostname: &str| {
        let trusted = trusted.path().display();
        let url = format!(
            "host={hostname} hostaddr=127.0.0.1 port={port} user={user} password=secret dbname=postgres \
             sslmode={sslmode} sslrootcert={trusted}"
        );
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let psql = postgres.program("psql").args(["-X", "-A", "-t", "-d", &url, "-c", sql]).output();
        let output = psql.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    };
    assert_eq!(connect("app", "verify-full", "localhost"), Ok("t".to_owned()));
    let cases = [
        ("app", "verify-full", "elsewhere", "does not match host name"),
        ("app", "disable", "localhost", "no pg_hba.conf entry"),
        ("postgres", "verify-full", "localhost", "password authentication failed"),
    ];
    for (user, sslmode, hostname, expected) in cases {
        let error = connect(user, sslmode, hostname).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    // On the socket as always.
    assert_eq!(postgres.database().psql("SHOW fsync"), "off");
    postgres.restart_immediate();
    assert_eq!(connect("app", "verify-full", "localhost"), Ok("t".to_owned()));
}

#[test]
fn behind_pgbouncer_nothing_of_a_session_outlives_its_transaction() {
    let test = "behind_pgbouncer_nothing_of_a_session_outlives_its_transaction";
    let Some(postgres) = Postgres::shared(test) else { return };
    let Some(bouncer) = PgBouncer::start(postgres, test) else { return };
    let database = postgres.database();
    let session = "SET lock_timeout = '7s'; SELECT pg_advisory_lock(7)";
    let left = "SHOW lock_timeout; SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
    assert_eq!(database.try_psql(&format!("{session}; {left}")).unwrap(), "\n7s\n1");
    assert_eq!(database.try_psql_by(&bouncer, &format!("{session}; {left}")).unwrap(), "\n0\n0");
    let error = database.try_psql_by(&bouncer, "PREPARE named AS SELECT 1; EXECUTE named").unwrap_err();
    assert!(error.contains("26000"), "{error}");
}

// ---------------------------------------------------------------------------------------------------------------------
// The proxy.

/// A database with [`TABLE`], and a proxy before its server; perhaps with PgBouncer in between.
fn with_proxies(test: &str, check: impl Fn(&Database<'_>, &Proxy)) {
    let Some(postgres) = Postgres::shared(test) else { return };
    let bouncer = PgBouncer::start(postgres, test);
    for server in [Some(postgres as &dyn Server), bouncer.as_ref().map(|it| it as _)].into_iter().flatten() {
        let database = postgres.database();
        database.psql(TABLE);
        check(&database, &Proxy::before(server));
    }
}

const CUT: &str = "server closed the connection unexpectedly";

#[test]
fn a_statement_whose_request_was_cut_was_not_executed() {
    with_proxies("a_statement_whose_request_was_cut", |database, proxy| {
        proxy.cut_next_request("UPDATE");
        // Not the one before.
        let error = database.try_psql_by(proxy, &format!("{VERSION}; {RENEW}; {RENEW}")).unwrap_err();
        assert!(error.contains(CUT), "{error}");
        assert_eq!(proxy.cuts(), 1);
        assert_eq!(proxy.executed(), [format!("{VERSION};")]);
        assert_eq!(database.psql(VERSION), "0");
        // Once only.
        assert_eq!(database.try_psql_by(proxy, &format!("{RENEW}; {VERSION}")).unwrap(), "1");
    });
}

#[test]
fn a_statement_whose_reply_was_cut_was_committed() {
    with_proxies("a_statement_whose_reply_was_cut", |database, proxy| {
        proxy.cut_next_reply("UPDATE");
        let error = database.try_psql_by(proxy, &format!("{VERSION}; {RENEW}; {RENEW}")).unwrap_err();
        assert!(error.contains(CUT), "{error}");
        assert_eq!(proxy.cuts(), 1);
        assert_eq!(database.psql(VERSION), "1");
        assert_eq!(database.try_psql_by(proxy, &format!("{RENEW}; {VERSION}")).unwrap(), "2");
    });
}

#[test]
fn a_held_reply_is_to_a_statement_that_was_committed() {
    with_proxies("a_held_reply", |database, proxy| {
        let held = proxy.hold_next_reply("UPDATE");
        thread::scope(|scope| {
            let client = scope.spawn(|| database.try_psql_by(proxy, &format!("{RENEW} RETURNING version")));
            held.wait();
            assert_eq!(database.psql(VERSION), "1");
            assert!(!client.is_finished());
            drop(held);
            assert_eq!(client.join().unwrap().unwrap(), "1");
        });
    });
}

#[test]
fn a_held_request_is_executed_late_even_when_its_client_has_gone() {
    with_proxies("a_held_request", |database, proxy| {
        let held = proxy.hold_next_request("UPDATE");
        let url = database.url_by(proxy);
        let mut client = database.postgres().program("psql");
        let mut client = client.args(["-X", "-q", "-d", &url, "-c", RENEW]).spawn().unwrap();
        held.wait();
        client.kill().unwrap();
        client.wait().unwrap();
        assert_eq!(database.psql(VERSION), "0");
        drop(held);
        assert!(wait_until(|| database.psql(VERSION) == "1"));
    });
}

#[test]
fn connections_are_refused_and_cut_and_then_no_more() {
    with_proxies("connections_are_refused", |database, proxy| {
        proxy.refuse(true);
        assert!(database.try_psql_by(proxy, RENEW).is_err());
        proxy.refuse(false);
        let held = proxy.hold_next_reply("UPDATE");
        thread::scope(|scope| {
            let client = scope.spawn(|| database.try_psql_by(proxy, RENEW));
            held.wait();
            proxy.cut_all();
            let error = client.join().unwrap().unwrap_err();
            assert!(error.contains(CUT), "{error}");
        });
        drop(held);
        assert_eq!(database.try_psql_by(proxy, VERSION).unwrap(), "1");
    });
}

/// As a driver sends statements: prepared by name, or without a name; pgbench does both.
#[test]
fn a_prepared_statement_is_found_by_its_text_when_it_is_executed() {
    let test = "a_prepared_statement_is_found_by_its_text";
    let Some(postgres) = Postgres::shared(test) else { return };
    let database = postgres.database();
    database.psql(TABLE);
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), format!("{RENEW};\n")).unwrap();
    let mut committed = 0;
    for protocol in ["extended", "prepared"] {
        let proxy = Proxy::before(postgres);
        let pgbench = |transactions: &str| {
            let arguments = ["-n", "-M", protocol, "-t", transactions, "-f"];
            let output = postgres
                .program("pgbench")
                .args(arguments)
                .arg(script.path())
                .arg(database.url_by(&proxy))
                .output();
            output.map(|output| String::from_utf8(output.stderr).unwrap())
        };
        match pgbench("3") {
            Ok(_) => committed += 3,
            Err(e) => return support::skip(&format!("pgbench: {e}")),
        }
        assert_eq!(database.psql(VERSION), committed.to_string());
        let renewals = || proxy.executed().iter().filter(|text| text.contains(RENEW)).count();
        assert_eq!(renewals(), 3);

        proxy.cut_next_request(RENEW);
        pgbench("1").unwrap();
        assert_eq!((proxy.cuts(), renewals()), (1, 3));
        assert_eq!(database.psql(VERSION), committed.to_string());

        proxy.cut_next_reply(RENEW);
        let said = pgbench("1").unwrap();
        committed += 1;
        assert_eq!((proxy.cuts(), renewals()), (2, 4), "{said}");
        assert_eq!(database.psql(VERSION), committed.to_string());
    }
}
