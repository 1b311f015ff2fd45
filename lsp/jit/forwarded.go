package jit

import (
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// All of this file serves Resuming as well, which has the same fields: from is
// the state that is left.

func (s Forwarded) like(from State) State {
	if _, ok := from.(Resuming); ok {
		return Resuming(s)
	}
	return s
}

// wasResumed says that the state handed this part on.
func wasResumed(s State, key ln.CircuitKey) bool {
	switch s := s.(type) {
	case Resuming:
		return slices.Contains(s.keys(), key)
	case Forwarded:
		return slices.Contains(s.keys(), key)
	}
	return false
}

func beyond() lsp.Reason {
	return lsp.Because(lsp.ReasonExtraPart, "the payment was complete already: a part beyond its amount was sent back")
}

// extra takes a part that came after the set was handed on. lnd puts each part
// into any channel of the wallet, so one may come back for want of room in the
// channel it met. Its payer sends that money again, often split, and this can
// arrive before lnd's word of the failure: refused, it would leave the wallet
// with an incomplete set for minutes and the payer without a route. So it
// joins at once if it fits, and else waits for the fate of what was forwarded,
// for CollectFor at most.
func (s Forwarded) extra(from State, p Part, height uint32) (State, []Effect, error) {
	if reason, near := (Held{Parts: []Part{p}}).near(s.Offer, height); near {
		return from, []Effect{s.sendBack([]ln.CircuitKey{p.Htlc.Key}, reason)}, nil
	}
	live := 0
	for _, q := range s.Parts {
		if q.Outcome != OutcomeFailed {
			live++
		}
	}
	// The second bound is for the stored state: every retry leaves a part in it.
	if live+len(s.Spares) >= s.Part.MaxParts || len(s.Parts)+len(s.Spares) >= 4*s.Part.MaxParts {
		return from, []Effect{s.sendBack([]ln.CircuitKey{p.Htlc.Key}, beyond())}, nil
	}
	s.Spares = append(slices.Clone(s.Spares), p)
	next, effects := s.admit()
	return next.like(from), effects, nil
}

// admit hands on the spares that fit into what came back.
func (s Forwarded) admit() (Forwarded, []Effect) {
	var live ln.Msat
	for _, p := range s.Parts {
		if p.Outcome != OutcomeFailed {
			live += p.Htlc.OutgoingMsat
		}
	}
	var keys []ln.CircuitKey
	var rest, more []Part
	owed := s.owes()
	for _, p := range s.Parts {
		if p.Outcome != OutcomeFailed {
			owed -= min(owed, p.ExtraFeeMsat)
		}
	}
	for _, p := range s.Spares {
		if live+p.Htlc.OutgoingMsat > s.Part.AmountMsat || p.Htlc.Hash != s.Hash {
			rest = append(rest, p)
			continue
		}
		live += p.Htlc.OutgoingMsat
		keys = append(keys, p.Htlc.Key)
		more = append(more, p)
	}
	more, ok := withhold(more, owed, s.Part.HtlcMinimumMsat)
	if len(keys) == 0 || !ok {
		// Too small to bear what is owed: they wait for others to come back.
		return s, nil
	}
	s.Parts, s.Spares = slices.Concat(s.Parts, more), rest
	return s, []Effect{resume(s.Offer, more), WatchParts{OfferID: s.ID, Keys: keys}}
}

func (s Forwarded) sendBack(keys []ln.CircuitKey, reason lsp.Reason) Effect {
	return refuse(s.Offer, keys, RefuseTemporary, reason)
}

// dismiss refuses the spares of which want says so.
func (s Forwarded) dismiss(from State, v Event, reason lsp.Reason, want func(Part) bool) (State, []Effect, error) {
	var keys []ln.CircuitKey
	var rest []Part
	for _, p := range s.Spares {
		if want(p) {
			keys = append(keys, p.Htlc.Key)
		} else {
			rest = append(rest, p)
		}
	}
	if len(keys) == 0 {
		return nil, nil, fsm.Illegal(from, v)
	}
	s.Spares = rest
	return s.like(from), []Effect{s.sendBack(keys, reason)}, nil
}

// step follows resumed parts to their end. Time and height no longer matter to
// them: the wallet may take as long as its HTLCs live.
func (s Forwarded) step(from State, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PartSettled:
		return s.ended(from, v, v.Moment, v.Key, OutcomeSettled, lsp.Reason{})
	case PartFailed:
		stays := "the channel stays, pay again"
		if s.Withheld {
			stays = "its channel was never funded and is given up; pay again"
		}
		return s.ended(from, v, v.Moment, v.Key, OutcomeFailed, lsp.Because(lsp.ReasonWalletRefused,
			"the wallet did not take the payment (%s): it went back; %s", clip(v.Text), stays))
	case PartGone:
		if i := slices.IndexFunc(s.Spares, func(p Part) bool { return p.Htlc.Key == v.Key }); i >= 0 {
			s.Spares = slices.Delete(slices.Clone(s.Spares), i, i+1)
			return s.like(from), nil, nil
		}
		// The interceptor or lnd took it back between the decision and the
		// RESUME, or it went back because another had been: no other word of it
		// will come. (What goes on chain after a
		// RESUME is no PartGone: its fate is told once it is known.)
		return s.ended(from, v, v.Moment, v.Key, OutcomeFailed, lsp.Because(lsp.ReasonPartMissing,
			"a part of the payment was taken back before it could be forwarded (%s): the others went back with it; pay again", clip(v.Text)))
	case Tick:
		return s.dismiss(from, v, beyond(), func(p Part) bool { return !v.At.Before(p.At.Add(s.CollectFor)) })
	case NewBlock:
		return s.dismiss(from, v, beyond(), func(p Part) bool {
			_, near := (Held{Parts: []Part{p}}).near(s.Offer, v.Height)
			return near
		})
	case Cancel:
		return nil, nil, ErrTooLate
	}
	return nil, nil, fsm.Illegal(from, v)
}

func (s Forwarded) ended(from State, v Event, m lsp.Moment, key ln.CircuitKey, outcome Outcome, failed lsp.Reason) (State, []Effect, error) {
	i := slices.IndexFunc(s.Parts, func(p Part) bool { return p.Htlc.Key == key && p.Outcome == OutcomeOpen })
	if i < 0 {
		return nil, nil, fsm.Illegal(from, v)
	}
	s.Parts = slices.Clone(s.Parts)
	s.Parts[i].Outcome = outcome
	var effects []Effect
	if outcome == OutcomeSettled && s.Withheld {
		// The client has given its preimage for a channel that is not funded: it is
		// now, whatever becomes of the other parts.
		s.Withheld = false
		effects = append(effects, ReleaseOpening{OfferID: s.ID, OpeningID: OpeningID(s.ID, s.Opens)})
	}
	open, settled := 0, 0
	var in, out ln.Msat
	for _, p := range s.Parts {
		switch p.Outcome {
		case OutcomeOpen:
			open++
		case OutcomeSettled:
			settled++
			in += p.Htlc.IncomingMsat
			out += p.Htlc.OutgoingMsat - p.ExtraFeeMsat
		}
	}
	if open > 0 {
		next, more := s.admit()
		return next.like(from), append(effects, more...), nil
	}
	o := s.Offer
	var next State
	if settled > 0 {
		// in >= out for every part: CheckPart let no other join.
		next = Paid{Offer: o, Held: s.Held, Via: s.Via, ForwardedMsat: out, FeeEarnedMsat: in - out, At: m.At}
		if o.Withhold != nil {
			effects = append(effects, ReleaseSCID{OfferID: o.ID, SCID: o.SCID})
		}
	} else {
		o.Last = failed
		if o.Withheld {
			o, effects = o.leave(lsp.Because(lsp.ReasonOpenSlow, "%s", failed.Text))
		}
		o.Terms = o.release()
		next = Offered{Offer: o}
		if !m.At.Before(o.ExpiresAt) {
			next = Refunded{Offer: o, Reason: o.Last}
		}
	}
	// What still waits is judged as if it arrived now: it is the next attempt, or
	// too late.
	for _, p := range s.Spares {
		var more []Effect
		var err error
		if next, more, err = arrived(next, PartArrived{Moment: m, Htlc: p.Htlc, Order: p.Order}); err != nil {
			return nil, nil, err
		}
		effects = append(effects, more...)
	}
	return next, effects, nil
}

// Covers says that the payment was claimed as a whole, and the opening fee that it brought
// (0: none was agreed on), short of one msat of rounding for each part. A wallet can claim
// a part and fail the others, so one that is paid has not always paid for its channel.
func (s Paid) Covers() (fee ln.Msat, ok bool) {
	fee = s.AgreedFee()
	var claimed, rounding ln.Msat
	for _, p := range s.Parts {
		if p.Outcome == OutcomeSettled {
			claimed += p.Htlc.OutgoingMsat
			rounding++
		}
	}
	return fee, claimed >= s.Part.AmountMsat && s.FeeEarnedMsat+rounding >= fee
}

// waitUntil is when the first spare has waited long enough; zero if none waits.
func (s Forwarded) waitUntil() time.Time {
	var due time.Time
	for _, p := range s.Spares {
		if at := p.At.Add(s.CollectFor); due.IsZero() || at.Before(due) {
			due = at
		}
	}
	return due
}
