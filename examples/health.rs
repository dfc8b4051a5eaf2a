//! A health check: while renewing fails for lack of a person, the status says who is needed, why, and by when. It uses a
//! simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example health --features simulator
//! ```

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use concur_auth::{
    Clock as _, MemoryStore, Status, SystemClock, TokenManager,
    simulator::{ConcurSimulator, Fault, ManualClock},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let clock = ManualClock::skipping(SystemClock.now());
    let concur = ConcurSimulator::builder().clock(clock.clone()).start().await;
    let store = MemoryStore::new();
    let process = || {
        let builder = TokenManager::builder().credentials(concur.credentials()).store(store.clone());
        builder.clock(clock.clone()).build()
    };
    let tokens = process()?;
    tokens.get_valid_refresh_token().await?;
    report(&mut out, "signed in", &tokens.status())?;

    clock.advance(70 * DAY);
    concur.set_fault(Fault::status(503));
    tokens.get_valid_refresh_token().await?;
    report(&mut out, "Concur is down when a renewal is due", &tokens.status())?;

    clock.advance(DAY);
    concur.set_fault(Fault::code(14));
    tokens.get_valid_refresh_token().await?;
    report(&mut out, "the account is locked", &tokens.status())?;
    // A process that has only just been started asks the store what failed before, and sends nothing.
    report(&mut out, "after a restart", &process()?.read_status().await)?;

    // The administrator unlocks the account. A person who knows that need not wait for the next attempt.
    concur.clear_faults();
    tokens.retry_now().await?;
    report(&mut out, "unlocked", &tokens.status())?;
    Ok(())
}

fn report(out: &mut impl Write, when: &str, status: &Status) -> io::Result<()> {
    writeln!(out, "{when}: {:?}", status.health())?;
    if let (Some(who), Some(error)) = (status.responsible(), &status.last_error) {
        writeln!(out, "   {who:?} has to act: {error}")?;
    }
    if let Some(at) = status.next_attempt_at {
        writeln!(out, "   next attempt not before {at}")?;
    }
    if let Some(at) = status.act_before {
        writeln!(out, "   the refresh token lives until {at}")?;
    }
    Ok(())
}
