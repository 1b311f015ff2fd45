package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/interceptor/stream"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// withheld is taken out of half of the payments of the test below.
const withheld = 7_000

// TestFlapsKillsAndRestartsOverTheWire drives the engine through lnd's real
// wire protocol: payments over a gateway whose links flap, whose lnd is killed
// and whose sidecar restarts. The gateway must not be a millisatoshi poorer.
func TestFlapsKillsAndRestartsOverTheWire(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w := lndfake.New(lndfake.Config{Seed: seed})
	t.Cleanup(w.Close)
	node := func(name string, cfg lndfake.NodeConfig) (*lndfake.Node, *grpc.ClientConn) {
		cfg.TCP = true
		n, err := w.AddNode(name, cfg)
		require.NoError(t, err)
		conn, err := n.Dial()
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return n, conn
	}
	p, pConn := node("payer", lndfake.NodeConfig{})
	g, gConn := node("gateway", lndfake.NodeConfig{RequireInterceptor: true})
	c, cConn := node("wallet", lndfake.NodeConfig{TakesExtraFeeMsat: withheld})
	for _, n := range []*lndfake.Node{p, g} {
		for range 4 {
			_, err := n.Fund(20_000_000)
			require.NoError(t, err)
		}
	}
	_, err := w.OpenChannel(p, g, 15_000_000, 0)
	require.NoError(t, err)
	_, err = w.OpenChannel(g, c, 15_000_000, 0)
	require.NoError(t, err)
	before := w.Wealth(g).TotalMsat()
	walletBefore := w.Wealth(c).TotalMsat()

	client, err := lnd.Dial(lnd.Config{Address: g.Addr(), DialOptions: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	channels, err := client.ListChannels(t.Context())
	require.NoError(t, err)
	var toWallet ln.SCID
	for _, ch := range channels {
		if ch.Peer.String() == c.PubKey() {
			toWallet = ch.ChanID
		}
	}
	require.NotZero(t, toWallet)

	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, icstore.Migrate(t.Context(), db))
	ledger := icstore.New(db, leaseName)
	run := func() (stop func()) {
		eng, err := engine.New(engine.Config{
			Open: func(ctx context.Context) (engine.Session, error) {
				s, err := stream.Open(ctx, stream.Config{Conn: client.Conn()})
				if err != nil {
					return nil, err
				}
				return s, nil
			},
			Acquire: func(ctx context.Context) (engine.Lease, error) {
				l, err := ledger.Acquire(ctx, store.LeaseConfig{Owner: "a"})
				if err != nil {
					return nil, err
				}
				return l, nil
			},
			Rows: ledger, Handlers: ledger, Node: client, Outcomes: client, KeepForwarding: true,
			PollEvery: 100 * time.Millisecond, PollSoon: 20 * time.Millisecond, LeaveWithin: 100 * time.Millisecond, Log: zap.NewNop(),
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = eng.Run(ctx) })
		running.Go(func() {
			var decisions sync.WaitGroup
			defer decisions.Wait()
			for ctx.Err() == nil {
				if eng.WaitActive(ctx) != nil {
					return
				}
				err := eng.Register(ctx, interceptor.HandlerConfig{Name: "half", OnAbsent: interceptor.AbsentHold})
				if err == nil {
					err = eng.ClaimRoutes(ctx, "half", []interceptor.Route{{SCID: toWallet}})
				}
				if err == nil {
					_ = eng.Attach(ctx, "half", func(ev interceptor.Event) {
						if ev.Kind != interceptor.EventOffered {
							return
						}
						action := interceptor.ActionResume
						if ev.Row.Hash[0]%4 == 0 {
							action = interceptor.ActionFail
						}
						decisions.Go(func() {
							for ctx.Err() == nil {
								dctx, done := context.WithTimeout(ctx, time.Second)
								d := decide(ev.Row.Key, action)
								if action == interceptor.ActionResume && ev.Row.Hash[1]%2 == 0 {
									d[0].ExtraFeeMsat = withheld
								}
								err := eng.Decide(dctx, d)
								done()
								if err == nil || !isUnavailable(err) {
									return
								}
							}
						})
					})
				}
			}
		})
		return func() {
			cancel()
			running.Wait()
		}
	}
	stop := run()
	t.Cleanup(func() { stop() })

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var (
		payments sync.WaitGroup
		mu       sync.Mutex
		states   = make(map[lnrpc.Payment_PaymentStatus]int)
	)
	pay := func() {
		// Failures are part of the game; the payer is not to remember them.
		_, err := routerrpc.NewRouterClient(pConn).ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
		require.NoError(t, err)
		inv, err := lnrpc.NewLightningClient(cConn).AddInvoice(ctx, &lnrpc.Invoice{
			Value: 1000, RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
				NodeId: g.PubKey(), ChanId: uint64(toWallet), CltvExpiryDelta: 80, FeeBaseMsat: 1000, FeeProportionalMillionths: 1,
			}}}},
		})
		require.NoError(t, err)
		s, err := routerrpc.NewRouterClient(pConn).SendPaymentV2(ctx, &routerrpc.SendPaymentRequest{
			PaymentRequest: inv.PaymentRequest, TimeoutSeconds: 20, NoInflightUpdates: true, FeeLimitMsat: 1_000_000,
		})
		require.NoError(t, err)
		payments.Go(func() {
			m, err := s.Recv()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				states[m.Status]++
			}
		})
	}
	for range 300 {
		switch rng.IntN(40) {
		case 0:
			w.Flap(p, g)
		case 1:
			w.Flap(g, c)
		case 2:
			// Its port may be taken for a moment.
			require.Eventually(t, func() bool { return g.Restart() == nil }, 10*time.Second, 5*time.Millisecond)
		case 3:
			stop()
			stop = run()
		default:
			pay()
		}
		time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond)
	}
	payments.Wait()
	require.Eventually(t, func() bool {
		channels, err := lnrpc.NewLightningClient(gConn).ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false
		}
		for _, ch := range channels.Channels {
			if len(ch.PendingHtlcs) > 0 {
				return false
			}
		}
		return true
	}, 60*time.Second, 20*time.Millisecond, "HTLCs are stuck")
	stop()
	require.NoError(t, w.Err())
	require.GreaterOrEqual(t, w.Wealth(g).TotalMsat(), before, "the gateway lost money")
	// Every payment that succeeded brought the wallet its amount, or that less
	// what was withheld, over however many replays.
	invoices, err := lnrpc.NewLightningClient(cConn).ListInvoices(ctx, &lnrpc.ListInvoiceRequest{NumMaxInvoices: 1000})
	require.NoError(t, err)
	got, short := int64(0), 0
	for _, inv := range invoices.Invoices {
		switch {
		case inv.State != lnrpc.Invoice_SETTLED:
		case inv.RHash[1]%2 == 0 && inv.AmtPaidMsat == 1_000_000-withheld:
			short++
			got += inv.AmtPaidMsat
		default:
			require.Equal(t, int64(1_000_000), inv.AmtPaidMsat)
			got += inv.AmtPaidMsat
		}
	}
	require.Positive(t, short)
	require.Equal(t, got, w.Wealth(c).TotalMsat()-walletBefore)
	t.Logf("payments %v; earned %d msat", states, w.Wealth(g).TotalMsat()-before)
	require.Positive(t, states[lnrpc.Payment_SUCCEEDED])
}

func isUnavailable(err error) bool {
	return errors.Is(err, interceptor.ErrUnavailable)
}
