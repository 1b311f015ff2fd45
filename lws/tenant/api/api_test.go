package api_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/lws/tenant/engine"
	tenants "github.com/sluice-lsp/sluice/lws/tenant/store"
)

// served takes the handlers that the service registers, and is the guard before
// them: it turns a macaroon into an identity as the server does.
type served struct {
	t      *testing.T
	own    tenantv1.TenantServiceServer
	op     tenantv1.TenantOperatorServiceServer
	bakery *auth.Bakery
	engine *engine.Engine
}

func (s *served) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch x := impl.(type) {
	case tenantv1.TenantServiceServer:
		s.own = x
	case tenantv1.TenantOperatorServiceServer:
		s.op = x
	}
}

var gateway = ln.PubKey{3, 7}

func serve(t *testing.T) *served {
	t.Helper()
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, tenants.Migrate(t.Context(), db))
	keys, err := auth.NewFileRootKeys(filepath.Join(t.TempDir(), "keys"))
	require.NoError(t, err)
	s := &served{t: t}
	s.bakery, err = auth.NewBakery(t.Context(), keys, rand.Reader, time.Now)
	require.NoError(t, err)
	service := api.New()
	service.RegisterGRPC(s)
	_, err = s.op.ListTenants(t.Context(), &tenantv1.ListTenantsRequest{})
	require.ErrorIs(t, err, errkind.Unavailable, "before it is ready")
	s.engine, err = engine.New(t.Context(), engine.Options{
		DB: db, Bakery: s.bakery, Services: []string{"lsp", "backups"}, Gateway: gateway, Anchors: filepath.Join(t.TempDir(), "audit"),
		Now: time.Now, Random: rand.Reader, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	service.Ready(s.engine)
	return s
}

func (s *served) as(macaroon string) (context.Context, error) {
	id, err := s.bakery.Verify(s.t.Context(), macaroon, "")
	if err == nil {
		id, err = s.engine.Admit(s.t.Context(), id)
	}
	return auth.WithIdentity(s.t.Context(), id), err
}

func (s *served) must(macaroon string) context.Context {
	s.t.Helper()
	ctx, err := s.as(macaroon)
	require.NoError(s.t, err)
	return ctx
}

// tenant registers one with a node and users, and gives a macaroon of each user.
func (s *served) tenant(name string) (ln.PubKey, map[string]string) {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := s.op.RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: name, Kind: tenantv1.TenantKind_TENANT_KIND_HOSTED, Plan: "standard"})
	require.NoError(s.t, err)
	secret, err := btcec.NewPrivateKey()
	require.NoError(s.t, err)
	key, err := ln.PubKeyFromBytes(secret.PubKey().SerializeCompressed())
	require.NoError(s.t, err)
	signature, err := auth.EncodeSignature(ecdsa.SignCompact(secret, chainhash.DoubleHashB([]byte("Lightning Signed Message:"+tenant.Statement(gateway, name, key))), true))
	require.NoError(s.t, err)
	_, err = s.op.AddTenantNode(ctx, &tenantv1.AddTenantNodeRequest{Tenant: name, NodeKey: key[:], Signature: signature})
	require.NoError(s.t, err)
	_, err = s.op.SetTenantStatus(ctx, &tenantv1.SetTenantStatusRequest{Tenant: name, Status: tenantv1.TenantStatus_TENANT_STATUS_ACTIVE})
	require.NoError(s.t, err)
	out := map[string]string{}
	for user, role := range map[string]tenantv1.UserRole{"ann": tenantv1.UserRole_USER_ROLE_ADMIN, "bob": tenantv1.UserRole_USER_ROLE_VIEWER} {
		_, err := s.op.SetTenantUser(ctx, &tenantv1.SetTenantUserRequest{Tenant: name, Name: user, Role: role})
		require.NoError(s.t, err)
		got, err := s.op.IssueTenantMacaroon(ctx, &tenantv1.IssueTenantMacaroonRequest{Tenant: name, User: user, NodeKey: key[:], Days: 30})
		require.NoError(s.t, err)
		out[user] = got.GetMacaroon()
	}
	return key, out
}

func TestEveryMethodHasAnAudience(t *testing.T) {
	table := api.New().Permissions()
	for desc, who := range map[*grpc.ServiceDesc]auth.Audience{&tenantv1.TenantService_ServiceDesc: auth.Tenants, &tenantv1.TenantOperatorService_ServiceDesc: auth.Operators} {
		for _, m := range desc.Methods {
			require.Equal(t, auth.Permission{Service: "tenant", For: who}, table["/"+desc.ServiceName+"/"+m.MethodName])
		}
	}
}

// TestATenantActsForItselfAlone: two tenants with all that they know of each other.
func TestATenantActsForItselfAlone(t *testing.T) {
	s := serve(t)
	acmeNode, acme := s.tenant("acme")
	_, bolt := s.tenant("bolt")
	ctx := s.must(bolt["ann"])
	mine, err := s.own.GetOwnTenant(ctx, &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	require.Equal(t, "bolt", mine.GetTenant().GetTenant())
	require.Equal(t, "ann", mine.GetUser())
	theirs, err := s.own.GetOwnTenant(s.must(acme["ann"]), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	id := theirs.GetMacaroonId()
	for name, call := range map[string]func() error{
		"revoke": func() error {
			_, err := s.own.RevokeOwnMacaroon(ctx, &tenantv1.RevokeOwnMacaroonRequest{MacaroonId: id})
			return err
		},
		"rotate": func() error {
			_, err := s.own.RotateOwnMacaroon(ctx, &tenantv1.RotateOwnMacaroonRequest{MacaroonId: id})
			return err
		},
		"issue": func() error {
			_, err := s.own.IssueOwnMacaroon(ctx, &tenantv1.IssueOwnMacaroonRequest{User: "ann", NodeKey: acmeNode[:]})
			return err
		},
	} {
		require.ErrorIs(t, call(), errkind.NotFound, name)
	}
	log, err := s.own.ListOwnAudit(ctx, &tenantv1.ListOwnAuditRequest{})
	require.NoError(t, err)
	require.NotEmpty(t, log.GetEntries())
	for _, e := range log.GetEntries() {
		require.Equal(t, "bolt", e.GetTenant())
	}
	_, err = s.own.GetOwnTenant(t.Context(), &tenantv1.GetOwnTenantRequest{})
	require.ErrorIs(t, err, errkind.Unauthenticated)
	again, err := s.own.GetOwnTenant(s.must(acme["ann"]), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	require.Equal(t, theirs.String(), again.String(), "nothing of acme changed")
}

// TestRoles: who may only look changes nothing but its own macaroon.
func TestRoles(t *testing.T) {
	s := serve(t)
	_, acme := s.tenant("acme")
	viewer := s.must(acme["bob"])
	ann, err := s.own.GetOwnTenant(s.must(acme["ann"]), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	for name, call := range map[string]func() error{
		"service": func() error {
			_, err := s.own.SetOwnService(viewer, &tenantv1.SetOwnServiceRequest{Service: "lsp"})
			return err
		},
		"user": func() error {
			_, err := s.own.SetOwnUser(viewer, &tenantv1.SetOwnUserRequest{Name: "bob", Role: tenantv1.UserRole_USER_ROLE_ADMIN})
			return err
		},
		"remove": func() error {
			_, err := s.own.RemoveOwnUser(viewer, &tenantv1.RemoveOwnUserRequest{Name: "ann"})
			return err
		},
		"issue": func() error {
			_, err := s.own.IssueOwnMacaroon(viewer, &tenantv1.IssueOwnMacaroonRequest{User: "ann"})
			return err
		},
		"rotate another's": func() error {
			_, err := s.own.RotateOwnMacaroon(viewer, &tenantv1.RotateOwnMacaroonRequest{MacaroonId: ann.GetMacaroonId()})
			return err
		},
		"revoke": func() error {
			_, err := s.own.RevokeOwnMacaroon(viewer, &tenantv1.RevokeOwnMacaroonRequest{MacaroonId: ann.GetMacaroonId()})
			return err
		},
	} {
		require.ErrorIs(t, call(), errkind.Denied, name)
	}
	got, err := s.own.RotateOwnMacaroon(viewer, &tenantv1.RotateOwnMacaroonRequest{})
	require.NoError(t, err)
	_, err = s.as(acme["bob"])
	require.ErrorIs(t, err, errkind.Unauthenticated, "the replaced one")
	bob, err := s.own.GetOwnTenant(s.must(got.GetMacaroon()), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	require.Equal(t, tenantv1.UserRole_USER_ROLE_VIEWER, bob.GetRole())
	require.Equal(t, got.GetMacaroonId(), bob.GetMacaroonId())

	admin := s.must(acme["ann"])
	_, err = s.own.RemoveOwnUser(admin, &tenantv1.RemoveOwnUserRequest{Name: "ann"})
	require.ErrorIs(t, err, errkind.Conflict, "its own rights")
	_, err = s.own.SetOwnUser(admin, &tenantv1.SetOwnUserRequest{Name: "ann", Role: tenantv1.UserRole_USER_ROLE_VIEWER})
	require.ErrorIs(t, err, errkind.Conflict)
	set, err := s.own.SetOwnService(admin, &tenantv1.SetOwnServiceRequest{Service: "lsp"})
	require.NoError(t, err)
	require.False(t, set.GetTenant().GetServices()[0].GetAccepted())
	_, err = s.own.RemoveOwnUser(admin, &tenantv1.RemoveOwnUserRequest{Name: "bob"})
	require.NoError(t, err)
	_, err = s.as(got.GetMacaroon())
	require.ErrorIs(t, err, errkind.Unauthenticated)
	// What was done in the tenant's name says so.
	log, err := s.op.ListAudit(t.Context(), &tenantv1.ListAuditRequest{Tenant: "acme", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "tenant/acme/ann", log.GetEntries()[0].GetActor())
	require.JSONEq(t, `{"user": "bob"}`, log.GetEntries()[0].GetDetail())
}

func TestOperator(t *testing.T) {
	s := serve(t)
	s.tenant("acme")
	s.tenant("bolt")
	ctx := t.Context()
	list, err := s.op.ListTenants(ctx, &tenantv1.ListTenantsRequest{After: "acme"})
	require.NoError(t, err)
	require.Len(t, list.GetTenants(), 1)
	require.Equal(t, "bolt", list.GetTenants()[0].GetTenant())
	_, err = s.op.SetPlan(ctx, &tenantv1.SetPlanRequest{Plan: &tenantv1.Plan{Name: "large", Services: []string{"lsp"}, Nodes: 5, Users: 50, Macaroons: 100}})
	require.NoError(t, err)
	plans, err := s.op.ListPlans(ctx, &tenantv1.ListPlansRequest{})
	require.NoError(t, err)
	require.Len(t, plans.GetPlans(), 2)
	moved, err := s.op.SetTenantPlan(ctx, &tenantv1.SetTenantPlanRequest{Tenant: "bolt", Plan: "large"})
	require.NoError(t, err)
	require.Equal(t, "large", moved.GetTenant().GetPlan())
	login, err := s.op.SetNodeLogin(ctx, &tenantv1.SetNodeLoginRequest{Tenant: "bolt", Allowed: true})
	require.NoError(t, err)
	require.True(t, login.GetTenant().GetNodeLogin())
	check, err := s.op.VerifyAudit(ctx, &tenantv1.VerifyAuditRequest{})
	require.NoError(t, err)
	require.Empty(t, check.GetProblems())
	require.Equal(t, check.GetEntries(), check.GetAnchors())
	for name, call := range map[string]func() error{
		"no kind": func() error {
			_, err := s.op.RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: "x", Plan: "standard"})
			return err
		},
		"no status": func() error {
			_, err := s.op.SetTenantPlan(ctx, &tenantv1.SetTenantPlanRequest{Tenant: "acme"})
			return err
		},
		"no node": func() error {
			_, err := s.op.AddTenantNode(ctx, &tenantv1.AddTenantNodeRequest{Tenant: "acme"})
			return err
		},
		"half a node": func() error {
			_, err := s.op.RemoveTenantNode(ctx, &tenantv1.RemoveTenantNodeRequest{Tenant: "acme", NodeKey: []byte{2}})
			return err
		},
		"no role": func() error {
			_, err := s.op.SetTenantUser(ctx, &tenantv1.SetTenantUserRequest{Tenant: "acme", Name: "x"})
			return err
		},
		"no id": func() error {
			_, err := s.op.RevokeTenantMacaroon(ctx, &tenantv1.RevokeTenantMacaroonRequest{Tenant: "acme"})
			return err
		},
		"no plan":          func() error { _, err := s.op.SetPlan(ctx, &tenantv1.SetPlanRequest{}); return err },
		"a page too large": func() error { _, err := s.op.ListAudit(ctx, &tenantv1.ListAuditRequest{Limit: 1001}); return err },
		"for ever": func() error {
			_, err := s.op.IssueTenantMacaroon(ctx, &tenantv1.IssueTenantMacaroonRequest{Tenant: "acme", User: "ann", Days: 1 << 31})
			return err
		},
	} {
		require.ErrorIs(t, call(), errkind.Invalid, name)
	}
}

// TestHosting: a supervisor's word is shown, to operator and tenant, and hears the wish;
// who may wish is an admin, of a hosted node.
func TestHosting(t *testing.T) {
	s := serve(t)
	_, acme := s.tenant("acme")
	_, bolt := s.tenant("bolt")
	ctx := t.Context()
	report := func() bool {
		got, err := s.op.ReportHosting(ctx, &tenantv1.ReportHostingRequest{Tenant: "acme", Hosting: &tenantv1.Hosting{
			AtMs: 5, State: tenantv1.HostingState_HOSTING_STATE_RUNNING, SignerUp: true, Latencies: []*tenantv1.SigningLatency{{Call: "SignMessage", P50Us: 7}},
		}})
		require.NoError(t, err)
		return got.GetDrain()
	}
	shown, err := s.op.ShowTenant(ctx, &tenantv1.ShowTenantRequest{Tenant: "acme"})
	require.NoError(t, err)
	require.Nil(t, shown.GetTenant().GetHosting())
	require.False(t, report())
	_, err = s.own.DrainOwnNode(s.must(acme["bob"]), &tenantv1.DrainOwnNodeRequest{Drain: true})
	require.ErrorIs(t, err, errkind.Denied)
	_, err = s.own.DrainOwnNode(s.must(bolt["ann"]), &tenantv1.DrainOwnNodeRequest{Drain: true})
	require.NoError(t, err)
	require.False(t, report(), "another tenant's wish")
	mine, err := s.own.DrainOwnNode(s.must(acme["ann"]), &tenantv1.DrainOwnNodeRequest{Drain: true})
	require.NoError(t, err)
	require.True(t, mine.GetTenant().GetDrain())
	require.Equal(t, int64(7), mine.GetTenant().GetHosting().GetLatencies()[0].GetP50Us())
	require.NotEqual(t, int64(5), mine.GetTenant().GetHosting().GetAtMs(), "the server's clock")
	require.True(t, report())
	_, err = s.op.DrainTenantNode(ctx, &tenantv1.DrainTenantNodeRequest{Tenant: "acme"})
	require.NoError(t, err)
	require.False(t, report())
	audit, err := s.op.ListAudit(ctx, &tenantv1.ListAuditRequest{Tenant: "acme", Limit: 2})
	require.NoError(t, err)
	require.Equal(t, "node.drain", audit.GetEntries()[0].GetAction())
	require.Equal(t, "tenant/acme/ann", audit.GetEntries()[1].GetActor())

	for _, r := range []*tenantv1.ReportHostingRequest{{Tenant: "none", Hosting: &tenantv1.Hosting{}}, {Tenant: "acme"}, {Tenant: "acme", Hosting: &tenantv1.Hosting{Said: strings.Repeat("x", 20_000)}}} {
		_, err := s.op.ReportHosting(ctx, r)
		require.Error(t, err)
	}
	_, err = s.op.RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: "corp", Kind: tenantv1.TenantKind_TENANT_KIND_OWN, Plan: "standard"})
	require.NoError(t, err)
	_, err = s.op.DrainTenantNode(ctx, &tenantv1.DrainTenantNodeRequest{Tenant: "corp", Drain: true})
	require.ErrorIs(t, err, errkind.Conflict)
}

// TestClaims: the operator claims a key for a place; the tenant sees where its node is, in
// its registration and in its log, and another tenant gets nothing of it.
func TestClaims(t *testing.T) {
	s := serve(t)
	ctx := t.Context()
	node, acme := s.tenant("acme")
	_, bolt := s.tenant("bolt")
	claim := func(tenantID string, key []byte, id, place string, moved bool) error {
		_, err := s.op.ClaimTenantNode(ctx, &tenantv1.ClaimTenantNodeRequest{Tenant: tenantID, NodeKey: key, PlaceId: strings.Repeat(id, 32), Place: place, Made: true, Moved: moved})
		return err
	}
	require.ErrorIs(t, claim("acme", nil, "1", "alpha:/lnd", false), errkind.Invalid)
	require.ErrorIs(t, claim("acme", node[:], "", "alpha:/lnd", false), errkind.Invalid)
	require.ErrorIs(t, claim("none", node[:], "1", "alpha:/lnd", false), errkind.NotFound)
	_, err := s.op.RegisterTenant(ctx, &tenantv1.RegisterTenantRequest{Tenant: "corp", Kind: tenantv1.TenantKind_TENANT_KIND_HOSTED, Plan: "standard"})
	require.NoError(t, err)
	require.ErrorIs(t, claim("corp", node[:], "1", "alpha:/lnd", true), errkind.Conflict, "another tenant's")
	require.NoError(t, claim("acme", node[:], "1", "alpha:/lnd", false))
	require.NoError(t, claim("acme", node[:], "1", "alpha:/lnd", false))
	require.ErrorIs(t, claim("acme", node[:], "2", "beta:/lnd", false), errkind.Conflict)
	require.NoError(t, claim("acme", node[:], "2", "beta:/lnd", true))

	mine, err := s.own.GetOwnTenant(s.must(acme["ann"]), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	require.Len(t, mine.GetTenant().GetClaims(), 1)
	require.Equal(t, "beta:/lnd", mine.GetTenant().GetClaims()[0].GetPlace())
	audit, err := s.own.ListOwnAudit(s.must(acme["ann"]), &tenantv1.ListOwnAuditRequest{Limit: 2})
	require.NoError(t, err)
	require.Equal(t, "node.move", audit.GetEntries()[0].GetAction())
	require.Contains(t, audit.GetEntries()[0].GetDetail(), `"from":"alpha:/lnd"`)
	require.Equal(t, "node.claim", audit.GetEntries()[1].GetAction(), "the same again is no entry")
	theirs, err := s.own.GetOwnTenant(s.must(bolt["ann"]), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	require.Empty(t, theirs.GetTenant().GetClaims())
}
