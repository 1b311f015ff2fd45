-- name: InsertTenant :exec
INSERT INTO tower_tenants (id, identity, tower_key, sessions, updates, stored_bytes, own_sessions, own_updates, own_bytes, suspended,
    reason, created_ms, expires_ms)
VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM tower_tenants), $1, $2, 0, 0, 0, 0, 0, 0, FALSE, '', $3, $4);

-- name: GetTenant :one
SELECT * FROM tower_tenants WHERE id = $1;

-- name: TenantByIdentity :one
SELECT * FROM tower_tenants WHERE identity = $1;

-- name: ListTenants :many
SELECT * FROM tower_tenants WHERE identity > $1 ORDER BY identity LIMIT $2;

-- name: TenantKeys :many
SELECT id, identity, tower_key FROM tower_tenants WHERE expires_ms > $1 OR suspended = TRUE ORDER BY id;

-- name: SetExpiry :execrows
UPDATE tower_tenants SET expires_ms = $2 WHERE id = $1;

-- name: SetTenant :execrows
UPDATE tower_tenants SET own_sessions = $2, own_updates = $3, own_bytes = $4, suspended = $5, reason = $6, expires_ms = $7, own_free = $8 WHERE id = $1;

-- name: AddUsage :exec
UPDATE tower_tenants SET sessions = sessions + $2, updates = updates + $3, stored_bytes = stored_bytes + $4 WHERE id = $1;

-- name: DrawCredit :exec
UPDATE tower_tenants SET credit_msat = credit_msat - $2, drawn_msat = drawn_msat + $2 WHERE id = $1;

-- name: AddCredit :execrows
UPDATE tower_tenants SET credit_msat = credit_msat + $2 WHERE id = $1;

-- name: UnbookedTenants :many
SELECT id, identity, drawn_msat, booked_msat FROM tower_tenants WHERE drawn_msat > booked_msat ORDER BY id LIMIT $1;

-- name: SetBooked :exec
UPDATE tower_tenants SET booked_msat = $2 WHERE id = $1;

-- name: ExpiredTenants :many
SELECT * FROM tower_tenants WHERE expires_ms <= $1 AND suspended = FALSE AND sessions > 0 ORDER BY expires_ms LIMIT $2;

-- name: Totals :one
SELECT CAST(COUNT(*) AS BIGINT) AS tenants, CAST(COALESCE(SUM(sessions), 0) AS BIGINT) AS sessions,
       CAST(COALESCE(SUM(updates), 0) AS BIGINT) AS updates, CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) AS stored_bytes,
       CAST(COALESCE(SUM(credit_msat), 0) AS BIGINT) AS credit_msat, CAST(COALESCE(SUM(drawn_msat), 0) AS BIGINT) AS drawn_msat
FROM tower_tenants;

-- name: InsertSession :one
INSERT INTO tower_sessions (num, tenant, session_id, blob_type, max_updates, reward_base, reward_rate, sweep_fee_rate, reward_address,
    last_applied, client_last_applied, updates, stored_bytes, created_ms, updated_ms)
VALUES ((SELECT COALESCE(MAX(num), 0) + 1 FROM tower_sessions), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, 0, $11, $11)
RETURNING num;

-- name: GetSession :one
SELECT * FROM tower_sessions WHERE tenant = $1 AND session_id = $2;

-- name: SetPolicy :exec
UPDATE tower_sessions SET blob_type = $2, max_updates = $3, reward_base = $4, reward_rate = $5, sweep_fee_rate = $6, reward_address = $7,
    last_applied = $8, client_last_applied = $9 WHERE num = $1;

-- name: AdvanceSession :exec
UPDATE tower_sessions SET last_applied = $2, client_last_applied = $3, updates = updates + $4, stored_bytes = stored_bytes + $5,
    updated_ms = $6 WHERE num = $1;

-- name: ListSessions :many
SELECT * FROM tower_sessions WHERE tenant = $1 AND num > $2 ORDER BY num LIMIT $3;

-- name: CountHeld :many
SELECT s.num, CAST((SELECT COUNT(*) FROM tower_updates u WHERE u.session = s.num) AS BIGINT) AS held FROM tower_sessions s WHERE s.tenant = $1;

-- name: DeleteSession :exec
DELETE FROM tower_sessions WHERE num = $1;

-- name: InsertUpdate :execrows
INSERT INTO tower_updates (hint, session, seq, blob) VALUES ($1, $2, $3, $4) ON CONFLICT (hint, session) DO NOTHING;

-- name: ReplaceUpdate :exec
UPDATE tower_updates SET seq = $3, blob = $4 WHERE hint = $1 AND session = $2;

-- name: DeleteUpdates :exec
DELETE FROM tower_updates WHERE session = $1;

-- name: UpdatesBySeq :many
SELECT hint, seq, blob FROM tower_updates WHERE session = $1 AND seq = $2 ORDER BY hint;

-- name: Tip :one
SELECT height, hash FROM tower_blocks ORDER BY height DESC LIMIT 1;

-- name: BlockAt :one
SELECT height, hash FROM tower_blocks WHERE height = $1;

-- name: LowestBlock :one
SELECT height, hash FROM tower_blocks ORDER BY height LIMIT 1;

-- name: InsertBlock :exec
INSERT INTO tower_blocks (height, hash) VALUES ($1, $2);

-- name: DeleteBlocksFrom :exec
DELETE FROM tower_blocks WHERE height >= $1;

-- name: DeleteBlocksBelow :exec
DELETE FROM tower_blocks WHERE height < $1;

-- name: InsertBreach :exec
INSERT INTO tower_breaches (id, tenant, session_id, seq, commit_tx, seen_height, seen_hash, missing_since, justice, justice_tx, to_local,
    swept_sat, fee_sat, state, final, spend_height, spend_hash, spend_tx, spend_path, attempts, problem, found_ms, changed_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23);

-- name: SetBreach :exec
UPDATE tower_breaches SET seen_height = $2, seen_hash = $3, missing_since = $4, state = $5, final = $6, spend_height = $7, spend_hash = $8,
    spend_tx = $9, spend_path = $10, attempts = $11, problem = $12, changed_ms = $13 WHERE id = $1;

-- name: GetBreach :one
SELECT * FROM tower_breaches WHERE id = $1;

-- name: OpenBreaches :many
SELECT * FROM tower_breaches WHERE final = FALSE ORDER BY id;

-- name: BuriedAbove :many
SELECT * FROM tower_breaches WHERE final = TRUE AND spend_height > $1 ORDER BY id;

-- name: ListBreaches :many
SELECT * FROM tower_breaches WHERE found_ms < $1 OR (found_ms = $1 AND id < $2) ORDER BY found_ms DESC, id DESC LIMIT $3;

-- name: ListTenantBreaches :many
SELECT * FROM tower_breaches WHERE tenant = $1 AND (found_ms < $2 OR (found_ms = $2 AND id < $3)) ORDER BY found_ms DESC, id DESC LIMIT $4;

-- name: CountBreaches :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS breaches, CAST(COALESCE(SUM(swept_sat), 0) AS BIGINT) AS swept_sat FROM tower_breaches GROUP BY state;

-- name: AddStory :exec
INSERT INTO tower_story (breach, n, at_ms, text)
VALUES ($1, (SELECT COALESCE(MAX(n), 0) + 1 FROM tower_story WHERE breach = $1), $2, $3);

-- name: Story :many
SELECT n, at_ms, text FROM tower_story WHERE breach = $1 ORDER BY n;

-- name: InsertKey :execrows
INSERT INTO tower_keys (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: GetKey :one
SELECT secret FROM tower_keys WHERE name = $1;

-- name: PutPurchase :exec
INSERT INTO tower_purchases (id, tenant, state, amount_msat, paid_msat, bolt11, reason, created_ms, expires_ms, changed_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, paid_msat = excluded.paid_msat, bolt11 = excluded.bolt11, reason = excluded.reason,
    changed_ms = excluded.changed_ms;

-- name: GetPurchase :one
SELECT * FROM tower_purchases WHERE tenant = $1 AND id = $2;

-- name: ListPurchases :many
SELECT * FROM tower_purchases WHERE tenant = $1 ORDER BY created_ms DESC, id DESC LIMIT $2;

-- name: CountPurchases :one
SELECT CAST(COUNT(*) AS BIGINT) FROM tower_purchases WHERE tenant = $1 AND state IN ('planned', 'offered');

-- name: OverPurchases :many
SELECT id FROM tower_purchases WHERE state = 'over' AND changed_ms <= $1 ORDER BY changed_ms LIMIT $2;

-- name: DeletePurchase :exec
DELETE FROM tower_purchases WHERE id = $1;
