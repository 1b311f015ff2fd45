-- name: InsertEntry :execrows
INSERT INTO ledger_entries (entry_key, digest, at_ms, reason, reference)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (entry_key) DO NOTHING;

-- name: EntryDigest :one
SELECT digest FROM ledger_entries WHERE entry_key = $1;

-- name: InsertLine :exec
INSERT INTO ledger_lines (entry_key, pos, account, amount_msat) VALUES ($1, $2, $3, $4);

-- name: Balance :one
SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) AS balance_msat FROM ledger_lines WHERE account = $1;

-- name: Balances :many
SELECT account, CAST(SUM(amount_msat) AS BIGINT) AS balance_msat FROM ledger_lines GROUP BY account ORDER BY account;

-- name: TrialBalance :one
SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) AS balance_msat FROM ledger_lines;

-- name: History :many
SELECT e.entry_key, e.at_ms, e.reason, e.reference, l.pos, l.amount_msat
FROM ledger_lines l JOIN ledger_entries e ON e.entry_key = l.entry_key
WHERE l.account = $1 ORDER BY e.at_ms, e.entry_key, l.pos;

-- name: LinesOfReference :many
SELECT e.entry_key, e.at_ms, e.reason, e.reference, l.account, l.amount_msat
FROM ledger_entries e JOIN ledger_lines l ON l.entry_key = e.entry_key
WHERE e.reference = $1 ORDER BY e.at_ms, e.entry_key, l.pos;

-- name: LinesOfEntry :many
SELECT e.entry_key, e.at_ms, e.reason, e.reference, l.account, l.amount_msat
FROM ledger_entries e JOIN ledger_lines l ON l.entry_key = e.entry_key
WHERE e.entry_key = $1 ORDER BY l.pos;
