package jit

import (
	"cmp"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

func add(h Held, p Part) Held {
	return Held{Parts: append(append([]Part(nil), h.Parts...), p)}
}

func (h Held) keys() []ln.CircuitKey {
	keys := make([]ln.CircuitKey, 0, len(h.Parts))
	for _, p := range h.Parts {
		keys = append(keys, p.Htlc.Key)
	}
	return keys
}

func (h Held) htlcs() []ln.InterceptedHtlc {
	htlcs := make([]ln.InterceptedHtlc, 0, len(h.Parts))
	for _, p := range h.Parts {
		htlcs = append(htlcs, p.Htlc)
	}
	return htlcs
}

// outgoing is what the parts bring the wallet. It cannot wrap: CheckPart
// bounds each part by MaxMsat and MaxParts their number.
func (h Held) outgoing() ln.Msat {
	var sum ln.Msat
	for _, p := range h.Parts {
		sum += p.Htlc.OutgoingMsat
	}
	return sum
}

func (s Collecting) complete() bool { return !s.unbound() && s.outgoing() >= s.Part.AmountMsat }

// near says that the parts must go back now: lnd would fail the earliest one
// by itself soon, or the wallet would find its final delta too short.
func (h Held) near(o Offer, height uint32) (lsp.Reason, bool) {
	for _, p := range h.Parts {
		if uint64(height)+uint64(o.HoldMarginBlocks) >= uint64(p.Htlc.AutoFailHeight) {
			return lsp.Because(lsp.ReasonExpiryNear,
				"the payment could not be forwarded before block %d, %d blocks before the node would fail it: it went back; pay again", height, o.HoldMarginBlocks), true
		}
		if reason := o.Part.CheckFinalDelta(p.Htlc, height); !reason.IsZero() {
			return reason, true
		}
	}
	return lsp.Reason{}, false
}

// isLast says that the id is that of the last open begun for the offer.
func (o Offer) isLast(openingID string) bool {
	return o.Opens > 0 && openingID == OpeningID(o.ID, o.Opens)
}

func (s Collecting) wake() WakeWallet {
	return WakeWallet{OfferID: s.ID, Client: s.Client, Hash: s.Parts[0].Htlc.Hash, AmountMsat: s.Part.AmountMsat, Until: s.Deadline}
}

// Waits gives what to tell an offline wallet of a payment that waits for
// nothing but the wallet.
func Waits(s State) (WakeWallet, bool) {
	c, ok := s.(Collecting)
	if !ok || !c.complete() {
		return WakeWallet{}, false
	}
	return c.wake(), true
}

func askWallet(o Offer, amount ln.Msat, whole bool) Effect {
	return AskWallet{
		OfferID: o.ID, Client: o.Client, Whole: whole, AmountMsat: amount - min(amount, o.owes()), Prefer: cmp.Or(o.Chan, o.Room), Opens: o.Opens,
		FeeMsat: o.AgreedFee(), ZeroConf: o.ZeroConf,
	}
}

// roomOnly says that the payment was promised room and may open no channel.
func (o Offer) roomOnly() bool { return o.Room != 0 && o.MaxOpens == 0 }

// roomGone: the room was kept from other agreements, but not from ordinary
// forwards, nor from the wallet, which may have closed the channel.
func roomGone() lsp.Reason {
	return lsp.Because(lsp.ReasonNoRoom,
		"this payment was agreed without an opening fee, for a channel that had room for it and has it no more: it went back; pay again later, or ask for a new invoice")
}

func refuse(o Offer, keys []ln.CircuitKey, how Refusal, reason lsp.Reason) Effect {
	return RefuseParts{OfferID: o.ID, Keys: keys, How: how, Reason: reason}
}

// letGo refuses all held parts and asks an open that is still under way to
// end if it can.
func letGo(o Offer, h Held, how Refusal, reason lsp.Reason) (Offer, []Effect) {
	var effects []Effect
	if len(h.Parts) > 0 {
		effects = append(effects, refuse(o, h.keys(), how, reason))
	}
	o, more := o.leave(lsp.Because(lsp.ReasonOpenSlow, "the payment it was for went back: %s", reason.Text))
	return o, append(effects, more...)
}

// leave asks an open whose channel is not used, or not funded, to end if it can.
// Its fate is not known until it says so.
func (o Offer) leave(reason lsp.Reason) (Offer, []Effect) {
	if !o.OpenLive && !o.Withheld {
		return o, nil
	}
	if o.Withheld {
		o.Withheld, o.OpenLive, o.Chan = false, true, 0
	}
	o.LetGo = true
	return o, []Effect{AbandonOpening{OfferID: o.ID, OpeningID: OpeningID(o.ID, o.Opens), Reason: reason}}
}

// begin counts another open.
func (o Offer) begin() Offer {
	o.Opens++
	o.OpenLive, o.LetGo = true, false
	return o
}

// usable takes an open's word that its channel can be used; false if it is about
// to go.
func (o Offer) usable(v OpeningUsable) (Offer, bool) {
	if v.Withheld && o.LetGo {
		return o, false
	}
	o.OpenLive, o.Chan, o.Withheld = false, v.ChanID, v.Withheld
	return o, true
}

// back refuses the parts and waits for the payment to be tried again. Between
// the refusal and a mapping lies another complete set, so even a RefuseUnknown
// meets an unmapped SCID (effects of one offer run in order).
func back(o Offer, h Held, how Refusal, reason lsp.Reason) (State, []Effect, error) {
	o, effects := letGo(o, h, how, reason)
	o.Last = reason
	o.Terms = o.release()
	return Offered{Offer: o}, effects, nil
}

func refunded(o Offer, h Held, how Refusal, reason lsp.Reason) (State, []Effect, error) {
	o, effects := letGo(o, h, how, reason)
	o.Last = reason
	return Refunded{Offer: o, Reason: reason}, effects, nil
}

func offerOver() lsp.Reason {
	return lsp.Because(lsp.ReasonOfferExpired, "the offer has expired: ask the receiver for a new invoice")
}

// expire: bLIP-52 asks for unknown_next_peer past valid_until.
func expire(o Offer, h Held, reason lsp.Reason) (State, []Effect, error) {
	o, effects := letGo(o, h, o.never(), reason)
	o.Last = reason
	return Expired{Offer: o, Reason: reason}, effects, nil
}

func cancel(o Offer, h Held, reason lsp.Reason) (State, []Effect, error) {
	if reason.IsZero() {
		reason = lsp.Because(lsp.ReasonCancelled, "the offer was cancelled: ask the receiver for a new invoice")
	}
	o, effects := letGo(o, h, o.never(), reason)
	o.Last = reason
	return Cancelled{Offer: o, Reason: reason}, effects, nil
}

// opening waits for the open named by o.Opens, beginning it if it is new. With
// confirmations to wait for only block heights bound the hold.
func opening(o Offer, h Held, at time.Time, amount ln.Msat) (State, []Effect, error) {
	s := Opening{Offer: o, Held: h, OpeningID: OpeningID(o.ID, o.Opens)}
	if o.ZeroConf {
		s.Deadline = at.Add(o.OpenFor)
	}
	return s, []Effect{OpenChannel{OfferID: o.ID, OpeningID: s.OpeningID, Terms: o.Terms, AmountMsat: o.WalletMsat(amount)}}, nil
}

func mapping(o Offer, h Held, via ln.SCID, at time.Time) (State, []Effect, error) {
	o.Mapped = true
	m := MapChannel{OfferID: o.ID, Client: o.Client, SCID: o.SCID, Via: via}
	if o.Withheld && via == o.Chan {
		m.Withheld, m.OpeningID = true, OpeningID(o.ID, o.Opens)
	}
	return Mapping{Offer: o, Held: h, Via: via, Deadline: at.Add(o.MapFor)},
		[]Effect{m}, nil
}

func attemptsUsed(o Offer) lsp.Reason {
	if o.MaxOpens == 0 {
		return roomGone()
	}
	return lsp.Because(lsp.ReasonAttempts, "%d attempts to open a channel for this payment failed: ask for a new invoice", o.Opens)
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
