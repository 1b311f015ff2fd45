package engine

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

const (
	// turnWithin is how long a payment that does not get on keeps the others of
	// its wallet waiting.
	turnWithin = 20 * time.Second

	// turnPoll is how often lnd's balances are looked at while somebody waits:
	// lnd has no event for an HTLC that is there.
	turnPoll = 50 * time.Millisecond

	// callAgain is when who was called and did not come is called again.
	callAgain = time.Second
)

// shownTo is what lnd's balances show of the payments to a wallet, by hash.
func shownTo(client ln.PubKey, all []ln.Channel) map[ln.Hash]ln.Msat {
	shown := make(map[ln.Hash]ln.Msat)
	for _, c := range all {
		for _, h := range c.Htlcs {
			if c.Peer == client && !h.Incoming {
				shown[h.Hash] += h.AmtMsat
			}
		}
	}
	return shown
}

// rest is what lnd's balances do not show yet of what the payment takes.
func (sp spot) rest(shown map[ln.Hash]ln.Msat) ln.Msat {
	return sp.amount - min(sp.amount, shown[sp.hash])
}

// underWay are the payments that have chosen and are not in lnd's balances, but
// for those that wait for confirmations and those that do not get on.
func (e *Engine) underWay(spots map[string]spot, shown map[ln.Hash]ln.Msat) map[string]spot {
	out := make(map[string]spot)
	now := e.opt.Now()
	for id, sp := range spots {
		if !sp.since.IsZero() && !sp.far && now.Before(sp.since.Add(turnWithin)) && sp.rest(shown) > 0 {
			out[id] = sp
		}
	}
	return out
}

// line is who waits for a turn at one wallet, the first come first.
type line struct {
	ids    []string
	called string
	at     time.Time
}

// isNext says that nobody came before it. Callers hold e.mu.
func (e *Engine) isNext(client ln.PubKey, id string) bool {
	l := e.lines[client]
	return l == nil || e.first(l) == "" || l.ids[0] == id
}

// first forgets who no longer waits. Callers hold e.mu.
func (e *Engine) first(l *line) string {
	l.ids = slices.DeleteFunc(l.ids, func(id string) bool {
		_, jitHeld := e.waitingJit[id]
		_, wrapHeld := e.waitingWrap[id]
		_, chosen := e.spots[id]
		return chosen || !jitHeld && !wrapHeld
	})
	if len(l.ids) == 0 {
		return ""
	}
	return l.ids[0]
}

// lineUp has a payment called when it is its turn. Callers hold e.mu.
func (e *Engine) lineUp(client ln.PubKey, id string) {
	if len(e.lines) == 0 {
		e.spawn(e.callLines)
	}
	l := e.lines[client]
	if l == nil {
		l = &line{}
		e.lines[client] = l
	}
	if !slices.Contains(l.ids, id) {
		l.ids = append(l.ids, id)
	}
}

// callLines calls those who wait, at every wallet one after the other, until
// nobody does. One look at lnd's balances serves all wallets; a node to which
// that is much work is asked less often.
func (e *Engine) callLines() {
	wait := turnPoll
	for {
		select {
		case <-time.After(wait):
		case <-e.ctx.Done():
			return
		}
		began := time.Now()
		calls, busy, more := e.toCall(nil)
		if !more {
			return
		}
		if busy {
			all, err := e.node.Channels.ListChannels(e.ctx)
			if err != nil {
				e.log.Warn("lnd's channels could not be read while payments wait for their turn; trying again", zap.Error(err))
			} else {
				others, _, _ := e.toCall(all)
				calls = append(calls, others...)
			}
		}
		for _, call := range calls {
			call()
		}
		wait = max(turnPoll, 4*time.Since(began))
	}
}

// toCall is whose turn it is by what lnd shows; busy says that some wait for what
// it may not have been asked yet. Without anybody who waits there is no more to
// call, and whoever comes next begins anew.
func (e *Engine) toCall(all []ln.Channel) (calls []func(), busy, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for client, l := range e.lines {
		next := e.first(l)
		if next == "" {
			delete(e.lines, client)
			continue
		}
		if len(e.underWay(e.spotsLocked(client), shownTo(client, all))) > 0 {
			busy = true
			continue
		}
		if now := e.opt.Now(); l.called != next || !now.Before(l.at.Add(callAgain)) {
			l.called, l.at = next, now
			_, isJit := e.waitingJit[next]
			calls = append(calls, func() { e.call(next, isJit) })
		}
	}
	return calls, busy, len(e.lines) > 0
}

func (e *Engine) call(id string, isJit bool) {
	if isJit {
		tell(e, e.jits, id, jit.Event(jit.WalletOnline{Moment: e.moment()}))
		return
	}
	tell(e, e.wraps, id, wrap.Event(wrap.WalletOnline{Moment: e.moment()}))
}
