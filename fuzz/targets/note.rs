//! The store's note of what was refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| concur_auth::fuzzing::note(text));
