//! A user signs in with a one-time password that came by mail.

use concur_auth::{simulator::SimulatedUser, url::Url};

use super::*;

async fn otp_at(base_uri: &str, form: &[(&str, String)]) -> (u16, Value) {
    let url = format!("{base_uri}/oauth2/v0/otp");
    status_and_body(post(url, "application/x-www-form-urlencoded", encode(form)).await).await
}

fn channel<'a>(
    app: &SimulatedApp,
    user: &SimulatedUser,
    fields: &[(&'a str, &str)],
) -> Vec<(&'a str, String)> {
    let channel = [("channel_type", "email"), ("channel_handle", user.username())];
    app_form(app, &[&channel, fields].concat())
}

fn grant_form<'a>(app: &SimulatedApp, user: &SimulatedUser, otp: &str) -> Vec<(&'a str, String)> {
    channel(app, user, &[("grant_type", "otp"), ("otp", otp)])
}

/// Has a one-time password mailed, with no facts to repeat.
async fn mailed(concur: &ConcurSimulator, user: &SimulatedUser) -> String {
    let sent = otp_at(&concur.base_uri(), &channel(&concur.app(), user, &[])).await;
    assert_eq!(sent, (200, json!({ "message": "otp sent" })));
    concur.mails().last().unwrap().one_time_password().to_owned()
}

/// The form without its field of this name, and with `value` in its place.
fn changed<'a>(mut form: Vec<(&'a str, String)>, name: &'a str, value: &str) -> Vec<(&'a str, String)> {
    form.retain(|(kept, _)| *kept != name);
    form.push((name, value.to_owned()));
    form
}

#[tokio::test]
async fn the_mailed_link_brings_the_password_that_is_good_for_tokens_once() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    let facts = [
        ("name", "Ada"),
        ("company", "Analytical"),
        ("link", "https://app.example.com/in?a=b"),
        ("trip", "7"),
    ];
    let sent = otp_at(&concur.base_uri(), &channel(&concur.app(), &user, &facts)).await;
    assert_eq!(sent, (200, json!({ "message": "otp sent" })));

    let [mail] = &concur.mails()[..] else { panic!("one mail") };
    assert_eq!(mail.to(), user.username());
    assert_eq!(format!("{mail:?}"), format!("Mail {{ to: {:?}, .. }}", user.username()));
    let link = Url::parse(mail.link().unwrap()).unwrap();
    let pairs: Vec<_> = link.query_pairs().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(pairs, ["a=b", &format!("token={}", mail.one_time_password())]);

    let mut form = grant_form(&concur.app(), &user, mail.one_time_password());
    form.extend(facts.map(|(name, value)| (name, value.to_owned())));
    let (status, reply) = grant_at(&concur.base_uri(), &form).await;
    assert_eq!((status, reply.as_object().unwrap().len()), (200, 8));
    assert_eq!(reply["scope"], "openid company.read user.read");
    assert!(concur.is_live(&text(&reply, "refresh_token")));
    assert_eq!(grant_at(&concur.base_uri(), &form).await.1["code"], 83, "spent");
    assert_eq!((concur.count("otp"), concur.token_requests(), concur.requests().len()), (2, 2, 3));
}

#[tokio::test]
async fn every_fact_has_to_be_repeated() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    let facts = [("name", "Ada"), ("company", "Analytical"), ("link", "no URL"), ("trip", "7")];
    otp_at(&concur.base_uri(), &channel(&concur.app(), &user, &facts)).await;
    let mail = concur.mails().remove(0);
    assert_eq!(mail.link(), None);
    let mut form = grant_form(&concur.app(), &user, mail.one_time_password());
    form.extend(facts.map(|(name, value)| (name, value.to_owned())));
    for (name, _) in facts {
        for value in ["", "other"] {
            let (status, body) = grant_at(&concur.base_uri(), &changed(form.clone(), name, value)).await;
            assert_eq!((status, &body["code"]), (400, &json!(84)), "{name}");
        }
    }
    form.push(("more", "is fine".to_owned()));
    assert_eq!(grant_at(&concur.base_uri(), &form).await.0, 200, "nothing was spent");
}

#[tokio::test]
async fn each_wrong_request_for_a_password_has_its_code() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    let form = channel(&concur.app(), &user, &[]);
    for (name, value, status, code) in [
        ("client_id", "", 400, 62),
        ("client_id", "other", 401, 61),
        ("client_secret", "", 400, 63),
        ("client_secret", "other", 401, 64),
        ("channel_type", "", 400, 57),
        ("channel_type", "pigeon", 400, 80),
        ("channel_handle", "", 400, 58),
        ("channel_handle", "no address", 400, 81),
        ("channel_handle", "nobody@example.com", 400, 55),
    ] {
        let (answered, body) = otp_at(&concur.base_uri(), &changed(form.clone(), name, value)).await;
        assert_eq!((answered, &body["code"]), (status, &json!(code)), "{name}={value}");
    }
    let url = format!("{}/oauth2/v0/otp", concur.base_uri());
    let (status, body) =
        status_and_body(post(url, "application/x-www-form-urlencoded;charset=utf-8", encode(&form)).await)
            .await;
    assert_eq!((status, &body["code"]), (400, &json!(135)));
    concur.refuse_app(concur.app().id(), 59);
    assert_eq!(otp_at(&concur.base_uri(), &form).await.1["code"], 59);
    assert!(concur.mails().is_empty());
}

#[tokio::test]
async fn each_wrong_grant_has_its_code() {
    let (concur, _) = simulator().await;
    let (user, other) = (concur.add_user(), concur.add_user());
    let form = grant_form(&concur.app(), &user, &mailed(&concur, &user).await);
    for (name, value, code, error) in [
        ("otp", "", 56, "invalid_request"),
        ("channel_type", "", 57, "invalid_request"),
        ("channel_handle", "", 58, "invalid_request"),
        ("channel_type", "pigeon", 80, "invalid_request"),
        ("channel_handle", "no address", 81, "invalid_request"),
        ("channel_handle", "nobody@example.com", 83, "invalid_request"),
        ("channel_handle", other.username(), 83, "invalid_request"),
        ("otp", "wrong", 85, "invalid_request"),
        ("scope", "receipts.write", 54, "invalid_scope"),
    ] {
        let (status, body) = grant_at(&concur.base_uri(), &changed(form.clone(), name, value)).await;
        assert_eq!(
            (status, &body["code"], &body["error"]),
            (400, &json!(code), &json!(error)),
            "{name}={value}"
        );
    }
    let app = concur.add_app();
    let of_another = changed(changed(form.clone(), "client_id", app.id()), "client_secret", app.secret());
    assert_eq!(grant_at(&concur.base_uri(), &of_another).await.1["code"], 83);

    let (status, reply) = grant_at(&concur.base_uri(), &changed(form, "scope", "openid")).await;
    assert_eq!((status, &reply["scope"]), (200, &json!("openid")), "nothing was spent");
}

#[tokio::test]
async fn five_may_be_open_at_a_time_and_each_lives_an_hour() {
    let (concur, clock) = simulator().await;
    let (user, other) = (concur.add_user(), concur.add_user());
    let first = mailed(&concur, &user).await;
    clock.advance(HOUR - SECOND);
    for _ in 0..4 {
        mailed(&concur, &user).await;
    }
    let again = channel(&concur.app(), &user, &[]);
    let (status, body) = otp_at(&concur.base_uri(), &again).await;
    assert_eq!((status, &body["code"]), (400, &json!(82)));
    mailed(&concur, &other).await;
    assert_eq!(otp_at(&concur.base_uri(), &channel(&concur.add_app(), &user, &[])).await.0, 200);

    clock.advance(SECOND);
    let newest = mailed(&concur, &user).await;
    let late = grant_form(&concur.app(), &user, &first);
    assert_eq!(grant_at(&concur.base_uri(), &late).await.1["code"], 85, "another is open still");
    assert_eq!(otp_at(&concur.base_uri(), &again).await.1["code"], 82);
    assert_eq!(grant_at(&concur.base_uri(), &grant_form(&concur.app(), &user, &newest)).await.0, 200);
    assert_eq!(otp_at(&concur.base_uri(), &again).await.0, 200, "a spent one makes room");
}

#[tokio::test]
async fn both_requests_go_to_the_users_geolocation() {
    let (concur, _) = simulator().await;
    let (eu, user) = (concur.add_data_centre().await, concur.add_user());
    concur.move_principal(user.uuid(), &eu);
    let ask = channel(&concur.app(), &user, &[]);
    let (_, elsewhere) = otp_at(&concur.base_uri(), &ask).await;
    assert_eq!((&elsewhere["code"], &elsewhere["geolocation"]), (&json!(16), &json!(eu)));
    assert!(concur.mails().is_empty());

    assert_eq!(otp_at(&eu, &ask).await.0, 200);
    let form = grant_form(&concur.app(), &user, concur.mails()[0].one_time_password());
    assert_eq!(grant_at(&concur.base_uri(), &form).await.1["code"], 16);
    assert_eq!(grant_at(&eu, &form).await.1["geolocation"], eu);
}

#[tokio::test]
async fn a_mail_may_fail_to_be_sent() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    concur.fault_next(1, Fault::code(82));
    let ask = channel(&concur.app(), &user, &[]);
    assert_eq!(otp_at(&concur.base_uri(), &ask).await.1["code"], 82);
    assert!(concur.mails().is_empty());
    mailed(&concur, &user).await;
}
