-- +goose Up
-- Orders of callers that proved no key, to bound how many there are.
ALTER TABLE lsp_orders ADD COLUMN openly BOOLEAN NOT NULL DEFAULT FALSE;

-- +goose Down
ALTER TABLE lsp_orders DROP COLUMN openly;
