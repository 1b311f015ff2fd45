package batch

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// Name is the machine's name in the database.
const Name = "lsp/batch"

// Event is something that happened to a batch.
type Event interface{ EventName() string }

// The events. One that a state does not admit (fsm.ErrIllegal) changes nothing.
type (
	// Start begins a batch; the transaction that stores it tells the orders.
	Start struct{ lsp.Moment }
	// OutputNamed: lnd named the funding output of this open's channel.
	OutputNamed struct {
		lsp.Moment
		OpeningID string `json:"opening_id"`
		Script    []byte `json:"script"`
	}
	// MemberPending: both sides of this open's channel hold the other's commitment
	// signature.
	MemberPending struct {
		lsp.Moment
		OpeningID string      `json:"opening_id"`
		Outpoint  ln.Outpoint `json:"outpoint"`
	}
	// MemberLeft: this open made no channel and never will, or was not begun.
	MemberLeft struct {
		lsp.Moment
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
	}
	// CoinsLeased answers LeaseCoins.
	CoinsLeased struct {
		lsp.Moment
		Selection    funding.Selection `json:"selection"`
		ChangeScript []byte            `json:"change_script"`
	}
	// CoinsRefused: the wallet cannot fund all of them, or the transaction would pay
	// more than it may.
	CoinsRefused struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
	}
	// Committed: the signed transaction is stored with each of the channels.
	Committed struct{ lsp.Moment }
	// CommitRefused: it is stored with none of them. Spared says that a channel is
	// the cause, which has been told; otherwise it is the wallet.
	CommitRefused struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
		Spared bool       `json:"spared,omitempty"`
	}
	// Tick: the time is Moment.At.
	Tick struct{ lsp.Moment }
)

func (Start) EventName() string         { return "start" }
func (OutputNamed) EventName() string   { return "output_named" }
func (MemberPending) EventName() string { return "member_pending" }
func (MemberLeft) EventName() string    { return "member_left" }
func (CoinsLeased) EventName() string   { return "coins_leased" }
func (CoinsRefused) EventName() string  { return "coins_refused" }
func (Committed) EventName() string     { return "committed" }
func (CommitRefused) EventName() string { return "commit_refused" }
func (Tick) EventName() string          { return "tick" }

// Effect is something to do once the state that asks for it is stored; it may run
// again. Effects of one batch run in the order in which they were asked for.
type Effect interface{ EffectName() string }

// The effects.
type (
	// LeaseCoins chooses and leases coins for so many channels. Leases carry LeaseID:
	// running again first lets go of what was leased under it and never built upon.
	// Answer: CoinsLeased or CoinsRefused.
	LeaseCoins struct {
		BatchID    string             `json:"batch_id"`
		LeaseID    [32]byte           `json:"lease_id"`
		FundingSat ln.Sat             `json:"funding_sat"`
		Channels   int                `json:"channels"`
		FeeRate    ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
		MaxFeeSat  ln.Sat             `json:"max_fee_sat,omitempty"`
	}
	// Hand gives one open the transaction, for its peer to sign a commitment. An open
	// that has it already takes no notice; one that has ended: MemberLeft.
	Hand struct {
		BatchID   string           `json:"batch_id"`
		OpeningID string           `json:"opening_id"`
		Coins     opening.Coins    `json:"coins"`
		Unsigned  opening.Unsigned `json:"unsigned"`
	}
	// Commit has the wallet sign and stores the signed transaction with every one of
	// the opens in one transaction of the database. It must not publish. Run again
	// after that it finds it done. Answer: Committed or CommitRefused.
	Commit struct {
		BatchID  string    `json:"batch_id"`
		Channels []Channel `json:"channels"`
		Psbt     []byte    `json:"psbt"`
		TxID     ln.TxID   `json:"txid"`
	}
	// Dismiss gives up these opens. One that is not there yet is refused when it
	// begins; one that has ended takes no notice.
	Dismiss struct {
		BatchID    string     `json:"batch_id"`
		OpeningIDs []string   `json:"opening_ids"`
		Reason     lsp.Reason `json:"reason"`
		Spared     bool       `json:"spared,omitempty"`
	}
	// ReleaseCoins gives back every lease under LeaseID; none left is success.
	ReleaseCoins struct {
		BatchID string   `json:"batch_id"`
		LeaseID [32]byte `json:"lease_id"`
	}
)

func (LeaseCoins) EffectName() string   { return "lease_coins" }
func (Hand) EffectName() string         { return "hand" }
func (Commit) EffectName() string       { return "commit" }
func (Dismiss) EffectName() string      { return "dismiss" }
func (ReleaseCoins) EffectName() string { return "release_coins" }

// Machine is the state machine of one batch.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:   Name,
		Step:   Step,
		States: []State{Gathering{}, Leasing{}, Handing{}, Signing{}, Signed{}, Failed{}},
		Events: []Event{
			Start{}, OutputNamed{}, MemberPending{}, MemberLeft{}, CoinsLeased{}, CoinsRefused{}, Committed{}, CommitRefused{}, Tick{},
		},
		Effects:  []Effect{LeaseCoins{}, Hand{}, Commit{}, Dismiss{}, ReleaseCoins{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// deadline bounds the waiting for peers. What waits for our own node goes on: its
// channels' own deadlines end it.
func deadline(s State) (time.Time, Event, bool) {
	var t Tick
	switch s := s.(type) {
	case Gathering:
		t.At = s.GatherUntil
	case Handing:
		t.At = s.Until
	}
	return t.At, t, !t.At.IsZero()
}
