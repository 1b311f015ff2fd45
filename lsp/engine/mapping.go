package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// mapChannel makes the offer's SCID lead to the channel. A link that lnd built
// itself, rather than through an open of ours that this process saw, may carry lnd's
// default fees, which no invoice of ours mentions: its policy is set first.
func (e *Engine) mapChannel(ctx context.Context, f jit.MapChannel) ([]jit.Event, error) {
	failed := func(text string) ([]jit.Event, error) {
		return []jit.Event{jit.MapFailed{Moment: e.moment(), Via: f.Via, Text: text}}, nil
	}
	// Only the payment that a channel with a withheld funding was opened for may
	// use it.
	own := ""
	if f.Withheld {
		own = f.OpeningID
	}
	err := e.mapAlias(ctx, f)
	switch {
	case errors.Is(err, ln.ErrUnavailable):
		return nil, err
	case err != nil:
		return failed(err.Error())
	}
	op, l, active, err := e.activeSoon(ctx, f.Via)
	if err != nil {
		return nil, err
	}
	if !active {
		return failed("the channel is not active")
	}
	if ok, err := e.carries(ctx, op, own); err != nil {
		return nil, err
	} else if !ok {
		return failed("the channel's funding transaction is in doubt")
	}
	if l.rebuilt || !e.openedByUs(op) {
		if err := e.ensurePolicy(ctx, op, f.Via, ln.ChannelPolicy{TimeLockDelta: e.cfg.CltvDelta}); err != nil {
			if errors.Is(err, ln.ErrUnavailable) {
				return nil, err
			}
			return failed(err.Error())
		}
	}
	if there, err := e.payerSoon(ctx, f.OfferID); err != nil {
		return nil, err
	} else if !there {
		return []jit.Event{jit.PayerAway{Moment: e.moment(), Via: f.Via}}, nil
	}
	return []jit.Event{jit.Mapped{Moment: e.moment(), Via: f.Via}}, nil
}

// activeWithin is how long a channel that was active a moment ago may be none: its
// wallet has just connected, and lnd's word of it and its list differ for a while.
const activeWithin = 5 * time.Second

// activeSoon waits, not for long, until a channel is active.
func (e *Engine) activeSoon(ctx context.Context, chanID ln.SCID) (op ln.Outpoint, l link, active bool, err error) {
	for until := e.opt.Now().Add(activeWithin); ; {
		if err := e.world.current(ctx); err != nil {
			return op, l, false, err
		}
		var found bool
		if op, l, found = e.world.byChanID(chanID); found && l.active || !e.opt.Now().Before(until) {
			return op, l, found && l.active, nil
		}
		if err := pace.Pause(ctx, activeWithin/100); err != nil {
			return op, l, false, fmt.Errorf("%w: %w", ln.ErrUnavailable, err)
		}
	}
}

// mapAlias makes the SCID an alias of the channel. An earlier attempt may have
// mapped it to another channel of the wallet. While that one is active nothing
// needs to be done: lnd takes the link only to find the peer, and forwards over
// whichever link of the peer takes the HTLC. Otherwise the alias leads nowhere
// (lnd keeps it for a closed channel, too) and is moved.
func (e *Engine) mapAlias(ctx context.Context, f jit.MapChannel) error {
	err := e.node.Aliases.AddAlias(ctx, f.Via, f.SCID)
	if !errors.Is(err, ln.ErrExists) {
		return err
	}
	owner, ownerErr := e.node.Aliases.AliasOwner(ctx, f.SCID)
	if ownerErr != nil {
		return ownerErr
	}
	channels, listErr := e.node.Channels.ListChannels(ctx)
	if listErr != nil {
		return listErr
	}
	for _, c := range channels {
		switch {
		case c.ChanID != owner:
		case c.Peer != f.Client:
			return err
		case c.Active && e.isFunded(c.Outpoint):
			return nil
		}
	}
	e.log.Info("the channel id of an agreement is moved from a channel that is closed or inactive",
		zap.String("payment", f.OfferID), zap.Stringer("from", owner), zap.Stringer("to", f.Via))
	if err := e.node.Aliases.RemoveAlias(ctx, owner, f.SCID); err != nil {
		return err
	}
	return e.node.Aliases.AddAlias(ctx, f.Via, f.SCID)
}
