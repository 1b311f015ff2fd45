package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/opening"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
)

// policies are the channels of which lnd's graph and lnd's link are known to have the
// policy that they should: whatever link lnd builds later takes it from the graph, so
// that it need not be set again, by no later process either. The graph alone proves
// nothing: a link that was built before the graph had the policy keeps lnd's fees.
//
// To set one costs lnd a walk through all its channels, and while it walks, an lnd on
// bbolt can come to a stop for good (docs/runbook.md, faults of lnd).
type policies struct {
	mu    sync.Mutex
	known map[ln.Outpoint]bool
	// noting are those that become known unless the link that they have goes away right now.
	noting map[ln.Outpoint]link
	// turns bounds the channels that are looked at at once for no payment, and turn those
	// whose policy is set: lnd takes one after the other.
	turns, turn chan struct{}
}

// policiesAtOnce is that bound: after a start every channel is looked at.
const policiesAtOnce = 4

func newPolicies() policies {
	return policies{known: make(map[ln.Outpoint]bool), noting: make(map[ln.Outpoint]link), turns: make(chan struct{}, policiesAtOnce), turn: make(chan struct{}, 1)}
}

func (p *policies) knows(op ln.Outpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[op]
}

// has says that the channel has its policy, for good or as long as it has this link.
func (p *policies) has(op ln.Outpoint, now link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	with, noting := p.noting[op]
	return p.known[op] || noting && with.lost == now.lost
}

// begin says that the caller is the one to note the channel as long as it has this link.
func (p *policies) begin(op ln.Outpoint, with link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, noting := p.noting[op]; p.known[op] || noting && now.lost == with.lost {
		return false
	}
	p.noting[op] = with
	return true
}

// end is what came of it; another link's turn is left alone.
func (p *policies) end(op ln.Outpoint, with link, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, noting := p.noting[op]; !noting || now.lost != with.lost {
		return
	}
	delete(p.noting, op)
	if known {
		p.known[op] = true
	}
}

func (p *policies) recall(op ln.Outpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[op] = true
}

// doubt forgets a channel, and says whether it was known.
func (p *policies) doubt(op ln.Outpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.known[op]
	delete(p.known, op)
	return known
}

const (
	// ownPolicyWithin is how long lnd may take to enter its own policy of a fresh
	// channel into its graph; it was seen to take a second.
	ownPolicyWithin = 3 * time.Second
	// firstPaymentWithin is how long the payment takes that a channel was opened for.
	firstPaymentWithin = 2 * time.Second
	// firstPolicyWithin is the same as ownPolicyWithin where nobody waits for it.
	firstPolicyWithin = time.Minute
	// heardWithin is how long lnd's word that a link went away may be on its way.
	heardWithin = 2 * time.Second
)

// policyOf is how the channel of an open forwards: for no fee, unless it was
// ordered to be announced.
func (e *Engine) policyOf(openingID string) ln.ChannelPolicy {
	p := ln.ChannelPolicy{TimeLockDelta: e.cfg.CltvDelta}
	if inst, err := e.openings.Get(e.ctx, openingID); err == nil {
		plan := opening.PlanOf(inst.State)
		p.BaseFeeMsat, p.FeePPM = plan.BaseFeeMsat, plan.FeePPM
	}
	return p
}

// openedByUs: an open of ours named the policy.
func (e *Engine) openedByUs(op ln.Outpoint) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ours := e.byOutpoint[op]
	return ours
}

// tendPolicy looks at the policy of a channel of ours that is active, for no payment yet.
// While the first one of a fresh channel is on its way, it has lnd and the database for itself.
func (e *Engine) tendPolicy(op ln.Outpoint, l link, openingID string) {
	if !l.rebuilt && pace.Pause(e.ctx, firstPaymentWithin) != nil {
		return
	}
	select {
	case e.policies.turns <- struct{}{}:
		defer func() { <-e.policies.turns }()
	case <-e.ctx.Done():
		return
	}
	// Whether its link stays is seen only while channels are followed.
	if e.world.current(e.ctx) != nil {
		return
	}
	want := e.policyOf(openingID)
	var err error
	if l.rebuilt {
		err = e.ensurePolicy(e.ctx, op, l.chanID, want)
	} else {
		err = e.awaitPolicy(e.ctx, op, l, want)
	}
	if err != nil && e.ctx.Err() == nil {
		e.log.Warn("the forwarding policy of a channel could not be restored", zap.Stringer("outpoint", op), zap.Error(err))
	}
}

// awaitPolicy waits for lnd to enter the policy of a channel that was opened under our
// eyes. Its first link has the policy that the open named.
func (e *Engine) awaitPolicy(ctx context.Context, op ln.Outpoint, first link, want ln.ChannelPolicy) error {
	has, err := e.graphHas(ctx, first.chanID, want, firstPolicyWithin)
	if err != nil && !errors.Is(err, ln.ErrNotFound) {
		return err
	}
	if has {
		e.notePolicy(op, first)
	}
	return nil
}

// ensurePolicy sees to it that the channel forwards for the fee that it was
// opened with and with our CLTV delta. While lnd is about to make the edge itself it is not made here:
// of two that are made at once one can lose the peer's policy. That the graph has the policy says
// nothing of a link that is older, so it is set once in any case: that reaches the link.
func (e *Engine) ensurePolicy(ctx context.Context, op ln.Outpoint, chanID ln.SCID, want ln.ChannelPolicy) error {
	has, err := e.graphHas(ctx, chanID, want, ownPolicyWithin)
	if err != nil && !errors.Is(err, ln.ErrNotFound) {
		return err
	}
	if has && e.policies.knows(op) {
		return nil
	}
	select {
	case e.policies.turn <- struct{}{}:
		defer func() { <-e.policies.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ln.ErrUnavailable, ctx.Err())
	}
	before, _ := e.world.link(op)
	switch {
	case !has && e.policies.doubt(op):
		// A link may be built beside the change, and keep what the graph had.
		if err := e.deletePolicies(ctx, op); err != nil {
			return err
		}
	case e.policies.has(op, before):
		return nil
	}
	if err := e.node.Channels.SetPolicy(ctx, op, want); err != nil {
		return err
	}
	e.notePolicy(op, before)
	return nil
}

// graphHas says whether lnd's graph has this policy of ours, which lnd is given time to enter.
// That the channel is disabled there is another matter: lnd does that while its peer is away.
func (e *Engine) graphHas(ctx context.Context, chanID ln.SCID, want ln.ChannelPolicy, within time.Duration) (bool, error) {
	step := within / 30
	has, err := e.node.Channels.OwnPolicy(ctx, chanID, e.cfg.Self)
	for wait := 0 * time.Second; errors.Is(err, ln.ErrNotFound) && wait < within; wait += step {
		if err := pace.Pause(ctx, step); err != nil {
			return false, fmt.Errorf("%w: %w", ln.ErrUnavailable, err)
		}
		has, err = e.node.Channels.OwnPolicy(ctx, chanID, e.cfg.Self)
	}
	return err == nil && has.BaseFeeMsat == want.BaseFeeMsat && has.FeePPM == want.FeePPM && has.TimeLockDelta == want.TimeLockDelta, err
}

// notePolicy notes that graph and link have the channel's policy, unless the link of
// before was not there yet or went away meanwhile: the one that took its place may have been
// built beside that. What cannot be stored is set again by the next process.
func (e *Engine) notePolicy(op ln.Outpoint, before link) {
	if !before.active || !e.policies.begin(op, before) {
		return
	}
	e.spawn(func() {
		known := pace.Pause(e.ctx, heardWithin) == nil && e.world.stayed(op, before)
		defer func() { e.policies.end(op, before, known) }()
		if !known {
			return
		}
		err := e.db.WriteFenced(e.ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
			return lspdb.New(tx).PutChannelPolicy(ctx, op.String())
		})
		if err != nil && e.ctx.Err() == nil {
			e.log.Warn("that a channel has its forwarding policy could not be stored", zap.Stringer("outpoint", op), zap.Error(err))
		}
	})
}

// loadPolicies recalls what earlier processes noted.
func (e *Engine) loadPolicies(ctx context.Context) error {
	var names []string
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		names, err = lspdb.New(tx).ChannelPolicies(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("list channels whose policy is set: %w", err)
	}
	for _, name := range names {
		op, err := ln.ParseOutpoint(name)
		if err != nil {
			return fmt.Errorf("list channels whose policy is set: %w", err)
		}
		e.policies.recall(op)
	}
	return nil
}

// forgetPolicies drops channels that lnd lists no more. The world must be known.
func (e *Engine) forgetPolicies(ctx context.Context) error {
	var closed []ln.Outpoint
	e.policies.mu.Lock()
	for op := range e.policies.known {
		if _, open := e.world.link(op); !open {
			closed = append(closed, op)
			delete(e.policies.known, op)
		}
	}
	e.policies.mu.Unlock()
	if len(closed) == 0 {
		return nil
	}
	return e.deletePolicies(ctx, closed...)
}

func (e *Engine) deletePolicies(ctx context.Context, ops ...ln.Outpoint) error {
	return e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error {
		for _, op := range ops {
			if err := lspdb.New(tx).DeleteChannelPolicy(ctx, op.String()); err != nil {
				return err
			}
		}
		return nil
	})
}
