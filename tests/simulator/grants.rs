//! The grants except the company request token.

use super::*;

async fn grant(concur: &ConcurSimulator, fields: &[(&str, &str)]) -> (u16, Value) {
    grant_at(&concur.base_uri(), &app_form(&concur.app(), fields)).await
}

/// The payload of a JWT.
fn payload(jwt: &str) -> Value {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let part = jwt.split('.').nth(1).unwrap();
    let digits: Vec<_> = part.chars().map(|digit| DIGITS.find(digit).unwrap()).collect();
    let mut bytes = Vec::new();
    for digits in digits.chunks(4) {
        let bits = digits.iter().zip([18, 12, 6, 0]).fold(0, |bits, (digit, shift)| bits | digit << shift);
        bytes.extend([16, 8, 0].map(|shift| (bits >> shift) as u8).into_iter().take(digits.len() - 1));
    }
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn a_user_signs_in_with_a_password() {
    let (concur, _) = simulator().await;
    let user = concur.add_user();
    let login = [("grant_type", "password"), ("username", user.username()), ("password", user.password())];
    for fields in [&login[..], &[&login[..], &[("credtype", "password")]].concat()] {
        let (status, reply) = grant(&concur, fields).await;
        assert_eq!((status, reply.as_object().unwrap().len()), (200, 8));
        let token = text(&reply, "refresh_token");
        assert!(is_opaque(&token, 30) && concur.is_live(&token));
        assert_eq!(payload(&text(&reply, "id_token"))["sub"], user.uuid());

        let (status, renewed) =
            grant(&concur, &[("grant_type", "refresh_token"), ("refresh_token", &token)]).await;
        assert_eq!((status, payload(&text(&renewed, "id_token"))["sub"].clone()), (200, json!(user.uuid())));
    }
    assert_eq!((concur.count("password"), concur.request_token_uses_left()), (2, 5));
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_are_told_apart() {
    let (concur, _) = simulator().await;
    let (user, other) = (concur.add_user(), concur.add_user());
    for (username, password, code) in [
        ("nobody@example.com", user.password(), 100),
        (user.username(), other.password(), 5),
        (user.username(), "", 52),
        ("", user.password(), 51),
    ] {
        let fields = [("grant_type", "password"), ("username", username), ("password", password)];
        assert_eq!(grant(&concur, &fields).await.1["code"], code, "{username}");
    }
}

#[tokio::test]
async fn an_app_by_itself_gets_no_refresh_token() {
    let (concur, clock) = simulator().await;
    let (status, reply) = grant(&concur, &[("grant_type", "client_credentials")]).await;
    assert_eq!(status, 200);
    let names: Vec<_> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["access_token", "expires_in", "geolocation", "scope", "token_type"]);
    let token = text(&reply, "access_token");
    assert_eq!(users_status(&concur, &token).await, 200);
    clock.advance(HOUR);
    assert_eq!(users_status(&concur, &token).await, 401);
    assert_eq!(concur.count("client_credentials"), 1);
}

#[tokio::test]
async fn an_id_token_names_the_owner_of_the_tokens() {
    let (concur, clock) = simulator().await;
    let eu = concur.add_data_centre().await;
    let user = concur.add_user();
    concur.move_principal(user.uuid(), &eu);
    clock.advance(HOUR);
    let login = [("grant_type", "password"), ("username", user.username()), ("password", user.password())];
    let (_, users) = grant_at(&eu, &app_form(&concur.app(), &login)).await;
    let now = START + 3600;
    for (reply, sub, kind, iss) in [
        (users, user.uuid(), "user", &*eu),
        (parse(&concur.token_json()), &*concur.company_uuid(), "company", &*concur.base_uri()),
    ] {
        let expected = json!({
            "sub": sub,
            "concur.type": kind,
            "iss": iss,
            "aud": concur.app().id(),
            "exp": now + 3600,
            "nbf": now,
            "iat": now,
        });
        assert_eq!(payload(&text(&reply, "id_token")), expected);
    }
}

#[tokio::test]
async fn a_refresh_grant_may_ask_for_less_but_not_for_more() {
    let clock = ManualClock::new(start());
    let concur = ConcurSimulator::builder().clock(clock).scopes("openid user.read").start().await;
    concur.set_rotation(Rotation::Always);
    let first = parse(&concur.token_json());
    assert_eq!(first["scope"], "openid user.read");

    let mut token = text(&first, "refresh_token");
    for (asked, granted) in [
        (Some("user.read"), Some("user.read")),
        (None, Some("openid user.read")),
        (Some(""), Some("openid user.read")),
        (Some("user.read openid"), Some("user.read openid")),
        (Some("openid receipts.write"), None),
        (Some("user"), None),
    ] {
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", &*token)];
        fields.extend(asked.map(|scope| ("scope", scope)));
        let (status, reply) = grant(&concur, &fields).await;
        match granted {
            Some(granted) => {
                assert_eq!((status, &reply["scope"]), (200, &json!(granted)), "{asked:?}");
                token = text(&reply, "refresh_token");
            }
            None => {
                assert_eq!((status, &reply["code"]), (400, &json!(54)), "{asked:?}");
                assert_eq!(reply["error"], "invalid_scope");
                assert!(concur.is_live(&token), "not spent");
            }
        }
    }
}
