-- +goose Up
-- What each payment agreed with a wallet is, beside its state machine: the
-- columns that people search by and that limits are summed from.
CREATE TABLE lsp_payments (
    id           TEXT NOT NULL PRIMARY KEY,
    machine      TEXT NOT NULL,
    client       BYTEA NOT NULL,
    payment_hash BYTEA NOT NULL,
    jit_scid     BYTEA,
    amount_msat  BIGINT NOT NULL,
    fee_msat     BIGINT NOT NULL,
    capacity_sat BIGINT NOT NULL,
    bolt11       TEXT NOT NULL,
    state        TEXT NOT NULL,
    reason       TEXT NOT NULL,
    terminal     BOOLEAN NOT NULL,
    held_msat    BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    updated_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL
);
-- A hash belongs to one live payment: a second agreement over it would let two
-- flows answer the same HTLCs.
CREATE UNIQUE INDEX lsp_payments_live_hash ON lsp_payments (payment_hash) WHERE NOT terminal;
CREATE UNIQUE INDEX lsp_payments_scid ON lsp_payments (jit_scid) WHERE jit_scid IS NOT NULL;
CREATE INDEX lsp_payments_client ON lsp_payments (client, id);
CREATE INDEX lsp_payments_open ON lsp_payments (id) WHERE NOT terminal;

CREATE TABLE lsp_openings (
    id            TEXT NOT NULL PRIMARY KEY,
    payment_id    TEXT NOT NULL,
    client        BYTEA NOT NULL,
    capacity_sat  BIGINT NOT NULL,
    chain_fee_sat BIGINT NOT NULL,
    outpoint      TEXT NOT NULL,
    zero_conf     BOOLEAN NOT NULL,
    paid          BOOLEAN NOT NULL,
    confirmed     BOOLEAN NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT NOT NULL,
    terminal      BOOLEAN NOT NULL,
    created_ms    BIGINT NOT NULL,
    updated_ms    BIGINT NOT NULL
);
CREATE INDEX lsp_openings_payment ON lsp_openings (payment_id);
CREATE INDEX lsp_openings_client ON lsp_openings (client, created_ms);
CREATE INDEX lsp_openings_outpoint ON lsp_openings (outpoint);

-- One row per secret or switch. Promise keys are secrets: the database file
-- and its dumps are to be guarded like the macaroon.
CREATE TABLE lsp_settings (
    name       TEXT NOT NULL PRIMARY KEY,
    value      BYTEA NOT NULL,
    updated_ms BIGINT NOT NULL
);

-- +goose Down
DROP TABLE lsp_settings;
DROP TABLE lsp_openings;
DROP TABLE lsp_payments;
