//go:build itest

package itest

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/rpcserver/matrixtest"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	"github.com/sluice-lsp/sluice/lws/tenant"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

// tenancy is a sluiced as its operator and its tenants see it.
type tenancy struct {
	t       *testing.T
	s       *devnet.Sluiced
	gateway *devnet.Node
	conn    *grpc.ClientConn
	op      tenantv1.TenantOperatorServiceClient
	// operator is the operator's macaroon, in hex.
	operator string
}

func newTenancy(t *testing.T, s *devnet.Sluiced, gateway *devnet.Node) *tenancy {
	t.Helper()
	x := &tenancy{t: t, s: s, gateway: gateway}
	var err error
	x.operator, err = auth.ReadMacaroonFile(s.Macaroon)
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	x.conn, err = grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = x.conn.Close() })
	x.op = tenantv1.NewTenantOperatorServiceClient(x.conn)
	return x
}

// as is a context whose calls carry a macaroon.
func as(ctx context.Context, mac string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, auth.MetadataMacaroon, mac)
}

// login is the macaroon that a node's own key gets.
func (x *tenancy) login(ctx context.Context, n *devnet.Node) string {
	x.t.Helper()
	client := dialNode(x.t, n)
	tlsConfig, err := selfcert.ClientTLS(x.s.TLSCert)
	require.NoError(x.t, err)
	conn, creds, err := auth.Dial(x.s.GRPC, credentials.NewTLS(tlsConfig), auth.ClientConfig{
		Server: auth.Server{NodeKey: mustKey(x.t, x.gateway.PubKey)}, Node: mustKey(x.t, n.PubKey), Now: time.Now,
		Sign: func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) },
	})
	require.NoError(x.t, err)
	defer func() { _ = conn.Close() }()
	mac, err := creds.Macaroon(ctx)
	require.NoError(x.t, err)
	return mac
}

// register makes a tenant of a node, with an admin, and gives a macaroon of the admin
// that acts for the node.
func (x *tenancy) register(ctx context.Context, id string, kind tenantv1.TenantKind, n *devnet.Node) string {
	x.t.Helper()
	op := as(ctx, x.operator)
	_, err := x.op.RegisterTenant(op, &tenantv1.RegisterTenantRequest{Tenant: id, Kind: kind, Plan: "standard"})
	require.NoError(x.t, err)
	key := mustKey(x.t, n.PubKey)
	signature, err := dialNode(x.t, n).SignMessage(ctx, []byte(tenant.Statement(mustKey(x.t, x.gateway.PubKey), id, key)))
	require.NoError(x.t, err)
	_, err = x.op.AddTenantNode(op, &tenantv1.AddTenantNodeRequest{Tenant: id, NodeKey: key[:], Signature: signature})
	require.NoError(x.t, err)
	_, err = x.op.SetTenantStatus(op, &tenantv1.SetTenantStatusRequest{Tenant: id, Status: tenantv1.TenantStatus_TENANT_STATUS_ACTIVE})
	require.NoError(x.t, err)
	_, err = x.op.SetTenantUser(op, &tenantv1.SetTenantUserRequest{Tenant: id, Name: id + "-admin", Role: tenantv1.UserRole_USER_ROLE_ADMIN})
	require.NoError(x.t, err)
	return x.issue(ctx, id, id+"-admin", key[:])
}

func (x *tenancy) issue(ctx context.Context, id, user string, node []byte) string {
	x.t.Helper()
	got, err := x.op.IssueTenantMacaroon(as(ctx, x.operator), &tenantv1.IssueTenantMacaroonRequest{Tenant: id, User: user, NodeKey: node, Days: 1})
	require.NoError(x.t, err)
	return got.GetMacaroon()
}

// narrowed is a macaroon to which its holder added a caveat.
func narrowed(t *testing.T, text, caveat string) string {
	t.Helper()
	raw, err := hex.DecodeString(text)
	require.NoError(t, err)
	var m macaroon.Macaroon
	require.NoError(t, m.UnmarshalBinary(raw))
	require.NoError(t, m.AddFirstPartyCaveat([]byte(caveat)))
	raw, err = m.MarshalBinary()
	require.NoError(t, err)
	return hex.EncodeToString(raw)
}

// TestIsolation: every gRPC method and every REST route of a running sluiced as every
// kind of caller; then a tenant with data at every service, and another one that knows
// its name, its node and its ids, and calls everything.
func TestIsolation(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	tower, err := net.Port()
	require.NoError(t, err)
	settings := map[string]string{"joint.enabled": "true", "watchtower.listen": tower, "watchtower.addresses": tower}
	for _, who := range []string{"address", "wallet", "operator", "unauthenticated"} {
		settings["limits."+who+".per_second"], settings["limits."+who+".burst"] = "100000", "100000"
	}
	s, err := net.StartSluiced(ctx, net.Gateway, append(lnd.GatewayRights(), lnd.JointRights()...), devnet.SluicedConfig{Settings: settings})
	require.NoError(t, err)
	x := newTenancy(t, s, net.Gateway)
	acme := x.register(ctx, "acme", tenantv1.TenantKind_TENANT_KIND_SELF_HOSTED, net.Payer)
	bolt := x.register(ctx, "bolt", tenantv1.TenantKind_TENANT_KIND_HOSTED, net.Wallet)

	stranger := x.login(ctx, net.Gateway)
	const past = "expires 1000000000"
	callers := []matrixtest.Caller{
		{Name: "nobody"},
		{Name: "an expired login", Macaroon: narrowed(t, stranger, past)},
		{Name: "an expired tenant", Macaroon: narrowed(t, acme, past)},
		{Name: "a hosted node's own key", Macaroon: x.login(ctx, net.Wallet), Kind: matrixtest.Bystander},
		{Name: "a wallet", Macaroon: stranger, Kind: matrixtest.Wallet},
		{Name: "a self-hosted node's own key", Macaroon: x.login(ctx, net.Payer), Kind: matrixtest.Wallet},
		{Name: "a tenant", Macaroon: acme, Kind: matrixtest.Tenant},
		{Name: "the operator", Macaroon: x.operator, Kind: matrixtest.Operator},
	}
	absent := []string{"looprpc.SwapServer", "sluice.swaps.v1.SwapsOperatorService", "sluice.swaps.v1.ChannelSwapsService"}
	wrong, err := matrixtest.Check(ctx, x.conn, callers, absent...)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
	tlsConfig, err := selfcert.ClientTLS(s.TLSCert)
	require.NoError(t, err)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	defer web.CloseIdleConnections()
	wrong, err = matrixtest.CheckREST(ctx, x.conn, web, "https://"+s.REST, filepath.Join(".."), callers, absent...)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
	x.knowsEverything(ctx, acme, bolt, net.Payer)
	x.revokedWhileItListens(ctx, acme, net.Payer)
}

// knowsEverything: one tenant has data at every service, and another one calls all
// that it may with the first one's name, node and ids.
func (x *tenancy) knowsEverything(ctx context.Context, acme, bolt string, node *devnet.Node) {
	t := x.t
	t.Helper()
	vault, tower, holds := backupsv1.NewVaultServiceClient(x.conn), towerv1.NewTowerServiceClient(x.conn), lwsv1.NewHoldsServiceClient(x.conn)
	own := tenantv1.NewTenantServiceClient(x.conn)
	me := as(ctx, acme)
	const secret = "acme-value-secret"
	_, err := vault.Put(me, &backupsv1.PutRequest{StoreId: "acme-store", Puts: []*backupsv1.Item{{Key: "acme-key", Value: []byte(secret)}}})
	require.NoError(t, err)
	registered, err := tower.Register(me, &towerv1.RegisterRequest{})
	require.NoError(t, err)
	_, err = holds.SetHold(me, &lwsv1.SetHoldRequest{Hold: &lwsv1.Hold{HoldForSeconds: 600, MaxHtlcs: 3, MaxSat: 54_321, FinalCltvDeltaBlocks: 144}})
	require.NoError(t, err)
	self, err := own.GetOwnTenant(me, &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)

	view := func() string {
		t.Helper()
		var out string
		add := func(m proto.Message, err error) {
			t.Helper()
			require.NoError(t, err)
			out += prototext.MarshalOptions{Multiline: true}.Format(m)
		}
		value, err := vault.Get(me, &backupsv1.GetRequest{StoreId: "acme-store", Key: "acme-key", Nonce: bytes.Repeat([]byte{7}, 32)})
		add(value.GetItem(), err)
		keys, err := vault.ListKeys(me, &backupsv1.ListKeysRequest{StoreId: "acme-store"})
		add(keys, err)
		mine, err := tower.GetTower(me, &towerv1.GetTowerRequest{})
		add(mine, err)
		hold, err := holds.GetHold(me, &lwsv1.GetHoldRequest{})
		add(hold.GetHold(), err)
		tenancy, err := own.GetOwnTenant(me, &tenantv1.GetOwnTenantRequest{})
		add(tenancy, err)
		return out
	}
	marks := []string{secret, registered.GetTower().GetUris()[0], "acme-admin", "54321"}
	before := view()
	for _, m := range marks {
		require.Contains(t, before, m, "what acme itself is shown")
	}
	key := mustKey(t, node.PubKey)
	knows := matrixtest.Values{
		ByName: map[string]string{"tenant": "acme", "store_id": "acme-store", "key": "acme-key", "macaroon_id": self.GetMacaroonId(), "name": "acme-user", "user": "acme-user"},
		Text:   "acme", Bytes: key[:],
	}
	audiences, err := matrixtest.Audiences()
	require.NoError(t, err)
	methods, err := matrixtest.Methods(ctx, x.conn)
	require.NoError(t, err)
	answered := 0
	for _, m := range methods {
		name := matrixtest.FullName(m)
		a := audiences[name]
		for _, mac := range []string{bolt, x.login(ctx, x.gateway)} {
			if !a.Public && !a.Wallets && !a.Tenants {
				continue
			}
			code, said := matrixtest.Call(ctx, x.conn, m, mac, knows.Filled(m))
			if code == codes.OK {
				answered++
			}
			for _, mark := range marks {
				require.NotContains(t, said, mark, name)
			}
		}
	}
	require.Greater(t, answered, 10, "some of it must have been answered, or nothing was shown")
	require.Equal(t, before, view(), "acme is what it was")
}

// revokedWhileItListens: a stream that is open ends when its macaroon is revoked.
func (x *tenancy) revokedWhileItListens(ctx context.Context, acme string, node *devnet.Node) {
	t := x.t
	t.Helper()
	key := mustKey(t, node.PubKey)
	mac := x.issue(ctx, "acme", "acme-admin", key[:])
	self, err := tenantv1.NewTenantServiceClient(x.conn).GetOwnTenant(as(ctx, mac), &tenantv1.GetOwnTenantRequest{})
	require.NoError(t, err)
	stream, err := lspv1.NewChannelsServiceClient(x.conn).WatchWaiting(as(ctx, mac), &lspv1.WatchWaitingRequest{})
	require.NoError(t, err)
	_, err = stream.Header()
	require.NoError(t, err)
	_, err = tenantv1.NewTenantServiceClient(x.conn).RevokeOwnMacaroon(as(ctx, acme), &tenantv1.RevokeOwnMacaroonRequest{MacaroonId: self.GetMacaroonId()})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	require.Equal(t, codes.Unauthenticated, status.Code(err), err)
	_, err = tenantv1.NewTenantServiceClient(x.conn).GetOwnTenant(as(ctx, mac), &tenantv1.GetOwnTenantRequest{})
	require.Equal(t, codes.Unauthenticated, status.Code(err), err)
}
