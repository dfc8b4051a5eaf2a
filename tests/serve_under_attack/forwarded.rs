//! What of a request comes to the data centre, and what of its reply comes back.

use std::io::ErrorKind;

use super::*;

/// A data centre that the test plays by itself, byte by byte.
pub(crate) struct Upstream(TcpListener);

/// A request that came to the data centre.
pub(crate) struct Arrived {
    connection: TcpStream,
    /// The request line, and the headers in the order of their names.
    head: Vec<String>,
    body: String,
}

impl Upstream {
    /// From now on, Concur says that the company's data centre is this one.
    pub(crate) fn of(scene: &Scene) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let geolocation = format!("\"http://{}\"", listener.local_addr().unwrap());
        scene.concur.set_reply_member("geolocation", Some(&geolocation));
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn host(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    pub(crate) fn next(&self) -> Arrived {
        let mut accepted = None;
        until("a call arrives", || {
            accepted = self.accepted();
            accepted.is_some()
        });
        let mut connection = accepted.unwrap();
        connection.set_nonblocking(false).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        let end_of = |bytes: &[u8]| bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        let mut more = |bytes: &mut Vec<u8>| {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        };
        while end_of(&bytes).is_none() {
            more(&mut bytes);
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut head: Vec<_> = text.trim_end().split("\r\n").map(str::to_owned).collect();
        head[1..].sort();
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let mut body = Vec::new();
        // Of a long body the test reads nothing.
        while length <= 65536 && body.len() < length {
            more(&mut body);
        }
        Arrived { connection, head, body: String::from_utf8(body).unwrap() }
    }

    fn accepted(&self) -> Option<TcpStream> {
        match self.0.accept() {
            Ok((connection, _)) => Some(connection),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }

    /// Whether no other connection has come.
    fn is_quiet(&self) -> bool {
        self.accepted().is_none()
    }
}

impl Arrived {
    pub(crate) fn answer(&mut self, reply: &str) {
        self.connection.write_all(reply.as_bytes()).unwrap();
    }

    /// The last reply of the connection.
    fn answer_and_close(mut self, reply: &str) {
        self.answer(reply);
    }
}

/// A client of its own thread, so that the test can be the data centre.
fn asked(serving: &Serving, request: String) -> std::thread::JoinHandle<String> {
    let connection = UnixStream::connect(&serving.socket).unwrap();
    std::thread::spawn(move || raw(connection, &request))
}

/// A reply's status, its headers in the order of their names, without the date, and its body.
fn parts_of(reply: &str) -> (String, Vec<String>, String) {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let mut headers: Vec<_> = lines.filter(|line| !line.starts_with("date: ")).collect();
    headers.sort();
    (status, headers, body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_only_what_is_for_concur_arrives() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    let token = json_of(&serving.get("/token"))["access_token"].as_str().unwrap().to_owned();
    let head = "POST /api/expense/v4/reports?limit=5&x=/../oauth2 HTTP/1.1\r\nHost: localhost\r\n\
                Connection: close, X-Foo, ,X-Bar\r\nX-Foo: 1\r\nX-Bar: 2\r\nx-foo: 3\r\nKeep-Alive: timeout=5\r\n\
                Authorization: Bearer mine\r\nAuthorization: Basic bWluZQ==\r\nProxy-Authorization: Basic bWluZQ==\r\n\
                Proxy-Connection: close\r\nCookie: other=service\r\nTE: trailers\r\nTrailer: X-Last\r\n\
                X-Original-URL: /oauth2/v0/token\r\nX-Rewrite-URL: /app-mgmt/v0/connections\r\n\
                x-original-uri: /oauth2\r\nX_Original_Url: /oauth2\r\nX-Forwarded-Host: evil.example\r\n\
                X-Forwarded-Prefix: /oauth2\r\nX-Forwarded-Uri: /oauth2\r\nX-Forwarded-For: 192.0.2.1\r\n\
                Forwarded: host=evil.example\r\nX-Host: evil.example\r\nX-Override-URL: /oauth2\r\n\
                X-Envoy-Original-Path: /oauth2\r\nX-HTTP-DestinationURL: /oauth2\r\nX-HTTP-Host-Override: evil.example\r\n\
                concur-correlationid: abc\r\nAccept: application/json\r\nX-HTTP-Method-Override: PATCH\r\n";
    let arrives = |body_length: usize| {
        let mut expected = [
            "POST /expense/v4/reports?limit=5&x=/../oauth2 HTTP/1.1".to_owned(),
            "accept: application/json".to_owned(),
            format!("authorization: Bearer {token}"),
            "concur-correlationid: abc".to_owned(),
            format!("content-length: {body_length}"),
            format!("host: {}", upstream.host()),
            // The path is what decides, and that is checked.
            "x-http-method-override: PATCH".to_owned(),
        ];
        expected[1..].sort();
        expected
    };
    let long = "y".repeat(70_000);
    for (what, framed, body) in [
        ("a length", "Content-Length: 5\r\n\r\nhello".to_owned(), "hello"),
        (
            "a length and an expectation",
            "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "hello",
        ),
        ("a long body", format!("Content-Length: 70000\r\n\r\n{long}"), &long),
    ] {
        let client = asked(&serving, format!("{head}{framed}"));
        let mut arrived = upstream.next();
        assert_eq!(arrived.head, arrives(body.len()), "{what}");
        if body == "hello" {
            assert_eq!(arrived.body, body, "{what}");
        } else {
            let mut bytes = vec![0; body.len()];
            arrived.connection.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, body.as_bytes(), "{what}");
        }
        arrived.answer_and_close("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        let reply = client.join().unwrap();
        let expected = if what.contains("expectation") { vec![100, 200] } else { vec![200] };
        assert!(statuses(&reply) == expected && reply.ends_with("\r\n\r\nok"), "{what}: {reply}");
    }
    // Chunks beat a length (RFC 9112 section 6.3), and the program says itself where the body ends.
    for framed in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\nX-Last: 1\r\n\r\n",
    ] {
        let client = asked(&serving, format!("{head}{framed}"));
        let arrived = upstream.next();
        assert_eq!(arrived.head, arrives(5), "{framed}");
        assert_eq!(arrived.body, "hello");
        arrived.answer_and_close("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(statuses(&client.join().unwrap()), [200]);
    }
    assert!(upstream.is_quiet());
    assert_eq!(serving.end(), Some(0));
}

/// What one server takes for a part of a path, and another for a way out of it.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_closed_path_arrives() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    for path in [
        "app-mgmt/v0/connections",
        "APP-MGMT/v0/connections",
        "app-mgmt",
        "app%2dmgmt/v0/connections",
        "%61pp-mgmt%2fv0%2fconnections",
        "%25%36%31pp-mgmt/v0/connections",
        "app-mgmt%3bx/v0/connections",
        "%20app-mgmt/v0/connections",
        "app-mgmt%00/v0/connections",
        "x/..%2fapp-mgmt/v0/connections",
        "x/%2e./app-mgmt/v0/connections",
        "x/..%3b/app-mgmt/v0/connections",
        "x%c0%af..%c0%afapp-mgmt/v0/connections",
        "x/%c0%ae%c0%ae/app-mgmt/v0/connections",
        "x/%25c0%25ae./app-mgmt/v0/connections",
        "%e0%80%afapp-mgmt/v0/connections",
        "x/%0d%0aX-Original-URL:%20/oauth2",
        "./app-mgmt/v0/connections",
        "%2fapp-mgmt/v0/connections",
        "%5capp-mgmt/v0/connections",
    ] {
        for method in ["DELETE", "POST"] {
            let request = format!("{method} /api/{path} HTTP/1.1\r\nConnection: close\r\n\r\n");
            let reply = serving.raw(&request);
            assert_eq!(status_of(&reply), 403, "{method} {path}: {reply}");
        }
    }
    for (request, status) in [
        ("DELETE /api/../app-mgmt/v0/connections HTTP/1.1", 403),
        ("DELETE /app-mgmt/v0/connections HTTP/1.1", 405),
        ("GET /app-mgmt/v0/connections HTTP/1.1", 404),
        ("DELETE //api/app-mgmt/v0/connections HTTP/1.1", 405),
        ("DELETE /api/x\\..\\app-mgmt/v0/connections HTTP/1.1", 400),
        ("DELETE http://concur.example/api/app-mgmt/v0/connections HTTP/1.1", 400),
        ("DELETE /api/x/%u002e%u002e/app-mgmt HTTP/1.1", 400),
    ] {
        let reply = serving.raw(&format!("{request}\r\nConnection: close\r\n\r\n"));
        assert_eq!(status_of(&reply), status, "{request}: {reply}");
    }
    assert!(upstream.is_quiet());
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_comes_back_as_it_is_but_for_what_is_of_one_connection() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("location: http://{}/oauth2", elsewhere.local_addr().unwrap());
    for (method, status, reply, headers, body) in [
        (
            "GET",
            "200 OK",
            "Connection: X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTE: x\r\n\
             Trailer: y\r\nUpgrade: h2c\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nconcur-correlationid: abc\r\n\
             Content-Type: text/plain\r\nContent-Length: 5",
            &["concur-correlationid: abc", "content-length: 5", "content-type: text/plain"][..],
            "hello",
        ),
        (
            "GET",
            "302 Found",
            &format!("{location}\r\nContent-Length: 0"),
            &["content-length: 0", &location],
            "",
        ),
        (
            "POST",
            "307 Temporary Redirect",
            &format!("{location}\r\nContent-Length: 0"),
            &["content-length: 0", &location],
            "",
        ),
        (
            "GET",
            "500 Internal Server Error",
            "Content-Type: text/html\r\nContent-Length: 9",
            &["content-length: 9", "content-type: text/html"],
            "<p>no</p>",
        ),
        (
            "GET",
            "429 Too Many Requests",
            "Retry-After: 7\r\nContent-Length: 0",
            &["content-length: 0", "retry-after: 7"],
            "",
        ),
        ("HEAD", "200 OK", "Content-Length: 12345", &["content-length: 12345"], ""),
        ("DELETE", "204 No Content", "X: y", &["x: y"], ""),
        // What comes before a reply is for the one connection, too.
        (
            "GET",
            "103 Early Hints",
            "X: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0",
            &["content-length: 0"],
            "",
        ),
    ] {
        let client = asked(
            &serving,
            format!("{method} /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\n\r\n"),
        );
        upstream
            .next()
            .answer_and_close(&format!("HTTP/1.1 {status}\r\n{reply}\r\nConnection: close\r\n\r\n{body}"));
        let mut expected: Vec<_> = headers.iter().map(|line| (*line).to_owned()).collect();
        expected.push("connection: close".to_owned());
        expected.sort();
        let status = if status.starts_with("103") { "200 OK" } else { status };
        let expected = (format!("HTTP/1.1 {status}"), expected, body.to_owned());
        assert_eq!(parts_of(&client.join().unwrap()), expected, "{method} {reply}");
    }
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err_and(|e| e.kind() == ErrorKind::WouldBlock));
    assert!(upstream.is_quiet());
    assert_eq!(serving.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_breaks_off_does_not_look_complete() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    let request = "GET /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\n\r\n";
    for (reply, head, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "content-length: 10", "hello"),
        // Without the last chunk.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "transfer-encoding: chunked",
            "5\r\nhello\r\n",
        ),
    ] {
        let client = asked(&serving, request.to_owned());
        upstream.next().answer_and_close(reply);
        let came = client.join().unwrap();
        let (came_head, came_body) = came.split_once("\r\n\r\n").unwrap();
        assert!(came_head.contains(head) && came_body == body, "{came}");
    }
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let unknown = "no reply came to the API call; whether Concur has received it is unknown";
    for (reply, told) in [
        ("", unknown),
        ("HTTP/1.1 20", unknown),
        ("nonsense\r\n\r\n", unknown),
        (switched, "the reply to the API call is none"),
    ] {
        let client = asked(&serving, request.to_owned());
        upstream.next().answer_and_close(reply);
        let came = client.join().unwrap();
        assert_eq!((status_of(&came), &json_of(&came)["message"]), (502, &told.into()), "{reply}: {came}");
    }
    drop(upstream);
    assert_eq!(status_of(&serving.raw(request)), 502);
    assert_eq!(status_of(&serving.get("/token")), 200);
    assert_eq!(serving.end(), Some(0));
}

/// As a program sends on what another prints, which may have no end.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_known_length_is_forwarded_before_its_end() {
    let scene = Scene::new().await;
    let upstream = Upstream::of(&scene);
    let serving = Serving::of(&scene, &mut serve(&scene, &["--proxy"]));
    for (first, rest) in [("5\r\nhello\r\n", "0\r\n\r\n"), ("", "5\r\nhello\r\n0\r\n\r\n")] {
        let mut client = UnixStream::connect(&serving.socket).unwrap();
        let head = "POST /api/expense/v4/reports HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}{first}").as_bytes()).unwrap();
        // It arrives while the rest is not sent yet.
        let mut arrived = upstream.next();
        assert!(arrived.head.contains(&"transfer-encoding: chunked".to_owned()), "{:?}", arrived.head);
        client.write_all(rest.as_bytes()).unwrap();
        let mut body = vec![0; "5\r\nhello\r\n0\r\n\r\n".len()];
        arrived.connection.read_exact(&mut body).unwrap();
        assert_eq!(body, b"5\r\nhello\r\n0\r\n\r\n");
        arrived.answer_and_close("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert!(statuses(&reply) == [200] && reply.ends_with("\r\n\r\nok"), "{reply}");
    }
    assert_eq!(serving.end(), Some(0));
}
