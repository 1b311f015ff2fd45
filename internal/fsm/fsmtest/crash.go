package fsmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// World is what stays when the process crashes: the other side of the effects,
// and what the test knows. One World lives through one run.
type World[S fsm.State, V fsm.Event, F fsm.Effect] interface {
	// Boot makes an engine, as a process does that starts. Recover is called by
	// the harness.
	Boot(db *store.DB) (*fsm.Engine[S, V, F], error)

	// Act lets one random thing happen from outside. Its error counts only when
	// the process is alive afterwards; then it fails the run.
	Act(ctx context.Context, e *fsm.Engine[S, V, F]) error

	// Check tells which invariant is broken, if any. It is called after every
	// start and at the end, when settled is true: no instance is live then.
	Check(ctx context.Context, db *store.DB, settled bool) error
}

// Teller is a World that does not stand still while a run comes to rest. Where
// an effect or a commit is tried again after a pause, the engine's clock must
// move; and what the world told while an effect was unanswered may be lost.
type Teller[S fsm.State, V fsm.Event, F fsm.Effect] interface {
	// Tell lets some milliseconds pass and repeats what is so. Its error counts
	// only when the process is alive afterwards.
	Tell(ctx context.Context, e *fsm.Engine[S, V, F]) error
}

// Harness runs a machine in a world through crashes.
type Harness[S fsm.State, V fsm.Event, F fsm.Effect] struct {
	// Migrate adds the tables that the world's engine needs beside fsm's.
	Migrate func(ctx context.Context, db *store.DB) error

	// World makes a new world; everything random in it comes from rng. The
	// harness calls Act from one goroutine, effects run in others: so only Boot,
	// Act and World itself may use rng.
	World func(rng *rand.Rand) World[S, V, F]

	// Steps is the number of Acts in a run (0: 8).
	Steps int

	// Runs is the number of random runs on SQLite; a quarter of them on
	// PostgreSQL (0: 40).
	Runs int

	// Settle bounds how long a run may take to come to rest (0: 20 s).
	Settle time.Duration
}

// Run runs the harness on both databases: once with a crash at every commit in
// turn, before and after it became durable, and then many times with several
// crashes at random. A failure names its seed; FSM_SEED runs that one alone.
func (h Harness[S, V, F]) Run(t *testing.T) {
	t.Helper()
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		// A crash makes every goroutine complain: that is no news.
		cfg.Log = zap.NewNop()
		db := storetest.Open(t, cfg)
		ctx := context.Background()
		if err := fsm.Migrate(ctx, db); err != nil {
			t.Fatal(err)
		}
		if h.Migrate != nil {
			if err := h.Migrate(ctx, db); err != nil {
				t.Fatal(err)
			}
		}
		r := runner[S, V, F]{h: h, db: db, faults: &faults}
		if seed, err := strconv.ParseUint(os.Getenv("FSM_SEED"), 10, 64); err == nil {
			r.random(t, seed)
			return
		}
		t.Run("every commit", r.everywhere)
		t.Run("random", func(t *testing.T) {
			runs := h.Runs
			if runs == 0 {
				runs = 40
			}
			if cfg.Engine == store.Postgres {
				runs = max(runs/4, 1)
			}
			first := rand.Uint64()
			t.Logf("seeds %d to %d", first, first+uint64(runs)-1)
			for i := range runs {
				r.random(t, first+uint64(i))
			}
		})
	})
}

type runner[S fsm.State, V fsm.Event, F fsm.Effect] struct {
	h      Harness[S, V, F]
	db     *store.DB
	faults *storetest.Faults
}

// crash is planned for the n-th commit after a start.
type crash struct {
	n     int64
	point storetest.Point
}

// everywhere moves one crash along a run until it falls off its end.
func (r runner[S, V, F]) everywhere(t *testing.T) {
	seed := rand.Uint64()
	for n := int64(1); ; n++ {
		crashed := false
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			c := crash{n, point}
			hit, err := r.run(seed, func(*rand.Rand) (crash, bool) { return c, true }, 1)
			if err != nil {
				t.Fatalf("seed %d, crash %s commit %d: %v", seed, point, n, err)
			}
			crashed = crashed || hit > 0
		}
		if !crashed {
			t.Logf("crashed at each of %d commits", n-1)
			return
		}
	}
}

func (r runner[S, V, F]) random(t *testing.T, seed uint64) {
	t.Helper()
	plan := func(rng *rand.Rand) (crash, bool) {
		return crash{1 + rng.Int64N(12), storetest.Point(rng.IntN(2))}, rng.IntN(4) > 0
	}
	if _, err := r.run(seed, plan, 8); err != nil {
		t.Fatalf("seed %d (FSM_SEED=%[1]d runs it alone): %v", seed, err)
	}
}

// run plays one life of a world. plan gives the next crash after each start, up
// to most of them.
func (r runner[S, V, F]) run(seed uint64, plan func(*rand.Rand) (crash, bool), most int) (crashes int, err error) {
	settle := r.h.Settle
	if settle == 0 {
		settle = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*settle)
	defer cancel()
	r.faults.Restart()
	if err := storetest.Empty(ctx, r.db); err != nil {
		return 0, err
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	world := r.h.World(rng)
	var e *fsm.Engine[S, V, F]
	defer func() {
		if e != nil {
			e.Close()
		}
	}()
	planned := 0
	boot := func() error {
		for {
			if e != nil {
				e.Close()
			}
			r.faults.Restart()
			var err error
			if e, err = world.Boot(r.db); err != nil {
				return fmt.Errorf("boot: %w", err)
			}
			if err := world.Check(ctx, r.db, false); err != nil {
				return fmt.Errorf("after %d crashes: %w", crashes, err)
			}
			if c, ok := plan(rng); ok && planned < most {
				planned++
				r.faults.CrashAt(c.n, c.point)
			}
			if _, err = e.Recover(ctx); err == nil && !r.faults.Crashed() {
				return nil
			}
			if !r.faults.Crashed() {
				return fmt.Errorf("recover: %w", err)
			}
			crashes++
		}
	}
	if err := boot(); err != nil {
		return crashes, err
	}
	steps := r.h.Steps
	if steps == 0 {
		steps = 8
	}
	for range steps {
		err := world.Act(ctx, e)
		if r.faults.Crashed() {
			crashes++
			if err := boot(); err != nil {
				return crashes, err
			}
			continue
		}
		if err != nil {
			return crashes, fmt.Errorf("act: %w", err)
		}
	}
	for {
		quiet, err := r.quiet(ctx, world, e, settle)
		if r.faults.Crashed() {
			crashes++
			if err := boot(); err != nil {
				return crashes, err
			}
			continue
		}
		if err != nil {
			return crashes, err
		}
		if quiet {
			break
		}
	}
	e.Close()
	e = nil
	r.faults.Restart()
	if err := world.Check(ctx, r.db, true); err != nil {
		return crashes, fmt.Errorf("at the end, after %d crashes: %w", crashes, err)
	}
	return crashes, nil
}

// looksPerTell leaves effects time to be answered between two rounds of facts.
const looksPerTell = 8

// quiet waits until nothing is live and no effect is pending, or the process has
// crashed.
func (r runner[S, V, F]) quiet(ctx context.Context, w World[S, V, F], e *fsm.Engine[S, V, F], within time.Duration) (bool, error) {
	deadline := time.Now().Add(within)
	teller, tells := w.(Teller[S, V, F])
	for looks := 1; !r.faults.Crashed(); looks++ {
		live, err := e.List(ctx, fsm.Filter{Live: true})
		if err != nil {
			return false, err
		}
		if len(live) == 0 {
			pending, err := e.Pending(ctx)
			if err != nil || len(pending) == 0 {
				return err == nil, err
			}
		}
		if time.Now().After(deadline) {
			return false, errors.New("the run does not come to rest: " + describe(live))
		}
		if tells && looks%looksPerTell == 0 {
			if err := teller.Tell(ctx, e); err != nil && !r.faults.Crashed() {
				return false, fmt.Errorf("tell: %w", err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	return false, nil
}

func describe[S fsm.State](live []fsm.Instance[S]) string {
	text := fmt.Sprintf("%d live", len(live))
	for _, inst := range live {
		text += fmt.Sprintf("; %s is %s %+v", inst.ID, inst.State.StateName(), inst.State)
	}
	return text
}
