//! The numbers in SAP Concur's error replies.

use std::fmt;

use serde::Serialize;

/// The `code` member of a Concur error reply.
///
/// Every number is kept, including numbers that SAP has not documented yet.
///
/// ```
/// use concur_auth::{ConcurCode, Responsible};
///
/// let code = ConcurCode::new(108);
/// assert_eq!(code.to_string(), "108");
/// assert_eq!(code.meaning(), Some("bad or expired refresh token"));
/// assert_eq!(code.responsible(), Some(Responsible::SigningIn));
/// assert!(!code.is_transient());
/// assert_eq!(ConcurCode::new(999).meaning(), None);
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, response codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ConcurCode(u32);

/// Who has to act on a [`ConcurCode`], or on what a [`Status`](crate::Status) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Responsible {
    /// Nobody: the problem passes.
    Nobody,
    /// The person who signs in: the company's administrator with a new company request token, or the user again.
    SigningIn,
    /// The company's Concur administrator, who can enable accounts.
    Administrator,
    /// The owner of the app, who registered it with SAP.
    AppOwner,
    /// The program's developers: it sent an impossible request.
    Developer,
    /// Who runs the program: its credentials, its disk or its database. No code of Concur's is theirs.
    Operator,
}

impl ConcurCode {
    pub(crate) const ELSEWHERE: Self = Self(16);
    pub(crate) const BAD_REFRESH_TOKEN: Self = Self(108);
    pub(crate) const MAINTENANCE: Self = Self(134);

    /// The code with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number as SAP's documentation lists it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// What SAP's documentation says the code means; `None` for a code that is not in its table.
    #[must_use]
    pub const fn meaning(self) -> Option<&'static str> {
        match self.entry() {
            Some((meaning, _, _)) => Some(meaning),
            None => None,
        }
    }

    /// Who has to act; `None` for a code that is not in SAP's table.
    #[must_use]
    pub const fn responsible(self) -> Option<Responsible> {
        match self.entry() {
            Some((_, who, _)) => Some(who),
            None => None,
        }
    }

    /// What to do about it; `None` for a code that is not in SAP's table.
    #[must_use]
    pub const fn advice(self) -> Option<&'static str> {
        match self.entry() {
            Some((_, _, advice)) => Some(advice),
            None => None,
        }
    }

    /// Whether the same request may work later without any change.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        self.0 == Self::MAINTENANCE.0
    }

    /// SAP's table: meaning, who has to act, and what to do.
    const fn entry(self) -> Option<(&'static str, Responsible, &'static str)> {
        use Responsible::{Administrator, AppOwner, Developer, Nobody, SigningIn};
        const REPORT: &str = "report it to the program's developers, with the correlation id";
        const NEW_CODE: &str = "let the user sign in once more, which gives a new code";
        const NEW_OTP: &str = "request a new one-time password and use it as it was requested";
        const ENABLE: &str = "ask the company's Concur administrator to enable it";
        const APP: &str = "check the app's id, secret, grants and scopes on its page";
        Some(match self.0 {
            5 | 19 => ("incorrect credentials", SigningIn, "check the credentials and sign in again"),
            10 | 11 => ("account disabled", Administrator, ENABLE),
            12 | 13 => ("logon denied", Administrator, "ask the company's Concur administrator to allow it"),
            14 => ("account locked", Administrator, "ask the company's Concur administrator to unlock it"),
            16 => {
                ("the user lives in another data centre", Developer, "use the base URI of that data centre")
            }
            20 => (
                "logon denied, typically by an IP restriction",
                Administrator,
                "ask the company's Concur administrator to allow this machine's address",
            ),
            21 => (
                "an SSO-only client attempted a password login",
                Developer,
                "sign in with an authorization code instead",
            ),
            51 => ("username not supplied", Developer, REPORT),
            52 => ("password not supplied", Developer, REPORT),
            53 => (
                "company not enabled for this client",
                Administrator,
                "ask the company's Concur administrator to enable the app",
            ),
            54 => ("scope exceeds what was granted", Developer, "ask for fewer scopes, or sign in again"),
            55 => ("unknown email", SigningIn, "check the e-mail address"),
            56 => ("otp missing", Developer, REPORT),
            57 => ("channel_type missing", Developer, REPORT),
            58 => ("channel_handle missing", Developer, REPORT),
            59 => ("client disabled", AppOwner, "ask SAP Concur to enable the app"),
            60 => ("grant not allowed for this client", AppOwner, APP),
            61 => ("client not found", AppOwner, APP),
            62 => ("client_id not supplied", Developer, REPORT),
            63 => ("client_secret not supplied", Developer, REPORT),
            64 => ("incorrect client credentials", AppOwner, APP),
            65 => ("grant_type not supplied", Developer, REPORT),
            80 => ("invalid channel type", Developer, REPORT),
            81 => ("invalid channel handle", SigningIn, "check the e-mail address"),
            82 => ("too many open otp requests", SigningIn, "use the one-time password that was sent before"),
            83 => ("otp not found", SigningIn, NEW_OTP),
            84 => ("fact verification failed", SigningIn, NEW_OTP),
            85 => ("otp verification failed", SigningIn, NEW_OTP),
            100 => ("unknown username", SigningIn, "check the user name"),
            101 => ("code missing", Developer, REPORT),
            102 => ("redirect_uri missing", Developer, REPORT),
            103 => ("code bad or expired", SigningIn, NEW_CODE),
            104 => ("redirect_uri does not match", Developer, REPORT),
            105 => {
                ("grant was not issued to you", SigningIn, "sign in again with the app that the token is for")
            }
            106 => ("refresh_token not supplied", Developer, REPORT),
            107 => ("refresh disallowed for this app", AppOwner, APP),
            108 => ("bad or expired refresh token", SigningIn, "sign in again"),
            109 => ("loginid not supplied", Developer, REPORT),
            115 => ("unauthenticated client", AppOwner, APP),
            117 => ("nonce mandatory", Developer, REPORT),
            118 => ("display invalid", Developer, REPORT),
            119 => ("prompt invalid", Developer, REPORT),
            120 => ("credtype invalid", Developer, REPORT),
            121 => ("login_type invalid", Developer, REPORT),
            122 => ("proxies invalid", Developer, REPORT),
            123 => ("principal disabled", Administrator, ENABLE),
            124 => ("product invalid", Developer, REPORT),
            134 => ("company undergoing scheduled maintenance", Nobody, "try again later"),
            135 => ("unsupported request format", Developer, REPORT),
            136 => (
                "authtoken was not issued for you",
                SigningIn,
                "sign in again with a company request token for this app",
            ),
            139 => ("password must be changed", SigningIn, "change the password in Concur"),
            _ => return None,
        })
    }
}

impl fmt::Display for ConcurCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of SAP's table.
    const TABLE: [u32; 54] = [
        5, 10, 11, 12, 13, 14, 16, 19, 20, 21, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65,
        80, 81, 82, 83, 84, 85, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 115, 117, 118, 119, 120,
        121, 122, 123, 124, 134, 135, 136, 139,
    ];

    #[test]
    fn only_codes_of_saps_table_have_a_meaning_a_role_and_advice() {
        for number in 0..200 {
            let code = ConcurCode::new(number);
            let documented = TABLE.contains(&number);
            assert_eq!(code.meaning().is_some(), documented, "{number}");
            assert_eq!(code.responsible().is_some(), documented, "{number}");
            assert_eq!(code.advice().is_some(), documented, "{number}");
        }
    }

    #[test]
    fn only_maintenance_passes_by_itself() {
        for number in TABLE {
            let code = ConcurCode::new(number);
            assert_eq!(code.is_transient(), number == 134, "{number}");
            assert_eq!(code.responsible() == Some(Responsible::Nobody), number == 134, "{number}");
        }
    }
}
