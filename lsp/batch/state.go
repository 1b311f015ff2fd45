package batch

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// Member is one order's channel.
type Member struct {
	OpeningID   string    `json:"opening_id"`
	OrderID     string    `json:"order_id"`
	Client      ln.PubKey `json:"client"`
	CapacitySat ln.Sat    `json:"capacity_sat"`
}

// Plan is who shares the transaction, in the order in which peers get it. It never
// changes; no client is in it twice: a stock lnd admits one pending channel a peer.
type Plan struct {
	ID      string             `json:"id"`
	Members []Member           `json:"members"`
	FeeRate ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
	// MaxFeeSat is the most that the transaction may pay; 0 is no bound.
	MaxFeeSat ln.Sat `json:"max_fee_sat,omitempty"`
	// GatherUntil is how long a peer may take to accept its channel, AnswerFor how
	// long to sign its commitment.
	GatherUntil time.Time     `json:"gather_until"`
	AnswerFor   time.Duration `json:"answer_for"`
}

// LeaseID is the id under which the coins are leased.
func (p Plan) LeaseID() [32]byte { return opening.BatchLeaseID(p.ID) }

// Output is a channel whose funding output lnd has named.
type Output struct {
	Member
	Script []byte `json:"script"`
}

// Channel is a channel of the transaction that was built.
type Channel struct {
	Member
	Outpoint ln.Outpoint `json:"outpoint"`
	// FeeSat is its part of the fee; the parts make the whole.
	FeeSat ln.Sat `json:"fee_sat"`
}

// Tx is the transaction before anyone signed it.
type Tx struct {
	Selection    funding.Selection `json:"selection"`
	ChangeScript []byte            `json:"change_script,omitempty"`
	Psbt         []byte            `json:"psbt"`
	TxID         ln.TxID           `json:"txid"`
	Change       ln.Outpoint       `json:"change,omitzero"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states.
type (
	// Gathering: the peers are asked for their channels. No coin is leased.
	Gathering struct {
		Plan
		Outputs []Output `json:"outputs,omitempty"`
		// Left are the opens that are not in it any more.
		Left []string `json:"left,omitempty"`
	}
	// Leasing: all outputs are known; the coins are being chosen.
	Leasing struct {
		Plan
		Outputs []Output `json:"outputs"`
	}
	// Handing: the transaction is stored. The first Pending of its channels have
	// their peer's signature; the next one's peer is being asked for it.
	Handing struct {
		Plan
		Channels []Channel `json:"channels"`
		Tx
		Pending int       `json:"pending"`
		Until   time.Time `json:"until"`
	}
	// Signing: every peer's signature is there; the wallet signs.
	Signing struct {
		Plan
		Channels []Channel `json:"channels"`
		Tx
	}
	// Signed: final; each of the channels holds the signed transaction.
	Signed struct {
		Plan
		Channels []Channel `json:"channels"`
		Tx
	}
	// Failed: final; nothing was signed for anyone to see, and the coins are free.
	Failed struct {
		Plan
		Reason lsp.Reason `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Gathering) StateName() string { return "gathering" }
func (Leasing) StateName() string   { return "leasing" }
func (Handing) StateName() string   { return "handing" }
func (Signing) StateName() string   { return "signing" }
func (Signed) StateName() string    { return "signed" }
func (Failed) StateName() string    { return "failed" }

// PlanOf is what the state's batch set out to do.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Signed, Failed:
		return true
	}
	return false
}

// Wants says that the batch still waits for this open to come into it.
func Wants(s State, openingID string) bool {
	g, ok := s.(Gathering)
	if !ok || g.has(openingID) {
		return false
	}
	for _, m := range g.waitsFor() {
		if m.OpeningID == openingID {
			return true
		}
	}
	return false
}

// TxOf is the transaction behind a state, once it is built, with its channels.
func TxOf(s State) (Tx, []Channel, bool) {
	switch s := s.(type) {
	case Handing:
		return s.Tx, s.Channels, true
	case Signing:
		return s.Tx, s.Channels, true
	case Signed:
		return s.Tx, s.Channels, true
	}
	return Tx{}, nil, false
}

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Gathering:
		return lsp.Because(lsp.ReasonNone, "%d of %d nodes have accepted their channel", len(s.Outputs), len(s.Members)-len(s.Left))
	case Leasing:
		return lsp.Because(lsp.ReasonNone, "coins for %d channels are being chosen", len(s.Outputs))
	case Handing:
		return lsp.Because(lsp.ReasonNone, "%d of %d nodes have signed their commitment", s.Pending, len(s.Channels))
	case Signing:
		return lsp.Because(lsp.ReasonNone, "all nodes have signed; the wallet signs")
	case Signed:
		return lsp.Because(lsp.ReasonNone, "one transaction funds %d channels", len(s.Channels))
	case Failed:
		return s.Reason
	}
	return lsp.Reason{}
}
