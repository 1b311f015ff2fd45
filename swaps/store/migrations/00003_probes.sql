-- +goose Up
-- Probes for the asking that are under way or held by a client: they lock money, so
-- they keep their places over a restart.
CREATE TABLE swaps_probes (
    hash         BYTEA  NOT NULL PRIMARY KEY,
    until_height BIGINT NOT NULL
);

-- +goose Down
DROP TABLE swaps_probes;
