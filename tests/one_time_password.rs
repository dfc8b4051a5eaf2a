//! A user signs in with a one-time password from a mail: all that went with the request goes with the grant, and nothing
//! is mailed twice.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    Credentials, Error, ErrorKind, Geolocation, MemoryStore, OAuthClient, OneTimePasswordRequest,
    TokenManager, simulator::Fault,
};
use support::Scene;

fn to(address: &str) -> OneTimePasswordRequest {
    OneTimePasswordRequest::by_email(address)
}

async fn ask(scene: &Scene, request: &OneTimePasswordRequest) -> Result<Geolocation, Error> {
    let base = scene.concur.base_uri().parse()?;
    OAuthClient::new().request_one_time_password(&base, &scene.concur.credentials(), request).await
}

/// The fields of the last request to this path, without the app's own.
fn last_form(scene: &Scene, path: &str) -> Vec<String> {
    let request = scene.concur.requests().pop().unwrap();
    assert_eq!((request.method(), request.path(), request.query()), ("POST", path, None));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    request.body().split('&').skip(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_link_in_the_mail_signs_the_user_in() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let request = to(user.username())
        .name("Ada")
        .company("Analytical Engines")
        .link("https://app.example.com/in?a=b")
        .scope("openid")
        .parameter("trip", "7")
        .unwrap();
    ask(&scene, &request).await.unwrap();
    let handle = format!("channel_handle={}", user.username().replace('@', "%40"));
    let facts = [
        "name=Ada",
        "company=Analytical+Engines",
        "link=https%3A%2F%2Fapp.example.com%2Fin%3Fa%3Db",
        "trip=7",
    ];
    let channel = [&*handle, "channel_type=email"];
    assert_eq!(last_form(&scene, "/oauth2/v0/otp"), [&channel[..], &facts].concat());

    let mail = scene.concur.mails().remove(0);
    let grant = request.grant_from_link(mail.link().unwrap()).unwrap();
    let app = Credentials::new(scene.concur.app().id(), scene.concur.app().secret());
    let tokens = TokenManager::builder()
        .credentials(app.base_uri(scene.concur.base_uri()))
        .store(MemoryStore::new())
        .clock(scene.clock.clone())
        .build()
        .unwrap();
    let object = tokens.sign_in(grant).await.unwrap();
    let password = format!("otp={}", mail.one_time_password());
    let grant = [&["grant_type=otp"], &channel[..], &[&*password, "scope=openid"], &facts].concat();
    assert_eq!(last_form(&scene, "/oauth2/v0/token"), grant);
    assert_eq!(object.scopes().collect::<Vec<_>>(), ["openid"]);

    // After that everything works as after any other sign-in.
    tokens.refresh().await.unwrap();
    assert_eq!((scene.concur.count("otp"), scene.concur.count("refresh_token")), (1, 1));
}

#[tokio::test]
async fn request_and_grant_go_to_the_users_data_centre() {
    let scene = Scene::new().await;
    let (user, eu) = (scene.concur.add_user(), scene.concur.add_data_centre().await);
    scene.concur.move_principal(user.uuid(), &eu);
    let request = to(user.username());
    let home = ask(&scene, &request).await.unwrap();
    assert_eq!(home.as_str(), format!("{eu}/"));

    // Typed in from the mail.
    let grant = request.grant(scene.concur.mails()[0].one_time_password());
    let app = scene.concur.credentials();
    let reply = OAuthClient::new().request_token(&home, &app, &grant).await.unwrap();
    assert!(scene.concur.is_live(reply.refresh_token_object().unwrap().secret()));
    let came_to: Vec<_> = scene.concur.requests().iter().map(|it| it.base_uri().to_owned()).collect();
    assert_eq!(came_to, [scene.concur.base_uri(), eu.clone(), eu]);
}

#[test]
fn a_parameter_may_not_take_the_protocols_names_nor_be_given_twice() {
    let request = || to("ada@example.com");
    for name in [
        "client_id",
        "client_secret",
        "grant_type",
        "channel_handle",
        "channel_type",
        "otp",
        "scope",
        "name",
        "company",
        "link",
        "username",
        "password",
        "credtype",
        "code",
        "redirect_uri",
        "refresh_token",
        "token",
        "Client_ID",
        " client_secret ",
    ] {
        let error = request().parameter(name, "x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            format!(
                "the parameter \"{name}\" of a one-time password has a name that the protocol uses; give it another name"
            )
        );
    }
    assert_eq!(
        request().parameter(" ", "x").unwrap_err().to_string(),
        "the parameter \" \" of a one-time password has no name; give it a name"
    );
    assert_eq!(
        request().parameter("trip", "7").unwrap().parameter("trip", "8").unwrap_err().to_string(),
        "the parameter \"trip\" of a one-time password was given already; give it another name"
    );
}

#[test]
fn a_link_without_its_one_time_password_is_reported() {
    let request = to("ada@example.com");
    for (url, message) in [
        ("https://app.example.com/in", "lacks the parameter token"),
        ("/in?token=", "lacks the parameter token"),
        ("/in?token=a&token=b", "has the parameter token more than once"),
    ] {
        let error = request.grant_from_link(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        let message = format!("the link with the one-time password {message}; let the user start again");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn debug_shows_no_secret() {
    let request = to("ada@example.com").name("Ada");
    assert_eq!(format!("{request:?}"), "OneTimePasswordRequest { .. }");
    assert_eq!(format!("{:?}", request.grant("s3cr3t")), "Grant(otp)");
}

#[tokio::test]
async fn each_refusal_is_explained() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let refusal = async |request: &OneTimePasswordRequest, code: u32, why: &str| {
        let error = ask(&scene, request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(
            error.to_string(),
            format!(
                "Concur refused to mail a one-time password at 127.0.0.1: {why} (code {code}, correlation id {})",
                error.correlation_id().unwrap()
            )
        );
    };
    refusal(&to("nobody@example.com"), 55, "unknown email; check the e-mail address").await;
    refusal(&to("no address"), 81, "invalid channel handle; check the e-mail address").await;
    for _ in 0..5 {
        ask(&scene, &to(user.username())).await.unwrap();
    }
    let why = "too many open otp requests; use the one-time password that was sent before";
    refusal(&to(user.username()), 82, why).await;

    let (client, app) = (OAuthClient::new(), scene.concur.credentials());
    let base: Geolocation = scene.concur.base_uri().parse().unwrap();
    let other = to(user.username()).parameter("trip", "7").unwrap();
    ask_for(&scene, &other).await;
    let password = scene.concur.mails().pop().unwrap().one_time_password().to_owned();
    for (grant, code, why) in [
        (other.grant("wrong"), 85, "otp verification failed"),
        (to(user.username()).grant(&password), 84, "fact verification failed"),
        (to("nobody@example.com").grant(&password), 83, "otp not found"),
    ] {
        let error = client.request_token(&base, &app, &grant).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "Concur refused the otp grant at 127.0.0.1: {why}; request a new one-time password and use it as it was \
                 requested (code {code}, correlation id {})",
                error.correlation_id().unwrap()
            )
        );
    }
}

/// Once the earlier ones are past their time.
async fn ask_for(scene: &Scene, request: &OneTimePasswordRequest) {
    scene.clock.advance(support::HOUR);
    ask(scene, request).await.unwrap();
}

#[tokio::test]
async fn no_password_is_mailed_twice() {
    let scene = Scene::new().await;
    let request = to(scene.concur.add_user().username());
    scene.concur.fault_next(1, Fault::DropReply);
    let error = ask(&scene, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        "the connection to 127.0.0.1 broke off; the mail may nevertheless have been sent, so look for it before you try \
         again"
    );
    assert_eq!((scene.concur.requests().len(), scene.concur.mails().len()), (1, 1));
}

#[tokio::test]
async fn only_concur_says_that_a_mail_was_sent() {
    let scene = Scene::new().await;
    let request = to(scene.concur.add_user().username());
    for body in [r#"{"message": "otp sent"}"#, r#"{"message":"opt sent"}"#] {
        scene.concur.fault_next(1, Fault::status(200).body(body));
        ask(&scene, &request).await.unwrap();
    }
    for body in ["<html>Please sign in to this network</html>", "{}", r#"{"message": 1}"#, ""] {
        scene.concur.fault_next(
            1,
            Fault::status(200)
                .body(body)
                .header("concur-correlationid", "00000001-0000-4000-8000-000000000000"),
        );
        let error = ask(&scene, &request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert_eq!(
            error.to_string(),
            "127.0.0.1 did not say that the one-time password was sent; check the base URI and any proxy (correlation id \
             00000001-0000-4000-8000-000000000000)"
        );
    }
    assert_eq!((scene.concur.requests().len(), scene.concur.mails().len()), (6, 0));
}

#[tokio::test]
async fn a_reply_that_is_too_long_does_not_say_that_a_mail_was_sent() {
    let scene = Scene::new().await;
    let request = to(scene.concur.add_user().username());
    let long = format!(r#"{{"message": "otp sent", "more": "{}"}}"#, "x".repeat(256 * 1024));
    scene.concur.fault_next(1, Fault::status(200).body(long));
    let error = ask(&scene, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    let said = "127.0.0.1 answered with more than 256 KiB; check the base URI and any proxy";
    assert!(error.to_string().starts_with(said), "{error}");
    assert_eq!((scene.concur.requests().len(), scene.concur.mails().len()), (1, 0));
}
