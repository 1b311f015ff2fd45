-- +goose Up
-- One row per identity that has written. An owner is the short form of an
-- identity. own_ columns are limits that the operator set; 0 sets none.
CREATE TABLE backups_identities (
    owner             BYTEA NOT NULL PRIMARY KEY,
    identity          TEXT NOT NULL UNIQUE,
    seq               BIGINT NOT NULL,
    head              BYTEA NOT NULL,
    log_from          BIGINT NOT NULL,
    objects           BIGINT NOT NULL,
    stored_bytes      BIGINT NOT NULL,
    history_bytes     BIGINT NOT NULL,
    day               BIGINT NOT NULL,
    day_writes        BIGINT NOT NULL,
    day_bytes         BIGINT NOT NULL,
    own_bytes         BIGINT NOT NULL,
    own_objects       BIGINT NOT NULL,
    own_object_bytes  BIGINT NOT NULL,
    own_day_writes    BIGINT NOT NULL,
    own_day_bytes     BIGINT NOT NULL,
    own_history_bytes BIGINT NOT NULL,
    blocked           BOOLEAN NOT NULL,
    swept_seq         BIGINT NOT NULL,
    swept_ms          BIGINT NOT NULL,
    created_ms        BIGINT NOT NULL,
    written_ms        BIGINT NOT NULL
);

-- What is stored now. Names are bytes, so that they compare the same way on
-- every database and no character of them has a meaning.
CREATE TABLE backups_objects (
    owner      BYTEA NOT NULL,
    store_id   BYTEA NOT NULL,
    object_key BYTEA NOT NULL,
    version    BIGINT NOT NULL,
    size       BIGINT NOT NULL,
    seq        BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    PRIMARY KEY (owner, store_id, object_key)
);
CREATE INDEX backups_objects_created ON backups_objects (owner, store_id, created);

-- Every change ever made, and with it the value while it is the present one or
-- kept as history. Rows are never changed but for letting a value go. value
-- comes last, so that the rest is read without it.
CREATE TABLE backups_log (
    owner      BYTEA NOT NULL,
    seq        BIGINT NOT NULL,
    op         TEXT NOT NULL,
    store_id   BYTEA NOT NULL,
    object_key BYTEA NOT NULL,
    version    BIGINT NOT NULL,
    content    BYTEA NOT NULL,
    size       BIGINT NOT NULL,
    at_ms      BIGINT NOT NULL,
    value      BYTEA,
    PRIMARY KEY (owner, seq)
);
CREATE INDEX backups_log_values ON backups_log (owner, store_id, object_key, seq) WHERE value IS NOT NULL;

-- The present epoch: it changes when the database went back.
CREATE TABLE backups_meta (
    id       BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch    BYTEA NOT NULL,
    began_ms BIGINT NOT NULL,
    restores BIGINT NOT NULL
);

-- The key that signs receipts, where replicas share it through the database.
-- It is to be guarded like the macaroon.
CREATE TABLE backups_keys (
    name   TEXT NOT NULL PRIMARY KEY,
    secret BYTEA NOT NULL
);

-- +goose Down
DROP TABLE backups_keys;
DROP TABLE backups_meta;
DROP TABLE backups_log;
DROP TABLE backups_objects;
DROP TABLE backups_identities;
