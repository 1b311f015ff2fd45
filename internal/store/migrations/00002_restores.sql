-- +goose Up
-- What each data directory has seen of this database.
CREATE TABLE store_files (
    id         TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    seen_ms    BIGINT NOT NULL
);

-- Roles that have not yet reconciled what a restored copy may have forgotten.
CREATE TABLE store_restored (
    role     TEXT NOT NULL PRIMARY KEY,
    since_ms BIGINT NOT NULL
);

-- +goose Down
DROP TABLE store_restored;
DROP TABLE store_files;
