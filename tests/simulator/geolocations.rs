//! Several data centres share one state; each tells a principal of another data centre where to go.

use concur_auth::simulator::SimulatedUser;

use super::*;

fn refresh_form(concur: &ConcurSimulator, token: &str) -> Vec<(&'static str, String)> {
    app_form(&concur.app(), &[("grant_type", "refresh_token"), ("refresh_token", token)])
}

fn lives_at(base_uri: &str) -> Value {
    json!({
        "code": 16,
        "error": "invalid_request",
        "error_description": "the user lives in another data centre",
        "geolocation": base_uri,
    })
}

#[tokio::test]
async fn a_company_signs_in_at_the_landing_zone_or_at_home_and_nowhere_else() {
    let (concur, _) = simulator().await;
    let (eu, us) = (concur.add_data_centre().await, concur.add_data_centre().await);
    let all: HashSet<_> = [concur.base_uri(), eu.clone(), us.clone()].into();
    assert_eq!(all.len(), 3);
    concur.move_principal(&concur.company_uuid(), &eu);

    for base_uri in [concur.base_uri(), eu.clone()] {
        let (status, reply) = grant_at(&base_uri, &form(&concur)).await;
        assert_eq!((status, &reply["geolocation"]), (200, &json!(eu)), "{base_uri}");
    }
    assert_eq!(concur.request_token_uses_left(), 3);
    assert_eq!(grant_at(&us, &form(&concur)).await, (400, lives_at(&eu)));
    assert_eq!(concur.request_token_uses_left(), 3, "nothing is spent elsewhere");

    let came_to: Vec<_> = concur.requests().iter().map(|request| request.base_uri().to_owned()).collect();
    assert_eq!(came_to, [concur.base_uri(), eu, us]);
    assert_eq!(concur.count("password"), 3);
}

#[tokio::test]
async fn a_refresh_token_is_renewed_at_home_only() {
    let (concur, _) = simulator().await;
    concur.set_rotation(Rotation::Always);
    let stored = sign_in(&concur).await.unwrap();
    let eu = concur.add_data_centre().await;

    let form = refresh_form(&concur, stored.secret());
    assert_eq!(grant_at(&eu, &form).await, (400, lives_at(&concur.base_uri())));
    concur.move_principal(&concur.company_uuid(), &format!("{eu}/"));
    assert_eq!(grant_at(&concur.base_uri(), &form).await, (400, lives_at(&eu)));
    assert!(concur.is_live(stored.secret()), "not rotated elsewhere");

    let (status, renewed) = grant_at(&eu, &form).await;
    assert_eq!((status, &renewed["geolocation"]), (200, &json!(eu)));
    assert!(!concur.is_live(stored.secret()));

    // Whose token would it be?
    let (_, refused) = grant_at(&concur.base_uri(), &form).await;
    assert_eq!((&refused["code"], &refused["geolocation"]), (&json!(108), &json!(concur.base_uri())));
}

#[tokio::test]
async fn a_users_password_is_good_at_home_only_and_an_apps_secret_anywhere() {
    let (concur, _) = simulator().await;
    let eu = concur.add_data_centre().await;
    let (user, other) = (concur.add_user(), concur.add_user());
    concur.move_principal(user.uuid(), &eu);

    let password = |user: &SimulatedUser| {
        let fields = [("username", user.username()), ("password", user.password())];
        app_form(&concur.app(), &[&[("grant_type", "password")], &fields[..]].concat())
    };
    assert_eq!(grant_at(&concur.base_uri(), &password(&user)).await, (400, lives_at(&eu)));
    let (status, reply) = grant_at(&eu, &password(&user)).await;
    assert_eq!((status, &reply["geolocation"]), (200, &json!(eu)));
    assert_eq!(grant_at(&concur.base_uri(), &password(&other)).await.0, 200, "only one of them moved");

    for base_uri in [concur.base_uri(), eu] {
        let form = app_form(&concur.app(), &[("grant_type", "client_credentials")]);
        let (status, reply) = grant_at(&base_uri, &form).await;
        assert_eq!((status, &reply["geolocation"]), (200, &json!(base_uri)));
    }
}

#[tokio::test]
async fn users_live_where_their_company_lives_at_first() {
    let (concur, _) = simulator().await;
    let eu = concur.add_data_centre().await;
    concur.move_principal(&concur.company_uuid(), &eu);
    let user = concur.add_user();
    let fields = [("username", user.username()), ("password", user.password()), ("grant_type", "password")];
    assert_eq!(grant_at(&eu, &app_form(&concur.app(), &fields)).await.1["geolocation"], eu);
}

#[tokio::test]
async fn a_principal_that_moves_keeps_all_tokens() {
    let (concur, _) = simulator().await;
    let before = parse(&concur.token_json());
    let eu = concur.add_data_centre().await;
    concur.move_principal(&concur.company_uuid(), &eu);
    assert_eq!(parse(&concur.token_json())["geolocation"], eu);

    let url = format!("{eu}/profile/identity/v4/Users");
    let call = reqwest::Client::new().get(url).bearer_auth(text(&before, "access_token"));
    assert_eq!(call.send().await.unwrap().status(), 200);
    let (status, _) = grant_at(&eu, &refresh_form(&concur, &text(&before, "refresh_token"))).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn faults_are_for_whichever_data_centre_is_asked_next() {
    let (concur, _) = simulator().await;
    let eu = concur.add_data_centre().await;
    concur.fault_next(2, Fault::code(134));
    for (base_uri, status) in [(&eu, 400), (&concur.base_uri(), 400), (&concur.base_uri(), 200)] {
        assert_eq!(grant_at(base_uri, &form(&concur)).await.0, status);
    }
}

#[tokio::test]
async fn a_redirect_of_an_implementation_site_keeps_method_and_body() {
    let (concur, _) = simulator().await;
    for (status, to) in [(307, concur.base_uri()), (308, format!("{}/", concur.base_uri()))] {
        let site = concur.add_implementation_site(status, &to).await;
        let before = concur.requests().len();
        concur.fault_next(1, Fault::status(503));
        assert_eq!(
            post(format!("{site}/oauth2/v0/token"), "application/x-www-form-urlencoded", String::new())
                .await
                .status(),
            503,
            "faults are for data centres"
        );
        assert_eq!(grant_at(&site, &form(&concur)).await.0, 200);

        let requests = concur.requests().split_off(before + 2);
        let [sent_on, answered] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!((sent_on.base_uri(), sent_on.status()), (&*site, Some(status)));
        assert_eq!((answered.base_uri(), answered.status()), (&*concur.base_uri(), Some(200)));
        assert_eq!((answered.method(), answered.body()), ("POST", sent_on.body()));
        assert_eq!(answered.header("content-type"), sent_on.header("content-type"));
    }
    assert_eq!((concur.request_token_uses_left(), concur.count("password")), (3, 4));
}

#[tokio::test]
async fn an_implementation_site_may_lead_anywhere_and_keeps_path_and_query() {
    let (concur, _) = simulator().await;
    let site = concur.add_implementation_site(308, "https://example.net").await;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let response = http.delete(format!("{site}/a/b?c=d")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (308, &"https://example.net/a/b?c=d".parse().unwrap())
    );
    assert!(response.headers().contains_key("concur-correlationid"));
}

#[tokio::test]
#[should_panic(expected = "there is no data centre at http://127.0.0.1:1; add_data_centre makes one")]
async fn moving_to_an_unknown_data_centre_panics() {
    let concur = simulator().await.0;
    concur.move_principal(&concur.company_uuid(), "http://127.0.0.1:1/");
}

#[tokio::test]
#[should_panic(expected = "there is no principal with the UUID nobody")]
async fn moving_an_unknown_principal_panics() {
    let concur = simulator().await.0;
    concur.move_principal("nobody", &concur.base_uri());
}

#[tokio::test]
#[should_panic(expected = "200 is not the HTTP status of a redirect; use 307 or 308")]
async fn an_implementation_site_without_a_redirect_panics() {
    simulator().await.0.add_implementation_site(200, "http://127.0.0.1:1").await;
}
