//! Whose tokens are kept, and where their principal signs in.
//!
//! Always: whose tokens are wanted is what the credentials said last. The base URI is fixed at first use, and checked before
//! that.

use std::{
    env::{self, VarError},
    sync::Arc,
};

use arc_swap::ArcSwapOption;

use crate::{Credentials, Error, ErrorKind, Geolocation, principal::Principal};

/// What the credentials said.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) base: Geolocation,
    pub(super) principal: Option<Principal>,
}

/// From the builder's settings and the credentials to the identity.
pub(super) struct Identification {
    base: Option<Geolocation>,
    trusted_hosts: Arc<[String]>,
    known: ArcSwapOption<Identity>,
}

impl Identification {
    /// `base_uri` is the builder's, which comes before any other.
    pub(super) fn new(base_uri: Option<&str>, trusted_hosts: Arc<[String]>) -> Result<Self, Error> {
        let base = base_uri
            .map(|uri| Geolocation::configured(uri, "given to the builder", Arc::clone(&trusted_hosts)));
        Ok(Self { base: base.transpose()?, trusted_hosts, known: ArcSwapOption::empty() })
    }

    /// The same before its first use, for another manager.
    pub(super) fn unused(&self) -> Self {
        let Self { base, trusted_hosts, .. } = self;
        Self { base: base.clone(), trusted_hosts: Arc::clone(trusted_hosts), known: ArcSwapOption::empty() }
    }

    /// `None` before the first use.
    pub(super) fn known(&self) -> Option<Arc<Identity>> {
        self.known.load_full()
    }

    /// What the credentials say about principal and, at first use, base URI.
    pub(super) fn of(&self, credentials: &Credentials) -> Result<Arc<Identity>, Error> {
        let principal = credentials.principal();
        let base = match self.known() {
            Some(known) if known.principal == principal => return Ok(known),
            Some(known) => known.base.clone(),
            None => self.base_for(Some(credentials))?,
        };
        let identity = Arc::new(Identity { base, principal });
        self.known.store(Some(Arc::clone(&identity)));
        Ok(identity)
    }

    /// What is known where the credentials cannot be had.
    pub(super) fn without_credentials(&self) -> Result<Arc<Identity>, Error> {
        match self.known() {
            Some(known) => Ok(known),
            None => Ok(Arc::new(Identity { base: self.base_for(None)?, principal: None })),
        }
    }

    fn base_for(&self, credentials: Option<&Credentials>) -> Result<Geolocation, Error> {
        let own = credentials.and_then(|credentials| Some((credentials, credentials.own_base_uri()?)));
        Ok(match (&self.base, own, env::var("CONCUR_BASE_URI")) {
            (Some(base), ..) => base.clone(),
            (None, Some((credentials, uri)), _) => self.configured(uri, &credentials.place_of_base_uri())?,
            (None, None, Ok(uri)) if !uri.trim().is_empty() => {
                self.configured(&uri, "the environment variable CONCUR_BASE_URI")?
            }
            (None, None, Err(VarError::NotUnicode(_))) => {
                let message = "the environment variable CONCUR_BASE_URI is not UTF-8 text; set it again";
                return Err(Error::new(ErrorKind::Config, message));
            }
            (None, None, _) => self.configured(Geolocation::GLZ, "the default")?,
        })
    }

    fn configured(&self, uri: &str, origin: &str) -> Result<Geolocation, Error> {
        Geolocation::configured(uri, origin, Arc::clone(&self.trusted_hosts))
    }
}
