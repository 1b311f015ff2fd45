-- +goose Up
-- When guards ended last: who owned the stream before that may have resumed HTLCs
-- without a row.
ALTER TABLE interceptor_tenures ADD COLUMN doubt_ms BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE interceptor_tenures DROP COLUMN doubt_ms;
