//! Tokens at rest as ciphertext, and the exchange of the key.
//!
//! ```text
//! cargo run --example sealing --features sealing,simulator
//! ```

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::Path,
};

use concur_auth::{AppCredentials, Fleet, FolderFleet, Grant, SealingKeys, simulator::ConcurSimulator};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("tokens");
    let fleet = |keys: Option<SealingKeys>| {
        let app = concur.app();
        let builder = Fleet::builder()
            .app(AppCredentials::new(app.id(), app.secret()))
            .base_uri(concur.base_uri())
            .store(FolderFleet::new(&place));
        keys.into_iter().fold(builder, |builder, keys| builder.sealed_with(keys)).build()
    };

    // Two companies from before there were keys.
    let companies = [concur.add_company(), concur.add_company()];
    let plain = fleet(None)?;
    for company in &companies {
        plain.connect(Grant::company_request_token(company.uuid(), company.request_token())).await?;
    }
    show(&mut out, "without keys", &plain_or_sealed(&place, companies[0].uuid())?)?;

    // A real program takes them from the environment, a file or systemd: SealingKeys::from_env().
    let first = SealingKeys::generate("2026-11")?;
    let sealed = fleet(Some(first.parse()?))?;
    for company in &companies {
        sealed.company(company.uuid()).refresh().await?; // or whenever it is due
    }
    show(&mut out, "sealed with 2026-11", &plain_or_sealed(&place, companies[0].uuid())?)?;

    // A person who finds the file, and a program that lacks the key, can do nothing with it.
    let error = plain_error(&fleet(None)?, companies[0].uuid()).await;
    writeln!(out, "without the key: {error}")?;

    // The new key first, the old key second: until no text needs it any more.
    let second = SealingKeys::generate("2027-05")?;
    let both = fleet(Some(format!("{second},{first}").parse()?))?;
    writeln!(out, "before any renewal: {:?}", both.count_by_sealing_key().await?)?;
    for company in &companies {
        both.company(company.uuid()).refresh().await?;
    }
    writeln!(out, "afterwards:         {:?}", both.count_by_sealing_key().await?)?;
    Ok(())
}

fn plain_or_sealed(place: &Path, uuid: &str) -> io::Result<String> {
    fs::read_to_string(place.join(&uuid[..2]).join(uuid).join("refreshTokenObjectFile.json"))
}

async fn plain_error(fleet: &Fleet, uuid: &str) -> String {
    match fleet.company(uuid).get_valid_refresh_token().await {
        Ok(_) => "it could be read".to_owned(),
        Err(e) => e.to_string(),
    }
}

fn show(out: &mut impl Write, what: &str, text: &str) -> io::Result<()> {
    let beginning: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(60).collect();
    writeln!(out, "{what}: {beginning}…")
}
