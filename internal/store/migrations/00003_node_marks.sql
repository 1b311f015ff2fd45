-- +goose Up
-- Why the copy was recognised, for people.
ALTER TABLE store_restored ADD COLUMN reason TEXT NOT NULL DEFAULT '';

-- How much of the node's records this database has seen, so that an older copy of it
-- is known by what the node has beyond that.
CREATE TABLE store_node_marks (
    name     TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

-- +goose Down
DROP TABLE store_node_marks;
ALTER TABLE store_restored DROP COLUMN reason;
