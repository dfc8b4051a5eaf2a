//! For the target `folder` in `fuzz/`: a spool's files.

use super::*;
use crate::fuzzing::shows_no_secret;

/// Reads each file whose name is one of a spool's. What was read is the same save after it was written, and is to be saved where the row
/// is what it starts from.
pub(crate) fn spool(folder: &Path) {
    let spool = Spool::new(folder);
    for path in spool.list(None).unwrap() {
        match read(&path) {
            Ok(Some(spooled)) => {
                let text = serde_json::to_vec(&spooled).unwrap();
                let again: Spooled = serde_json::from_slice(&text).unwrap();
                assert!(serde_json::to_vec(&again).unwrap() == text);
                let now = Now { base: spooled.base.clone(), has_token: true };
                assert!(matches!(spooled.verdict(Some(&now), ""), Verdict::Done | Verdict::ToBeSaved));
            }
            Ok(None) => {}
            Err(error) => shows_no_secret(&error),
        }
    }
}
