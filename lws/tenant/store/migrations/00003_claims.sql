-- +goose Up
-- A node's key has one row, whether the node was added or its key is only claimed for
-- the place at which it is being made: so the key is one tenant's.
ALTER TABLE tenant_nodes ADD COLUMN added BOOLEAN NOT NULL DEFAULT TRUE;
-- Both empty: not claimed.
ALTER TABLE tenant_nodes ADD COLUMN place_id TEXT NOT NULL DEFAULT '';
ALTER TABLE tenant_nodes ADD COLUMN place TEXT NOT NULL DEFAULT '';
ALTER TABLE tenant_nodes ADD COLUMN claimed_ms BIGINT NOT NULL DEFAULT 0;

-- +goose Down
DELETE FROM tenant_nodes WHERE added = FALSE;
ALTER TABLE tenant_nodes DROP COLUMN claimed_ms;
ALTER TABLE tenant_nodes DROP COLUMN place;
ALTER TABLE tenant_nodes DROP COLUMN place_id;
ALTER TABLE tenant_nodes DROP COLUMN added;
