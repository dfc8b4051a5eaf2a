//! Text that must not be seen: wiped on drop, no `Display`, and a `Debug` that shows nothing.
//!
//! Clones share one copy, which is wiped with the last of them: the fewer copies, the less there is to see, and to keep.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Blank members of a template count as absent, so "is there one?" is asked of the text.
    pub(crate) fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
