package engine

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
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
	r.sees("the places", func() bool { return r.placesTaken() == 0 })
	require.Empty(t, r.probesKept())
}

func (r *rig) placesTaken() int {
	r.probes.mu.Lock()
	defer r.probes.mu.Unlock()
	return r.probes.taken
}

func (r *rig) probesKept() (left []swapsstore.Probe) {
	r.t.Helper()
	require.NoError(r.t, r.db.Read(r.ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		left, err = swapsstore.Probes(ctx, tx)
		return err
	}))
	return left
}

// Held probes keep their places over restarts, until lnd has the money back; one that was
// never sent, or that lnd lost, frees its own.
func TestHeldProbesOutliveARestart(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		r := newRig(t, cfg)
		r.unknownFor = time.Millisecond
		r.node.change(func() {
			r.node.outcome = func(_ ln.InvoicePayment, h ln.Hash) (ln.Payment, error) {
				return ln.Payment{Hash: h, State: ln.PaymentInFlight}, nil
			}
		})
		for i := range probesAtOnce {
			w := RouteWish{Caller: string(rune('a' + i)), AmountSat: 500_000, Target: ln.PubKey{2, 7}}
			require.ErrorIs(t, r.ProbeRoute(r.ctx, w), errkind.Unavailable)
		}
		r.stop()
		r.start()
		require.Equal(t, probesAtOnce, r.placesTaken())
		require.ErrorIs(t, r.ProbeRoute(r.ctx, RouteWish{Caller: "z", AmountSat: 500_000, Target: ln.PubKey{2, 7}}), errkind.Exhausted)
		kept := r.probesKept()
		require.Len(t, kept, probesAtOnce)
		require.LessOrEqual(t, kept[0].UntilHeight, r.node.height+600)

		// One is given back while sluiced is away, lnd never heard of another, and calls a
		// third in flight for ever.
		r.stop()
		r.node.change(func() {
			r.node.payments[kept[0].Hash] = ln.Payment{Hash: kept[0].Hash, State: ln.PaymentFailed}
			delete(r.node.payments, kept[1].Hash)
			r.node.height = kept[2].UntilHeight
		})
		r.start()
		r.sees("two places", func() bool { return r.placesTaken() == 2 })
		r.stop()
		r.start()
		require.Equal(t, 2, r.placesTaken())
		r.node.mine(1, false)
		require.NotEmpty(t, r.probesKept())
		r.node.change(func() {
			// lnd's word ends the wait for it; the third is still in flight then.
			r.node.away = true
		})
		r.sees("no place", func() bool { return r.placesTaken() == 0 })
		require.Empty(t, r.probesKept())
	})
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
