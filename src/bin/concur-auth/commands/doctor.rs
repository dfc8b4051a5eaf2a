//! What could stop renewals. Always: no token request is sent, and nothing but a file of its own is written and removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use concur_auth::{
    Clock as _, CredentialSource as _, CredentialsFile, Fleet, MemberState, RefreshTokenObject, SealingKeys,
    SystemClock,
    reqwest::{self, redirect},
};
use serde_json::Value;

use crate::{
    failure::{Failure, Outcome, chain, explain},
    place::{Kept, LANDING_ZONE, Place, Tokens, base_uri_of_variable, database},
    say,
};

/// What a save needs, with room for others.
#[cfg(unix)]
const LEAST_ROOM: u64 = 1024 * 1024;
/// Concur's tokens live an hour; a clock that is wrong by more than this begins to matter.
const MOST_SKEW: Duration = Duration::from_secs(60);
/// A refresh token that is renewed has 120 of 180 days left.
const FEW_DAYS: i64 = 30;
const TIMEOUT: Duration = Duration::from_secs(15);

/// What was found, each with what to do.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, finding: impl Into<String>) {
        let finding = finding.into();
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }
}

pub(crate) async fn run(place: &Place) -> Outcome {
    let mut findings = Findings::default();
    let keys = match place.keys() {
        Ok(keys) => keys,
        Err(failure) => {
            findings.add(failure.text());
            None
        }
    };
    let mut hosts = vec![base_uri(place)];
    let mut has_credentials = true;
    match place.named_fleet() {
        None => {
            let folder = place.folder()?;
            look_at_folder(folder, &mut findings);
            has_credentials = look_at_credentials(place, &mut findings).await;
            look_at_token(&place.token_file(), keys.as_ref(), &mut findings);
        }
        Some(place) if database(place).is_none() => look_at_folder(Path::new(place), &mut findings),
        Some(_) => {}
    }
    match place.kept_as_it_is().await {
        Ok(Kept::One(tokens)) => {
            look_at_status(&tokens, place, has_credentials, &mut hosts, &mut findings).await;
        }
        Ok(Kept::Fleet(fleet)) => look_at_fleet(&fleet, keys.as_ref(), &mut findings).await,
        Err(Failure::Error(error)) => findings.add(explain(&error)),
        Err(failure) => return Err(failure),
    }
    hosts.dedup();
    for host in &hosts {
        look_at_host(host, &mut findings).await;
    }
    if findings.0.is_empty() {
        return say::out("nothing found");
    }
    findings.0.iter().try_for_each(|finding| say::out(finding))?;
    Err(Failure::Said(1))
}

/// Where sign-ins start.
fn base_uri(place: &Place) -> String {
    let of_file = || {
        let text = fs::read_to_string(place.credentials_file()).ok()?;
        let members: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
        members["baseURI"].as_str().filter(|uri| !uri.is_empty()).map(str::to_owned)
    };
    let given = place.base_uri().map(str::to_owned);
    given
        .or_else(|| of_file().filter(|_| !Place::has_variables()))
        .or_else(base_uri_of_variable)
        .unwrap_or_else(|| LANDING_ZONE.to_owned())
}

fn look_at_folder(folder: &Path, findings: &mut Findings) {
    let shown = folder.display();
    match fs::metadata(folder) {
        Err(e) => {
            return findings.add(format!("{shown}: {e}; make the folder, or choose another with --dir"));
        }
        Ok(found) if !found.is_dir() => {
            return findings.add(format!("{shown} is no folder; choose another with --dir"));
        }
        Ok(found) => look_at_owner(folder, &found, findings),
    }
    let trial = folder.join(format!(".concur-auth-doctor-{}", std::process::id()));
    let tried = fs::OpenOptions::new().write(true).create_new(true).open(&trial);
    match tried {
        Err(e) => findings
            .add(format!("{shown}: no file can be written: {e}; give this user the right to write there")),
        Ok(file) => {
            if let Err(e) = io::Write::write_all(&mut &file, &[0; 4096]).and_then(|()| file.sync_all()) {
                findings.add(format!("{shown}: a file could not be saved: {e}; make room"));
            }
            match file.try_lock() {
                Ok(()) => look_for_exclusion(&trial, findings),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(e)) => findings.add(format!(
                    "{shown}: files cannot be locked there: {e}; use a folder on a local disk, or PostgreSQL"
                )),
            }
            if let Err(e) = fs::remove_file(&trial) {
                findings.add(format!("{}: {e}; remove it by hand", trial.display()));
            }
        }
    }
    look_for_room(folder, findings);
}

/// The file is locked; some network file systems let a second lock succeed.
fn look_for_exclusion(locked: &Path, findings: &mut Findings) {
    let is_shared = fs::File::options().write(true).open(locked).is_ok_and(|again| again.try_lock().is_ok());
    if is_shared {
        findings.add(format!(
            "{}: locks exclude no other process there; use a folder on a local disk, or PostgreSQL",
            locked.parent().unwrap_or(locked).display()
        ));
    }
}

#[cfg(unix)]
fn look_at_owner(path: &Path, found: &fs::Metadata, findings: &mut Findings) {
    use std::os::unix::fs::MetadataExt as _;

    let (shown, ours) = (path.display(), rustix::process::geteuid().as_raw());
    let mode = found.mode() & 0o7777;
    if found.uid() != ours {
        findings.add(format!(
            "{shown} belongs to user {}, and this program runs as user {ours}; run it as that user, or change the owner",
            found.uid()
        ));
    }
    if found.is_dir() && mode & 0o022 != 0 {
        findings.add(format!(
            "{shown} has mode {mode:04o}: other users can replace files in it; chmod 0700 {shown}"
        ));
    }
    if found.is_file() && mode & 0o077 != 0 {
        findings.add(format!("{shown} has mode {mode:04o}: other users can use it; chmod 0600 {shown}"));
    }
}

#[cfg(not(unix))]
fn look_at_owner(_: &Path, _: &fs::Metadata, _: &mut Findings) {}

#[cfg(unix)]
fn look_for_room(folder: &Path, findings: &mut Findings) {
    match rustix::fs::statvfs(folder) {
        Err(e) => {
            findings.add(format!("{}: could not find out how much room is free: {e}", folder.display()))
        }
        Ok(found) => {
            let room = found.f_bavail.saturating_mul(found.f_frsize);
            // Some file systems count no files.
            if room < LEAST_ROOM || (found.f_files > 0 && found.f_favail == 0) {
                findings.add(format!(
                    "{}: {room} bytes and {} files are free; make room for the next token",
                    folder.display(),
                    found.f_favail
                ));
            }
        }
    }
}

#[cfg(not(unix))]
fn look_for_room(_: &Path, _: &mut Findings) {}

/// Whether there are credentials at all.
async fn look_at_credentials(place: &Place, findings: &mut Findings) -> bool {
    if Place::has_variables() {
        for name in ["CONCUR_APP_ID", "CONCUR_CLIENT_SECRET"] {
            if std::env::var_os(name).is_none_or(|value| value.is_empty()) {
                findings.add(format!(
                    "the environment variable {name} is not set, but the other one is; set both, or neither"
                ));
            }
        }
        return true;
    }
    let file = place.credentials_file();
    let shown = file.display();
    match fs::metadata(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            findings.add(format!("{shown} is missing; run: concur-auth init"));
            return false;
        }
        Err(_) => {}
        // Owner and mode of a file that the service manager gives are for it to choose.
        Ok(_) if Place::has_given_credentials() => {}
        Ok(found) => look_at_owner(&file, &found, findings),
    }
    // In the words of the status, which may say it, too.
    if let Err(error) = CredentialsFile::new(&file).credentials().await {
        findings.add(chain(&error, ": "));
    }
    true
}

fn look_at_token(file: &PathBuf, keys: Option<&SealingKeys>, findings: &mut Findings) {
    let shown = file.display();
    match fs::metadata(file) {
        // The status says what follows from that.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return findings.add(format!("{shown}: {e}; give this user the right to read it")),
        Ok(found) => look_at_owner(file, &found, findings),
    }
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) => return findings.add(format!("{shown}: {e}; give this user the right to read it")),
    };
    if let Some(key) = SealingKeys::key_of(&text) {
        let has_it = keys.is_some_and(|keys| keys.ids().any(|id| id == key));
        if !has_it {
            findings.add(format!(
                "{shown} is sealed with the key \"{key}\", which is not among the sealing keys; give it with --sealing-keys or \
                 CONCUR_AUTH_SEALING_KEYS"
            ));
        }
    } else if let Err(error) = RefreshTokenObject::from_json(&text) {
        findings.add(format!("{shown}: {error}"));
    }
}

async fn look_at_status(
    tokens: &Tokens,
    place: &Place,
    has_credentials: bool,
    hosts: &mut Vec<String>,
    findings: &mut Findings,
) {
    let status = tokens.manager.read_status().await;
    // A host whose name consists of unknown words is not shown, and not looked at.
    hosts.extend(status.geolocation.clone().filter(|uri| uri.contains("://")));
    // Without credentials, that they are missing is all that there is to say.
    if let Some(error) = status.last_error.as_ref().filter(|_| has_credentials) {
        findings.add(error.to_string());
    }
    // A company of a fleet is connected; its credentials are the app's alone.
    let connect = place.company().map(|uuid| format!("concur-auth fleet connect {uuid}"));
    let command = |of_folder| connect.as_deref().unwrap_or(of_folder);
    if status.signed_out {
        findings.add(format!("signed out; sign in with: {}", command("concur-auth init")));
    }
    match status.refresh_token_expires_at {
        Some(at) if at <= say::now() => {
            let again = command("concur-auth refresh-token, or init");
            findings.add(format!("the refresh token expired at {at}; sign in again with: {again}"));
        }
        Some(at) => look_at_days_left((at - say::now()).whole_days(), findings),
        None if status.refresh_token_valid || status.last_error.is_some() => {}
        None => {
            let obtain = command("concur-auth refresh-token");
            findings.add(format!("there is no refresh token; obtain it with: {obtain}"));
        }
    }
}

fn look_at_days_left(left: i64, findings: &mut Findings) {
    if left < FEW_DAYS {
        findings.add(format!(
            "the refresh token expires in {left} days, and would have been renewed by now; run concur-auth renew, and keep \
             concur-auth keep-alive or serve running"
        ));
    }
}

async fn look_at_fleet(fleet: &Fleet, keys: Option<&SealingKeys>, findings: &mut Findings) {
    match fleet.needing_a_person().await {
        Err(error) => findings.add(explain(&error)),
        Ok(members) => {
            for member in members.iter().filter(|member| member.state == MemberState::NeedsPerson) {
                let needs = member.needs.as_deref().unwrap_or("sign it in again");
                findings.add(format!("{}: {needs}", member.uuid));
            }
        }
    }
    match fleet.count_by_sealing_key().await {
        Err(error) => findings.add(explain(&error)),
        Ok(counts) => {
            for (key, count) in counts.iter().filter_map(|(key, count)| Some((key.as_deref()?, count))) {
                if !keys.is_some_and(|keys| keys.ids().any(|id| id == key)) {
                    findings.add(format!(
                        "{count} tokens are sealed with the key \"{key}\", which is not among the sealing keys; give it with \
                         --sealing-keys or CONCUR_AUTH_SEALING_KEYS"
                    ));
                }
            }
        }
    }
}

/// Any answer will do: the address is not one that answers without a token.
async fn look_at_host(base: &str, findings: &mut Findings) {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(TIMEOUT).build();
    let asked = SystemClock.now();
    let reply = match client {
        Ok(client) => client.get(base).send().await.map_err(reqwest::Error::without_url),
        Err(e) => Err(e),
    };
    match reply {
        Err(e) => {
            let why = chain(&e, ": ");
            findings.add(format!(
                "{base} cannot be reached: {why}; check the network, any proxy, and the certificates of this machine"
            ));
        }
        Ok(reply) => {
            let date = reply
                .headers()
                .get("date")
                .and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            let Some(date) = date else { return };
            let now = SystemClock.now();
            // The reply was made between the two, to the second.
            let ahead = asked.duration_since(date).unwrap_or_default();
            let behind = date.duration_since(now).unwrap_or_default();
            let (skew, way) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
            if skew > MOST_SKEW {
                findings.add(format!(
                    "this machine's clock is {} s {way} that of {base}; set the clock",
                    skew.as_secs()
                ));
            }
        }
    }
}
