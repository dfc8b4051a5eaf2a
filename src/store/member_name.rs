//! The names of a fleet's members: UUIDs in lower case.
//!
//! Always: a name that a store gets is safe as the name of a file, whatever a caller has passed. One member has one name.

use std::borrow::Cow;

use crate::{
    Error, ErrorKind, MemberKind, RefreshTokenObject, StoreLock, TokenStore, principal::Principal,
    unguessable::hexadecimal,
};

const LONGEST: usize = 64;
/// What a name begins with as long as only the token is known.
const PENDING: &str = "pending-";

pub(crate) fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_');
    // Without an early end this takes a few instructions for all bytes together.
    (1..=LONGEST).contains(&name.len()) && name.bytes().fold(true, |all, byte| all & is_allowed(byte))
}

/// The name as stores know it.
pub(crate) fn normalized(name: &str) -> Result<Cow<'_, str>, Error> {
    // Nearly all are spelled so already.
    if is_name(name) {
        return Ok(name.into());
    }
    let lower = name.trim().to_ascii_lowercase();
    if is_name(&lower) { Ok(lower.into()) } else { Err(misnamed()) }
}

/// For a principal that is not known yet.
pub(crate) fn pending() -> Result<String, Error> {
    Ok(format!("{PENDING}{}", hexadecimal::<16>()?))
}

pub(crate) fn is_pending(name: &str) -> bool {
    name.starts_with(PENDING)
}

pub(crate) fn kind_of(name: &str, otherwise: MemberKind) -> MemberKind {
    if is_pending(name) { MemberKind::Pending } else { otherwise }
}

pub(crate) fn kind_of_token(token: &RefreshTokenObject) -> MemberKind {
    match Principal::of(token) {
        Some(Principal::User(_)) => MemberKind::User,
        Some(Principal::Company(_)) | None => MemberKind::Company,
    }
}

pub(crate) fn misnamed() -> Error {
    let message = format!(
        "the name of a member of a fleet consists of 1 to {LONGEST} ASCII letters, digits, hyphens and underscores; pass the UUID of \
         the company or user"
    );
    Error::new(ErrorKind::Config, message)
}

/// The store of a member that can have none, such as one whose name is no name: every call says why.
#[derive(Debug)]
pub(crate) struct NoStore(pub(crate) Error);

impl TokenStore for NoStore {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Err(self.0.clone())
    }

    async fn save(&self, _: &RefreshTokenObject, _: &StoreLock) -> Result<(), Error> {
        Err(self.0.clone())
    }

    async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
        Err(self.0.clone())
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        Err(self.0.clone())
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
    fn a_name_as_stores_know_it_is_in_lower_case_and_safe() {
        let longest = "a".repeat(LONGEST);
        for name in ["b3f4e2a0-0000-4000-8000-000000000000", "a", "_", "--", "pending-0", &longest] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a\\b", "A", "ä", "a b", "a\0", &"a".repeat(LONGEST + 1)] {
            assert!(!is_name(name), "{name}");
        }
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
