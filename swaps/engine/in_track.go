package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/swaps/in"
)

// trackFor is how long lnd is waited for at a time: it may never give its word
// (in.LookForPayment), and then the swap ends without it.
const trackFor = time.Minute

// unknownFor is how long lnd must not know a payment that was handed to it before it
// counts as never sent: the request may wait in lnd for its database, though nobody is
// connected any more.
const unknownFor = 3 * time.Second

// trackIn waits for lnd's word, or until the swap needs none.
func (e *Engine) trackIn(ctx context.Context, id string, hash ln.Hash) ([]in.Event, error) {
	for unknown := false; ; {
		wait, done := context.WithTimeout(ctx, trackFor)
		p, err := e.node.Payments.WaitPayment(wait, hash)
		late := wait.Err() != nil && ctx.Err() == nil
		done()
		switch {
		case err == nil && p.State == ln.PaymentUnknown && !unknown:
			unknown = true
			if err := pace.Pause(ctx, e.unknownFor); err != nil {
				return nil, err
			}
			continue
		case err == nil && p.State != ln.PaymentInFlight:
			return e.paymentIn(p), nil
		case err == nil:
			return nil, fmt.Errorf("payment %s is still in flight", hash.Short())
		case !late:
			return nil, err
		}
		inst, err := e.ins.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if _, paying := inst.State.(in.Paying); !paying {
			return nil, nil
		}
	}
}

// trackCutOff is what lnd says of a payment whose call was cut off: that it knows of
// none counts once it has said so for a while.
func (e *Engine) trackCutOff(ctx context.Context, hash ln.Hash) (ln.Payment, error) {
	p, err := e.node.Payments.TrackPayment(ctx, hash)
	if err != nil || p.State != ln.PaymentUnknown {
		return p, err
	}
	if err := pace.Pause(ctx, e.unknownFor); err != nil {
		return p, err
	}
	return e.node.Payments.TrackPayment(ctx, hash)
}

// lookForPayment looks for the proof that in.LookForPayment describes. It asks lnd for
// the tip first: what is listed then is no older.
func (e *Engine) lookForPayment(ctx context.Context, id string, hash ln.Hash) ([]in.Event, error) {
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.node.Payments.TrackPayment(ctx, hash)
	if err != nil {
		return nil, err
	}
	// One without attempts may get some; lnd's own word ends any other.
	if !info.SyncedToChain || p.State != ln.PaymentInFlight || len(p.Open) == 0 {
		return nil, nil
	}
	channels, err := e.node.Events.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	closed, err := e.node.Events.ClosedChannels(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range channels {
		if slices.ContainsFunc(c.Htlcs, func(h ln.ChannelHtlc) bool { return !h.Incoming && h.Hash == hash }) {
			return nil, nil
		}
	}
	named := func(id ln.SCID, aliases []ln.SCID, ids ...ln.SCID) bool {
		return id != 0 && slices.Contains(append(ids, aliases...), id)
	}
	for _, a := range p.Open {
		known := slices.ContainsFunc(channels, func(c ln.Channel) bool { return named(a.ChanID, c.Aliases, c.ChanID, c.ConfirmedSCID) }) ||
			slices.ContainsFunc(closed, func(c ln.ClosedChannel) bool { return named(a.ChanID, c.Aliases, c.ChanID, c.ConfirmedSCID) })
		if !known || info.BlockHeight < a.ExpiryHeight+in.MissingAfterBlocks {
			return nil, nil
		}
	}
	e.log.Warn("lnd lost a payment in a restart: its HTLCs have expired and are in no channel; lnd will call it in flight for ever", zap.String("swap", id))
	return []in.Event{in.PaymentMissing{Moment: e.moment()}}, nil
}
