//! The numbers in SAP Concur's error replies.

use std::fmt;

/// The `code` member of a Concur error reply.
///
/// Every number is kept, also those that SAP has not documented yet.
///
/// ```
/// use concur_auth::ConcurCode;
///
/// let code = ConcurCode::new(108);
/// assert_eq!(code.number(), 108);
/// assert_eq!(code.meaning(), Some("bad or expired refresh token"));
/// assert_eq!(code.to_string(), "108");
/// assert_eq!(ConcurCode::new(999).meaning(), None);
/// ```
///
/// Source: SAP Concur developer centre, "Authentication API, response codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConcurCode(u32);

impl ConcurCode {
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
        Some(match self.0 {
            5 | 19 => "incorrect credentials",
            10 | 11 => "account disabled",
            12 | 13 => "logon denied",
            20 => "logon denied, typically by an IP restriction",
            14 => "account locked",
            16 => "the user lives in another data centre",
            21 => "an SSO-only client attempted a password login",
            51 => "username not supplied",
            52 => "password not supplied",
            53 => "company not enabled for this client",
            54 => "scope exceeds what was granted",
            55 => "unknown email",
            56 => "otp missing",
            57 => "channel_type missing",
            58 => "channel_handle missing",
            59 => "client disabled",
            60 => "grant not allowed for this client",
            61 => "client not found",
            62 => "client_id not supplied",
            63 => "client_secret not supplied",
            64 => "incorrect client credentials",
            65 => "grant_type not supplied",
            80 => "invalid channel type",
            81 => "invalid channel handle",
            82 => "too many open otp requests",
            83 => "otp not found",
            84 => "fact verification failed",
            85 => "otp verification failed",
            100 => "unknown username",
            101 => "code missing",
            102 => "redirect_uri missing",
            103 => "code bad or expired",
            104 => "redirect_uri does not match",
            105 => "grant was not issued to you",
            106 => "refresh_token not supplied",
            107 => "refresh disallowed for this app",
            108 => "bad or expired refresh token",
            109 => "loginid not supplied",
            115 => "unauthenticated client",
            117 => "nonce mandatory",
            118 => "display invalid",
            119 => "prompt invalid",
            120 => "credtype invalid",
            121 => "login_type invalid",
            122 => "proxies invalid",
            123 => "principal disabled",
            124 => "product invalid",
            134 => "company undergoing scheduled maintenance",
            135 => "unsupported request format",
            136 => "authtoken was not issued for you",
            139 => "password must be changed",
            _ => return None,
        })
    }
}

impl fmt::Display for ConcurCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
