//! A company's administrator connects the app in SAP Concur's App Center: from the browser's visit to the company's own
//! tokens in a file. It uses a simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example app_center_connect --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use concur_auth::{AppCenterRedirect, Credentials, JsonFileStore, TokenManager, simulator::ConcurSimulator};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let folder = tempfile::tempdir()?;

    // SAP sends the administrator's browser to your page; this is the URL that your server gets.
    let url = concur.app_center_redirect("https://app.example.com/connect");
    let visit = AppCenterRedirect::from_url(&url)?;
    writeln!(out, "Company {} wants to connect.", visit.company_uuid())?;

    // A stranger must not choose the name of a file: check that it is a UUID.
    let is_uuid = |text: &str| text.len() == 36 && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    if !is_uuid(visit.company_uuid()) {
        return Err("that is no company".into());
    }
    let app = Credentials::new(concur.app().id(), concur.app().secret());
    let tokens = TokenManager::builder()
        .credentials(visit.credentials(app))
        .store(JsonFileStore::new(folder.path().join(format!("{}.json", visit.company_uuid()))))
        .base_uri(concur.base_uri())
        .build()?;
    // At once: the request token lives 24 hours.
    tokens.get_valid_refresh_token().await?;
    writeln!(out, "Connected: {}", tokens.status())?;
    Ok(())
}
