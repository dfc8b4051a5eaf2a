//! Random values that must not be guessed, or must never come twice: the operating system makes them.

use crate::{Error, ErrorKind};

/// So many random bytes, in hexadecimal digits.
pub(crate) fn hexadecimal<const BYTES: usize>() -> Result<String, Error> {
    Ok(bytes::<BYTES>()?.map(|byte| format!("{byte:02x}")).concat())
}

pub(crate) fn bytes<const BYTES: usize>() -> Result<[u8; BYTES], Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|e| {
        let message = "the operating system gave no random bytes; see whether it has only just started";
        Error::new(ErrorKind::Config, message).caused_by(e)
    })?;
    Ok(bytes)
}
