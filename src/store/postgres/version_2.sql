ALTER TABLE concur_auth_tokens
    ADD COLUMN claims integer NOT NULL DEFAULT 0; -- by workers, in a row, without a save
UPDATE concur_auth_tokens SET renew_at = clock_timestamp() WHERE token IS NOT NULL AND renew_at IS NULL;
CREATE INDEX concur_auth_tokens_due ON concur_auth_tokens (app_id, renew_at) WHERE renew_at IS NOT NULL;
-- Of a backlog, the oldest expiry first. What is not due yet is left out without a look at the row.
CREATE INDEX concur_auth_tokens_expiring ON concur_auth_tokens (app_id, refresh_expires_at, renew_at)
    WHERE renew_at IS NOT NULL;
CREATE INDEX concur_auth_tokens_needing_a_person ON concur_auth_tokens (app_id, principal)
    WHERE state = 'needs_reauthorization';
-- Each renewal leaves two dead entries at the front of these indexes, where workers look.
ALTER TABLE concur_auth_tokens SET (autovacuum_vacuum_scale_factor = 0.02);
