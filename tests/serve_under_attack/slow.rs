//! Clients and servers that are slow, or stop.

use std::sync::mpsc;

use super::{forwarded::Upstream, *};

/// What a slow client has read once the program has closed its connection.
type Dropped = (&'static str, Box<dyn FnOnce() -> String + Send>);

/// Runs all slow clients at once; meanwhile others are answered, and tokens are renewed.
fn all_are_dropped(clients: Vec<Dropped>, meanwhile: impl FnOnce(), expected: impl Fn(&str, &str) -> bool) {
    let (told, heard) = mpsc::channel();
    let names: Vec<_> = clients.iter().map(|(name, _)| *name).collect();
    for (name, client) in clients {
        let told = told.clone();
        std::thread::spawn(move || told.send((name, client())));
    }
    meanwhile();
    let mut left = names;
    while !left.is_empty() {
        let (name, reply) = heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not dropped: {left:?}"));
        assert!(expected(name, &reply), "{name}: {reply}");
        left.retain(|other| *other != name);
    }
}

fn rest_of(mut connection: impl Read) -> String {
    let mut reply = Vec::new();
    let _ = connection.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_dropped_and_harm_no_other_client() {
    /// More than all buffers between the program and a client.
    const LARGE: usize = 16 * 1024 * 1024;

    let scene = Scene::new().await;
    scene.concur.mount("GET", "/expense/v4/large", &format!("{:?}", "x".repeat(LARGE)));
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    assert_eq!(status_of(&serving.get("/token")), 200);

    let begun = |bytes: &str| {
        let mut connection = UnixStream::connect(&serving.socket).unwrap();
        connection.write_all(bytes.as_bytes()).unwrap();
        connection
    };
    let (silent, half, idle) =
        (begun(""), begun("GET /token HTTP/1.1\r\nHost: loc"), begun("GET /healthz HTTP/1.1\r\n\r\n"));
    let mut keyless = TcpStream::connect(&serving.address).unwrap();
    keyless.write_all(b"GET /token HTTP/1.1\r\nHost").unwrap();
    let mut by_bytes = begun("GET /token HTTP/1.1\r\n");
    let mut not_reading = begun("GET /api/expense/v4/large HTTP/1.1\r\n\r\n");
    let mut asking_on = begun("");
    let clients: Vec<Dropped> = vec![
        ("silent", Box::new(|| rest_of(silent))),
        ("half a head", Box::new(|| rest_of(half))),
        ("half a head without the key", Box::new(|| rest_of(keyless))),
        ("idle after a request", Box::new(|| rest_of(idle))),
        (
            "a head byte by byte",
            Box::new(move || {
                while by_bytes.write_all(b"x").is_ok() {
                    really_wait(Duration::from_millis(100));
                }
                rest_of(by_bytes)
            }),
        ),
        (
            "not reading a large body",
            Box::new(move || {
                // The program does not read meanwhile; a write fails once the program has closed the connection.
                while not_reading.write_all(b"x").is_ok() {
                    really_wait(Duration::from_millis(100));
                }
                rest_of(not_reading)
            }),
        ),
        (
            "asking on and on, and not reading",
            Box::new(move || {
                while asking_on.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").is_ok() {}
                String::new()
            }),
        ),
    ];
    let meanwhile = || {
        assert_eq!(status_of(&over_loopback(&serving, "/token")), 200);
        scene.concur.expire_access_tokens();
        assert_eq!(status_of(&serving.get(USERS)), 200);
        assert_eq!(scene.concur.token_requests(), 2);
    };
    all_are_dropped(clients, meanwhile, |name, reply| match name {
        "idle after a request" => statuses(reply) == [200],
        "not reading a large body" => statuses(reply) == [200] && reply.len() < LARGE,
        _ => reply.is_empty(),
    });
    #[cfg(target_os = "linux")]
    assert!(most_memory(&serving) < 100, "{} MiB", most_memory(&serving));
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
}

/// The program waits a minute for a data centre, and for a client that sends a body. Run it by:
///
/// ```text
/// cargo test --all-features --test serve_under_attack -- --ignored a_minute
/// ```
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute; its command is above"]
async fn after_a_minute_a_data_centre_or_a_client_that_stops_is_given_up() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    let begun = |bytes: &str| {
        let mut connection = UnixStream::connect(&serving.socket).unwrap();
        connection.write_all(bytes.as_bytes()).unwrap();
        connection
    };
    let unanswered = begun("GET /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\n\r\n");
    let first = upstream.next();
    let half_answered = begun("GET /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\n\r\n");
    let mut second = upstream.next();
    second.answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    let post = "POST /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\nContent-Length: ";
    let stopped = begun(&format!("{post}10\r\n\r\nhello"));
    let mut by_bytes = begun(&format!("{post}60000\r\n\r\n"));
    let long = begun(&format!("{post}100000\r\n\r\nhello"));
    let third = upstream.next();
    let clients: Vec<Dropped> = vec![
        ("no answer", Box::new(|| rest_of(unanswered))),
        ("half an answer", Box::new(|| rest_of(half_answered))),
        ("half a body", Box::new(|| rest_of(stopped))),
        (
            "a body byte by byte",
            Box::new(move || {
                while by_bytes.write_all(b"x").is_ok() {
                    really_wait(Duration::from_secs(1));
                }
                rest_of(by_bytes)
            }),
        ),
        ("half a long body", Box::new(|| rest_of(long))),
    ];
    let meanwhile = || assert_eq!(status_of(&over_loopback(&serving, "/token")), 200);
    all_are_dropped(clients, meanwhile, |name, reply| match name {
        "no answer" => {
            status_of(reply) == 504 && reply.ends_with(r#"{"message":"Concur did not answer in time"}"#)
        }
        "half an answer" => reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("\r\n\r\nhello"),
        "half a body" | "a body byte by byte" => {
            status_of(reply) == 400 && reply.ends_with(r#"{"message":"the request's body did not arrive"}"#)
        }
        _ => matches!(status_of(reply), 502 | 504),
    });
    drop((first, second, third));
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
}
