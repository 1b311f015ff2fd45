package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// A probe for the asking locks no more than it says, cannot be settled by anybody,
// and is rare.
func TestProbesForTheAsking(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	answer := ln.Payment{State: ln.PaymentFailed, Failure: declined}
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) { p := answer; p.Hash = h; return p, nil }
	})
	w := RouteWish{Caller: "a", AmountSat: 500_000, Target: ln.PubKey{2, 7}, LastHop: ln.PubKey{2, 8}, Hints: [][]ln.RouteHint{{{Node: ln.PubKey{2, 8}, SCID: 5}}}}
	require.NoError(t, r.ProbeRoute(r.ctx, w))
	require.NoError(t, r.ProbeRoute(r.ctx, w))
	p, q := r.node.probed[0], r.node.probed[1]
	require.NotEqual(t, p.Hash, q.Hash)
	require.NotEqual(t, p.PaymentAddr, q.PaymentAddr)
	require.EqualValues(t, 500_000_000, p.AmountMsat)
	require.LessOrEqual(t, p.CltvLimit, uint32(500))
	require.Equal(t, w.Hints, p.Hints)
	require.Equal(t, w.LastHop, p.LastHop)

	answer.Failure = "FAILURE_REASON_NO_ROUTE"
	err := r.ProbeRoute(r.ctx, w)
	require.ErrorIs(t, err, errkind.Unavailable)
	require.Contains(t, errkind.Sentence(err), "NO_ROUTE")
	_ = r.ProbeRoute(r.ctx, w)
	require.ErrorIs(t, r.ProbeRoute(r.ctx, w), errkind.Exhausted, "one client's")
	other := w
	other.Caller = "b"
	require.NotErrorIs(t, r.ProbeRoute(r.ctx, other), errkind.Exhausted)
	for range 20 {
		other.Caller += "b"
		err = r.ProbeRoute(r.ctx, other)
	}
	require.ErrorIs(t, err, errkind.Exhausted, "all clients'")
	for _, wrong := range []RouteWish{{AmountSat: 1, Target: w.Target}, {AmountSat: 1 << 50, Target: w.Target}, {AmountSat: 500_000, Target: r.cfg.Self}} {
		require.ErrorIs(t, r.ProbeRoute(r.ctx, wrong), errkind.Invalid)
	}
}

// A client that holds a probe keeps its place until it gives it back.
func TestAProbeThatIsHeld(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.node.change(func() {
		r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
			return ln.Payment{Hash: h, State: ln.PaymentInFlight}, nil
		}
	})
	now := time.Now()
	for i := range probesAtOnce {
		w := RouteWish{Caller: string(rune('a' + i)), AmountSat: 500_000, Target: ln.PubKey{2, 7}}
		require.ErrorIs(t, r.ProbeRoute(r.ctx, w), errkind.Unavailable)
	}
	_, err := r.probes.admit("z", now)
	require.ErrorIs(t, err, errkind.Exhausted)
	r.node.change(func() {
		for _, p := range r.node.probed {
			r.node.payments[p.Hash] = ln.Payment{Hash: p.Hash, State: ln.PaymentFailed}
		}
	})
	r.sees("a place", func() bool { return len(r.probes.slots) == 0 })
}

// One client takes neither all places nor all room.
func TestOneClientsCaps(t *testing.T) {
	r := newRig(t, storetest.SQLite(t))
	r.stop()
	r.perClient = 1_200_000
	r.unpaidPerClient = 2
	r.start()
	wish := func(n byte, caller string, amount ln.Sat) error {
		w := r.wish(ln.Preimage{n})
		w.AmountSat, w.Caller = amount, caller
		_, err := r.OfferOut(r.ctx, w)
		return err
	}
	require.NoError(t, wish(1, "a", 600_000))
	err := wish(2, "a", 700_000)
	require.ErrorIs(t, err, errkind.Exhausted)
	require.Contains(t, errkind.Sentence(err), "one client")
	require.NoError(t, wish(3, "a", 300_000))
	require.ErrorIs(t, wish(4, "a", 250_000), errkind.Exhausted, "two wait already")
	require.NoError(t, wish(5, "b", 700_000))
	in := r.wishIn(ln.Preimage{6}, 1_200_000)
	in.Caller = "c"
	_, err = r.OfferIn(r.ctx, in)
	require.NoError(t, err)
	in = r.wishIn(ln.Preimage{7}, 300_000)
	in.Caller = "c"
	_, err = r.OfferIn(r.ctx, in)
	require.ErrorIs(t, err, errkind.Exhausted)

	// A token is one client wherever it comes from; of an address nothing can be read.
	require.Equal(t, r.Caller("t", "1.2.3.4"), r.Caller("t", "5.6.7.8"))
	require.NotEqual(t, r.Caller("", "1.2.3.4"), r.Caller("", "1.2.3.5"))
	require.NotContains(t, r.Caller("", "1.2.3.4"), "1.2.3.4")
	before := r.Caller("", "1.2.3.4")
	r.stop()
	r.start()
	require.Equal(t, before, r.Caller("", "1.2.3.4"), "also after a restart")
}
