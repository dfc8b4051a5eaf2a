//! The statements of a fleet: many rows of one app.
//!
//! Always:
//! - What a worker asks for regularly costs about the same however many rows there are.
//! - No statement waits for a row that another process is claiming.
//!
//! `statement_timestamp()`, and not `clock_timestamp()`, stands in conditions for an index: an index is searched for one value,
//! and `clock_timestamp()` has another one for each row.

/// How many tokens are due, counted up to `$2`, and in how many seconds the next one is. Each half reads one end of an index: a
/// count of all would read as much as there is.
pub(in super::super) const DUE: &str = "
    SELECT (SELECT count(*)
              FROM (SELECT
                      FROM concur_auth_tokens
                     WHERE app_id = $1 AND renew_at <= statement_timestamp()
                     ORDER BY renew_at
                     LIMIT $2) AS due),
           (SELECT (extract(epoch FROM renew_at) - extract(epoch FROM statement_timestamp()))::float8
              FROM concur_auth_tokens
             WHERE app_id = $1 AND renew_at > statement_timestamp()
             ORDER BY renew_at
             LIMIT 1)";

/// Moves the next turn of tokens of which less than `$3` seconds are left to now, `$2` at most, those first that expire first. Not of a
/// token that was claimed without a save, or was refused: its turn is the end of its pause. Nor of a row that has changed within a
/// day, since a margin may be longer than a life.
///
/// The index of expiries is read from its beginning, up to the margin.
pub(in super::super) const BRING_FORWARD: &str = "
    UPDATE concur_auth_tokens
       SET renew_at = statement_timestamp()
     WHERE app_id = $1
       AND principal = ANY (ARRAY(
           SELECT principal
             FROM concur_auth_tokens
            WHERE app_id = $1
              AND refresh_expires_at <= statement_timestamp() + make_interval(secs => $3)
              AND renew_at > statement_timestamp()
              AND token IS NOT NULL AND state = 'active' AND claims = 0
              AND updated_at <= statement_timestamp() - interval '1 day'
            ORDER BY refresh_expires_at
            LIMIT $2
              FOR UPDATE SKIP LOCKED))";

/// Takes the leases of tokens that are due, `$2` at most, as `CLAIM` does ahead of time, and moves their next turn: an attempt
/// that fails, or a worker that is killed, needs no statement for that. What comes back together is spread by `random()`.
///
/// An array, because `IN (SELECT … LIMIT)` may be carried out more than once, and then takes more rows. `SKIP LOCKED` is where
/// PostgreSQL shares the rows out among the workers.
macro_rules! claim_due {
    ($order:literal) => {
        concat!(
            "
    UPDATE concur_auth_tokens
       SET ",
            claimed!(),
            ",
           claims = claims + 1,
           renew_at = clock_timestamp()
                      + least(interval '1 hour', interval '1 minute' * power(2, least(claims, 6))) * (1 - random() / 2)
     WHERE app_id = $1
       AND principal = ANY (ARRAY(
           SELECT principal
             FROM concur_auth_tokens
            WHERE app_id = $1 AND renew_at <= statement_timestamp() AND token IS NOT NULL
              AND ",
            claimable!("$5"),
            "
            ORDER BY ",
            $order,
            "
            LIMIT $2
              FOR UPDATE SKIP LOCKED))
 RETURNING ",
            found!(),
            ", principal, kind, extract(epoch FROM refresh_expires_at)::float8"
        )
    };
}

/// Where few tokens are due: all of them are read by `renew_at`, and sorted. The index of expiries does not have this order, so that
/// no plan reads through all that is not due.
pub(in super::super) const CLAIM_OF_FEW: &str = claim_due!("coalesce(refresh_expires_at, 'infinity')");

/// Where many are due: the index of expiries is read from its beginning, where nearly all are due, until there are enough.
pub(in super::super) const CLAIM_OF_MANY: &str = claim_due!("refresh_expires_at");

/// How many tokens are due that cannot be claimed; `$2` is for how many seconds a row in doubt is left alone. Where a claim of a worker
/// has moved the next turn, it is within the hour: no other rows are read.
pub(in super::super) const COUNT_BUSY: &str = concat!(
    "
    SELECT count(*)
      FROM concur_auth_tokens
     WHERE app_id = $1 AND renew_at <= statement_timestamp() + interval '1 hour' AND token IS NOT NULL
       AND CASE WHEN renew_at <= statement_timestamp()
                THEN NOT coalesce(",
    claimable!("$2"),
    ", false)
                ELSE claims > 0 AND lease_owner IS NOT NULL AND lease_until > clock_timestamp() END"
);

/// Ends all leases of holder `$2`, whose claim was not answered. It was made within the last minute, so the next turns of its rows
/// are within the hour: no other rows are read.
pub(in super::super) const RELEASE_ALL: &str = "
    UPDATE concur_auth_tokens
       SET lease_owner = NULL, lease_until = NULL
     WHERE app_id = $1 AND lease_owner = $2
       AND renew_at BETWEEN statement_timestamp() - interval '1 minute' AND statement_timestamp() + interval '1 hour'";

/// A member without its token. Until when a person has to act: as long as there is a token that may be valid, which is renewed.
macro_rules! member {
    () => {
        "
    SELECT principal, kind, token IS NOT NULL, state, reason,
           extract(epoch FROM needed_since)::float8,
           extract(epoch FROM refresh_expires_at)::float8,
           extract(epoch FROM renew_at)::float8,
           token IS NOT NULL AND state = 'needs_reauthorization' AND renew_at IS NOT NULL
           AND refresh_expires_at > statement_timestamp()
      FROM concur_auth_tokens
     WHERE app_id = $1"
    };
}

/// The principal `$2`.
pub(in super::super) const MEMBER: &str = concat!(member!(), " AND principal = $2");

/// The page after the principal `$2`, or the first one, of `$3` members.
pub(in super::super) const LIST: &str = concat!(
    member!(),
    " AND principal > coalesce($2, '')
     ORDER BY principal
     LIMIT $3"
);

pub(in super::super) const NEEDING_A_PERSON: &str = concat!(
    member!(),
    " AND state = 'needs_reauthorization' AND token IS NOT NULL
     ORDER BY principal"
);

/// Members, members that are active, members that need a person, and the first expiry of an active one.
pub(in super::super) const HEALTH: &str = "
    SELECT count(*),
           count(*) FILTER (WHERE state = 'active' AND token IS NOT NULL),
           count(*) FILTER (WHERE state = 'needs_reauthorization' AND token IS NOT NULL),
           extract(epoch FROM min(refresh_expires_at) FILTER (WHERE state = 'active' AND token IS NOT NULL))::float8
      FROM concur_auth_tokens
     WHERE app_id = $1";

/// Keeps every other transaction from both rows until this one ends. First the row of the token: the other may not be there yet, and is
/// then locked by `ASSIGN`, which comes later in any case. So no two transactions wait for each other.
///
/// Returns for each whether it is that of `$2`, its token, and whether it has a live lease.
pub(in super::super) const LOCK_BOTH: &str = "
    SELECT principal = $2, token, coalesce(lease_owner IS NOT NULL AND lease_until > clock_timestamp(), false)
      FROM concur_auth_tokens
     WHERE app_id = $1 AND principal IN ($2, $3)
     ORDER BY principal = $2 DESC
       FOR UPDATE";

/// How many tokens and notes each key has sealed, and how many tokens are not sealed.
#[cfg(feature = "sealing")]
pub(in super::super) const BY_SEALING_KEY: &str = r#"
    SELECT substring(text FROM '"sealed":"v1\.([A-Za-z0-9_-]+)\.'), count(*)
      FROM (SELECT app_id, token AS text FROM concur_auth_tokens WHERE token IS NOT NULL
             UNION ALL
            SELECT app_id, refusal FROM concur_auth_tokens WHERE refusal LIKE '{"sealed":%') AS texts
     WHERE app_id = $1
     GROUP BY 1"#;

/// Copies the token of `$2` to `$3`, in place of what may be there, as a sign-in stores it; `$4` is the jitter of `$3`,
/// `$5` the token's text there. The number of this sign-in and the version are larger than any before in both rows, so that what comes late is superseded. A lease on
/// `$3` stays its holder's. A doubt about the token comes with it.
pub(in super::super) const ASSIGN: &str = concat!(
    "
    INSERT INTO concur_auth_tokens AS member
           (app_id, principal, kind, token, save_id, version, sign_in, in_doubt_since, refresh_expires_at, renew_at, state)
    SELECT app_id, $3, kind, $5, save_id, version + 1, greatest(",
    now!(),
    ", sign_in + 1),
           CASE WHEN lease_owner IS NULL THEN in_doubt_since ELSE lease_until END,
           refresh_expires_at,
           ",
    due!("refresh_expires_at", "$4"),
    ",
           'active'
      FROM concur_auth_tokens
     WHERE app_id = $1 AND principal = $2 AND token IS NOT NULL
        ON CONFLICT (app_id, principal) DO UPDATE
       SET kind = excluded.kind,
           token = excluded.token,
           save_id = excluded.save_id,
           version = greatest(member.version + 1, excluded.version),
           sign_in = greatest(member.sign_in + 1, excluded.sign_in),
           in_doubt_since = excluded.in_doubt_since,
           refresh_expires_at = excluded.refresh_expires_at,
           renew_at = excluded.renew_at,
           claims = 0,
           state = excluded.state,
           reason = NULL,
           needed_since = NULL,
           failures = 0,
           refusal = NULL,
           last_error = NULL,
           updated_at = clock_timestamp()
 RETURNING ",
    durable!()
);

/// The last step of an assignment.
pub(in super::super) const DELETE: &str =
    "DELETE FROM concur_auth_tokens WHERE app_id = $1 AND principal = $2";
