//! No secret is seen: not in Debug, Display, source chains, logs at trace level, panics, status, side files or URLs.

#![cfg(feature = "simulator")]

mod support;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use concur_auth::{
    Error, Grant, OAuthClient, RefreshTokenObject, StoreLock, TokenStore, reqwest,
    simulator::{Fault, Rotation},
};
use support::{HOUR, Scene, Seen, nobody_listens};

/// A word that a server says.
const WORD: &str = "s3nt1nel";

/// The values of all members that must never be seen.
fn secrets_in(json: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    ["clientSecret", "companyRequestToken", "refresh_token", "access_token", "id_token"]
        .iter()
        .filter_map(|name| json[name].as_str().map(str::to_owned))
        .collect()
}

/// What is neither the user's credentials nor the token itself holds no secret, and only its owner may read any.
fn side_file(seen: &Seen, path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    if name == "credentials.json" || name.contains(".corrupt-") {
        return;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        // This test writes the token file itself, as the sample does.
        let is_mine = name == "refreshTokenObjectFile.json"
            && !std::fs::read_to_string(path).is_ok_and(|json| json.contains("TokenExpiresAt"));
        assert!(mode & 0o077 == 0 || is_mine, "{name} has the mode {mode:o}");
    }
    if name.ends_with(".lock") {
        seen.text(&std::fs::read_to_string(path).unwrap());
    }
}

/// A server that puts secrets where it should say who and where somebody is.
async fn an_echo_in_a_reply_that_is_kept(seen: &Seen, secrets: &mut Vec<String>) {
    let scene = Scene::skipping(Rotation::Always).await;
    let secret = secrets_in(&scene.concur.credentials_json()).remove(0);
    scene.concur.set_reply_member("companyUUID", Some(&format!("\"{secret}\"")));
    for geolocation in [
        secret.clone(),
        format!("https://{secret}.example.net"),
        format!("https://{secret}.api.concursolutions.com"),
        format!("{}/{secret}", scene.concur.base_uri()),
    ] {
        scene.concur.set_reply_member("geolocation", Some(&format!("\"{geolocation}\"")));
        let tokens = scene.manager();
        if let Some(token) = seen.outcome(tokens.refresh().await) {
            secrets.extend(secrets_in(&token.to_json()));
        }
        seen.outcome(tokens.access_token().await);
        seen.debug(&tokens);
        seen.text(&format!("{} {}", tokens.status(), serde_json::to_string(&tokens.status()).unwrap()));
        let followed = Fault::code(16).body(format!(r#"{{"code": 16, "geolocation": "{geolocation}"}}"#));
        scene.concur.fault_next(1, followed);
        seen.outcome(tokens.refresh().await);
        let location = format!("{}/oauth2/v0/token", geolocation.trim_end_matches('/'));
        scene.concur.fault_next(1, Fault::status(307).header("location", &location));
        seen.outcome(tokens.refresh().await);
    }
    secrets.push(secret);
}

/// Of what a server says only UUIDs, numbers and known words are shown: no other word is found again, wherever it stood.
async fn a_word_in_every_place_of_every_reply(seen: &Seen) {
    let text = format!("\u{1b}[31m{WORD}");
    let claims = serde_json::json!({ "sub": text, "concur.type": WORD, "iss": WORD, "aud": WORD });
    let id_token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let (nobody, _guard) = nobody_listens();
    for geolocation in [
        text.clone(),
        format!("{WORD}://us.api.concursolutions.com"),
        format!("https://{WORD}:{WORD}@us.api.concursolutions.com"),
        format!("https://{WORD}.example.net"),
        format!("https://{WORD}.api.concursolutions.com"),
        format!("https://{WORD}.api.concurcdc.cn"),
        format!("http://{WORD}.api.concursolutions.com"),
        format!("https://us-{WORD}.api.concursolutions.com/{WORD}?{WORD}#{WORD}"),
    ] {
        let scene = Scene::skipping(Rotation::Always).await;
        let builder = || {
            let proxy = reqwest::Proxy::all(&nobody).unwrap();
            scene.builder().http_client(reqwest::Client::builder().proxy(proxy))
        };
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let all = serde_json::json!({
            "code": WORD, "error": WORD, "error_description": text, "geolocation": geolocation, WORD: WORD,
        });
        let path = format!("{geolocation}/oauth2/v0/token");
        let elsewhere =
            serde_json::json!({ "code": 16, "error": WORD, "geolocation": geolocation }).to_string();
        for fault in [
            None,
            Some(Fault::status(400).body(all.to_string())),
            Some(Fault::status(404).body(format!(r#"{{"status": 404, "error": "{WORD}"}}"#))),
            Some(Fault::status(400).body(elsewhere)),
            Some(Fault::status(307).header("location", path.trim_start_matches('\u{1b}'))),
            Some(Fault::status(200).body(format!(r#"{{"refresh_token": 7, "{WORD}": 1}}"#))),
            Some(Fault::status(200).body(format!(r#"{{"refresh_token": "r", "expires_in": "{WORD}"}}"#))),
        ] {
            std::fs::remove_file(scene.token_path()).unwrap_or_default();
            for (name, value) in
                [("id_token", &id_token), ("geolocation", &geolocation), ("scope", &text), (WORD, &text)]
            {
                scene.concur.set_reply_member(name, Some(&quoted(value)));
            }
            scene.concur.issue_request_token();
            scene.write_credentials(&scene.concur.credentials_json());
            if let Some(fault) = fault {
                let header = fault.header("concur-correlationid", WORD).header("date", WORD);
                scene.concur.set_fault(header.header("retry-after", WORD));
            }
            let base = scene.concur.base_uri().parse().unwrap();
            let grant = Grant::company_request_token(scene.concur.company_uuid(), "at-any");
            seen.outcome(OAuthClient::new().request_token(&base, &scene.concur.credentials(), &grant).await);
            let tokens = builder().build().unwrap();
            seen.outcome(tokens.get_valid_refresh_token().await);
            // A host that the last reply named is asked next.
            for _ in 0..2 {
                seen.outcome(tokens.access_token().await);
                seen.outcome(tokens.refresh().await);
                seen.debug(&tokens);
                seen.debug(&tokens.status());
                let status = tokens.status();
                seen.text(&format!("{status} {}", serde_json::to_string(&status).unwrap()));
            }
            seen.outcome(tokens.revoke().await);
            let other = scene.concur.credentials().for_user("b9eff11c-8129-5656-6196-2688ce930647");
            seen.outcome(builder().credentials(other).build().unwrap().get_valid_refresh_token().await);
            scene.concur.clear_faults();
        }
    }
}

async fn a_panic_while_a_token_is_saved(seen: &Seen, secrets: &mut Vec<String>) {
    #[derive(Debug)]
    struct Panics;
    impl TokenStore for Panics {
        async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
            Ok(None)
        }
        async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
            panic!("a bug in this store: {token:?} {lock:?}")
        }
        async fn remove(&self, _: &StoreLock) -> Result<(), Error> {
            Ok(())
        }
    }
    let scene = Scene::skipping(Rotation::Always).await;
    let tokens = scene.builder().store(Panics).build().unwrap();
    let token = tokens.get_valid_refresh_token().await.unwrap();
    seen.debug(&tokens);
    secrets.extend(secrets_in(&token.to_json()));
}

/// Nobody is started who could be given a secret in arguments or environment.
fn no_children() {
    #[cfg(target_os = "linux")]
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        if let Ok(children) = std::fs::read_to_string(task.unwrap().path().join("children")) {
            assert_eq!(children, "");
        }
    }
}

#[tokio::test]
async fn every_operation_in_success_and_failure() {
    let seen = Seen::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(seen.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let panics = seen.clone();
    std::panic::set_hook(Box::new(move |panic| panics.text(&panic.to_string())));
    let mut secrets = Vec::new();

    for fault in [
        None,
        Some(Fault::code(5)),
        Some(Fault::code(108)),
        Some(Fault::code(14)),
        Some(Fault::html(503)),
        Some(Fault::DropReply),
        Some(Fault::Delay(Duration::from_millis(1))),
        // A server that echoes what it was sent, wherever it can.
        Some(Fault::status(400).body("ECHO")),
        Some(Fault::status(200).body("{\"refresh_token\": ECHO")),
        Some(Fault::status(401).body(r#"{"code": 61, "error": "ECHO", "error_description": "ECHO"}"#)),
    ] {
        let scene = Scene::skipping(Rotation::Always).await;
        let credentials = scene.concur.credentials_json();
        let secret = secrets_in(&credentials).remove(0);
        secrets.extend(secrets_in(&credentials));
        let fault = fault.map(|fault| match fault {
            Fault::Status { ref body, .. } if body.contains("ECHO") => {
                let body = body.replace("ECHO", &secret);
                fault.header("concur-correlationid", &secret).header("location", &secret).body(body)
            }
            fault => fault,
        });
        let stored = scene.concur.token_json();
        secrets.extend(secrets_in(&stored));
        seen.debug(&scene.concur);
        seen.debug(&scene.concur.credentials());

        for start in [
            Some(stored.as_str()),
            None,
            Some("{\"refresh_token\": SENTINEL"),
            Some("{\"refresh_token\": [\"SENTINEL\"]}"),
        ] {
            match start {
                Some(json) => scene.write_token(json),
                None => std::fs::remove_file(scene.token_path()).unwrap_or_default(),
            }
            if let Some(fault) = &fault {
                scene.concur.set_fault(fault.clone());
            }
            let builder = scene.builder();
            seen.debug(&builder);
            let tokens = builder.build().unwrap();
            seen.outcome(tokens.get_valid_refresh_token().await);
            if let Some(access) = seen.outcome(tokens.access_token().await) {
                seen.text(access.geolocation().as_str());
                tokens.invalidate(&access);
            }
            seen.outcome(tokens.access_token().await);
            seen.outcome(tokens.refresh().await);
            let mut changes = tokens.subscribe().await;
            seen.debug(&changes);
            let kept = tokens.keep_alive().await.unwrap();
            seen.debug(&kept);
            drop(kept);
            for token in [scene.concur.issue_request_token(), "SENTINEL".to_owned()] {
                let grant = Grant::company_request_token(scene.concur.company_uuid(), token);
                seen.debug(&grant);
                seen.outcome(tokens.sign_in(grant.with_correlation_id("ours")).await);
            }
            for json in [
                &*stored,
                r#"{"refresh_token": "SENTINEL", "geolocation": "https://SENTINEL-that-is-as-long-as-one"}"#,
            ] {
                seen.outcome(tokens.adopt(RefreshTokenObject::from_json(json).unwrap()).await);
            }
            seen.outcome(tokens.shutdown(HOUR).await);
            if let Some(status) = changes.next().await {
                seen.text(&format!("{status} {}", serde_json::to_string(&status).unwrap()));
            }
            secrets.extend(secrets_in(&scene.concur.credentials_json()));
            seen.debug(&tokens);
            seen.debug(&tokens.status());
            if let Ok(json) = std::fs::read_to_string(scene.token_path())
                && RefreshTokenObject::from_json(&json).is_ok()
            {
                secrets.extend(secrets_in(&json));
            }
            scene.concur.clear_faults();
            for name in scene.folder() {
                seen.text(&name);
                side_file(&seen, &scene.dir.path().join(name));
            }
        }
        for request in scene.concur.requests() {
            seen.debug(&request);
            seen.text(&format!("{} {:?}", request.path(), request.query()));
        }

        // The client by itself.
        let base = scene.concur.base_uri().parse().unwrap();
        let grant = Grant::refresh_token(secrets_in(&stored).remove(0));
        seen.debug(&grant);
        if let Some(fault) = fault {
            scene.concur.set_fault(fault);
        }
        let reply = OAuthClient::new().request_token(&base, &scene.concur.credentials(), &grant).await;
        if let Some(reply) = seen.outcome(reply) {
            secrets.extend(secrets_in(&reply.refresh_token_object().unwrap().to_json()));
            seen.outcome(reply.access_token());
        }
        seen.outcome(RefreshTokenObject::from_json("{\"refresh_token\": \"SENTINEL"));
    }
    an_echo_in_a_reply_that_is_kept(&seen, &mut secrets).await;
    a_word_in_every_place_of_every_reply(&seen).await;
    a_panic_while_a_token_is_saved(&seen, &mut secrets).await;
    let _ = std::panic::take_hook();
    no_children();

    secrets.push("SENTINEL".to_owned());
    let text = String::from_utf8_lossy(&seen.0.lock().unwrap()).into_owned();
    assert!(text.contains("token request answered"), "nothing was logged");
    assert!(text.contains("a bug in this store"), "nothing panicked");
    // At trace level the HTTP library names the hosts that it connects to.
    let is_ours = |line: &&str| !["hyper_util::", "reqwest::"].iter().any(|library| line.contains(library));
    if let Some(line) = text.lines().filter(is_ours).find(|line| line.contains(WORD)) {
        panic!("a server's word is seen: {line}");
    }
    assert!(secrets.len() > 50, "{}", secrets.len());
    for secret in secrets {
        if let Some(at) = text.find(&secret) {
            panic!("a secret is seen: {}", &text[at.saturating_sub(300)..at + secret.len()]);
        }
    }
}
