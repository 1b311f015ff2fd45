package in

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Probing:
		return stepProbing(s, v)
	case ProbeHeld:
		return stepProbeHeld(s, v)
	case Waiting:
		return stepWaiting(s, v)
	case Opening:
		return stepOpening(s, v)
	case Paying:
		return stepPaying(s, v)
	case Paid:
		return stepPaid(s, v)
	case Claiming:
		return stepClaiming(s, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func failed(p Plan, o Output, code swaps.ReasonCode, format string, args ...any) (State, []Effect, error) {
	return Failed{Plan: p, Output: o, Reason: swaps.Because(code, format, args...)}, nil, nil
}

func stepProbing(s Probing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{Probe{Plan: s.Plan}}, nil
	case ProbePassed:
		return Waiting{Plan: s.Plan}, []Effect{watchOutput(s.Plan)}, nil
	case ProbeFailed:
		return failed(s.Plan, Output{}, swaps.ReasonProbe, "the client's wallet cannot be paid now: %s", clip(v.Text))
	case Tick:
		if v.At.Before(s.ProbeBy) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return ProbeHeld(s), nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// stepProbeHeld waits for the node's word about the probe, which locks money until
// then. Whatever it is, the client has been told that its swap is not begun.
func stepProbeHeld(s ProbeHeld, v Event) (State, []Effect, error) {
	switch v.(type) {
	case ProbePassed, ProbeFailed:
		return failed(s.Plan, Output{}, swaps.ReasonProbe, "the client's wallet did not give the probe back in time")
	}
	return nil, nil, fsm.Illegal(s, v)
}

// judge reads what the chain found: an output that may be paid for, or why it is
// not. One that was found before is the swap's; what anybody sends to the address later
// changes nothing about it.
func (p Plan) judge(o Output, v OutputFound) (Output, swaps.Reason) {
	switch {
	case !o.Outpoint.IsZero():
		return p.found(o, v), swaps.Reason{}
	case v.Count > 1:
		return Output{}, swaps.Because(swaps.ReasonOutputs, "the transaction pays the swap in %d outputs: none is taken, the client takes them back after height %d", v.Count, p.Terms.ExpiryHeight)
	case v.ValueSat != p.AmountSat:
		return Output{}, swaps.Because(swaps.ReasonAmount, "the output holds %s where %s were agreed: it is not taken, the client takes it back after height %d", v.ValueSat, p.AmountSat, p.Terms.ExpiryHeight)
	}
	return Output{Outpoint: v.Outpoint, ConfirmedHeight: v.ConfirmedHeight}, swaps.Reason{}
}

func stepWaiting(s Waiting, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		if s.Open == nil {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s, []Effect{watchOutput(s.Plan)}, nil
	case OutputFound:
		if v.ConfirmedHeight == 0 || v.Count < 1 {
			return nil, nil, fsm.Illegal(s, v)
		}
		found, reason := s.judge(s.Output, v)
		if reason.Code != "" {
			return Failed{Plan: s.Plan, Output: s.Output, Reason: reason}, nil, nil
		}
		s.Output = found
		return s, nil, nil
	case OutputReorged:
		s.Output = s.unpaidUndone(v)
		return s, []Effect{watchPaid(s.Plan, s.Output)}, nil
	case NewBlock:
		return s.block(v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// block pays when the output is deep enough for its amount, and a reorg could
// not take more than may be exposed.
func (s Waiting) block(v NewBlock) (State, []Effect, error) {
	if v.Height > s.LastPayHeight() {
		return failed(s.Plan, s.Output, swaps.ReasonLate, "at height %d a payment could outlive the swap, which expires at %d: the client takes its output back", v.Height, s.Terms.ExpiryHeight)
	}
	if s.Open != nil && s.Outpoint.IsZero() && s.ChanID == 0 && v.Height > s.Open.DepositByHeight {
		return failed(s.Plan, s.Output, swaps.ReasonNoDeposit, "no deposit confirmed up to height %d: what confirms later is not taken, the client takes it back after height %d", s.Open.DepositByHeight, s.Terms.ExpiryHeight)
	}
	var effects []Effect
	s.Output, effects = s.follow(s.Output, v.Height)
	d := ln.Confirmations(s.ConfirmedHeight, v.Height)
	if d == 0 || d < max(s.Confs, 1) {
		return s, effects, nil
	}
	if s.Open != nil && s.ChanID == 0 {
		return Opening(s), []Effect{OpenChannel{Plan: s.Plan, OpeningID: s.Open.OpeningID(s.Opens + 1)}, watchPaid(s.Plan, s.Output)}, nil
	}
	if d < s.DeepConfs && s.AmountSat > v.FreeSat {
		return s, effects, nil
	}
	s.Attempts++
	pay := Pay{Plan: s.Plan, Attempt: s.Attempts, Outpoint: s.Outpoint, MinConfs: min(d, max(s.DeepConfs, s.Confs, 1))}
	if s.Open != nil {
		s.ExpiryHeight = v.Height + s.Open.FinalCltv + padBlocks
		pay.ChanID, pay.ExpiryHeight = s.ChanID, s.ExpiryHeight
	}
	return Paying(s), []Effect{pay, watchPaid(s.Plan, s.Output)}, nil
}

// padBlocks may arrive between the decision to pay over the client's channel and
// the payment.
const padBlocks = 3

func stepPaying(s Paying, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case PaymentSucceeded:
		if v.Preimage.Preimage().Hash() != s.Terms.Hash {
			return nil, nil, fmt.Errorf("swap %s: the payment brought a preimage of another hash", s.ID())
		}
		s.Preimage, s.FeeMsat, s.KeyBy, s.ClaimBy = v.Preimage, v.FeeMsat, v.At.Add(s.KeyFor), v.Height+s.WaitBlocks
		var effects []Effect
		if s.Open != nil {
			effects = append(effects, ChannelPaid{PaymentID: s.Open.ID})
		}
		if s.ready() {
			effects = append(effects, AskTip{})
		}
		return Paid(s), effects, nil
	case KeyPushed:
		// The client may hear of its payment before we do.
		s.ClientKey = v.Key
		return s, nil, nil
	case PaymentFailed:
		if v.Refused && s.Open != nil {
			return failed(s.Plan, s.Output, swaps.ReasonPayment, "the client's wallet did not take its payment (%s): it takes its output back after height %d", clip(v.Text), s.Terms.ExpiryHeight)
		}
		return s.unpaid(v.Text)
	case PaymentNotSent:
		return s.unpaid(v.Text)
	case PaymentCutOff:
		return s, []Effect{TrackPayment{Hash: s.Terms.Hash}}, nil
	case OutputReorged:
		next := s
		next.Output = s.undone(v)
		return next, lookAgain(s.Plan, s.Output, next.Output, v, "the output of a swap in that is being paid was undone by a reorg"), nil
	case OutputFound:
		s.Output = s.found(s.Output, v)
		return s, nil, nil
	case NewBlock:
		var effects []Effect
		s.Output, effects = s.follow(s.Output, v.Height)
		if v.Height >= s.lostHeight() {
			effects = append(effects, LookForPayment{Hash: s.Terms.Hash})
		}
		return s, effects, nil
	case PaymentMissing:
		return failed(s.Plan, s.Output, swaps.ReasonPayment, "the gateway's node lost the payment in a restart; it has expired and was never sent: the client takes its output back after height %d", s.Terms.ExpiryHeight)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// MissingAfterBlocks is how long after its expiry an HTLC that nobody has seen is
// looked for.
const MissingAfterBlocks = 20

// lostHeight is from when on a payment that is still in flight is looked for: no
// attempt of it may live longer than the margin before the swap's expiry.
func (p Plan) lostHeight() uint32 {
	return p.Terms.ExpiryHeight - min(p.Terms.ExpiryHeight, p.PayMarginBlocks) + MissingAfterBlocks
}

// unpaid tries again at the next block, a few times.
func (s Paying) unpaid(text string) (State, []Effect, error) {
	if s.Attempts >= s.MaxAttempts {
		return failed(s.Plan, s.Output, swaps.ReasonPayment, "the client's invoice could not be paid (%s): it takes its output back after height %d", clip(text), s.Terms.ExpiryHeight)
	}
	return Waiting(s), nil, nil
}

func stepPaid(s Paid, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case KeyPushed:
		s.ClientKey = v.Key
		return s, []Effect{AskTip{}}, nil
	case Tick:
		if v.At.Before(s.KeyBy) {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.KeyLate = true
		return s, []Effect{AskTip{}}, nil
	case ClaimSigned:
		next := Claiming{Plan: s.Plan, Output: s.Output, Payment: s.Payment}.signed(v)
		return next, []Effect{publishClaim(next), watchSpend(s.Plan, s.Output)}, nil
	case ClaimRefused:
		return s, []Effect{Alarm{Text: "the output of a swap in that was paid cannot be claimed: " + clip(v.Text)}}, nil
	case OutputReorged:
		next := s
		next.Output = s.undone(v)
		return next, lookAgain(s.Plan, s.Output, next.Output, v, "the output of a swap in that was paid was undone by a reorg"), nil
	case OutputFound:
		s.Output = s.found(s.Output, v)
		return s, nil, nil
	case OutputSpent, SpendReorged:
		return s, nil, nil // of the output before this one
	case NewBlock:
		var effects []Effect
		s.Output, effects = s.follow(s.Output, v.Height)
		if s.gone(v.Height) {
			return s.gaveUp(Claim{})
		}
		// Who is alone waits for nobody.
		if s.ready() && (!v.Company || v.Height >= s.ClaimBy) {
			effects = append(effects, signClaim(s, 0))
		}
		return s, effects, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// gone: the output that was paid for has been in no block for a while, and the client
// could take it back anyway by now.
func (s Paid) gone(tip uint32) bool {
	return s.ConfirmedHeight == 0 && tip >= max(s.Terms.ExpiryHeight, s.AwayHeight)+s.DeepConfs
}

// follow goes over to another output that took the place of the one that is paid for.
func (p Plan) follow(o Output, tip uint32) (Output, []Effect) {
	to, moved := p.moved(o, tip)
	if !moved {
		return o, nil
	}
	return to, []Effect{watchPaid(p, to)}
}

// lookAgain has an output looked for that was paid for, and the operator told if it
// was there a moment ago.
func lookAgain(p Plan, before, after Output, v OutputReorged, text string) []Effect {
	effects := []Effect{watchPaid(p, after)}
	if !v.Unsure && before.ConfirmedHeight > 0 && after.ConfirmedHeight == 0 {
		effects = append([]Effect{Alarm{Text: text}}, effects...)
	}
	return effects
}

func (s Paid) gaveUp(c Claim) (State, []Effect, error) {
	reason := swaps.Because(swaps.ReasonLost, "the output that was paid for, of %s, was undone by a reorg and never came back: find out which transaction spent its coins instead", s.AmountSat)
	return Lost{Plan: s.Plan, Output: s.Output, Payment: s.Payment, Claim: c, Reason: reason}, append([]Effect{Alarm{Text: reason.Text}}, s.forget(c.Claims)...), nil
}

// signed takes a claim up, beside the earlier ones.
func (s Claiming) signed(v ClaimSigned) Claiming {
	earlier := s.Claims
	s.Claim = v.Claim
	s.Height = v.Height
	s.Claims = swaps.AddVersion(earlier, swaps.Version{TxID: v.Claim.TxID, FeeSat: v.Claim.ClaimFeeSat})
	return s
}

// bumpEvery is how many blocks a claim may wait before it pays more.
const bumpEvery = 3

func stepClaiming(s Claiming, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case KeyPushed:
		s.ClientKey = v.Key
		return s, nil, nil
	case ClaimSigned:
		if s.Spent != "" || len(v.Claim.Raw) == 0 {
			return s, nil, nil
		}
		s = s.signed(v)
		return s, []Effect{publishClaim(s)}, nil
	case ClaimRefused:
		return s, []Effect{publishClaim(s)}, nil
	case OutputReorged:
		next := s
		next.Output = s.undone(v)
		return next, lookAgain(s.Plan, s.Output, next.Output, v, "the output of a swap in that was paid was undone by a reorg: its claim is sent again until it is back"), nil
	case OutputFound:
		s.Output = s.found(s.Output, v)
		return s, nil, nil
	case OutputSpent:
		if v.Outpoint != s.Outpoint {
			return s, nil, nil
		}
		s.Spent, s.SpentBy, s.SpentHeight, s.SpentFeeSat = v.How, v.By, v.SpentHeight, v.FeeSat
		if part, ours := swaps.CostOf(s.Claims, v.By); ours {
			s.SpentFeeSat = part
		}
		return s.settle(v.Height, nil)
	case SpendReorged:
		if v.Outpoint != s.Outpoint {
			return s, nil, nil
		}
		s.Spent, s.SpentBy, s.SpentHeight, s.SpentFeeSat = "", ln.TxID{}, 0, 0
		return s, []Effect{publishClaim(s), watchSpend(s.Plan, s.Output)}, nil
	case NewBlock:
		paid := Paid{Plan: s.Plan, Output: s.Output, Payment: s.Payment}
		if output, effects := s.follow(s.Output, v.Height); len(effects) > 0 {
			// What was signed spends the one before: there is nothing to replace.
			paid.Output = output
			for _, c := range s.Claims {
				paid.OldClaims = append(paid.OldClaims[:len(paid.OldClaims):len(paid.OldClaims)], c.TxID)
			}
			return paid, append(effects, AskTip{}), nil
		}
		if s.Spent != "" {
			return s.settle(v.Height, nil)
		}
		if paid.gone(v.Height) {
			return paid.gaveUp(s.Claim)
		}
		effects := []Effect{publishClaim(s)}
		if v.Height >= s.Height+bumpEvery && v.TargetRate > 0 {
			if rate, ok := swaps.Raised(s.Rate, v.TargetRate, htlc.ClaimWU, s.MostClaimSat()); ok {
				effects = append(effects, signClaim(paid, rate))
			}
		}
		return s, effects, nil
	case Tick:
		return s, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// settle ends a swap whose output's spend is buried.
func (s Claiming) settle(tip uint32, effects []Effect) (State, []Effect, error) {
	if ln.Confirmations(s.SpentHeight, tip) < s.DeepConfs {
		if s.Spent == htlc.SpendTimeout {
			effects = append(effects, Alarm{Text: "the client took the output of a swap in back although it was paid"})
		}
		return s, effects, nil
	}
	if s.Spent == htlc.SpendTimeout {
		reason := swaps.Because(swaps.ReasonLost, "the client took back %s that it was paid for: find out why the claim did not confirm in time", s.AmountSat)
		return Lost{Plan: s.Plan, Output: s.Output, Payment: s.Payment, Claim: s.Claim, Reason: reason}, append(append(effects, Alarm{Text: reason.Text}), s.forget(s.Claims)...), nil
	}
	return Claimed(s), append(effects, s.forget(nil)...), nil
}

// ForgetChain are the events after which a swap knows nothing of the chain, for
// whoever follows it anew.
func ForgetChain(s State, m swaps.Moment) []Event {
	var events []Event
	if c, ok := s.(Claiming); ok && c.Spent != "" {
		events = append(events, SpendReorged{m, c.Outpoint})
	}
	if Final(s) {
		return events
	}
	o := OutputOf(s)
	if o.OtherHeight != 0 {
		events = append(events, OutputReorged{Moment: m, Outpoint: o.Other, Unsure: true})
	}
	if o.ConfirmedHeight != 0 {
		events = append(events, OutputReorged{Moment: m, Outpoint: o.Outpoint, Unsure: true})
	}
	return events
}

func watchOutput(p Plan) Effect { return WatchOutput{Terms: p.Terms, SinceHeight: p.BeginHeight} }

// watchPaid follows the one output that is paid for as well.
func watchPaid(p Plan, o Output) Effect {
	return WatchOutput{Terms: p.Terms, SinceHeight: p.BeginHeight, Outpoint: o.Outpoint}
}

func watchSpend(p Plan, o Output) Effect {
	return WatchSpend{Terms: p.Terms, AmountSat: p.AmountSat, Outpoint: o.Outpoint, SinceHeight: p.BeginHeight}
}

// signClaim asks for a claim; rate 0 is today's.
func signClaim(s Paid, rate ln.FeeRateSatPerKW) Effect {
	return SignClaim{Terms: s.Terms, AmountSat: s.AmountSat, Outpoint: s.Outpoint, Preimage: s.Preimage, ClientKey: s.ClientKey, Rate: rate}
}

func publishClaim(s Claiming) Effect {
	return PublishClaim{Raw: s.Raw, Label: "sluice swap in " + s.ID()}
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
