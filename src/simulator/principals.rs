//! Whom tokens belong to: the company.

use std::collections::HashMap;

use super::tokens::uuid;

pub(super) struct Principals {
    company_uuid: String,
    /// By UUID.
    principals: HashMap<String, Principal>,
}

struct Principal {
    geolocation: String,
}

impl Principals {
    /// One company.
    pub(super) fn new(geolocation: String) -> Self {
        let company_uuid = uuid();
        let principals = HashMap::from([(company_uuid.clone(), Principal { geolocation })]);
        Self { company_uuid, principals }
    }

    pub(super) fn company_uuid(&self) -> &str {
        &self.company_uuid
    }

    pub(super) fn geolocation(&self, uuid: &str) -> &str {
        self.principals.get(uuid).map_or("", |principal| &principal.geolocation)
    }

    /// False where there is nobody with this UUID.
    pub(super) fn relocate(&mut self, uuid: &str, geolocation: &str) -> bool {
        self.principals
            .get_mut(uuid)
            .map(|principal| geolocation.clone_into(&mut principal.geolocation))
            .is_some()
    }
}
