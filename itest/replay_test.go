//go:build itest

package itest

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/invoicesrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
)

const (
	replayMsat  = 100_000_000
	replayDelta = 80
)

// naive is a sidecar that answers by its own memory only. Restarted, it has
// none, and takes what it is offered for what it looks like.
type naive struct {
	t      *testing.T
	stream routerrpc.Router_HtlcInterceptorClient
	offers chan *routerrpc.ForwardHtlcInterceptRequest
	ended  chan struct{}
	cancel context.CancelFunc
}

// attachNaive returns once lnd has taken the sidecar's stream: it refuses a
// second one only then. Its word on the sidecar's own stream may come after that
// on the probe, while lnd still has the stream of a sidecar that has just died:
// several probes in a row must be refused while the own stream lives.
func attachNaive(ctx context.Context, t *testing.T, n *devnet.Node) *naive {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	var s *naive
	refused := 0
	err := devnet.WaitFor(ctx, "lnd to take the naive sidecar", func(context.Context) (bool, error) {
		if s == nil || isClosed(s.ended) {
			refused = 0
			streamCtx, end := context.WithCancel(ctx)
			stream, err := n.Router.HtlcInterceptor(streamCtx)
			if err != nil {
				end()
				return false, err
			}
			s = &naive{t: t, stream: stream, cancel: end, ended: make(chan struct{}), offers: make(chan *routerrpc.ForwardHtlcInterceptRequest, 100)}
			go s.read()
		}
		probeCtx, end := context.WithTimeout(ctx, 200*time.Millisecond)
		defer end()
		probe, err := n.Router.HtlcInterceptor(probeCtx)
		if err != nil {
			return false, err
		}
		_, err = probe.Recv()
		if err == nil || !strings.Contains(err.Error(), "already exists") {
			return false, err
		}
		refused++
		return refused == 5 && !isClosed(s.ended), nil
	})
	require.NoError(t, err)
	t.Cleanup(cancel)
	return s
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (s *naive) read() {
	defer close(s.ended)
	for {
		q, err := s.stream.Recv()
		if err != nil {
			return
		}
		s.offers <- q
	}
}

// dies ends the sidecar with all that it remembers.
func (s *naive) dies() {
	s.cancel()
	<-s.ended
}

func (s *naive) next() *routerrpc.ForwardHtlcInterceptRequest {
	s.t.Helper()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case q := <-s.offers:
		return q
	case <-s.ended:
		require.FailNow(s.t, "lnd ended the naive sidecar's stream")
	case <-timer.C:
		require.FailNow(s.t, "lnd offered nothing")
	}
	return nil
}

// offered waits for the offer of a payment, whatever else comes first.
func (s *naive) offered(hash []byte) *routerrpc.ForwardHtlcInterceptRequest {
	s.t.Helper()
	for {
		if q := s.next(); string(q.PaymentHash) == string(hash) {
			return q
		}
	}
}

func (s *naive) answer(q *routerrpc.ForwardHtlcInterceptRequest, a routerrpc.ResolveHoldForwardAction) {
	s.t.Helper()
	require.NoError(s.t, s.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{IncomingCircuitKey: q.IncomingCircuitKey, Action: a}))
}

// street is a payer, a gateway and a wallet in a row, with ordinary channels.
type street struct {
	*devnet.Standard
	t      *testing.T
	onward devnet.Channel
}

func newStreet(ctx context.Context, t *testing.T, config devnet.StandardConfig) *street {
	t.Helper()
	s := &street{Standard: devnet.StartStandard(t, config), t: t}
	var err error
	s.onward, err = s.OpenChannel(ctx, s.Gateway, s.Wallet, devnet.ChannelParams{CapacitySat: 1_900_000})
	require.NoError(t, err)
	return s
}

// wealth is what nodes own in their channels.
func wealth(ctx context.Context, t *testing.T, n *devnet.Node) int64 {
	t.Helper()
	b, err := n.Balances(ctx)
	require.NoError(t, err)
	return int64(b.LocalMsat) //nolint:gosec // bounded by the capacity
}

// send makes the payer send one HTLC along the street, without any retry.
func (s *street) send(ctx context.Context, hash, addr []byte) <-chan *lnrpc.HTLCAttempt {
	s.t.Helper()
	height, err := s.Miner().Height(ctx)
	require.NoError(s.t, err)
	expiry := uint32(height) + 100 //nolint:gosec // a height
	route := &lnrpc.Route{TotalTimeLock: expiry + replayDelta, TotalAmtMsat: replayMsat, Hops: []*lnrpc.Hop{
		{ChanId: s.PayerChannel.ChanID, PubKey: s.Gateway.PubKey, AmtToForwardMsat: replayMsat, Expiry: expiry, TlvPayload: true},
		{
			ChanId: s.onward.ChanID, PubKey: s.Wallet.PubKey, AmtToForwardMsat: replayMsat, Expiry: expiry, TlvPayload: true,
			MppRecord: &lnrpc.MPPRecord{PaymentAddr: addr, TotalAmtMsat: replayMsat},
		},
	}}
	return s.sendRoute(ctx, hash, route)
}

func (s *street) attempt(done <-chan *lnrpc.HTLCAttempt, want lnrpc.HTLCAttempt_HTLCStatus) {
	s.t.Helper()
	timer := time.NewTimer(2 * time.Minute)
	defer timer.Stop()
	select {
	case a := <-done:
		require.NotNil(s.t, a)
		require.Equal(s.t, want, a.Status, "%v", a.Failure)
	case <-timer.C:
		require.FailNow(s.t, "the payer's HTLC has no end")
	}
}

// incoming is what the gateway's lnd says of an HTLC that it was offered.
func (s *street) incoming(ctx context.Context, hash []byte) (present, forwarded bool) {
	s.t.Helper()
	list, err := s.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(s.t, err)
	for _, c := range list.Channels {
		for _, h := range c.PendingHtlcs {
			if string(h.HashLock) != string(hash) {
				continue
			}
			if h.Incoming {
				present, forwarded = true, forwarded || h.ForwardingChannel != 0
			} else {
				forwarded = true
			}
		}
	}
	return present, forwarded
}

func (s *street) quiet(ctx context.Context) {
	s.t.Helper()
	for _, n := range []*devnet.Node{s.Payer, s.Gateway, s.Wallet} {
		require.NoError(s.t, n.WaitNoHTLCs(ctx))
	}
}

// flapPayer cuts the payer off for a moment and waits until it is back.
func (s *street) flapPayer(ctx context.Context) {
	s.t.Helper()
	s.PayerLink.Cut()
	require.NoError(s.t, s.WaitDisconnected(ctx, s.Payer, s.Gateway))
	s.PayerLink.Restore()
	require.NoError(s.t, s.WaitConnected(ctx, s.Payer, s.Gateway))
}

func (s *street) sluiced(ctx context.Context) *scene {
	s.t.Helper()
	return newSceneOn(ctx, s.t, s.Standard, devnet.SluicedConfig{})
}

// TestReplayPhantom is the other loss: lnd offers an HTLC again that it has
// failed back already. A sidecar that resumes what it does not know pays it out
// of the gateway's pocket. Sluiced, which knows it no better, does not.
func TestReplayPhantom(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	// The payer signs two HTLCs in one commitment.
	s := newStreet(ctx, t, devnet.StandardConfig{Payer: devnet.NodeConfig{ExtraArgs: []string{"--channel-commit-interval=500ms"}}})
	before := wealth(ctx, t, s.Gateway)

	first := attachNaive(ctx, t, s.Gateway)
	var done []<-chan *lnrpc.HTLCAttempt
	for range 2 {
		inv, err := s.Wallet.Invoice(ctx, replayMsat)
		require.NoError(t, err)
		done = append(done, s.send(ctx, inv.RHash, inv.PaymentAddr))
	}
	a, b := first.next(), first.next()
	first.answer(a, routerrpc.ResolveHoldForwardAction_FAIL)
	gone := func(q *routerrpc.ForwardHtlcInterceptRequest) {
		require.NoError(t, devnet.WaitFor(ctx, "the HTLC to be failed back", func(ctx context.Context) (bool, error) {
			present, _ := s.incoming(ctx, q.PaymentHash)
			return !present, nil
		}))
	}
	gone(a)
	first.dies()
	require.NoError(t, s.Gateway.Kill())
	require.NoError(t, s.Gateway.Start(ctx))
	require.NoError(t, s.WaitConnected(ctx, s.Payer, s.Gateway))
	require.NoError(t, s.WaitConnected(ctx, s.Wallet, s.Gateway))
	second := attachNaive(ctx, t, s.Gateway)
	b = second.offered(b.PaymentHash)
	second.answer(b, routerrpc.ResolveHoldForwardAction_FAIL)
	gone(b)
	for _, d := range done {
		s.attempt(d, lnrpc.HTLCAttempt_FAILED)
	}
	second.dies()
	s.quiet(ctx)
	for _, end := range []*devnet.Node{s.Gateway, s.Wallet} {
		_, err := end.WaitChannelActive(ctx, s.onward.Point)
		require.NoError(t, err)
	}

	// From here on the payer has its money back, and lnd offers the second one
	// again at every reconnection.
	t.Run("sluiced loses nothing", func(t *testing.T) {
		sc := s.sluiced(ctx)
		for n := range 2 {
			s.flapPayer(ctx)
			require.NoError(t, devnet.WaitFor(ctx, "sluiced to see the phantom", func(ctx context.Context) (bool, error) {
				v, ok := gauge(ctx, sc.s, "sluice_interceptor_phantoms_total")
				return ok && v > float64(n), nil
			}))
		}
		s.quiet(ctx)
		require.EqualValues(t, before, wealth(ctx, t, s.Gateway))
		sc.op.waitBalancedInAll(ctx)
		require.NoError(t, sc.s.Stop(ctx))
	})

	// The payer does not sign the end of an HTLC that was offered again while it was in
	// flight: lnd lists it without a forward, and has forgotten that it made one. The
	// second phantom, which comes with every flap, tells when offers have been judged.
	t.Run("a naive sidecar has lnd forward anew what is ending", func(t *testing.T) {
		third := attachNaive(ctx, t, s.Gateway)
		e := s.ending(ctx, t, func(hash []byte) {
			third.answer(third.offered(hash), routerrpc.ResolveHoldForwardAction_RESUME)
		}, func() {})
		third.answer(third.offered(e.hash), routerrpc.ResolveHoldForwardAction_RESUME)
		require.NoError(t, devnet.WaitFor(ctx, "lnd to forward it again", func(context.Context) (bool, error) { return e.forwards.Load() == 2, nil }))
		e.over()
		third.dies()
	})
	t.Run("sluiced leaves what is ending", func(t *testing.T) {
		sc := s.sluiced(ctx)
		phantoms := func(n float64) {
			require.NoError(t, devnet.WaitFor(ctx, "sluiced to see the phantom", func(ctx context.Context) (bool, error) {
				v, ok := gauge(ctx, sc.s, "sluice_interceptor_phantoms_total")
				return ok && v >= n, nil
			}))
		}
		e := s.ending(ctx, t, func([]byte) {}, func() { phantoms(1) })
		// Longer than it waits from listing to listing.
		pauseFor(ctx, 12*time.Second)
		require.EqualValues(t, 1, e.forwards.Load())
		e.over()
		phantoms(2)
		require.EqualValues(t, before, wealth(ctx, t, s.Gateway))
		require.NoError(t, sc.s.Stop(ctx))
	})
	t.Run("a naive sidecar loses the amount", func(t *testing.T) {
		third := attachNaive(ctx, t, s.Gateway)
		s.flapPayer(ctx)
		q := third.offered(b.PaymentHash)
		present, _ := s.incoming(ctx, q.PaymentHash)
		require.False(t, present, "a phantom is on no channel")
		third.answer(q, routerrpc.ResolveHoldForwardAction_RESUME)
		p := &person{rawWallet: &rawWallet{t: t, node: s.Wallet}}
		p.waitInvoice(ctx, hashFrom(t, b.PaymentHash), lnrpc.Invoice_SETTLED)
		s.quiet(ctx)
		require.EqualValues(t, -replayMsat, wealth(ctx, t, s.Gateway)-before, "exactly the amount is lost")
	})
}

// ending is an HTLC whose end lnd has signed, and its payer has not.
type ending struct {
	hash     []byte
	forwards *atomic.Int64
	// over has the payer sign, and waits until it has its money back.
	over func()
}

// ending sends an HTLC on, has it offered again in flight, and failed by the wallet
// while the payer is frozen.
func (s *street) ending(ctx context.Context, t *testing.T, onOffer func(hash []byte), onFlap func()) ending {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	forwards := new(atomic.Int64)
	events, err := s.Gateway.Router.SubscribeHtlcEvents(ctx, &routerrpc.SubscribeHtlcEventsRequest{})
	require.NoError(t, err)
	_, err = events.Recv() // that it is subscribed
	require.NoError(t, err)
	var counting sync.WaitGroup
	counting.Go(func() {
		for {
			ev, err := events.Recv()
			if err != nil {
				return
			}
			if ev.GetForwardEvent() != nil {
				forwards.Add(1)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		counting.Wait()
	})
	o, addr := s.holdInvoice(ctx)
	hash := o.preimage.Hash()
	done := s.send(ctx, hash[:], addr)
	onOffer(hash[:])
	p := &person{rawWallet: &rawWallet{t: t, node: s.Wallet}}
	p.waitInvoice(ctx, hash, lnrpc.Invoice_ACCEPTED)
	s.flapPayer(ctx)
	_, err = s.Gateway.WaitChannelActive(ctx, s.PayerChannel.Point)
	require.NoError(t, err)
	onFlap()
	require.NoError(t, s.Payer.Freeze())
	t.Cleanup(func() { _ = s.Payer.Thaw() })
	_, err = s.Wallet.Invoices.CancelInvoice(ctx, &invoicesrpc.CancelInvoiceMsg{PaymentHash: hash[:]})
	require.NoError(t, err)
	require.NoError(t, devnet.WaitFor(ctx, "lnd to sign the end", func(ctx context.Context) (bool, error) {
		present, forwarded := s.incoming(ctx, hash[:])
		require.True(t, present)
		return !forwarded, nil
	}))
	return ending{hash: hash[:], forwards: forwards, over: func() {
		t.Helper()
		require.NoError(t, s.Payer.Thaw())
		s.attempt(done, lnrpc.HTLCAttempt_FAILED)
		s.quiet(ctx)
	}}
}

// holdInvoice is an invoice of the wallet that waits for the test to claim it.
func (s *street) holdInvoice(ctx context.Context) (o offer, addr []byte) {
	s.t.Helper()
	_, err := rand.Read(o.preimage[:])
	require.NoError(s.t, err)
	hash := o.preimage.Hash()
	inv, err := s.Wallet.Invoices.AddHoldInvoice(ctx, &invoicesrpc.AddHoldInvoiceRequest{
		Hash: hash[:], ValueMsat: replayMsat, Expiry: 600, CltvExpiry: replayDelta,
	})
	require.NoError(s.t, err)
	return o, inv.PaymentAddr
}

func hashFrom(t *testing.T, raw []byte) (h ln.Hash) {
	t.Helper()
	require.Len(t, raw, len(h))
	copy(h[:], raw)
	return h
}
