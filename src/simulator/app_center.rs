//! An administrator connects a company with an app in SAP Concur's App Center.

use url::Url;

use super::ConcurSimulator;

/// The App Center.
impl ConcurSimulator {
    /// The URL that SAP sends an administrator's browser to, after the administrator has connected the company with the
    /// app: `landing_page_uri?id=…&requestToken=…&userId=…`.
    ///
    /// `id` is the company's UUID, `userId` the administrator's, and `requestToken` is a new company request
    /// token, as from [`issue_request_token`](Self::issue_request_token).
    ///
    /// ```
    /// use concur_auth::{Grant, OAuthClient, simulator::ConcurSimulator, url::Url};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let concur = ConcurSimulator::start().await;
    /// let visit = Url::parse(&concur.app_center_redirect("https://app.example.com/connect"))?;
    ///
    /// let query: std::collections::HashMap<_, _> = visit.query_pairs().collect();
    /// let grant = Grant::company_request_token(&*query["id"], &*query["requestToken"]);
    /// OAuthClient::new().request_token(&concur.base_uri().parse()?, &concur.credentials(), &grant).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// When `landing_page_uri` is not a URL.
    #[must_use]
    #[track_caller]
    pub fn app_center_redirect(&self, landing_page_uri: &str) -> String {
        let Ok(mut visit) = Url::parse(landing_page_uri) else {
            panic!("the landing page {landing_page_uri:?} is not a URL");
        };
        let request_token = self.issue_request_token();
        let concur = self.server.concur();
        visit
            .query_pairs_mut()
            .append_pair("id", concur.principals.company_uuid())
            .append_pair("requestToken", &request_token)
            .append_pair("userId", &concur.administrator_uuid);
        visit.into()
    }
}
