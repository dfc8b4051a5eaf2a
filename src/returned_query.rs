//! What a browser brings back in the query of a URL.
//!
//! Always: any person can write such a URL, so no part of it is trusted before it is checked, and no part is
//! shown.

use url::form_urlencoded;

use crate::{Error, ErrorKind, secret::Secret};

pub(crate) struct ReturnedQuery {
    parameters: Vec<(String, Secret)>,
    /// Where the URL came from, as part of a sentence.
    origin: &'static str,
}

impl ReturnedQuery {
    /// `url` may be the whole URL, or the path and query that a server sees.
    pub(crate) fn of(url: &str, origin: &'static str) -> Self {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let query = query.split_once('#').map_or(query, |(query, _)| query);
        let parameters = form_urlencoded::parse(query.as_bytes());
        Self {
            parameters: parameters.map(|(name, value)| (name.into_owned(), Secret::new(value))).collect(),
            origin,
        }
    }

    /// A parameter's value; a blank value counts as absent. A parameter that is there twice is an error (RFC 6749
    /// section 3.1).
    pub(crate) fn get(&self, name: &str) -> Result<Option<&Secret>, Error> {
        let mut values = self.parameters.iter().filter(|(found, _)| found == name).map(|(_, value)| value);
        let value = values.next();
        if values.next().is_some() {
            return Err(self.invalid(&format!("has the parameter {name} more than once")));
        }
        Ok(value.filter(|value| !value.is_blank()))
    }

    pub(crate) fn required(&self, name: &str) -> Result<&Secret, Error> {
        self.get(name)?.ok_or_else(|| self.invalid(&format!("lacks the parameter {name}")))
    }

    pub(crate) fn invalid(&self, what: &str) -> Error {
        let message = format!("{} {what}; let the user start again", self.origin);
        Error::new(ErrorKind::Protocol, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_whole_or_as_a_server_sees_it() {
        for url in ["https://a.example/b?x=1%202&y=#z", "/b?x=1+2&y=", "?x=1+2"] {
            let query = ReturnedQuery::of(url, "the URL");
            assert_eq!(query.required("x").unwrap().expose(), "1 2", "{url}");
            assert_eq!(query.get("y").unwrap(), None, "{url}");
        }
        assert_eq!(ReturnedQuery::of("x=1", "the URL").get("x").unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_named() {
        let query = ReturnedQuery::of("/?x=1&x=2", "the URL");
        assert_eq!(
            query.get("x").unwrap_err().to_string(),
            "the URL has the parameter x more than once; let the user start again"
        );
        assert_eq!(
            query.required("y").unwrap_err().to_string(),
            "the URL lacks the parameter y; let the user start again"
        );
    }
}
