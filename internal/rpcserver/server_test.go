package rpcserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/auth/api/authv1"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/rpcserver/selfcert"
)

// probe is a service made of two guarded methods, written by hand so that no
// proto exists for tests only. Its messages are those of the login API.
type probe struct {
	unary   func(context.Context, *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error)
	stream  func(grpc.ServerStream) error
	perms   auth.Permissions
	methods []string
}

const (
	probeUnary    = "/test.Probe/Unary"
	probeOperator = "/test.Probe/Operator"
	probeStream   = "/test.Probe/Stream"
)

func newProbe() *probe {
	return &probe{
		methods: []string{"Unary", "Operator"},
		perms: auth.Permissions{
			probeUnary:    {Service: "lsp", For: auth.Wallets | auth.Operators},
			probeOperator: {Service: "lsp", For: auth.Operators},
			probeStream:   {Service: "lsp", For: auth.Wallets},
		},
		unary: func(ctx context.Context, _ *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error) {
			id, _ := auth.FromContext(ctx)
			return &authv1.ChallengeResponse{Message: id.String()}, nil
		},
		stream: func(ss grpc.ServerStream) error {
			if err := ss.SendMsg(&authv1.ChallengeResponse{Message: "open"}); err != nil {
				return err
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		},
	}
}

func (p *probe) Name() string                  { return "lsp" }
func (p *probe) Permissions() auth.Permissions { return p.perms }
func (p *probe) RegisterREST(context.Context, *runtime.ServeMux, *grpc.ClientConn) error {
	return nil
}

func (p *probe) RegisterGRPC(r grpc.ServiceRegistrar) {
	desc := &grpc.ServiceDesc{
		ServiceName: "test.Probe", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			return p.stream(ss)
		}}},
	}
	for _, name := range p.methods {
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, mw grpc.UnaryServerInterceptor) (any, error) {
			req := new(authv1.ChallengeRequest)
			if err := dec(req); err != nil {
				return nil, err
			}
			return mw(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/test.Probe/" + name}, func(ctx context.Context, req any) (any, error) {
				return p.unary(ctx, req.(*authv1.ChallengeRequest))
			})
		}})
	}
	r.RegisterService(desc, p)
}

type world struct {
	t        *testing.T
	now      *atomic.Int64
	bakery   *auth.Bakery
	server   *rpcserver.Server
	certPath string
	opFile   string
	gateway  auth.Server
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
	stop     context.CancelFunc
	done     chan error
}

func (w *world) clock() time.Time { return time.Unix(0, w.now.Load()) }

func start(t *testing.T, limits auth.Limits, p *probe) *world {
	t.Helper()
	w := &world{t: t, now: new(atomic.Int64), registry: prometheus.NewRegistry(), done: make(chan error, 1)}
	w.now.Store(time.Now().UnixNano())
	dir := t.TempDir()
	keys, err := auth.NewFileRootKeys(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	w.bakery, err = auth.NewBakery(t.Context(), keys, rand.Reader, w.clock)
	require.NoError(t, err)
	w.opFile = filepath.Join(dir, "operator.macaroon")
	_, err = w.bakery.OperatorFile(t.Context(), w.opFile)
	require.NoError(t, err)
	_, gatewayKey := newNode(t)
	w.gateway = auth.Server{NodeKey: gatewayKey, ID: "d1"}
	login, err := auth.NewLogin(auth.LoginConfig{
		Server: w.gateway, Bakery: w.bakery, Services: []string{"lsp"}, MacaroonLife: time.Hour, Rand: rand.Reader, Now: w.clock,
	})
	require.NoError(t, err)
	w.certPath = filepath.Join(dir, "tls.cert")
	cert, err := selfcert.Open(selfcert.Config{CertPath: w.certPath, KeyPath: filepath.Join(dir, "tls.key"), Now: w.clock})
	require.NoError(t, err)
	core, logs := observer.New(zapcore.DebugLevel)
	w.logs = logs
	w.server, err = rpcserver.Listen(t.Context(), rpcserver.Config{
		GRPCAddress: "127.0.0.1:0", RESTAddress: "127.0.0.1:0", TLS: cert.TLS(), Verifier: w.bakery, Limits: limits,
		MaxMessageBytes: 64 << 10, StopTimeout: time.Second, Log: zap.New(core), Now: w.clock, Rand: rand.Reader, Registry: w.registry,
	}, login, p)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	go func() { w.done <- w.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-w.done:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("server did not stop")
		}
	})
	return w
}

func newNode(t *testing.T) (auth.Sign, ln.PubKey) {
	key, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	pub, err := ln.PubKeyFromBytes(key.PubKey().SerializeCompressed())
	require.NoError(t, err)
	return func(_ context.Context, message string) (string, error) {
		return auth.EncodeSignature(ecdsa.SignCompact(key, chainhash.DoubleHashB([]byte("Lightning Signed Message:"+message)), true))
	}, pub
}

func (w *world) tls() credentials.TransportCredentials {
	cfg, err := selfcert.ClientTLS(w.certPath)
	require.NoError(w.t, err)
	return credentials.NewTLS(cfg)
}

func (w *world) wallet(expect auth.Server) (*grpc.ClientConn, *auth.Credentials, ln.PubKey) {
	sign, pub := newNode(w.t)
	conn, creds, err := auth.Dial(w.server.GRPCAddr().String(), w.tls(), auth.ClientConfig{
		Server: expect, Node: pub, Services: []string{"lsp"}, Sign: sign, Now: w.clock,
	})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn, creds, pub
}

func (w *world) operator() *grpc.ClientConn {
	creds, err := auth.NewFileCredentials(w.opFile)
	require.NoError(w.t, err)
	conn, err := grpc.NewClient(w.server.GRPCAddr().String(), grpc.WithTransportCredentials(w.tls()), grpc.WithPerRPCCredentials(creds))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) nobody() *grpc.ClientConn {
	conn, err := grpc.NewClient(w.server.GRPCAddr().String(), grpc.WithTransportCredentials(w.tls()))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) call(conn *grpc.ClientConn, method string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	var resp authv1.ChallengeResponse
	err := conn.Invoke(ctx, method, &authv1.ChallengeRequest{}, &resp)
	return resp.GetMessage(), err
}

// TestClientsClockIsWrong by a day: it logs in all the same, once, and again when
// the macaroon ends.
func TestClientsClockIsWrong(t *testing.T) {
	for _, wrong := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		w := start(t, auth.DefaultLimits(), newProbe())
		sign, pub := newNode(t)
		signed := 0
		conn, _, err := auth.Dial(w.server.GRPCAddr().String(), w.tls(), auth.ClientConfig{
			Server: w.gateway, Node: pub, Services: []string{"lsp"}, Now: func() time.Time { return w.clock().Add(wrong) },
			Sign: func(ctx context.Context, text string) (string, error) { signed++; return sign(ctx, text) },
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		for range 3 {
			_, err = w.call(conn, probeUnary)
			require.NoError(t, err, "a clock that is wrong by %s", wrong)
		}
		require.Equal(t, 1, signed, "it does not take each macaroon for an old one")
		w.now.Add(int64(2 * time.Hour))
		_, err = w.call(conn, probeUnary)
		require.NoError(t, err)
		require.Equal(t, 2, signed)
	}
}

func TestWhoMayCallWhat(t *testing.T) {
	w := start(t, auth.DefaultLimits(), newProbe())
	wallet, creds, pub := w.wallet(w.gateway)

	got, err := w.call(wallet, probeUnary)
	require.NoError(t, err)
	require.Equal(t, "wallet:"+pub.String(), got)
	got, err = w.call(w.operator(), probeOperator)
	require.NoError(t, err)
	require.Equal(t, "operator", got)

	_, err = w.call(wallet, probeOperator)
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = w.call(w.nobody(), probeUnary)
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	require.ErrorIs(t, rpcserver.FromStatus(err), errkind.Unauthenticated)

	resp, err := healthpb.NewHealthClient(w.nobody()).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "lsp"})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, resp.GetStatus())

	// The macaroon ends: the client logs in again by itself.
	before, err := creds.Macaroon(t.Context())
	require.NoError(t, err)
	w.now.Add(int64(2 * time.Hour))
	_, err = w.call(wallet, probeUnary)
	require.NoError(t, err)
	after, err := creds.Macaroon(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, before, after)

	// The wallets' root key is revoked and made anew: again by itself.
	require.NoError(t, w.bakery.Revoke(t.Context(), auth.RootKeyWallets))
	require.NoError(t, w.bakery.AddRootKey(t.Context(), auth.RootKeyWallets))
	_, err = w.call(wallet, probeUnary)
	require.NoError(t, err)
}

func TestClientDoesNotLogInForAnotherServer(t *testing.T) {
	w := start(t, auth.DefaultLimits(), newProbe())
	_, elsewhere := newNode(t)
	conn, _, _ := w.wallet(auth.Server{NodeKey: elsewhere})
	_, err := w.call(conn, probeUnary)
	require.ErrorContains(t, err, "attempt to log in elsewhere")
}

func TestPinnedKeyIsTheOnlyOneTrusted(t *testing.T) {
	w, other := start(t, auth.DefaultLimits(), newProbe()), start(t, auth.DefaultLimits(), newProbe())
	other.certPath = w.certPath
	_, err := other.call(other.nobody(), probeUnary)
	require.ErrorContains(t, err, "the server's TLS key is not that of")
}

func TestInternalsAreNeverShown(t *testing.T) {
	p := newProbe()
	w := start(t, auth.DefaultLimits(), p)
	op := w.operator()
	for name, fail := range map[string]func() error{
		"plain":             func() error { return errors.New("password is hunter2") },
		"internal":          func() error { return errkind.New(errkind.Internal, "password is hunter2") },
		"status of another": func() error { return status.Error(codes.NotFound, "password is hunter2") },
		"wrapped cause": func() error {
			return errkind.Wrap(errkind.Unavailable, errors.New("password is hunter2"), "Try again.")
		},
		"panic":          func() error { panic("password is hunter2") },
		"foreign cancel": func() error { return context.Canceled },
	} {
		t.Run(name, func(t *testing.T) {
			w.logs.TakeAll()
			p.unary = func(context.Context, *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error) { return nil, fail() }
			_, err := w.call(op, probeUnary)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "hunter2")
			if name == "wrapped cause" {
				require.Equal(t, codes.Unavailable, status.Code(err))
				require.Equal(t, "Try again.", errkind.Sentence(rpcserver.FromStatus(err)))
			} else {
				require.Equal(t, codes.Internal, status.Code(err))
			}
			entries := w.logs.FilterMessage("call failed").All()
			require.Len(t, entries, 1, "the log has it")
			if name != "foreign cancel" {
				require.Contains(t, entries[0].ContextMap()["error"], "hunter2")
			}
			if name == "plain" {
				require.Contains(t, err.Error(), entries[0].ContextMap()["request"], "the caller can quote the id in the log")
			}
		})
	}
}

// A service may make its own statuses, for programs that act on their reasons; those
// of gRPC's own services are gRPC's.
func TestOwnStatusesAreShown(t *testing.T) {
	p := newProbe()
	w := start(t, auth.DefaultLimits(), p)
	own, err := status.New(codes.FailedPrecondition, "the HTLC was decided").WithDetails(&errdetails.ErrorInfo{Reason: "DECIDED", Domain: "interceptor.sluice"})
	require.NoError(t, err)
	p.unary = func(context.Context, *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error) {
		return nil, fmt.Errorf("decide: %w", own.Err())
	}
	_, err = w.call(w.operator(), probeUnary)
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	details := status.Convert(err).Details()
	require.Len(t, details, 1)
	require.Equal(t, "DECIDED", details[0].(*errdetails.ErrorInfo).GetReason())

	err = w.operator().Invoke(t.Context(), "/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{Service: "nobody's"}, &healthpb.HealthCheckResponse{})
	require.Equal(t, codes.NotFound, status.Code(err))
}

func TestStartStopsOnPermissionHoles(t *testing.T) {
	for name, alter := range map[string]func(*probe){
		"method without entry": func(p *probe) { delete(p.perms, probeOperator) },
		"stream without entry": func(p *probe) { delete(p.perms, probeStream) },
		"entry without method": func(p *probe) { p.perms["/test.Probe/Gone"] = p.perms[probeUnary] },
		"nobody":               func(p *probe) { p.perms[probeUnary] = auth.Permission{Service: "lsp"} },
		"public and more":      func(p *probe) { p.perms[probeUnary] = auth.Permission{Service: "lsp", For: auth.Public | auth.Wallets} },
		"no service":           func(p *probe) { p.perms[probeUnary] = auth.Permission{For: auth.Wallets} },
		"claimed twice":        func(p *probe) { p.perms[healthpb.Health_Check_FullMethodName] = auth.Permission{For: auth.Public} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cert, err := selfcert.Open(selfcert.Config{CertPath: filepath.Join(dir, "c"), KeyPath: filepath.Join(dir, "k"), Now: time.Now})
			require.NoError(t, err)
			p := newProbe()
			alter(p)
			_, err = rpcserver.Listen(t.Context(), rpcserver.Config{
				GRPCAddress: "127.0.0.1:0", TLS: cert.TLS(), Limits: auth.DefaultLimits(), Log: zap.NewNop(), Now: time.Now, Rand: rand.Reader, Registry: prometheus.NewRegistry(),
			}, p)
			require.Error(t, err)
		})
	}
}

func TestLimitsPerWalletAndPerAddress(t *testing.T) {
	limits := auth.DefaultLimits()
	limits.Wallet = auth.Rate{PerSecond: 0.001, Burst: 3}
	limits.Address = auth.Rate{PerSecond: 0.001, Burst: 8}
	limits.Streams = 2
	w := start(t, limits, newProbe())
	first, _, _ := w.wallet(w.gateway)
	second, _, _ := w.wallet(w.gateway)
	for range 3 {
		_, err := w.call(first, probeUnary)
		require.NoError(t, err)
	}
	_, err := w.call(first, probeUnary)
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	_, err = w.call(second, probeUnary)
	require.NoError(t, err, "one wallet's calls are not another's")

	nobody := w.nobody()
	for range 4 {
		_, err = w.call(nobody, probeUnary)
		require.Equal(t, codes.Unauthenticated, status.Code(err))
	}
	_, err = w.call(nobody, probeUnary)
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "four of the logins, four refusals: the address is over")
	_, err = w.call(w.operator(), probeUnary)
	require.NoError(t, err, "a valid macaroon does not pay for the address")
}

func TestStreamsAreBoundedAndEndWithTheMacaroon(t *testing.T) {
	limits := auth.DefaultLimits()
	limits.Streams = 2
	w := start(t, limits, newProbe())
	sign, pub := newNode(t)
	_ = sign
	mac, err := w.bakery.Mint(t.Context(), auth.RootKeyWallets, auth.Identity{
		Kind: auth.KindWallet, NodeKey: pub, Services: []string{"lsp"}, Expires: w.clock().Add(2 * time.Second).Truncate(time.Second),
	})
	require.NoError(t, err)
	conn, err := grpc.NewClient(w.server.GRPCAddr().String(), grpc.WithTransportCredentials(w.tls()), grpc.WithPerRPCCredentials(fixed(mac)))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	open := func() grpc.ClientStream {
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, probeStream)
		require.NoError(t, err)
		require.NoError(t, s.SendMsg(&authv1.ChallengeRequest{}))
		require.NoError(t, s.CloseSend())
		return s
	}
	var resp authv1.ChallengeResponse
	a, b := open(), open()
	require.NoError(t, a.RecvMsg(&resp))
	require.NoError(t, b.RecvMsg(&resp))
	require.Equal(t, codes.ResourceExhausted, status.Code(open().RecvMsg(&resp)))
	// The clock stands still, the stream's deadline does not.
	require.Equal(t, codes.Unauthenticated, status.Code(a.RecvMsg(&resp)))
	require.Equal(t, codes.Unauthenticated, status.Code(b.RecvMsg(&resp)))
}

type fixed string

func (f fixed) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{auth.MetadataMacaroon: string(f)}, nil
}
func (fixed) RequireTransportSecurity() bool { return true }

func (w *world) post(path, body string, header http.Header) (int, map[string]any, http.Header) {
	cfg, err := selfcert.ClientTLS(w.certPath)
	require.NoError(w.t, err)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "https://"+w.server.RESTAddr().String()+path, bytes.NewBufferString(body))
	require.NoError(w.t, err)
	req.Header = header
	resp, err := client.Do(req)
	require.NoError(w.t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	var out map[string]any
	require.NoError(w.t, json.Unmarshal(content, &out), string(content))
	return resp.StatusCode, out, resp.Header
}

func TestRESTLogin(t *testing.T) {
	w := start(t, auth.DefaultLimits(), newProbe())
	sign, pub := newNode(t)
	code, got, header := w.post("/v1/auth/challenge", `{"node_id":"`+pub.String()+`"}`, nil)
	require.Equal(t, http.StatusOK, code)
	require.NotEmpty(t, header.Get("Sluice-Request-Id"))
	sig, err := sign(t.Context(), got["message"].(string))
	require.NoError(t, err)
	body, err := json.Marshal(map[string]any{"message": got["message"], "seal": got["seal"], "signature": sig})
	require.NoError(t, err)
	code, got, _ = w.post("/v1/auth/login", string(body), nil)
	require.Equal(t, http.StatusOK, code)
	id, err := w.bakery.Verify(t.Context(), got["macaroon"].(string), probeUnary)
	require.NoError(t, err)
	require.Equal(t, pub, id.NodeKey)

	code, got, _ = w.post("/v1/auth/login", string(body), nil)
	require.Equal(t, http.StatusUnauthorized, code)
	require.Equal(t, "unauthenticated", got["kind"])
	require.NotEmpty(t, got["request_id"])

	for body, want := range map[string]int{
		`{"node_id":"zz"}`: http.StatusBadRequest,
		`{`:                http.StatusBadRequest,
		`{"no_such":1}`:    http.StatusBadRequest,
		`{"node_id":"` + strings.Repeat("a", 100_000) + `"}`: http.StatusRequestEntityTooLarge,
	} {
		code, got, _ = w.post("/v1/auth/challenge", body, nil)
		require.Equal(t, want, code, "%.20s", body)
		require.NotEmpty(t, got["message"])
	}
	code, _, _ = w.post("/v1/nowhere", "{}", nil)
	require.Equal(t, http.StatusNotFound, code)
}

// REST callers are limited by their own address, which they cannot choose.
func TestRESTAddressCannotBeForged(t *testing.T) {
	limits := auth.DefaultLimits()
	limits.Address = auth.Rate{PerSecond: 0.001, Burst: 3}
	w := start(t, limits, newProbe())
	_, pub := newNode(t)
	var code int
	for i := range 4 {
		forged := string(rune('1'+i)) + ".2.3.4"
		code, _, _ = w.post("/v1/auth/challenge", `{"node_id":"`+pub.String()+`"}`, http.Header{
			"X-Forwarded-For": {forged}, "Grpc-Metadata-Sluice-Remote-Address": {forged + ":1"}, "Sluice-Remote-Address": {forged + ":1"},
		})
	}
	require.Equal(t, http.StatusTooManyRequests, code)
}

func TestMessageSizeIsBounded(t *testing.T) {
	w := start(t, auth.DefaultLimits(), newProbe())
	err := w.operator().Invoke(t.Context(), probeUnary, &authv1.ChallengeRequest{NodeId: strings.Repeat("x", 70<<10)}, &authv1.ChallengeResponse{})
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

func TestStopLetsRunningCallsEnd(t *testing.T) {
	p := newProbe()
	entered, release := make(chan struct{}), make(chan struct{})
	p.unary = func(context.Context, *authv1.ChallengeRequest) (*authv1.ChallengeResponse, error) {
		close(entered)
		<-release
		return &authv1.ChallengeResponse{Message: "ended"}, nil
	}
	w := start(t, auth.DefaultLimits(), p)
	got := make(chan string, 1)
	op := w.operator()
	go func() {
		m, _ := w.call(op, probeUnary)
		got <- m
	}()
	<-entered
	w.stop()
	close(release)
	require.Equal(t, "ended", <-got)
}

func TestAdmin(t *testing.T) {
	reg := prometheus.NewRegistry()
	var missing atomic.Pointer[string]
	_, err := rpcserver.ListenAdmin(t.Context(), rpcserver.AdminConfig{Address: "0.0.0.0:0", Metrics: reg})
	require.ErrorContains(t, err, "loopback")
	admin, err := rpcserver.ListenAdmin(t.Context(), rpcserver.AdminConfig{Address: "127.0.0.1:0", Metrics: reg, Ready: func(context.Context) error {
		if m := missing.Load(); m != nil {
			return errors.New(*m)
		}
		return nil
	}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.Run(ctx) }()
	get := func(path, host string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin.Addr().String()+path, nil)
		require.NoError(t, err)
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	code, _ := get("/ready", "")
	require.Equal(t, http.StatusOK, code)
	text := "lnd is not synced"
	missing.Store(&text)
	code, body := get("/ready", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, text)
	code, _ = get("/metrics", "")
	require.Equal(t, http.StatusOK, code)
	code, _ = get("/debug/pprof/", "")
	require.Equal(t, http.StatusNotFound, code, "no profiling unless asked for")
	code, _ = get("/metrics", "evil.example")
	require.Equal(t, http.StatusForbidden, code)
	cancel()
	require.NoError(t, <-done)
}

func TestEveryKindHasItsCodes(t *testing.T) {
	seen := map[codes.Code]errkind.Kind{}
	for _, k := range errkind.Kinds() {
		c := rpcserver.Code(k)
		require.Empty(t, seen[c], "%s and %s share %s: clients could not tell them apart", k, seen[c], c)
		seen[c] = k
		if k != errkind.Internal {
			require.Less(t, rpcserver.HTTPStatus(c), 504)
			require.NotEqual(t, 500, rpcserver.HTTPStatus(c))
		}
	}
}
