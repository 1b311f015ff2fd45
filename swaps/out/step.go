package out

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Offered:
		return stepOffered(s, v)
	case Invoiced:
		return stepInvoiced(s, v)
	case Funding:
		return stepFunding(s, v)
	case Funded:
		return stepFunded(s, v)
	case Cancelling:
		return stepCancelling(s, v)
	case Published, Refunding, Revealed, Settled:
		l, _ := LiveOf(s)
		return stepLive(s, l, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepOffered(s Offered, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{MakeInvoices{Plan: s.Plan}}, nil
	case InvoicesMade:
		return Invoiced{Plan: s.Plan, Invoices: v.Invoices}, []Effect{WatchInvoices{Hash: s.Terms.Hash, Prepay: s.PrepayHash()}}, nil
	case InvoicesRefused:
		return cancelling(s.Plan, Invoices{}, swaps.Because(swaps.ReasonInvoicesFailed, "the node did not make the invoices: %s", clip(v.Text)))
	case Tick:
		return unpaid(s, s.Plan, Invoices{}, Held{}, v)
	case CancelAsked:
		return cancelling(s.Plan, Invoices{}, swaps.Because(swaps.ReasonClientCancelled, "the client gave up: %s", clip(v.Text)))
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepInvoiced(s Invoiced, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PaymentHeld:
		if v.Unsafe != "" {
			return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonUnsafeIncoming, "the money is not accepted: %s", clip(v.Unsafe)))
		}
		switch v.Leg {
		case LegSwap:
			// The node takes the payment back so early that the refund might not be
			// final by then: the client could have both.
			if need := s.Terms.ExpiryHeight + s.MarginBlocks + s.HoldExpiryDelta; v.EarliestExpiry < need {
				return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonMargin,
					"a part of the payment expires at height %d, but the swap needs it until %d", v.EarliestExpiry, need))
			}
			s.SwapHeld, s.EarliestExpiry = true, v.EarliestExpiry
		case LegPrepay:
			s.PrepayHeld = true
		default:
			return nil, nil, fmt.Errorf("swap %s: there is no payment %q", s.ID(), v.Leg)
		}
		if !s.SwapHeld || !s.PrepayHeld {
			return s, nil, nil
		}
		if v.Height > s.PublishByHeight() {
			return late(s.Plan, s.Invoices, v.Height)
		}
		return Funding(s), []Effect{FundHtlc{Plan: s.Plan}}, nil
	case PaymentReleased:
		return released(s.Plan, s.Invoices, v)
	case Tick:
		return unpaid(s, s.Plan, s.Invoices, s.Held, v)
	case CancelAsked:
		return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonClientCancelled, "the client gave up: %s", clip(v.Text)))
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepFunding(s Funding, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case HtlcFunded:
		if len(v.Raw) == 0 || v.Outpoint.IsZero() {
			return nil, nil, fmt.Errorf("swap %s: a funding transaction without bytes or outpoint", s.ID())
		}
		if v.Height > s.PublishByHeight() {
			return late(s.Plan, s.Invoices, v.Height)
		}
		next := Funded{Plan: s.Plan, Invoices: s.Invoices, Held: s.Held, Tx: v.Tx}
		next.SignedHeight = v.Height
		return next, []Effect{SettlePrepay{Swap: s.Terms.Hash, Hash: s.PrepayHash(), Preimage: s.PrepayPreimage, ByHeight: s.PublishByHeight()}}, nil
	case FundingRefused:
		return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonCoins, "the output was not funded (%s): nothing was spent; try again later", clip(v.Text)))
	case PaymentReleased:
		return released(s.Plan, s.Invoices, v)
	case PaymentHeld:
		return s, nil, nil
	case CancelAsked:
		return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonClientCancelled, "the client gave up: %s", clip(v.Text)))
	}
	return nil, nil, fsm.Illegal(s, v)
}

// stepFunded: the bytes are stored and in nobody's hands. Without the prepay
// they never leave; with it they must.
func stepFunded(s Funded, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PrepaySettled:
		l := Live{Plan: s.Plan, Invoices: s.Invoices, Held: s.Held, Tx: s.Tx}
		return Published(l), []Effect{publish(l), watch(l)}, nil
	case PrepayLost:
		if v.Kept {
			return kept(s.Plan, s.Invoices)
		}
		if v.Height > s.PublishByHeight() {
			return late(s.Plan, s.Invoices, v.Height)
		}
		return cancelling(s.Plan, s.Invoices, swaps.Because(swaps.ReasonPrepayLost, "the prepay went back before it could be taken (%s): nothing was published", clip(v.Text)))
	case PaymentHeld:
		return s, nil, nil
	case PaymentReleased:
		if v.Leg == LegPrepay {
			return s, nil, nil // SettlePrepay is under way, and tells
		}
		// Publishing now would give the output away for nothing.
		return released(s.Plan, s.Invoices, v)
	case CancelAsked:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepCancelling(s Cancelling, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case InvoicesCancelled:
		return Cancelled(s), nil, nil
	case PrepaySettled:
		return s.keeps()
	case PrepayLost:
		if v.Kept {
			return s.keeps()
		}
		return s, nil, nil
	case HtlcFunded, FundingRefused, InvoicesMade, InvoicesRefused, PaymentHeld, PaymentReleased, CancelAsked:
		// What was under way when the swap was given up: the coins are released
		// and the invoices cancelled by the effects that wait behind it.
		return s, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// keeps: the prepay was being taken when the node gave the swap payment back.
func (s Cancelling) keeps() (State, []Effect, error) {
	if s.PrepayKept {
		return s, nil, nil
	}
	s.PrepayKept = true
	s.Reason.Text += fmt.Sprintf(". The prepay of %s had been taken: it is owed to the client", s.PrepaySat)
	return s, []Effect{Alarm{Text: s.Reason.Text}}, nil
}

// kept is cancelling with the prepay in our hands.
func kept(p Plan, inv Invoices) (State, []Effect, error) {
	s, effects, err := released(p, inv, PaymentReleased{Leg: LegSwap})
	if err != nil {
		return nil, nil, err
	}
	s, alarm, err := s.(Cancelling).keeps()
	return s, append(alarm, effects...), err
}

// late gives a swap up whose output would come out too near to its expiry.
func late(p Plan, inv Invoices, height uint32) (State, []Effect, error) {
	return cancelling(p, inv, swaps.Because(swaps.ReasonLate,
		"at height %d the output could not be taken safely before it expires at %d: nothing was published", height, p.Terms.ExpiryHeight))
}

func released(p Plan, inv Invoices, v PaymentReleased) (State, []Effect, error) {
	return cancelling(p, inv, swaps.Because(swaps.ReasonReleased, "the node no longer holds the %s payment: nothing was published", v.Leg))
}

func unpaid(s State, p Plan, inv Invoices, h Held, v Tick) (State, []Effect, error) {
	if v.At.Before(p.AcceptBy) {
		return nil, nil, fsm.Illegal(s, v)
	}
	missing := "neither payment"
	switch {
	case h.SwapHeld:
		missing = "the swap payment but not the prepay"
	case h.PrepayHeld:
		missing = "the prepay but not the swap payment"
	}
	return cancelling(p, inv, swaps.Because(swaps.ReasonUnpaid, "%s arrived in time", missing))
}

// cancelling gives up a swap of which nothing is public.
func cancelling(p Plan, inv Invoices, r swaps.Reason) (State, []Effect, error) {
	prepay := p.PrepayHash()
	return Cancelling{Plan: p, Invoices: inv, Reason: r}, []Effect{
		ReleaseCoins{LeaseID: p.LeaseID()},
		CancelInvoices{Swap: p.Terms.Hash, Prepay: &prepay},
	}, nil
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
