package batch

import (
	"fmt"
	"slices"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Gathering:
		return stepGathering(s, v)
	case Leasing:
		return stepLeasing(s, v)
	case Handing:
		return stepHanding(s, v)
	case Signing:
		return stepSigning(s, v)
	case Failed:
		switch v.(type) {
		case MemberLeft, CoinsLeased, CoinsRefused, CommitRefused, Tick:
			// Whoever was asked before it ended answers all the same.
			return nil, nil, fsm.Repeated(s, v)
		}
	case Signed:
		return nil, nil, s.Tx.known(s, s.Channels, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// known tells what a channel of the transaction has told before from what one says
// that is not in it.
func (t Tx) known(s State, channels []Channel, v Event) error {
	id := ""
	switch v := v.(type) {
	case OutputNamed:
		id = v.OpeningID
	case MemberPending:
		id = v.OpeningID
	}
	if id != "" && slices.Contains(openings(channels), id) {
		return fsm.Repeated(s, v)
	}
	return fsm.Illegal(s, v)
}

func stepGathering(s Gathering, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		if len(s.Members) == 0 {
			return nil, nil, fmt.Errorf("batch %s has nobody in it", s.ID)
		}
		return s, nil, nil
	case OutputNamed:
		i := slices.IndexFunc(s.Members, func(m Member) bool { return m.OpeningID == v.OpeningID })
		switch {
		case i < 0 || slices.Contains(s.Left, v.OpeningID):
			return nil, nil, fsm.Illegal(s, v)
		case s.has(v.OpeningID):
			return nil, nil, fsm.Repeated(s, v)
		}
		s.Outputs = append(slices.Clone(s.Outputs), Output{Member: s.Members[i], Script: v.Script})
		return s.gathered(nil)
	case MemberLeft:
		if slices.Contains(s.Left, v.OpeningID) {
			return nil, nil, fsm.Repeated(s, v)
		}
		if !slices.ContainsFunc(s.Members, func(m Member) bool { return m.OpeningID == v.OpeningID }) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return s.without(v.OpeningID).gathered(nil)
	case Tick:
		if v.At.Before(s.GatherUntil) {
			return nil, nil, fsm.Illegal(s, v)
		}
		var late []string
		for _, m := range s.waitsFor() {
			late = append(late, m.OpeningID)
			s = s.without(m.OpeningID)
		}
		return s.gathered([]Effect{Dismiss{BatchID: s.ID, OpeningIDs: late, Reason: tooSlow()}})
	}
	return nil, nil, fsm.Illegal(s, v)
}

func (s Gathering) has(openingID string) bool {
	return slices.ContainsFunc(s.Outputs, func(o Output) bool { return o.OpeningID == openingID })
}

// waitsFor are the members of which nothing has been heard.
func (s Gathering) waitsFor() (out []Member) {
	for _, m := range s.Members {
		if !s.has(m.OpeningID) && !slices.Contains(s.Left, m.OpeningID) {
			out = append(out, m)
		}
	}
	return out
}

func (s Gathering) without(openingID string) Gathering {
	s.Left = append(slices.Clone(s.Left), openingID)
	s.Outputs = slices.DeleteFunc(slices.Clone(s.Outputs), func(o Output) bool { return o.OpeningID == openingID })
	return s
}

// gathered goes on once every channel that is left has its output.
func (s Gathering) gathered(effects []Effect) (State, []Effect, error) {
	if len(s.waitsFor()) > 0 {
		return s, effects, nil
	}
	if len(s.Outputs) == 0 {
		return Failed{Plan: s.Plan, Reason: lsp.Because(lsp.ReasonOpenFailed, "none of its nodes accepted a channel")}, effects, nil
	}
	next := Leasing{Plan: s.Plan}
	lease := LeaseCoins{BatchID: s.ID, LeaseID: s.LeaseID(), Channels: len(s.Outputs), FeeRate: s.FeeRate, MaxFeeSat: s.MaxFeeSat}
	for _, m := range s.Members {
		for _, o := range s.Outputs {
			if o.OpeningID != m.OpeningID {
				continue
			}
			next.Outputs = append(next.Outputs, o)
			var err error
			if lease.FundingSat, err = lease.FundingSat.Add(o.CapacitySat); err != nil {
				return nil, nil, fmt.Errorf("batch %s: %w", s.ID, err)
			}
		}
	}
	return next, append(effects, lease), nil
}

func stepLeasing(s Leasing, v Event) (State, []Effect, error) {
	var all []string
	for _, o := range s.Outputs {
		all = append(all, o.OpeningID)
	}
	switch v := v.(type) {
	case CoinsLeased:
		next, err := s.build(v)
		if err != nil {
			return nil, nil, fmt.Errorf("batch %s: %w", s.ID, err)
		}
		return next, []Effect{next.hand()}, nil
	case CoinsRefused:
		return failed(s.Plan, v.Reason, Dismiss{BatchID: s.ID, OpeningIDs: all, Reason: v.Reason})
	case MemberLeft:
		return left(s, s.Plan, all, v)
	case OutputNamed:
		if slices.Contains(all, v.OpeningID) {
			return nil, nil, fsm.Repeated(s, v)
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

// build makes the transaction, and divides its fee: each channel has one output in
// it, and no input is one channel's.
func (s Leasing) build(v CoinsLeased) (Handing, error) {
	var channels []funding.Payee
	for _, o := range s.Outputs {
		channels = append(channels, funding.Payee{AmountSat: o.CapacitySat, Script: o.Script})
	}
	built, err := funding.BuildShared(v.Selection, channels, v.ChangeScript)
	if err != nil {
		return Handing{}, err
	}
	next := Handing{Plan: s.Plan, Until: v.At.Add(s.AnswerFor), Tx: Tx{
		Selection: v.Selection, ChangeScript: v.ChangeScript, Psbt: built.Psbt, TxID: built.TxID, Change: built.Change,
	}}
	n := ln.Sat(len(s.Outputs))
	for i, o := range s.Outputs {
		c := Channel{Member: o.Member, Outpoint: built.Fundings[i], FeeSat: v.Selection.FeeSat / n}
		if i == 0 {
			c.FeeSat += v.Selection.FeeSat % n
		}
		next.Channels = append(next.Channels, c)
	}
	return next, nil
}

// hand gives the next channel's open the transaction.
func (s Handing) hand() Effect {
	c := s.Channels[s.Pending]
	first := c.Outpoint
	for _, o := range s.Channels {
		if o.Outpoint.Index < first.Index {
			first = o.Outpoint
		}
	}
	return Hand{
		BatchID: s.ID, OpeningID: c.OpeningID,
		Coins:    opening.Coins{Selection: s.Selection, ChangeScript: s.ChangeScript, Share: &opening.Share{FeeSat: c.FeeSat, First: first}},
		Unsigned: opening.Unsigned{Psbt: s.Psbt, Outpoint: c.Outpoint, ChangeOutpoint: s.Change},
	}
}

func stepHanding(s Handing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case MemberPending:
		i := slices.IndexFunc(s.Channels, func(c Channel) bool { return c.OpeningID == v.OpeningID })
		switch {
		case i < 0 || i > s.Pending:
			return nil, nil, fsm.Illegal(s, v)
		case i < s.Pending:
			return nil, nil, fsm.Repeated(s, v)
		case v.Outpoint != s.Channels[i].Outpoint:
			return nil, nil, fmt.Errorf("batch %s: open %s has funding outpoint %s, but %s was built", s.ID, v.OpeningID, v.Outpoint, s.Channels[i].Outpoint)
		}
		s.Pending++
		if s.Pending < len(s.Channels) {
			s.Until = v.At.Add(s.AnswerFor)
			return s, []Effect{s.hand()}, nil
		}
		next := Signing{Plan: s.Plan, Channels: s.Channels, Tx: s.Tx}
		return next, []Effect{Commit{BatchID: s.ID, Channels: s.Channels, Psbt: s.Psbt, TxID: s.TxID}}, nil
	case MemberLeft:
		return left(s, s.Plan, openings(s.Channels), v)
	case Tick:
		if v.At.Before(s.Until) {
			return nil, nil, fsm.Illegal(s, v)
		}
		slow := s.Channels[s.Pending].OpeningID
		next, effects, err := left(s, s.Plan, openings(s.Channels), MemberLeft{Moment: v.Moment, OpeningID: slow, Reason: tooSlow()})
		return next, append([]Effect{Dismiss{BatchID: s.ID, OpeningIDs: []string{slow}, Reason: tooSlow()}}, effects...), err
	case OutputNamed:
		return nil, nil, s.known(s, s.Channels, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepSigning(s Signing, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Committed:
		return Signed(s), nil, nil
	case CommitRefused:
		reason := v.Reason
		if v.Spared {
			reason = opening.SharedReason()
		}
		return failed(s.Plan, v.Reason, Dismiss{BatchID: s.ID, OpeningIDs: openings(s.Channels), Reason: reason, Spared: v.Spared})
	case MemberLeft:
		// It ended, so that the commit is refused, or was: never may it be found signed.
		return left(s, s.Plan, openings(s.Channels), v)
	}
	return nil, nil, s.known(s, s.Channels, v)
}

// left gives the transaction up because one of its channels is gone: with another
// one the others are tried again, at once and without a loss.
func left(s State, p Plan, all []string, v MemberLeft) (State, []Effect, error) {
	if !slices.Contains(all, v.OpeningID) {
		return nil, nil, fsm.Illegal(s, v)
	}
	others := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return id == v.OpeningID })
	reason := lsp.Because(v.Reason.Code, "channel %s left it: %s", v.OpeningID, v.Reason.Text)
	if len(others) == 0 {
		return failed(p, reason)
	}
	return failed(p, reason, Dismiss{BatchID: p.ID, OpeningIDs: others, Reason: opening.SharedReason(), Spared: true})
}

// failed ends a batch that may have leased coins.
func failed(p Plan, reason lsp.Reason, effects ...Effect) (State, []Effect, error) {
	return Failed{Plan: p, Reason: reason}, append(effects, ReleaseCoins{BatchID: p.ID, LeaseID: p.LeaseID()}), nil
}

func openings(channels []Channel) (ids []string) {
	for _, c := range channels {
		ids = append(ids, c.OpeningID)
	}
	return ids
}

func tooSlow() lsp.Reason {
	return lsp.Because(lsp.ReasonOpenSlow, "the client's node did not answer in time while a funding transaction of several channels was made: nothing was spent; the channel is opened with one of its own")
}
