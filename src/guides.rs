//! Guides, each read in under three minutes, a page for a fleet's operators, the promises and the protocol. Their code is compiled.

#[doc = include_str!("../docs/guides/getting_started.md")]
///
/// # Reference
///
/// [`TokenManager`](crate::TokenManager), [`CredentialSource`](crate::CredentialSource),
/// [`Geolocation`](crate::Geolocation)
pub mod getting_started {}

#[doc = include_str!("../docs/guides/signing_in.md")]
///
/// # Reference
///
/// [`Grant`](crate::Grant), [`AppCenterRedirect`](crate::AppCenterRedirect),
/// [`AuthorizationRequest`](crate::AuthorizationRequest),
/// [`OneTimePasswordRequest`](crate::OneTimePasswordRequest),
/// [`TokenManager::sign_in`](crate::TokenManager::sign_in),
/// [`TokenManager::revoke`](crate::TokenManager::revoke)
pub mod signing_in {}

/// Running for years: what renews when, how an operator sees it, and how a program ends without losing a token.
///
#[doc = include_str!("../docs/renewal.svg")]
///
#[doc = include_str!("../docs/guides/running_for_years.md")]
///
/// # Reference
///
/// [`TokenManager::keep_alive`](crate::TokenManager::keep_alive),
/// [`TokenManager::subscribe`](crate::TokenManager::subscribe),
/// [`TokenManager::shutdown`](crate::TokenManager::shutdown), [`Status`](crate::Status),
/// [`Health`](crate::Health)
pub mod running_for_years {}

#[doc = include_str!("../docs/guides/errors.md")]
///
/// # Reference
///
/// [`Error`](crate::Error), [`ErrorKind`](crate::ErrorKind), [`ConcurCode`](crate::ConcurCode),
/// [`Responsible`](crate::Responsible), [`TokenManager::retry_now`](crate::TokenManager::retry_now)
pub mod errors {}

#[cfg(feature = "sealing")]
#[doc = include_str!("../docs/guides/security.md")]
///
/// # Reference
///
/// [`SealingKeys`](crate::SealingKeys),
/// [`TokenManagerBuilder::trust_host`](crate::TokenManagerBuilder::trust_host),
/// [`TokenManager::revoke`](crate::TokenManager::revoke)
pub mod security {}

#[cfg(feature = "rustls-no-provider")]
#[doc = include_str!("../docs/guides/connections.md")]
///
/// # Reference
///
/// [`TokenManagerBuilder::http_client`](crate::TokenManagerBuilder::http_client),
/// [`TokenManagerBuilder::base_uri`](crate::TokenManagerBuilder::base_uri),
/// [`OAuthClient::with_http_client`](crate::OAuthClient::with_http_client)
pub mod connections {}

#[doc = include_str!("../docs/guides/own_store.md")]
///
/// # Reference
///
/// [`TokenStore`](crate::TokenStore), [`StoreLock`](crate::StoreLock), [`on_runtime`](crate::on_runtime),
/// [`Error::store`](crate::Error::store)
pub mod own_store {}

#[cfg(feature = "postgres")]
#[doc = include_str!("../docs/guides/several_machines.md")]
///
/// # Reference
///
/// [`PostgresStore`](crate::PostgresStore)
pub mod several_machines {}

#[cfg(all(feature = "postgres", feature = "sealing"))]
#[doc = include_str!("../docs/guides/many_companies.md")]
///
/// # Reference
///
/// [`Fleet`](crate::Fleet), [`FleetBuilder`](crate::FleetBuilder), [`FolderFleet`](crate::FolderFleet),
/// [`PostgresFleet`](crate::PostgresFleet), [`FleetMember`](crate::FleetMember)
pub mod many_companies {}

#[doc = include_str!("../docs/fleet.md")]
pub mod operating_a_fleet {}

#[cfg(feature = "simulator")]
#[doc = include_str!("../docs/guides/testing.md")]
///
/// # Reference
///
/// [`ConcurSimulator`](crate::simulator::ConcurSimulator), [`Fault`](crate::simulator::Fault),
/// [`FlakyStore`](crate::simulator::FlakyStore), [`ManualClock`](crate::simulator::ManualClock),
/// [`store_contract`](crate::simulator::store_contract)
pub mod testing {}

pub mod promises {
    #![doc = include_str!("../docs/promises.md")]
    #[allow(unused_imports, reason = "for the links")]
    use crate::*;
}

pub mod protocol {
    #![doc = include_str!("../docs/protocol.md")]
    #[allow(unused_imports, reason = "for the links")]
    use crate::*;
}
