-- For workers that keep many companies: which tokens are due, and how often a token was claimed in a row without being saved.
ALTER TABLE concur_auth_tokens ADD COLUMN claims integer NOT NULL DEFAULT 0;
-- A token without an expiry is due at once.
UPDATE concur_auth_tokens SET renew_at = clock_timestamp() WHERE token IS NOT NULL AND renew_at IS NULL;
CREATE INDEX concur_auth_tokens_due ON concur_auth_tokens (app_id, renew_at) WHERE renew_at IS NOT NULL;
CREATE INDEX concur_auth_tokens_expiry ON concur_auth_tokens (app_id, refresh_expires_at) WHERE renew_at IS NOT NULL;
CREATE INDEX concur_auth_tokens_needs ON concur_auth_tokens (app_id, principal) WHERE state = 'needs_reauthorization';
