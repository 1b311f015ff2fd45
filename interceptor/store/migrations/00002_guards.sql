-- +goose Up
-- Claims of programs that did not know of guards are none: they resumed HTLCs of
-- lapsed claims without a row.
ALTER TABLE interceptor_routes ADD COLUMN guarded BOOLEAN NOT NULL DEFAULT FALSE;

-- The last owner that is on record as one that keeps the rule of guards.
CREATE TABLE interceptor_tenures (
    lease TEXT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);

-- +goose Down
DROP TABLE interceptor_tenures;
ALTER TABLE interceptor_routes DROP COLUMN guarded;
