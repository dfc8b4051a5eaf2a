//! SAP's "Tutorial 2: refresh token management automation" in one run, against a simulated Concur that this program
//! starts itself. It needs no account, and leaves no files.
//!
//! ```text
//! cargo run --example tutorial --features simulator
//! ```

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use concur_auth::{
    Clock as _, CredentialsFile, JsonFileStore, RefreshTokenObject, SystemClock, TokenManager,
    simulator::{ConcurSimulator, ManualClock},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let folder = tempfile::tempdir()?;
    let clock = ManualClock::new(SystemClock.now());
    let concur = ConcurSimulator::builder().clock(clock.clone()).start().await;
    let run = || manager(folder.path(), &clock);

    writeln!(out, "A simulated SAP Concur answers at {}; the folder is empty.\n", concur.base_uri())?;

    writeln!(out, "1. The first run finds no credentials.json.")?;
    let needed = run()?.get_valid_refresh_token().await.expect_err("there are no credentials yet");
    writeln!(out, "   It says: {needed}\n")?;

    writeln!(out, "2. You fill in the template, and run again.")?;
    fs::write(folder.path().join("credentials.json"), concur.credentials_json())?;
    report(&mut out, &run()?.get_valid_refresh_token().await?, &concur)?;

    writeln!(out, "3. Every later run finds the stored token. Nothing is sent.")?;
    report(&mut out, &run()?.get_valid_refresh_token().await?, &concur)?;

    writeln!(
        out,
        "4. Your program calls an API with a bearer token. Every reply brings one, so nothing is sent."
    )?;
    let tokens = run()?;
    let access = tokens.access_token().await?;
    writeln!(out, "   bearer token for {}, until {}\n", access.geolocation(), access.expires_at())?;

    writeln!(
        out,
        "5. An hour later the bearer token has expired: one refresh grant, shared by 1,000 tasks."
    )?;
    clock.advance(Duration::from_secs(3600));
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.access_token().await })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    report(&mut out, &tokens.get_valid_refresh_token().await?, &concur)?;

    writeln!(
        out,
        "6. Five months later most of the refresh token's life has passed, and it is renewed in time."
    )?;
    clock.advance(155 * DAY);
    report(&mut out, &run()?.get_valid_refresh_token().await?, &concur)?;

    writeln!(
        out,
        "7. The program did not run for a year. The request token expired long ago, so a person must act."
    )?;
    clock.advance(365 * DAY);
    let required = run()?.get_valid_refresh_token().await.expect_err("both tokens have expired");
    writeln!(out, "   It says: {required}\n")?;

    writeln!(out, "8. The person puts a new company request token into credentials.json.")?;
    concur.issue_request_token();
    fs::write(folder.path().join("credentials.json"), concur.credentials_json())?;
    report(&mut out, &run()?.get_valid_refresh_token().await?, &concur)?;

    writeln!(out, "The folder now holds:")?;
    for entry in fs::read_dir(folder.path())? {
        writeln!(out, "   {}", entry?.file_name().to_string_lossy())?;
    }
    Ok(())
}

/// What `TokenManager::load_from(folder)` builds, on the story's clock.
fn manager(folder: &Path, clock: &ManualClock) -> Result<TokenManager, concur_auth::Error> {
    TokenManager::builder()
        .credentials(CredentialsFile::new(folder.join("credentials.json")))
        .store(JsonFileStore::new(folder.join("refreshTokenObjectFile.json")))
        .clock(clock.clone())
        .build()
}

fn report(out: &mut impl Write, token: &RefreshTokenObject, concur: &ConcurSimulator) -> io::Result<()> {
    let expires = token.expires_at().map_or_else(|| "unknown".to_owned(), |at| at.date().to_string());
    writeln!(
        out,
        "   refresh token of company {}, valid until {expires}\n   requests so far: {} with the company request token, \
         {} with a refresh token\n",
        token.company_uuid().unwrap_or("unknown"),
        concur.count("password"),
        concur.count("refresh_token"),
    )
}
