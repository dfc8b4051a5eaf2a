//! Every grant except the company request token: in exactly SAP's form, to where SAP says, and with its mistakes
//! explained.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    AccessToken, Error, ErrorKind, Geolocation, Grant, OAuthClient, TokenReply, reqwest, simulator::Fault,
};
use support::Scene;

async fn send(scene: &Scene, grant: &Grant) -> Result<TokenReply, Error> {
    send_to(scene, &scene.concur.base_uri(), grant).await
}

async fn send_to(scene: &Scene, base: &str, grant: &Grant) -> Result<TokenReply, Error> {
    let base: Geolocation = base.parse()?;
    OAuthClient::new().request_token(&base, &scene.concur.credentials(), grant).await
}

/// The fields of the last request, without the app's own.
fn last_form(scene: &Scene) -> Vec<String> {
    let request = scene.concur.requests().pop().unwrap();
    assert_eq!((request.method(), request.path(), request.query()), ("POST", "/oauth2/v0/token", None));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    request.body().split('&').skip(2).map(str::to_owned).collect()
}

async fn users_status(access: &AccessToken) -> u16 {
    let users = access.geolocation().join("profile/identity/v4/Users").unwrap();
    let call = reqwest::Client::new().get(users).bearer_auth(access.secret());
    call.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_user_signs_in_with_name_and_password() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let reply = send(&scene, &Grant::user_password(user.username(), user.password())).await.unwrap();
    assert_eq!(
        last_form(&scene),
        [
            "grant_type=password".to_owned(),
            format!("username={}", user.username().replace('@', "%40")),
            format!("password={}", user.password()),
            "credtype=password".to_owned(),
        ]
    );
    assert!(scene.concur.is_live(reply.refresh_token_object().unwrap().secret()));
    assert_eq!(users_status(&reply.access_token().unwrap()).await, 200);
    assert_eq!((scene.concur.token_requests(), scene.concur.request_token_uses_left()), (1, 5));
}

#[tokio::test]
async fn a_users_password_is_followed_to_where_the_user_lives() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let eu = scene.concur.add_data_centre().await;
    scene.concur.move_principal(user.uuid(), &eu);
    let reply = send(&scene, &Grant::user_password(user.username(), user.password())).await.unwrap();
    assert_eq!(reply.refresh_token_object().unwrap().geolocation(), Some(&*eu));
    let came_to: Vec<_> = scene.concur.requests().iter().map(|it| it.base_uri().to_owned()).collect();
    assert_eq!(came_to, [scene.concur.base_uri(), eu]);
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_and_explained() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    for (grant, code, why) in [
        (
            Grant::user_password(user.username(), "wrong"),
            5,
            "incorrect credentials; check the credentials and sign in again",
        ),
        (Grant::user_password("nobody@example.com", "wrong"), 100, "unknown username; check the user name"),
        (
            Grant::user_password("", "x"),
            51,
            "username not supplied; report it to the program's developers, with the correlation id",
        ),
        (
            Grant::user_password("x", ""),
            52,
            "password not supplied; report it to the program's developers, with the correlation id",
        ),
    ] {
        let before = scene.concur.token_requests();
        let error = send(&scene, &grant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(
            error.to_string(),
            format!(
                "Concur refused the password grant at 127.0.0.1: {why} (code {code}, correlation id {})",
                error.correlation_id().unwrap()
            )
        );
        assert_eq!(scene.concur.token_requests() - before, 1);
    }
}

#[tokio::test]
async fn a_refresh_token_may_be_renewed_for_fewer_scopes() {
    let scene = Scene::new().await;
    let stored = concur_auth::RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    let grant = Grant::refresh_token_with_scope(stored.secret(), "openid user.read");
    let reply = send(&scene, &grant).await.unwrap();
    assert_eq!(
        last_form(&scene),
        [
            "grant_type=refresh_token".to_owned(),
            format!("refresh_token={}", stored.secret()),
            "scope=openid+user.read".to_owned(),
        ]
    );
    assert_eq!(reply.access_token().unwrap().scopes().collect::<Vec<_>>(), ["openid", "user.read"]);

    let grant = Grant::refresh_token_with_scope(stored.secret(), "receipts.write");
    let error = send(&scene, &grant).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Concur refused the refresh_token grant at 127.0.0.1: scope exceeds what was granted; ask for fewer scopes, \
             or sign in again (code 54, correlation id {})",
            error.correlation_id().unwrap()
        )
    );
    assert!(scene.concur.is_live(stored.secret()));
}

#[tokio::test]
async fn an_app_signs_in_by_itself_and_gets_no_refresh_token() {
    let scene = Scene::new().await;
    let eu = scene.concur.add_data_centre().await;
    let reply = send_to(&scene, &eu, &Grant::client_credentials()).await.unwrap();
    assert_eq!(last_form(&scene), ["grant_type=client_credentials"]);
    let access = reply.access_token().unwrap();
    assert_eq!(access.geolocation().as_str(), format!("{eu}/"));
    assert_eq!(users_status(&access).await, 200);

    let error = reply.refresh_token_object().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(
        error.to_string(),
        format!(
            "the reply of 127.0.0.1 holds no usable refresh token: the member refresh_token is missing or blank; tell SAP \
             Concur's support, with the correlation id (correlation id {})",
            error.correlation_id().unwrap()
        )
    );
    assert_eq!(scene.concur.token_requests(), 1);
}

#[tokio::test]
async fn an_implementation_site_leads_to_production() {
    let scene = Scene::new().await;
    let site = scene.concur.add_implementation_site(308, &scene.concur.base_uri()).await;
    let reply = send_to(&scene, &site, &Grant::client_credentials()).await.unwrap();
    assert_eq!(reply.access_token().unwrap().geolocation().as_str(), format!("{}/", scene.concur.base_uri()));
    let came_to: Vec<_> = scene.concur.requests().iter().map(|it| it.base_uri().to_owned()).collect();
    assert_eq!(came_to, [site, scene.concur.base_uri()]);
}

/// A grant that works once, or that counts towards a locked account, must not be sent again because of the message.
#[tokio::test]
async fn after_a_lost_reply_the_message_says_whether_to_try_again() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let again = "try again";
    let not_again = "the grant may nevertheless have been used, so find out why before you try again";
    for (grant, advice) in [
        (Grant::client_credentials(), again),
        (Grant::refresh_token_with_scope("r", "openid"), again),
        (Grant::user_password(user.username(), user.password()), not_again),
        (Grant::authorization_code("c", "https://app.example.com"), not_again),
    ] {
        scene.concur.fault_next(1, Fault::DropReply);
        let error = send(&scene, &grant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), format!("the connection to 127.0.0.1 broke off; {advice}"));
    }
    assert_eq!(scene.concur.token_requests(), 4);
}
