package wrap

import (
	"cmp"
	"fmt"
	"math"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Offered:
		return stepOffered(s, v)
	case InvoiceMade:
		return stepInvoiceMade(s, v)
	case Accepted:
		return stepAccepted(s, v)
	case Opening:
		return stepOpening(s, v)
	case Paying:
		return stepPaying(s, s.Offer, s.Held, s.Route, v)
	case PaymentUnknown:
		return stepPaying(s, s.Offer, s.Held, s.Route, v)
	case Settling:
		return stepSettling(s, v)
	case Cancelling:
		return stepCancelling(s, v)
	}
	return nil, nil, afterwards(s, v)
}

// afterwards tells news from what a final state says already. lnd tells an invoice's end
// twice, to who asked and to who listens.
func afterwards(s State, v Event) error {
	switch s.(type) {
	case Settled:
		if _, again := v.(InvoiceSettled); again {
			return fsm.Repeated(s, v)
		}
	case Refunded, Expired, Cancelled, Lost:
		if _, again := v.(InvoiceCanceled); again {
			return fsm.Repeated(s, v)
		}
	}
	return fsm.Illegal(s, v)
}

func stepOffered(s Offered, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{MakeInvoice{OfferID: s.ID, Invoice: ln.HoldInvoiceRequest{
			Hash: s.Hash, AmountMsat: s.PayerMsat, Memo: s.Description, DescriptionHash: s.DescriptionHash,
			Expiry: s.ExpiresAt.Sub(v.At), FinalCltvDelta: s.HoldFinalCltv,
		}}}, nil
	case InvoiceAdded:
		s.Bolt11 = v.Bolt11
		return InvoiceMade(s), []Effect{WatchInvoice{OfferID: s.ID, Hash: s.Hash}}, nil
	case InvoiceRefused:
		return Cancelled{Offer: s.Offer, Reason: lsp.Because(lsp.ReasonInvoiceFailed, "the gateway could not make the invoice (%s): ask for a new one with a new payment hash", clip(v.Text))}, nil, nil
	case Tick:
		if v.At.Before(s.ExpiresAt) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return cancelling(s.Offer, EndExpired, nobodyPaid())
	case Cancel:
		return cancelling(s.Offer, EndCancelled, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepInvoiceMade(s InvoiceMade, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case SetAccepted:
		return s.accept(v)
	case InvoiceCanceled:
		return Expired{Offer: s.Offer, Reason: nobodyPaid()}, nil, nil
	case InvoiceSettled:
		return settledBefore(s.Offer)
	case Tick:
		if v.At.Before(s.ExpiresAt) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return cancelling(s.Offer, EndExpired, nobodyPaid())
	case Cancel:
		return cancelling(s.Offer, EndCancelled, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(s, v)
}

// accept begins work on a set that lnd holds. lnd counted the set complete by
// the onions' total; the sum is checked here once more, since it is what the
// wallet is paid from.
func (s InvoiceMade) accept(v SetAccepted) (State, []Effect, error) {
	h, err := s.hold(v.Htlcs, v.Height)
	if err != nil {
		return nil, nil, fmt.Errorf("offer %s: the held set: %w", s.ID, err)
	}
	if h.HeldMsat < s.PayerMsat {
		return cancelling(s.Offer, EndRefunded, lsp.Because(lsp.ReasonAmountShort, "the invoice holds %s of %s: it went back", h.HeldMsat, s.PayerMsat))
	}
	if _, reason := s.outgoingExpiry(h, v.Height); !reason.IsZero() {
		return cancelling(s.Offer, EndRefunded, reason)
	}
	if !v.Refusal.IsZero() {
		return cancelling(s.Offer, EndRefunded, lsp.Because(v.Refusal.Code, "%s; the payment went back, and an invoice is good for one try: ask for a new one", v.Refusal.Text))
	}
	next := Accepted{Offer: s.Offer, Held: h, Deadline: v.At.Add(max(s.WaitFor, s.HoldFor))}
	return next, []Effect{next.check()}, nil
}

// hold sums a set that lnd holds, and what holding it costs.
func (o Offer) hold(htlcs []ln.InvoiceHtlc, height uint32) (Held, error) {
	h := Held{Htlcs: htlcs, EarliestExpiry: math.MaxUint32}
	for _, htlc := range htlcs {
		h.EarliestExpiry = min(h.EarliestExpiry, htlc.Expiry)
		var err error
		if h.HeldMsat, err = h.HeldMsat.Add(htlc.AmtMsat); err != nil {
			return Held{}, err
		}
		// lnd cancels the invoice at that height by itself.
		h.SatBlocks += lsp.SatBlocks(htlc.AmtMsat, height, htlc.Expiry-min(o.HoldExpiryDelta, htlc.Expiry))
	}
	return h, nil
}

// HoldCost is what it would cost to hold a set, for limits.
func HoldCost(o Offer, htlcs []ln.InvoiceHtlc, height uint32) (lsp.Holding, error) {
	h, err := o.hold(htlcs, height)
	return h.Holding(), err
}

// Holding is what the set counts for.
func (h Held) Holding() lsp.Holding {
	return lsp.Holding{HeldMsat: h.HeldMsat, SatBlocks: h.SatBlocks, Slots: lsp.InvoiceSlots(h.Htlcs)}
}

func stepAccepted(s Accepted, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case IncomingChecked:
		if !v.Safe {
			return cancelling(s.Offer, EndRefunded, lsp.Because(lsp.ReasonUnsafeIncoming,
				"the payment came in over a channel that cannot be relied on (%s): it went back; ask for a new invoice, and pay it over another channel or once that one has confirmed", clip(v.Text)))
		}
		s.Safe = true
		return s, []Effect{askWallet(s.Offer)}, nil
	case NewBlock:
		next, effects, err := held(s, s.Offer, s.Held, v)
		if _, waits := next.(Accepted); waits && s.HoldFor > 0 && s.Safe {
			// Over a long wait the wallet is woken again and again.
			effects = append(effects, askWallet(s.Offer))
		}
		return next, effects, err
	case WalletStatus:
		if !s.Safe {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s.wallet(v)
	case WalletOnline:
		if !s.Safe {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s, []Effect{s.check()}, nil
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return cancelling(s.Offer, EndRefunded, lsp.Because(lsp.ReasonWalletOffline,
			"the receiver's wallet did not come online in time: the payment went back; open the wallet and ask for a new invoice"))
	}
	return held(s, s.Offer, s.Held, v)
}

// check comes first, and again when the wallet is there: while the set waited its channel may
// have gone on chain, and what is opened for it then is opened for nothing.
func (s Accepted) check() Effect { return CheckIncoming{OfferID: s.ID, Htlcs: s.Htlcs} }

// wallet decides how the wallet is reached.
func (s Accepted) wallet(v WalletStatus) (State, []Effect, error) {
	o := s.Offer
	switch {
	case !v.Online:
		return s, []Effect{s.wake()}, nil
	case v.Wait:
		return s, nil, nil
	case v.Room != 0:
		return pay(o, s.Held, v.Room, v.Height)
	case o.Room != 0 && o.MaxOpens == 0:
		return cancelling(o, EndRefunded, lsp.Because(lsp.ReasonNoRoom,
			"this payment was agreed without an opening fee, for a channel that had room for it and has it no more: it went back; ask for a new invoice"))
	case v.Channels > 0 && !o.MayOpenMore:
		return cancelling(o, EndRefunded, lsp.Because(lsp.ReasonNoConsent,
			"the wallet's channels have too little inbound liquidity and it did not agree to another channel: receive less, or allow more channels"))
	case !v.Refusal.IsZero() && o.MaxOpens > 0:
		return cancelling(o, EndRefunded, v.Refusal)
	}
	return open(o, s.Held, v.Moment)
}

func stepOpening(s Opening, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case OpeningUsable:
		if v.OpeningID != s.OpeningID {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.OpenLive, s.Chan, s.Withheld = false, v.ChanID, v.Withheld
		return pay(s.Offer, s.Held, v.ChanID, v.Height)
	case OpeningFailed:
		if v.OpeningID != s.OpeningID {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.OpenLive = false
		// CancelInvoice is final for the payer, so what may succeed now is tried
		// again here; a wallet that said no is not asked twice.
		_, late := s.outgoingExpiry(s.Held, v.Height)
		if v.Temporary && s.Opens < s.MaxOpens && late.IsZero() && (s.Deadline.IsZero() || v.At.Before(s.Deadline)) {
			return open(s.Offer, s.Held, v.Moment)
		}
		return cancelling(s.Offer, EndRefunded, v.Reason)
	case Tick:
		if s.Deadline.IsZero() || v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return cancelling(s.Offer, EndRefunded, lsp.Because(lsp.ReasonOpenSlow,
			"the channel was not ready in time: the payment went back; ask for a new invoice, and the channel is used if it is ready by then"))
	}
	return held(s, s.Offer, s.Held, v)
}

// held is what the states have in common in which the set is held and nothing
// is in flight: it can go back at any moment.
func held(s State, o Offer, h Held, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case NewBlock:
		if _, reason := o.outgoingExpiry(h, v.Height); !reason.IsZero() {
			return cancelling(o, EndRefunded, reason)
		}
		return s, nil, nil
	case InvoiceCanceled:
		return Refunded{Offer: o, Reason: takenBack()}, giveUpOpen(o, takenBack()), nil
	case InvoiceSettled:
		return settledBefore(o)
	case Cancel:
		return cancelling(o, EndCancelled, withdrawn(v.Reason))
	}
	return nil, nil, fsm.Illegal(s, v)
}

// stepPaying serves Paying and PaymentUnknown: nothing here cancels the hold
// invoice before TrackPaymentV2's word that nothing is in flight.
func stepPaying(s State, o Offer, h Held, r Route, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PaymentSucceeded:
		if v.Preimage.Preimage().Hash() != o.Hash {
			return nil, nil, fmt.Errorf("offer %s: the payment's preimage does not open its hash", o.ID)
		}
		o, effects := fund(o)
		if o.InvoiceGone {
			return lost(o, h, r, v.Preimage, effects)
		}
		return Settling{Offer: o, Held: h, Route: r, Preimage: v.Preimage}, append(effects, settle(o, v.Preimage)), nil
	case PaymentFailed:
		reason := lsp.Because(lsp.ReasonPaymentFailed, "the wallet did not take the payment (%s): it went back; ask for a new invoice", clip(v.Text))
		return notPaid(o, h, r, v.Height, v.Retry, reason)
	case PaymentNotSent:
		// Nothing was sent: either the margin was gone, or a crash lay between
		// the decision and the call. The margin is computed anew.
		return notPaid(o, h, r, v.Height, true, lsp.Because(lsp.ReasonPaymentFailed, "the wallet could not be paid (%s): the payment went back; ask for a new invoice", clip(v.Text)))
	case PaymentCutOff:
		if _, again := s.(PaymentUnknown); again {
			return nil, nil, fsm.Illegal(s, v)
		}
		return PaymentUnknown{Offer: o, Held: h, Route: r, Since: v.At}, []Effect{TrackPayment{OfferID: o.ID, Hash: o.Hash}}, nil
	case InvoiceCanceled:
		if o.InvoiceGone {
			return nil, nil, fsm.Illegal(s, v)
		}
		o.InvoiceGone = true
		alarm := Alarm{OfferID: o.ID, Reason: lsp.Because(lsp.ReasonInvoiceCanceled,
			"the node cancelled the hold invoice while the wallet was being paid: if the wallet claims, the gateway loses %s", o.WalletMsat)}
		if _, unknown := s.(PaymentUnknown); unknown {
			u := s.(PaymentUnknown) //nolint:forcetypeassert // asked just above
			u.Offer = o
			return u, []Effect{alarm}, nil
		}
		return Paying{Offer: o, Held: h, Route: r}, []Effect{alarm}, nil
	case NewBlock:
		if r.ChanID == 0 || v.Height < r.ExpiryHeight+MissingAfterBlocks {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s, []Effect{LookForPayment{OfferID: o.ID, Hash: o.Hash, Missing: r.missing()}}, nil
	case PaymentMissing:
		if o.InvoiceGone {
			return Refunded{Offer: o, Reason: takenBack()}, giveUpOpen(o, takenBack()), nil
		}
		missing := r.missing()
		reason := lsp.Because(lsp.ReasonPaymentFailed, "the gateway's node lost the payment to the wallet in a restart; it has expired and was never sent: the payment went back; ask for a new invoice")
		o.Last = reason
		return Cancelling{Offer: o, Ending: EndRefunded, Reason: reason},
			append([]Effect{CancelInvoice{OfferID: o.ID, Hash: o.Hash, Missing: &missing}}, giveUpOpen(o, reason)...), nil
	case InvoiceSettled:
		// Somebody settled it by hand; the payment's preimage still ends it.
		return s, nil, nil
	case Cancel:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(s, v)
}

// notPaid follows a payment of which nothing is in flight any more.
func notPaid(o Offer, h Held, r Route, height uint32, retry bool, reason lsp.Reason) (State, []Effect, error) {
	o.Last = reason
	if o.InvoiceGone {
		return Refunded{Offer: o, Reason: takenBack()}, giveUpOpen(o, takenBack()), nil
	}
	// What went wrong is the reason to read, not that it is too late by now.
	if _, late := o.outgoingExpiry(h, height); retry && late.IsZero() && o.Payments < o.MaxPayments {
		return pay(o, h, r.ChanID, height)
	}
	return cancelling(o, EndRefunded, reason)
}

func stepSettling(s Settling, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case InvoiceSettled:
		return Settled{Offer: s.Offer, Held: s.Held, Route: s.Route, FeeEarnedMsat: s.HeldMsat - s.AmountMsat, At: v.At}, nil, nil
	case InvoiceCanceled:
		return lost(s.Offer, s.Held, s.Route, s.Preimage, nil)
	case NewBlock:
		return s, []Effect{settle(s.Offer, s.Preimage)}, nil
	case Cancel:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepCancelling(s Cancelling, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case InvoiceCanceled:
		switch s.Ending {
		case EndExpired:
			return Expired{Offer: s.Offer, Reason: s.Reason}, nil, nil
		case EndCancelled:
			return Cancelled{Offer: s.Offer, Reason: s.Reason}, nil, nil
		}
		return Refunded{Offer: s.Offer, Reason: s.Reason}, nil, nil
	case InvoiceAdded, SetAccepted:
		// They crossed the cancel, which goes first to the node or follows them.
		return s, []Effect{CancelInvoice{OfferID: s.ID, Hash: s.Hash}}, nil
	case PaidAfterAll:
		if v.Preimage.Preimage().Hash() != s.Hash {
			return nil, nil, fmt.Errorf("offer %s: the payment's preimage does not open its hash", s.ID)
		}
		h, err := s.hold(v.Htlcs, v.Height)
		if err != nil {
			return nil, nil, fmt.Errorf("offer %s: the held set: %w", s.ID, err)
		}
		if h.HeldMsat < s.WalletMsat {
			return nil, nil, fmt.Errorf("offer %s: the hold invoice has only %s of the %s that the wallet was paid", s.ID, h.HeldMsat, s.WalletMsat)
		}
		o, effects := fund(s.Offer)
		return Settling{Offer: o, Held: h, Route: Route{AmountMsat: o.WalletMsat}, Preimage: v.Preimage}, append(effects, settle(o, v.Preimage)), nil
	case InvoiceSettled:
		return s, []Effect{Alarm{OfferID: s.ID, Reason: lsp.Because(lsp.ReasonLost,
			"the hold invoice of an offer that was being cancelled is settled: somebody settled it by hand; the wallet may be owed %s", s.WalletMsat)}}, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

func (s Accepted) wake() WakeWallet {
	return WakeWallet{OfferID: s.ID, Client: s.Client, Hash: s.Hash, AmountMsat: s.WalletMsat, Until: s.Deadline}
}

// Waits gives what to tell an offline wallet of a payment that waits for
// nothing but the wallet.
func Waits(s State) (WakeWallet, bool) {
	a, ok := s.(Accepted)
	if !ok || !a.Safe {
		return WakeWallet{}, false
	}
	return a.wake(), true
}

func askWallet(o Offer) Effect {
	return AskWallet{
		OfferID: o.ID, Client: o.Client, AmountMsat: o.WalletMsat, Prefer: cmp.Or(o.Chan, o.Room), Opens: o.Opens,
		FeeMsat: o.FeeMsat, ZeroConf: o.ZeroConf,
	}
}

func settle(o Offer, p lsp.Secret) Effect {
	return SettleInvoice{OfferID: o.ID, Hash: o.Hash, Preimage: p}
}

// open begins one more open, the last one's end being known.
func open(o Offer, h Held, m lsp.Moment) (State, []Effect, error) {
	if o.Chan != 0 || o.Opens >= o.MaxOpens {
		return cancelling(o, EndRefunded, lsp.Because(lsp.ReasonAttempts, "no further channel is opened for this payment: ask for a new invoice"))
	}
	o.Opens++
	o.OpenLive = true
	s := Opening{Offer: o, Held: h, OpeningID: OpeningID(o.ID, o.Opens)}
	if o.ZeroConf {
		s.Deadline = m.At.Add(o.OpenFor)
	}
	return s, []Effect{OpenChannel{OfferID: o.ID, OpeningID: s.OpeningID, Terms: o.Terms, AmountMsat: o.WalletMsat}}, nil
}

// pay decides to pay, if law 4 allows it at this height. The executor must not
// send above SendUntilHeight, where the wallet would find its delta too short;
// the expiry is fixed here and stays. The margin is computed again when it sends.
func pay(o Offer, h Held, via ln.SCID, height uint32) (State, []Effect, error) {
	expiry, reason := o.outgoingExpiry(h, height)
	if !reason.IsZero() {
		return cancelling(o, EndRefunded, reason)
	}
	o.Payments++
	r := Route{ChanID: via, ExpiryHeight: expiry, AmountMsat: o.WalletMsat}
	withheld := ""
	if o.Withheld && via == o.Chan {
		withheld = OpeningID(o.ID, o.Opens)
	}
	return Paying{Offer: o, Held: h, Route: r}, []Effect{Pay{
		OfferID: o.ID, Attempt: o.Payments, SendUntilHeight: expiry - o.WalletFinalCltv, MarginBlocks: o.MarginBlocks, Withheld: withheld,
		Payment: ln.DirectPayment{
			Hash: o.Hash, PaymentAddr: o.WalletPaymentAddr, AmountMsat: r.AmountMsat,
			ChanID: via, Peer: o.Client, ExpiryHeight: expiry,
		},
	}}, nil
}

// cancelling gives the held set back. It is only called where no payment of
// ours can be in flight.
func cancelling(o Offer, e Ending, reason lsp.Reason) (State, []Effect, error) {
	o.Last = reason
	effects := append([]Effect{CancelInvoice{OfferID: o.ID, Hash: o.Hash}}, giveUpOpen(o, reason)...)
	return Cancelling{Offer: o, Ending: e, Reason: reason}, effects, nil
}

// settledBefore: the hold invoice is settled although nothing here says that the
// wallet was paid. Only its preimage settles it, so the database has forgotten
// the payment: lnd is asked for it before anything is given up.
func settledBefore(o Offer) (State, []Effect, error) {
	return cancelling(o, EndRefunded, lsp.Because(lsp.ReasonLost, "the hold invoice was settled by something that this database does not know: the node is asked about the payment to the wallet"))
}

// fund has a withheld channel funded: the wallet has given its preimage for it.
func fund(o Offer) (Offer, []Effect) {
	if !o.Withheld {
		return o, nil
	}
	o.Withheld = false
	return o, []Effect{ReleaseOpening{OfferID: o.ID, OpeningID: OpeningID(o.ID, o.Opens)}}
}

func giveUpOpen(o Offer, reason lsp.Reason) []Effect {
	if !o.OpenLive && !o.Withheld {
		return nil
	}
	return []Effect{AbandonOpening{OfferID: o.ID, OpeningID: OpeningID(o.ID, o.Opens), Reason: reason}}
}

func lost(o Offer, h Held, r Route, p lsp.Secret, effects []Effect) (State, []Effect, error) {
	reason := lsp.Because(lsp.ReasonLost, "the wallet was paid %s, but the node had cancelled the hold invoice: look at the incoming channels, an HTLC on chain can still be claimed with the stored preimage", o.WalletMsat)
	return Lost{Offer: o, Held: h, Route: r, Preimage: p, Reason: reason}, append(effects, Alarm{OfferID: o.ID, Reason: reason}), nil
}

func nobodyPaid() lsp.Reason {
	return lsp.Because(lsp.ReasonOfferExpired, "nobody paid before the invoice expired")
}

func takenBack() lsp.Reason {
	return lsp.Because(lsp.ReasonInvoiceCanceled, "the gateway's node took the hold invoice back: the payment was returned; ask for a new invoice")
}

func withdrawn(r lsp.Reason) lsp.Reason {
	if r.IsZero() {
		return lsp.Because(lsp.ReasonCancelled, "the offer was cancelled: ask the receiver for a new invoice")
	}
	return r
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
