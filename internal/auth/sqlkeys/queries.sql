-- name: RootKey :one
SELECT root_key FROM auth_root_keys WHERE id = $1;

-- name: InsertRootKey :execrows
INSERT INTO auth_root_keys (id, root_key) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING;

-- name: DeleteRootKey :exec
DELETE FROM auth_root_keys WHERE id = $1;
