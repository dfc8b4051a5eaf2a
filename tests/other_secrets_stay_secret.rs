//! No secret of the other sign-ins, or of signing out, is shown: not in Debug, Display, source chains, nor in logs at trace level,
//! also when the server echoes what it was sent.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    AppCenterRedirect, AuthorizationRequest, Credentials, Geolocation, Grant, OAuthClient,
    OneTimePasswordRequest, TokenReply,
    reqwest::{Client, redirect},
    simulator::{Fault, SimulatedUser},
};
use support::{Scene, Seen};

/// What goes wrong with every request, and says `secret` wherever a server can.
fn faults(secret: &str) -> [Option<Fault>; 5] {
    let echo = |status, body: &str| {
        let body = body.replace("ECHO", secret);
        Fault::status(status).body(body).header("concur-correlationid", secret).header("location", secret)
    };
    [
        None,
        Some(echo(401, r#"{"code": 61, "error": "ECHO", "error_description": "ECHO"}"#)),
        Some(echo(400, "ECHO")),
        Some(echo(200, r#"{"message": ["ECHO"], "access_token": {"a": "ECHO"}, "refresh_token": 7}"#)),
        Some(Fault::DropReply),
    ]
}

struct Stage {
    seen: Seen,
    secrets: Vec<String>,
}

impl Stage {
    /// Sends a grant with every fault; `secret` is the one in it that the server echoes.
    async fn grant(&mut self, scene: &Scene, app: &Credentials, grant: &Grant, secret: &str) {
        self.secrets.push(secret.to_owned());
        self.seen.debug(grant);
        let base: Geolocation = scene.concur.base_uri().parse().unwrap();
        for fault in faults(secret) {
            scene.concur.clear_faults();
            fault.into_iter().for_each(|fault| scene.concur.set_fault(fault));
            let reply: Result<TokenReply, _> = OAuthClient::new().request_token(&base, app, grant).await;
            let Some(reply) = self.seen.outcome(reply) else { continue };
            let object = self.seen.outcome(reply.refresh_token_object());
            self.secrets.extend(object.iter().map(|object| object.secret().to_owned()));
            self.seen.debug(&object.as_ref().and_then(|object| object.unverified_claims()));
            let access = self.seen.outcome(reply.access_token());
            self.secrets.extend(access.map(|access| access.secret().to_owned()));
        }
        scene.concur.clear_faults();
    }
}

async fn browser_comes_back(request: &AuthorizationRequest) -> String {
    let browser = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let answer = browser.get(request.authorize_url()).send().await.unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_other_sign_in_and_the_sign_out() {
    let seen = Seen::default();
    let filter = tracing_subscriber::EnvFilter::new("concur_auth=trace");
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(seen.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let scene = Scene::new().await;
    let user: SimulatedUser = scene.concur.add_user();
    let app = Credentials::new(scene.concur.app().id(), scene.concur.app().secret());
    let base: Geolocation = scene.concur.base_uri().parse().unwrap();
    let mut stage = Stage { seen: seen.clone(), secrets: vec![scene.concur.app().secret().to_owned()] };

    seen.debug(&app.clone().user(user.username(), user.password()));
    let grant = Grant::user_password(user.username(), user.password());
    stage.grant(&scene, &app, &grant, user.password()).await;
    stage.grant(&scene, &app, &Grant::client_credentials(), scene.concur.app().secret()).await;
    stage
        .grant(&scene, &app, &Grant::refresh_token_with_scope("s3cr3t-refresh", "openid"), "s3cr3t-refresh")
        .await;

    scene.concur.consent_as(&user);
    let request =
        AuthorizationRequest::new(&base, scene.concur.app().id(), "https://a.example/b", "openid").unwrap();
    seen.debug(&request);
    let url = browser_comes_back(&request).await;
    let returned = seen.outcome(request.returned(&url)).unwrap();
    let code = url.split_once("code=").unwrap().1.split('&').next().unwrap();
    stage.grant(&scene, &app, &returned.grant(), code).await;
    seen.outcome(request.returned(&format!("/?code={code}&code={code}&state={}", request.state())));
    seen.outcome(request.returned(&format!("/?error_description=state+is+{}", request.state())));
    stage.secrets.push(request.state().to_owned());

    let request =
        OneTimePasswordRequest::by_email(user.username()).link("https://a.example/in").name("s3cr3t-name");
    seen.debug(&request);
    for fault in faults("s3cr3t-name") {
        scene.concur.clear_faults();
        fault.into_iter().for_each(|fault| scene.concur.set_fault(fault));
        seen.outcome(OAuthClient::new().request_one_time_password(&base, &app, &request).await);
    }
    scene.concur.clear_faults();
    stage.secrets.push("s3cr3t-name".to_owned());
    let mail = scene.concur.mails().pop().unwrap();
    let grant = seen.outcome(request.grant_from_link(mail.link().unwrap())).unwrap();
    stage.grant(&scene, &app, &grant, mail.one_time_password()).await;

    let visit =
        AppCenterRedirect::from_url(&scene.concur.app_center_redirect("https://a.example/c")).unwrap();
    seen.debug(&visit);
    seen.debug(&visit.credentials(app.clone()));
    let request_token = scene.concur.app().request_token().to_owned();
    stage.grant(&scene, &app, &visit.grant(), &request_token).await;

    let tokens = scene.manager();
    let access = tokens.access_token().await.unwrap();
    stage.secrets.extend([access.secret().to_owned(), scene.stored_refresh_token()]);
    for fault in faults(access.secret()).into_iter().rev() {
        scene.concur.clear_faults();
        fault.into_iter().for_each(|fault| scene.concur.fault_next(1, fault));
        seen.outcome(OAuthClient::new().revoke(&access).await);
        seen.outcome(tokens.revoke().await);
        seen.debug(&tokens);
        seen.debug(&tokens.status());
    }

    let app_tokens = scene.builder().build_for_app().unwrap();
    stage.secrets.push(app_tokens.access_token().await.unwrap().secret().to_owned());
    seen.debug(&app_tokens);

    let text = String::from_utf8_lossy(&seen.0.lock().unwrap()).into_owned();
    for what in ["token request", "one-time password request", "revocation"] {
        for how in ["sent", "answered", "failed"] {
            assert!(text.contains(&format!("{what} {how}")), "\"{what} {how}\" was not logged");
        }
    }
    assert!(stage.secrets.len() > 15, "{}", stage.secrets.len());
    for secret in stage.secrets {
        if let Some(at) = text.find(&secret) {
            panic!("a secret is seen: {}", &text[at.saturating_sub(300)..at + secret.len()]);
        }
    }
}
