//! What the simulator was asked.

use std::fmt;

use url::form_urlencoded;

/// One request that a [`ConcurSimulator`](super::ConcurSimulator) received.
#[derive(Clone)]
pub struct RecordedRequest {
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    body: String,
    grant_type: Option<String>,
}

impl RecordedRequest {
    pub(super) fn of(request: &wiremock::Request) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            method: request.method.to_string(),
            path: request.url.path().to_owned(),
            query: request.url.query().map(str::to_owned),
            headers: request
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), text(v.as_bytes())))
                .collect(),
            grant_type: form_urlencoded::parse(&request.body)
                .find(|(name, _)| name == "grant_type")
                .map(|(_, value)| value.into_owned()),
            body: text(&request.body),
        }
    }

    /// The HTTP method, in upper case.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path of the URL.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query of the URL, if it has one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as sent. A token request's holds secrets.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The `grant_type` of a token request.
    #[must_use]
    pub fn grant_type(&self) -> Option<&str> {
        self.grant_type.as_deref()
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        let mut fields = form_urlencoded::parse(self.body.as_bytes());
        fields
            .find(|(field, value)| field == name && !value.is_empty())
            .map(|(_, value)| value.into_owned())
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("grant_type", &self.grant_type)
            .finish_non_exhaustive()
    }
}
