-- +goose Up
ALTER TABLE tenants ADD COLUMN drain BOOLEAN NOT NULL DEFAULT FALSE;

-- What the supervisor of a hosted node said last, as JSON. It is told anew all the time.
CREATE TABLE tenant_reports (
    tenant TEXT NOT NULL PRIMARY KEY REFERENCES tenants (id),
    at_ms  BIGINT NOT NULL,
    report TEXT NOT NULL
);

-- +goose Down
DROP TABLE tenant_reports;
ALTER TABLE tenants DROP COLUMN drain;
