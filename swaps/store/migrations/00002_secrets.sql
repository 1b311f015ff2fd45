-- +goose Up
-- Secrets that all replicas share: what tokens (L402) are made from.
CREATE TABLE swaps_secrets (
    name    TEXT   NOT NULL PRIMARY KEY,
    secret  BYTEA  NOT NULL,
    made_ms BIGINT NOT NULL
);

-- +goose Down
DROP TABLE swaps_secrets;
