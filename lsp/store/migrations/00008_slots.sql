-- +goose Up
-- In how many HTLCs of which incoming channel something is held ("BxTxO:n,…"): each
-- takes a slot of that channel, however small it is.
ALTER TABLE lsp_payments ADD COLUMN held_slots TEXT NOT NULL DEFAULT '';
ALTER TABLE lsp_orders ADD COLUMN held_slots TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE lsp_orders DROP COLUMN held_slots;
ALTER TABLE lsp_payments DROP COLUMN held_slots;
