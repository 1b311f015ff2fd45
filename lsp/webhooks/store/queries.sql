-- name: Hooks :many
SELECT * FROM webhooks WHERE client = $1 ORDER BY app_name;

-- name: Hook :one
SELECT * FROM webhooks WHERE client = $1 AND app_name = $2;

-- name: CountHooks :one
SELECT CAST(COUNT(*) AS BIGINT) AS hooks FROM webhooks WHERE client = $1;

-- name: CountAllHooks :one
SELECT CAST(COUNT(*) AS BIGINT) AS hooks FROM webhooks;

-- name: PutHook :exec
INSERT INTO webhooks (client, app_name, url, form, set_ms) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (client, app_name) DO UPDATE SET url = EXCLUDED.url, form = EXCLUDED.form, set_ms = EXCLUDED.set_ms;

-- name: SetForm :exec
UPDATE webhooks SET form = $3 WHERE client = $1 AND app_name = $2;

-- name: DeleteHook :execrows
DELETE FROM webhooks WHERE client = $1 AND app_name = $2;

-- name: DeleteHooks :execrows
DELETE FROM webhooks WHERE client = $1;

-- name: HookClients :many
SELECT c.client, c.kept_ms, CAST((SELECT COUNT(*) FROM webhooks h WHERE h.client = c.client) AS BIGINT) AS hooks
FROM webhook_clients c WHERE c.client > $1 ORDER BY c.client LIMIT sqlc.arg(most);

-- name: KeepClient :exec
INSERT INTO webhook_clients (client, kept_ms) VALUES ($1, $2)
ON CONFLICT (client) DO UPDATE SET kept_ms = EXCLUDED.kept_ms;

-- name: KeepAllLonger :exec
UPDATE webhook_clients SET kept_ms = kept_ms + sqlc.arg(gap_ms);

-- name: DeleteClient :exec
DELETE FROM webhook_clients WHERE client = $1;

-- name: Cooldown :one
SELECT * FROM webhook_cooldowns WHERE client = $1 AND method = $2;

-- name: PutCooldown :exec
INSERT INTO webhook_cooldowns (client, method, sent_ms, lifted_ms) VALUES ($1, $2, $3, $4)
ON CONFLICT (client, method) DO UPDATE SET sent_ms = EXCLUDED.sent_ms, lifted_ms = EXCLUDED.lifted_ms;

-- name: DeleteCooldowns :exec
DELETE FROM webhook_cooldowns WHERE client = $1;

-- name: InsertNotification :exec
INSERT INTO webhook_notifications (id, client, app_name, host, method, body, made_ms, due_ms, until_ms, attempts, state, outcome, updated_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 'pending', '', $10);

-- name: ExtendWaiting :execrows
UPDATE webhook_notifications
SET until_ms = CASE WHEN until_ms < sqlc.arg(until_ms) THEN sqlc.arg(until_ms) ELSE until_ms END, body = sqlc.arg(body), updated_ms = sqlc.arg(now_ms)
WHERE client = sqlc.arg(client) AND app_name = sqlc.arg(app_name) AND method = sqlc.arg(method) AND state = 'pending' AND attempts = 0;

-- name: EndPending :exec
UPDATE webhook_notifications SET state = sqlc.arg(state), outcome = sqlc.arg(outcome), updated_ms = sqlc.arg(now_ms)
WHERE client = sqlc.arg(client) AND app_name = sqlc.arg(app_name) AND state = 'pending'
  AND (CAST(sqlc.arg(one_method) AS TEXT) = '' OR method = sqlc.arg(one_method));

-- name: Due :many
SELECT * FROM webhook_notifications WHERE state = 'pending' AND due_ms <= sqlc.arg(now_ms) AND id > sqlc.arg(after_id)
ORDER BY id LIMIT sqlc.arg(most);

-- name: NextDue :one
SELECT CAST(COALESCE(MIN(due_ms), 0) AS BIGINT) AS due_ms FROM webhook_notifications WHERE state = 'pending' AND due_ms > $1;

-- name: RecordAttempt :execrows
UPDATE webhook_notifications SET attempts = $2, state = $3, outcome = $4, due_ms = $5, host = $6, updated_ms = $7
WHERE id = $1 AND state = 'pending';

-- name: CountMade :one
SELECT CAST(COUNT(*) AS BIGINT) AS made FROM webhook_notifications WHERE client = $1 AND method = $2 AND made_ms > $3;

-- name: FindNotifications :many
SELECT * FROM webhook_notifications
WHERE id < sqlc.arg(before_id) AND (CAST(sqlc.arg(one_client) AS BIGINT) = 0 OR client = sqlc.arg(client))
ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: NotificationStates :many
SELECT state, CAST(COUNT(*) AS BIGINT) AS notifications FROM webhook_notifications GROUP BY state ORDER BY state;

-- name: DeleteOld :execrows
DELETE FROM webhook_notifications WHERE id IN (
    SELECT n.id FROM webhook_notifications n WHERE n.state <> 'pending' AND n.updated_ms < sqlc.arg(before_ms) LIMIT sqlc.arg(most)
);

-- name: Swept :one
SELECT swept_ms FROM webhook_sweeps WHERE one = 1;

-- name: PutSwept :exec
INSERT INTO webhook_sweeps (one, swept_ms) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET swept_ms = EXCLUDED.swept_ms;
