//! What a person or a script writes on the command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes: 0 done; 2 credentials or a new sign-in are needed; 1 any other error; 64 wrong usage;
128 + n ended by a signal (0 for serve, keep-alive and fleet work).
Messages and logs go to standard error. No secret is printed but the one that a command is for.";

/// Keeps an SAP Concur integration signed in, and hands out bearer tokens.
#[derive(Parser)]
#[command(name = "concur-auth", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Show requests on standard error; twice: more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the tokens are.
#[derive(Args)]
pub(crate) struct PlaceArguments {
    /// Folder with credentials.json and refreshTokenObjectFile.json [default: $CONCUR_AUTH_DIR, else the current folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// A fleet: a folder, or a PostgreSQL URL [default: $CONCUR_AUTH_FLEET]
    #[arg(long, global = true, value_name = "PLACE")]
    pub(crate) fleet: Option<OsString>,
    /// The company or user of the fleet
    #[arg(long, global = true, value_name = "UUID")]
    pub(crate) company: Option<String>,
    /// Where sign-ins start [default: credentials.json, $CONCUR_BASE_URI, SAP's landing zone]
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) base_uri: Option<String>,
    /// Keys of sealed tokens, one `id:base64` in each line [default: $CONCUR_AUTH_SEALING_KEYS comes first]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) sealing_keys: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Set up a folder: ask for the credentials, and sign in
    ///
    /// Without a terminal: write a blank credentials.json, and say what to fill in.
    #[command(after_help = "Example:\n  concur-auth --dir /var/lib/concur init")]
    Init,
    /// Show who is signed in, until when, and what failed; sends nothing
    #[command(after_help = "Example:\n  concur-auth status --json | jq .refresh_token_expires_at")]
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print a bearer token that is valid now
    #[command(after_help = "Example:\n  concur-auth access-token --format header | curl -H @- \\\n    \
                            https://us.api.concursolutions.com/profile/identity/v4/Users")]
    AccessToken {
        /// For how long the token must be valid at least, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        min_validity: u64,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Token)]
        format: Format,
    },
    /// Make sure that a valid refresh token is there, as SAP's tutorial does
    #[command(after_help = "Example:\n  concur-auth refresh-token")]
    RefreshToken {
        /// Print the token itself, and nothing else
        #[arg(long)]
        show: bool,
    },
    /// Renew the tokens now
    #[command(
        after_help = "Example, after the administrator has unlocked the account:\n  concur-auth renew --now"
    )]
    Renew {
        /// Also while a refusal is remembered
        #[arg(long)]
        now: bool,
    },
    /// Run a command with a token in its environment
    ///
    /// The variables are CONCUR_ACCESS_TOKEN, CONCUR_GEOLOCATION and CONCUR_TOKEN_EXPIRES_AT.
    #[command(after_help = "Example:\n  concur-auth exec -- python3 report.py")]
    Exec {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Serve tokens to local programs, and keep them alive
    #[command(after_help = "Example:\n  concur-auth serve --socket /run/concur/auth.sock --proxy &\n  \
                            curl --unix-socket /run/concur/auth.sock http://localhost/api/profile/identity/v4/Users")]
    Serve(ServeArguments),
    /// Keep the tokens alive until the program is told to end
    #[command(after_help = "Example:\n  concur-auth keep-alive")]
    KeepAlive,
    /// Take over a refresh token object from elsewhere
    #[command(after_help = "Example:\n  concur-auth adopt old/refreshTokenObjectFile.json")]
    Adopt {
        /// A JSON file as SAP's tutorial writes it; `-` for standard input
        file: PathBuf,
    },
    /// Sign out: revoke all refresh tokens of the company or user for this app
    #[command(after_help = "Example:\n  concur-auth revoke --yes")]
    Revoke {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Look for what could stop renewals; sends no token request
    #[command(after_help = "Example:\n  concur-auth doctor || echo 'see above'")]
    Doctor,
    /// Many companies and users
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Print a completion script
    #[command(after_help = "Example:\n  concur-auth completions bash > /etc/bash_completion.d/concur-auth")]
    Completions {
        /// The shell that reads the script
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether the program stays until it is told to end.
    pub(crate) fn stays(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::KeepAlive | Self::Fleet(FleetCommand::Work(_)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The token and a newline
    Token,
    /// An object with access_token, token_type, expires_at, expires_in and geolocation
    Json,
    /// A header line, for `curl -H @-`
    Header,
    /// Lines that a shell evaluates: CONCUR_ACCESS_TOKEN and CONCUR_GEOLOCATION
    Env,
}

#[derive(Args)]
pub(crate) struct ServeArguments {
    /// Listen on a Unix socket [default: $XDG_RUNTIME_DIR/concur-auth.sock, unless --listen is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The socket's mode, in octal
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    pub(crate) socket_mode: u32,
    /// Another user who may use the socket, if --socket-mode lets it open the socket; may be repeated
    #[arg(long, value_name = "UID")]
    pub(crate) allow_uid: Vec<u32>,
    /// Listen on a loopback address, such as 127.0.0.1:8099; port 0 takes any
    #[arg(long, value_name = "ADDRESS", requires = "key_file")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// The key that each request over --listen needs; made if absent
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The mode of a key file that is made, in octal
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    pub(crate) key_file_mode: u32,
    /// Forward /api/… to Concur with the bearer token attached
    #[arg(long)]
    pub(crate) proxy: bool,
}

#[derive(Subcommand)]
pub(crate) enum FleetCommand {
    /// Create or upgrade the tables; nothing to do for a folder
    #[command(after_help = "Example:\n  concur-auth --fleet postgres://owner@db/concur fleet migrate")]
    Migrate {
        /// A backup was restored: any token may have been used since
        #[arg(long)]
        restored: bool,
    },
    /// Sign a company in with the request token from standard input
    #[command(after_help = "Example:\n  concur-auth --fleet tokens fleet connect \
                            b3f4e2a0-0000-4000-8000-000000000000 < request-token")]
    Connect {
        /// The company
        uuid: String,
    },
    /// Take over the tokens of a folder or of another fleet
    #[command(after_help = "Example:\n  concur-auth --fleet tokens fleet import /srv/old-tokens")]
    Import {
        /// A folder of JSON files, or another fleet's folder or URL
        path: OsString,
    },
    /// List the companies and users
    #[command(after_help = "Example:\n  concur-auth --fleet tokens fleet list --needs-person")]
    List {
        /// One JSON object in each line
        #[arg(long)]
        json: bool,
        /// Only those that need a person
        #[arg(long)]
        needs_person: bool,
        /// Only those whose refresh token expires within this many days
        #[arg(long, value_name = "DAYS")]
        lapsing: Option<u32>,
    },
    /// Renew the tokens of one company or user now
    #[command(after_help = "Example:\n  concur-auth --fleet tokens fleet renew \
                            b3f4e2a0-0000-4000-8000-000000000000")]
    Renew {
        /// The company or user
        uuid: String,
        /// Also while a refusal is remembered
        #[arg(long)]
        now: bool,
    },
    /// Keep all companies and users signed in
    #[command(after_help = "Examples:\n  concur-auth --fleet tokens fleet work --rate 20\n\nFor cron:\n  \
                            concur-auth --fleet tokens fleet work --until-idle")]
    Work(WorkArguments),
    /// Sign a company or user out, and remove its tokens
    #[command(after_help = "Example:\n  concur-auth --fleet tokens fleet disconnect --yes \
                            b3f4e2a0-0000-4000-8000-000000000000")]
    Disconnect {
        /// The company or user
        uuid: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Remove its tokens here only; Concur goes on accepting them
        #[arg(long)]
        keep_at_concur: bool,
    },
}

#[derive(Args)]
pub(crate) struct WorkArguments {
    /// Renew what is due, print what became of it as one JSON line, and end
    ///
    /// Its members: renewed, failed, needs_person (all that need a person now), skipped (left to another process). Exit code: 2 where a
    /// person is needed, 1 where something failed.
    #[arg(long)]
    pub(crate) until_idle: bool,
    /// How many renewals run at once
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// How many requests are sent in a second at most
    #[arg(long, value_name = "REQUESTS_PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// A refresh token is due when fewer days of its life are left [default: 120 to 140 of SAP's 180]
    #[arg(long, value_name = "DAYS")]
    pub(crate) margin: Option<u32>,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write it in octal, such as 0600".to_owned()),
    }
}
