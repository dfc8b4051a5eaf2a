//! Nobody is served, and nobody's stored token is replaced by, somebody else's.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    Credentials, ErrorKind, Geolocation, Grant, JsonFileStore, OAuthClient, RefreshTokenObject, TokenManager,
    simulator::SimulatedUser,
};
use support::{HOUR, Scene};

fn app(scene: &Scene) -> Credentials {
    let app = scene.concur.app();
    Credentials::new(app.id(), app.secret()).base_uri(scene.concur.base_uri())
}

fn manager(scene: &Scene, credentials: Credentials) -> TokenManager {
    let builder =
        TokenManager::builder().credentials(credentials).store(JsonFileStore::new(scene.token_path()));
    builder.clock(scene.clock.clone()).build().unwrap()
}

fn password(user: &SimulatedUser) -> Grant {
    Grant::user_password(user.username(), user.password())
}

async fn token_of(scene: &Scene, user: &SimulatedUser) -> RefreshTokenObject {
    let base: Geolocation = scene.concur.base_uri().parse().unwrap();
    let reply = OAuthClient::new().request_token(&base, &app(scene), &password(user)).await.unwrap();
    reply.refresh_token_object().unwrap()
}

#[tokio::test]
async fn the_id_token_says_whose_a_token_is_without_being_verified() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let token = token_of(&scene, &user).await;
    assert_eq!(token.principal_uuid(), Some(user.uuid()));
    let claims = token.unverified_claims().unwrap();
    assert_eq!((claims.subject(), claims.principal_type()), (Some(user.uuid()), Some("user")));
    let (base, app) = (scene.concur.base_uri(), scene.concur.app());
    assert_eq!((claims.issuer(), claims.audience()), (Some(base.as_str()), Some(app.id())));
    assert_eq!(
        (claims.issued_at(), claims.expires_at()),
        (Some(support::noon()), Some(support::noon() + HOUR))
    );
    assert_eq!(
        format!("{claims:?}"),
        format!(
            "UnverifiedClaims {{ subject: Some({:?}), principal_type: Some(\"user\"), .. }}",
            user.uuid()
        )
    );

    let company = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    assert_eq!(company.principal_uuid(), company.company_uuid());
    let silent = RefreshTokenObject::from_json(r#"{"refresh_token": "r", "id_token": "no JWT"}"#).unwrap();
    assert_eq!((silent.principal_uuid(), silent.unverified_claims().is_none()), (None, true));
}

#[tokio::test]
async fn a_stored_token_of_another_user_is_refused() {
    let scene = Scene::new().await;
    let (ada, grace) = (scene.concur.add_user(), scene.concur.add_user());
    let stored = token_of(&scene, &ada).await.to_json();
    scene.write_token(&stored);
    let tokens = manager(&scene, app(&scene).for_user(grace.uuid()));
    for error in [
        tokens.get_valid_refresh_token().await.unwrap_err(),
        tokens.access_token().await.unwrap_err(),
        tokens.refresh().await.unwrap_err(),
        tokens.sign_in(password(&grace)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            format!(
                "the token in {} belongs to the principal {}, but the credentials name user {}; keep this user's token in a \
                 separate store, or move the stored token away",
                scene.token_path().display(),
                ada.uuid(),
                grace.uuid()
            )
        );
    }
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1));
    manager(&scene, app(&scene).for_user(ada.uuid())).get_valid_refresh_token().await.unwrap();
}

#[tokio::test]
async fn a_users_token_is_no_companys() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let stored = token_of(&scene, &user).await.to_json();
    scene.write_token(&stored);
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the token in {} belongs to the principal {}, but the credentials name company {}; keep this company's token in \
             a separate store, or move the stored token away",
            scene.token_path().display(),
            user.uuid(),
            scene.concur.company_uuid()
        )
    );
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1));
}

/// As SAP's sample stores it, and without an `id_token`.
#[tokio::test]
async fn a_companys_token_is_no_users() {
    let scene = Scene::new().await;
    scene.write_token(r#"{"refresh_token": "r", "companyUUID": "the-company"}"#);
    let error = manager(&scene, app(&scene).for_user("ada")).get_valid_refresh_token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the token in {} belongs to company the-company, but the credentials name user ada; keep this user's token in a \
             separate store, or move the stored token away",
            scene.token_path().display()
        )
    );
}

#[tokio::test]
async fn a_token_that_does_not_say_whose_it_is_is_believed() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    scene.concur.set_reply_member("id_token", None);
    scene.write_token(&token_of(&scene, &user).await.to_json());
    manager(&scene, app(&scene).for_user(user.uuid())).refresh().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

#[tokio::test]
async fn a_user_does_not_sign_in_over_a_companys_token() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let tokens = scene.manager();
    tokens.get_valid_refresh_token().await.unwrap();
    let stored = scene.token_file();
    for grant in [password(&user), Grant::authorization_code("c", "https://app.example.com")] {
        let error = tokens.sign_in(grant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            format!(
                "the grant signs in a user, but the credentials name company {}; use a manager whose credentials name no \
                 company, with another place for the user's token",
                scene.concur.company_uuid()
            )
        );
    }
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1), "nothing was sent");
}

/// Only Concur's reply tells who has signed in. The stored token, which may be the only one, comes before what can be
/// had again.
#[tokio::test]
async fn a_sign_in_by_somebody_else_replaces_nothing() {
    let scene = Scene::new().await;
    let (ada, grace) = (scene.concur.add_user(), scene.concur.add_user());
    let tokens = manager(&scene, app(&scene).for_user(ada.uuid()));
    tokens.sign_in(password(&ada)).await.unwrap();
    let stored = scene.stored_refresh_token();
    let error = tokens.sign_in(password(&grace)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!(
            "the token that Concur has sent belongs to the principal {}, but the credentials name user {}; keep this \
             user's token in a separate store, or move the stored token away",
            grace.uuid(),
            ada.uuid()
        )
    );
    assert_eq!(scene.stored_refresh_token(), stored);
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), stored);

    let theirs = token_of(&scene, &grace).await;
    let error = tokens.adopt(theirs).await.unwrap_err();
    assert!(error.to_string().starts_with("the token to be held belongs to the principal "), "{error}");
    assert_eq!(scene.stored_refresh_token(), stored);
}

#[tokio::test]
async fn a_user_without_a_token_is_asked_to_sign_in() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let tokens = manager(&scene, app(&scene).for_user(user.uuid()));
    let error = tokens.access_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsNeeded);
    assert_eq!(
        error.to_string(),
        "the user's token is missing or expired; let the user sign in, and give the grant to TokenManager::sign_in"
    );

    tokens.sign_in(password(&user)).await.unwrap();
    scene.concur.revoke();
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        error.to_string(),
        format!(
            "the refresh token in {} is no longer accepted, and there is nothing to sign in again with; let the user sign \
             in again, and give the grant to TokenManager::sign_in (code 108, correlation id {})",
            scene.token_path().display(),
            error.correlation_id().unwrap()
        )
    );
}

/// SAP wants users' passwords at the user's geolocation, which the token that is replaced still knows.
#[tokio::test]
async fn a_user_signs_in_again_where_the_stored_token_says() {
    let scene = Scene::new().await;
    let (user, eu) = (scene.concur.add_user(), scene.concur.add_data_centre().await);
    scene.concur.move_principal(user.uuid(), &eu);
    let tokens = manager(&scene, app(&scene).for_user(user.uuid()));
    for _ in 0..2 {
        tokens.sign_in(password(&user)).await.unwrap();
    }
    let came_to: Vec<_> = scene.concur.requests().iter().map(|it| it.base_uri().to_owned()).collect();
    assert_eq!(came_to, [scene.concur.base_uri(), eu.clone(), eu]);
}

/// The member `companyUUID` says whom it was stored for; who the `sub` of a company's token is, SAP does not promise.
#[tokio::test]
async fn a_token_that_was_stored_for_the_company_is_used_whatever_its_sub_says() {
    let scene = Scene::new().await;
    let mut stored: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    let user = scene.concur.add_user();
    stored["id_token"] = serde_json::from_str::<serde_json::Value>(&token_of(&scene, &user).await.to_json())
        .unwrap()["id_token"]
        .clone();
    scene.write_token(&stored.to_string());
    let served = scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(served.principal_uuid(), Some(user.uuid()));
    assert_eq!(served.company_uuid(), Some(scene.concur.company_uuid().as_str()));
}

/// Not even from memory, where it is kept because nothing that Concur hands out is thrown away.
#[tokio::test]
async fn what_credentials_bring_in_for_somebody_else_is_handed_to_nobody() {
    let scene = Scene::new().await;
    let (ada, grace) = (scene.concur.add_user(), scene.concur.add_user());
    let credentials = app(&scene).user(ada.username(), ada.password()).for_user(grace.uuid());
    let tokens = manager(&scene, credentials);
    for _ in 0..3 {
        assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap_err().kind(), ErrorKind::Config);
    }
    assert!(scene.concur.is_live(&scene.stored_refresh_token()));
}

/// Where the credentials name nobody, the stored token says whose place it is.
#[tokio::test]
async fn the_next_user_does_not_sign_in_over_the_first() {
    let scene = Scene::new().await;
    let (ada, grace) = (scene.concur.add_user(), scene.concur.add_user());
    let tokens = manager(&scene, app(&scene));
    let first = tokens.sign_in(password(&ada)).await.unwrap();
    let error = tokens.sign_in(password(&grace)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the token that Concur has sent belongs to another principal than the stored one; use another place for it, or \
         move that one away"
    );
    let error = tokens.adopt(token_of(&scene, &grace).await).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the token to be held belongs to another principal than the stored one;")
    );
    assert_eq!(scene.stored_refresh_token(), first.secret());
    tokens.sign_in(password(&ada)).await.unwrap();
}

/// What comes back for a refresh token can be anybody's, and the one that was sent may be dead by then.
#[tokio::test]
async fn a_refresh_token_is_adopted_and_not_signed_in_with() {
    let scene = Scene::new().await;
    let error = scene.manager().sign_in(Grant::refresh_token("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "nobody signs in with a refresh token, and the one that comes back could be another principal's; hand it over \
         with TokenManager::adopt"
    );
    assert_eq!(scene.concur.token_requests(), 0);
}
