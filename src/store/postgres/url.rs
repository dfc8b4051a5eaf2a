//! The database URL: where the server is, and how a connection to it is protected.
//!
//! Always: a token travels through a socket, over loopback, or over TLS to a server whose certificate and host name are
//! checked; a URL that asks for less is refused. No error shows a part of the URL that could be a password.
//!
//! tokio-postgres knows neither `verify-full` nor `sslrootcert`, and its default falls back to clear text. So this module
//! takes the TLS options out of the URL, decides, and leaves the rest to tokio-postgres.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::config::{ChannelBinding, Config, Host, SslMode, TargetSessionAttrs};
use url::form_urlencoded;

use crate::{Error, ErrorKind};

const FORM: &str = "write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE";
const DEFAULT_PORT: u16 = 5432;

/// For one server, and for each of several: those after it need time, too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT_OF_EACH: Duration = Duration::from_secs(2);
/// Before the URL's own options, which win. Times are in seconds; firewalls forget an idle connection after some minutes,
/// without a word to either side.
const DEFAULTS: &str =
    "application_name=concur-auth&keepalives_idle=60&keepalives_interval=10&tcp_user_timeout=8&";

/// The options that go on to tokio-postgres.
const OPTIONS: [&str; 18] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// What a database URL says.
pub(super) struct Target {
    pub(super) config: Config,
    /// `None`: without TLS, through a socket or over loopback.
    pub(super) tls: Option<Roots>,
    /// Database and server in words.
    pub(super) name: String,
}

/// Which authorities may sign the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those that this machine trusts.
    Platform,
    /// Those in a file of PEM certificates.
    File(PathBuf),
}

/// Where one of the URL's servers is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Socket,
    Loopback,
    Elsewhere,
}

/// What the URL says about TLS, in libpq's words.
#[derive(Default)]
struct TlsOptions {
    mode: Option<String>,
    roots: Option<String>,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or_else(|| config(format!("the database URL does not begin with postgres://; {FORM}")))?;
        check_separators(rest)?;
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (tls, kept) = split_options(options)?;
        let mut config: Config = format!("postgres://{place}?{DEFAULTS}{kept}").parse().map_err(|e| {
            // Its causes are texts of its own: the name of an option, or the position of a byte.
            let error = self::config(format!("the database URL cannot be read; {FORM}"));
            match tokio_postgres::Error::into_source(e) {
                Some(cause) => error.caused_by(cause),
                None => error,
            }
        })?;
        let servers = Server::all(&config)?;
        let tls = decide(&tls, &servers)?;
        complete(&mut config, tls.is_some(), servers.len())?;
        let name = name(&config, &servers)?;
        Ok(Self { config, tls, name })
    }
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// A password with a raw separator would be read, and shown, as a host or a database.
fn check_separators(rest: &str) -> Result<(), Error> {
    let mut parts = rest.split('@');
    let (credentials, more) = (parts.next().unwrap_or_default(), parts.count());
    if more > 1 || (more == 1 && credentials.contains(['/', '?'])) {
        return Err(config(
            "the database URL has more than one @, or a / or ? before it; in user name, password and options, write @ as \
             %40, / as %2F and ? as %3F",
        ));
    }
    Ok(())
}

/// The options about TLS, and the others as they are.
fn split_options(options: &str) -> Result<(TlsOptions, String), Error> {
    let (mut tls, mut kept) = (TlsOptions::default(), Vec::new());
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let Some((name, value)) = option.split_once('=') else {
            return Err(config(
                "an option in the database URL has no value; write NAME=VALUE, and & between two options",
            ));
        };
        match name {
            "sslmode" => tls.mode = Some(decoded(value)),
            "sslrootcert" => tls.roots = Some(decoded(value)),
            // libpq's name for what tokio-postgres calls read-write.
            "target_session_attrs" if value == "primary" => kept.push("target_session_attrs=read-write"),
            name if OPTIONS.contains(&name) => kept.push(option),
            "sslcert" | "sslkey" => {
                return Err(config(format!(
                    "the option {name} of the database URL is not supported: client certificates are not; sign in with a \
                     password"
                )));
            }
            // A part of a password could stand here.
            _ => {
                return Err(config(format!(
                    "the database URL has an option that is not supported; leave it out. Supported are sslmode, \
                     sslrootcert, {}",
                    OPTIONS.join(", ")
                )));
            }
        }
    }
    Ok((tls, kept.join("&")))
}

/// Percent-encoding alone: unlike in a form, + is no space here.
fn decoded(value: &str) -> String {
    let value = format!("v={}", value.replace('+', "%2B"));
    form_urlencoded::parse(value.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// One of the servers that the URL names.
struct Server {
    /// A path, or a host with its port.
    name: String,
    /// The host alone, which the certificate must name; `None` where the URL has an address only.
    host: Option<String>,
    place: Place,
}

impl Server {
    fn all(config: &Config) -> Result<Vec<Self>, Error> {
        let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
        let count = hosts.len().max(addresses.len());
        if count == 0 {
            return Err(self::config(format!(
                "the database URL names no server; {FORM}, or postgres://USER@/DATABASE?host=/var/run/postgresql for a \
                 socket"
            )));
        }
        if (!hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len())
            || (ports.len() > 1 && ports.len() != count)
        {
            return Err(self::config(
                "the database URL has different numbers of host, hostaddr and port; name one of each for each server",
            ));
        }
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        (0..count).map(|at| Self::new(hosts.get(at), addresses.get(at).copied(), port(at))).collect()
    }

    fn new(host: Option<&Host>, address: Option<IpAddr>, port: u16) -> Result<Self, Error> {
        let host = match host {
            Some(Host::Tcp(host)) => Some(host.clone()),
            #[cfg(unix)]
            Some(Host::Unix(folder)) if address.is_none() => {
                let name = folder.join(format!(".s.PGSQL.{port}")).display().to_string();
                return Ok(Self { name, host: None, place: Place::Socket });
            }
            #[cfg(unix)]
            Some(Host::Unix(_)) => {
                return Err(config("the database URL has a hostaddr for a socket; leave one of them out"));
            }
            None => None,
        };
        if let Some(host) = &host {
            let is_of_a_host = |c: char| c.is_alphanumeric() || ".-_:%".contains(c);
            if host.is_empty() || !host.chars().all(is_of_a_host) {
                return Err(config(format!(
                    "the database URL has a host with a character that no host has, or without a name; {FORM}"
                )));
            }
        }
        let written = host.as_deref().and_then(|host| host.parse().ok());
        // hostaddr decides where a connection goes, whatever the host is called.
        let place = match address.or(written).map(|address: IpAddr| address.to_canonical()) {
            Some(address) if address.is_loopback() => Place::Loopback,
            None if host.as_deref() == Some("localhost") => Place::Loopback,
            _ => Place::Elsewhere,
        };
        let shown = host.clone().or(address.map(|address| address.to_string())).unwrap_or_default();
        let name = if shown.contains(':') { format!("[{shown}]:{port}") } else { format!("{shown}:{port}") };
        Ok(Self { name, host, place })
    }
}

/// Whether to use TLS, and with whose certificates.
fn decide(tls: &TlsOptions, servers: &[Server]) -> Result<Option<Roots>, Error> {
    let mode = tls.mode.as_deref();
    if !matches!(mode, None | Some("disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full"))
    {
        return Err(config(
            "the option sslmode of the database URL has an unknown value; write sslmode=verify-full",
        ));
    }
    let sockets = servers.iter().filter(|server| server.place == Place::Socket).count();
    if sockets == servers.len() {
        // As in libpq: a socket has no TLS.
        return Ok(None);
    }
    if sockets > 0 {
        return Err(config(
            "the database URL has both sockets and hosts; name only the ones or only the others",
        ));
    }
    let may_be_clear = matches!(mode, Some("disable" | "allow" | "prefer"));
    match servers.iter().find(|server| server.place == Place::Elsewhere) {
        Some(server) if may_be_clear => {
            return Err(config(format!(
                "sslmode={} could send tokens to {} without encryption; write sslmode=verify-full, and \
                 sslrootcert=PATH if an authority of your own has signed the server's certificate",
                mode.unwrap_or_default(),
                server.name
            )));
        }
        None if may_be_clear || (mode.is_none() && tls.roots.is_none()) => return Ok(None),
        _ => {}
    }
    if servers.iter().any(|server| server.host.is_none()) {
        return Err(config(
            "the database URL has a hostaddr without a host; add host=NAME, which the server's certificate must name",
        ));
    }
    Ok(Some(match tls.roots.as_deref() {
        None | Some("" | "system") => Roots::Platform,
        Some(path) => Roots::File(path.into()),
    }))
}

/// What the URL leaves open.
fn complete(config: &mut Config, with_tls: bool, servers: usize) -> Result<(), Error> {
    config.ssl_mode(if with_tls { SslMode::Require } else { SslMode::Disable });
    if config.get_channel_binding() == ChannelBinding::Require {
        return Err(self::config(
            "channel_binding=require is not supported; leave it out: the server's certificate and host name are checked",
        ));
    }
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadOnly => {
            return Err(self::config(
                "target_session_attrs=read-only: tokens cannot be saved there; write target_session_attrs=read-write",
            ));
        }
        // Of several servers one takes writes.
        TargetSessionAttrs::Any if servers > 1 => {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        _ => {}
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(if servers > 1 { CONNECT_TIMEOUT_OF_EACH } else { CONNECT_TIMEOUT });
    }
    Ok(())
}

fn name(config: &Config, servers: &[Server]) -> Result<String, Error> {
    let servers: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
    // As the server does where a client names no database.
    let database = config.get_dbname().or(config.get_user()).unwrap_or("of this program's user");
    let name = format!("PostgreSQL database {database} at {}", servers.join(", "));
    if name.chars().any(char::is_control) {
        return Err(self::config(format!("the database URL has a control character; {FORM}")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Target {
        Target::parse(url).unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    fn refusal(url: &str) -> String {
        let Err(error) = Target::parse(url) else { panic!("{url}") };
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(!format!("{error:?}").contains("s3cr"), "{error:?}");
        error.to_string()
    }

    #[test]
    fn a_token_travels_through_a_socket_over_loopback_or_over_tls() {
        const OWN: &str = "&sslrootcert=/etc/own.pem";
        let clear = || Ok(None);
        let platform = || Ok(Some(Roots::Platform));
        let own = || Ok(Some(Roots::File("/etc/own.pem".into())));
        let refused = || Err(());
        for (mode, local, local_own, foreign, foreign_own) in [
            ("", clear(), own(), platform(), own()),
            ("disable", clear(), clear(), refused(), refused()),
            ("allow", clear(), clear(), refused(), refused()),
            ("prefer", clear(), clear(), refused(), refused()),
            ("require", platform(), own(), platform(), own()),
            ("verify-ca", platform(), own(), platform(), own()),
            ("verify-full", platform(), own(), platform(), own()),
            ("verify_full", refused(), refused(), refused(), refused()),
        ] {
            let mode = if mode.is_empty() { "?".to_owned() } else { format!("?sslmode={mode}") };
            let tls = |place: &str, roots: &str| {
                let url = format!("postgres://app:s3cr3t@{place}/concur{mode}{roots}");
                Target::parse(&url).map(|target| {
                    let required = target.config.get_ssl_mode() == SslMode::Require;
                    assert_eq!(required, target.tls.is_some(), "{url}");
                    target.tls
                })
            };
            for place in [
                "localhost",
                "127.0.0.1",
                "127.9.9.9:6432",
                "[::1]",
                "[::ffff:127.0.0.1]",
                "localhost,127.0.0.1",
            ] {
                assert_eq!(tls(place, "").map_err(drop), local, "{place} {mode}");
                assert_eq!(tls(place, OWN).map_err(drop), local_own, "{place} {mode}");
            }
            for place in ["db.example", "10.0.0.1", "[fe80::1]", "localhost.example", "localhost,db.example"]
            {
                assert_eq!(tls(place, "").map_err(drop), foreign, "{place} {mode}");
                assert_eq!(tls(place, "&sslrootcert=system").map_err(drop), foreign, "{place} {mode}");
                assert_eq!(tls(place, OWN).map_err(drop), foreign_own, "{place} {mode}");
            }
        }
        #[cfg(unix)]
        for mode in ["", "&sslmode=disable", "&sslmode=prefer", "&sslmode=verify-full"] {
            assert_eq!(parse(&format!("postgres://app@/concur?host=/run/postgresql{mode}")).tls, None);
            assert_eq!(parse(&format!("postgres://app@%2Frun%2Fpostgresql/concur?{mode}")).tls, None);
        }
    }

    /// Where a connection goes counts, not what the host is called.
    #[test]
    fn an_address_decides_what_is_loopback() {
        assert!(parse("postgres://localhost/concur?hostaddr=10.0.0.1").tls.is_some());
        assert!(parse("postgres://db.example/concur?hostaddr=127.0.0.1").tls.is_none());
        assert_eq!(
            refusal("postgres://localhost/concur?hostaddr=10.0.0.1&sslmode=disable"),
            "sslmode=disable could send tokens to localhost:5432 without encryption; write sslmode=verify-full, and \
             sslrootcert=PATH if an authority of your own has signed the server's certificate"
        );
        assert_eq!(
            refusal("postgres:///concur?hostaddr=10.0.0.1"),
            "the database URL has a hostaddr without a host; add host=NAME, which the server's certificate must name"
        );
    }

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, name) in [
            ("postgres://app:s3cr3t@db.example/concur", "concur at db.example:5432"),
            ("postgresql://app:s3cr3t@db.example:6432/concur", "concur at db.example:6432"),
            ("postgres://app:s3cr%40t@a.example:1,b.example/x", "x at a.example:1, b.example:5432"),
            ("postgres://app@/x?host=a.example&host=b.example&port=1", "x at a.example:1, b.example:1"),
            ("postgres://app:s3cr3t@[::1]:6432/concur", "concur at [::1]:6432"),
            ("postgres://localhost/concur?user=app&password=s3cr3t", "concur at localhost:5432"),
            ("postgres://app@localhost", "app at localhost:5432"),
            #[cfg(unix)]
            ("postgres://app@/concur?host=/run/pg&port=6432", "concur at /run/pg/.s.PGSQL.6432"),
        ] {
            let database = super::super::database::Database::new(url).unwrap();
            assert_eq!(database.describe(), format!("PostgreSQL database {name}"));
            assert!(!format!("{database:?}").contains("s3cr"), "{database:?}");
        }
        assert_eq!(parse("postgres://app:s3cr%40t@localhost/x").config.get_password(), Some(&b"s3cr@t"[..]));
    }

    #[cfg(unix)]
    #[test]
    fn servers_are_of_one_kind_and_each_has_a_port_or_all_have_one() {
        let both = "the database URL has both sockets and hosts; name only the ones or only the others";
        assert_eq!(refusal("postgres://app@/x?host=/run/pg&host=localhost"), both);
        let ports = "the database URL has different numbers of host, hostaddr and port; name one of each for each server";
        assert_eq!(refusal("postgres://app@/x?host=a.example&host=b.example&host=c.example&port=1,2"), ports);
        assert_eq!(refusal("postgres://app@/x?host=a.example&port=1,2"), ports);
    }

    #[test]
    fn a_url_that_cannot_be_used_says_what_to_write_and_shows_no_password() {
        const SEPARATORS: &str = "the database URL has more than one @, or a / or ? before it; in user name, password and \
                                  options, write @ as %40, / as %2F and ? as %3F";
        for (url, message) in [
            (
                "host=localhost password=s3cr3t",
                "the database URL does not begin with postgres://; write it as \
                 postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            ),
            ("postgres://app:s3cr@t@db.example/concur", SEPARATORS),
            ("postgres://app:s3cr/t@db.example/concur", SEPARATORS),
            ("postgres://app:s3cr?t@db.example/concur", SEPARATORS),
            ("postgres://db.example/concur?user=app&password=s3cr@t", SEPARATORS),
            (
                "postgres://app:s3cr3t@db.example:s3cr3t/concur",
                "the database URL cannot be read; write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            ),
            (
                "postgres://app:s3cr3t@/concur",
                "the database URL names no server; write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE, or \
                 postgres://USER@/DATABASE?host=/var/run/postgresql for a socket",
            ),
            (
                "postgres://app@db.example/concur?sslcert=s3cr3t",
                "the option sslcert of the database URL is not supported: client certificates are not; sign in with a \
                 password",
            ),
            (
                "postgres://app@db.example/concur?s3cr3t",
                "an option in the database URL has no value; write NAME=VALUE, and & between two options",
            ),
            (
                "postgres://app@db.example/concur?channel_binding=require",
                "channel_binding=require is not supported; leave it out: the server's certificate and host name are \
                 checked",
            ),
            (
                "postgres://app@db.example/concur?target_session_attrs=read-only",
                "target_session_attrs=read-only: tokens cannot be saved there; write target_session_attrs=read-write",
            ),
        ] {
            assert_eq!(refusal(url), message, "{url}");
        }
        for (url, part) in [
            (
                "postgres://app@db.example/concur?s3cr3t=1",
                "has an option that is not supported; leave it out. Supported are",
            ),
            ("postgres://app@db%0As3cr.example/concur", "has a host with a character that no host has"),
            ("postgres://app@db.example/con%0As3cr", "has a control character"),
            ("postgres://app@a.example,b.example/concur?hostaddr=127.0.0.1", "has different numbers of"),
        ] {
            let message = refusal(url);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_the_url_leaves_open_is_set_and_what_it_says_stays() {
        let one = parse("postgres://localhost/concur").config;
        assert_eq!(one.get_application_name(), Some("concur-auth"));
        assert_eq!(one.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        assert_eq!(one.get_tcp_user_timeout(), Some(&super::super::database::LIMIT));
        assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::Any);
        let several = parse("postgres://localhost,127.0.0.1/concur").config;
        assert_eq!(several.get_connect_timeout(), Some(&CONNECT_TIMEOUT_OF_EACH));
        assert_eq!(several.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        let told =
            "connect_timeout=1&application_name=mine&keepalives_idle=7200&target_session_attrs=primary";
        let told = parse(&format!("postgres://localhost/concur?{told}")).config;
        assert_eq!(told.get_connect_timeout(), Some(&Duration::from_secs(1)));
        assert_eq!(told.get_application_name(), Some("mine"));
        assert_eq!(told.get_keepalives_idle(), Duration::from_secs(7200));
        assert_eq!(told.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}
