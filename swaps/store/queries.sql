-- name: InsertRates :exec
INSERT INTO swaps_rates (at_ms, soon_sat_per_kw, later_sat_per_kw) VALUES ($1, $2, $3)
ON CONFLICT (at_ms) DO NOTHING;

-- name: RatesSince :many
SELECT * FROM swaps_rates WHERE at_ms >= $1 ORDER BY at_ms;

-- name: DeleteRatesBefore :exec
DELETE FROM swaps_rates WHERE at_ms < $1;

-- name: InsertSecret :exec
INSERT INTO swaps_secrets (name, secret, made_ms) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING;

-- name: GetSecret :one
SELECT secret FROM swaps_secrets WHERE name = $1;

-- name: InsertProbe :exec
INSERT INTO swaps_probes (hash, until_height) VALUES ($1, $2);

-- name: ListProbes :many
SELECT * FROM swaps_probes ORDER BY hash;

-- name: DeleteProbe :exec
DELETE FROM swaps_probes WHERE hash = $1;
