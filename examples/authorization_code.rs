//! A user signs in with a browser: the page for the browser, a listener on loopback that the browser comes back to, and
//! the tokens. It uses a simulated Concur that this program starts itself, where a user agrees at once.
//!
//! ```text
//! cargo run --example authorization_code --features simulator
//! cargo run --example authorization_code --features simulator -- --browser
//! ```
//!
//! With `--browser` the page opens in your own browser; without, this program visits it for you.

use std::{
    error::Error,
    io::{self, BufRead as _, BufReader, Write},
    net::TcpListener,
    process::Command,
};

use concur_auth::{
    AuthorizationRequest, Credentials, Geolocation, MemoryStore, TokenManager, reqwest,
    simulator::ConcurSimulator, url::Url,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let concur = ConcurSimulator::start().await;
    let user = concur.add_user();
    concur.consent_as(&user);
    let app = concur.app();

    // A real app's redirect URI is registered with SAP.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let redirect_uri = format!("http://{}/back", listener.local_addr()?);
    let glz: Geolocation = concur.base_uri().parse()?;
    let sign_in = AuthorizationRequest::new(&glz, app.id(), redirect_uri, "openid user.read")?;
    let page = sign_in.authorize_url();

    // A thread, not a blocking task: if a step fails before the browser is back, the program does not wait for it.
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(path_of_one_visit(&listener)));
    if std::env::args().any(|argument| argument == "--browser") {
        writeln!(out, "Your browser is sent to {}.", page.origin().ascii_serialization())?;
        open(&page)?;
    } else {
        writeln!(out, "This program visits {} as a browser would.", page.origin().ascii_serialization())?;
        reqwest::get(page).await?;
    }
    let returned = sign_in.returned(&told.await??)?;
    if let Some(home) = returned.geolocation() {
        writeln!(out, "The browser is back; the user lives at {home}.")?;
    }

    let tokens = TokenManager::builder()
        .credentials(Credentials::new(app.id(), app.secret()).for_user(user.uuid()))
        .store(MemoryStore::new())
        .base_uri(concur.base_uri())
        .build()?;
    let object = tokens.sign_in(returned.grant()).await?;
    writeln!(out, "Signed in: user {}", object.principal_uuid().unwrap_or("unknown"))?;
    writeln!(out, "{}", tokens.status())?;
    Ok(())
}

/// Waits for the browser, tells its user to close the page, and returns the path and query of the request.
fn path_of_one_visit(listener: &TcpListener) -> io::Result<String> {
    loop {
        let (mut visit, _) = listener.accept()?;
        let mut line = String::new();
        BufReader::new(&visit).read_line(&mut line)?;
        let path = line.split_whitespace().nth(1).unwrap_or_default();
        // Browsers also ask for an icon.
        let is_back = path.starts_with("/back");
        let (status, text) =
            if is_back { ("200 OK", "You may close this page.") } else { ("404 Not Found", "") };
        let length = text.len();
        write!(visit, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}")?;
        if is_back {
            return Ok(path.to_owned());
        }
    }
}

fn open(page: &Url) -> io::Result<()> {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    Command::new(opener).arg(page.as_str()).spawn().map(drop)
}
