-- name: InsertPayment :exec
INSERT INTO lsp_payments (id, machine, client, payment_hash, jit_scid, amount_msat, fee_msat, capacity_sat,
    bolt11, state, reason, terminal, held_msat, created_ms, updated_ms, expires_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: UpdatePayment :execrows
UPDATE lsp_payments SET state = $2, reason = $3, terminal = $4, held_msat = $5, updated_ms = $6 WHERE id = $1;

-- name: SetPaymentBolt11 :execrows
UPDATE lsp_payments SET bolt11 = $2 WHERE id = $1;

-- name: GetPayment :one
SELECT * FROM lsp_payments WHERE id = $1;

-- name: GetPaymentByScid :one
SELECT * FROM lsp_payments WHERE jit_scid = $1;

-- name: PaymentsByHash :many
SELECT * FROM lsp_payments WHERE payment_hash = $1 ORDER BY id DESC;

-- name: OpenPayments :many
SELECT * FROM lsp_payments WHERE NOT terminal ORDER BY id;

-- name: FindPayments :many
SELECT * FROM lsp_payments
WHERE id < sqlc.arg(before_id)
  AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
  AND (CAST(sqlc.arg(open_only) AS BIGINT) = 0 OR NOT terminal)
  AND (CAST(sqlc.arg(in_state) AS TEXT) = '' OR state = sqlc.arg(in_state))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: PaymentStates :many
SELECT machine, state, CAST(COUNT(*) AS BIGINT) AS payments FROM lsp_payments GROUP BY machine, state ORDER BY machine, state;

-- name: OpenRequests :one
SELECT CAST(COUNT(*) AS BIGINT) AS requests, CAST(COALESCE(SUM(held_msat), 0) AS BIGINT) AS held_msat,
       CAST(COALESCE(SUM(capacity_sat), 0) AS BIGINT) AS quoted_sat
FROM lsp_payments WHERE NOT terminal;

-- name: OpenRequestsOf :one
SELECT CAST(COUNT(*) AS BIGINT) AS requests, CAST(COALESCE(SUM(held_msat), 0) AS BIGINT) AS held_msat,
       CAST(COALESCE(SUM(capacity_sat), 0) AS BIGINT) AS quoted_sat
FROM lsp_payments WHERE NOT terminal AND client = $1;

-- name: InsertOpening :exec
INSERT INTO lsp_openings (id, payment_id, client, capacity_sat, chain_fee_sat, outpoint, zero_conf, paid, confirmed,
    state, reason, terminal, created_ms, updated_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: UpdateOpening :execrows
UPDATE lsp_openings SET chain_fee_sat = $2, outpoint = $3, confirmed = $4, state = $5, reason = $6, terminal = $7,
    updated_ms = $8 WHERE id = $1;

-- name: MarkOpeningsPaid :execrows
UPDATE lsp_openings SET paid = TRUE WHERE payment_id = $1;

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
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: OpeningStates :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS openings, CAST(COALESCE(SUM(chain_fee_sat), 0) AS BIGINT) AS chain_fee_sat
FROM lsp_openings GROUP BY state ORDER BY state;

-- name: OpeningUsage :one
SELECT CAST(COUNT(*) AS BIGINT) AS openings,
       CAST(COALESCE(SUM(CASE WHEN outpoint <> '' AND NOT paid AND state NOT IN ('failed', 'rejected', 'conflicted') THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS unpaid_sat,
       CAST(COALESCE(SUM(CASE WHEN outpoint <> '' AND NOT confirmed AND NOT terminal THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS unconfirmed_sat,
       CAST(COALESCE(SUM(CASE WHEN created_ms >= sqlc.arg(since_ms) THEN 1 ELSE 0 END), 0) AS BIGINT) AS recent
FROM lsp_openings;

-- name: OpeningUsageOf :one
SELECT CAST(COUNT(*) AS BIGINT) AS openings,
       CAST(COALESCE(SUM(CASE WHEN outpoint <> '' AND NOT paid AND state NOT IN ('failed', 'rejected', 'conflicted') THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS unpaid_sat,
       CAST(COALESCE(SUM(CASE WHEN outpoint <> '' AND NOT confirmed AND NOT terminal THEN capacity_sat ELSE 0 END), 0) AS BIGINT) AS unconfirmed_sat,
       CAST(COALESCE(SUM(CASE WHEN created_ms >= sqlc.arg(since_ms) THEN 1 ELSE 0 END), 0) AS BIGINT) AS recent
FROM lsp_openings WHERE client = sqlc.arg(client);

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
