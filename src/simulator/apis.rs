//! API endpoints: those that a test mounts, and one that is always there.

use std::{collections::HashMap, time::SystemTime};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    ConcurSimulator,
    endpoints::Concur,
    fault::{Fault, Faults},
    recorded_request::RecordedRequest,
    reply::Reply,
};

#[derive(Default)]
pub(super) struct Apis {
    /// By method and path.
    mounted: HashMap<(String, String), Value>,
    pub(super) faults: Faults,
}

impl Apis {
    fn find(&self, method: &str, path: &str) -> Option<Value> {
        let path = path.trim_end_matches('/');
        let mounted = self.mounted.get(&(method.to_owned(), path.to_owned())).cloned();
        mounted.or_else(|| match (method, path) {
            ("GET", "/profile/identity/v4/Users") => {
                let user =
                    json!({ "id": "5b8a4c3e-0000-4000-8000-000000000000", "userName": "ada@example.com" });
                Some(json!({ "totalResults": 1, "Resources": [user] }))
            }
            _ => None,
        })
    }
}

impl Concur {
    pub(super) fn api(&mut self, request: &RecordedRequest, now: SystemTime) -> Option<Reply> {
        let Some(body) = self.apis.find(request.method(), request.path()) else {
            return Some(Reply::empty(StatusCode::NOT_FOUND));
        };
        let fault = self.apis.faults.next(request);
        self.unless_faulty(fault, |concur| {
            let is_live = |token| concur.tokens.admits(token, now);
            match request.bearer_token().is_some_and(is_live) {
                true => Reply::json(StatusCode::OK, &body),
                false => Reply::unauthorized(),
            }
        })
    }
}

/// API endpoints.
impl ConcurSimulator {
    /// From now on, requests with this method and path get this JSON text if their bearer token is live, and 401 otherwise.
    ///
    /// They are [recorded](Self::requests), as all requests are. The path is compared without its query and without a slash at its
    /// end.
    ///
    /// ```
    /// use concur_auth::{MemoryStore, TokenManager, reqwest::Client, simulator::ConcurSimulator};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let concur = ConcurSimulator::start().await;
    /// concur.mount("GET", "/expense/v4/reports", r#"{"items": []}"#);
    ///
    /// let tokens =
    ///     TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    /// let (http, url) = (Client::new(), format!("{}/expense/v4/reports?limit=5", concur.base_uri()));
    /// let reply = tokens.send(|_| http.get(&url)).await?;
    /// assert_eq!(reply.text().await?, r#"{"items":[]}"#);
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// When `body` is not JSON.
    #[track_caller]
    pub fn mount(&self, method: &str, path: &str, body: &str) {
        let body = match serde_json::from_str(body) {
            Ok(body) => body,
            Err(e) => panic!("the body for {method} {path} is not JSON: {e}"),
        };
        let endpoint = (method.to_ascii_uppercase(), path.trim_end_matches('/').to_owned());
        self.server.concur().apis.mounted.insert(endpoint, body);
    }

    /// The next `n` calls of API endpoints have this fault, after the faults that were queued before it.
    ///
    /// ```
    /// # use concur_auth::simulator::{ConcurSimulator, Fault};
    /// # async fn example(concur: ConcurSimulator) {
    /// concur.fault_api(1, Fault::status(401)); // a token that the API does not like, although it is live
    /// concur.fault_api(2, Fault::status(429).retry_after("7"));
    /// # }
    /// ```
    pub fn fault_api(&self, n: usize, fault: Fault) {
        self.server.concur().apis.faults.line_up(n, |_| true, fault);
    }

    /// Whether an API call with this access token would work now.
    #[must_use]
    pub fn is_live_access(&self, access_token: &str) -> bool {
        let concur = self.server.concur();
        concur.tokens.admits(access_token, concur.clock.now())
    }
}
