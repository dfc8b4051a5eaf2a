//! The companies of a bench: their names, and the tokens that they begin with.
//!
//! Always: company `n` has the same name in Rust and in SQL, and names are spread as those of real UUIDs.

use std::{
    fs,
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// Of a refresh token: SAP's six months.
pub const LIFE: Duration = Duration::from_secs(180 * 24 * 3600);
/// Characters of the other tokens.
pub const ACCESS_TOKEN: usize = 1000;
pub const ID_TOKEN: usize = 800;
pub const APP: &str = "app";

/// Random hexadecimal digits.
pub fn random_text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut number = 0x9e37_79b9_7f4a_7c15_u64;
        let digits = (0..8192).map(|_| {
            // xorshift64
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            format!("{number:016x}")
        });
        digits.collect()
    })
}

pub fn uuid(n: usize) -> String {
    let spread = (n as u64 * 2_654_435_761) % 4_294_967_296;
    format!("{spread:08x}-0000-4000-8000-{n:012x}")
}

/// The number of the company with this name.
pub fn number_of(uuid: &str) -> usize {
    usize::from_str_radix(uuid.rsplit('-').next().unwrap_or_default(), 16).expect("a name of a company")
}

pub fn refresh_token(generation: u32, family: &str) -> String {
    format!("{generation:08x}-{family}")
}

pub fn family_of(refresh_token: &str) -> Option<(u32, &str)> {
    let (generation, family) = refresh_token.split_once('-')?;
    Some((u32::from_str_radix(generation, 16).ok()?, family))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The token of company `n`, as the crate writes it, received `ago`. Its access token is valid for another hour.
pub fn token(n: usize, geolocation: &str, ago: Duration) -> String {
    let now = SystemTime::now();
    let (received, in_an_hour) = (seconds(now - ago), seconds(now) + 3600);
    let expires = received + LIFE.as_secs();
    let (uuid, text) = (uuid(n), random_text());
    let place = n * 31 % (text.len() - ACCESS_TOKEN);
    let (access, id) = (&text[place..place + ACCESS_TOKEN], &text[place..place + ID_TOKEN]);
    let refresh = refresh_token(0, &uuid);
    format!(
        r#"{{
  "refresh_token": "{refresh}",
  "refresh_expires_in": {expires},
  "access_token": "{access}",
  "token_type": "Bearer",
  "expires_in": 3600,
  "scope": "openid company.read",
  "id_token": "{id}",
  "geolocation": "{geolocation}",
  "companyUUID": "{uuid}",
  "accessTokenExpiresAt": {in_an_hour},
  "refreshTokenExpiresAt": {expires},
  "refreshTokenReceivedAt": {received}
}}"#
    )
}

/// Writes the tokens of companies 1 to `count` where a [`FolderFleet`](concur_auth::FolderFleet) on `place` looks for them.
/// `ago` says when company `n` got its token.
pub fn write_files(place: &Path, count: usize, geolocation: &str, ago: impl Fn(usize) -> Duration) {
    for n in 1..=count {
        let uuid = uuid(n);
        let folder = place.join(&uuid[..2]).join(&uuid);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("refreshTokenObjectFile.json"), token(n, geolocation, ago(n))).expect("room");
    }
}

/// A statement that inserts companies 1 to `count` of this app: all got their tokens `$ago` (of SQL, in which `n` is the company's
/// number).
pub fn insert(app: &str, count: usize, geolocation: &str, ago: &str) -> String {
    let refresh = "'00000000-' || uuid";
    let random = |length: usize, salt: &str| {
        let parts = length.div_ceil(32);
        format!(
            "(SELECT left(string_agg(md5('{salt}' || n || ' ' || i), ''), {length}) FROM generate_series(1, {parts}) i)"
        )
    };
    let (access, id) = (random(ACCESS_TOKEN, "access"), random(ID_TOKEN, "id"));
    let life = LIFE.as_secs();
    format!(
        "INSERT INTO concur_auth_tokens
             (app_id, principal, kind, token, save_id, version, refresh_expires_at, renew_at, state)
         SELECT '{app}', uuid, 'company',
                json_build_object('refresh_token', {refresh}, 'refresh_expires_in', expires,
                    'access_token', {access}, 'token_type', 'Bearer', 'expires_in', 3600, 'scope', 'openid company.read',
                    'id_token', {id}, 'geolocation', '{geolocation}', 'companyUUID', uuid,
                    'accessTokenExpiresAt', extract(epoch FROM now())::bigint + 3600,
                    'refreshTokenExpiresAt', expires, 'refreshTokenReceivedAt', expires - {life})::text,
                md5(uuid), 1, to_timestamp(expires),
                to_timestamp(expires - {life} + {life} / 3) - (n % 997) / 997.0 * interval '20 days', 'active'
           FROM generate_series(1, {count}) n,
                LATERAL (SELECT lpad(to_hex((n::bigint * 2654435761) % 4294967296), 8, '0') || '-0000-4000-8000-'
                                || lpad(to_hex(n), 12, '0') AS uuid,
                                extract(epoch FROM now() - ({ago}))::bigint + {life} AS expires) of_this_one"
    )
}
