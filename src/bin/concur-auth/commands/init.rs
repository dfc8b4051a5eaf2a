//! Setting up a folder, as a person does it on a terminal.
//!
//! Always: a credentials.json that exists is not written, and on a terminal one is written only after Concur has accepted
//! what it holds. However the program ends, the terminal shows again what is typed.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    thread,
};

use concur_auth::{
    CredentialSource as _, Credentials, CredentialsFile, ErrorKind, Grant, RefreshTokenObject, TokenManager,
};
use serde_json::json;
use tokio::sync::oneshot;

use crate::{
    failure::{Failure, Outcome, PERSON, explain},
    place::{CREDENTIALS, LANDING_ZONE, Place, Tokens, base_uri_of_variable},
    say,
    signals::{ended, unless_ended},
};

const APPS_PAGE: &str = "https://www.concursolutions.com/nui/ocstool";
const COMPANY_TOKENS_PAGE: &str = "https://www.concursolutions.com/nui/authadmin/companytokens";

pub(crate) async fn run(place: &Place) -> Outcome {
    let folder = place.folder()?;
    let file = folder.join(CREDENTIALS);
    fs::create_dir_all(folder)
        .map_err(|e| Failure::io(format_args!("could not make {}", folder.display()), &e))?;
    if !io::stdin().is_terminal() {
        return without_terminal(&file).await;
    }
    if file.exists() {
        return Err(Failure::Other(format!(
            "{0} exists and is not overwritten; sign in with what it holds (concur-auth refresh-token), or remove it first",
            file.display()
        )));
    }
    let _echo = Echo::kept();
    let mut answers =
        Answers { base_uri: place.base_uri().unwrap_or_default().to_owned(), ..Answers::default() };
    loop {
        answers = answers.asked().await?;
        match signed_in(place, &answers).await {
            Ok(token) => {
                write(&file, &answers)?;
                return say::out(&format!(
                    "Signed in, {}.\n{} is written, without the {}, which is no longer needed.\nNext: concur-auth access-token, \
                     or concur-auth serve.",
                    say::validity(&token),
                    file.display(),
                    answers.secret_name(),
                ));
            }
            Err(Failure::Error(error)) => {
                say::note(&format!(
                    "{}\nTry again; Enter keeps what was given before, Ctrl-C ends.",
                    explain(&error)
                ));
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// The template, and what to do with it.
async fn without_terminal(file: &Path) -> Outcome {
    let error = match CredentialsFile::new(file).credentials().await {
        Ok(_) => {
            let what = format!("{} is there; run: concur-auth refresh-token", file.display());
            return say::out(&what);
        }
        Err(error) => error,
    };
    if error.kind() == ErrorKind::CredentialsNeeded {
        say::out(&error.to_string())?;
        return Err(Failure::Said(PERSON));
    }
    Err(error.into())
}

/// What a person has answered so far.
#[derive(Clone, Default)]
struct Answers {
    app_id: String,
    client_secret: String,
    is_user: bool,
    name: String,
    secret: String,
    base_uri: String,
}

impl Answers {
    fn secret_name(&self) -> &'static str {
        if self.is_user { "password" } else { "company request token" }
    }

    /// Asks for all; what was answered before is kept by Enter.
    async fn asked(self) -> Outcome<Self> {
        let mut now = self;
        now.app_id = ask(format!("App ID (from {APPS_PAGE})"), now.app_id, false).await?;
        now.client_secret = ask("Client secret (not shown)".to_owned(), now.client_secret, true).await?;
        let before = if now.is_user { "user" } else { "company" };
        let who = ask("Who signs in, a company or a user?".to_owned(), before.to_owned(), false).await?;
        now.is_user = who.eq_ignore_ascii_case("user");
        let (name, secret) = match now.is_user {
            true => ("User name".to_owned(), "Password (not shown)".to_owned()),
            false => (
                format!("Company UUID (from {COMPANY_TOKENS_PAGE})"),
                "Company request token (from the same page, at most 24 hours old; not shown)".to_owned(),
            ),
        };
        now.name = ask(name, now.name, false).await?;
        now.secret = ask(secret, now.secret, true).await?;
        let base = Some(now.base_uri).filter(|uri| !uri.is_empty()).or_else(base_uri_of_variable);
        let base = base.unwrap_or_else(|| LANDING_ZONE.to_owned());
        now.base_uri = ask("Base URI".to_owned(), base, false).await?;
        Ok(now)
    }

    fn credentials(&self) -> Credentials {
        let app = Credentials::new(&self.app_id, &self.client_secret).base_uri(&self.base_uri);
        if self.is_user { app.user(&self.name, &self.secret) } else { app.company(&self.name, &self.secret) }
    }

    fn grant(&self) -> Grant {
        if self.is_user {
            Grant::user_password(&self.name, &self.secret)
        } else {
            Grant::company_request_token(&self.name, &self.secret)
        }
    }
}

/// A secret that a person types. However that ends, the terminal has its echo back.
pub(super) async fn ask_for_secret(question: &str) -> Outcome<String> {
    let _echo = Echo::kept();
    ask(question.to_owned(), String::new(), true).await
}

/// One answer. It is read on a thread of its own, which a program that ends does not wait for.
async fn ask(question: String, before: String, is_secret: bool) -> Outcome<String> {
    let (tell, told) = oneshot::channel();
    let default = match (before.is_empty(), is_secret) {
        (true, _) => String::new(),
        (false, true) => " [as before]".to_owned(),
        (false, false) => format!(" [{before}]"),
    };
    let mut ended = std::pin::pin!(ended());
    thread::spawn(move || {
        let _ = tell.send(read(&format!("{question}{default}: "), is_secret));
    });
    let answer = tokio::select! {
        biased;
        code = &mut ended => return Err(Failure::Said(code)),
        answer = told => answer.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())),
    };
    match answer {
        Ok(answer) if answer.is_empty() => Ok(before),
        Ok(answer) => Ok(answer),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Failure::Other("nothing was done".to_owned()))
        }
        // Ctrl-C while a secret is read comes as a signal, too, which may be noticed later.
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(Failure::Said(ended.await)),
        Err(e) => Err(Failure::io("could not read the answer", &e)),
    }
}

fn read(question: &str, is_secret: bool) -> io::Result<String> {
    let answer = if is_secret {
        rpassword::prompt_password(question)?
    } else {
        write!(io::stderr().lock(), "{question}")?;
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer
    };
    Ok(answer.trim().to_owned())
}

async fn signed_in(place: &Place, answers: &Answers) -> Outcome<RefreshTokenObject> {
    let manager = TokenManager::builder().credentials(answers.credentials()).store(place.store()?).build()?;
    let tokens = Tokens { manager, fleet: None };
    unless_ended(&tokens, async { Ok(tokens.manager.sign_in(answers.grant()).await?) }).await
}

/// The file that the tutorial reads, without the secret that was good for the sign-in only.
fn write(file: &Path, answers: &Answers) -> Outcome {
    let cannot = |e: &io::Error| {
        Failure::io(
            format_args!("signed in, but {} could not be written; write it by hand", file.display()),
            e,
        )
    };
    let mut content = json!({
        "appID": answers.app_id,
        "clientSecret": answers.client_secret,
        "grantType": "password",
        "companyUUID": answers.name,
        "companyRequestToken": "",
        "credentialType": if answers.is_user { "password" } else { "authtoken" },
    });
    if answers.base_uri.trim_end_matches('/') != LANDING_ZONE {
        content["baseURI"] = answers.base_uri.clone().into();
    }
    let text = serde_json::to_string_pretty(&content).map_err(|e| Failure::Other(e.to_string()))?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(file).map_err(|e| cannot(&e))?;
    writeln!(opened, "{text}").and_then(|()| opened.sync_all()).map_err(|e| cannot(&e))
}

/// Gives the terminal its echo back, whatever a thread that reads a secret has done to it.
struct Echo {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Echo {
    fn kept() -> Self {
        Self {
            #[cfg(unix)]
            before: rustix::termios::tcgetattr(io::stdin()).ok(),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            use rustix::termios::{OptionalActions, tcsetattr};
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
