package engine

import (
	"context"
	"errors"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws/hold"
)

const walletBack = "the wallet is back"

// deciding is a part that an effect decides. The effect's answer tells how it was decided,
// in the transaction that ends the effect, so that what the interceptor tells of it
// meanwhile is only kept, and afterwards is no news.
type deciding struct {
	answered      bool
	told, resumed bool
}

// toldBy says that an effect tells of a part's decision.
func (e *Engine) toldBy(key ln.CircuitKey, resumed bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, busy := e.deciding[key]
	if busy && !d.answered {
		d.told, d.resumed = true, resumed
	}
	return busy
}

// isDeciding says that an effect is at work on a part, and has not answered yet.
func (e *Engine) isDeciding(key ln.CircuitKey) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	d, busy := e.deciding[key]
	return busy && !d.answered && e.ctx.Err() == nil
}

// resume hands parts on together, unless lnd would fail them, or some of them cannot go.
func (e *Engine) resume(ctx context.Context, f hold.Resume) ([]hold.Event, error) {
	e.mu.Lock()
	online, ready := e.activeFor(f.Client, prepareAfter), e.ready(f.Keys, prepareAfter)
	e.mu.Unlock()
	var early hold.Event
	switch {
	case !online:
		early = hold.WalletGone{Moment: e.moment(), Keys: f.Keys}
	case !ready:
		early = hold.NotYet{Moment: e.moment(), Keys: f.Keys}
	}
	if early != nil {
		e.expectFewer(f.Client, 1)
		return []hold.Event{early}, nil
	}
	e.decides(f.Keys)
	err := e.handOver(ctx, f.Client, f.Keys)
	var otherwise *DecidedError
	switch {
	case err == nil:
		return e.answer(f.Keys, e.recorded(f.Keys, true)), nil
	case errors.Is(err, errAway):
		return e.answer(f.Keys, []hold.Event{hold.WalletGone{Moment: e.moment(), Keys: f.Keys}}), nil
	case errors.Is(err, errNotYet):
		return e.answer(f.Keys, []hold.Event{hold.NotYet{Moment: e.moment(), Keys: f.Keys}}), nil
	case errors.As(err, &otherwise) && !otherwise.Resumed:
		return e.answer(f.Keys, []hold.Event{hold.Unresumable{Moment: e.moment(), Keys: f.Keys, Key: otherwise.Key}}), nil
	case errors.Is(err, ErrDecided), errors.Is(err, ErrUnknown):
		return e.eachAlone(ctx, f.Keys, true, walletBack)
	}
	return nil, err
}

// decide answers for parts together. If one of them was decided otherwise each is answered
// for itself.
func (e *Engine) decide(ctx context.Context, keys []ln.CircuitKey, resume bool, reason string) ([]hold.Event, error) {
	e.decides(keys)
	err := e.opt.Holds.Decide(ctx, keys, resume, reason)
	switch {
	case err == nil:
		return e.answer(keys, e.recorded(keys, resume)), nil
	case errors.Is(err, ErrDecided), errors.Is(err, ErrUnknown):
		return e.eachAlone(ctx, keys, resume, reason)
	}
	return nil, err
}

func (e *Engine) eachAlone(ctx context.Context, keys []ln.CircuitKey, resume bool, reason string) ([]hold.Event, error) {
	var events []hold.Event
	for _, key := range keys {
		switch err := e.opt.Holds.Decide(ctx, []ln.CircuitKey{key}, resume, reason); {
		case err == nil:
			events = append(events, e.recorded([]ln.CircuitKey{key}, resume)...)
		case errors.Is(err, ErrDecided):
			// The interceptor tells how.
		case errors.Is(err, ErrUnknown):
			// Nothing will ever be told of it.
			events = append(events, hold.Gone{Moment: e.moment(), Key: key})
		default:
			return nil, err
		}
	}
	return e.answer(keys, events), nil
}

func (e *Engine) recorded(keys []ln.CircuitKey, resume bool) []hold.Event {
	m := e.moment()
	events := make([]hold.Event, 0, len(keys))
	for _, key := range keys {
		events = append(events, hold.Decided{Moment: m, Key: key, Resumed: resume})
	}
	return events
}

// decides notes that an effect is about to decide parts.
func (e *Engine) decides(keys []ln.CircuitKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range keys {
		if e.deciding[key] == nil {
			e.deciding[key] = &deciding{}
		}
	}
}

// answer ends an effect's attempt: with what it did, and what the interceptor told of the
// other parts meanwhile.
func (e *Engine) answer(keys []ln.CircuitKey, events []hold.Event) []hold.Event {
	m := e.moment()
	e.mu.Lock()
	defer e.mu.Unlock()
	over := make(map[ln.CircuitKey]bool, len(keys))
	for _, ev := range events {
		switch ev := ev.(type) {
		case hold.Decided:
			over[ev.Key] = true
		case hold.Gone:
			over[ev.Key] = true
		}
	}
	for _, key := range keys {
		d := e.deciding[key]
		switch {
		case d == nil:
		case over[key]:
			d.answered = true
		case d.told:
			d.answered = true
			events = append(events, hold.Decided{Moment: m, Key: key, Resumed: d.resumed})
		default:
			delete(e.deciding, key)
		}
	}
	return events
}
