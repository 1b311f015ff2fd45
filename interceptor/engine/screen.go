package engine

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Screener speaks for programs of others, which have a say in forwards that no
// handler claims. Its methods run under the engine's lock: they neither block nor
// call the engine.
type Screener interface {
	// Screen is told of a forward that no RESUME can have moved; false lets it pass.
	// After true the engine waits for Rule, or says Over.
	Screen(o interceptor.Offer) bool
	// Again tells that lnd has offered one anew that is held on record.
	Again(o interceptor.Offer)
	// Over: lnd no longer has it, or it was forwarded after all.
	Over(key ln.CircuitKey)
}

// asked is a forward that programs of others were asked about. It has no row: like
// an ordinary forward it costs the database nothing when they let it pass.
type asked struct {
	// offer and gen are those of the offer that was verified last.
	offer interceptor.Offer
	gen   uint64
	since interceptor.Ticket
	at    time.Time
	// resume: they let it pass while lnd's stream was away. It is resumed once lnd
	// has offered it again, and a listing has shown that lnd still has it.
	resume bool
}

// screen asks programs of others about a new forward; false when none has a say
// (under mu).
func (e *Engine) screen(t *tenure, o interceptor.Offer) bool {
	if a, already := t.asking[o.Key]; already {
		a.offer, a.gen = o, t.gen
		if a.resume {
			e.letPass(t, a)
		}
		return true
	}
	if e.cfg.Screener == nil || !e.cfg.Screener.Screen(o) {
		return false
	}
	t.asking[o.Key] = &asked{offer: o, gen: t.gen, since: t.class.Begin(), at: e.cfg.Now()}
	return true
}

// unask forgets a forward that is no longer new (under mu).
func (e *Engine) unask(t *tenure, key ln.CircuitKey) {
	if _, ok := t.asking[key]; ok {
		delete(t.asking, key)
		e.cfg.Screener.Over(key)
	}
}

func (e *Engine) letPass(t *tenure, a *asked) {
	delete(t.asking, a.offer.Key)
	e.pass(t, a.offer)
}

// tooLateToPass: lnd may fail it in this moment, and a RESUME could meet a phantom.
func (e *Engine) tooLateToPass(o interceptor.Offer) bool {
	return e.height != 0 && e.height+1 >= o.AutoFailHeight
}

// Rule takes what programs of others say about a forward that Screen was told of.
// A plain Resume is sent as for any ordinary forward; everything else is recorded
// first. ErrUnknownRow: it is over, or on record already. ErrLimit: it cannot be
// held, and is as undecided as before.
func (e *Engine) Rule(key ln.CircuitKey, r interceptor.Ruling) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.t
	if t == nil {
		return unavailable("this process does not own the interceptor", nil)
	}
	a, ok := t.asking[key]
	switch {
	case !ok:
		return &interceptor.RowError{Key: key, Err: interceptor.ErrUnknownRow}
	case a.resume:
		return &interceptor.RowError{Key: key, Err: interceptor.ErrDecided}
	}
	if r.Action == interceptor.ActionResume && e.tooLateToPass(a.offer) {
		r = interceptor.Ruling{Action: interceptor.ActionFail, Reason: "programs let it pass when lnd was about to fail it by itself"}
	}
	if r.Action == interceptor.ActionResume && r.Send.IsZero() {
		if a.gen != t.gen || t.session == nil {
			a.resume = true
			return nil
		}
		e.letPass(t, a)
		return nil
	}
	return e.recordRuling(t, a, r)
}

// recordRuling makes a row of a forward that was asked about (under mu).
func (e *Engine) recordRuling(t *tenure, a *asked, r interceptor.Ruling) error {
	now := e.cfg.Now()
	row := e.newRow(a.offer, "", a.at)
	reason := ln.Clip(r.Reason, interceptor.MaxReason)
	switch r.Action {
	case interceptor.ActionHold:
		row.Handler, row.Ballot, row.Reason = interceptor.ProgramsHandler, r.Ballot, reason
		if why := e.mustRefuse(t, row, interceptor.HandlerConfig{}, true); why != "" {
			return &interceptor.RowError{Key: row.Key, Err: errors.Join(interceptor.ErrLimit, errors.New(why))}
		}
	case interceptor.ActionFail:
		row.Reason = reason
	case interceptor.ActionResume, interceptor.ActionSettle, interceptor.ActionRefuseUnknown:
		decided, _, err := row.Decide(interceptor.Decision{
			Key: row.Key, Action: r.Action, Preimage: r.Preimage, Send: r.Send, Reason: reason,
		}, now)
		if err != nil {
			// Answers are checked before: nothing is sent that could not be recorded.
			return e.recordRuling(t, a, interceptor.Ruling{Action: interceptor.ActionFail, Reason: err.Error()})
		}
		row = decided
		row.Version = 1
	}
	delete(t.asking, row.Key)
	t.recording[row.Key] = pendingRow{row: row, offer: a.offer, gen: a.gen, since: a.since}
	t.held.add(row)
	wake(t.hear)
	if r.Action == interceptor.ActionFail {
		t.refusals = append(t.refusals, row.Key)
		wake(t.refuse)
		return nil
	}
	e.record(t, row.Key)
	return nil
}

// again tells of another offer of what programs of others hold (under mu).
func (e *Engine) again(en *entry, o interceptor.Offer) {
	if e.cfg.Screener != nil && en.row.Handler == interceptor.ProgramsHandler && en.row.State == interceptor.StateHeld {
		e.cfg.Screener.Again(o)
	}
}

// Note records what programs of others have said so far about what they hold.
func (e *Engine) Note(ctx context.Context, key ln.CircuitKey, ballot string) error {
	return e.submit(ctx, []ln.CircuitKey{key}, func(r interceptor.Row) (interceptor.Row, bool, error) {
		if r.State != interceptor.StateHeld || r.Ballot == ballot {
			return r, false, nil
		}
		r.Ballot = ballot
		r.Version++
		return r, true, nil
	})
}

// endScreening forgets what was asked with the tenure: a successor finds those
// HTLCs inherited and without a row, and resumes them (under mu).
func (e *Engine) endScreening(t *tenure) {
	if n := len(t.asking); n > 0 {
		e.log.Info("programs had yet to answer about forwards when the tenure ended", zap.Int("htlcs", n))
	}
	for key := range t.asking {
		e.unask(t, key)
	}
}
