package lookout_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/lookout"
	"github.com/sluice-lsp/sluice/watchtower/towertest"
)

// TestWeeksBehind: the tower was away for three weeks of blocks. It searches every
// one of them, in order, and punishes what it finds.
func TestWeeksBehind(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		const blocks, every = 3 * 7 * 144, 300
		var all []*towertest.Breach
		for n := range uint64(blocks / every) {
			all = append(all, p.breach(n))
		}
		p.start()
		p.synced()
		require.NoError(t, p.stop())
		before := p.chain.Height()
		for n := range blocks {
			if n%every == every/2 {
				p.chain.Mine(all[n/every].Commit)
			} else {
				p.chain.Mine()
			}
		}
		began := time.Now()
		p.start()
		p.synced()
		require.NoError(t, p.chain.WaitPool(p.ctx, len(all)))
		t.Logf("%d blocks in %s", blocks, time.Since(began).Round(time.Millisecond))
		list := p.list()
		require.Len(t, list, len(all))
		at := map[string]int32{}
		for _, b := range list {
			at[b.CommitTx.String()] = b.SeenAt.Height
		}
		for n, b := range all {
			require.Equal(t, before+int32(n*every+every/2)+1, at[b.Commit.TxHash().String()])
		}
		// Every block was searched: those that are kept have no gap.
		lowest, _, err := p.store.Lowest(p.ctx)
		require.NoError(t, err)
		for height := lowest.Height; height <= p.chain.Height(); height++ {
			known, ok, err := p.store.BlockAt(p.ctx, height)
			require.NoError(t, err)
			require.True(t, ok, "block %d", height)
			hash, err := p.chain.BlockHash(p.ctx, height)
			require.NoError(t, err)
			require.Equal(t, hash, known.Hash)
		}
	})
}

// TestTheBackendIsAway: while lnd's backend refuses every call, blocks come, one with a
// breach, and a mempool loses the justice of another. Nothing moves and the trouble
// is shown; once the backend is back, all is done within the longest pause between
// two attempts, which does not grow with the time that it was away.
func TestTheBackendIsAway(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		first, second := p.breach(1), p.breach(2)
		p.start()
		p.chain.Mine(first.Commit)
		p.of(first, watchtower.Published)
		tip, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		p.chain.Away(errors.New("connection refused"))
		p.chain.Evict(first.Justice.TxHash())
		for n := range 6 {
			if n == 2 {
				p.chain.Mine(second.Commit)
			} else {
				p.chain.Mine()
			}
		}
		p.until("the trouble to be shown", func() bool { return p.l.View().Problem != "" })
		// Long enough for several attempts.
		select {
		case <-time.After(2 * time.Second):
		case <-p.ctx.Done():
		}
		now, _, err := p.store.Tip(p.ctx)
		require.NoError(t, err)
		require.Equal(t, tip, now)
		p.chain.Away(nil)
		began := time.Now()
		require.NoError(t, p.chain.WaitPool(p.ctx, 2))
		require.Less(t, time.Since(began), time.Minute)
		p.of(second, watchtower.Published)
		p.synced()
		p.until("the trouble to be over", func() bool { return p.l.View().Problem == "" })
	})
}

// asleep is a chain whose lnd takes calls and answers none while it sleeps.
type asleep struct {
	*towertest.Chain
	sleeping atomic.Bool
}

func (a *asleep) call(ctx context.Context) error {
	if !a.sleeping.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (a *asleep) Best(ctx context.Context) (int32, error) {
	if err := a.call(ctx); err != nil {
		return 0, err
	}
	return a.Chain.Best(ctx)
}

func (a *asleep) Publish(ctx context.Context, raw []byte) error {
	if err := a.call(ctx); err != nil {
		return err
	}
	return a.Chain.Publish(ctx, raw)
}

// TestTheBackendHangs: calls that are never answered end, are told, and are made again.
func TestTheBackendHangs(t *testing.T) {
	each(t, func(t *testing.T, p *post) {
		b := p.breach(1)
		chain := &asleep{Chain: p.chain}
		p.l = lookout.New(lookout.Config{
			Chain: chain, Store: p.store, Depths: watchtower.Depths{Bury: 6, Forget: 20}, Now: time.Now, Log: zap.NewNop(), CallTimeout: 100 * time.Millisecond,
		}, lookout.NewMetrics())
		ctx, cancel := context.WithCancel(p.ctx)
		done := make(chan error, 1)
		go func() { done <- p.l.Run(ctx) }()
		p.synced()
		chain.sleeping.Store(true)
		p.chain.Mine(b.Commit)
		p.until("the trouble to be shown", func() bool { return strings.Contains(p.l.View().Problem, "did not answer for 100ms") })
		require.Zero(t, p.chain.PoolSize())
		chain.sleeping.Store(false)
		require.NoError(t, p.chain.WaitPool(p.ctx, 1))
		p.of(b, watchtower.Published)
		cancel()
		require.NoError(t, <-done)
	})
}
