package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/engine"
	icstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

const (
	jitSCID   = ln.SCID(16_100_000 << 40)
	plainSCID = ln.SCID(700 << 40)
	leaseName = "interceptor/test"
)

// car is one process: an engine, and a handler that keeps what it is told.
type car struct {
	t      *testing.T
	lnd    *fakeLnd
	engine *engine.Engine
	stop   func()

	mu     sync.Mutex
	events []interceptor.Event
	came   chan struct{}
	// onOffered decides at once when set.
	onOffered func(interceptor.Row)
}

type carOption func(*engine.Config)

// runEngine is a process without handlers.
func runEngine(t *testing.T, lnd *fakeLnd, db *store.DB, owner string, opts ...carOption) (eng *engine.Engine, stop func()) {
	t.Helper()
	require.NoError(t, icstore.Migrate(context.Background(), db))
	ledger := icstore.New(db, leaseName)
	cfg := engine.Config{
		Open: lnd.Open, Rows: ledger, Handlers: ledger, Node: lnd, Outcomes: lnd,
		Acquire: func(ctx context.Context) (engine.Lease, error) {
			l, err := ledger.Acquire(ctx, store.LeaseConfig{Owner: owner, TTL: 6 * time.Second})
			if err != nil {
				return nil, err
			}
			return l, nil
		},
		KeepForwarding: true, PollEvery: 50 * time.Millisecond, PollSoon: 10 * time.Millisecond, LeaveWithin: 30 * time.Millisecond,
		Log: zap.NewNop(),
	}
	for _, o := range opts {
		o(&cfg)
	}
	eng, err := engine.New(cfg)
	require.NoError(t, err)
	return eng, goUntilStopped(t, func(ctx context.Context) { _ = eng.Run(ctx) })
}

// goUntilStopped runs f until stop, or the end of the test, has waited for it.
func goUntilStopped(t *testing.T, f func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func startCar(t *testing.T, lnd *fakeLnd, db *store.DB, owner string, onOffered func(*car, interceptor.Row), opts ...carOption) *car {
	t.Helper()
	eng, stop := runEngine(t, lnd, db, owner, opts...)
	c := &car{t: t, lnd: lnd, engine: eng, came: make(chan struct{}, 1)}
	if onOffered != nil {
		c.onOffered = func(r interceptor.Row) { onOffered(c, r) }
	}
	hangUp := goUntilStopped(t, c.handle)
	c.stop = func() {
		stop()
		hangUp()
	}
	return c
}

// handle is the handler's process: it registers and attaches until it works.
func (c *car) handle(ctx context.Context) {
	for ctx.Err() == nil {
		if c.engine.WaitActive(ctx) != nil {
			return
		}
		err := c.engine.Register(ctx, interceptor.HandlerConfig{Name: "jit", OnAbsent: interceptor.AbsentHold})
		if err == nil && !c.claimed() {
			err = c.engine.ClaimRoutes(ctx, "jit", []interceptor.Route{{SCID: jitSCID, Guarded: true}})
		}
		if err == nil {
			// It ends when the engine or the context does; then again.
			_ = c.engine.Attach(ctx, "jit", func(ev interceptor.Event) {
				if ev.Kind == interceptor.EventOffered && c.onOffered != nil {
					c.onOffered(ev.Row)
				}
				if ev.Kind == interceptor.EventGone && ev.Row.Outcome != "" {
					_ = c.engine.Acknowledge(ctx, []ln.CircuitKey{ev.Row.Key})
				}
				c.mu.Lock()
				c.events = append(c.events, ev)
				c.mu.Unlock()
				select {
				case c.came <- struct{}{}:
				default:
				}
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
}

// claimed: a route is claimed once, before anybody knows it.
func (c *car) claimed() bool {
	for _, h := range c.engine.Status().Handlers {
		if h.Name == "jit" && h.Routes > 0 {
			return true
		}
	}
	return false
}

func (c *car) waitEvent(kind interceptor.EventKind, key ln.CircuitKey) interceptor.Event {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		for _, ev := range c.events {
			if ev.Kind == kind && ev.Row.Key == key {
				c.mu.Unlock()
				return ev
			}
		}
		c.mu.Unlock()
		select {
		case <-c.came:
		case <-deadline:
			c.t.Fatalf("no %s for %s; status %+v", kind, key, c.engine.Status())
		}
	}
}

func (c *car) synced() { c.waitEvent(interceptor.EventSynced, ln.CircuitKey{}) }

func (c *car) connected() {
	c.synced()
	c.lnd.until("a stream with its baseline", func() bool { return c.lnd.session != nil })
}

func decide(key ln.CircuitKey, action interceptor.Action) []interceptor.Decision {
	return []interceptor.Decision{{Key: key, Action: action, Reason: "test"}}
}

// retry repeats an idempotent call while its outcome is unknown.
func (c *car) retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, interceptor.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHeldHtlcIsDecidedAndItsOutcomeTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		lnd := newFakeLnd(t)
		c := startCar(t, lnd, open(), "a", nil)
		c.connected()
		ctx := t.Context()

		plain := lnd.add(1, plainSCID)
		lnd.until("the ordinary forward is resumed", func() bool { return lnd.htlcs[plain].moved })
		a, b := lnd.add(1, jitSCID), lnd.add(2, jitSCID)
		offered := c.waitEvent(interceptor.EventOffered, a)
		require.Equal(t, int32(138), offered.BlocksLeft)
		c.waitEvent(interceptor.EventOffered, b)
		require.Equal(t, 2, c.engine.Status().HeldHtlcs)

		// All or none.
		err := c.engine.Decide(ctx, append(decide(a, interceptor.ActionResume), decide(ln.CircuitKey{ChanID: 9}, interceptor.ActionResume)...))
		require.ErrorIs(t, err, interceptor.ErrUnknownRow)
		require.Equal(t, 2, c.engine.Status().HeldHtlcs)

		require.NoError(t, c.engine.Decide(ctx, append(decide(a, interceptor.ActionResume), decide(b, interceptor.ActionFail)...)))
		require.NoError(t, c.engine.Decide(ctx, decide(a, interceptor.ActionResume)), "the same again is a no-op")
		require.ErrorIs(t, c.engine.Decide(ctx, decide(a, interceptor.ActionFail)), interceptor.ErrDecided)
		lnd.until("both are answered", func() bool { return lnd.htlcs[a].moved && !lnd.htlcs[b].pending })
		require.True(t, lnd.resolve(a, true))
		require.Equal(t, interceptor.OutcomeFailed, c.waitEvent(interceptor.EventGone, b).Row.Outcome)
		require.Equal(t, interceptor.OutcomeSettled, c.waitEvent(interceptor.EventGone, a).Row.Outcome)
		rows, err := c.engine.Rows(ctx, interceptor.RowFilter{Handler: "jit"})
		require.NoError(t, err)
		require.Len(t, rows, 2)
		require.Equal(t, interceptor.StateResumed, rows[0].State)
	})
}

// Every forward makes lnd send several events, so the gateway's ordinary ones
// must not be listened to.
func TestEventsAreHeardOnlyWhileSomethingIsOnRecord(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	plain := lnd.add(1, plainSCID)
	lnd.until("the ordinary forward is resumed", func() bool { return lnd.htlcs[plain].moved })
	lnd.mu.Lock()
	require.Zero(t, lnd.nextSub, "nobody listens")
	lnd.mu.Unlock()

	held := lnd.add(1, jitSCID)
	lnd.until("held HTLCs are listened for", func() bool { return len(lnd.events) == 1 })
	require.NoError(t, c.engine.Decide(t.Context(), decide(c.waitEvent(interceptor.EventOffered, held).Row.Key, interceptor.ActionResume)))
	lnd.until("it is resumed", func() bool { return lnd.htlcs[held].moved })
	require.True(t, lnd.resolve(held, true))
	require.Equal(t, interceptor.OutcomeSettled, c.waitEvent(interceptor.EventGone, held).Row.Outcome)
	lnd.until("nobody listens any more", func() bool { return len(lnd.events) == 0 })

	again := lnd.add(1, jitSCID)
	lnd.until("the next one is listened for", func() bool { return len(lnd.events) == 1 })
	c.waitEvent(interceptor.EventOffered, again)
}

func TestWithoutDatabaseOnlyWhatIsSafeIsAnswered(t *testing.T) {
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil)
	c.connected()
	decided := lnd.add(2, jitSCID)
	c.waitEvent(interceptor.EventOffered, decided)
	require.NoError(t, c.engine.Decide(t.Context(), decide(decided, interceptor.ActionResume)))
	lnd.until("resumed", func() bool { return lnd.htlcs[decided].moved })

	faults.Set(storetest.Gone)
	plain, held := lnd.add(1, plainSCID), lnd.add(1, jitSCID)
	lnd.until("the ordinary forward passes", func() bool { return lnd.htlcs[plain].moved })
	lnd.flap(2, func() bool { return true })
	lnd.resolve(decided, true)
	lnd.until("what is in flight is left until it ended", func() bool { return !lnd.held[decided] })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.engine.Decide(ctx, decide(held, interceptor.ActionResume)), interceptor.ErrUnavailable)

	// Longer than the lease lives.
	time.Sleep(2200 * time.Millisecond)
	require.True(t, c.engine.Status().Degraded)
	again := lnd.add(1, plainSCID)
	lnd.until("forwards pass without a lease", func() bool { return lnd.htlcs[again].moved })
	lnd.mu.Lock()
	require.True(t, lnd.held[held], "what a handler may want is left held")
	lnd.mu.Unlock()

	faults.Set(storetest.Healthy)
	c.waitEvent(interceptor.EventOffered, held)
	require.NoError(t, c.retry(t.Context(), func() error { return c.engine.Decide(t.Context(), decide(held, interceptor.ActionFail)) }))
	lnd.until("failed", func() bool { return !lnd.htlcs[held].pending })
}

func TestDeadlineFailsWhatNobodyDecides(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil)
	c.connected()
	key := lnd.add(1, jitSCID)
	row := c.waitEvent(interceptor.EventOffered, key).Row
	lnd.mineTo(row.FailHeight - 12)
	require.Equal(t, int32(12), c.waitEvent(interceptor.EventNearDeadline, key).BlocksLeft)
	lnd.mineTo(row.FailHeight)
	lnd.until("failed", func() bool { return !lnd.htlcs[key].pending })
	require.Equal(t, interceptor.StateFailed, c.waitEvent(interceptor.EventDecided, key).Row.State)
	require.Less(t, row.FailHeight, row.AutoFailHeight)
	late := lnd.add(1, jitSCID)
	c.waitEvent(interceptor.EventOffered, late)
}

func TestLimitsRefuseWithAReason(t *testing.T) {
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, storetest.SQLite(t)), "a", nil,
		func(cfg *engine.Config) { cfg.MaxHeldPerChannel = 2 })
	c.connected()
	for range 2 {
		c.waitEvent(interceptor.EventOffered, lnd.add(1, jitSCID))
	}
	over := lnd.add(1, jitSCID)
	lnd.until("failed", func() bool { return !lnd.htlcs[over].pending })
	require.Contains(t, c.waitEvent(interceptor.EventDecided, over).Row.Reason, "limit reached")
	c.waitEvent(interceptor.EventOffered, lnd.add(2, jitSCID))
	require.Equal(t, 3, c.engine.Status().HeldHtlcs)
}

// TestPartsAreRefusedTogether: what comes while another HTLC of its payment is being
// refused goes back with it. Afterwards it may be the payer's next attempt.
func TestPartsAreRefusedTogether(t *testing.T) {
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Hooks, cfg.RetryFor = faults.Hooks(), time.Millisecond
	lnd := newFakeLnd(t)
	c := startCar(t, lnd, storetest.Open(t, cfg), "a", nil, func(cfg *engine.Config) { cfg.MaxHeldPerChannel = 1 })
	c.connected()
	c.waitEvent(interceptor.EventOffered, lnd.add(1, jitSCID))
	hash := ln.Hash{7}
	faults.Set(storetest.Gone)
	refused := lnd.addPart(1, jitSCID, hash)
	require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 1 }, 20*time.Second, time.Millisecond)
	sibling, other := lnd.addPart(2, jitSCID, hash), lnd.add(3, jitSCID)
	require.Eventually(t, func() bool { return c.engine.Status().Unrecorded == 3 }, 20*time.Second, time.Millisecond)
	faults.Set(storetest.Healthy)
	c.waitEvent(interceptor.EventOffered, other)
	lnd.until("both are failed", func() bool { return !lnd.htlcs[refused].pending && !lnd.htlcs[sibling].pending })
	require.Contains(t, c.waitEvent(interceptor.EventDecided, sibling).Row.Reason, "another part of its payment")
	c.waitEvent(interceptor.EventOffered, lnd.addPart(2, jitSCID, hash))
	require.Equal(t, 3, c.engine.Status().HeldHtlcs)
}

func TestStandbyTakesOverWithinSeconds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		lnd := newFakeLnd(t)
		first := startCar(t, lnd, open(), "a", nil, func(c *engine.Config) { c.KeepForwarding = false })
		first.connected()
		key := lnd.add(1, jitSCID)
		first.waitEvent(interceptor.EventOffered, key)
		second := startCar(t, lnd, open(), "b", nil, func(c *engine.Config) { c.KeepForwarding = false })
		require.ErrorIs(t, second.engine.Decide(t.Context(), decide(key, interceptor.ActionFail)), interceptor.ErrUnavailable)
		first.stop()
		lnd.mu.Lock()
		require.True(t, lnd.htlcs[key].pending, "a shutdown fails nothing")
		lnd.mu.Unlock()
		second.waitEvent(interceptor.EventOffered, key)
		require.NoError(t, second.engine.Decide(t.Context(), decide(key, interceptor.ActionResume)))
		lnd.until("resumed by the second", func() bool { return lnd.htlcs[key].moved })
	})
}

// TestCrashAtEveryCommit crashes the process before and after each commit of a
// small story, and lets its successor finish it.
func TestCrashAtEveryCommit(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		for n := int64(1); n <= 10; n++ {
			for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
				crashStory(t, cfg, n, point)
			}
		}
	})
}

func crashStory(t *testing.T, cfg store.Config, n int64, point storetest.Point) {
	t.Helper()
	faults := new(storetest.Faults)
	cfg.RetryFor, cfg.Hooks = time.Millisecond, nil
	clean := storetest.Open(t, cfg)
	require.NoError(t, icstore.Migrate(t.Context(), clean))
	require.NoError(t, storetest.Empty(t.Context(), clean))
	lnd := newFakeLnd(t)
	onOffered := func(c *car, r interceptor.Row) {
		action := interceptor.ActionResume
		if r.Key.ChanID == 2 {
			action = interceptor.ActionFail
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			err := c.engine.Decide(ctx, decide(r.Key, action))
			if err != nil && !errors.Is(err, interceptor.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("crash at %d %s: decide: %v", n, point, err)
			}
		}()
	}
	hooked := cfg
	hooked.Hooks = faults.Hooks()
	c := startCar(t, lnd, storetest.Open(t, hooked), "a", onOffered)
	c.connected()
	crashed := faults.CrashAt(n, point)
	a, b := lnd.add(1, jitSCID), lnd.add(2, jitSCID)
	select {
	case <-crashed:
	case <-time.After(300 * time.Millisecond):
	}
	c.stop()
	lnd.flap(1, func() bool { return true })
	c = startCar(t, lnd, clean, "a", onOffered)
	lnd.until("both answered", func() bool {
		return (!lnd.held[a] || lnd.htlcs[a].moved) && (!lnd.held[b] || lnd.htlcs[b].moved)
	})
	lnd.resolve(a, true)
	rows, err := c.engine.Rows(t.Context(), interceptor.RowFilter{})
	require.NoError(t, err)
	c.stop()
	lnd.mu.Lock()
	defer lnd.mu.Unlock()
	for _, r := range rows {
		if r.Key == b {
			require.False(t, lnd.htlcs[b].moved, "crash at %d %s: recorded, so never resumed", n, point)
			require.Equal(t, interceptor.StateFailed, r.State)
		}
	}
}

// TestChaos runs flaps, lnd restarts, process kills, database failures and
// phantoms under load; the fake reports each loss.
func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	faults := new(storetest.Faults)
	cfg := storetest.SQLite(t)
	cfg.Log = nil
	cfg.RetryFor, cfg.Hooks = 10*time.Millisecond, faults.Hooks()
	db := storetest.Open(t, cfg)
	lnd := newFakeLnd(t)
	var lags atomic.Uint64
	lnd.lag = func() int { return int(lags.Add(1) % 4) } //nolint:gosec // below 4
	var actions atomic.Uint64
	onOffered := func(c *car, r interceptor.Row) {
		action := []interceptor.Action{
			interceptor.ActionResume, interceptor.ActionFail, interceptor.ActionRefuseUnknown,
		}[actions.Add(1)%3]
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = c.engine.Decide(ctx, decide(r.Key, action))
		}()
	}
	c := startCar(t, lnd, db, "a", onOffered)
	c.connected() // a route is claimed before anybody is told its id
	phantom := func() bool { return rng.IntN(2) == 0 }
	for range 1500 {
		ch := ln.SCID(1 + rng.IntN(3))
		switch rng.IntN(40) {
		case 0:
			lnd.restart(phantom)
		case 1, 2, 3:
			lnd.flap(ch, phantom)
		case 4:
			c.stop()
			c = startCar(t, lnd, db, "a", onOffered)
		case 5:
			faults.Set(storetest.Gone)
		case 6:
			faults.Set(storetest.Full)
		case 7, 8, 9:
			faults.Set(storetest.Healthy)
		case 10, 11, 12, 13, 14:
			lnd.mu.Lock()
			var moved []ln.CircuitKey
			for _, key := range lnd.order {
				if h := lnd.htlcs[key]; h.moved && h.pending {
					moved = append(moved, key)
				}
			}
			lnd.mu.Unlock()
			for _, key := range moved {
				lnd.resolve(key, rng.IntN(2) == 0)
			}
		case 15, 16, 17, 18:
			time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
		default:
			scid := plainSCID
			if rng.IntN(3) == 0 {
				scid = jitSCID
			}
			lnd.add(ch, scid)
		}
	}
	faults.Set(storetest.Healthy)
	c.stop()
	c = startCar(t, lnd, db, "a", onOffered)
	lnd.until("everything is answered", func() bool {
		for key := range lnd.held {
			if !lnd.htlcs[key].moved {
				return false
			}
		}
		return true
	})
	lnd.mu.Lock()
	all := slices.Clone(lnd.order)
	lnd.mu.Unlock()
	require.Eventually(t, func() bool {
		for _, key := range all {
			lnd.resolve(key, true)
		}
		rows, err := c.engine.Rows(t.Context(), interceptor.RowFilter{OpenOnly: true})
		return err == nil && len(rows) == 0
	}, 20*time.Second, 10*time.Millisecond, "rows stay open")
	lnd.mu.Lock()
	defer lnd.mu.Unlock()
	t.Logf("%d HTLCs, %d listings, status %+v", len(lnd.order), lnd.listings, c.engine.Status())
}
