-- +goose Up
CREATE TABLE lws_wishes (
    client      BYTEA NOT NULL PRIMARY KEY,
    hold_for_ms BIGINT NOT NULL,
    max_htlcs   BIGINT NOT NULL,
    max_sat     BIGINT NOT NULL,
    final_cltv  BIGINT NOT NULL,
    changed_ms  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE lws_wishes;
