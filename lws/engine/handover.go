package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// gatherFor bounds how long payments of a wallet that came wait for each other.
const gatherFor = 500 * time.Millisecond

// handover brings what waits for one wallet to the interceptor in one decision, and so to
// lnd in one moment. lnd signs for all HTLCs of a channel at every commitment: what comes
// in one moment is in few of them, what trickles in is in many, and was seen to take twice
// as long.
type handover struct {
	// expected are payments that were told that the wallet is there and are not among asks.
	expected int
	asks     []handedOver
}

type handedOver struct {
	keys []ln.CircuitKey
	done chan error
}

// handOver has a payment's parts forwarded, together with what else the wallet came for.
func (e *Engine) handOver(ctx context.Context, client ln.PubKey, keys []ln.CircuitKey) error {
	ask := handedOver{keys, make(chan error, 1)}
	e.mu.Lock()
	g := e.handing[client]
	if g == nil {
		g = &handover{}
		e.handing[client] = g
	}
	g.asks = append(g.asks, ask)
	g.expected = max(g.expected-1, 0)
	complete := g.expected == 0
	e.mu.Unlock()
	if complete {
		e.flush(client, g, false)
	}
	select {
	case err := <-ask.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// expectFewer: so many of a wallet's payments do not come after all.
func (e *Engine) expectFewer(client ln.PubKey, fewer int) {
	e.mu.Lock()
	g := e.handing[client]
	complete := false
	if g != nil {
		g.expected = max(g.expected-fewer, 0)
		complete = g.expected == 0
	}
	e.mu.Unlock()
	if complete {
		e.flush(client, g, false)
	}
}

// flush hands on what has gathered, in as few moments as the wallet's channels allow, once
// they count. Others may have come while that was waited for: the last of them hands on all,
// unless it is late already.
func (e *Engine) flush(client ln.PubKey, g *handover, late bool) {
	e.awaitSettled(client)
	e.mu.Lock()
	if g.expected > 0 && !late {
		e.mu.Unlock()
		return
	}
	asks := slices.DeleteFunc(g.asks, func(a handedOver) bool {
		unready := !e.ready(a.keys, settleFor)
		if unready {
			a.done <- errNotYet
		}
		return unready
	})
	g.asks = nil
	if e.handing[client] == g {
		delete(e.handing, client)
	}
	e.mu.Unlock()
	for len(asks) > 0 {
		n := e.wave(client, asks)
		e.decideTogether(asks[:n])
		handed := asks[:n]
		if asks = asks[n:]; len(asks) == 0 {
			return
		}
		e.settled(client, handed)
		e.mu.Lock()
		online := e.online(client)
		e.mu.Unlock()
		if !online {
			for _, a := range asks {
				a.done <- errAway
			}
			return
		}
	}
}

var (
	// errAway: the wallet went before its turn came.
	errAway = errors.New("the wallet has gone again")
	// errNotYet: a channel was active for too short.
	errNotYet = errors.New("its channel was active for a moment only")
)

// awaitSettled waits until all channels of a wallet that are active count, if they stay so.
func (e *Engine) awaitSettled(client ln.PubKey) {
	for waited := time.Duration(0); waited < patience && e.ctx.Err() == nil; {
		e.mu.Lock()
		var wait time.Duration
		now := e.opt.Now()
		for _, c := range e.channels {
			if c.Peer == client && c.Active {
				wait = max(wait, settleFor-now.Sub(c.since))
			}
		}
		e.mu.Unlock()
		if wait <= 0 {
			return
		}
		// Whatever the clock says.
		wait = min(wait, settleFor)
		e.pause(wait)
		waited += wait
	}
}

// decideTogether is one decision. If some of it was decided otherwise, each payment is for
// itself.
func (e *Engine) decideTogether(asks []handedOver) {
	var keys []ln.CircuitKey
	for _, a := range asks {
		keys = append(keys, a.keys...)
	}
	err := e.opt.Holds.Decide(e.ctx, keys, true, walletBack)
	alone := len(asks) > 1 && (errors.Is(err, ErrDecided) || errors.Is(err, ErrUnknown))
	for _, a := range asks {
		if alone {
			err = e.opt.Holds.Decide(e.ctx, a.keys, true, walletBack)
		}
		a.done <- err
	}
}

// wave is how many of them go in the next moment.
func (e *Engine) wave(client ln.PubKey, asks []handedOver) int {
	e.mu.Lock()
	channels := 0
	for _, c := range e.channels {
		if c.Peer == client {
			channels++
		}
	}
	payments := make([][]ln.Msat, 0, len(asks))
	for _, a := range asks {
		var parts []ln.Msat
		for _, part := range e.live[e.byKey[a.keys[0]]].Parts {
			if slices.Contains(a.keys, part.Key) {
				parts = append(parts, part.AmountMsat)
			}
		}
		payments = append(payments, parts)
	}
	e.mu.Unlock()
	if channels < 2 || len(asks) < 2 {
		return len(asks)
	}
	listed, err := e.opt.Node.ListChannels(e.ctx)
	if err != nil {
		return len(asks)
	}
	var rooms []lws.Room
	for _, c := range listed {
		if c.Peer == client && c.Active {
			rooms = append(rooms, roomOf(c))
		}
	}
	return lws.Wave(payments, rooms)
}

// roomOf leaves out what each side must keep. Who opened the channel pays for a larger
// commitment, and keeps that much again against a rise of its price: lnd does not say how
// much it counts for that.
func roomOf(c ln.Channel) lws.Room {
	most := c.LocalSat - min(c.LocalSat, c.LocalReserveSat)
	least := most
	if c.Initiator {
		least -= min(least, 3*c.CommitFeeSat)
	}
	return lws.Room{Least: inMsat(least), Most: inMsat(most)}
}

func inMsat(s ln.Sat) ln.Msat {
	m, err := s.Msat()
	if err != nil {
		return ln.MaxMsat
	}
	return m
}

const (
	waveEvery = 200 * time.Millisecond
	waveFor   = 5 * time.Second
)

// settled waits until lnd's balances show what was handed on, or no longer than lnd needs
// for that when all is well.
func (e *Engine) settled(client ln.PubKey, handed []handedOver) {
	waiting := make(map[ln.CircuitKey]bool)
	for _, a := range handed {
		for _, key := range a.keys {
			waiting[key] = true
		}
	}
	for waited := time.Duration(0); waited < waveFor && e.ctx.Err() == nil; waited += waveEvery {
		e.pause(waveEvery)
		listed, err := e.opt.Node.ListChannels(e.ctx)
		if err != nil {
			continue
		}
		if !onTheWay(listed, client, waiting) {
			return
		}
	}
}

// onTheWay: one of these came in and is not among what the wallet's channels hold.
func onTheWay(listed []ln.Channel, client ln.PubKey, keys map[ln.CircuitKey]bool) bool {
	there := make(map[ln.Hash]int)
	for _, c := range listed {
		for _, h := range c.Htlcs {
			if c.Peer == client && !h.Incoming {
				there[h.Hash]++
			}
		}
	}
	for _, c := range listed {
		for _, h := range c.Htlcs {
			if !h.Incoming || !keys[h.IncomingKey(c.ChanID)] {
				continue
			}
			if there[h.Hash]--; there[h.Hash] < 0 {
				return true
			}
		}
	}
	return false
}

// tellAll gives an event to many payments in one transaction, going on until it is stored.
// It says how many took it.
func (e *Engine) tellAll(ids []string, v hold.Event) (taken int) {
	for wait := 20 * time.Millisecond; e.ctx.Err() == nil; wait = min(2*wait, time.Second) {
		err := e.opt.DB.WriteTogether(e.ctx, func(ctx context.Context, tx *store.Tx) error {
			taken = 0
			for _, id := range ids {
				switch _, err := e.holds.SendTx(ctx, tx, id, v); {
				case err == nil:
					taken++
				case errors.Is(err, fsm.ErrIllegal), errors.Is(err, store.ErrNotFound):
					// It went another way meanwhile.
				default:
					return err
				}
			}
			return nil
		})
		if err == nil {
			return taken
		}
		if e.ctx.Err() == nil {
			e.log.Warn("an event could not be stored; trying again", zap.Int("holds", len(ids)), zap.String("event", v.EventName()), zap.Error(err))
		}
		e.pause(wait)
	}
	return 0
}
