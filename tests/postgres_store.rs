//! `PostgresStore` on a real server: the contract, the schema, and what happens between two of its statements.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/company.rs"]
mod company;
#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::{ops::Deref, time::Duration};

use concur_auth::{
    ErrorKind, PostgresStore, RefreshTokenObject, StoreLock, TokenManager, TokenStore,
    simulator::{
        ConcurSimulator, Rotation, SharedLock, StoreCondition, shared_store_contract, store_contract,
    },
};

use self::{
    company::{
        Account, CLAIM, MAKE, PRINCIPAL, PROLONG, READ, RELEASE, REMEMBER, REMOVE, REPLACE, SAVE, refresh,
        sign_in,
    },
    postgres::{Database, Options, PgBouncer, Postgres, Proxy, pem},
    support::until,
};

const COLUMNS: &str = "SELECT table_name, column_name, data_type, is_nullable, column_default \
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2";

const INDEXES: &str = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname";

async fn migrated(database: &Database<'_>) -> PostgresStore {
    let store = PostgresStore::new(&database.url(), PRINCIPAL).unwrap();
    store.migrate().await.unwrap();
    store
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let Some(postgres) = Postgres::shared("it_keeps_the_contract") else { return };
    let database = postgres.database();
    let store = migrated(&database).await.lease(Duration::from_secs(5));
    let broken = PostgresStore::new(&postgres.database().url(), PRINCIPAL).unwrap();
    store_contract(|condition| {
        Some(if condition == StoreCondition::Broken { broken.clone() } else { another(&store) })
    })
    .await
    .unwrap();
    let lapse = || async {
        database.psql(
            "UPDATE concur_auth_tokens SET lease_until = clock_timestamp() WHERE lease_owner IS NOT NULL",
        );
        Ok(())
    };
    let dies = || async {
        let lock = another(&store).try_lock().await?;
        std::mem::forget(lock.unwrap());
        Ok(())
    };
    let lock = SharedLock::new().holder_dies(dies).free_after(Duration::from_secs(8)).lapses(lapse);
    shared_store_contract(|| another(&store), lock).await.unwrap();
}

/// As another process would open it, but for the connections.
fn another(store: &PostgresStore) -> PostgresStore {
    store.of_principal(PRINCIPAL)
}

fn assert_superseded(e: &concur_auth::Error) {
    assert!(e.to_string().starts_with("another process has saved a newer token in the row of"), "{e}");
}

/// A company whose managers reach the database through a proxy.
struct Company<'a> {
    account: Account<'a>,
    proxy: Proxy,
}

impl<'a> Deref for Company<'a> {
    type Target = Account<'a>;

    fn deref(&self) -> &Account<'a> {
        &self.account
    }
}

impl Company<'_> {
    /// `None`, after the test was said to be skipped, where there is no PostgreSQL.
    async fn of(test: &str) -> Option<Self> {
        let postgres = Postgres::shared(test)?;
        Some(Self { account: Account::of(postgres).await, proxy: Proxy::before(postgres) })
    }

    /// On connections of its own.
    fn store(&self) -> PostgresStore {
        PostgresStore::new(&self.database.url_by(&self.proxy), PRINCIPAL).unwrap()
    }

    /// The same, without the proxy in between.
    fn past_the_proxy(&self) -> PostgresStore {
        PostgresStore::new(&self.database.url(), PRINCIPAL).unwrap()
    }

    /// Another machine has sent the token, and has not saved the reply when its lease lapses: what is stored is dead.
    async fn spent_elsewhere(&self) -> (PostgresStore, StoreLock) {
        let other = self.past_the_proxy();
        let late = other.try_lock().await.unwrap().unwrap();
        self.lapse();
        self.concur.revoke();
        (other, late)
    }

    /// A manager as on another machine.
    fn machine(&self) -> TokenManager {
        self.manager(self.store())
    }

    /// The statements on the table since the last call, by their first words.
    fn statements(&self, from: usize) -> Vec<&'static str> {
        let executed = self.proxy.executed().split_off(from);
        executed
            .iter()
            .map(|text| {
                let known = [
                    (MAKE, "make"),
                    (CLAIM, "claim"),
                    (SAVE, "save"),
                    (REPLACE, "replace"),
                    (READ, "read"),
                    (RELEASE, "release"),
                    (PROLONG, "prolong"),
                    (REMEMBER, "remember"),
                    (REMOVE, "remove"),
                ];
                known.into_iter().find(|(part, _)| text.contains(part)).map_or("other", |(_, name)| name)
            })
            .collect()
    }
}

#[tokio::test]
async fn a_renewal_takes_two_statements() {
    let Some(company) = Company::of("a_renewal_takes_two_statements").await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    assert_eq!(company.statements(0), ["read", "claim", "make", "replace", "release"], "the first sign-in");
    for _ in 0..3 {
        let before = company.proxy.executed().len();
        machine.refresh().await.unwrap();
        assert_eq!(company.statements(before), ["claim", "save"]);
    }
    let before = company.proxy.executed().len();
    for _ in 0..10 {
        machine.access_token().await.unwrap();
    }
    machine.get_valid_refresh_token().await.unwrap();
    assert_eq!(company.statements(before), ["read"]);
    assert_eq!(company.row("version, state, lease_owner IS NULL, failures"), "4|active|t|0");
    assert!(company.concur.is_live(&company.stored()));
}

#[tokio::test]
async fn machines_that_need_a_token_at_once_send_one_request() {
    let Some(company) = Company::of("machines_that_need_a_token_at_once_send_one_request").await else {
        return;
    };
    let machines: Vec<_> = (0..8).map(|_| company.machine()).collect();
    let held = company.concur.hold_replies();
    let mut calls = Vec::new();
    for machine in &machines {
        let machine = machine.clone();
        calls.push(tokio::spawn(async move { machine.access_token().await }));
    }
    until(|| company.proxy.executed().len() > 16).await;
    held.release();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(company.concur.token_requests(), 1);
    assert_eq!(company.row("version"), "1");
}

/// The answer of the save is lost with its connection: was it carried out?
#[tokio::test]
async fn a_save_whose_answer_is_lost_is_repeated_and_recognised() {
    let Some(company) = Company::of("a_save_whose_answer_is_lost_is_repeated_and_recognised").await else {
        return;
    };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    for cut in [Proxy::cut_next_reply, Proxy::cut_next_request] {
        let (version, before) = (company.row("version"), company.proxy.executed().len());
        cut(&company.proxy, SAVE);
        machine.refresh().await.unwrap();
        let saves = company.statements(before).into_iter().filter(|it| *it == "save").count();
        assert_eq!(company.row("version").parse::<u64>().unwrap(), version.parse::<u64>().unwrap() + 1);
        assert!((1..=2).contains(&saves) && !machine.status().unsaved);
        assert!(company.concur.is_live(&company.stored()));
        assert_eq!(company.row("lease_owner IS NULL, in_doubt_since IS NULL"), "t|t");
    }
    assert_eq!((company.proxy.cuts(), company.concur.token_requests()), (2, 3));
}

/// The lease was taken, and its holder does not know: the answer is lost, or the caller has gone.
#[tokio::test]
async fn a_lease_whose_answer_is_lost_is_given_back() {
    let Some(company) = Company::of("a_lease_whose_answer_is_lost_is_given_back").await else { return };
    company.machine().access_token().await.unwrap();
    company.proxy.cut_next_reply(CLAIM);
    company.store().try_lock().await.unwrap_err();
    until(|| company.row("lease_owner IS NULL, in_doubt_since IS NULL") == "t|t").await;
    let held = company.proxy.hold_next_reply(CLAIM);
    let store = company.store();
    let call = tokio::spawn(async move { store.try_lock().await.map(drop) });
    until(|| company.row("lease_owner IS NULL") == "f").await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until(|| company.row("lease_owner IS NULL, in_doubt_since IS NULL") == "t|t").await;
    drop(held);
}

/// So the lease does not stay if the process ends right after that.
#[tokio::test]
async fn an_unlock_ends_with_the_lease() {
    let Some(company) = Company::of("an_unlock_ends_with_the_lease").await else { return };
    company.machine().access_token().await.unwrap();
    let store = company.store();
    let lock = store.try_lock().await.unwrap().unwrap();
    let held = company.proxy.hold_next_request(RELEASE);
    let unlock = tokio::spawn(async move { store.unlock(lock).await });
    until(|| held.is_reached()).await;
    assert!(!unlock.is_finished());
    drop(held);
    unlock.await.unwrap();
    assert_eq!(company.row("lease_owner IS NULL"), "t");
}

/// A worker is suspended past its lease with a reply in hand, and comes back: nobody has saved since, or another machine has.
#[tokio::test]
async fn a_late_save_counts_unless_another_machine_has_saved() {
    let Some(company) = Company::of("a_late_save_counts_unless_another_machine_has_saved").await else {
        return;
    };
    let (late, other) = (company.machine(), company.past_the_proxy());
    late.access_token().await.unwrap();
    for has_saved in [false, true] {
        let held = company.concur.hold_replies();
        let requests = company.concur.token_requests();
        let call = refresh(&late);
        until(|| company.concur.token_requests() == requests + 1).await;
        company.lapse();
        let newer = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
        if has_saved {
            let lock = other.try_lock().await.unwrap().unwrap();
            other.finish(&newer, None, &lock).await.unwrap();
            other.unlock(lock).await;
        }
        held.release();
        let served = call.await.unwrap().unwrap();
        assert_eq!(served.secret(), company.stored());
        // Where another machine's token counts, `refresh` renews that token.
        assert_eq!(company.concur.token_requests(), requests + if has_saved { 2 } else { 1 });
        assert!(company.concur.is_live(&company.stored()));
        assert_eq!(company.row("lease_owner IS NULL, in_doubt_since IS NULL, state"), "t|t|active");
    }
}

/// Concur need not replace a token when it is used: then it has answered both, and the answer that it gave last counts.
#[tokio::test]
async fn a_late_save_does_not_supersede_the_reply_of_the_lease_holder() {
    let name = "a_late_save_does_not_supersede_the_reply_of_the_lease_holder";
    let Some(company) = Company::of(name).await else { return };
    company.machine().access_token().await.unwrap();
    let reply = || RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    let (late, holder) = (company.past_the_proxy(), company.past_the_proxy());
    let lapsed = late.try_lock().await.unwrap().unwrap();
    company.lapse();
    let lock = holder.try_lock().await.unwrap().unwrap();
    let (first, second) = (reply(), reply());
    late.finish(&first, None, &lapsed).await.unwrap();
    assert_eq!(company.stored(), first.secret());
    holder.finish(&second, None, &lock).await.unwrap();
    assert_eq!(company.stored(), second.secret());
    assert_eq!(company.row("lease_owner IS NULL, in_doubt_since IS NULL"), "t|t");
    // What comes after that is too late.
    assert_superseded(&late.save(&reply(), &lapsed).await.unwrap_err());
    assert_eq!(company.stored(), second.secret());
}

/// The same with a sign-in that a person made: it replaces whatever is stored.
#[tokio::test]
async fn a_late_sign_in_replaces_what_another_machine_has_saved() {
    let Some(company) = Company::of("a_late_sign_in_replaces_what_another_machine_has_saved").await else {
        return;
    };
    let (late, other) = (company.machine(), company.past_the_proxy());
    late.access_token().await.unwrap();
    let held = company.concur.hold_replies();
    let call = sign_in(&late, company.new_request_token());
    until(|| company.concur.token_requests() == 2).await;
    company.lapse();
    let lock = other.try_lock().await.unwrap().unwrap();
    let newer = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.finish(&newer, None, &lock).await.unwrap();
    other.unlock(lock).await;
    held.release();
    let signed_in = call.await.unwrap().unwrap();
    assert_eq!(signed_in.secret(), company.stored());
    assert_ne!(signed_in.secret(), newer.secret());
}

/// The holder has sent the token, and saves after another machine has presented it and was refused.
#[tokio::test]
async fn a_refusal_in_doubt_waits_for_a_late_save() {
    let Some(company) = Company::of("a_refusal_in_doubt_waits_for_a_late_save").await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    let (other, late) = company.spent_elsewhere().await;
    let before = company.proxy.executed().len();
    let call = refresh(&machine);
    until(|| company.statements(before).contains(&"read")).await;
    assert_eq!(company.row("state, in_doubt_since IS NOT NULL"), "active|t");
    let saved = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.finish(&saved, None, &late).await.unwrap();
    other.unlock(late).await;
    call.await.unwrap().unwrap();
    assert_eq!(company.concur.count("password"), 1, "the request token was not needed");
    assert!(company.concur.is_live(&company.stored()));
}

#[tokio::test]
async fn without_a_late_save_the_row_says_that_a_person_is_needed_until_one_comes() {
    let name = "without_a_late_save_the_row_says_that_a_person_is_needed_until_one_comes";
    let Some(company) = Company::of(name).await else { return };
    let store = company.store().late_save(Duration::from_millis(600));
    company.machine().access_token().await.unwrap();
    let (other, late) = company.spent_elsewhere().await;
    // Without a request token.
    let json: serde_json::Value = serde_json::from_str(&company.concur.credentials_json()).unwrap();
    let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap());
    let credentials = concur_auth::Credentials::new(id, secret);
    let machine = TokenManager::builder()
        .credentials(credentials)
        .base_uri(company.concur.base_uri())
        .store(store)
        .build()
        .unwrap();
    let error = machine.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        company.row("state, needed_since IS NOT NULL, failures > 0, lease_owner IS NULL"),
        "needs_reauthorization|t|t|t"
    );
    let saved = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.finish(&saved, None, &late).await.unwrap();
    assert_eq!(company.row("state, reason IS NULL, in_doubt_since IS NULL"), "active|t|t");
}

/// The wait for a late save is cut off: that the token is dead is known by then, and no worker will look at it again.
#[tokio::test]
async fn a_refused_token_is_in_need_of_a_person_also_if_the_wait_for_a_late_save_fails() {
    let name = "a_refused_token_is_in_need_of_a_person_also_if_the_wait_for_a_late_save_fails";
    let Some(company) = Company::of(name).await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    let (other, late) = company.spent_elsewhere().await;
    let before = company.proxy.executed().len();
    let call = refresh(&machine);
    until(|| company.statements(before).contains(&"read")).await;
    for _ in 0..3 {
        company.proxy.cut_next_request(READ);
    }
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    assert_eq!(
        company.row("state, reason, needed_since IS NOT NULL, renew_at IS NULL"),
        "needs_reauthorization|Concur has refused this refresh token before; sign in again|t|t"
    );
    let saved = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.finish(&saved, None, &late).await.unwrap();
    assert_eq!(company.row("state, reason IS NULL, renew_at IS NULL"), "active|t|f");
}

/// A lapsed lease, and a lease that was given back in doubt: only a caller who needs a token takes such a row.
#[tokio::test]
async fn a_renewal_ahead_of_time_leaves_a_row_in_doubt_alone_for_an_hour() {
    let Some(company) = Company::of("a_renewal_ahead_of_time_leaves_a_row_in_doubt_alone_for_an_hour").await
    else {
        return;
    };
    company.machine().access_token().await.unwrap();
    let store = company.store();
    let set = |what: &str| drop(company.database.psql(&format!("UPDATE concur_auth_tokens SET {what}")));
    std::mem::forget(store.try_lock().await.unwrap().unwrap());
    assert!(store.try_lock_ahead_of_time().await.unwrap().is_none(), "a live lease");
    set("lease_until = clock_timestamp() - interval '59 minutes'");
    assert!(store.try_lock_ahead_of_time().await.unwrap().is_none(), "in doubt");
    let lock = store.try_lock().await.unwrap().unwrap();
    store.unlock(lock).await;
    assert_eq!(company.row("lease_owner IS NULL, in_doubt_since IS NOT NULL"), "t|t");
    assert!(store.try_lock_ahead_of_time().await.unwrap().is_none(), "still in doubt");
    set("refresh_expires_at = clock_timestamp() + interval '6 days'");
    let lock = store.try_lock_ahead_of_time().await.unwrap().expect("it dies within 7 days");
    store.unlock(lock).await;
    set(
        "refresh_expires_at = clock_timestamp() + interval '60 days', in_doubt_since = clock_timestamp() - interval '61 minutes'",
    );
    let lock = store.try_lock_ahead_of_time().await.unwrap().expect("the hour is over");
    store.unlock(lock).await;
}

/// `keep_alive`, and a caller whose access token is due and still valid, can wait; a caller without one cannot.
#[tokio::test]
async fn only_a_caller_who_needs_a_token_presents_one_that_is_in_doubt() {
    let name = "only_a_caller_who_needs_a_token_presents_one_that_is_in_doubt";
    let Some(company) = Company::of(name).await else { return };
    company.machine().access_token().await.unwrap();
    let access_ends = |left: &str| {
        let ends = format!("to_jsonb(extract(epoch FROM clock_timestamp() + interval '{left}')::bigint)");
        company.database.psql(&format!(
            "UPDATE concur_auth_tokens SET in_doubt_since = clock_timestamp(), save_id = '{left}',
                    token = jsonb_set(token::jsonb, '{{accessTokenExpiresAt}}', {ends})::text"
        ));
    };
    let asks = async |machine: TokenManager, waits_for: &'static str| {
        let (before, requests) = (company.proxy.executed().len(), company.concur.token_requests());
        if waits_for == "keep_alive" {
            let kept = machine.keep_alive().await.unwrap();
            until(|| company.statements(before).contains(&"claim")).await;
            drop(kept);
            machine.shutdown(Duration::from_secs(60)).await.unwrap();
        } else {
            machine.access_token().await.unwrap();
        }
        company.concur.token_requests() - requests
    };
    access_ends("-1 minute");
    assert_eq!(asks(company.machine(), "keep_alive").await, 0);
    access_ends("4 minutes");
    assert_eq!(asks(company.machine(), "a caller").await, 0);
    access_ends("-2 minutes");
    assert_eq!(asks(company.machine(), "a caller").await, 1);
}

/// With less left than a request and its save can take, the lease is prolonged; if that cannot be, nothing is sent.
#[tokio::test]
async fn nothing_is_sent_on_a_lease_that_may_lapse() {
    let Some(company) = Company::of("nothing_is_sent_on_a_lease_that_may_lapse").await else { return };
    let machine = company.manager(company.store().lease(Duration::from_secs(4)));
    machine.access_token().await.unwrap();
    for is_taken in [false, true] {
        let (before, requests) = (company.proxy.executed().len(), company.concur.token_requests());
        // The claim is answered when more than half of the lease is over.
        let held = company.proxy.hold_next_reply(CLAIM);
        let call = refresh(&machine);
        until(|| company.proxy.executed().len() == before + 1).await;
        until(|| company.row("lease_until <= clock_timestamp() + interval '1500 milliseconds'") == "t").await;
        if is_taken {
            company.database.psql("UPDATE concur_auth_tokens SET lease_owner = 'another worker'");
        }
        drop(held);
        let answer = call.await.unwrap();
        let statements = company.statements(before);
        if is_taken {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Store);
            assert_eq!(statements[..2], ["claim", "prolong"], "{statements:?}");
            assert_eq!(company.concur.token_requests(), requests);
            assert!(
                error
                    .to_string()
                    .contains("the next request to Concur was not sent: the lease on the row of"),
                "{error}"
            );
        } else {
            answer.unwrap();
            assert_eq!(statements, ["claim", "prolong", "save"]);
        }
    }
}

/// Deleting a row is a sign-out: what was being renewed does not bring it back, and a caller who needs a token signs in again.
#[tokio::test]
async fn a_row_that_an_administrator_deletes_in_mid_renewal_stays_deleted() {
    let name = "a_row_that_an_administrator_deletes_in_mid_renewal_stays_deleted";
    let Some(company) = Company::of(name).await else { return };
    company.machine().access_token().await.unwrap();
    let store = company.store();
    let lock = store.try_lock().await.unwrap().unwrap();
    company.database.psql("DELETE FROM concur_auth_tokens");
    let renewed = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    assert_superseded(&store.finish(&renewed, None, &lock).await.unwrap_err());
    store.unlock(lock).await;
    assert_eq!(company.row("count(*)"), "0");
    company.machine().access_token().await.unwrap();
    assert_eq!(company.concur.count("password"), 2);
}

/// Found by the model of the lease: the sign-in's answer is lost, another machine renews its token, and then the save is repeated.
#[tokio::test]
async fn a_sign_in_whose_answer_is_lost_does_not_overwrite_its_successor() {
    let name = "a_sign_in_whose_answer_is_lost_does_not_overwrite_its_successor";
    let Some(company) = Company::of(name).await else { return };
    let token =
        |name: &str| RefreshTokenObject::from_json(&format!(r#"{{"refresh_token": "{name}"}}"#)).unwrap();
    let (one, other) = (company.store(), company.past_the_proxy());
    let lock = one.try_lock().await.unwrap().unwrap();
    company.proxy.cut_next_reply(REPLACE);
    one.replace(&token("signed-in"), &lock).await.unwrap_err();
    assert_eq!(company.stored(), "signed-in");
    company.lapse();
    let renewing = other.try_lock().await.unwrap().unwrap();
    other.finish(&token("renewed"), None, &renewing).await.unwrap();
    assert_superseded(&one.replace(&token("signed-in"), &lock).await.unwrap_err());
    assert_eq!(company.stored(), "renewed");
}

/// The same with a renewal: its repeated save does not end the doubt that a later holder left.
#[tokio::test]
async fn a_repeated_save_changes_nothing() {
    let Some(company) = Company::of("a_repeated_save_changes_nothing").await else { return };
    company.machine().access_token().await.unwrap();
    let (one, other) = (company.store(), company.past_the_proxy());
    let lock = one.try_lock().await.unwrap().unwrap();
    let renewed = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    company.proxy.cut_next_reply(SAVE);
    one.finish(&renewed, None, &lock).await.unwrap_err();
    std::mem::forget(other.try_lock().await.unwrap().unwrap());
    company.lapse();
    other.unlock(other.try_lock().await.unwrap().unwrap()).await;
    let before = company.row("version, in_doubt_since, updated_at");
    assert!(before.contains("|20"), "in doubt: {before}");
    one.finish(&renewed, None, &lock).await.unwrap();
    assert_eq!(company.row("version, in_doubt_since, updated_at"), before);
}

#[tokio::test]
async fn a_save_that_was_answered_is_not_sent_again() {
    let Some(company) = Company::of("a_save_that_was_answered_is_not_sent_again").await else { return };
    let store = company.store();
    let lock = store.try_lock().await.unwrap().unwrap();
    let token = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    store.save(&token, &lock).await.unwrap();
    let before = company.proxy.executed().len();
    store.save(&token, &lock).await.unwrap();
    assert_eq!(company.statements(before), [""; 0]);
}

/// A process that holds a newer token than the backup saves over what was restored.
#[tokio::test]
async fn a_renewal_under_way_survives_a_restore() {
    let Some(company) = Company::of("a_renewal_under_way_survives_a_restore").await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    company.database.psql("CREATE TABLE backup AS SELECT * FROM concur_auth_tokens");
    machine.refresh().await.unwrap();
    let held = company.concur.hold_replies();
    let call = refresh(&machine);
    until(|| company.concur.token_requests() == 3).await;
    company
        .database
        .psql("DELETE FROM concur_auth_tokens; INSERT INTO concur_auth_tokens SELECT * FROM backup");
    held.release();
    let served = call.await.unwrap().unwrap();
    assert_eq!(served.secret(), company.stored());
    assert!(company.concur.is_live(&company.stored()));
}

/// A revocation whose answer was lost is repeated after a person has signed in.
#[tokio::test]
async fn a_repeated_removal_leaves_a_later_sign_in_alone() {
    let Some(company) = Company::of("a_repeated_removal_leaves_a_later_sign_in_alone").await else { return };
    company.machine().access_token().await.unwrap();
    let (one, other) = (company.store(), company.past_the_proxy());
    let lock = one.try_lock().await.unwrap().unwrap();
    company.proxy.cut_next_reply(REMOVE);
    one.remove(&lock).await.unwrap_err();
    company.lapse();
    let signing_in = other.try_lock().await.unwrap().unwrap();
    other
        .replace(&RefreshTokenObject::from_json(&company.concur.token_json()).unwrap(), &signing_in)
        .await
        .unwrap();
    one.remove(&lock).await.unwrap();
    assert!(company.concur.is_live(&company.stored()));
}

#[tokio::test]
async fn after_a_restore_every_token_is_in_doubt() {
    let Some(company) = Company::of("after_a_restore_every_token_is_in_doubt").await else { return };
    company.machine().access_token().await.unwrap();
    let store = company.store();
    let empty = store.of_principal("nothing");
    let lock = empty.try_lock().await.unwrap().unwrap();
    empty.unlock(lock).await;
    assert_eq!(store.mark_restored().await.unwrap(), 1);
    assert!(store.try_lock().await.unwrap().is_none(), "a flight may be under way");
    company.lapse();
    assert!(store.try_lock_ahead_of_time().await.unwrap().is_none());
    company.machine().refresh().await.unwrap();
    let lock = store.try_lock_ahead_of_time().await.unwrap().unwrap();
    store.unlock(lock).await;
}

#[tokio::test]
async fn revoked_tokens_leave_an_empty_row() {
    let Some(company) = Company::of("revoked_tokens_leave_an_empty_row").await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    machine.revoke().await.unwrap();
    assert_eq!(company.row("state, token IS NULL, save_id IS NULL, lease_owner IS NULL"), "signed_out|t|t|t");
}

#[tokio::test]
async fn processes_that_migrate_at_once_make_one_schema() {
    let Some(postgres) = Postgres::shared("processes_that_migrate_at_once_make_one_schema") else { return };
    let database = postgres.database();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let store = PostgresStore::new(&database.url(), PRINCIPAL).unwrap();
            tokio::spawn(async move { store.migrate().await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(database.psql("SELECT version FROM concur_auth_schema ORDER BY version"), "1\n2");
}

#[tokio::test]
async fn the_documented_sql_makes_the_same_tables() {
    let Some(postgres) = Postgres::shared("the_documented_sql_makes_the_same_tables") else { return };
    let (ours, by_hand) = (postgres.database(), postgres.database());
    migrated(&ours).await;
    by_hand.psql(&PostgresStore::schema());
    assert_eq!(ours.psql(COLUMNS), by_hand.psql(COLUMNS));
    assert_eq!(ours.psql(INDEXES), by_hand.psql(INDEXES));
    // What was made by hand is up to date.
    migrated(&by_hand).await;
    assert_eq!(by_hand.psql("SELECT count(*), max(version) FROM concur_auth_schema"), "2|2");
}

/// From version 1 on, with a token in the row.
#[tokio::test]
async fn each_earlier_version_is_upgraded() {
    let Some(postgres) = Postgres::shared("each_earlier_version_is_upgraded") else { return };
    let newest = postgres.database();
    migrated(&newest).await;
    let latest: usize = newest.psql("SELECT max(version) FROM concur_auth_schema").parse().unwrap();
    let schema = PostgresStore::schema();
    for version in 1..=latest {
        let old = postgres.database();
        let noted = format!("INSERT INTO concur_auth_schema (version) VALUES ({version});\n");
        let end = schema.find(&noted).unwrap() + noted.len();
        old.psql(&format!("{}COMMIT;", &schema[..end]));
        old.psql(&format!(
            "INSERT INTO concur_auth_tokens (app_id, principal, token, save_id, state) \
             VALUES ('', '{PRINCIPAL}', '{{\"refresh_token\": \"old\"}}', 'id', 'active')"
        ));
        let store = migrated(&old).await;
        assert_eq!(old.psql(COLUMNS), newest.psql(COLUMNS), "from version {version}");
        assert_eq!(old.psql(INDEXES), newest.psql(INDEXES), "from version {version}");
        assert_eq!(store.load().await.unwrap().unwrap().secret(), "old");
        let lock = store.try_lock().await.unwrap().unwrap();
        let new = RefreshTokenObject::from_json(r#"{"refresh_token": "new"}"#).unwrap();
        store.finish(&new, None, &lock).await.unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().secret(), "new");
    }
}

#[tokio::test]
async fn tables_that_are_missing_or_newer_are_named() {
    let Some(postgres) = Postgres::shared("tables_that_are_missing_or_newer_are_named") else { return };
    let database = postgres.database();
    let store = PostgresStore::new(&database.url(), PRINCIPAL).unwrap();
    let error = store.load().await.unwrap_err().to_string();
    assert!(error.contains("PostgresStore::migrate"), "{error}");
    store.migrate().await.unwrap();
    database.psql("INSERT INTO concur_auth_schema (version) VALUES (99)");
    let error = store.migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.to_string().contains("has version 99 of the tables, and this version of concur-auth knows 2"),
        "{error}"
    );
}

/// In transaction mode, each statement may run on another connection.
#[tokio::test]
async fn pgbouncer_may_be_in_between() {
    let Some(postgres) = Postgres::shared("pgbouncer_may_be_in_between") else { return };
    let Some(bouncer) = PgBouncer::start(postgres, "pgbouncer_may_be_in_between") else { return };
    let database = postgres.database();
    let store = PostgresStore::new(&database.url_by(&bouncer), PRINCIPAL).unwrap();
    store.migrate().await.unwrap();
    store_contract(|it| (it == StoreCondition::Working).then(|| another(&store))).await.unwrap();
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let machines: Vec<_> = (0..4)
        .map(|_| {
            let store = PostgresStore::new(&database.url_by(&bouncer), PRINCIPAL).unwrap();
            TokenManager::builder().credentials(concur.credentials()).store(store).build().unwrap()
        })
        .collect();
    for _ in 0..10 {
        let calls: Vec<_> = machines
            .iter()
            .map(|machine| {
                let machine = machine.clone();
                tokio::spawn(async move { machine.refresh().await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    assert_eq!(concur.count("password"), 1, "no family was revoked");
}

/// `DETAIL: Failing row contains (…)` would carry the token.
#[tokio::test]
async fn a_statement_that_fails_shows_no_token() {
    let Some(company) = Company::of("a_statement_that_fails_shows_no_token").await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    let secret = company.stored();
    company
        .database
        .psql("ALTER TABLE concur_auth_tokens ADD CONSTRAINT refuses CHECK (lease_owner IS NULL)");
    let error = machine.refresh().await.unwrap_err();
    let shown = format!("{error} {error:?} {:?} {:?}", machine.status(), company.store());
    assert!(!shown.contains(&secret) && !shown.contains("Failing row"), "{shown}");
    assert!(shown.contains("23514"), "{shown}");
}

/// A role that may do no more than the documentation asks for.
#[tokio::test]
async fn a_role_needs_no_more_than_three_privileges() {
    let Some(company) = Company::of("a_role_needs_no_more_than_three_privileges").await else { return };
    let role = format!("app_{}", company.database.name());
    company.database.psql(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT SELECT, INSERT, UPDATE ON concur_auth_tokens TO {role};
         GRANT SELECT ON concur_auth_schema TO {role};"
    ));
    let url = company.database.url().replace("user=postgres", &format!("user={role}"));
    let store = PostgresStore::new(&url, PRINCIPAL).unwrap();
    store.migrate().await.unwrap();
    let machine = company.manager(store);
    machine.access_token().await.unwrap();
    machine.refresh().await.unwrap();
    machine.revoke().await.unwrap();
}

/// Over TLS, the certificate's name and authority are checked, and what is wrong is said. No token is sent in clear text.
#[tokio::test]
async fn a_foreign_host_is_reached_with_its_certificate_checked() {
    let name = "a_foreign_host_is_reached_with_its_certificate_checked";
    let certificate = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let ours = certificate("localhost");
    let options = Options::new().tls(ours.cert.der(), &ours.signing_key.serialize_der()).without_fsync();
    let Some(postgres) = Postgres::start_with(name, &options) else { return };
    postgres.user_with_password("app", "pass%word");
    let database = postgres.database();
    database.psql("GRANT ALL ON SCHEMA public TO app");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, der: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem("CERTIFICATE", der)).unwrap();
        path
    };
    let trusted = file("trusted.pem", ours.cert.der());
    let other = file("other.pem", certificate("localhost").cert.der());
    let url = |host: &str, roots: &std::path::Path| {
        let (port, database) = (postgres.tcp_port().unwrap(), database.name());
        let roots = roots.display();
        format!(
            "postgres://app:pass%25word@{host}:{port}/{database}?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={roots}"
        )
    };
    let store = PostgresStore::new(&url("localhost", &trusted), PRINCIPAL).unwrap();
    store.migrate().await.unwrap();
    // The second of two at once needs a connection of its own.
    let (one, second) = tokio::join!(store.load(), store.load());
    assert!(one.unwrap().is_none() && second.unwrap().is_none());
    let encrypted =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'app'";
    assert_eq!(database.psql(encrypted), "t");
    for (url, said) in [
        (
            url("localhost", &other),
            "its certificate is self-signed, or signed by an authority that this machine does not know",
        ),
        // Those that this machine trusts.
        (
            url("localhost", std::path::Path::new("system")),
            "its certificate is self-signed, or signed by an authority that this machine does not know",
        ),
        (url("db.example", &trusted), "its certificate is for another host"),
    ] {
        let error = PostgresStore::new(&url, PRINCIPAL).unwrap().load().await.unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("pass"), "{error}");
    }
    let clear =
        PostgresStore::new("postgres://app:secret@db.example/concur?sslmode=disable", PRINCIPAL).unwrap_err();
    assert_eq!(clear.kind(), ErrorKind::Config);
    assert!(!format!("{clear:?}").contains("secret"));
}

/// A sign-in is newer than the deletion of the row that happened meanwhile, and its grant is sent once.
#[tokio::test]
async fn a_sign_in_during_which_the_row_is_deleted_is_kept_and_sent_once() {
    let name = "a_sign_in_during_which_the_row_is_deleted_is_kept_and_sent_once";
    let Some(company) = Company::of(name).await else { return };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    let held = company.concur.hold_replies();
    let call = sign_in(&machine, company.new_request_token());
    until(|| company.concur.token_requests() == 2).await;
    company.database.psql("DELETE FROM concur_auth_tokens");
    held.release();
    let signed_in = call.await.unwrap().unwrap();
    assert_eq!(signed_in.secret(), company.stored());
    assert_eq!(company.concur.token_requests(), 2, "the grant was sent again");
}

/// The same where a lapsed lease let another person sign in meanwhile: who adopts is told which token counts.
#[tokio::test]
async fn an_adopted_token_that_is_not_stored_is_no_success() {
    let Some(company) = Company::of("an_adopted_token_that_is_not_stored_is_no_success").await else {
        return;
    };
    let machine = company.machine();
    machine.access_token().await.unwrap();
    let adopted = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    let held = company.proxy.hold_next_request(REPLACE);
    let call = {
        let (machine, adopted) = (machine.clone(), adopted.clone());
        tokio::spawn(async move { machine.adopt(adopted).await })
    };
    until(|| company.row("lease_owner IS NOT NULL") == "t").await;
    company.lapse();
    let other = company.past_the_proxy();
    let lock = other.try_lock().await.unwrap().unwrap();
    let signed_in = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.replace(&signed_in, &lock).await.unwrap();
    other.unlock(lock).await;
    drop(held);
    let answer = call.await.unwrap();
    let stored = company.stored();
    assert!(
        answer.is_err() || stored == adopted.secret(),
        "adopt() says that it succeeded, and the adopted token is nowhere"
    );
}

/// Two request tokens were refused one after the other; then a person signs in.
#[tokio::test]
async fn after_a_sign_in_the_row_is_active() {
    let Some(company) = Company::of("after_a_sign_in_the_row_is_active").await else { return };
    company.machine().access_token().await.unwrap();
    company.concur.revoke();
    let json: serde_json::Value = serde_json::from_str(&company.concur.credentials_json()).unwrap();
    let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap().to_owned());
    let with = |request_token: &str| {
        let credentials = concur_auth::Credentials::new(id.clone(), secret.clone())
            .company(company.concur.company_uuid(), request_token);
        TokenManager::builder()
            .credentials(credentials)
            .base_uri(company.concur.base_uri())
            .store(company.store())
            .build()
            .unwrap()
    };
    with("wrong-1").refresh().await.unwrap_err();
    let machine = with("wrong-2");
    machine.refresh().await.unwrap_err();
    assert_eq!(company.row("state"), "needs_reauthorization");
    let grant = concur_auth::Grant::company_request_token(
        company.concur.company_uuid(),
        company.concur.issue_request_token(),
    );
    machine.sign_in(grant).await.unwrap();
    assert_eq!(company.row("state, failures"), "active|0", "{}", company.row("reason"));
}

/// A token that Concur has refused does not become good by being adopted.
#[tokio::test]
async fn a_dead_token_that_is_adopted_leaves_the_row_in_need_of_a_person() {
    let name = "a_dead_token_that_is_adopted_leaves_the_row_in_need_of_a_person";
    let Some(company) = Company::of(name).await else { return };
    company.machine().access_token().await.unwrap();
    company.concur.revoke();
    let dead = RefreshTokenObject::from_json(&company.row("token")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&company.concur.credentials_json()).unwrap();
    let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap());
    let machine = TokenManager::builder()
        .credentials(concur_auth::Credentials::new(id, secret))
        .base_uri(company.concur.base_uri())
        .store(company.store())
        .build()
        .unwrap();
    machine.refresh().await.unwrap_err();
    assert_eq!(company.row("state"), "needs_reauthorization");
    machine.adopt(dead).await.unwrap();
    assert_eq!(
        machine.get_valid_refresh_token().await.unwrap_err().kind(),
        ErrorKind::ReauthorizationRequired
    );
    assert_eq!(company.row("state"), "needs_reauthorization");
}

/// `retry_now` forgets the refusal before it asks, and Concur gives no answer that says otherwise.
#[tokio::test]
async fn a_retry_that_is_not_answered_leaves_the_row_in_need_of_a_person() {
    let name = "a_retry_that_is_not_answered_leaves_the_row_in_need_of_a_person";
    let Some(company) = Company::of(name).await else { return };
    company.machine().access_token().await.unwrap();
    company.concur.revoke();
    let json: serde_json::Value = serde_json::from_str(&company.concur.credentials_json()).unwrap();
    let [id, secret] = ["appID", "clientSecret"].map(|name| json[name].as_str().unwrap());
    let machine = TokenManager::builder()
        .credentials(concur_auth::Credentials::new(id, secret))
        .base_uri(company.concur.base_uri())
        .store(company.store())
        .build()
        .unwrap();
    machine.refresh().await.unwrap_err();
    assert_eq!(company.row("state"), "needs_reauthorization");
    company.concur.set_fault(concur_auth::simulator::Fault::status(500));
    machine.retry_now().await.unwrap_err();
    assert_eq!(company.row("state"), "needs_reauthorization");
}

/// After a failover to a server whose clock is behind, a doubt began "later than now".
#[tokio::test]
async fn a_doubt_from_the_future_holds_up_no_caller() {
    let Some(company) = Company::of("a_doubt_from_the_future_holds_up_no_caller").await else { return };
    company.machine().access_token().await.unwrap();
    company
        .database
        .psql("UPDATE concur_auth_tokens SET in_doubt_since = clock_timestamp() + interval '5 minutes'");
    let store = company.store();
    let lock = store.try_lock().await.unwrap().expect("there is no lease");
    store.unlock(lock).await;
}

/// Callers on other machines ask twice a second for as long as a renewal takes.
#[tokio::test]
async fn asking_for_a_lease_that_is_taken_writes_nothing() {
    let Some(company) = Company::of("asking_for_a_lease_that_is_taken_writes_nothing").await else { return };
    let (one, other) = (company.store(), company.store());
    let lock = one.try_lock().await.unwrap().unwrap();
    let touched = || company.row("xmax");
    let before = touched();
    assert!(other.try_lock().await.unwrap().is_none());
    assert_eq!(touched(), before, "the row was locked, so a transaction id and a commit record were written");
    one.unlock(lock).await;
}

/// A token could not be saved, and another machine went on meanwhile: the lock that is left is of no use any more.
#[tokio::test]
async fn after_a_late_save_was_superseded_the_next_call_takes_a_lease_of_its_own() {
    let name = "after_a_late_save_was_superseded_the_next_call_takes_a_lease_of_its_own";
    let Some(company) = Company::of(name).await else { return };
    let machine = company.manager(company.store().lease(Duration::from_millis(800)));
    machine.access_token().await.unwrap();
    let held = company.concur.hold_replies();
    let call = refresh(&machine);
    until(|| company.concur.token_requests() == 2).await;
    company.proxy.refuse(true);
    company.proxy.cut_all();
    held.release();
    call.await.unwrap().unwrap();
    assert!(machine.status().unsaved);
    until(|| company.row("lease_until <= clock_timestamp()") == "t").await;
    let other = company.past_the_proxy();
    let lock = other.try_lock().await.unwrap().unwrap();
    let newer = RefreshTokenObject::from_json(&company.concur.token_json()).unwrap();
    other.finish(&newer, None, &lock).await.unwrap();
    other.unlock(lock).await;
    company.proxy.refuse(false);
    machine.refresh().await.unwrap();
}

#[tokio::test]
async fn tables_that_were_changed_by_hand_are_named() {
    let Some(postgres) = Postgres::shared("tables_that_were_changed_by_hand_are_named") else { return };
    let database = postgres.database();
    let store = migrated(&database).await;
    let lock = store.try_lock().await.unwrap().unwrap();
    store.unlock(lock).await;
    database.psql("ALTER TABLE concur_auth_tokens ALTER COLUMN refusal TYPE integer USING NULL");
    let error = store.load().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(
        text.starts_with("the table of PostgreSQL database ")
            && text.ends_with(" is not as PostgresStore::migrate makes it"),
        "{text}"
    );
    database.psql("ALTER TABLE concur_auth_schema ALTER COLUMN version TYPE bigint");
    let error = store.migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the table concur_auth_schema is not as PostgresStore::migrate makes it; rename or drop it"
    );
}

#[tokio::test]
async fn a_lease_that_cannot_be_given_back_lapses_by_itself() {
    let Some(company) = Company::of("a_lease_that_cannot_be_given_back_lapses_by_itself").await else {
        return;
    };
    let store = company.store();
    let lock = store.try_lock().await.unwrap().unwrap();
    company.proxy.refuse(true);
    company.proxy.cut_all();
    store.unlock(lock).await;
    assert_eq!(company.row("lease_owner IS NOT NULL"), "t");
    company.proxy.refuse(false);
    assert!(store.try_lock().await.unwrap().is_none());
    company.lapse();
    let lock = store.try_lock().await.unwrap().unwrap();
    store.unlock(lock).await;
}
