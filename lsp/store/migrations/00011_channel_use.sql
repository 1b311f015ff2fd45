-- +goose Up
-- When channels on demand were used last, for the operator who closes those that
-- nobody uses.
CREATE TABLE lsp_channel_use (
    outpoint     TEXT NOT NULL PRIMARY KEY,
    remote_sat   BIGINT NOT NULL,
    since_height BIGINT NOT NULL,
    min_lifetime BIGINT NOT NULL
);

-- +goose Down
DROP TABLE lsp_channel_use;
