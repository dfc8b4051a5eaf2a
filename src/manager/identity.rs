//! Whose tokens are kept, and where their principal signs in.
//!
//! Always: fixed at first use; a base URI is checked before it is used.

use std::{
    env::{self, VarError},
    sync::{Arc, OnceLock},
};

use crate::{Credentials, Error, ErrorKind, Geolocation, principal::Principal};

/// What the credentials said at first use.
pub(super) struct Identity {
    pub(super) base: Geolocation,
    pub(super) principal: Option<Principal>,
}

/// From the builder's settings and the credentials to the identity.
pub(super) struct Identification {
    base: Option<Geolocation>,
    trusted_hosts: Arc<[String]>,
    known: OnceLock<Identity>,
}

impl Identification {
    /// `base_uri` is the builder's, which comes before any other.
    pub(super) fn new(base_uri: Option<&str>, trusted_hosts: Arc<[String]>) -> Result<Self, Error> {
        let base = base_uri
            .map(|uri| Geolocation::configured(uri, "given to the builder", Arc::clone(&trusted_hosts)));
        Ok(Self { base: base.transpose()?, trusted_hosts, known: OnceLock::new() })
    }

    /// `None` before the first use.
    pub(super) fn known(&self) -> Option<&Identity> {
        self.known.get()
    }

    /// Fixes, at first use, what the credentials say about base URI and principal.
    pub(super) fn of(&self, credentials: &Credentials) -> Result<&Identity, Error> {
        if let Some(identity) = self.known.get() {
            return Ok(identity);
        }
        let base = match (&self.base, credentials.own_base_uri(), env::var("CONCUR_BASE_URI")) {
            (Some(base), ..) => base.clone(),
            (None, Some(uri), _) => self.configured(uri, &credentials.place_of_base_uri())?,
            (None, None, Ok(uri)) if !uri.trim().is_empty() => {
                self.configured(&uri, "the environment variable CONCUR_BASE_URI")?
            }
            (None, None, Err(VarError::NotUnicode(_))) => {
                let message = "the environment variable CONCUR_BASE_URI is not UTF-8 text; set it again";
                return Err(Error::new(ErrorKind::Config, message));
            }
            (None, None, _) => self.configured(Geolocation::GLZ, "the default")?,
        };
        let principal = credentials.principal();
        Ok(self.known.get_or_init(|| Identity { base, principal }))
    }

    fn configured(&self, uri: &str, origin: &str) -> Result<Geolocation, Error> {
        Geolocation::configured(uri, origin, Arc::clone(&self.trusted_hosts))
    }
}
