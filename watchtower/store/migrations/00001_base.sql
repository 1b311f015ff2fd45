-- +goose Up
-- Who registered. own_ columns are limits that the operator set; 0 sets none.
-- tower_key is what tells tenants apart on the wire.
CREATE TABLE tower_tenants (
    id           BIGINT NOT NULL PRIMARY KEY,
    identity     TEXT NOT NULL UNIQUE,
    tower_key    BYTEA NOT NULL UNIQUE,
    sessions     BIGINT NOT NULL,
    updates      BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    own_sessions BIGINT NOT NULL,
    own_updates  BIGINT NOT NULL,
    own_bytes    BIGINT NOT NULL,
    suspended    BOOLEAN NOT NULL,
    reason       TEXT NOT NULL,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL
);
CREATE INDEX tower_tenants_expires ON tower_tenants (expires_ms);

-- What lnd's wtdb.SessionInfo holds. A session id is a key of the client's own
-- choice: it names a session of one tenant only.
CREATE TABLE tower_sessions (
    num                 BIGINT NOT NULL PRIMARY KEY,
    tenant              BIGINT NOT NULL REFERENCES tower_tenants (id),
    session_id          BYTEA NOT NULL,
    blob_type           BIGINT NOT NULL,
    max_updates         BIGINT NOT NULL,
    reward_base         BIGINT NOT NULL,
    reward_rate         BIGINT NOT NULL,
    sweep_fee_rate      BIGINT NOT NULL,
    reward_address      BYTEA NOT NULL,
    last_applied        BIGINT NOT NULL,
    client_last_applied BIGINT NOT NULL,
    updates             BIGINT NOT NULL,
    stored_bytes        BIGINT NOT NULL,
    created_ms          BIGINT NOT NULL,
    updated_ms          BIGINT NOT NULL,
    UNIQUE (tenant, session_id)
);

-- The blobs. hint comes first in the key: blocks are searched by it.
CREATE TABLE tower_updates (
    hint    BYTEA NOT NULL,
    session BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    blob    BYTEA NOT NULL,
    PRIMARY KEY (hint, session)
);
CREATE INDEX tower_updates_session ON tower_updates (session, seq);

-- The blocks that were searched, as far down as a reorganisation may go. The
-- highest is the tip.
CREATE TABLE tower_blocks (
    height BIGINT NOT NULL PRIMARY KEY,
    hash   BYTEA NOT NULL
);

-- Every breach, with all that punishing it needs: it outlives its session.
CREATE TABLE tower_breaches (
    id            BYTEA NOT NULL PRIMARY KEY,
    tenant        BIGINT NOT NULL,
    session_id    BYTEA NOT NULL,
    seq           BIGINT NOT NULL,
    commit_tx     BYTEA NOT NULL,
    seen_height   BIGINT NOT NULL,
    seen_hash     BYTEA NOT NULL,
    missing_since BIGINT NOT NULL,
    justice       BYTEA NOT NULL,
    justice_tx    BYTEA NOT NULL,
    to_local      BIGINT NOT NULL,
    swept_sat     BIGINT NOT NULL,
    fee_sat       BIGINT NOT NULL,
    state         TEXT NOT NULL,
    final         BOOLEAN NOT NULL,
    spend_height  BIGINT NOT NULL,
    spend_hash    BYTEA NOT NULL,
    spend_tx      BYTEA NOT NULL,
    spend_path    TEXT NOT NULL,
    attempts      BIGINT NOT NULL,
    problem       TEXT NOT NULL,
    found_ms      BIGINT NOT NULL,
    changed_ms    BIGINT NOT NULL
);
CREATE INDEX tower_breaches_open ON tower_breaches (id) WHERE final = FALSE;
CREATE INDEX tower_breaches_tenant ON tower_breaches (tenant, found_ms, id);

-- A breach's story, for its victim and the operator.
CREATE TABLE tower_story (
    breach BYTEA NOT NULL,
    n      BIGINT NOT NULL,
    at_ms  BIGINT NOT NULL,
    text   TEXT NOT NULL,
    PRIMARY KEY (breach, n)
);

-- The secret that tower keys come from, where replicas share it through the
-- database. It is to be guarded like the macaroon.
CREATE TABLE tower_keys (
    name   TEXT NOT NULL PRIMARY KEY,
    secret BYTEA NOT NULL
);

-- +goose Down
DROP TABLE tower_keys;
DROP TABLE tower_story;
DROP TABLE tower_breaches;
DROP TABLE tower_blocks;
DROP TABLE tower_updates;
DROP TABLE tower_sessions;
DROP TABLE tower_tenants;
