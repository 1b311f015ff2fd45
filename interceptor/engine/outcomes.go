package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// eventLoop listens to what lnd says of forwards. The stream has no replay, so
// it makes the answer quick, and nothing rests on hearing it. It listens only
// while there are rows: lnd tells of every forward several times, and ordinary
// ones would pay for it.
func (e *Engine) eventLoop(t *tenure) {
	for attempt := 0; e.waitForRows(t); attempt++ {
		ctx, cancel := context.WithCancel(t.ctx)
		var watch sync.WaitGroup
		watch.Go(func() {
			e.waitForNoRows(ctx, t)
			cancel()
		})
		err := e.cfg.Outcomes.SubscribeHtlcEvents(ctx, func() { attempt = 0 }, func(ev ln.HtlcEvent) {
			var hint interceptor.Outcome
			switch {
			case ev.Kind == ln.HtlcSettled, ev.Kind == ln.HtlcFinal && ev.Settled:
				hint = interceptor.OutcomeSettled
			case ev.Kind == ln.HtlcForwardFail, ev.Kind == ln.HtlcLinkFail, ev.Kind == ln.HtlcFinal:
				hint = interceptor.OutcomeFailed
			default:
				return
			}
			e.hint(t, ev.Incoming, hint, ev.Kind == ln.HtlcFinal)
		})
		idle := ctx.Err() != nil
		cancel()
		watch.Wait()
		if !idle && t.ctx.Err() == nil {
			e.log.Debug("HTLC events ended", zap.Error(err))
			_ = pace.Pause(t.ctx, e.cfg.Backoff(min(attempt+1, 20)))
		}
	}
}

// waitForRows waits until an HTLC is, or is about to be, on record; false once
// the tenure is over.
func (e *Engine) waitForRows(t *tenure) bool {
	for t.ctx.Err() == nil {
		if e.hasRows(t) {
			return true
		}
		select {
		case <-t.ctx.Done():
		case <-t.hear:
		}
	}
	return false
}

// waitForNoRows waits until nothing was on record for a whole poll interval.
func (e *Engine) waitForNoRows(ctx context.Context, t *tenure) {
	for idle := 0; idle < 2 && ctx.Err() == nil; {
		_ = pace.Pause(ctx, e.cfg.PollEvery)
		if idle++; e.hasRows(t) {
			idle = 0
		}
	}
}

func (e *Engine) hasRows(t *tenure) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(t.recording) > 0 {
		return true
	}
	for _, en := range t.rows {
		if !en.row.Gone() {
			return true
		}
	}
	return false
}

// hint takes lnd's word on an HTLC. A settlement and a final event are true for
// good. Any other failure is told when the incoming link takes it up in memory,
// before any commitment: an lnd that dies then offers the HTLC again, as if
// nothing had been said of it.
func (e *Engine) hint(t *tenure, key ln.CircuitKey, outcome interceptor.Outcome, final bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	en, ok := t.rows[key]
	if !ok || en.certain && !final {
		return
	}
	en.hint, en.certain = outcome, final || outcome == interceptor.OutcomeSettled
	if final && !en.listed() || en.certain && en.row.Gone() {
		// On chain no listing will ever tell that it is gone.
		e.gone(t, en, outcome)
		return
	}
	t.soon = true
	wake(t.list)
}

// listed: listings can tell when the HTLC is gone.
func (en *entry) listed() bool { return !en.row.OnChain && !en.unlisted }

// lookForEnded finds rows whose HTLC lnd no longer has (under mu).
func (e *Engine) lookForEnded(t *tenure, l *interceptor.Listing) {
	t.soon = false
	look := false
	for key, p := range t.recording {
		if l.Absent(key) && l.Since(p.since) {
			e.drop(t, key)
		}
	}
	for key, a := range t.asking {
		if l.Absent(key) && l.Since(a.since) {
			e.unask(t, key)
		}
	}
	for key, en := range t.rows {
		if en.row.Gone() {
			look = look || en.row.Outcome == interceptor.OutcomeUnknown
			continue
		}
		if en.unlisted = !l.Channel(key.ChanID) && l.Since(en.since); en.unlisted {
			if en.certain {
				e.gone(t, en, en.hint)
			}
			continue
		}
		if en.hint != interceptor.OutcomeUnknown || endsSoon(en.row, e.cfg.Now()) {
			t.soon = true
		}
		if !l.Absent(key) || !l.Since(en.since) {
			continue
		}
		if en.row.State == interceptor.StatePaying {
			e.log.Error("lnd no longer has an HTLC that a payment of ours was made for",
				zap.Stringer("key", key), zap.String("hash", en.row.Hash.Short()), zap.Stringer("amount", en.row.IncomingMsat))
		}
		e.gone(t, en, e.implied(en))
		look = true
	}
	if look {
		wake(t.ends)
	}
}

// endsSoon: a failed or settled HTLC leaves the channel within a round trip,
// while the peer is there.
func endsSoon(r interceptor.Row, now time.Time) bool {
	return (r.State == interceptor.StateFailed || r.State == interceptor.StateSettled) &&
		now.Sub(r.DecidedAt) < time.Minute
}

// gone records the end of an HTLC (under mu).
func (e *Engine) gone(t *tenure, en *entry, outcome interceptor.Outcome) {
	en.open = nil
	en.inquired = time.Time{}
	e.edit(t, en.row.Key, "gone "+string(outcome), func(r interceptor.Row) (interceptor.Row, bool, error) {
		next, changed := r.Vanish(outcome, e.cfg.Now())
		return next, changed, nil
	})
}

// implied is the outcome that follows from what is known here, or unknown.
// lnd's certain word comes first; then what we decided, where nothing else can
// have happened to the HTLC.
func (e *Engine) implied(en *entry) interceptor.Outcome {
	if en.certain {
		return en.hint
	}
	switch r := en.row; r.State {
	case interceptor.StateFailed:
		if !en.moved {
			return interceptor.OutcomeFailed
		}
	case interceptor.StateHeld:
		// Never resumed and never settled: commits come before answers.
		if !en.moved && !(en.inherited && e.cfg.DistrustRows) {
			return interceptor.OutcomeFailed
		}
	case interceptor.StateSettled:
		// Unless lnd's auto-fail came first.
		if e.height != 0 && e.height < r.AutoFailHeight {
			return interceptor.OutcomeSettled
		}
	case interceptor.StatePaying, interceptor.StateResumed, interceptor.StateRefusedUnknown, interceptor.StateLapsed:
	}
	return interceptor.OutcomeUnknown
}

// outcomeLoop looks up how HTLCs ended. lnd may take long to answer, and no deadline
// waits for it.
func (e *Engine) outcomeLoop(t *tenure) {
	for {
		timer := time.NewTimer(e.cfg.PollSoon)
		select {
		case <-t.ctx.Done():
			timer.Stop()
			return
		case <-t.ends:
		case <-timer.C:
		}
		timer.Stop()
		e.finishGone(t)
	}
}

// askFor is for how long lnd is asked how an HTLC ended that is gone. What it does
// not know after a day, it will not know.
const askFor = 24 * time.Hour

// askAgain is how long after the last time lnd is asked about an HTLC that has been
// gone for so long: soon in the first minute, then ever more rarely.
func askAgain(soon, gone time.Duration) time.Duration {
	if gone <= time.Minute {
		return soon
	}
	return max(time.Minute, gone/2)
}

// finishGone looks up how HTLCs ended that are gone without a known outcome,
// and asks about those on chain, or whose channel is, which costs lnd little. The
// others may cost it all of its history since their offer.
func (e *Engine) finishGone(t *tenure) {
	now := e.cfg.Now()
	var ask []interceptor.Row
	e.mu.Lock()
	for _, en := range t.rows {
		unknown := en.row.Gone() && en.row.Outcome == interceptor.OutcomeUnknown
		onChain := !en.listed() && !en.row.Gone()
		if !unknown && !onChain {
			continue
		}
		wait := time.Minute
		if unknown {
			gone := now.Sub(en.row.GoneAt)
			if gone > askFor && !en.inquired.IsZero() {
				continue
			}
			wait = askAgain(e.cfg.PollSoon, gone)
		}
		if now.Sub(en.inquired) >= wait {
			en.inquired = now
			ask = append(ask, en.row)
		}
	}
	e.mu.Unlock()
	for _, r := range ask {
		outcome, err := e.lookUp(t.ctx, r)
		if err != nil {
			e.log.Debug("how an HTLC ended cannot be looked up", zap.Stringer("key", r.Key), zap.Error(err))
			continue
		}
		e.mu.Lock()
		if en, ok := t.rows[r.Key]; ok {
			if outcome == interceptor.OutcomeUnknown {
				outcome = hearsay(en, now)
			}
			if outcome == interceptor.OutcomeUnknown && e.expiredOnChain(en) {
				outcome = interceptor.OutcomeFailed
			}
			if outcome != interceptor.OutcomeUnknown {
				at := en.inquired
				e.gone(t, en, outcome)
				en.inquired = at
			}
		}
		e.mu.Unlock()
	}
}

// historyBy is when lnd has written a settled forward into its history, with
// room: it does every 15 s.
const historyBy = 45 * time.Second

// hearsay is for an lnd that keeps no resolutions: the HTLC is gone, its history
// has no settlement although it would have by now, and the last that lnd said
// of it, after its last offer, was a failure.
func hearsay(en *entry, now time.Time) interceptor.Outcome {
	if en.hint == interceptor.OutcomeFailed && en.row.Gone() && now.Sub(en.row.GoneAt) > historyBy {
		return interceptor.OutcomeFailed
	}
	return interceptor.OutcomeUnknown
}

// expiredFor is how long after its expiry an HTLC on chain that was never decided counts
// as its payer's, if lnd keeps no resolutions: a day, in blocks.
const expiredFor = 144

// expiredOnChain: nobody but the payer can have it (under mu).
func (e *Engine) expiredOnChain(en *entry) bool {
	return en.row.OnChain && en.row.State == interceptor.StateHeld && !en.moved && !(en.inherited && e.cfg.DistrustRows) &&
		e.height >= en.row.IncomingExpiry+expiredFor
}

// lookUp asks lnd's records. Only a settled forward is in its history, and an
// absent one proves nothing: lnd writes the history late and may lose its end.
func (e *Engine) lookUp(ctx context.Context, r interceptor.Row) (interceptor.Outcome, error) {
	res, err := e.cfg.Outcomes.LookupResolution(ctx, r.Key)
	if err == nil && res.Known {
		if res.Settled {
			return interceptor.OutcomeSettled, nil
		}
		return interceptor.OutcomeFailed, nil
	}
	if !r.Gone() {
		return interceptor.OutcomeUnknown, err
	}
	const page = 1000
	since := r.OfferedAt.Add(-time.Minute)
	for offset := uint32(0); ; offset += page {
		forwards, herr := e.cfg.Outcomes.ForwardingHistory(ctx, since, offset, page)
		if herr != nil {
			return interceptor.OutcomeUnknown, errors.Join(err, herr)
		}
		for _, f := range forwards {
			if f.HasIndexes && f.Incoming == r.Key {
				return interceptor.OutcomeSettled, nil
			}
		}
		if len(forwards) < page {
			return interceptor.OutcomeUnknown, nil
		}
	}
}
