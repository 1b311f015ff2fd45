package main

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
)

// TestTheFirstMacaroonIsMadeOnce: the tenant has it, and has replaced it. The command again,
// as for a new certificate, must not leave a live one at the operator, from whatever
// directory it is run.
func TestTheFirstMacaroonIsMadeOnce(t *testing.T) {
	m, _ := machines(t)
	ctx, s := t.Context(), m.s
	_, err := tenantsOf(s).RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: "acme", Kind: tenantv1.TenantKind_TENANT_KIND_HOSTED, Plan: "standard"})
	require.NoError(t, err)
	node, signature := fakeStatement(t, "acme")
	key, err := ln.ParsePubKey(node)
	require.NoError(t, err)
	_, err = tenantsOf(s).AddTenantNode(ctx, &tenantv1.AddTenantNodeRequest{Tenant: "acme", NodeKey: key[:], Signature: signature})
	require.NoError(t, err)
	_, err = tenantsOf(s).SetTenantStatus(ctx, &tenantv1.SetTenantStatusRequest{Tenant: "acme", Status: tenantv1.TenantStatus_TENANT_STATUS_ACTIVE})
	require.NoError(t, err)
	dir := t.TempDir()
	c := TenantAddCmd{Tenant: "acme", Dir: filepath.Join(dir, "node"), Admin: "admin", Out: filepath.Join(dir, "acme.macaroon")}
	again := func() (string, []*tenantv1.TenantMacaroon) {
		t.Helper()
		got, err := tenantsOf(s).ShowTenant(ctx, &tenantv1.ShowTenantRequest{Tenant: "acme"})
		require.NoError(t, err)
		file, err := c.firstMacaroon(ctx, s, got.GetTenant(), key)
		require.NoError(t, err)
		got, err = tenantsOf(s).ShowTenant(ctx, &tenantv1.ShowTenantRequest{Tenant: "acme"})
		require.NoError(t, err)
		return file, got.GetTenant().GetMacaroons()
	}
	file, have := again()
	require.Equal(t, c.Out, file)
	require.Len(t, have, 1)
	first, err := os.ReadFile(file)
	require.NoError(t, err)
	file, have = again()
	require.Equal(t, c.Out, file)
	require.Len(t, have, 1)
	now, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(first), hex.EncodeToString(now))
	require.NoError(t, os.Remove(file))
	file, have = again()
	require.Empty(t, file, "the tenant has it")
	require.Len(t, have, 1)
	require.NoFileExists(t, c.Out)

	// With no macaroon left for the node, as when it was dropped and comes again, there is one.
	_, err = tenantsOf(s).RevokeTenantMacaroon(ctx, &tenantv1.RevokeTenantMacaroonRequest{Tenant: "acme", MacaroonId: have[0].GetMacaroonId()})
	require.NoError(t, err)
	file, have = again()
	require.Equal(t, c.Out, file)
	require.Len(t, have, 1)
}
