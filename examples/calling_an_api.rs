//! SAP's "Tutorial 3": `GET /profile/identity/v4/Users` with a bearer token, and on 401 another token and one more
//! attempt: one line. It uses a simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example calling_an_api --features simulator,tower
//! ```

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use concur_auth::{
    BearerLayer, MemoryStore, TokenManager,
    reqwest::{Client, Method, Request},
    simulator::ConcurSimulator,
};
use tower::{ServiceBuilder, ServiceExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let tokens =
        TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    let http = Client::new();

    let get_users = || {
        tokens.send(|access| http.get(format!("{}profile/identity/v4/Users", access.geolocation().as_str())))
    };
    let reply = get_users().await?;
    writeln!(out, "{}: {}", reply.status(), reply.text().await?)?;

    // The server ends the token in the middle of its hour; the next call still succeeds.
    concur.expire_access_tokens();
    writeln!(out, "{} with another token, after a 401", get_users().await?.status())?;

    // A token is sent to Concur's hosts only.
    let elsewhere = tokens.send(|_| http.get("https://example.com/users")).await.unwrap_err();
    writeln!(out, "{elsewhere}")?;

    // The same for any client that is a tower service.
    let client = ServiceBuilder::new().layer(BearerLayer::new(tokens.clone())).service(http.clone());
    let users = format!("{}profile/identity/v4/Users", concur.base_uri() + "/").parse()?;
    let reply = client.oneshot(Request::new(Method::GET, users)).await?;
    writeln!(out, "{} through a layer", reply.status())?;

    // For an upload that takes its time, or another program.
    let access = tokens.access_token_for(Duration::from_secs(20 * 60)).await?;
    writeln!(out, "a token that is valid until {}", access.expires_at())?;
    writeln!(out, "{} token requests in all", concur.token_requests())?;
    Ok(())
}
