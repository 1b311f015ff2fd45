-- +goose Up
-- What is over, by when it ended: for the pruning of old stories.
CREATE INDEX lsp_payments_finished ON lsp_payments (updated_ms, id) WHERE terminal;

-- +goose Down
DROP INDEX lsp_payments_finished;
