//! Concur behind a lock, served by wiremock on loopback: one port for each base URI.
//!
//! Always: a request is answered as a whole, fault included, before the next one is looked at.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wiremock::{Match, Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

use super::endpoints::Concur;

/// Ends when dropped.
pub(super) struct Server {
    desk: Arc<Desk>,
    _wiremock: MockServer,
}

struct Desk {
    base_uri: String,
    concur: Arc<Mutex<Concur>>,
    /// The reply to the request that wiremock is working on.
    reply: Mutex<Option<ResponseTemplate>>,
}

impl Server {
    /// Serves the Concur that `create` makes for a base URI.
    pub(super) async fn start(create: impl FnOnce(String) -> Concur) -> Self {
        let wiremock = MockServer::builder().disable_request_recording().start().await;
        let concur = Arc::new(Mutex::new(create(wiremock.uri())));
        Self::serve(wiremock, concur).await
    }

    /// Serves the same Concur at one more base URI.
    pub(super) async fn start_another(&self) -> Self {
        let wiremock = MockServer::builder().disable_request_recording().start().await;
        Self::serve(wiremock, Arc::clone(&self.desk.concur)).await
    }

    async fn serve(wiremock: MockServer, concur: Arc<Mutex<Concur>>) -> Self {
        let desk = Arc::new(Desk { base_uri: wiremock.uri(), concur, reply: Mutex::new(None) });
        Mock::given(ConnectionIsClosed(Arc::clone(&desk)))
            .respond_with_err(|_: &Request| io::Error::from(io::ErrorKind::ConnectionAborted))
            .mount(&wiremock)
            .await;
        Mock::given(matchers::any()).respond_with(PreparedReply(Arc::clone(&desk))).mount(&wiremock).await;
        Self { desk, _wiremock: wiremock }
    }

    pub(super) fn base_uri(&self) -> &str {
        &self.desk.base_uri
    }

    pub(super) fn concur(&self) -> MutexGuard<'_, Concur> {
        lock(&self.desk.concur)
    }
}

/// Matches where no reply is to be sent.
///
/// A mock either replies or closes the connection, and which of the two is known only once the request has been
/// answered. So it is answered here, and the reply waits for the mock that sends it. They do not mix up:
/// wiremock takes one request at a time, and asks its mocks in the order they were mounted.
struct ConnectionIsClosed(Arc<Desk>);

impl Match for ConnectionIsClosed {
    fn matches(&self, request: &Request) -> bool {
        let reply = lock(&self.0.concur).answer(&self.0.base_uri, request);
        let is_closed = reply.is_none();
        *lock(&self.0.reply) = reply;
        is_closed
    }
}

struct PreparedReply(Arc<Desk>);

impl Respond for PreparedReply {
    fn respond(&self, _: &Request) -> ResponseTemplate {
        lock(&self.0.reply).take().unwrap_or_else(|| ResponseTemplate::new(500))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
