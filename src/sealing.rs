//! The text in which a token is kept: its JSON, or sealed.
//!
//! ```text
//! {"sealed":"v1.KEYID.BASE64"}      BASE64: a nonce of 12 bytes, then the ciphertext and its tag
//! ```
//!
//! Always: a sealed text that cannot be opened is an error, never the absence of a token: nothing is sent, moved or overwritten on
//! account of it. A text is bound to what it is (a token or a note), to its key's name, and to its place.

#![cfg_attr(not(feature = "sealing"), allow(unreachable_code, reason = "there are no keys"))]

#[cfg(feature = "sealing")]
mod cipher;
#[cfg(feature = "sealing")]
mod keys;
#[cfg(not(feature = "sealing"))]
#[path = "sealing/no_keys.rs"]
mod keys;

#[cfg(feature = "sealing")]
pub use self::keys::SealingKeys;
#[cfg(not(feature = "sealing"))]
pub(crate) use self::keys::SealingKeys;

use zeroize::Zeroizing;

use crate::{
    Error, ErrorKind, RefreshTokenObject,
    refresh_token_object::{NotAToken, sealed_member},
};

/// The version of the text form, and of everything that follows from it.
const VERSION: &str = "v1";

/// How a store writes its texts, and reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenText {
    /// Many stores have none.
    sealed: Option<Box<Sealed>>,
}

/// With which keys, and for which place.
#[derive(Clone, Debug)]
struct Sealed {
    keys: SealingKeys,
    place: Box<str>,
    /// Another place, whose texts are read as well.
    also: Option<Box<str>>,
}

/// What a text is, so that no text can stand for one of another kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Token,
    Note,
}

/// Why a text yields no token.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is none.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sealing")),
        expect(dead_code, reason = "a file says that it is none")
    )]
    NotAToken(NotAToken),
    /// It is sealed, and cannot be opened.
    Sealed(Error),
}

impl TokenText {
    pub(crate) fn sealed(keys: SealingKeys, place: impl Into<Box<str>>) -> Self {
        Self { sealed: Some(Box::new(Sealed { keys, place: place.into(), also: None })) }
    }

    /// For one of many, in a store with these keys, if it has any.
    pub(crate) fn of_principal(keys: Option<&SealingKeys>, app_id: &str, principal: &str) -> Self {
        keys.map_or_else(Self::default, |keys| Self::sealed(keys.clone(), format!("{app_id}/{principal}")))
    }

    /// Reads what is sealed for the other's place, too.
    pub(crate) fn or_of(mut self, other: &Self) -> Self {
        if let (Some(ours), Some(other)) = (&mut self.sealed, &other.sealed) {
            ours.also = Some(other.place.clone());
        }
        self
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    pub(crate) fn of(&self, token: &RefreshTokenObject) -> Result<Zeroizing<String>, Error> {
        let json = token.as_json();
        match self.sealed.as_deref() {
            Some(Sealed { keys, place, .. }) => keys.seal_text(&json, Kind::Token, place).map(Zeroizing::new),
            None => Ok(json),
        }
    }

    /// Reads plain text, too: what was kept before there were keys is sealed when it is next saved.
    pub(crate) fn token(&self, text: &[u8]) -> Result<RefreshTokenObject, Unusable> {
        match RefreshTokenObject::parse(text) {
            Err(NotAToken::Sealed(sealed)) => {
                let json = self.open(&sealed, Kind::Token).map_err(Unusable::Sealed)?;
                RefreshTokenObject::parse(&json).map_err(Unusable::NotAToken)
            }
            parsed => parsed.map_err(Unusable::NotAToken),
        }
    }

    pub(crate) fn of_note(&self, note: &str) -> Result<String, Error> {
        match self.sealed.as_deref() {
            Some(Sealed { keys, place, .. }) => keys.seal_text(note, Kind::Note, place),
            None => Ok(note.to_owned()),
        }
    }

    pub(crate) fn note(&self, text: String) -> Result<String, Error> {
        let Some(sealed) = sealed_member(text.as_bytes()) else { return Ok(text) };
        let note = self.open(&sealed, Kind::Note)?;
        Ok(String::from_utf8_lossy(&note).into_owned())
    }

    /// At most so many bytes is the text of so many bytes of JSON.
    pub(crate) fn length_of(&self, json: usize) -> usize {
        // Base64, and the frame with nonce and tag.
        if self.is_sealed() { json.div_ceil(3) * 4 + 256 } else { json }
    }

    fn open(&self, sealed: &str, kind: Kind) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Some(Parts { key, content }) = Parts::of(sealed) else {
            let message = "it is sealed in a form that this version of concur-auth does not know; use the version that sealed it";
            return Err(Error::new(ErrorKind::Config, message));
        };
        match self.sealed.as_deref() {
            Some(Sealed { keys, place, also }) => {
                let opened = keys.open_text(key, content, kind, place);
                match also {
                    Some(also) if opened.is_err() => keys.open_text(key, content, kind, also).or(opened),
                    _ => opened,
                }
            }
            None => Err(without_keys(key)),
        }
    }
}

/// The member `sealed`, in its parts.
struct Parts<'a> {
    key: &'a str,
    content: &'a str,
}

impl<'a> Parts<'a> {
    fn of(sealed: &'a str) -> Option<Self> {
        let (key, content) = sealed.strip_prefix(VERSION)?.strip_prefix('.')?.split_once('.')?;
        Some(Self { key, content }).filter(|_| is_key_id(key))
    }
}

fn is_key_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=32).contains(&id.len()) && id.bytes().all(is_allowed)
}

/// For a text that is sealed with the key of this name, where there are no keys.
fn without_keys(key: &str) -> Error {
    let needed = if cfg!(feature = "sealing") {
        "give the store that key with sealed_with"
    } else {
        "build concur-auth with its feature sealing, and give the store that key"
    };
    Error::new(ErrorKind::Config, format!("it is sealed with the key \"{key}\"; {needed}"))
}
