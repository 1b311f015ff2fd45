-- name: InsertPayment :exec
INSERT INTO lsp_payments (id, machine, client, payment_hash, jit_scid, amount_msat, fee_msat, capacity_sat,
    bolt11, state, reason, terminal, held_msat, held_sat_blocks, newcomer, funded, created_ms, updated_ms, expires_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, FALSE, $16, $17, $18);

-- name: UpdatePayment :execrows
UPDATE lsp_payments SET state = $2, reason = $3, terminal = $4, held_msat = $5, held_sat_blocks = $6, updated_ms = $7, held_slots = $8
WHERE id = $1;

-- name: SetPaymentBolt11 :execrows
UPDATE lsp_payments SET bolt11 = $2 WHERE id = $1;

-- name: SetPaymentOutcome :exec
UPDATE lsp_payments SET payment_hash = $2, amount_msat = $3, fee_msat = $4 WHERE id = $1;

-- name: GetPayment :one
SELECT * FROM lsp_payments WHERE id = $1;

-- name: GetPaymentByScid :one
SELECT * FROM lsp_payments WHERE jit_scid = $1;

-- name: PaymentsByHash :many
SELECT * FROM lsp_payments WHERE payment_hash = $1 ORDER BY id DESC;

-- name: OpenPayments :many
SELECT * FROM lsp_payments WHERE NOT terminal ORDER BY id;

-- name: HeldPayments :many
SELECT id, machine FROM lsp_payments WHERE NOT terminal AND held_msat > 0;

-- name: HeldOrders :many
SELECT id FROM lsp_orders WHERE NOT terminal AND held_msat > 0;

-- name: UndecidedOrders :many
SELECT * FROM lsp_orders WHERE undecided ORDER BY id;

-- name: FindPayments :many
SELECT * FROM lsp_payments
WHERE id < sqlc.arg(before_id)
  AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
  AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
  AND (CAST(sqlc.arg(in_state) AS TEXT) = '' OR state = sqlc.arg(in_state))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: PaymentStates :many
SELECT machine, state, CAST(COUNT(*) AS BIGINT) AS payments FROM lsp_payments GROUP BY machine, state ORDER BY machine, state;


-- name: SetPaymentFunded :execrows
UPDATE lsp_payments SET funded = sqlc.arg(funded) WHERE id = sqlc.arg(id);

-- name: PaymentsOfKnownClient :execrows
UPDATE lsp_payments SET newcomer = FALSE WHERE client = $1 AND newcomer;

-- name: InsertOpening :exec
INSERT INTO lsp_openings (id, payment_id, client, capacity_sat, chain_fee_sat, outpoint, zero_conf, paid, confirmed,
    state, reason, terminal, newcomer, unpaid, created_ms, updated_ms, batch_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE, FALSE, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: UpdateOpening :execrows
UPDATE lsp_openings SET chain_fee_sat = $2, outpoint = $3, confirmed = $4, state = $5, reason = $6, terminal = $7,
    updated_ms = $8 WHERE id = $1;

-- name: MarkOpeningsPaid :execrows
UPDATE lsp_openings SET paid = TRUE, unpaid = FALSE
WHERE payment_id = $1 AND state NOT IN ('failed', 'rejected', 'conflicted');

-- name: MarkOldestPaid :execrows
UPDATE lsp_openings SET paid = TRUE, unpaid = FALSE WHERE id = (
    SELECT o.id FROM lsp_openings o WHERE o.client = $1 AND o.unpaid AND o.outpoint <> '' ORDER BY o.created_ms, o.id LIMIT 1
);

-- name: MarkOpeningGone :execrows
UPDATE lsp_openings SET unpaid = FALSE WHERE id = $1;

-- name: MarkChannelClosed :execrows
UPDATE lsp_openings SET closed = TRUE, unpaid = FALSE WHERE outpoint = $1 AND NOT closed;

-- name: ForgiveClient :many
UPDATE lsp_openings SET forgiven = TRUE, unpaid = FALSE WHERE client = $1 AND unpaid RETURNING id, capacity_sat;

-- name: OpeningsOfKnownClient :execrows
UPDATE lsp_openings SET newcomer = FALSE WHERE client = $1 AND newcomer;

-- name: ClientIsKnown :one
SELECT CAST(COUNT(*) AS BIGINT) FROM (SELECT 1 AS one FROM lsp_openings WHERE client = $1 AND paid LIMIT 1) AS known;

-- name: BuriedUnpaid :many
SELECT outpoint FROM lsp_openings WHERE unpaid AND terminal AND outpoint <> '';

-- name: GetOpening :one
SELECT * FROM lsp_openings WHERE id = $1;

-- name: OpeningByOutpoint :one
SELECT * FROM lsp_openings WHERE outpoint = $1 ORDER BY created_ms DESC LIMIT 1;

-- name: OpeningsOfPayment :many
SELECT * FROM lsp_openings WHERE payment_id = $1 ORDER BY created_ms, id;

-- name: OpenOpenings :many
SELECT * FROM lsp_openings WHERE NOT terminal ORDER BY id;

-- name: FindOpenings :many
SELECT * FROM lsp_openings WHERE id < sqlc.arg(before_id) AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
  AND (CAST(sqlc.arg(unpaid_only) AS BIGINT) = 0 OR unpaid)
  AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: OpeningStates :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS openings, CAST(COALESCE(SUM(chain_fee_sat), 0) AS BIGINT) AS chain_fee_sat
FROM lsp_openings GROUP BY state ORDER BY state;

-- name: UnpaidLoads :one
SELECT CAST(COALESCE(SUM(capacity_sat), 0) AS BIGINT) AS unpaid_sat,
       CAST(COALESCE(SUM(CASE WHEN newcomer THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS newcomer_unpaid_sat,
       CAST(COALESCE(SUM(CASE WHEN client = sqlc.arg(client) THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS client_unpaid_sat
FROM lsp_openings WHERE unpaid AND created_ms >= sqlc.arg(since_ms);

-- name: OpensSince :one
-- One that failed in a batch is not counted: it cost nothing, most failed for the sake of
-- others, and whoever was the cause is opened alone from then on.
SELECT CAST(COUNT(*) AS BIGINT) AS opens,
       CAST(COALESCE(SUM(CASE WHEN newcomer THEN 1 ELSE 0 END), 0) AS BIGINT) AS newcomer_opens,
       CAST(COALESCE(SUM(CASE WHEN client = sqlc.arg(client) THEN 1 ELSE 0 END), 0) AS BIGINT) AS client_opens
FROM lsp_openings WHERE created_ms >= sqlc.arg(since_ms) AND NOT (batch_id <> '' AND state = 'failed');

-- name: UnclaimedOpens :one
-- Channels on demand that were negotiated and that no payment was claimed over: the
-- young ones may still be on their way.
SELECT CAST(COUNT(*) AS BIGINT) AS opens,
       CAST(COALESCE(SUM(CASE WHEN o.client = sqlc.arg(client) THEN 1 ELSE 0 END), 0) AS BIGINT) AS client_opens
FROM lsp_openings o JOIN lsp_payments p ON p.id = o.payment_id
WHERE o.created_ms >= sqlc.arg(since_ms) AND o.outpoint <> '' AND NOT o.paid AND NOT o.forgiven
  AND (o.terminal OR o.created_ms < sqlc.arg(before_ms));

-- name: UnconfirmedLoads :one
SELECT CAST(COALESCE(SUM(capacity_sat), 0) AS BIGINT) AS unconfirmed_sat,
       CAST(COALESCE(SUM(CASE WHEN newcomer THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS newcomer_unconfirmed_sat,
       CAST(COALESCE(SUM(CASE WHEN client = sqlc.arg(client) THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS client_unconfirmed_sat
FROM lsp_openings WHERE NOT terminal AND NOT confirmed;

-- name: GetSetting :one
SELECT value FROM lsp_settings WHERE name = $1;

-- name: PutSetting :exec
INSERT INTO lsp_settings (name, value, updated_ms) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_ms = excluded.updated_ms;

-- name: UnfundedOutpoints :many
SELECT outpoint FROM lsp_openings WHERE outpoint <> '' AND state IN ('failed', 'rejected', 'conflicted');

-- name: PromiseKeys :many
SELECT * FROM lsp_promise_keys ORDER BY version;

-- name: InsertPromiseKey :execrows
INSERT INTO lsp_promise_keys (version, secret, made_ms, signs_from_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (version) DO NOTHING;

-- name: DeletePromiseKey :exec
DELETE FROM lsp_promise_keys WHERE version = $1;

-- name: FinishedPayments :many
SELECT id, machine, state, updated_ms FROM lsp_payments
WHERE terminal AND updated_ms < sqlc.arg(before_ms)
  AND (updated_ms > sqlc.arg(after_ms) OR (updated_ms = sqlc.arg(after_ms) AND id > sqlc.arg(after_id)))
ORDER BY updated_ms, id LIMIT sqlc.arg(most);

-- name: DeletePayment :execrows
DELETE FROM lsp_payments WHERE id = $1 AND terminal;

-- name: DeleteUnfundedOpenings :execrows
DELETE FROM lsp_openings WHERE payment_id = $1 AND state IN ('failed', 'rejected');

-- name: BookChannels :many
SELECT * FROM lsp_book_channels;

-- name: GetBookChannel :one
SELECT * FROM lsp_book_channels WHERE outpoint = $1;

-- name: PutBookChannel :exec
INSERT INTO lsp_book_channels (outpoint, done, data) VALUES ($1, $2, $3)
ON CONFLICT (outpoint) DO UPDATE SET done = excluded.done, data = excluded.data;

-- name: BookTxs :many
SELECT * FROM lsp_book_txs WHERE NOT settled;

-- name: GetBookTx :one
SELECT * FROM lsp_book_txs WHERE txid = $1;

-- name: PutBookTx :exec
INSERT INTO lsp_book_txs (txid, settled, data) VALUES ($1, $2, $3)
ON CONFLICT (txid) DO UPDATE SET settled = excluded.settled, data = excluded.data;

-- name: InsertOrder :exec
INSERT INTO lsp_orders (id, client, state, reason, terminal, undecided, funded, newcomer, paid_by, lsp_balance_sat, client_balance_sat,
    fee_sat, announce, held_msat, held_sat_blocks, risk_sat, outpoint, lease_end_height, created_ms, updated_ms, openly)
VALUES ($1, $2, $3, $4, FALSE, TRUE, FALSE, $5, '', $6, $7, $8, $9, 0, 0, 0, '', 0, $10, $11, $12);

-- name: OpenlyOrdered :one
SELECT CAST(COUNT(*) AS BIGINT) AS orders, CAST(COALESCE(SUM(CASE WHEN client = sqlc.arg(client) THEN 1 ELSE 0 END), 0) AS BIGINT) AS client_orders
FROM lsp_orders WHERE undecided AND openly;

-- name: UpdateOrder :execrows
UPDATE lsp_orders SET state = $2, reason = $3, terminal = $4, undecided = $5, paid_by = $6, fee_sat = $7, held_msat = $8,
    held_sat_blocks = $9, risk_sat = $10, outpoint = $11, lease_end_height = $12, updated_ms = $13, held_slots = $14,
    batch_id = $15, waits_until_height = $16
WHERE id = $1;

-- name: SetOrderFunded :execrows
UPDATE lsp_orders SET funded = sqlc.arg(funded) WHERE id = sqlc.arg(id);

-- name: OrdersOfKnownClient :execrows
UPDATE lsp_orders SET newcomer = FALSE WHERE client = $1 AND newcomer;

-- name: GetOrder :one
SELECT * FROM lsp_orders WHERE id = $1;

-- name: FindOrders :many
SELECT * FROM lsp_orders
WHERE (created_ms < sqlc.arg(before_ms) OR (created_ms = sqlc.arg(before_ms) AND id < sqlc.arg(before_id)))
  AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
  AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
  AND (CAST(sqlc.arg(in_state) AS TEXT) = '' OR state = sqlc.arg(in_state))
  AND (CAST(sqlc.arg(ends_by) AS BIGINT) = 0
    OR (state IN ('active', 'closing') AND lease_end_height > 0 AND lease_end_height <= sqlc.arg(ends_by)))
ORDER BY created_ms DESC, id DESC LIMIT sqlc.arg(most);

-- name: LeasesEnding :one
SELECT CAST(COUNT(*) AS BIGINT) FROM lsp_orders
WHERE NOT terminal AND state IN ('active', 'closing') AND lease_end_height > 0 AND lease_end_height <= sqlc.arg(ends_by);

-- name: OrderStates :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS orders FROM lsp_orders GROUP BY state ORDER BY state;

-- name: OrderRisk :one
SELECT CAST(COALESCE(SUM(risk_sat), 0) AS BIGINT) FROM lsp_orders WHERE NOT terminal;

-- name: PutOrderCoin :exec
INSERT INTO lsp_order_coins (outpoint, order_id, amount_sat) VALUES ($1, $2, $3) ON CONFLICT (outpoint) DO NOTHING;

-- name: OrderCoins :many
SELECT * FROM lsp_order_coins;

-- name: PutBatch :exec
INSERT INTO lsp_batches (id, state, reason, terminal, channels, funding_sat, fee_sat, txid, created_ms, updated_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, terminal = excluded.terminal,
    channels = excluded.channels, funding_sat = excluded.funding_sat, fee_sat = excluded.fee_sat, txid = excluded.txid, updated_ms = excluded.updated_ms;

-- name: FindBatches :many
SELECT * FROM lsp_batches
WHERE id < sqlc.arg(before_id) AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: BatchStates :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS batches, CAST(COALESCE(SUM(channels), 0) AS BIGINT) AS channels
FROM lsp_batches GROUP BY state ORDER BY state;

-- name: OpeningsOfBatch :many
SELECT * FROM lsp_openings WHERE batch_id = $1 ORDER BY created_ms, id;

-- name: QueuedOrders :many
SELECT * FROM lsp_orders WHERE state = 'queued' ORDER BY waits_until_height, id;

-- name: FinishedBatches :many
-- Those that ended long ago, and of whose opens no story is kept.
SELECT id FROM lsp_batches b
WHERE b.terminal AND b.updated_ms < sqlc.arg(before_ms) AND b.id > sqlc.arg(after_id)
  AND NOT EXISTS (SELECT 1 FROM lsp_openings o JOIN lsp_orders r ON r.id = o.payment_id WHERE o.batch_id = b.id)
ORDER BY b.id LIMIT sqlc.arg(most);

-- name: DeleteBatch :execrows
DELETE FROM lsp_batches WHERE id = $1 AND terminal;

-- name: PutRefund :exec
INSERT INTO lsp_refunds (id, order_id, state, reason, terminal, owed_sat, fee_sat, txid, created_ms, updated_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, terminal = excluded.terminal,
    fee_sat = excluded.fee_sat, txid = excluded.txid, updated_ms = excluded.updated_ms;

-- name: RefundsOfOrder :many
SELECT * FROM lsp_refunds WHERE order_id = $1 ORDER BY created_ms, id;

-- name: PutRefundTx :exec
INSERT INTO lsp_refund_txs (txid, order_id) VALUES ($1, $2) ON CONFLICT (txid) DO NOTHING;

-- name: RefundTxs :many
SELECT * FROM lsp_refund_txs;

-- name: FinishedOrders :many
SELECT id, state, updated_ms FROM lsp_orders
WHERE terminal AND updated_ms < sqlc.arg(before_ms)
  AND (updated_ms > sqlc.arg(after_ms) OR (updated_ms = sqlc.arg(after_ms) AND id > sqlc.arg(after_id)))
ORDER BY updated_ms, id LIMIT sqlc.arg(most);

-- name: DeleteOrder :execrows
DELETE FROM lsp_orders WHERE id = $1 AND terminal;

-- name: DeleteRefunds :execrows
DELETE FROM lsp_refunds WHERE order_id = $1 AND terminal;

-- name: HasPayment :one
SELECT CAST(COUNT(*) AS BIGINT) AS payments FROM (SELECT 1 FROM lsp_payments WHERE client = $1 LIMIT 1) AS one;

-- name: InsertCollab :exec
INSERT INTO lsp_collabs (id, client, state, reason, terminal, funded, confirmed, zero_conf, channel, capacity_sat, wallet_sat, service_sat, fee_sat, spend_sat, created_ms, updated_ms)
VALUES ($1, $2, $3, $4, $5, FALSE, FALSE, $6, '', $7, $8, $9, 0, $11, $10, $10);

-- name: UpdateCollab :execrows
UPDATE lsp_collabs SET state = $2, reason = $3, terminal = $4, funded = $5, confirmed = $6, channel = $7, fee_sat = $8, updated_ms = $9
WHERE id = $1;

-- name: GetCollab :one
SELECT * FROM lsp_collabs WHERE id = $1;

-- name: CollabByChannel :one
SELECT * FROM lsp_collabs WHERE channel = $1;

-- name: FindCollabs :many
SELECT * FROM lsp_collabs
WHERE id < sqlc.arg(before_id)
  AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
  AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: CollabLoads :one
SELECT CAST(COUNT(*) AS BIGINT) AS collabs,
       CAST(COALESCE(SUM(CASE WHEN confirmed THEN 0 ELSE capacity_sat - wallet_sat END), 0) AS BIGINT) AS unconfirmed_sat,
       CAST(COALESCE(SUM(CASE WHEN client = sqlc.arg(client) AND NOT confirmed THEN 1 ELSE 0 END), 0) AS BIGINT) AS client_collabs
FROM lsp_collabs WHERE NOT terminal;

-- name: SetJointSpend :exec
INSERT INTO lsp_joint_spend (client, limit_sat, set_ms) VALUES ($1, $2, $3)
ON CONFLICT (client) DO UPDATE SET limit_sat = EXCLUDED.limit_sat, set_ms = EXCLUDED.set_ms;

-- name: JointSpend :one
SELECT * FROM lsp_joint_spend WHERE client = $1;

-- name: JointSpent :one
-- What fundings of a wallet have got of its limit: those that are not over, and those
-- since the limit was set over which it may have spent, and which were not buried. A
-- funding that failed had a channel in use only where that was zero-conf.
SELECT CAST(COALESCE(SUM(spend_sat), 0) AS BIGINT) AS sat FROM lsp_collabs
WHERE client = sqlc.arg(client)
  AND (NOT terminal
       OR (created_ms >= sqlc.arg(since_ms) AND state <> 'buried' AND (state <> 'failed' OR (zero_conf AND channel <> ''))));

-- name: UnfundedCollabs :many
SELECT channel FROM lsp_collabs WHERE NOT funded AND channel <> '';

-- name: OpeningsSince :many
SELECT created_ms, capacity_sat FROM lsp_openings
WHERE created_ms >= sqlc.arg(since_ms) ORDER BY created_ms DESC LIMIT sqlc.arg(most);

-- name: CountWake :exec
INSERT INTO lsp_wakes (payment_id, since_ms, wakes, last_ms, how) VALUES ($1, $2, 1, $2, $3)
ON CONFLICT (payment_id) DO UPDATE SET wakes = lsp_wakes.wakes + 1, last_ms = EXCLUDED.last_ms, how = EXCLUDED.how;

-- name: Wake :one
SELECT * FROM lsp_wakes WHERE payment_id = $1;

-- name: DeleteWake :exec
DELETE FROM lsp_wakes WHERE payment_id = $1;

-- name: ChannelUses :many
SELECT * FROM lsp_channel_use;

-- name: PutChannelUse :exec
INSERT INTO lsp_channel_use (outpoint, remote_sat, since_height, min_lifetime) VALUES ($1, $2, $3, $4)
ON CONFLICT (outpoint) DO UPDATE SET remote_sat = excluded.remote_sat, since_height = excluded.since_height, min_lifetime = excluded.min_lifetime;

-- name: DeleteChannelUse :exec
DELETE FROM lsp_channel_use WHERE outpoint = $1;

-- name: ChannelPolicies :many
SELECT outpoint FROM lsp_channel_policy;

-- name: PutChannelPolicy :exec
INSERT INTO lsp_channel_policy (outpoint) VALUES ($1) ON CONFLICT (outpoint) DO NOTHING;

-- name: DeleteChannelPolicy :exec
DELETE FROM lsp_channel_policy WHERE outpoint = $1;
