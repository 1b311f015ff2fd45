package remotesigner_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/signrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd/remotesigner"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
	"github.com/sluice-lsp/sluice/lws/tenant/onboard"
)

// upstream is a signer that notes every call.
type upstream struct {
	signrpc.UnimplementedSignerServer
	walletrpc.UnimplementedWalletKitServer
	lnrpc.UnimplementedStateServer
	mu    sync.Mutex
	calls []string
	// macaroons are those that came with the calls.
	macaroons []string
	fail      error
}

func (u *upstream) note(ctx context.Context, _ any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	u.calls, u.macaroons = append(u.calls, info.FullMethod), append(u.macaroons, md.Get("macaroon")...)
	if u.fail != nil {
		return nil, u.fail
	}
	switch info.FullMethod {
	case "/walletrpc.WalletKit/SignPsbt":
		return &walletrpc.SignPsbtResponse{SignedPsbt: []byte("signed")}, nil
	case "/walletrpc.WalletKit/DeriveKey":
		return &signrpc.KeyDescriptor{RawKeyBytes: []byte{2}}, nil
	case "/signrpc.Signer/SignMessage":
		return &signrpc.SignMessageResp{Signature: []byte("signature")}, nil
	case "/signrpc.Signer/DeriveSharedKey":
		return &signrpc.SharedKeyResponse{SharedKey: []byte("shared")}, nil
	case "/signrpc.Signer/MuSig2CreateSession":
		return &signrpc.MuSig2SessionResponse{SessionId: []byte("session")}, nil
	case "/signrpc.Signer/MuSig2Cleanup":
		return &signrpc.MuSig2CleanupResponse{}, nil
	case "/lnrpc.State/GetState":
		return &lnrpc.GetStateResponse{State: lnrpc.WalletState_SERVER_ACTIVE}, nil
	}
	return nil, errors.New("a call that no guard makes")
}

func (u *upstream) taken() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.calls
	u.calls = nil
	return out
}

// judge lets everything through, or nothing.
type judge struct {
	mu    sync.Mutex
	err   error
	asked []any
}

func (j *judge) ask(r any) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, r)
	return j.err
}

func (j *judge) Psbt(raw []byte) ([]byte, error)                 { return []byte("judged"), j.ask(raw) }
func (j *judge) Message(r remotesigner.MessageRequest) error     { return j.ask(r) }
func (j *judge) SharedKey(r remotesigner.SharedKeyRequest) error { return j.ask(r) }
func (j *judge) MuSig2(r remotesigner.MuSig2Request) error       { return j.ask(r) }
func (j *judge) Key(r ln.KeyLocator) error                       { return j.ask(r) }

func certificate(t *testing.T) (*selfcert.Keeper, []byte) {
	t.Helper()
	dir := t.TempDir()
	k, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "tls.cert"), KeyPath: filepath.Join(dir, "tls.key"), Now: time.Now})
	require.NoError(t, err)
	pem, err := os.ReadFile(filepath.Join(dir, "tls.cert"))
	require.NoError(t, err)
	return k, pem
}

func serve(t *testing.T, s *grpc.Server) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// guarded is a guard between a host and a signer.
type guarded struct {
	up      *upstream
	judge   *judge
	conn    *grpc.ClientConn
	host    *remotesigner.Client
	refused []string
	root    []byte
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{up: &upstream{}, judge: &judge{}, root: make([]byte, 32)}
	upCert, upPEM := certificate(t)
	us := grpc.NewServer(grpc.Creds(credentials.NewTLS(upCert.TLS())), grpc.UnaryInterceptor(g.up.note))
	signrpc.RegisterSignerServer(us, g.up)
	walletrpc.RegisterWalletKitServer(us, g.up)
	lnrpc.RegisterStateServer(us, g.up)
	up, err := remotesigner.Dial(remotesigner.Config{Address: serve(t, us), Certificate: upPEM, Macaroon: []byte("the signer's")})
	require.NoError(t, err)
	t.Cleanup(func() { _ = up.Close() })
	cert, pem := certificate(t)
	var mu sync.Mutex
	address := serve(t, remotesigner.NewProxy(up, g.judge, cert.TLS(), func(raw []byte) error { return remotesigner.VerifyHost(g.root, raw) }, func(method, why string) error {
		mu.Lock()
		defer mu.Unlock()
		g.refused = append(g.refused, method)
		return errors.New(why)
	}))
	mac, err := remotesigner.MintHost(g.root, []string{"/walletrpc.WalletKit/SignPsbt"})
	require.NoError(t, err)
	g.host, err = remotesigner.Dial(remotesigner.Config{Address: address, Certificate: pem, Macaroon: mac})
	require.NoError(t, err)
	t.Cleanup(func() { _ = g.host.Close() })
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	g.conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})), grpc.WithPerRPCCredentials(bearer(hex.EncodeToString(mac))))
	require.NoError(t, err)
	t.Cleanup(func() { _ = g.conn.Close() })
	return g
}

// bearer is a macaroon in the form in which lnd takes it.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"macaroon": string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// TestProxyPassesWhatIsJudged, in the form that was judged, with the signer's macaroon.
func TestProxyPassesWhatIsJudged(t *testing.T) {
	g := newGuarded(t)
	ctx := t.Context()
	got, err := g.host.SignPsbt(ctx, []byte("asked"))
	require.NoError(t, err)
	require.Equal(t, []byte("signed"), got)
	sig, err := g.host.SignMessage(ctx, ln.KeyLocator{Family: 6, Index: 1}, []byte("text"))
	require.NoError(t, err)
	require.Equal(t, []byte("signature"), sig)
	require.NoError(t, g.host.MuSig2(ctx, ln.KeyLocator{Family: 6}, ln.PubKey{2}, ln.PubKey{3}))
	state, err := g.host.State(ctx)
	require.NoError(t, err)
	require.Equal(t, remotesigner.Active, state)
	require.Equal(t, []string{"/walletrpc.WalletKit/SignPsbt", "/signrpc.Signer/SignMessage", "/signrpc.Signer/MuSig2CreateSession", "/signrpc.Signer/MuSig2Cleanup", "/lnrpc.State/GetState"}, g.up.taken())
	require.Equal(t, []any{
		[]byte("asked"), remotesigner.MessageRequest{Key: ln.KeyLocator{Family: 6, Index: 1}, Text: []byte("text")}, remotesigner.MuSig2Request{Key: ln.KeyLocator{Family: 6}},
	}, g.judge.asked)
	for _, m := range g.up.macaroons {
		require.Equal(t, "746865207369676e65722773", m, "the host's macaroon stays with the guard")
	}
	// What the signer refuses, and that it is away, comes back as it is.
	for _, code := range []codes.Code{codes.Unknown, codes.FailedPrecondition, codes.DeadlineExceeded} {
		g.up.mu.Lock()
		g.up.fail = status.Error(code, "as it is")
		g.up.mu.Unlock()
		_, err = g.host.SignPsbt(ctx, []byte("asked"))
		require.Equal(t, code, status.Code(errors.Unwrap(err)))
		require.ErrorContains(t, err, "as it is")
	}
}

// TestProxyRefuses: what the judge refuses, every method that no node needs, fields that
// nobody knows, and other macaroons, without a call to the signer.
func TestProxyRefuses(t *testing.T) {
	g := newGuarded(t)
	ctx := t.Context()
	g.judge.err = errors.New("not that")
	_, err := g.host.SignPsbt(ctx, []byte("asked"))
	require.Equal(t, codes.PermissionDenied, status.Code(errors.Unwrap(err)))
	_, err = g.host.SignMessage(ctx, ln.KeyLocator{Family: 6}, []byte("text"))
	require.Error(t, err)
	_, err = g.host.PublicKey(ctx, ln.KeyLocator{Family: 6})
	require.Error(t, err)
	require.Error(t, g.host.MuSig2(ctx, ln.KeyLocator{Family: 6}, ln.PubKey{2}, ln.PubKey{3}))
	require.Empty(t, g.up.taken())

	g.judge.err = nil
	for _, method := range []string{
		"/lnrpc.Lightning/GetInfo", "/lnrpc.Lightning/BakeMacaroon", "/lnrpc.Lightning/SendCoins", "/walletrpc.WalletKit/ListAccounts",
		"/walletrpc.WalletKit/FinalizePsbt", "/signrpc.Signer/SignOutputRaw", "/signrpc.Signer/ComputeInputScript", "/signrpc.Signer/VerifyMessage", "/nobody.Knows/It",
	} {
		ok, err := g.host.Try(ctx, method)
		require.NoError(t, err)
		require.False(t, ok, method)
		require.Equal(t, method[len(method)-len(g.refused[len(g.refused)-1]):], g.refused[len(g.refused)-1])
	}
	refused := len(g.refused)
	g.judge.err = errors.New("not that")
	for _, method := range onboard.Rights() {
		if method == "/walletrpc.WalletKit/DeriveKey" || method == "/signrpc.Signer/MuSig2Cleanup" {
			continue // these have nothing that could be missing
		}
		ok, err := g.host.Try(ctx, method)
		require.NoError(t, err)
		require.True(t, ok, "the onboarding asks with nothing in it")
	}
	require.Len(t, g.refused, refused, "and is in no list of what was refused")
	g.judge.err = nil
	err = g.conn.Invoke(ctx, "/signrpc.Signer/MuSig2Sign", &signrpc.MuSig2SignRequest{SessionId: []byte("x"), MessageDigest: make([]byte, 32)}, &signrpc.MuSig2SignResponse{})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.Equal(t, "MuSig2Sign", g.refused[len(g.refused)-1])
	require.Empty(t, g.up.taken())
	// Another macaroon, and none.
	g.root[0] = 9
	_, err = g.host.SignPsbt(ctx, []byte("asked"))
	require.ErrorContains(t, err, "permission denied")
	ok, err := g.host.Try(ctx, "/nobody.Knows/It")
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, g.up.taken())
}

// TestProxyPassesNoUnknownField, at any depth: a later lnd may have one that means more.
func TestProxyPassesNoUnknownField(t *testing.T) {
	g := newGuarded(t)
	extra := protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1)
	outer := &walletrpc.SignPsbtRequest{FundedPsbt: []byte("x")}
	outer.ProtoReflect().SetUnknown(extra)
	inner := &signrpc.SignMessageReq{Msg: []byte("x"), KeyLoc: &signrpc.KeyLocator{KeyFamily: 6}}
	inner.KeyLoc.ProtoReflect().SetUnknown(extra)
	listed := &signrpc.MuSig2SessionRequest{KeyLoc: &signrpc.KeyLocator{KeyFamily: 6}, Tweaks: []*signrpc.TweakDesc{{}}}
	listed.Tweaks[0].ProtoReflect().SetUnknown(extra)
	for method, req := range map[string]proto.Message{"/walletrpc.WalletKit/SignPsbt": outer, "/signrpc.Signer/SignMessage": inner, "/signrpc.Signer/MuSig2CreateSession": listed} {
		err := g.conn.Invoke(t.Context(), method, req, &lnrpc.StopResponse{})
		require.Equal(t, codes.PermissionDenied, status.Code(err), method)
	}
	slices.Sort(g.refused)
	require.Equal(t, []string{"MuSig2CreateSession", "SignMessage", "SignPsbt"}, g.refused)
	require.Empty(t, g.up.taken())
	require.Empty(t, g.judge.asked)
}

// TestHostMacaroon: only the one of the root key, as it was made.
func TestHostMacaroon(t *testing.T) {
	root := make([]byte, 32)
	methods := []string{"/a/b", "/c/d"}
	raw, err := remotesigner.MintHost(root, methods)
	require.NoError(t, err)
	require.NoError(t, remotesigner.VerifyHost(root, raw))
	m, err := remotesigner.ReadMacaroon(raw)
	require.NoError(t, err)
	require.Equal(t, []remotesigner.Op{{Entity: "uri", Actions: methods}}, m.Ops)
	require.Error(t, remotesigner.VerifyHost(append([]byte{1}, root[1:]...), raw))
	const location = 6 // lnd's name, which is no part of what is signed
	for i := range raw {
		if i > 2 && i < location {
			continue
		}
		changed := slices.Clone(raw)
		changed[i] ^= 1
		require.Error(t, remotesigner.VerifyHost(root, changed), "byte %d", i)
	}
	require.Error(t, remotesigner.VerifyHost(root, nil))
}
