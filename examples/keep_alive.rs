//! A small service that keeps its tokens renewed and prints changes of status. Ctrl-C or SIGTERM ends it without losing
//! a token. It uses a simulated Concur that this program starts itself.
//!
//! ```text
//! cargo run --example keep_alive --features simulator
//! ```
//!
//! A simulated hour takes two seconds. With `--hours N` the program ends by itself.

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use concur_auth::{
    Clock as _, MemoryStore, SystemClock, TokenManager,
    simulator::{ConcurSimulator, Fault, ManualClock},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--hours").skip(1);
    let hours: u32 = arguments.next().map_or(Ok(u32::MAX), |hours| hours.parse())?;

    let clock = ManualClock::new(SystemClock.now());
    let concur = ConcurSimulator::builder().clock(clock.clone()).start().await;
    let tokens = TokenManager::builder()
        .credentials(concur.credentials())
        .store(MemoryStore::new())
        .clock(clock.clone())
        .build()?;

    let mut changes = tokens.subscribe().await;
    let printer = tokio::spawn(async move {
        while let Some(status) = changes.next().await {
            writeln!(io::stdout(), "{status}")?;
        }
        io::Result::Ok(())
    });

    let kept = tokens.keep_alive().await?;
    tokio::select! {
        () = story(&clock, &concur, hours) => {}
        stopped = stop_signal() => stopped?,
    }
    drop(kept);
    tokens.shutdown(Duration::from_secs(10)).await?;
    drop(tokens);
    printer.await??;
    writeln!(io::stdout(), "stopped; {} requests in all", concur.token_requests())?;
    Ok(())
}

/// Hours pass; in every fifth hour Concur is down for a while.
async fn story(clock: &ManualClock, concur: &ConcurSimulator, hours: u32) {
    for hour in 1..=hours {
        if hour % 5 == 0 {
            concur.fault_next(2, Fault::status(503));
        }
        for _ in 0..60 {
            clock.advance(Duration::from_secs(60));
            SystemClock.sleep(Duration::from_millis(33)).await;
        }
    }
}

async fn stop_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
