package engine

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// mostClaims bounds one call to the interceptor.
const mostClaims = 256

// claims lets short channel ids that are claimed at the same time share a call,
// and so a transaction of the interceptor's.
type claims struct {
	mu      sync.Mutex
	waiting []*claim
	busy    bool
}

type claim struct {
	scid  ln.SCID
	until time.Time
	err   error
	done  chan struct{}
}

// claim guards a new id. Those that share the call are claimed until the last of
// their ends: a claim that outlives its offer is answered by the offer that is
// over.
func (e *Engine) claim(ctx context.Context, scid ln.SCID, until time.Time) error {
	mine := &claim{scid: scid, until: until, done: make(chan struct{})}
	c := &e.claims
	c.mu.Lock()
	c.waiting = append(c.waiting, mine)
	lead := !c.busy
	c.busy = true
	c.mu.Unlock()
	if lead {
		e.spawn(e.claimWaiting)
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		// It may be claimed all the same, and lapses.
		return ctx.Err()
	}
}

func (e *Engine) claimWaiting() {
	c := &e.claims
	for {
		c.mu.Lock()
		n := min(len(c.waiting), mostClaims)
		batch := c.waiting[:n:n]
		c.waiting = c.waiting[n:]
		if c.busy = n > 0; !c.busy {
			c.waiting = nil
		}
		c.mu.Unlock()
		if n == 0 {
			return
		}
		scids := make([]ln.SCID, 0, n)
		var until time.Time
		for _, w := range batch {
			scids = append(scids, w.scid)
			if w.until.After(until) {
				until = w.until
			}
		}
		err := e.opt.Routes.Claim(e.ctx, scids, until)
		for _, w := range batch {
			w.err = err
			close(w.done)
		}
	}
}
