package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/ballot"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

const (
	// sweepEvery is how often bounds on time are looked at.
	sweepEvery = 100 * time.Millisecond
	// tellers is how many asks the engine is told about at once: those that wait for
	// the database share its commits.
	tellers = 16
	// retryAfter keeps attempts apart while the engine cannot commit.
	retryAfter = 100 * time.Millisecond
)

// Run serves asks until ctx ends.
func (h *Hub) Run(ctx context.Context, registry interceptor.Registry, ledger interceptor.Ledger) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for range tellers {
		workers.Go(func() { h.tell(ctx, ledger) })
	}
	workers.Go(func() { pace.Each(ctx, sweepEvery, func(context.Context) { h.sweep() }) })
	for ctx.Err() == nil {
		err := registry.Register(ctx, interceptor.HandlerConfig{Name: interceptor.ProgramsHandler, OnAbsent: interceptor.AbsentHold})
		if err == nil {
			h.begin()
			err = registry.Attach(ctx, interceptor.ProgramsHandler, func(ev interceptor.Event) { h.event(ctx, ledger, ev) })
		}
		if ctx.Err() == nil && !errors.Is(err, interceptor.ErrUnavailable) {
			h.log.Warn("the interceptor does not take programs of others yet", zap.Error(err))
		}
		_ = pace.Pause(ctx, retryAfter)
	}
}

// begin: everything on record is about to be told of again.
func (h *Hub) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.asks {
		a.seen = a.stage == stageAsked
	}
}

// event follows the rows of what programs hold.
func (h *Hub) event(ctx context.Context, ledger interceptor.Ledger, ev interceptor.Event) {
	key := ev.Row.Key
	switch ev.Kind {
	case interceptor.EventOffered:
		h.held(ev.Row)
	case interceptor.EventDecided:
		h.Over(key)
	case interceptor.EventGone:
		h.Over(key)
		if err := ledger.Acknowledge(ctx, []ln.CircuitKey{key}); err != nil && ctx.Err() == nil {
			// It is told of again at the next attachment.
			h.log.Debug("an HTLC's end could not be acknowledged", zap.Stringer("key", key), zap.Error(err))
		}
	case interceptor.EventSynced:
		h.mu.Lock()
		defer h.mu.Unlock()
		for k, a := range h.asks {
			if !a.seen {
				h.forget(k)
			}
		}
	case interceptor.EventNearDeadline:
		// The interceptor fails it then; programs see auto_fail_height as with lnd.
	}
}

// held takes a row that says held: one that was just written, or one of an earlier
// process, whose ballot says who has yet to answer.
func (h *Hub) held(r interceptor.Row) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.State != interceptor.StateHeld {
		// A payment of ours has its hash: only that decides.
		h.forget(r.Key)
		return
	}
	a, ok := h.asks[r.Key]
	if !ok {
		b, err := ballot.Parse(r.Ballot)
		if err != nil {
			h.log.Error("who still has to answer about a held HTLC cannot be read: every program is asked",
				zap.Stringer("key", r.Key), zap.Error(err))
			var all []string
			for name := range h.programs {
				all = append(all, name)
			}
			b = ballot.New(all...)
		}
		a = &ask{
			offer: ln.InterceptedHtlc{
				Key: r.Key, Hash: r.Hash, IncomingMsat: r.IncomingMsat, OutgoingMsat: r.OutgoingMsat,
				IncomingExpiry: r.IncomingExpiry, OutgoingExpiry: r.OutgoingExpiry,
				OutgoingSCID: r.OutgoingSCID, AutoFailHeight: r.AutoFailHeight,
			},
			wire: h.early[r.Key], ballot: b, at: r.OfferedAt, told: r.Ballot,
		}
		delete(h.early, r.Key)
		h.asks[r.Key] = a
		for _, name := range b.Waiting() {
			h.expect(name).waiting++
		}
	}
	a.stage, a.seen = stageHeld, true
	h.askAll(a)
	h.mark(r.Key)
}

// expect gives a program that is to answer, known or not (under mu).
func (h *Hub) expect(name string) *program {
	p, known := h.programs[name]
	if !known {
		p = &program{Program: h.cfg.Stranger, since: h.cfg.Now()}
		p.Name = name
		h.programs[name] = p
	}
	return p
}

// sweep applies the bounds on time.
func (h *Hub) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	for key, a := range h.asks {
		for _, name := range a.ballot.Waiting() {
			h.bound(a, h.expect(name), now)
		}
		_, decided := a.ballot.Ruling()
		if decided || (a.stage == stageAsked && now.Sub(a.at) >= h.cfg.RecordAfter) {
			h.mark(key)
		}
	}
	for name, p := range h.programs {
		if p.conn == nil && !p.registered && p.waiting == 0 && p.channels == 0 {
			delete(h.programs, name)
		}
	}
}

// bound lets a program's policy speak that is away, or slow (under mu).
func (h *Hub) bound(a *ask, p *program, now time.Time) {
	from := a.at
	if p.since.After(from) {
		from = p.since
	}
	switch {
	case p.conn == nil && p.WhileAway != interceptor.AbsentHold && now.Sub(from) >= h.cfg.AwayGrace:
		h.castPolicy(a, p, p.WhileAway)
	case p.conn != nil && p.WhenSlow != interceptor.AbsentHold && now.Sub(from) >= p.AnswerWithin:
		h.castPolicy(a, p, p.WhenSlow)
		p.late++
		if p.lateInRow++; p.lateInRow >= maxLate {
			p.conn.end(errHanging)
		}
	}
}

// tell tells the engine about asks that changed, one at a time each.
func (h *Hub) tell(ctx context.Context, ledger interceptor.Ledger) {
	for {
		key, a := h.take()
		if a == nil {
			select {
			case <-ctx.Done():
				return
			case <-h.woken:
			}
			continue
		}
		again := h.tellOne(ctx, ledger, key, a)
		h.mu.Lock()
		a.busy = false
		if again && h.asks[key] == a {
			h.mark(key)
		}
		if len(h.dirty) > 0 {
			// Others passed over it while it was busy.
			wake(h.woken)
		}
		h.mu.Unlock()
		if again {
			_ = pace.Pause(ctx, retryAfter)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// take gives an ask that nobody is busy with.
func (h *Hub) take() (ln.CircuitKey, *ask) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range h.dirty {
		a := h.asks[key]
		if a == nil {
			delete(h.dirty, key)
			continue
		}
		if a.busy {
			continue
		}
		delete(h.dirty, key)
		a.busy = true
		if len(h.dirty) > 0 {
			wake(h.woken)
		}
		return key, a
	}
	return ln.CircuitKey{}, nil
}

// tellOne says whether to try again.
func (h *Hub) tellOne(ctx context.Context, ledger interceptor.Ledger, key ln.CircuitKey, a *ask) bool {
	h.mu.Lock()
	r, decided := a.ballot.Ruling()
	text, err := a.ballot.Text()
	st, told := a.stage, a.told
	if err == nil && st == stageHeld {
		a.told = text
	}
	h.mu.Unlock()
	switch {
	case err != nil:
		h.log.Error("a ballot cannot be written", zap.Stringer("key", key), zap.Error(err))
		return false
	case st == stageRecording:
		// Once it is on record, held marks it.
		return false
	case st == stageAsked:
		return h.tellAsked(key, a, r, decided, text)
	case !decided:
		if text == told {
			return false
		}
		if err = h.rulings.Note(ctx, key, text); err != nil {
			h.mu.Lock()
			a.told = told
			h.mu.Unlock()
		}
		return errors.Is(err, interceptor.ErrUnavailable)
	}
	err = ledger.Decide(ctx, []interceptor.Decision{{
		Key: key, Action: r.Action, Preimage: r.Preimage, Send: r.Send, Reason: ln.Clip(r.Reason, interceptor.MaxReason),
	}})
	if err == nil {
		return false // the event of the decision ends it
	}
	if errors.Is(err, interceptor.ErrUnavailable) {
		return true
	}
	h.log.Info("what programs said about a held HTLC came too late", zap.Stringer("key", key), zap.Error(err))
	onChain := errors.Is(err, interceptor.ErrOnChain) && r.Action != interceptor.ActionSettle
	if onChain || errors.Is(err, interceptor.ErrDecided) || errors.Is(err, interceptor.ErrUnknownRow) {
		h.Over(key)
	}
	return false
}

// tellAsked rules about an ask in memory, or has it recorded.
func (h *Hub) tellAsked(key ln.CircuitKey, a *ask, r interceptor.Ruling, decided bool, text string) bool {
	if !decided {
		r = interceptor.Ruling{Action: interceptor.ActionHold, Ballot: text, Reason: "programs have yet to answer"}
		h.mu.Lock()
		a.stage, a.told = stageRecording, text
		h.mu.Unlock()
	}
	err := h.rulings.Rule(key, r)
	switch {
	case err == nil && !decided:
		return false
	case errors.Is(err, interceptor.ErrLimit):
		// It cannot be held: whoever has not answered by now is too slow.
		h.mu.Lock()
		defer h.mu.Unlock()
		a.stage = stageAsked
		for _, name := range a.ballot.Waiting() {
			p := h.expect(name)
			policy := p.WhenSlow
			if policy == interceptor.AbsentHold {
				policy = interceptor.AbsentFail
			}
			h.castPolicy(a, p, policy)
			p.late++
		}
		return true
	case err != nil && !errors.Is(err, interceptor.ErrUnknownRow):
		h.log.Info("what programs said about a forward came too late", zap.Stringer("key", key), zap.Error(err))
	}
	h.Over(key)
	return false
}
