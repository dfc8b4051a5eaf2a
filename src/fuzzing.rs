//! The private parsers, for the targets in `fuzz/`: each with what must hold whatever it is given.
//!
//! Always: there only under `--cfg fuzzing`, which cargo-fuzz sets.

pub use crate::oauth_client::fuzzing::{SECRET, error_reply, reply, shows_no_secret};
use crate::{failed_requests::FailedRequests, members::Members};

/// The store's note of failures: what is understood can be written and understood again.
pub fn note(text: &str) {
    let note = FailedRequests::from_note(Some(text)).to_note();
    assert_eq!(FailedRequests::from_note(note.as_deref()).to_note(), note);
}

/// A folder of tokens that a database did not take.
#[cfg(feature = "postgres")]
pub fn spool(folder: &std::path::Path) {
    crate::store::spool(folder);
}

/// A JSON object: its members are the same after they were written.
pub fn members(json: &[u8]) {
    let (mut lossy, fault) = Members::parse_reply(json);
    match Members::parse(json) {
        Ok(members) => {
            assert!(fault.is_none() && lossy == members);
            let written = members.to_json(&["refresh_token", "expires_in"]);
            assert!(Members::parse(written.as_bytes()).as_ref() == Ok(&members));
            let _ = members.seconds("expires_in");
            lossy.inherit(&members, &[]);
            assert!(lossy == members);
        }
        Err(bad) => assert!(!bad.to_string().contains(SECRET)),
    }
}
