//! A fleet on a folder.

#![cfg(feature = "simulator")]

#[path = "fleet/folder.rs"]
mod folder;
#[path = "fleet/suite.rs"]
#[macro_use]
mod suite;
mod support;

use folder::Folder;

suite!(Some(Folder::new));

/// It is no token, so there was none.
#[tokio::test]
async fn a_forgotten_file_that_holds_no_token_is_set_aside() {
    suite::run(Folder::new, async |scene: suite::Scene<Folder>| {
        let fleet = scene.fleet();
        let uuid = fleet.connect(suite::grant(&scene.concur.add_company())).await.unwrap();
        let folder = scene.place.path().join(&uuid[..2]).join(&uuid);
        std::fs::write(folder.join("refreshTokenObjectFile.json"), "not a token").unwrap();
        assert!(!fleet.forget(&uuid).await.unwrap());
        let files = support::names_in(&folder);
        let kept =
            files.iter().find(|name| name.starts_with("refreshTokenObjectFile.json.corrupt-")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join(kept)).unwrap(), "not a token");
        assert!(!files.iter().any(|name| name == "refreshTokenObjectFile.json"), "{files:?}");
        assert_eq!(scene.concur.token_requests(), 1);
    })
    .await;
}
