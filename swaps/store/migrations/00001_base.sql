-- +goose Up
-- What prices were made from: a swap is never dearer than a quote of the last
-- minutes, also after a restart.
CREATE TABLE swaps_rates (
    at_ms            BIGINT NOT NULL PRIMARY KEY,
    soon_sat_per_kw  BIGINT NOT NULL,
    later_sat_per_kw BIGINT NOT NULL
);

-- +goose Down
DROP TABLE swaps_rates;
