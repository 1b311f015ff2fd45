-- +goose Up
-- What a wallet may spend over a channel that it funded with us before that is
-- buried: per wallet, set by the operator, and what each funding got of it.
ALTER TABLE lsp_collabs ADD COLUMN spend_sat BIGINT NOT NULL DEFAULT 0;
CREATE TABLE lsp_joint_spend (
    client    BYTEA NOT NULL PRIMARY KEY,
    limit_sat BIGINT NOT NULL,
    set_ms    BIGINT NOT NULL
);

-- +goose Down
DROP TABLE lsp_joint_spend;
ALTER TABLE lsp_collabs DROP COLUMN spend_sat;
