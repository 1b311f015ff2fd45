-- name: GetIdentity :one
SELECT * FROM backups_identities WHERE owner = $1;

-- name: InsertIdentity :exec
INSERT INTO backups_identities (owner, identity, seq, head, log_from, objects, stored_bytes, history_bytes, day, day_writes,
    day_bytes, own_bytes, own_objects, own_object_bytes, own_day_writes, own_day_bytes, own_history_bytes, blocked,
    swept_seq, swept_ms, created_ms, written_ms)
VALUES ($1, $2, 0, $3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, FALSE, 0, 0, $4, $4);

-- name: AdvanceIdentity :exec
UPDATE backups_identities SET seq = $3, head = $4, objects = $5, stored_bytes = $6, history_bytes = $7, day = $8, day_writes = $9,
    day_bytes = $10, written_ms = $11 WHERE owner = $1 AND seq = $2;

-- name: ListIdentities :many
SELECT * FROM backups_identities WHERE identity > $1 ORDER BY identity LIMIT $2;

-- name: Totals :one
SELECT CAST(COUNT(*) AS BIGINT) AS identities, CAST(COALESCE(SUM(objects), 0) AS BIGINT) AS objects,
       CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) AS stored_bytes,
       CAST(COALESCE(SUM(history_bytes), 0) AS BIGINT) AS history_bytes
FROM backups_identities;

-- name: SetLimits :execrows
UPDATE backups_identities SET own_bytes = $2, own_objects = $3, own_object_bytes = $4, own_day_writes = $5, own_day_bytes = $6,
    own_history_bytes = $7, blocked = $8 WHERE owner = $1;

-- name: GetObject :one
SELECT version, size, seq, created FROM backups_objects WHERE owner = $1 AND store_id = $2 AND object_key = $3;

-- name: GetValue :one
SELECT o.version, o.seq, o.created, l.at_ms, l.content, l.value FROM backups_objects o
JOIN backups_log l ON l.owner = o.owner AND l.seq = o.seq
WHERE o.owner = $1 AND o.store_id = $2 AND o.object_key = $3;

-- name: PutObject :exec
INSERT INTO backups_objects (owner, store_id, object_key, version, size, seq, created) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (owner, store_id, object_key) DO UPDATE SET version = excluded.version, size = excluded.size, seq = excluded.seq,
    created = excluded.created;

-- name: DeleteObject :exec
DELETE FROM backups_objects WHERE owner = $1 AND store_id = $2 AND object_key = $3;

-- name: ListObjects :many
SELECT object_key, version, size, seq, created FROM backups_objects
WHERE owner = sqlc.arg(owner) AND store_id = sqlc.arg(store_id) AND created < sqlc.arg(before)
  AND object_key >= sqlc.arg(key_from) AND object_key < sqlc.arg(key_to) AND object_key <> sqlc.arg(hidden)
ORDER BY created DESC LIMIT sqlc.arg(most);

-- name: ListStores :many
SELECT store_id, CAST(COUNT(*) AS BIGINT) AS objects, CAST(COALESCE(SUM(size), 0) AS BIGINT) AS stored_bytes
FROM backups_objects WHERE owner = $1 GROUP BY store_id ORDER BY store_id LIMIT $2;

-- name: AppendLog :exec
INSERT INTO backups_log (owner, seq, op, store_id, object_key, version, content, size, at_ms, value)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: Entries :many
SELECT seq, op, store_id, object_key, version, content, size, at_ms FROM backups_log
WHERE owner = $1 AND seq > $2 ORDER BY seq LIMIT $3;

-- name: NextValue :one
SELECT seq, op, store_id, object_key, version, content, size, at_ms, value FROM backups_log
WHERE owner = $1 AND seq > $2 AND value IS NOT NULL ORDER BY seq LIMIT 1;

-- name: DueForSweep :many
SELECT * FROM backups_identities
WHERE (seq > swept_seq AND swept_ms <= sqlc.arg(changed_before_ms)) OR (history_bytes > 0 AND swept_ms <= sqlc.arg(any_before_ms))
   OR (history_bytes > sqlc.arg(history_bytes) AND seq > swept_seq)
ORDER BY swept_ms LIMIT sqlc.arg(most);

-- name: KeysWithValues :many
SELECT store_id, object_key, CAST(COUNT(*) AS BIGINT) AS kept FROM backups_log
WHERE owner = sqlc.arg(owner) AND value IS NOT NULL
  AND (store_id > sqlc.arg(store_id) OR (store_id = sqlc.arg(store_id) AND object_key > sqlc.arg(object_key)))
GROUP BY store_id, object_key ORDER BY store_id, object_key LIMIT sqlc.arg(most);

-- name: PastOf :many
SELECT l.seq, l.at_ms, l.size FROM backups_log l
WHERE l.owner = $1 AND l.store_id = $2 AND l.object_key = $3 AND l.value IS NOT NULL AND l.seq <> $4 ORDER BY l.seq DESC;

-- name: OldestPast :many
SELECT l.seq, l.size FROM backups_log l
WHERE l.owner = $1 AND l.value IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM backups_objects o WHERE o.owner = l.owner AND o.store_id = l.store_id
                  AND o.object_key = l.object_key AND o.seq = l.seq)
ORDER BY l.seq LIMIT $2;

-- name: LetGo :execrows
UPDATE backups_log SET value = NULL WHERE owner = $1 AND seq = $2 AND value IS NOT NULL;

-- name: TrimLog :execrows
DELETE FROM backups_log WHERE owner = $1 AND seq < $2 AND value IS NULL;

-- name: MarkSwept :execrows
UPDATE backups_identities SET history_bytes = history_bytes - sqlc.arg(freed_bytes), log_from = sqlc.arg(log_from),
    swept_seq = sqlc.arg(swept_seq), swept_ms = sqlc.arg(swept_ms) WHERE owner = sqlc.arg(owner);

-- name: GetMeta :one
SELECT epoch, began_ms, restores FROM backups_meta WHERE id = 1;

-- name: InsertMeta :execrows
INSERT INTO backups_meta (id, epoch, began_ms, restores) VALUES (1, $1, $2, 0) ON CONFLICT (id) DO NOTHING;

-- name: BeginEpoch :execrows
UPDATE backups_meta SET epoch = $1, began_ms = $2, restores = restores + 1 WHERE id = 1;

-- name: GetKey :one
SELECT secret FROM backups_keys WHERE name = $1;

-- name: InsertKey :execrows
INSERT INTO backups_keys (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;
