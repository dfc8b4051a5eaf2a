//! concur-auth compared with its peers: the same calls, in one run, against one server on loopback.
//!
//! ```sh
//! cargo run --release --locked --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! All alternate, batch by batch, with the floor: one `SystemTime::now` and one clone of an `Arc`.

use std::{
    fs::OpenOptions,
    future::Future,
    hint::black_box,
    io::Write as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant, SystemTime},
};

use concur_api::auth::{Grant, OAuth2TokenManager, TokenManager as _};
use concur_auth::{Credentials, MemoryStore, RefreshTokenObject, TokenManager};
use google_cloud_auth::credentials::{AccessTokenCredentials, user_account};
use tokio::runtime::Builder;
use yup_oauth2::{
    ApplicationSecret, InstalledFlowAuthenticator, InstalledFlowReturnMethod,
    authenticator::DefaultAuthenticator,
};

use self::server::Server;

#[path = "../../support/server.rs"]
#[allow(dead_code, reason = "the benches use the rest")]
mod server;

const TURNS: usize = 31;
const CALLS: u64 = 100_000;
const COLD_TASKS: usize = 1000;
const SCOPES: [&str; 1] = ["company.read"];

/// A crate that hands out access tokens.
trait Contender: Send + Sync + 'static {
    /// `n` calls, one after the other, as a caller's own future would make them.
    fn calls(self: Arc<Self>, n: u64) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

macro_rules! contender {
    ($contender:ty, |$it:ident| $call:expr) => {
        impl Contender for $contender {
            fn calls(self: Arc<Self>, n: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
                Box::pin(async move {
                    let $it = &*self;
                    for _ in 0..n {
                        black_box($call);
                    }
                })
            }
        }
    };
}

struct Floor(Arc<SystemTime>);
struct Yup(DefaultAuthenticator);

contender!(Floor, |it| SystemTime::now() < **black_box(&Arc::clone(&it.0)));
contender!(TokenManager, |it| it.access_token().await.expect("a token"));
contender!(OAuth2TokenManager, |it| it.access_token().await.expect("a token"));
contender!(AccessTokenCredentials, |it| it.access_token().await.expect("a token"));
contender!(Yup, |it| it.0.token(&SCOPES).await.expect("a token"));

type Made = (&'static str, Arc<dyn Contender>);

/// Each peer has a refresh token, and no access token yet.
fn ours(server: &Server) -> Made {
    let stored = format!(
        r#"{{"refresh_token": "r", "refresh_expires_in": 9999999999, "geolocation": "{}"}}"#,
        server.uri
    );
    let tokens = TokenManager::builder()
        .credentials(Credentials::new("app", "secret").company("uuid", ""))
        .store(MemoryStore::with(RefreshTokenObject::from_json(&stored).expect("a token")))
        .base_uri(&server.uri)
        .build();
    ("concur-auth", Arc::new(tokens.expect("a manager")))
}

fn concur_api(server: &Server) -> Made {
    let grant = Grant::RefreshToken { refresh_token: "r".into(), scope: None };
    ("concur-api 0.1.0", Arc::new(OAuth2TokenManager::new(token_uri(server), "app", "secret", grant)))
}

fn google(server: &Server) -> Made {
    let user = serde_json::json!({
        "client_id": "app", "client_secret": "secret", "refresh_token": "r", "type": "authorized_user",
    });
    let builder = user_account::Builder::new(user).with_token_uri(token_uri(server));
    let credentials = builder.build_access_token_credentials().expect("credentials");
    ("google-cloud-auth 1.18.0", Arc::new(credentials))
}

async fn yup(server: &Server, dir: &Path) -> Made {
    // The peer keeps the content of this file in memory. Its access token has expired, its refresh token has not.
    let tokens = dir.join("yup.json");
    let expired = r#"[{"scopes": ["company.read"], "token": {"access_token": "a", "refresh_token": "r",
        "expires_at": [2020, 1, 0, 0, 0, 0, 0, 0, 0], "id_token": null}}]"#;
    std::fs::write(&tokens, expired).expect("a file");
    let app = ApplicationSecret {
        client_id: "app".into(),
        client_secret: "secret".into(),
        token_uri: token_uri(server),
        ..Default::default()
    };
    let authenticator = InstalledFlowAuthenticator::builder(app, InstalledFlowReturnMethod::Interactive)
        .persist_tokens_to_disk(tokens)
        .build()
        .await;
    ("yup-oauth2 12.1.2", Arc::new(Yup(authenticator.expect("an authenticator"))))
}

fn token_uri(server: &Server) -> String {
    format!("{}/oauth2/v0/token", server.uri)
}

fn alone(contender: &Arc<dyn Contender>, n: u64) -> Duration {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let start = Instant::now();
    runtime.block_on(Arc::clone(contender).calls(n));
    start.elapsed()
}

/// Two threads at the same time; how long the slower one took.
fn on_two_cores(contender: &Arc<dyn Contender>, n: u64) -> Duration {
    let together = Barrier::new(2);
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                together.wait();
                alone(contender, n)
            })
        });
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    })
}

/// Median, least and most nanoseconds a call, of all turns.
fn measure(all: &[Made], how: fn(&Arc<dyn Contender>, u64) -> Duration) -> Vec<[f64; 3]> {
    let mut taken = vec![Vec::new(); all.len()];
    for _ in 0..TURNS {
        for ((_, contender), taken) in all.iter().zip(&mut taken) {
            taken.push(how(contender, CALLS).as_secs_f64() * 1e9 / CALLS as f64);
        }
    }
    let summary = |mut taken: Vec<f64>| {
        taken.sort_by(f64::total_cmp);
        [taken[TURNS / 2], taken[0], taken[TURNS - 1]]
    };
    taken.into_iter().map(summary).collect()
}

/// A thousand tasks at once need a token that is not there yet, from a server that takes half a second to answer. Counts
/// the requests, and the time from the answer until the last task has its token.
async fn cold(server: &Server, make: impl Future<Output = Made>) -> Made {
    let before = server.requests();
    server.hold();
    let (name, contender) = make.await;
    let tasks: Vec<_> = (0..COLD_TASKS).map(|_| tokio::spawn(Arc::clone(&contender).calls(1))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.release();
    let start = Instant::now();
    for task in tasks {
        task.await.expect("no panic");
    }
    println!("| {name} | {} | {:.1?} |", server.requests() - before, start.elapsed());
    (name, contender)
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first");
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("a folder"));
    let (server, dir) = (&server, dir.path());
    let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");

    println!("| | requests for {COLD_TASKS} cold tasks | from the answer until the last has its token |");
    println!("|---|---|---|");
    let in_an_hour = SystemTime::now() + Duration::from_secs(3600);
    let all: Vec<Made> = runtime.block_on(async {
        let floor: Made = ("floor", Arc::new(Floor(Arc::new(in_an_hour))));
        vec![
            floor,
            cold(server, async { ours(server) }).await,
            cold(server, async { concur_api(server) }).await,
            cold(server, async { google(server) }).await,
            cold(server, yup(server, dir)).await,
        ]
    });

    let (alone, on_two) = (measure(&all, alone), measure(&all, on_two_cores));
    println!(
        "\n| warm, ns a call: median (least to most of {TURNS}) | 1 task | x floor | 2 tasks on 2 cores | x floor of 1 |"
    );
    println!("|---|---|---|---|---|");
    let floor = alone[0][0];
    // Next to the crate's own results, for benches/plot.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/ratios.tsv");
    let mut ratios = OpenOptions::new().create(true).append(true).open(path).expect("target/ratios.tsv");
    for (((name, _), [a, a0, a1]), [b, b0, b1]) in all.iter().zip(&alone).zip(&on_two) {
        let (x, y) = (a / floor, b / floor);
        println!("| {name} | {a:.1} ({a0:.1} to {a1:.1}) | {x:.2} | {b:.1} ({b0:.1} to {b1:.1}) | {y:.2} |");
        if !matches!(*name, "floor" | "concur-auth") {
            writeln!(ratios, "{name}: warm, 1 task\t{a:.1}\t{floor:.1}\t{x:.3}\t")
                .expect("target/ratios.tsv");
            writeln!(ratios, "{name}: warm, 2 tasks\t{b:.1}\t{floor:.1}\t{y:.3}\t")
                .expect("target/ratios.tsv");
        }
    }
}
