package order

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/lsp"
)

// blockTime is what a block is expected to take.
const blockTime = 10 * time.Minute

// funded: the channel is there, so the payment is taken.
func funded(o Order, v OpeningPublished) (State, []Effect, error) {
	o = o.published(v)
	if o.PaidBy != PaidByLightning || o.Settled {
		return active(o, v.Height, nil)
	}
	return settle(o)
}

func (o Order) published(v OpeningPublished) Order {
	if o.Channel != nil {
		return o
	}
	o.Last = lsp.Reason{}
	o.Channel = &Channel{
		Outpoint: v.Outpoint, FundedAt: v.At, ExpiresAt: v.At.Add(time.Duration(o.ExpiryBlocks) * blockTime).UTC(),
	}
	return o
}

func settle(o Order) (State, []Effect, error) {
	l := o.Lightning
	return Settling{Order: o}, []Effect{SettleInvoice{OrderID: o.ID, Hash: l.Hash, Preimage: l.Preimage}}, nil
}

// active begins the lease; what was paid besides goes back.
func active(o Order, height uint32, effects []Effect) (State, []Effect, error) {
	o, more := o.giveBack(true, twice())
	effects = append(effects, more...)
	o, more = o.takeOver(height)
	return Active{Order: o}, append(effects, more...), nil
}

func twice() lsp.Reason {
	return lsp.Because(lsp.ReasonExtraPart, "the order was paid already, or is over: this payment goes back, less the fee of the transaction")
}

func stepFunding(s Funding, v Event) (State, []Effect, error) {
	now := OpeningID(s.ID, s.Opens)
	switch v := v.(type) {
	case OpeningPublished:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return funded(s.Order, v)
	case OpeningFailed:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return unwind(s.Order, v.Reason)
	case NewBlock:
		if s.late(v.Height) {
			// bLIP-51 has the payment cancelled where no funding transaction is
			// published. Once it is signed that is not ours to choose: the signed bytes
			// are sent with every block until they are in one, a zero-conf channel may
			// have carried payments already, and who cancels gives both away, the
			// payment and the channel. If another transaction takes the coins after
			// all, the order is Lost, and owed to the client.
			next, effects, err := settle(s.Order)
			return next, append(effects, Alarm{OrderID: s.ID, Reason: unpublished()}), err
		}
		return s, nil, nil
	case CoinsSeen:
		o, effects := s.see(v)
		s.Order = o
		return s, effects, nil
	case InvoiceSettled:
		s.Settled = true
		return s, []Effect{Alarm{OrderID: s.ID, Reason: settledBefore()}}, nil
	case InvoiceCanceled:
		return s.canceled(s)
	case Cancel:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(s, v)
}

// canceled takes in that the hold invoice is cancelled while the channel is
// being funded. Of an order that was paid on chain that is as it should be.
func (o Order) canceled(s Funding) (State, []Effect, error) {
	s.InvoiceGone = true
	if o.PaidBy != PaidByLightning {
		return s, nil, nil
	}
	return s, []Effect{Alarm{OrderID: o.ID, Reason: unpaidChannel()}}, nil
}

func unpublished() lsp.Reason {
	return lsp.Because(lsp.ReasonOpenSlow,
		"the payment of an order is taken although the network has not taken its funding transaction for as long as the payment could be held: see why (sluicectl openings), or the client has paid for a channel that is not there")
}

func unpaidChannel() lsp.Reason {
	return lsp.Because(lsp.ReasonInvoiceCanceled,
		"the node took the hold invoice of a funded order back: the client has a channel that nobody paid for; close it, or ask the client to pay")
}

// channelFacts are what every state with a channel takes in alike.
func (o Order) channelFacts(v Event) (Order, []Effect, bool) {
	now := OpeningID(o.ID, o.Opens)
	switch v := v.(type) {
	case OpeningPublished:
		if v.OpeningID != now {
			return o, nil, false
		}
		return o.published(v), nil, true
	case OpeningConfirmed:
		if v.OpeningID != now || o.Channel == nil || o.Channel.ConfirmedHeight > 0 {
			return o, nil, false
		}
		ch := *o.Channel
		ch.ConfirmedHeight = v.Height
		ch.EndHeight = v.Height + o.ExpiryBlocks
		if ch.EndHeight < v.Height {
			ch.EndHeight = ^uint32(0)
		}
		o.Channel = &ch
		return o, nil, true
	case OpeningReorged:
		if v.OpeningID != now || o.Channel == nil {
			return o, nil, false
		}
		ch := *o.Channel
		ch.ConfirmedHeight, ch.EndHeight = 0, 0
		o.Channel = &ch
		return o, nil, true
	case InvoiceSettled:
		// lnd tells it twice: to who asked, and to who listens.
		return o, nil, o.Settled
	case InvoiceCanceled:
		o.InvoiceGone = true
		return o, nil, true
	case CoinsSeen:
		o, effects := o.see(v)
		o, more := o.giveBack(true, twice())
		effects = append(effects, more...)
		o, more = o.takeOver(v.Height)
		return o, append(effects, more...), true
	case RefundSent, RefundEnded:
		return o.refunded(v)
	case RefundVoid:
		o, effects, ok := o.refunded(v)
		o, more := o.giveBack(true, twice())
		return o, append(effects, more...), ok
	}
	return o, nil, false
}

func stepSettling(s Settling, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case InvoiceSettled:
		s.Settled = true
		if s.Void {
			return lost(s.Order)
		}
		return active(s.Order, v.Height, nil)
	case InvoiceCanceled:
		s.InvoiceGone = true
		if s.Void {
			return unwind(s.Order, s.Last)
		}
		s.Last = unpaidChannel()
		return active(s.Order, v.Height, []Effect{Alarm{OrderID: s.ID, Reason: s.Last}})
	case NewBlock:
		return settle(s.Order)
	case OpeningFailed:
		if v.OpeningID != OpeningID(s.ID, s.Opens) {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.Void, s.Last = true, v.Reason
		return s, nil, nil
	case Cancel:
		return nil, nil, ErrTooLate
	}
	o, effects, ok := s.channelFacts(v)
	if !ok {
		return nil, nil, fsm.Illegal(s, v)
	}
	s.Order = o
	return s, effects, nil
}

func stepActive(s Active, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case ChannelClosed:
		return end(s.Order, v.Height, lsp.Because(lsp.ReasonNone, "the channel was closed before its lease was over"))
	case OpeningFailed:
		if v.OpeningID != OpeningID(s.ID, s.Opens) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s.conflicted(v.Reason)
	case NewBlock:
		return s.block(v)
	case Cancel:
		return nil, nil, ErrTooLate
	}
	o, effects, ok := s.channelFacts(v)
	if !ok {
		return nil, nil, fsm.Illegal(s, v)
	}
	s.Order = o
	return s, effects, nil
}

// conflicted: the channel that the client was given can never exist, even if it
// was used and closed meanwhile. On-chain coins are still kept for that day.
func (o Order) conflicted(reason lsp.Reason) (State, []Effect, error) {
	o.Channel = nil
	if o.Settled || o.Taken {
		return lost(o)
	}
	next, effects, err := unwind(o, reason)
	return next, append(effects, Alarm{OrderID: o.ID, Reason: reason}), err
}

func (s Active) block(v NewBlock) (State, []Effect, error) {
	o, effects := s.takeOver(v.Height)
	ch := o.Channel
	if ch == nil || ch.EndHeight == 0 {
		return Active{Order: o}, effects, nil
	}
	o, more := o.warn(v)
	effects = append(effects, more...)
	// Both count: blocks may come faster than ten minutes.
	if v.Height < ch.EndHeight || v.At.Before(ch.ExpiresAt) {
		return Active{Order: o}, effects, nil
	}
	if v.CloseAtEnd {
		return Closing{Order: o}, append(effects, closeChannel(o)), nil
	}
	next, more, err := end(o, v.Height, lsp.Because(lsp.ReasonNone, "the lease is over; the channel stays open"))
	return next, append(effects, more...), err
}

// warnEvery is how often it is told that a lease ends: a client that is connected one
// day may be away the next, and only who is away is called.
const warnEvery = 144

// warn tells that the lease is nearly over, or over and the channel not closed yet.
func (o Order) warn(v NewBlock) (Order, []Effect) {
	ch := o.Channel
	if ch == nil || ch.EndHeight == 0 || uint64(v.Height)+uint64(v.WarnBlocks) < uint64(ch.EndHeight) ||
		o.WarnedHeight > 0 && uint64(v.Height) < uint64(o.WarnedHeight)+warnEvery {
		return o, nil
	}
	o.WarnedHeight = v.Height
	return o, []Effect{WarnLease{OrderID: o.ID, Client: o.Client, Channel: *ch, Closes: v.CloseAtEnd}}
}

func stepClosing(s Closing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case ChannelClosed:
		return end(s.Order, v.Height, lsp.Because(lsp.ReasonNone, "the lease is over and the channel was closed"))
	case NewBlock:
		o, effects := s.takeOver(v.Height)
		if !v.CloseAtEnd {
			next, more, err := end(o, v.Height, lsp.Because(lsp.ReasonNone, "the lease is over; the channel stays open"))
			return next, append(effects, more...), err
		}
		o, more := o.warn(v)
		return Closing{Order: o}, append(append(effects, more...), closeChannel(o)), nil
	case PeerOnline:
		return s, []Effect{closeChannel(s.Order)}, nil
	case OpeningFailed:
		if v.OpeningID != OpeningID(s.ID, s.Opens) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s.conflicted(v.Reason)
	case Cancel:
		return nil, nil, ErrTooLate
	}
	o, effects, ok := s.channelFacts(v)
	if !ok {
		return nil, nil, fsm.Illegal(s, v)
	}
	s.Order = o
	return s, effects, nil
}

func closeChannel(o Order) Effect {
	return CloseChannel{OrderID: o.ID, Outpoint: o.Channel.Outpoint}
}

// end is what is left of an order after its lease: refunds, and the address.
func end(o Order, height uint32, reason lsp.Reason) (State, []Effect, error) {
	o, effects := o.takeOver(height)
	next, more := over(o, reason)
	return next, append(effects, more...), nil
}

func over(o Order, reason lsp.Reason) (State, []Effect) {
	if !o.quiet(true) {
		return Ending{Order: o, Reason: reason}, nil
	}
	return Ended{Order: o, Reason: reason}, o.free()
}

func stepEnding(s Ending, v Event) (State, []Effect, error) {
	o := s.Order
	var effects []Effect
	switch v := v.(type) {
	case Tick:
		if o.watchUntil().IsZero() || v.At.Before(o.watchUntil()) {
			return nil, nil, fsm.Illegal(s, v)
		}
		o.Unwatched = true
	case NewBlock:
		o, effects = o.takeOver(v.Height)
	case OpeningFailed:
		if v.OpeningID != OpeningID(s.ID, s.Opens) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return o.conflicted(v.Reason)
	case Cancel:
		return nil, nil, ErrTooLate
	default:
		var ok bool
		if o, effects, ok = o.channelFacts(v); !ok {
			return nil, nil, fsm.Illegal(s, v)
		}
	}
	next, more := over(o, s.Reason)
	return next, append(effects, more...), nil
}
