//! The commands of a fleet.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal as _},
    path::Path,
    pin::pin,
    time::Duration,
};

use concur_auth::{
    Fleet, FleetRenewals, FleetStore, FolderFleet, Grant, Imported, MemberState, SealingKeys, time,
};
use serde_json::json;

use super::{init::ask_for_secret, tokens::renewed};
use crate::{
    arguments::{FleetCommand, WorkArguments},
    failure::{Failure, Outcome, PERSON},
    place::{Kept, Place, Tokens, database, manager_of, members},
    say, serve,
    signals::{PATIENCE, ended, unless_ended},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Lies in the folder of a fleet.
const FLEET: &str = "fleet.json";

pub(crate) async fn run(place: &Place, command: FleetCommand) -> Outcome {
    match command {
        FleetCommand::Migrate { restored } => migrate(place, restored).await,
        FleetCommand::Connect { uuid } => connect(place, &uuid).await,
        FleetCommand::Import { path } => import(place, &path).await,
        FleetCommand::List { json, needs_person, lapsing } => list(place, json, needs_person, lapsing).await,
        FleetCommand::Renew { uuid, now } => renew(place, &uuid, now).await,
        FleetCommand::Work(arguments) => work(place, arguments).await,
        FleetCommand::Disconnect { uuid, yes, keep_at_concur } => {
            disconnect(place, &uuid, yes, keep_at_concur).await
        }
    }
}

async fn fleet(place: &Place) -> Outcome<Fleet> {
    place.fleet(|fleet| fleet).await
}

async fn migrate(place: &Place, restored: bool) -> Outcome {
    if database(place.fleet_place()?).is_none() {
        let rows = if restored {
            ". After a backup was restored, sign in those that `fleet list --needs-person` names"
        } else {
            ""
        };
        return say::out(&format!("nothing to do for a folder{rows}"));
    }
    migrate_database(place, restored).await
}

#[cfg(feature = "postgres")]
async fn migrate_database(place: &Place, restored: bool) -> Outcome {
    let url = database(place.fleet_place()?).unwrap_or_default();
    let store = concur_auth::PostgresFleet::new(url)?;
    store.migrate().await?;
    if !restored {
        return say::out("the tables are up to date");
    }
    let rows = store.mark_restored().await?;
    say::out(&format!(
        "the tables are up to date; {rows} tokens may have been used since the backup, and are asked for again"
    ))
}

#[cfg(not(feature = "postgres"))]
async fn migrate_database(_: &Place, _: bool) -> Outcome {
    Err(crate::place::no_postgres())
}

async fn connect(place: &Place, uuid: &str) -> Outcome {
    let fleet = fleet(place).await?;
    let token = if io::stdin().is_terminal() {
        ask_for_secret("Company request token (not shown)").await?
    } else {
        io::read_to_string(io::stdin()).map_err(|e| Failure::io("could not read the request token", &e))?
    };
    if token.trim().is_empty() {
        return Err(Failure::Usage("write the company request token to standard input".to_owned()));
    }
    let tokens = Tokens { manager: fleet.company(uuid), fleet: Some(fleet.clone()) };
    let grant = Grant::company_request_token(uuid, token.trim());
    unless_ended(&tokens, async { Ok(fleet.connect(grant).await?) }).await?;
    let token = tokens.manager.get_valid_refresh_token().await?;
    say::out(&say::validity(&token))
}

async fn import(place: &Place, source: &OsStr) -> Outcome {
    let fleet = fleet(place).await?;
    let imported = match database(source) {
        Some(url) => import_database(&fleet, url, place.keys()?).await?,
        None if Path::new(source).join(FLEET).is_file() => {
            import_fleet(&fleet, FolderFleet::new(Path::new(source)), place.keys()?).await?
        }
        None => fleet.import_files(Path::new(source)).await?,
    };
    fleet.shutdown(PATIENCE).await?;
    for (name, why) in &imported.refused {
        say::note(&format!("refused: {name}: {why}"));
    }
    let (taken_over, there) = (imported.taken_over, imported.there_already);
    say::out(&format!(
        "taken over: {taken_over}; there already: {there}; refused: {}",
        imported.refused.len()
    ))?;
    if imported.refused.is_empty() { Ok(()) } else { Err(Failure::Said(1)) }
}

async fn import_fleet(
    fleet: &Fleet,
    mut source: impl FleetStore,
    keys: Option<SealingKeys>,
) -> Outcome<Imported> {
    if let Some(keys) = keys {
        source.seal_with(keys)?;
    }
    Ok(fleet.import_fleet(source).await?)
}

#[cfg(feature = "postgres")]
async fn import_database(fleet: &Fleet, url: &str, keys: Option<SealingKeys>) -> Outcome<Imported> {
    import_fleet(fleet, concur_auth::PostgresFleet::new(url)?, keys).await
}

#[cfg(not(feature = "postgres"))]
async fn import_database(_: &Fleet, _: &str, _: Option<SealingKeys>) -> Outcome<Imported> {
    Err(crate::place::no_postgres())
}

async fn list(place: &Place, as_json: bool, needs_person: bool, lapsing: Option<u32>) -> Outcome {
    let fleet = fleet(place).await?;
    let mut members = members(&fleet).await?;
    members.retain(|member| !needs_person || member.state == MemberState::NeedsPerson);
    if let Some(days) = lapsing {
        // `None`: after the end of the calendar.
        let until = say::now().checked_add(time::Duration::days(days.into()));
        let lapses = |at| until.is_none_or(|until| at < until);
        members.retain(|member| member.refresh_token_expires_at.is_some_and(lapses));
    }
    if as_json {
        return members.iter().try_for_each(|member| say::out(&say::member(member).to_string()));
    }
    let mut lines =
        vec![format!("{:<36}  {:<21}  {:<20}  {}", "company or user", "state", "expires", "what is needed")];
    for member in &members {
        let expires = member.refresh_token_expires_at.map_or_else(|| "not known".to_owned(), say::minutes);
        let needs = member.needs.as_deref().unwrap_or("-");
        lines.push(format!("{:<36}  {:<21}  {expires:<20}  {needs}", member.uuid, say::state(member.state)));
    }
    say::out(&lines.join("\n"))
}

/// The tokens of a member; an error if there is no such member.
async fn tokens_of(fleet: Fleet, uuid: &str) -> Outcome<Tokens> {
    match fleet.member(uuid).await? {
        Some(member) => Ok(Tokens { manager: manager_of(&fleet, uuid, member.kind), fleet: Some(fleet) }),
        None => Err(Failure::Other(format!(
            "{uuid} is no company or user of this fleet; see: concur-auth fleet list"
        ))),
    }
}

async fn renew(place: &Place, uuid: &str, now: bool) -> Outcome {
    let tokens = tokens_of(fleet(place).await?, uuid).await?;
    say::out(&say::validity(&renewed(&tokens, now).await?))
}

async fn work(place: &Place, arguments: WorkArguments) -> Outcome {
    let ended = ended();
    let WorkArguments { until_idle, concurrency, rate, margin } = arguments;
    let fleet = place.fleet(|mut fleet| {
        if let Some(most) = concurrency {
            fleet = fleet.max_concurrent(most);
        }
        if let Some(rate) = rate {
            fleet = fleet.max_requests_per_second(rate);
        }
        if let Some(days) = margin {
            fleet = fleet.refresh_token_margin(DAY * days);
        }
        fleet
    });
    let fleet = fleet.await?;
    if until_idle { one_round(&fleet, ended).await } else { serve::keep(Kept::Fleet(fleet), ended).await }
}

/// Renews what is due. A signal ends the round early, with what it has done.
async fn one_round(fleet: &Fleet, ended: impl Future<Output = u8>) -> Outcome {
    let mut round = pin!(fleet.renew_due());
    let renewals = tokio::select! {
        biased;
        _ = ended => {
            let (saved, renewals) = tokio::join!(fleet.shutdown(PATIENCE), round);
            saved?;
            renewals?
        }
        renewals = &mut round => renewals?,
    };
    fleet.shutdown(PATIENCE).await?;
    // Also those whom an earlier round has found: the job says so until a person has acted.
    let needs_person = fleet.health().await?.needing_a_person;
    let FleetRenewals { renewed, failed, skipped, .. } = renewals;
    let counts =
        json!({ "renewed": renewed, "failed": failed, "needs_person": needs_person, "skipped": skipped });
    say::out(&counts.to_string())?;
    match (needs_person, failed) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Said(1)),
        _ => Err(Failure::Said(PERSON)),
    }
}

async fn disconnect(place: &Place, uuid: &str, yes: bool, keep_at_concur: bool) -> Outcome {
    let fleet = fleet(place).await?;
    let tokens = tokens_of(fleet.clone(), uuid).await?;
    if !yes {
        let question = match keep_at_concur {
            true => format!("Remove {uuid} from this fleet, with its refresh token?"),
            false => format!("Revoke all refresh tokens of {uuid} for this app, and remove it?"),
        };
        say::confirmed(&question)?;
    }
    let gone = unless_ended(&tokens, async {
        if keep_at_concur {
            fleet.forget(uuid).await?;
        } else {
            fleet.disconnect(uuid).await?;
        }
        Ok(())
    });
    gone.await?;
    say::out(&format!(
        "{uuid} is disconnected{}.",
        if keep_at_concur { " here; Concur still accepts its tokens" } else { "" }
    ))
}
