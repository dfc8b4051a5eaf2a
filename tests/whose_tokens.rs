//! No principal gets another principal's token, and no sign-in replaces another principal's stored token.

#![cfg(feature = "simulator")]

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use concur_auth::{
    CredentialSource, Credentials, Error, ErrorKind, Geolocation, Grant, JsonFileStore, OAuthClient,
    RefreshTokenObject, TokenManager,
    simulator::{Fault, Rotation, SimulatedCompany, SimulatedUser},
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
async fn the_unverified_id_token_names_the_owner() {
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
                "the token in {} belongs to the principal {}, but the credentials name user {}; keep this user's \
                 token in a separate store, or move the other token away",
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
async fn a_users_token_is_refused_for_a_company() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    let stored = token_of(&scene, &user).await.to_json();
    scene.write_token(&stored);
    let error = scene.manager().get_valid_refresh_token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the token in {} belongs to the principal {}, but the credentials name company {}; keep this company's \
             token in a separate store, or move the other token away",
            scene.token_path().display(),
            user.uuid(),
            scene.concur.company_uuid()
        )
    );
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1));
}

/// As SAP's sample stores it, and without an `id_token`.
#[tokio::test]
async fn a_companys_token_is_refused_for_a_user() {
    let scene = Scene::new().await;
    scene.write_token(r#"{"refresh_token": "r", "companyUUID": "the-company"}"#);
    let error = manager(&scene, app(&scene).for_user("ada")).get_valid_refresh_token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the token in {} belongs to a company without a UUID, but the credentials name user ada; keep this user's \
             token in a separate store, or move the other token away",
            scene.token_path().display()
        )
    );
}

#[tokio::test]
async fn a_token_that_names_no_owner_is_accepted() {
    let scene = Scene::new().await;
    let user = scene.concur.add_user();
    scene.concur.set_reply_member("id_token", None);
    scene.write_token(&token_of(&scene, &user).await.to_json());
    manager(&scene, app(&scene).for_user(user.uuid())).refresh().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
}

#[tokio::test]
async fn a_users_sign_in_does_not_replace_a_companys_token() {
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
                 company, with a separate store for the user's token",
                scene.concur.company_uuid()
            )
        );
    }
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1), "nothing was sent");
}

#[tokio::test]
async fn a_companys_sign_in_does_not_replace_a_users_token() {
    let scene = Scene::new().await;
    let (user, company) = (scene.concur.add_user(), scene.concur.add_company());
    let tokens = manager(&scene, app(&scene).for_user(user.uuid()));
    tokens.sign_in(password(&user)).await.unwrap();
    let stored = scene.token_file();
    let grant = Grant::company_request_token(company.uuid(), company.request_token());
    let error = tokens.sign_in(grant).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        format!(
            "the new token belongs to company {}, but the credentials name user {}; keep this user's token in a separate \
             store, or move the other token away",
            company.uuid(),
            user.uuid()
        )
    );
    assert_eq!((scene.token_file(), scene.concur.token_requests()), (stored, 1), "nothing was sent");
}

/// Only Concur's reply tells who has signed in. The stored token, which may be the only one, comes before what can be
/// had again.
#[tokio::test]
async fn a_sign_in_by_another_principal_replaces_nothing() {
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
             user's token in a separate store, or move the other token away",
            grace.uuid(),
            ada.uuid()
        )
    );
    assert_eq!(scene.stored_refresh_token(), stored);
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), stored);

    let theirs = token_of(&scene, &grace).await;
    let error = tokens.adopt(theirs).await.unwrap_err();
    assert!(error.to_string().starts_with("the new token belongs to the principal "), "{error}");
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
        "the user's token is missing or expired; let the user sign in, and pass the grant to TokenManager::sign_in"
    );

    tokens.sign_in(password(&user)).await.unwrap();
    scene.concur.revoke();
    let error = tokens.refresh().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReauthorizationRequired);
    assert_eq!(
        error.to_string(),
        format!(
            "the refresh token in {} is no longer accepted, and there is nothing to sign in again with; let the user sign \
             in again, and pass the grant to TokenManager::sign_in (code 108, correlation id {})",
            scene.token_path().display(),
            error.correlation_id().unwrap()
        )
    );
}

/// SAP wants users' passwords at the user's geolocation, which the token that is replaced still knows.
#[tokio::test]
async fn a_user_signs_in_again_at_the_stored_tokens_geolocation() {
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
async fn a_token_with_the_companys_uuid_is_used_whatever_its_sub_is() {
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
async fn a_token_of_another_principal_is_saved_but_not_served() {
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
async fn a_second_users_sign_in_does_not_replace_the_first_users_token() {
    let scene = Scene::new().await;
    let (ada, grace) = (scene.concur.add_user(), scene.concur.add_user());
    let tokens = manager(&scene, app(&scene));
    let first = tokens.sign_in(password(&ada)).await.unwrap();
    let error = tokens.sign_in(password(&grace)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "the token that Concur has sent belongs to another principal than the stored one; keep it in a separate store, or \
         move the stored token away"
    );
    let error = tokens.adopt(token_of(&scene, &grace).await).await.unwrap_err();
    assert!(error.to_string().starts_with("the new token belongs to another principal than the stored one;"));
    assert_eq!(scene.stored_refresh_token(), first.secret());
    tokens.sign_in(password(&ada)).await.unwrap();
}

/// What comes back for a refresh token can be anybody's, and the one that was sent may be dead by then.
#[tokio::test]
async fn a_refresh_token_can_be_adopted_but_is_no_sign_in() {
    let scene = Scene::new().await;
    let error = scene.manager().sign_in(Grant::refresh_token("r")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "a refresh token grant is not a sign-in, and its reply could belong to another principal; pass the token to \
         TokenManager::adopt"
    );
    assert_eq!(scene.concur.token_requests(), 0);
}

/// A mistyped UUID is corrected, one that was missing is filled in: no restart is needed, and nothing is sent.
#[tokio::test]
async fn whose_token_is_wanted_is_what_the_credentials_say_now() {
    let scene = Scene::new().await;
    scene.manager().access_token().await.unwrap();
    let stored = scene.token_file();
    let right: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    let company = |uuid: &str| {
        let mut credentials = right.clone();
        credentials["companyUUID"] = uuid.into();
        scene.write_credentials(&credentials.to_string());
    };
    let ours = right["companyUUID"].as_str().unwrap();
    let other = "b34a8b1c-0fc9-4cd9-9f5b-0d1ab5d2c111";
    let tokens = scene.manager();
    for (named, is_ours) in [(other, false), (ours, true), ("", true), (other, false), (ours, true)] {
        company(named);
        for _ in 0..2 {
            let token = tokens.get_valid_refresh_token().await;
            match token {
                Ok(_) => assert!(is_ours, "{named:?}"),
                Err(e) => assert!(!is_ours && e.kind() == ErrorKind::Config, "{named:?}: {e}"),
            }
        }
        // Served from memory, if it is this company's.
        assert_eq!(tokens.access_token().await.is_ok(), is_ours, "{named:?}");
    }
    assert_eq!((scene.concur.token_requests(), scene.token_file()), (1, stored));
}

/// The source does not tell that it has changed. Where what is stored is another company's token, it is asked.
#[tokio::test]
async fn a_source_that_tells_no_changes_is_asked_where_a_foreign_token_is_stored() {
    #[derive(Clone, Debug)]
    struct Vault(Arc<Mutex<Credentials>>);

    impl CredentialSource for Vault {
        async fn credentials(&self) -> Result<Credentials, Error> {
            Ok(self.0.lock().unwrap().clone())
        }
    }

    let scene = Scene::new().await;
    let company = |company: &SimulatedCompany| app(&scene).company(company.uuid(), company.request_token());
    let [one, other] = [scene.concur.add_company(), scene.concur.add_company()].map(|it| company(&it));
    let vault = Vault(Arc::new(Mutex::new(one)));
    let tokens = scene.builder().credentials(vault.clone()).build().unwrap();
    tokens.get_valid_refresh_token().await.unwrap();
    std::fs::remove_file(scene.token_path()).unwrap();
    let foreign = manager(&scene, other.clone()).get_valid_refresh_token().await.unwrap();
    let error = tokens.get_valid_refresh_token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    *vault.0.lock().unwrap() = other;
    assert_eq!(tokens.get_valid_refresh_token().await.unwrap().secret(), foreign.secret());
    assert_eq!(scene.concur.token_requests(), 2);
}

/// It cannot tell whether the credentials have changed.
#[tokio::test]
async fn a_source_that_may_always_have_changed_is_asked_once_for_each_call() {
    #[derive(Clone, Debug)]
    struct Vault(Credentials, Arc<AtomicUsize>);

    impl CredentialSource for Vault {
        async fn credentials(&self) -> Result<Credentials, Error> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(self.0.clone())
        }

        fn has_changed(&self) -> bool {
            assert!(self.1.load(Ordering::Relaxed) < 2, "it panics, too");
            true
        }
    }

    let scene = Scene::new().await;
    let company = scene.concur.add_company();
    let vault = Vault(app(&scene).company(company.uuid(), company.request_token()), Arc::default());
    let tokens = scene.builder().credentials(vault.clone()).build().unwrap();
    for calls in 1..=3 {
        tokens.get_valid_refresh_token().await.unwrap();
        assert_eq!(vault.1.load(Ordering::Relaxed), calls);
    }
    assert_eq!(scene.concur.token_requests(), 1);
}

/// The held token is another company's by now, and the wanted one cannot be had.
#[tokio::test]
async fn no_other_companys_token_is_served_while_the_wanted_one_cannot_be_had() {
    let scene = Scene::skipping(Rotation::Never).await;
    let tokens = scene.manager();
    tokens.access_token().await.unwrap();
    let mut credentials: serde_json::Value = serde_json::from_str(&scene.concur.credentials_json()).unwrap();
    credentials["companyUUID"] = "b34a8b1c-0fc9-4cd9-9f5b-0d1ab5d2c111".into();
    scene.write_credentials(&credentials.to_string());
    std::fs::remove_file(scene.token_path()).unwrap();
    scene.concur.set_fault(Fault::status(503));
    for _ in 0..3 {
        assert_eq!(tokens.get_valid_refresh_token().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(tokens.access_token().await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
