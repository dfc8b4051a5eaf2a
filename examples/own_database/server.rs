//! Stands for a database server: one row; one line for each statement and each answer.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use concur_auth::{Clock, SystemClock};

/// Longer than the four minutes for which a lock is held at most.
const LEASE: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Row {
    token: String,
    note: String,
    lease: u64,
    saved_under: u64,
    leased_until: Option<SystemTime>,
}

impl Row {
    fn answer(&mut self, statement: &str) -> String {
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        let (lease, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let (lease, now) = (lease.parse().unwrap_or(0), SystemClock.now());
        match verb {
            "read" => return format!("{}\t{}", self.note, self.token),
            "lock" if self.leased_until.is_some_and(|until| now < until) => return "busy".to_owned(),
            "lock" => {
                (self.lease, self.leased_until) = (self.lease + 1, Some(now + LEASE));
                return self.lease.to_string();
            }
            // The lease has lapsed, and its successor has saved. The same token again is no conflict.
            "save" if lease < self.saved_under && text != self.token => return "superseded".to_owned(),
            "save" => (self.token, self.saved_under) = (text.to_owned(), lease.max(self.saved_under)),
            "note" => self.note = text.to_owned(),
            "unlock" if lease < self.lease => {}
            "unlock" => self.leased_until = None,
            _ => return "unknown statement".to_owned(),
        }
        "done".to_owned()
    }
}

/// Starts the server; its address, and a count of the connections that were made to it.
pub fn start() -> io::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (row, connections) = (Arc::<Mutex<Row>>::default(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            let row = Arc::clone(&row);
            thread::spawn(move || -> io::Result<()> {
                for statement in BufReader::new(connection.try_clone()?).lines() {
                    let answer = row.lock().unwrap_or_else(PoisonError::into_inner).answer(&statement?);
                    connection.write_all(format!("{answer}\n").as_bytes())?;
                }
                Ok(())
            });
        }
    });
    Ok((address, connections))
}
