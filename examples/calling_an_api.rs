//! SAP's "Tutorial 3": a bearer token, `GET /profile/identity/v4/Users`, and on 401 another token and one more
//! attempt. It uses a simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example calling_an_api --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use concur_auth::{
    MemoryStore, TokenManager,
    reqwest::{Client, Response, StatusCode},
    simulator::ConcurSimulator,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let tokens =
        TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    let http = Client::new();

    let reply = get(&http, &tokens, "profile/identity/v4/Users").await?;
    writeln!(out, "{}: {}", reply.status(), reply.text().await?)?;

    // The server ends the token in the middle of its hour; the next call still succeeds.
    concur.expire_access_tokens();
    let reply = get(&http, &tokens, "profile/identity/v4/Users").await?;
    writeln!(out, "{} with another token, after a 401", reply.status())?;
    writeln!(out, "{} token requests in all", concur.token_requests())?;
    Ok(())
}

/// One API call with a valid bearer token, repeated once if the API refuses the token.
async fn get(http: &Client, tokens: &TokenManager, path: &str) -> Result<Response, Box<dyn Error>> {
    let access = tokens.access_token().await?;
    let reply = http.get(access.geolocation().join(path)?).bearer_auth(access.secret()).send().await?;
    if reply.status() != StatusCode::UNAUTHORIZED {
        return Ok(reply);
    }
    tokens.invalidate(&access);
    let access = tokens.access_token().await?;
    Ok(http.get(access.geolocation().join(path)?).bearer_auth(access.secret()).send().await?)
}
