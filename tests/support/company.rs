//! One company at a Concur of its own, with its tokens in a row of PostgreSQL.

#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]

use concur_auth::{
    Error, Grant, PostgresStore, RefreshTokenObject, TokenManager,
    simulator::{ConcurSimulator, Rotation},
};
use tokio::task::JoinHandle;

use crate::postgres::{Database, Postgres};

pub const PRINCIPAL: &str = "0b8e2f6c-4d7a-4c1e-9f3a-6a2d5c7b8e90";

/// Parts of the texts of the statements, by which a proxy knows them.
pub const READ: &str = "SELECT token, refusal, save_id";
pub const CLAIM: &str = "AS in_doubt";
pub const MAKE: &str = "DO NOTHING";
pub const PROLONG: &str = "SET lease_until";
pub const SAVE: &str = "sign_in = $9,";
pub const REPLACE: &str = "sign_in = $10";
pub const REMEMBER: &str = "SET refusal";
pub const REMOVE: &str = "SET token = NULL";
pub const RELEASE: &str = "SET lease_owner = NULL, lease_until = NULL\n     WHERE app_id";

pub struct Account<'a> {
    /// It rotates, and revokes the family of a token that is presented twice.
    pub concur: ConcurSimulator,
    pub database: Database<'a>,
}

impl<'a> Account<'a> {
    /// With an empty table.
    pub async fn of(postgres: &'a Postgres) -> Self {
        let database = postgres.database();
        PostgresStore::new(&database.url(), PRINCIPAL).unwrap().migrate().await.unwrap();
        Self { concur: concur().await, database }
    }

    /// The same database, from the start.
    pub async fn again(self) -> Self {
        self.database.psql("DELETE FROM concur_auth_tokens");
        Self { concur: concur().await, ..self }
    }

    pub fn manager(&self, store: PostgresStore) -> TokenManager {
        TokenManager::builder().credentials(self.concur.credentials()).store(store).build().unwrap()
    }

    /// One value of the row.
    pub fn row(&self, expression: &str) -> String {
        self.database.psql(&format!("SELECT {expression} FROM concur_auth_tokens"))
    }

    pub fn lapse(&self) {
        self.database.psql(
            "UPDATE concur_auth_tokens SET lease_until = clock_timestamp() WHERE lease_owner IS NOT NULL",
        );
    }

    pub fn stored(&self) -> String {
        RefreshTokenObject::from_json(&self.row("token")).unwrap().secret().to_owned()
    }

    /// What a person signs in with.
    pub fn new_request_token(&self) -> Grant {
        Grant::company_request_token(self.concur.company_uuid(), self.concur.issue_request_token())
    }
}

async fn concur() -> ConcurSimulator {
    ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await
}

/// A renewal in the background.
pub fn refresh(tokens: &TokenManager) -> JoinHandle<Result<RefreshTokenObject, Error>> {
    let tokens = tokens.clone();
    tokio::spawn(async move { tokens.refresh().await })
}

/// A sign-in in the background.
pub fn sign_in(tokens: &TokenManager, grant: Grant) -> JoinHandle<Result<RefreshTokenObject, Error>> {
    let tokens = tokens.clone();
    tokio::spawn(async move { tokens.sign_in(grant).await })
}
