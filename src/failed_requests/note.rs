//! The text in which a store keeps failed requests and dead tokens, for all processes that share it.
//!
//! Always: text that cannot be understood says nothing; nothing in it is a secret.

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IntoDeserializer as _, value},
};

use super::{Class, FailedRequest, FailedRequests};
use crate::{ConcurCode, Error, ErrorKind, clock, dead_tokens::DeadTokens};

impl FailedRequests {
    /// Reads a store's note. Any other text, such as a note that was cut short, says nothing.
    #[must_use]
    pub(crate) fn from_note(note: Option<&str>) -> Self {
        let noted: NotedList = note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default();
        Self::new(noted.failures.into_iter().filter_map(Noted::read).collect(), noted.dead_tokens)
    }

    /// The note for a store, on one line; `None` where there is nothing to note.
    #[must_use]
    pub(crate) fn to_note(&self) -> Option<String> {
        let failures: Vec<_> =
            self.failures.iter().filter(|failed| failed.is_lasting()).map(Noted::of).collect();
        if failures.is_empty() && self.dead.is_empty() {
            return None;
        }
        serde_json::to_string(&NotedList { failures, dead_tokens: self.dead.clone() }).ok()
    }
}

/// What a note holds.
#[derive(Default, Serialize, Deserialize)]
struct NotedList {
    failures: Vec<Noted>,
    #[serde(default, skip_serializing_if = "DeadTokens::is_empty")]
    dead_tokens: DeadTokens,
}

/// A failure as a note holds it.
#[derive(Serialize, Deserialize)]
struct Noted {
    salt: u64,
    fingerprint: u32,
    /// Unix seconds.
    refused_at: u64,
    /// The same of the first one in a row.
    since: u64,
    times: u32,
    #[serde(default, deserialize_with = "known")]
    kind: Option<ErrorKind>,
    in_doubt: bool,
    message: String,
    code: Option<u32>,
    correlation_id: Option<String>,
}

impl Noted {
    fn of(failed: &FailedRequest) -> Self {
        let FailedRequest { salt, fingerprint, class, at, since, times, error, .. } = failed;
        Self {
            salt: *salt,
            fingerprint: *fingerprint,
            refused_at: clock::unix_seconds(*at),
            since: clock::unix_seconds(*since),
            times: *times,
            kind: Some(error.kind()),
            in_doubt: *class == Class::InDoubt,
            message: error.message().to_owned(),
            code: error.code().map(ConcurCode::number),
            correlation_id: error.correlation_id().map(str::to_owned),
        }
    }

    /// `None` if it was noted at a time that cannot be.
    fn read(self) -> Option<FailedRequest> {
        let class = if self.in_doubt { Class::InDoubt } else { Class::Refused };
        let kind =
            self.kind.unwrap_or(if self.in_doubt { ErrorKind::Unavailable } else { ErrorKind::Refused });
        let code = self.code.map(ConcurCode::new);
        let at = clock::from_unix_seconds(self.refused_at)?;
        Some(FailedRequest {
            salt: self.salt,
            fingerprint: self.fingerprint,
            class,
            at,
            since: clock::from_unix_seconds(self.since)?,
            times: self.times,
            pause: class.pauses(code).nth(self.times.checked_sub(1)?),
            error: Error::new(kind, self.message)
                .with_code(code, false)
                .with_correlation_id(self.correlation_id),
        })
    }
}

/// The kind of that name; `None` for a name that this version does not know.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ErrorKind>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let name: value::StringDeserializer<value::Error> = name.into_deserializer();
    Ok(ErrorKind::deserialize(name).ok())
}
