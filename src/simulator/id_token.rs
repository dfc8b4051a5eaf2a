//! The `id_token`: a JWT that names the owner of the tokens.
//!
//! Its signature is made up, as there is no key.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    endpoints::Concur,
    made_up::random,
    tokens::{ACCESS_LIFETIME, Connection},
};
use crate::clock;

impl Concur {
    pub(super) fn id_token(&self, connection: &Connection, now: SystemTime) -> String {
        let principal = &connection.principal;
        let issued_at = clock::unix_seconds(now);
        let payload = json!({
            "sub": principal,
            "concur.type": if self.principals.is_company(principal) { "company" } else { "user" },
            "iss": self.principals.geolocation(principal),
            "aud": connection.app_id,
            "exp": issued_at + ACCESS_LIFETIME.as_secs(),
            "nbf": issued_at,
            "iat": issued_at,
        });
        // As long as an RS256 signature with a key of 2048 bits.
        [part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&payload), random(342)].join(".")
    }
}

/// JSON in base64url without padding (RFC 7515 section 2).
fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
