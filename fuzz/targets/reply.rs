//! What comes with status 200: the headers, an empty line, and the body.
#![no_main]

use concur_auth::fuzzing;

libfuzzer_sys::fuzz_target!(|reply: &[u8]| {
    let at = reply.windows(2).position(|pair| pair == b"\n\n").unwrap_or(0);
    let (head, body) = reply.split_at(at);
    fuzzing::reply(head, body);
});
