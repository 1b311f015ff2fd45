package collab

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Event is something that happened to a joint funding.
type Event interface{ EventName() string }

// The events. One that a state does not admit (fsm.ErrIllegal) came too late and
// changes nothing; one that contradicts what is stored is another error.
type (
	// Start begins; it may be repeated after a crash.
	Start struct{ lsp.Moment }
	// InputsChecked: the chain has every coin as the wallet described it.
	InputsChecked struct{ lsp.Moment }
	// InputsRefused: one of them is not there, is young, or holds something else.
	InputsRefused struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// CoinsLeased: our coins are leased, and both shares are computed.
	CoinsLeased struct {
		lsp.Moment
		Ours
	}
	// CoinsRefused: the gateway's wallet cannot pay its part, or the wallet's
	// coins cannot pay theirs.
	CoinsRefused struct {
		lsp.Moment
		Short bool   `json:"short,omitempty"`
		Text  string `json:"text"`
	}
	// FundingBuilt: lnd named the output and the transaction was built.
	// psbt_verify has NOT been called.
	FundingBuilt struct {
		lsp.Moment
		funding.JointTx
	}
	// NegotiationEnded: the peer refused, went away, or lnd did; Rejected says
	// that it was the wallet's own word.
	NegotiationEnded struct {
		lsp.Moment
		Rejected bool   `json:"rejected,omitempty"`
		Text     string `json:"text"`
	}
	// FundingPending: both commitments are exchanged.
	FundingPending struct {
		lsp.Moment
		Channel ln.Outpoint `json:"channel"`
	}
	// WalletSigned: Half is the agreed transaction with the wallet's valid
	// signatures in it.
	WalletSigned struct {
		lsp.Moment
		Half []byte `json:"half"`
	}
	// FundingSigned: Raw is complete. It has not been published.
	FundingSigned struct {
		lsp.Moment
		TxID ln.TxID `json:"txid"`
		Raw  []byte  `json:"raw"`
	}
	// SigningFailed: our wallet did not sign.
	SigningFailed struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// FundingPublished: the node took it for the network, or knows it already.
	FundingPublished struct{ lsp.Moment }
	// PublishFailed: the network refused it, for now.
	PublishFailed struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// InputSpent: a transaction in a block spends an input.
	InputSpent struct {
		lsp.Moment
		Spend Spend `json:"spend"`
	}
	// SpendReorged: no transaction in a block spends this input, as far as is
	// known now.
	SpendReorged struct {
		lsp.Moment
		Input ln.Outpoint `json:"input"`
		// By and SpendHeight name the spend that is gone, where another may have been
		// told meanwhile.
		By          ln.TxID `json:"by,omitzero"`
		SpendHeight uint32  `json:"spend_height,omitempty"`
	}
	// NewBlock is a tip, with the rate that a transaction should pay now. Of what was
	// told of spends that are buried by it the chain still has everything.
	NewBlock struct {
		lsp.Moment
		TargetRate ln.FeeRateSatPerKW `json:"target_rate_sat_per_kw,omitempty"`
	}
	// Tick is the deadline.
	Tick struct{ lsp.Moment }
	// Abort gives it up while no signature of ours has left.
	Abort struct {
		lsp.Moment
		ByOperator bool   `json:"by_operator,omitempty"`
		Text       string `json:"text,omitempty"`
	}
)

// EventName is the stable text under which the event is stored.
func (Start) EventName() string            { return "start" }
func (InputsChecked) EventName() string    { return "inputs_checked" }
func (InputsRefused) EventName() string    { return "inputs_refused" }
func (CoinsLeased) EventName() string      { return "coins_leased" }
func (CoinsRefused) EventName() string     { return "coins_refused" }
func (FundingBuilt) EventName() string     { return "funding_built" }
func (NegotiationEnded) EventName() string { return "negotiation_ended" }
func (FundingPending) EventName() string   { return "funding_pending" }
func (WalletSigned) EventName() string     { return "wallet_signed" }
func (FundingSigned) EventName() string    { return "funding_signed" }
func (SigningFailed) EventName() string    { return "signing_failed" }
func (FundingPublished) EventName() string { return "funding_published" }
func (PublishFailed) EventName() string    { return "publish_failed" }
func (InputSpent) EventName() string       { return "input_spent" }
func (SpendReorged) EventName() string     { return "spend_reorged" }
func (NewBlock) EventName() string         { return "new_block" }
func (Tick) EventName() string             { return "tick" }
func (Abort) EventName() string            { return "abort" }
