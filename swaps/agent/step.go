package agent

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// buriedConfs after which a spend is not expected to be undone.
const buriedConfs = 6

// bumpEvery is how many blocks a refund may wait before it pays more.
const bumpEvery = 3

// Act is what a swap needs next.
type Act string

// The acts.
const (
	ActNone Act = ""
	// ActGiveUp: it was never agreed on; its invoice is cancelled.
	ActGiveUp Act = "give_up"
	// ActPaid takes note of the payment, ActGiveKey gives the internal key away.
	ActPaid    Act = "paid"
	ActGiveKey Act = "give_key"
	// ActCancel cancels the invoice, before anything is taken back.
	ActCancel Act = "cancel"
	// ActRefund signs, stores and publishes refunds, ActPublish publishes them again.
	ActRefund  Act = "refund"
	ActPublish Act = "publish"
	// ActEnd ends the swap.
	ActEnd Act = "end"
)

// Next decides, from what the wallet's own node says: the tip, and how the invoice
// stands. It is pure.
func Next(r Record, tip uint32, invoice ln.InvoiceState) (Act, Phase) {
	buried := func(d Deposit) bool { return d.Spent != "" && ln.Confirmations(d.SpentHeight, tip) >= buriedConfs }
	switch r.Phase {
	case PhaseMade:
		return ActGiveUp, PhaseGivenUp
	case PhaseAgreed:
		switch {
		case invoice == ln.InvoiceSettled:
			return ActPaid, PhasePaid
		case tip < r.Terms.ExpiryHeight:
			return ActNone, r.Phase
		}
		// Accepted is being settled: lnd settles an invoice of its own at once.
		if invoice == ln.InvoiceAccepted {
			return ActNone, r.Phase
		}
		return ActCancel, PhaseRefunding
	case PhasePaid:
		for _, d := range r.Deposits {
			if buried(d) {
				return ActEnd, PhaseDone
			}
			if d.Spent == "" && !r.KeyGiven {
				return ActGiveKey, r.Phase
			}
		}
	case PhaseRefunding:
		return r.refunding(tip, buried)
	}
	return ActNone, r.Phase
}

// lapseAfter is how long after the expiry a deposit may still appear: a
// transaction that the network dropped can come back.
const lapseAfter = 1_008

func (r Record) refunding(tip uint32, buried func(Deposit) bool) (Act, Phase) {
	if len(r.Deposits) == 0 {
		if tip >= r.Terms.ExpiryHeight+lapseAfter {
			return ActEnd, PhaseLapsed
		}
		return ActNone, r.Phase
	}
	over, act := true, ActPublish
	late := tip >= r.Terms.ExpiryHeight+lapseAfter
	for _, d := range r.Deposits {
		if d.Height == 0 && d.Spent == "" {
			over = over && late // a reorg took it, and it may come back
			continue
		}
		// What is worth no refund for so long is left.
		over = over && (buried(d) || late && d.Spent == "" && d.Refund == nil)
		if d.Spent == "" && (d.Refund == nil || tip >= d.Refund.Height+bumpEvery) {
			act = ActRefund
		}
	}
	switch {
	case !over:
		return act, r.Phase
	case r.took():
		return ActEnd, PhaseRefunded
	}
	return ActEnd, PhaseDone
}

// sawDeposit says that an output of the agreed amount was found.
func (r Record) sawDeposit() bool {
	for _, d := range r.Deposits {
		if d.ValueSat == r.AmountSat {
			return true
		}
	}
	return false
}

// took says that a refund of ours was what spent a deposit.
func (r Record) took() bool {
	for _, d := range r.Deposits {
		if d.Spent == htlc.SpendTimeout {
			return true
		}
	}
	return false
}

// refundRate is what a refund pays that is signed now: today's rate, and a quarter
// more than the last one; 0 when that would be more than half of the deposit.
func refundRate(d Deposit, target ln.FeeRateSatPerKW) ln.FeeRateSatPerKW {
	rate := max(target, ln.MinFeeRate)
	if d.Refund != nil {
		rate = max(rate, d.Refund.Rate+d.Refund.Rate/4+1)
	}
	if fee, err := rate.Fee(htlc.RefundWU); err != nil || fee > d.ValueSat/2 {
		return 0
	}
	return rate
}
