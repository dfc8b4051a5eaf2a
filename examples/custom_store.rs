//! A token store of one's own: here, one row of a table that the whole program shares.
//!
//! ```text
//! cargo run --example custom_store
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use concur_auth::{Credentials, Error, RefreshTokenObject, StoreLock, TokenManager, TokenStore};

type Table = Arc<Mutex<HashMap<String, String>>>;

#[derive(Debug)]
struct Row(Table, String);

impl TokenStore for Row {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.0
            .lock()
            .unwrap()
            .get(&self.1)
            .map(|json| RefreshTokenObject::from_json(json))
            .transpose()
    }
    async fn save(&self, token: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        self.0.lock().unwrap().insert(self.1.clone(), token.to_json());
        Ok(())
    }
    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        self.0.lock().unwrap().remove(&self.1);
        Ok(())
    }
}
#[tokio::main]
async fn main() {}
