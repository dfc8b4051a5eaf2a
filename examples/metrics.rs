//! What operators count, served to Prometheus.
//!
//! ```text
//! cargo run --example metrics --features metrics,simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use concur_auth::{AppCredentials, Fleet, FolderFleet, Grant, simulator::ConcurSimulator};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    // Before anything is counted. The rest of the program may count with the same recorder.
    let recorder = PrometheusBuilder::new().install_recorder()?;

    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir()?;
    let app = concur.app();
    let fleet = Fleet::builder()
        .app(AppCredentials::new(app.id(), app.secret()))
        .base_uri(concur.base_uri())
        .store(FolderFleet::new(dir.path().join("tokens")))
        .build()?;
    for _ in 0..3 {
        let company = concur.add_company();
        fleet.connect(Grant::company_request_token(company.uuid(), company.request_token())).await?;
    }
    // One of them must sign in again.
    let locked_out = concur.add_company();
    let grant = Grant::company_request_token(locked_out.uuid(), locked_out.request_token());
    fleet.connect(grant).await?;
    concur.refuse_principal(locked_out.uuid(), 108);
    let refused = fleet.company(locked_out.uuid()).refresh().await;
    writeln!(out, "{}: {}", locked_out.uuid(), refused.err().map(|e| e.to_string()).unwrap_or_default())?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    writeln!(out, "serving http://{address}/metrics")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (fleet, recorder) = (fleet.clone(), recorder.clone());
            tokio::spawn(async move { answer(stream, &fleet, &recorder).await });
        }
    });

    // As Prometheus does every 15 seconds; a real program goes on here until it is told to end.
    let page = concur_auth::reqwest::get(format!("http://{address}/metrics")).await?.text().await?;
    for line in page.lines().filter(|line| line.starts_with("concur_auth") && !line.contains("_bucket")) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Any request gets the page. A program with a web framework returns `recorder.render()` from a route.
async fn answer(
    mut stream: TcpStream,
    fleet: &Fleet,
    recorder: &PrometheusHandle,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    // Looks at the whole fleet, and counts its members by state.
    fleet.health().await?;
    let page = recorder.render();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await?;
    Ok(())
}
