package order

import (
	"fmt"
	"math"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	o := s.order()
	switch v.(type) {
	case InvoiceAdded, InvoiceRefused, SetAccepted, InvoiceSettled, InvoiceCanceled:
		if o.Lightning == nil {
			return nil, nil, fsm.Illegal(s, v)
		}
	case CoinsSeen:
		if o.OnChain == nil {
			return nil, nil, fsm.Illegal(s, v)
		}
	}
	switch s := s.(type) {
	case Created:
		return stepCreated(s, v)
	case Awaiting:
		return stepAwaiting(s, v)
	case Paid:
		return stepPaid(s, v)
	case Queued:
		return stepQueued(s, v)
	case Opening:
		return stepOpening(s, v)
	case Abandoning:
		return stepAbandoning(s, v)
	case Funding:
		return stepFunding(s, v)
	case Settling:
		return stepSettling(s, v)
	case Active:
		return stepActive(s, v)
	case Closing:
		return stepClosing(s, v)
	case Ending:
		return stepEnding(s, v)
	case Unwinding:
		return stepUnwinding(s, v)
	}
	// lnd tells an invoice's end twice: to who asked, and to who listens.
	switch v.(type) {
	case InvoiceSettled:
		if o.Settled {
			return nil, nil, fsm.Repeated(s, v)
		}
	case InvoiceCanceled:
		if o.InvoiceGone {
			return nil, nil, fsm.Repeated(s, v)
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepCreated(s Created, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		l := s.Lightning
		if l == nil {
			return Awaiting(s), nil, nil
		}
		total, err := l.TotalSat.Msat()
		if err != nil {
			return nil, nil, fmt.Errorf("order %s: %w", s.ID, err)
		}
		return s, []Effect{MakeInvoice{OrderID: s.ID, Invoice: ln.HoldInvoiceRequest{
			Hash: l.Hash, AmountMsat: total, Memo: InvoiceMemo(s.ID), Expiry: l.ExpiresAt.Sub(v.At), FinalCltvDelta: l.FinalCltv,
		}}}, nil
	case InvoiceAdded:
		s.Bolt11 = v.Bolt11
		return Awaiting(s), []Effect{WatchInvoice{OrderID: s.ID, Hash: s.Lightning.Hash}}, nil
	case InvoiceRefused:
		// Nobody was told the order: nothing can come.
		reason := lsp.Because(lsp.ReasonInvoiceFailed, "the gateway could not make the invoice (%s): order again", clip(v.Text))
		return Failed{Order: s.Order, Reason: reason}, nil, nil
	case Tick:
		if v.At.Before(s.payBy()) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return unwind(s.Order, nobodyPaid())
	case Cancel:
		return unwind(s.Order, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepAwaiting(s Awaiting, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case SetAccepted:
		return s.accept(v)
	case CoinsSeen:
		o, effects := s.see(v)
		o, paid, err := o.take(v)
		if err != nil || !paid {
			return Awaiting{Order: o}, effects, err
		}
		if o.Lightning != nil && !o.InvoiceGone {
			effects = append(effects, cancelInvoice(o))
		}
		next := Paid{Order: o, Safe: true, Deadline: v.At.Add(o.WaitFor)}
		return next, append(effects, askPeer(o)), nil
	case InvoiceSettled:
		// Only the preimage settles it, which this database has: it is an older
		// copy, or a person did it. The client has paid.
		o := s.Order
		o.Settled, o.PaidBy, o.PaidHeight = true, PaidByLightning, v.Height
		next := Paid{Order: o, Safe: true, Deadline: v.At.Add(o.WaitFor)}
		return next, []Effect{askPeer(o), Alarm{OrderID: o.ID, Reason: settledBefore()}}, nil
	case InvoiceCanceled:
		s.InvoiceGone = true
		if s.OnChain == nil {
			return unwind(s.Order, nobodyPaid())
		}
		return s, nil, nil
	case Tick:
		if v.At.Before(s.payBy()) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return unwind(s.Order, nobodyPaid())
	case Cancel:
		return unwind(s.Order, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(s, v)
}

// accept begins work on a set that lnd holds. lnd counted it complete by the
// onions' total; the sum is checked here once more.
func (s Awaiting) accept(v SetAccepted) (State, []Effect, error) {
	if s.InvoiceGone {
		return nil, nil, fsm.Illegal(s, v)
	}
	h, err := s.hold(v.Htlcs, v.Height)
	if err != nil {
		return nil, nil, fmt.Errorf("order %s: the held set: %w", s.ID, err)
	}
	o := s.Order
	o.Held, o.PaidBy, o.PaidHeight = h, PaidByLightning, v.Height
	total, err := o.Lightning.TotalSat.Msat()
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("order %s: %w", s.ID, err)
	case h.HeldMsat < total:
		return unwind(o, lsp.Because(lsp.ReasonAmountShort, "the invoice holds %s of %s: it went back; order again", h.HeldMsat, total))
	case o.late(v.Height):
		return unwind(o, tooLate())
	case !v.Refusal.IsZero():
		return unwind(o, lsp.Because(v.Refusal.Code, "%s; the payment went back: order again", v.Refusal.Text))
	}
	next := Paid{Order: o, Deadline: v.At.Add(o.WaitFor)}
	return next, []Effect{CheckIncoming{OrderID: o.ID, Htlcs: h.Htlcs}}, nil
}

// hold sums a set that lnd holds, and what holding it costs.
func (o Order) hold(htlcs []ln.InvoiceHtlc, height uint32) (Held, error) {
	h := Held{Htlcs: htlcs, EarliestExpiry: math.MaxUint32}
	for _, htlc := range htlcs {
		h.EarliestExpiry = min(h.EarliestExpiry, htlc.Expiry)
		var err error
		if h.HeldMsat, err = h.HeldMsat.Add(htlc.AmtMsat); err != nil {
			return Held{}, err
		}
		h.SatBlocks += lsp.SatBlocks(htlc.AmtMsat, height, htlc.Expiry-min(o.HoldExpiryDelta, htlc.Expiry))
	}
	return h, nil
}

// HoldCost is what it would cost to hold a set, for limits.
func HoldCost(o Order, htlcs []ln.InvoiceHtlc, height uint32) (lsp.Holding, error) {
	h, err := o.hold(htlcs, height)
	return h.Holding(), err
}

// Holding is what the set counts for.
func (h Held) Holding() lsp.Holding {
	return lsp.Holding{HeldMsat: h.HeldMsat, SatBlocks: h.SatBlocks, Slots: lsp.InvoiceSlots(h.Htlcs)}
}

// late: the held payment must go back now, before lnd takes it back by itself.
func (o Order) late(height uint32) bool {
	return o.PaidBy == PaidByLightning && !o.Settled &&
		uint64(height)+uint64(o.HoldMarginBlocks)+uint64(o.HoldExpiryDelta) >= uint64(o.Held.EarliestExpiry)
}

func stepPaid(s Paid, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case IncomingChecked:
		if !v.Safe {
			return unwind(s.Order, lsp.Because(lsp.ReasonUnsafeIncoming,
				"the payment came in over a channel whose funding is not safe yet (%s): it went back; order again and pay over another channel, or once it has confirmed", clip(v.Text)))
		}
		s.Safe = true
		return s, []Effect{askPeer(s.Order)}, nil
	case PeerStatus:
		if !s.Safe || !v.Online {
			return s, nil, nil
		}
		if s.mayWait() {
			return s.queue()
		}
		return s.open()
	case PeerOnline:
		if !s.Safe {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s, []Effect{askPeer(s.Order)}, nil
	case NewBlock:
		if s.late(v.Height) {
			return unwind(s.Order, tooLate())
		}
		if !s.Safe {
			return s, nil, nil
		}
		// What was refused before (coins, chain fees, a limit) may be possible now.
		return s, []Effect{askPeer(s.Order)}, nil
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return unwind(s.Order, s.why(lsp.Because(lsp.ReasonWalletOffline,
			"the client's node did not connect in time for its channel: the payment went back; bring the node online and order again")))
	}
	return s.waiting(v, func(o Order) State { s.Order = o; return s })
}

// waiting is what a paid order takes in while no channel of its is being opened; same is
// the order's state with what it says now.
func (o Order) waiting(v Event, same func(Order) State) (State, []Effect, error) {
	switch v := v.(type) {
	case CoinsSeen:
		o, effects := o.see(v)
		if o.PaidBy == PaidByOnChain && !o.backed() {
			return Awaiting{Order: o.unpaid()}, effects, nil
		}
		return same(o), effects, nil
	case InvoiceSettled:
		o.Settled = true
		return same(o), []Effect{Alarm{OrderID: o.ID, Reason: settledBefore()}}, nil
	case InvoiceCanceled:
		o.InvoiceGone = true
		if o.PaidBy == PaidByLightning {
			return unwind(o, takenBack())
		}
		return same(o), nil, nil
	case Cancel:
		return unwind(o, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(same(o), v)
}

// why prefers what the last open said.
func (o Order) why(otherwise lsp.Reason) lsp.Reason {
	if !o.Last.IsZero() {
		return o.Last
	}
	return otherwise
}

// open begins one more open, the last one's end being known.
func (s Paid) open() (State, []Effect, error) {
	o := s.Order
	if o.Opens-o.Spared >= o.MaxOpens {
		return unwind(o, o.why(lsp.Because(lsp.ReasonAttempts, "the channel could not be opened: the payment went back; order again")))
	}
	o.Opens++
	o.Batch = ""
	return Opening{Order: o, Deadline: s.Deadline}, []Effect{openChannel(o)}, nil
}

func openChannel(o Order) Effect {
	return OpenChannel{
		OrderID: o.ID, OpeningID: OpeningID(o.ID, o.Opens), Client: o.Client, Wish: o.Wish, FeeSat: o.price().FeeSat, Try: o.Opens, Batch: o.Batch,
	}
}

// price is what the order's way to pay asks.
func (o Order) price() Price {
	switch {
	case o.PaidBy == PaidByOnChain && o.OnChain != nil:
		return o.OnChain.Price
	case o.Lightning != nil:
		return o.Lightning.Price
	case o.OnChain != nil:
		return o.OnChain.Price
	}
	return Price{}
}

func stepOpening(s Opening, v Event) (State, []Effect, error) {
	now := OpeningID(s.ID, s.Opens)
	switch v := v.(type) {
	case OpeningSigned:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return Funding{Order: s.Order}, nil, nil
	case OpeningPublished:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return funded(s.Order, v)
	case OpeningFailed:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		if v.Spared {
			return s.spared(v.Reason)
		}
		s.Last = v.Reason
		if s.mayTry(v) {
			// The next block, or the client's node when it connects, tries again. A node
			// that was away a moment ago may be back already, and was told of while
			// nobody waited for it.
			var effects []Effect
			if v.Reason.Code == lsp.ReasonWalletGone {
				effects = append(effects, askPeer(s.Order))
			}
			return Paid{Order: s.Order, Safe: true, Deadline: s.Deadline}, effects, nil
		}
		return unwind(s.Order, v.Reason)
	case NewBlock:
		if s.late(v.Height) {
			return abandon(s.Order, tooLate(), false)
		}
		return s, nil, nil
	case CoinsSeen:
		o, effects := s.see(v)
		if o.PaidBy == PaidByOnChain && !o.backed() {
			next, more, err := abandon(o, lsp.Because(lsp.ReasonPaymentGone, "the payment left the chain before the channel was funded: pay again before the order expires"), true)
			return next, append(effects, more...), err
		}
		s.Order = o
		return s, effects, nil
	case InvoiceSettled:
		s.Settled = true
		return s, []Effect{Alarm{OrderID: s.ID, Reason: settledBefore()}}, nil
	case InvoiceCanceled:
		s.InvoiceGone = true
		if s.PaidBy == PaidByLightning {
			return abandon(s.Order, takenBack(), false)
		}
		return s, nil, nil
	case PeerStatus:
		// It was asked twice.
		return s, nil, nil
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return abandon(s.Order, lsp.Because(lsp.ReasonOpenSlow, "the channel was not ready to be funded in time: the payment went back; order again"), false)
	case Cancel:
		return abandon(s.Order, withdrawn(v.Reason), false)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// stepAbandoning waits for the open's own word.
func stepAbandoning(s Abandoning, v Event) (State, []Effect, error) {
	now := OpeningID(s.ID, s.Opens)
	switch v := v.(type) {
	case OpeningFailed:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		if s.Reawait {
			return Awaiting{Order: s.unpaid()}, nil, nil
		}
		return unwind(s.Order, s.Reason)
	case OpeningSigned:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return Funding{Order: s.Order}, nil, nil
	case OpeningPublished:
		if v.OpeningID != now {
			return nil, nil, fsm.Illegal(s, v)
		}
		return funded(s.Order, v)
	case CoinsSeen:
		o, effects := s.see(v)
		s.Order = o
		return s, effects, nil
	case InvoiceSettled:
		s.Settled = true
		return s, []Effect{Alarm{OrderID: s.ID, Reason: settledBefore()}}, nil
	case InvoiceCanceled:
		s.InvoiceGone = true
		return s, nil, nil
	case Cancel:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(s, v)
}

func abandon(o Order, reason lsp.Reason, reawait bool) (State, []Effect, error) {
	o.Last = reason
	return Abandoning{Order: o, Reason: reason, Reawait: reawait}, []Effect{
		AbandonOpening{OrderID: o.ID, OpeningID: OpeningID(o.ID, o.Opens), Reason: reason},
	}, nil
}

// unwind gives everything back. It is only called where there is no channel and
// there will be none.
func unwind(o Order, reason lsp.Reason) (State, []Effect, error) {
	o.Last = reason
	if o.Settled {
		return lost(o)
	}
	var effects []Effect
	if o.Lightning != nil && !o.InvoiceGone {
		effects = append(effects, cancelInvoice(o))
	}
	o, more := o.giveBack(false, reason)
	next, last := unwound(o, reason)
	return next, append(append(effects, more...), last...), nil
}

// unwound ends an order without a channel once nothing is outstanding.
func unwound(o Order, reason lsp.Reason) (State, []Effect) {
	if !o.quiet(false) {
		return Unwinding{Order: o, Reason: reason}, nil
	}
	return Failed{Order: o, Reason: reason}, o.free()
}

// free gives back all leases.
func (o Order) free() []Effect {
	if len(o.Coins) == 0 {
		return nil
	}
	return []Effect{FreeCoins{OrderID: o.ID, LeaseID: LeaseID(o.ID)}}
}

func stepUnwinding(s Unwinding, v Event) (State, []Effect, error) {
	o := s.Order
	var effects []Effect
	switch v := v.(type) {
	case InvoiceCanceled:
		o.InvoiceGone = true
	case PeerStatus, IncomingChecked:
		// They were asked before the order was given up.
		return s, nil, nil
	case InvoiceAdded, SetAccepted:
		// They crossed the cancel, which goes first to the node or follows them.
		if o.InvoiceGone {
			return nil, nil, fsm.Illegal(s, v)
		}
		effects = append(effects, cancelInvoice(o))
	case InvoiceSettled:
		o.Settled = true
		return lost(o)
	case CoinsSeen:
		o, effects = o.see(v)
		var more []Effect
		o, more = o.giveBack(false, s.Reason)
		effects = append(effects, more...)
	case RefundSent, RefundEnded, RefundVoid:
		var ok bool
		if o, effects, ok = o.refunded(v); !ok {
			return nil, nil, fsm.Illegal(s, v)
		}
		if _, void := v.(RefundVoid); void {
			var more []Effect
			o, more = o.giveBack(false, s.Reason)
			effects = append(effects, more...)
		}
	case Tick:
		if o.watchUntil().IsZero() || v.At.Before(o.watchUntil()) {
			return nil, nil, fsm.Illegal(s, v)
		}
		o.Unwatched = true
	default:
		return nil, nil, fsm.Illegal(s, v)
	}
	next, last := unwound(o, s.Reason)
	return next, append(effects, last...), nil
}

// lost: the payment was taken and there is no channel.
func lost(o Order) (State, []Effect, error) {
	reason := lsp.Because(lsp.ReasonLost, "the client paid %s and its channel cannot exist: pay the client back by hand", o.price().TotalSat)
	return Lost{Order: o, Reason: reason}, append(o.free(), Alarm{OrderID: o.ID, Reason: reason}), nil
}

func cancelInvoice(o Order) Effect { return CancelInvoice{OrderID: o.ID, Hash: o.Lightning.Hash} }

func askPeer(o Order) Effect { return AskPeer{OrderID: o.ID, Client: o.Client} }

func nobodyPaid() lsp.Reason {
	return lsp.Because(lsp.ReasonOfferExpired, "the order was not paid in time: order again; what arrives late goes back")
}

func tooLate() lsp.Reason {
	return lsp.Because(lsp.ReasonExpiryNear, "the held payment would have expired before the channel was funded: it went back; order again")
}

func takenBack() lsp.Reason {
	return lsp.Because(lsp.ReasonInvoiceCanceled, "the gateway's node took the hold invoice back: the payment was returned; order again")
}

func settledBefore() lsp.Reason {
	return lsp.Because(lsp.ReasonLost, "the order's invoice is settled although this database does not say so: the client has paid, and gets the channel")
}

func withdrawn(r lsp.Reason) lsp.Reason {
	if r.IsZero() {
		return lsp.Because(lsp.ReasonCancelled, "the order was cancelled: order again")
	}
	return r
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
