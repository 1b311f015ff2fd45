package provider_test

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 calls an ETag
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	backupsapi "github.com/sluice-lsp/sluice/backupsvc/api"
	"github.com/sluice-lsp/sluice/backupsvc/api/backupsv1"
	"github.com/sluice-lsp/sluice/backupsvc/engine"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	backups "github.com/sluice-lsp/sluice/backupsvc/store"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/backupsvc/vss"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

func keyOf(n byte) *btcec.PrivateKey {
	key, _ := btcec.PrivKeyFromBytes(bytes.Repeat([]byte{n}, 32))
	return key
}

func nodeOf(n byte) ln.PubKey { return ln.PubKey(keyOf(n).PubKey().SerializeCompressed()) }

// signed is a text signed as lnd's SignMessage does.
func signed(t testing.TB, n byte, text string) string {
	t.Helper()
	first := sha256.Sum256([]byte("Lightning Signed Message:" + text))
	digest := sha256.Sum256(first[:])
	out, err := auth.EncodeSignature(ecdsa.SignCompact(keyOf(n), digest[:], true))
	require.NoError(t, err)
	return out
}

func newEngine(t testing.TB) *engine.Engine {
	t.Helper()
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, backups.Migrate(t.Context(), db))
	signer, err := vault.NewSigner(bytes.Repeat([]byte{1}, 32))
	require.NoError(t, err)
	e, err := engine.New(engine.Options{
		DB: db, Signer: signer, Epoch: vault.Epoch{1}, Config: engine.Defaults(), Binding: signed(t, gatewayNode, vault.BindingText(signer.Key())),
		Now: time.Now, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	return e
}

const (
	gatewayNode = 3
	walletNode  = 4
)

// gatewayPlace is a vault of ours behind its real server.
func gatewayPlace(t testing.TB) *provider.Gateway {
	t.Helper()
	return provider.NewGateway(nodeOf(gatewayNode), nodeOf(walletNode), backupsv1.NewVaultServiceClient(vaultConn(t)), http.NoBody)
}

func vaultConn(t testing.TB) *grpc.ClientConn {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	dir := t.TempDir()
	service := backupsapi.New()
	keys, err := auth.NewFileRootKeys(dir + "/keys")
	require.NoError(t, err)
	bakery, err := auth.NewBakery(ctx, keys, rand.Reader, time.Now)
	require.NoError(t, err)
	cert, err := selfcert.Open(selfcert.Config{CertPath: dir + "/tls.cert", KeyPath: dir + "/tls.key", Now: time.Now})
	require.NoError(t, err)
	server, err := rpcserver.Listen(ctx, rpcserver.Config{
		GRPCAddress: "localhost:0", RESTAddress: "localhost:0", TLS: cert.TLS(), Verifier: bakery, Limits: auth.DefaultLimits(), StopTimeout: time.Second,
		Log: zap.NewNop(), Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
	}, service)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	mac, err := bakery.Mint(ctx, auth.RootKeyWallets, auth.Identity{
		Kind: auth.KindWallet, NodeKey: nodeOf(walletNode), Services: []string{backupsapi.Name}, Expires: time.Now().Add(time.Hour),
	})
	require.NoError(t, err)
	tlsConfig, err := selfcert.ClientTLS(dir + "/tls.cert")
	require.NoError(t, err)
	tlsConfig.ServerName = "localhost"
	with := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, auth.MetadataMacaroon, mac)
	}
	conn, err := grpc.NewClient(server.GRPCAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, m string, req, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return invoke(with(ctx), m, req, reply, c, o...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, m string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(with(ctx), d, c, m, o...)
		}),
	)
	require.NoError(t, err)
	service.Ready(newEngine(t))
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		stop()
		require.NoError(t, <-done)
	})
	return conn
}

// vssPlace is a VSS server behind TLS.
func vssPlace(t testing.TB) provider.Place {
	t.Helper()
	h, err := vss.New(vss.Config{
		Vault: newEngine(t), Verifier: vss.Verifier{Signatures: true, Window: time.Hour, Now: time.Now}, MaxBody: 32 << 20, MaxBodies: 64 << 20,
		Strangers: auth.Rate{PerSecond: 1e6, Burst: 1e6}, Tracked: 10, Now: time.Now, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	return vssAt(t, h)
}

func vssAt(t testing.TB, h http.Handler) provider.Place {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	place, err := provider.OpenVSS(server.URL+"/vss", keyOf(walletNode), "", server.Client(), time.Now)
	require.NoError(t, err)
	return place
}

// bucket is an object store with conditional writes.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	// refuse answers in its place.
	refuse func(http.ResponseWriter, *http.Request) bool
}

func etag(v []byte) string {
	sum := md5.Sum(v) //nolint:gosec // see above
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(status int, code string) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, code)
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=access/") {
		fail(http.StatusForbidden, "AccessDenied")
		return
	}
	if b.refuse != nil && b.refuse(w, r) {
		return
	}
	value, ok := b.objects[r.URL.Path]
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if !ok {
			fail(http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", etag(value))
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(value))
	case http.MethodPut:
		match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
		if match == "" && none == "" || match != "" && (!ok || strings.Trim(match, `"`) != strings.Trim(etag(value), `"`)) || none == "*" && ok {
			fail(http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			fail(http.StatusBadRequest, "IncompleteBody")
			return
		}
		b.objects[r.URL.Path] = dechunk(r, body)
		w.Header().Set("ETag", etag(b.objects[r.URL.Path]))
	default:
		fail(http.StatusNotImplemented, "NotImplemented")
	}
}

// dechunk undoes aws-chunked, in which clients sign what they stream.
func dechunk(r *http.Request, body []byte) []byte {
	if !strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") && !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
		return body
	}
	var out []byte
	for len(body) > 0 {
		line, rest, ok := bytes.Cut(body, []byte("\r\n"))
		if !ok {
			break
		}
		var n int
		if _, err := fmt.Sscanf(string(line), "%x", &n); err != nil || n == 0 || n > len(rest) {
			break
		}
		out, body = append(out, rest[:n]...), rest[min(n+2, len(rest)):]
	}
	return out
}

func s3Place(t testing.TB, b *bucket) provider.Place {
	t.Helper()
	server := httptest.NewTLSServer(b)
	t.Cleanup(server.Close)
	place, err := provider.OpenS3(provider.S3Config{
		URL: server.URL + "/bucket/some/prefix", Region: "us-east-1", AccessKey: "access", Secret: "secret", Transport: server.Client().Transport,
	}, "f00d")
	require.NoError(t, err)
	return place
}

func dirPlace(t testing.TB) provider.Place {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, provider.PrepareDir(dir))
	return provider.OpenDir(dir, "f00d")
}
