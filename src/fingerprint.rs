//! A salted hash of 32 bits, which tells whether a text is still the same.
//!
//! Always: too few bits to confirm a guess at a secret of over 120 bits, or to find the secret.

use std::hash::{DefaultHasher, Hasher};

/// The standard library may change this hash with any new compiler. A program that was built again may then take what it
/// noted before for something else: a refused request, or a dead refresh token, is sent once more. That costs one request.
pub(crate) fn fingerprint<'a>(salt: u64, parts: impl IntoIterator<Item = Option<&'a str>>) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    for part in parts {
        let part = part.unwrap_or_default();
        // Of the same width on every machine: a store may be shared by machines of 32 and of 64 bits.
        hasher.write_u64(part.len() as u64);
        hasher.write(part.as_bytes());
    }
    #[allow(clippy::cast_possible_truncation, reason = "only 32 bits may be known")]
    let known = hasher.finish() as u32;
    known
}
