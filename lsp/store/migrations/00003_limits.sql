-- +goose Up
-- What limits are summed from. A newcomer is a client that has not paid for a
-- channel yet; the mark goes with its first paid one.
ALTER TABLE lsp_payments ADD COLUMN held_sat_blocks BIGINT NOT NULL DEFAULT 0;
ALTER TABLE lsp_payments ADD COLUMN newcomer BOOLEAN NOT NULL DEFAULT FALSE;
-- Funded: an open of this payment has begun, so that its coins are no longer
-- only promised.
ALTER TABLE lsp_payments ADD COLUMN funded BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE lsp_openings ADD COLUMN newcomer BOOLEAN NOT NULL DEFAULT FALSE;
-- Unpaid: the capacity counts against its client's cap. Why it stopped to is in
-- paid, closed, forgiven, or the state.
ALTER TABLE lsp_openings ADD COLUMN unpaid BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE lsp_openings ADD COLUMN closed BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE lsp_openings ADD COLUMN forgiven BOOLEAN NOT NULL DEFAULT FALSE;

UPDATE lsp_openings SET unpaid = TRUE WHERE NOT paid AND state NOT IN ('failed', 'rejected', 'conflicted');
UPDATE lsp_openings SET newcomer = TRUE
WHERE NOT EXISTS (SELECT 1 FROM lsp_openings o WHERE o.client = lsp_openings.client AND o.paid);
UPDATE lsp_payments SET newcomer = TRUE
WHERE NOT EXISTS (SELECT 1 FROM lsp_openings o WHERE o.client = lsp_payments.client AND o.paid);
UPDATE lsp_payments SET funded = TRUE
WHERE EXISTS (SELECT 1 FROM lsp_openings o WHERE o.payment_id = lsp_payments.id AND o.state NOT IN ('failed', 'rejected', 'conflicted'));

CREATE INDEX lsp_openings_unpaid ON lsp_openings (client, created_ms) WHERE unpaid;
CREATE INDEX lsp_openings_paid ON lsp_openings (client) WHERE paid;
CREATE INDEX lsp_openings_created ON lsp_openings (created_ms);

-- +goose Down
DROP INDEX lsp_openings_created;
DROP INDEX lsp_openings_paid;
DROP INDEX lsp_openings_unpaid;
ALTER TABLE lsp_openings DROP COLUMN forgiven;
ALTER TABLE lsp_openings DROP COLUMN closed;
ALTER TABLE lsp_openings DROP COLUMN unpaid;
ALTER TABLE lsp_openings DROP COLUMN newcomer;
ALTER TABLE lsp_payments DROP COLUMN funded;
ALTER TABLE lsp_payments DROP COLUMN newcomer;
ALTER TABLE lsp_payments DROP COLUMN held_sat_blocks;
