-- +goose Up
-- What a paying row becomes once lnd's payment, which no handler told of, has failed.
ALTER TABLE interceptor_rows ADD COLUMN after_state TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE interceptor_rows DROP COLUMN after_state;
