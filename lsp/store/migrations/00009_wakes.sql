-- +goose Up
-- What was done to wake a wallet that a payment waits for, for people. A row goes
-- with its payment.
CREATE TABLE lsp_wakes (
    payment_id TEXT NOT NULL PRIMARY KEY,
    since_ms   BIGINT NOT NULL,
    wakes      BIGINT NOT NULL,
    last_ms    BIGINT NOT NULL,
    how        TEXT NOT NULL
);

-- +goose Down
DROP TABLE lsp_wakes;
