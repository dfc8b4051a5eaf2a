//! One round of renewals, for a program that runs now and then.
//!
//! ```text
//! claim tokens that are due ─▶ one flight for each      until none is due that can be claimed
//! wait for the flights ─▶ count
//! ```
//!
//! Always: the round comes to an end, also while the store or Concur fails, and presents no token twice. A round that is dropped is
//! a worker that is stopped.

use std::{collections::HashSet, sync::Arc};

use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
};

use super::{
    Fleet,
    worker::{Next, Stop, Worker},
};
use crate::{Error, ErrorKind, clock::within, consequences, manager::Due};

/// How often in a row the store is asked in vain.
const STORE_FAILURES: u32 = 5;

/// What became of the tokens that were due, from [`Fleet::renew_due`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FleetRenewals {
    /// How many were renewed.
    pub renewed: u64,
    /// How many failed for a reason that may pass by itself, or could not be locked or read. The log has the reasons.
    pub failed: u64,
    /// How many failed until a person acts; [`Fleet::needing_a_person`] names them.
    pub needs_person: u64,
    /// How many are due, and were left to another process, which works on them, or was suspended and may save yet.
    pub skipped: u64,
}

impl FleetRenewals {
    fn count(&mut self, ended: Ended) {
        match ended {
            Ended::Renewed => self.renewed += 1,
            Ended::Failed => self.failed += 1,
            Ended::NeedsPerson => self.needs_person += 1,
        }
    }
}

/// How the renewal of one token ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Renewed,
    Failed,
    NeedsPerson,
}

impl Fleet {
    /// Renews what is due now, and ends: for a program that runs now and then, such as one from cron, in place of
    /// [`keep_alive`](Self::keep_alive).
    ///
    /// Each token is presented once at most, by one of the processes that do this or keep the fleet alive. A renewal that fails comes
    /// back after its pause, in a later call. While Concur is out of reach, one token at a time tries it, as in
    /// [`keep_alive`](Self::keep_alive); after six failures in a row, which takes half a minute and the time of the requests, the call
    /// ends. The tokens that have tried it are counted as failed, and the rest remains due, uncounted.
    ///
    /// Dropping the future stops the round, as dropping the guard of [`keep_alive`](Self::keep_alive) does: what was claimed and not
    /// presented is given back, and a reply that is on its way is saved. [`shutdown`](Self::shutdown) stops the round, too, which then
    /// returns what it has counted. A program that is about to end calls [`shutdown`](Self::shutdown) afterwards, which waits for
    /// tokens that could not be saved yet.
    ///
    /// ```no_run
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// let renewals = fleet.renew_due().await?;
    /// println!("{} renewed, {} need a person", renewals.renewed, renewals.needs_person);
    /// fleet.shutdown(std::time::Duration::from_secs(20)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store fails, five times in a row if that may pass, to say which tokens are due; what was
    /// claimed before has been renewed then, or has failed. [`ErrorKind::Unavailable`] when no background thread can be started.
    pub async fn renew_due(&self) -> Result<FleetRenewals, Error> {
        // Dropped with this future.
        let (_running, guard) = watch::channel(());
        let stop = Stop { guard, fleet: self.0.stop.subscribe() };
        let worker = Worker::new(Arc::clone(&self.0), stop);
        let (told, ended) = oneshot::channel();
        let work = async move {
            // An error means that the caller has gone.
            let _ = told.send(worker.renew_due().await);
        };
        self.0.blueprint.machine.executor.spawn(Box::pin(work))?;
        ended.await.unwrap_or_else(|_| {
            let message = "the renewals did not come to their end; please report this";
            Err(Error::new(ErrorKind::Config, message))
        })
    }
}

/// What one round knows of the tokens that it has claimed.
pub(super) struct Round {
    /// By name.
    seen: HashSet<String>,
    told: mpsc::UnboundedSender<Ended>,
}

/// Tells a round how the renewal of one token has ended.
pub(super) struct Teller(mpsc::UnboundedSender<Ended>);

impl Round {
    /// To be asked once for each claim of a token; `None` if it was claimed before.
    pub(super) fn take(&mut self, principal: &str) -> Option<Teller> {
        self.seen.insert(principal.to_owned()).then(|| Teller(self.told.clone()))
    }
}

impl Teller {
    /// What another flight or process was at is not counted.
    pub(super) fn tell(self, due: &Due) {
        let ended = match due {
            Due::Renewed => Ended::Renewed,
            Due::Failed(error) if consequences::of(error.kind()).needs_person => Ended::NeedsPerson,
            Due::Failed(_) => Ended::Failed,
            Due::NotNeeded => return,
        };
        self.send(ended);
    }

    /// The token could not be locked or read.
    pub(super) fn tell_failed(self) {
        self.send(Ended::Failed);
    }

    fn send(self, ended: Ended) {
        // The round listens until the last teller has gone.
        let _ = self.0.send(ended);
    }
}

impl Worker {
    async fn renew_due(self: Arc<Self>) -> Result<FleetRenewals, Error> {
        let (told, mut outcomes) = mpsc::unbounded_channel();
        let mut round = Round { seen: HashSet::new(), told };
        let claimed = within(self.stop.clone().stopped(), self.claim_all(&mut round)).await;
        drop(round);
        let mut renewals = FleetRenewals::default();
        // Of a worker that was stopped, the renewals end now, too.
        while let Some(ended) = outcomes.recv().await {
            renewals.count(ended);
        }
        claimed.unwrap_or(Ok(()))?;
        renewals.skipped = self.fleet.call(|fleet| fleet.store.count_busy(fleet.app.app_id())).await?;
        Ok(renewals)
    }

    async fn claim_all(self: &Arc<Self>, round: &mut Round) -> Result<(), Error> {
        let clock = &self.fleet.blueprint.machine.clock;
        let mut store_failures = 0;
        loop {
            let wait = match self.claim(&mut store_failures, Some(round)).await {
                Next::Paused(_) if self.pace().has_tried_enough() => return Ok(()),
                Next::StoreFails(e, _) if !e.is_transient() || store_failures >= STORE_FAILURES => {
                    return Err(e);
                }
                Next::DueIn(wait) if !wait.is_zero() => return Ok(()),
                Next::Paused(wait) | Next::DueIn(wait) | Next::StoreFails(_, wait) => wait,
            };
            clock.sleep(wait).await;
            // A clock whose sleeps take no time must not take all of the runtime's.
            yield_now().await;
        }
    }
}
