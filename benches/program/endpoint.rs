//! What the endpoint costs between a client and Concur.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    alternating, bare,
    client::{self, Client},
    served::Served,
    turns,
};
use crate::support::{human, is_dry_run};

/// At least 80 % of the floor's requests a second.
const GOAL: f64 = 1.25;
/// Connections that are kept alive.
const CONNECTIONS: usize = 16;
/// How long one side is asked in one turn.
const TURN: Duration = Duration::from_millis(400);
const TURNS: usize = 25;
/// The length of a large body.
const LARGE: usize = 64 << 20;
/// The body for which memory is measured, and the most that it may take.
const HUGE: usize = 1 << 30;
const MOST_MEMORY: u64 = 64 << 20;

/// `GET /token`.
pub fn token() {
    let dir = tempfile::tempdir().expect("a folder");
    // Nothing is sent there.
    let ours = Served::program(dir.path(), "http://127.0.0.1:9");
    let runtime = runtime();
    let length = runtime.block_on(async { Client::connect(&ours.socket).await.get("/token").await });
    let floor = Served::bare(bare::CONSTANT, dir.path(), &length.to_string());
    requests(&runtime, "GET /token", &floor, &ours, "/token");
}

/// A small reply through the proxy.
pub fn small() {
    let (dir, upstream) = (tempfile::tempdir().expect("a folder"), Served::upstream());
    let ours = Served::program(dir.path(), &upstream.said);
    let floor = Served::bare(bare::PROXY, dir.path(), &upstream.said);
    requests(&runtime(), "--proxy, a small GET", &floor, &ours, "/api/small");
}

/// Large bodies through the proxy, both ways.
pub fn large() {
    let (dir, upstream) = (tempfile::tempdir().expect("a folder"), Served::upstream());
    let ours = Served::program(dir.path(), &upstream.said);
    let floor = Served::bare(bare::PROXY, dir.path(), &upstream.said);
    let runtime = runtime();
    let length = if is_dry_run() { 1 << 20 } else { LARGE };
    let get = |side: &Served| {
        transferred(&runtime, &side.socket, async move |mut client| {
            assert_eq!(client.get(&format!("/api/large/{length}")).await, length);
        })
    };
    let post = |side: &Served| {
        transferred(&runtime, &side.socket, async move |mut client| client.post("/api/any", length).await)
    };
    for (what, transfer) in [("down", &get as &dyn Fn(&Served) -> f64), ("up", &post)] {
        let what = format!("--proxy, {} MiB {what}", length >> 20);
        let before = [&floor, &ours].map(Served::processor_time);
        alternating(&what, turns(TURNS), Some(GOAL), || transfer(&floor), || transfer(&ours));
        let spent = [floor.processor_time() - before[0], ours.processor_time() - before[1]];
        say_processor_time(spent, [turns(TURNS) + 1; 2]);
    }
}

/// The most memory for a body of 1 GiB, in each direction.
pub fn memory() {
    let upstream = Served::upstream();
    let runtime = runtime();
    let length = if is_dry_run() { 16 << 20 } else { HUGE };
    for way in ["down", "up"] {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = Served::program(dir.path(), &upstream.said);
        let floor = Served::bare(bare::PROXY, dir.path(), &upstream.said);
        let peak = |side: &Served| {
            let before = side.peak_memory();
            let taken = transferred(&runtime, &side.socket, async move |mut client| match way {
                "down" => assert_eq!(client.get(&format!("/api/large/{length}")).await, length),
                _ => client.post("/api/any", length).await,
            });
            (side.peak_memory(), before, taken)
        };
        let ((bare, ..), (most, before, taken)) = (peak(&floor), peak(&ours));
        println!(
            "  >> --proxy, {} MiB {way} in {}: at most {} KiB of memory, {} KiB before (goal: {} KiB); the bare proxy: {} KiB",
            length >> 20,
            human(taken),
            most >> 10,
            before >> 10,
            MOST_MEMORY >> 10,
            bare >> 10,
        );
        assert!(most < MOST_MEMORY, "{most} bytes");
    }
}

/// One thread: the rest of the machine is for the servers.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// As many requests as each side answers in the same time.
fn requests(runtime: &Runtime, what: &str, floor: &Served, ours: &Served, path: &str) {
    let turn = if is_dry_run() { Duration::from_millis(10) } else { TURN };
    let request = client::get(path);
    let answered = [Cell::new(0), Cell::new(0)];
    let measured = |side: &Served, answered: &Cell<usize>| {
        let (count, taken) = runtime.block_on(asked(&side.socket, &request, turn));
        answered.set(answered.get() + count);
        taken.as_secs_f64() * 1e9 / count as f64
    };
    let before = [floor, ours].map(Served::processor_time);
    alternating(
        what,
        turns(TURNS),
        Some(GOAL),
        || measured(floor, &answered[0]),
        || measured(ours, &answered[1]),
    );
    let spent = [floor.processor_time() - before[0], ours.processor_time() - before[1]];
    say_processor_time(spent, answered.map(Cell::into_inner));
}

/// Of the servers alone, for each request or transfer.
fn say_processor_time([floor, ours]: [Duration; 2], [below, above]: [usize; 2]) {
    if is_dry_run() {
        return;
    }
    let each = |spent: Duration, count: usize| spent.as_secs_f64() * 1e9 / count as f64;
    let (floor, ours) = (each(floor, below), each(ours, above));
    println!("  >>   processor time: {} = {:.2} x its floor of {}", human(ours), ours / floor, human(floor));
}

/// How many requests were answered, and in what time.
async fn asked(socket: &Path, request: &[u8], turn: Duration) -> (usize, Duration) {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(socket).await;
        client.get_as_written(request).await;
        clients.push(client);
    }
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for mut client in clients {
        let request = request.to_owned();
        asking.spawn(async move {
            let mut count = 0;
            while start.elapsed() < turn {
                client.get_as_written(&request).await;
                count += 1;
            }
            count
        });
    }
    let count = asking.join_all().await.into_iter().sum();
    (count, start.elapsed())
}

/// How long a transfer takes, in nanoseconds.
fn transferred(runtime: &Runtime, socket: &Path, transfer: impl AsyncFnOnce(Client)) -> f64 {
    runtime.block_on(async {
        let client = Client::connect(socket).await;
        let start = Instant::now();
        transfer(client).await;
        start.elapsed().as_secs_f64() * 1e9
    })
}
