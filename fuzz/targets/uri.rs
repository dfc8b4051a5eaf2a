//! What a person configures, and what a browser brings back: the base URI, the database's URL, and the three kinds of return.
#![no_main]

use concur_auth::{
    AppCenterRedirect, AuthorizationRequest, Error, Geolocation, OneTimePasswordRequest, PostgresStore,
    fuzzing, url::Url,
};

libfuzzer_sys::fuzz_target!(|uri: &str| {
    let told = |error: &Error| fuzzing::shows_no_secret(error);
    match uri.parse::<Geolocation>() {
        Ok(base) => {
            let text = base.as_str();
            assert!(text.starts_with("https://") || text.starts_with("http://"), "{text}");
            assert_eq!(text.parse::<Geolocation>().unwrap(), base);
        }
        Err(error) => {
            // Scheme and host that a person has configured are shown to that person.
            let has_secret = |part: &str| part.contains(fuzzing::SECRET);
            let url = Url::parse(uri.trim());
            let is_shown =
                url.is_ok_and(|url| has_secret(url.scheme()) || url.host_str().is_some_and(has_secret));
            if !is_shown {
                told(&error);
            }
        }
    }
    let _ = PostgresStore::new(uri, "company").map_err(|error| told(&error));
    match AppCenterRedirect::from_url(uri) {
        Ok(visit) => assert!(!format!("{visit:?}").contains(fuzzing::SECRET)),
        Err(error) => told(&error),
    }
    let base: Geolocation = Geolocation::GLZ.parse().unwrap();
    let request = AuthorizationRequest::new(&base, "app", "https://app.example/back", "openid")
        .unwrap()
        .with_state("state");
    match request.returned(uri) {
        Ok(back) => assert!(!format!("{back:?}").contains(fuzzing::SECRET)),
        Err(error) => told(&error),
    }
    let _ =
        OneTimePasswordRequest::by_email("a@b.example").grant_from_link(uri).map_err(|error| told(&error));
});
