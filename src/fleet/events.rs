//! What happens to the members of a fleet in this process.
//!
//! Always: a slow listener delays no renewal, and costs no memory without bound.

use std::{fmt, sync::Arc};

use tokio::sync::broadcast::{self, error::RecvError};

use crate::{MemberKind, Status, manager::Observer};

/// How many events a listener may be behind.
const KEPT: usize = 1_024;

/// The status of a member of a [`Fleet`](crate::Fleet) has changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FleetEvent {
    /// The UUID of the company or user; of a principal that is not known yet, its pending name.
    pub uuid: Arc<str>,
    /// What it is.
    pub kind: MemberKind,
    /// Its status now.
    pub status: Status,
}

/// The events of a fleet in this process, from [`Fleet::events`](crate::Fleet::events).
pub struct FleetEvents(broadcast::Receiver<FleetEvent>);

impl FleetEvents {
    /// Waits for the next event; `None` once the fleet and all its managers are gone.
    ///
    /// A listener that is more than 1,024 events behind misses the oldest.
    pub async fn next(&mut self) -> Option<FleetEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl fmt::Debug for FleetEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetEvents").finish_non_exhaustive()
    }
}

/// Where the managers tell their events.
#[derive(Clone)]
pub(super) struct Events(broadcast::Sender<FleetEvent>);

impl Events {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    pub(super) fn listen(&self) -> FleetEvents {
        FleetEvents(self.0.subscribe())
    }

    pub(super) fn of(&self, kind: MemberKind, uuid: Arc<str>) -> Box<dyn Observer> {
        Box::new(OfMember { events: self.clone(), uuid, kind })
    }
}

struct OfMember {
    events: Events,
    uuid: Arc<str>,
    kind: MemberKind,
}

impl Observer for OfMember {
    fn is_listening(&self) -> bool {
        self.events.0.receiver_count() > 0
    }

    fn changed(&self, status: &Status) {
        let event = FleetEvent { uuid: Arc::clone(&self.uuid), kind: self.kind, status: status.clone() };
        // An error means that the last listener has gone.
        let _ = self.events.0.send(event);
    }
}
