//! The program `concur-auth serve`: what the local endpoint answers, and whom.

#![cfg(all(feature = "cli", feature = "simulator", unix))]

#[path = "cli/scene.rs"]
mod scene;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
    process::Command,
};

use concur_auth::simulator::Fault;

use self::scene::{Scene, Serving, json_of, status_of};

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_answers_on_a_socket_and_over_loopback() {
    let scene = Scene::new().await;
    let serving = Serving::start(&scene, &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&serving.socket), mode(&scene.path("key"))), (0o600, 0o600));

    let reply = serving.get("/token?min_validity=600");
    assert!(status_of(&reply) == 200 && reply.contains("cache-control: no-store"), "{reply}");
    assert!(scene.concur.is_live_access(json_of(&reply)["access_token"].as_str().unwrap()));
    assert_eq!(json_of(&serving.get("/status"))["health"], "healthy");
    assert_eq!(status_of(&serving.get("/healthz")), 200);
    assert!(serving.get("/metrics").contains("concur_auth_renewals_total"));
    assert_eq!(status_of(&serving.get("/token?min_validity=soon")), 400);
    assert_eq!(status_of(&serving.get("/")), 404);
    assert_eq!(status_of(&serving.get("/api/profile/identity/v4/Users")), 404);

    let over = |headers: &str| {
        status_of(
            &serving.raw_over_loopback(&format!("GET /token HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")),
        )
    };
    let (host, key) =
        (format!("Host: {}\r\n", serving.address), format!("Authorization: Bearer {}\r\n", serving.key));
    assert_eq!(over(&format!("{host}{key}")), 200);
    assert_eq!(over(&host), 401);
    assert_eq!(over(&format!("{host}Authorization: Bearer {}0\r\n", &serving.key[1..])), 401);
    assert_eq!(over(&format!("{host}{key}Origin: https://evil.example\r\n")), 403);
    assert_eq!(over(&format!("Host: evil.example\r\n{key}")), 403);
    assert_eq!(over(&format!("{host}Host: evil.example\r\n{key}")), 403);
    assert_eq!(over(&key), 403);
    assert_eq!(scene.concur.token_requests(), 1);

    // A socket that answers is not taken over.
    scene.run(&["serve", "--socket", "auth.sock"]).failed(1, "another process listens on auth.sock");
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
    assert!(!scene.path("auth.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_process_left_is_taken_over() {
    let scene = Scene::new().await;
    drop(Serving::start(&scene, &[]));
    assert!(scene.path("auth.sock").exists());
    let serving = Serving::start(&scene, &[]);
    assert_eq!(status_of(&serving.get("/token")), 200);
    scene.write("file.sock", "");
    scene.run(&["serve", "--socket", "file.sock"]).failed(1, "file.sock");
    assert!(scene.path("file.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_endpoint_says_why_and_when_to_ask_again() {
    let scene = Scene::new().await;
    scene.concur.set_fault(Fault::code(14));
    let serving = Serving::start(&scene, &["--proxy"]);
    for path in ["/token", "/api/profile/identity/v4/Users"] {
        let reply = serving.get(path);
        assert!(status_of(&reply) == 503 && reply.contains("retry-after: "), "{reply}");
        assert_eq!((&json_of(&reply)["kind"], &json_of(&reply)["code"]), (&"refused".into(), &14.into()));
        // An administrator unlocks the account.
        assert_eq!(json_of(&reply)["person_needed"], true);
    }
    assert_eq!(status_of(&serving.get("/healthz")), 503);
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn api_calls_are_forwarded_with_a_token_and_nothing_else_is() {
    let scene = Scene::new().await;
    scene.concur.mount("GET", "/expense/v4/a%2Fb~c", r#"{"it": "came"}"#);
    scene.concur.mount("GET", "/expense/v4/100%25off", r#"{"it": "came, too"}"#);
    let serving = Serving::start(&scene, &["--proxy"]);
    let reply = serving.get("/api/profile/identity/v4/Users");
    assert!(status_of(&reply) == 200 && reply.contains("userName"), "{reply}");
    assert!(serving.get("/api/expense/v4/a%2Fb~c?x=%20y").contains("came"));
    // A `%` that was encoded, and then stands alone.
    assert!(serving.get("/api/expense/v4/100%25off").contains("came, too"));

    for path in [
        "oauth2/v0/token",
        "OAuth2/v0/token",
        "oauth2;x=1/v0/token",
        "%6fauth2/v0/token",
        "%256fauth2/v0/token",
        "app-mgmt/v0/connections",
        "x/../oauth2/v0/token",
        "x/%2e%2e/oauth2",
        "x/%252e%252e/oauth2",
        "x/..;/oauth2",
        "/oauth2/v0/token",
        "x//y",
        "x/%2f/y",
        "x%5c..%5coauth2",
        ".",
        // Encoded more often than is looked through.
        "x/%2525252561",
    ] {
        let reply = serving.get(&format!("/api/{path}"));
        assert_eq!(status_of(&reply), 403, "{path}: {reply}");
    }
    for path in ["x/%zz", "x/%2", "x/{y}"] {
        assert_eq!(status_of(&serving.get(&format!("/api/{path}"))), 400, "{path}");
    }
    let head = "GET /api/profile/identity/v4/Users HTTP/1.1\r\nHost: localhost\r\nConnection: ";
    assert_eq!(status_of(&serving.raw(&format!("{head}upgrade\r\nUpgrade: websocket\r\n\r\n"))), 403);
    let absolute = "GET http://evil.example/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&serving.raw(absolute)), 400);
    // Two lengths, or a length and chunks: what one server takes for the end of a request another does not.
    for smuggled in
        ["Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n"]
    {
        let request =
            format!("POST /api/expense/v4/reports HTTP/1.1\r\nHost: localhost\r\n{smuggled}\r\nhello");
        assert_eq!(status_of(&serving.raw(&request)), 400, "{smuggled}");
    }
    assert_eq!(serving.end(), Some(0));
}

/// Also a small body that does not say how long it is, as Node.js and Java send it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_401_a_call_with_a_small_body_in_chunks_is_repeated() {
    let head = "POST /api/expense/v4/reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    for (length, status) in [(1000, 200), (64 * 1024, 200), (64 * 1024 + 1, 401)] {
        let scene = Scene::new().await;
        scene.concur.mount("POST", "/expense/v4/reports", r#"{"made": true}"#);
        let serving = Serving::start(&scene, &["--proxy"]);
        assert_eq!(status_of(&serving.get("/token")), 200);
        scene.concur.expire_access_tokens();
        let chunks = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        assert_eq!(status_of(&serving.raw(&format!("{head}{chunks}"))), status, "{length}");
        let arrived = scene.concur.requests();
        assert_eq!(arrived.last().unwrap().body().len(), length);
        assert_eq!(serving.end(), Some(0));
    }
}

/// A body that is too long to be kept cannot be sent again: the client makes that call again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_401_a_call_is_repeated_if_its_body_is_small() {
    for (length, statuses) in [(1000, [200, 200]), (64 * 1024, [200, 200]), (64 * 1024 + 1, [401, 200])] {
        let scene = Scene::new().await;
        scene.concur.mount("POST", "/expense/v4/reports", r#"{"made": true}"#);
        let serving = Serving::start(&scene, &["--proxy"]);
        assert_eq!(status_of(&serving.get("/token")), 200);
        scene.concur.expire_access_tokens();
        let head = "POST /api/expense/v4/reports HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Authorization: Bearer mine\r\n";
        let request = format!("{head}Content-Length: {length}\r\n\r\n{}", "x".repeat(length));
        let answered = [(); 2].map(|()| status_of(&serving.raw(&request)));
        assert_eq!((answered, scene.concur.token_requests()), (statuses, 2), "{length}");
        assert_eq!(serving.end(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_served_by_company() {
    let scene = Scene::new().await;
    let company = scene.company();
    scene.run_with(&["--fleet", "tokens", "fleet", "connect", &company], &scene.request_token()).ok();
    let serving = Serving::start(&scene, &["--fleet", "tokens", "--proxy"]);
    let token = json_of(&serving.get(&format!("/companies/{company}/token")));
    assert!(scene.concur.is_live_access(token["access_token"].as_str().unwrap()));
    assert_eq!(json_of(&serving.get("/companies"))[0]["company"], company);
    assert!(serving.get(&format!("/companies/{company}/api/profile/identity/v4/Users")).contains("userName"));
    assert_eq!(status_of(&serving.get(&format!("/companies/{company}/api/oauth2/v0/token"))), 403);
    assert_eq!(status_of(&serving.get("/companies/b3f4e2a0-0000-4000-8000-000000000000/token")), 404);
    assert_eq!(json_of(&serving.get("/healthz"))["active"], 1);
    let metrics = serving.get("/metrics");
    assert!(metrics.contains("concur_auth_members{state=\"active\"} 1\n"), "{metrics}");
    assert!(metrics.contains("\nconcur_auth_soonest_expiry_timestamp_seconds "), "{metrics}");
    assert_eq!(status_of(&serving.get(&format!("/companies/{company}/healthz"))), 404);
    let post =
        "POST /companies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(status_of(&serving.raw(post)), 405);
    assert_eq!(status_of(&serving.get("/token")), 404);
    assert_eq!(serving.end(), Some(0));
}

/// A file of an earlier run with the same number, as in a container, and a link to nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_cannot_be_made_is_an_error() {
    let scene = Scene::new().await;
    std::os::unix::fs::symlink("nowhere/key", scene.path("link")).unwrap();
    let ran = scene.run(&["serve", "--listen", "127.0.0.1:0", "--key-file", "link"]);
    ran.failed(1, "could not read link");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_listen_it_says_so() {
    let scene = Scene::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    scene
        .run(&["serve", "--listen", &address, "--key-file", "key"])
        .failed(1, &format!("could not listen on {address}: "));
    // A process that listens, and knows nothing of this program's locks.
    let _listener = UnixListener::bind(scene.path("other.sock")).unwrap();
    scene.run(&["serve", "--socket", "other.sock"]).failed(1, "another process listens on other.sock");
    assert!(scene.path("other.sock").exists());
    // A folder that is not there, and a path that is longer than a socket's may be.
    let long = "s".repeat(150);
    for path in ["nowhere/auth.sock", long.as_str()] {
        scene.run(&["serve", "--socket", path]).failed(1, &format!("could not listen on {path}: "));
    }
    for (key, what) in [("nowhere/key", "could not make nowhere/key: "), (".", "could not read .: ")] {
        scene.run(&["serve", "--listen", "127.0.0.1:0", "--key-file", key]).failed(1, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_path_it_listens_in_the_users_runtime_folder() {
    let scene = Scene::new().await;
    let mut child = scene.command(&["serve"]).env("XDG_RUNTIME_DIR", scene.dir.path()).spawn().unwrap();
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    assert_eq!(line, format!("listening on unix:{}", scene.path("concur-auth.sock").display()));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut command = scene.command(&["serve"]);
    let ran = scene::Ran::of(command.env("XDG_RUNTIME_DIR", "").output().unwrap());
    ran.failed(64, "XDG_RUNTIME_DIR is not set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_that_does_not_listen_stops_nothing() {
    let scene = Scene::new().await;
    let arguments = ["serve", "--socket", "auth.sock", "--listen", "127.0.0.1:0", "--key-file", "key"];
    let mut command = scene.command(&arguments);
    command.env("NOTIFY_SOCKET", scene.path("nobody-listens"));
    command.stderr(fs::File::create(scene.path("log")).unwrap());
    let serving = Serving::of(&scene, &mut command);
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
    let log = fs::read_to_string(scene.path("log")).unwrap();
    assert!(log.contains("could not tell the service manager: "), "{log}");
}
