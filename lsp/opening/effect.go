package opening

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Effect is something to do once the state that asks for it is stored. Every
// effect may run more than once; each says what makes that harmless.
type Effect interface{ EffectName() string }

// The effects.
type (
	// LeaseCoins chooses and leases coins for the capacity at the rate. Leases
	// carry LeaseID: running again first takes the coins already leased under
	// it. Answer: CoinsLeased or CoinsRefused.
	LeaseCoins struct {
		OpeningID   string             `json:"opening_id"`
		LeaseID     [32]byte           `json:"lease_id"`
		CapacitySat ln.Sat             `json:"capacity_sat"`
		FeeRate     ln.FeeRateSatPerKW `json:"fee_rate_sat_per_kw"`
		MaxFeeSat   ln.Sat             `json:"max_fee_sat,omitempty"`
	}
	// Negotiate cancels the shims named, calls OpenChannel with the PSBT shim
	// PendingID, waits for the funding output, builds the unsigned transaction
	// from the selection and answers FundingBuilt, holding the stream. A
	// second run with a stream for PendingID alive in this process does
	// nothing; without one, answer NegotiationLost. Answers also PeerRejected,
	// NegotiationFailed, PeerGone. For a Plan with a Batch nothing is built: the
	// answer is OutputNamed.
	Negotiate struct {
		Plan         Plan               `json:"plan"`
		PendingID    ln.PendingChanID   `json:"pending_id"`
		CancelShims  []ln.PendingChanID `json:"cancel_shims,omitempty"`
		Selection    funding.Selection  `json:"selection"`
		ChangeScript []byte             `json:"change_script,omitempty"`
	}
	// Verify calls psbt_verify (skip_finalize) on the live negotiation and
	// waits for chan_pending: FundingPending. Without the live stream of this
	// PendingID it does not call lnd and answers NegotiationLost. With SignAhead the
	// wallet may sign meanwhile: Sign is next, and nobody sees it before that.
	Verify struct {
		OpeningID string           `json:"opening_id"`
		PendingID ln.PendingChanID `json:"pending_id"`
		Psbt      []byte           `json:"psbt"`
		Outpoint  ln.Outpoint      `json:"outpoint"`
		SignAhead bool             `json:"sign_ahead,omitempty"`
	}
	// AskNode cancels the shim (its "unknown" is fine), then looks for the
	// outpoint in PendingChannels and ListChannels: NodeAnswered. Read-only
	// apart from the cancel.
	AskNode struct {
		OpeningID string           `json:"opening_id"`
		PendingID ln.PendingChanID `json:"pending_id"`
		Outpoint  ln.Outpoint      `json:"outpoint"`
	}
	// Sign has the wallet sign and finalize the stored PSBT: FundingSigned or
	// SigningFailed. It must not publish. Signing again is harmless: the txid
	// does not cover witnesses.
	Sign struct {
		OpeningID string      `json:"opening_id"`
		Psbt      []byte      `json:"psbt"`
		Outpoint  ln.Outpoint `json:"outpoint"`
	}
	// Publish hands exactly these bytes to the node: FundingPublished (also
	// when it knows them already) or PublishFailed.
	Publish struct {
		OpeningID string `json:"opening_id"`
		Raw       []byte `json:"raw"`
		Label     string `json:"label"`
	}
	// WatchChain registers for confirmation and reorg of the transaction and
	// for conflicting spends of its inputs, once per process. SinceHeight is
	// where to look from. Answers: FundingConfirmed, FundingReorged,
	// FundingConflicted, any number of times.
	WatchChain struct {
		OpeningID   string        `json:"opening_id"`
		Outpoint    ln.Outpoint   `json:"outpoint"`
		Inputs      []ln.Outpoint `json:"inputs"`
		SinceHeight uint32        `json:"since_height"`
	}
	// AskUse looks what is on a channel that nothing funds: ChannelUse. With
	// Emptying it waits a moment for HTLCs that are about to go.
	AskUse struct {
		OpeningID string      `json:"opening_id"`
		Outpoint  ln.Outpoint `json:"outpoint"`
		Emptying  bool        `json:"emptying,omitempty"`
	}
	// Forget makes lnd forget a channel that nothing funds, if nothing is on it:
	// ChannelUse, with Last.
	Forget struct {
		OpeningID string      `json:"opening_id"`
		Outpoint  ln.Outpoint `json:"outpoint"`
	}
	// AbandonChannel makes lnd forget a channel that can never exist: cancel
	// the shims, AbandonChannel(i_know_what_i_am_doing) where lnd lists the
	// outpoint. Only ever asked for while no signed transaction was stored.
	// "Not found" is success.
	AbandonChannel struct {
		OpeningID   string             `json:"opening_id"`
		CancelShims []ln.PendingChanID `json:"cancel_shims,omitempty"`
		Outpoint    ln.Outpoint        `json:"outpoint,omitzero"`
	}
	// ReleaseCoins gives back every lease under LeaseID; none left is success.
	ReleaseCoins struct {
		OpeningID string   `json:"opening_id"`
		LeaseID   [32]byte `json:"lease_id"`
	}
	// BumpFee lifts the transaction, and the unconfirmed ones before it, to
	// PackageRate by a child of its change or of the last change that spends that
	// (cpfp.Ask, lnd's BumpFee). lnd replaces an earlier
	// child, so asking again at the same rate changes nothing.
	// The change is kept under LeaseID until there is a child.
	BumpFee struct {
		OpeningID   string             `json:"opening_id"`
		LeaseID     [32]byte           `json:"lease_id"`
		Change      ln.Outpoint        `json:"change"`
		PackageRate ln.FeeRateSatPerKW `json:"package_rate_sat_per_kw"`
	}
	// TellBatch tells the batch how its channel stands; it must take repeats. A batch
	// that is over, or has dropped the channel, has it abandoned.
	TellBatch struct {
		OpeningID string      `json:"opening_id"`
		Batch     string      `json:"batch"`
		News      BatchNews   `json:"news"`
		Script    []byte      `json:"script,omitempty"`
		Outpoint  ln.Outpoint `json:"outpoint,omitzero"`
		Reason    lsp.Reason  `json:"reason,omitzero"`
	}
	// NotifyOwner tells the payment's machine; it must take repeats.
	NotifyOwner struct {
		OpeningID string      `json:"opening_id"`
		Owner     string      `json:"owner"`
		Notice    Notice      `json:"notice"`
		Outpoint  ln.Outpoint `json:"outpoint,omitzero"`
		ChanID    ln.SCID     `json:"chan_id,omitempty"`
		Reason    lsp.Reason  `json:"reason,omitzero"`
		// Temporary qualifies NoticeFailed.
		Temporary bool `json:"temporary,omitempty"`
		// Spared qualifies NoticeFailed: the open ended for the sake of others in its
		// batch, and its owner has lost no try.
		Spared bool `json:"spared,omitempty"`
		// Withheld qualifies NoticeUsable: nothing funds the channel until the owner
		// says Release.
		Withheld bool `json:"withheld,omitempty"`
	}
)

// BatchNews is what a batch is told of one of its channels.
type BatchNews string

// The news: lnd named the channel's output; both sides hold the other's commitment
// signature; there will be no channel.
const (
	BatchOutput  BatchNews = "output"
	BatchPending BatchNews = "pending"
	BatchLeft    BatchNews = "left"
)

// Notice is what an owner is told.
type Notice string

// The notices. Signed means that the channel will exist whatever happens now;
// Published, that the network has its transaction: only owners that asked for
// it (Plan.TellPublished) hear of that.
const (
	NoticeSigned     Notice = "signed"
	NoticePublished  Notice = "published"
	NoticeUsable     Notice = "usable"
	NoticeConfirmed  Notice = "confirmed"
	NoticeReorged    Notice = "reorged"
	NoticeRejected   Notice = "rejected"
	NoticeFailed     Notice = "failed"
	NoticeConflicted Notice = "conflicted"
)

func (LeaseCoins) EffectName() string     { return "lease_coins" }
func (Negotiate) EffectName() string      { return "negotiate" }
func (Verify) EffectName() string         { return "verify" }
func (AskNode) EffectName() string        { return "ask_node" }
func (Sign) EffectName() string           { return "sign" }
func (Publish) EffectName() string        { return "publish" }
func (WatchChain) EffectName() string     { return "watch_chain" }
func (AskUse) EffectName() string         { return "ask_use" }
func (Forget) EffectName() string         { return "forget" }
func (AbandonChannel) EffectName() string { return "abandon_channel" }
func (ReleaseCoins) EffectName() string   { return "release_coins" }
func (BumpFee) EffectName() string        { return "bump_fee" }
func (TellBatch) EffectName() string      { return "tell_batch" }
func (NotifyOwner) EffectName() string    { return "notify_owner" }
