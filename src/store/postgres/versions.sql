CREATE TABLE IF NOT EXISTS concur_auth_schema (
    version     integer PRIMARY KEY,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
