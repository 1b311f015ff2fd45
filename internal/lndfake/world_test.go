package lndfake

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rig is a payer, a gateway with a channel from the payer and coins, and a wallet.
type rig struct {
	t       *testing.T
	ctx     context.Context
	w       *World
	p, g, c *Node
	conns   map[*Node]*grpc.ClientConn
}

func newRig(t *testing.T, cfg Config, gw NodeConfig) *rig {
	t.Helper()
	r := &rig{t: t, w: New(cfg), conns: map[*Node]*grpc.ClientConn{}}
	t.Cleanup(r.w.Close)
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	add := func(name string, cfg NodeConfig) *Node {
		n, err := r.w.AddNode(name, cfg)
		require.NoError(t, err)
		conn, err := n.Dial()
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		r.conns[n] = conn
		return n
	}
	r.p, r.g, r.c = add("payer", NodeConfig{}), add("gateway", gw), add("wallet", NodeConfig{})
	_, err := r.p.Fund(20_000_000)
	require.NoError(t, err)
	for range 5 {
		_, err = r.g.Fund(2_000_000)
		require.NoError(t, err)
	}
	_, err = r.w.OpenChannel(r.p, r.g, 10_000_000, 0)
	require.NoError(t, err)
	r.w.Connect(r.g, r.c)
	return r
}

func (r *rig) ln(n *Node) lnrpc.LightningClient      { return lnrpc.NewLightningClient(r.conns[n]) }
func (r *rig) router(n *Node) routerrpc.RouterClient { return routerrpc.NewRouterClient(r.conns[n]) }

func (r *rig) acceptZeroConf() {
	r.t.Helper()
	s, err := r.ln(r.c).ChannelAcceptor(r.ctx)
	require.NoError(r.t, err)
	go func() {
		for {
			q, err := s.Recv()
			if err != nil {
				return
			}
			_ = s.Send(&lnrpc.ChannelAcceptResponse{Accept: true, PendingChanId: q.PendingChanId, ZeroConf: q.WantsZeroConf})
		}
	}()
	require.Eventually(r.t, func() bool {
		r.w.mu.Lock()
		defer r.w.mu.Unlock()
		return len(r.c.mem.acceptors) > 0
	}, 5*time.Second, time.Millisecond)
}

func (r *rig) pay(req string) <-chan *lnrpc.Payment {
	out := make(chan *lnrpc.Payment, 1)
	s, err := r.router(r.p).SendPaymentV2(r.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: req, TimeoutSeconds: 600, NoInflightUpdates: true, FeeLimitMsat: 10_000_000,
	})
	require.NoError(r.t, err)
	go func() {
		m, err := s.Recv()
		if err != nil {
			m = &lnrpc.Payment{PaymentHash: err.Error()}
		}
		out <- m
	}()
	return out
}

func (r *rig) hint(scid uint64, ppm uint32) []*lnrpc.RouteHint {
	return []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
		NodeId: r.g.PubKey(), ChanId: scid, CltvExpiryDelta: 80, FeeProportionalMillionths: ppm,
	}}}}
}

// virtual runs the test in a bubble whose clock is virtual.
func virtual(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

const fakeSCID uint64 = 16_100_000<<40 | 7<<16 | 3

func TestJITChannel(t *testing.T) {
	for name, lat := range map[string]Latency{"immediate": {}, "observed": Observed()} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) { jit(t, lat) })
		})
	}
}

func jit(t *testing.T, lat Latency) {
	r := newRig(t, Config{Seed: 1, Latency: lat}, NodeConfig{RequireInterceptor: true})
	r.acceptZeroConf()
	icpt, err := r.router(r.g).HtlcInterceptor(r.ctx)
	require.NoError(t, err)
	inv, err := r.ln(r.c).AddInvoice(r.ctx, &lnrpc.Invoice{Value: 100_000, RouteHints: r.hint(fakeSCID, 0)})
	require.NoError(t, err)
	synctest.Wait()
	before := r.w.Wealth(r.p).TotalMsat()
	paid := r.pay(inv.PaymentRequest)
	q, err := icpt.Recv()
	require.NoError(t, err)
	require.EqualValues(t, fakeSCID, q.OutgoingRequestedChanId)
	require.EqualValues(t, q.IncomingExpiry-19, q.AutoFailHeight)
	events, err := r.ln(r.g).SubscribeChannelEvents(r.ctx, &lnrpc.ChannelEventSubscription{})
	require.NoError(t, err)
	synctest.Wait()
	open, err := r.ln(r.g).OpenChannel(r.ctx, &lnrpc.OpenChannelRequest{
		NodePubkey: r.c.key.PubKey().SerializeCompressed(), LocalFundingAmount: 200_000, Private: true, ZeroConf: true,
		ScidAlias: true, CommitmentType: lnrpc.CommitmentType_ANCHORS, UseBaseFee: true, UseFeeRate: true, SpendUnconfirmed: true,
	})
	require.NoError(t, err)
	u, err := open.Recv()
	require.NoError(t, err)
	require.NotNil(t, u.GetChanPending())
	for {
		e, err := events.Recv()
		require.NoError(t, err)
		if e.Type == lnrpc.ChannelEventUpdate_ACTIVE_CHANNEL {
			break
		}
	}
	list, err := r.ln(r.g).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{Peer: r.c.key.PubKey().SerializeCompressed()})
	require.NoError(t, err)
	require.Len(t, list.Channels, 1)
	_, err = r.router(r.g).XAddLocalChanAliases(r.ctx, &routerrpc.AddAliasesRequest{AliasMaps: []*lnrpc.AliasMap{{
		BaseScid: list.Channels[0].ChanId, Aliases: []uint64{fakeSCID},
	}}})
	require.NoError(t, err)
	require.NoError(t, icpt.Send(&routerrpc.ForwardHtlcInterceptResponse{
		IncomingCircuitKey: q.IncomingCircuitKey, Action: routerrpc.ResolveHoldForwardAction_RESUME,
	}))
	m := <-paid
	require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, m.String())
	synctest.Wait()
	time.Sleep(time.Second)
	require.EqualValues(t, 100_000_000, r.w.Wealth(r.c).TotalMsat())
	require.EqualValues(t, 100_000_000, before-r.w.Wealth(r.p).TotalMsat())
	r.w.Mine(6)
	require.NoError(t, r.w.Err())
}

func TestUnimplementedSaysSo(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 2}, NodeConfig{})
		_, err := r.ln(r.g).BatchOpenChannel(r.ctx, &lnrpc.BatchOpenChannelRequest{})
		require.Equal(t, codes.Unimplemented, status.Code(err))
		require.ErrorContains(t, err, "BatchOpenChannel")
	})
}

func TestManyRuns(t *testing.T) {
	start := time.Now()
	const runs = 20
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { virtual(t, func(t *testing.T) { jit(t, Latency{}) }) })
	}
	t.Logf("%d runs in %v", runs, time.Since(start))
}

// TestNoBlockHasAChildWithoutItsParent: a close that is broadcast while a
// reorganisation leaves its funding unconfirmed waits for it; money is then
// conserved whatever becomes of the funding.
func TestNoBlockHasAChildWithoutItsParent(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, Config{Seed: 5}, NodeConfig{})
		point, err := r.w.OpenChannel(r.p, r.g, 1_000_000, 300_000)
		require.NoError(t, err)
		require.NoError(t, r.w.ForceClose(r.p, point))
		closing := r.w.Mempool()
		require.Len(t, closing, 1)
		funding := closing[0].TxIn[0].PreviousOutPoint.Hash
		r.w.DropFromMempool(closing[0].TxHash())
		r.w.Reorg(6, false)
		require.Equal(t, []string{funding.String(), closing[0].TxHash().String()}, mempoolIDs(r.w))
		require.NoError(t, r.w.Err())
		r.w.DropFromMempool(funding)
		require.Empty(t, mempoolIDs(r.w))
		require.NoError(t, r.w.Err())
	})
}

func mempoolIDs(w *World) (ids []string) {
	for _, tx := range w.Mempool() {
		ids = append(ids, tx.TxHash().String())
	}
	return ids
}
