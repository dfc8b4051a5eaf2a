//! Whatever a server sends, or does not: an error that says so, in time and within bounds, and no refresh token lost.

#![cfg(feature = "simulator")]

mod support;

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use concur_auth::{
    Credentials, Error, ErrorKind, Grant, JsonFileStore, OAuthClient, RefreshTokenObject, TokenManager,
    TokenReply, simulator::Fault,
};
use support::{HOUR, MINUTE, Scene};
use tempfile::TempDir;

const SPENT: &str = "the grant may nevertheless have been used, so find out why before you try again";
const NOT_AN_OBJECT: &str =
    "127.0.0.1 answered with text that is not a JSON object; check the base URI and any proxy";
const TOO_LONG: &str = "127.0.0.1 answered with more than 256 KiB; check the base URI and any proxy";
const GOOD_UP_TO: &str =
    "the reply of 127.0.0.1 is complete up to its refresh token, but damaged after it; try again";
const TELL_SUPPORT: &str = "tell SAP Concur's support, with the correlation id";
const MIB: usize = 1 << 20;

/// Answers every request on a connection of its own, in whatever way it was told.
struct Server {
    uri: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    /// `answer` gets each connection with its number, once the request has been read.
    fn new(answer: impl Fn(&mut TcpStream, usize) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::rude(move |connection, number| {
            read_request(connection)?;
            answer(connection, number)
        })
    }

    /// A server that does not have to read the request.
    fn rude(answer: impl Fn(&mut TcpStream, usize) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                // A client that has had enough hangs up.
                let _ = answer(&mut connection.unwrap(), number);
            }
        });
        Self { uri, requests }
    }

    /// A server that sends these bytes and closes the connection.
    fn sending(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |connection, _| connection.write_all(&bytes))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// What the client makes of it.
    async fn reply(&self) -> Result<TokenReply, Error> {
        let app = Credentials::new("the-app", "the-secret");
        let grant = Grant::company_request_token("uuid", "at-token");
        OAuthClient::new().request_token(&self.uri.parse().unwrap(), &app, &grant).await
    }

    /// A manager that signs in here, and the file that it saves to.
    fn manager(&self) -> (TokenManager, TokenFile) {
        let file = TokenFile::new();
        (self.manager_on(&file.path), file)
    }

    fn manager_on(&self, file: &Path) -> TokenManager {
        let credentials = Credentials::new("the-app", "the-secret").company("uuid", "at-token");
        let store = JsonFileStore::new(file);
        TokenManager::builder().credentials(credentials).store(store).base_uri(&self.uri).build().unwrap()
    }
}

struct TokenFile {
    _dir: TempDir,
    path: PathBuf,
}

impl TokenFile {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.json");
        Self { _dir: dir, path }
    }

    /// The refresh token in the file, read without the manager.
    fn refresh_token(&self) -> Option<String> {
        let json = std::fs::read_to_string(&self.path).ok()?;
        Some(RefreshTokenObject::from_json(&json).unwrap().secret().to_owned())
    }
}

/// Reads a request to its end, as its `Content-Length` says.
fn read_request(connection: &mut TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = connection.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return Ok(());
            }
        }
    }
}

fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    reply.extend_from_slice(body);
    reply
}

fn unread(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{text}")
}

#[tokio::test]
async fn a_connection_that_breaks_or_sends_nonsense_is_reported() {
    let many_headers: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    for (what, server) in [
        ("closed at once", Server::rude(|_, _| Ok(()))),
        // A socket that is closed with something unread resets its connection.
        ("reset", Server::rude(|connection, _| connection.read_exact(&mut [0]))),
        ("closed without an answer", Server::sending("")),
        ("half a status line", Server::sending("HTTP/1.1 20")),
        ("half a header", Server::sending(unread("Content-Le"))),
        ("half a head", Server::sending(unread("Content-Length: 2\r\n"))),
        ("half a body", Server::sending(unread("Content-Length: 30\r\n\r\n{\"refresh_token\": \"r"))),
        ("half a chunk", Server::sending(unread("Transfer-Encoding: chunked\r\n\r\n20\r\n{}"))),
        ("no last chunk", Server::sending(unread("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"))),
        ("2^64 - 1 in a chunk", {
            Server::sending(unread("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}"))
        }),
        ("2^68 - 1 in a chunk", {
            Server::sending(unread("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}"))
        }),
        ("-2 in a chunk", Server::sending(unread("Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"))),
        ("a chunk's endless extension", {
            Server::new(|connection, _| {
                connection.write_all(unread("Transfer-Encoding: chunked\r\n\r\n2;").as_bytes())?;
                endlessly(connection, &[b'x'; 4096])
            })
        }),
        ("a negative length", Server::sending(unread("Content-Length: -2\r\n\r\n{}"))),
        ("a length of 2^64", Server::sending(unread("Content-Length: 18446744073709551616\r\n\r\n{}"))),
        ("two lengths", Server::sending(unread("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"))),
        ("thousands of headers", Server::sending(unread(&(many_headers + "\r\n{}")))),
        ("a header of a megabyte", Server::sending(unread(&format!("x: {}\r\n\r\n{{}}", "y".repeat(MIB))))),
        ("headers without end", {
            Server::new(|connection, _| {
                connection.write_all(b"HTTP/1.1 200 OK\r\n")?;
                endlessly(connection, b"x: y\r\n")
            })
        }),
        ("a status line without end", Server::new(|connection, _| endlessly(connection, b"HTTP/1.1 200 "))),
        ("a status of 99", Server::sending("HTTP/1.1 99 What\r\n\r\n")),
        ("HTTP/9.9", Server::sending("HTTP/9.9 200 OK\r\n\r\n{}")),
        ("another protocol", Server::sending("SSH-2.0-OpenSSH_9.9\r\n")),
        ("a TLS alert", Server::sending(b"\x15\x03\x03\x00\x02\x02\x0a")),
        ("NUL characters", Server::sending(vec![0; 4096])),
        ("only interim replies", Server::sending("HTTP/1.1 100 Continue\r\n\r\n".repeat(1000))),
    ] {
        let error = server.reply().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::Unavailable, format!("the connection to 127.0.0.1 broke off; {SPENT}")),
            "{what}"
        );
        assert_eq!(server.requests(), 1, "{what}");
    }
}

/// `bytes` again and again, until the client has had enough.
fn endlessly(connection: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat(65536 / bytes.len() + 1);
    loop {
        connection.write_all(&many)?;
    }
}

#[tokio::test]
async fn a_reply_that_is_not_an_object_is_reported_and_not_quoted() {
    let deep = "[".repeat(100_000);
    for (body, cause) in [
        (&b""[..], "the JSON text ends too early at line 1, column 0"),
        (b"[]", "not a JSON object at line 1, column 0"),
        (b"[{\"refresh_token\": \"SECRET\"}]", "not a JSON object at line 1, column 0"),
        (b"\"SECRET\"", "not a JSON object at line 1, column 8"),
        (b"17", "not a JSON object at line 1, column 2"),
        (b"null", "not a JSON object at line 1, column 4"),
        (b"<html>SECRET</html>", "not valid JSON at line 1, column 1"),
        (b"{\"a\": SECRET", "not valid JSON at line 1, column 7"),
        (b"{\"a\": \"SECRET", "the JSON text ends too early at line 1, column 13"),
        (b"{'refresh_token': 'SECRET'}", "not valid JSON at line 1, column 2"),
        (b"{} SECRET", "not valid JSON at line 1, column 4"),
        (b"{\"a\": \"SEC\0RET\", \"refresh_token\": \"r\"}", "not valid JSON at line 1, column 10"),
        (b"\0\0\0\0", "not valid JSON at line 1, column 1"),
        (b"\xff\xfe{\0}\0", "not valid JSON at line 1, column 1"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "not valid JSON at line 1, column 1"),
        (deep.as_bytes(), "not a JSON object at line 1, column 0"),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        let error = Server::sending(ok(body)).reply().await.unwrap_err();
        assert_eq!(
            format!("{error:?}"),
            format!("Protocol: {NOT_AN_OBJECT}\n  caused by: {cause}"),
            "{shown}"
        );
    }
    let deep = format!("{{\"a\": {deep}");
    let error = Server::sending(ok(&deep)).reply().await.unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        format!(
            "Protocol: {NOT_AN_OBJECT}\n  caused by: the JSON text ends too early at line 1, column {}",
            deep.len()
        )
    );
}

/// A reply is never unpacked, because no request asks for compression. So a gzip bomb is only bytes.
/// Neither the words of a gateway in front of Concur, nor those of a server that will recover, are Concur's decision: the
/// valid token is served, and nothing is remembered.
#[tokio::test]
async fn a_gateways_words_are_no_refusal() {
    use ErrorKind::{Protocol, Unavailable};
    for (status, body, kind) in [
        (404, r#"{"status":404,"error":"Not Found","path":"/oauth2/v0/token"}"#, Protocol),
        (404, r#"{"code":404,"message":"no such route"}"#, Protocol),
        (401, r#"{"error":"Unauthorized"}"#, Protocol),
        (403, "", Protocol),
        (400, r#"{"error":"temporarily_unavailable"}"#, Unavailable),
        (400, r#"{"error":"server_error"}"#, Unavailable),
    ] {
        let scene = Scene::new().await;
        let tokens = scene.manager();
        let held = tokens.access_token().await.unwrap();
        scene.clock.advance(HOUR - MINUTE / 2);
        let fault = || Fault::status(status).body(body);
        scene.concur.fault_next(1, fault());
        assert_eq!(tokens.access_token().await.unwrap().secret(), held.secret(), "{body}");
        assert_eq!(scene.concur.token_requests(), 2, "{body}");

        scene.concur.fault_next(1, fault());
        let error = scene.manager().refresh().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, None), "{body}");
        // The next process asks again at once.
        scene.manager().refresh().await.unwrap();
        assert_eq!(scene.concur.token_requests(), 4, "{body}");
    }
}

#[tokio::test]
async fn a_compressed_reply_is_not_decompressed() {
    let mut reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n".to_vec();
    // An empty file, as gzip packs it.
    reply.extend_from_slice(
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    );
    let error = Server::sending(reply).reply().await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Protocol, NOT_AN_OBJECT));
}

/// Values that no member may have, and values that are valid for some members only. Some numbers exceed every limit.
const ODD_VALUES: [&str; 14] = [
    "true",
    "[]",
    "{}",
    "[[[[[[[[1]]]]]]]]",
    "-1",
    "1e300",
    "-1e300",
    "4611686018427387904",
    "18446744073709551616",
    "0.5",
    "\"so\\u0000on\"",
    "\"\\ud800\"",
    "\"-1\"",
    "\"1e300\"",
];

#[tokio::test]
async fn an_unusable_refresh_token_is_reported_and_replaces_nothing() {
    let mut cases: Vec<(String, &str)> = ODD_VALUES[..10]
        .iter()
        .map(|value| (format!("{{\"refresh_token\": {value}}}"), "is not a string"))
        .collect();
    cases.extend(
        [
            (r#"{"refresh_token": "\ud800"}"#, "is not a string"),
            (r#"{"refresh_token": "a\u0000b"}"#, "is not printable text"),
            (r#"{"refresh_token": "a\nb"}"#, "is not printable text"),
            ("{\"refresh_token\": \"a\u{fffd}b\"}", "is not printable text"),
            (r#"{"refresh_token": "r", "refresh_token": 5}"#, "is not a string"),
            (r#"{"refresh_token": ""}"#, "is missing or blank"),
            (r#"{"refresh_token": " "}"#, "is missing or blank"),
            (r#"{"refresh_token": null}"#, "is missing or blank"),
            (r#"{"nested": {"refresh_token": "r"}}"#, "is missing or blank"),
            (r#"{"Refresh_Token": "r"}"#, "is missing or blank"),
            ("{}", "is missing or blank"),
        ]
        .map(|(body, is)| (body.to_owned(), is)),
    );
    for (body, is) in cases {
        let server = Server::sending(ok(&body));
        let (manager, file) = server.manager();
        let error = manager.refresh().await.unwrap_err();
        let holds_none = format!(
            "Protocol: the reply of 127.0.0.1 holds no usable refresh token: the member refresh_token {is}; \
             {TELL_SUPPORT}"
        );
        assert_eq!(format!("{error:?}"), holds_none, "{body}");
        assert_eq!((file.refresh_token(), server.requests()), (None, 1), "{body}");

        // The current token stays.
        let held = r#"{"refresh_token": "held", "companyUUID": "uuid"}"#;
        std::fs::write(&file.path, held).unwrap();
        assert_eq!(format!("{:?}", manager.refresh().await.unwrap_err()), holds_none, "{body}");
        assert_eq!(
            std::fs::read_to_string(&file.path).unwrap().replace(['\n', ' '], ""),
            held.replace(' ', "")
        );
    }
    // A byte that is no text is a part of no token.
    let (manager, file) = Server::sending(ok(b"{\"refresh_token\": \"a\xffb\"}")).manager();
    assert_eq!(manager.refresh().await.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(file.refresh_token(), None);
}

/// Saved first, reported afterwards: the refresh token itself is good.
#[tokio::test]
async fn each_member_at_fault_is_named_after_the_refresh_token_was_saved() {
    const SECONDS: &str = "a number of seconds";
    const DATE: &str = "a date in Unix seconds";
    const STRING: &str = "a string";
    let mut cases = Vec::new();
    for value in ODD_VALUES {
        let is_text = value.starts_with('"') && value != r#""\ud800""#;
        for member in ["scope", "geolocation", "token_type", "access_token"] {
            if !is_text {
                cases.push((member, value, STRING));
            }
        }
        match value {
            "0.5" => {}
            "4611686018427387904" => {
                cases.extend([("expires_in", value, SECONDS), ("refresh_expires_in", value, DATE)]);
            }
            _ => cases.extend([("expires_in", value, SECONDS), ("refresh_expires_in", value, SECONDS)]),
        }
    }
    cases.extend([
        ("expires_in", "null", SECONDS),
        ("expires_in", "\"\"", SECONDS),
        ("refresh_expires_in", "\"\"", SECONDS),
        ("refresh_expires_in", "253402300800", DATE),
        ("access_token", r#""so\u0000on""#, "a bearer token"),
        ("access_token", r#""a b""#, "a bearer token"),
        ("access_token", r#""ä""#, "a bearer token"),
        ("token_type", r#""mac""#, "\"Bearer\""),
    ]);
    let client = OAuthClient::new();
    for (member, value, what) in &cases {
        let good = [
            ("access_token", "\"a\""),
            ("token_type", "\"Bearer\""),
            ("expires_in", "3600"),
            ("refresh_token", "\"r\""),
        ];
        let members: Vec<String> = good
            .iter()
            .filter(|(name, _)| name != member)
            .chain([&(*member, *value)])
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        let body = format!("{{{}}}", members.join(", "));
        let server = Server::sending(ok(&body));
        let expected = format!(
            "Protocol: the reply of 127.0.0.1 has a fault: the member {member} is not {what}; {TELL_SUPPORT}"
        );

        let (manager, file) = server.manager();
        assert_eq!(format!("{:?}", manager.access_token().await.unwrap_err()), expected, "{body}");
        assert_eq!(file.refresh_token().as_deref(), Some("r"), "{body}");
        // The token is valid, so no further request is sent.
        assert_eq!(manager.get_valid_refresh_token().await.unwrap().secret(), "r", "{body}");
        assert_eq!(server.requests(), 1, "{body}");

        let app = Credentials::new("the-app", "the-secret");
        let reply = client
            .request_token(&server.uri.parse().unwrap(), &app, &Grant::refresh_token("old"))
            .await
            .unwrap();
        assert_eq!(reply.refresh_token_object().unwrap().secret(), "r", "{body}");
        assert_eq!(format!("{:?}", reply.access_token().unwrap_err()), expected, "{body}");
    }
    assert_eq!(cases.len(), 78);
}

#[tokio::test]
async fn odd_members_that_are_not_needed_are_no_fault() {
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    for member in [
        format!("\"deep\": {deep}"),
        r#""id_token": {"not": ["a", "string"]}"#.to_owned(),
        r#""companyUUID": 5"#.to_owned(),
        r#""expires_in": 1e300, "expires_in": "3600""#.to_owned(),
        r#""\ud800": "\udc00""#.to_owned(),
        r#""": 18446744073709551616e300"#.to_owned(),
        "\"\u{1f600}\": \"\\u0000\"".to_owned(),
        format!("\"long\": \"{}\"", "x".repeat(200 * 1024)),
        (0..10_000).map(|number| format!("\"{number}\": {number}")).collect::<Vec<_>>().join(","),
    ] {
        let server =
            Server::sending(ok(format!(r#"{{"refresh_token": "first", "refresh_token": "r", {member}}}"#)));
        let (manager, file) = server.manager();
        let shown = &member[..member.len().min(40)];
        assert_eq!(manager.refresh().await.expect(shown).secret(), "r");
        // And can be read again.
        let again = server.manager_on(&file.path);
        assert_eq!(again.get_valid_refresh_token().await.expect(shown).secret(), "r");
        assert_eq!(server.requests(), 1);
    }
}

/// No other reply may ever hold it.
#[tokio::test]
async fn a_refresh_token_is_saved_however_badly_the_reply_ends() {
    let start = r#"{"access_token": "a", "expires_in": 3600, "refresh_token": "r""#;
    let chunked = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len())
    };
    let announced = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{body}");
    let endless = start.to_owned() + ", \"";
    for (what, server, kind) in [
        ("cut short", Server::sending(announced(start)), ErrorKind::Unavailable),
        (
            "cut short in a number",
            { Server::sending(announced(&format!("{start}, \"refresh_expires_in\": 15"))) },
            ErrorKind::Unavailable,
        ),
        (
            "cut short in a text",
            { Server::sending(announced(&format!("{start}, \"geolocation\": \"https://us.api.conc"))) },
            ErrorKind::Unavailable,
        ),
        ("no last chunk", Server::sending(chunked(start)), ErrorKind::Unavailable),
        ("a bad chunk", Server::sending(chunked(start) + "x\r\n"), ErrorKind::Unavailable),
        (
            "without end",
            {
                Server::new(move |connection, _| {
                    connection.write_all(unread("\r\n").as_bytes())?;
                    connection.write_all(endless.as_bytes())?;
                    endlessly(connection, &[b'x'; 4096])
                })
            },
            ErrorKind::Protocol,
        ),
        ("no closing brace", Server::sending(ok(start)), ErrorKind::Protocol),
        ("something after it", Server::sending(ok(format!("{start}}} SECRET"))), ErrorKind::Protocol),
        ("NUL characters after it", Server::sending(ok(format!("{start}}}\0\0"))), ErrorKind::Protocol),
        (
            "NUL characters in it",
            Server::sending(ok(format!("{start}, \"scope\": \"\0\"}}"))),
            ErrorKind::Protocol,
        ),
        (
            "a word that is no value",
            Server::sending(ok(format!("{start}, \"x\": NaN}}"))),
            ErrorKind::Protocol,
        ),
        ("a twin", Server::sending(ok(format!("{start}}}{start}}}"))), ErrorKind::Protocol),
    ] {
        let (manager, file) = server.manager();
        let error = manager.refresh().await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, GOOD_UP_TO), "{what}");
        assert!(!format!("{error:?}").contains("SECRET"), "{what}");
        assert_eq!(file.refresh_token().as_deref(), Some("r"), "{what}");
        let kept = manager.get_valid_refresh_token().await.expect(what);
        assert_eq!((kept.secret(), kept.geolocation()), ("r", None), "{what}");
        let days_left =
            (kept.expires_at().unwrap() - concur_auth::time::OffsetDateTime::UNIX_EPOCH).whole_days();
        assert!(days_left > 20_000, "{what}: a number that was cut short is none");
        assert_eq!(manager.access_token().await.expect(what).secret(), "a", "{what}");
        assert_eq!(server.requests(), 1, "{what}");
    }
}

/// Hundreds of kilobytes of new members in every reply, under new names: the file must stay readable.
#[tokio::test]
async fn members_of_old_replies_do_not_pile_up() {
    let server = Server::new(|connection, number| {
        let news = "x".repeat(200 * 1024);
        connection.write_all(&ok(format!(r#"{{"refresh_token": "r{number}", "news{number}": "{news}"}}"#)))
    });
    let file = TokenFile::new();
    std::fs::write(&file.path, r#"{"refresh_token": "r", "companyUUID": "uuid", "note": "mine"}"#).unwrap();
    for number in 0..6 {
        let renewed = server.manager_on(&file.path).refresh().await.unwrap();
        assert_eq!(renewed.secret(), format!("r{number}"));
    }
    let json = std::fs::read_to_string(&file.path).unwrap();
    assert_eq!(json.matches("\"news").count(), 2, "the newest, and what fits beside it");
    assert!(json.contains("\"news5\"") && json.contains("\"note\": \"mine\""));
}

#[tokio::test]
async fn a_second_reply_does_not_answer_the_next_request() {
    let server = Server::new(|connection, number| {
        let replies =
            [ok(format!(r#"{{"refresh_token": "r{number}"}}"#)), ok(r#"{"refresh_token": "planted"}"#)];
        connection.write_all(&replies.concat())?;
        // Kept open, as for a next request.
        while connection.read(&mut [0; 4096])? > 0 {}
        Ok(())
    });
    let (manager, file) = server.manager();
    for number in 0..3 {
        assert_eq!(manager.refresh().await.unwrap().secret(), format!("r{number}"));
    }
    assert_eq!(file.refresh_token().as_deref(), Some("r2"));
}

/// How long a slow server is willing to go on: half as long again as a client waits. A client that waited for the server
/// would see the connection close, and report that.
const PATIENCE: u64 = 45;

/// The one test that takes real time: half a minute of it, for all kinds of slowness at once.
#[tokio::test]
async fn every_request_ends_within_half_a_minute() {
    let drop_by_drop = |start: &'static str, drops: &'static str| {
        Server::new(move |connection, _| {
            connection.write_all(start.as_bytes())?;
            for drop in drops.bytes().cycle().take(PATIENCE as usize) {
                connection.write_all(&[drop])?;
                pause(1)?;
            }
            Ok(())
        })
    };
    let in_time = format!("127.0.0.1 did not answer in time; {SPENT}");
    let silent = Server::rude(|_, _| pause(PATIENCE));
    let mute = Server::new(|_, _| pause(PATIENCE));
    let slow_head = drop_by_drop("HTTP/1.1 200 OK\r\nx: ", "y");
    let slow_body = drop_by_drop("HTTP/1.1 200 OK\r\n\r\n{\"refresh_token\": \"", "r");
    let slow_chunks =
        drop_by_drop("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{\"\r\n", "1\r\nx\r\n");
    let interim = drop_by_drop("", "HTTP/1.1 100 Continue\r\n\r\n");
    let slow_end = drop_by_drop("HTTP/1.1 200 OK\r\n\r\n{\"refresh_token\": \"r\", \"x\": \"", "x");
    let (manager, file) = slow_end.manager();

    let (silent, mute, slow_head, slow_body, slow_chunks, interim, kept) = tokio::join!(
        silent.reply(),
        mute.reply(),
        slow_head.reply(),
        slow_body.reply(),
        slow_chunks.reply(),
        interim.reply(),
        manager.refresh(),
    );
    for reply in [silent, mute, slow_head, slow_body, slow_chunks, interim] {
        let error = reply.unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unavailable, in_time.clone()));
    }
    let error = kept.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Unavailable, GOOD_UP_TO));
    assert_eq!(file.refresh_token().as_deref(), Some("r"));
}

#[allow(clippy::disallowed_methods, reason = "no injected clock slows a real server down")]
fn pause(seconds: u64) -> io::Result<()> {
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

/// A quarter of a gigabyte in every way there is, and headers without end. The replies are sent from this process and
/// taken in by another, whose peak is its own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_stays_below_64_mib_for_any_reply() {
    const LENGTH: usize = 256 * MIB;
    let block = [b'x'; 65536];
    let flood = move |head: &'static str, start: &'static [u8], end: &'static [u8]| {
        Server::new(move |connection, _| {
            connection.write_all(head.as_bytes())?;
            for _ in 0..LENGTH / block.len() {
                connection.write_all(start)?;
                connection.write_all(&block)?;
                connection.write_all(end)?;
            }
            Ok(())
        })
    };
    let servers = [
        flood("HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n", b"", b""),
        flood("HTTP/1.1 200 OK\r\n\r\n", b"", b""),
        flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n", b"\r\n"),
        flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000\r\n", b"", b""),
        flood("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 268435456\r\n\r\n", b"", b""),
        flood("HTTP/1.1 500 Oh no\r\nContent-Length: 268435456\r\n\r\n", b"", b""),
        flood("HTTP/1.1 200 OK\r\nx: ", b"", b""),
        flood("HTTP/1.1 200 OK\r\n", b"x: ", b"\r\n"),
        flood("", b"", b""),
    ];
    let uris: Vec<&str> = servers.iter().map(|server| server.uri.as_str()).collect();
    let child = support::child("takes_in_floods").env("URIS", uris.join(" ")).spawn().unwrap();
    tokio::task::spawn_blocking(|| support::all_succeed(vec![child])).await.unwrap();
    assert_eq!(servers.iter().map(Server::requests).sum::<usize>(), servers.len());
}

#[tokio::test]
async fn a_reply_of_256_kib_is_read_and_a_longer_one_is_not() {
    let reply = r#"{"refresh_token": "r", "access_token": "a", "expires_in": 3600}"#;
    for (length, is_read) in [(256 * 1024, true), (256 * 1024 + 1, false)] {
        let server = Server::sending(ok(" ".repeat(length - reply.len()) + reply));
        match server.reply().await {
            Ok(reply) => assert!(is_read && reply.refresh_token_object().unwrap().secret() == "r"),
            Err(e) => assert!(!is_read && e.to_string().starts_with(TOO_LONG), "{e}"),
        }
    }
}

/// The whole process counts, the test's own code, the C library and the TLS library included: the kernel keeps that
/// figure itself, so nothing that is taken in between two looks is missed, and no allocator has to be replaced for it.
#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "runs as a child process"]
async fn takes_in_floods() {
    let uris = std::env::var("URIS").unwrap();
    for (number, uri) in uris.split(' ').enumerate() {
        let server = Server { uri: uri.to_owned(), requests: Arc::default() };
        let error = server.reply().await.unwrap_err();
        let expected = match number {
            0..=4 => TOO_LONG.to_owned(),
            5 => "127.0.0.1 answered 500 Internal Server Error; try again later".to_owned(),
            _ => format!("the connection to 127.0.0.1 broke off; {SPENT}"),
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 64 * 1024, "after reply {number} the peak was {kib} KiB");
        assert_eq!(error.to_string(), expected, "reply {number}");
    }
}

/// An app's own sign-in: there is no refresh token with which a fault would be found.
#[tokio::test]
async fn a_member_at_fault_is_named_where_there_is_no_refresh_token() {
    let body = r#"{"access_token": "a", "token_type": "Bearer", "expires_in": 3600, "geolocation": 1}"#;
    let reply = Server::sending(ok(body)).reply().await.unwrap();
    assert_eq!(
        format!("{:?}", reply.access_token().unwrap_err()),
        format!(
            "Protocol: the reply of 127.0.0.1 has a fault: the member geolocation is not a string; {TELL_SUPPORT}"
        )
    );
}
