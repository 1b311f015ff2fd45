-- +goose Up
-- What is opened and in no block yet: limits are summed from it at each open.
CREATE INDEX lsp_openings_unconfirmed ON lsp_openings (client) WHERE NOT terminal AND NOT confirmed;

-- +goose Down
DROP INDEX lsp_openings_unconfirmed;
