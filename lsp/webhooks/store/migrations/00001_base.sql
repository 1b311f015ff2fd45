-- +goose Up
-- Webhooks of clients (bLIP-55). Names are bytes: a client may put a 0 byte into
-- one. A URL may hold a secret of the client's.
CREATE TABLE webhooks (
    client   BYTEA NOT NULL,
    app_name BYTEA NOT NULL,
    url      TEXT NOT NULL,
    -- The form of timestamps that this webhook was seen to take.
    form     TEXT NOT NULL,
    set_ms   BIGINT NOT NULL,
    PRIMARY KEY (client, app_name)
);

-- Since when nothing keeps a client's webhooks: the last time that it was seen
-- with a channel, or that it set one.
CREATE TABLE webhook_clients (
    client  BYTEA NOT NULL PRIMARY KEY,
    kept_ms BIGINT NOT NULL
);

-- When a client last heard each method, for the cooldown.
CREATE TABLE webhook_cooldowns (
    client    BYTEA NOT NULL,
    method    TEXT NOT NULL,
    sent_ms   BIGINT NOT NULL,
    lifted_ms BIGINT NOT NULL,
    PRIMARY KEY (client, method)
);

-- The ledger: what each webhook was told, or is to be.
CREATE TABLE webhook_notifications (
    id         TEXT NOT NULL PRIMARY KEY,
    client     BYTEA NOT NULL,
    app_name   BYTEA NOT NULL,
    host       TEXT NOT NULL,
    method     TEXT NOT NULL,
    body       BYTEA NOT NULL,
    made_ms    BIGINT NOT NULL,
    due_ms     BIGINT NOT NULL,
    until_ms   BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    state      TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX webhook_notifications_due ON webhook_notifications (due_ms) WHERE state = 'pending';
CREATE INDEX webhook_notifications_client ON webhook_notifications (client, id);
CREATE INDEX webhook_notifications_old ON webhook_notifications (updated_ms) WHERE state <> 'pending';

-- When the service last looked who has a channel: time in which nobody looked
-- counts for no client.
CREATE TABLE webhook_sweeps (
    one      BIGINT NOT NULL PRIMARY KEY,
    swept_ms BIGINT NOT NULL
);

-- +goose Down
DROP TABLE webhook_sweeps;
DROP TABLE webhook_notifications;
DROP TABLE webhook_cooldowns;
DROP TABLE webhook_clients;
DROP TABLE webhooks;
