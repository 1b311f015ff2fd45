package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// choreLoop does what time brings: deadlines, policies of absent handlers,
// HTLCs that only a payment of ours can explain, pruning.
func (e *Engine) choreLoop(t *tenure) {
	e.checkInherited(t)
	var pruned time.Time
	for {
		timer := time.NewTimer(e.cfg.PollSoon)
		select {
		case <-t.ctx.Done():
			timer.Stop()
			return
		case <-t.chores:
		case <-timer.C:
		}
		timer.Stop()
		e.checkInherited(t)
		e.recordDistrust(t)
		e.inquire(t)
		e.endAdopted(t)
		e.deadlines(t)
		e.absentPolicies(t)
		// A page at a time, between other chores: deadlines must not wait for it.
		if now := e.cfg.Now(); now.Sub(pruned) >= time.Hour && !e.prune(t, now) {
			pruned = now
		}
	}
}

// checkInherited asks lnd, once, about the hash of each row of an earlier
// tenure that says held: an older database may not know of the payment.
func (e *Engine) checkInherited(t *tenure) {
	byHash := make(map[ln.Hash][]ln.CircuitKey)
	e.mu.Lock()
	for key, en := range t.rows {
		if en.inherited && !en.checked && en.row.State == interceptor.StateHeld {
			byHash[en.row.Hash] = append(byHash[en.row.Hash], key)
		}
	}
	e.mu.Unlock()
	for hash, keys := range byHash {
		paying, err := e.isPaying(t.ctx, hash)
		if err != nil {
			return
		}
		if !paying {
			e.checked(keys)
			continue
		}
		if err := e.adopt(t.ctx, keys, nil); err != nil {
			return
		}
	}
}

// inquire settles what a payment of ours has already bought. What nobody has
// paid for is new if nothing can have moved it; else a predecessor may have
// resumed it, and it is resumed, never failed.
func (e *Engine) inquire(t *tenure) {
	e.mu.Lock()
	gen := t.gen
	asks := make([]inquiry, 0, len(t.inquiring))
	for _, q := range t.inquiring {
		// While the database still guards what is not guarded any more, a RESUME
		// now could pass for none at the next start.
		if near := e.height != 0 && e.height+e.cfg.FailSafetyBlocks >= q.offer.AutoFailHeight; !t.distrust || near {
			asks = append(asks, q)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(asks, func(a, b inquiry) int { return cmp.Compare(a.offer.Seq, b.offer.Seq) })
	for _, q := range asks {
		p, err := e.cfg.Node.TrackPayment(t.ctx, q.offer.Hash)
		if err != nil {
			return
		}
		if q.unmoved {
			// A row that is over and forgotten would contradict what follows.
			rows, err := e.cfg.Rows.Get(t.ctx, []ln.CircuitKey{q.offer.Key})
			if err != nil {
				return
			}
			q.unmoved = len(rows) == 0
		}
		e.mu.Lock()
		if cur, ok := t.inquiring[q.offer.Key]; ok && t.gen == gen && cur.offer.Seq == q.offer.Seq {
			e.inquired(t, q, p)
		}
		e.mu.Unlock()
	}
}

func (e *Engine) inquired(t *tenure, q inquiry, p ln.Payment) {
	o := q.offer
	switch {
	case p.State == ln.PaymentSucceeded && p.Preimage.Hash() == o.Hash:
		delete(t.inquiring, o.Key)
		if _, already := t.recording[o.Key]; already {
			return
		}
		now := e.cfg.Now()
		h, _ := t.chain.Match(o.OutgoingSCID, now)
		row := e.newRow(o, h.Name, now)
		row.State, row.Preimage, row.DecidedAt = interceptor.StateSettled, p.Preimage, now
		row.OnChain = o.OnChain()
		row.Reason = "lnd had paid this hash for us, which no record explained"
		t.recording[o.Key] = pendingRow{row: row, offer: o, gen: t.gen}
		wake(t.hear)
		e.record(t, o.Key)
	case p.State == ln.PaymentInFlight || p.InFlight > 0:
		// Neither resumed nor failed until that payment is over (law 4).
	case q.unmoved:
		delete(t.inquiring, o.Key)
		e.log.Info("an HTLC from before this start has no row, and cannot have been forwarded: its handler gets it",
			zap.Stringer("key", o.Key), zap.String("hash", o.Hash.Short()))
		e.onNew(t, o)
	default:
		delete(t.inquiring, o.Key)
		if !settleOnlyOffer(o) {
			// What a predecessor resumed may have ended while lnd was asked, and a
			// RESUME would forward it anew: it is looked at once more.
			t.waiting[o.Key] = waitingOffer{offer: o, ticket: t.class.Begin(), unpaid: true}
			wake(t.list)
		}
	}
}

// endAdopted ends the wait of HTLCs whose hash lnd was paying without a handler's word: it
// is over with that payment, long before their deadlines. Until then they take slots that
// no service counts.
func (e *Engine) endAdopted(t *tenure) {
	byHash := make(map[ln.Hash][]ln.CircuitKey)
	e.mu.Lock()
	for key, en := range t.rows {
		if en.row.Adopted() && !en.row.Gone() {
			byHash[en.row.Hash] = append(byHash[en.row.Hash], key)
		}
	}
	e.mu.Unlock()
	for hash, keys := range byHash {
		// Of a payment that lnd knows no more nobody can say how it ended: somebody has
		// deleted its history. Then lnd fails the HTLC at its deadline, not we.
		p, err := e.cfg.Node.TrackPayment(t.ctx, hash)
		switch {
		case err != nil:
			// lnd is asked again shortly.
		case p.State == ln.PaymentSucceeded && p.Preimage.Hash() == hash:
			decisions := make([]interceptor.Decision, 0, len(keys))
			for _, key := range keys {
				decisions = append(decisions, interceptor.Decision{
					Key: key, Action: interceptor.ActionSettle, Preimage: p.Preimage,
					Reason: "lnd's payment for this hash has succeeded; settled by the interceptor",
				})
			}
			err = e.Decide(t.ctx, decisions)
		case p.State == ln.PaymentFailed && p.InFlight == 0:
			err = e.submit(t.ctx, keys, e.unpaid)
		}
		if err != nil && t.ctx.Err() == nil {
			e.log.Info("HTLCs whose hash lnd was paying cannot be ended yet", zap.Stringers("keys", keys), zap.Error(err))
		}
	}
}

// unpaid gives an adopted row what it was to become (under mu).
func (e *Engine) unpaid(r interceptor.Row) (interceptor.Row, bool, error) {
	if !r.Adopted() {
		return r, false, nil
	}
	held, changed, err := r.MarkNotPaying("lnd's payment for this hash has failed")
	if err != nil || r.After != interceptor.StateFailed || r.OnChain {
		return held, changed, err
	}
	return e.decide(held, interceptor.Decision{Key: r.Key, Action: interceptor.ActionFail, Reason: r.Reason})
}

// deadlines warns handlers, and fails what nobody decided in time. Paying rows
// are settled if the payment has succeeded, and left alone while it may.
func (e *Engine) deadlines(t *tenure) {
	var late []interceptor.Row
	e.mu.Lock()
	height := e.height
	if height == 0 {
		e.mu.Unlock()
		return
	}
	for _, en := range t.rows {
		left := en.row.BlocksLeft(height)
		if !en.row.Undecided() || en.row.Gone() || en.row.Adopted() {
			continue
		}
		if left <= 0 && (!en.row.OnChain || en.row.State == interceptor.StatePaying) {
			late = append(late, en.row)
			continue
		}
		if left <= clampBlocks(e.cfg.NearBlocks) && !en.warned {
			en.warned = true
			e.deliver(en.row, interceptor.EventNearDeadline)
		}
	}
	e.mu.Unlock()
	for _, r := range late {
		if err := e.endLate(t.ctx, r); err != nil && t.ctx.Err() == nil {
			e.log.Warn("an HTLC at its deadline cannot be ended yet; lnd fails it at its auto-fail height",
				zap.Stringer("key", r.Key), zap.Uint32("auto_fail_height", r.AutoFailHeight), zap.Error(err))
		}
	}
}

func clampBlocks(n uint32) int32 { return int32(min(n, 1<<30)) } //nolint:gosec // bounded

func (e *Engine) endLate(ctx context.Context, r interceptor.Row) error {
	if r.State == interceptor.StatePaying {
		p, err := e.cfg.Node.TrackPayment(ctx, r.Hash)
		switch {
		case err != nil:
			return err
		case p.State == ln.PaymentSucceeded && p.Preimage.Hash() == r.Hash:
			return e.Decide(ctx, []interceptor.Decision{{
				Key: r.Key, Action: interceptor.ActionSettle, Preimage: p.Preimage,
				Reason: "the payment had succeeded; settled by the interceptor",
			}})
		case p.State != ln.PaymentFailed && p.State != ln.PaymentUnknown, p.InFlight > 0:
			return nil
		case p.State == ln.PaymentUnknown:
			// It may be about to be sent: paying is committed first. Only its
			// handler can say that it never will be.
			return nil
		case r.OnChain:
			return nil
		}
		if err := e.MarkNotPaying(ctx, []ln.CircuitKey{r.Key}, "the payment had failed"); err != nil {
			return err
		}
	}
	err := e.Decide(ctx, []interceptor.Decision{{
		Key: r.Key, Action: interceptor.ActionFail, Reason: "its deadline came without a decision",
	}})
	if errors.Is(err, interceptor.ErrPaying) || errors.Is(err, interceptor.ErrDecided) {
		return nil
	}
	return err
}

// absentPolicies applies to what is held for a handler that stays away.
func (e *Engine) absentPolicies(t *tenure) {
	var decisions []interceptor.Decision
	e.mu.Lock()
	now := e.cfg.Now()
	for key, en := range t.rows {
		if en.row.State != interceptor.StateHeld || en.row.OnChain {
			continue
		}
		h, registered := t.chain.Handler(en.row.Handler)
		since, away := e.away[en.row.Handler]
		if !registered || !away || now.Sub(since) < e.cfg.AbsentGrace || h.OnAbsent == interceptor.AbsentHold {
			continue
		}
		action := interceptor.ActionFail
		if h.OnAbsent == interceptor.AbsentResume {
			action = interceptor.ActionResume
		}
		decisions = append(decisions, interceptor.Decision{
			Key: key, Action: action, Reason: "the handler " + h.Name + " stayed away and asked for this",
		})
	}
	e.mu.Unlock()
	for _, d := range decisions {
		if err := e.Decide(t.ctx, []interceptor.Decision{d}); err != nil && t.ctx.Err() == nil {
			e.log.Info("the policy of an absent handler cannot be applied yet", zap.Stringer("key", d.Key), zap.Error(err))
		}
	}
}

// prunePage is how many rows are deleted in one transaction.
const prunePage = 200

// recordDistrust ends the guards in the database that ended here.
func (e *Engine) recordDistrust(t *tenure) {
	e.mu.Lock()
	epoch, due, ends := t.lease.Epoch(), t.distrust, t.guardEnds
	e.mu.Unlock()
	if !due {
		return
	}
	if _, err := e.cfg.Handlers.Begin(t.ctx, epoch, false, e.cfg.Now()); err != nil {
		e.log.Warn("the guards of routes cannot be ended yet", zap.Error(err))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// They may have ended once more meanwhile.
	t.distrust = t.guardEnds != ends
}

// prune deletes lapsed claims and a page of old rows, and says whether there may
// be more. Claims leave the database before memory: while a
// successor could find one, no HTLC of its route may be resumed without a row.
func (e *Engine) prune(t *tenure, now time.Time) (more bool) {
	lapsed := now.Add(-time.Hour)
	e.mu.Lock()
	epoch := t.lease.Epoch()
	e.mu.Unlock()
	n, err := e.cfg.Rows.Prune(t.ctx, epoch, now.Add(-e.cfg.Retention), lapsed, prunePage)
	if err != nil {
		if t.ctx.Err() == nil {
			e.log.Info("old rows and claims were not pruned; tried again in an hour", zap.Error(err))
		}
		return false
	}
	if n > 0 {
		e.log.Info("old rows pruned", zap.Int64("rows", n))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.pruned += uint64(n) //nolint:gosec // a count
	for handler, scids := range t.chain.Expired(lapsed) {
		for _, scid := range scids {
			t.chain.Release(handler, scid)
		}
	}
	return n == prunePage
}
