//! What the program prints. A closed or full output is an error, not a panic.

use std::io::{self, IsTerminal as _, Write as _};

use concur_auth::{
    AccessToken, Clock as _, Error, FleetEvent, FleetMember, MemberState, RefreshTokenObject, Status,
    SystemClock,
    time::{OffsetDateTime, format_description::well_known::Rfc3339},
};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};

/// Prints what the command is for, and a newline.
pub(crate) fn out(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    printed.map_err(|e| match e.kind() {
        // The reader wants no more, as in `concur-auth … | head -1`.
        io::ErrorKind::BrokenPipe => Failure::Said(1),
        _ => Failure::io("could not write to standard output", &e),
    })
}

/// Prints a message on standard error; where that cannot be written, nothing can be said.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "concur-auth: {text}");
}

pub(crate) fn now() -> OffsetDateTime {
    SystemClock.now().into()
}

pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Asks on the terminal for a yes; without a terminal, an error that names `--yes`.
pub(crate) fn confirmed(question: &str) -> Outcome {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Without a terminal, add --yes")));
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|e| Failure::io("could not read the answer", &e))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Other("nothing was done".to_owned())),
    }
}

/// For how many seconds a token is valid.
pub(crate) fn seconds_left(access: &AccessToken) -> i64 {
    (access.expires_at() - now()).whole_seconds().max(0)
}

/// As `GET /token` answers.
pub(crate) fn access_token(access: &AccessToken, seconds_left: i64) -> Value {
    json!({
        "access_token": access.secret(),
        "token_type": "Bearer",
        "expires_at": rfc3339(access.expires_at()),
        "expires_in": seconds_left,
        "geolocation": access.geolocation().as_str(),
    })
}

/// The members of `Status`, and its health.
pub(crate) fn status(status: &Status) -> Value {
    let mut value = json!(status);
    value["health"] = json!(status.health());
    value
}

/// What a program needs to know of an error.
pub(crate) fn error(error: &Error) -> Value {
    json!({
        "kind": error.kind(),
        "message": error.to_string(),
        "code": error.code(),
        "correlation_id": error.correlation_id(),
        "person_needed": error.kind().needs_person(),
    })
}

/// How long a token lives, for a person.
pub(crate) fn expiry(at: OffsetDateTime) -> String {
    let left = at - now();
    match left.whole_hours() {
        0 => format!("{at} ({} minutes left)", left.whole_minutes()),
        hours => format!("{at} ({} days and {} hours left)", left.whole_days(), hours % 24),
    }
}

/// Until when a token is valid, for a person.
pub(crate) fn valid(at: Option<OffsetDateTime>) -> String {
    match at {
        None => "valid, with no known expiry".to_owned(),
        Some(at) => format!("valid until {}", expiry(at)),
    }
}

/// Whose the tokens are: a company, unless only a user is known.
pub(crate) fn owner<'a>(company: Option<&'a str>, principal: Option<&'a str>) -> (&'static str, &'a str) {
    match (company, principal) {
        (None, Some(user)) => ("user", user),
        (company, _) => ("company", company.unwrap_or("not known")),
    }
}

/// Until when a refresh token is valid, in one line.
pub(crate) fn validity(token: &RefreshTokenObject) -> String {
    let (owner, uuid) = owner(token.company_uuid(), token.principal_uuid());
    format!("{owner} {uuid}: the refresh token is {}", valid(token.expires_at()))
}

/// The word for a member's state, as in the table of a database.
pub(crate) fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Active => "active",
        MemberState::NeedsPerson => "needs_reauthorization",
        _ => "signed_out",
    }
}

/// A member of a fleet, as a program reads it.
pub(crate) fn member(member: &FleetMember) -> Value {
    let at = |at: Option<OffsetDateTime>| at.map(rfc3339);
    json!({
        "company": member.uuid,
        "kind": member.kind,
        "state": state(member.state),
        "refresh_token_expires_at": at(member.refresh_token_expires_at),
        "renew_at": at(member.renew_at),
        "act_before": at(member.act_before),
        "last_error": member.needs,
        "unsaved": member.unsaved,
    })
}

/// What has happened to a member of a fleet.
pub(crate) fn event(event: &FleetEvent) -> String {
    format!("{}: {}", event.uuid, event.status)
}

/// A time for a table.
pub(crate) fn minutes(at: OffsetDateTime) -> String {
    format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute())
}
