//! The form in the body of a request.

use std::collections::HashMap;

use url::form_urlencoded;

use super::{
    recorded_request::RecordedRequest,
    reply::{Code, ErrorBody},
};

pub(super) struct Form(HashMap<String, String>);

impl Form {
    /// Code 135 where it is not in the form that Concur takes.
    pub(super) fn of(request: &RecordedRequest) -> Result<Self, ErrorBody> {
        // The exact type: Concur rejects one with a charset parameter.
        let is_form = request
            .header("content-type")
            .is_some_and(|it| it.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
        if !is_form || request.query().is_some_and(|query| !query.is_empty()) {
            return Err(135.into());
        }
        Ok(Self::parse(request.body()))
    }

    pub(super) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// An empty field is one that is not there.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str, missing: Code) -> Result<&str, ErrorBody> {
        self.field(name).ok_or_else(|| missing.into())
    }
    /// The fields with other names than these.
    pub(super) fn all_but(&self, names: &[&str]) -> HashMap<String, String> {
        let mut others = self.0.clone();
        others.retain(|name, value| !names.contains(&name.as_str()) && !value.is_empty());
        others
    }
}
