-- +goose Up
-- Funding transactions of several channels: the index of batches, which open is in
-- which, and until when an order waits for one.
CREATE TABLE lsp_batches (
    id          TEXT NOT NULL PRIMARY KEY,
    state       TEXT NOT NULL,
    reason      TEXT NOT NULL,
    terminal    BOOLEAN NOT NULL,
    channels    BIGINT NOT NULL,
    funding_sat BIGINT NOT NULL,
    fee_sat     BIGINT NOT NULL,
    txid        TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL
);
ALTER TABLE lsp_openings ADD COLUMN batch_id TEXT NOT NULL DEFAULT '';
CREATE INDEX lsp_openings_batch ON lsp_openings (batch_id);
ALTER TABLE lsp_orders ADD COLUMN batch_id TEXT NOT NULL DEFAULT '';
ALTER TABLE lsp_orders ADD COLUMN waits_until_height BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE lsp_orders DROP COLUMN waits_until_height;
ALTER TABLE lsp_orders DROP COLUMN batch_id;
DROP INDEX lsp_openings_batch;
ALTER TABLE lsp_openings DROP COLUMN batch_id;
DROP TABLE lsp_batches;
