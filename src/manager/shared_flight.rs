//! A flight that several callers share, from its queue to its end: the same for a manager's renewals and for the app's own
//! requests.
//!
//! Always: a caller waits for a minute at most for a flight to begin; a flight that no caller waits for any more does not
//! begin; a flight that a fork left behind holds up no caller.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    need::Outcome,
    single_flight::{Join, Leader, Limit, SingleFlight},
};
use crate::{Error, ErrorKind, machine::Machine, threads};

/// How long a flight may be queued before its callers are told so. Real time: real threads are waited for.
const LONGEST_QUEUE: Duration = Duration::from_secs(60);

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
    let start = |leader: Leader<Outcome<D>>, was_dropped: bool| {
        leader.expect_within(Some(Limit::new(LONGEST_QUEUE, || Outcome::Failed(queued_too_long()))));
        let waits = Arc::clone(executor);
        executor.spawn(Box::pin(leader.overseer(move |time| waits.wait(time))))?;
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
            LONGEST_QUEUE.as_secs(),
            threads::MOST
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
