package hold

import (
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Step decides.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Fresh:
		if v, ok := v.(Offered); ok {
			return join(s, s.Payment, v)
		}
	case Held:
		return stepHeld(s, v)
	case Resuming:
		return stepResuming(s, v)
	case Failing:
		return stepFailing(s, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// join takes a part into a payment that waits, or that begins to.
func join(s State, p Payment, v Offered) (State, []Effect, error) {
	if p.has(v.Part.Key) {
		return s, nil, nil
	}
	p = p.with(v.Part)
	switch {
	case v.Refusal != "":
		return fail(p, nil, v.Refusal)
	case v.Height != 0 && v.Height >= v.Part.FailHeight:
		return fail(p, nil, fmt.Sprintf("it came too late to be held: at height %d the wallet would refuse it, or lnd fail it", v.Part.FailHeight))
	}
	if len(p.Parts) > 1 {
		// Its wallet hears of every part, but only of the payment again and again: parts
		// cost next to nothing, and would make it wait for long in no time.
		return Held{p}, []Effect{call(p)}, nil
	}
	return wake(p, v.Moment)
}

func call(p Payment) Effect {
	return Wake{ID: p.ID, Client: p.Client, Hash: p.Hash, AmountMsat: p.AmountMsat(), Until: p.Until}
}

func wake(p Payment, m Moment) (State, []Effect, error) {
	every := wakeMost
	if p.Wakes < 8 {
		every = min(wakeMost, wakeFirst<<p.Wakes)
	}
	p.Wakes++
	p.NextWake = m.At.Add(every)
	return Held{p}, []Effect{call(p)}, nil
}

// fail sends back what is not over yet; done are parts that are.
func fail(p Payment, done []ln.CircuitKey, reason string) (State, []Effect, error) {
	open := without(p.keys(), done...)
	if len(open) == 0 {
		return Failed{p, reason}, nil, nil
	}
	return Failing{p, open, reason}, []Effect{Fail{open, reason}}, nil
}

// resume hands on what is not over yet.
func resume(p Payment, done []ln.CircuitKey, force bool) (State, []Effect, error) {
	open := without(p.keys(), done...)
	if len(open) == 0 {
		return Resumed{p}, nil, nil
	}
	return Resuming{Payment: p, Open: open}, []Effect{Resume{p.Client, open, force}}, nil
}

// strand ends the wait for a payment of which a part went on chain: that part is the
// payer's once it has expired there, and the others go back now.
func strand(p Payment, key ln.CircuitKey) (State, []Effect, error) {
	const reason = "a channel that the payment came over went on chain: what came over it can only be given back there"
	next := Failing{p, p.keys(), reason}
	if rest := without(p.keys(), key); len(rest) > 0 {
		return next, []Effect{Fail{rest, reason}}, nil
	}
	return next, nil, nil
}

func stepHeld(s Held, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Offered:
		return join(s, s.Payment, v)
	case WalletActive:
		return resume(s.Payment, nil, false)
	case NewBlock:
		if Due(s, v.Height) {
			return fail(s.Payment, nil, "the wallet did not come before its deadline in blocks")
		}
	case Tick:
		switch {
		case !v.At.Before(s.Until):
			return fail(s.Payment, nil, "the wallet did not come in time")
		case !s.NextWake.IsZero() && !v.At.Before(s.NextWake):
			return wake(s.Payment, v.Moment)
		}
	case Woken:
		s.LastWake, s.WokeHow = v.At, v.How
		return s, nil, nil
	case SentBack:
		return fail(s.Payment, nil, v.Reason)
	case Stranded:
		if s.has(v.Key) {
			return strand(s.Payment, v.Key)
		}
	case Decided:
		switch {
		case !s.has(v.Key):
		case v.Resumed:
			// Its siblings may not be left behind.
			return resume(s.Payment, []ln.CircuitKey{v.Key}, true)
		default:
			return fail(s.Payment, []ln.CircuitKey{v.Key}, "the interceptor sent a part back")
		}
	case Gone:
		if s.has(v.Key) {
			return fail(s.Payment, []ln.CircuitKey{v.Key}, "lnd sent a part back")
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepResuming(s Resuming, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Woken:
		s.LastWake, s.WokeHow = v.At, v.How
		return s, nil, nil
	case Offered:
		if s.has(v.Part.Key) {
			return s, nil, nil
		}
		s.Payment = s.with(v.Part)
		s.Open = append(slices.Clone(s.Open), v.Part.Key)
		// With all that is open: whichever effect finds the wallet there resumes all. And with
		// what went back, so that the interceptor refuses it unless a part was resumed before.
		if s.some() {
			return s, []Effect{Resume{s.Client, s.Open, true}}, nil
		}
		return s, []Effect{Resume{s.Client, slices.Concat(s.Back, s.Open), false}}, nil
	case WalletGone:
		return refused(s, v.Keys, func() (State, []Effect, error) { return wake(s.Payment, v.Moment) })
	case NotYet:
		return refused(s, v.Keys, func() (State, []Effect, error) { return Held{s.Payment}, nil, nil })
	case Unresumable:
		return refused(s, v.Keys, func() (State, []Effect, error) { return strand(s.Payment, v.Key) })
	case Decided:
		if slices.Contains(s.Open, v.Key) {
			return closeResuming(s, v.Key, v.Resumed)
		}
	case Gone:
		if slices.Contains(s.Open, v.Key) {
			return closeResuming(s, v.Key, false)
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

// refused is the answer of a Resume effect that resumed none of its parts. Then is what
// follows if nothing of the payment was resumed; else its siblings must not be left behind.
func refused(s Resuming, keys []ln.CircuitKey, then func() (State, []Effect, error)) (State, []Effect, error) {
	switch {
	case len(without(s.Open, keys...)) > 0:
		// A part that came since has an effect of its own, about all that is open.
		return s, nil, nil
	case s.some():
		return s, []Effect{Resume{s.Client, s.Open, true}}, nil
	case len(s.Back) > 0:
		return fail(s.Payment, s.Back, wentBack)
	}
	return then()
}

// some of its parts were resumed.
func (s Resuming) some() bool { return len(s.Open)+len(s.Back) < len(s.Parts) }

const wentBack = "a part of it went back"

func closeResuming(s Resuming, key ln.CircuitKey, resumed bool) (State, []Effect, error) {
	s.Open = without(s.Open, key)
	if !resumed {
		s.Back = append(slices.Clone(s.Back), key)
	}
	switch {
	case len(s.Open) > 0:
		return s, nil, nil
	case len(s.Back) == len(s.Parts):
		return Failed{s.Payment, wentBack}, nil, nil
	}
	return Resumed{s.Payment}, nil, nil
}

func stepFailing(s Failing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Woken:
		s.LastWake, s.WokeHow = v.At, v.How
		return s, nil, nil
	case Offered:
		if s.has(v.Part.Key) {
			return s, nil, nil
		}
		s.Payment = s.with(v.Part)
		s.Open = append(slices.Clone(s.Open), v.Part.Key)
		return s, []Effect{Fail{[]ln.CircuitKey{v.Part.Key}, s.Reason}}, nil
	case Decided:
		if slices.Contains(s.Open, v.Key) {
			return closeFailing(s, v.Key)
		}
	case Gone:
		if slices.Contains(s.Open, v.Key) {
			return closeFailing(s, v.Key)
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func closeFailing(s Failing, key ln.CircuitKey) (State, []Effect, error) {
	if s.Open = without(s.Open, key); len(s.Open) == 0 {
		return Failed{s.Payment, s.Reason}, nil, nil
	}
	return s, nil, nil
}

func without(keys []ln.CircuitKey, gone ...ln.CircuitKey) []ln.CircuitKey {
	out := make([]ln.CircuitKey, 0, len(keys))
	for _, k := range keys {
		if !slices.Contains(gone, k) {
			out = append(out, k)
		}
	}
	return out
}
