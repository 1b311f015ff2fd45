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
// the client has spent what it had: such a channel counts as claimed.
func (e *Engine) forget(ctx context.Context, f opening.Forget) ([]opening.Event, error) {
	var use opening.ChannelUse
	err := e.whileDying(ctx, f.OpeningID, f.Outpoint, func() error {
		raw, err := e.fundingTx(ctx, f.Outpoint)
		if raw != nil {
			use = opening.ChannelUse{Moment: e.moment(), Claimed: true}
		} else if err == nil {
			use, err = e.forgetUnused(ctx, f.Outpoint)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	use.Last = true
	return []opening.Event{use}, nil
}

// whileDying makes lnd forget a channel. Nothing is handed on to its client until that has
// an answer, also while it is tried again.
func (e *Engine) whileDying(ctx context.Context, openingID string, op ln.Outpoint, forget func() error) error {
	inst, err := e.openings.Get(ctx, openingID)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.dying[op] = opening.PlanOf(inst.State).Client
	e.mu.Unlock()
	if err := forget(); err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.dying, op)
	e.mu.Unlock()
	return nil
}

// forgetUnused makes lnd forget a channel that nothing is on; otherwise it says what is.
// Nothing funds it.
func (e *Engine) forgetUnused(ctx context.Context, op ln.Outpoint) (opening.ChannelUse, error) {
	use, err := e.lastingUse(ctx, op)
	if err != nil || use.Claimed || use.Htlcs > 0 {
		return use, err
	}
	if err := e.node.Opener.AbandonChannel(ctx, op); err != nil {
		return use, err
	}
	use.Forgotten = true
	return use, nil
}

// useOf looks once. listed says that lnd has the channel.
func (e *Engine) useOf(ctx context.Context, op ln.Outpoint) (use opening.ChannelUse, listed bool, err error) {
	channels, err := e.node.Channels.ListChannels(ctx)
	use = opening.ChannelUse{Moment: e.moment()}
	if err != nil {
		return use, false, err
	}
	for _, c := range channels {
		if c.Outpoint != op {
			continue
		}
		listed = true
		use.Claimed = c.RemoteSat > c.PushSat
		for _, h := range c.Htlcs {
			use.Htlcs++
			if !h.Incoming && (use.Expiry == 0 || h.Expiry < use.Expiry) {
				use.Expiry = h.Expiry
			}
		}
	}
	return use, listed, nil
}

// unseenFor is how long an HTLC may be on its way into an active channel, in its mailbox
// or in a commitment that the peer has not revoked for, and be in no list of lnd's.
const unseenFor = 1500 * time.Millisecond

// lastingUse is useOf for a channel that is to be forgotten: an HTLC that lnd forwarded
// into it just now would be forgotten with it, and be stuck at its payer's end.
func (e *Engine) lastingUse(ctx context.Context, op ln.Outpoint) (opening.ChannelUse, error) {
	use, listed, err := e.useOf(ctx, op)
	if err != nil || use.Claimed || use.Htlcs > 0 || !listed {
		return use, err
	}
	if l, known := e.world.link(op); !known || !l.active {
		return use, nil
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
