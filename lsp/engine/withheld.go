package engine

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// emptiesWithin is how long an HTLC that failed stays on a channel at most: until
// both sides have signed without it.
const emptiesWithin = 5 * time.Second

// askUse looks what is on a channel that nothing funds. lnd forwards over any
// channel of a peer, so that there may be more than the payment that it is for.
func (e *Engine) askUse(ctx context.Context, f opening.AskUse) ([]opening.Event, error) {
	for until := e.opt.Now().Add(emptiesWithin); ; {
		use, _, err := e.useOf(ctx, f.Outpoint)
		if err != nil {
			return nil, err
		}
		if use.Htlcs == 0 || !f.Emptying || !e.opt.Now().Before(until) {
			return []opening.Event{use}, nil
		}
		if err := pace.Pause(ctx, emptiesWithin/100); err != nil {
			return nil, err
		}
	}
}

// forget answers with what was on the channel when lnd was to forget it. A database that
// is an older copy may not know that the funding transaction was signed since, and that
// the client has spent what it had: such a channel counts as claimed. So does one that is
// being closed and in which the client has money.
func (e *Engine) forget(ctx context.Context, f opening.Forget) ([]opening.Event, error) {
	use := opening.ChannelUse{Moment: e.moment(), Claimed: true}
	err := e.whileDying(ctx, f.OpeningID, func(p opening.Plan) error {
		raw, err := e.fundingTx(ctx, f.Outpoint)
		if err != nil || raw != nil {
			return err
		}
		if use, err = e.lastingUse(ctx, f.Outpoint); err != nil || use.Claimed || use.Htlcs > 0 {
			return err
		}
		pending, err := e.node.Channels.PendingChannels(ctx)
		if err != nil {
			return err
		}
		for _, c := range pending {
			if c.Outpoint == f.Outpoint && c.Kind != ln.PendingOpen && c.RemoteSat > p.PushSat {
				use.Claimed = true
				return nil
			}
		}
		// A call that was cut off may be carried out later, when something has come over
		// the channel: until lnd answers one, nothing else that it says counts.
		for {
			if err = e.node.Opener.AbandonChannel(ctx, f.Outpoint); !errors.Is(err, ln.ErrUnavailable) {
				break
			}
			if err := pace.Pause(ctx, unseenFor); err != nil {
				return err
			}
		}
		use.Forgotten = err == nil
		return err
	})
	if err != nil {
		return nil, err
	}
	use.Last = true
	return []opening.Event{use}, nil
}

// whileDying makes lnd forget a channel. Nothing is handed on to its client meanwhile, and
// what is being handed on already is in a channel before it is looked at.
func (e *Engine) whileDying(ctx context.Context, openingID string, forget func(opening.Plan) error) error {
	inst, err := e.openings.Get(ctx, openingID)
	if err != nil {
		return err
	}
	plan := opening.PlanOf(inst.State)
	e.mu.Lock()
	e.dying[plan.Client]++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.dying[plan.Client]--; e.dying[plan.Client] == 0 {
			delete(e.dying, plan.Client)
		}
	}()
	leave, err := e.gates.enter(ctx, plan.Client)
	if err != nil {
		return err
	}
	leave()
	return forget(plan)
}

// forgets says that lnd is being made to forget a channel of the wallet's.
func (e *Engine) forgets(client ln.PubKey) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dying[client] > 0
}

// useOf looks once. lnd may not have the channel any more, or it may be down: nothing comes
// over it then.
func (e *Engine) useOf(ctx context.Context, op ln.Outpoint) (use opening.ChannelUse, active bool, err error) {
	channels, err := e.node.Channels.ListChannels(ctx)
	use = opening.ChannelUse{Moment: e.moment()}
	if err != nil {
		return use, false, err
	}
	for _, c := range channels {
		if c.Outpoint != op {
			continue
		}
		active = c.Active
		use.Claimed = c.RemoteSat > c.PushSat
		for _, h := range c.Htlcs {
			use.Htlcs++
			if !h.Incoming && (use.Expiry == 0 || h.Expiry < use.Expiry) {
				use.Expiry = h.Expiry
			}
		}
	}
	return use, active, nil
}

// unseenFor is how long an HTLC may be on its way into an active channel, in its mailbox
// or in a commitment that the peer has not revoked for, and be in no list of lnd's.
const unseenFor = 1500 * time.Millisecond

// lastingUse is useOf for a channel that is to be forgotten: an HTLC that lnd forwarded
// into it just now would be forgotten with it, and be stuck at its payer's end.
func (e *Engine) lastingUse(ctx context.Context, op ln.Outpoint) (opening.ChannelUse, error) {
	use, active, err := e.useOf(ctx, op)
	if err != nil || use.Claimed || use.Htlcs > 0 || !active {
		return use, err
	}
	if err := pace.Pause(ctx, unseenFor); err != nil {
		return use, err
	}
	use, _, err = e.useOf(ctx, op)
	return use, err
}

// releaseOpening has a withheld funding signed and published.
func (e *Engine) releaseOpening(ctx context.Context, openingID string) error {
	_, err := e.openings.Send(ctx, openingID, opening.Release{Moment: e.moment()})
	return e.passOn(err)
}

// carries says that a payment may go over the channel: it is funded, or nothing
// funds it and it was opened for this very payment, which does not want it gone.
func (e *Engine) carries(ctx context.Context, op ln.Outpoint, openingID string) (bool, error) {
	if e.isFunded(op) {
		return true, nil
	}
	if openingID == "" {
		return false, nil
	}
	inst, err := e.openings.Get(ctx, openingID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch s := inst.State.(type) {
	case opening.Withheld:
		return s.Outpoint == op && s.Withdrawn.IsZero(), nil
	case opening.Released:
		return s.Outpoint == op, nil
	case opening.Signed:
		return s.Outpoint == op && s.Withhold, nil
	}
	return false, nil
}

// published looks for a transaction that an older copy of the database holds for
// unsigned: lnd's wallet signs no coin that is spent.
func (e *Engine) published(ctx context.Context, op ln.Outpoint) []byte {
	raw, err := e.fundingTx(ctx, op)
	if err != nil {
		e.log.Warn("the wallet's transactions cannot be looked at", zap.Error(err))
	}
	return raw
}

// forgetBlocks is how far back fundingTx looks.
const forgetBlocks = 4_032

// fundingTx is what lnd's wallet has of the transaction that makes the output, nil if it
// has none.
func (e *Engine) fundingTx(ctx context.Context, op ln.Outpoint) ([]byte, error) {
	tip := e.world.tip()
	txs, err := e.node.Chain.Transactions(ctx, int32(tip-min(tip, forgetBlocks))) //nolint:gosec // a height
	if err != nil {
		return nil, err
	}
	for _, tx := range txs {
		if tx.TxID == op.TxID {
			return tx.RawTx, nil
		}
	}
	return nil, nil
}
