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
    // A key's name, before the colon, is no secret.
    let mut names = first.split(',').filter_map(|key| key.split(':').next());
    let names_secret = names.any(|name| name.contains(fuzzing::SECRET));
    if let Err(error) = first.parse::<SealingKeys>()
        && !names_secret
    {
        fuzzing::shows_no_secret(&error);
    }
    let names_secret = SealingKeys::key_of(rest).is_some_and(|name| name.contains(fuzzing::SECRET));
    // Only an administrator can seal.
    match keys.open(rest, PLACE) {
        Err(error) if !names_secret => fuzzing::shows_no_secret(&error),
        Err(_) => {}
        Ok(_) => panic!("{rest} was opened"),
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
