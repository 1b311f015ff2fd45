-- name: GetLease :one
SELECT name, owner, epoch, renewals, ttl_ms, expires_ms FROM store_leases WHERE name = $1;

-- name: InsertLease :execrows
INSERT INTO store_leases (name, owner, epoch, renewals, ttl_ms, expires_ms)
VALUES ($1, $2, 1, 0, $3, $4) ON CONFLICT (name) DO NOTHING;

-- name: TakeLease :execrows
UPDATE store_leases SET owner = $1, epoch = epoch + 1, renewals = 0, ttl_ms = $2, expires_ms = $3
WHERE name = $4 AND epoch = $5 AND renewals = $6;

-- name: RenewLease :exec
UPDATE store_leases SET renewals = renewals + 1, expires_ms = $1
WHERE name = $2 AND epoch = $3;

-- name: ReleaseLease :execrows
UPDATE store_leases SET owner = '', renewals = renewals + 1, expires_ms = 0
WHERE name = $1 AND epoch = $2;

-- name: GetMeta :one
SELECT database_id, generation, bumped_ms FROM store_meta WHERE id = 1;

-- name: InsertMeta :exec
INSERT INTO store_meta (id, database_id, generation, bumped_ms) VALUES (1, $1, $2, $3);

-- name: SetGeneration :execrows
UPDATE store_meta SET generation = $1, bumped_ms = $2 WHERE id = 1;

-- name: GetFile :one
SELECT generation FROM store_files WHERE id = $1;

-- name: PutFile :exec
INSERT INTO store_files (id, generation, seen_ms) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, seen_ms = excluded.seen_ms;

-- name: MarkRestored :exec
INSERT INTO store_restored (role, since_ms, reason) VALUES ($1, $2, $3) ON CONFLICT (role) DO UPDATE
SET since_ms = CASE WHEN excluded.since_ms > store_restored.since_ms THEN excluded.since_ms ELSE store_restored.since_ms + 1 END;

-- name: RestoredRoles :many
SELECT role, since_ms, reason FROM store_restored ORDER BY role;

-- name: AcceptRestored :execrows
DELETE FROM store_restored WHERE role = $1 AND since_ms = $2;

-- name: NodeMarks :many
SELECT name, position FROM store_node_marks;

-- name: PutNodeMark :exec
INSERT INTO store_node_marks (name, position) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET position = excluded.position;
