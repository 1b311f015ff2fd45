package app

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// drawnSeed is SLUICE_SEED, which may be "fresh", as it is in make test-full: what a sample
// leaves out today it takes another day. By default it is the same every time, so that a
// change is judged by what it changes. It is printed where a test fails.
func drawnSeed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(20261127)
	switch text := os.Getenv("SLUICE_SEED"); text {
	case "":
	case "fresh":
		s = uint64(time.Now().UnixNano()) //nolint:gosec // a seed
	default:
		var err error
		s, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SLUICE_SEED")
	}
	t.Logf("SLUICE_SEED=%d", s)
	return s
}

// TestRandomDays mixes everything that can go wrong.
func TestRandomDays(t *testing.T) {
	base := drawnSeed(t)
	for i := range runs(120) {
		s := base + uint64(i)
		t.Run(fmt.Sprintf("seed-%d", s), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(t *testing.T) { randomDay(t, s, false) })
		})
	}
}

func randomDay(t *testing.T, seed uint64, postgres bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	kinds := jobs()
	c := rigConfig{seed: seed, job: kinds[rng.IntN(len(kinds))], postgres: postgres}
	if rng.IntN(4) > 0 {
		c.latency = lndfake.Observed()
	}
	c.forgets = seed%3 == 0
	r := newRig(t, c)
	r.openBooks()
	defer func() {
		if t.Failed() {
			t.Logf("%s; again: SLUICE_SEED=%d SLUICE_RUNS=1 SLUICE_TRACE=1 go test -run %s", c.job.name, seed, t.Name())
		}
	}()
	trouble := r.trouble(rng)
	a := r.agree()
	began := time.Now()
	paid := r.pay(a.bolt11)
	m := r.outcome(paid)
	took := time.Since(began)
	if testing.Verbose() {
		t.Logf("%s: %s after %s", c.job.name, m.Status, took)
	}
	trouble()
	r.settle()
	r.calm()
	r.check(a, m)
	if !r.realTime {
		within := r.randomWithin(a.id)
		require.LessOrEqual(t, took, within, "the payer waited too long\n%s", r.stories())
	}
}

// randomWithin is by when the payer has its result on a random day: its node may begin
// a last attempt when its time is nearly over, whose parts are held as long as they may
// be and then come to a wallet that waits for their siblings. And lnd may lose what it
// pays the wallet.
func (r *rig) randomWithin(id string) time.Duration {
	d := day{r: r, a: agreement{id: id}}
	if d.saw("payment_missing") {
		return payerTries + r.attempt() + r.lost()
	}
	return payerTries + r.attempt() + walletMPP + afterNode
}

// trouble begins a series of random faults; the function that it returns waits
// for their end.
func (r *rig) trouble(rng *rand.Rand) (wait func()) {
	var done sync.WaitGroup
	strikes := 1 + rng.IntN(5)
	lossy := rng.IntN(4) == 0
	if lossy {
		var mu sync.Mutex
		left := 1 + rng.IntN(6)
		r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if c.Node != r.gateway.Name() || left == 0 || rng.IntN(25) > 0 {
				return lndfake.Pass
			}
			left--
			r.log.Info("--- lost " + c.Method)
			return lndfake.Lose
		})
	}
	// Drawn ahead, so that the order of goroutines doesn't change the day.
	own := rand.New(rand.NewPCG(rng.Uint64(), 3))
	done.Go(func() {
		for range strikes {
			r.pause(time.Duration(own.IntN(1200)) * time.Millisecond / time.Duration(1+9*own.IntN(2)))
			r.strike(own)
		}
	})
	return done.Wait
}

func (r *rig) strike(rng *rand.Rand) {
	spell := time.Duration(rng.IntN(3000)) * time.Millisecond
	if r.step < 100*time.Millisecond {
		spell /= 10
	}
	kind := rng.IntN(12)
	r.log.Info(fmt.Sprintf("--- strike %d for %s", kind, spell))
	switch kind {
	case 0:
		r.w.Flap(r.payer, r.gateway)
	case 1:
		r.w.Flap(r.gateway, r.wallet)
	case 2:
		r.w.Disconnect(r.gateway, r.wallet)
		r.pause(spell * 10)
		r.w.Connect(r.gateway, r.wallet)
	case 3:
		r.wallet.Kill()
		r.pause(spell)
		_ = r.wallet.Start()
	case 4:
		r.gateway.Kill()
		r.pause(spell)
		_ = r.gateway.Start()
	case 5:
		r.killProcess()
	case 6, 7:
		r.crashAt(int64(1+rng.IntN(25)), storetest.Point(rng.IntN(2)))
	case 8:
		r.faults.LoseAnswer(int64(1 + rng.IntN(10)))
	case 9:
		r.faults.Set(storetest.Fault(1 + rng.IntN(3)))
		r.pause(spell)
		r.faults.Set(storetest.Healthy)
	case 10:
		r.w.Mine(1 + rng.IntN(3))
	case 11:
		r.killProcess()
		r.gateway.Kill()
		r.pause(spell / 4)
		_ = r.gateway.Start()
	}
}
