//! The names of a fleet's members: UUIDs in lower case.
//!
//! Always: a name that a store gets is safe as the name of a file, whatever a caller has passed. One member has one name.

use std::borrow::Cow;

use crate::{
    Error, ErrorKind, MemberKind, RefreshTokenObject, StoreLock, TokenStore, unguessable::hexadecimal,
};

const LONGEST: usize = 64;
const PENDING: &str = "pending-";

/// The name as stores know it.
pub(super) fn normalized(name: &str) -> Result<Cow<'_, str>, Error> {
    // Nearly all are spelled so already. Without an early end this takes a few instructions for all bytes together.
    let is_usual = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_');
    if (1..=LONGEST).contains(&name.len()) && name.bytes().fold(true, |all, byte| all & is_usual(byte)) {
        return Ok(name.into());
    }
    let name = name.trim();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(is_allowed) {
        return Err(misnamed());
    }
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if is_lower { name.into() } else { name.to_ascii_lowercase().into() })
}

/// For a principal that is not known yet.
pub(super) fn pending() -> Result<String, Error> {
    Ok(format!("{PENDING}{}", hexadecimal::<16>()?))
}

pub(super) fn kind_of(name: &str, otherwise: MemberKind) -> MemberKind {
    if name.starts_with(PENDING) { MemberKind::Pending } else { otherwise }
}

fn misnamed() -> Error {
    let message = "the name of a company or user in a fleet is its UUID, which consists of ASCII letters, digits and hyphens; pass \
                   that UUID";
    Error::new(ErrorKind::Config, message)
}

/// The store of a member whose name cannot be one: every call says so.
#[derive(Debug)]
pub(super) struct Misnamed;

impl TokenStore for Misnamed {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Err(misnamed())
    }

    async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        Err(misnamed())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        Err(misnamed())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        Err(misnamed())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "a member of the fleet without a name".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_and_one_for_each_member() {
        for (given, name) in [
            ("b3f4e2a0-0000-4000-8000-000000000000", Some("b3f4e2a0-0000-4000-8000-000000000000")),
            (" B3F4E2A0-0000-4000-8000-00000000000F\n", Some("b3f4e2a0-0000-4000-8000-00000000000f")),
            ("a_1", Some("a_1")),
            ("", None),
            (" ", None),
            (".", None),
            ("..", None),
            ("../x", None),
            ("a/b", None),
            ("a\\b", None),
            ("a b", None),
            ("\u{e9}", None),
            ("a\0", None),
        ] {
            assert_eq!(normalized(given).ok().as_deref(), name, "{given:?}");
        }
        assert!(normalized(&"a".repeat(64)).is_ok() && normalized(&"a".repeat(65)).is_err());
    }

    #[test]
    fn no_two_pending_names_are_the_same() {
        let (one, other) = (pending().unwrap(), pending().unwrap());
        assert_ne!(one, other);
        assert_eq!(normalized(&one).unwrap(), one);
        assert_eq!(kind_of(&one, MemberKind::User), MemberKind::Pending);
        assert_eq!(kind_of("b3f4e2a0", MemberKind::User), MemberKind::User);
    }
}
