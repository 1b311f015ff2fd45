-- +goose Up
CREATE TABLE store_leases (
    name       TEXT NOT NULL PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    renewals   BIGINT NOT NULL,
    ttl_ms     BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE store_meta (
    id          BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    database_id TEXT NOT NULL,
    generation  BIGINT NOT NULL,
    bumped_ms   BIGINT NOT NULL
);

-- +goose Down
DROP TABLE store_meta;
DROP TABLE store_leases;
