-- name: InsertHash :execrows
INSERT INTO payment_hashes (hash, owner) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING;

-- name: DeleteHashes :exec
DELETE FROM payment_hashes WHERE owner = $1;
