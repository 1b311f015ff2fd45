-- name: InsertRow :execrows
INSERT INTO interceptor_rows (
    chan_id, htlc_id, id, payment_hash, incoming_msat, outgoing_msat, incoming_expiry, outgoing_expiry,
    outgoing_scid, auto_fail_height, fail_height, offer_height, on_chain, handler, state, reason, preimage,
    offered_ms, decided_ms, gone_ms, outcome, acked, live, version, extra_fee_msat,
    send_msat, send_records, ballot, after_state
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)
ON CONFLICT (chan_id, htlc_id) DO NOTHING;

-- name: UpdateRow :execrows
UPDATE interceptor_rows SET
    auto_fail_height = $1, fail_height = $2, on_chain = $3, state = $4, reason = $5, preimage = $6,
    decided_ms = $7, gone_ms = $8, outcome = $9, acked = $10, live = $11, extra_fee_msat = $12,
    send_msat = $13, send_records = $14, ballot = $15, after_state = $16, version = version + 1
WHERE chan_id = $17 AND htlc_id = $18 AND version = $19;

-- name: GetRow :one
SELECT * FROM interceptor_rows WHERE chan_id = $1 AND htlc_id = $2;

-- name: ListLiveRows :many
SELECT * FROM interceptor_rows WHERE live ORDER BY id;

-- name: ListRows :many
SELECT * FROM interceptor_rows
WHERE id > sqlc.arg(after)
  AND (CAST(sqlc.arg(handler) AS TEXT) = '' OR handler = sqlc.arg(handler))
  AND (CAST(sqlc.arg(state) AS TEXT) = '' OR state = sqlc.arg(state))
  AND gone_ms <= sqlc.arg(gone_until_ms)
ORDER BY id LIMIT sqlc.arg(max_rows);

-- name: ListRowsByHash :many
SELECT * FROM interceptor_rows
WHERE payment_hash = sqlc.arg(payment_hash) AND id > sqlc.arg(after)
  AND (CAST(sqlc.arg(handler) AS TEXT) = '' OR handler = sqlc.arg(handler))
  AND (CAST(sqlc.arg(state) AS TEXT) = '' OR state = sqlc.arg(state))
  AND gone_ms <= sqlc.arg(gone_until_ms)
ORDER BY id LIMIT sqlc.arg(max_rows);

-- name: DeleteOldRows :execrows
DELETE FROM interceptor_rows WHERE id IN (
    SELECT r.id FROM interceptor_rows r WHERE NOT r.live AND r.gone_ms > 0 AND r.gone_ms < sqlc.arg(before_ms)
    ORDER BY r.gone_ms LIMIT sqlc.arg(most)
);

-- name: PutHandler :exec
INSERT INTO interceptor_handlers (name, priority, on_absent) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, on_absent = excluded.on_absent;

-- name: ListHandlers :many
SELECT * FROM interceptor_handlers ORDER BY name;

-- name: PutRoute :exec
INSERT INTO interceptor_routes (handler, scid, until_ms, guarded) VALUES ($1, $2, $3, $4)
ON CONFLICT (handler, scid) DO UPDATE SET until_ms = excluded.until_ms, guarded = FALSE;

-- name: DeleteRoute :exec
DELETE FROM interceptor_routes WHERE handler = $1 AND scid = $2;

-- name: DeleteLapsedRoutes :execrows
DELETE FROM interceptor_routes WHERE until_ms > 0 AND until_ms <= $1;

-- name: ListRoutes :many
SELECT * FROM interceptor_routes ORDER BY handler, scid;

-- name: EndGuards :execrows
UPDATE interceptor_routes SET guarded = FALSE WHERE guarded;

-- name: GetTenure :one
SELECT epoch, doubt_ms FROM interceptor_tenures WHERE lease = $1;

-- name: PutTenure :exec
INSERT INTO interceptor_tenures (lease, epoch, doubt_ms) VALUES ($1, $2, $3)
ON CONFLICT (lease) DO UPDATE SET epoch = excluded.epoch, doubt_ms = excluded.doubt_ms;
