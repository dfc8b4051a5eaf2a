//! `PostgresStore` on a real server: the contract, the schema, and what happens between two of its statements.

#![cfg(all(feature = "postgres", feature = "simulator", unix))]

#[path = "support/postgres/mod.rs"]
mod postgres;
mod support;

use std::time::Duration;

use concur_auth::{
    PostgresStore,
    simulator::{SharedLock, StoreCondition, shared_store_contract, store_contract},
};

use self::postgres::{Database, Postgres};

const PRINCIPAL: &str = "0b8e2f6c-4d7a-4c1e-9f3a-6a2d5c7b8e90";

async fn migrated(database: &Database<'_>) -> PostgresStore {
    let store = PostgresStore::new(&database.url(), PRINCIPAL).unwrap();
    store.migrate().await.unwrap();
    store
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let Some(postgres) = Postgres::shared("it_keeps_the_contract") else { return };
    let database = postgres.database();
    let store = migrated(&database).await.lease(Duration::from_secs(2));
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
        let lock = concur_auth::TokenStore::try_lock(&another(&store)).await?;
        std::mem::forget(lock.unwrap());
        Ok(())
    };
    let lock = SharedLock::new().holder_dies(dies).free_after(Duration::from_secs(3)).lapses(lapse);
    shared_store_contract(|| another(&store), lock).await.unwrap();
}

/// As another process would open it, but for the connections.
fn another(store: &PostgresStore) -> PostgresStore {
    store.of_principal(PRINCIPAL)
}
