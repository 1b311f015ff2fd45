-- +goose Up
-- Channels that both sides fund, to search by, to sum limits from, and to know
-- which of lnd's channels nothing funds yet. The truth is the state machine.
CREATE TABLE lsp_collabs (
    id           TEXT NOT NULL PRIMARY KEY,
    client       BYTEA NOT NULL,
    state        TEXT NOT NULL,
    reason       TEXT NOT NULL,
    terminal     BOOLEAN NOT NULL,
    funded       BOOLEAN NOT NULL,
    confirmed    BOOLEAN NOT NULL,
    zero_conf    BOOLEAN NOT NULL,
    channel      TEXT NOT NULL,
    capacity_sat BIGINT NOT NULL,
    wallet_sat   BIGINT NOT NULL,
    service_sat  BIGINT NOT NULL,
    fee_sat      BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    updated_ms   BIGINT NOT NULL
);
CREATE INDEX lsp_collabs_client ON lsp_collabs (client);
CREATE INDEX lsp_collabs_channel ON lsp_collabs (channel);
CREATE INDEX lsp_collabs_live ON lsp_collabs (terminal);

-- +goose Down
DROP TABLE lsp_collabs;
