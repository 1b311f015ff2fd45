package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// firstMacaroonFile notes in the node's directory that the tenant's first macaroon was
// made.
const firstMacaroonFile = "sluice-first-macaroon"

// firstMacaroon makes it once: one that is in its file stays, and once the tenant has taken
// it, none is left lying here that opens its registration. It gives no file then.
func (c TenantAddCmd) firstMacaroon(ctx context.Context, s *session, t *tenantv1.Tenant, key ln.PubKey) (string, error) {
	file := c.Out
	if file == "" {
		file = c.Tenant + ".macaroon"
	}
	made := filepath.Join(c.Dir, firstMacaroonFile)
	if _, err := os.Stat(file); err == nil {
		return file, auth.WriteFileAtomic(made, []byte("made\n"))
	}
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) && (err != nil || actsFor(t, key)) {
		return "", err
	}
	if !slices.ContainsFunc(t.GetUsers(), func(u *tenantv1.TenantUser) bool { return u.GetName() == c.Admin }) {
		if _, err := call(ctx, s, tenantsOf(s).SetTenantUser, &tenantv1.SetTenantUserRequest{Tenant: c.Tenant, Name: c.Admin, Role: tenantv1.UserRole_USER_ROLE_ADMIN}); err != nil {
			return "", err
		}
	}
	got, err := call(ctx, s, tenantsOf(s).IssueTenantMacaroon, &tenantv1.IssueTenantMacaroonRequest{Tenant: c.Tenant, User: c.Admin, NodeKey: key[:]})
	if err != nil {
		return "", err
	}
	if err := auth.WriteMacaroonFile(file, got.GetMacaroon()); err != nil {
		return "", err
	}
	return file, auth.WriteFileAtomic(made, []byte("made\n"))
}

// actsFor says whether the tenant has a macaroon for a node: with the node, its macaroons
// go as well.
func actsFor(t *tenantv1.Tenant, node ln.PubKey) bool {
	return slices.ContainsFunc(t.GetMacaroons(), func(m *tenantv1.TenantMacaroon) bool { return string(m.GetNodeKey()) == string(node[:]) })
}
