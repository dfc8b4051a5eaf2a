//! Signing out: every refresh token that the app has for the company is revoked, and nothing is kept. It uses a
//! simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example revoke --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
};

use concur_auth::{
    MemoryStore, TokenManager,
    simulator::{ConcurSimulator, Fault},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let tokens =
        TokenManager::builder().credentials(concur.credentials()).store(MemoryStore::new()).build()?;
    let object = tokens.get_valid_refresh_token().await?;
    writeln!(out, "{}", tokens.status())?;

    // The connection breaks, so the result is not known: the status says so, and revoking again is safe.
    concur.fault_next(1, Fault::DropReply);
    if tokens.revoke().await.is_err() {
        writeln!(out, "{}", tokens.status())?;
    }
    tokens.revoke().await?;
    writeln!(out, "{}", tokens.status())?;
    writeln!(out, "the refresh token still works: {}", concur.is_live(object.secret()))?;
    Ok(())
}
