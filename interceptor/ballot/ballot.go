// Package ballot merges what several programs say about one forward.
//
// It promises, whatever the order in which answers come:
//   - FAIL beats HOLD beats SETTLE beats RESUME. Who has not answered holds: lnd's
//     interface knows no other way to hold. So a FAIL counts at once, and anything
//     else when the last one has answered;
//   - the first answer of a program stands;
//   - of several amounts the least is forwarded, and never more than the onion asks
//     or than came in. Records that contradict each other fail the forward;
//   - a ballot is text, and read again it rules the same. It is stored with what is
//     held, so that nobody is asked again after a restart.
//
// The package has no I/O, no clock and no goroutine.
package ballot

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Vote is one program's answer. Its Action is Resume, Fail or Settle.
type Vote struct {
	Action interceptor.Action
	// Preimage is set for Settle.
	Preimage ln.Preimage
	// Send is what a Resume changes.
	Send interceptor.Sending
	// Policy says that a policy spoke for the program: it was away or too slow.
	Policy bool
}

// Errors of votes. None of them counts as an answer.
var (
	// ErrNotAsked: this program has no say in the forward.
	ErrNotAsked = errors.New("this forward was not offered to this program")
	// ErrAnswered: the program answered before, or a policy did for it.
	ErrAnswered = errors.New("this forward was answered before")
	// ErrNoRight: only programs with the right may settle.
	ErrNoRight = errors.New("this program may not settle forwards")
	// ErrPreimage: the preimage does not open the hash.
	ErrPreimage = errors.New("the preimage does not open the payment hash")
	// ErrRaises: the answer would forward more than the payer pays for.
	ErrRaises = errors.New("the answer would forward more than came in less the fee")
	// ErrInvalid: lnd would end its stream for such an answer.
	ErrInvalid = errors.New("the answer is malformed")
)

// Check says whether a program may answer an offer so.
func (v Vote) Check(o ln.InterceptedHtlc, maySettle bool) error {
	switch v.Action {
	case interceptor.ActionFail:
		return nil
	case interceptor.ActionSettle:
		if !maySettle {
			return ErrNoRight
		}
		if v.Preimage.Hash() != o.Hash {
			return ErrPreimage
		}
		return nil
	case interceptor.ActionResume:
		if v.Send.Msat > min(o.OutgoingMsat, o.IncomingMsat) {
			return fmt.Errorf("%w: %s in, %s asked for, %s answered", ErrRaises, o.IncomingMsat, o.OutgoingMsat, v.Send.Msat)
		}
		if err := v.Send.Records.Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return nil
	case interceptor.ActionRefuseUnknown, interceptor.ActionHold:
	}
	return fmt.Errorf("%w: action %q", ErrInvalid, v.Action)
}

// Ballot is the vote on one forward. Its zero value asks nobody.
type Ballot struct {
	// votes has a key per program that was asked, nil until it answers.
	votes map[string]*Vote
}

// New asks programs by name.
func New(programs ...string) *Ballot {
	b := &Ballot{votes: make(map[string]*Vote, len(programs))}
	for _, p := range programs {
		b.votes[p] = nil
	}
	return b
}

// Waits reports that the program was asked and has not answered.
func (b *Ballot) Waits(program string) bool {
	v, asked := b.votes[program]
	return asked && v == nil
}

// Waiting lists who has not answered, by name.
func (b *Ballot) Waiting() []string {
	var out []string
	for program, v := range b.votes {
		if v == nil {
			out = append(out, program)
		}
	}
	slices.Sort(out)
	return out
}

// Cast takes a program's answer, which the caller has checked.
func (b *Ballot) Cast(program string, v Vote) error {
	old, asked := b.votes[program]
	switch {
	case !asked:
		return ErrNotAsked
	case old != nil:
		return ErrAnswered
	}
	b.votes[program] = &v
	return nil
}

// Ruling is what the answers so far come to; ok is false while somebody holds.
// Its reason names who decided.
func (b *Ballot) Ruling() (r interceptor.Ruling, ok bool) {
	names := slices.Sorted(maps.Keys(b.votes))
	waiting, settle := false, ""
	for _, name := range names {
		switch v := b.votes[name]; {
		case v == nil:
			waiting = true
		case v.Action == interceptor.ActionFail:
			return interceptor.Ruling{Action: interceptor.ActionFail, Reason: v.reason(name, "failed it")}, true
		case v.Action == interceptor.ActionSettle && settle == "":
			settle = name
		}
	}
	if waiting {
		return interceptor.Ruling{}, false
	}
	if settle != "" {
		v := b.votes[settle]
		return interceptor.Ruling{Action: interceptor.ActionSettle, Preimage: v.Preimage, Reason: v.reason(settle, "settled it")}, true
	}
	return b.resume(names), true
}

// resume merges answers that all let the forward pass.
func (b *Ballot) resume(names []string) interceptor.Ruling {
	r := interceptor.Ruling{Action: interceptor.ActionResume}
	records := make(map[uint64][]byte)
	by := make(map[uint64]string)
	for _, name := range names {
		v := b.votes[name]
		if v.Send.Msat > 0 && (r.Send.Msat == 0 || v.Send.Msat < r.Send.Msat) {
			r.Send.Msat = v.Send.Msat
		}
		theirs, err := v.Send.Records.Map()
		if err != nil {
			return interceptor.Ruling{Action: interceptor.ActionFail, Reason: "the program " + name + " answered with records that cannot be read"}
		}
		for kind, value := range theirs {
			if old, set := records[kind]; set && !slices.Equal(old, value) {
				return interceptor.Ruling{
					Action: interceptor.ActionFail,
					Reason: fmt.Sprintf("the programs %s and %s want different records of type %d", by[kind], name, kind),
				}
			}
			records[kind], by[kind] = value, name
		}
		if r.Reason == "" && !v.Send.IsZero() {
			r.Reason = v.reason(name, "changed it")
		}
	}
	r.Send.Records = interceptor.NewWireRecords(records)
	if err := r.Send.Records.Validate(); err != nil {
		return interceptor.Ruling{Action: interceptor.ActionFail, Reason: "together the programs want " + err.Error()}
	}
	return r
}

func (v Vote) reason(program, did string) string {
	if v.Policy {
		return "the program " + program + " did not answer, and its policy " + did
	}
	return "the program " + program + " " + did
}

// stored is a vote as text: a preimage of the domain's type would hide itself.
type stored struct {
	Action   interceptor.Action `json:"action"`
	Preimage []byte             `json:"preimage,omitempty"`
	SendMsat ln.Msat            `json:"send_msat,omitempty"`
	Records  []byte             `json:"records,omitempty"`
	Policy   bool               `json:"policy,omitempty"`
}

// Text is the ballot as it is stored. It may hold preimages: it is not to be shown.
func (b *Ballot) Text() (string, error) {
	out := make(map[string]*stored, len(b.votes))
	for program, v := range b.votes {
		out[program] = nil
		if v == nil {
			continue
		}
		s := stored{Action: v.Action, SendMsat: v.Send.Msat, Records: []byte(v.Send.Records), Policy: v.Policy}
		if v.Action == interceptor.ActionSettle {
			s.Preimage = v.Preimage.Bytes()
		}
		out[program] = &s
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("ballot: %w", err)
	}
	return string(text), nil
}

// Parse reads a ballot. Text that was not written by Text is an error.
func Parse(text string) (*Ballot, error) {
	var in map[string]*stored
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return nil, fmt.Errorf("ballot: %w", err)
	}
	b := &Ballot{votes: make(map[string]*Vote, len(in))}
	for program, s := range in {
		b.votes[program] = nil
		if s == nil {
			continue
		}
		v := Vote{Action: s.Action, Policy: s.Policy, Send: interceptor.Sending{Msat: s.SendMsat, Records: interceptor.WireRecords(s.Records)}}
		switch v.Action {
		case interceptor.ActionSettle:
			preimage, err := ln.PreimageFromBytes(s.Preimage)
			if err != nil {
				return nil, fmt.Errorf("ballot: %s: %w", program, err)
			}
			v.Preimage = preimage
		case interceptor.ActionFail, interceptor.ActionResume:
		case interceptor.ActionRefuseUnknown, interceptor.ActionHold:
			return nil, fmt.Errorf("ballot: %s answered %q", program, v.Action)
		default:
			return nil, fmt.Errorf("ballot: %s answered %q", program, v.Action)
		}
		b.votes[program] = &v
	}
	return b, nil
}
