-- +goose Up
-- What a program of somebody else's changed when a forward was resumed: a replay gets
-- the same answer.
ALTER TABLE interceptor_rows ADD COLUMN send_msat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE interceptor_rows ADD COLUMN send_records BYTEA NOT NULL DEFAULT '';
-- What such programs have said so far about one that they hold.
ALTER TABLE interceptor_rows ADD COLUMN ballot TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE interceptor_rows DROP COLUMN ballot;
ALTER TABLE interceptor_rows DROP COLUMN send_records;
ALTER TABLE interceptor_rows DROP COLUMN send_msat;
