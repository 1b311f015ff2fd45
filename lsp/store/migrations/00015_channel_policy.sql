-- +goose Up
-- Channels whose forwarding policy lnd keeps by itself from now on: each change of one
-- costs lnd a walk through all its channels, so that none is made twice.
CREATE TABLE lsp_channel_policy (
    outpoint TEXT NOT NULL PRIMARY KEY
);

-- +goose Down
DROP TABLE lsp_channel_policy;
