package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/links"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// overFor is for how long it is known whose payments have ended.
const overFor = 10 * time.Minute

// OnTheirWay are the payments to wallets over known channels, and those that ended lately.
func (e *Engine) OnTheirWay() []links.OnItsWay {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgetOver()
	out := slices.Clone(e.over)
	for _, sp := range e.spots {
		if sp.via != 0 {
			out = append(out, links.OnItsWay{Peer: sp.client, Hash: sp.hash, Via: sp.via, Direct: sp.direct})
		}
	}
	return out
}

// isOver notes a payment that has ended. Callers hold e.mu.
func (e *Engine) isOver(p links.OnItsWay) {
	e.forgetOver()
	e.over = append(e.over, p)
}

// wasPaid notes a wrapped payment that the last process saw reach its wallet, and did not
// end: of that process's payments on their way it is the only kind that has no row of what
// has ended and is in no channel any more.
func (e *Engine) wasPaid(s wrap.State) {
	if _, settling := s.(wrap.Settling); !settling {
		return
	}
	o := wrap.OfferOf(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.isOver(links.OnItsWay{Peer: o.Client, Hash: o.Hash, Over: e.opt.Now()})
}

// forgetOver drops what ended long ago; the oldest come first. Callers hold e.mu.
func (e *Engine) forgetOver() {
	old := 0
	for old < len(e.over) && e.opt.Now().Sub(e.over[old].Over) > overFor {
		old++
	}
	e.over = slices.Delete(e.over, 0, old)
}

// loadOver reads what ended before this process began: it may have died with lnd.
func (e *Engine) loadOver(ctx context.Context) error {
	var over []links.OnItsWay
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		over = nil
		q := lspdb.New(tx)
		after := lspdb.FinishedPaymentsRow{UpdatedMs: e.opt.Now().Add(-overFor).UnixMilli()}
		for {
			page, err := q.FinishedPayments(ctx, lspdb.FinishedPaymentsParams{BeforeMs: math.MaxInt64, AfterMs: after.UpdatedMs, AfterID: after.ID, Most: overPage})
			if err != nil || len(page) == 0 {
				return err
			}
			for _, row := range page {
				p, err := q.GetPayment(ctx, row.ID)
				if err != nil {
					return err
				}
				client, err := ln.PubKeyFromBytes(p.Client)
				if err != nil {
					return fmt.Errorf("payment %s: %w", row.ID, err)
				}
				over = append(over, links.OnItsWay{Peer: client, Over: time.UnixMilli(row.UpdatedMs)})
				after = row
			}
		}
	})
	if err != nil {
		return fmt.Errorf("read which payments have just ended: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = over
	return nil
}

// overPage is how many are read at a time.
const overPage = 500
