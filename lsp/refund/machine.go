package refund

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Name is the machine's name in the database.
const Name = "lsp/refund"

// bumpAfter is when a refund that lags is bumped at the latest (bLIP-51).
const bumpAfter = 6 * time.Hour

// Coin is one input.
type Coin struct {
	Outpoint  ln.Outpoint `json:"outpoint"`
	AmountSat ln.Sat      `json:"amount_sat"`
}

// Plan is what is to be returned. It never changes.
type Plan struct {
	ID      string    `json:"id"`
	OrderID string    `json:"order_id"`
	Client  ln.PubKey `json:"client"`
	Coins   []Coin    `json:"coins"`
	// Script is the coins' own.
	Script   []byte `json:"script"`
	ToScript []byte `json:"to_script"`
	// KeepSat of what the coins hold stays in the wallet.
	KeepSat         ln.Sat     `json:"keep_sat,omitempty"`
	Reason          lsp.Reason `json:"reason"`
	BumpAfterBlocks uint32     `json:"bump_after_blocks"`
	BuriedConfs     uint32     `json:"buried_confs"`
}

// OwedSat is what is to be returned before the fee.
func (p Plan) OwedSat() (sum ln.Sat) {
	for _, c := range p.Coins {
		sum += c.AmountSat // coins of the chain: below 2^63 together
	}
	return sum - min(sum, p.KeepSat)
}

// Tx is one version of the transaction, signed.
type Tx struct {
	TxID      ln.TxID            `json:"txid"`
	Raw       []byte             `json:"raw"`
	FeeSat    ln.Sat             `json:"fee_sat"`
	RefundSat ln.Sat             `json:"refund_sat"`
	FeeRate   ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
	At        time.Time          `json:"at"`
	Height    uint32             `json:"height"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states.
type (
	// Planned: nothing is signed.
	Planned struct{ Plan }
	// Sending: the latest of Txs is to be in a block; any of them may be.
	Sending struct {
		Plan
		Txs []Tx `json:"txs"`
		// Sent is the version that the network took last.
		Sent ln.TxID `json:"sent,omitzero"`
		// Confirmed is the version that a block has, at ConfirmedHeight.
		Confirmed       ln.TxID `json:"confirmed,omitzero"`
		ConfirmedHeight uint32  `json:"confirmed_height,omitempty"`
		// Asked is when a bump was last asked for.
		Asked       time.Time  `json:"asked,omitzero"`
		AskedHeight uint32     `json:"asked_height,omitempty"`
		Trouble     lsp.Reason `json:"trouble,omitzero"`
	}
	// Returned: final; the client has its money, buried.
	Returned struct {
		Plan
		Tx Tx `json:"tx"`
	}
	// Kept: final; what is owed is less than a transaction that could carry it.
	Kept struct {
		Plan
		Reason lsp.Reason `json:"why"`
	}
	// Void: final; no version can confirm any more, or none is waited for: another
	// transaction spent coins and is buried, or coins left the chain. What of them
	// is still there is the order's to return anew.
	Void struct {
		Plan
		Reason lsp.Reason `json:"why"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Planned) StateName() string  { return "planned" }
func (Sending) StateName() string  { return "sending" }
func (Returned) StateName() string { return "returned" }
func (Kept) StateName() string     { return "kept" }
func (Void) StateName() string     { return "void" }

// PlanOf is what the state's refund set out to do.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Returned, Kept, Void:
		return true
	}
	return false
}

// Latest is the transaction that is to confirm, or has.
func Latest(s State) (Tx, bool) {
	switch s := s.(type) {
	case Sending:
		for _, t := range s.Txs {
			if t.TxID == s.Confirmed {
				return t, true
			}
		}
		return s.Txs[len(s.Txs)-1], true
	case Returned:
		return s.Tx, true
	}
	return Tx{}, false
}

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Sending:
		if !s.Trouble.IsZero() {
			return s.Trouble
		}
	case Kept:
		return s.Reason
	case Void:
		return s.Reason
	}
	return PlanOf(s).Reason
}

// Event is something that happened to a refund.
type Event interface{ EventName() string }

// The events.
type (
	// Start begins a Planned refund; it may be repeated after a crash.
	Start struct{ lsp.Moment }
	// Signed answers Build.
	Signed struct {
		lsp.Moment
		Tx Tx `json:"tx"`
	}
	// TooSmall answers Build: no transaction that the network takes can carry
	// what is owed, or one that pays more.
	TooSmall struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// Published: the network has the transaction (already known counts).
	Published struct {
		lsp.Moment
		TxID ln.TxID `json:"txid"`
	}
	// PublishFailed: the node refused it for now.
	PublishFailed struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// Confirmed: the block at Height has this version.
	Confirmed struct {
		lsp.Moment
		TxID            ln.TxID `json:"txid"`
		ConfirmedHeight uint32  `json:"confirmed_height"`
	}
	// Reorged: no block has any version any more.
	Reorged struct{ lsp.Moment }
	// Conflicted: a block at SpenderHeight spends these coins otherwise.
	Conflicted struct {
		lsp.Moment
		Spender       ln.TxID       `json:"spender"`
		SpenderHeight uint32        `json:"spender_height"`
		Coins         []ln.Outpoint `json:"coins"`
	}
	// CoinsGone: no block has these coins any more, for so long that they are not
	// waited for. Whoever tells it takes up the others.
	CoinsGone struct {
		lsp.Moment
		Coins []ln.Outpoint `json:"coins"`
	}
	// NewBlock: the tip is Moment.Height; TargetRate is what the fee source asks
	// for now (0: unknown).
	NewBlock struct {
		lsp.Moment
		TargetRate ln.FeeRateSatPerKW `json:"target_rate_sat_per_kw,omitempty"`
	}
	// Tick: the time is Moment.At.
	Tick struct{ lsp.Moment }
)

func (Start) EventName() string         { return "start" }
func (Signed) EventName() string        { return "signed" }
func (TooSmall) EventName() string      { return "too_small" }
func (Published) EventName() string     { return "published" }
func (PublishFailed) EventName() string { return "publish_failed" }
func (Confirmed) EventName() string     { return "confirmed" }
func (Reorged) EventName() string       { return "reorged" }
func (Conflicted) EventName() string    { return "conflicted" }
func (CoinsGone) EventName() string     { return "coins_gone" }
func (NewBlock) EventName() string      { return "new_block" }
func (Tick) EventName() string          { return "tick" }

// Effect is something to do once the state that asks for it is stored; it may
// run again.
type Effect interface{ EffectName() string }

// The effects.
type (
	// Build makes and signs a version that pays at least MinFeeSat, at the rate
	// of the moment. It must not publish. Signing again is harmless: whatever is
	// published spends the same coins. Answers: Signed, TooSmall.
	Build struct {
		Plan      Plan   `json:"plan"`
		MinFeeSat ln.Sat `json:"min_fee_sat,omitempty"`
	}
	// Publish hands exactly these bytes to the node: Published or PublishFailed.
	Publish struct {
		RefundID string  `json:"refund_id"`
		OrderID  string  `json:"order_id"`
		TxID     ln.TxID `json:"txid"`
		Raw      []byte  `json:"raw"`
	}
	// NotifyOrder tells the order; it must take repeats.
	NotifyOrder struct {
		RefundID string  `json:"refund_id"`
		OrderID  string  `json:"order_id"`
		TxID     ln.TxID `json:"txid,omitzero"`
		// Over: nothing more happens to the refund.
		Over bool `json:"over,omitempty"`
		// Void: it returns nothing, and of its coins only Spent are spent.
		Void  bool          `json:"void,omitempty"`
		Spent []ln.Outpoint `json:"spent,omitempty"`
	}
)

func (Build) EffectName() string       { return "build" }
func (Publish) EffectName() string     { return "publish" }
func (NotifyOrder) EffectName() string { return "notify_order" }

// Machine is the state machine of one refund.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:   Name,
		Step:   Step,
		States: []State{Planned{}, Sending{}, Returned{}, Kept{}, Void{}},
		Events: []Event{
			Start{}, Signed{}, TooSmall{}, Published{}, PublishFailed{}, Confirmed{}, Reorged{}, Conflicted{}, CoinsGone{}, NewBlock{}, Tick{},
		},
		Effects:  []Effect{Build{}, Publish{}, NotifyOrder{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

func deadline(s State) (time.Time, Event, bool) {
	t := Tick{}
	live, ok := s.(Sending)
	if !ok || live.ConfirmedHeight > 0 {
		return time.Time{}, t, false
	}
	t.At = live.since().Add(bumpAfter)
	return t.At, t, true
}
