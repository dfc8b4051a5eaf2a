//! The floor of the renewals: a loop that claims rows in batches, sends each token, and saves the reply, with the same clients,
//! as many connections and as many requests at once. It proves nothing, checks nothing, and guarantees nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use concur_auth::reqwest;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, types::Type};

use super::database::{Stage, client};

pub const APP: &str = "bare";
const AT_ONCE: usize = 64;
/// As many as the crate opens.
const CONNECTIONS: usize = 10;

pub const CLAIM: &str = "
    UPDATE concur_auth_tokens SET lease_owner = 'bare', lease_until = now() + interval '90 seconds'
     WHERE app_id = $1
       AND principal = ANY (ARRAY(
           SELECT principal FROM concur_auth_tokens
            WHERE app_id = $1 AND renew_at <= now() AND (lease_until IS NULL OR lease_until <= now())
            ORDER BY renew_at LIMIT $2 FOR UPDATE SKIP LOCKED))
 RETURNING principal, token";
pub const SAVE: &str = "
    UPDATE concur_auth_tokens
       SET token = $3, version = version + 1, lease_owner = NULL, lease_until = NULL, updated_at = now(),
           refresh_expires_at = to_timestamp($4), renew_at = now() + interval '60 days'
     WHERE app_id = $1 AND principal = $2";

pub struct Loop {
    databases: Vec<Client>,
    http: reqwest::Client,
    uri: String,
}

impl Loop {
    pub fn new(stage: &Stage<'_>, uri: &str) -> Arc<Self> {
        let url = stage.database.url();
        let databases = (0..CONNECTIONS).map(|_| client(&stage.runtime, &url)).collect();
        Arc::new(Self { databases, http: reqwest::Client::new(), uri: uri.to_owned() })
    }

    /// Renews all that are due, and returns how long that took.
    pub async fn renew_all(self: &Arc<Self>) -> Duration {
        let start = Instant::now();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        for batch in 0.. {
            let mut free = Arc::clone(&slots).acquire_many_owned(AT_ONCE as u32 / 2).await.expect("open");
            if let Ok(more) = Arc::clone(&slots).try_acquire_many_owned(slots.available_permits() as u32) {
                free.merge(more);
            }
            let claimed = self.claim(batch, free.num_permits()).await;
            if claimed.is_empty() {
                break;
            }
            for (number, (principal, token)) in claimed.into_iter().enumerate() {
                let (this, slot) = (Arc::clone(self), free.split(1).expect("no more than asked for"));
                tokio::spawn(async move {
                    this.renew(batch + number, &principal, &token).await;
                    drop(slot);
                });
            }
        }
        drop(slots.acquire_many(AT_ONCE as u32).await);
        start.elapsed()
    }

    pub async fn claim(&self, turn: usize, most: usize) -> Vec<(String, String)> {
        let most = most as i64;
        let rows = self.database(turn).query_typed(CLAIM, &[(&APP, Type::TEXT), (&most, Type::INT8)]).await;
        rows.expect("a database").iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn renew(&self, turn: usize, principal: &str, stored: &str) {
        let stored: serde_json::Value = serde_json::from_str(stored).expect("a token");
        let token = stored["refresh_token"].as_str().expect("a token");
        let form =
            format!("client_id=app&client_secret=secret&grant_type=refresh_token&refresh_token={token}");
        let request = self.http.post(format!("{}/oauth2/v0/token", self.uri));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        let reply = request.send().await.expect("an endpoint").text().await.expect("a reply");
        let received: serde_json::Value = serde_json::from_str(&reply).expect("a token");
        let expires = received["refresh_expires_in"].as_f64().expect("a date");
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
            [(&APP, Type::TEXT), (&principal, Type::TEXT), (&reply, Type::TEXT), (&expires, Type::FLOAT8)];
        self.database(turn).query_typed(SAVE, &parameters).await.expect("a database");
    }

    fn database(&self, turn: usize) -> &Client {
        &self.databases[turn % CONNECTIONS]
    }
}
