//! A user signs in with a one-time password that Concur e-mails. It uses a simulated Concur that this program starts
//! itself, and reads its e-mails.
//!
//! ```text
//! cargo run --example one_time_password --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use concur_auth::{
    Credentials, Geolocation, MemoryStore, OAuthClient, OneTimePasswordRequest, TokenManager,
    simulator::ConcurSimulator,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let user = concur.add_user();
    let app = Credentials::new(concur.app().id(), concur.app().secret()).for_user(user.uuid());

    // The grant repeats all parts of the request, so keep the request, or make it again from the same parts.
    let sign_in = OneTimePasswordRequest::by_email(user.username())
        .name("Ada")
        .company("Analytical Engines")
        .link("https://app.example.com/in")
        .parameter("trip", "7")?;
    let client = OAuthClient::new();
    let base: Geolocation = concur.base_uri().parse()?;
    let home = client.request_one_time_password(&base, &app, &sign_in).await?;
    writeln!(out, "A one-time password is on its way to the user, who lives at {home}")?;

    // The user reads the e-mail and opens its link: this is the URL that your server gets.
    let mail = concur.mails().pop().ok_or("no mail came")?;
    let opened = mail.link().ok_or("the mail has no link")?.to_owned();
    let grant = sign_in.grant_from_link(&opened)?;

    let tokens = TokenManager::builder()
        .credentials(app)
        .store(MemoryStore::new())
        .oauth_client(client)
        .base_uri(home.as_str())
        .build()?;
    let object = tokens.sign_in(grant).await?;
    writeln!(out, "Signed in: user {}", object.principal_uuid().unwrap_or("unknown"))?;
    writeln!(out, "{}", tokens.status())?;
    Ok(())
}
