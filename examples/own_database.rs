//! A store in a database with a real connection: no token is lost when `main` returns during a renewal.
//!
//! ```text
//! cargo run --example own_database --features simulator
//! ```

#[path = "own_database/server.rs"]
pub mod server;

use std::{
    error::Error as StdError,
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Clock, Error, RefreshTokenObject, StoreLock, Stored, SystemClock, TokenManager, TokenStore, on_runtime,
    simulator::{ConcurSimulator, HeldReplies, Rotation, StoreCondition, store_contract},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

/// One row of the database, over one connection at a time. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Database {
    server: SocketAddr,
    pool: Arc<tokio::sync::Mutex<Option<BufStream<TcpStream>>>>,
}

impl Database {
    /// Connects at the first call: calls run on concur-auth's runtime, so the connection lives there.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, pool: Arc::default() }
    }

    /// Connects at once: to be called inside [`on_runtime`], as any pool that does so.
    pub async fn connect(server: SocketAddr) -> io::Result<Self> {
        let connection = BufStream::new(TcpStream::connect(server).await?);
        Ok(Self { server, pool: Arc::new(Some(connection).into()) })
    }

    /// Sends one statement. It may be repeated after an error, and then needs a new connection.
    async fn ask(&self, statement: String) -> Result<String, Error> {
        let exchange = async {
            let mut pool = self.pool.lock().await;
            // Out of the pool until the answer is there: a call that is dropped half-way must not leave its answer to the
            // next call.
            let mut connection = match pool.take() {
                Some(connection) => connection,
                None => BufStream::new(TcpStream::connect(self.server).await?),
            };
            connection.write_all(format!("{statement}\n").as_bytes()).await?;
            connection.flush().await?;
            let mut answer = String::new();
            connection.read_line(&mut answer).await?;
            let answer = answer.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?.to_owned();
            *pool = Some(connection);
            Ok::<_, io::Error>(answer)
        };
        let message = || format!("{} does not answer; check that it runs", self.describe());
        exchange.await.map_err(|e| Error::store(message(), e).transient())
    }

    /// A statement that writes.
    async fn write(&self, verb: &str, lock: &StoreLock, text: &str) -> Result<(), Error> {
        let lease = lock.get::<Lease>().map_or(0, |lease| lease.number);
        match self.ask(format!("{verb} {lease} {text}")).await?.as_str() {
            "done" => Ok(()),
            "superseded" => Err(Error::superseded("another process has saved a newer token")),
            answer => Err(Error::store("the database refused a statement", answer.to_owned())),
        }
    }
}

/// What the lock carries. The lease ends by itself when this process dies.
struct Lease {
    number: u64,
    server: SocketAddr,
    is_over: AtomicBool,
}

impl Drop for Lease {
    /// After a panic there was no `unlock`. This cannot be async, so it has a connection of its own.
    fn drop(&mut self) {
        if !self.is_over.load(Ordering::Relaxed)
            && let Ok(mut server) = std::net::TcpStream::connect_timeout(&self.server, Duration::from_secs(1))
            && writeln!(server, "unlock {}", self.number).is_ok()
        {
            let _ = BufReader::new(server).read_line(&mut String::new());
        }
    }
}

impl TokenStore for Database {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        Ok(self.read().await?.token)
    }
    async fn read(&self) -> Result<Stored, Error> {
        let row = self.ask("read".to_owned()).await?;
        let (note, token) = row.split_once('\t').ok_or_else(|| Error::store("not a row", "no tab in it"))?;
        let token = (!token.is_empty()).then(|| RefreshTokenObject::from_json(token)).transpose()?;
        Ok(Stored::new(token, (!note.is_empty()).then(|| note.to_owned())))
    }
    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        // Line breaks in JSON are only layout.
        self.write("save", lock, &token.to_json().replace('\n', " ")).await
    }
    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.write("save", lock, "").await
    }
    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.write("note", lock, note.unwrap_or_default()).await
    }
    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        // The number is all that is kept: no connection is held while the grant is sent to Concur.
        let lease = self.ask("lock".to_owned()).await?.parse().ok();
        let lease =
            lease.map(|number| Lease { number, server: self.server, is_over: AtomicBool::new(false) });
        Ok(lease.map(StoreLock::new))
    }
    async fn rehearse(&self, _: Option<&RefreshTokenObject>, _: &StoreLock) -> Result<(), Error> {
        Ok(()) // Taking the lock was a write, so the database accepts writes.
    }
    async fn unlock(&self, lock: StoreLock) {
        let is_over = self.write("unlock", &lock, "").await.is_ok();
        if let Some(lease) = lock.get::<Lease>() {
            lease.is_over.store(is_over, Ordering::Relaxed);
        }
    }
    fn describe(&self) -> String {
        format!("the database at {}", self.server)
    }
}

/// Stands for a program's `main`: its runtime ends when it returns, here while Concur has not answered yet.
#[tokio::main]
async fn program(tokens: TokenManager, concur: &ConcurSimulator, held: HeldReplies) {
    let renewals = concur.count("refresh_token");
    tokio::spawn(async move {
        // Concur answers when the runtime, as it ends, drops this caller.
        let _held = held;
        tokens.refresh().await
    });
    while concur.count("refresh_token") == renewals {
        SystemClock.sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut out = io::stdout();
    let (server, connections) = server::start()?;
    // Every renewal gives a new refresh token and ends the one before: to lose one is to be signed out.
    let concur = ConcurSimulator::builder().rotation(Rotation::AlwaysAndRevokeFamily).start().await;
    let concur = Arc::new(concur);

    // The outer error is on_runtime's, the inner one is the connection's.
    let connected = on_runtime(Database::connect(server)).await??;
    for (how, database) in [("at once", connected), ("at the first call", Database::new(server))] {
        let store = database.clone();
        let tokens = TokenManager::builder().credentials(concur.credentials()).store(store).build()?;
        let before = tokens.get_valid_refresh_token().await?;
        let (held, asked) = (concur.hold_replies(), Arc::clone(&concur));
        tokio::task::spawn_blocking(move || program(tokens, &asked, held)).await?;
        let stored = on_runtime(async move { database.load().await }).await??.ok_or("nothing is stored")?;
        let is_saved = stored.secret() != before.secret() && concur.is_live(stored.secret());
        writeln!(out, "connected {how}, main returned during a renewal, the new token is saved: {is_saved}")?;
    }
    writeln!(out, "connections: {}", connections.load(Ordering::Relaxed))?;

    // Every store should pass this in its own tests.
    let ((server, _), gone) = (server::start()?, TcpListener::bind("127.0.0.1:0")?.local_addr()?);
    store_contract(|condition| {
        Some(Database::new(if condition == StoreCondition::Broken { gone } else { server }))
    })
    .await?;
    writeln!(out, "the store keeps the contract")?;
    Ok(())
}
