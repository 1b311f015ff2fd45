package jit

import "github.com/sluice-lsp/sluice/lsp"

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Offered:
		if !s.Last.IsZero() {
			return lsp.Because(s.Last.Code, "waiting for the payer to try again; the last attempt was refunded: %s", s.Last.Text)
		}
		return lsp.Because(lsp.ReasonNone, "waiting for the payer")
	case Collecting:
		return lsp.Because(lsp.ReasonNone, "holding %d part(s), waiting for the rest or for the wallet to come online", len(s.Parts))
	case Opening:
		return lsp.Because(lsp.ReasonNone, "holding the payment while channel %s is opened", s.OpeningID)
	case Mapping:
		return lsp.Because(lsp.ReasonNone, "the channel is ready, the route is being set up")
	case Resuming:
		return lsp.Because(lsp.ReasonNone, "handing the payment on to the wallet")
	case Forwarded:
		return lsp.Because(lsp.ReasonNone, "handed on; the wallet has not claimed it yet")
	case Paid:
		return lsp.Because(lsp.ReasonNone, "the wallet was paid")
	case Refunded:
		return s.Reason
	case Expired:
		return s.Reason
	case Cancelled:
		return s.Reason
	}
	return lsp.Reason{}
}
