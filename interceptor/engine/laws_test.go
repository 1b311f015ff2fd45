package engine_test

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// TestAbsentHandlers is law 9: what becomes of a handler's HTLCs while it is
// away, of those that come then and of those that it left behind.
func TestAbsentHandlers(t *testing.T) {
	for _, policy := range []interceptor.Absent{interceptor.AbsentHold, interceptor.AbsentResume, interceptor.AbsentFail} {
		t.Run(string(policy), func(t *testing.T) {
			lnd := newFakeLnd(t)
			clock := newClock()
			e, _ := runEngine(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a",
				func(c *engine.Config) { c.Now, c.AbsentGrace = clock.now, 30*time.Second })
			require.NoError(t, e.WaitActive(t.Context()))
			require.NoError(t, e.Register(t.Context(), interceptor.HandlerConfig{Name: "h", OnAbsent: policy}))
			require.NoError(t, e.ClaimRoutes(t.Context(), "h", []interceptor.Route{{SCID: jitSCID, Guarded: true}}))
			lnd.until("a stream", func() bool { return lnd.session != nil })
			offered := make(chan ln.CircuitKey, 10)
			synced := make(chan struct{}, 1)
			hangUp := goUntilStopped(t, func(ctx context.Context) {
				_ = e.Attach(ctx, "h", func(ev interceptor.Event) {
					switch ev.Kind {
					case interceptor.EventOffered:
						offered <- ev.Row.Key
					case interceptor.EventSynced:
						synced <- struct{}{}
					}
				})
			})
			<-synced
			left := lnd.add(1, jitSCID)
			require.Equal(t, left, <-offered, "while it is there it is asked, whatever the policy")
			hangUp()

			came := lnd.add(2, jitSCID)
			answered := func(key ln.CircuitKey) func() bool { return func() bool { return !lnd.held[key] } }
			if policy == interceptor.AbsentHold {
				require.Eventually(t, func() bool { return e.Status().HeldHtlcs == 2 }, 20*time.Second, time.Millisecond)
			} else {
				lnd.until("what comes is answered", answered(came))
			}
			lnd.mu.Lock()
			require.True(t, lnd.held[left], "it has its grace to come back")
			require.Equal(t, policy == interceptor.AbsentResume, lnd.htlcs[came].moved)
			lnd.mu.Unlock()

			clock.add(31 * time.Second)
			if policy == interceptor.AbsentHold {
				// Rounds of what would apply a policy have passed when another HTLC
				// went all the way.
				third := lnd.add(3, jitSCID)
				require.Eventually(t, func() bool { return e.Status().HeldHtlcs == 3 }, 20*time.Second, time.Millisecond)
				lnd.mineTo(lnd.htlcs[third].offer.AutoFailHeight - 6)
				lnd.until("the deadline applies to all", func() bool { return !lnd.held[left] && !lnd.held[came] && !lnd.held[third] })
				lnd.mu.Lock()
				require.False(t, lnd.htlcs[left].moved)
				lnd.mu.Unlock()
				return
			}
			lnd.until("what it left is answered", answered(left))
			lnd.mu.Lock()
			require.Equal(t, policy == interceptor.AbsentResume, lnd.htlcs[left].moved)
			lnd.mu.Unlock()
			rows, err := e.Rows(t.Context(), interceptor.RowFilter{})
			require.NoError(t, err)
			require.Len(t, rows, 2)
			for _, r := range rows {
				require.Contains(t, r.Reason, "away", "people can read why")
			}
		})
	}
}

// TestEachKindWithoutDatabase is law 8: what is paying is left alone, what is
// new is held or passes, phantoms are failed, all that is decided or may have
// been is resumed. A key's answer never changes.
func TestEachKindWithoutDatabase(t *testing.T) {
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	lnd := newFakeLnd(t)

	// A predecessor resumed an ordinary forward; lnd does not show it yet.
	first := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
	first.connected()
	inherited := lnd.add(1, plainSCID)
	lnd.until("resumed", func() bool { return lnd.htlcs[inherited].moved })
	first.stop()
	lnd.mu.Lock()
	lnd.htlcs[inherited].unseen = 1 << 20
	lnd.mu.Unlock()

	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
	c.connected()
	paying, resumed, refused := lnd.add(2, jitSCID), lnd.add(2, jitSCID), lnd.add(3, jitSCID)
	for _, key := range []ln.CircuitKey{paying, resumed, refused} {
		c.waitEvent(interceptor.EventOffered, key)
	}
	require.NoError(t, c.engine.MarkPaying(t.Context(), []ln.CircuitKey{paying}, "about to pay"))
	require.NoError(t, c.engine.Decide(t.Context(), append(decide(resumed, interceptor.ActionResume), decide(refused, interceptor.ActionFail)...)))
	lnd.until("answered", func() bool { return lnd.htlcs[resumed].moved && !lnd.htlcs[refused].pending })

	faults.Set(storetest.Gone)
	lnd.mu.Lock()
	lnd.htlcs[resumed].unseen = 1 << 20
	hash := lnd.htlcs[paying].offer.Hash
	lnd.payments[hash] = ln.Payment{Hash: hash, State: ln.PaymentInFlight, InFlight: 1}
	lnd.mu.Unlock()
	// lnd dies before it has signed what it was told to forward.
	lnd.restart(func() bool { return true })
	lnd.until("a stream", func() bool { return lnd.session != nil })
	news, plain := lnd.add(1, jitSCID), lnd.add(1, plainSCID)
	lnd.until("each kind is answered as it may be", func() bool {
		return !lnd.held[inherited] && !lnd.held[resumed] && !lnd.held[refused] && !lnd.held[plain]
	})
	lnd.mineTo(lnd.htlcs[paying].offer.AutoFailHeight - 3)
	after := lnd.add(1, plainSCID)
	lnd.until("a later forward", func() bool { return !lnd.held[after] })
	lnd.mu.Lock()
	require.True(t, lnd.held[paying], "what is paying is left alone, also past its deadline")
	require.True(t, lnd.held[news], "what a handler wants is held")
	require.True(t, lnd.htlcs[plain].moved, "what nobody wants passes")
	lnd.mu.Unlock()
	// The fake has reported it, if a phantom was resumed, or what was moved failed.
}

// thawed is a lease that has run out unnoticed, as in a process that was frozen.
type thawed struct {
	engine.Lease
	gone *atomic.Bool
}

func (l thawed) Valid() bool { return !l.gone.Load() && l.Lease.Valid() }

// TestAFrozenOwnerAnswersNothing is law 11: an owner that was frozen until its
// lease ran out is silent and gives up its stream, and the standby decides.
func TestAFrozenOwnerAnswersNothing(t *testing.T) {
	lnd := newFakeLnd(t)
	cfg := storetest.SQLite(t)
	db := storetest.Open(t, cfg)
	ledger := icstore.New(db, leaseName)
	var gone atomic.Bool
	first := startCar(t, lnd, db, "a", nil, func(c *engine.Config) {
		c.KeepForwarding = false
		acquire := c.Acquire
		c.Acquire = func(ctx context.Context) (engine.Lease, error) {
			if gone.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			l, err := acquire(ctx)
			if err != nil {
				return nil, err
			}
			return thawed{Lease: l, gone: &gone}, nil
		}
	})
	first.connected()
	held := lnd.add(1, jitSCID)
	first.waitEvent(interceptor.EventOffered, held)
	gone.Store(true)
	require.ErrorIs(t, first.engine.Decide(t.Context(), decide(held, interceptor.ActionResume)), interceptor.ErrUnavailable)
	plain := lnd.add(1, plainSCID)
	lnd.until("the stream is given up", func() bool { return lnd.session == nil })
	lnd.mu.Lock()
	require.True(t, lnd.held[plain] && lnd.held[held], "and nothing was answered")
	lnd.mu.Unlock()

	second := startCar(t, lnd, db, "b", nil, func(c *engine.Config) { c.KeepForwarding = false })
	second.waitEvent(interceptor.EventOffered, held)
	require.NoError(t, second.engine.Decide(t.Context(), decide(held, interceptor.ActionResume)))
	lnd.until("both are resumed", func() bool { return lnd.htlcs[held].moved && lnd.htlcs[plain].moved })
	info, err := db.LeaseInfo(t.Context(), leaseName)
	require.NoError(t, err)
	require.EqualValues(t, 2, info.Epoch)
	err = ledger.Write(t.Context(), 1, nil, []interceptor.Row{{Key: held, Version: 2}})
	require.ErrorIs(t, err, interceptor.ErrLeaseLost, "two owners can never both decide")
}

// TestShutdownFailsNothing is law 10, with a handler whose policy would fail
// its HTLCs, and one HTLC at its deadline.
func TestShutdownFailsNothing(t *testing.T) {
	lnd := newFakeLnd(t)
	db := storetest.Open(t, storetest.SQLite(t))
	e, stop := runEngine(t, lnd, db, "a", func(c *engine.Config) { c.AbsentGrace = time.Hour })
	require.NoError(t, e.WaitActive(t.Context()))
	require.NoError(t, e.Register(t.Context(), interceptor.HandlerConfig{Name: "h", OnAbsent: interceptor.AbsentFail}))
	require.NoError(t, e.ClaimRoutes(t.Context(), "h", []interceptor.Route{{SCID: jitSCID}}))
	lnd.until("a stream", func() bool { return lnd.session != nil })
	events := make(chan interceptor.Event, 10)
	hangUp := goUntilStopped(t, func(ctx context.Context) {
		_ = e.Attach(ctx, "h", func(ev interceptor.Event) { events <- ev })
	})
	require.Equal(t, interceptor.EventSynced, (<-events).Kind)
	held, decided := lnd.add(1, jitSCID), lnd.add(2, jitSCID)
	for range 2 {
		require.Equal(t, interceptor.EventOffered, (<-events).Kind)
	}
	require.NoError(t, e.Decide(t.Context(), decide(decided, interceptor.ActionResume)))
	stop()
	hangUp()
	lnd.mu.Lock()
	defer lnd.mu.Unlock()
	require.True(t, lnd.held[held] && lnd.htlcs[held].pending, "what is held stays held")
	require.True(t, lnd.htlcs[decided].moved, "what was decided was sent")
	rows, err := icstore.New(db, leaseName).List(t.Context(), interceptor.RowFilter{State: interceptor.StateHeld})
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

// TestGauges: what is held, in HTLCs, sats and blocks left, is shown (law 7).
func TestGauges(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(engine.NewCollector(c.engine)))
	read := func() map[string]float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		out := make(map[string]float64)
		for _, f := range families {
			m := f.Metric[0]
			out[f.GetName()[len("sluice_interceptor_"):]] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		return out
	}
	require.NotContains(t, read(), "min_blocks_left", "absent when nothing is held")

	a, b := lnd.add(1, jitSCID), lnd.add(2, jitSCID)
	row := c.waitEvent(interceptor.EventOffered, a).Row
	c.waitEvent(interceptor.EventOffered, b)
	lnd.mineTo(110)
	require.Eventually(t, func() bool { return c.engine.Status().Height == 110 }, 20*time.Second, time.Millisecond)
	later := lnd.add(3, jitSCID)
	c.waitEvent(interceptor.EventOffered, later)
	got := read()
	require.EqualValues(t, 1, got["active"])
	require.EqualValues(t, 1, got["connected"])
	require.EqualValues(t, 0, got["degraded"])
	require.EqualValues(t, 3, got["held_htlcs"])
	require.EqualValues(t, 6, got["held_sat"], "2,000 msat each")
	require.EqualValues(t, 2*2*10, got["held_sat_blocks"], "two of them, for ten blocks")
	require.EqualValues(t, row.FailHeight-110, got["min_blocks_left"], "the most urgent one's")
	require.EqualValues(t, 0, got["unrecorded_htlcs"])

	require.NoError(t, c.engine.Decide(t.Context(), append(decide(a, interceptor.ActionFail), decide(b, interceptor.ActionFail)...)))
	lnd.until("answered", func() bool { return !lnd.held[a] && !lnd.held[b] })
	got = read()
	require.EqualValues(t, 1, got["held_htlcs"])
	require.EqualValues(t, 2, got["held_sat"])
	require.EqualValues(t, row.FailHeight+10-110, got["min_blocks_left"])
}

// TestADecisionIsDurableBeforeItIsSent is law 2: with a database that takes
// nothing, no decision reaches lnd.
func TestADecisionIsDurableBeforeItIsSent(t *testing.T) {
	for _, action := range []interceptor.Action{
		interceptor.ActionResume, interceptor.ActionFail, interceptor.ActionRefuseUnknown, interceptor.ActionSettle,
	} {
		t.Run(string(action), func(t *testing.T) {
			faults := new(storetest.Faults)
			cfg := storetest.SQLite(t)
			cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
			lnd := newFakeLnd(t)
			c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
			c.connected()
			key := lnd.add(1, jitSCID)
			c.waitEvent(interceptor.EventOffered, key)
			d := decide(key, action)
			if action == interceptor.ActionSettle {
				d[0].Preimage = preimageOf(1<<10 | key.HtlcID)
			}
			faults.Set(storetest.Full)
			require.ErrorIs(t, c.engine.Decide(t.Context(), d), interceptor.ErrUnavailable)
			plain := lnd.add(1, plainSCID)
			lnd.until("a later forward passes", func() bool { return lnd.htlcs[plain].moved })
			lnd.mu.Lock()
			require.True(t, lnd.held[key])
			lnd.mu.Unlock()
			faults.Set(storetest.Healthy)
			require.NoError(t, c.retry(t.Context(), func() error { return c.engine.Decide(t.Context(), d) }))
			lnd.until("sent", func() bool { return !lnd.held[key] })
		})
	}
}

// TestAnswersGoOutAsTheHtlcsCame: answered in another order than that, 400 HTLCs cost lnd
// twice the commitments.
func TestAnswersGoOutAsTheHtlcsCame(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	var came []ln.CircuitKey
	for range 20 {
		// Each is on record before the next comes.
		key := lnd.add(1, jitSCID)
		c.waitEvent(interceptor.EventOffered, key)
		came = append(came, key)
	}
	var decisions []interceptor.Decision
	for _, key := range came {
		decisions = append(decisions, decide(key, interceptor.ActionResume)...)
	}
	rand.Shuffle(len(decisions), func(i, j int) { decisions[i], decisions[j] = decisions[j], decisions[i] })
	require.NoError(t, c.engine.Decide(t.Context(), decisions))
	lnd.until("all are answered", func() bool { return len(lnd.answered) == len(came) })
	require.Equal(t, came, lnd.answered)
}

func TestBackoffIsQuickAtFirst(t *testing.T) {
	for range 100 {
		require.Zero(t, engine.Backoff(0))
		var sum time.Duration
		for attempt := 1; attempt <= 10; attempt++ {
			d := engine.Backoff(attempt)
			require.LessOrEqual(t, d, 250*time.Millisecond)
			sum += d
		}
		require.Less(t, sum, 2*time.Second)
		require.LessOrEqual(t, engine.Backoff(10_000), 500*time.Millisecond)
	}
}

// TestAStreamThatEndsComesBackAtOnce is law 1: with requireinterceptor lnd
// forwards nothing while no stream is there.
func TestAStreamThatEndsComesBackAtOnce(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	key := lnd.add(1, jitSCID)
	c.waitEvent(interceptor.EventOffered, key)
	for range 5 {
		lnd.mu.Lock()
		lnd.drop(ln.ErrUnavailable)
		lnd.mu.Unlock()
		began := time.Now()
		lnd.until("a stream", func() bool { return lnd.session != nil })
		require.Less(t, time.Since(began), 2*time.Second)
		plain := lnd.add(2, plainSCID)
		lnd.until("forwards pass again", func() bool { return lnd.htlcs[plain].moved })
	}
	require.GreaterOrEqual(t, c.engine.Status().StreamEnds, uint64(5))
	require.NoError(t, c.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
	lnd.until("what was held is decided over the new stream", func() bool { return lnd.htlcs[key].moved })
}
