//! The other processes: what the program is compared with, and the upstream that it forwards to.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use concur_auth::reqwest;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

/// Does nothing.
pub const NOTHING: &str = "nothing";
/// Answers each request with as many bytes as its second argument says.
pub const CONSTANT: &str = "constant";
/// Forwards to its second argument.
pub const PROXY: &str = "proxy";
/// What is forwarded to.
pub const UPSTREAM: &str = "upstream";

/// How many bytes an API's small reply has.
pub const SMALL: usize = 500;
/// One part of a large body.
const PART: usize = 64 * 1024;

/// Plays a role until the process is killed; `false` where there is no such role.
pub fn play(role: &str, arguments: &[String]) -> bool {
    match (role, arguments) {
        (NOTHING, []) => {}
        (CONSTANT, [socket, length]) => {
            let text = Bytes::from(vec![b'x'; length.parse().expect("a length")]);
            run(serve_unix(socket, move |_| {
                let text = text.clone();
                async move { Response::new(Full::new(text)) }
            }));
        }
        (PROXY, [socket, upstream]) => {
            let (http, upstream) = (reqwest::Client::new(), upstream.clone());
            run(serve_unix(socket, move |request| forward(http.clone(), upstream.clone(), request)));
        }
        (UPSTREAM, []) => run(upstream()),
        _ => return false,
    }
    true
}

/// As many threads as the program has.
fn run(served: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(served);
}

async fn serve_unix<B, F>(
    socket: &str,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let listener = UnixListener::bind(socket).expect("a socket");
    println!("listening on unix:{socket}");
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, answer.clone()));
    }
}

async fn serve<B, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
) where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The same steps as the program's, without a check, a limit, a time-out or a token.
async fn forward(
    http: reqwest::Client,
    upstream: String,
    request: Request<Incoming>,
) -> Response<reqwest::Body> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).trim_start_matches("/api");
    let request = http.request(parts.method, upstream + path);
    for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let request = request.headers(parts.headers);
    let request = if body.is_end_stream() { request } else { request.body(reqwest::Body::wrap(body)) };
    let mut response = Response::<reqwest::Body>::from(request.send().await.expect("the upstream"));
    response.headers_mut().remove(CONNECTION);
    response
}

/// `GET /small`; `GET /large/{bytes}`; any other request's body is counted.
async fn upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("http://{}", listener.local_addr().expect("an address"));
    let (small, part) = (Bytes::from(vec![b'x'; SMALL]), Bytes::from(vec![b'x'; PART]));
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        let (small, part) = (small.clone(), part.clone());
        tokio::spawn(serve(stream, move |request: Request<Incoming>| {
            let (small, part) = (small.clone(), part.clone());
            async move {
                let path = request.uri().path();
                let body = if let Some(left) = path.strip_prefix("/large/") {
                    Repeated { left: left.parse().expect("a length"), part }.boxed_unsync()
                } else if path == "/small" {
                    Full::new(small).boxed_unsync()
                } else {
                    Full::new(counted(request.into_body()).await.to_string().into()).boxed_unsync()
                };
                Response::<UnsyncBoxBody<Bytes, Infallible>>::new(body)
            }
        }));
    }
}

async fn counted(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(Ok(part)) = body.frame().await {
        length += part.data_ref().map_or(0, Bytes::len);
    }
    length
}

/// One part again and again, until all is sent.
struct Repeated {
    left: u64,
    part: Bytes,
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.min(self.part.len() as u64);
        if length == 0 {
            return Poll::Ready(None);
        }
        self.left -= length;
        Poll::Ready(Some(Ok(Frame::data(self.part.slice(..length as usize)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
