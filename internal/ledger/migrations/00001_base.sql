-- +goose Up
CREATE TABLE ledger_entries (
    entry_key TEXT NOT NULL PRIMARY KEY,
    digest    BYTEA NOT NULL,
    at_ms     BIGINT NOT NULL,
    reason    TEXT NOT NULL,
    reference TEXT NOT NULL
);
CREATE INDEX ledger_entries_reference ON ledger_entries (reference, at_ms, entry_key);

CREATE TABLE ledger_lines (
    entry_key   TEXT NOT NULL REFERENCES ledger_entries (entry_key),
    pos         BIGINT NOT NULL,
    account     TEXT NOT NULL,
    amount_msat BIGINT NOT NULL,
    PRIMARY KEY (entry_key, pos)
);
CREATE INDEX ledger_lines_account ON ledger_lines (account, amount_msat);

-- +goose Down
DROP TABLE ledger_lines;
DROP TABLE ledger_entries;
