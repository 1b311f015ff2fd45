package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/batch"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// Batches: orders that can wait share a funding transaction. lnd's BatchOpenChannel
// does not serve: it chooses the coins itself, which cannot be ours by a lease then,
// publishes as soon as the last peer has signed, before anybody can have stored what
// it publishes, and gives up all channels for one. So each channel is negotiated
// through a PSBT shim of its own, as every other, and lsp/batch decides.

// queuedOrder is an order that waits for others.
type queuedOrder struct {
	client ln.PubKey
	until  uint32
}

// keepBatches opens channels of orders that can wait when their moment has come.
func (e *Engine) keepBatches(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.batchDue:
		}
		for {
			again, err := e.tendBatches(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				e.log.Warn("orders that wait for others could not be looked after; trying again", zap.Error(err))
			}
			if !again && err == nil {
				break
			}
			if pace.Pause(ctx, 100*time.Millisecond) != nil {
				return
			}
		}
	}
}

// tendBatches begins one batch, or lets orders go alone, if it is time. again says
// that there may be more to do at once.
func (e *Engine) tendBatches(ctx context.Context) (again bool, err error) {
	most, tip, rate := e.cfg.Orders.BatchOrders, e.world.tip(), e.fees.current()
	if tip == 0 {
		return false, nil
	}
	var ids []string
	e.mu.Lock()
	for id, until := range e.returning {
		if e.opt.Now().Before(until) {
			e.mu.Unlock()
			return true, nil
		}
		delete(e.returning, id)
	}
	queued := make(map[string]queuedOrder, len(e.queued))
	for id, q := range e.queued {
		queued[id] = q
		ids = append(ids, id)
	}
	e.mu.Unlock()
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(queued[a].until, queued[b].until), cmp.Compare(a, b)) })
	var ready []string
	taken, due := make(map[ln.PubKey]bool), false
	for _, id := range ids {
		q := queued[id]
		now := q.until <= tip || most < 2
		switch {
		case !e.world.online(q.client):
			if now {
				// Its node is waited for as that of every other order.
				e.openAlone(id)
			}
		case !taken[q.client] && len(ready) < max(most, 1):
			// A stock lnd admits one pending channel a peer.
			taken[q.client] = true
			ready = append(ready, id)
			due = due || now
		}
	}
	full := len(ready) >= most && !rate.High && !rate.Stale
	switch {
	case len(ready) == 0 || !due && !full:
		return false, nil
	case len(ready) == 1 || most < 2:
		for _, id := range ready {
			e.openAlone(id)
		}
		return true, nil
	}
	return true, e.beginBatch(ctx, ready)
}

func (e *Engine) openAlone(id string) {
	tell(e, e.orders, id, order.Event(order.OpenAlone{Moment: e.moment()}))
}

// beginBatch stores the batch and tells its orders, in one transaction: an order is
// in it, or waits for the next.
func (e *Engine) beginBatch(ctx context.Context, orderIDs []string) error {
	id, err := e.newID()
	if err != nil {
		return err
	}
	err = e.db.Write(ctx, func(ctx context.Context, tx *store.Tx) error {
		m := e.moment()
		plan := batch.Plan{ID: id, FeeRate: e.fees.current().Rate, GatherUntil: m.At.Add(e.cfg.OpenFor / 2), AnswerFor: e.cfg.OpenFor / 2}
		bounded := true
		for _, orderID := range orderIDs {
			inst, err := e.orders.GetTx(ctx, tx, orderID)
			if err != nil {
				return err
			}
			o := order.Of(inst.State)
			capacity, err := o.CapacitySat()
			if err != nil {
				return err
			}
			fee, err := order.PriceOf(o).FeeSat.Msat()
			if err != nil {
				return err
			}
			if _, err := e.orders.SendTx(ctx, tx, orderID, order.Join{Moment: m, BatchID: id}); err != nil {
				return err
			}
			most, limited := e.cfg.Prices.MaxOpeningFee(fee)
			if bounded = bounded && limited; bounded {
				plan.MaxFeeSat += most // fees of orders: far below 2^63 together
			}
			plan.Members = append(plan.Members, batch.Member{
				OpeningID: order.OpeningID(orderID, o.Opens+1), OrderID: orderID, Client: o.Client, CapacitySat: capacity,
			})
		}
		if !bounded {
			plan.MaxFeeSat = 0
		}
		// Whoever has never paid for a channel is asked for its signature first: should it
		// keep that back, the others have signed nothing yet.
		known := make(map[ln.PubKey]int)
		for _, m := range plan.Members {
			isNew, err := newcomer(ctx, tx, m.Client)
			if err != nil {
				return err
			}
			if !isNew {
				known[m.Client] = 1
			}
		}
		slices.SortStableFunc(plan.Members, func(a, b batch.Member) int { return cmp.Compare(known[a.Client], known[b.Client]) })
		_, err := e.batches.CreateTx(ctx, tx, id, batch.Gathering{Plan: plan}, batch.Start{Moment: m})
		return err
	})
	if errors.Is(err, fsm.ErrIllegal) {
		// One of them was cancelled meanwhile; the others are looked at anew.
		return nil
	}
	if err == nil {
		e.log.Info("orders that could wait share a funding transaction", zap.String("batch", id), zap.Strings("orders", orderIDs))
	}
	return err
}

// batchWaits says whether the batch still waits for this open, and until when the
// open must be signed. Without a batch nothing bounds it but the open itself.
func (e *Engine) batchWaits(ctx context.Context, batchID, openingID string) (until time.Time, waits bool, err error) {
	if batchID == "" {
		return time.Time{}, true, nil
	}
	inst, err := e.batches.Get(ctx, batchID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, err
	}
	p := batch.PlanOf(inst.State)
	return p.GatherUntil.Add(time.Duration(len(p.Members))*p.AnswerFor + e.cfg.OpenFor), batch.Wants(inst.State, openingID), nil
}

// returnsWithin is how long the orders of a batch that was undone are waited for, so
// that those who are left share the next one.
const returnsWithin = 2 * time.Second

func (e *Engine) batchMoved(id string, s batch.State) {
	var back []string
	if _, failed := s.(batch.Failed); failed {
		for _, m := range batch.PlanOf(s).Members {
			if s, known := e.orders.Present(m.OrderID); known && order.InBatch(s) == id {
				back = append(back, m.OrderID)
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, orderID := range back {
		e.returning[orderID] = e.opt.Now().Add(returnsWithin)
	}
	if batch.Final(s) {
		delete(e.liveBatches, id)
		wake(e.batchDue)
		return
	}
	e.liveBatches[id] = true
}
