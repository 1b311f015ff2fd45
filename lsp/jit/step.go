package jit

import (
	"slices"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Step decides. It is pure; see fsm.Machine.
//
// A part beyond the amount. Parts join until their sum reaches the amount
// agreed. The gateway cannot see the onion's total, but a payer that follows the
// invoice sends more only in place of what came back, so one that arrives
// before the RESUME is refused: joining it would resize a channel that is being
// opened. One that arrives after it waits for the fate of what was forwarded
// (Forwarded.extra). Never more than the amount is handed on: a wallet that was
// promised more (an overpaying sender's last part) does not claim an incomplete
// set, so the payer is refunded in full.
func Step(s State, v Event) (State, []Effect, error) {
	if v, ok := v.(PartArrived); ok {
		return arrived(s, v)
	}
	switch s := s.(type) {
	case Offered:
		return stepOffered(s, v)
	case Collecting:
		return stepCollecting(s, v)
	case Opening:
		return stepOpening(s, v)
	case Mapping:
		return stepMapping(s, v)
	case Resuming:
		if _, ok := v.(PartsResumed); ok {
			return Forwarded(s), nil, nil
		}
		return Forwarded(s).step(s, v)
	case Forwarded:
		return s.step(s, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// Screen judges a part that does not change the state: one that a final offer,
// a probe or a hint not ours brings. It is for callers that route HTLCs, too.
func Screen(o Offer, final bool, h ln.InterceptedHtlc, height uint32) (Refusal, lsp.Reason, bool) {
	if !o.unbound() && h.Hash != o.Hash {
		// Temporary (law 6): after unknown_next_peer an lnd payer's real
		// payment, which follows the probe, found no route.
		return RefuseTemporary, lsp.Because(lsp.ReasonOtherHash, "an HTLC with another payment hash came to this offer's channel id: it opens nothing and was refused"), true
	}
	if final {
		return o.never(), lsp.Because(lsp.ReasonOfferExpired, "the offer has ended: ask the receiver for a new invoice"), true
	}
	if reason := o.Part.CheckPart(h, height); !reason.IsZero() {
		return o.never(), reason, true
	}
	return "", lsp.Reason{}, false
}

// never refuses what will never succeed. A RESUME is only unknown_next_peer
// while nothing maps the SCID; later it would forward.
func (o Offer) never() Refusal {
	if o.Mapped {
		return RefuseTemporary
	}
	return RefuseUnknown
}

func arrived(s State, v PartArrived) (State, []Effect, error) {
	o, key := s.offer(), v.Htlc.Key
	for _, p := range PartsOf(s) {
		if p.Htlc.Key != key {
			continue
		}
		if p.Outcome == OutcomeOpen && wasResumed(s, key) {
			// lnd offers again what it was told to resume: again RESUME.
			return s, []Effect{resume(o, []Part{p})}, nil
		}
		// Held already; or resolved already, and then a phantom, which must
		// never be resumed (law 3).
		return s, nil, nil
	}
	if o.unbound() && !Final(s) {
		return gather(s, o, v)
	}
	if o.Withhold != nil && v.Htlc.Hash != o.Hash && v.Refusal.IsZero() {
		switch s := s.(type) {
		case Resuming:
			return Forwarded(s).next(s, v)
		case Forwarded:
			return s.next(s, v)
		}
	}
	if how, reason, refused := Screen(o, Final(s), v.Htlc, v.Height); refused {
		// The client must read why; a probe concerns nobody.
		if waiting, ok := s.(Offered); ok && reason.Code != lsp.ReasonOtherHash {
			waiting.Last = reason
			s = waiting
		}
		return s, []Effect{refuse(o, []ln.CircuitKey{key}, how, reason)}, nil
	}
	part := v.part()
	switch s := s.(type) {
	case Offered:
		if !v.At.Before(o.ExpiresAt) {
			return expire(o, Held{Parts: []Part{part}}, offerOver())
		}
		if !v.Refusal.IsZero() {
			return back(o, Held{Parts: []Part{part}}, RefuseTemporary, v.Refusal)
		}
		next := Collecting{Offer: o, Held: Held{Parts: []Part{part}}, Deadline: v.At.Add(o.CollectFor)}
		return joined(next, v)
	case Collecting:
		if !s.complete() {
			if len(s.Parts) >= o.Part.MaxParts {
				reason := lsp.Because(lsp.ReasonTooManyParts, "the payment came in more than %d parts and is not complete: send it in fewer", o.Part.MaxParts)
				return back(o, add(s.Held, part), RefuseTemporary, reason)
			}
			if !v.Refusal.IsZero() {
				// The payer's node retries as a whole: nothing stays held of a set
				// that cannot be completed.
				return back(o, add(s.Held, part), RefuseTemporary, v.Refusal)
			}
			s.Held = add(s.Held, part)
			return joined(s, v)
		}
	case Resuming:
		if v.Refusal.IsZero() {
			return Forwarded(s).extra(s, part, v.Height)
		}
		return s, []Effect{refuse(o, []ln.CircuitKey{key}, RefuseTemporary, v.Refusal)}, nil
	case Forwarded:
		if v.Refusal.IsZero() {
			return s.extra(s, part, v.Height)
		}
		return s, []Effect{refuse(o, []ln.CircuitKey{key}, RefuseTemporary, v.Refusal)}, nil
	}
	return s, []Effect{refuse(o, []ln.CircuitKey{key}, RefuseTemporary, beyond())}, nil
}

// joined looks at a set that has grown: complete sets are checked and then ask
// for the wallet; the first part of an incomplete one asks early, so that a
// sleeping wallet is woken while its siblings come.
func joined(s Collecting, v PartArrived) (State, []Effect, error) {
	m := v.Moment
	if !s.complete() {
		if v.asksEarly(len(s.Parts)) {
			return s, []Effect{askWallet(s.Offer, s.Part.AmountMsat, false)}, nil
		}
		return s, nil, nil
	}
	if reason := s.Part.CheckParts(s.htlcs(), m.Height); !reason.IsZero() {
		return back(s.Offer, s.Held, s.never(), reason)
	}
	if _, ok := withhold(s.Parts, s.withheld(), s.Part.HtlcMinimumMsat); !ok {
		return back(s.Offer, s.Held, s.never(), tooManyForFee(s.Offer, s.Held))
	}
	if reason, near := s.near(s.Offer, m.Height); near {
		return back(s.Offer, s.Held, RefuseTemporary, reason)
	}
	if until := s.within(s.Parts[0].At.Add(s.HoldFor)); until.After(s.Deadline) {
		s.Deadline = until
	}
	return s, []Effect{askWallet(s.Offer, s.outgoing(), true)}, nil
}

// asksEarly says that an incomplete set has just begun: all of its parts, so many,
// came together, and no other is about to complete it.
func (v PartArrived) asksEarly(parts int) bool { return !v.More && parts <= v.Before+1 }

func stepOffered(s Offered, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, nil, nil
	case Tick:
		if v.At.Before(s.ExpiresAt) {
			return nil, nil, fsm.Illegal(s, v)
		}
		reason := lsp.Because(lsp.ReasonOfferExpired, "nobody paid before the offer expired")
		if s.Unsure {
			reason = lsp.Because(lsp.ReasonOfferExpired, "no payment is known, but the database was restored from an older copy: if it was paid before that, the wallet has the money, and the node's list of forwards shows it")
		}
		return expire(s.Offer, Held{}, reason)
	case DatabaseRestored:
		s.Unsure = true
		return s, nil, nil
	case OpeningUsable:
		// An open that outlived its attempt: the retry will use its channel, unless
		// nothing funds it.
		if !s.isLast(v.OpeningID) {
			return nil, nil, fsm.Illegal(s, v)
		}
		if s.Offer, _ = s.usable(v); s.Withheld {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s, nil, nil
	case OpeningFailed:
		if !s.isLast(v.OpeningID) || !s.OpenLive {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.OpenLive = false
		return s, nil, nil
	case Cancel:
		return cancel(s.Offer, Held{}, v.Reason)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepCollecting(s Collecting, v Event) (State, []Effect, error) {
	if s.unbound() {
		switch v.(type) {
		case Tick, NewBlock, PartGone:
			return s.stepUnbound(v)
		}
	}
	switch v := v.(type) {
	case NewBlock:
		next, effects, err := held(s, s.Offer, s.Held, v)
		if _, waits := next.(Collecting); waits && s.HoldFor > 0 && s.complete() {
			// Over a long wait the wallet is woken again and again.
			effects = append(effects, askWallet(s.Offer, s.outgoing(), true))
		}
		return next, effects, err
	case PartRefused:
		return s.refused(v)
	case WalletStatus:
		return s.wallet(v)
	case WalletOnline:
		if !s.complete() {
			return s, nil, nil
		}
		return s, []Effect{askWallet(s.Offer, s.outgoing(), true)}, nil
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		reason := lsp.Because(lsp.ReasonPartMissing, "only %s of %s arrived in time: the parts went back; pay again", s.outgoing(), s.Part.AmountMsat)
		if s.complete() {
			reason = lsp.Because(lsp.ReasonWalletOffline, "the receiver's wallet did not come online in time: the payment went back; open the wallet and pay again")
		}
		if !v.At.Before(s.ExpiresAt) {
			return expire(s.Offer, s.Held, reason)
		}
		return back(s.Offer, s.Held, RefuseTemporary, reason)
	case OpeningUsable:
		if !s.isLast(v.OpeningID) {
			return nil, nil, fsm.Illegal(s, v)
		}
		if s.Offer, _ = s.usable(v); s.Withheld {
			return nil, nil, fsm.Illegal(s, v)
		}
		if !s.complete() || s.OpenLive {
			return s, nil, nil
		}
		return s, []Effect{askWallet(s.Offer, s.outgoing(), true)}, nil
	case OpeningFailed:
		if !s.isLast(v.OpeningID) || !s.OpenLive {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.OpenLive = false
		return s, nil, nil
	}
	return held(s, s.Offer, s.Held, v)
}

// refused gives back the siblings of a part that could not be held: a set that is not
// complete would wait for it. One that is whole needs no other. And a part that came
// before the set began was of an earlier attempt, or its payer knows that it went back.
func (s Collecting) refused(v PartRefused) (State, []Effect, error) {
	mine := func(p Part) bool { return p.Htlc.Hash == v.Hash }
	if s.complete() || !slices.ContainsFunc(s.Parts, func(p Part) bool { return mine(p) && p.Order < v.Order }) {
		return nil, nil, fsm.Illegal(s, v)
	}
	reason := lsp.Because(lsp.ReasonPartMissing,
		"a part of the payment could not be held (%s): the others went back with it; pay again", clip(v.Text))
	if s.unbound() {
		return s.drop(RefuseTemporary, reason, nil, mine)
	}
	return back(s.Offer, s.Held, RefuseTemporary, reason)
}

// wallet decides how a complete set reaches the wallet.
func (s Collecting) wallet(v WalletStatus) (State, []Effect, error) {
	o := s.Offer
	amount := s.outgoing()
	switch {
	case o.over(v.At):
		// Before Online: the wallet may have come a moment too late, and the tick
		// that ends the wait may come after its status.
		return expire(o, s.Held, offerOver())
	case !v.Online:
		return s, []Effect{s.wake()}, nil
	case v.Wait, !s.complete():
		return s, nil, nil
	}
	if reason, near := s.near(o, v.Height); near {
		return back(o, s.Held, RefuseTemporary, reason)
	}
	switch {
	case v.Room != 0 && (o.Withhold == nil || !o.OpenLive):
		// A channel that is being opened for this payment may have room before its
		// open says so; who withholds the fee must know which one it is.
		return s.use(v.Room, v.Moment)
	case o.OpenLive:
		// An earlier open has not told its fate: wait for it, never beside it.
		return opening(o, s.Held, v.At, amount)
	case o.Chan != 0:
		return refunded(o, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonNoRoom,
			"the channel opened for this payment has no room for it any more, and a payment gets one channel: ask for a new invoice"))
	case o.roomOnly():
		return back(o, s.Held, RefuseTemporary, roomGone())
	case v.Channels > 0 && !o.MayOpenMore:
		return back(o, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonNoConsent,
			"the wallet's channels have too little inbound liquidity and it did not agree to another channel: receive less, or allow more channels"))
	case !v.Refusal.IsZero() && o.MaxOpens > 0:
		return back(o, s.Held, RefuseTemporary, v.Refusal)
	case o.Opens >= o.MaxOpens:
		return refunded(o, s.Held, o.never(), attemptsUsed(o))
	}
	return opening(o.begin(), s.Held, v.At, amount)
}

// use takes a channel that has room. An open still under way for this payment
// is not needed then. If it made this very channel, it is too late to end it:
// a channel has room only once its funding transaction is published.
func (s Collecting) use(via ln.SCID, m lsp.Moment) (State, []Effect, error) {
	o, leave := s.leave(lsp.Because(lsp.ReasonOpenSlow, "the payment goes over a channel that has room for it"))
	next, effects, err := mapping(o, s.Held, via, m.At)
	return next, append(effects, leave...), err
}

func stepOpening(s Opening, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case OpeningUsable:
		if v.OpeningID != s.OpeningID {
			return nil, nil, fsm.Illegal(s, v)
		}
		var stays bool
		if s.Offer, stays = s.usable(v); !stays {
			return s, nil, nil
		}
		if reason, near := s.near(s.Offer, v.Height); near {
			return back(s.Offer, s.Held, RefuseTemporary, reason)
		}
		return mapping(s.Offer, s.Held, v.ChanID, v.At)
	case OpeningFailed:
		if v.OpeningID != s.OpeningID {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.OpenLive = false
		if s.Opens >= s.MaxOpens {
			reason := attemptsUsed(s.Offer)
			reason.Text = v.Reason.Text + "; " + reason.Text
			return refunded(s.Offer, s.Held, s.never(), reason)
		}
		again := v.Reason.Code == lsp.ReasonOpenSlow || v.Reason.Code == lsp.ReasonOpenCutOff
		if again && (s.Deadline.IsZero() || v.At.Before(s.Deadline)) {
			// Given up by an earlier attempt of this very payment, whose parts
			// went back, or cut off by a restart: this attempt has time left and
			// begins its own.
			return opening(s.begin(), s.Held, v.At, s.outgoing())
		}
		return back(s.Offer, s.Held, RefuseTemporary, v.Reason)
	case Tick:
		if s.Deadline.IsZero() || v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return back(s.Offer, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonOpenSlow,
			"the channel was not ready in time: the payment went back; pay again, and the channel is used if it is ready by then"))
	}
	return held(s, s.Offer, s.Held, v)
}

func stepMapping(s Mapping, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Mapped:
		if v.Via != s.Via {
			return nil, nil, fsm.Illegal(s, v)
		}
		if reason := s.Part.CheckParts(s.htlcs(), v.Height); !reason.IsZero() {
			return back(s.Offer, s.Held, RefuseTemporary, reason)
		}
		if reason, near := s.near(s.Offer, v.Height); near {
			return back(s.Offer, s.Held, RefuseTemporary, reason)
		}
		parts, ok := withhold(s.Parts, s.owes(), s.Part.HtlcMinimumMsat)
		if !ok {
			return back(s.Offer, s.Held, RefuseTemporary, tooManyForFee(s.Offer, s.Held))
		}
		return Resuming{Offer: s.Offer, Held: Held{Parts: parts}, Via: s.Via}, []Effect{
			resume(s.Offer, parts), WatchParts{OfferID: s.ID, Keys: s.keys()},
		}, nil
	case MapFailed:
		if v.Via != s.Via {
			return nil, nil, fsm.Illegal(s, v)
		}
		return back(s.Offer, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonNotMapped,
			"the wallet's channel could not take the payment (%s): it went back; pay again", clip(v.Text)))
	case PayerAway:
		if v.Via != s.Via {
			return nil, nil, fsm.Illegal(s, v)
		}
		// What was to wait for its wallet waits for its payer as well. Not over a
		// channel that nothing funds yet: its client does not wait for long.
		if until := s.within(s.Parts[0].At.Add(s.HoldFor)); v.At.Before(until) && s.HoldFor > 0 && !s.Withheld {
			return Collecting{Offer: s.Offer, Held: s.Held, Deadline: until}, []Effect{askWallet(s.Offer, s.outgoing(), true)}, nil
		}
		return back(s.Offer, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonNotMapped,
			"the channel that the payment came over was not active when it was to be handed on: it went back; pay again"))
	case Tick:
		if v.At.Before(s.Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return back(s.Offer, s.Held, RefuseTemporary, lsp.Because(lsp.ReasonNotMapped,
			"the wallet's channel was not ready for the payment in time: it went back; bring the wallet online and pay again"))
	}
	return held(s, s.Offer, s.Held, v)
}

// held is what every state before the RESUME has in common.
func held(s State, o Offer, h Held, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case NewBlock:
		if reason, near := h.near(o, v.Height); near {
			return back(o, h, RefuseTemporary, reason)
		}
		return s, nil, nil
	case PartGone:
		rest := Held{}
		for _, p := range h.Parts {
			if p.Htlc.Key != v.Key {
				rest.Parts = append(rest.Parts, p)
			}
		}
		if len(rest.Parts) == len(h.Parts) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return back(o, rest, RefuseTemporary, lsp.Because(lsp.ReasonPartMissing,
			"a part of the payment was taken back before it could be forwarded (%s): the others went back with it; pay again", clip(v.Text)))
	case PartSettled:
		return handedOn(s, o, h, v)
	case Cancel:
		return cancel(o, h, v.Reason)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// handedOn: only an older copy of the database holds what the wallet has claimed. A
// process of which it knows nothing handed on the whole set; the wallet takes all
// of it or nothing.
func handedOn(s State, o Offer, h Held, v PartSettled) (State, []Effect, error) {
	i := slices.IndexFunc(h.Parts, func(p Part) bool { return p.Htlc.Key == v.Key })
	if i < 0 {
		return nil, nil, fsm.Illegal(s, v)
	}
	var effects []Effect
	if o.OpenLive {
		o, effects = o.leave(lsp.Because(lsp.ReasonOpenSlow, "the payment had arrived before, as lnd shows: the database is an older copy"))
	}
	next := Forwarded{Offer: o}
	for _, p := range h.Parts {
		if p.Htlc.Hash == h.Parts[i].Htlc.Hash {
			next.Parts = append(next.Parts, p)
		} else {
			next.Spares = append(next.Spares, p)
		}
	}
	if parts, ok := withhold(next.Parts, o.owes(), o.Part.HtlcMinimumMsat); ok {
		next.Parts = parts
	}
	to, more, err := next.step(next, v)
	if rest, open := to.(Forwarded); open {
		more = append(more, resume(o, rest.Parts), WatchParts{OfferID: o.ID, Keys: rest.keys()})
	}
	return to, append(effects, more...), err
}
