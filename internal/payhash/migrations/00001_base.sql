-- +goose Up
CREATE TABLE payment_hashes (
    hash  BYTEA NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL
);
CREATE INDEX payment_hashes_owner ON payment_hashes (owner);

-- +goose Down
DROP TABLE payment_hashes;
