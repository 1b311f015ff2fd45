package app

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/rpcserver"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	lwsengine "github.com/sluice-lsp/sluice/lws/engine"
	lwsstore "github.com/sluice-lsp/sluice/lws/store"
	"github.com/sluice-lsp/sluice/lws/tenant"
)

// sleepers is an lnd with a channel to each node, all of them away, and an interceptor
// that holds what it is asked to.
type sleepers struct {
	nodes []ln.PubKey
	mu    sync.Mutex
	sink  func(lwsengine.HtlcEvent)
}

func (s *sleepers) ListChannels(context.Context) (out []ln.Channel, _ error) {
	for i, n := range s.nodes {
		out = append(out, ln.Channel{Peer: n, ChanID: ln.SCID(i + 1), Outpoint: ln.Outpoint{Index: uint32(i)}}) //nolint:gosec // few
	}
	return append(out, ln.Channel{Peer: ln.PubKey{3, 1}, ChanID: 90, Outpoint: ln.Outpoint{Index: 90}, Active: true}), nil
}

func (s *sleepers) SubscribeChannelEvents(ctx context.Context, _ func(ln.ChannelEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s *sleepers) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	handle(ln.Block{Height: 1000})
	<-ctx.Done()
	return ctx.Err()
}

func (s *sleepers) Claim(context.Context, []ln.SCID, time.Time) error { return nil }
func (s *sleepers) Release(context.Context, []ln.SCID) error          { return nil }

func (s *sleepers) Attach(ctx context.Context, sink func(lwsengine.HtlcEvent)) error {
	s.mu.Lock()
	s.sink = sink
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (s *sleepers) Decide(context.Context, []ln.CircuitKey, bool, string) error { return nil }
func (s *sleepers) Acknowledge(context.Context, []ln.CircuitKey) error          { return nil }

// offer has an HTLC for a node's channel arrive.
func (s *sleepers) offer(t *testing.T, n int, hash ln.Hash) {
	t.Helper()
	var sink func(lwsengine.HtlcEvent)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		sink = s.sink
		return sink != nil
	}, time.Minute, time.Millisecond)
	sink(lwsengine.HtlcEvent{Kind: lwsengine.HtlcOffered, Htlc: ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 90, HtlcID: uint64(n)}, Hash: hash, IncomingMsat: 1_000_100, OutgoingMsat: 1_000_000, OutgoingSCID: ln.SCID(n), //nolint:gosec // few
		IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
	}})
}

// TestTenantsHoldPayments: a tenant's macaroon registers holds for the node that it acts
// for, sees and sends back what waits for that, and nothing of another tenant's; whoever
// only looks, declined the service or is suspended does not.
func TestTenantsHoldPayments(t *testing.T) {
	x := startIsolated(t)
	acmeNode, acme, viewer := x.tenant("acme")
	boltNode, bolt, _ := x.tenant("bolt")
	world := &sleepers{nodes: []ln.PubKey{acmeNode, boltNode}}
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, fsm.Migrate(t.Context(), db))
	require.NoError(t, lwsstore.Migrate(t.Context(), db))
	kept := lwsstore.New(db, func(context.Context, *store.Tx) error { return nil })
	e, err := lwsengine.New(lwsengine.Options{
		Node: world, Holds: world, Wishes: kept, Expected: kept, DB: db, Limits: defaultHolds().limits(), MaxWallets: 10, MarginBlocks: 10,
		Now: time.Now, Random: rand.Reader,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, func() { x.lws.Ready(e) }) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })

	holds := lwsv1.NewHoldsServiceClient(x.conn)
	as := func(macaroon string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "macaroon", macaroon)
	}
	set := func(macaroon string, htlcs uint32) error {
		_, err := holds.SetHold(as(macaroon), &lwsv1.SetHoldRequest{Hold: &lwsv1.Hold{HoldForSeconds: 3600, MaxHtlcs: htlcs, MaxSat: 100_000, FinalCltvDeltaBlocks: 80}})
		return rpcserver.FromStatus(err)
	}
	get := func(macaroon string) *lwsv1.GetHoldResponse {
		got, err := holds.GetHold(as(macaroon), &lwsv1.GetHoldRequest{})
		require.NoError(t, err)
		return got
	}
	require.Eventually(t, func() bool { return set(acme.Macaroon, 3) == nil }, time.Minute, 10*time.Millisecond)
	require.NoError(t, set(bolt.Macaroon, 7))
	wishes, err := kept.Wishes(t.Context())
	require.NoError(t, err)
	require.Len(t, wishes, 2, "each under its node's key")
	require.Equal(t, 3, wishes[acmeNode].MaxHtlcs)
	require.Equal(t, 7, wishes[boltNode].MaxHtlcs)
	require.EqualValues(t, 3, get(acme.Macaroon).GetHold().GetMaxHtlcs())
	require.EqualValues(t, 7, get(bolt.Macaroon).GetHold().GetMaxHtlcs())

	// One payment for each: nobody sees, or sends back, the other's.
	world.offer(t, 1, ln.Hash{1})
	world.offer(t, 2, ln.Hash{2})
	waits := func(macaroon string) *lwsv1.WaitingPayment {
		t.Helper()
		var list []*lwsv1.WaitingPayment
		require.Eventually(t, func() bool { list = get(macaroon).GetWaiting(); return len(list) == 1 }, time.Minute, 10*time.Millisecond)
		return list[0]
	}
	hers, his := waits(acme.Macaroon), waits(bolt.Macaroon)
	require.Equal(t, acmeNode[:], hers.GetClient())
	require.Equal(t, boltNode[:], his.GetClient())
	require.NotEqual(t, hers.GetId(), his.GetId())
	_, err = holds.ReturnPayment(as(bolt.Macaroon), &lwsv1.ReturnPaymentRequest{Id: hers.GetId()})
	require.Equal(t, errkind.NotFound, errkind.Of(rpcserver.FromStatus(err)))
	_, err = holds.ReturnPayment(as(acme.Macaroon), &lwsv1.ReturnPaymentRequest{Id: hers.GetId()})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(get(acme.Macaroon).GetWaiting()) == 0 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, his.GetId(), waits(bolt.Macaroon).GetId())
	_, err = holds.ExpectPayment(as(bolt.Macaroon), &lwsv1.ExpectPaymentRequest{PaymentHash: his.GetPaymentHash(), FinalCltvDeltaBlocks: 80, UntilMs: time.Now().Add(time.Hour).UnixMilli()})
	require.NoError(t, err)

	// Who may not.
	require.Equal(t, errkind.Denied, errkind.Of(set(viewer.Macaroon, 9)), "a viewer")
	_, err = x.registry.Apply(t.Context(), "operator", "acme", tenant.SetService{Service: lwsapi.Name})
	require.NoError(t, err)
	require.Equal(t, errkind.Denied, errkind.Of(set(acme.Macaroon, 9)), "who declined the service")
	_, err = x.registry.Apply(t.Context(), "operator", "bolt", tenant.SetStatus{To: tenant.Suspended, Reason: "the bill"})
	require.NoError(t, err)
	require.Equal(t, errkind.Denied, errkind.Of(set(bolt.Macaroon, 9)), "who is suspended")
	wishes, err = kept.Wishes(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, wishes[acmeNode].MaxHtlcs)
	require.Equal(t, 7, wishes[boltNode].MaxHtlcs)

	// Its registration ends with its own macaroon, and nobody else's.
	_, err = x.registry.Apply(t.Context(), "operator", "acme", tenant.SetService{Service: lwsapi.Name, Accepted: true})
	require.NoError(t, err)
	_, err = holds.RemoveHold(as(acme.Macaroon), &lwsv1.RemoveHoldRequest{})
	require.NoError(t, err)
	wishes, err = kept.Wishes(t.Context())
	require.NoError(t, err)
	require.NotContains(t, wishes, acmeNode)
	require.Contains(t, wishes, boltNode)
}
