//! A flight that several callers share, from its queue to its end: the same for a manager's renewals and for the app's own
//! requests.
//!
//! Always: a caller waits for a minute at most for a flight to begin; a flight that no caller waits for any more does not
//! begin; a flight that a fork left behind, or whose thread is blocked, holds up no caller.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    need::Outcome,
    single_flight::{Join, Leader, Limits, SingleFlight},
};
use crate::{Error, ErrorKind, machine::Machine, threads};

/// Between two looks at how a flight gets on. Real time: real threads are waited for.
const LOOK: Duration = Duration::from_secs(10);
/// How many looks, and seconds, a flight may be queued before its callers are told so.
const LOOKS_QUEUED: u32 = 6;
const LONGEST_QUEUE: u64 = LOOK.as_secs() * LOOKS_QUEUED as u64;

/// What the end of a caller's runtime means for the flight that it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It waits for the flight: what Concur sends must be saved.
    Waits,
    /// It does not: there is nothing to save.
    GoesOn,
}

/// Joins a flight or starts one, and waits for its outcome; [`Outcome::Busy`] if `join` forbids to join the one under way.
/// `work` begins with [`Leader::begin`]. `end` says whether the end of the caller's runtime waits for it.
pub(super) async fn share<D, W>(
    flights: &Arc<SingleFlight<Outcome<D>>>,
    machine: &Machine,
    join: Join,
    end: End,
    work: impl Fn(Leader<Outcome<D>>) -> W,
) -> Outcome<D>
where
    D: Clone + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let executor = &machine.executor;
    if flights.is_left_behind(executor.process()) {
        return Outcome::Failed(forked());
    }
    let start = |mut leader: Leader<Outcome<D>>, was_dropped: bool| {
        let limits = Limits {
            look: LOOK,
            looks_queued: LOOKS_QUEUED,
            queued: || Outcome::Failed(queued_too_long()),
            blocked: || Outcome::Failed(blocked()),
        };
        let waits = Arc::clone(executor);
        executor.spawn(Box::pin(leader.overseer(limits, move |time| waits.wait(time))))?;
        // The second time for no runtime, so the end of none can drop it again.
        executor.launch(Box::pin(work(leader)), was_dropped || end == End::GoesOn)
    };
    match flights.run(join, executor.process(), start).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Outcome::Busy,
        Err(e) => Outcome::Failed(e),
    }
}

fn queued_too_long() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the renewal has waited {} s for its turn and goes on waiting, because as many renewals as this process runs at \
             once ({}) are under way; let fewer managers renew at once, and find out whether a token store or credential \
             source blocks its thread, then try again",
            LONGEST_QUEUE,
            threads::MOST
        ),
    )
}

fn blocked() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the renewal has stood still for {} s or more and goes on waiting, because a call of the token store, of the \
             credential source or of a log subscriber blocks its thread; find out which call, and what it waits for",
            LOOK.as_secs()
        ),
    )
}

fn forked() -> Error {
    Error::new(
        ErrorKind::Config,
        "this process was forked while its parent was renewing with this manager, and that renewal does not go on here; \
         make a new manager in the forked process",
    )
}
