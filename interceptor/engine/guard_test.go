package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const knownSCID = ln.SCID(16_100_001 << 40) // claimed when payers knew it already

// unrecorded makes a process die with HTLCs that lnd has offered it and whose
// rows it could not write: one of a guarded route, one of another claimed one.
func unrecorded(t *testing.T, lnd *fakeLnd, cfg store.Config) (guarded, known ln.CircuitKey) {
	t.Helper()
	faults := new(storetest.Faults)
	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	db := storetest.Open(t, cfg)
	c := startCar(t, lnd, db, "a", nil, func(e *engine.Config) {
		// A busy machine may take seconds over what follows, and the lease cannot be renewed.
		e.Acquire = func(ctx context.Context) (engine.Lease, error) {
			l, err := icstore.New(db, leaseName).Acquire(ctx, store.LeaseConfig{Owner: "a", TTL: time.Minute})
			if err != nil {
				return nil, err
			}
			return l, nil
		}
	})
	c.connected()
	require.NoError(t, c.engine.ClaimRoutes(t.Context(), "jit", []interceptor.Route{{SCID: knownSCID}}))
	faults.Set(storetest.Gone)
	guarded, known = lnd.add(1, jitSCID), lnd.add(2, knownSCID)
	require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 2 }, 20*time.Second, time.Millisecond)
	c.stop()
	return guarded, known
}

// TestUnrecordedHtlcOfAGuardedRouteIsHeld: nothing can have moved it, so its
// handler gets it. What a predecessor may have resumed is only resumed.
func TestUnrecordedHtlcOfAGuardedRouteIsHeld(t *testing.T) {
	for _, action := range []interceptor.Action{interceptor.ActionResume, interceptor.ActionFail} {
		t.Run(string(action), func(t *testing.T) {
			storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
				lnd := newFakeLnd(t)
				guarded, known := unrecorded(t, lnd, cfg)
				c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
				c.waitEvent(interceptor.EventOffered, guarded)
				lnd.until("the other is resumed", func() bool { return lnd.htlcs[known].moved })
				lnd.mu.Lock()
				require.True(t, lnd.held[guarded])
				lnd.mu.Unlock()
				require.NoError(t, c.engine.Decide(t.Context(), decide(guarded, action)))
				lnd.until("it is answered", func() bool { return !lnd.held[guarded] })
				lnd.mu.Lock()
				defer lnd.mu.Unlock()
				require.Equal(t, action == interceptor.ActionResume, lnd.htlcs[guarded].moved)
			})
		})
	}
}

// TestLimitAsksAboutWhatWasThereBefore: an HTLC that a predecessor was offered is not
// failed at a limit while lnd is paying its hash, were it since a moment ago.
func TestLimitAsksAboutWhatWasThereBefore(t *testing.T) {
	lnd := newFakeLnd(t)
	cfg := storetest.SQLite(t)
	guarded, _ := unrecorded(t, lnd, cfg)
	lnd.mu.Lock()
	hash := lnd.htlcs[guarded].offer.Hash
	asks := 0
	lnd.onTrack = func(asked ln.Hash) {
		if asked != hash {
			return
		}
		lnd.mu.Lock()
		defer lnd.mu.Unlock()
		if asks++; asks > 1 {
			lnd.payments[hash] = ln.Payment{Hash: hash, State: ln.PaymentInFlight, InFlight: 1}
		}
	}
	lnd.mu.Unlock()
	c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil, func(e *engine.Config) { e.MaxHeldMsat = 1 })
	require.Equal(t, interceptor.StatePaying, c.waitEvent(interceptor.EventOffered, guarded).Row.State)
	lnd.mu.Lock()
	require.True(t, lnd.held[guarded])
	lnd.mu.Unlock()
}

// TestGuardsEndWhereTheyProveNothing: in each case a predecessor, or somebody
// else, may have resumed the HTLC.
func TestGuardsEndWhereTheyProveNothing(t *testing.T) {
	// takeLease is a program that knows no guards owning the gateway for a while.
	takeLease := func(t *testing.T, db *store.DB) {
		t.Helper()
		l, err := icstore.New(db, leaseName).Acquire(t.Context(), store.LeaseConfig{Owner: "a"})
		require.NoError(t, err)
		require.NoError(t, l.Release(t.Context()))
	}
	for name, c := range map[string]struct {
		between func(*testing.T, *store.DB)
		restore bool
	}{
		"an owner that did not record itself": {between: takeLease},
		"a restored database":                 {between: func(*testing.T, *store.DB) {}, restore: true},
		"a route that was claimed again": {between: func(t *testing.T, db *store.DB) {
			ledger := icstore.New(db, leaseName)
			l, err := ledger.Acquire(t.Context(), store.LeaseConfig{Owner: "a"})
			require.NoError(t, err)
			_, err = ledger.Begin(t.Context(), l.Epoch(), true, time.Now())
			require.NoError(t, err)
			require.NoError(t, ledger.PutRoutes(t.Context(), l.Epoch(), "jit", []interceptor.Route{{SCID: jitSCID, Guarded: true}}))
			require.NoError(t, l.Release(t.Context()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			lnd := newFakeLnd(t)
			cfg := storetest.SQLite(t)
			guarded, _ := unrecorded(t, lnd, cfg)
			db := storetest.Open(t, cfg)
			c.between(t, db)
			startCar(t, lnd, db, "a", nil, func(e *engine.Config) { e.DistrustRows = c.restore })
			lnd.until("it is only resumed", func() bool { return lnd.htlcs[guarded].moved })
			_, routes, err := icstore.New(db, leaseName).Handlers(t.Context())
			require.NoError(t, err)
			for _, r := range routes["jit"] {
				require.False(t, r.Guarded, "%s, also for those that come after", r.SCID)
			}
		})
	}
}

// TestWhatLndPaysForAnUnrecordedHtlc: a payment of ours for its hash decides.
func TestWhatLndPaysForAnUnrecordedHtlc(t *testing.T) {
	lnd := newFakeLnd(t)
	cfg := storetest.SQLite(t)
	key, _ := unrecorded(t, lnd, cfg)
	pay := func(p ln.Payment) {
		lnd.mu.Lock()
		defer lnd.mu.Unlock()
		p.Hash = lnd.htlcs[key].offer.Hash
		lnd.payments[p.Hash] = p
	}
	pay(ln.Payment{State: ln.PaymentInFlight, InFlight: 1})
	c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
	c.connected()
	c.waitEvent(interceptor.EventOffered, lnd.add(3, jitSCID))
	rows, err := c.engine.Rows(t.Context(), interceptor.RowFilter{Handler: "jit"})
	require.NoError(t, err)
	require.Len(t, rows, 1, "nothing is decided while the payment is under way")
	lnd.mu.Lock()
	require.True(t, lnd.held[key])
	lnd.mu.Unlock()
	pay(ln.Payment{State: ln.PaymentSucceeded, Preimage: preimageOf(1<<10 | key.HtlcID)})
	lnd.until("settled", func() bool { return lnd.htlcs[key].settled })
}

// TestWhatEndsWhileLndIsAskedIsNotResumed: a predecessor resumed it, and it ended
// while lnd looked for a payment. A RESUME would forward it anew, with no HTLC
// to pay for it.
func TestWhatEndsWhileLndIsAskedIsNotResumed(t *testing.T) {
	lnd := newFakeLnd(t)
	key := ln.CircuitKey{ChanID: 1, HtlcID: 0}
	lnd.next[1] = 1
	lnd.htlcs[key] = &fakeHtlc{pending: true, moved: true, unseen: 1 << 20, offer: ln.InterceptedHtlc{
		Key: key, Hash: preimageOf(1 << 10).Hash(), IncomingMsat: 2000, OutgoingMsat: 1000,
		IncomingExpiry: 263, OutgoingExpiry: 183, OutgoingSCID: plainSCID, AutoFailHeight: 244,
	}}
	lnd.order = append(lnd.order, key)
	lnd.held[key] = true
	asked := false
	lnd.onTrack = func(ln.Hash) {
		asked = true
		lnd.endUnheard(key, true)
	}
	startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	lnd.until("it is answered", func() bool { return !lnd.held[key] })
	require.True(t, asked)
}

// TestAForeignClientEndsGuards: a stream that lnd refused after all was
// somebody else's meanwhile.
func TestAForeignClientEndsGuards(t *testing.T) {
	lnd := newFakeLnd(t)
	db := storetest.Open(t, storetest.SQLite(t))
	c := startCar(t, lnd, db, "a", nil)
	c.connected()
	before := lnd.add(1, jitSCID)
	c.waitEvent(interceptor.EventOffered, before)
	lnd.mu.Lock()
	lnd.offline = true
	lnd.drop(ln.ErrStreamTaken)
	// The other client is offered one that we never saw, and resumes it.
	key := ln.CircuitKey{ChanID: 1, HtlcID: lnd.next[1]}
	lnd.next[1]++
	offer := lnd.htlcs[before].offer
	offer.Key, offer.Hash = key, preimageOf(uint64(1)<<10|key.HtlcID).Hash()
	lnd.htlcs[key] = &fakeHtlc{offer: offer, pending: true, moved: true, unseen: 1 << 20}
	lnd.order = append(lnd.order, key)
	lnd.held[key] = true // and the link flaps before it shows
	lnd.offline = false
	lnd.mu.Unlock()
	lnd.until("it is only resumed", func() bool { return !lnd.held[key] })
	require.Eventually(t, func() bool {
		_, routes, err := icstore.New(db, leaseName).Handlers(t.Context())
		return err == nil && !routes["jit"][0].Guarded
	}, 20*time.Second, time.Millisecond, "also for the next process")
}

// TestClaimedRoutesAreResumedWithARow: guards rest on it. It takes the
// database, so without it the HTLC is left held.
func TestClaimedRoutesAreResumedWithARow(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		handler interceptor.HandlerConfig
		route   interceptor.Route
		reason  string
	}{
		"the claim has lapsed": {
			interceptor.HandlerConfig{Name: "h", OnAbsent: interceptor.AbsentHold},
			interceptor.Route{SCID: knownSCID, Until: now.Add(-time.Minute)},
			"had lapsed",
		},
		"the handler wants it": {
			interceptor.HandlerConfig{Name: "h", OnAbsent: interceptor.AbsentResume},
			interceptor.Route{SCID: knownSCID},
			"is away and asked for its HTLCs to be forwarded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			faults := new(storetest.Faults)
			cfg := storetest.SQLite(t)
			cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
			lnd := newFakeLnd(t)
			e, _ := runEngine(t, lnd, storetest.Open(t, cfg), "a")
			require.NoError(t, e.WaitActive(t.Context()))
			require.NoError(t, e.Register(t.Context(), c.handler))
			require.NoError(t, e.ClaimRoutes(t.Context(), "h", []interceptor.Route{c.route}))
			lnd.until("a stream", func() bool { return lnd.session != nil })

			faults.Set(storetest.Gone)
			key, plain := lnd.add(1, knownSCID), lnd.add(1, plainSCID)
			lnd.until("an ordinary forward passes", func() bool { return lnd.htlcs[plain].moved })
			require.Eventually(t, func() bool { return e.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
			lnd.mu.Lock()
			require.True(t, lnd.held[key])
			lnd.mu.Unlock()

			faults.Set(storetest.Healthy)
			lnd.until("resumed", func() bool { return lnd.htlcs[key].moved })
			rows, err := e.Rows(t.Context(), interceptor.RowFilter{})
			require.NoError(t, err)
			require.Len(t, rows, 1)
			require.Equal(t, interceptor.StateResumed, rows[0].State)
			require.Empty(t, rows[0].Handler, "it is nobody's")
			require.Contains(t, rows[0].Reason, c.reason)
			require.Zero(t, e.Status().HeldHtlcs)
		})
	}
}

// TestLapsedClaimsLeaveTheDatabaseFirst: a successor that still found one would
// take an HTLC that was resumed without a row for one that nothing moved.
func TestLapsedClaimsLeaveTheDatabaseFirst(t *testing.T) {
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	lnd := newFakeLnd(t)
	clock := newClock()
	db := storetest.Open(t, cfg)
	core, logged := observer.New(zap.InfoLevel)
	e, _ := runEngine(t, lnd, db, "a", func(c *engine.Config) { c.Now, c.Log = clock.now, zap.New(core) })
	require.NoError(t, e.WaitActive(t.Context()))
	require.NoError(t, e.Register(t.Context(), interceptor.HandlerConfig{Name: "h", OnAbsent: interceptor.AbsentHold}))
	require.NoError(t, e.ClaimRoutes(t.Context(), "h", []interceptor.Route{{SCID: jitSCID, Until: clock.now().Add(time.Hour), Guarded: true}}))
	routes := func() int { return e.Status().Handlers[0].Routes }
	lnd.until("a stream", func() bool { return lnd.session != nil })

	faults.Set(storetest.Full)
	clock.add(3 * time.Hour)
	require.Eventually(t, func() bool { return logged.FilterMessageSnippet("were not pruned").Len() > 0 }, 20*time.Second, time.Millisecond)
	key := lnd.add(1, jitSCID)
	require.Eventually(t, func() bool { return e.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
	require.Equal(t, 1, routes(), "a claim that cannot be deleted stands")
	faults.Set(storetest.Healthy)
	lnd.until("resumed", func() bool { return lnd.htlcs[key].moved })
	clock.add(2 * time.Hour)
	require.Eventually(t, func() bool { return routes() == 0 }, 20*time.Second, time.Millisecond)
	_, left, err := icstore.New(db, leaseName).Handlers(context.Background())
	require.NoError(t, err)
	require.Empty(t, left)
}
