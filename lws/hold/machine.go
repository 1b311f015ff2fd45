package hold

import (
	"math"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Name is the machine's name in the database.
const Name = "lws/hold"

// Times between attempts to wake a wallet.
const (
	wakeFirst = 15 * time.Second
	wakeMost  = 5 * time.Minute
)

// Part is one HTLC.
type Part struct {
	Key        ln.CircuitKey `json:"key"`
	AmountMsat ln.Msat       `json:"amount_msat"`
	// Over is the wallet's channel that its onion names.
	Over ln.SCID `json:"over,omitempty"`
	// FailHeight is the first block at which it goes back.
	FailHeight uint32 `json:"fail_height"`
	// SatBlocks is what holding it may cost, as it stood when it came.
	SatBlocks uint64 `json:"sat_blocks,omitempty"`
	// Order numbers HTLCs as they came to the interceptor.
	Order int64 `json:"order,omitempty"`
}

// Payment is what waits.
type Payment struct {
	ID     string    `json:"id"`
	Client ln.PubKey `json:"client"`
	Hash   ln.Hash   `json:"payment_hash"`
	Parts  []Part    `json:"parts,omitempty"`
	// Since is when the first part came, Until when all go back at the latest.
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	// Wakes counts attempts to wake the wallet, but for those for a part that joined others;
	// the next one is due at NextWake.
	Wakes    uint32    `json:"wakes"`
	NextWake time.Time `json:"next_wake,omitzero"`
	// LastWake is when what the last attempt came to was known, and WokeHow that.
	LastWake time.Time `json:"last_wake,omitzero"`
	WokeHow  string    `json:"woke_how,omitempty"`
}

// AmountMsat is what the parts bring.
func (p Payment) AmountMsat() (sum ln.Msat) {
	for _, part := range p.Parts {
		sum += part.AmountMsat
	}
	return sum
}

// SatBlocks is what holding the parts may cost.
func (p Payment) SatBlocks() (sum uint64) {
	for _, part := range p.Parts {
		if sum += part.SatBlocks; sum < part.SatBlocks {
			return math.MaxUint64
		}
	}
	return sum
}

// Before says that the payment had begun when an HTLC of this Order came. One that had not
// is of an earlier attempt to pay.
func (p Payment) Before(order int64) bool {
	return slices.ContainsFunc(p.Parts, func(part Part) bool { return part.Order < order })
}

// FailHeight is the earliest of the parts': they go back together.
func (p Payment) FailHeight() uint32 {
	out := uint32(0)
	for i, part := range p.Parts {
		if i == 0 || part.FailHeight < out {
			out = part.FailHeight
		}
	}
	return out
}

func (p Payment) keys() []ln.CircuitKey {
	out := make([]ln.CircuitKey, 0, len(p.Parts))
	for _, part := range p.Parts {
		out = append(out, part.Key)
	}
	return out
}

func (p Payment) has(key ln.CircuitKey) bool { return slices.Contains(p.keys(), key) }

func (p Payment) with(part Part) Payment {
	p.Parts = append(slices.Clone(p.Parts), part)
	return p
}

// State is how the payment stands.
type State interface{ StateName() string }

// The states. Open, in Resuming and Failing, are the parts that the interceptor has
// not recorded yet.
type (
	// Fresh has no part yet; it is never stored.
	Fresh struct{ Payment }
	// Held waits for the wallet.
	Held struct{ Payment }
	// Resuming: the wallet is there. The latest Resume effect is about all of Open. Back are
	// parts that went back without being asked to.
	Resuming struct {
		Payment
		Open []ln.CircuitKey `json:"open"`
		Back []ln.CircuitKey `json:"back,omitempty"`
	}
	// Failing: it goes back to the payer.
	Failing struct {
		Payment
		Open   []ln.CircuitKey `json:"open"`
		Reason string          `json:"reason"`
	}
	// Resumed: the wallet got it; how it ended is between wallet and payer.
	Resumed struct{ Payment }
	// Failed: the payer has it back.
	Failed struct {
		Payment
		Reason string `json:"reason"`
	}
)

// StateName implements State.
func (Fresh) StateName() string    { return "fresh" }
func (Held) StateName() string     { return "held" }
func (Resuming) StateName() string { return "resuming" }
func (Failing) StateName() string  { return "failing" }
func (Resumed) StateName() string  { return "resumed" }
func (Failed) StateName() string   { return "failed" }

// Moment is when an event happened.
type Moment = ln.Moment

// Event is something that happened to the payment.
type Event interface{ EventName() string }

// The events.
type (
	// Offered: the interceptor holds a part. It may come again.
	Offered struct {
		Moment
		Part Part `json:"part"`
		// Refusal is why it cannot be held, if it cannot.
		Refusal string `json:"refusal,omitempty"`
	}
	// WalletActive: the wallet has an active channel.
	WalletActive struct{ Moment }
	// WalletGone: it had none any more when these were to be resumed, and none of them was.
	WalletGone struct {
		Moment
		Keys []ln.CircuitKey `json:"keys"`
	}
	// NotYet: lnd would have failed these if they had been resumed, for a channel that they
	// came over, or that they name, was not active. None of them was.
	NotYet struct {
		Moment
		Keys []ln.CircuitKey `json:"keys"`
	}
	// Unresumable: the interceptor does not resume these together, for Key's channel is on
	// chain.
	Unresumable struct {
		Moment
		Keys []ln.CircuitKey `json:"keys"`
		Key  ln.CircuitKey   `json:"key"`
	}
	// Stranded: the channel that a part came over went on chain. Without a preimage, which
	// only the wallet has, nobody can do anything about it but the payer, once it expires.
	Stranded struct {
		Moment
		Key ln.CircuitKey `json:"key"`
	}
	// NewBlock is a block that matters (Due).
	NewBlock struct{ Moment }
	// Tick: a deadline by the clock came.
	Tick struct{ Moment }
	// Decided: the interceptor has recorded a part as resumed, or not.
	Decided struct {
		Moment
		Key     ln.CircuitKey `json:"key"`
		Resumed bool          `json:"resumed"`
	}
	// Woken is what an attempt to wake the wallet came to.
	Woken struct {
		Moment
		How string `json:"how"`
	}
	// SentBack: the wallet does not want it, it makes room for others, or a part of it that
	// came since was not held.
	SentBack struct {
		Moment
		Reason string `json:"reason"`
	}
	// Gone: lnd no longer has the part.
	Gone struct {
		Moment
		Key ln.CircuitKey `json:"key"`
	}
)

// EventName implements Event.
func (Offered) EventName() string      { return "offered" }
func (WalletActive) EventName() string { return "wallet_active" }
func (WalletGone) EventName() string   { return "wallet_gone" }
func (NotYet) EventName() string       { return "not_yet" }
func (Unresumable) EventName() string  { return "unresumable" }
func (Stranded) EventName() string     { return "stranded" }
func (NewBlock) EventName() string     { return "new_block" }
func (Tick) EventName() string         { return "tick" }
func (Decided) EventName() string      { return "decided" }
func (Woken) EventName() string        { return "woken" }
func (SentBack) EventName() string     { return "sent_back" }
func (Gone) EventName() string         { return "gone" }

// Effect is something to do once the state that asks for it is stored; it may run
// again.
type Effect interface{ EffectName() string }

// The effects.
type (
	// Wake pokes the wallet; what it came to is told as Woken.
	Wake struct {
		ID         string    `json:"id"`
		Client     ln.PubKey `json:"client"`
		Hash       ln.Hash   `json:"payment_hash"`
		AmountMsat ln.Msat   `json:"amount_msat"`
		Until      time.Time `json:"until"`
	}
	// Resume has the parts forwarded, all in one decision. That the interceptor has
	// recorded it is told as Decided for each; one that it does not know is Gone. Unless
	// Force, the answer may be WalletGone, NotYet or Unresumable instead. The effects of
	// a payment run one after the other, each once the last one's answer is stored.
	Resume struct {
		Client ln.PubKey       `json:"client"`
		Keys   []ln.CircuitKey `json:"keys"`
		Force  bool            `json:"force,omitempty"`
	}
	// Fail sends the parts back (TEMPORARY_CHANNEL_FAILURE), all in one decision, which
	// is told in the same way.
	Fail struct {
		Keys   []ln.CircuitKey `json:"keys"`
		Reason string          `json:"reason"`
	}
)

// EffectName implements Effect.
func (Wake) EffectName() string   { return "wake" }
func (Resume) EffectName() string { return "resume" }
func (Fail) EffectName() string   { return "fail" }

// Machine is the state machine.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name: Name, Step: Step,
		States: []State{Fresh{}, Held{}, Resuming{}, Failing{}, Resumed{}, Failed{}},
		Events: []Event{
			Offered{}, WalletActive{}, WalletGone{}, NotYet{}, Unresumable{}, Stranded{}, NewBlock{}, Tick{}, Decided{}, Woken{}, SentBack{}, Gone{},
		},
		Effects:  []Effect{Wake{}, Resume{}, Fail{}},
		Terminal: Final, Deadline: deadline, Edges: edges(),
	}
}

// Final says that nothing more happens.
func Final(s State) bool {
	switch s.(type) {
	case Resumed, Failed:
		return true
	}
	return false
}

// Of is the payment in a state.
func Of(s State) Payment {
	switch s := s.(type) {
	case Fresh:
		return s.Payment
	case Held:
		return s.Payment
	case Resuming:
		return s.Payment
	case Failing:
		return s.Payment
	case Resumed:
		return s.Payment
	case Failed:
		return s.Payment
	}
	return Payment{}
}

// Due says that a block ends the wait.
func Due(s State, height uint32) bool {
	h, held := s.(Held)
	return held && height != 0 && height >= h.FailHeight()
}

func deadline(s State) (time.Time, Event, bool) {
	h, held := s.(Held)
	if !held {
		return time.Time{}, nil, false
	}
	due := h.Until
	if !h.NextWake.IsZero() && h.NextWake.Before(due) {
		due = h.NextWake
	}
	return due, Tick{Moment{At: due}}, true
}

// edges is the table of all transitions; a test holds it equal to Step.
func edges() []fsm.Edge {
	return []fsm.Edge{
		{From: "fresh", Event: "offered", To: "held", Effects: []string{"wake"}},
		{From: "fresh", Event: "offered", To: "failing", Effects: []string{"fail"}},

		{From: "held", Event: "offered", To: "held", Effects: []string{"wake"}},
		{From: "held", Event: "offered", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "wallet_active", To: "resuming", Effects: []string{"resume"}},
		{From: "held", Event: "new_block", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "tick", To: "held", Effects: []string{"wake"}},
		{From: "held", Event: "tick", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "decided", To: "resuming", Effects: []string{"resume"}},
		{From: "held", Event: "decided", To: "resumed"},
		{From: "held", Event: "decided", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "decided", To: "failed"},
		{From: "held", Event: "woken", To: "held"},
		{From: "held", Event: "sent_back", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "stranded", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "gone", To: "failing", Effects: []string{"fail"}},
		{From: "held", Event: "gone", To: "failed"},

		{From: "resuming", Event: "offered", To: "resuming", Effects: []string{"resume"}},
		{From: "resuming", Event: "wallet_gone", To: "held", Effects: []string{"wake"}},
		{From: "resuming", Event: "wallet_gone", To: "resuming", Effects: []string{"resume"}},
		{From: "resuming", Event: "wallet_gone", To: "failing", Effects: []string{"fail"}},
		{From: "resuming", Event: "not_yet", To: "held"},
		{From: "resuming", Event: "not_yet", To: "resuming", Effects: []string{"resume"}},
		{From: "resuming", Event: "not_yet", To: "failing", Effects: []string{"fail"}},
		{From: "resuming", Event: "unresumable", To: "failing", Effects: []string{"fail"}},
		{From: "resuming", Event: "unresumable", To: "resuming", Effects: []string{"resume"}},
		{From: "resuming", Event: "woken", To: "resuming"},
		{From: "resuming", Event: "decided", To: "resuming"},
		{From: "resuming", Event: "decided", To: "resumed"},
		{From: "resuming", Event: "decided", To: "failed"},
		{From: "resuming", Event: "gone", To: "resuming"},
		{From: "resuming", Event: "gone", To: "resumed"},
		{From: "resuming", Event: "gone", To: "failed"},

		{From: "failing", Event: "offered", To: "failing", Effects: []string{"fail"}},
		{From: "failing", Event: "woken", To: "failing"},
		{From: "failing", Event: "decided", To: "failing"},
		{From: "failing", Event: "decided", To: "failed"},
		{From: "failing", Event: "gone", To: "failing"},
		{From: "failing", Event: "gone", To: "failed"},
	}
}
