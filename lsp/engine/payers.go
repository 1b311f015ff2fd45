package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// lnd fails what it is told to forward while the channel that it came over is not
// active. So what is held waits for its payer as well as for its wallet.

// payers are payments that wait for theirs.
type payers struct {
	mu   sync.Mutex
	away map[string]bool
}

func (p *payers) set(id string, away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away == nil {
		p.away = make(map[string]bool)
	}
	if p.away[id] = away; !away {
		delete(p.away, id)
	}
}

func (p *payers) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := slices.Sorted(maps.Keys(p.away))
	clear(p.away)
	return ids
}

// payerAway says that a payment has to wait for its payer. Then WalletOnline comes
// once a channel is active that was not: perhaps that one.
func (e *Engine) payerAway(ctx context.Context, id string) (bool, error) {
	htlcs, err := e.heldHtlcs(ctx, id)
	if err != nil || !e.world.inactive(htlcs) {
		return false, err
	}
	e.payers.set(id, true)
	if !e.world.inactive(htlcs) {
		// It came back before anybody knew that it is waited for.
		e.payers.set(id, false)
		return false, nil
	}
	return true, nil
}

// payerSoon waits, not for long, until every part's channel is active.
func (e *Engine) payerSoon(ctx context.Context, id string) (bool, error) {
	htlcs, err := e.heldHtlcs(ctx, id)
	if err != nil {
		return false, err
	}
	for waited := time.Duration(0); e.world.inactive(htlcs); waited += activeWithin / 100 {
		if waited >= activeWithin {
			return false, nil
		}
		if err := pace.Pause(ctx, activeWithin/100); err != nil {
			return false, fmt.Errorf("%w: %w", ln.ErrUnavailable, err)
		}
	}
	return true, nil
}

// payersBack has those who wait for their payers look again.
func (e *Engine) payersBack() {
	ids := e.payers.take()
	if len(ids) == 0 {
		return
	}
	e.spawn(func() {
		for _, id := range ids {
			tell(e, e.jits, id, jit.Event(jit.WalletOnline{Moment: e.moment()}))
		}
	})
}

// heldHtlcs are the parts that a payment holds.
func (e *Engine) heldHtlcs(ctx context.Context, id string) ([]ln.CircuitKey, error) {
	state, err := e.jitState(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	parts := jit.PartsOf(state)
	out := make([]ln.CircuitKey, 0, len(parts))
	for _, p := range parts {
		out = append(out, p.Htlc.Key)
	}
	return out, nil
}
