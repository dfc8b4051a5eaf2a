//! Secrets and ids in the forms that SAP's have, with random characters.
//!
//! Always: each value is new, and none means anything.

use std::iter;

/// Lower-case alphanumerics, as in the tokens that SAP shows.
pub(super) fn random(length: usize) -> String {
    iter::repeat_with(|| fastrand::digit(36)).take(length).collect()
}

/// In the form of a UUID.
pub(super) fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Text in the form of a JWT without content: three parts in base64url, the first two of which begin like JSON.
pub(super) fn jwt() -> String {
    let part = |length| iter::repeat_with(fastrand::alphanumeric).take(length).collect::<String>();
    format!("eyJ{}.eyJ{}.{}", part(33), part(117), part(86))
}
