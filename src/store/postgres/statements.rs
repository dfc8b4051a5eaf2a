//! The statements of one row, each a transaction of its own.
//!
//! Always: times are the database's, taken when the row is locked; a lease ends with its own holder only; a save compares the
//! row's `save_id` with that of the token that was presented, which is what keeps a late save from overwriting a newer token.
//! `lease_model` explores what can happen between any two of them.

/// Parameters of all: `$1` application, `$2` principal.
pub(super) const READ: &str = "
    SELECT token, refusal, save_id
      FROM concur_auth_tokens
     WHERE app_id = $1 AND principal = $2";

/// Takes the lease, returns what is stored, and proves that the database accepts writes. No row: there is a live lease, or
/// the row is in doubt for less than `$5` seconds and its refresh token lives for more than a week, or `$6` and there is a
/// stored save.
///
/// `$3` holder, `$4` seconds of the lease.
pub(super) const CLAIM: &str = "
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
       AND (NOT $6 OR held.save_id IS NULL)
 RETURNING token, refusal, save_id, in_doubt_since IS NOT NULL AS in_doubt";

/// [`CLAIM`] where the stored save must still be `$6`, so the row is there: PostgreSQL plans an `UPDATE` in half the time.
///
/// No row: as there, or the row was deleted.
pub(super) const CLAIM_KNOWN: &str = "
    UPDATE concur_auth_tokens AS held
       SET in_doubt_since = CASE WHEN held.lease_owner IS NULL THEN held.in_doubt_since
                                 ELSE coalesce(held.in_doubt_since, held.lease_until) END,
           lease_owner = $3,
           lease_until = clock_timestamp() + make_interval(secs => $4)
     WHERE app_id = $1 AND principal = $2 AND save_id = $6
       AND (held.lease_owner IS NULL OR held.lease_until <= clock_timestamp())
       AND (coalesce(held.in_doubt_since, held.lease_until, '-infinity') <= clock_timestamp() - make_interval(secs => $5)
            OR held.refresh_expires_at <= clock_timestamp() + interval '7 days')
 RETURNING token, refusal, save_id, in_doubt_since IS NOT NULL AS in_doubt";

/// No row: the lease is another holder's, or the stored save is not `$5` any more. `$3` holder, `$4` seconds.
pub(super) const PROLONG: &str = "
    UPDATE concur_auth_tokens
       SET lease_until = clock_timestamp() + make_interval(secs => $4)
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $5
 RETURNING true";

/// No row: another token has been saved since, the tokens were revoked, or the row was deleted: see [`SAVE_IN_ANY_CASE`].
///
/// `$3` holder, `$4` the save whose token was presented, `$5` this save, `$6` token, `$7` kind, `$8` Unix seconds of the refresh
/// token's expiry, `$9` the part of the longest jitter that this principal has, `$10` whether this ends the lease, and then
/// `$11` is the note.
///
/// It commits before it answers, whatever the role's or the database's `synchronous_commit` says.
pub(super) const SAVE: &str = "
    UPDATE concur_auth_tokens AS held
       SET kind = $7,
           token = $6,
           version = held.version + CASE WHEN held.save_id IS NOT DISTINCT FROM $5 THEN 0 ELSE 1 END,
           save_id = $5,
           refresh_expires_at = to_timestamp($8),
           renew_at = clock_timestamp() + (to_timestamp($8) - clock_timestamp()) / 3
               - $9 * least(interval '20 days', (to_timestamp($8) - clock_timestamp()) / 9),
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
     WHERE app_id = $1 AND principal = $2
       AND (held.save_id IS NOT DISTINCT FROM $4 OR held.save_id = $5)
       AND set_config('synchronous_commit', 'on', true) = 'on'
 RETURNING true";

/// The same, and a row that an administrator has deleted is made again: what Concur has just issued must not be lost. It takes
/// PostgreSQL twice as long to plan, so it is asked only where [`SAVE`] has found no row.
pub(super) const SAVE_IN_ANY_CASE: &str = "
    WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
    INSERT INTO concur_auth_tokens AS held
           (app_id, principal, kind, token, save_id, version, refresh_expires_at, renew_at, state, refusal)
    SELECT $1, $2, $7, $6, $5, 1, dates.expires_at,
           clock_timestamp() + (dates.expires_at - clock_timestamp()) / 3
               - $9 * least(interval '20 days', (dates.expires_at - clock_timestamp()) / 9),
           'active', $11
      FROM durable, (SELECT to_timestamp($8) AS expires_at) AS dates
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
 RETURNING true";

/// No row: the lease is another holder's by now, or the stored save is not `$4` any more. `$3` holder, `$5` note, `$6` whether a
/// person is needed, `$7` since when, in Unix seconds, `$8` failures in a row, `$9` the last error.
pub(super) const REMEMBER: &str = "
    UPDATE concur_auth_tokens
       SET refusal = $5,
           state = CASE WHEN $6 THEN 'needs_reauthorization' WHEN state = 'signed_out' THEN state ELSE 'active' END,
           reason = CASE WHEN $6 THEN $9 END,
           needed_since = CASE WHEN $6 THEN to_timestamp($7) END,
           failures = $8,
           last_error = $9,
           updated_at = clock_timestamp()
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $4
 RETURNING true";

/// No row: there is none, or a newer token than that of save `$3`.
pub(super) const REMOVE: &str = "
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
 RETURNING true";

/// Ends the lease of holder `$3`. Whether the row is in doubt stays.
pub(super) const RELEASE: &str = "
    UPDATE concur_auth_tokens
       SET lease_owner = NULL, lease_until = NULL
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3";

/// After a restore, or a failover to a replica that may lack the last saves: any token may have been spent since.
pub(super) const MARK_RESTORED: &str = "
    UPDATE concur_auth_tokens
       SET in_doubt_since = clock_timestamp(), lease_owner = NULL, lease_until = NULL
     WHERE token IS NOT NULL
 RETURNING true";
