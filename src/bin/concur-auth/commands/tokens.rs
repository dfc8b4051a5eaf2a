//! The commands of one company or user.

use std::{ffi::OsString, fs, io::Read as _, path::Path, process, time::Duration};

use concur_auth::{AccessToken, Health, RefreshTokenObject, Status, TokenOrigin};

use crate::{
    arguments::Format,
    failure::{Failure, Outcome, PERSON},
    place::{Place, Tokens},
    say,
    signals::unless_ended,
};

/// The shortest life that a token for a command is asked for.
const FOR_A_COMMAND: Duration = Duration::from_secs(60);

pub(crate) async fn status(place: &Place, as_json: bool) -> Outcome {
    let tokens = place.kept_as_it_is().await?.of_one()?;
    let status = tokens.manager.read_status().await;
    let printed = if as_json { say::status(&status).to_string() } else { table(&status) };
    say::out(&printed)?;
    if status.health() == Health::PersonNeeded { Err(Failure::Said(PERSON)) } else { Ok(()) }
}

/// The status for a person: one line for each thing that is known.
fn table(status: &Status) -> String {
    let health = match status.health() {
        Health::Healthy => "healthy",
        Health::PersonNeeded => "a person must act",
        _ => "degraded; it may pass by itself",
    };
    let (owner, uuid) = say::owner(status.company_uuid.as_deref(), status.principal_uuid.as_deref());
    let until = |is_valid, at: Option<_>| match (is_valid, at) {
        (true, at) => say::valid(at),
        (false, Some(at)) => format!("not valid; its expiry: {at}"),
        (false, None) => "none".to_owned(),
    };
    let mut lines = vec![
        ("health", health.to_owned()),
        (owner, uuid.to_owned()),
        ("refresh token", until(status.refresh_token_valid, status.refresh_token_expires_at)),
        ("access token", until(status.access_token_valid, status.access_token_expires_at)),
        ("geolocation", status.geolocation.clone().unwrap_or_else(|| "not known".to_owned())),
    ];
    if let Some(at) = status.act_before {
        lines.push(("act before", at.to_string()));
    }
    if let Some(at) = status.next_attempt_at {
        lines.push(("next attempt", format!("not before {at}")));
    }
    if let Some(error) = &status.last_error {
        lines.push(("last error", error.to_string()));
    }
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name:<14} {value}")).collect();
    lines.join("\n")
}

pub(crate) async fn access_token(place: &Place, least: u64, format: Format) -> Outcome {
    let tokens = place.tokens().await?;
    let printed = unless_ended(&tokens, async {
        let access = tokens.manager.access_token_for(Duration::from_secs(least)).await?;
        // At once: a token that cannot be saved is of use all the same.
        say::out(&formatted(&access, format))
    });
    printed.await
}

fn formatted(access: &AccessToken, format: Format) -> String {
    match format {
        Format::Token => access.secret().to_owned(),
        Format::Json => say::access_token(access, say::seconds_left(access)).to_string(),
        Format::Header => format!("Authorization: Bearer {}", access.secret()),
        Format::Env => {
            let (token, geolocation) = (quoted(access.secret()), quoted(access.geolocation().as_str()));
            format!("export CONCUR_ACCESS_TOKEN={token}\nexport CONCUR_GEOLOCATION={geolocation}")
        }
    }
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The main program of SAP's tutorial.
pub(crate) async fn refresh_token(place: &Place, show: bool) -> Outcome {
    let tokens = place.tokens().await?;
    let token = unless_ended(&tokens, async { Ok(tokens.manager.get_valid_refresh_token().await?) }).await?;
    if show {
        return say::out(token.secret());
    }
    let origin = tokens.manager.status().source.unwrap_or(TokenOrigin::Stored);
    let (owner, uuid) = say::owner(token.company_uuid(), token.principal_uuid());
    say::out(&format!(
        "There is a valid refresh token ({origin}).\n  {:<12} {uuid}\n  expires:     {}\n  geolocation: {}",
        format!("{owner}:"),
        token.expires_at().map_or_else(|| "not known".to_owned(), say::expiry),
        token.geolocation().unwrap_or("not known"),
    ))
}

pub(crate) async fn renew(place: &Place, now: bool) -> Outcome {
    let tokens = place.tokens().await?;
    say::out(&say::validity(&renewed(&tokens, now).await?))
}

/// After a renewal; `now`: also while a refusal is remembered.
pub(super) async fn renewed(tokens: &Tokens, now: bool) -> Outcome<RefreshTokenObject> {
    let renewal = async {
        let renewed = if now { tokens.manager.retry_now().await } else { tokens.manager.refresh().await };
        Ok(renewed?)
    };
    unless_ended(tokens, renewal).await
}

pub(crate) async fn exec(place: &Place, command: Vec<OsString>) -> Outcome {
    let tokens = place.tokens().await?;
    let access =
        unless_ended(&tokens, async { Ok(tokens.manager.access_token_for(FOR_A_COMMAND).await?) }).await?;
    let mut command = command.into_iter();
    let name = command.next().unwrap_or_default();
    let mut process = process::Command::new(&name);
    process
        .args(command)
        .env("CONCUR_ACCESS_TOKEN", access.secret())
        .env("CONCUR_GEOLOCATION", access.geolocation().as_str())
        .env("CONCUR_TOKEN_EXPIRES_AT", say::rfc3339(access.expires_at()));
    become_it(process).map_err(|e| Failure::io(format_args!("could not run {}", name.display()), &e))
}

/// Returns only where the command could not be run.
#[cfg(unix)]
fn become_it(mut process: process::Command) -> std::io::Result<()> {
    Err(std::os::unix::process::CommandExt::exec(&mut process))
}

#[cfg(not(unix))]
fn become_it(mut process: process::Command) -> std::io::Result<()> {
    let status = process.status()?;
    process::exit(status.code().unwrap_or(1));
}

pub(crate) async fn adopt(place: &Place, file: &Path) -> Outcome {
    let token = RefreshTokenObject::from_json(&text_of(file)?)?;
    let tokens = place.tokens().await?;
    let adopted = unless_ended(&tokens, async { Ok(tokens.manager.adopt(token.clone()).await?) });
    adopted.await?;
    say::out(&say::validity(&token))
}

fn text_of(file: &Path) -> Outcome<String> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(drop),
        _ => fs::read_to_string(file).map(|read| text = read),
    };
    read.map_err(|e| Failure::io(format_args!("could not read {}", file.display()), &e))?;
    Ok(text)
}

pub(crate) async fn revoke(place: &Place, yes: bool) -> Outcome {
    let tokens = place.tokens().await?;
    let status = tokens.manager.read_status().await;
    let whose = status.company_uuid.or(status.principal_uuid).map_or_else(
        || "this company or user".to_owned(),
        |uuid| format!("{uuid} at {}", status.geolocation.as_deref().unwrap_or("Concur")),
    );
    if !yes {
        say::confirmed(&format!("Revoke all refresh tokens of {whose} for this app?"))?;
    }
    unless_ended(&tokens, async { Ok(tokens.manager.revoke().await?) }).await?;
    say::out(&format!("Revoked all refresh tokens of {whose}."))
}
