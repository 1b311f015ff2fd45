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
	if l.TakenHeight != 0 {
		events = append(events, CoinBack{m})
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
		l.TakenBy, l.TakenHeight = ln.TxID{}, 0
		return l.settle(v.Height, nil)
	case HtlcReorged:
		l.ConfirmedHeight = 0
		return l.settle(v.Height, []Effect{publish(l), watch(l)})
	case HtlcSpent:
		return l.spent(v)
	case SpendReorged:
		l.Spent, l.SpentBy, l.SpentHeight, l.SpentFeeSat = "", ln.TxID{}, 0, 0
		return l.settle(v.Height, []Effect{watch(l)})
	case CoinTaken:
		return l.coinTaken(s, v)
	case CoinBack:
		l.TakenBy, l.TakenHeight = ln.TxID{}, 0
		return l.settle(v.Height, []Effect{watch(l)})
	case PreimagePushed:
		return l.pushed(v)
	case PaymentTaken:
		return l.taken(v)
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
	case l.TakenHeight > 0:
		return nil, nil, ErrNoOutput
	case l.Refund != nil, l.Spent == htlc.SpendTimeout, v.Height >= l.Terms.ExpiryHeight:
		return nil, nil, ErrRefunding
	}
	return l.learn(v.Preimage, v.Height, nil)
}

func (l Live) learn(p swaps.Secret, tip uint32, effects []Effect) (State, []Effect, error) {
	l.Preimage = &p
	return l.settle(tip, append(effects, SettleSwap{Preimage: p}))
}

// taken: the node has settled the payment. From a database that is an older copy of
// itself this may be the first that is heard of the preimage: the output is the
// client's, and no refund is signed or sent again.
func (l Live) taken(v PaymentTaken) (State, []Effect, error) {
	if v.Preimage.Preimage().Hash() != l.Terms.Hash {
		return nil, nil, fmt.Errorf("swap %s: the node settled it with a preimage of another hash", l.ID())
	}
	var effects []Effect
	if l.Spent == htlc.SpendTimeout && !l.Settled {
		effects = append(effects, Alarm{Text: fmt.Sprintf("a swap's payment is taken and its output came back in %s: the client is owed %s", l.SpentBy, l.AmountSat)})
	}
	l.Preimage, l.Settled, l.Released = &v.Preimage, true, false
	return l.settle(v.Height, effects)
}

// coinTaken: while that transaction stands, this one cannot confirm. It takes a
// program that spends coins which lnd has leased to others.
func (l Live) coinTaken(s State, v CoinTaken) (State, []Effect, error) {
	if v.By == l.Outpoint.TxID || v.TakenHeight == 0 {
		return nil, nil, fsm.Illegal(s, v)
	}
	text := fmt.Sprintf("a coin of a swap's funding transaction was spent by %s: the output cannot exist beside it", v.By)
	if l.Preimage != nil {
		text += fmt.Sprintf(", and the client has paid for it: it is owed %s", l.AmountSat)
	}
	l.TakenBy, l.TakenHeight, l.Trouble = v.By, v.TakenHeight, text
	// Of one chain both cannot be true.
	l.ConfirmedHeight, l.Spent, l.SpentBy, l.SpentHeight, l.SpentFeeSat = 0, "", ln.TxID{}, 0, 0
	return l.settle(v.Height, []Effect{Alarm{Text: text}})
}

func (l Live) spent(v HtlcSpent) (State, []Effect, error) {
	l.Spent, l.SpentBy, l.SpentHeight, l.SpentFeeSat = v.How, v.By, v.SpentHeight, v.FeeSat
	l.TakenBy, l.TakenHeight = ln.TxID{}, 0
	if part, ours := swaps.CostOf(l.Refunds, v.By); ours {
		l.SpentFeeSat = part
	}
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
	if l.Preimage != nil || l.Spent != "" || l.TakenHeight > 0 || len(v.Refund.Raw) == 0 {
		// The client came first: what was signed is never published.
		return l.settle(v.Height, nil)
	}
	refund := v.Refund
	refund.Height = v.Height
	l.Refund = &refund
	l.Refunds = swaps.AddVersion(l.Refunds, swaps.Version{TxID: refund.TxID, FeeSat: refund.FeeSat})
	return l.settle(v.Height, []Effect{publishRefund(l)})
}

// block is what every new tip does.
func (l Live) block(tip uint32, target ln.FeeRateSatPerKW) (State, []Effect, error) {
	var effects []Effect
	if l.ConfirmedHeight == 0 && l.Spent == "" && l.TakenHeight == 0 {
		effects = append(effects, publish(l))
		if rate, ok := l.hurry(tip, target); ok {
			// Asked again and again: lnd may have refused, or forgotten it.
			l.BumpHeight, l.BumpRate = tip, rate
			effects = append(effects, BumpHtlc{LeaseID: l.LeaseID(), Tx: l.Tx, PackageRate: rate, MostSat: l.MostBumpSat()})
		}
	}
	if l.Due(tip) {
		effects = append(effects, l.refund(tip, target)...)
	}
	if l.Preimage == nil && l.near(tip) && tip%nearBlocks == 0 {
		effects = append(effects, Alarm{Text: fmt.Sprintf("the node gives a swap's held payment back %d blocks before height %d, and its refund is not final at height %d", l.HoldExpiryDelta, l.EarliestExpiry, tip)})
	}
	return l.settle(tip, effects)
}

// near says that the node gives the held payment back soon.
func (l Live) near(tip uint32) bool { return tip+nearBlocks >= l.FinalBy() }

// nearBlocks is how early, and how often, the operator hears of a deadline.
const nearBlocks = 12

// refundEvery is how many blocks a refund may wait before it pays more.
const refundEvery = 3

// Due: the output may be taken back. An output that is not confirmed is taken back
// as well: the refund is the funding transaction's child then and pays for both.
// Nobody else can spend it, since the success leaf waits for a block.
func (l Live) Due(tip uint32) bool {
	return l.Spent == "" && l.TakenHeight == 0 && l.Preimage == nil && tip >= l.Terms.ExpiryHeight
}

// FinalBy is the height at which the node gives the held payment back: a refund
// must be final before.
func (l Live) FinalBy() uint32 { return l.EarliestExpiry - min(l.EarliestExpiry, l.HoldExpiryDelta) }

// MostRefundSat is the most that a refund ever pays.
func (l Live) MostRefundSat() ln.Sat { return l.AmountSat / 2 }

// refund signs the first one, and a dearer one when it lags. What is signed is
// stored before it is published.
func (l Live) refund(tip uint32, target ln.FeeRateSatPerKW) []Effect {
	sign := func(rate ln.FeeRateSatPerKW) Effect {
		return SignRefund{Terms: l.Terms, AmountSat: l.AmountSat, Outpoint: l.Outpoint, Rate: rate}
	}
	if l.ConfirmedHeight == 0 {
		target = l.childRate(target)
	}
	switch {
	case target == 0 && l.Refund == nil:
		return nil // the next block brings a rate
	case l.Refund == nil:
		return []Effect{sign(swaps.First(target, htlc.RefundWU, l.MostRefundSat()))}
	case tip >= l.Refund.Height+refundEvery:
		if rate, ok := swaps.Raised(l.Refund.Rate, target, htlc.RefundWU, l.MostRefundSat()); ok {
			return []Effect{publishRefund(l), sign(rate)}
		}
	}
	return []Effect{publishRefund(l)}
}

// childRate is what a refund pays so that it and the funding transaction, which is
// not confirmed, pay the rate together.
func (l Live) childRate(target ln.FeeRateSatPerKW) ln.FeeRateSatPerKW {
	both, err := target.Fee(htlc.RefundWU + l.WeightWU)
	if err != nil || target == 0 {
		return target
	}
	return max(target, swaps.Within(htlc.RefundWU, both-min(both, l.MinerSat)))
}

// ChildWU is what a child of the change weighs.
const ChildWU = 450

// MostBumpSat is the most that hurrying the output ever costs.
func (l Live) MostBumpSat() ln.Sat { return l.AmountSat / 2 }

// hurry is what the funding transaction and a child are to pay together once it lags:
// what the chain asks; and as the height comes near at which a client no longer dares
// to take the output, a quarter more each time, whatever the estimates say. From the
// expiry on the refund hurries it.
func (l Live) hurry(tip uint32, target ln.FeeRateSatPerKW) (rate ln.FeeRateSatPerKW, ok bool) {
	wait, last := l.BumpAfterBlocks, max(l.Rate, l.BumpRate)
	rate = max(target, l.BumpRate)
	if tip+l.MinPublishBlocks >= l.PublishByHeight() {
		wait, rate = min(wait, refundEvery), max(target, last+last/4+1)
	}
	rate = min(rate, swaps.Within(l.WeightWU+ChildWU, l.MinerSat+l.MostBumpSat()))
	lags := wait > 0 && tip >= max(l.SignedHeight, l.BumpHeight)+wait
	return rate, lags && rate > l.Rate && !l.ChangeOutpoint.IsZero() && !l.Due(tip)
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
		return Succeeded(l), append(append(effects, ReleaseCoins{LeaseID: l.LeaseID()}), l.forget()...), nil
	case l.Settled:
		return Settled(l), effects, nil
	case l.Preimage != nil:
		return Revealed(l), effects, nil
	case l.TakenHeight > 0 && ln.Confirmations(l.TakenHeight, tip) >= buried:
		reason := swaps.Because(swaps.ReasonForeignSpend, "another program spent a coin of this swap in %s: nothing was locked, and the held payment goes back; the client is owed its prepay of %s", l.TakenBy, l.PrepaySat)
		return Refunded{Plan: l.Plan, Invoices: l.Invoices, Held: l.Held, Tx: l.Tx, Life: l.Life, Reason: reason},
			append(effects, Alarm{Text: reason.Text}, ReleaseCoins{LeaseID: l.LeaseID()}, CancelInvoices{Swap: l.Terms.Hash}), nil
	case l.Spent == htlc.SpendTimeout && ln.Confirmations(l.SpentHeight, tip) >= buried:
		reason := swaps.Because(swaps.ReasonTimeout, "the client never took the output; it came back in %s, and the held payment goes back", l.SpentBy)
		return Refunded{Plan: l.Plan, Invoices: l.Invoices, Held: l.Held, Tx: l.Tx, Life: l.Life, Reason: reason},
			append(effects, ReleaseCoins{LeaseID: l.LeaseID()}, CancelInvoices{Swap: l.Terms.Hash}), nil
	case l.Refund != nil:
		return Refunding(l), effects, nil
	}
	return Published(l), effects, nil
}

// forget takes refunds out of the wallet that came too late. One that may still be
// mined stays: a client that paid and was cosigned has not swept yet.
func (l Live) forget() []Effect {
	if len(l.Refunds) == 0 || l.Spent == "" || l.Spent == htlc.SpendTimeout {
		return nil
	}
	var ids []ln.TxID
	for _, r := range l.Refunds {
		ids = append(ids, r.TxID)
	}
	return []Effect{ForgetTxs{TxIDs: ids}}
}

func publish(l Live) Effect {
	return PublishHtlc{Raw: l.Raw, Label: "sluice swap out " + l.ID()}
}

func publishRefund(l Live) Effect {
	return PublishRefund{Raw: l.Refund.Raw, Label: "sluice swap out refund " + l.ID()}
}

func watch(l Live) Effect {
	return WatchHtlc{Terms: l.Terms, AmountSat: l.AmountSat, Outpoint: l.Outpoint, SinceHeight: l.SignedHeight, Coins: l.Inputs, Scripts: l.InputScripts}
}
