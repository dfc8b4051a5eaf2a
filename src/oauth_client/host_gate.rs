//! How much one host is asked at once, and when not at all: kept by the client, for all managers on it.
//!
//! Always: no I/O and no clock here, and any executor can wait for a turn. Requests get their turns in the order in which
//! they came. A host that does not answer in time gets one request at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use tokio::sync::{self, Notify};

use crate::{Error, Geolocation, caught::locked, server_pause::ServerPause};

/// After so many time-outs in a row a host gets one request at a time until it answers one.
const MOST_TIME_OUTS: u32 = 3;

/// The gates of a client's hosts.
#[derive(Debug)]
pub(super) struct HostGates {
    most_at_once: usize,
    gates: Mutex<HashMap<String, Arc<HostGate>>>,
}

impl HostGates {
    pub(super) fn new(most_at_once: usize) -> Self {
        Self { most_at_once, gates: Mutex::default() }
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.most_at_once
    }

    /// The gate of a host that has been asked before. To look at it costs a manager that sends nothing no memory.
    pub(super) fn known(&self, base: &Geolocation) -> Option<Arc<HostGate>> {
        locked(&self.gates).get(base.as_str()).map(Arc::clone)
    }

    pub(super) fn of(&self, base: &Geolocation) -> Arc<HostGate> {
        let mut gates = locked(&self.gates);
        if let Some(gate) = gates.get(base.as_str()) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(HostGate::new(self.most_at_once));
        gates.insert(base.as_str().to_owned(), Arc::clone(&gate));
        gate
    }
}

#[derive(Debug)]
pub(super) struct HostGate {
    most_at_once: usize,
    state: Mutex<State>,
    /// Locked by the request that is next; those behind it wait for the lock, which is fair.
    next: sync::Mutex<()>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// Time-outs since the last answer.
    time_outs: u32,
    pause: ServerPause,
    /// How many answers have asked for a pause.
    pauses: u64,
}

/// The right to have one request under way. Dropping it ends the turn.
#[derive(Debug)]
pub(super) struct Turn {
    gate: Arc<HostGate>,
    /// How many answers had asked for a pause when the turn began.
    pauses: u64,
}

impl HostGate {
    fn new(most_at_once: usize) -> Self {
        Self {
            most_at_once: most_at_once.max(1),
            state: Mutex::default(),
            next: sync::Mutex::new(()),
            freed: Notify::new(),
        }
    }

    /// The answer in which the host asked for a pause, while that lasts.
    pub(super) fn check(&self, now: SystemTime) -> Result<(), Error> {
        self.state().pause.check(now)
    }

    /// Waits until the next request may be sent.
    pub(super) async fn turn(self: &Arc<Self>) -> Turn {
        let _next = self.next.lock().await;
        loop {
            if let Some(turn) = self.free_turn() {
                return turn;
            }
            // A turn that ended since the look is not missed: `notify_one` is remembered.
            self.freed.notified().await;
        }
    }

    fn free_turn(self: &Arc<Self>) -> Option<Turn> {
        let mut state = self.state();
        let most = if state.is_slow() { 1 } else { self.most_at_once };
        (state.under_way < most).then(|| {
            state.under_way += 1;
            Turn { gate: Arc::clone(self), pauses: state.pauses }
        })
    }

    /// Why a request waits for its turn, and what its sender can do about that.
    pub(super) fn why_waiting(&self) -> String {
        let state = self.state();
        if state.is_slow() {
            format!(
                "because that host did not answer the last {} requests in time, and gets one at a time until it answers; \
                 try again later",
                state.time_outs
            )
        } else {
            format!(
                "because all turns at that host were taken ({} at once); try again later, or allow more with \
                 OAuthClient::max_concurrent_requests",
                self.most_at_once
            )
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }
}

impl State {
    fn is_slow(&self) -> bool {
        self.time_outs >= MOST_TIME_OUTS
    }
}

impl Turn {
    /// The host answered, with a success or with this error.
    pub(super) fn answered(self, outcome: Result<(), &Error>, now: SystemTime) {
        let mut state = self.gate.state();
        state.time_outs = 0;
        match outcome {
            // A success ends the pause early, unless the host asked for it after the request was sent.
            Ok(()) if state.pauses == self.pauses => state.pause.end(),
            Err(error) if error.retry_after().is_some() && ServerPause::is_for_all(error) => {
                state.pause.begin(error, now);
                state.pauses += 1;
            }
            _ => {}
        }
    }

    /// No answer came in time. (A connection that failed at once says nothing about how slow the host is.)
    pub(super) fn timed_out(self) {
        let mut state = self.gate.state();
        state.time_outs = state.time_outs.saturating_add(1);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.state().under_way -= 1;
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;
    use crate::{ConcurCode, ErrorKind, clock::from_unix_seconds};

    fn at(seconds: u64) -> SystemTime {
        from_unix_seconds(seconds).unwrap()
    }

    fn gate(most_at_once: usize) -> Arc<HostGate> {
        let base = "https://us.api.concursolutions.com".parse().unwrap();
        HostGates::new(most_at_once).of(&base)
    }

    fn busy(retry_after: u64) -> Error {
        Error::new(ErrorKind::Unavailable, "busy").with_retry_after(Some(Duration::from_secs(retry_after)))
    }

    type Waiting<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

    fn ask(gate: &Arc<HostGate>) -> Waiting<'_> {
        Box::pin(gate.turn())
    }

    fn poll(waiting: &mut Waiting<'_>) -> Option<Turn> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn now(gate: &Arc<HostGate>) -> Turn {
        poll(&mut ask(gate)).expect("a free turn")
    }

    #[test]
    fn so_many_requests_run_at_once_and_the_others_come_in_their_order() {
        let gate = gate(2);
        let (first, second) = (now(&gate), now(&gate));
        let (mut third, mut fourth) = (ask(&gate), ask(&gate));
        assert!(poll(&mut third).is_none() && poll(&mut fourth).is_none());
        drop(first);
        // It came later, and is polled earlier.
        assert!(poll(&mut fourth).is_none());
        let third = poll(&mut third).unwrap();
        assert!(poll(&mut fourth).is_none());
        drop((second, third));
        assert!(poll(&mut fourth).is_some());
    }

    #[test]
    fn who_waits_no_more_holds_up_no_other() {
        let gate = gate(1);
        let running = now(&gate);
        let (mut gone, mut late, mut next) = (ask(&gate), ask(&gate), ask(&gate));
        assert!([&mut gone, &mut late, &mut next].map(poll).iter().all(Option::is_none));
        drop(gone);
        assert!(poll(&mut late).is_none());
        drop(running);
        // Its turn has come, and it goes without having noticed.
        drop(late);
        assert!(poll(&mut next).is_some());
    }

    #[test]
    fn at_least_one_request_may_run() {
        drop(now(&gate(0)));
    }

    #[test]
    fn after_three_time_outs_in_a_row_one_request_runs_at_a_time_until_one_is_answered() {
        let gate = gate(10);
        let mut running: Vec<_> = (0..5).map(|_| now(&gate)).collect();
        for slow in 0..2 {
            running.pop().unwrap().timed_out();
            running.push(now(&gate));
            assert!(gate.why_waiting().contains("taken (10 at once)"), "{slow}");
        }
        running.pop().unwrap().timed_out();
        assert_eq!(
            gate.why_waiting(),
            "because that host did not answer the last 3 requests in time, and gets one at a time until it answers; try \
             again later"
        );
        let mut others: Vec<_> = (0..3).map(|_| ask(&gate)).collect();
        assert!(others.iter_mut().all(|other| poll(other).is_none()), "while four are still under way");
        drop(running);
        let probe = poll(&mut others[0]).unwrap();
        assert!(poll(&mut others[1]).is_none());
        // A connection that is refused at once is no answer.
        drop(probe);
        let probe = poll(&mut others[1]).unwrap();
        assert!(poll(&mut others[2]).is_none());
        // Any answer is one.
        probe.answered(Err(&Error::new(ErrorKind::Refused, "no")), at(1000));
        let _others = [poll(&mut others[2]).unwrap(), now(&gate), now(&gate)];
    }

    #[test]
    fn a_pause_is_for_all_unless_it_came_with_a_code() {
        let gate = gate(10);
        now(&gate).answered(Err(&busy(100).with_code(Some(ConcurCode::new(134)), false)), at(1000));
        gate.check(at(1000)).unwrap();
        now(&gate).answered(Err(&busy(100)), at(1000));
        let error = gate.check(at(1001)).unwrap_err();
        assert!(error.is_held_back());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(99)));
        gate.check(at(1100)).unwrap();
    }

    #[test]
    fn a_success_ends_a_pause_unless_it_was_sent_before_the_pause() {
        let gate = gate(10);
        let earlier = now(&gate);
        now(&gate).answered(Err(&busy(100)), at(1000));
        earlier.answered(Ok(()), at(1001));
        gate.check(at(1001)).unwrap_err();
        now(&gate).answered(Err(&Error::new(ErrorKind::Refused, "no")), at(1001));
        gate.check(at(1001)).unwrap_err();
        now(&gate).answered(Ok(()), at(1001));
        gate.check(at(1001)).unwrap();
    }

    #[test]
    fn each_host_has_a_gate_of_its_own() {
        let gates = HostGates::new(1);
        let [us, eu] = ["us", "eu"].map(|name| {
            gates.of(&format!("https://{name}.api.concursolutions.com").parse::<Geolocation>().unwrap())
        });
        let _us = now(&us);
        drop(now(&eu));
        assert!(Arc::ptr_eq(&us, &gates.of(&"https://us.api.concursolutions.com/path".parse().unwrap())));
    }
}
