//! A web service that calls Concur's APIs: health, metrics, users, and a graceful end. Its own part is under forty lines.
//!
//! ```text
//! cargo run --example service --features metrics,simulator -- [--port 3000]
//! ```

use std::{
    error::Error,
    io::{self, Write as _},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use concur_auth::{Health, MemoryStore, TokenManager, reqwest, simulator::ConcurSimulator};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone)]
struct Service {
    tokens: TokenManager,
    http: reqwest::Client,
    recorder: PrometheusHandle,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().skip_while(|argument| argument != "--port").nth(1);
    let ended = told_to_end()?;
    let recorder = PrometheusBuilder::new().install_recorder()?;
    // In place of the real one. A real service has `TokenManager::load().await?`.
    let concur = ConcurSimulator::start().await;
    let tokens =
        TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    let _kept = tokens.keep_alive().await?;

    let service = Service { tokens: tokens.clone(), http: reqwest::Client::new(), recorder };
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(|State(service): State<Service>| async move { service.recorder.render() }))
        .route("/users", get(users))
        .with_state(service);
    let address = ("127.0.0.1", port.map_or(Ok(3000), |port| port.parse())?);
    let listener = tokio::net::TcpListener::bind(address).await?;
    writeln!(io::stdout(), "http://{}", listener.local_addr()?)?;
    axum::serve(listener, routes).with_graceful_shutdown(ended).await?;
    // A token that Concur has just issued is brought to its store first.
    Ok(tokens.shutdown(Duration::from_secs(20)).await?)
}

/// Ready while the service can answer; the text says who has to act, and by when.
async fn healthz(State(service): State<Service>) -> (StatusCode, String) {
    let status = service.tokens.read_status().await;
    let is_ready = status.health() != Health::PersonNeeded || status.access_token_valid;
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, status.to_string())
}

async fn users(State(Service { tokens, http, .. }): State<Service>) -> Result<String, (StatusCode, String)> {
    let unavailable = |e: &dyn Error| (StatusCode::BAD_GATEWAY, e.to_string());
    let users = tokens
        .send(|access| http.get(format!("{}profile/identity/v4/Users", access.geolocation().as_str())))
        .await;
    users.map_err(|e| unavailable(&e))?.text().await.map_err(|e| unavailable(&e))
}

/// By Ctrl-C, or by the service manager; waited for from now on.
#[cfg(unix)]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    let [mut person, mut manager] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    Ok(async move {
        tokio::select! { _ = person.recv() => {}, _ = manager.recv() => {} }
    })
}

#[cfg(not(unix))]
fn told_to_end() -> io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
