//! The statements of many rows: which tokens are due, and who the members are.
//!
//! Always: as for one row. A claim of many rows leaves no row in a state in which a claim of one would not leave it, and takes only
//! rows that no other claim takes at the same time.

/// What is due, as far as an index can tell: `clock_timestamp()` changes within a statement, so no index is used for it. A
/// transaction of one statement begins a moment before.
macro_rules! is_due {
    () => {
        "renew_at <= statement_timestamp()"
    };
}

/// How many rows a worker looks at to find out whether there is a backlog.
pub(in super::super) const BACKLOG: i64 = 500;

/// `$1` application, `$2` the most that is counted. How many tokens are due, and in how many seconds the next one is.
pub(in super::super) const LOOK: &str = concat!(
    "
    SELECT (SELECT count(*)
              FROM (SELECT FROM concur_auth_tokens WHERE app_id = $1 AND ",
    is_due!(),
    " LIMIT $2) AS due),
           (SELECT extract(epoch FROM min(renew_at) - statement_timestamp())::float8
              FROM concur_auth_tokens WHERE app_id = $1 AND NOT (",
    is_due!(),
    "))"
);

/// Parameters of the claims: `$1` application, `$2` the most rows, `$3` holder, `$4` seconds of the lease, `$5` of doubt.
///
/// A row that was claimed is not due again before a pause is over, of a minute, doubling with each claim without a save up to an
/// hour, and cut by up to a half: so what fails, or is killed, comes back later without a further statement. `= ANY (ARRAY (…))`:
/// with `IN (…)` more rows than the limit may be taken.
macro_rules! claim {
    ($($which:tt)*) => {
        concat!(
            "
    UPDATE concur_auth_tokens
       SET ",
            leased!(),
            ",
           claims = claims + 1,
           renew_at = clock_timestamp()
                      + least(interval '1 hour', interval '1 minute' * 2 ^ least(claims, 6)) * (0.5 + random() / 2)
     WHERE app_id = $1
       AND principal = ANY (ARRAY (",
            $($which)*,
            "))
 RETURNING ",
            found!(),
            ", principal, kind, lease_owner, extract(epoch FROM refresh_expires_at)::float8"
        )
    };
}

/// Where few tokens are due: all of them are looked at, by the index of due times, and those that expire first are claimed. The
/// conditions come twice: the second time they hold once the row is locked.
pub(in super::super) const CLAIM: &str = claim!(concat!(
    "
            WITH due AS MATERIALIZED (
                 SELECT principal FROM concur_auth_tokens
                  WHERE app_id = $1 AND ",
    is_due!(),
    " AND ",
    is_free!(),
    "
                  ORDER BY renew_at LIMIT 500)
            SELECT principal FROM concur_auth_tokens
             WHERE app_id = $1 AND principal IN (SELECT principal FROM due) AND ",
    is_due!(),
    " AND ",
    is_free!(),
    "
             ORDER BY refresh_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED"
));

/// Where many are due, nearly every token that expires soon is: those are looked at first, by the index of expiries. With the
/// interval, the index of due times does not fit, so that it is not taken by mistake, with a sort of all that is due.
pub(in super::super) const CLAIM_OF_BACKLOG: &str = claim!(concat!(
    "
            SELECT principal FROM concur_auth_tokens
             WHERE app_id = $1 AND renew_at IS NOT NULL AND renew_at + interval '0' <= statement_timestamp() AND ",
    is_free!(),
    "
             ORDER BY refresh_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED"
));

/// Ends all leases of holder `$2`.
pub(in super::super) const RELEASE: &str = "
    UPDATE concur_auth_tokens
       SET lease_owner = NULL, lease_until = NULL
     WHERE app_id = $1 AND lease_owner = $2";

macro_rules! member {
    () => {
        "SELECT principal, kind, CASE WHEN token IS NULL THEN 'signed_out' ELSE state END, reason,
           extract(epoch FROM needed_since)::float8, extract(epoch FROM refresh_expires_at)::float8,
           extract(epoch FROM renew_at)::float8
      FROM concur_auth_tokens"
    };
}

/// `$1` application, `$2` the name after which the page begins, `$3` the most.
pub(in super::super) const LIST: &str =
    concat!("\n    ", member!(), "\n     WHERE app_id = $1 AND principal > $2 ORDER BY principal LIMIT $3");

/// `$1` application.
pub(in super::super) const NEEDING_A_PERSON: &str = concat!(
    "\n    ",
    member!(),
    "\n     WHERE app_id = $1 AND state = 'needs_reauthorization' AND token IS NOT NULL ORDER BY principal"
);

/// `$1` application.
pub(in super::super) const HEALTH: &str = "
    SELECT CASE WHEN token IS NULL THEN 'signed_out' ELSE state END AS state, count(*),
           extract(epoch FROM min(refresh_expires_at))::float8
      FROM concur_auth_tokens
     WHERE app_id = $1
     GROUP BY 1";

/// Moves the token of the pending `$2` to `$3`, whose jitter is `$4`, as a sign-in stores it: what a renewal saves later that began
/// before is superseded. No row: there is no token, or its renewal is under way.
pub(in super::super) const ASSIGN: &str = concat!(
    "
      WITH moved AS (
           DELETE FROM concur_auth_tokens
            WHERE app_id = $1 AND principal = $2 AND token IS NOT NULL
              AND (lease_owner IS NULL OR lease_until <= clock_timestamp())
        RETURNING kind, token, save_id, version, refresh_expires_at)
    INSERT INTO concur_auth_tokens AS kept
           (app_id, principal, kind, token, save_id, version, sign_in, refresh_expires_at, renew_at, state)
    SELECT $1, $3, kind, token, save_id, version, ",
    now!(),
    ", refresh_expires_at, ",
    renew_at!("refresh_expires_at", "$4"),
    ", 'active'
      FROM moved
        ON CONFLICT (app_id, principal) DO UPDATE
       SET kind = excluded.kind,
           token = excluded.token,
           save_id = excluded.save_id,
           version = greatest(kept.version, excluded.version) + 1,
           sign_in = greatest(excluded.sign_in, kept.sign_in + 1),
           refresh_expires_at = excluded.refresh_expires_at,
           renew_at = excluded.renew_at,
           state = 'active',
           reason = NULL,
           needed_since = NULL,
           failures = 0,
           refusal = NULL,
           last_error = NULL,
           claims = 0,
           in_doubt_since = NULL,
           updated_at = clock_timestamp()
 RETURNING ",
    durable!()
);

/// Why nothing was moved. `$2` the pending name.
pub(in super::super) const HAS_TOKEN: &str =
    "SELECT token IS NOT NULL FROM concur_auth_tokens WHERE app_id = $1 AND principal = $2";
