//! Between a client and a server, on a socket of its own: cuts or holds a connection at one exact point of one statement.
//!
//! Always: it reads whole messages of PostgreSQL's protocol (the documentation's chapter "Frontend/Backend Protocol"), so a
//! point is exact: a statement whose request was cut was not executed; one whose reply was cut or held was executed, and
//! committed where it was a transaction by itself. It finds a statement by a part of its text, also where the text was
//! prepared before, under whatever name. It does not see into TLS.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Server,
    watchdog::{SOCKET, give_to_the_servers_user},
};

/// Closed, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    folder: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    refuses: bool,
    faults: Vec<Fault>,
    executed: Vec<String>,
    cuts: usize,
    /// Both ends of each open connection, to cut it.
    connections: HashMap<usize, [UnixStream; 2]>,
    accepted: usize,
}

#[derive(Debug)]
struct Fault {
    part: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    CutRequest,
    CutReply,
    HoldRequest(Arc<Gate>),
    HoldReply(Arc<Gate>),
}

impl Server for Proxy {
    fn host(&self) -> &Path {
        &self.folder
    }
}

impl Proxy {
    /// In the folder of `server`, which removes it.
    pub fn before(server: &dyn Server) -> Self {
        static PROXIES: AtomicUsize = AtomicUsize::new(0);
        let number = PROXIES.fetch_add(1, Ordering::Relaxed);
        let folder = server.host().join(format!("proxy-{number}"));
        fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
        give_to_the_servers_user(&folder);
        let shared = Shared { server: server.host().join(SOCKET), state: Mutex::default() };
        let shared = Arc::new(shared);
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self { folder, shared }
    }

    /// Cuts the connection of the next statement whose text contains `part`, instead of sending it on: not executed.
    pub fn cut_next_request(&self, part: &str) {
        self.arm(part, What::CutRequest);
    }

    /// Cuts the connection of the next statement whose text contains `part`, when the server has answered: executed, and
    /// its client will never know.
    pub fn cut_next_reply(&self, part: &str) {
        self.arm(part, What::CutReply);
    }

    /// Sends the next statement whose text contains `part` on when the guard is dropped: executed late, even where its
    /// client has given up.
    pub fn hold_next_request(&self, part: &str) -> Held {
        self.hold(part, What::HoldRequest)
    }

    /// Sends the reply to the next statement whose text contains `part` on when the guard is dropped: executed, and its
    /// client waits.
    pub fn hold_next_reply(&self, part: &str) -> Held {
        self.hold(part, What::HoldReply)
    }

    fn hold(&self, part: &str, what: impl Fn(Arc<Gate>) -> What) -> Held {
        let gate = Arc::new(Gate::default());
        self.arm(part, what(Arc::clone(&gate)));
        Held(gate)
    }

    fn arm(&self, part: &str, what: What) {
        self.shared.state().faults.push(Fault { part: part.to_owned(), what });
    }

    /// While `true`, every new connection is closed before the server hears of it.
    pub fn refuse(&self, refuses: bool) {
        self.shared.state().refuses = refuses;
    }

    /// Cuts all connections at once, whatever they are at.
    pub fn cut_all(&self) {
        self.shared.state().cut_all();
    }

    /// How many statements were cut.
    pub fn cuts(&self) -> usize {
        self.shared.state().cuts
    }

    /// The texts of all statements that were sent on for execution, in their order, `BEGIN` and the like among them.
    pub fn executed(&self) -> Vec<String> {
        self.shared.state().executed.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.closed = true;
            state.cut_all();
        }
        // What accepts sees that it is closed.
        let _ = UnixStream::connect(self.folder.join(SOCKET));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Holds one statement, or its reply, back until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<Gate>);

impl Held {
    /// Waits until there is what it holds: for a reply, until the statement was executed.
    pub fn wait(&self) {
        self.0.wait_for(|gate| gate.0);
    }

    /// Whether [`wait`](Self::wait) would return at once.
    pub fn is_reached(&self) -> bool {
        self.0.0.lock().unwrap().0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(|gate| gate.1 = true);
    }
}

/// Whether something waits at it, and whether it is open.
#[derive(Debug, Default)]
struct Gate(Mutex<(bool, bool)>, Condvar);

impl Gate {
    fn pass(&self) {
        self.set(|gate| gate.0 = true);
        self.wait_for(|gate| gate.1);
    }

    fn set(&self, change: impl Fn(&mut (bool, bool))) {
        change(&mut self.0.lock().unwrap());
        self.1.notify_all();
    }

    fn wait_for(&self, condition: impl Fn(&(bool, bool)) -> bool) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |gate| !condition(gate)).unwrap());
    }
}

impl State {
    fn cut_all(&mut self) {
        for [client, server] in self.connections.values() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    fn take_fault(&mut self, text: &str) -> Option<What> {
        let fault = self.faults.iter().position(|fault| text.contains(&fault.part))?;
        Some(self.faults.remove(fault).what)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for client in listener.incoming().flatten() {
            let mut state = self.state();
            if state.closed {
                return;
            }
            // Where the server is down, the client is told nothing either.
            let server = if state.refuses { None } else { UnixStream::connect(&self.server).ok() };
            let Some(server) = server else { continue };
            let ends = || Some([client.try_clone().ok()?, server.try_clone().ok()?]);
            let (Some(registered), Some(mine)) = (ends(), ends()) else { continue };
            let number = state.accepted;
            state.accepted += 1;
            state.connections.insert(number, registered);
            drop(state);
            let shared = Arc::clone(self);
            thread::spawn(move || {
                let [client, server] = mine;
                let _ = Connection::new(&shared, &client, &server).serve();
                for end in [client, server] {
                    let _ = end.shutdown(Shutdown::Both);
                }
                shared.state().connections.remove(&number);
            });
        }
    }
}

/// A message's type, or 0 for those before the start, which have none; and all its bytes.
struct Message {
    kind: u8,
    bytes: Vec<u8>,
}

impl Message {
    /// `None` at the end of the stream.
    fn read(from: &mut impl io::Read, has_kind: bool) -> Option<Self> {
        let head = if has_kind { 5 } else { 4 };
        let mut bytes = vec![0; head];
        from.read_exact(&mut bytes).ok()?;
        let length: [u8; 4] = bytes[head - 4..].try_into().unwrap();
        // The length counts itself.
        let rest = u64::from(u32::from_be_bytes(length)).checked_sub(4)?;
        let read = from.take(rest).read_to_end(&mut bytes).ok()?;
        (read as u64 == rest).then(|| Self { kind: if has_kind { bytes[0] } else { 0 }, bytes })
    }

    /// The texts, each ended by a zero, with which its body begins.
    fn texts(&self) -> impl Iterator<Item = String> {
        self.bytes[5..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// Of one that has no type.
    fn code(&self) -> u32 {
        self.bytes[4..].first_chunk().map_or(0, |code| u32::from_be_bytes(*code))
    }
}

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

struct Connection<'a> {
    shared: &'a Shared,
    client: &'a UnixStream,
    server: &'a UnixStream,
    progress: Mutex<Progress>,
}

/// The server ends each answer with ReadyForQuery. So the answer to the nth request ends with the nth of them, the start of
/// the connection being the first request.
#[derive(Default)]
struct Progress {
    requested: usize,
    answered: usize,
    client_has_gone: bool,
    faults: HashMap<usize, What>,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, client: &'a UnixStream, server: &'a UnixStream) -> Self {
        Self { shared, client, server, progress: Mutex::default() }
    }

    fn cut(&self) {
        self.shared.state().cuts += 1;
        self.close();
    }

    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    fn serve(&self) -> io::Result<()> {
        let (mut from_client, mut server) = (BufReader::new(self.client), self.server);
        loop {
            let Some(message) = Message::read(&mut from_client, false) else { return Ok(()) };
            server.write_all(&message.bytes)?;
            match message.code() {
                SSL_REQUEST | GSSENC_REQUEST => {
                    let mut answer = [0];
                    server.read_exact(&mut answer)?;
                    (&mut &*self.client).write_all(&answer)?;
                    if answer != *b"N" {
                        return Err(io::Error::other("encryption, which no server offers on a Unix socket"));
                    }
                }
                CANCEL_REQUEST => return Ok(()),
                _ => break,
            }
        }
        self.progress.lock().unwrap().requested = 1;
        thread::scope(|scope| {
            scope.spawn(|| {
                self.pass_replies();
                self.close();
            });
            self.pass_requests(from_client);
            // The client of a held request has gone, perhaps. PgBouncer forgets a request whose client goes.
            let mut progress = self.progress.lock().unwrap();
            progress.client_has_gone = true;
            if progress.answered == progress.requested {
                let _ = self.server.shutdown(Shutdown::Write);
            }
        });
        Ok(())
    }

    fn pass_requests(&self, mut from_client: BufReader<&UnixStream>) {
        let (mut prepared, mut bound) = (HashMap::new(), HashMap::new());
        while let Some(message) = Message::read(&mut from_client, true) {
            let mut texts = message.texts();
            let mut text = || texts.next().unwrap_or_default();
            let executed = match message.kind {
                b'Q' => Some(text()),
                // Parse: the statement's name and text.
                b'P' => {
                    prepared.insert(text(), text());
                    None
                }
                // Bind: the portal's name and the statement's.
                b'B' => {
                    let portal = text();
                    bound.insert(portal, prepared.get(&text()).cloned().unwrap_or_default());
                    None
                }
                b'E' => bound.get(&text()).cloned(),
                _ => None,
            };
            if let Some(executed) = executed
                && !self.may_send(executed)
            {
                return self.cut();
            }
            // The server answers Query, Sync and FunctionCall with ReadyForQuery in the end.
            if matches!(message.kind, b'Q' | b'S' | b'F') {
                self.progress.lock().unwrap().requested += 1;
            }
            if (&mut &*self.server).write_all(&message.bytes).is_err() {
                return;
            }
        }
    }

    /// `false` when the connection is to be cut instead.
    fn may_send(&self, executed: String) -> bool {
        let fault = self.shared.state().take_fault(&executed);
        match fault {
            Some(What::CutRequest) => return false,
            Some(What::HoldRequest(gate)) => gate.pass(),
            Some(what) => {
                let mut progress = self.progress.lock().unwrap();
                let this = progress.requested + 1;
                progress.faults.insert(this, what);
            }
            None => {}
        }
        self.shared.state().executed.push(executed);
        true
    }

    fn pass_replies(&self) {
        let mut from_server = BufReader::new(self.server);
        let mut held = Vec::new();
        while let Some(message) = Message::read(&mut from_server, true) {
            let is_last = message.kind == b'Z';
            held.extend(message.bytes);
            let fault = {
                let mut progress = self.progress.lock().unwrap();
                let answering = progress.answered + 1;
                if !is_last && progress.faults.contains_key(&answering) {
                    continue;
                }
                is_last.then(|| progress.faults.remove(&answering)).flatten()
            };
            match fault {
                Some(What::HoldReply(gate)) => gate.pass(),
                Some(_) => return self.cut(),
                None => {}
            }
            // A client that has gone is no reason not to read on: what it sent is still executed.
            let _ = (&mut &*self.client).write_all(&held);
            held.clear();
            if is_last {
                let mut progress = self.progress.lock().unwrap();
                progress.answered += 1;
                if progress.client_has_gone && progress.answered == progress.requested {
                    return;
                }
            }
        }
    }
}
