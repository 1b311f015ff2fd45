-- +goose Up
-- What each order of a channel is (bLIP-51), beside its state machine: the
-- columns that people search by and that limits are summed from. What a client
-- is shown is computed from the machine.
CREATE TABLE lsp_orders (
    id              TEXT NOT NULL PRIMARY KEY,
    client          BYTEA NOT NULL,
    state           TEXT NOT NULL,
    reason          TEXT NOT NULL,
    terminal        BOOLEAN NOT NULL,
    -- Undecided: neither delivered nor refused, so that it counts as an open
    -- request. Funded: an open of it has begun.
    undecided       BOOLEAN NOT NULL,
    funded          BOOLEAN NOT NULL,
    newcomer        BOOLEAN NOT NULL,
    paid_by         TEXT NOT NULL,
    lsp_balance_sat BIGINT NOT NULL,
    client_balance_sat BIGINT NOT NULL,
    fee_sat         BIGINT NOT NULL,
    announce        BOOLEAN NOT NULL,
    held_msat       BIGINT NOT NULL,
    held_sat_blocks BIGINT NOT NULL,
    -- What was taken for paid on chain and is unconfirmed.
    risk_sat        BIGINT NOT NULL,
    outpoint        TEXT NOT NULL,
    lease_end_height BIGINT NOT NULL,
    created_ms      BIGINT NOT NULL,
    updated_ms      BIGINT NOT NULL
);
CREATE INDEX lsp_orders_created ON lsp_orders (created_ms, id);
CREATE INDEX lsp_orders_client ON lsp_orders (client, created_ms);
CREATE INDEX lsp_orders_undecided ON lsp_orders (id) WHERE undecided;
CREATE INDEX lsp_orders_finished ON lsp_orders (updated_ms, id) WHERE terminal;

-- Which outputs of the wallet are payments of orders, for the books.
CREATE TABLE lsp_order_coins (
    outpoint   TEXT NOT NULL PRIMARY KEY,
    order_id   TEXT NOT NULL,
    amount_sat BIGINT NOT NULL
);
CREATE INDEX lsp_order_coins_order ON lsp_order_coins (order_id);

CREATE TABLE lsp_refunds (
    id         TEXT NOT NULL PRIMARY KEY,
    order_id   TEXT NOT NULL,
    state      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    terminal   BOOLEAN NOT NULL,
    owed_sat   BIGINT NOT NULL,
    fee_sat    BIGINT NOT NULL,
    txid       TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX lsp_refunds_order ON lsp_refunds (order_id);

-- Every version of a refund's transaction, for the books: any may confirm.
CREATE TABLE lsp_refund_txs (
    txid     TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL
);

-- +goose Down
DROP TABLE lsp_refund_txs;
DROP TABLE lsp_refunds;
DROP TABLE lsp_order_coins;
DROP TABLE lsp_orders;
