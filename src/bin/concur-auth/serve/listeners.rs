//! Where the endpoint listens, and how many clients it lets in.
//!
//! Always: a socket is private from the moment that it can be found; a socket that answers is never taken over; nothing listens on
//! another address than loopback.

#[cfg(unix)]
use std::{
    fs,
    path::{Path, PathBuf},
};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::door::{Door, Key};
use crate::{
    arguments::ServeArguments,
    failure::{Failure, Outcome},
    say,
    service_manager::Activated,
};

/// How many connections a listener has at once, if the process may have so many files.
const MOST_CONNECTIONS: u64 = 512;
/// Files that the program needs for anything but connections.
const OTHER_FILES: u64 = 128;

pub(crate) struct Listener {
    socket: Socket,
    places: Arc<Semaphore>,
}

enum Socket {
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        name: String,
        users: Users,
        _claim: Option<Claim>,
    },
    Tcp {
        listener: TcpListener,
        address: SocketAddr,
        key: Key,
    },
}

/// A connection of either kind.
pub(crate) enum Connection {
    #[cfg(unix)]
    Unix(UnixStream),
    Tcp(TcpStream),
}

pub(crate) fn open(arguments: &ServeArguments, activated: Activated) -> Outcome<Vec<Listener>> {
    let mut sockets = given(arguments, activated)?;
    if let Some(address) = arguments.listen {
        sockets.push(tcp(bound(address)?, arguments)?);
    }
    #[cfg(unix)]
    if arguments.socket.is_some() || sockets.is_empty() {
        let path = arguments.socket.clone().map_or_else(default_socket, Ok)?;
        sockets.push(unix(&path, arguments)?);
    }
    #[cfg(not(unix))]
    if arguments.socket.is_some() || sockets.is_empty() {
        return Err(Failure::Usage(
            "there are no Unix sockets here; use --listen ADDRESS --key-file FILE".to_owned(),
        ));
    }
    let most = most_connections(sockets.len());
    let listener = |socket| Listener { socket, places: Arc::new(Semaphore::new(most)) };
    Ok(sockets.into_iter().map(listener).collect())
}

/// A proxied request has a connection to Concur, too.
fn most_connections(listeners: usize) -> usize {
    #[cfg(unix)]
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    #[cfg(not(unix))]
    let files = u64::MAX;
    let listeners = u64::try_from(listeners).unwrap_or(1).max(1);
    let most = (files.saturating_sub(OTHER_FILES) / 2 / listeners).clamp(4, MOST_CONNECTIONS);
    usize::try_from(most).unwrap_or(4)
}

/// Those of the service manager.
#[cfg(unix)]
fn given(arguments: &ServeArguments, activated: Activated) -> Outcome<Vec<Socket>> {
    let Some(mut activated) = activated else { return Ok(Vec::new()) };
    let unusable = |e: io::Error| Failure::io("a listener of the service manager's cannot be used", &e);
    let mut sockets = Vec::new();
    for i in 0..activated.len() {
        if let Ok(Some(listener)) = activated.take_unix_listener(i) {
            let name = listener
                .local_addr()
                .ok()
                .and_then(|address| Some(address.as_pathname()?.display().to_string()));
            let name = format!("unix:{}", name.unwrap_or_default());
            listener.set_nonblocking(true).map_err(unusable)?;
            let listener = UnixListener::from_std(listener).map_err(unusable)?;
            sockets.push(Socket::Unix { listener, name, users: Users::of(arguments), _claim: None });
        } else if let Some(listener) = activated.take_tcp_listener(i).map_err(unusable)? {
            sockets.push(tcp(listener, arguments)?);
        }
    }
    Ok(sockets)
}

#[cfg(not(unix))]
fn given(_: &ServeArguments, (): Activated) -> Outcome<Vec<Socket>> {
    Ok(Vec::new())
}

fn bound(address: SocketAddr) -> Outcome<std::net::TcpListener> {
    if !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "{address} can be reached from other machines; listen on a loopback address, such as 127.0.0.1:8099"
        )));
    }
    std::net::TcpListener::bind(address)
        .map_err(|e| Failure::io(format_args!("could not listen on {address}"), &e))
}

fn tcp(listener: std::net::TcpListener, arguments: &ServeArguments) -> Outcome<Socket> {
    let unusable = |e: io::Error| Failure::io("could not listen", &e);
    let address = listener.local_addr().map_err(unusable)?;
    if !address.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "{address} can be reached from other machines; use a loopback address"
        )));
    }
    let file = arguments.key_file.as_ref().ok_or_else(|| {
        Failure::Usage(
            "a loopback address can be used by every user of this machine; add --key-file FILE".to_owned(),
        )
    })?;
    let key = Key::in_file(file, arguments.key_file_mode)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    Ok(Socket::Tcp { listener: TcpListener::from_std(listener).map_err(unusable)?, address, key })
}

#[cfg(unix)]
fn default_socket() -> Outcome<PathBuf> {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(Path::new(&folder).join("concur-auth.sock")),
        None => Err(Failure::Usage(
            "XDG_RUNTIME_DIR is not set; add --socket PATH or --listen ADDRESS".to_owned(),
        )),
    }
}

/// Those whose processes may connect: our own user, root, and who was named.
#[cfg(unix)]
struct Users {
    uids: Vec<u32>,
    /// When it was said last that a process was turned away.
    said: std::sync::Mutex<Option<std::time::Instant>>,
}

#[cfg(unix)]
impl Users {
    fn of(arguments: &ServeArguments) -> Self {
        let ours = rustix::process::geteuid().as_raw();
        let uids = [ours, 0].into_iter().chain(arguments.allow_uid.iter().copied()).collect();
        Self { uids, said: std::sync::Mutex::default() }
    }

    /// Whether a process of this user may connect. A refusal is said, once in a second: a flood does not fill the log.
    fn admit(&self, uid: u32) -> bool {
        let is_admitted = self.uids.contains(&uid);
        let mut said = crate::locked(&self.said);
        if !is_admitted && said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1)) {
            *said = Some(std::time::Instant::now());
            say::note(&format!("a process of user {uid} was turned away; --allow-uid lets it in"));
        }
        is_admitted
    }
}

/// The right to be at a path, until the process ends.
#[cfg(unix)]
struct Claim {
    path: PathBuf,
    _lock: fs::File,
}

#[cfg(unix)]
impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn unix(path: &Path, arguments: &ServeArguments) -> Outcome<Socket> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

    let cannot = |e: io::Error| Failure::io(format_args!("could not listen on {}", path.display()), &e);
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let taken = || {
        Failure::Other(format!("another process listens on {}; end it, or use another path", path.display()))
    };
    // Held until the process ends: two that start at once do not both find that no process answers.
    let lock =
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(with(".lock")).map_err(cannot)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(taken()),
        Err(fs::TryLockError::Error(e)) => return Err(cannot(e)),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(taken()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        // Left by a process that was killed.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) => return Err(cannot(e)),
    }
    if fs::symlink_metadata(path).is_ok_and(|found| !is_socket(&found)) {
        return Err(Failure::Other(format!(
            "{} is no socket; remove it, or use another path",
            path.display()
        )));
    }
    // Under another name until its mode is set.
    let unfinished = with(&format!(".tmp-{}", std::process::id()));
    let _ = fs::remove_file(&unfinished);
    let listener = UnixListener::bind(&unfinished).map_err(cannot)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(arguments.socket_mode)).map_err(cannot)?;
    fs::rename(&unfinished, path).map_err(cannot)?;
    let name = format!("unix:{}", path.display());
    let claim = Claim { path: path.to_owned(), _lock: lock };
    Ok(Socket::Unix { listener, name, users: Users::of(arguments), _claim: Some(claim) })
}

#[cfg(unix)]
fn is_socket(found: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&found.file_type())
}

impl Listener {
    pub(crate) fn name(&self) -> String {
        match &self.socket {
            #[cfg(unix)]
            Socket::Unix { name, .. } => name.clone(),
            Socket::Tcp { address, .. } => format!("http://{address}"),
        }
    }

    /// What a request that comes through this listener must show.
    pub(crate) fn door(&self) -> Door {
        match &self.socket {
            #[cfg(unix)]
            Socket::Unix { .. } => Door::Socket,
            Socket::Tcp { address, key, .. } => {
                Door::Loopback { address: address.to_string(), key: key.clone() }
            }
        }
    }

    /// The next client that may come in, and its place; `None` for a client that is turned away.
    pub(crate) async fn accept(&self) -> Option<(Connection, OwnedSemaphorePermit)> {
        let connection = match &self.socket {
            #[cfg(unix)]
            Socket::Unix { listener, users, .. } => match listener.accept().await {
                Ok((connection, _)) => {
                    if !users.admit(connection.peer_cred().ok()?.uid()) {
                        return None;
                    }
                    Connection::Unix(connection)
                }
                Err(e) => return failed(&e).await,
            },
            Socket::Tcp { listener, .. } => match listener.accept().await {
                Ok((connection, _)) => {
                    let _ = connection.set_nodelay(true);
                    Connection::Tcp(connection)
                }
                Err(e) => return failed(&e).await,
            },
        };
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some((connection, place))
    }
}

/// Too many open files, perhaps: another moment, and not all of the processor's time.
async fn failed<T>(error: &io::Error) -> Option<T> {
    say::note(&format!("could not let a client in: {error}"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    None
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(connection) => Pin::new(connection).poll_read(cx, buffer),
            Self::Tcp(connection) => Pin::new(connection).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(connection) => Pin::new(connection).poll_write(cx, bytes),
            Self::Tcp(connection) => Pin::new(connection).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(connection) => Pin::new(connection).poll_write_vectored(cx, bytes),
            Self::Tcp(connection) => Pin::new(connection).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(connection) => Pin::new(connection).poll_flush(cx),
            Self::Tcp(connection) => Pin::new(connection).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(connection) => Pin::new(connection).poll_shutdown(cx),
            Self::Tcp(connection) => Pin::new(connection).poll_shutdown(cx),
        }
    }
}
