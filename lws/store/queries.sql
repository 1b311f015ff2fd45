-- name: PutWish :exec
INSERT INTO lws_wishes (client, hold_for_ms, max_htlcs, max_sat, final_cltv, changed_ms) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (client) DO UPDATE SET hold_for_ms = excluded.hold_for_ms, max_htlcs = excluded.max_htlcs, max_sat = excluded.max_sat,
    final_cltv = excluded.final_cltv, changed_ms = excluded.changed_ms;

-- name: DeleteWish :exec
DELETE FROM lws_wishes WHERE client = $1;

-- name: ListWishes :many
SELECT * FROM lws_wishes ORDER BY client;

-- name: CountWishes :one
SELECT CAST(COUNT(*) AS BIGINT) AS wishes FROM lws_wishes;

-- name: PutExpected :exec
INSERT INTO lws_expected (client, payment_hash, final_cltv, until_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (client, payment_hash) DO UPDATE SET final_cltv = excluded.final_cltv, until_ms = excluded.until_ms;

-- name: CountExpected :one
SELECT CAST(COUNT(*) AS BIGINT) AS expected FROM lws_expected WHERE client = $1 AND until_ms > $2;

-- name: GetExpected :one
SELECT final_cltv FROM lws_expected WHERE client = $1 AND payment_hash = $2;

-- name: DeleteExpectedBefore :exec
DELETE FROM lws_expected WHERE until_ms <= $1;
