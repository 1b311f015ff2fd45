package engine

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// choreLoop does what time brings: deadlines, policies of absent handlers,
// HTLCs that only a payment of ours can explain, late outcomes, pruning.
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
		e.inquire(t)
		e.deadlines(t)
		e.absentPolicies(t)
		e.finishGone(t)
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
		if err := e.adopt(t.ctx, keys); err != nil {
			return
		}
	}
}

// inquire settles what a payment of ours has already bought, and resumes what
// nobody has paid for. These offers have no row, and may have been resumed by a
// predecessor: they are never failed.
func (e *Engine) inquire(t *tenure) {
	e.mu.Lock()
	gen := t.gen
	offers := make([]interceptor.Offer, 0, len(t.inquiring))
	for _, o := range t.inquiring {
		offers = append(offers, o)
	}
	e.mu.Unlock()
	sortOffers(offers)
	for _, o := range offers {
		p, err := e.cfg.Node.TrackPayment(t.ctx, o.Hash)
		if err != nil {
			return
		}
		e.mu.Lock()
		if cur, ok := t.inquiring[o.Key]; ok && t.gen == gen && cur.Seq == o.Seq {
			e.inquired(t, o, p)
		}
		e.mu.Unlock()
	}
}

func (e *Engine) inquired(t *tenure, o interceptor.Offer, p ln.Payment) {
	switch {
	case p.State == ln.PaymentSucceeded && p.Preimage.Hash() == o.Hash:
		delete(t.inquiring, o.Key)
		if _, already := t.recording[o.Key]; already {
			return
		}
		now := e.cfg.Now()
		h, _ := t.chain.Match(o.OutgoingSCID, now)
		e.lastID = max(e.lastID+1, now.UnixMicro())
		row := interceptor.NewRow(o.InterceptedHtlc, h.Name, e.cfg.FailSafetyBlocks, e.height, now)
		row.ID, row.State, row.Preimage, row.DecidedAt = e.lastID, interceptor.StateSettled, p.Preimage, now
		row.OnChain = o.OnChain()
		row.Reason = "lnd had paid this hash for us, which no record explained"
		t.recording[o.Key] = pendingRow{row: row, offer: o, gen: t.gen}
		wake(t.hear)
		e.record(t, o.Key)
	case p.State == ln.PaymentInFlight || p.InFlight > 0:
		// Neither resumed nor failed until that payment is over (law 4).
	default:
		delete(t.inquiring, o.Key)
		if !settleOnlyOffer(o) && t.class.Ready() {
			e.resume(t, o)
		}
	}
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
		if !en.row.Undecided() || en.row.Gone() {
			continue
		}
		orphan := en.row.State == interceptor.StatePaying && en.row.Handler == ""
		if (left <= 0 && !en.row.OnChain) || orphan || (en.row.State == interceptor.StatePaying && left <= 0) {
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
		case p.State == ln.PaymentUnknown && r.Handler != "":
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

// prune deletes a page of old rows, and says whether there may be more.
func (e *Engine) prune(t *tenure, now time.Time) (more bool) {
	e.mu.Lock()
	epoch := t.lease.Epoch()
	for handler, scids := range t.chain.Expired(now.Add(-time.Hour)) {
		for _, scid := range scids {
			t.chain.Release(handler, scid)
		}
	}
	e.mu.Unlock()
	n, err := e.cfg.Rows.Prune(t.ctx, epoch, now.Add(-e.cfg.Retention), prunePage)
	switch {
	case err != nil && t.ctx.Err() == nil:
		e.log.Info("old rows were not pruned; tried again in an hour", zap.Error(err))
		return false
	case n > 0:
		e.mu.Lock()
		e.stats.pruned += uint64(n) //nolint:gosec // a count
		e.mu.Unlock()
		e.log.Info("old rows pruned", zap.Int64("rows", n))
	}
	return n == prunePage
}
