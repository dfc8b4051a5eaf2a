//! Faults that must lose nothing, for many companies: workers that are killed or suspended, a database that is restarted, cut off
//! or read-only, clocks that are wrong, a Concur that is down. Concur rotates refresh tokens, and revokes the family of a token
//! that is presented twice.
//!
//! Always: one window remains, and a test that loses a token says that it was this one: a process is killed, or suspended past
//! its lease, after it has checked its lease for a request and before its save is carried out.
//!
//! `long_run` does this at random with 500 companies; its command is in `fleet_faults/long_run.rs`.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "fleet_faults/clock.rs"]
mod clock;
#[path = "fleet_faults/folder.rs"]
mod folder;
#[path = "fleet_faults/long_run.rs"]
mod long_run;
#[path = "fleet_faults/partner.rs"]
mod partner;
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;
#[path = "fleet_faults/worker.rs"]
mod worker;
#[path = "support/workers/mod.rs"]
mod workers;

use std::time::Duration;

use concur_auth::{ErrorKind, Fleet, Grant, simulator::Fault};

use self::{
    clock::{Leaping, SHORT},
    partner::{LIMITS, Partner},
    postgres::{PgBouncer, Postgres, Proxy},
    support::until,
    worker::Limits,
};

/// A part of the text of the statement that claims rows, by which a proxy knows it.
const CLAIM_DUE: &str = "SKIP LOCKED";

/// Longer than a busy machine takes to stop a server.
const UNTIL_STOPPED: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "runs as a child process"]
async fn works() {
    worker::work().await;
}

/// The database is stopped while replies to a whole batch are on their way: each token is kept and named as unsaved, and saved
/// when the database is back.
#[tokio::test]
async fn a_batch_that_the_stopped_database_will_not_take_is_saved_later() {
    let test = "a_batch_that_the_stopped_database_will_not_take_is_saved_later";
    let Some(postgres) = Postgres::start(test) else { return };
    let partner = Partner::of(&postgres, 12).await;
    let fleet = partner.fleet();
    partner.make_due("true");
    // `hold_replies` would hold the first reply, and the requests after it.
    partner.concur.set_fault(Fault::Delay(UNTIL_STOPPED));
    let worker = fleet.keep_alive().await.unwrap();
    until(|| partner.concur.count("refresh_token") == 12).await;
    postgres.stop_immediate();
    for company in &partner.companies {
        let tokens = fleet.company(company.uuid());
        until(|| tokens.status().unsaved).await;
    }
    drop(worker);
    let error = fleet.shutdown(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().starts_with("the newest refresh token is still not saved to "), "{error}");
    postgres.start_again();
    for company in &partner.companies {
        let tokens = fleet.company(company.uuid());
        until(|| !tokens.status().unsaved).await;
    }
    fleet.shutdown(SHORT).await.unwrap();
    assert_eq!(fleet.health().await.unwrap().unsaved, 0);
    until(|| partner.count("lease_owner IS NOT NULL") == 0).await;
    partner.is_renewed_once(12);
}

/// Nothing is claimed in a database that takes no writes, so nothing is sent; when it takes them again, each is renewed once.
#[tokio::test]
async fn nothing_is_claimed_or_sent_while_the_database_takes_no_writes() {
    let test = "nothing_is_claimed_or_sent_while_the_database_takes_no_writes";
    let Some(postgres) = Postgres::shared(test) else { return };
    let partner = Partner::of(postgres, 5).await;
    let requests = partner.concur.token_requests();
    let proxy = Proxy::before(postgres);
    partner.make_due("true");
    partner.database.read_only(true);
    let fleet = partner.fleet_by(&proxy);
    let _worker = fleet.keep_alive().await.unwrap();
    let claims = || proxy.executed().iter().filter(|text| text.contains(CLAIM_DUE)).count();
    until(|| claims() >= 3).await;
    assert_eq!(partner.concur.token_requests(), requests);
    assert_eq!(partner.count("lease_owner IS NOT NULL"), 0);
    assert_eq!(partner.count("renew_at <= clock_timestamp()"), 5);
    partner.database.read_only(false);
    until(|| partner.count("renew_at <= clock_timestamp() OR lease_owner IS NOT NULL") == 0).await;
    partner.is_renewed_once(5);
}

/// Also where they are due again: the worker that has their leases is alive.
#[tokio::test]
async fn rows_that_are_being_renewed_are_left_to_their_worker() {
    let test = "rows_that_are_being_renewed_are_left_to_their_worker";
    let Some(postgres) = Postgres::shared(test) else { return };
    let partner = Partner::of(postgres, 5).await;
    partner.concur.set_fault(Fault::Delay(UNTIL_STOPPED));
    let [proxy, others] = [(); 2].map(|()| Proxy::before(postgres));
    let (fleet, other) = (partner.fleet_by(&proxy), partner.fleet_by(&others));
    partner.make_due("true");
    let _worker = fleet.keep_alive().await.unwrap();
    until(|| partner.concur.count("refresh_token") == 5).await;
    partner.make_due("true");
    let _other_worker = other.keep_alive().await.unwrap();
    let claims = || others.executed().iter().filter(|text| text.contains(CLAIM_DUE)).count();
    until(|| claims() >= 3 || partner.concur.count("refresh_token") > 5).await;
    assert_eq!(partner.concur.count("refresh_token"), 5);
    assert_eq!(
        partner.count("lease_owner IS NOT NULL AND version = 1"),
        5,
        "this machine is too slow for the test"
    );
    until(|| partner.count("lease_owner IS NOT NULL") == 0).await;
    partner.is_renewed_once(5);
}

/// Each with a request token of its own. While one is suspended with its reply in hand, past its lease, the other connects: the
/// later sign-in counts, and the earlier caller is told.
#[tokio::test]
async fn two_workers_connect_one_principal_at_once() {
    let Some(postgres) = Postgres::shared("two_workers_connect_one_principal_at_once") else { return };
    for is_suspended in [false, true] {
        let partner = Partner::of(postgres, 0).await;
        let uuid = partner.concur.company_uuid();
        let [first, second] = [(); 2].map(|()| partner.concur.issue_request_token());
        let connect = |fleet: Fleet, token: String| {
            let grant = Grant::company_request_token(&uuid, token);
            tokio::spawn(async move { fleet.connect(grant).await })
        };
        let proxy = Proxy::before(postgres);
        let (one, other) = (partner.fleet_by(&proxy), partner.fleet());
        let held = is_suspended.then(|| proxy.hold_next_request("sign_in = $10"));
        let replies = partner.concur.hold_replies();
        let early = connect(one, first);
        until(|| partner.concur.token_requests() == 1).await;
        let late = connect(other, second);
        replies.release();
        if let Some(held) = &held {
            until(|| held.is_reached()).await;
            let lapses = "UPDATE concur_auth_tokens SET lease_until = clock_timestamp()";
            partner.database.psql(lapses);
        }
        assert_eq!(late.await.unwrap().unwrap(), uuid);
        let stored = partner.tokens("true");
        drop(held);
        let early = early.await.unwrap();
        if is_suspended {
            let error = early.unwrap_err().to_string();
            assert!(error.starts_with("the new token was not kept: another sign-in has reached "), "{error}");
        } else {
            assert_eq!(early.unwrap(), uuid);
        }
        assert_eq!(partner.tokens("true"), stored);
        assert_eq!(partner.concur.token_requests(), 2);
        let row = "state = 'active' AND lease_owner IS NULL";
        assert_eq!((partner.count("true"), partner.count(row)), (1, 1));
        assert!(partner.concur.is_live(&stored[&uuid]));
    }
}

/// Transactions of one fleet come to any connection of the pool.
#[tokio::test]
async fn a_fleet_works_behind_pgbouncer_in_transaction_mode() {
    let test = "a_fleet_works_behind_pgbouncer_in_transaction_mode";
    let Some(postgres) = Postgres::shared(test) else { return };
    let Some(bouncer) = PgBouncer::start(postgres, test) else { return };
    let partner = Partner::of(postgres, 20).await;
    let fleets = [(); 2].map(|()| partner.fleet_by(&bouncer));
    renews_each_once(&partner, &fleets).await;
    // The calls that a worker does not make.
    let company = partner.concur.company_uuid();
    let grant = Grant::company_request_token(&company, partner.concur.issue_request_token());
    fleets[0].connect(grant).await.unwrap();
    assert_eq!(fleets[1].health().await.unwrap().active, 21);
    assert_eq!(fleets[1].needing_a_person().await.unwrap(), []);
    assert_eq!(fleets[1].list(None, 100).await.unwrap().len(), 21);
    fleets[1].disconnect(&company).await.unwrap();
    assert_eq!(fleets[0].health().await.unwrap().active, 20);
}

/// One clock is right, and the other ten minutes slow: what is due, and whose lease has lapsed, the database says.
#[tokio::test]
async fn workers_whose_clocks_are_ten_minutes_apart_renew_each_row_once() {
    let test = "workers_whose_clocks_are_ten_minutes_apart_renew_each_row_once";
    let Some(postgres) = Postgres::shared(test) else { return };
    let partner = Partner::of(postgres, 20).await;
    let clocks = [Leaping::default(), Leaping::slow(Duration::from_secs(600))];
    let fleets =
        clocks.map(|clock| partner.builder(postgres, LIMITS, clock).max_concurrent(4).build().unwrap());
    renews_each_once(&partner, &fleets).await;
}

/// In three periods, by any of the fleets.
async fn renews_each_once(partner: &Partner<'_>, fleets: &[Fleet]) {
    let mut workers = Vec::new();
    for fleet in fleets {
        workers.push(fleet.keep_alive().await.unwrap());
    }
    let companies = partner.companies.len();
    for period in 1..=3 {
        assert_eq!(partner.make_due("true").len(), companies);
        until(|| partner.count("renew_at <= clock_timestamp() OR lease_owner IS NOT NULL") == 0).await;
        partner.is_renewed_once(period * companies);
    }
    drop(workers);
    for fleet in fleets {
        fleet.shutdown(SHORT).await.unwrap();
    }
}
