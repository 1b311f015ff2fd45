-- +goose Up
-- What was withheld from a forward (bLIP-25): a replay gets the same answer.
ALTER TABLE interceptor_rows ADD COLUMN extra_fee_msat BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE interceptor_rows DROP COLUMN extra_fee_msat;
