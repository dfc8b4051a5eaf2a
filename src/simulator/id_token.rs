//! The `id_token`: a JWT that names the owner of the tokens.
//!
//! Its signature is made up, as there is no key.

use std::time::SystemTime;

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
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = json.to_string().into_bytes();
    let digits = digits.chunks(3).flat_map(|bytes| {
        let bits =
            bytes.iter().zip([16, 8, 0]).fold(0, |bits, (byte, shift)| bits | usize::from(*byte) << shift);
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]));
        digits.into_iter().take(bytes.len() + 1)
    });
    digits.collect()
}
