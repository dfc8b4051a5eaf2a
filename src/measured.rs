//! What is counted for operators, through the facade of the crate `metrics`; nothing without that feature.
//!
//! Always: no label names a principal or holds a secret, so there is a bounded number of series. A recorder that panics does no harm.

#[cfg(feature = "metrics")]
use crate::log::quietly;

/// How a renewal ended.
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "nothing is counted"))]
pub(crate) enum Ended {
    /// Concur has issued a token.
    Renewed,
    /// What was stored would do: another process was faster.
    Found,
    /// Another process is renewing.
    Busy,
    SignedOut,
    /// Nothing was sent, because of the failure before.
    HeldBack,
    Failed(crate::ErrorKind),
}

/// Counts a renewal, and how long those took that asked Concur.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "nothing is counted"))]
pub(crate) fn renewal(need: &'static str, ended: &Ended, took: std::time::Duration) {
    #[cfg(feature = "metrics")]
    quietly(|| {
        let (outcome, kind) = match ended {
            Ended::Renewed => ("renewed", String::new()),
            Ended::Found => ("found", String::new()),
            Ended::Busy => ("busy", String::new()),
            Ended::SignedOut => ("signed_out", String::new()),
            Ended::HeldBack => ("held_back", String::new()),
            Ended::Failed(kind) => ("failed", format!("{kind:?}")),
        };
        metrics::counter!("concur_auth_renewals_total", "need" => need, "outcome" => outcome, "kind" => kind)
            .increment(1);
        if matches!(ended, Ended::Renewed | Ended::Failed(_)) {
            metrics::histogram!("concur_auth_renewal_seconds", "outcome" => outcome)
                .record(took.as_secs_f64());
        }
    });
}

/// A lock was taken whose holder before did not give it back, and may have spent the token.
pub(crate) fn lease_taken_over() {
    #[cfg(feature = "metrics")]
    quietly(|| metrics::counter!("concur_auth_leases_taken_over_total").increment(1));
}

/// Counted as a token that is not saved yet, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnsavedToken(());

impl UnsavedToken {
    pub(crate) fn new() -> Self {
        #[cfg(feature = "metrics")]
        quietly(|| metrics::gauge!("concur_auth_unsaved_tokens").increment(1.0));
        Self(())
    }
}

impl Drop for UnsavedToken {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        quietly(|| metrics::gauge!("concur_auth_unsaved_tokens").decrement(1.0));
    }
}

/// What a look at a whole fleet has found: how many members are in which state, and when the first refresh token expires (Unix
/// seconds).
#[cfg_attr(not(feature = "metrics"), allow(unused_variables, reason = "nothing is counted"))]
pub(crate) fn fleet(members: [(&'static str, u64); 3], soonest_expiry: Option<i64>) {
    #[cfg(feature = "metrics")]
    #[allow(clippy::cast_precision_loss, reason = "neither members nor seconds come to 2^53")]
    quietly(|| {
        for (state, count) in members {
            metrics::gauge!("concur_auth_members", "state" => state).set(count as f64);
        }
        // Without any member there is no such date.
        let soonest = soonest_expiry.map_or(f64::NAN, |at| at as f64);
        metrics::gauge!("concur_auth_soonest_expiry_timestamp_seconds").set(soonest);
    });
}
