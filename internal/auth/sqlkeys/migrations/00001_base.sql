-- +goose Up
CREATE TABLE auth_root_keys (
    id       BIGINT NOT NULL PRIMARY KEY,
    root_key BYTEA NOT NULL
);

-- +goose Down
DROP TABLE auth_root_keys;
