//! The text in which a token is kept, and what can be read from it.
#![no_main]

use concur_auth::{RefreshTokenObject, fuzzing};

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    fuzzing::members(json);
    let Ok(json) = str::from_utf8(json) else { return };
    match RefreshTokenObject::from_json(json) {
        Ok(token) => {
            let again = RefreshTokenObject::from_json(&token.to_json()).unwrap();
            assert_eq!(again.secret(), token.secret());
            assert_eq!(again.expires_at(), token.expires_at());
            assert_eq!(again.geolocation(), token.geolocation());
            if let Some(claims) = token.unverified_claims() {
                let _ = (claims.subject(), claims.issued_at(), claims.expires_at());
                assert!(!format!("{claims:?}").contains(fuzzing::SECRET));
            }
            assert!(!format!("{token:?}").contains(fuzzing::SECRET));
        }
        Err(error) => fuzzing::shows_no_secret(&error),
    }
});
