//! A `Debug` form says what a value is, so that a log of a program's own can be read. That no secret is in it, other tests show.

#![cfg(feature = "simulator")]

mod support;

use concur_auth::{
    AppCredentials, AuthorizationRequest, Fleet, FolderFleet, Geolocation, Grant, MemoryStore, OAuthClient,
    OneTimePasswordRequest, RefreshTokenObject, StoreLock, TokenStore as _,
};
use support::Scene;

#[tokio::test]
async fn each_begins_with_the_name_of_its_type() {
    let scene = Scene::new().await;
    let (tokens, app) = (scene.manager(), scene.builder().build_for_app().unwrap());
    let keep_alive = tokens.keep_alive().await.unwrap();
    let changes = tokens.subscribe().await;
    let fleet = Fleet::builder()
        .app(AppCredentials::new("app", "secret"))
        .store(FolderFleet::new(scene.token_path().with_file_name("fleet")))
        .build()
        .unwrap();
    let fleet_keep_alive = fleet.keep_alive().await.unwrap();
    let base: Geolocation = Geolocation::GLZ.parse().unwrap();
    let sign_in = AuthorizationRequest::new(&base, "app", "https://app.example/back", "openid").unwrap();
    let address = scene.concur.base_uri().parse().unwrap();
    let token = RefreshTokenObject::from_json(&scene.concur.token_json()).unwrap();
    let grant = Grant::refresh_token(token.secret());
    let reply =
        OAuthClient::new().request_token(&address, &scene.concur.credentials(), &grant).await.unwrap();
    for (form, name) in [
        (format!("{tokens:?}"), "TokenManager { store: \""),
        (format!("{app:?}"), "AppTokens { held: None"),
        (format!("{keep_alive:?}"), "KeepAlive"),
        (format!("{changes:?}"), "StatusSubscription(Status {"),
        (format!("{fleet:?}"), "Fleet { store: "),
        (format!("{:?}", fleet.events()), "FleetEvents"),
        (format!("{fleet_keep_alive:?}"), "FleetKeepAlive"),
        (format!("{:?}", OAuthClient::new()), "OAuthClient"),
        (format!("{:?}", Grant::refresh_token("r")), "Grant(refresh_token)"),
        (format!("{reply:?}"), "TokenReply { members: "),
        (format!("{sign_in:?}"), "AuthorizationRequest { base: "),
        (format!("{:?}", OneTimePasswordRequest::by_email("a@b.example")), "OneTimePasswordRequest"),
        (format!("{:?}", StoreLock::new(())), "StoreLock"),
        (format!("{:?}", MemoryStore::new().boxed()), "MemoryStore"),
        (format!("{:?}", AppCredentials::new("app", "secret")), "AppCredentials"),
        (format!("{:?}", scene.concur.add_company()), "SimulatedCompany { uuid: \""),
        (format!("{:?}", concur_auth::simulator::SharedLock::new()), "SharedLock { free_after: None"),
        #[cfg(feature = "tower")]
        (
            format!(
                "{:?}",
                tower::ServiceBuilder::new().layer(concur_auth::BearerLayer::new(tokens.clone())).service(())
            ),
            "Bearer { inner: ()",
        ),
        #[cfg(feature = "tower")]
        (format!("{:?}", concur_auth::BearerLayer::new(tokens.clone())), "BearerLayer"),
        #[cfg(feature = "postgres")]
        (
            format!("{:?}", concur_auth::PostgresStore::new("postgres://localhost/x", "name").unwrap()),
            "PostgresStore { row: ",
        ),
    ] {
        assert!(form.starts_with(name), "{form}");
    }
}
