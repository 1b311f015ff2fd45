package wrap

import "github.com/sluice-lsp/sluice/lsp"

// HeldOf is the set of HTLCs that the state's hold invoice has accepted.
func HeldOf(s State) Held {
	switch s := s.(type) {
	case Accepted:
		return s.Held
	case Opening:
		return s.Held
	case Paying:
		return s.Held
	case PaymentUnknown:
		return s.Held
	case Settling:
		return s.Held
	case Settled:
		return s.Held
	case Lost:
		return s.Held
	}
	return Held{}
}

// HoldOf is what the state keeps of payers' money.
func HoldOf(s State) lsp.Holding {
	if Final(s) {
		return lsp.Holding{}
	}
	return HeldOf(s).Holding()
}

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Offered:
		return lsp.Because(lsp.ReasonNone, "the invoice for the payer is being made")
	case InvoiceMade:
		return lsp.Because(lsp.ReasonNone, "waiting for the payer")
	case Accepted:
		return lsp.Because(lsp.ReasonNone, "the payer's money is held; waiting for the wallet")
	case Opening:
		return lsp.Because(lsp.ReasonNone, "the payer's money is held while channel %s is opened", s.OpeningID)
	case Paying:
		return lsp.Because(lsp.ReasonNone, "the wallet is being paid")
	case PaymentUnknown:
		return lsp.Because(lsp.ReasonNone, "the payment to the wallet has no outcome yet: lnd is asked until it has")
	case Settling:
		return lsp.Because(lsp.ReasonNone, "the wallet was paid; the payer's money is being collected")
	case Cancelling:
		return s.Reason
	case Settled:
		return lsp.Because(lsp.ReasonNone, "the wallet was paid")
	case Refunded:
		return s.Reason
	case Expired:
		return s.Reason
	case Cancelled:
		return s.Reason
	case Lost:
		return s.Reason
	}
	return lsp.Reason{}
}
