package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// All of this file runs under Engine.mu, listLoop excepted.

// onOffer judges an offer as it arrives. Whatever an earlier offer of the key
// allowed is void: lnd may have resolved the HTLC in between.
func (e *Engine) onOffer(t *tenure, o interceptor.Offer) {
	en, recorded := t.rows[o.Key]
	if recorded {
		en.open = nil
		if !en.certain && !en.row.Gone() {
			// What was said of an earlier offer does not hold for this one.
			en.hint = interceptor.OutcomeUnknown
		}
	}
	delete(t.inquiring, o.Key)
	delete(t.parked, o.Key)
	delete(t.lingering, o.Key)
	delete(t.waiting, o.Key)
	switch v := t.class.Offer(o.InterceptedHtlc, recorded); v {
	case interceptor.VerdictNew:
		if _, is := t.young[o.Key.ChanID]; is {
			// It may have become safe since it was listed, and this one counts.
			t.waiting[o.Key] = waitingOffer{offer: o, ticket: t.class.Begin()}
			wake(t.list)
			return
		}
		e.onNew(t, o)
	case interceptor.VerdictSettleOnly:
		e.onSettleOnly(t, o)
	case interceptor.VerdictNeedListing, interceptor.VerdictResumeOnly,
		interceptor.VerdictPhantom, interceptor.VerdictTrimmed, interceptor.VerdictRecorded, interceptor.VerdictInFlight,
		interceptor.VerdictUnrecorded, interceptor.VerdictEnding, interceptor.VerdictMayBeEnding:
		t.waiting[o.Key] = waitingOffer{offer: o, ticket: t.class.Begin()}
		wake(t.list)
	}
}

// onNew takes an HTLC that no RESUME can have moved.
func (e *Engine) onNew(t *tenure, o interceptor.Offer) {
	if p, already := t.recording[o.Key]; already {
		p.offer, p.gen = o, t.gen
		t.recording[o.Key] = p
		return
	}
	if y, is := t.young[o.Key.ChanID]; is && y.over {
		e.bar(t, o, y)
		return
	}
	if _, asking := t.asking[o.Key]; asking || !t.chain.Claimed(o.OutgoingSCID) {
		if !e.screen(t, o) {
			e.pass(t, o)
		}
		return
	}
	now := e.cfg.Now()
	h, wanted := t.chain.Match(o.OutgoingSCID, now)
	_, here := e.attached[h.Name]
	row := e.newRow(o, h.Name, now)
	p := pendingRow{row: row, offer: o, gen: t.gen, since: t.class.Begin()}
	if why := passes(h, wanted, here); why != "" {
		// Nobody's HTLC, but a row all the same: that a claimed route's HTLC is
		// never resumed without one is what guards rest on.
		p.row.Handler, p.row.State, p.row.Reason, p.row.DecidedAt = "", interceptor.StateResumed, why, now
		t.recording[o.Key] = p
		e.record(t, o.Key)
		return
	}
	if p.row.Reason = e.mustRefuse(t, row, h, here); p.row.Reason == "" {
		p.row.Reason = t.refusing(row)
	}
	p.refused = p.row.Reason != ""
	t.recording[o.Key] = p
	t.held.add(row)
	wake(t.hear)
	if p.refused {
		t.refusals = append(t.refusals, o.Key)
		wake(t.refuse)
		return
	}
	e.record(t, o.Key)
}

// newRow is an HTLC's row as it came, numbered after all that came before (under mu).
func (e *Engine) newRow(o interceptor.Offer, handler string, at time.Time) interceptor.Row {
	e.lastID = max(e.lastID+1, e.cfg.Now().UnixMicro())
	row := interceptor.NewRow(o.InterceptedHtlc, handler, e.cfg.FailSafetyBlocks, e.height, at)
	row.ID = e.lastID
	return row
}

// passes says why an HTLC of a claimed route is forwarded like any other, or "".
func passes(h interceptor.HandlerConfig, wanted, here bool) string {
	switch {
	case !wanted:
		return "the claim on its short channel id had lapsed"
	case !here && h.OnAbsent == interceptor.AbsentResume:
		return "the handler " + h.Name + " is away and asked for its HTLCs to be forwarded meanwhile"
	}
	return ""
}

// drop forgets an HTLC that ended before the database took its row.
func (e *Engine) drop(t *tenure, key ln.CircuitKey) {
	e.unask(t, key)
	if p, ok := t.recording[key]; ok {
		t.held.remove(p.row)
		delete(t.recording, key)
		if e.cfg.Screener != nil && p.row.Handler == interceptor.ProgramsHandler {
			e.cfg.Screener.Over(key)
		}
	}
}

// mustRefuse says why a new HTLC cannot be held, or "".
func (e *Engine) mustRefuse(t *tenure, r interceptor.Row, h interceptor.HandlerConfig, here bool) string {
	switch {
	case !here && h.OnAbsent == interceptor.AbsentFail:
		return "the handler " + h.Name + " is away and asked for its HTLCs to be failed meanwhile"
	case e.height != 0 && r.BlocksLeft(e.height) <= 0:
		return fmt.Sprintf("too late to hold it: lnd fails it at height %d, the tip is %d", r.AutoFailHeight, e.height)
	case t.held.perChannel[r.Key.ChanID] >= e.cfg.MaxHeldPerChannel:
		return fmt.Sprintf("limit reached: %d HTLCs are held on channel %s", e.cfg.MaxHeldPerChannel, r.Key.ChanID)
	case t.held.htlcs >= e.cfg.MaxHeld:
		return fmt.Sprintf("limit reached: %d HTLCs are held", e.cfg.MaxHeld)
	case t.held.msat+r.IncomingMsat > e.cfg.MaxHeldMsat:
		return fmt.Sprintf("limit reached: %s would be held, more than %s", t.held.msat+r.IncomingMsat, e.cfg.MaxHeldMsat)
	}
	return ""
}

// refusing says why a new HTLC goes back with another of its payment that is being
// refused, or "": until that is answered its payer cannot have tried again, so this
// one is of the same set, and would wait for a part that does not come. What would meet
// one that waits for lnd's payment of its hash to be over would only wait beside it, for
// as long as that lasts, and so might any number (under mu).
func (t *tenure) refusing(r interceptor.Row) string {
	for _, p := range t.recording {
		if p.refused && p.row.Hash == r.Hash && p.row.Handler == r.Handler {
			return "another part of its payment is being refused: " + ln.Clip(p.row.Reason, interceptor.MaxReason/2)
		}
	}
	for _, en := range t.rows {
		if en.row.Hash == r.Hash && en.row.Adopted() && en.row.After == interceptor.StateFailed && !en.row.Gone() {
			return "another HTLC of its hash was refused already, while lnd is paying that hash: " + ln.Clip(en.row.Reason, interceptor.MaxReason/2)
		}
	}
	return ""
}

// resume forwards an HTLC that has no row.
func (e *Engine) resume(t *tenure, o interceptor.Offer) {
	e.send(t, o, interceptor.Answer{Key: o.Key, Action: interceptor.AnswerResume})
	e.stats.resumed++
}

func (e *Engine) send(t *tenure, o interceptor.Offer, a interceptor.Answer) {
	if t.session == nil {
		return
	}
	delete(t.lingering, a.Key)
	resume := a.Action == interceptor.AnswerResume
	if resume {
		t.class.Resuming(a.Key)
	}
	a.Seq = o.Seq
	if err := t.session.Answer(a); err != nil {
		if resume {
			t.class.NotResumed(a.Key)
		}
		e.log.Debug("not answered", zap.Stringer("key", a.Key), zap.String("answer", string(a.Action)), zap.Error(err))
	}
}

// onSettleOnly takes an HTLC on chain, or on a channel that is not listed.
func (e *Engine) onSettleOnly(t *tenure, o interceptor.Offer) {
	e.unask(t, o.Key)
	if p, recording := t.recording[o.Key]; recording {
		// The earlier offer is void, and its row says nothing of this one yet.
		p.offer, p.gen = o, t.gen
		t.recording[o.Key] = p
		return
	}
	en, recorded := t.rows[o.Key]
	if !recorded {
		// A payment of ours may know the preimage, if our database does not.
		t.inquiring[o.Key] = inquiry{offer: o}
		wake(t.chores)
		return
	}
	en.open = &o
	e.wentOnChain(t, en)
	e.answer(t, en)
}

// wentOnChain records what an offer on chain says of its row.
func (e *Engine) wentOnChain(t *tenure, en *entry) {
	if en.open == nil || !en.open.OnChain() || en.row.OnChain || en.row.Gone() {
		return
	}
	e.edit(t, en.row.Key, "on chain", func(r interceptor.Row) (interceptor.Row, bool, error) {
		if r.OnChain {
			return r, false, nil
		}
		r.OnChain = true
		r.Version++
		return r, true, nil
	})
}

// answer sends what a row decides, if lnd waits for it.
func (e *Engine) answer(t *tenure, en *entry) {
	if en.open == nil {
		return
	}
	if _, stale := t.stale[en.row.Key]; stale {
		return
	}
	a, ok := en.row.Answer()
	if !ok {
		return
	}
	if en.moved && a.Action == interceptor.AnswerFail {
		// Decided before lnd told that it was forwarded: the record cannot be
		// honoured without losing the amount.
		a.Action = interceptor.AnswerResume
	}
	o := *en.open
	if settleOnlyOffer(o) && a.Action != interceptor.AnswerSettle {
		return
	}
	en.open = nil
	en.sent = en.sent || a.Action == interceptor.AnswerResume && t.session != nil
	e.send(t, o, a)
}

func settleOnlyOffer(o interceptor.Offer) bool { return o.OnChain() || o.AutoFailHeight == 0 }

// known is what the ledger and the time say of an offer that a listing judges.
func (e *Engine) known(t *tenure, o interceptor.Offer, l *interceptor.Listing, asked time.Time) interceptor.Known {
	en, recorded := t.rows[o.Key]
	k := interceptor.Known{Recorded: recorded, Guarded: t.chain.Guarded(o.OutgoingSCID) || t.young[o.Key.ChanID].guards(t)}
	if recorded && en.row.State != interceptor.StatePaying && en.row.State != interceptor.StateSettled {
		// A preimage is never wrong, and waits for nothing.
		k.Resumed = en.moved || en.sent || e.mayHaveMoved(en)
	}
	if since, lingers := t.lingering[o.Key]; lingers {
		k.Waited = e.mayLeave(o, l) && asked.Sub(since) >= e.cfg.LeaveWithin
		if !e.mayLeave(o, l) {
			delete(t.lingering, o.Key)
		}
	}
	return k
}

// mayLeave: what is ending stays for as long as its payer is away. So does what is to
// be resumed, until lnd's auto-fail comes near: lnd would only fail it.
func (e *Engine) mayLeave(o interceptor.Offer, l *interceptor.Listing) bool {
	return l.Active(o.Key.ChanID) || e.near(o)
}

// lingers: the next listings tell of something whether it is ending.
func (t *tenure) lingers() bool {
	for key := range t.lingering {
		if _, is := t.parked[key]; is {
			return true
		}
	}
	return false
}

// near: lnd is about to fail it by itself.
func (e *Engine) near(o interceptor.Offer) bool {
	return e.height != 0 && e.height+e.cfg.FailSafetyBlocks >= o.AutoFailHeight
}

// mayHaveMoved: a held row of a database that was restored.
func (e *Engine) mayHaveMoved(en *entry) bool {
	return en.row.State == interceptor.StateHeld && e.cfg.DistrustRows && en.inherited
}

// onListed takes an offer with the verdict of a listing requested after it.
func (e *Engine) onListed(t *tenure, w waitingOffer, l *interceptor.Listing, asked time.Time) {
	o := w.offer
	en, recorded := t.rows[o.Key]
	switch v := t.class.Listed(o.InterceptedHtlc, e.known(t, o, l, asked), l); v {
	case interceptor.VerdictNew:
		e.onNew(t, o)
	case interceptor.VerdictSettleOnly:
		delete(t.lingering, o.Key)
		if w.unpaid && !settleOnlyOffer(o) {
			// Its channel is about to be on chain, and lnd has been asked: it offers the
			// HTLC again there, or never.
			t.parked[o.Key] = o
			return
		}
		e.onSettleOnly(t, o)
	case interceptor.VerdictPhantom, interceptor.VerdictTrimmed:
		text := "lnd offered an HTLC that it no longer has; failing it"
		if v == interceptor.VerdictTrimmed {
			text = "lnd was restarted, and what it had forwarded of an HTLC is gone; failing it"
		} else {
			e.stats.phantoms++
		}
		e.log.Warn(text, zap.Stringer("key", o.Key), zap.String("hash", o.Hash.Short()), zap.Bool("recorded", recorded))
		e.drop(t, o.Key)
		e.send(t, o, interceptor.Answer{Key: o.Key, Action: interceptor.AnswerFail})
	case interceptor.VerdictRecorded:
		en.open = &o
		if e.mayHaveMoved(en) {
			e.movedBefore(t, en)
			return
		}
		e.again(en, o)
		e.answer(t, en)
	case interceptor.VerdictInFlight, interceptor.VerdictEnding:
		delete(t.lingering, o.Key)
		e.unask(t, o.Key)
		e.onInFlight(t, o, v == interceptor.VerdictEnding)
	case interceptor.VerdictMayBeEnding:
		if _, lingers := t.lingering[o.Key]; !lingers && e.mayLeave(o, l) {
			t.lingering[o.Key] = time.Now()
		}
		t.parked[o.Key] = o
	case interceptor.VerdictResumeOnly:
		e.unask(t, o.Key)
		if _, recording := t.recording[o.Key]; recording && !e.near(o) {
			// Once its row is written and corrected (taken), it is resumed.
			t.parked[o.Key] = o
			return
		}
		e.stats.resumeOnly++
		if t.class.ResumedHere(o.Key) || w.unpaid {
			e.resume(t, o)
			return
		}
		// A predecessor's. If lnd is paying for this hash, then the record of a
		// fresh onion is missing here, and a RESUME could pay twice.
		t.inquiring[o.Key] = inquiry{offer: o}
		wake(t.chores)
	case interceptor.VerdictUnrecorded:
		t.inquiring[o.Key] = inquiry{offer: o, unmoved: true}
		wake(t.chores)
	case interceptor.VerdictNeedListing:
		// There is a baseline: onListing sees to it.
	}
}

// listLoop lists channels whenever offers wait, at the start of a session, and
// from time to time to see what has ended. Offers that wait share a call.
func (e *Engine) listLoop(ctx context.Context, t *tenure, gen uint64) {
	failures := 0
	var took time.Duration
	for {
		if !e.waitToList(ctx, t, took) {
			return
		}
		e.mu.Lock()
		ticket := t.class.Begin()
		e.mu.Unlock()
		asked := time.Now()
		channels, err := e.cfg.Node.ListChannels(ctx)
		took = time.Since(asked)
		if err != nil {
			failures++
			if failures == 1 || failures%20 == 0 {
				e.log.Warn("channels cannot be listed; replayed offers wait", zap.Error(err))
			}
			_ = pace.Pause(ctx, e.cfg.Backoff(failures))
			continue
		}
		failures = 0
		e.mu.Lock()
		if t.gen == gen && t.session != nil {
			t.young = youngOf(channels, e.height)
			e.onListing(t, interceptor.NewListing(ticket, channels), asked)
		}
		e.mu.Unlock()
	}
}

// onInFlight leaves what lnd has forwarded to its own end. Near lnd's auto-fail,
// which would fail what is in flight, it is answered; what is ending is not in
// flight.
func (e *Engine) onInFlight(t *tenure, o interceptor.Offer, ending bool) {
	en, recorded := t.rows[o.Key]
	if recorded {
		switch en.row.State {
		case interceptor.StateHeld:
			e.movedBefore(t, en)
		case interceptor.StatePaying, interceptor.StateSettled:
			// A preimage is never wrong.
			en.moved = true
			en.open = &o
			e.answer(t, en)
			return
		case interceptor.StateResumed, interceptor.StateRefusedUnknown, interceptor.StateFailed, interceptor.StateLapsed:
			en.moved = true
		}
	}
	if ending || !e.near(o) {
		t.parked[o.Key] = o
		return
	}
	if recorded {
		if _, decided := en.row.Answer(); decided {
			en.open = &o
			e.answer(t, en)
			return
		}
	}
	e.resume(t, o)
}

// movedBefore: lnd, or the state of the database, shows that an HTLC was, or
// may have been, resumed, though its row says held.
func (e *Engine) movedBefore(t *tenure, en *entry) {
	if !en.moved {
		e.log.Error("lnd knows more of an HTLC than the database: it is only resumed",
			zap.Stringer("key", en.row.Key), zap.String("hash", en.row.Hash.Short()))
	}
	en.moved = true
	e.edit(t, en.row.Key, "moved", func(r interceptor.Row) (interceptor.Row, bool, error) {
		next, changed := r.Moved(e.cfg.Now())
		return next, changed, nil
	})
}

// lookForMoved finds undecided rows whose HTLC lnd has forwarded all the same: the
// database is an older copy, or another client had lnd's stream. lnd offers those
// again only when their link has flapped (under mu).
func (e *Engine) lookForMoved(t *tenure, l *interceptor.Listing) {
	for key, en := range t.rows {
		if !en.row.Undecided() || en.row.OnChain || en.row.Gone() {
			continue
		}
		h, listed := l.Htlc(key)
		if !listed || h.ForwardingChan == 0 && !en.moved {
			continue
		}
		if en.row.State == interceptor.StateHeld {
			e.movedBefore(t, en)
			continue
		}
		en.moved = true
	}
}

// leastPoll is about how long a settled HTLC takes to leave its channel.
const leastPoll = 50 * time.Millisecond

// waitToList waits until a listing is due: at once while offers wait or the
// session has no baseline, else after the poll interval, which a wake-up makes
// it look at again. A listing costs a large node a tenth of a second, so the
// one for an HTLC that is about to end follows the last after ten times as long
// as that took.
func (e *Engine) waitToList(ctx context.Context, t *tenure, took time.Duration) bool {
	last := time.Now()
	for ctx.Err() == nil {
		e.mu.Lock()
		poll := e.cfg.PollEvery
		switch {
		case len(t.waiting) > 0 || !t.class.Ready():
			poll = 0
		case t.soon:
			// No more than a tenth of lnd's time, also when it is so busy that a listing
			// takes long: what it is busy with may be what is about to end.
			poll = max(min(e.cfg.PollSoon, max(leastPoll, 10*took)), min(e.cfg.PollEvery, 10*took))
		case t.lingers():
			poll = min(poll, max(e.cfg.PollSoon, 10*took))
		case len(t.rows) == 0 && len(t.asking) == 0 && t.class.Remembered() == 0:
			poll = max(poll, time.Minute)
		}
		e.mu.Unlock()
		left := poll - time.Since(last)
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-t.list:
		case <-timer.C:
		}
		timer.Stop()
	}
	return false
}

// onListing takes a listing that was asked for at that time.
func (e *Engine) onListing(t *tenure, l *interceptor.Listing, asked time.Time) {
	if !t.class.Ready() {
		if t.foreign {
			t.foreign = false
			e.endGuards(t)
		}
		t.class.Baseline(l)
	}
	t.class.Seen(l)
	ready := make([]waitingOffer, 0, len(t.waiting))
	for key, w := range t.waiting {
		if l.Since(w.ticket) {
			ready = append(ready, w)
			delete(t.waiting, key)
		}
	}
	for key, o := range t.parked {
		ready = append(ready, waitingOffer{offer: o})
		delete(t.parked, key)
	}
	slices.SortFunc(ready, func(a, b waitingOffer) int { return cmp.Compare(a.offer.Seq, b.offer.Seq) })
	for _, w := range ready {
		e.onListed(t, w, l, asked)
	}
	t.class.Prune(l)
	e.lookForMoved(t, l)
	e.lookForEnded(t, l)
}
