//! What docs/fleet.md tells operators to do.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::time::Duration;

use concur_auth::{
    AppCredentials, Clock as _, Fleet, Grant, MemberState, PostgresFleet, SystemClock,
    simulator::{ConcurSimulator, ManualClock, Rotation, SimulatedCompany},
};
use support::{FliesAtTheEnd, HOUR, MINUTE, really_wait};

use crate::postgres::{Database, Postgres};

const PAGE: &str = include_str!("../docs/fleet.md");

/// The SQL of the page, box by box.
fn boxes() -> Vec<&'static str> {
    let boxes = PAGE.split("```sql\n").skip(1);
    boxes.map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// The box that begins so.
fn statement(beginning: &str) -> &'static str {
    let mut boxes = boxes().into_iter().filter(|statement| statement.starts_with(beginning));
    let found = boxes.next().unwrap_or_else(|| panic!("no box begins with {beginning}"));
    assert_eq!(boxes.next(), None, "two boxes begin with {beginning}");
    found
}

#[test]
fn every_statement_of_the_page_is_one() {
    let Some(postgres) = Postgres::start("every_statement_of_the_page_is_one") else { return };
    let database = postgres.database();
    database.psql(&PostgresFleet::schema());
    database.psql(
        "INSERT INTO concur_auth_tokens (app_id, principal, token, state, failures, last_error)
         VALUES ('the app', 'the UUID', '{\"sealed\":\"v1.2026-11.AAAA\"}', 'needs_reauthorization', 2, 'no'),
                ('the app', 'another', '{\"refresh_token\":\"r\"}', 'active', 0, NULL)",
    );
    let printed: Vec<_> = boxes().into_iter().map(|statement| database.psql(statement)).collect();
    assert_eq!(printed.len(), 11);
    let of = |beginning: &str| database.psql(statement(beginning));
    assert_eq!(of("SELECT coalesce(substring"), "2026-11|1\nnot sealed|1");
    assert!(of("SELECT app_id, principal, kind, reason").starts_with("the app|the UUID|company|"));
    assert!(of("SELECT last_error").starts_with("no|1|2|"));
    // The dashboard's role reads all but the token.
    for (column, is_allowed) in [("state", true), ("last_error", true), ("token", false), ("save_id", false)]
    {
        let sql = format!("SET ROLE concur_dashboard; SELECT {column} FROM concur_auth_tokens");
        assert_eq!(database.try_psql(&sql).is_ok(), is_allowed, "{column}");
    }
}

/// A fleet on a clock and a table of its own.
struct Scene<'a> {
    concur: ConcurSimulator,
    clock: ManualClock,
    database: Database<'a>,
    _clock: FliesAtTheEnd,
}

impl<'a> Scene<'a> {
    async fn on(postgres: &'a Postgres) -> Self {
        let clock = ManualClock::new(SystemClock.now());
        let rotation = Rotation::AlwaysAndRevokeFamily;
        let concur = ConcurSimulator::builder().clock(clock.clone()).rotation(rotation).start().await;
        let database = postgres.database();
        database.psql(&PostgresFleet::schema());
        Self { concur, _clock: FliesAtTheEnd(clock.clone()), clock, database }
    }

    /// As in a process of its own. Rows in doubt are left alone for a second instead of an hour, and leases are as short.
    fn fleet(&self) -> Fleet {
        let second = Duration::from_secs(1);
        let app = self.concur.app();
        let store = PostgresFleet::new(&self.database.url())
            .unwrap()
            .lease(second)
            .doubt(second)
            .late_save(second / 10);
        let builder = Fleet::builder().app(AppCredentials::new(app.id(), app.secret())).store(store);
        builder.base_uri(self.concur.base_uri()).clock(self.clock.clone()).build().unwrap()
    }

    async fn renewed(&self, company: &SimulatedCompany) {
        self.fleet().company(company.uuid()).refresh().await.unwrap();
    }
}

/// Ten companies, of which four are renewed after the backup.
#[tokio::test]
async fn a_restore_from_last_weeks_backup_ends_with_every_company_active_or_named() {
    let Some(postgres) =
        Postgres::start("a_restore_from_last_weeks_backup_ends_with_every_company_active_or_named")
    else {
        return;
    };
    let scene = Scene::on(&postgres).await;
    let fleet = scene.fleet();
    let mut companies = Vec::new();
    for _ in 0..10 {
        let company = scene.concur.add_company();
        let grant = Grant::company_request_token(company.uuid(), company.request_token());
        fleet.connect(grant).await.unwrap();
        companies.push(company);
    }
    let dump = postgres
        .program("pg_dump")
        .args(["-t", "concur_auth_*", "--clean", "-d", &scene.database.url()])
        .output();
    let dump = dump.unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));

    for company in &companies[..4] {
        scene.renewed(company).await;
    }
    // The table is lost, and the programs are stopped.
    drop(fleet);
    scene.database.psql("TRUNCATE concur_auth_tokens");
    scene.database.psql(&String::from_utf8(dump.stdout).unwrap());
    scene.database.psql(
        &statement("UPDATE concur_auth_tokens\n   SET lease_owner = 'restored'")
            .replace("90 seconds", "1 second"),
    );
    scene.database.psql(statement("UPDATE concur_auth_tokens SET renew_at"));

    let fleet = scene.fleet();
    let worker = fleet.keep_alive().await.unwrap();
    let state = "SELECT count(*) FROM concur_auth_tokens WHERE renew_at < clock_timestamp() OR lease_owner IS NOT NULL";
    for _ in 0..3_000 {
        if scene.database.psql(state) == "0" {
            break;
        }
        really_wait(Duration::from_millis(20)).await;
        scene.clock.advance(MINUTE / 6);
    }
    drop(worker);
    let named = fleet.needing_a_person().await.unwrap();
    let mut named: Vec<_> = named.iter().map(|member| member.uuid.as_str()).collect();
    let mut expected: Vec<_> = companies[..4].iter().map(SimulatedCompany::uuid).collect();
    named.sort_unstable();
    expected.sort_unstable();
    assert_eq!(named, expected);
    for member in fleet.list(None, 100).await.unwrap() {
        let is_named = named.contains(&&*member.uuid);
        assert_eq!(member.state, if is_named { MemberState::NeedsPerson } else { MemberState::Active });
    }
    for company in &companies[4..] {
        let token = fleet.company(company.uuid()).get_valid_refresh_token().await.unwrap();
        assert!(scene.concur.is_live(token.secret()));
    }
    // A person acts, and all is well.
    for company in &companies[..4] {
        let request_token = scene.concur.issue_request_token_for(company.uuid());
        fleet.connect(Grant::company_request_token(company.uuid(), request_token)).await.unwrap();
    }
    assert_eq!(fleet.needing_a_person().await.unwrap(), []);
    scene.clock.advance(HOUR);
    for company in &companies {
        fleet.company(company.uuid()).access_token().await.unwrap();
    }
}
