-- +goose Up
-- Updates may have a price beyond a number that is free. credit_msat is what a
-- tenant paid and has not used, drawn_msat what its updates have cost so far, and
-- booked_msat how much of that is in the books. own_free is as the other own_
-- columns.
ALTER TABLE tower_tenants ADD COLUMN own_free BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tower_tenants ADD COLUMN credit_msat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tower_tenants ADD COLUMN drawn_msat BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tower_tenants ADD COLUMN booked_msat BIGINT NOT NULL DEFAULT 0;

-- Purchases of credit, as they stand: the state machine watchtower/credit has their
-- stories. id is the payment's hash.
CREATE TABLE tower_purchases (
    id          BYTEA NOT NULL PRIMARY KEY,
    tenant      BIGINT NOT NULL,
    state       TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    paid_msat   BIGINT NOT NULL,
    bolt11      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL,
    changed_ms  BIGINT NOT NULL
);
CREATE INDEX tower_purchases_tenant ON tower_purchases (tenant, created_ms, id);
CREATE INDEX tower_purchases_state ON tower_purchases (state, changed_ms);

-- +goose Down
DROP TABLE tower_purchases;
ALTER TABLE tower_tenants DROP COLUMN booked_msat;
ALTER TABLE tower_tenants DROP COLUMN drawn_msat;
ALTER TABLE tower_tenants DROP COLUMN credit_msat;
ALTER TABLE tower_tenants DROP COLUMN own_free;
