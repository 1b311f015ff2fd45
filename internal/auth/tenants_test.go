package auth_test

import (
	"context"
	"encoding/hex"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// fakeRegistry answers what it is told to.
type fakeRegistry struct {
	mu     sync.Mutex
	node   ln.PubKey
	admits error
	may    error
}

func (f *fakeRegistry) set(admits, may error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.admits, f.may = admits, may
}

func (f *fakeRegistry) Admit(_ context.Context, id auth.Identity) (auth.Identity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id.User, id.NodeKey = "ann", f.node
	return id, f.admits
}

func (f *fakeRegistry) NodeMay(ln.PubKey, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.may
}

const (
	forWallets   = "/t/Wallets"
	forTenants   = "/t/Tenants"
	forOperators = "/t/Operators"
)

func tenantTable() auth.Permissions {
	return auth.Permissions{
		forWallets:   {Service: "lsp", For: auth.Wallets},
		forTenants:   {Service: "tenant", For: auth.Tenants},
		forOperators: {Service: "lsp", For: auth.Operators},
	}
}

func (f *fixture) tenantMacaroon(t *testing.T, services ...string) string {
	t.Helper()
	require.NoError(t, f.bakery.AddRootKey(t.Context(), 77))
	mac, err := f.bakery.Mint(t.Context(), 77, auth.Identity{Kind: auth.KindTenant, Tenant: "acme", Services: services, Expires: f.clock.now().Add(time.Hour)})
	require.NoError(t, err)
	return mac
}

func with(ctx context.Context, mac string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(auth.MetadataMacaroon, mac))
}

// TestTenantsMacaroons: what each audience lets a tenant do.
func TestTenantsMacaroons(t *testing.T) {
	f, registry := newFixture(t), &fakeRegistry{}
	guard, err := auth.NewGuard(f.bakery, tenantTable(), auth.DefaultLimits(), f.clock.now, nil)
	require.NoError(t, err)
	mac := f.tenantMacaroon(t, "tenant", "lsp")
	_, _, err = guard.Admit(with(t.Context(), mac), forTenants)
	require.ErrorIs(t, err, errkind.Denied, "a server without a registry")
	guard.UseTenants(registry)
	ctx, key, err := guard.Admit(with(t.Context(), mac), forTenants)
	require.NoError(t, err)
	require.Equal(t, "tenant:acme", key)
	id, _ := auth.FromContext(ctx)
	require.Equal(t, "ann", id.User)
	require.Equal(t, uint64(77), id.RootKey)
	_, err = auth.NodeOf(ctx)
	require.ErrorIs(t, err, errkind.Unauthenticated)
	for _, method := range []string{forWallets, forOperators} {
		_, _, err = guard.Admit(with(t.Context(), mac), method)
		require.ErrorIs(t, err, errkind.Denied, method)
	}
	registry.node = ln.PubKey{2, 5}
	ctx, _, err = guard.Admit(with(t.Context(), mac), forWallets)
	require.NoError(t, err)
	node, err := auth.NodeOf(ctx)
	require.NoError(t, err)
	require.Equal(t, registry.node, node)
	_, _, err = guard.Admit(with(t.Context(), mac), forOperators)
	require.ErrorIs(t, err, errkind.Denied)
	registry.set(errkind.New(errkind.Unauthenticated, "revoked"), nil)
	_, _, err = guard.Admit(with(t.Context(), mac), forTenants)
	require.ErrorIs(t, err, errkind.Unauthenticated)

	// Wallets and operators are no tenants.
	wallet, err := f.bakery.Mint(t.Context(), auth.RootKeyWallets, auth.Identity{Kind: auth.KindWallet, NodeKey: newNode(t).pub(t), Services: []string{"lsp", "tenant"}, Expires: f.clock.now().Add(time.Hour)})
	require.NoError(t, err)
	operator, err := f.bakery.Mint(t.Context(), auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(t, err)
	for _, mac := range []string{wallet, operator} {
		_, _, err = guard.Admit(with(t.Context(), mac), forTenants)
		require.ErrorIs(t, err, errkind.Denied)
	}
	_, _, err = guard.Admit(with(t.Context(), wallet), forWallets)
	require.NoError(t, err)
	registry.set(nil, errkind.New(errkind.Denied, "suspended"))
	_, _, err = guard.Admit(with(t.Context(), wallet), forWallets)
	require.ErrorIs(t, err, errkind.Denied)
}

// TestATenantsCaveats: a holder can narrow its macaroon and not make it another's.
func TestATenantsCaveats(t *testing.T) {
	f := newFixture(t)
	mac := f.tenantMacaroon(t, "tenant", "lsp")
	narrowed := func(caveats ...string) (auth.Identity, error) {
		raw, err := hex.DecodeString(mac)
		require.NoError(t, err)
		var m macaroon.Macaroon
		require.NoError(t, m.UnmarshalBinary(raw))
		for _, c := range caveats {
			require.NoError(t, m.AddFirstPartyCaveat([]byte(c)))
		}
		raw, err = m.MarshalBinary()
		require.NoError(t, err)
		return f.bakery.Verify(t.Context(), hex.EncodeToString(raw), "")
	}
	id, err := narrowed("services lsp")
	require.NoError(t, err)
	require.Equal(t, []string{"lsp"}, id.Services)
	require.Equal(t, "acme", id.Tenant)
	for _, c := range []string{"tenant bolt", "tenant ", "kind operator", "kind wallet", "node " + newNode(t).pub(t).String(), "user ann", "role admin"} {
		_, err := narrowed(c)
		require.ErrorIs(t, err, errkind.Unauthenticated, c)
	}
	for _, id := range []auth.Identity{
		{Kind: auth.KindTenant, Services: []string{"lsp"}, Expires: f.clock.now()},
		{Kind: auth.KindTenant, Tenant: "acme", Expires: f.clock.now()},
		{Kind: auth.KindTenant, Tenant: "acme", Services: []string{"lsp"}},
	} {
		_, err := f.bakery.Mint(t.Context(), 77, id)
		require.Error(t, err)
	}
}

type fakeStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s fakeStream) Context() context.Context { return s.ctx }

// TestRecheckEndsStreams that the registry refuses now, and leaves those of which it
// knows nothing for the moment.
func TestRecheckEndsStreams(t *testing.T) {
	f, registry := newFixture(t), &fakeRegistry{node: ln.PubKey{2, 5}}
	guard, err := auth.NewGuard(f.bakery, tenantTable(), auth.DefaultLimits(), f.clock.now, nil)
	require.NoError(t, err)
	guard.UseTenants(registry)
	mac := f.tenantMacaroon(t, "tenant", "lsp")
	opened, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- guard.Stream()(nil, fakeStream{ctx: with(t.Context(), mac)}, &grpc.StreamServerInfo{FullMethod: forWallets}, func(_ any, ss grpc.ServerStream) error {
			close(opened)
			<-ss.Context().Done()
			return ss.Context().Err()
		})
	}()
	<-opened
	guard.Recheck(t.Context())
	registry.set(errkind.New(errkind.Unavailable, "no database"), nil)
	guard.Recheck(t.Context())
	select {
	case err := <-ended:
		t.Fatalf("the stream ended: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	registry.set(errkind.New(errkind.Unauthenticated, "revoked"), nil)
	guard.Recheck(t.Context())
	require.ErrorIs(t, <-ended, errkind.Unauthenticated)
	guard.Recheck(t.Context()) // it is not known any more
}
