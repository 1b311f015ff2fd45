package out

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// ForgetChain are the events after which a swap knows nothing of the chain, for
// whoever follows it anew: what a reorg undid while nobody followed is told by
// nobody.
func ForgetChain(s State, m swaps.Moment) []Event {
	l, ok := LiveOf(s)
	if !ok || Final(s) {
		return nil
	}
	var events []Event
	if l.Spent != "" {
		events = append(events, SpendReorged{m})
	}
	if l.ConfirmedHeight != 0 {
		events = append(events, HtlcReorged{m})
	}
	return events
}

// stepLive never forgets the output: the bytes may be anywhere.
func stepLive(s State, l Live, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case CancelAsked:
		return nil, nil, ErrTooLate
	case HtlcPublished:
		l.Trouble = ""
		return l.settle(v.Height, nil)
	case PublishFailed:
		if l.ConfirmedHeight == 0 {
			// What the network refuses today it may take at the next block.
			l.Trouble = "the network does not take the transaction: " + clip(v.Text)
		}
		return l.settle(v.Height, nil)
	case PaymentHeld:
		return l.settle(v.Height, nil)
	case PaymentReleased:
		if v.Leg != LegSwap || l.Settled || l.Released {
			return l.settle(v.Height, nil)
		}
		l.Released = true
		return l.settle(v.Height, []Effect{Alarm{Text: "the node gave a swap's held payment back while its output can still be taken with the preimage"}})
	case HtlcConfirmed:
		if v.ConfirmedHeight == 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		l.ConfirmedHeight, l.Trouble = v.ConfirmedHeight, ""
		return l.settle(v.Height, nil)
	case HtlcReorged:
		l.ConfirmedHeight = 0
		return l.settle(v.Height, []Effect{publish(l), watch(l)})
	case HtlcSpent:
		return l.spent(v)
	case SpendReorged:
		l.Spent, l.SpentBy, l.SpentHeight, l.SpentFeeSat = "", ln.TxID{}, 0, 0
		return l.settle(v.Height, []Effect{watch(l)})
	case PreimagePushed:
		return l.pushed(v)
	case SwapSettled:
		if l.Preimage == nil {
			return nil, nil, fsm.Illegal(s, v)
		}
		l.Settled = true
		return l.settle(v.Height, nil)
	case SwapUnsettled:
		return l.lost(s, v)
	case RefundSigned:
		return l.refundSigned(s, v)
	case RefundRefused:
		l.Trouble = "the refund waits: " + clip(v.Text)
		return l.settle(v.Height, nil)
	case NewBlock:
		return l.block(v.Height, v.TargetRate)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// pushed takes the preimage from the client. Once a refund may be public it is
// not taken: the payment and the output would both be ours.
func (l Live) pushed(v PreimagePushed) (State, []Effect, error) {
	switch {
	case v.Preimage.Preimage().Hash() != l.Terms.Hash:
		return nil, nil, fmt.Errorf("swap %s: a preimage of another hash", l.ID())
	case l.Preimage != nil:
		return l.settle(v.Height, nil)
	case l.Refund != nil, l.Spent == htlc.SpendTimeout, v.Height >= l.Terms.ExpiryHeight:
		return nil, nil, ErrRefunding
	}
	return l.learn(v.Preimage, v.Height, nil)
}

func (l Live) learn(p swaps.Secret, tip uint32, effects []Effect) (State, []Effect, error) {
	l.Preimage = &p
	return l.settle(tip, append(effects, SettleSwap{Preimage: p}))
}

func (l Live) spent(v HtlcSpent) (State, []Effect, error) {
	l.Spent, l.SpentBy, l.SpentHeight, l.SpentFeeSat = v.How, v.By, v.SpentHeight, v.FeeSat
	switch {
	case v.How == htlc.SpendSuccess && v.Preimage == nil:
		return nil, nil, fmt.Errorf("swap %s: a success spend without a preimage", l.ID())
	case v.How == htlc.SpendSuccess && l.Preimage == nil && l.Refund == nil:
		return l.learn(*v.Preimage, v.Height, nil)
	case v.How == htlc.SpendSuccess && l.Preimage == nil:
		l.Seen = v.Preimage
		return l.settle(v.Height, nil)
	case v.How == htlc.SpendKey && !l.Settled:
		return l.settle(v.Height, []Effect{Alarm{Text: "a swap's output was spent with both keys although nothing was signed: find out how"}})
	}
	return l.settle(v.Height, nil)
}

// lost: the client has the output, or will; the node has given the payment back.
func (l Live) lost(s State, v SwapUnsettled) (State, []Effect, error) {
	if l.Preimage == nil || l.Settled {
		return nil, nil, fsm.Illegal(s, v)
	}
	reason := swaps.Because(swaps.ReasonLost, "the preimage came after the node had given the payment back: %s are lost, less the prepay; find out why the payment was released", l.AmountSat)
	return Lost{Plan: l.Plan, Invoices: l.Invoices, Held: l.Held, Tx: l.Tx, Life: l.Life, Reason: reason},
		[]Effect{ReleaseCoins{LeaseID: l.LeaseID()}, Alarm{Text: reason.Text}}, nil
}

func (l Live) refundSigned(s State, v RefundSigned) (State, []Effect, error) {
	if l.Preimage != nil || l.Spent != "" || len(v.Refund.Raw) == 0 {
		// The client came first: what was signed is never published.
		return l.settle(v.Height, nil)
	}
	refund := v.Refund
	refund.Height = v.Height
	l.Refund = &refund
	return l.settle(v.Height, []Effect{publishRefund(l)})
}

// block is what every new tip does.
func (l Live) block(tip uint32, target ln.FeeRateSatPerKW) (State, []Effect, error) {
	var effects []Effect
	if l.ConfirmedHeight == 0 && l.Spent == "" {
		effects = append(effects, publish(l))
		if l.lags(tip) && target > l.Rate {
			// Asked again and again: lnd may have refused, or forgotten it.
			l.BumpHeight, l.BumpRate = tip, max(target, l.BumpRate)
			effects = append(effects, BumpHtlc{Tx: l.Tx, PackageRate: l.BumpRate})
		}
	}
	if l.ConfirmedHeight > 0 && l.Spent == "" && l.Preimage == nil && tip >= l.Terms.ExpiryHeight {
		effects = append(effects, l.refund(tip, target)...)
	}
	if l.Preimage == nil && l.near(tip) && tip%nearBlocks == 0 {
		effects = append(effects, Alarm{Text: fmt.Sprintf("the node gives a swap's held payment back %d blocks before height %d, and its refund is not final at height %d", l.HoldExpiryDelta, l.EarliestExpiry, tip)})
	}
	return l.settle(tip, effects)
}

// near says that the node gives the held payment back soon.
func (l Live) near(tip uint32) bool { return tip+l.HoldExpiryDelta+nearBlocks >= l.EarliestExpiry }

// nearBlocks is how early, and how often, the operator hears of a deadline.
const nearBlocks = 12

// refundEvery is how many blocks a refund may wait before it pays more.
const refundEvery = 3

// refund signs the first one, and a dearer one when it lags. What is signed is
// stored before it is published.
func (l Live) refund(tip uint32, target ln.FeeRateSatPerKW) []Effect {
	sign := func(rate ln.FeeRateSatPerKW) []Effect {
		return []Effect{SignRefund{Terms: l.Terms, AmountSat: l.AmountSat, Outpoint: l.Outpoint, Rate: max(rate, ln.MinFeeRate)}}
	}
	switch {
	case target == 0 && l.Refund == nil:
		return nil // the next block brings a rate
	case l.Refund == nil:
		return sign(target)
	case tip >= l.Refund.Height+refundEvery:
		// A quarter more satisfies every node's rule for replacements. Half of the
		// amount is the most that is ever paid.
		rate := max(target, l.Refund.Rate+l.Refund.Rate/4+1)
		if fee, err := rate.Fee(htlc.RefundWU); err == nil && fee <= l.AmountSat/2 {
			return append([]Effect{publishRefund(l)}, sign(rate)...)
		}
	}
	return []Effect{publishRefund(l)}
}

// lags: it has waited long enough for a bump, and has a handle to bump with.
func (l Live) lags(tip uint32) bool {
	since := max(l.SignedHeight, l.BumpHeight)
	return l.BumpAfterBlocks > 0 && !l.ChangeOutpoint.IsZero() && tip >= since+l.BumpAfterBlocks
}

// settle names the state that the facts amount to.
func (l Live) settle(tip uint32, effects []Effect) (State, []Effect, error) {
	buried := max(l.BuriedConfs, 1)
	if l.Preimage == nil && l.Seen != nil && l.Spent == htlc.SpendSuccess && (ln.Confirmations(l.SpentHeight, tip) >= buried || l.near(tip)) {
		// The client's spend stands, or the node would give the payment back.
		l.Preimage = l.Seen
		effects = append(effects, SettleSwap{Preimage: *l.Seen})
	}
	switch {
	case l.Settled && ln.Confirmations(l.ConfirmedHeight, tip) >= buried:
		return Succeeded(l), append(effects, ReleaseCoins{LeaseID: l.LeaseID()}), nil
	case l.Settled:
		return Settled(l), effects, nil
	case l.Preimage != nil:
		return Revealed(l), effects, nil
	case l.Spent == htlc.SpendTimeout && ln.Confirmations(l.SpentHeight, tip) >= buried:
		reason := swaps.Because(swaps.ReasonTimeout, "the client never took the output; it came back in %s, and the held payment goes back", l.SpentBy)
		return Refunded{Plan: l.Plan, Invoices: l.Invoices, Held: l.Held, Tx: l.Tx, Life: l.Life, Reason: reason},
			append(effects, ReleaseCoins{LeaseID: l.LeaseID()}, CancelInvoices{Swap: l.Terms.Hash}), nil
	case l.Refund != nil:
		return Refunding(l), effects, nil
	}
	return Published(l), effects, nil
}

func publish(l Live) Effect {
	return PublishHtlc{Raw: l.Raw, Label: "sluice swap out " + l.ID()}
}

func publishRefund(l Live) Effect {
	return PublishRefund{Raw: l.Refund.Raw, Label: "sluice swap out refund " + l.ID()}
}

func watch(l Live) Effect {
	return WatchHtlc{Terms: l.Terms, AmountSat: l.AmountSat, Outpoint: l.Outpoint, SinceHeight: l.SignedHeight}
}
