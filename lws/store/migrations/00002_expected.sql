-- +goose Up
CREATE TABLE lws_expected (
    client       BYTEA NOT NULL,
    payment_hash BYTEA NOT NULL,
    final_cltv   BIGINT NOT NULL,
    until_ms     BIGINT NOT NULL,
    PRIMARY KEY (client, payment_hash)
);
CREATE INDEX lws_expected_until ON lws_expected (until_ms);

-- +goose Down
DROP TABLE lws_expected;
