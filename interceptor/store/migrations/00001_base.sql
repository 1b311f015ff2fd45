-- +goose Up
CREATE TABLE interceptor_rows (
    chan_id          BYTEA NOT NULL,
    htlc_id          BIGINT NOT NULL,
    id               BIGINT NOT NULL UNIQUE,
    payment_hash     BYTEA NOT NULL,
    incoming_msat    BIGINT NOT NULL,
    outgoing_msat    BIGINT NOT NULL,
    incoming_expiry  BIGINT NOT NULL,
    outgoing_expiry  BIGINT NOT NULL,
    outgoing_scid    BYTEA NOT NULL,
    auto_fail_height BIGINT NOT NULL,
    fail_height      BIGINT NOT NULL,
    offer_height     BIGINT NOT NULL,
    on_chain         BOOLEAN NOT NULL,
    handler          TEXT NOT NULL,
    state            TEXT NOT NULL,
    reason           TEXT NOT NULL,
    preimage         BYTEA NOT NULL,
    offered_ms       BIGINT NOT NULL,
    decided_ms       BIGINT NOT NULL,
    gone_ms          BIGINT NOT NULL,
    outcome          TEXT NOT NULL,
    acked            BOOLEAN NOT NULL,
    live             BOOLEAN NOT NULL,
    version          BIGINT NOT NULL,
    PRIMARY KEY (chan_id, htlc_id)
);
CREATE INDEX interceptor_rows_live ON interceptor_rows (id) WHERE live;
CREATE INDEX interceptor_rows_hash ON interceptor_rows (payment_hash, id);
CREATE INDEX interceptor_rows_old ON interceptor_rows (gone_ms) WHERE NOT live;

CREATE TABLE interceptor_handlers (
    name      TEXT NOT NULL PRIMARY KEY,
    priority  BIGINT NOT NULL,
    on_absent TEXT NOT NULL
);

CREATE TABLE interceptor_routes (
    handler  TEXT NOT NULL REFERENCES interceptor_handlers (name),
    scid     BYTEA NOT NULL,
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (handler, scid)
);
CREATE INDEX interceptor_routes_until ON interceptor_routes (until_ms);

-- +goose Down
DROP TABLE interceptor_routes;
DROP TABLE interceptor_handlers;
DROP TABLE interceptor_rows;
