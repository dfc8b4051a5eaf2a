//! A bounded number of connections, shared by all statements.
//!
//! Always:
//! - There are never more connections than places. A new one is opened only by the holder of a place who finds no idle one.
//! - A connection is idle only after a statement was answered with success. Any other end of a statement closes it: an
//!   error, a time-out, or a caller that was dropped in mid-statement.
//! - Connections live on this crate's runtime, on whichever runtime a statement is awaited.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    process,
    sync::{Mutex, OnceLock},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit, oneshot},
    task::AbortHandle,
};
use tokio_postgres::{
    Client, Config, NoTls, Row, Socket,
    tls::{MakeTlsConnect, TlsConnect},
    types::{ToSql, Type},
};

use super::{failure::Failure, tls::Tls, url::Target};
use crate::{Error, caught::locked, clock::within, runtime};

/// What ends a statement that takes too long.
pub(super) type Limit = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a statement's `$1`, `$2`… stand for, with types that PostgreSQL has by itself: for another one, tokio-postgres would
/// ask the server, with a named statement.
pub(super) type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

pub(super) struct Pool {
    target: Target,
    /// Built for the first connection: reading the platform's certificates takes milliseconds.
    tls: OnceLock<Tls>,
    /// One for each connection that may be in use at a time; they are handed out in the order of asking.
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
    /// The process that opens the connections. They are served there, so a forked child must not use them.
    process: OnceLock<u32>,
}

/// Dropping it lets the statement under way end, and then closes it in good order.
struct Connection {
    client: Client,
    driver: AbortHandle,
}

/// A connection in use. Dropping it cuts the connection off, whatever is under way.
pub(super) struct Taken<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    /// Given up after the connection.
    _place: SemaphorePermit<'a>,
}

impl Pool {
    pub(super) fn new(target: Target, places: usize) -> Self {
        Self {
            target,
            tls: OnceLock::new(),
            places: Semaphore::new(places),
            idle: Mutex::default(),
            process: OnceLock::new(),
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) async fn take(&self, limit: &mut Limit) -> Result<Taken<'_>, Error> {
        if *self.process.get_or_init(process::id) != process::id() {
            return Err(Failure::Forked.explain(&self.target.name));
        }
        let Some(Ok(place)) = within(limit.as_mut(), self.places.acquire()).await else {
            return Err(Failure::NoPlace.explain(&self.target.name));
        };
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.open(limit).await?,
        };
        Ok(Taken { pool: self, connection: Some(connection), _place: place })
    }

    /// The one used last, so that those that are not needed stay unused. Nothing was sent on one that is closed.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = locked(&self.idle);
        loop {
            match idle.pop() {
                Some(connection) if connection.client.is_closed() => {}
                popped => return popped,
            }
        }
    }

    async fn open(&self, limit: &mut Limit) -> Result<Connection, Error> {
        let runtime = runtime::handle()?;
        let config = self.target.config.clone();
        let opened = match self.tls()? {
            Some(tls) => within(limit.as_mut(), open(runtime, config, tls)).await,
            None => within(limit.as_mut(), open(runtime, config, NoTls)).await,
        };
        match opened {
            Some(Ok(connection)) => Ok(connection),
            Some(Err(e)) => Err(Failure::of_connecting(e.as_ref()).explain(&self.target.name)),
            None => Err(Failure::ConnectTimeout.explain(&self.target.name)),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, Error> {
        let Some(roots) = &self.target.tls else { return Ok(None) };
        if let Some(tls) = self.tls.get() {
            return Ok(Some(tls.clone()));
        }
        let tls = Tls::new(roots)?;
        Ok(Some(self.tls.get_or_init(|| tls).clone()))
    }

    /// After a failure that the others probably share: a server that was restarted, or a network that is gone. A statement
    /// that is repeated then meets none of them.
    fn distrust_idle(&self) {
        let distrusted = std::mem::take(&mut *locked(&self.idle));
        drop(distrusted);
    }
}

impl Taken<'_> {
    /// One statement, unnamed, and its rows.
    pub(super) async fn query(
        &mut self,
        limit: &mut Limit,
        statement: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let outcome = within(limit.as_mut(), self.client()?.query_typed(statement, parameters)).await;
        self.settle(outcome)
    }

    /// Statements with semicolons between them, without parameters and without rows.
    pub(super) async fn execute(&mut self, limit: &mut Limit, statements: &str) -> Result<(), Error> {
        let outcome = within(limit.as_mut(), self.client()?.batch_execute(statements)).await;
        self.settle(outcome)
    }

    fn client(&self) -> Result<&Client, Error> {
        let connection = self.connection.as_ref();
        connection.map(|it| &it.client).ok_or_else(|| Failure::Lost(None).explain(&self.pool.target.name))
    }

    /// After any error the connection is closed. `None` is a time-out.
    fn settle<T>(&mut self, outcome: Option<Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
        let failure = match outcome {
            Some(Ok(done)) => return Ok(done),
            Some(Err(e)) => Failure::of_statement(&e),
            None => Failure::StatementTimeout,
        };
        self.cut_off();
        if failure.concerns_all_connections() {
            self.pool.distrust_idle();
        }
        Err(failure.explain(&self.pool.target.name))
    }

    /// For the next statement.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            locked(&self.pool.idle).push(connection);
        }
    }

    fn cut_off(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.driver.abort();
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// Opens a connection in a task of `runtime`, which then serves it. A caller that is dropped stops it.
async fn open<T>(
    runtime: &Handle,
    config: Config,
    tls: T,
) -> Result<Connection, Option<tokio_postgres::Error>>
where
    T: MakeTlsConnect<Socket> + Send + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (mut told, made) = oneshot::channel();
    let task = runtime.spawn(async move {
        match within(told.closed(), config.connect(tls)).await {
            Some(Ok((client, connection))) => {
                let told = told.send(Ok(client));
                if told.is_ok() {
                    serve(connection).await;
                }
            }
            Some(Err(e)) => {
                // An error means that the caller has gone.
                let _ = told.send(Err(e));
            }
            None => {}
        }
    });
    match made.await {
        Ok(Ok(client)) => Ok(Connection { client, driver: task.abort_handle() }),
        Ok(Err(e)) => Err(Some(e)),
        Err(_) => Err(None),
    }
}

/// Not by awaiting the connection: that would log the server's notices, which may quote a row.
async fn serve<T>(mut connection: tokio_postgres::Connection<Socket, T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(_)) = poll_fn(|context| connection.poll_message(context)).await {}
}

#[cfg(test)]
mod tests;
