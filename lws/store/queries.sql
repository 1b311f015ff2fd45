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
