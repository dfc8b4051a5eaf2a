//! What comes with another status: two bytes of the status, the headers, an empty line, and the body.
#![no_main]

use concur_auth::fuzzing;

libfuzzer_sys::fuzz_target!(|reply: &[u8]| {
    let [high, low, reply @ ..] = reply else { return };
    // 300 to 599.
    let status = 300 + u16::from_be_bytes([*high, *low]) % 300;
    let at = reply.windows(2).position(|pair| pair == b"\n\n").unwrap_or(0);
    let (head, body) = reply.split_at(at);
    fuzzing::error_reply(status, head, body);
});
