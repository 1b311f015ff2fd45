-- +goose Up
CREATE TABLE tenant_plans (
    name      TEXT NOT NULL PRIMARY KEY,
    services  TEXT NOT NULL,
    nodes     BIGINT NOT NULL,
    users     BIGINT NOT NULL,
    macaroons BIGINT NOT NULL
);

CREATE TABLE tenants (
    id         TEXT NOT NULL PRIMARY KEY,
    kind       TEXT NOT NULL,
    status     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    plan       TEXT NOT NULL REFERENCES tenant_plans (name),
    node_login BOOLEAN NOT NULL,
    declined   TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL
);

-- A node's key belongs to one tenant.
CREATE TABLE tenant_nodes (
    node     BYTEA NOT NULL PRIMARY KEY,
    tenant   TEXT NOT NULL REFERENCES tenants (id),
    added_ms BIGINT NOT NULL
);
CREATE INDEX tenant_nodes_of ON tenant_nodes (tenant);

CREATE TABLE tenant_users (
    tenant   TEXT NOT NULL REFERENCES tenants (id),
    name     TEXT NOT NULL,
    role     TEXT NOT NULL,
    added_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- What is not here is revoked. node is empty for macaroons that act for none.
CREATE TABLE tenant_macaroons (
    id         BIGINT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL REFERENCES tenants (id),
    username   TEXT NOT NULL,
    node       BYTEA NOT NULL,
    services   TEXT NOT NULL,
    made_ms    BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX tenant_macaroons_of ON tenant_macaroons (tenant);

-- Entries are only ever added, in the transaction of what they tell.
CREATE TABLE tenant_audit (
    seq    BIGINT NOT NULL PRIMARY KEY,
    at_ms  BIGINT NOT NULL,
    actor  TEXT NOT NULL,
    tenant TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL,
    prev   BYTEA NOT NULL,
    hash   BYTEA NOT NULL
);
CREATE INDEX tenant_audit_of ON tenant_audit (tenant, seq);

-- +goose Down
DROP TABLE tenant_audit;
DROP TABLE tenant_macaroons;
DROP TABLE tenant_users;
DROP TABLE tenant_nodes;
DROP TABLE tenants;
DROP TABLE tenant_plans;
