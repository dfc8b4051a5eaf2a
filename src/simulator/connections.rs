//! `DELETE /app-mgmt/v0/connections`: ends the connection of a principal and an app.

use std::time::SystemTime;

use reqwest::StatusCode;

use super::{endpoints::Concur, recorded_request::RecordedRequest, reply::Reply};

impl Concur {
    /// Revokes all refresh tokens of the access token's principal for its app.
    pub(super) fn disconnect(&mut self, request: &RecordedRequest, now: SystemTime) -> Reply {
        let bearer = request.bearer_token();
        if bearer.is_some_and(|access_token| self.tokens.disconnect(access_token, now)) {
            Reply::empty(StatusCode::OK)
        } else {
            Reply::unauthorized()
        }
    }
}
