//! Files are interchangeable with SAP's Node.js sample.

#![cfg(feature = "simulator")]

mod support;

use support::Scene;

/// As the sample writes it: compact, the whole reply plus `companyUUID`, mode 0644.
#[tokio::test]
async fn a_file_that_the_sample_wrote_is_used_as_it_is() {
    let scene = Scene::new().await;
    let json = scene.concur.token_json();
    assert!(!json.contains('\n') && !json.contains("ExpiresAt"), "not as the sample writes it: {json}");
    scene.write_token(&json);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(scene.token_path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let token = scene.manager().get_valid_refresh_token().await.unwrap();
    assert!(json.contains(token.secret()));
    assert_eq!(scene.concur.token_requests(), 0);
    assert_eq!(scene.token_file(), json, "a valid token is only read");
}

#[tokio::test]
async fn our_file_has_every_member_of_the_reply_and_of_the_sample() {
    let scene = Scene::new().await;
    let sample: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    scene.concur.set_reply_member("brand_new", Some(r#"{"kept": [1, 2.50]}"#));
    scene.manager().get_valid_refresh_token().await.unwrap();
    let ours: serde_json::Value = serde_json::from_str(&scene.token_file()).unwrap();
    for member in sample.as_object().unwrap().keys() {
        assert!(!ours[member].is_null(), "{member} is missing in {:?}", ours.as_object().unwrap().keys());
    }
    assert!(scene.token_file().contains(r#""brand_new": {"kept":[1,2.5]}"#), "{ours}");
    assert!(ours["accessTokenExpiresAt"].is_u64() && ours["refreshTokenExpiresAt"].is_u64());
    assert!(ours["refreshTokenReceivedAt"].is_u64());
}

#[tokio::test]
async fn unknown_members_survive_a_renewal() {
    let scene = Scene::new().await;
    let mut json: serde_json::Value = serde_json::from_str(&scene.concur.token_json()).unwrap();
    json["note"] = "of the user's own".into();
    json["refresh_expires_in"] = serde_json::Value::Null;
    scene.write_token(&json.to_string());
    scene.manager().get_valid_refresh_token().await.unwrap();
    assert_eq!(scene.concur.count("refresh_token"), 1);
    assert!(scene.token_file().contains("of the user's own"));
}
