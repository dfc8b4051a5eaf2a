//! Bodies that flow through the endpoint, in parts.
//!
//! Always: no more of a body is in memory than one part, or than [`whole`] was asked for; a side that stops for too long ends it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How long either side may do nothing.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// How long a body of unknown length is waited for before its first bytes go on.
const SOON: Duration = Duration::from_secs(1);

/// A body that fails when no part of it comes for [`IDLE`].
pub(crate) struct Flowing<B> {
    /// What was read before.
    ahead: Option<Bytes>,
    inner: B,
    parts: Arc<AtomicU64>,
    /// From when on a part is waited for.
    since: Option<Instant>,
    /// When to look whether it has been for too long: moved when it is over, not for each part.
    look: Option<Pin<Box<Sleep>>>,
}

impl<B> Flowing<B> {
    pub(crate) fn new(inner: B) -> Self {
        Self { ahead: None, inner, parts: Arc::default(), since: None, look: None }
    }

    /// How many parts have come.
    pub(crate) fn parts(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.parts)
    }
}

impl<B> hyper::body::Body for Flowing<B>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(part) = this.ahead.take().filter(|part| !part.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(part) => {
                this.parts.fetch_add(1, Relaxed);
                this.since = None;
                Poll::Ready(part.map(|part| part.map_err(Into::into)))
            }
            Poll::Pending => {
                let end = *this.since.get_or_insert_with(Instant::now) + IDLE;
                let look = this.look.get_or_insert_with(|| Box::pin(sleep_until(end)));
                while look.as_mut().poll(cx).is_ready() {
                    if look.deadline() >= end {
                        return Poll::Ready(Some(Err("no part of the body came in time".into())));
                    }
                    look.as_mut().reset(end);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // With something ahead, the length is not known.
        if self.ahead.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

/// A body's first bytes.
pub(crate) enum Begun<B> {
    /// They are all of it.
    Whole(Bytes),
    /// There is more than was asked for.
    Longer(B),
    Failed,
}

/// Reads a body that has at most `most` bytes. A body that does not say how long it is may have no end: [`SOON`], it is taken for a longer
/// one.
pub(crate) async fn whole<B>(mut body: Flowing<B>, most: u64) -> Begun<Flowing<B>>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let length = body.size_hint().upper();
    if length.is_some_and(|length| length > most) {
        return Begun::Longer(body);
    }
    let end = Instant::now() + if length.is_none() { SOON } else { IDLE };
    let mut bytes = Vec::new();
    while bytes.len() as u64 <= most {
        match timeout_at(end, body.frame()).await {
            Ok(None) => return Begun::Whole(bytes.into()),
            Ok(Some(Ok(part))) => bytes.extend_from_slice(part.data_ref().map_or(&[], |data| data)),
            Ok(Some(Err(_))) => return Begun::Failed,
            Err(_) if length.is_none() => break,
            // However many parts it comes in.
            Err(_) => return Begun::Failed,
        }
    }
    body.ahead = Some(bytes.into());
    Begun::Longer(body)
}
