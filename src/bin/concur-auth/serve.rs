//! The local endpoint: tokens for programs in any language, kept alive; and the same without an endpoint.
//!
//! Always: the refresh token never leaves the process. What a client does harms no other client and no renewal.

mod body;
mod counts;
mod door;
#[cfg(fuzzing)]
mod fuzzing;
mod listeners;
mod proxy;
mod routes;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use concur_auth::{Error, FleetKeepAlive, KeepAlive};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio_io_timeout::TimeoutStream;

use self::{counts::Counts, door::Door, listeners::Connection, proxy::Proxy, routes::Served};
use crate::{
    arguments::ServeArguments,
    failure::{Failure, Outcome},
    place::{Kept, Place},
    say,
    service_manager::{self, Activated},
    signals::{PATIENCE, ended},
};

/// For the head of a request, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For a client that does not take what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request. hyper lets it have 100 headers.
const MAX_HEAD: usize = 16 * 1024;
/// The most of a body that is read or written at once: with as little as for a head, an upload takes twice the time.
const MAX_BUFFER: usize = 128 * 1024;
/// How long requests in flight are waited for. The program ends within ten seconds; the rest of these is a renewal's.
const FOR_REQUESTS: Duration = Duration::from_secs(7);

/// Keeps tokens alive while it is held.
enum Guard {
    One { _guard: KeepAlive },
    Fleet { _guard: FleetKeepAlive },
}

async fn kept_alive(kept: &Kept) -> Result<Guard, Error> {
    Ok(match kept {
        Kept::One(tokens) => Guard::One { _guard: tokens.manager.keep_alive().await? },
        Kept::Fleet(fleet) => Guard::Fleet { _guard: fleet.keep_alive().await? },
    })
}

pub(crate) async fn run(place: &Place, arguments: ServeArguments, activated: Activated) -> Outcome {
    let mut ended = std::pin::pin!(ended());
    let counts =
        Counts::installed().map_err(|e| Failure::Other(format!("could not count for /metrics: {e}")))?;
    let kept = place.kept().await?;
    let listeners = listeners::open(&arguments, activated)?;
    let proxy = arguments.proxy.then(Proxy::new).transpose()?;
    let served = Arc::new(Served {
        kept: kept.clone(),
        proxy,
        counts,
        members: Mutex::default(),
        last: Mutex::default(),
    });
    let _guard = kept_alive(&kept).await?;

    let graceful = Arc::new(GracefulShutdown::new());
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        // A service without a standard output serves, too.
        let _ = say::out(&format!("listening on {}", listener.name()));
        let (served, graceful) = (Arc::clone(&served), Arc::clone(&graceful));
        accepting.spawn(async move {
            let door = Arc::new(listener.door());
            loop {
                let Some((connection, place)) = listener.accept().await else { continue };
                let connection = served_on(connection, &served, &door);
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    // A client that went away, or was too slow.
                    let _ = connection.await;
                    drop(place);
                });
            }
        });
    }
    let watch = tokio::spawn(told(kept.clone(), |line| service_manager::status(&line)));
    service_manager::ready("serving tokens");

    (&mut ended).await;
    service_manager::stopping();
    // Closes the listeners, so that no new connections come.
    accepting.shutdown().await;
    watch.abort();
    let started = tokio::time::Instant::now();
    // The listeners' parts of it are gone with them.
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(FOR_REQUESTS, graceful.shutdown()).await;
    }
    Ok(kept.shutdown(PATIENCE.saturating_sub(started.elapsed())).await?)
}

type Io = TokioIo<std::pin::Pin<Box<TimeoutStream<Connection>>>>;

/// One connection, with all its requests.
fn served_on(
    connection: Connection,
    served: &Arc<Served>,
    door: &Arc<Door>,
) -> http1::Connection<
    Io,
    impl hyper::service::HttpService<
        hyper::body::Incoming,
        ResBody = routes::Body,
        Error = std::convert::Infallible,
        Future: Send,
    > + use<>,
> {
    let mut io = TimeoutStream::new(connection);
    io.set_write_timeout(Some(WRITE_TIMEOUT));
    let (served, door) = (Arc::clone(served), Arc::clone(door));
    let service = service_fn(move |request| {
        let (served, door) = (Arc::clone(&served), Arc::clone(&door));
        async move { Ok(routes::answer(&served, &door, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(Box::pin(io)), service)
}

/// Keeps the tokens alive without an endpoint, and prints a line for each change.
pub(crate) async fn keep_alive(place: &Place) -> Outcome {
    let ended = ended();
    keep(place.kept().await?, ended).await
}

/// The same for what is at hand.
pub(crate) async fn keep(kept: Kept, ended: impl Future<Output = u8>) -> Outcome {
    let _guard = kept_alive(&kept).await?;
    service_manager::ready("keeping tokens alive");
    let told = told(kept.clone(), |line| {
        service_manager::status(&line);
        let _ = say::out(&line);
    });
    tokio::select! {
        biased;
        _ = ended => {}
        () = told => {}
    }
    service_manager::stopping();
    Ok(kept.shutdown(PATIENCE).await?)
}

/// Tells of each change.
async fn told(kept: Kept, tell: impl Fn(String)) {
    match kept {
        Kept::One(tokens) => {
            let mut changes = tokens.manager.subscribe().await;
            while let Some(status) = changes.next().await {
                tell(status.to_string());
            }
        }
        Kept::Fleet(fleet) => {
            let mut events = fleet.events();
            while let Some(event) = events.next().await {
                tell(say::event(&event));
            }
        }
    }
    // A manager that ends has nothing more to tell; the program ends by a signal.
    std::future::pending().await
}
