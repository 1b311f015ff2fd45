-- name: ListPlans :many
SELECT * FROM tenant_plans ORDER BY name;

-- name: GetPlan :one
SELECT * FROM tenant_plans WHERE name = $1;

-- name: PutPlan :exec
INSERT INTO tenant_plans (name, services, nodes, users, macaroons) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET services = excluded.services, nodes = excluded.nodes, users = excluded.users, macaroons = excluded.macaroons;

-- name: ListTenants :many
SELECT * FROM tenants ORDER BY id;

-- name: GetTenant :one
SELECT * FROM tenants WHERE id = $1;

-- name: InsertTenant :exec
INSERT INTO tenants (id, kind, status, reason, plan, node_login, declined, created_ms, changed_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: UpdateTenant :exec
UPDATE tenants SET status = $2, reason = $3, plan = $4, node_login = $5, declined = $6, changed_ms = $7, drain = $8 WHERE id = $1;

-- name: ListNodes :many
SELECT * FROM tenant_nodes ORDER BY tenant, added_ms, node;

-- name: NodesOf :many
SELECT * FROM tenant_nodes WHERE tenant = $1 ORDER BY added_ms, node;

-- name: InsertNode :exec
INSERT INTO tenant_nodes (node, tenant, added_ms, added, place_id, place, claimed_ms) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: DeleteNodesOf :exec
DELETE FROM tenant_nodes WHERE tenant = $1;

-- name: ListUsers :many
SELECT * FROM tenant_users ORDER BY tenant, name;

-- name: UsersOf :many
SELECT * FROM tenant_users WHERE tenant = $1 ORDER BY name;

-- name: InsertUser :exec
INSERT INTO tenant_users (tenant, name, role, added_ms) VALUES ($1, $2, $3, $4);

-- name: DeleteUsersOf :exec
DELETE FROM tenant_users WHERE tenant = $1;

-- name: ListMacaroons :many
SELECT * FROM tenant_macaroons ORDER BY tenant, made_ms, id;

-- name: MacaroonsOf :many
SELECT * FROM tenant_macaroons WHERE tenant = $1 ORDER BY made_ms, id;

-- name: InsertMacaroon :exec
INSERT INTO tenant_macaroons (id, tenant, username, node, services, made_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: DeleteMacaroonsOf :exec
DELETE FROM tenant_macaroons WHERE tenant = $1;

-- name: AuditHead :one
SELECT seq, hash FROM tenant_audit ORDER BY seq DESC LIMIT 1;

-- name: AppendAudit :exec
INSERT INTO tenant_audit (seq, at_ms, actor, tenant, action, detail, prev, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: AuditFrom :many
SELECT * FROM tenant_audit WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: AuditBefore :many
SELECT * FROM tenant_audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2;

-- name: AuditOfBefore :many
SELECT * FROM tenant_audit WHERE tenant = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3;

-- name: PutReport :exec
INSERT INTO tenant_reports (tenant, at_ms, report) VALUES ($1, $2, $3)
ON CONFLICT (tenant) DO UPDATE SET at_ms = excluded.at_ms, report = excluded.report;

-- name: GetReport :one
SELECT * FROM tenant_reports WHERE tenant = $1;
