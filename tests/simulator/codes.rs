//! SAP's table of errors, row by row.

use super::*;

/// Every row: its codes, and the name that goes with them.
const TABLE: [(&[u32], &str); 34] = [
    (&[5, 19], "invalid_grant"),
    (&[10, 11], "invalid_grant"),
    (&[12, 13, 20], "invalid_grant"),
    (&[14], "invalid_grant"),
    (&[16], "invalid_request"),
    (&[21], "invalid_request"),
    (&[51, 52], "invalid_request"),
    (&[53], "invalid_client"),
    (&[54], "invalid_scope"),
    (&[55], "invalid_request"),
    (&[56, 57, 58], "invalid_request"),
    (&[59], "access_denied"),
    (&[60], "invalid_grant"),
    (&[61], "invalid_client"),
    (&[62, 63, 65], "invalid_request"),
    (&[64], "invalid_client"),
    (&[80, 81], "invalid_request"),
    (&[82], "invalid_request"),
    (&[83, 84, 85], "invalid_request"),
    (&[100], "invalid_request"),
    (&[101, 102, 103], "invalid_request"),
    (&[104], "invalid_grant"),
    (&[105], "invalid_grant"),
    (&[106], "invalid_request"),
    (&[107], "invalid_request"),
    (&[108], "invalid_grant"),
    (&[109], "invalid_request"),
    (&[115], "invalid_request"),
    (&[117, 118, 119], "invalid_request"),
    (&[120, 121, 122, 124], "invalid_request"),
    (&[123], "invalid_request"),
    (&[134], "invalid_request"),
    (&[135], "invalid_request"),
    (&[136, 139], "invalid_request"),
];

#[tokio::test]
async fn a_fault_says_every_code_with_its_name_and_meaning() {
    let (concur, _) = simulator().await;
    let mut codes = HashSet::new();
    for (row, name) in TABLE {
        for code in row {
            concur.fault_next(1, Fault::code(*code));
            let (status, body) = grant_at(&concur.base_uri(), &form(&concur)).await;
            let meaning = concur_auth::ConcurCode::new(*code).meaning().expect("in the table");
            assert_eq!(body, json!({ "code": code, "error": name, "error_description": meaning }));
            let expected = match name {
                "invalid_client" => 401,
                "access_denied" => 403,
                _ => 400,
            };
            assert_eq!(status, expected, "{code}");
            codes.insert(*code);
        }
    }
    let known = (0..1000).filter(|code| concur_auth::ConcurCode::new(*code).meaning().is_some());
    assert_eq!(codes, known.collect(), "the whole table");
}

#[tokio::test]
async fn a_token_of_another_app_is_refused_and_not_spent() {
    let (concur, _) = simulator().await;
    concur.set_rotation(Rotation::Always);
    let (app, other) = (concur.app(), concur.add_app());
    let refused = async |fields: &[(&str, &str)]| {
        grant_at(&concur.base_uri(), &app_form(&app, fields)).await.1["code"].clone()
    };
    let company = concur.company_uuid();
    let sign_in = [("grant_type", "password"), ("credtype", "authtoken"), ("username", &company)];
    let with = |token| [&sign_in[..], &[("password", token)]].concat();

    assert_eq!(refused(&with(other.request_token())).await, 136);
    for _ in 0..5 {
        let form = app_form(&other, &with(other.request_token()));
        assert_eq!(grant_at(&concur.base_uri(), &form).await.0, 200, "its own five uses");
    }
    assert_eq!(concur.request_token_uses_left(), 5);
    let another = concur.add_company();
    let another = [
        ("grant_type", "password"),
        ("credtype", "authtoken"),
        ("username", another.uuid()),
        ("password", app.request_token()),
    ];
    assert_eq!(refused(&another).await, 5, "another company's");
    assert_eq!(concur.request_token_uses_left(), 5);
    assert_eq!(refused(&with(app.request_token())).await, Value::Null);

    let stored = RefreshTokenObject::from_json(&concur.token_json()).unwrap();
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", stored.secret())];
    let (_, body) = grant_at(&concur.base_uri(), &app_form(&other, &refresh)).await;
    assert_eq!((&body["code"], &body["error"]), (&json!(105), &json!("invalid_grant")));
    assert!(concur.is_live(stored.secret()));
}

#[tokio::test]
async fn a_refused_app_is_refused_every_request() {
    let (concur, _) = simulator().await;
    let other = concur.add_app();
    let ask = async |app: &SimulatedApp| {
        let (status, body) =
            grant_at(&concur.base_uri(), &app_form(app, &[("grant_type", "client_credentials")])).await;
        (status, body["code"].clone())
    };
    concur.refuse_app(concur.app().id(), 59);
    assert_eq!(ask(&concur.app()).await, (403, json!(59)));
    assert_eq!(ask(&other).await, (200, Value::Null));
    concur.refuse_app(concur.app().id(), 53);
    assert_eq!(ask(&concur.app()).await, (401, json!(53)));

    let mut impostor = app_form(&concur.app(), &[]);
    impostor[1].1 = "wrong".to_owned();
    assert_eq!(grant_at(&concur.base_uri(), &impostor).await.1["code"], 64, "who is it?");
    concur.end_refusals();
    assert_eq!(ask(&concur.app()).await, (200, Value::Null));
}

#[tokio::test]
async fn a_refused_grant_type_is_refused_to_every_app() {
    let (concur, _) = simulator().await;
    let stored = sign_in(&concur).await.unwrap();
    concur.refuse_grant_type("refresh_token", 107);
    assert_eq!(code(refresh(&concur, stored.secret()).await), Some(107));
    assert_eq!(code(refresh(&concur, "never issued").await), Some(107));
    sign_in(&concur).await.expect("another grant");
    concur.refuse_grant_type("password", 60);
    assert_eq!(code(sign_in(&concur).await), Some(60));
    concur.end_refusals();
    refresh(&concur, stored.secret()).await.unwrap();
}

#[tokio::test]
async fn a_refused_principal_is_refused_whatever_is_presented() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    let stored = sign_in(&concur).await.unwrap();
    concur.refuse_principal(&concur.company_uuid(), 14);
    assert_eq!(code(sign_in(&concur).await), Some(14));
    assert_eq!(code(refresh(&concur, stored.secret()).await), Some(14));
    assert_eq!(code(sign_in_with(&concur, "at-wrong").await), Some(14));
    assert_eq!(concur.request_token_uses_left(), 4);

    let fields = [("grant_type", "password"), ("username", user.username()), ("password", user.password())];
    assert_eq!(grant_at(&concur.base_uri(), &app_form(&concur.app(), &fields)).await.0, 200);

    let eu = concur.add_data_centre().await;
    concur.move_principal(&concur.company_uuid(), &eu);
    let fields = [("grant_type", "refresh_token"), ("refresh_token", stored.secret())];
    let answer = grant_at(&concur.base_uri(), &app_form(&concur.app(), &fields)).await;
    assert_eq!(answer.1["code"], 16, "the other data centre will say");
    concur.move_principal(&concur.company_uuid(), &concur.base_uri());
    concur.end_refusals();
    assert!(refresh(&concur, stored.secret()).await.is_ok());
}

#[tokio::test]
async fn debug_of_apps_and_users_shows_no_secret() {
    let (concur, _) = simulator().await;
    let (app, user) = (concur.app(), concur.add_user());
    assert_eq!(format!("{app:?}"), format!("SimulatedApp {{ id: {:?}, .. }}", app.id()));
    assert_eq!(format!("{user:?}"), format!("SimulatedUser {{ uuid: {:?}, .. }}", user.uuid()));
    assert_eq!(app.request_token(), member(&concur, "companyRequestToken"));
    assert_eq!(concur.issue_request_token(), concur.app().request_token());
}
