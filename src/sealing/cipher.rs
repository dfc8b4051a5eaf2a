//! AES-256-GCM-SIV (RFC 8452), of the library that already encrypts the connections.
//!
//! Always: a random nonce for each text. Should a nonce come twice, that shows no more than that two texts are the same.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, unguessable};

pub(super) const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct Key(LessSafeKey);

impl Key {
    /// `None` unless it has [`KEY_BYTES`].
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM_SIV, bytes).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    pub(super) fn seal(&self, text: &str, bound_to: &[u8]) -> Result<String, Error> {
        let nonce: [u8; NONCE_LEN] = unguessable::bytes()?;
        // Sized beforehand: a growing buffer would leave plain text behind.
        let mut buffer = Vec::with_capacity(NONCE_LEN + text.len() + TAG_BYTES);
        buffer.extend_from_slice(&nonce);
        buffer.extend_from_slice(text.as_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(bound_to), &mut buffer[NONCE_LEN..])
            .map_err(|_| Error::new(ErrorKind::Config, "a text of more than 64 GiB cannot be sealed"))?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(STANDARD.encode(buffer))
    }

    /// `None` unless this key has sealed it, bound to the same.
    pub(super) fn open(&self, content: &str, bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut buffer = Zeroizing::new(STANDARD.decode(content).ok()?);
        let (nonce, sealed) = buffer.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.open_in_place(nonce, Aad::from(bound_to), sealed).ok()?;
        Some(Zeroizing::new(text.to_vec()))
    }
}
