//! The statements of one row, each a transaction of its own; those of many rows are in `fleet`.
//!
//! Always:
//! - Times are the database's, taken when the row is locked.
//! - A renewal is saved where the row still holds the save that was presented, or the lease is still its own, and a sign-in where
//!   it still descends from the sign-in that was found. That keeps what comes late from overwriting what is newer. After a restore, the older row counts
//!   as presented.
//! - A lease is prolonged or ended by its own holder only. What ends doubt is a save.
//! - What must survive a crash of the server has reached the disk when it is answered.
//!
//! `lease_model` explores what can happen between any two statements; what each condition is for is said there, rule by rule.

/// What a statement returns that must survive a crash of the server, whatever `synchronous_commit` is set to for the role
/// or the database. It holds for this transaction alone.
macro_rules! durable {
    () => {
        "set_config('synchronous_commit',
                    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"
    };
}

/// Microseconds by the database's clock.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// Parameters of all: `$1` application, `$2` principal.
pub(super) const READ: &str = "
    SELECT token, refusal, save_id, version, sign_in
      FROM concur_auth_tokens
     WHERE app_id = $1 AND principal = $2";

/// What a lease is taken on. The last column but one is the number of a sign-in under this lease: larger than that of any sign-in
/// before it.
macro_rules! found {
    () => {
        concat!(
            "token, refusal, save_id, version, sign_in, in_doubt_since IS NOT NULL AS in_doubt, greatest(",
            now!(),
            ", sign_in + 1), ",
            durable!()
        )
    };
}

/// What taking a lease does to a row. `$3` holder, `$4` seconds of the lease.
macro_rules! claimed {
    () => {
        "in_doubt_since = CASE WHEN lease_owner IS NULL THEN in_doubt_since ELSE lease_until END,
           lease_owner = $3,
           lease_until = clock_timestamp() + make_interval(secs => $4)"
    };
}

/// Whether a lease can be taken: there is no live one, and if the row is in doubt for less than `$doubt` seconds, its refresh token
/// dies within a week.
macro_rules! claimable {
    ($doubt:literal) => {
        concat!(
            "(lease_owner IS NULL OR lease_until <= clock_timestamp())
       AND (",
            $doubt,
            " = 0
            OR coalesce(lease_until, in_doubt_since, '-infinity') <= clock_timestamp() - make_interval(secs => ",
            $doubt,
            ")
            OR refresh_expires_at <= clock_timestamp() + interval '7 days')"
        )
    };
}

/// Takes the lease, returns what is stored, and proves that the database accepts writes. `$3` holder, `$4` seconds of the lease.
///
/// No row: there is a live lease, or the row is in doubt for less than `$5` seconds and its refresh token lives for more than a
/// week, or `$6` and the stored save is not `$7`, or there is no row at all.
pub(super) const CLAIM: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET ",
    claimed!(),
    "
     WHERE app_id = $1 AND principal = $2
       AND ",
    claimable!("$5"),
    "
       AND (NOT $6 OR save_id IS NOT DISTINCT FROM $7)
 RETURNING ",
    found!()
);

/// The same where there is no row. No row: there is one by now. (One statement for both, with `ON CONFLICT DO UPDATE`, takes
/// twice as long.)
pub(super) const MAKE: &str = concat!(
    "
    INSERT INTO concur_auth_tokens (app_id, principal, sign_in, lease_owner, lease_until)
    VALUES ($1, $2, ",
    now!(),
    ", $3, clock_timestamp() + make_interval(secs => $4))
        ON CONFLICT (app_id, principal) DO NOTHING
 RETURNING ",
    found!()
);

/// No row: the lease is another holder's, or the stored save is not `$5` any more. `$3` holder, `$4` seconds.
pub(super) const PROLONG: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET lease_until = clock_timestamp() + make_interval(secs => $4)
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $5
 RETURNING ",
    durable!()
);

/// When a worker should renew a token that expires at `$expiry`: at once, if that is not known. `$jitter` is the part of the
/// longest jitter that this principal has.
macro_rules! due {
    ($expiry:literal, $jitter:literal) => {
        concat!(
            "coalesce(clock_timestamp() + (",
            $expiry,
            " - clock_timestamp()) / 3
                      - ",
            $jitter,
            " * least(interval '20 days', (",
            $expiry,
            " - clock_timestamp()) / 9),
                      clock_timestamp())"
        )
    };
}

/// What a token leaves in the row. `$3` this save, `$4` token, `$5` kind, `$6` Unix seconds of the refresh token's expiry, `$7` the
/// principal's jitter, `$8` version that was found.
macro_rules! stored {
    () => {
        "save_id = $3,
           token = $4,
           kind = $5,
           refresh_expires_at = to_timestamp($6),
           claims = 0,
           version = greatest(version, $8) + 1,
           failures = 0,
           last_error = NULL,
           in_doubt_since = NULL,
           updated_at = clock_timestamp()"
    };
}

/// Saves what was renewed. No row: another token has been saved since, or the tokens were revoked, or this save is done.
///
/// While the lease is this holder's, what was saved since came late from an earlier holder, who sent the same token before: Concur
/// has answered this holder later, so this reply counts.
///
/// Further parameters: `$9` sign-in that was found, `$10` save that was presented, `$11` whether this ends the lease, then with the
/// note `$12`, `$13` holder.
pub(super) const SAVE: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET ",
    stored!(),
    ",
           renew_at = ",
    due!("to_timestamp($6)", "$7"),
    ",
           sign_in = $9,
           state = 'active',
           reason = NULL,
           needed_since = NULL,
           refusal = CASE WHEN $11 AND lease_owner = $13 THEN $12 ELSE refusal END,
           lease_owner = CASE WHEN $11 AND lease_owner = $13 THEN NULL ELSE lease_owner END,
           lease_until = CASE WHEN $11 AND lease_owner = $13 THEN NULL ELSE lease_until END
     WHERE app_id = $1 AND principal = $2
       AND (save_id IS NOT DISTINCT FROM $10
            OR (token IS NOT NULL AND lease_owner = $13 AND sign_in = $9 AND save_id IS DISTINCT FROM $3)
            OR (token IS NOT NULL AND version < $8 AND sign_in <= $9))
 RETURNING version, ",
    durable!()
);

/// Saves what a sign-in brought, in place of any token that descends from the sign-in that was found, `$9`. No row: there was
/// another sign-in since, or this save is done. `$10` this sign-in, `$11` why the token is of no use; then no worker renews it.
pub(super) const REPLACE: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET ",
    stored!(),
    ",
           renew_at = CASE WHEN $11 IS NULL THEN ",
    due!("to_timestamp($6)", "$7"),
    " END,
           sign_in = $10,
           state = CASE WHEN $11 IS NULL THEN 'active' ELSE 'needs_reauthorization' END,
           reason = $11,
           needed_since = CASE WHEN $11 IS NULL THEN NULL ELSE clock_timestamp() END
     WHERE app_id = $1 AND principal = $2
       AND (sign_in = $9 OR (token IS NOT NULL AND version < $8 AND sign_in < $9))
 RETURNING version, ",
    durable!()
);

/// No row: the lease is another holder's by now, or the stored save is not `$4` any more. `$3` holder, `$5` note. What is NULL of the
/// rest is left as it was: `$6` why a person is needed, `$7` since when, in Unix seconds, `$8` failures in a row, `$9` the last
/// error, `$10` in how many seconds the next attempt makes sense. `$11` what to say where Concur has refused the stored token for
/// good, and nothing was said yet: then no worker renews it, until a late save comes. Only a save makes a row active.
pub(super) const REMEMBER: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET refusal = $5,
           state = CASE WHEN $6 IS NULL AND $11 IS NULL THEN state ELSE 'needs_reauthorization' END,
           reason = coalesce($6, reason, $11),
           needed_since = CASE WHEN $6 IS NOT NULL THEN to_timestamp($7)
                               WHEN $11 IS NOT NULL THEN coalesce(needed_since, clock_timestamp())
                               ELSE needed_since END,
           failures = coalesce($8, failures),
           last_error = coalesce($9, last_error),
           renew_at = CASE WHEN $11 IS NOT NULL OR token IS NULL THEN NULL
                           WHEN $10 IS NULL THEN renew_at
                           ELSE clock_timestamp() + make_interval(secs => $10) END,
           updated_at = clock_timestamp()
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3 AND save_id IS NOT DISTINCT FROM $4
 RETURNING ",
    durable!()
);

/// After a revocation: removes every token that descends from sign-in `$3`, and raises the version also where there is none: a sign-in
/// that waits on a disk since then is superseded.
pub(super) const REMOVE: &str = concat!(
    "
    UPDATE concur_auth_tokens
       SET token = NULL,
           save_id = NULL,
           version = version + 1,
           refresh_expires_at = NULL,
           renew_at = NULL,
           claims = 0,
           state = 'signed_out',
           reason = NULL,
           needed_since = NULL,
           failures = 0,
           last_error = NULL,
           in_doubt_since = NULL,
           updated_at = clock_timestamp()
     WHERE app_id = $1 AND principal = $2 AND sign_in = $3
 RETURNING ",
    durable!()
);

/// Ends the lease of holder `$3`. Whether the row is in doubt stays.
pub(super) const RELEASE: &str = "
    UPDATE concur_auth_tokens
       SET lease_owner = NULL, lease_until = NULL
     WHERE app_id = $1 AND principal = $2 AND lease_owner = $3";

/// After a restore, or a failover to a replica that may lack the last saves: any token may have been spent since, and flights
/// may be under way. The lease is of no process, and lapses into doubt. `$1` seconds of the lease.
pub(super) const MARK_RESTORED: &str = "
      WITH marked AS (
           UPDATE concur_auth_tokens
              SET lease_owner = 'restored', lease_until = clock_timestamp() + make_interval(secs => $1)
            WHERE token IS NOT NULL
        RETURNING true)
    SELECT count(*) FROM marked";

pub(super) mod fleet;
