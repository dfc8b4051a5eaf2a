//! A token endpoint that rotates always and revokes a family on reuse, at next to no cost, since its clients are measured.
//!
//! Always: a refresh token is `generation-family`, so one number for each family is all that the endpoint knows. What stands in
//! for the tokens' text is random, so that PostgreSQL cannot compress it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, runtime::Runtime, sync::watch};

use super::members;
use crate::support::server::{listen, read_request};

pub struct Endpoint {
    pub uri: String,
    shared: Arc<Shared>,
    runtime: Runtime,
}

struct Shared {
    geolocation: String,
    expires_at: u64,
    state: Mutex<State>,
    answered: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    /// The next generation of each family; `None` once the family is revoked.
    families: HashMap<String, Option<u32>>,
    delay: Option<Duration>,
    under_way: usize,
    most_under_way: usize,
    refused: usize,
    log: Option<Vec<(Instant, String)>>,
    /// Where in the random text the next token begins.
    place: usize,
}

impl Endpoint {
    pub fn start() -> Self {
        let (runtime, listener, uri) = listen();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let shared = Arc::new(Shared {
            geolocation: uri.clone(),
            expires_at: now + members::LIFE.as_secs(),
            state: Mutex::default(),
            answered: watch::Sender::new(0),
        });
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { uri, shared, runtime }
    }

    /// How many requests were answered.
    pub fn answered(&self) -> usize {
        *self.shared.answered.borrow()
    }

    /// Waits until this many requests were answered.
    pub fn until(&self, answered: usize) {
        let mut told = self.shared.answered.subscribe();
        self.runtime.block_on(told.wait_for(|now| *now >= answered)).expect("it is there");
    }

    /// How many requests were refused: a token that was presented twice, or that belongs to a revoked family.
    pub fn refused(&self) -> usize {
        self.shared.state().refused
    }

    /// Each reply takes this long from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.state().delay = Some(delay);
    }

    /// The most requests that were under way together.
    pub fn most_under_way(&self) -> usize {
        self.shared.state().most_under_way
    }

    /// Writes down from now on which request came when.
    pub fn log(&self) {
        self.shared.state().log = Some(Vec::new());
    }

    /// What was written down, with each request's family.
    pub fn logged(&self) -> Vec<(Instant, String)> {
        self.shared.state().log.take().unwrap_or_default()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self, state: &mut State, form: &str) -> String {
        let issued = match (field(form, "refresh_token"), field(form, "username")) {
            (Some(token), _) => state.rotate(token),
            (None, Some(family)) => Some(state.sign_in(family)),
            (None, None) => None,
        };
        let Some((generation, family)) = issued else {
            state.refused += 1;
            return http(
                "400 Bad Request",
                r#"{"error":"invalid_grant","error_description":"refused","code":108}"#,
            );
        };
        let (access, id) = (state.random(members::ACCESS_TOKEN), state.random(members::ID_TOKEN));
        let token = members::refresh_token(generation, &family);
        let Self { geolocation, expires_at, .. } = self;
        let body = format!(
            r#"{{"expires_in":3600,"scope":"openid company.read","token_type":"Bearer","access_token":"{access}","refresh_token":"{token}","refresh_expires_in":{expires_at},"geolocation":"{geolocation}","id_token":"{id}"}}"#
        );
        http("200 OK", &body)
    }
}

impl State {
    fn arrived(&mut self, form: &str) {
        self.under_way += 1;
        self.most_under_way = self.most_under_way.max(self.under_way);
        if let Some(log) = &mut self.log {
            let token = field(form, "refresh_token").and_then(members::family_of);
            let family = token.map(|(_, family)| family).or_else(|| field(form, "username"));
            log.push((Instant::now(), family.unwrap_or_default().to_owned()));
        }
    }

    /// The next token of the family; `None` if this one was presented before.
    fn rotate(&mut self, token: &str) -> Option<(u32, String)> {
        let (generation, family) = members::family_of(token)?;
        let next = self.families.entry(family.to_owned()).or_insert(Some(generation));
        *next = next.filter(|next| *next == generation).map(|next| next + 1);
        Some((next.as_ref().copied()?, family.to_owned()))
    }

    fn sign_in(&mut self, family: &str) -> (u32, String) {
        let next = self.families.entry(family.to_owned()).or_insert(None);
        let generation = next.map_or(0, |next| next + 1);
        *next = Some(generation);
        (generation, family.to_owned())
    }

    fn random(&mut self, length: usize) -> &'static str {
        let text = members::random_text();
        self.place = (self.place + 7919) % (text.len() - length);
        &text[self.place..self.place + length]
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(4096);
    while let Some(end) = read_request(&mut stream, &mut received).await? {
        let request = String::from_utf8_lossy(&received[..end]).into_owned();
        received.drain(..end);
        let form = request.split_once("\r\n\r\n").map_or("", |(_, form)| form);
        let delay = {
            let mut state = shared.state();
            state.arrived(form);
            state.delay
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let reply = {
            let mut state = shared.state();
            state.under_way -= 1;
            shared.reply(&mut state, form)
        };
        shared.answered.send_modify(|answered| *answered += 1);
        stream.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}

/// What stands in a form's field, of characters that need no decoding.
fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    form.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

fn http(status: &str, body: &str) -> String {
    let mut reply = String::with_capacity(body.len() + 128);
    let length = body.len();
    let _ = write!(
        reply,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    reply
}
