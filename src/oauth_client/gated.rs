//! Requests that wait for their turn: the transport, behind the gates of its hosts.
//!
//! Always: nothing is sent while the host asks for a pause, and none of the client's requests exceeds the number that may
//! run at once, or that may be sent in a second. A request that gets no turn in time is not sent at all.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use super::{
    budget::{Conditions, LONGEST_SLEEP},
    failure::{Failure, Fate},
    host_gate::{HostGates, Turn},
    outgoing_request::OutgoingRequest,
    rate::Rate,
    transport::Transport,
};
use crate::{Error, ErrorKind, Geolocation, clock::within};

pub(super) struct Gated {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) gates: HostGates,
    /// `None`: as many in a second as one likes.
    pub(super) rate: Option<Arc<Rate>>,
}

impl Gated {
    pub(super) fn new(transport: Arc<dyn Transport>, most_at_once: usize, rate: Option<Arc<Rate>>) -> Self {
        Self { transport, gates: HostGates::new(most_at_once), rate }
    }

    /// The answer in which the host asked for a pause, while that lasts.
    pub(super) fn check_pause(&self, base: &Geolocation, now: SystemTime) -> Result<(), Error> {
        self.gates.known(base).map_or(Ok(()), |gate| gate.check(now))
    }

    /// Waits until the request may be sent, for as long as the budget allows.
    pub(super) async fn turn(
        &self,
        base: &Geolocation,
        request: &OutgoingRequest,
        conditions: &Conditions<'_>,
    ) -> Result<Turn, Failure> {
        let Conditions { clock, budget, heeds_pause, .. } = *conditions;
        let gate = self.gates.of(base);
        // A flight that is under way waits for the end of a short pause, as for the end of its own.
        let check = || match gate.check(clock.now()) {
            Err(error) if heeds_pause => Err(Failure::new(error, Fate::NothingIssued)),
            _ => Ok(()),
        };
        let not_sent = |why: String| {
            let message = format!("sent no {} to {}: {why}", request.what(), base.host());
            Failure::from(Error::new(ErrorKind::Unavailable, message))
        };
        let spent = *budget.spent();
        let Some(mut left) = spent.time_to_begin(budget.limits()) else {
            let seconds = spent.total().as_secs();
            return Err(not_sent(format!("the requests before it took {seconds} s; try again")));
        };
        let has_turn = AtomicBool::new(false);
        let mut turn = pin!(async {
            let turn = gate.turn().await;
            has_turn.store(true, Ordering::Relaxed);
            if let Some(rate) = &self.rate {
                rate.wait(clock).await;
            }
            turn
        });
        loop {
            check()?;
            let sleep = left.min(LONGEST_SLEEP);
            // Made only if there is something to wait for.
            let pause = async { clock.sleep(sleep).await };
            if let Some(turn) = within(pause, turn.as_mut()).await {
                // The host may have asked for a pause meanwhile.
                check()?;
                return Ok(turn);
            }
            left -= sleep;
            budget.spent().waited += sleep;
            if left.is_zero() || budget.is_given_up() {
                let seconds = budget.spent().waited.as_secs();
                let why = match &self.rate {
                    Some(rate) if has_turn.load(Ordering::Relaxed) => format!(
                        "because this client sends {} (OAuthClient::max_requests_per_second); try again later",
                        rate.describe()
                    ),
                    _ => gate.why_waiting(),
                };
                return Err(not_sent(format!("it waited {seconds} s for its turn, {why}")));
            }
        }
    }
}
