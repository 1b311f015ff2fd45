-- name: InsertInstance :exec
INSERT INTO fsm_instances (machine, id, state, data, version, terminal, due_ms, created_ms, updated_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: GetInstance :one
SELECT * FROM fsm_instances WHERE machine = $1 AND id = $2;

-- name: UpdateInstance :execrows
UPDATE fsm_instances SET state = sqlc.arg(state), data = sqlc.arg(data), version = sqlc.arg(version),
    terminal = sqlc.arg(terminal), due_ms = sqlc.arg(due_ms), updated_ms = sqlc.arg(updated_ms)
WHERE machine = sqlc.arg(machine) AND id = sqlc.arg(id) AND version = sqlc.arg(was);

-- name: ListLive :many
SELECT * FROM fsm_instances WHERE machine = $1 AND NOT terminal AND id > $2 ORDER BY id LIMIT $3;

-- name: ListPage :many
SELECT * FROM fsm_instances WHERE machine = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: ListByState :many
SELECT * FROM fsm_instances WHERE machine = $1 AND state = $2 AND id > $3 ORDER BY id LIMIT $4;

-- name: CountStates :many
SELECT state, COUNT(*) AS instances FROM fsm_instances WHERE machine = $1 GROUP BY state ORDER BY state;

-- name: InsertEvent :exec
INSERT INTO fsm_events (machine, id, seq, event, data, from_state, to_state, at_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: ListEvents :many
SELECT * FROM fsm_events WHERE machine = $1 AND id = $2 ORDER BY seq;

-- name: InsertEffect :exec
INSERT INTO fsm_outbox (machine, id, seq, pos, effect, data, created_ms, done_ms, attempts, note)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, '');

-- name: FinishEffect :execrows
UPDATE fsm_outbox SET done_ms = $1, note = $2
WHERE machine = $3 AND id = $4 AND seq = $5 AND pos = $6 AND done_ms = 0;

-- name: NoteEffectFailure :execrows
UPDATE fsm_outbox SET attempts = attempts + 1, note = $1
WHERE machine = $2 AND id = $3 AND seq = $4 AND pos = $5 AND done_ms = 0;

-- name: NoteEffect :exec
UPDATE fsm_outbox SET note = $1 WHERE machine = $2 AND id = $3 AND seq = $4 AND pos = $5;

-- name: ListUndoneIDs :many
SELECT DISTINCT id FROM fsm_outbox WHERE machine = $1 AND done_ms = 0 ORDER BY id;

-- name: ListUndoneOf :many
SELECT * FROM fsm_outbox WHERE machine = $1 AND id = $2 AND done_ms = 0 AND seq > $3 ORDER BY seq, pos;

-- name: ListEffects :many
SELECT * FROM fsm_outbox WHERE machine = $1 AND id = $2 ORDER BY seq, pos;

-- name: CountUnfinished :one
SELECT CAST(COUNT(*) AS BIGINT) AS unfinished FROM fsm_instances i WHERE i.machine = $1 AND i.id = $2
  AND (NOT i.terminal OR EXISTS (SELECT 1 FROM fsm_outbox o WHERE o.machine = i.machine AND o.id = i.id AND o.done_ms = 0));

-- name: DeleteInstance :exec
DELETE FROM fsm_instances WHERE machine = $1 AND id = $2;

-- name: DeleteEvents :exec
DELETE FROM fsm_events WHERE machine = $1 AND id = $2;

-- name: DeleteEffects :exec
DELETE FROM fsm_outbox WHERE machine = $1 AND id = $2;
