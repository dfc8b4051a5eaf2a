//! Bearer tokens for many tasks at once: one request, however many tasks ask; renewed when they expire, or at once when
//! an API refuses one; and never lost when the program ends.
//!
//! ```text
//! cargo run --example access_token --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use concur_auth::{
    Clock as _, MemoryStore, SystemClock, TokenManager,
    simulator::{ConcurSimulator, ManualClock},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let clock = ManualClock::new(SystemClock.now());
    let concur = ConcurSimulator::builder().clock(clock.clone()).start().await;
    let tokens = TokenManager::builder()
        .credentials(concur.credentials())
        .store(MemoryStore::new())
        .clock(clock.clone())
        .build()?;

    for hour in 0..3 {
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let tokens = tokens.clone();
                tokio::spawn(async move { tokens.access_token().await })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        writeln!(out, "hour {hour}: 1,000 tasks served, {} requests so far", concur.token_requests())?;
        clock.advance(Duration::from_secs(3600));
    }

    // An API answered 401 to the current token: report that, and the next call gets another token.
    let refused = tokens.access_token().await?;
    tokens.invalidate(&refused);
    let renewed = tokens.access_token().await?;
    writeln!(out, "after a 401: another token ({})", renewed.secret() != refused.secret())?;

    // A renewal on demand, for example by an administrator's command.
    tokens.refresh().await?;
    writeln!(out, "after refresh(): {} requests", concur.token_requests())?;

    // Waits for a renewal under way, and for a token that could not be saved yet because the disk is full.
    tokens.shutdown(Duration::from_secs(10)).await?;
    writeln!(out, "{:?}", tokens.status())?;
    Ok(())
}
