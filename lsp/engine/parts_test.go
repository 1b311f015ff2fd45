package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// heldBy notes what is decided about HTLCs.
type heldBy struct {
	Held
	decide func(ln.CircuitKey, Verdict)
	acked  func(ln.CircuitKey)
}

func (h heldBy) Decide(_ context.Context, keys []ln.CircuitKey, v Verdict, _ string) error {
	for _, k := range keys {
		h.decide(k, v)
	}
	return nil
}

func (h heldBy) Acknowledge(_ context.Context, keys []ln.CircuitKey) error {
	if h.acked != nil {
		for _, k := range keys {
			h.acked(k)
		}
	}
	return nil
}

// TestADatabaseThatDoesNotAnswerIsNoReasonToForward: an HTLC comes over the
// SCID of an agreement that is over, and which lnd still maps to the wallet's
// channel, while the database is away. To refuse it as unknown is to resume it:
// it would be forwarded without a fee.
func TestADatabaseThatDoesNotAnswerIsNoReasonToForward(t *testing.T) {
	scid := ln.NewSCID(16_200_000, 1, 1)
	htlc := ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, Hash: ln.Hash{5}, IncomingMsat: 100_000, OutgoingMsat: 100_000,
		OutgoingSCID: scid, IncomingExpiry: 300, OutgoingExpiry: 200, AutoFailHeight: 281,
	}
	cfg := database(t)
	var away atomic.Int32
	cfg.RetryFor = time.Millisecond
	cfg.Hooks = &store.Hooks{Begin: func(readOnly bool) error {
		if readOnly && away.Add(-1) >= 0 {
			return fmt.Errorf("the test says so: %w", store.ErrUnavailable)
		}
		return nil
	}}
	decided := make(map[ln.CircuitKey]Verdict)
	e := newEngine(t, cfg, newFakeNode(), func(o *Options) {
		o.Held = heldBy{decide: func(k ln.CircuitKey, v Verdict) {
			decided[k] = v
		}}
	})
	terms := jit.Terms{
		ID: "over", Client: ln.PubKey{2, 1}, SCID: scid, Hash: htlc.Hash, ExpiresAt: time.Now().Add(time.Hour),
		Part: lsp.PartTerms{AmountMsat: 100_000, MaxParts: 3},
	}
	require.NoError(t, e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := e.insertPayment(ctx, tx, lspdb.InsertPaymentParams{
			ID: terms.ID, Machine: machineJit, Client: terms.Client[:], PaymentHash: terms.Hash[:], JitScid: scid.Bytes(),
		}); err != nil {
			return err
		}
		offer := jit.Offer{Terms: terms, Progress: jit.Progress{Mapped: true}}
		_, err := e.jits.CreateTx(ctx, tx, terms.ID, jit.Offered{Offer: offer}, jit.Start{Moment: at(100)})
		return err
	}))
	_, err := e.jits.Send(t.Context(), terms.ID, jit.Cancel{Moment: at(100)})
	require.NoError(t, err)

	away.Store(3)
	e.onHtlc(HtlcEvent{Kind: HtlcOffered, Htlc: htlc})
	require.Empty(t, decided, "nothing but the agreement's own machine answers its HTLCs")
	_, err = e.jits.Recover(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		inst, err := e.jits.Pending(t.Context())
		return err == nil && len(inst) == 0
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, map[ln.CircuitKey]Verdict{htlc.Key: VerdictFail}, decided, "mapped: a RESUME would forward")

	// One that never was an agreement's is refused for good.
	stranger := htlc
	stranger.Key.HtlcID, stranger.OutgoingSCID = 2, ln.NewSCID(16_200_000, 2, 2)
	e.onHtlc(HtlcEvent{Kind: HtlcOffered, Htlc: stranger})
	require.Equal(t, VerdictRefuseUnknown, decided[stranger.Key])
}

// A part that the interceptor could not hold is none of the payment's. What is held of
// its set goes back with it, unless the set is whole, or began after it came.
func TestRefusedPartTakesItsSiblingsAlong(t *testing.T) {
	for _, kind := range []HtlcEventKind{HtlcDecided, HtlcGone} {
		b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
		b.e.opt.Held = heldBy{}
		a, hash := b.agree(key(2), 100_000_000)
		take := func(kind HtlcEventKind, n uint64, out ln.Msat) {
			b.e.takeInOrder([]HtlcEvent{{Kind: kind, Order: int64(n), Reason: "full", Htlc: ln.InterceptedHtlc{ //nolint:gosec // small
				Key: ln.CircuitKey{ChanID: 7, HtlcID: n}, Hash: hash, IncomingMsat: out + a.Quote.FeeMsat*out/100_000_000 + 1, OutgoingMsat: out,
				IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, OutgoingSCID: a.SCID, AutoFailHeight: testHeight + 144,
			}}})
		}
		parts := func() int { return len(jit.PartsOf(b.state(a.PaymentID))) }
		take(HtlcOffered, 10, 10_000_000)
		take(kind, 9, 90_000_000)
		require.Equal(t, 1, parts(), "it was of an earlier attempt")
		take(kind, 11, 90_000_000)
		require.Equal(t, "offered", b.state(a.PaymentID).StateName())
		require.Equal(t, lsp.ReasonPartMissing, jit.OfferOf(b.state(a.PaymentID)).Last.Code)
		take(HtlcOffered, 12, 10_000_000)
		take(HtlcOffered, 13, 90_000_000)
		require.Equal(t, 2, parts())
		take(kind, 14, 90_000_000)
		require.Equal(t, 2, parts(), "it is whole without it")
	}
}

// TestARestoredDatabaseRefusesWithoutAResume: an older copy says that the SCID
// was never mapped; lnd may know better.
func TestARestoredDatabaseRefusesWithoutAResume(t *testing.T) {
	key := ln.CircuitKey{ChanID: 7, HtlcID: 1}
	for restored, want := range map[bool]Verdict{false: VerdictRefuseUnknown, true: VerdictFail} {
		var got Verdict
		e := newEngine(t, database(t), newFakeNode(), func(o *Options) {
			o.Restored, o.Held = restored, heldBy{decide: func(_ ln.CircuitKey, v Verdict) { got = v }}
		})
		require.NoError(t, e.refuseParts(t.Context(), jit.RefuseParts{OfferID: "p", Keys: []ln.CircuitKey{key}, How: jit.RefuseUnknown}))
		require.Equal(t, want, got)
		e.onHtlc(HtlcEvent{Kind: HtlcOffered, Htlc: ln.InterceptedHtlc{Key: key, OutgoingSCID: 1}})
		require.Equal(t, want, got)
	}
}

// TestNothingIsAcknowledgedUntold: an engine that stops tells its machines nothing more.
// An outcome that it acknowledged then would never come again.
func TestNothingIsAcknowledgedUntold(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	var acked []uint64
	b.e.opt.Held = heldBy{acked: func(k ln.CircuitKey) { acked = append(acked, k.HtlcID) }}
	a, hash := b.agree(key(2), 100_000_000)
	gone := func(n uint64) {
		b.e.onHtlc(HtlcEvent{Kind: HtlcGone, Known: true, Settled: true, Resumed: true, Htlc: ln.InterceptedHtlc{
			Key: ln.CircuitKey{ChanID: 7, HtlcID: n}, Hash: hash, OutgoingSCID: a.SCID,
		}})
	}
	gone(1)
	b.e.cancel()
	gone(2)
	require.Equal(t, []uint64{1}, acked)
}
