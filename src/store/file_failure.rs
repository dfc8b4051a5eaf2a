//! What is said when the operating system refuses access to a file or folder, and what to do about it.

use std::{io, path::Path};

use zeroize::Zeroizing;

use crate::{Error, files};

/// What to do where access was denied.
const RIGHT_USER: &str = "run this program as the user that owns them, or give them to the user that runs it (chown); if that is so already, \
     look for a read-only mount or an attribute (lsattr)";

/// `what` could not be done to `path`. The advice is for other reasons than the owner. An error of this crate's own, such as that
/// a text is sealed, says itself what to do.
pub(super) fn could_not(what: &str, path: &Path, advice: &str, e: io::Error) -> Error {
    let at = path.display();
    let e = match e.downcast::<Error>() {
        Ok(own) => return Error::new(own.kind(), format!("could not {what} {at}: {}", own.message())),
        Err(e) => e,
    };
    let message = match files::owners(path, &e) {
        Some(owners) => format!("could not {what} {at}; {owners}; {RIGHT_USER}"),
        None => format!("could not {what} {at}; {advice}"),
    };
    Error::store(message, e)
}

/// The content of a file; `None` where there is none.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let read = files::if_there(files::read(path));
    read.map_err(|e| could_not("read", path, "check that it is a file this user may read", e))
}
