package credit

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Planned:
		return stepPlanned(s, v)
	case Offered:
		return stepOffered(s, v)
	case Credited:
		return stepCredited(s, v)
	case Refusing:
		if _, ok := v.(PaymentReleased); ok {
			return Over(s), nil, nil
		}
	}
	// The node tells the end twice: in answer, and to who follows the invoice.
	switch v.(type) {
	case PaymentSettled:
		if _, ok := s.(Settled); ok {
			return s, nil, nil
		}
	case PaymentReleased:
		if Final(s) && RecordedMsat(s) == 0 {
			return s, nil, nil
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepPlanned(s Planned, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{MakeInvoice{Plan: s.Plan}}, nil
	case InvoiceMade:
		return Offered{Plan: s.Plan, Bolt11: v.Bolt11}, []Effect{WatchInvoice{Hash: s.Hash()}}, nil
	case InvoiceRefused:
		return Over{Plan: s.Plan, Reason: "the node made no invoice: " + ln.Clip(v.Text, 200)}, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepOffered(s Offered, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PaymentHeld:
		if v.Unsafe != "" {
			return Refusing{Plan: s.Plan, Reason: "the payment is not accepted: " + ln.Clip(v.Unsafe, 200)}, []Effect{CancelInvoice{Hash: s.Hash()}}, nil
		}
		if err := s.check(v.PaidMsat); err != nil {
			return nil, nil, err
		}
		return Credited{Plan: s.Plan, PaidMsat: v.PaidMsat}, []Effect{SettleInvoice{Preimage: s.Preimage, PaidMsat: v.PaidMsat}}, nil
	case PaymentSettled:
		// Only this tower knows the preimage, and only a state that recorded the
		// credit gave it away: so this database is an older copy of itself.
		if err := s.check(v.PaidMsat); err != nil {
			return nil, nil, err
		}
		return Settled(Credited{Plan: s.Plan, PaidMsat: v.PaidMsat}), nil, nil
	case PaymentReleased:
		return Over{Plan: s.Plan, Reason: "the invoice was not paid in time"}, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// check: the node holds or settles a payment that is at least what was asked.
func (p Plan) check(paid ln.Msat) error {
	if paid < p.AmountMsat {
		return fmt.Errorf("purchase %s: the node says that it has %s of %s", p.Hash().Short(), paid, p.AmountMsat)
	}
	return nil
}

func stepCredited(s Credited, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PaymentHeld:
		return s, nil, nil
	case PaymentSettled:
		if err := s.check(v.PaidMsat); err != nil {
			return nil, nil, err
		}
		return Settled{Plan: s.Plan, PaidMsat: v.PaidMsat}, nil, nil
	case PaymentReleased:
		return TakenBack(s), nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}
