//! Keys and sealed texts. The first line is a list of keys, the rest a text.
#![no_main]

use std::sync::OnceLock;

use concur_auth::{RefreshTokenObject, SealingKeys, fuzzing};

const PLACE: &str = "the place";

libfuzzer_sys::fuzz_target!(|text: &str| {
    static SEALED: OnceLock<(SealingKeys, RefreshTokenObject, String)> = OnceLock::new();
    let (keys, token, sealed) = SEALED.get_or_init(|| {
        let keys: SealingKeys = SealingKeys::generate("key").unwrap().parse().unwrap();
        let token = RefreshTokenObject::from_json(r#"{"refresh_token": "r"}"#).unwrap();
        let sealed = keys.seal(&token, PLACE).unwrap();
        (keys, token, sealed)
    });
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    if let Err(error) = first.parse::<SealingKeys>() {
        fuzzing::shows_no_secret(&error);
    }
    let _ = SealingKeys::key_of(rest);
    // Only an administrator can seal.
    if let Err(error) = keys.open(rest, PLACE) {
        fuzzing::shows_no_secret(&error);
    } else {
        panic!("{rest} was opened");
    }
    // One change, and it opens no more.
    let mut changed = sealed.clone().into_bytes();
    let at = first.len() % changed.len();
    changed[at] ^= 1 + (rest.len() % 100) as u8;
    if let Ok(changed) = String::from_utf8(changed)
        && let Ok(opened) = keys.open(&changed, PLACE)
    {
        assert_eq!(opened.secret(), token.secret(), "white space is all that may change: {changed}");
    }
});
