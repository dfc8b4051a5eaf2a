//! The claims of an `id_token`, read without checking its signature.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{clock, members::Members, shown};

/// The kinds of principals that SAP names.
const PRINCIPALS: [&str; 2] = ["company", "user"];

/// The claims of an `id_token`, **not verified**: its signature has not been checked.
///
/// They can tell who owns the tokens, since both came from Concur over TLS (OpenID Connect Core section 3.1.3.7 allows
/// that in place of the signature). They prove no identity when the `id_token` came from elsewhere: then verify it
/// against Concur's keys (`GET /oauth2/v0/jwks`), with a library for that.
///
/// ```
/// use concur_auth::RefreshTokenObject;
///
/// // {"sub":"5b8a4c3e","concur.type":"user"}
/// let id_token = "e30.eyJzdWIiOiI1YjhhNGMzZSIsImNvbmN1ci50eXBlIjoidXNlciJ9.signature";
/// let json = format!(r#"{{"refresh_token": "r", "id_token": "{id_token}"}}"#);
/// let stored = RefreshTokenObject::from_json(&json)?;
///
/// let claims = stored.unverified_claims().unwrap();
/// assert_eq!((claims.subject(), claims.principal_type()), (Some("5b8a4c3e"), Some("user")));
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, id_token"; RFC 7519 section 4.1.
#[derive(Clone)]
pub struct UnverifiedClaims {
    subject: Option<String>,
    principal_type: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
    issued_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
}

impl UnverifiedClaims {
    /// `None` for what is not a JWT (RFC 7519 section 3), or is encrypted. Claims may be missing or odd.
    pub(crate) fn read(jwt: &str) -> Option<Self> {
        let mut parts = jwt.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
        let claims = Members::parse(&payload).ok()?;
        let text = |name| claims.string(name).ok().flatten().map(|text| text.expose().trim().to_owned());
        let time = |name| {
            let seconds = claims.seconds(name).ok().flatten()?;
            clock::from_unix_seconds(seconds).map(clock::public_time)
        };
        Some(Self {
            subject: text("sub"),
            principal_type: text("concur.type"),
            issuer: text("iss"),
            audience: text("aud"),
            issued_at: time("iat"),
            expires_at: time("exp"),
        })
    }

    /// The UUID of the user or company (`sub`).
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The kind of principal (`concur.type`), such as `user`.
    #[must_use]
    pub fn principal_type(&self) -> Option<&str> {
        self.principal_type.as_deref()
    }

    /// The base URI that issued the `id_token` (`iss`).
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The app that the `id_token` was issued to (`aud`).
    #[must_use]
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// When the `id_token` was issued, by the server's clock (`iat`).
    #[must_use]
    pub fn issued_at(&self) -> Option<OffsetDateTime> {
        self.issued_at
    }

    /// When the `id_token` expires, by the server's clock (`exp`). The tokens of the same reply may live longer.
    #[must_use]
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        self.expires_at
    }
}

impl fmt::Debug for UnverifiedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedClaims")
            .field("subject", &shown::uuid(self.subject()))
            .field("principal_type", &self.principal_type().filter(|kind| PRINCIPALS.contains(kind)))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.x", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_are_read_and_odd_values_left_out() {
        let claims = UnverifiedClaims::read(&jwt(
            r#"{"sub":" u ","concur.type":"user","iss":"https://us","aud":"app","iat":1,"exp":"2","nbf":0}"#,
        ))
        .unwrap();
        assert_eq!((claims.subject(), claims.principal_type()), (Some("u"), Some("user")));
        assert_eq!((claims.issuer(), claims.audience()), (Some("https://us"), Some("app")));
        let seconds = |at: Option<OffsetDateTime>| at.unwrap().unix_timestamp();
        assert_eq!((seconds(claims.issued_at()), seconds(claims.expires_at())), (1, 2));

        let odd = UnverifiedClaims::read(&jwt(r#"{"sub":7,"aud":["a"],"iat":-1}"#)).unwrap();
        assert_eq!((odd.subject(), odd.audience(), odd.issued_at()), (None, None, None));
    }

    #[test]
    fn only_uuids_and_known_words_are_shown() {
        for (subject, kind, shown) in [
            ("s3cr3t", "s3cr3t", "UnverifiedClaims { subject: None, principal_type: None, .. }"),
            (
                "b9eff11c-8129-5656-6196-2688ce930647",
                "company",
                r#"UnverifiedClaims { subject: Some("b9eff11c-8129-5656-6196-2688ce930647"), principal_type: Some("company"), .. }"#,
            ),
        ] {
            let claims =
                UnverifiedClaims::read(&jwt(&format!(r#"{{"sub":"{subject}","concur.type":"{kind}"}}"#)));
            assert_eq!(format!("{:?}", claims.unwrap()), shown);
        }
    }

    #[test]
    fn a_text_that_is_not_a_jwt_has_no_claims() {
        for text in ["", "a.b", "a.b.c.d", "e30.!!.x", "e30.e30.x.y.z", "e30.W10.x"] {
            assert!(UnverifiedClaims::read(text).is_none(), "{text}");
        }
        assert!(UnverifiedClaims::read("e30.e30.").unwrap().subject().is_none());
    }

    proptest! {
        #![proptest_config(crate::seed::seeded())]

        #[test]
        fn any_text_is_claims_or_none(text: String, payload: Vec<u8>) {
            let _ = UnverifiedClaims::read(&text);
            let _ = UnverifiedClaims::read(&format!("e30.{}.x", URL_SAFE_NO_PAD.encode(payload)));
        }
    }
}
