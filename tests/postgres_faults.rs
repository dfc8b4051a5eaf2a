//! Faults that must lose nothing: workers killed or suspended at every statement, a database that is restarted, cut off,
//! read-only or full, and clocks that are wrong. Concur rotates refresh tokens, and revokes the family of a token that is
//! presented twice.
//!
//! Always: one window remains, and a test that loses a token says that it was this one: a process is killed, or suspended past
//! its lease, after it has checked its lease for a request and before its save is carried out.
//!
//! `long_run` does the same at random, 500 times; its command is in `postgres_faults/long_run.rs`.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/company.rs"]
mod company;
#[path = "postgres_faults/long_run.rs"]
mod long_run;
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;
#[path = "postgres_faults/worker.rs"]
mod worker;
#[path = "support/workers/mod.rs"]
mod workers;

use std::{
    fs,
    future::Future,
    ops::Deref,
    pin::Pin,
    time::{Duration, SystemTime},
};

use concur_auth::{
    Clock, Credentials, ErrorKind, PostgresStore, SystemClock, TokenManager, TokenStore as _,
    simulator::Fault,
};
use tempfile::TempDir;

use self::{
    company::{Account, CLAIM, PRINCIPAL, PROLONG, READ, RELEASE, REMEMBER, SAVE, refresh},
    postgres::{Held, PgBouncer, Postgres, Proxy, Server},
    support::until,
    worker::{Limits, Work},
    workers::Worker,
};

const LIMITS: Limits = Limits {
    lease: Duration::from_secs(90),
    doubt: Duration::from_secs(3600),
    late_save: Duration::from_millis(300),
};

#[tokio::test]
#[ignore = "runs as a child process"]
async fn works() {
    worker::work().await;
}

/// A company whose workers are processes.
struct Company<'a> {
    account: Account<'a>,
    folder: TempDir,
    /// Between the workers and the database.
    server: &'a dyn Server,
}

impl<'a> Deref for Company<'a> {
    type Target = Account<'a>;

    fn deref(&self) -> &Account<'a> {
        &self.account
    }
}

impl<'a> Company<'a> {
    /// Signed in: one request has been sent.
    async fn of(postgres: &'a Postgres) -> Self {
        Self::behind(postgres, postgres).await
    }

    async fn behind(postgres: &'a Postgres, server: &'a dyn Server) -> Self {
        Self::begun(Account::of(postgres).await, server).await
    }

    /// The same database, from the start.
    async fn again(self) -> Self {
        Self::begun(self.account.again().await, self.server).await
    }

    async fn begun(account: Account<'a>, server: &'a dyn Server) -> Self {
        let company = Self { account, folder: tempfile::tempdir().unwrap(), server };
        company.begin().await;
        company
    }

    async fn begin(&self) {
        fs::write(self.folder.path().join("credentials.json"), self.concur.credentials_json()).unwrap();
        self.machine().access_token().await.unwrap();
    }

    fn store(&self) -> PostgresStore {
        PostgresStore::new(&self.database.url(), PRINCIPAL).unwrap().late_save(LIMITS.late_save)
    }

    /// A manager as on another machine.
    fn machine(&self) -> TokenManager {
        self.manager(self.store())
    }

    fn worker(&self, proxy: &Proxy, limits: Limits) -> Worker {
        let url = self.database.url_by(proxy);
        worker::start(self.folder.path(), "worker", &url, limits, Work::RefreshOnce)
    }

    /// A worker that stands at a point of its only renewal.
    async fn worker_at(&self, point: Point) -> Standing {
        self.worker_with(point, LIMITS).await
    }

    async fn worker_with(&self, point: Point, limits: Limits) -> Standing {
        let proxy = Proxy::before(self.server);
        // What comes before REMEMBER and RELEASE, and before PROLONG.
        if matches!(point.statement, REMEMBER | RELEASE) {
            self.concur.fault_next(1, Fault::code(14));
        }
        let claimed = (point.statement == PROLONG).then(|| proxy.hold_next_reply(CLAIM));
        let held = match point.at {
            At::Request => proxy.hold_next_request(point.statement),
            At::Reply => proxy.hold_next_reply(point.statement),
        };
        let worker = self.worker(&proxy, limits);
        if let Some(claimed) = claimed {
            reached(&claimed).await;
            // More than half of the lease is over when the claim is answered, so it is prolonged.
            let half = limits.lease.as_secs_f64() / 2.0;
            let is_half_over = format!("lease_until <= clock_timestamp() + make_interval(secs => {half})");
            until(|| self.row(&is_half_over) == "t").await;
        }
        reached(&held).await;
        Standing { worker, held, proxy }
    }

    /// Grant types and statuses of all requests after the first sign-in.
    fn requests(&self) -> Vec<String> {
        let requests = self.concur.requests();
        let told = requests.iter().skip(1).map(|request| {
            format!("{} {}", request.grant_type().unwrap_or_default(), request.status().unwrap_or_default())
        });
        told.collect()
    }

    /// The company is signed in, nobody holds its lease, and it is not in doubt.
    fn is_well(&self, what: &str) {
        let row = self.row("state, lease_owner IS NULL, in_doubt_since IS NULL");
        assert_eq!(row, "active|t|t", "{what}: {:?}", self.requests());
        assert!(self.concur.is_live(&self.stored()), "{what}: {:?}", self.requests());
    }
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug)]
struct Point {
    statement: &'static str,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The statement has been sent, and not been carried out.
    Request,
    /// The statement has been carried out, and not been answered.
    Reply,
}

/// Drop the proxy first, and what is held is never carried out.
struct Standing {
    worker: Worker,
    held: Held,
    proxy: Proxy,
}

/// [`Held::wait`] blocks its thread.
async fn reached(held: &Held) {
    until(|| held.is_reached()).await;
}

// ---------------------------------------------------------------------------------------------------------------------
// Workers that are killed.

/// What becomes of the statement that a killed worker has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is lost with the connection.
    Never,
    /// It is carried out when its worker is dead.
    Late,
    /// It had been carried out; its worker was killed before the answer.
    Before,
}

/// After each, another machine renews; these are all requests after the first sign-in.
#[tokio::test]
async fn a_worker_is_killed_at_each_statement() {
    let Some(postgres) = Postgres::shared("a_worker_is_killed_at_each_statement") else { return };
    kills_at_each_statement(Company::of(postgres).await).await;
}

#[tokio::test]
async fn a_worker_is_killed_at_each_statement_behind_pgbouncer() {
    let test = "a_worker_is_killed_at_each_statement_behind_pgbouncer";
    let Some(postgres) = Postgres::shared(test) else { return };
    let Some(bouncer) = PgBouncer::start(postgres, test) else { return };
    kills_at_each_statement(Company::behind(postgres, &bouncer).await).await;
}

async fn kills_at_each_statement(mut company: Company<'_>) {
    const RENEWED: &str = "refresh_token 200";
    // Concur revokes the family when the other machine presents the spent token; the request token is the way back.
    const LOST: [&str; 3] = [RENEWED, "refresh_token 400", "password 200"];
    const REFUSED: &str = "refresh_token 400";
    for (statement, fate, requests) in [
        (CLAIM, Fate::Never, &[RENEWED][..]),
        (CLAIM, Fate::Late, &[RENEWED]),
        (CLAIM, Fate::Before, &[RENEWED]),
        (PROLONG, Fate::Never, &[RENEWED]),
        (PROLONG, Fate::Late, &[RENEWED]),
        (PROLONG, Fate::Before, &[RENEWED]),
        // The window: killed after Concur has answered, and the save is not carried out.
        (SAVE, Fate::Never, &LOST),
        (SAVE, Fate::Late, &[RENEWED, RENEWED]),
        (SAVE, Fate::Before, &[RENEWED, RENEWED]),
        (REMEMBER, Fate::Never, &[REFUSED, RENEWED]),
        (REMEMBER, Fate::Late, &[REFUSED, RENEWED]),
        (REMEMBER, Fate::Before, &[REFUSED, RENEWED]),
        (RELEASE, Fate::Never, &[REFUSED, RENEWED]),
        (RELEASE, Fate::Late, &[REFUSED, RENEWED]),
        (RELEASE, Fate::Before, &[REFUSED, RENEWED]),
    ] {
        let what = format!("{statement}, {fate:?}");
        let at = if fate == Fate::Before { At::Reply } else { At::Request };
        let lease = if statement == PROLONG { Duration::from_millis(600) } else { LIMITS.lease };
        let standing = company.worker_with(Point { statement, at }, Limits { lease, ..LIMITS }).await;
        let Standing { mut worker, held, proxy } = standing;
        worker.kill();
        let executed = proxy.executed().len();
        match fate {
            Fate::Never => drop(proxy),
            Fate::Late => {
                drop(held);
                until(|| proxy.executed().len() == executed + 1).await;
                let after = match statement {
                    CLAIM => "lease_owner IS NOT NULL",
                    SAVE => "version = 2",
                    REMEMBER => "refusal IS NOT NULL",
                    RELEASE => "lease_owner IS NULL",
                    // It is over in a moment in any case.
                    _ => "true",
                };
                until(|| company.row(after) == "t").await;
            }
            Fate::Before => drop(held),
        }
        // A save and a release end the lease; every other worker has left one.
        let has_ended = matches!(statement, SAVE | RELEASE) && fate != Fate::Never
            || statement == CLAIM && fate == Fate::Never;
        assert_eq!(company.row("lease_owner IS NULL"), if has_ended { "t" } else { "f" }, "{what}");
        company.lapse();
        // What was refused may be tried again: the account is unlocked by now.
        company.machine().retry_now().await.unwrap();
        assert_eq!(company.requests(), requests, "{what}");
        company.is_well(&what);
        company = company.again().await;
    }
}

/// The window again, with nothing to sign in again with: the row says that a person is needed.
#[tokio::test]
async fn a_worker_is_killed_while_concur_answers() {
    let Some(postgres) = Postgres::shared("a_worker_is_killed_while_concur_answers") else { return };
    let mut company = Company::of(postgres).await;
    for has_request_token in [true, false] {
        let proxy = Proxy::before(postgres);
        let held = company.concur.hold_replies();
        let mut worker = company.worker(&proxy, LIMITS);
        until(|| company.concur.token_requests() == 2).await;
        worker.kill();
        held.release();
        company.lapse();
        let ahead = company.store().try_lock_ahead_of_time().await.unwrap();
        assert!(ahead.is_none(), "a renewal ahead of time leaves the row alone");
        if has_request_token {
            company.machine().refresh().await.unwrap();
            assert_eq!(company.requests(), ["refresh_token 200", "refresh_token 400", "password 200"]);
            company.is_well("with a request token");
        } else {
            let json: serde_json::Value = serde_json::from_str(&company.concur.credentials_json()).unwrap();
            let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap());
            let machine = TokenManager::builder()
                .credentials(Credentials::new(id, secret))
                .base_uri(company.concur.base_uri())
                .store(company.store())
                .build()
                .unwrap();
            let error = machine.refresh().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
            assert_eq!(company.requests(), ["refresh_token 200", "refresh_token 400"]);
            assert_eq!(company.row("state, lease_owner IS NULL"), "needs_reauthorization|t");
        }
        company = company.again().await;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Workers that are suspended past their lease, and continued.

/// Suspended with a claim that is not carried out, or not answered: nothing is sent on a lease that has lapsed.
#[tokio::test]
async fn a_worker_is_suspended_at_its_claim_and_continued() {
    let Some(postgres) = Postgres::shared("a_worker_is_suspended_at_its_claim_and_continued") else { return };
    let mut company = Company::of(postgres).await;
    let lease = Duration::from_millis(600);
    for (statement, at) in
        [(CLAIM, At::Request), (CLAIM, At::Reply), (PROLONG, At::Request), (PROLONG, At::Reply)]
    {
        let what = format!("{statement}, {at:?}");
        let standing = company.worker_with(Point { statement, at }, Limits { lease, ..LIMITS }).await;
        let Standing { mut worker, held, proxy } = standing;
        worker.suspend();
        // Its lease lapses by itself, so by its own clock, too.
        until(|| company.row("coalesce(lease_until <= clock_timestamp(), true)") == "t").await;
        company.machine().refresh().await.unwrap();
        let stored = company.stored();
        let executed = proxy.executed().len();
        drop(held);
        until(|| at == At::Reply || proxy.executed().len() == executed + 1).await;
        worker.go_on();
        let outcome = worker.outcome();
        // A claim that comes late is a claim like any other. Who has no lease any more begins again, or says so.
        assert!(["done", "Store"].contains(&&*outcome), "{what}: {outcome}");
        let requests = company.requests();
        assert!(requests.iter().all(|request| request == "refresh_token 200"), "{what}: {requests:?}");
        assert_eq!(requests.len(), if outcome == "done" { 2 } else { 1 }, "{what}: {requests:?}");
        assert_eq!(outcome == "done", company.stored() != stored, "{what}");
        // The worker that gave up has nothing to say about the lease.
        company.is_well(&what);
        company = company.again().await;
    }
}

/// Suspended with a reply in hand, or on its way: the late save counts, unless another machine has saved.
#[tokio::test]
async fn a_worker_is_suspended_before_its_save_and_continued() {
    let Some(postgres) = Postgres::shared("a_worker_is_suspended_before_its_save_and_continued") else {
        return;
    };
    let mut company = Company::of(postgres).await;
    for is_answered in [false, true] {
        for other_presents in [false, true] {
            let what = format!("answered: {is_answered}, the other presents: {other_presents}");
            let (mut worker, held, _proxy);
            if is_answered {
                let standing = company.worker_at(Point { statement: SAVE, at: At::Request }).await;
                worker = standing.worker;
                worker.suspend();
                (held, _proxy) = (Some(standing.held), standing.proxy);
            } else {
                let (proxy, replies) = (Proxy::before(postgres), company.concur.hold_replies());
                worker = company.worker(&proxy, LIMITS);
                until(|| company.concur.token_requests() == 2).await;
                worker.suspend();
                replies.release();
                (held, _proxy) = (None, proxy);
            }
            company.lapse();
            if other_presents {
                // The one window: suspended past its lease, between Concur's answer and the save.
                company.machine().refresh().await.unwrap();
                assert_eq!(
                    company.requests(),
                    ["refresh_token 200", "refresh_token 400", "password 200"],
                    "{what}"
                );
            }
            let stored = company.stored();
            drop(held);
            worker.go_on();
            assert_eq!(worker.outcome(), "done", "{what}");
            let password = company.concur.count("password");
            if other_presents {
                // Its own token is superseded, and the stored one renewed in its place.
                assert_eq!(password, 2, "{what}");
            } else {
                assert_eq!(company.requests(), ["refresh_token 200"], "{what}");
                assert_ne!(company.stored(), stored, "{what}");
            }
            company.is_well(&what);
            company = company.again().await;
        }
    }
}

/// The other machine is refused while the worker is suspended, and waits for its save: that token is used, or the family is
/// revoked and the request token is the way back.
#[tokio::test]
async fn a_worker_is_continued_while_another_waits_for_its_save() {
    let Some(postgres) = Postgres::shared("a_worker_is_continued_while_another_waits_for_its_save") else {
        return;
    };
    let company = Company::of(postgres).await;
    let standing = company.worker_at(Point { statement: SAVE, at: At::Request }).await;
    let Standing { mut worker, held, proxy: _proxy } = standing;
    worker.suspend();
    company.lapse();
    let others = Proxy::before(postgres);
    let store = PostgresStore::new(&company.database.url_by(&others), PRINCIPAL).unwrap();
    let other = company.manager(store.late_save(Duration::from_secs(2)));
    let call = refresh(&other);
    // Its first look for the save, after it was refused. It has looked once before.
    until(|| others.executed().iter().filter(|text| text.contains(READ)).count() == 2).await;
    assert_eq!(company.requests(), ["refresh_token 200", "refresh_token 400"]);
    drop(held);
    worker.go_on();
    assert_eq!(worker.outcome(), "done");
    call.await.unwrap().unwrap();
    // What the worker has saved is of the family that is revoked by now.
    assert_eq!(
        company.requests(),
        ["refresh_token 200", "refresh_token 400", "refresh_token 400", "password 200"]
    );
    company.is_well("continued in the wait");
}

/// A save that was carried out is not undone by its worker's sleep: the lease is over, and nobody waits.
#[tokio::test]
async fn a_worker_is_suspended_after_its_save_and_continued() {
    let Some(postgres) = Postgres::shared("a_worker_is_suspended_after_its_save_and_continued") else {
        return;
    };
    let company = Company::of(postgres).await;
    let standing = company.worker_at(Point { statement: SAVE, at: At::Reply }).await;
    let Standing { mut worker, held, proxy: _proxy } = standing;
    worker.suspend();
    company.machine().refresh().await.unwrap();
    let stored = company.stored();
    drop(held);
    worker.go_on();
    assert_eq!(worker.outcome(), "done");
    assert_eq!(company.stored(), stored);
    assert_eq!(company.requests(), ["refresh_token 200", "refresh_token 200"]);
    company.is_well("suspended after its save");
}

/// What it was refused is no news any more, and the lease that it gives back is not its own.
#[tokio::test]
async fn a_worker_is_suspended_after_a_refusal_and_continued() {
    let Some(postgres) = Postgres::shared("a_worker_is_suspended_after_a_refusal_and_continued") else {
        return;
    };
    let mut company = Company::of(postgres).await;
    for (statement, has_saved) in [(REMEMBER, false), (REMEMBER, true), (RELEASE, false), (RELEASE, true)] {
        let what = format!("{statement}, the other has saved: {has_saved}");
        let standing = company.worker_at(Point { statement, at: At::Request }).await;
        let Standing { mut worker, held, proxy } = standing;
        worker.suspend();
        company.lapse();
        let other = company.machine();
        let mut replies = Some(company.concur.hold_replies());
        let mut call = Some(tokio::spawn(async move { other.retry_now().await }));
        until(|| company.concur.token_requests() == 3).await;
        if has_saved {
            drop(replies.take());
            call.take().unwrap().await.unwrap().unwrap();
        }
        let row = company.row("lease_owner, lease_until, refusal, state, failures, last_error, updated_at");
        drop(held);
        worker.go_on();
        assert_eq!(worker.outcome(), "Refused", "{what}");
        until(|| proxy.executed().iter().any(|text| text.contains(RELEASE))).await;
        let now = company.row("lease_owner, lease_until, refusal, state, failures, last_error, updated_at");
        assert_eq!(now, row, "{what}");
        if let Some(call) = call {
            drop(replies);
            call.await.unwrap().unwrap();
        }
        assert_eq!(company.requests(), ["refresh_token 400", "refresh_token 200"], "{what}");
        company.is_well(&what);
        company = company.again().await;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The database.

/// A step of a renewal during which something happens to the database.
#[derive(Clone, Copy, Debug)]
enum During {
    Statement(&'static str, At),
    /// Concur answers.
    Request,
}

const STEPS: [During; 5] = [
    During::Statement(CLAIM, At::Request),
    During::Statement(CLAIM, At::Reply),
    During::Request,
    During::Statement(SAVE, At::Request),
    During::Statement(SAVE, At::Reply),
];

/// Does `fault` in each step of a renewal, which then comes to its end with one request. Where the database is down before
/// anything was sent, the caller may be told, and asks again.
async fn survives(company: Company<'_>, fault: impl Fn(&Company<'_>)) {
    for during in STEPS {
        let proxy = Proxy::before(company.server);
        // What was claimed by a statement whose answer is lost lapses by itself.
        let store = PostgresStore::new(&company.database.url_by(&proxy), PRINCIPAL).unwrap();
        let machine = company.manager(store.lease(Duration::from_secs(1)));
        let (requests, version) = (company.concur.token_requests(), company.row("version"));
        let (mut held, mut replies) = (None, None);
        match during {
            During::Statement(statement, At::Request) => held = Some(proxy.hold_next_request(statement)),
            During::Statement(statement, At::Reply) => held = Some(proxy.hold_next_reply(statement)),
            During::Request => replies = Some(company.concur.hold_replies()),
        }
        let call = refresh(&machine);
        match &held {
            Some(held) => reached(held).await,
            None => until(|| company.concur.token_requests() == requests + 1).await,
        }
        fault(&company);
        drop((held, replies));
        let served = match call.await.unwrap() {
            Err(e) if matches!(during, During::Statement(CLAIM, _)) => {
                assert_eq!((e.kind(), e.is_transient()), (ErrorKind::Store, true), "{during:?}: {e}");
                assert_eq!(company.concur.token_requests(), requests, "{during:?}");
                machine.refresh().await.unwrap()
            }
            served => served.unwrap_or_else(|e| panic!("{during:?}: {e}")),
        };
        machine.shutdown(Duration::from_secs(60)).await.unwrap();
        assert_eq!(company.stored(), served.secret(), "{during:?}");
        assert_eq!(company.concur.token_requests(), requests + 1, "{during:?}");
        let saves = company.row("version").parse::<u32>().unwrap() - version.parse::<u32>().unwrap();
        assert_eq!(saves, 1, "{during:?}");
        company.is_well(&format!("{during:?}"));
    }
    assert_eq!(company.concur.count("password"), 1);
}

#[tokio::test]
async fn the_server_is_restarted_at_once_in_each_step() {
    let Some(postgres) = Postgres::start("the_server_is_restarted_at_once_in_each_step") else { return };
    survives(Company::of(&postgres).await, |_| postgres.restart_immediate()).await;
}

#[tokio::test]
async fn all_connections_are_cut_in_each_step() {
    let Some(postgres) = Postgres::shared("all_connections_are_cut_in_each_step") else { return };
    let company = Company::of(postgres).await;
    survives(company, |company| _ = company.database.terminate_connections()).await;
}

/// What the database will not take while a reply is to be saved: refused connections, a disk that is full, a server that has
/// become a standby.
#[tokio::test]
async fn a_token_that_the_database_will_not_take_is_kept_and_saved_later() {
    let test = "a_token_that_the_database_will_not_take_is_kept_and_saved_later";
    let Some(postgres) = Postgres::shared(test) else { return };
    let mut company = Company::of(postgres).await;
    for sqlstate in [None, Some("53100"), Some("25006")] {
        let proxy = Proxy::before(postgres);
        let machine =
            company.manager(PostgresStore::new(&company.database.url_by(&proxy), PRINCIPAL).unwrap());
        let replies = company.concur.hold_replies();
        let call = refresh(&machine);
        until(|| company.concur.token_requests() == 2).await;
        match sqlstate {
            None => {
                proxy.refuse(true);
                proxy.cut_all();
            }
            Some("25006") => company.database.read_only(true),
            Some(full) => company.database.refuses_writes("concur_auth_tokens", full),
        }
        replies.release();
        let served = call.await.unwrap().unwrap();
        assert!(machine.status().unsaved, "{sqlstate:?}");
        assert_ne!(company.stored(), served.secret(), "{sqlstate:?}");
        assert_ne!(company.row("lease_owner IS NULL"), "t", "others leave it alone");
        let error = machine.shutdown(Duration::from_millis(1)).await.unwrap_err();
        assert!(error.to_string().starts_with("the newest refresh token is still not saved to "), "{error}");
        let ends = {
            let machine = machine.clone();
            tokio::spawn(async move { machine.shutdown(Duration::from_secs(60)).await })
        };
        match sqlstate {
            None => proxy.refuse(false),
            Some("25006") => company.database.read_only(false),
            Some(_) => company.database.takes_writes("concur_auth_tokens"),
        }
        ends.await.unwrap().unwrap();
        assert!(!machine.status().unsaved, "{sqlstate:?}");
        assert_eq!(company.stored(), served.secret(), "{sqlstate:?}");
        assert_eq!(company.requests(), ["refresh_token 200"]);
        until(|| company.row("lease_owner IS NULL") == "t").await;
        company.is_well(&format!("{sqlstate:?}"));
        company = company.again().await;
    }
}

#[tokio::test]
async fn nothing_is_sent_while_the_database_takes_no_writes() {
    let Some(postgres) = Postgres::shared("nothing_is_sent_while_the_database_takes_no_writes") else {
        return;
    };
    let company = Company::of(postgres).await;
    let machine = company.machine();
    for sqlstate in ["25006", "53100"] {
        let is_read_only = sqlstate == "25006";
        if is_read_only {
            company.database.read_only(true);
        } else {
            company.database.refuses_writes("concur_auth_tokens", sqlstate);
        }
        let error = machine.refresh().await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Store, true));
        assert!(error.to_string().contains(sqlstate), "{error}");
        assert_eq!(company.requests(), [""; 0]);
        // What is valid is served.
        machine.access_token().await.unwrap();
        machine.get_valid_refresh_token().await.unwrap();
        if is_read_only {
            company.database.read_only(false);
        } else {
            company.database.takes_writes("concur_auth_tokens");
        }
    }
    machine.refresh().await.unwrap();
    assert_eq!(company.requests(), ["refresh_token 200"]);
    company.is_well("after both");
}

/// `synchronous_commit = off` would answer before the commit is on disk, for as long as three times this delay.
#[tokio::test]
async fn a_save_is_durable_whatever_the_roles_settings() {
    let options = postgres::Options::new().setting("wal_writer_delay", "10s");
    let Some(postgres) = Postgres::start_with("a_save_is_durable_whatever_the_roles_settings", &options)
    else {
        return;
    };
    let company = Company::of(&postgres).await;
    postgres.psql("ALTER ROLE postgres SET synchronous_commit = off");
    let machine = company.machine();
    for _ in 0..3 {
        let served = machine.refresh().await.unwrap();
        postgres.restart_immediate();
        assert_eq!(company.stored(), served.secret());
    }
    company.is_well("after three restarts");
}

// ---------------------------------------------------------------------------------------------------------------------
// Clocks.

/// The machine's clock, set wrong by so many seconds.
#[derive(Debug)]
struct Wrong(i64);

impl Clock for Wrong {
    fn now(&self) -> SystemTime {
        let by = Duration::from_secs(self.0.unsigned_abs());
        let now = SystemClock.now();
        if self.0 < 0 { now - by } else { now + by }
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        SystemClock.sleep(duration)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// One is five minutes slow, the other five minutes fast.
#[tokio::test]
async fn machines_whose_clocks_are_ten_minutes_apart_share_a_request() {
    let test = "machines_whose_clocks_are_ten_minutes_apart_share_a_request";
    let Some(postgres) = Postgres::shared(test) else { return };
    let company = Company::of(postgres).await;
    let machine = |seconds| {
        let manager = TokenManager::builder().credentials(company.concur.credentials());
        manager.store(company.store()).clock(Wrong(seconds)).build().unwrap()
    };
    // What one of them has renewed for an hour is valid for the other.
    for [renews, uses] in [[-300, 300], [300, -300]] {
        let requests = company.concur.token_requests();
        machine(renews).refresh().await.unwrap();
        machine(uses).access_token().await.unwrap();
        assert_eq!(company.concur.token_requests(), requests + 1, "{renews} s renews");
    }
    let requests = company.concur.token_requests();
    company.database.psql("UPDATE concur_auth_tokens SET token = NULL, save_id = NULL");
    let both = [-300, 300].map(machine);
    let replies = company.concur.hold_replies();
    let calls = both.each_ref().map(|machine| {
        let machine = machine.clone();
        tokio::spawn(async move { machine.access_token().await })
    });
    until(|| company.concur.token_requests() == requests + 1).await;
    replies.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(company.concur.token_requests(), requests + 1);
    // A refusal that one of them was given holds both back, and neither the other's note nor its own is written again.
    for (refused, other) in [(0, 1), (1, 0)] {
        let requests = company.concur.token_requests();
        company.concur.fault_next(1, Fault::code(14));
        let error = both[refused].refresh().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let row = company.row("refusal, updated_at, state, needed_since, failures");
        for _ in 0..3 {
            for machine in [&both[other], &both[refused]] {
                let error = machine.refresh().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused);
            }
        }
        assert_eq!(company.row("refusal, updated_at, state, needed_since, failures"), row);
        assert_eq!(company.concur.token_requests(), requests + 1);
        both[other].retry_now().await.unwrap();
        both[refused].refresh().await.unwrap();
        assert_eq!(company.concur.token_requests(), requests + 3);
        company.is_well("after a refusal");
    }
    assert_eq!(company.concur.count("password"), 2);
}
