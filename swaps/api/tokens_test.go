package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg"
	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"gopkg.in/macaroon.v2"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/swaps/engine"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// shop is an lnd of which only its invoices are wanted.
type shop struct {
	engine.Chain
	engine.Events
	mu        sync.Mutex
	preimages map[string]ln.Preimage
}

func (s *shop) AddInvoice(_ context.Context, r ln.InvoiceRequest) (string, ln.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := "lnbcrt" + hex.EncodeToString(r.Preimage.Bytes()[:4])
	s.preimages[text] = r.Preimage
	return text, r.Preimage.Hash(), nil
}

func (s *shop) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	handle(ln.Block{Height: 500})
	<-ctx.Done()
	return ctx.Err()
}

func (s *shop) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return 500, 253, nil
}

func (s *shop) ListChannels(context.Context) ([]ln.Channel, error) {
	return []ln.Channel{{ChanID: 1, Active: true, RemoteSat: 10_000_000, LocalSat: 10_000_000}}, nil
}

// serve runs the service with tokens over real gRPC; errors pass as rpcserver lets
// them.
func serve(t *testing.T, tokens engine.TokenConfig) (looprpc.SwapServerClient, *shop) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db := storetest.Open(t, storetest.SQLite(t))
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, swapsstore.Migrate} {
		require.NoError(t, migrate(ctx, db))
	}
	node := &shop{preimages: map[string]ln.Preimage{}}
	config := engine.Defaults()
	config.Network, config.Self, config.Tokens = "regtest", ln.PubKey{2, 9}, tokens
	e, err := engine.New(engine.Options{
		Node: engine.Node{Sales: node, Chain: node, Events: node}, DB: db, Params: &chaincfg.RegressionNetParams, Config: config,
		DecodeBolt11: func(string) (ln.Bolt11, error) { return ln.Bolt11{}, errkind.New(errkind.Invalid, "no invoice") },
	})
	require.NoError(t, err)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { close(ready) }) }()
	<-ready
	s := New()
	s.Ready(e)
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		resp, err := handle(ctx, req)
		switch {
		case err == nil:
			return resp, nil
		case errkind.Of(err) != errkind.Internal:
			return nil, status.Error(rpcserver.Code(errkind.Of(err)), errkind.Sentence(err))
		}
		return nil, status.Error(codes.Internal, err.Error())
	}))
	looprpc.RegisterSwapServerServer(server, &loopServer{s: s})
	l := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(); server.Stop(); cancel(); require.NoError(t, <-done) })
	return looprpc.NewSwapServerClient(conn), node
}

// buy does what a stock client does with a challenge.
func buy(t *testing.T, node *shop, trailer metadata.MD, err error) context.Context {
	t.Helper()
	require.Equal(t, codes.Internal, status.Code(err))
	require.Equal(t, "payment required", status.Convert(err).Message())
	match := regexp.MustCompile("(LSAT|L402) macaroon=\"(.*?)\", invoice=\"(.*?)\"").FindStringSubmatch(trailer.Get("www-authenticate")[0])
	require.Len(t, match, 4)
	raw, err := base64.StdEncoding.DecodeString(match[2])
	require.NoError(t, err)
	var mac macaroon.Macaroon
	require.NoError(t, mac.UnmarshalBinary(raw))
	preimage := node.preimages[match[3]]
	require.False(t, preimage.IsZero())
	require.Equal(t, preimage.Hash().String(), hex.EncodeToString(mac.Id()[2:34]), "the id binds the payment hash")
	require.NoError(t, mac.AddFirstPartyCaveat([]byte("preimage="+hex.EncodeToString(preimage.Bytes()))))
	paid, err := mac.MarshalBinary()
	require.NoError(t, err)
	return metadata.AppendToOutgoingContext(context.Background(), "macaroon", hex.EncodeToString(paid))
}

func TestTokensAreBoughtAndLimited(t *testing.T) {
	client, node := serve(t, engine.TokenConfig{Enabled: true, Required: true, PriceSat: 100, PerMinute: 1, Burst: 3})
	ctx := context.Background()
	terms := &looprpc.ServerLoopInTermsRequest{ProtocolVersion: looprpc.ProtocolVersion_MUSIG2}
	var trailer metadata.MD
	_, err := client.LoopInTerms(ctx, terms, grpc.Trailer(&trailer))
	paid := buy(t, node, trailer, err)
	_, err = client.FetchL402(paid, &looprpc.FetchL402Request{})
	require.NoError(t, err)
	_, err = client.LoopInTerms(paid, terms)
	require.NoError(t, err)
	_, err = client.LoopInTerms(paid, terms)
	require.NoError(t, err)
	_, err = client.LoopInTerms(paid, terms)
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "three calls at once, then one a minute")
	// Another token has an allowance of its own.
	_, err = client.FetchL402(ctx, &looprpc.FetchL402Request{}, grpc.Trailer(&trailer))
	other := buy(t, node, trailer, err)
	_, err = client.LoopInTerms(other, terms)
	require.NoError(t, err)
	_, err = client.LoopInTerms(metadata.AppendToOutgoingContext(ctx, "macaroon", "00"), terms)
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	// What a swap needs that is under way asks for no token.
	_, err = client.LoopOutPushPreimage(ctx, &looprpc.ServerLoopOutPushPreimageRequest{ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, Preimage: make([]byte, 32)})
	require.Equal(t, codes.NotFound, status.Code(err))
}

func TestTokensAreOptional(t *testing.T) {
	client, node := serve(t, engine.TokenConfig{Enabled: true, PriceSat: 100, PerMinute: 60, Burst: 60})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := client.LoopInTerms(ctx, &looprpc.ServerLoopInTermsRequest{ProtocolVersion: looprpc.ProtocolVersion_MUSIG2})
	require.NoError(t, err)
	var trailer metadata.MD
	_, err = client.FetchL402(ctx, &looprpc.FetchL402Request{}, grpc.Trailer(&trailer))
	paid := buy(t, node, trailer, err)
	// With a token notifications are heard: there are none now, and the stream stays.
	heard, cancelHeard := context.WithTimeout(paid, 200*time.Millisecond)
	defer cancelHeard()
	stream, err := client.SubscribeNotifications(heard, &looprpc.SubscribeNotificationsRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.DeadlineExceeded, status.Code(err))
}

func TestNoTokensAreSold(t *testing.T) {
	client, _ := serve(t, engine.TokenConfig{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := client.FetchL402(ctx, &looprpc.FetchL402Request{})
	require.NoError(t, err)
	stream, err := client.SubscribeNotifications(ctx, &looprpc.SubscribeNotificationsRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Error(t, err)
}
