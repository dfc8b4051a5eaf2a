//! Against a server of a few lines that does as a statement's text says. Real servers are for the tests of the store.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{sync::Notify, task::yield_now};

use super::*;
use crate::{Clock as _, SystemClock};

const READY: &[u8] = b"Z\0\0\0\x05I";
const SECRET: &str = "refresh-token-in-a-row";

#[derive(Clone, Default)]
struct Server {
    connections: Arc<AtomicUsize>,
    /// Tells that a statement that gets no answer has arrived.
    silent: Arc<Notify>,
    /// Tells that a connection has ended.
    ended: Arc<Notify>,
}

impl Server {
    /// A pool whose server this is.
    fn pool(&self, places: usize) -> Arc<Pool> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, stream) = (server.clone(), stream.unwrap());
                server.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // An error means that the client has closed the connection.
                    drop(server.serve(stream));
                    server.ended.notify_one();
                });
            }
        });
        let url = format!("postgres://app@127.0.0.1:{port}/concur");
        Arc::new(Pool::new(Target::parse(&url).unwrap(), places))
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        body(&mut stream)?;
        // Signed in without a password.
        stream.write_all(b"R\0\0\0\x08\0\0\0\0")?;
        stream.write_all(READY)?;
        let mut statement = String::new();
        loop {
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            let body = body(&mut stream)?;
            match kind[0] {
                b'P' => statement = String::from_utf8_lossy(&body).trim_matches('\0').to_owned(),
                b'S' => match &*statement {
                    "silent" => self.silent.notify_one(),
                    "cut" => return stream.shutdown(Shutdown::Both),
                    "refused" => stream.write_all(&[refusal(), READY.to_vec()].concat())?,
                    "last" => {
                        stream.write_all(&answer())?;
                        return stream.shutdown(Shutdown::Both);
                    }
                    _ => stream.write_all(&answer())?,
                },
                _ => {}
            }
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn body(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Parsed, bound, no parameters, no rows, done.
fn answer() -> Vec<u8> {
    [&b"1\0\0\0\x042\0\0\0\x04t\0\0\0\x06\0\0n\0\0\0\x04C\0\0\0\x0dUPDATE 0\0"[..], READY].concat()
}

fn refusal() -> Vec<u8> {
    let fields =
        ["SERROR", "VERROR", "C23514", &format!("M{SECRET}"), &format!("D{SECRET}"), &format!("H{SECRET}")];
    let body = format!("{}\0\0", fields.join("\0"));
    [&b"E"[..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body.as_bytes()].concat()
}

async fn query(pool: &Pool, statement: &'static str) -> Result<(), Error> {
    let mut limit = SystemClock.sleep(Duration::from_secs(8));
    let mut taken = pool.take(&mut limit).await?;
    taken.query(&mut limit, statement, &[]).await?;
    taken.give_back();
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_used_again() {
    let server = Server::default();
    let pool = server.pool(10);
    for _ in 0..3 {
        query(&pool, "one").await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn there_are_never_more_connections_than_places() {
    let server = Server::default();
    let pool = server.pool(3);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { query(&pool, "one").await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert!((1..=3).contains(&server.connections()), "{}", server.connections());
}

#[tokio::test]
async fn an_idle_connection_that_the_server_has_closed_is_replaced_unseen() {
    let server = Server::default();
    let pool = server.pool(10);
    query(&pool, "last").await.unwrap();
    while !locked(&pool.idle)[0].client.is_closed() {
        yield_now().await;
    }
    query(&pool, "one").await.unwrap();
    assert_eq!(server.connections(), 2);
}

/// The others are probably lost, too: a statement that is repeated must not meet each of them.
#[tokio::test]
async fn after_a_lost_reply_the_outcome_is_unknown_and_no_idle_connection_is_trusted() {
    let server = Server::default();
    let pool = server.pool(10);
    let mut limit = SystemClock.sleep(Duration::from_secs(8));
    let (one, other) = (pool.take(&mut limit).await.unwrap(), pool.take(&mut limit).await.unwrap());
    one.give_back();
    other.give_back();
    let error = query(&pool, "cut").await.unwrap_err();
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(
        text.contains("broke off; it is not known whether the statement was carried out; try again"),
        "{text}"
    );
    assert_eq!(locked(&pool.idle).len(), 0);
    query(&pool, "one").await.unwrap();
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_connection_on_which_a_statement_was_cut_short_is_not_used_again() {
    let server = Server::default();
    let pool = server.pool(1);
    assert!(within(server.silent.notified(), query(&pool, "silent")).await.is_none());
    // So the server does not go on working for a caller that has gone.
    within(SystemClock.sleep(Duration::from_secs(20)), server.ended.notified()).await.unwrap();
    assert_eq!(locked(&pool.idle).len(), 0);
    query(&pool, "one").await.unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_statement_without_an_answer_ends_in_time() {
    let server = Server::default();
    let pool = server.pool(1);
    let silent = Arc::clone(&server.silent);
    let mut limit: Limit = Box::pin(async move { silent.notified().await });
    let mut taken = pool.take(&mut limit).await.unwrap();
    let error = taken.query(&mut limit, "silent", &[]).await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().contains("did not answer in time; it is not known"), "{error}");
    let again = taken.query(&mut SystemClock.sleep(Duration::from_secs(8)), "one", &[]).await.unwrap_err();
    assert!(again.to_string().contains("broke off"), "{again}");
}

#[tokio::test]
async fn who_gets_no_place_in_time_has_sent_nothing() {
    let server = Server::default();
    let pool = server.pool(1);
    let mut limit = SystemClock.sleep(Duration::from_secs(8));
    let taken = pool.take(&mut limit).await.unwrap();
    let mut over: Limit = Box::pin(async {});
    let Err(error) = pool.take(&mut over).await else { panic!() };
    assert!(error.is_transient());
    assert!(error.to_string().contains("were in use for too long"), "{error}");
    taken.give_back();
    query(&pool, "one").await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn what_the_server_says_about_a_row_is_not_shown() {
    let pool = Server::default().pool(1);
    let error = query(&pool, "refused").await.unwrap_err();
    let shown = format!("{error:?}");
    assert!(shown.contains("SQLSTATE 23514 (check_violation)") && !shown.contains(SECRET), "{shown}");
    assert!(std::error::Error::source(&error).is_none() && !error.is_transient());
}

/// A connection belongs to this crate's runtime, so it outlives the caller's.
#[test]
fn a_connection_outlives_the_runtime_in_which_it_was_first_used() {
    let server = Server::default();
    let pool = server.pool(1);
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(query(&pool, "one")).unwrap();
    }
    assert_eq!(server.connections(), 1);
}

/// The attempt ends with the wait for it.
#[tokio::test]
async fn a_server_that_takes_a_connection_and_says_nothing_is_given_up_in_time() {
    use tokio::io::AsyncReadExt as _;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://app@{}/concur", listener.local_addr().unwrap());
    let pool = Pool::new(Target::parse(&url).unwrap(), 1);
    let (told, accepted) = oneshot::channel();
    // Over as soon as there is a connection, which stays open.
    let mut limit: Limit = Box::pin(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(told.send(stream));
    });
    let Err(error) = pool.take(&mut limit).await else { panic!() };
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(text.starts_with("could not connect to ") && text.contains(" in time; "), "{text}");
    let (mut stream, mut received) = (accepted.await.unwrap(), Vec::new());
    let closed = within(SystemClock.sleep(Duration::from_secs(20)), stream.read_to_end(&mut received)).await;
    assert!(closed.is_some(), "the connection is still open");
}
