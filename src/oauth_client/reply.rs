//! A successful reply of the token endpoint.
//!
//! Always: a usable refresh token counts, whatever is wrong with the rest of the reply; other faults are reported
//! separately. No error quotes the reply.

use std::fmt;

use super::{
    failure::Failure,
    response::{Entry, Headers, OkReply},
    unreachable::Cut,
};
use crate::{
    AccessToken, Error, ErrorKind, Geolocation, RefreshTokenObject,
    members::{BadMember, Members},
    refresh_token_object::{Predecessor, Received, received_access},
};

/// Concur's reply to a [`Grant`](crate::Grant).
///
/// Concur has issued its tokens already: save the [`refresh_token_object`](Self::refresh_token_object) before anything
/// else, even if another member of the reply has a fault.
pub struct TokenReply {
    members: Members,
    headers: Headers,
    base: Geolocation,
    entry: Entry,
    /// Why the members may be incomplete.
    fault: Option<Error>,
}

/// A reply with a usable refresh token.
pub(crate) struct Accepted {
    pub(crate) object: RefreshTokenObject,
    /// What else is wrong with the reply, for the caller once the object is saved.
    pub(crate) fault: Option<Error>,
}

impl TokenReply {
    /// Reads a reply. A usable refresh token counts even if the reply is cut short, since the old one may be dead.
    pub(super) fn read(reply: OkReply<'_>) -> Result<Self, Failure> {
        let OkReply { body, cut, request, headers, base, followed, entry } = reply;
        let (mut members, garbled) = Members::parse_reply(body);
        if followed && members.string("geolocation") == Ok(None) {
            // An earlier reply of Concur's said where the principal lives.
            members.set_string("geolocation", base.as_str().trim_end_matches('/'));
        }
        let reply =
            Self { members, headers: headers.clone(), base: base.clone(), entry: entry.clone(), fault: None };
        match cut.or(garbled.map(Cut::Garbled)) {
            None => Ok(reply),
            Some(cut) if reply.refresh_token_object().is_ok() => {
                let host = base.host();
                let fault = Error::new(
                    cut.kind(),
                    format!(
                        "the reply of {host} is complete up to its refresh token, but damaged after it; try again"
                    ),
                )
                .with_correlation_id(headers.correlation_id.clone())
                .caused_by(cut);
                Ok(Self { fault: Some(fault), ..reply })
            }
            Some(cut) => Err(cut.explain(base.host(), request)),
        }
    }

    /// Logs that the reply arrived.
    pub(crate) fn log(&self) {
        self.entry.answered(self.base.host(), self.headers.correlation_id.as_deref());
    }

    /// The refresh token with everything else that the reply holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the reply holds no usable `refresh_token`.
    pub fn refresh_token_object(&self) -> Result<RefreshTokenObject, Error> {
        self.succeed(None, None).map(|accepted| accepted.object)
    }

    /// The access token of the reply, whether or not the reply holds a refresh token.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`] when the reply holds no usable access token, [`ErrorKind::Untrusted`] when its
    /// `geolocation` is not a host of Concur's.
    pub fn access_token(&self) -> Result<AccessToken, Error> {
        // An app's own sign-in gets no refresh token. If there is one, a fault of any member is a fault of the reply.
        if self.members.string("refresh_token").map_err(|bad| self.at_fault(bad))?.is_some() {
            self.succeed(None, None)?.fault.map_or(Ok(()), Err)?;
        }
        let (issued, scopes) = received_access(self.members.clone(), self.headers.received_at)
            .map_err(|bad| self.at_fault(bad))?;
        let issued = issued.ok_or_else(|| self.at_fault(BadMember("access_token", "there")))?;
        let geolocation = match self.members.string("geolocation").map_err(|bad| self.at_fault(bad))? {
            Some(received) => self.base.received(received.expose(), "the geolocation in the reply")?,
            None => self.base.clone(),
        };
        Ok(AccessToken::new(issued, geolocation, scopes))
    }

    /// The object that replaces `predecessor`. It is to be saved before its fault is reported.
    ///
    /// An error says that the reply holds no usable refresh token, so there is nothing to save.
    pub(crate) fn succeed(
        &self,
        predecessor: Option<Predecessor<'_>>,
        company_uuid: Option<&str>,
    ) -> Result<Accepted, Error> {
        let Headers { received_at, server_time, .. } = self.headers;
        let members = self.members.clone();
        let Received { object, fault } =
            RefreshTokenObject::received(members, predecessor, company_uuid, received_at, server_time)
                .map_err(|e| self.protocol(&format!("holds no usable refresh token: {e}")))?;
        let fault = self.fault.clone().or_else(|| fault.map(|bad| self.at_fault(bad)));
        Ok(Accepted { object, fault })
    }

    /// The error for a caller that needs an access token. The reply's refresh token is saved already.
    pub(crate) fn without_access_token(&self) -> Error {
        self.protocol("holds no access token, and the refresh token that came with it is saved")
    }

    fn at_fault(&self, bad: BadMember) -> Error {
        self.protocol(&format!("has a fault: {bad}"))
    }

    fn protocol(&self, what: &str) -> Error {
        let host = self.base.host();
        Error::new(
            ErrorKind::Protocol,
            format!("the reply of {host} {what}; tell SAP Concur's support, with the correlation id"),
        )
        .with_correlation_id(self.headers.correlation_id.clone())
    }
}

impl fmt::Debug for TokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReply")
            .field("members", &self.members)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::Grant;

    const SECRET: &str = "s3cr3t-t0k3n";

    /// Any second that a `SystemTime` can hold.
    fn any_time() -> impl Strategy<Value = SystemTime> {
        prop_oneof![any::<u64>(), 0..4_000_000_000_u64, Just(253_402_300_799)].prop_map(|seconds| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
        })
    }

    fn headers() -> impl Strategy<Value = Headers> {
        (any_time(), proptest::option::of(any_time()))
            .prop_map(|(received_at, server_time)| Headers { server_time, ..Headers::none(received_at) })
    }

    /// JSON texts for any member, some of them valid.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<f64>().prop_map(|number| format!("{number:?}")),
            any::<i128>().prop_map(|number| number.to_string()),
            any::<u64>().prop_map(|number| format!("\"{number}\"")),
            (0..8_000_000_000_u64).prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just(format!("\"{SECRET}\"")),
            Just(format!("{{\"refresh_token\": [\"{SECRET}\"]}}")),
            Just("null".to_owned()),
            Just("\"Bearer\"".to_owned()),
        ]
    }

    fn read(body: &[u8], headers: &Headers) -> Result<TokenReply, Error> {
        let base: Geolocation = Geolocation::GLZ.parse().unwrap();
        let grant = Grant::company_request_token("uuid", SECRET);
        let (request, entry) = (grant.request(), Entry::new(grant.request(), 1));
        let reply =
            OkReply { body, cut: None, request, headers, base: &base, followed: false, entry: &entry };
        TokenReply::read(reply).map_err(|failure| failure.error)
    }

    fn shows_nothing(e: &Error) -> Result<(), TestCaseError> {
        let shown = format!("{e} {e:?} {e:#?}");
        prop_assert!(!shown.contains(SECRET), "{}", shown);
        Ok(())
    }

    /// Uses everything that a reply offers, and saves and loads the token.
    fn use_up(reply: &TokenReply) -> Result<(), TestCaseError> {
        let shown = format!("{reply:?}");
        prop_assert!(!shown.contains(SECRET), "{}", shown);
        match reply.succeed(None, Some("uuid")) {
            Ok(Accepted { object, fault }) => {
                let again = RefreshTokenObject::from_json(&object.to_json()).unwrap();
                prop_assert!(again.is_same_reply(&object));
                prop_assert_eq!(again.expires_at(), object.expires_at());
                prop_assert_eq!(again.access().is_some(), object.access().is_some());
                if let Some(e) = fault {
                    shows_nothing(&e)?;
                }
            }
            Err(e) => shows_nothing(&e)?,
        }
        if let Err(e) = reply.access_token() {
            shows_nothing(&e)?;
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::seed::seeded())]

        #[test]
        fn any_bytes_are_a_reply_or_an_error(body: Vec<u8>, headers in headers()) {
            match read(&body, &headers) {
                Ok(reply) => use_up(&reply)?,
                Err(e) => shows_nothing(&e)?,
            }
        }

        #[test]
        fn any_members_are_a_reply_whose_faults_quote_nothing(
            values in proptest::collection::vec(value(), 8),
            headers in headers(),
        ) {
            let names = [
                "refresh_token", "refresh_expires_in", "access_token", "token_type", "expires_in", "scope", "id_token",
                "companyUUID",
            ];
            let members: Vec<String> =
                names.iter().zip(values).map(|(name, value)| format!("\"{name}\": {value}")).collect();
            use_up(&read(format!("{{{}}}", members.join(",")).as_bytes(), &headers).unwrap())?;
        }

        #[test]
        fn whatever_follows_a_refresh_token_does_not_cost_it(rest: Vec<u8>, headers in headers()) {
            for start in [format!("{{\"refresh_token\": \"{SECRET}\", "), format!("{{\"refresh_token\": \"{SECRET}\"}}")] {
                let reply = read(&[start.as_bytes(), &rest].concat(), &headers).unwrap();
                let object = reply.refresh_token_object().unwrap();
                prop_assert_eq!(object.secret(), SECRET);
                use_up(&reply)?;
            }
        }
    }
}
