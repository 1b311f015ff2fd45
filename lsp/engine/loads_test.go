package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// What is admitted counts before it is durable, and no longer once it is known
// that it never will be.
func TestWhatFailsToBeStoredCountsNoLonger(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var full atomic.Bool
		var b *office
		cfg.Hooks = &store.Hooks{BeforeCommit: func() error {
			if full.Load() {
				require.Equal(t, 1, b.e.loads.sum.Usage(key(2)).All.OpenRequests, "it counts while it may be committed")
				return fmt.Errorf("the disk is full: %w", store.ErrUnavailable)
			}
			return nil
		}}
		b = newOffice(t, storetest.Open(t, cfg), func(c *Config) { c.Caps.Client.OpenRequests = 1 })
		full.Store(true)
		_, _, err := b.negotiate(key(2), 100_000_000)
		require.ErrorIs(t, err, store.ErrUnavailable)
		full.Store(false)
		require.Zero(t, b.usage(key(2)).All.OpenRequests)
		b.agree(key(2), 100_000_000)
		_, _, err = b.negotiate(key(2), 100_000_000)
		require.Equal(t, errkind.Exhausted, errkind.Of(err))
	})
}

// What may or may not have been stored counts until the tables tell.
func TestWhatMayBeStoredCounts(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var lose atomic.Bool
		cfg.Hooks = &store.Hooks{AfterCommit: func() error {
			if lose.Load() {
				return fmt.Errorf("%w: %w", store.ErrUnavailable, store.ErrOutcomeUnknown)
			}
			return nil
		}}
		b := newOffice(t, storetest.Open(t, cfg), func(c *Config) { c.Caps.Client.OpenRequests = 2 })
		// Time goes by quickly for whoever waits for the outcome.
		var ahead atomic.Int64
		b.e.opt.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		first, hash := b.agree(key(2), 100_000_000)
		lose.Store(true)
		_, _, err := b.negotiate(key(2), 100_000_000)
		require.ErrorIs(t, err, store.ErrOutcomeUnknown)
		lose.Store(false)
		require.Equal(t, 2, b.usage(key(2)).All.OpenRequests)
		_, _, err = b.negotiate(key(2), 100_000_000)
		require.Equal(t, errkind.Exhausted, errkind.Of(err))

		// A part whose commit got no answer is taken again, and counts once.
		lose.Store(true)
		told := make(chan struct{})
		go func() { defer close(told); _ = b.part(first, hash, 1) }()
		require.Eventually(t, func() bool {
			inst, err := b.e.jits.Get(context.WithoutCancel(t.Context()), first.PaymentID)
			return err == nil && len(jit.PartsOf(inst.State)) == 1
		}, 30*time.Second, time.Millisecond)
		require.NotZero(t, b.usage(key(2)).All.HeldSat)
		lose.Store(false)
		<-told
		ahead.Store(int64(time.Minute))
		require.Eventually(t, func() bool {
			b.e.loads.mu.Lock()
			defer b.e.loads.mu.Unlock()
			return b.e.loads.unsure == 0
		}, 60*time.Second, 10*time.Millisecond)
		require.EqualValues(t, 102_001, b.usage(key(2)).All.HeldSat)
		require.Equal(t, 2, b.usage(key(2)).All.OpenRequests)
	})
}

// A start reads what limits are asked of from the tables.
func TestLoadsAreReadAtTheStart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		a, hash := b.agree(key(2), 100_000_000)
		require.NoError(t, b.part(a, hash, 1))
		b.agree(key(3), 200_000_000)
		// Its row says newcomer, but it has paid: as if it had in that moment.
		c, _ := b.agree(key(4), 100_000_000)
		_, reason := b.open(c, key(4))
		require.True(t, reason.IsZero())
		require.NoError(t, b.e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return b.e.settleDebt(ctx, tx, c.PaymentID, key(4), c.Quote.FeeMsat)
		}))
		b.sql("UPDATE lsp_payments SET newcomer = TRUE WHERE id = $1", c.PaymentID)
		before := map[ln.PubKey]lsp.Usage{}
		for n := range uint64(5) {
			before[key(n)] = b.usage(key(n))
		}
		require.NotZero(t, before[key(2)].Client.HeldSat)
		require.Equal(t, 2, before[key(2)].Newcomers.OpenRequests)

		b.e.loads.sum = lsp.NewLoads()
		require.ErrorIs(t, b.e.checkLoads(t.Context()), errDrift)
		require.NoError(t, b.e.loadLoads(t.Context()))
		for n := range uint64(5) {
			require.Equal(t, before[key(n)], b.usage(key(n)))
		}
	})
}

// What was refused and cannot go back, for lnd is paying its hash, counts until it has gone.
// No table knows of it.
func TestWhatCannotGoBackCounts(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(c *Config) { c.Caps.IncomingHtlcs = 1 })
	b.e.opt.Held = heldBy{decide: func(ln.CircuitKey, Verdict) {}}
	a, hash := b.agree(key(2), 100_000_000)
	htlc := ln.InterceptedHtlc{
		Key: ln.CircuitKey{ChanID: 7, HtlcID: 1}, Hash: ln.Hash{9}, IncomingMsat: 5_000_000, OutgoingMsat: 4_000_000,
		IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, OutgoingSCID: a.SCID, AutoFailHeight: testHeight + 144,
	}
	stranger := htlc
	stranger.Key.ChanID, stranger.OutgoingSCID = 8, 1
	before := b.usage(key(2))
	b.e.takeInOrder([]HtlcEvent{
		{Kind: HtlcOffered, Htlc: htlc},
		{Kind: HtlcOffered, Paying: true, Htlc: htlc},
		{Kind: HtlcOffered, Paying: true, Htlc: stranger},
	})
	now := b.usage(key(2))
	require.Equal(t, before.Client.HeldHtlcs+1, now.Client.HeldHtlcs)
	require.Equal(t, before.Client.HeldSat+5_000, now.Client.HeldSat)
	require.Equal(t, before.All.HeldHtlcs+2, now.All.HeldHtlcs)
	require.Equal(t, before.Client.OpenRequests, now.Client.OpenRequests)
	require.NoError(t, b.e.checkLoads(t.Context()))
	require.NoError(t, b.part(a, hash, 2))
	require.Equal(t, "offered", b.state(a.PaymentID).StateName(), "its channel has no place left")
	require.Equal(t, lsp.ReasonLimit, jit.OfferOf(b.state(a.PaymentID)).Last.Code)
	b.e.takeInOrder([]HtlcEvent{{Kind: HtlcDecided, Htlc: htlc}, {Kind: HtlcGone, Htlc: stranger}})
	require.Equal(t, before, b.usage(key(2)))
	require.NoError(t, b.part(a, hash, 3))
	require.NotEqual(t, "offered", b.state(a.PaymentID).StateName())
}

// Parts that came together are one transaction: each is held against the limits
// beside those before it.
func TestPartsThatComeTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) { c.Caps.Client.HeldSat = 102_010 })
		a, hash := b.agree(key(2), 100_000_000)
		parts := func(first uint64, amounts ...ln.Msat) (htlcs []HtlcEvent) {
			for i, out := range amounts {
				htlcs = append(htlcs, HtlcEvent{Htlc: ln.InterceptedHtlc{
					Key: ln.CircuitKey{ChanID: 7, HtlcID: first + uint64(i)}, Hash: hash, //nolint:gosec // an index
					IncomingMsat: out + a.Quote.FeeMsat*out/100_000_000 + 1, OutgoingMsat: out,
					IncomingExpiry: testHeight + 163, OutgoingExpiry: testHeight + 83, OutgoingSCID: a.SCID, AutoFailHeight: testHeight + 144,
				}})
			}
			return htlcs
		}
		b.e.partsOffered(parts(1, 10_000_000, 20_000_000, 30_000_000))
		require.Len(t, jit.PartsOf(b.state(a.PaymentID)), 3)
		story, err := b.e.jits.History(t.Context(), a.PaymentID)
		require.NoError(t, err)
		asked := 0
		for _, r := range story {
			for _, f := range r.Effects {
				if f.Effect == (jit.AskWallet{}).EffectName() {
					asked++
				}
			}
		}
		require.Len(t, story, 4, "each part is in the story")
		require.Equal(t, 1, asked, "an incomplete set asks for its wallet once")

		// The same again, the rest, and two that no limit bears any more.
		b.e.partsOffered(append(parts(1, 10_000_000), parts(4, 40_000_000)...))
		require.Equal(t, "collecting", b.state(a.PaymentID).StateName())
		require.Len(t, jit.PartsOf(b.state(a.PaymentID)), 4)
		other, hash2 := b.agree(key(2), 100_000_000)
		a, hash = other, hash2
		b.e.partsOffered(parts(10, 50_000_000, 50_000_000))
		require.Equal(t, "offered", b.state(other.PaymentID).StateName())
		require.Equal(t, lsp.ReasonLimit, jit.OfferOf(b.state(other.PaymentID)).Last.Code)
	})
}
