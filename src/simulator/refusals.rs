//! Apps, grant types and principals that Concur refuses until a test ends that.

use super::{
    ConcurSimulator,
    data_centres::Reach,
    endpoints::Concur,
    recorded_request::RecordedRequest,
    reply::{Code, ErrorBody},
};

impl Concur {
    /// The id of an app, the UUID of a principal or a grant type: these never have the same text.
    pub(super) fn not_refused(&self, name: &str) -> Result<(), ErrorBody> {
        self.refusals.get(name).map_or(Ok(()), |code| Err((*code).into()))
    }

    /// Whether a principal may sign in here.
    pub(super) fn admit(
        &self,
        principal: &str,
        reach: Reach,
        request: &RecordedRequest,
    ) -> Result<(), ErrorBody> {
        self.locate(principal, reach, request)?;
        self.not_refused(principal)
    }
}

/// Lasting refusals. Unlike a [`Fault`](super::Fault), a refusal concerns only the app, grant type or principal that it
/// names, and only once Concur has recognised it.
impl ConcurSimulator {
    /// Refuses everything that the app with this id asks for: for example with code 59 (client disabled) or 53
    /// (company not enabled for this client).
    ///
    /// ```
    /// # use concur_auth::simulator::ConcurSimulator;
    /// # async fn example(concur: ConcurSimulator) {
    /// concur.refuse_app(concur.app().id(), 59);
    /// concur.refuse_grant_type("refresh_token", 107);
    /// concur.refuse_principal(&concur.company_uuid(), 14);
    /// concur.end_refusals();
    /// # }
    /// ```
    pub fn refuse_app(&self, id: &str, code: u32) {
        self.refuse(id, code);
    }

    /// Refuses this `grant_type` to every app: for example with code 60 (grant not allowed for this client), or 107
    /// (refresh disallowed for this app) for `refresh_token`.
    pub fn refuse_grant_type(&self, grant_type: &str, code: u32) {
        self.refuse(grant_type, code);
    }

    /// Refuses the company or user with this UUID: for example with code 10 (account disabled), 14 (account locked)
    /// or 134 (company undergoing scheduled maintenance).
    pub fn refuse_principal(&self, uuid: &str, code: u32) {
        self.refuse(uuid, code);
    }

    /// Ends all refusals, and unlocks every account.
    pub fn end_refusals(&self) {
        let mut concur = self.server.concur();
        concur.refusals.clear();
        concur.limits.forgive();
    }

    fn refuse(&self, name: &str, code: Code) {
        self.server.concur().refusals.insert(name.to_owned(), code);
    }
}
