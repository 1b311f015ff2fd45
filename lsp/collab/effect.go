package collab

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Effect is something to do once the state that asks for it is stored. Every
// effect may run more than once; each says what makes that harmless.
type Effect interface{ EffectName() string }

// The effects.
type (
	// CheckInputs reads the wallet's coins in their blocks: InputsChecked or
	// InputsRefused. It only reads.
	CheckInputs struct {
		ID            string  `json:"id"`
		Inputs        []Input `json:"inputs"`
		MinInputConfs uint32  `json:"min_input_confs"`
	}
	// LeaseCoins chooses and leases ours and divides the fee: CoinsLeased or
	// CoinsRefused. It first lets go of what it leased before, while nothing is
	// built upon that.
	LeaseCoins struct {
		Plan Plan `json:"plan"`
	}
	// Negotiate opens the channel with the shim, builds the transaction on the
	// output that lnd names, and holds the stream: FundingBuilt or
	// NegotiationEnded. With a stream of this id alive it does nothing.
	Negotiate struct {
		Plan Plan `json:"plan"`
		Ours
	}
	// Verify calls psbt_verify (skip_finalize) on the live negotiation and waits
	// for the commitments: FundingPending or NegotiationEnded. Without the live
	// stream it calls nothing.
	Verify struct {
		ID        string           `json:"id"`
		PendingID ln.PendingChanID `json:"pending_id"`
		Psbt      []byte           `json:"psbt"`
	}
	// Sign has our wallet complete the transaction: FundingSigned or
	// SigningFailed. It publishes nothing; the id does not cover witnesses.
	Sign struct {
		ID   string  `json:"id"`
		TxID ln.TxID `json:"txid"`
		Half []byte  `json:"half"`
	}
	// Publish hands the stored bytes to the network; a known transaction is
	// success.
	Publish struct {
		ID    string `json:"id"`
		Raw   []byte `json:"raw"`
		Label string `json:"label"`
	}
	// WatchInputs follows what spends these coins, until nothing can undo it or
	// the open is over. Watching twice is watching once.
	WatchInputs struct {
		ID     string  `json:"id"`
		Inputs []Input `json:"inputs"`
	}
	// AbandonChannel cancels the negotiation and makes lnd forget the channel, if
	// it knows one. Being gone is success; one with HTLCs is tried again. Signed
	// says that a complete transaction existed, which a buried spend voids.
	AbandonChannel struct {
		ID        string           `json:"id"`
		PendingID ln.PendingChanID `json:"pending_id"`
		Channel   ln.Outpoint      `json:"channel,omitzero"`
		Signed    bool             `json:"signed,omitempty"`
	}
	// ForgetTx takes a transaction that can never confirm out of lnd's wallet, which
	// takes it for on its way, and our coins for spent. One that is not there is
	// success.
	ForgetTx struct {
		ID   string  `json:"id"`
		TxID ln.TxID `json:"txid"`
	}
	// ReleaseCoins lets go of what is leased under the id.
	ReleaseCoins struct {
		ID      string   `json:"id"`
		LeaseID [32]byte `json:"lease_id"`
	}
	// BumpFee has a child of our change lift parent and child to the rate. lnd
	// replaces a child of its own.
	// The change is kept under LeaseID until there is a child.
	BumpFee struct {
		ID           string             `json:"id"`
		LeaseID      [32]byte           `json:"lease_id"`
		Change       ln.Outpoint        `json:"change"`
		ChangeSat    ln.Sat             `json:"change_sat"`
		ChangeScript []byte             `json:"change_script"`
		ParentFee    ln.Sat             `json:"parent_fee"`
		ParentWU     uint64             `json:"parent_wu"`
		PackageRate  ln.FeeRateSatPerKW `json:"package_rate"`
	}
)

// EffectName is the stable text under which the effect is stored.
func (CheckInputs) EffectName() string    { return "check_inputs" }
func (LeaseCoins) EffectName() string     { return "lease_coins" }
func (Negotiate) EffectName() string      { return "negotiate" }
func (Verify) EffectName() string         { return "verify" }
func (Sign) EffectName() string           { return "sign" }
func (Publish) EffectName() string        { return "publish" }
func (WatchInputs) EffectName() string    { return "watch_inputs" }
func (AbandonChannel) EffectName() string { return "abandon_channel" }
func (ReleaseCoins) EffectName() string   { return "release_coins" }
func (BumpFee) EffectName() string        { return "bump_fee" }
func (ForgetTx) EffectName() string       { return "forget_tx" }

// Parties are both sides of the transaction.
func Parties(p Plan, o Ours) (gateway, wallet funding.Party) { return o.Gateway, p.wallet() }
