package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// placedWithin is how long lnd may take to put an HTLC into a channel, or to
// refuse it, before the next is handed on all the same.
const placedWithin = 5 * time.Second

// gates let one payment at a time hand HTLCs on to each wallet.
type gates struct {
	mu sync.Mutex
	of map[ln.PubKey]*gate
}

type gate struct {
	free  chan struct{}
	users int
}

// enter waits until nobody else hands HTLCs on to the wallet. leave is called
// once.
func (g *gates) enter(ctx context.Context, client ln.PubKey) (leave func(), err error) {
	g.mu.Lock()
	if g.of == nil {
		g.of = make(map[ln.PubKey]*gate)
	}
	at := g.of[client]
	if at == nil {
		at = &gate{free: make(chan struct{}, 1)}
		at.free <- struct{}{}
		g.of[client] = at
	}
	at.users++
	g.mu.Unlock()
	done := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if at.users--; at.users == 0 {
			delete(g.of, client)
		}
	}
	select {
	case <-at.free:
		return func() { at.free <- struct{}{}; done() }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}

// enterQuietGate is for a forward, which lnd may put into any channel: also into
// the one for which a payment of ours to the wallet is on its way.
func (e *Engine) enterQuietGate(ctx context.Context, client ln.PubKey) (leave func(), err error) {
	for {
		if leave, err = e.gates.enter(ctx, client); err != nil {
			return nil, err
		}
		direct := e.directOf(client)
		if len(direct) == 0 {
			return leave, nil
		}
		all, err := e.node.Channels.ListChannels(ctx)
		if err == nil && len(e.underWay(direct, shownTo(client, all))) == 0 {
			return leave, nil
		}
		leave()
		if err == nil {
			err = pace.Pause(ctx, turnPoll)
		}
		if err != nil {
			return nil, err
		}
	}
}

// directOf are the spots of our own payments to a wallet.
func (e *Engine) directOf(client ln.PubKey) map[string]spot {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[string]spot)
	for id, sp := range e.spots {
		if sp.client == client && sp.direct {
			out[id] = sp
		}
	}
	return out
}

// handOn lets held HTLCs of one payment go to a wallet whose channels have room
// for them, all or, by ErrDecided, none; after a crash, the rest.
//
// Of the channels that seem to have room lnd takes one by chance and puts the
// HTLC into that link's queue, which it does not count as taken: two that come
// within milliseconds may choose the same channel, whose link refuses the second
// although another channel would take it. The payer hears of a temporary failure
// of this node, and has no other way. So where there is a choice each HTLC is
// handed on once lnd says that the one before is in a channel; where the wallet
// has one channel, there is none, and all go at once.
func (e *Engine) handOn(ctx context.Context, f jit.ResumeParts, forwards []Forward, reason string) error {
	client := e.walletOf(f.OfferID)
	if err := e.awaitForgotten(ctx, client); err != nil {
		return err
	}
	if e.world.channelsTo(client) <= 1 {
		return e.opt.Held.Resume(ctx, forwards, reason)
	}
	held, err := e.heldOf(ctx, f)
	if err != nil {
		return err
	}
	gone := slices.IndexFunc(held, func(h HtlcEvent) bool { return h.Kind == HtlcGone || h.OnChain })
	if gone >= 0 {
		return fmt.Errorf("%w: %s is no longer held off chain", ErrDecided, held[gone].Htlc.Key)
	}
	leave, err := e.enterQuietGate(ctx, client)
	if err != nil {
		return err
	}
	defer leave()
	if e.forgets(client) {
		return fmt.Errorf("%w: lnd is being made to forget a channel of the wallet's", ln.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard, ready, ended := make(chan ln.CircuitKey), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- e.node.Forwards.SubscribeHtlcEvents(ctx, func() { close(ready) }, func(ev ln.HtlcEvent) {
			select {
			case heard <- ev.Incoming:
			case <-ctx.Done():
			}
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		return fmt.Errorf("%w: lnd's HTLC events cannot be followed: %w", ln.ErrUnavailable, err)
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, forward := range forwards {
		if err := e.opt.Held.Resume(ctx, []Forward{forward}, reason); err != nil {
			return err
		}
		before := slices.ContainsFunc(held, func(h HtlcEvent) bool { return h.Htlc.Key == forward.Key && h.Resumed })
		if before {
			continue
		}
		placed, err := e.placed(ctx, forward.Key, heard, ended)
		if err != nil {
			return err
		}
		if !placed {
			e.log.Warn("lnd did not say in time where it put an HTLC; the next is handed on", zap.Stringer("key", forward.Key))
		}
	}
	return nil
}

func (e *Engine) walletOf(offerID string) ln.PubKey {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.spots[offerID].client
}

// forgottenWithin is how long awaitForgotten waits before the caller begins anew.
const forgottenWithin = 10 * time.Second

// awaitForgotten waits while lnd is made to forget channels of the wallet's: lnd forwards
// over any of a peer's, and over one that nothing funds the wallet would be paid with
// nothing.
func (e *Engine) awaitForgotten(ctx context.Context, client ln.PubKey) error {
	for until := e.opt.Now().Add(forgottenWithin); ; {
		if !e.forgets(client) {
			return nil
		}
		if !e.opt.Now().Before(until) {
			return fmt.Errorf("%w: lnd has not forgotten a channel of the wallet's that was given up", ln.ErrUnavailable)
		}
		if err := pace.Pause(ctx, turnPoll); err != nil {
			return err
		}
	}
}

// placed waits until lnd has said anything of the HTLC: that a channel has it,
// or that it failed. Where nothing can be heard any more, waiting would take the
// wallet's time for the rest: the caller begins anew with a new stream, and what
// was handed on is not waited for again.
func (e *Engine) placed(ctx context.Context, key ln.CircuitKey, heard <-chan ln.CircuitKey, ended <-chan error) (bool, error) {
	limit := time.NewTimer(placedWithin)
	defer limit.Stop()
	for {
		select {
		case k := <-heard:
			if k == key {
				return true, nil
			}
		case <-limit.C:
			return false, nil
		case err := <-ended:
			return false, fmt.Errorf("%w: lnd's HTLC events ended: %w", ln.ErrUnavailable, err)
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// resumeParts forwards the whole set or nothing of it: a set of which one part is
// gone, or on chain, would wait at the wallet for its rest.
func (e *Engine) resumeParts(ctx context.Context, f jit.ResumeParts) ([]jit.Event, error) {
	const reason = "the channel is ready: forwarded to the wallet"
	forwards := make([]Forward, 0, len(f.Keys))
	for i, key := range f.Keys {
		forward := Forward{Key: key}
		if i < len(f.ExtraFees) {
			forward.ExtraFeeMsat = f.ExtraFees[i]
		}
		forwards = append(forwards, forward)
	}
	err := e.handOn(ctx, f, forwards, reason)
	if err == nil {
		return []jit.Event{jit.PartsResumed{Moment: e.moment()}}, nil
	}
	if !errors.Is(err, ErrDecided) {
		return nil, err
	}
	e.log.Warn("not every part could be forwarded", zap.String("payment", f.OfferID), zap.Error(err))
	// An older copy of the database never knows what was forwarded.
	mayBeForwarded := e.opt.Restored
	if !mayBeForwarded {
		held, err := e.heldOf(ctx, f)
		if err != nil {
			return nil, err
		}
		mayBeForwarded = slices.ContainsFunc(held, func(h HtlcEvent) bool { return h.Resumed || h.Settled })
	}
	if !mayBeForwarded {
		return e.takeBack(ctx, f)
	}
	// Something of it was forwarded before: the rest must follow, and a part
	// that is gone has its own event.
	if err := e.awaitForgotten(ctx, e.walletOf(f.OfferID)); err != nil {
		return nil, err
	}
	for _, forward := range forwards {
		err := e.opt.Held.Resume(ctx, []Forward{forward}, reason)
		if err != nil && !errors.Is(err, ErrDecided) {
			return nil, err
		}
	}
	return []jit.Event{jit.PartsResumed{Moment: e.moment()}}, nil
}

// heldOf gives the interceptor's records of the set.
func (e *Engine) heldOf(ctx context.Context, f jit.ResumeParts) (held []HtlcEvent, err error) {
	inst, err := e.jits.Get(ctx, f.OfferID)
	if err != nil {
		return nil, err
	}
	hashes := make(map[ln.Hash]bool, 1)
	for _, p := range jit.PartsOf(inst.State) {
		if slices.Contains(f.Keys, p.Htlc.Key) {
			hashes[p.Htlc.Hash] = true
		}
	}
	for hash := range hashes {
		reports, err := e.opt.Held.Lookup(ctx, hash)
		if err != nil {
			return nil, err
		}
		for _, r := range reports {
			if slices.Contains(f.Keys, r.Htlc.Key) {
				held = append(held, r)
			}
		}
	}
	return held, nil
}

// takeBack ends a set of which nothing was forwarded and one part cannot be.
func (e *Engine) takeBack(ctx context.Context, f jit.ResumeParts) ([]jit.Event, error) {
	const text = "another part of the payment was taken back, or its channel went on chain"
	events := make([]jit.Event, 0, len(f.Keys))
	for _, key := range f.Keys {
		err := e.opt.Held.Decide(ctx, []ln.CircuitKey{key}, VerdictFail, "it cannot be forwarded whole: "+text)
		if err != nil && !errors.Is(err, ErrDecided) {
			return nil, err
		}
		events = append(events, jit.PartGone{Moment: e.moment(), Key: key, Text: text})
	}
	return events, nil
}
