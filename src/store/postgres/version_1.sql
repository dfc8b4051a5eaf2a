CREATE TABLE concur_auth_tokens (
    app_id             text NOT NULL,
    principal          text NOT NULL,
    kind               text NOT NULL DEFAULT 'company' CHECK (kind IN ('company', 'user')),
    token              text,               -- the refresh token object, as JSON
    save_id            text,               -- of the reply that is stored: what saves are compared by
    version            bigint NOT NULL DEFAULT 0, -- counts saves
    sign_in            bigint NOT NULL DEFAULT 0, -- the sign-in that the token descends from
    lease_owner        text,               -- who is renewing
    lease_until        timestamptz,        -- until when, by this database's clock
    in_doubt_since     timestamptz,        -- when a lease lapsed whose holder may have spent the token
    refresh_expires_at timestamptz,
    renew_at           timestamptz,        -- when a worker should renew it
    state              text NOT NULL DEFAULT 'signed_out'
                       CHECK (state IN ('active', 'needs_reauthorization', 'signed_out')),
    reason             text,               -- why a person is needed
    needed_since       timestamptz,
    failures           integer NOT NULL DEFAULT 0, -- in a row
    refusal            text,               -- what Concur refused, for all workers
    last_error         text,
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (app_id, principal)
);
COMMENT ON TABLE concur_auth_tokens IS 'SAP Concur tokens, kept by the Rust crate concur-auth. The column token is secret.';
