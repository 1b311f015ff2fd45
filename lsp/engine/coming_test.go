package engine

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// comer opens channels with the wallet of a node; the peers agree to all, when told to.
type comer struct {
	*Engine
	// agree lets a negotiation go on.
	agree chan struct{}
	// release lets the coins of an open that failed go, where it is set.
	release chan struct{}
	// hasty lets the time for which change is awaited pass with each look at the clock.
	hasty atomic.Bool
	looks atomic.Int64
}

func (c *comer) now() time.Time {
	if !c.hasty.Load() {
		return time.Now()
	}
	return time.Now().Add(time.Duration(c.looks.Add(1)) * changeWithin)
}

func newComer(t *testing.T, client *lnd.Client, depth int) *comer {
	t.Helper()
	cfg := Config{Network: "regtest", MaxUnconfirmed: depth}
	c := &comer{agree: make(chan struct{}, 100), release: make(chan struct{}, 100)}
	c.Engine = &Engine{
		cfg: cfg, opt: Options{Now: c.now}, node: Node{Coins: client, Channels: client, Chain: client}, log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
		payable: map[string]watchedOrder{}, loads: newLoads(), coming: newComings(), liveOpenings: map[string]bool{}, byOutpoint: map[ln.Outpoint]string{},
		unfunded: map[ln.Outpoint]bool{}, watched: map[string]opening.WatchChain{},
	}
	c.world = newWorld(nil, nil, zap.NewNop())
	db := storetest.Open(t, storetest.SQLite(t))
	require.NoError(t, fsm.Migrate(t.Context(), db))
	var err error
	c.openings, err = fsm.New(opening.Machine(), fsm.Options[opening.State, opening.Event, opening.Effect]{
		Context: t.Context(), DB: db, Log: c.log, Execute: c.execute, Concurrent: concurrentOpening,
		Follow: followed[opening.State, opening.Event](c.openingMoved),
	})
	require.NoError(t, err)
	t.Cleanup(c.openings.Close)
	_, err = c.openings.Recover(t.Context())
	require.NoError(t, err)
	return c
}

func (c *comer) execute(ctx context.Context, task fsm.Task[opening.Effect]) ([]opening.Event, error) {
	switch f := task.Effect.(type) {
	case opening.Negotiate:
		select {
		case <-c.agree:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		script := append([]byte{0, 32}, bytes.Repeat([]byte{f.PendingID[0]}, 32)...)
		built, err := funding.Build(f.Selection, script, f.ChangeScript)
		if err != nil {
			return nil, err
		}
		return []opening.Event{opening.FundingBuilt{Moment: c.moment(), PendingID: f.PendingID, Unsigned: opening.Unsigned{
			Psbt: built.Psbt, Outpoint: built.FundingOutpoint(), ChangeOutpoint: built.ChangeOutpoint(),
		}}}, nil
	case opening.Verify:
		return []opening.Event{opening.FundingPending{Moment: c.moment(), Outpoint: f.Outpoint}}, nil
	case opening.Sign:
		ev, err := c.signFunding(ctx, f.Psbt, f.Outpoint)
		return []opening.Event{ev}, err
	case opening.ReleaseCoins:
		select {
		case <-c.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return c.executeOpening(ctx, task)
	case opening.LeaseCoins, opening.Publish:
		return c.executeOpening(ctx, task)
	}
	return nil, nil
}

func (c *comer) begin(t *testing.T, i byte, withhold bool) string {
	t.Helper()
	p := opening.Plan{
		ID: fmt.Sprintf("open-%02d", i), Client: ln.PubKey{2, i}, CapacitySat: 900_000, Type: ln.CommitmentAnchors, FeeRate: 500, ZeroConf: true,
		Seed: [32]byte{1, i}, Deadline: time.Now().Add(time.Hour), MaxNegotiations: 1, Withhold: withhold,
	}
	_, err := c.openings.Create(t.Context(), p.ID, opening.Planned{Plan: p}, opening.Start{Moment: c.moment()})
	require.NoError(t, err)
	return p.ID
}

func (c *comer) until(t *testing.T, id string, want ...opening.State) opening.State {
	t.Helper()
	var s opening.State
	require.Eventually(t, func() bool {
		inst, err := c.openings.Get(t.Context(), id)
		s = inst.State
		for _, w := range want {
			if err == nil && s.StateName() == w.StateName() {
				return true
			}
		}
		return false
	}, time.Minute, 5*time.Millisecond, "%s comes to one of %v", id, want)
	return s
}

// TestOneCoinForSeveralAtOnce: where one coin is all there is, opens that come together take
// it one after the other, each the change of the one before, as far as they may be chained;
// who is beyond that is refused at once. Meanwhile a quote counts on what comes back.
func TestOneCoinForSeveralAtOnce(t *testing.T) {
	w, _, client := oneCoin(t)
	c := newComer(t, client, 3)
	first := c.begin(t, 0, false)
	c.until(t, first, opening.Leased{})
	can, err := c.fundable(t.Context())
	require.NoError(t, err)
	require.Greater(t, can.Sat, ln.Sat(59_000_000), "the coin is leased, and most of it comes back")

	var ids []string
	for i := byte(1); i < 5; i++ {
		ids = append(ids, c.begin(t, i, false))
	}
	require.Eventually(t, func() bool {
		can, err := c.fundable(t.Context())
		return err == nil && can.Sat > 55_000_000 && can.Sat < 56_000_000
	}, time.Minute, 5*time.Millisecond, "less what those who wait will take")
	for range 5 {
		c.agree <- struct{}{}
	}
	var begun sync.WaitGroup
	states := make([]opening.State, len(ids))
	for i, id := range ids {
		begun.Go(func() { states[i] = c.until(t, id, opening.Published{}, opening.Failed{}) })
	}
	begun.Wait()
	published := 0
	for _, s := range states {
		if s.StateName() == (opening.Published{}).StateName() {
			published++
		}
	}
	require.Equal(t, 3, published, "three may be built on the first, and one is refused")
	require.Len(t, w.Mempool(), 4)
	require.NoError(t, w.Err())
}

// TestNobodyWaitsForWhatIsKept: the change of a funding that is withheld may be long in
// coming, and one that nobody publishes is waited for as long as a payer's patience allows.
func TestNobodyWaitsForWhatIsKept(t *testing.T) {
	w, _, client := oneCoin(t)
	c := newComer(t, client, 3)
	withheld := c.begin(t, 0, true)
	c.until(t, withheld, opening.Leased{})
	c.until(t, c.begin(t, 1, false), opening.Failed{})
	c.release <- struct{}{} // of the one that was refused
	_, err := c.openings.Send(t.Context(), withheld, opening.Abandon{Moment: c.moment()})
	require.NoError(t, err)
	c.release <- struct{}{}

	require.Eventually(t, func() bool {
		leases, err := client.ListLeases(t.Context())
		return err == nil && len(leases) == 0
	}, time.Minute, 5*time.Millisecond, "its coin is free again")
	stuck := c.begin(t, 2, false)
	c.until(t, stuck, opening.Leased{})
	c.hasty.Store(true)
	c.until(t, c.begin(t, 3, false), opening.Failed{})
	require.Empty(t, w.Mempool())
	require.NoError(t, w.Err())
}

// TestCoinsOfAFailedOpenAreWaitedFor: an open that is over has its coins leased until lnd has
// been told, and who needs them waits for that, too.
func TestCoinsOfAFailedOpenAreWaitedFor(t *testing.T) {
	w, _, client := oneCoin(t)
	c := newComer(t, client, 3)
	first := c.begin(t, 0, false)
	c.until(t, first, opening.Leased{})
	_, err := c.openings.Send(t.Context(), first, opening.Abandon{Moment: c.moment()})
	require.NoError(t, err)
	c.until(t, first, opening.Failed{})
	second := c.begin(t, 1, false)
	require.Eventually(t, func() bool {
		_, waiting := c.awaited()
		return waiting == 1
	}, time.Minute, 5*time.Millisecond)
	c.release <- struct{}{}
	for range 2 { // the first is asked for, too
		c.agree <- struct{}{}
	}
	c.until(t, second, opening.Published{})
	coming, _ := c.comingNow()
	require.Empty(t, coming)
	require.Len(t, w.Mempool(), 1)
	require.NoError(t, w.Err())
}

// TestComingIsNotCountedOnForEver: an open that stands still is nobody's coin.
func TestComingIsNotCountedOnForEver(t *testing.T) {
	_, _, client := oneCoin(t)
	c := newComer(t, client, 3)
	c.until(t, c.begin(t, 0, false), opening.Leased{})
	coming, _ := c.comingNow()
	require.Len(t, coming, 1)
	c.hasty.Store(true)
	c.looks.Store(int64(changeGoodFor / changeWithin))
	coming, _ = c.comingNow()
	require.Empty(t, coming)
}
