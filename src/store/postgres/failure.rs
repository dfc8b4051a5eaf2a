//! Why a statement has no outcome, or none that is known, and what to do about it.
//!
//! Always: of what the server says only the SQLSTATE is shown, with the name that PostgreSQL's manual gives to it (appendix A).
//! The server's message, detail and hint may quote a row, and so a token; for the same reason no error of tokio-postgres
//! becomes a source.

use std::{error::Error as StdError, io};

use tokio_postgres::error::SqlState;

use crate::{
    Error, ErrorKind, shown,
    tls::{self, Advice, tls_refusal},
};

const URL: &str = "in the database URL";

#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered with an error.
    Refused {
        state: String,
        connecting: bool,
    },
    /// The server does not prove its identity, or has no TLS.
    Unsafe {
        what: &'static str,
        advice: &'static str,
        cause: Option<Cause>,
    },
    /// The sign-in failed before the server answered with an error.
    NotSignedIn(&'static str),
    NotConnected(Option<Cause>),
    /// The statement was perhaps carried out.
    Lost(Option<Cause>),
    /// What arrived is not what was asked for.
    NotUnderstood(Option<Cause>),
    /// All connections were in use.
    NoPlace,
    ConnectTimeout,
    StatementTimeout,
    Forked,
}

/// The text of a foreign error, without what it quotes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Cause(String);

impl Cause {
    fn of(e: &(dyn StdError + 'static)) -> Self {
        Self(shown::with_causes(e))
    }
}

impl Failure {
    /// No connection was opened, so nothing was carried out. `None`: the attempt itself ended early.
    pub(super) fn of_connecting(e: Option<&tokio_postgres::Error>) -> Self {
        let Some(e) = e else { return Self::NotConnected(None) };
        if let Some(state) = state(e) {
            return Self::Refused { state, connecting: true };
        }
        if let Some(refusal) = tls_refusal(e) {
            let (what, advice) = explain_tls(refusal);
            return Self::Unsafe { what, advice, cause: Some(Cause::of(refusal)) };
        }
        match (e.source(), e.to_string().as_str()) {
            (Some(cause), _) if cause.is::<io::Error>() => Self::NotConnected(Some(Cause::of(cause))),
            (_, "error performing TLS handshake") => Self::Unsafe {
                what: "it offers no TLS",
                advice: "turn TLS on in the server (ssl = on), or connect through a socket or over loopback",
                cause: None,
            },
            (_, "invalid configuration") => {
                Self::NotSignedIn("the server asks for a password; write it into the database URL")
            }
            (_, "authentication error") => Self::NotSignedIn(
                "the sign-in failed; check the password in the database URL, and that the server asks for one by the \
                 method scram-sha-256",
            ),
            (None, _) if e.is_closed() => Self::NotConnected(None),
            _ => Self::NotUnderstood(None),
        }
    }

    /// The statement was sent, or was about to be.
    pub(super) fn of_statement(e: &tokio_postgres::Error) -> Self {
        if let Some(state) = state(e) {
            return Self::Refused { state, connecting: false };
        }
        match e.source() {
            _ if e.is_closed() => Self::Lost(None),
            Some(cause) if cause.is::<io::Error>() => Self::Lost(Some(Cause::of(cause))),
            // The cause may quote a value.
            _ => Self::NotUnderstood(Some(Cause(shown::unquoted(&e.to_string())))),
        }
    }

    /// Whether idle connections probably have the same fault: the server was restarted, or is a standby now.
    pub(super) fn concerns_all_connections(&self) -> bool {
        match self {
            Self::Refused { state, .. } => {
                state.starts_with("08") || state.starts_with("57P") || state == "25006"
            }
            Self::Lost(_) | Self::NotUnderstood(_) | Self::StatementTimeout => true,
            _ => false,
        }
    }

    pub(super) fn explain(&self, database: &str) -> Error {
        const AGAIN: &str = "it is not known whether the statement was carried out; try again";
        let (message, passes, cause) = match self {
            Self::Refused { state, connecting } => {
                let Condition { name, advice, passes } = condition(state);
                let what = if *connecting { "the connection" } else { "a statement" };
                (format!("{database} refused {what} with SQLSTATE {state} ({name}); {advice}"), passes, None)
            }
            Self::Unsafe { what, advice, cause } => {
                (format!("did not sign in to {database}: {what}; {advice}"), false, cause.as_ref())
            }
            Self::NotSignedIn(advice) => (format!("could not sign in to {database}: {advice}"), false, None),
            Self::NotConnected(cause) => {
                let advice = format!("check that the server runs, the network, and host and port {URL}");
                (format!("could not connect to {database}; {advice}"), true, cause.as_ref())
            }
            Self::Lost(cause) => {
                (format!("the connection to {database} broke off; {AGAIN}"), true, cause.as_ref())
            }
            Self::NotUnderstood(cause) => {
                let advice =
                    format!("check that host and port {URL} are those of PostgreSQL, version 12 or later");
                (format!("{database} did not answer as expected; {advice}"), false, cause.as_ref())
            }
            Self::NoPlace => {
                let advice = "try again, and check that the database answers quickly";
                (format!("all connections to {database} were in use for too long; {advice}"), true, None)
            }
            Self::ConnectTimeout => {
                let advice = format!("check that the server runs, the network, and host and port {URL}");
                (format!("could not connect to {database} in time; {advice}"), true, None)
            }
            Self::StatementTimeout => (format!("{database} did not answer in time; {AGAIN}"), true, None),
            Self::Forked => {
                let advice = "make stores in the forked child, or fork before the first statement";
                (
                    format!(
                        "the connections to {database} belong to the process that forked this one; {advice}"
                    ),
                    false,
                    None,
                )
            }
        };
        let error = match cause {
            Some(cause) => Error::store(message, cause.clone()),
            None => Error::new(ErrorKind::Store, message),
        };
        if passes { error.transient() } else { error }
    }
}

/// A server may send any text in place of its five letters and digits.
fn state(e: &tokio_postgres::Error) -> Option<String> {
    let state = e.code().map(SqlState::code)?;
    let is_one =
        state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    Some(if is_one { state.to_owned() } else { "unknown".to_owned() })
}

struct Condition {
    name: &'static str,
    advice: &'static str,
    /// By itself, or by another connection.
    passes: bool,
}

const TRY_AGAIN: &str = "try again";
const SERVERS_LOG: &str = "see the server's log";
const SIGN_IN: &str = "check user and password in the database URL, and the server's pg_hba.conf";
const MIGRATE: &str =
    "create or upgrade the tables with PostgresStore::migrate(), or: concur-auth fleet migrate";

/// The condition's name and what to do. A state without a row has the name of its class.
fn condition(state: &str) -> Condition {
    let (name, advice, passes) = match state {
        "08P01" => (
            "protocol_violation",
            "a pooler in between, such as PgBouncer, refuses user, password or options of the database URL like that; its log says \
             why",
            true,
        ),
        "22P02" => ("invalid_text_representation", SERVERS_LOG, false),
        "23502" => ("not_null_violation", SERVERS_LOG, false),
        "23505" => ("unique_violation", SERVERS_LOG, false),
        "23514" => ("check_violation", SERVERS_LOG, false),
        "25006" => (
            "read_only_sql_transaction",
            "the server takes no writes, as a standby does not; try again, and name the primary server in the database URL",
            true,
        ),
        "25P02" => ("in_failed_sql_transaction", TRY_AGAIN, true),
        "28P01" => ("invalid_password", SIGN_IN, false),
        "3D000" => {
            ("invalid_catalog_name", "create the database, or check its name in the database URL", false)
        }
        "3F000" => ("invalid_schema_name", "create the schema, or check the role's search_path", false),
        "40001" => ("serialization_failure", TRY_AGAIN, true),
        "40003" => ("statement_completion_unknown", TRY_AGAIN, true),
        "40P01" => ("deadlock_detected", TRY_AGAIN, true),
        "42501" => ("insufficient_privilege", "grant the database user rights on the tables", false),
        "42601" => ("syntax_error", SERVERS_LOG, false),
        "42703" => ("undefined_column", MIGRATE, false),
        "42883" => ("undefined_function", "PostgreSQL 12 or later is needed", false),
        "42P01" => ("undefined_table", MIGRATE, false),
        "53100" => ("disk_full", "make room on the server's disk", true),
        "53200" => ("out_of_memory", "try again, and check the server's memory", true),
        "53300" => (
            "too_many_connections",
            "try again, and raise the server's max_connections or use a pooler",
            true,
        ),
        "55P03" => ("lock_not_available", TRY_AGAIN, true),
        "57014" => ("query_canceled", "try again, and check the role's statement_timeout", true),
        "57P01" => ("admin_shutdown", TRY_AGAIN, true),
        "57P02" => ("crash_shutdown", TRY_AGAIN, true),
        "57P03" => ("cannot_connect_now", TRY_AGAIN, true),
        "57P04" => ("database_dropped", "create the database, or check its name in the database URL", false),
        "57P05" => ("idle_session_timeout", TRY_AGAIN, true),
        "58030" => ("io_error", SERVERS_LOG, false),
        "XX000" => ("internal_error", SERVERS_LOG, false),
        _ => match state.get(..2).unwrap_or_default() {
            "08" => ("connection_exception", TRY_AGAIN, true),
            "0A" => ("feature_not_supported", SERVERS_LOG, false),
            "22" => ("data_exception", SERVERS_LOG, false),
            "23" => ("integrity_constraint_violation", SERVERS_LOG, false),
            "25" => ("invalid_transaction_state", SERVERS_LOG, false),
            "28" => ("invalid_authorization_specification", SIGN_IN, false),
            "40" => ("transaction_rollback", TRY_AGAIN, true),
            "42" => ("syntax_error_or_access_rule_violation", SERVERS_LOG, false),
            "53" => ("insufficient_resources", "try again, and check the server's limits", true),
            "54" => ("program_limit_exceeded", SERVERS_LOG, false),
            "55" => ("object_not_in_prerequisite_state", SERVERS_LOG, false),
            "57" => ("operator_intervention", SERVERS_LOG, false),
            "58" => ("system_error", SERVERS_LOG, false),
            _ => ("no condition that this crate knows", SERVERS_LOG, false),
        },
    };
    Condition { name, advice, passes }
}

fn explain_tls(refusal: &rustls::Error) -> (&'static str, &'static str) {
    const ADVICE: Advice = Advice {
        authority: "if the authority is your own, write sslrootcert=PATH with its certificate into the database URL",
        clock: "check this machine's clock, and the server's certificate",
        ca: "let an authority sign a certificate for that host, and write sslrootcert=PATH with the authority's certificate into \
             the database URL",
        host: "check the host in the database URL",
    };
    match refusal {
        rustls::Error::InvalidCertificate(fault) => tls::explain(fault, &ADVICE),
        _ => ("no safe TLS connection could be made", "check the server's TLS settings"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    const DATABASE: &str = "PostgreSQL database concur at db.example:5432";

    fn refused(state: &str) -> Error {
        Failure::Refused { state: state.to_owned(), connecting: false }.explain(DATABASE)
    }

    #[test]
    fn a_refusal_shows_the_sqlstate_its_name_and_what_to_do() {
        assert_eq!(
            refused("42P01").to_string(),
            "PostgreSQL database concur at db.example:5432 refused a statement with SQLSTATE 42P01 (undefined_table); create \
             or upgrade the tables with PostgresStore::migrate(), or: concur-auth fleet migrate"
        );
        let connecting = Failure::Refused { state: "28P01".to_owned(), connecting: true };
        assert_eq!(
            connecting.explain(DATABASE).to_string(),
            "PostgreSQL database concur at db.example:5432 refused the connection with SQLSTATE 28P01 (invalid_password); \
             check user and password in the database URL, and the server's pg_hba.conf"
        );
    }

    #[test]
    fn each_sqlstate_has_the_name_that_postgresql_gives_it() {
        for (state, name) in [
            (SqlState::PROTOCOL_VIOLATION, "protocol_violation"),
            (SqlState::INVALID_TEXT_REPRESENTATION, "invalid_text_representation"),
            (SqlState::NOT_NULL_VIOLATION, "not_null_violation"),
            (SqlState::UNIQUE_VIOLATION, "unique_violation"),
            (SqlState::CHECK_VIOLATION, "check_violation"),
            (SqlState::READ_ONLY_SQL_TRANSACTION, "read_only_sql_transaction"),
            (SqlState::IN_FAILED_SQL_TRANSACTION, "in_failed_sql_transaction"),
            (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "invalid_authorization_specification"),
            (SqlState::INVALID_PASSWORD, "invalid_password"),
            (SqlState::INVALID_CATALOG_NAME, "invalid_catalog_name"),
            (SqlState::INVALID_SCHEMA_NAME, "invalid_schema_name"),
            (SqlState::T_R_SERIALIZATION_FAILURE, "serialization_failure"),
            (SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN, "statement_completion_unknown"),
            (SqlState::T_R_DEADLOCK_DETECTED, "deadlock_detected"),
            (SqlState::INSUFFICIENT_PRIVILEGE, "insufficient_privilege"),
            (SqlState::SYNTAX_ERROR, "syntax_error"),
            (SqlState::UNDEFINED_COLUMN, "undefined_column"),
            (SqlState::UNDEFINED_FUNCTION, "undefined_function"),
            (SqlState::UNDEFINED_TABLE, "undefined_table"),
            (SqlState::DISK_FULL, "disk_full"),
            (SqlState::OUT_OF_MEMORY, "out_of_memory"),
            (SqlState::TOO_MANY_CONNECTIONS, "too_many_connections"),
            (SqlState::LOCK_NOT_AVAILABLE, "lock_not_available"),
            (SqlState::QUERY_CANCELED, "query_canceled"),
            (SqlState::ADMIN_SHUTDOWN, "admin_shutdown"),
            (SqlState::CRASH_SHUTDOWN, "crash_shutdown"),
            (SqlState::CANNOT_CONNECT_NOW, "cannot_connect_now"),
            (SqlState::DATABASE_DROPPED, "database_dropped"),
            (SqlState::IDLE_SESSION_TIMEOUT, "idle_session_timeout"),
            (SqlState::IO_ERROR, "io_error"),
            (SqlState::INTERNAL_ERROR, "internal_error"),
            // By their classes.
            (SqlState::CONNECTION_EXCEPTION, "connection_exception"),
            (SqlState::FEATURE_NOT_SUPPORTED, "feature_not_supported"),
            (SqlState::DATA_EXCEPTION, "data_exception"),
            (SqlState::INTEGRITY_CONSTRAINT_VIOLATION, "integrity_constraint_violation"),
            (SqlState::INVALID_TRANSACTION_STATE, "invalid_transaction_state"),
            (SqlState::TRANSACTION_ROLLBACK, "transaction_rollback"),
            (SqlState::SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION, "syntax_error_or_access_rule_violation"),
            (SqlState::INSUFFICIENT_RESOURCES, "insufficient_resources"),
            (SqlState::PROGRAM_LIMIT_EXCEEDED, "program_limit_exceeded"),
            (SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "object_not_in_prerequisite_state"),
            (SqlState::OPERATOR_INTERVENTION, "operator_intervention"),
            (SqlState::SYSTEM_ERROR, "system_error"),
            (SqlState::from_code("28999"), "invalid_authorization_specification"),
            (SqlState::RAISE_EXCEPTION, "no condition that this crate knows"),
        ] {
            assert_eq!(condition(state.code()).name, name, "{}", state.code());
        }
    }

    #[test]
    fn what_is_not_a_refusal_says_what_to_do() {
        for (failure, message) in [
            (
                Failure::NotSignedIn("the server asks for a password; write it into the database URL"),
                "could not sign in to PostgreSQL database concur at db.example:5432: the server asks for a password; write it \
                 into the database URL",
            ),
            (
                Failure::Forked,
                "the connections to PostgreSQL database concur at db.example:5432 belong to the process that forked this one; \
                 make stores in the forked child, or fork before the first statement",
            ),
        ] {
            assert_eq!(failure.explain(DATABASE).to_string(), message);
        }
    }

    /// The port of a server that answers one after the other of what a client sends, and then hangs up.
    fn server(answers: Vec<&'static [u8]>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            for answer in answers {
                assert_ne!(connection.read(&mut [0; 4096]).unwrap(), 0);
                connection.write_all(answer).unwrap();
            }
        });
        port
    }

    fn config(port: u16, options: &str) -> String {
        format!("host=127.0.0.1 port={port} user=u {options}")
    }

    async fn connecting(port: u16, options: &str) -> String {
        let connected = tokio_postgres::connect(&config(port, options), tokio_postgres::NoTls).await;
        Failure::of_connecting(connected.err().as_ref()).explain(DATABASE).to_string()
    }

    #[tokio::test]
    async fn what_a_server_does_before_the_sign_in_is_told() {
        let nothing = "PostgreSQL database concur at db.example:5432 did not answer as expected; check that host and port in the \
                       database URL are those of PostgreSQL, version 12 or later";
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let told = connecting(bound.local_addr().unwrap().port(), "").await;
        assert!(told.starts_with("could not connect to "), "{told}");
        for (options, answer, message) in [
            ("", &b""[..], "could not connect to "),
            ("", b"Z\0\0\0\x05I", nothing),
            ("", b"R\0\0\0\x08\0\0\0\x03", "the server asks for a password; write it into the database URL"),
            (
                "password=p",
                b"R\0\0\0\x08\0\0\0\x07",
                "the sign-in failed; check the password in the database URL",
            ),
            ("sslmode=require", b"N", "it offers no TLS; turn TLS on in the server"),
            ("", b"E\0\0\0\x1aSFATAL\0C28P01\0Mno\0R1\0\0", "SQLSTATE 28P01 (invalid_password)"),
            ("", b"E\0\0\0\x1aSFATAL\0C28p01\0Mno\0R1\0\0", "SQLSTATE unknown"),
            ("", b"E\0\0\0\x1aSFATAL\0C2-P01\0Mno\0R1\0\0", "SQLSTATE unknown"),
            ("", b"E\0\0\0\x1bSFATAL\0C28P011\0Mno\0R1\0\0", "SQLSTATE unknown"),
        ] {
            let told = connecting(server(vec![answer]), options).await;
            assert!(told.contains(message), "{answer:?}: {told}");
        }
    }

    #[tokio::test]
    async fn what_a_server_does_with_a_statement_is_told() {
        const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        for (answer, message) in [
            (&b""[..], "the connection to PostgreSQL database concur at db.example:5432 broke off"),
            // A description of one column that is not there, and the answer to another message.
            (
                b"T\0\0\0\x06\0\x01",
                "the connection to PostgreSQL database concur at db.example:5432 broke off",
            ),
            (b"1\0\0\0\x04", "PostgreSQL database concur at db.example:5432 did not answer as expected"),
            (b"E\0\0\0\x1aSERROR\0C23505\0Mno\0R1\0\0", "SQLSTATE 23505 (unique_violation)"),
        ] {
            let url = config(server(vec![READY, answer]), "");
            let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let error = client.simple_query("SELECT 1").await.err().unwrap();
            let told = Failure::of_statement(&error).explain(DATABASE).to_string();
            assert!(told.contains(message), "{answer:?}: {told}");
        }
    }

    /// It may quote a token.
    #[tokio::test]
    async fn a_value_that_cannot_be_sent_is_not_shown() {
        let url = config(server(vec![b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"]), "");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let error = client.query_typed("SELECT $1", &[(&"secret", tokio_postgres::types::Type::INT4)]).await;
        let told = Failure::of_statement(&error.err().unwrap()).explain(DATABASE);
        assert!(told.to_string().contains("did not answer as expected"), "{told}");
        assert!(!format!("{told:?}").contains("secret"), "{told:?}");
    }

    #[test]
    fn after_a_restart_or_a_change_of_roles_all_connections_are_suspect() {
        let refused = |state: &str| Failure::Refused { state: state.to_owned(), connecting: false };
        for failure in [
            refused("08006"),
            refused("57P01"),
            refused("25006"),
            Failure::Lost(None),
            Failure::NotUnderstood(None),
            Failure::StatementTimeout,
        ] {
            assert!(failure.concerns_all_connections(), "{failure:?}");
        }
        for failure in [refused("23505"), refused("57014"), Failure::NoPlace, Failure::Forked] {
            assert!(!failure.concerns_all_connections(), "{failure:?}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_transient() {
        for state in [
            "08000", "08006", "08P01", "25006", "40001", "40P01", "53000", "53100", "53300", "55P03",
            "57014", "57P01", "57P02", "57P03", "57P05",
        ] {
            assert!(refused(state).is_transient(), "{state}");
        }
        for state in [
            "22P02", "23505", "28000", "28P01", "3D000", "42501", "42601", "42P01", "57000", "57P04",
            "58030", "XX000", "unknown", "P0001",
        ] {
            assert!(!refused(state).is_transient(), "{state}");
        }
        for failure in [
            Failure::NotConnected(None),
            Failure::Lost(None),
            Failure::NoPlace,
            Failure::ConnectTimeout,
            Failure::StatementTimeout,
        ] {
            assert!(failure.explain(DATABASE).is_transient(), "{failure:?}");
        }
    }
}
