//! Concur behind a lock, served by wiremock on loopback: one port for each base URI.
//!
//! Always: a request is answered completely, fault included, before the next request is looked at. A reply that is held
//! back blocks the server's only thread, and so only the requests behind it.

use std::{
    io,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use wiremock::{Match, Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use super::{
    endpoints::Concur,
    held_replies::{Gate, HeldReplies},
    recorded_request::RecordedRequest,
};
use crate::caught::locked;

/// Ends when dropped.
pub(super) struct Server {
    desk: Arc<Desk>,
    /// There until the end.
    wiremock: Option<MockServer>,
}

struct Desk {
    base_uri: String,
    concur: Arc<Mutex<Concur>>,
    /// The reply to the request that wiremock is working on.
    reply: Mutex<Option<ResponseTemplate>>,
    gate: Arc<Gate>,
}

impl Server {
    /// Serves the Concur that `create` makes for a base URI.
    pub(super) async fn start(listener: Option<TcpListener>, create: impl FnOnce(String) -> Concur) -> Self {
        let builder = MockServer::builder().disable_request_recording();
        let wiremock = match listener {
            Some(listener) => builder.listener(listener).start().await,
            None => builder.start().await,
        };
        let concur = Arc::new(Mutex::new(create(wiremock.uri())));
        Self::serve(wiremock, concur, Arc::default()).await
    }

    /// Serves the same Concur at one more base URI.
    pub(super) async fn start_another(&self) -> Self {
        let wiremock = MockServer::builder().disable_request_recording().start().await;
        Self::serve(wiremock, Arc::clone(&self.desk.concur), Arc::clone(&self.desk.gate)).await
    }

    async fn serve(wiremock: MockServer, concur: Arc<Mutex<Concur>>, gate: Arc<Gate>) -> Self {
        let desk = Arc::new(Desk { base_uri: wiremock.uri(), concur, reply: Mutex::new(None), gate });
        Mock::given(ConnectionIsClosed(Arc::clone(&desk)))
            .respond_with_err(|_: &Request| io::Error::from(io::ErrorKind::ConnectionAborted))
            .mount(&wiremock)
            .await;
        Mock::given(matchers::any()).respond_with(PreparedReply(Arc::clone(&desk))).mount(&wiremock).await;
        Self { desk, wiremock: Some(wiremock) }
    }

    pub(super) fn base_uri(&self) -> &str {
        &self.desk.base_uri
    }

    pub(super) fn concur(&self) -> MutexGuard<'_, Concur> {
        locked(&self.desk.concur)
    }

    pub(super) fn hold_replies(&self) -> HeldReplies {
        self.desk.gate.hold()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // wiremock waits for the request that it is working on.
        self.desk.gate.lift_all();
        let wiremock = self.wiremock.take();
        // It waits in a loop, which would not end in a task that has used up its share of tokio's time: tokio lets such a task
        // wait until it gives way. A new thread is no task.
        if let Ok(ending) = thread::Builder::new().spawn(move || drop(wiremock)) {
            let _ = ending.join();
        }
    }
}

/// Matches a request that must get no reply.
///
/// A mock either replies or closes the connection, and only the answer to the request decides which. So the request is
/// answered here, and the reply waits for the mock that sends it. Replies do not get mixed up:
/// wiremock takes one request at a time, and asks its mocks in the order they were mounted.
struct ConnectionIsClosed(Arc<Desk>);

impl Match for ConnectionIsClosed {
    fn matches(&self, request: &Request) -> bool {
        let arrival = self.0.gate.arrival();
        let (reply, can_be_held) = {
            let mut concur = locked(&self.0.concur);
            let reply = concur.answer(&self.0.base_uri, request);
            (reply, concur.requests.last().is_some_and(RecordedRequest::can_be_held))
        };
        let is_closed = reply.is_none();
        *locked(&self.0.reply) = reply;
        if can_be_held {
            self.0.gate.pass(arrival);
        }
        is_closed
    }
}

struct PreparedReply(Arc<Desk>);

impl Respond for PreparedReply {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        locked(&self.0.reply).take().unwrap_or_else(|| ResponseTemplate::new(500))
    }
}
