package jit

import (
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Withhold are the terms of bLIP-52: the receiver pays the opening fee by being
// forwarded less than the onions ask, and the gateway does not know the
// payment's hash beforehand.
//
// Until a set is complete the offer is unbound: parts are gathered by hash, each
// hash for CollectFor from its first part, so that a stranger who has seen the
// channel id cannot keep the payer's parts out. The first complete set binds the
// offer to its hash, and the others go back. When a bound set goes back, the
// offer is unbound again: a probe opens one channel at most, and the fee for it
// is taken from the payment that follows.
type Withhold struct {
	// SizeMsat is payment_size_msat; 0 lets the first HTLC be the payment
	// (no-MPP+var-invoice).
	SizeMsat ln.Msat `json:"payment_size_msat"`
	// FeeMsat is the opening fee of that size; for a variable size it is set
	// while the offer is bound.
	FeeMsat ln.Msat `json:"opening_fee_msat"`
	// Bound says that Hash is set. Any 32 bytes are somebody's payment hash.
	Bound bool `json:"bound,omitempty"`
}

// unbound says that no set has given the offer its hash.
func (t Terms) unbound() bool { return t.Withhold != nil && !t.Withhold.Bound }

// AgreedFee is what the gateway earns with this payment, whoever pays it.
func (t Terms) AgreedFee() ln.Msat {
	if t.Withhold != nil {
		return t.Withhold.FeeMsat
	}
	return t.Part.FeeMsat
}

// WalletMsat is what of an amount in the onions goes on to the wallet, if a
// channel is opened for it.
func (t Terms) WalletMsat(outgoing ln.Msat) ln.Msat {
	if t.Withhold == nil {
		return outgoing
	}
	return outgoing - min(outgoing, t.Withhold.FeeMsat)
}

// bind gives the offer its hash.
func (t Terms) bind(hash ln.Hash) Terms {
	w := *t.Withhold
	w.Bound = true
	t.Hash, t.Withhold = hash, &w
	return t
}

// release unbinds.
func (t Terms) release() Terms {
	if t.Withhold == nil {
		return t
	}
	w := *t.Withhold
	w.Bound = false
	if w.SizeMsat == 0 {
		t.Part.AmountMsat, w.FeeMsat = 0, 0
	}
	t.Hash, t.Withhold = ln.Hash{}, &w
	return t
}

// bindVariable makes one HTLC the payment whose size nobody named. bLIP-52 wants
// unknown_next_peer where the fee cannot be taken out of it.
func (t Terms) bindVariable(h ln.InterceptedHtlc) (Terms, lsp.Reason) {
	size := h.OutgoingMsat
	if size > ln.MaxMsat {
		return t, lsp.Because(lsp.ReasonAmountOver, "a part claims more than can exist: it was sent back")
	}
	if err := t.Params.CheckSize(size); err != nil {
		return t, lsp.Because(lsp.ReasonSize, "%s", err)
	}
	fee, err := t.Params.Fee(size)
	if err != nil {
		return t, lsp.Because(lsp.ReasonSize, "%s", err)
	}
	if fee > size || size-fee < t.Part.HtlcMinimumMsat {
		return t, lsp.Because(lsp.ReasonSize, "a payment of %s cannot bear the opening fee of %s: pay more", size, fee)
	}
	t.Part.AmountMsat, t.Withhold = size, &Withhold{FeeMsat: fee}
	return t.bind(h.Hash), lsp.Reason{}
}

// gather takes a part while the offer is unbound.
func gather(s State, o Offer, v PartArrived) (State, []Effect, error) {
	key := v.Htlc.Key
	alone := func(how Refusal, reason lsp.Reason) (State, []Effect, error) {
		if waiting, ok := s.(Offered); ok {
			waiting.Last = reason
			s = waiting
		}
		return s, []Effect{refuse(o, []ln.CircuitKey{key}, how, reason)}, nil
	}
	if o.Withhold.SizeMsat == 0 {
		terms, reason := o.bindVariable(v.Htlc)
		if !reason.IsZero() {
			return alone(o.never(), reason)
		}
		// The one part is the whole set.
		o.Terms = terms
	}
	if reason := o.Part.CheckPart(v.Htlc, v.Height); !reason.IsZero() {
		return alone(o.never(), reason)
	}
	part := v.part()
	if !v.At.Before(o.ExpiresAt) {
		return expire(o, add(Held{Parts: PartsOf(s)}, part), offerOver())
	}
	if !v.Refusal.IsZero() {
		return alone(RefuseTemporary, v.Refusal)
	}
	var mine, others Held
	for _, p := range PartsOf(s) {
		if p.Htlc.Hash == v.Htlc.Hash {
			mine.Parts = append(mine.Parts, p)
		} else {
			others.Parts = append(others.Parts, p)
		}
	}
	mine.Parts = append(mine.Parts, part)
	if len(mine.Parts) > o.Part.MaxParts || len(mine.Parts)+len(others.Parts) > 4*o.Part.MaxParts {
		return alone(RefuseTemporary, lsp.Because(lsp.ReasonTooManyParts,
			"the payment came in more than %d parts and is not complete: send it in fewer", o.Part.MaxParts))
	}
	if mine.outgoing() < o.Part.AmountMsat {
		next := Collecting{Offer: o, Held: Held{Parts: append(others.Parts, mine.Parts...)}}
		next.Deadline = next.firstDue()
		if v.asksEarly(len(mine.Parts)) {
			return next, []Effect{askWallet(o, o.Part.AmountMsat, false)}, nil
		}
		return next, nil, nil
	}
	o.Terms = o.bind(v.Htlc.Hash)
	var effects []Effect
	if len(others.Parts) > 0 {
		effects = append(effects, refuse(o, others.keys(), RefuseTemporary, lsp.Because(lsp.ReasonOtherHash,
			"another payment to this channel id was complete first: this one went back; pay again later")))
	}
	next, more, err := joined(Collecting{Offer: o, Held: mine, Deadline: o.within(mine.Parts[0].At.Add(o.CollectFor))}, v)
	return next, append(effects, more...), err
}

// within ends a wait at valid_until where bLIP-52's terms stand: it has the LSP
// go on with a payment only before that moment, whatever it still waits for. An
// open that has begun by then goes on.
func (o Offer) within(due time.Time) time.Time {
	if o.Withhold != nil && due.After(o.ExpiresAt) {
		return o.ExpiresAt
	}
	return due
}

// over says that valid_until has passed for a payment of which no open has begun.
func (o Offer) over(at time.Time) bool { return o.Withhold != nil && !at.Before(o.ExpiresAt) }

// firstDue is when the first hash has been waited for long enough.
func (s Collecting) firstDue() time.Time {
	var due time.Time
	seen := make(map[ln.Hash]bool)
	for _, p := range s.Parts {
		at := p.At.Add(s.CollectFor)
		if !seen[p.Htlc.Hash] && (due.IsZero() || at.Before(due)) {
			due = at
		}
		seen[p.Htlc.Hash] = true
	}
	return s.within(due)
}

// stepUnbound is what ends the waiting of some hashes and not of others.
func (s Collecting) stepUnbound(v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		if !v.At.Before(s.ExpiresAt) {
			return expire(s.Offer, s.Held, lsp.Because(lsp.ReasonOfferExpired, "no payment was complete before the offer expired"))
		}
		reason := lsp.Because(lsp.ReasonPartMissing, "only a part of %s arrived in time: it went back; pay again", s.Part.AmountMsat)
		first := make(map[ln.Hash]time.Time)
		for _, p := range s.Parts {
			if _, ok := first[p.Htlc.Hash]; !ok {
				first[p.Htlc.Hash] = p.At
			}
		}
		return s.drop(RefuseTemporary, reason, nil, func(p Part) bool {
			return !v.At.Before(first[p.Htlc.Hash].Add(s.CollectFor))
		})
	case NewBlock:
		near := make(map[ln.Hash]lsp.Reason)
		var reason lsp.Reason
		for _, p := range s.Parts {
			if why, is := (Held{Parts: []Part{p}}).near(s.Offer, v.Height); is {
				near[p.Htlc.Hash], reason = why, why
			}
		}
		if len(near) == 0 {
			return s, nil, nil
		}
		return s.drop(RefuseTemporary, reason, nil, func(p Part) bool { _, is := near[p.Htlc.Hash]; return is })
	case PartGone:
		i := slices.IndexFunc(s.Parts, func(p Part) bool { return p.Htlc.Key == v.Key })
		if i < 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		hash := s.Parts[i].Htlc.Hash
		return s.drop(RefuseTemporary, lsp.Because(lsp.ReasonPartMissing,
			"a part of the payment was taken back before it could be forwarded (%s): the others went back with it; pay again", clip(v.Text)),
			&v.Key, func(p Part) bool { return p.Htlc.Hash == hash })
	}
	return nil, nil, fsm.Illegal(s, v)
}

// drop refuses the parts that want names, but for one that is gone already.
func (s Collecting) drop(how Refusal, reason lsp.Reason, gone *ln.CircuitKey, want func(Part) bool) (State, []Effect, error) {
	var rest, refused Held
	for _, p := range s.Parts {
		switch {
		case gone != nil && p.Htlc.Key == *gone:
		case want(p):
			refused.Parts = append(refused.Parts, p)
		default:
			rest.Parts = append(rest.Parts, p)
		}
	}
	if len(rest.Parts) == 0 {
		return back(s.Offer, refused, how, reason)
	}
	s.Held, s.Last = rest, reason
	s.Deadline = s.firstDue()
	if len(refused.Parts) == 0 {
		return s, nil, nil
	}
	return s, []Effect{refuse(s.Offer, refused.keys(), how, reason)}, nil
}

// withhold shares the fee out over parts that are handed on together; false if
// they cannot bear it. owed is what of the fee others of the payment do not bear
// already.
func withhold(parts []Part, owed, htlcMinimum ln.Msat) ([]Part, bool) {
	amounts := make([]ln.Msat, 0, len(parts))
	for _, p := range parts {
		amounts = append(amounts, p.Htlc.OutgoingMsat)
	}
	fees, ok := lsp.ExtraFees(amounts, owed, htlcMinimum)
	if !ok {
		return nil, false
	}
	out := slices.Clone(parts)
	for i := range out {
		out[i].ExtraFeeMsat = fees[i]
	}
	return out, true
}

// owes is the fee to be withheld. Nothing is, where the payment goes over a
// channel that was not opened for it.
func (o Offer) owes() ln.Msat {
	if o.Withhold == nil || o.Chan == 0 {
		return 0
	}
	return o.Withhold.FeeMsat
}

// withheld is the fee that the parts must be able to bear.
func (o Offer) withheld() ln.Msat {
	if o.Withhold == nil {
		return 0
	}
	return o.Withhold.FeeMsat
}

func tooManyForFee(o Offer, h Held) lsp.Reason {
	return lsp.Because(lsp.ReasonTooManyParts, "the payment came in %d parts, too small to take the opening fee of %s out of them: send it in fewer", len(h.Parts), o.withheld())
}

// TakesMsat is what the payment takes of the channel that it goes over.
func (o Offer) TakesMsat() ln.Msat { return o.Part.AmountMsat - min(o.Part.AmountMsat, o.owes()) }

// resume hands parts on, each with what is withheld of it.
func resume(o Offer, parts []Part) Effect {
	f := ResumeParts{OfferID: o.ID}
	for _, p := range parts {
		f.Keys = append(f.Keys, p.Htlc.Key)
		if o.Withhold != nil {
			f.ExtraFees = append(f.ExtraFees, p.ExtraFeeMsat)
		}
	}
	return f
}

// next takes a part of another payment than the one that was handed on. A payer
// that has probed pays at once, before lnd's word that the probe failed: refused,
// it would find no other route. So it waits for the fate of what was handed on,
// and is then judged as if it came only now.
func (s Forwarded) next(from State, v PartArrived) (State, []Effect, error) {
	part := v.part()
	reason, near := (Held{Parts: []Part{part}}).near(s.Offer, v.Height)
	switch {
	case v.Htlc.OnChain(), v.Htlc.IncomingMsat > ln.MaxMsat, v.Htlc.OutgoingMsat > ln.MaxMsat, len(s.Spares) >= s.Part.MaxParts:
		return from, []Effect{s.sendBack([]ln.CircuitKey{v.Htlc.Key}, beyond())}, nil
	case near:
		return from, []Effect{s.sendBack([]ln.CircuitKey{v.Htlc.Key}, reason)}, nil
	}
	s.Spares = append(slices.Clone(s.Spares), part)
	return s.like(from), nil, nil
}
