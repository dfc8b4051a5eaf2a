//! A token store of your own: here, one row of a table that the whole program shares.
//!
//! ```text
//! cargo run --example custom_store --features simulator
//! ```

use std::{
    collections::HashMap,
    error::Error as StdError,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use concur_auth::{
    Error, Grant, RefreshTokenObject, StoreLock, TokenManager, TokenStore,
    simulator::{ConcurSimulator, StoreCondition, store_contract},
};

/// Stands for a database that one process uses: JSON by principal.
type Table = Arc<Mutex<HashMap<String, String>>>;

#[derive(Clone, Debug)]
struct Row {
    table: Table,
    key: String,
}

impl TokenStore for Row {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&self.key).map(|json| RefreshTokenObject::from_json(json)).transpose()
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(self.key.clone(), token.to_json());
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut out = io::stdout();
    let row = Row { table: Table::default(), key: "the company".to_owned() };

    let concur = ConcurSimulator::start().await;
    let manager = || TokenManager::builder().credentials(concur.credentials()).store(row.clone()).build();
    let obtained = manager()?.get_valid_refresh_token().await?;
    let stored = manager()?.get_valid_refresh_token().await?;
    writeln!(out, "obtained once, then found in the table: {}", obtained.secret() == stored.secret())?;

    // A token from another system's database can be imported, and a person can sign in again at any time.
    let elsewhere = RefreshTokenObject::from_json(&concur.token_json())?;
    manager()?.adopt(elsewhere.clone()).await?;
    let adopted = manager()?.get_valid_refresh_token().await?;
    writeln!(out, "adopted from elsewhere: {}", adopted.secret() == elsewhere.secret())?;
    let grant = Grant::company_request_token(concur.company_uuid(), concur.issue_request_token());
    let again = manager()?.sign_in(grant).await?;
    writeln!(out, "signed in again: {}", again.secret() != adopted.secret())?;

    // Every store should pass this in its own tests.
    let fresh = Row { table: Table::default(), key: "the contract's".to_owned() };
    store_contract(|condition| (condition == StoreCondition::Working).then(|| fresh.clone())).await?;
    writeln!(out, "the store keeps the contract")?;
    Ok(())
}
