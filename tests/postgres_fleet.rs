//! `PostgresFleet` on a real server: which tokens are claimed, in which order and by how many workers; what is told of the members;
//! and the move of a token to the principal whose it is.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/company.rs"]
mod company;
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{collections::BTreeSet, time::Duration};

use concur_auth::{
    Credentials, DueToken, DueTokens, ErrorKind, FleetMember, FleetStore, MemberKind, MemberState,
    PostgresFleet, PostgresStore, RefreshTokenObject, TokenManager, TokenStore, simulator::Fault,
};

use self::{
    company::{Account, PRINCIPAL},
    postgres::{Database, PgBouncer, Postgres, Proxy, Server},
    support::{seed, until},
};

const APP: &str = "app";
const MINUTE: Duration = Duration::from_secs(60);
/// What is due and cannot be claimed is asked for again after so long.
const BUSY: Option<Duration> = Some(Duration::from_secs(5));
/// A part of the text of each claim of a batch.
const CLAIM_DUE: &str = "claims = claims + 1";
/// A part of the text of that which reads all that is due.
const OF_FEW: &str = "'infinity')";

struct Table<'a> {
    database: Database<'a>,
    fleet: PostgresFleet,
}

impl Table<'static> {
    /// `None`, after the test was said to be skipped, where there is no PostgreSQL.
    async fn of(test: &str) -> Option<Self> {
        let database = Postgres::shared(test)?.database();
        let fleet = PostgresFleet::new(&database.url()).unwrap();
        fleet.migrate().await.unwrap();
        Some(Self { database, fleet })
    }
}

impl Table<'_> {
    /// A process of its own.
    fn worker(&self) -> PostgresFleet {
        PostgresFleet::new(&self.database.url()).unwrap()
    }

    fn worker_by(&self, server: &dyn Server) -> PostgresFleet {
        PostgresFleet::new(&self.database.url_by(server)).unwrap()
    }

    /// `count` rows named `prefix` and three digits, with these values in terms of the number `n`, from 0 on.
    fn rows(&self, prefix: &str, count: usize, expires_at: &str, renew_at: &str) {
        self.database.psql(&format!(
            "INSERT INTO concur_auth_tokens
                    (app_id, principal, kind, token, save_id, version, sign_in, state, refresh_expires_at, renew_at)
             SELECT '{APP}', '{prefix}' || lpad(n::text, 4, '0'), 'company', '{{\"refresh_token\": \"of {prefix}' || n || '\"}}',
                    'save of {prefix}' || n, 1, 1, 'active', {expires_at}, {renew_at}
               FROM generate_series(0, {count} - 1) AS n"
        ));
    }

    /// A row that is due, and expires in 100 days.
    fn due(&self, name: &str) {
        let name = name.to_owned();
        self.rows(
            &name,
            1,
            "clock_timestamp() + interval '100 days'",
            "clock_timestamp() - interval '1 day'",
        );
        self.database.psql(&format!(
            "UPDATE concur_auth_tokens SET principal = '{name}' WHERE principal = '{name}0000'"
        ));
    }

    fn set(&self, name: &str, what: &str) {
        self.database.psql(&format!("UPDATE concur_auth_tokens SET {what} WHERE principal = '{name}'"));
    }

    fn row(&self, name: &str, expression: &str) -> String {
        self.database.psql(&format!("SELECT {expression} FROM concur_auth_tokens WHERE principal = '{name}'"))
    }

    fn count(&self, condition: &str) -> usize {
        let count = self.database.psql(&format!("SELECT count(*) FROM concur_auth_tokens WHERE {condition}"));
        count.parse().unwrap()
    }

    async fn claim(&self, most: usize) -> DueTokens {
        self.fleet.claim_due(APP, most).await.unwrap()
    }

    async fn assign(&self, pending: &str, principal: &str) -> Result<(), concur_auth::Error> {
        self.fleet.assign(APP, pending, principal).await
    }
}

fn names(tokens: &[DueToken]) -> Vec<&str> {
    tokens.iter().map(|it| it.principal.as_str()).collect()
}

fn uuids(members: &[FleetMember]) -> Vec<&str> {
    members.iter().map(|it| it.uuid.as_str()).collect()
}

fn token(name: &str) -> RefreshTokenObject {
    let expires_at = 4_000_000_000_u64;
    let json = format!(r#"{{"refresh_token": "{name}", "refreshTokenExpiresAt": {expires_at}}}"#);
    RefreshTokenObject::from_json(&json).unwrap()
}

fn assert_superseded(e: &concur_auth::Error) {
    assert!(e.to_string().starts_with("another process has saved a newer token in the row of"), "{e}");
}

/// Few rows and a backlog; batches of any size.
#[tokio::test]
async fn workers_that_claim_at_once_get_each_due_row_once() {
    let Some(table) = Table::of("workers_that_claim_at_once_get_each_due_row_once").await else { return };
    let mut random = fastrand::Rng::with_seed(seed());
    for count in [300, 1_300] {
        let left = "clock_timestamp() + interval '1 day' * (50 + (n * 7919) % 97)";
        table.rows("due", count, left, "clock_timestamp() - interval '1 hour'");
        table.rows("later", 50, left, "clock_timestamp() + interval '1 hour'");
        let workers = (0..4).map(|_| {
            let (worker, mut random) = (table.worker(), random.fork());
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                loop {
                    let most = random.usize(1..80);
                    let tokens = worker.claim_due(APP, most).await.unwrap().tokens;
                    if tokens.is_empty() {
                        return claimed;
                    }
                    assert!(tokens.len() <= most, "{} instead of {most}", tokens.len());
                    claimed.extend(tokens);
                }
            })
        });
        let (workers, mut claimed) = (workers.collect::<Vec<_>>(), Vec::new());
        for worker in workers {
            claimed.extend(worker.await.unwrap());
        }
        assert_eq!(claimed.len(), count, "a row was claimed twice, or not at all");
        assert_eq!(names(&claimed).into_iter().collect::<BTreeSet<_>>().len(), count);
        assert_eq!(
            table.count("claims = 1 AND lease_until > clock_timestamp() AND principal LIKE 'due%'"),
            count
        );
        assert_eq!(table.count("claims = 0 AND lease_owner IS NULL"), 50);
        claimed.into_iter().for_each(|due| std::mem::forget(due.lock));
        table.database.psql("DELETE FROM concur_auth_tokens");
    }
}

/// Which tokens a margin makes due, in which order, and what is read for it.
#[tokio::test]
async fn a_margin_reads_the_tokens_that_expire_first_and_no_others() {
    let name = "a_margin_reads_the_tokens_that_expire_first_and_no_others";
    let Some(table) = Table::of(name).await else { return };
    let later = "clock_timestamp() + interval '40 days'";
    let row = |name: &str, days: u32, what: &str| {
        table.rows(name, 1, &format!("clock_timestamp() + interval '1 day' * {days}"), later);
        table.set(&format!("{name}0000"), "updated_at = clock_timestamp() - interval '25 hours'");
        if !what.is_empty() {
            table.set(&format!("{name}0000"), what);
        }
    };
    row("second", 98, "");
    row("first", 97, "");
    row("third", 99, "");
    row("outside", 101, "");
    row("fresh", 50, "updated_at = clock_timestamp() - interval '23 hours'");
    row("claimed", 50, "claims = 1");
    row("refused", 50, "state = 'needs_reauthorization'");
    row("dead", 50, "state = 'needs_reauthorization', renew_at = NULL");
    row("empty", 50, "token = NULL");
    row("another", 50, "app_id = 'another'");
    let proxy = Proxy::before(table.database.postgres());
    let mut worker = table.worker_by(&proxy);
    assert_eq!(names(&worker.claim_due(APP, 64).await.unwrap().tokens), [""; 0]);
    let without = proxy.executed().len();
    worker.refresh_token_margin(Duration::from_secs(100 * 24 * 3600)).unwrap();
    let due = worker.claim_due(APP, 2).await.unwrap();
    assert_eq!(names(&due.tokens), ["first0000", "second0000"]);
    assert_eq!(table.count(&format!("renew_at < {later} - interval '1 day'")), 2, "only what is claimed");
    let executed = proxy.executed();
    assert_eq!((without, executed.len() - without), (1, 3), "{executed:?}");
    std::mem::forget(due);
    let due = worker.claim_due(APP, 64).await.unwrap();
    assert_eq!(names(&due.tokens), ["third0000"]);
    std::mem::forget(due);
    assert_eq!(names(&worker.claim_due(APP, 64).await.unwrap().tokens), [""; 0]);

    table.rows("m", 5_000, "clock_timestamp() + interval '180 days'", later);
    table.database.psql("UPDATE concur_auth_tokens SET updated_at = now() - interval '2 days'");
    table.database.psql("VACUUM ANALYZE concur_auth_tokens");
    let statement =
        executed.iter().find(|text| text.contains("SET renew_at = statement_timestamp()")).unwrap();
    let statement = statement.replace("$1", &format!("'{APP}'")).replace("$2", "64").replace("$3", "8640000");
    let plan = table.database.psql(&format!("EXPLAIN (ANALYZE, TIMING OFF) {statement}"));
    assert!(plan.contains("Index Scan using concur_auth_tokens_expiring"), "{plan}");
    assert!(!plan.contains("Seq Scan"), "{plan}");
    let removed = plan.lines().filter_map(|line| line.trim().strip_prefix("Rows Removed by Filter: "));
    assert!(removed.map(|rows| rows.parse::<u32>().unwrap()).all(|rows| rows <= 9), "{plan}");
}

/// Both ways to look for it: that for a few, and that for a backlog.
#[tokio::test]
async fn the_oldest_expiry_comes_first() {
    let Some(table) = Table::of("the_oldest_expiry_comes_first").await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    for (count, is_of_few) in [(500, true), (501, false)] {
        // In another order than names and turns.
        let expires_at = format!("clock_timestamp() + interval '1 hour' * (1000 + (n * 7) % {count})");
        table.rows("m", count, &expires_at, "clock_timestamp() - interval '1 minute' * n");
        table.set("m0003", "refresh_expires_at = NULL");
        let by_expiry = table
            .database
            .psql("SELECT principal FROM concur_auth_tokens ORDER BY refresh_expires_at NULLS LAST");
        let by_expiry: Vec<_> = by_expiry.lines().collect();
        let before = proxy.executed().len();
        let first = worker.claim_due(APP, 40).await.unwrap();
        let claims: Vec<_> =
            proxy.executed().split_off(before).into_iter().filter(|it| it.contains(CLAIM_DUE)).collect();
        assert_eq!(claims.iter().map(|it| it.contains(OF_FEW)).collect::<Vec<_>>(), [is_of_few]);
        assert_eq!(names(&first.tokens), by_expiry[..40]);
        assert_eq!(first.next, Some(Duration::ZERO));
        let rest = worker.claim_due(APP, 1_000).await.unwrap();
        assert_eq!(names(&rest.tokens), by_expiry[40..], "without an expiry comes last");
        for due in first.tokens.into_iter().chain(rest.tokens) {
            std::mem::forget(due.lock);
        }
        table.database.psql("DELETE FROM concur_auth_tokens");
    }
}

/// Nothing is written, and the next look can wait.
#[tokio::test]
async fn where_nothing_is_due_one_statement_says_when_something_will_be() {
    let name = "where_nothing_is_due_one_statement_says_when_something_will_be";
    let Some(table) = Table::of(name).await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    let due = worker.claim_due(APP, 64).await.unwrap();
    assert!(due.tokens.is_empty() && due.next.is_none(), "{due:?}");
    let left = "clock_timestamp() + interval '100 days'";
    table.rows("m", 3, left, "clock_timestamp() + interval '300 seconds' * (n + 1)");
    table.rows("never", 1, left, "'infinity'");
    let before = proxy.executed().len();
    let due = worker.claim_due(APP, 64).await.unwrap();
    assert!(due.tokens.is_empty());
    let next = due.next.unwrap();
    assert!(next > 4 * MINUTE && next <= 5 * MINUTE, "{next:?}");
    assert_eq!(proxy.executed().len(), before + 1);
    // Another app's tokens are none of this one's.
    table.due("other");
    table.set("other", "app_id = 'another'");
    assert!(worker.claim_due(APP, 64).await.unwrap().tokens.is_empty());
    table.database.psql("DELETE FROM concur_auth_tokens WHERE principal LIKE 'm%'");
    assert_eq!(worker.claim_due(APP, 64).await.unwrap().next, None, "a date that does not come");
}

#[tokio::test]
async fn a_claim_hands_over_the_lock_of_the_principals_store() {
    let Some(table) = Table::of("a_claim_hands_over_the_lock_of_the_principals_store").await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    table.due("company");
    table.due("pending-00ff");
    table.due("user");
    table.set("user", "kind = 'user', refresh_expires_at = refresh_expires_at + interval '1 day'");
    table.set("pending-00ff", "kind = 'user', refresh_expires_at = refresh_expires_at + interval '2 days'");
    let due = worker.claim_due(APP, 64).await.unwrap();
    assert_eq!(names(&due.tokens), ["company", "user", "pending-00ff"]);
    let kinds: Vec<_> = due.tokens.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [MemberKind::Company, MemberKind::User, MemberKind::Pending]);
    for DueToken { principal, lock, .. } in due.tokens {
        let store = worker.of(APP, &principal);
        let before = proxy.executed().len();
        let found = store.read_locked(&lock).await.unwrap().token.unwrap();
        store.rehearse(Some(&found), &lock).await.unwrap();
        assert_eq!(found.secret(), format!("of {principal}0"));
        assert_eq!(proxy.executed().len(), before, "the claim has read it");
        assert!(table.fleet.of(APP, &principal).try_lock().await.unwrap().is_none());
        store.finish(&token("new"), None, &lock).await.unwrap();
        store.unlock(lock).await;
        assert_eq!(proxy.executed().len(), before + 1, "the save");
        assert_eq!(store.load().await.unwrap().unwrap().secret(), "new");
        assert_eq!(table.row(&principal, "version, lease_owner IS NULL"), "2|t");
    }
}

/// A minute, doubling up to an hour, each less up to a half.
#[tokio::test]
async fn a_claim_postpones_the_next_one_until_a_save() {
    let Some(table) = Table::of("a_claim_postpones_the_next_one_until_a_save").await else { return };
    let left = "clock_timestamp() + interval '100 days'";
    table.rows("m", 100, left, "clock_timestamp() - interval '1 second'");
    for (claims, longest) in [1, 2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        let asked = table.database.psql("SELECT clock_timestamp()");
        let due = table.claim(200).await;
        assert_eq!(due.tokens.len(), 100);
        due.tokens.into_iter().for_each(|due| std::mem::forget(due.lock));
        let answered = table.database.psql("SELECT clock_timestamp()");
        let (longest, claims) = (format!("interval '{longest} minutes'"), claims + 1);
        let is_right = format!(
            "claims = {claims} AND renew_at > timestamptz '{asked}' + {longest} / 2
                AND renew_at <= timestamptz '{answered}' + {longest}"
        );
        assert_eq!(table.count(&is_right), 100, "after {claims} claims");
        let spread = table
            .database
            .psql(&format!("SELECT max(renew_at) - min(renew_at) > {longest} / 4 FROM concur_auth_tokens"));
        assert_eq!(spread, "t", "they come back together");
        assert!(table.claim(200).await.tokens.is_empty());
        // The pause is over, and the lease was given back.
        table
            .database
            .psql("UPDATE concur_auth_tokens SET renew_at = clock_timestamp(), lease_owner = NULL, lease_until = NULL");
    }
    let due = table.claim(1).await.tokens.pop().unwrap();
    let store = table.fleet.of(APP, &due.principal);
    store.finish(&token("new"), None, &due.lock).await.unwrap();
    store.unlock(due.lock).await;
    assert_eq!(
        table.row(
            &due.principal,
            "claims, lease_owner IS NULL, renew_at > clock_timestamp() + interval '30 days'"
        ),
        "0|t|t"
    );
}

/// What a worker cannot have now must not make it spin.
#[tokio::test]
async fn a_row_that_is_leased_or_in_doubt_is_left_alone() {
    let Some(table) = Table::of("a_row_that_is_leased_or_in_doubt_is_left_alone").await else { return };
    for name in ["leased", "lapsed", "in-doubt"] {
        table.due(name);
    }
    let other = table.worker();
    std::mem::forget(other.of(APP, "leased").try_lock().await.unwrap().unwrap());
    table.set("lapsed", "lease_owner = 'x', lease_until = clock_timestamp() - interval '59 minutes'");
    table.set("in-doubt", "in_doubt_since = clock_timestamp() - interval '59 minutes'");
    let due = table.claim(64).await;
    assert_eq!((names(&due.tokens), due.next), (vec![], BUSY));
    assert_eq!(table.fleet.count_busy(APP).await.unwrap(), 3);
    // The next one is sooner than a busy one is asked for again; then a worker claims what there is.
    table.due("free");
    let due = table.claim(64).await;
    assert_eq!((names(&due.tokens), due.next), (vec!["free"], BUSY));
    std::mem::forget(due);
    // Its next turn is in a minute, and the lease still lives.
    assert_eq!(other.count_busy(APP).await.unwrap(), 4);
    // The token dies within a week: better a doubtful renewal than none.
    table.database.psql(
        "UPDATE concur_auth_tokens SET refresh_expires_at = clock_timestamp() + interval '6 days' WHERE principal <> 'free'",
    );
    let due = table.claim(64).await;
    assert_eq!(
        names(&due.tokens).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["in-doubt", "lapsed"])
    );
    assert_eq!(table.row("lapsed", "in_doubt_since < clock_timestamp() - interval '58 minutes'"), "t");
    for DueToken { principal, lock, .. } in due.tokens {
        table.fleet.of(APP, &principal).unlock(lock).await;
    }
    assert_eq!(table.row("lapsed", "in_doubt_since IS NOT NULL, lease_owner IS NULL"), "t|t");
    // They rest, and are due again in a minute, as any worker sees.
    assert_eq!(other.count_busy(APP).await.unwrap(), 2, "leased and free");
    // The hour is over.
    table.database.psql(
        "UPDATE concur_auth_tokens SET in_doubt_since = clock_timestamp() - interval '61 minutes', renew_at = clock_timestamp(),
                refresh_expires_at = clock_timestamp() + interval '100 days'
          WHERE lease_owner IS NULL",
    );
    let due = table.claim(64).await;
    assert_eq!(due.tokens.len(), 2);
    std::mem::forget(due);
    assert_eq!(table.row("leased", "claims"), "0");
    // What is not due is no worker's, though a caller has its lease.
    table.set("leased", "renew_at = clock_timestamp() + interval '30 minutes'");
    table.set("free", "lease_owner = NULL, lease_until = NULL");
    table.database.psql("UPDATE concur_auth_tokens SET app_id = 'another' WHERE principal = 'lapsed'");
    assert_eq!(table.fleet.count_busy(APP).await.unwrap(), 1, "in-doubt, which was claimed");
}

/// The leases were taken, and nobody knows: the answer is lost, or the caller has gone.
#[tokio::test]
async fn leases_whose_answer_is_lost_are_given_back() {
    let Some(table) = Table::of("leases_whose_answer_is_lost_are_given_back").await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    let left = "clock_timestamp() + interval '100 days'";
    table.rows("m", 40, left, "clock_timestamp() - interval '1 day'");
    std::mem::forget(table.worker().of(APP, "m0007").try_lock().await.unwrap().unwrap());
    let given_back = "claims = 1 AND lease_owner IS NULL AND in_doubt_since IS NULL";
    proxy.cut_next_reply(CLAIM_DUE);
    worker.claim_due(APP, 64).await.unwrap_err();
    until(|| table.count(given_back) == 39).await;
    assert_eq!(table.count("lease_owner IS NOT NULL"), 1, "the lease of another holder");

    table
        .database
        .psql("UPDATE concur_auth_tokens SET claims = 0, renew_at = clock_timestamp() - interval '1 day'");
    let held = proxy.hold_next_reply(CLAIM_DUE);
    let call = {
        let worker = worker.clone();
        tokio::spawn(async move { worker.claim_due(APP, 64).await })
    };
    until(|| table.count("claims = 1 AND lease_owner IS NOT NULL") == 39).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until(|| table.count(given_back) == 39).await;
    drop(held);

    // Of a lock that is dropped, only its own row.
    table.database.psql("UPDATE concur_auth_tokens SET renew_at = clock_timestamp() - interval '1 day'");
    let mut due = worker.claim_due(APP, 64).await.unwrap();
    let last = due.tokens.pop().unwrap();
    drop(last.lock);
    until(|| table.row(&last.principal, "lease_owner IS NULL") == "t").await;
    assert_eq!(table.count("lease_owner IS NOT NULL"), 39);
}

/// One company's row is damaged.
#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_from_being_claimed() {
    let Some(table) = Table::of("a_row_that_cannot_be_read_keeps_no_other_from_being_claimed").await else {
        return;
    };
    for name in ["bad", "good"] {
        table.due(name);
    }
    table.set("bad", "token = '{}'");
    let due = table.claim(64).await;
    assert_eq!((names(&due.tokens), due.failed), (vec!["good"], vec!["bad".to_owned()]));
    assert_eq!(table.row("bad", "lease_owner IS NULL, claims"), "t|1");
    // An administrator has emptied the row.
    table.set("bad", "token = NULL, save_id = NULL, renew_at = clock_timestamp()");
    let due = table.claim(64).await;
    assert_eq!((names(&due.tokens), due.next), (vec![], BUSY));
}

/// A company without a request token at a Concur of its own, whose row is due.
struct Member {
    account: Account<'static>,
    fleet: PostgresFleet,
}

impl Member {
    async fn of(test: &str) -> Option<Self> {
        let account = Account::of(Postgres::shared(test)?).await;
        let fleet =
            PostgresFleet::new(&account.database.url()).unwrap().late_save(Duration::from_millis(300));
        let with_request_token = TokenManager::builder()
            .credentials(account.concur.credentials())
            .store(fleet.of("", PRINCIPAL))
            .build()
            .unwrap();
        with_request_token.access_token().await.unwrap();
        Some(Self { account, fleet })
    }

    fn manager(&self) -> TokenManager {
        let json: serde_json::Value = serde_json::from_str(&self.account.concur.credentials_json()).unwrap();
        let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap());
        TokenManager::builder()
            .credentials(Credentials::new(id, secret))
            .base_uri(self.account.concur.base_uri())
            .store(self.fleet.of("", PRINCIPAL))
            .build()
            .unwrap()
    }

    async fn due(&self) -> DueTokens {
        self.fleet.claim_due("", 64).await.unwrap()
    }
}

#[tokio::test]
async fn a_token_that_concur_has_refused_for_good_is_not_due_until_a_late_save() {
    let name = "a_token_that_concur_has_refused_for_good_is_not_due_until_a_late_save";
    let Some(member) = Member::of(name).await else { return };
    let row = |expression: &str| member.account.row(expression);
    let late_store = member.fleet.of("", PRINCIPAL);
    let late = late_store.try_lock().await.unwrap().unwrap();
    member.account.lapse();
    member.account.concur.revoke();
    let error = member.manager().refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(row("state, renew_at IS NULL, token IS NOT NULL"), "needs_reauthorization|t|t");
    let due = member.due().await;
    assert!(due.tokens.is_empty() && due.next.is_none(), "{due:?}");
    late_store.finish(&token("late"), None, &late).await.unwrap();
    assert_eq!(row("state, renew_at IS NOT NULL"), "active|t");
}

/// The dead token is taken over again: it does not become good by that.
#[tokio::test]
async fn a_dead_token_that_is_adopted_is_not_due() {
    let Some(member) = Member::of("a_dead_token_that_is_adopted_is_not_due").await else { return };
    member.account.concur.revoke();
    let dead = RefreshTokenObject::from_json(&member.account.row("token")).unwrap();
    let manager = member.manager();
    manager.refresh().await.unwrap_err();
    manager.adopt(dead).await.unwrap();
    assert_eq!(member.account.row("state, renew_at IS NULL"), "needs_reauthorization|t");
    manager.adopt(token("good")).await.unwrap();
    assert_eq!(member.account.row("state, renew_at IS NULL"), "active|f");
}

/// Renewal goes on by itself, once the administrator has unlocked it.
#[tokio::test]
async fn a_locked_account_is_due_when_its_cool_down_ends() {
    let Some(member) = Member::of("a_locked_account_is_due_when_its_cool_down_ends").await else { return };
    member.account.concur.fault_next(1, Fault::code(14));
    member.manager().refresh().await.unwrap_err();
    let between = |from: &str, to: &str| {
        member.account.row(&format!(
            "state, renew_at BETWEEN clock_timestamp() + interval '{from}' AND clock_timestamp() + interval '{to}'"
        ))
    };
    assert_eq!(between("59 minutes", "60 minutes"), "needs_reauthorization|t");
    assert!(member.due().await.tokens.is_empty());
    // An hour later, on whatever clock.
    member.account.database.psql("UPDATE concur_auth_tokens SET renew_at = clock_timestamp()");
    let mut due = member.due().await;
    let lock = due.tokens.pop().unwrap().lock;
    let store = member.fleet.of("", PRINCIPAL);
    store.finish(&token("renewed"), None, &lock).await.unwrap();
    assert_eq!(member.account.row("state, claims"), "active|0");
}

/// What may pass by itself says nothing about when to try again; the claim has said that.
#[tokio::test]
async fn a_failure_that_passes_leaves_the_turn_as_it_was() {
    let Some(member) = Member::of("a_failure_that_passes_leaves_the_turn_as_it_was").await else { return };
    let before = member.account.row("renew_at");
    let store = member.fleet.of("", PRINCIPAL);
    let lock = store.try_lock().await.unwrap().unwrap();
    store.remember(Some("nothing that could be read"), &lock).await.unwrap();
    store.remember(None, &lock).await.unwrap();
    store.unlock(lock).await;
    assert_eq!(member.account.row("renew_at"), before);
}

/// 60 days after the grant, less up to 20.
#[tokio::test]
async fn a_revoked_token_is_not_due_and_a_restore_makes_nothing_due() {
    let Some(member) = Member::of("a_revoked_token_is_not_due_and_a_restore_makes_nothing_due").await else {
        return;
    };
    let days = |from: u32, to: u32| {
        member.account.row(&format!(
            "renew_at BETWEEN clock_timestamp() + interval '{from} days' AND clock_timestamp() + interval '{to} days'"
        ))
    };
    assert_eq!(days(39, 60), "t");
    let before = member.account.row("renew_at");
    assert_eq!(member.fleet.mark_restored().await.unwrap(), 1);
    assert_eq!(member.account.row("renew_at"), before);
    assert!(member.due().await.tokens.is_empty());
    member.account.lapse();
    member.manager().revoke().await.unwrap();
    assert_eq!(member.account.row("renew_at IS NULL, claims, state"), "t|0|signed_out");
    assert!(member.due().await.tokens.is_empty());
}

#[tokio::test]
async fn members_are_listed_page_by_page() {
    let Some(table) = Table::of("members_are_listed_page_by_page").await else { return };
    let (left, later) = ("timestamptz '2031-05-06 07:08:09.25Z'", "timestamptz '2030-02-03 04:05:06.5Z'");
    table.rows("m", 5, left, later);
    table.rows("pending-00", 1, "NULL", "'infinity'");
    table.set(
        "m0001",
        "kind = 'user', state = 'needs_reauthorization', reason = 'locked', needed_since = '2029-01-01Z'",
    );
    table.set("m0002", "token = NULL, state = 'signed_out', refresh_expires_at = NULL, renew_at = NULL");
    // A sign-in that was refused left its reason.
    table.set("m0003", "token = NULL, state = 'needs_reauthorization', reason = 'refused'");
    table.due("another");
    table.set("another", "app_id = 'another'");

    let mut found = Vec::new();
    let mut pages = Vec::new();
    loop {
        let after = found.last().map(|it: &FleetMember| it.uuid.clone());
        let page = table.fleet.list(APP, after.as_deref(), 4).await.unwrap();
        pages.push(page.len());
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(pages, [4, 2, 0]);
    assert_eq!(uuids(&found), ["m0000", "m0001", "m0002", "m0003", "m0004", "pending-000000"]);
    let of = |name: &str| found.iter().find(|it| it.uuid == name).unwrap();
    let states = found.iter().map(|it| it.state).collect::<Vec<_>>();
    use MemberState::{Active, NeedsPerson, SignedOut};
    assert_eq!(states, [Active, NeedsPerson, SignedOut, SignedOut, Active, Active]);
    assert_eq!(of("m0000").kind, MemberKind::Company);
    let date = |it: Option<concur_auth::time::OffsetDateTime>| it.map(|it| it.unix_timestamp_nanos() / 1_000);
    assert_eq!(date(of("m0000").refresh_token_expires_at), Some(1_935_817_689_250_000));
    assert_eq!(date(of("m0001").act_before), Some(1_935_817_689_250_000), "where a person is needed");
    assert_eq!(found.iter().filter(|it| it.act_before.is_some()).count(), 1);
    assert!(found.iter().all(|it| !it.unsaved));
    assert_eq!(date(of("m0000").renew_at), Some(1_896_321_906_500_000));
    assert_eq!((of("m0000").needs.clone(), of("m0000").needed_since), (None, None));
    assert_eq!((of("m0001").kind, of("m0001").needs.as_deref()), (MemberKind::User, Some("locked")));
    assert_eq!(date(of("m0001").needed_since), Some(1_861_920_000_000_000));
    assert_eq!((of("m0003").needs.clone(), of("m0003").needed_since), (None, None));
    let pending = of("pending-000000");
    let dates = (pending.refresh_token_expires_at, pending.act_before, pending.renew_at);
    assert_eq!((pending.kind, dates), (MemberKind::Pending, (None, None, None)));
    // A token that Concur has refused for good, or that has expired, leaves no time in which to act.
    for useless in ["renew_at = NULL", "renew_at = now(), refresh_expires_at = now() - interval '1 second'"] {
        table.set("m0001", useless);
        let member = table.fleet.member(APP, "m0001").await.unwrap().unwrap();
        assert!(member.refresh_token_expires_at.is_some() && member.act_before.is_none(), "{useless}");
    }

    assert_eq!(uuids(&table.fleet.needing_a_person(APP).await.unwrap()), ["m0001"]);
    let health = table.fleet.health(APP).await.unwrap();
    assert_eq!((health.active, health.needing_a_person, health.signed_out, health.unsaved), (3, 1, 2, 0));
    assert_eq!(date(health.soonest_expiry), Some(1_935_817_689_250_000));
    let health = table.fleet.health("nothing").await.unwrap();
    assert_eq!((health.active, health.needing_a_person, health.signed_out), (0, 0, 0));
    assert_eq!(health.soonest_expiry, None);
    let with_token = table.database.psql("SELECT count(*) FROM concur_auth_tokens WHERE token IS NOT NULL");
    assert_eq!(table.fleet.mark_restored().await.unwrap().to_string(), with_token);
    assert_ne!(with_token, "1");
}

const PENDING: &str = "pending-0123";

/// To a principal without a row, and to one that has been signed in before.
#[tokio::test]
async fn an_assigned_token_takes_the_place_of_what_the_principal_had() {
    let Some(table) = Table::of("an_assigned_token_takes_the_place_of_what_the_principal_had").await else {
        return;
    };
    for has_row in [false, true] {
        table.due(PENDING);
        table.set(PENDING, "kind = 'user', version = 7, sign_in = 9000000000000000, save_id = 'signed in'");
        if has_row {
            table.set(
                "owner",
                "version = 20, sign_in = 9500000000000000, state = 'needs_reauthorization', reason = 'r', needed_since = now(),
                 failures = 3, refusal = 'note', last_error = 'e', claims = 4, in_doubt_since = now(), renew_at = NULL",
            );
        }
        let token = table.row(PENDING, "token");
        table.assign(PENDING, "owner").await.unwrap();
        assert_eq!(table.count("true"), 1);
        assert_eq!(table.row("owner", "token"), token);
        assert_eq!(
            table.row("owner", "kind, save_id, version, sign_in, state, failures, claims"),
            if has_row {
                "user|signed in|21|9500000000000001|active|0|0"
            } else {
                "user|signed in|8|9000000000000001|active|0|0"
            }
        );
        assert_eq!(
            table.row(
                "owner",
                "num_nonnulls(reason, needed_since, refusal, last_error, in_doubt_since, lease_owner)"
            ),
            "0"
        );
        // A third of the 100 days that are left, less the jitter of this name.
        let shares = table.row(
            "owner",
            "round(extract(epoch FROM (clock_timestamp() + interval '100 days' / 3 - renew_at) / (100.0 / 9 * 86400)), 3)",
        );
        let store = table.fleet.of(APP, "owner");
        let lock = store.try_lock().await.unwrap().unwrap();
        store.finish(&expiring_in_100_days(&table), None, &lock).await.unwrap();
        store.unlock(lock).await;
        let by_a_save = table.row(
            "owner",
            "round(extract(epoch FROM (clock_timestamp() + interval '100 days' / 3 - renew_at) / (100.0 / 9 * 86400)), 3)",
        );
        assert_eq!(shares, by_a_save, "the jitter is the principal's own");
    }
    // With the clock of the database, where that is later than any number before.
    table.due(PENDING);
    table.set("owner", "sign_in = 5");
    table.assign(PENDING, "owner").await.unwrap();
    assert_eq!(table.row("owner", "sign_in > extract(epoch FROM timestamp '2026-01-01') * 1000000"), "t");
}

fn expiring_in_100_days(table: &Table<'_>) -> RefreshTokenObject {
    let at =
        table.database.psql("SELECT extract(epoch FROM clock_timestamp() + interval '100 days')::bigint");
    RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "new", "refreshTokenExpiresAt": {at}}}"#))
        .unwrap()
}

/// A renewal of the principal is under way. Its lease stays its own, and its save comes too late.
#[tokio::test]
async fn a_save_after_an_assignment_is_superseded() {
    let Some(table) = Table::of("a_save_after_an_assignment_is_superseded").await else { return };
    for is_a_sign_in in [false, true] {
        for name in ["owner", PENDING] {
            table.due(name);
        }
        let store = table.worker().of(APP, "owner");
        let late = store.try_lock().await.unwrap().unwrap();
        let lease = table.row("owner", "lease_owner, lease_until");
        table.assign(PENDING, "owner").await.unwrap();
        assert_eq!(table.row("owner", "lease_owner, lease_until"), lease);
        let saved = if is_a_sign_in {
            store.replace(&token("late"), &late).await
        } else {
            store.finish(&token("late"), None, &late).await
        };
        assert_superseded(&saved.unwrap_err());
        store.remove(&late).await.unwrap();
        assert!(store.prolong(&late).await.is_err(), "nothing is sent for a token that was replaced");
        store.unlock(late).await;
        assert_eq!(table.row("owner", "lease_owner IS NULL, state"), "t|active");
        assert_eq!(store.load().await.unwrap().unwrap().secret(), format!("of {PENDING}0"));
        table.database.psql("DELETE FROM concur_auth_tokens");
    }
}

#[tokio::test]
async fn a_token_that_is_not_there_or_in_use_is_not_assigned() {
    let Some(table) = Table::of("a_token_that_is_not_there_or_in_use_is_not_assigned").await else { return };
    table.due("owner");
    let place = format!("of app {APP} in {}", table.fleet.describe().strip_prefix("the fleet in ").unwrap());
    let nothing = format!(
        "there is no token in the row of {PENDING} {place} for owner: it was assigned before, or was never saved; see whether \
         owner is signed in, or sign in again"
    );
    let error = table.assign(PENDING, "owner").await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, nothing.clone()));
    let store = table.worker().of(APP, PENDING);
    let lock = store.try_lock().await.unwrap().unwrap();
    let busy = format!(
        "the token in the row of {PENDING} {place} was not assigned to owner: it is being saved or renewed just now; try again in \
         a moment"
    );
    let error = table.assign(PENDING, "owner").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_transient(), error.to_string()),
        (ErrorKind::Store, true, busy.clone())
    );
    store.replace(&token("signed in"), &lock).await.unwrap();
    let error = table.assign(PENDING, "owner").await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Store, busy), "its sign-in has not ended");
    store.remove(&lock).await.unwrap();
    store.unlock(lock).await;
    let error = table.assign(PENDING, "owner").await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, nothing));
    let error = table.assign("owner", "owner").await.unwrap_err();
    let itself = format!(
        "the row of owner {place} was to be assigned to itself; name the company or user whose token it is"
    );
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, itself));
    assert_eq!(table.row("owner", "token IS NOT NULL, version"), "t|1");
}

/// Whatever is cut, the token has one name.
#[tokio::test]
async fn an_assignment_happens_completely_or_not_at_all() {
    let Some(table) = Table::of("an_assignment_happens_completely_or_not_at_all").await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    let parts = ["BEGIN", "FOR UPDATE", "INSERT INTO concur_auth_tokens AS member", "DELETE FROM", "COMMIT"];
    for part in parts {
        for cut in [Proxy::cut_next_request, Proxy::cut_next_reply] {
            table.due(PENDING);
            let token = table.row(PENDING, "token");
            cut(&proxy, part);
            let before = proxy.cuts();
            let error = worker.assign(APP, PENDING, "owner").await.unwrap_err();
            assert_eq!(
                (error.kind(), error.is_transient(), proxy.cuts()),
                (ErrorKind::Store, true, before + 1)
            );
            // The server ends the transaction when it notices that the client has gone.
            until(|| table.database.psql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in trans%' AND datname = current_database()") == "0").await;
            assert_eq!(table.database.psql("SELECT token FROM concur_auth_tokens"), token, "{part}");
            table.database.psql("DELETE FROM concur_auth_tokens");
        }
    }
}

/// Two processes assign one token to a member whose row another sign-in makes in between: for one of them it is not there yet.
#[tokio::test]
async fn assignments_do_not_wait_for_each_other_in_a_circle() {
    let Some(table) = Table::of("assignments_do_not_wait_for_each_other_in_a_circle").await else { return };
    let proxy = Proxy::before(table.database.postgres());
    let worker = table.worker_by(&proxy);
    table.due(PENDING);
    let held = proxy.hold_next_reply("FOR UPDATE");
    let first = tokio::spawn(async move { worker.assign(APP, PENDING, "owner").await });
    until(|| proxy.executed().iter().any(|it| it.contains("FOR UPDATE"))).await;
    table.due("owner");
    let second = tokio::spawn({
        let worker = table.worker();
        async move { worker.assign(APP, PENDING, "owner").await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    until(|| table.database.psql(waiting) == "1").await;
    drop(held);
    first.await.unwrap().unwrap();
    let error = second.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert_eq!(table.count("true"), 1);
}

/// A deadlock, or two tokens under one name, would show here.
#[tokio::test]
async fn tokens_that_are_assigned_at_once_do_not_get_in_each_others_way() {
    let Some(table) = Table::of("tokens_that_are_assigned_at_once_do_not_get_in_each_others_way").await
    else {
        return;
    };
    let left = "clock_timestamp() + interval '100 days'";
    table.rows("pending-", 40, left, "clock_timestamp() + interval '1 day'");
    let calls: Vec<_> = (0..80)
        .map(|n| {
            let worker = table.fleet.clone();
            // Each token twice, to 4 principals.
            let (pending, principal) = (format!("pending-{:04}", n % 40), format!("owner-{}", n % 4));
            tokio::spawn(async move { worker.assign(APP, &pending, &principal).await })
        })
        .collect();
    let mut assigned = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => assigned += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{error}"),
        }
    }
    assert_eq!(assigned, 40);
    assert_eq!(table.count("principal LIKE 'owner-%' AND token IS NOT NULL"), 4);
    assert_eq!(table.count("true"), 4);
}

/// In transaction mode, each statement may run on another connection.
#[tokio::test]
async fn pgbouncer_may_be_in_between() {
    let Some(table) = Table::of("pgbouncer_may_be_in_between").await else { return };
    let Some(bouncer) = PgBouncer::start(table.database.postgres(), "pgbouncer_may_be_in_between") else {
        return;
    };
    let worker = table.worker_by(&bouncer);
    worker.migrate().await.unwrap();
    let left = "clock_timestamp() + interval '100 days'";
    table.rows("m", 600, left, "clock_timestamp() - interval '1 day'");
    // The rest is held: hundreds of locks that are given back one by one would keep the next statement from its turn.
    let mut held = Vec::new();
    for count in [500, 100] {
        let mut due = worker.claim_due(APP, 500).await.unwrap();
        assert_eq!(due.tokens.len(), count);
        held.extend(due.tokens.split_off(20));
        for DueToken { principal, lock, .. } in due.tokens {
            let store = worker.of(APP, &principal);
            store.finish(&token("new"), None, &lock).await.unwrap();
        }
    }
    assert_eq!(table.count("version = 2"), 40);
    assert_eq!(worker.list(APP, None, 1_000).await.unwrap().len(), 600);
    table.due(PENDING);
    worker.assign(APP, PENDING, "owner").await.unwrap();
    assert_eq!(worker.health(APP).await.unwrap().active, 601);
    assert_eq!(worker.needing_a_person(APP).await.unwrap(), []);
}

/// Version 1 with data, and several processes that upgrade it at once.
#[tokio::test]
async fn tokens_of_version_1_are_kept_alive_after_an_upgrade() {
    let name = "tokens_of_version_1_are_kept_alive_after_an_upgrade";
    let Some(postgres) = Postgres::shared(name) else { return };
    let database = postgres.database();
    let (schema, end) = (PostgresFleet::schema(), "INSERT INTO concur_auth_schema (version) VALUES (1);\n");
    let end = schema.find(end).unwrap() + end.len();
    database.psql(&format!("{}COMMIT;", &schema[..end]));
    database.psql(&format!(
        "INSERT INTO concur_auth_tokens (app_id, principal, token, save_id, state, refresh_expires_at, renew_at) VALUES
         ('{APP}', 'later', '{{\"refresh_token\": \"1\"}}', '1', 'active', now() + interval '90 days', now() + interval '30 days'),
         ('{APP}', 'old', '{{\"refresh_token\": \"2\"}}', '2', 'active', now() + interval '9 days', now() - interval '30 days'),
         ('{APP}', 'without-expiry', '{{\"refresh_token\": \"3\"}}', '3', 'active', NULL, NULL),
         ('{APP}', 'empty', NULL, NULL, 'signed_out', NULL, NULL)"
    ));
    let fleets: Vec<_> = (0..8).map(|_| PostgresFleet::new(&database.url()).unwrap()).collect();
    let calls: Vec<_> = fleets
        .iter()
        .map(|fleet| {
            let fleet = fleet.clone();
            tokio::spawn(async move { fleet.migrate().await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(database.psql("SELECT count(*), max(version) FROM concur_auth_schema"), "2|2");
    let due = fleets[0].claim_due(APP, 64).await.unwrap();
    assert_eq!(names(&due.tokens), ["old", "without-expiry"]);
    let next = due.next.unwrap();
    assert!(next > Duration::from_secs(29 * 86400) && next <= Duration::from_secs(30 * 86400), "{next:?}");
    assert_eq!(database.psql("SELECT count(*) FROM concur_auth_tokens WHERE renew_at IS NULL"), "1");
    // A token without an expiry is due at once, also after a save.
    let store = fleets[1].of(APP, "empty");
    let lock = store.try_lock().await.unwrap().unwrap();
    store.replace(&RefreshTokenObject::from_json(r#"{"refresh_token": "4"}"#).unwrap(), &lock).await.unwrap();
    store.unlock(lock).await;
    assert_eq!(names(&fleets[0].claim_due(APP, 64).await.unwrap().tokens), ["empty"]);
}

/// A role that may do no more than the documentation asks for.
#[tokio::test]
async fn a_role_needs_no_more_than_four_privileges() {
    let Some(table) = Table::of("a_role_needs_no_more_than_four_privileges").await else { return };
    let role = format!("fleet_{}", table.database.name());
    table.database.psql(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT SELECT, INSERT, UPDATE, DELETE ON concur_auth_tokens TO {role};
         GRANT SELECT ON concur_auth_schema TO {role};"
    ));
    let url = table.database.url().replace("user=postgres", &format!("user={role}"));
    let worker = PostgresFleet::new(&url).unwrap();
    worker.migrate().await.unwrap();
    table.due(PENDING);
    worker.assign(APP, PENDING, "owner").await.unwrap();
    table.set("owner", "renew_at = clock_timestamp()");
    assert_eq!(names(&worker.claim_due(APP, 64).await.unwrap().tokens), ["owner"]);
    assert_eq!(worker.list(APP, None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn neither_a_fleet_nor_its_claims_show_a_secret() {
    let fleet = PostgresFleet::new("postgres://app:hidden@127.0.0.1/concur").unwrap().lease(MINUTE);
    let shown = format!("{fleet:?} {} {:?}", fleet.describe(), fleet.of(APP, "m"));
    assert!(!shown.contains("hidden") && fleet.describe().starts_with("the fleet in PostgreSQL"), "{shown}");
    assert_eq!(FleetStore::lease(&fleet), Some(MINUTE));
    assert_eq!(PostgresFleet::schema(), PostgresStore::schema());
    let Some(table) = Table::of("neither_a_fleet_nor_its_claims_show_a_secret").await else { return };
    table.due("m");
    let due = table.claim(1).await;
    let shown = format!("{due:?} {:?}", table.fleet.list(APP, None, 1).await.unwrap());
    assert!(!shown.contains("of m0"), "{shown}");
}
