//! The statements of one row, each a transaction of its own.
//!
//! Always: times are the database's, taken when the row is locked; a lease ends with its own holder only; a save compares the
//! row's `save_id` with that of the token that was presented, which is what keeps a late save from overwriting a newer token.
//! A claim and a save have reached the disk when they are answered. `lease_model` explores what can happen between any two
//! statements.

/// What a statement returns that must survive a crash of the server, whatever `synchronous_commit` is set to for the role
/// or the database. It holds for this transaction alone.
macro_rules! durable {
    () => {
        "set_config('synchronous_commit',
                    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"
    };
}

/// Parameters of all: `$1` application, `$2` principal.
pub(super) const READ: &str = "
    SELECT token, refusal, save_id
      FROM concur_auth_tokens
     WHERE app_id = $1 AND principal = $2";

/// Takes the lease, returns what is stored, and proves that the database accepts writes. No row: there is a live lease, or
/// the row is in doubt for less than `$5` seconds and its refresh token lives for more than a week, or `$6` and the stored
/// save is not `$7`.
///
/// `$3` holder, `$4` seconds of the lease.
pub(super) const CLAIM: &str = concat!("
    INSERT INTO concur_auth_tokens AS held (app_id, principal, lease_owner, lease_until)
    VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
        ON CONFLICT (app_id, principal) DO UPDATE
       SET in_doubt_since = CASE WHEN held.lease_owner IS NULL THEN held.in_doubt_since
                                 ELSE coalesce(held.in_doubt_since, held.lease_until) END,
           lease_owner = $3,
           lease_until = clock_timestamp() + make_interval(secs => $4)
     WHERE (held.lease_owner IS NULL OR held.lease_until <= clock_timestamp())
       AND (coalesce(held.in_doubt_since, held.lease_until, '-infinity') <= clock_timestamp() - make_interval(secs => $5)
            OR held.refresh_expires_at <= clock_timestamp() + interval '7 days')
       AND (NOT $6 OR held.save_id IS NOT DISTINCT FROM $7)
 RETURNING token, refusal, save_id, in_doubt_since IS NOT NULL AS in_doubt, ", durable!());

/// No row: the lease is another holder's, or the stored save is not `$5` any more. `$3` holder, `$4` seconds.
pub(super) const PROLONG: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET lease_until = clock_timestamp() + make_interval(secs => $4)
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $5
 RETURNING ",
    durable!()
);

/// No row: another token has been saved since, or the tokens were revoked. A row that an administrator has deleted is made
/// again, since what Concur has just issued must not be lost.
///
/// `$3` holder, `$4` the save whose token was presented, `$5` this save, `$6` token, `$7` kind, `$8` Unix seconds of the refresh
/// token's expiry, `$9` the part of the longest jitter that this principal has, `$10` whether this ends the lease, and then
/// `$11` is the note.
pub(super) const SAVE: &str = concat!(
    "
    INSERT INTO concur_auth_tokens AS held
           (app_id, principal, kind, token, save_id, version, refresh_expires_at, renew_at, state, refusal)
    SELECT $1, $2, $7, $6, $5, 1, dates.expires_at,
           clock_timestamp() + (dates.expires_at - clock_timestamp()) / 3
               - $9 * least(interval '20 days', (dates.expires_at - clock_timestamp()) / 9),
           'active', $11
      FROM (SELECT to_timestamp($8) AS expires_at) AS dates
        ON CONFLICT (app_id, principal) DO UPDATE
       SET kind = excluded.kind,
           token = excluded.token,
           version = held.version + CASE WHEN held.save_id IS NOT DISTINCT FROM $5 THEN 0 ELSE 1 END,
           save_id = excluded.save_id,
           refresh_expires_at = excluded.refresh_expires_at,
           renew_at = excluded.renew_at,
           state = 'active',
           reason = NULL,
           needed_since = NULL,
           failures = 0,
           last_error = NULL,
           refusal = CASE WHEN $10 THEN $11 ELSE held.refusal END,
           in_doubt_since = NULL,
           lease_owner = CASE WHEN $10 AND held.lease_owner = $3 THEN NULL ELSE held.lease_owner END,
           lease_until = CASE WHEN $10 AND held.lease_owner = $3 THEN NULL ELSE held.lease_until END,
           updated_at = clock_timestamp()
     WHERE held.save_id IS NOT DISTINCT FROM $4 OR held.save_id = $5
 RETURNING ",
    durable!()
);

/// No row: the lease is another holder's by now, or the stored save is not `$4` any more. `$3` holder, `$5` note, `$6` whether a
/// person is needed, `$7` since when, in Unix seconds, `$8` failures in a row, `$9` the last error.
pub(super) const REMEMBER: &str = concat!("
    UPDATE concur_auth_tokens
       SET refusal = $5,
           state = CASE WHEN $6 THEN 'needs_reauthorization' WHEN state = 'signed_out' THEN state ELSE 'active' END,
           reason = CASE WHEN $6 THEN $9 END,
           needed_since = CASE WHEN $6 THEN to_timestamp($7) END,
           failures = $8,
           last_error = $9,
           updated_at = clock_timestamp()
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $4
 RETURNING ", durable!());

/// No row: there is none, or a newer token than that of save `$3`.
pub(super) const REMOVE: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET token = NULL,
           version = version + CASE WHEN token IS NULL THEN 0 ELSE 1 END,
           save_id = NULL,
           refresh_expires_at = NULL,
           renew_at = NULL,
           state = 'signed_out',
           reason = NULL,
           needed_since = NULL,
           in_doubt_since = NULL,
           updated_at = clock_timestamp()
     WHERE app_id = $1 AND principal = $2 AND (save_id IS NOT DISTINCT FROM $3 OR save_id IS NULL)
 RETURNING ",
    durable!()
);

/// Ends the lease of holder `$3`. Whether the row is in doubt stays.
pub(super) const RELEASE: &str = "
    UPDATE concur_auth_tokens
       SET lease_owner = NULL, lease_until = NULL
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3";

/// After a restore, or a failover to a replica that may lack the last saves: any token may have been spent since.
pub(super) const MARK_RESTORED: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET in_doubt_since = clock_timestamp(), lease_owner = NULL, lease_until = NULL
     WHERE token IS NOT NULL
 RETURNING ",
    durable!()
);
