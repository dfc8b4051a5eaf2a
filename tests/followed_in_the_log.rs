//! One renewal can be followed in the log: the names of span, events and fields are promises.

#![cfg(feature = "simulator")]

mod support;

use std::{
    io,
    sync::{Arc, Mutex},
};

use concur_auth::simulator::{Fault, Rotation};
use support::{HOUR, Scene, nobody_listens};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was written, with what differs from run to run replaced.
    fn take(&self, store: &str) -> String {
        let written = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(written).unwrap().replace(store, "FILE");
        let is_id = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
        let mut shown = String::new();
        for line in text.lines() {
            for word in line.split_inclusive([' ', '"', ')', '=']) {
                let (part, end) = word.split_at(word.trim_end_matches([' ', '"', ')', '=']).len());
                let is_time = shown.ends_with("elapsed_ms=");
                shown.push_str(if is_id(part) {
                    "ID"
                } else if is_time {
                    "N"
                } else {
                    part
                });
                shown.push_str(end);
            }
            shown.push('\n');
        }
        shown
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_step_of_a_renewal_has_its_event() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("concur_auth=debug"))
        .with_writer(log.clone())
        .without_time()
        .with_ansi(false)
        .init();
    let scene = Scene::skipping(Rotation::Always).await;
    scene.write_token(&scene.concur.token_json());
    let store = scene.token_path().display().to_string();

    scene.concur.fault_next(1, Fault::status(503).retry_after("2"));
    scene.manager().access_token().await.unwrap();
    assert_eq!(
        log.take(&store),
        r#"DEBUG renewal{need="access_token" store="FILE"}: concur_auth: token request sent grant="refresh_token" host="127.0.0.1" attempt=1
 WARN renewal{need="access_token" store="FILE"}: concur_auth: token request failed grant="refresh_token" host="127.0.0.1" attempt=1 status=503 correlation_id="ID" elapsed_ms=N error=127.0.0.1 answered 503 Service Unavailable; try again later (correlation id ID)
 INFO renewal{need="access_token" store="FILE"}: concur_auth: token request to be repeated grant="refresh_token" attempt=1 pause_ms=2000 correlation_id="ID"
DEBUG renewal{need="access_token" store="FILE"}: concur_auth: token request sent grant="refresh_token" host="127.0.0.1" attempt=2
 INFO renewal{need="access_token" store="FILE"}: concur_auth: token request answered grant="refresh_token" host="127.0.0.1" attempt=2 status=200 correlation_id="ID" elapsed_ms=N
 INFO renewal{need="access_token" store="FILE"}: concur_auth: renewal done origin=renewed unsaved=false
"#
    );

    // Not accepted any more.
    scene.concur.revoke();
    scene.manager().refresh().await.unwrap();
    assert_eq!(
        log.take(&store),
        r#"DEBUG renewal{need="grant" store="FILE"}: concur_auth: token request sent grant="refresh_token" host="127.0.0.1" attempt=1
 WARN renewal{need="grant" store="FILE"}: concur_auth: token request failed grant="refresh_token" host="127.0.0.1" attempt=1 status=400 code=108 correlation_id="ID" elapsed_ms=N error=Concur refused the refresh_token grant at 127.0.0.1: bad or expired refresh token; sign in again with a new company request token from https://www.concursolutions.com/nui/authadmin/companytokens (code 108, correlation id ID)
 WARN renewal{need="grant" store="FILE"}: concur_auth: the refresh token is no longer accepted; signing in again error=Concur refused the refresh_token grant at 127.0.0.1: bad or expired refresh token; sign in again with a new company request token from https://www.concursolutions.com/nui/authadmin/companytokens (code 108, correlation id ID)
DEBUG renewal{need="grant" store="FILE"}: concur_auth: token request sent grant="password" host="127.0.0.1" attempt=2
 INFO renewal{need="grant" store="FILE"}: concur_auth: token request answered grant="password" host="127.0.0.1" attempt=2 status=200 correlation_id="ID" elapsed_ms=N
 INFO renewal{need="grant" store="FILE"}: concur_auth: renewal done origin=obtained unsaved=false
"#
    );

    // Refused for good, and followed elsewhere before.
    let eu = scene.concur.add_data_centre().await;
    scene.concur.move_principal(&scene.concur.company_uuid(), &eu);
    scene.concur.refuse_principal(&scene.concur.company_uuid(), 14);
    scene.manager().refresh().await.unwrap_err();
    assert_eq!(
        log.take(&store),
        r#"DEBUG renewal{need="grant" store="FILE"}: concur_auth: token request sent grant="refresh_token" host="127.0.0.1" attempt=1
 INFO renewal{need="grant" store="FILE"}: concur_auth: token request answered grant="refresh_token" host="127.0.0.1" attempt=1 status=400 correlation_id="ID" elapsed_ms=N
 INFO renewal{need="grant" store="FILE"}: concur_auth: token request sent elsewhere grant="refresh_token" host="127.0.0.1" to="127.0.0.1" correlation_id="ID"
DEBUG renewal{need="grant" store="FILE"}: concur_auth: token request sent grant="refresh_token" host="127.0.0.1" attempt=1
 WARN renewal{need="grant" store="FILE"}: concur_auth: token request failed grant="refresh_token" host="127.0.0.1" attempt=1 status=400 code=14 correlation_id="ID" elapsed_ms=N error=Concur refused the refresh_token grant at 127.0.0.1: account locked; ask the company's Concur administrator to unlock it (code 14, correlation id ID)
 WARN renewal{need="grant" store="FILE"}: concur_auth: renewal failed error=Concur refused the refresh_token grant at 127.0.0.1: account locked; ask the company's Concur administrator to unlock it (code 14, correlation id ID)
"#
    );

    // Causes tell apart what reads the same.
    let (nobody, _guard) = nobody_listens();
    scene.clock.advance(2 * HOUR);
    std::fs::remove_file(scene.token_path()).unwrap();
    scene.builder().base_uri(nobody).build().unwrap().access_token().await.unwrap_err();
    let text = log.take(&store);
    let last = text.lines().last().unwrap();
    let (_, error) = last.split_once("renewal failed error=could not connect to 127.0.0.1; ").unwrap();
    let (_, cause) = error.split_once(" cause=").unwrap();
    assert!(
        cause.starts_with("\"error sending request: client error (Connect): tcp connect error: "),
        "{cause}"
    );
    assert!(cause.ends_with(&format!("(os error {})\"", refused())), "{cause}");
    assert_eq!(text.matches(cause).count(), 5, "of four requests, and of the renewal");
}

/// The operating system's number for a refused connection.
fn refused() -> i32 {
    let (nobody, _guard) = nobody_listens();
    let address = nobody.trim_start_matches("http://").to_owned();
    std::net::TcpStream::connect(address).unwrap_err().raw_os_error().unwrap()
}
