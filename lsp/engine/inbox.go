package engine

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// inbox is what the interceptor reported of HTLCs, in its order, until it is
// taken. What a process that dies had in it is reported again: nothing in it is
// acknowledged, and no HTLC in it is decided.
type inbox struct {
	mu      sync.Mutex
	waiting []HtlcEvent
	woken   chan struct{}
}

func (i *inbox) put(ev HtlcEvent) {
	i.mu.Lock()
	i.waiting = append(i.waiting, ev)
	i.mu.Unlock()
	select {
	case i.woken <- struct{}{}:
	default:
	}
}

func (i *inbox) all() []HtlcEvent {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := i.waiting
	i.waiting = nil
	return out
}

// paymentsAtOnce bounds how many payments take their HTLCs at a time.
const paymentsAtOnce = 64

// takeHtlcs gives payments what the interceptor reported. What came meanwhile is
// taken together: that of one payment in its order, that of several beside each
// other, so that they share transactions.
func (e *Engine) takeHtlcs(ctx context.Context) {
	for {
		select {
		case <-e.htlcs.woken:
		case <-ctx.Done():
			return
		}
		var group errgroup.Group
		group.SetLimit(paymentsAtOnce)
		for _, events := range byRoute(e.htlcs.all()) {
			group.Go(func() error {
				e.takeInOrder(events)
				return nil
			})
		}
		_ = group.Wait() // nothing fails
	}
}

// byRoute parts events by the short channel id that they came over, each in their
// order.
func byRoute(events []HtlcEvent) [][]HtlcEvent {
	var out [][]HtlcEvent
	at := make(map[ln.SCID]int)
	for _, ev := range events {
		n, ok := at[ev.Htlc.OutgoingSCID]
		if !ok {
			n = len(out)
			at[ev.Htlc.OutgoingSCID], out = n, append(out, nil)
		}
		out[n] = append(out[n], ev)
	}
	return out
}

// takeInOrder takes the events of one route; offers that follow one another are
// one event of the payment's.
func (e *Engine) takeInOrder(events []HtlcEvent) {
	for _, ev := range events {
		e.countStaying(ev)
	}
	for len(events) > 0 {
		n := 0
		var offered []HtlcEvent
		for n < len(events) && n < mostOffered && events[n].Kind == HtlcOffered && !events[n].OnChain {
			offered = append(offered, events[n])
			n++
		}
		if n == 0 {
			e.onHtlc(events[0])
			events = events[1:]
			continue
		}
		e.partsOffered(offered)
		events = events[n:]
	}
}

// mostOffered bounds how many parts of a payment are taken at a time: strangers
// can send as many as lnd lets them.
const mostOffered = 50
