-- +goose Up
-- What the books know of lnd's channels and of its wallet's transactions, beside
-- the ledger: how each stands, so that only what changed is booked. The data is
-- JSON; a row that is done or settled is history.
CREATE TABLE lsp_book_channels (
    outpoint TEXT NOT NULL PRIMARY KEY,
    done     BOOLEAN NOT NULL,
    data     BYTEA NOT NULL
);

CREATE TABLE lsp_book_txs (
    txid    TEXT NOT NULL PRIMARY KEY,
    settled BOOLEAN NOT NULL,
    data    BYTEA NOT NULL
);
CREATE INDEX lsp_book_txs_young ON lsp_book_txs (txid) WHERE NOT settled;

-- +goose Down
DROP TABLE lsp_book_txs;
DROP TABLE lsp_book_channels;
