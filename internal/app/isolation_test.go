package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"
	"gopkg.in/macaroon.v2"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	interceptorapi "github.com/sluice-lsp/sluice/interceptor/api"
	"github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/matrixtest"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	collabapi "github.com/sluice-lsp/sluice/lsp/collab/api"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
	"github.com/sluice-lsp/sluice/lws/tenant"
	tenantapi "github.com/sluice-lsp/sluice/lws/tenant/api"
	"github.com/sluice-lsp/sluice/lws/tenant/api/tenantv1"
	tenantengine "github.com/sluice-lsp/sluice/lws/tenant/engine"
	tenantstore "github.com/sluice-lsp/sluice/lws/tenant/store"
	swapsapi "github.com/sluice-lsp/sluice/swaps/api"
	towerapi "github.com/sluice-lsp/sluice/watchtower/api"
)

// bareHolds is the interceptor's API without an engine: its methods are all there.
type bareHolds struct {
	holdService
	interceptorv1.UnimplementedInterceptorServer
}

func (b bareHolds) RegisterGRPC(r grpc.ServiceRegistrar) {
	interceptorv1.RegisterInterceptorServer(r, b.UnimplementedInterceptorServer)
}

var _ interceptorapi.StatusSource = holdStatus{}

// isolated is a server with the API of every service that sluiced has, and callers of
// every kind. Only the registry of tenants and the login have something behind them:
// the rights of a call are decided before anything else is asked.
type isolated struct {
	t        *testing.T
	bakery   *auth.Bakery
	registry *tenantengine.Engine
	conn     *grpc.ClientConn
	client   *http.Client
	rest     string
	lws      *lwsapi.Service
	log      *logged
}

// logged is what a server logged, from debug on.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func startIsolated(t *testing.T) *isolated {
	t.Helper()
	dir := t.TempDir()
	keys, err := auth.NewFileRootKeys(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	x := &isolated{t: t, lws: lwsapi.New(), log: new(logged)}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(x.log), zapcore.DebugLevel))
	x.bakery, err = auth.NewBakery(t.Context(), keys, rand.Reader, time.Now)
	require.NoError(t, err)
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, tenantstore.Migrate(t.Context(), db))
	gateway := ln.PubKey{2, 1}
	names := []string{lspapi.Name, backupsapi.Name, towerapi.Name, lwsapi.Name, swapsapi.Name}
	x.registry, err = tenantengine.New(t.Context(), tenantengine.Options{
		DB: db, Bakery: x.bakery, Services: names, Gateway: gateway, Anchors: filepath.Join(dir, "audit"),
		Now: time.Now, Random: rand.Reader, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	tenants := tenantapi.New()
	tenants.Ready(x.registry)
	login, err := auth.NewLogin(auth.LoginConfig{
		Server: auth.Server{NodeKey: gateway, ID: "sluiced"}, Bakery: x.bakery, Services: names, MacaroonLife: time.Hour, Rand: rand.Reader, Now: time.Now,
	})
	require.NoError(t, err)
	cert, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Now: time.Now})
	require.NoError(t, err)
	limits := auth.DefaultLimits()
	plenty := auth.Rate{PerSecond: 1e6, Burst: 1e6}
	limits.Wallet, limits.Operator, limits.Address, limits.Unauthenticated = plenty, plenty, plenty, plenty
	server, err := rpcserver.Listen(t.Context(), rpcserver.Config{
		GRPCAddress: "127.0.0.1:0", RESTAddress: "127.0.0.1:0", TLS: cert.TLS(), Verifier: x.bakery, Tenants: x.registry, Limits: limits,
		StopTimeout: time.Second, Log: log, Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
	}, login, tenants, bareHolds{}, lspapi.New(), x.lws, collabapi.New(), backupsapi.New(), swapsapi.New(), towerapi.New())
	require.NoError(t, err)
	x.registry.OnChange(server.Recheck)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })

	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(dir, "tls.cert"))
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(pem))
	tlsConfig := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	x.conn, err = grpc.NewClient(server.GRPCAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = x.conn.Close() })
	x.client = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	t.Cleanup(x.client.CloseIdleConnections)
	x.rest = "https://" + server.RESTAddr().String()
	return x
}

// tenant registers an active tenant with a node, and gives a macaroon of an admin and
// one of a viewer.
func (x *isolated) tenant(id string) (node ln.PubKey, admin, viewer tenantengine.Issued) {
	x.t.Helper()
	ctx := x.t.Context()
	secret, err := btcec.NewPrivateKey()
	require.NoError(x.t, err)
	node, err = ln.PubKeyFromBytes(secret.PubKey().SerializeCompressed())
	require.NoError(x.t, err)
	_, err = x.registry.Register(ctx, "operator", id, tenant.SelfHosted, "standard")
	require.NoError(x.t, err)
	signature, err := auth.EncodeSignature(ecdsa.SignCompact(secret, chainhash.DoubleHashB([]byte("Lightning Signed Message:"+tenant.Statement(ln.PubKey{2, 1}, id, node))), true))
	require.NoError(x.t, err)
	_, err = x.registry.AddNode(ctx, "operator", id, node, signature)
	require.NoError(x.t, err)
	for _, c := range []tenant.Command{
		tenant.SetStatus{To: tenant.Active}, tenant.AddUser{Name: id + "-admin", Role: tenant.Admin}, tenant.AddUser{Name: id + "-viewer", Role: tenant.Viewer},
	} {
		_, err = x.registry.Apply(ctx, "operator", id, c)
		require.NoError(x.t, err)
	}
	issue := func(user string) tenantengine.Issued {
		got, err := x.registry.Issue(ctx, "operator", id, tenantengine.Wish{User: user, Node: node})
		require.NoError(x.t, err)
		return got
	}
	return node, issue(id + "-admin"), issue(id + "-viewer")
}

// weakened is a macaroon to which its holder added a caveat.
func weakened(t *testing.T, text, caveat string) string {
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

// callers are one of every kind.
func (x *isolated) callers() []matrixtest.Caller {
	x.t.Helper()
	ctx := x.t.Context()
	_, admin, viewer := x.tenant("acme")
	suspendedNode, suspended, _ := x.tenant("unpaid")
	_, err := x.registry.Apply(ctx, "operator", "unpaid", tenant.SetStatus{To: tenant.Suspended, Reason: "the bill"})
	require.NoError(x.t, err)
	revoked, err := x.registry.Issue(ctx, "operator", "acme", tenantengine.Wish{User: "acme-admin"})
	require.NoError(x.t, err)
	_, err = x.registry.Apply(ctx, "operator", "acme", tenant.Revoke{ID: revoked.Of.ID})
	require.NoError(x.t, err)
	wallet := func(node ln.PubKey) string {
		mac, err := x.bakery.Mint(ctx, auth.RootKeyWallets, auth.Identity{
			Kind: auth.KindWallet, NodeKey: node, Services: []string{lspapi.Name, backupsapi.Name, towerapi.Name, lwsapi.Name, swapsapi.Name}, Expires: time.Now().Add(time.Hour),
		})
		require.NoError(x.t, err)
		return mac
	}
	stranger := ln.PubKey{3}
	copy(stranger[1:], strings.Repeat("\x11", 32))
	operator, err := x.bakery.Mint(ctx, auth.RootKeyOperator, auth.Identity{Kind: auth.KindOperator})
	require.NoError(x.t, err)
	const long = "expires 1000000000"
	return []matrixtest.Caller{
		{Name: "nobody"},
		{Name: "garbage", Macaroon: "0201036c6e64"},
		{Name: "an expired login", Macaroon: weakened(x.t, wallet(stranger), long)},
		{Name: "an expired tenant", Macaroon: weakened(x.t, admin.Macaroon, long)},
		{Name: "an expired operator", Macaroon: weakened(x.t, operator, long)},
		{Name: "a revoked macaroon", Macaroon: revoked.Macaroon},
		{Name: "a suspended tenant", Macaroon: suspended.Macaroon, Kind: matrixtest.Bystander},
		{Name: "a suspended tenant's node", Macaroon: wallet(suspendedNode), Kind: matrixtest.Bystander},
		{Name: "a login for no service", Macaroon: weakened(x.t, wallet(stranger), "services "), Kind: matrixtest.Bystander},
		{Name: "a tenant's macaroon for another method", Macaroon: weakened(x.t, admin.Macaroon, "methods /none/None"), Kind: matrixtest.Bystander},
		{Name: "a wallet", Macaroon: wallet(stranger), Kind: matrixtest.Wallet},
		{Name: "a tenant's admin", Macaroon: admin.Macaroon, Kind: matrixtest.Tenant},
		{Name: "a tenant's viewer", Macaroon: viewer.Macaroon, Kind: matrixtest.Viewer},
		{Name: "the operator", Macaroon: operator, Kind: matrixtest.Operator},
	}
}

// TestIsolation: every method and every route as every kind of caller. What a service
// does with a call that it gets is in itest's case of the same name.
func TestIsolation(t *testing.T) {
	x := startIsolated(t)
	callers := x.callers()
	wrong, err := matrixtest.Check(t.Context(), x.conn, callers)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
	wrong, err = matrixtest.CheckREST(t.Context(), x.conn, x.client, x.rest, filepath.Join("..", ".."), callers)
	require.NoError(t, err)
	for _, w := range wrong {
		t.Error(w)
	}
}

// TestTheMatrixNotices what it is for: somebody who gets in where the table says no, a
// method that nobody thought of, and a line of the table without one.
func TestTheMatrixNotices(t *testing.T) {
	x := startIsolated(t)
	audiences, err := matrixtest.Audiences()
	require.NoError(t, err)
	guarded := 0
	for _, a := range audiences {
		if !a.Public {
			guarded++
		}
	}
	var operator string
	for _, c := range x.callers() {
		if c.Kind == matrixtest.Operator {
			operator = c.Macaroon
		}
	}
	// Whoever gets in as another than he says.
	wrong, err := matrixtest.Check(t.Context(), x.conn, []matrixtest.Caller{{Name: "impostor", Macaroon: operator}})
	require.NoError(t, err)
	require.Equal(t, guarded, len(wrong), "each guarded method is named once")
	wrong, err = matrixtest.CheckREST(t.Context(), x.conn, x.client, x.rest, filepath.Join("..", ".."), []matrixtest.Caller{{Name: "impostor", Macaroon: operator}})
	require.NoError(t, err)
	require.Greater(t, len(wrong), guarded/2)

	// A service that the table does not have.
	other := grpc.NewServer()
	agentv1.RegisterWalletServer(other, agentv1.UnimplementedWalletServer{})
	reflection.Register(other)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = other.Serve(listener) }()
	defer other.Stop()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	wrong, err = matrixtest.Check(t.Context(), conn, nil)
	require.NoError(t, err)
	said := strings.Join(wrong, "\n")
	require.Contains(t, said, "/sluice.agent.v1.Wallet/GetStatus is not in")
	require.Contains(t, said, "audiences.txt names /sluice.tenant.v1.TenantService/GetOwnTenant, which the server does not have")
}

// TestWhatATenantLearnsOfAnother: bolt calls everything that tenants may call, with
// acme's name, node, macaroons and users in every field. No answer tells anything of
// acme that bolt did not send, and acme is what it was.
func TestWhatATenantLearnsOfAnother(t *testing.T) {
	x := startIsolated(t)
	node, admin, viewer := x.tenant("acme")
	_, bolt, _ := x.tenant("bolt")
	before, _, err := x.registry.Tenant(t.Context(), "acme")
	require.NoError(t, err)
	sent := matrixtest.Values{
		ByName: map[string]string{"tenant": "acme", "macaroon_id": tenant.FormatID(admin.Of.ID), "name": "acme-viewer", "user": "acme-viewer", "service": "lsp"},
		Text:   "acme", Bytes: node[:],
	}
	marks := []string{"acme-admin", tenant.FormatID(viewer.Of.ID)}
	methods, err := matrixtest.Methods(t.Context(), x.conn)
	require.NoError(t, err)
	calls, answers := 0, 0
	for _, m := range methods {
		audiences, err := matrixtest.Audiences()
		require.NoError(t, err)
		if a := audiences[matrixtest.FullName(m)]; !a.Wallets && !a.Tenants {
			continue
		}
		calls++
		code, said := matrixtest.Call(t.Context(), x.conn, m, bolt.Macaroon, sent.Filled(m))
		if code == codes.OK {
			answers++
		}
		for _, mark := range marks {
			require.NotContains(t, said, mark, matrixtest.FullName(m))
		}
	}
	require.Greater(t, calls, 30)
	require.Greater(t, answers, 3, "some of it must have been answered, or nothing was shown")
	after, _, err := x.registry.Tenant(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, before, after)
	// The marks are what acme itself is shown.
	for _, m := range methods {
		if matrixtest.FullName(m) == tenantv1.TenantService_GetOwnTenant_FullMethodName {
			_, said := matrixtest.Call(t.Context(), x.conn, m, admin.Macaroon, matrixtest.Harmless(m))
			for _, mark := range marks {
				require.Contains(t, said, mark)
			}
		}
	}
}
