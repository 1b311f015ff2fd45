package opening

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Event is something that happened to an open.
type Event interface{ EventName() string }

// Presence is what lnd says of a channel point when asked (PendingChannels and
// ListChannels together, both after any shim was cancelled).
type Presence string

// The answers.
const (
	PresenceAbsent  Presence = "absent"
	PresencePending Presence = "pending"
	PresenceActive  Presence = "active"
)

// The events. One that a state does not admit (fsm.ErrIllegal) changes nothing:
// whoever reports the world may take that for "too late". One that contradicts
// what is stored is another error.
type (
	// Start begins a Planned open; it may be repeated after a crash.
	Start struct{ lsp.Moment }
	// CoinsLeased: LeaseCoins succeeded with exactly these inputs.
	CoinsLeased struct {
		lsp.Moment
		Selection    funding.Selection `json:"selection"`
		ChangeScript []byte            `json:"change_script"`
	}
	// CoinsRefused: the wallet cannot fund it; MissingSat says by how much. Or
	// it can, but the transaction would pay FeeSat, more than the plan allows.
	CoinsRefused struct {
		lsp.Moment
		MissingSat ln.Sat `json:"missing_sat"`
		Text       string `json:"text"`
		FeeSat     ln.Sat `json:"fee_sat,omitempty"`
	}
	// FundingBuilt: lnd named the funding output of the negotiation and the
	// unsigned transaction was built. psbt_verify has NOT been called.
	FundingBuilt struct {
		lsp.Moment
		PendingID ln.PendingChanID `json:"pending_id"`
		Unsigned
	}
	// OutputNamed: lnd named the funding output of a channel that shares its
	// transaction. psbt_verify has NOT been called.
	OutputNamed struct {
		lsp.Moment
		PendingID ln.PendingChanID `json:"pending_id"`
		Script    []byte           `json:"script"`
	}
	// FundingShared: the batch has leased the coins and built the transaction, with
	// this channel's output in it.
	FundingShared struct {
		lsp.Moment
		Coins
		Unsigned
	}
	// PeerRejected: the peer answered the open with an error. NotNow says that its words
	// decide nothing: it may be behind with its chain for a moment.
	PeerRejected struct {
		lsp.Moment
		PendingID ln.PendingChanID `json:"pending_id"`
		Text      string           `json:"text"`
		NotNow    bool             `json:"not_now,omitempty"`
	}
	// NegotiationFailed: lnd ended the negotiation itself, definitely.
	NegotiationFailed struct {
		lsp.Moment
		PendingID ln.PendingChanID `json:"pending_id"`
		Text      string           `json:"text"`
	}
	// NegotiationLost: the stream to lnd broke, or this process restarted; what
	// lnd did is not known.
	NegotiationLost struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// PeerGone: the peer disconnected.
	PeerGone struct{ lsp.Moment }
	// FundingPending: lnd holds the peer's commitment signature (chan_pending).
	FundingPending struct {
		lsp.Moment
		Outpoint ln.Outpoint `json:"outpoint"`
	}
	// NodeAnswered answers AskNode.
	NodeAnswered struct {
		lsp.Moment
		Presence Presence `json:"presence"`
		ChanID   ln.SCID  `json:"chan_id,omitempty"`
	}
	// FundingSigned: the final transaction; its txid equals the outpoint's.
	FundingSigned struct {
		lsp.Moment
		TxID ln.TxID `json:"txid"`
		Raw  []byte  `json:"raw"`
	}
	// SigningFailed: the wallet would not sign.
	SigningFailed struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// FundingPublished: the node has the transaction (already known counts).
	FundingPublished struct{ lsp.Moment }
	// PublishFailed: the node refused it for now.
	PublishFailed struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// ChannelActive: HTLCs may flow. It may come before FundingSigned.
	ChannelActive struct {
		lsp.Moment
		ChanID ln.SCID `json:"chan_id"`
	}
	// ChannelInactive: the peer went away; the channel stays.
	ChannelInactive struct{ lsp.Moment }
	// FundingConfirmed: the block at ConfirmedHeight holds the transaction.
	FundingConfirmed struct {
		lsp.Moment
		ConfirmedHeight uint32 `json:"confirmed_height"`
	}
	// FundingReorged: the block that held it left the best chain.
	FundingReorged struct{ lsp.Moment }
	// FundingConflicted: a block at SpenderHeight spends an input otherwise.
	FundingConflicted struct {
		lsp.Moment
		Spender       ln.TxID `json:"spender"`
		SpenderHeight uint32  `json:"spender_height"`
	}
	// NewBlock: the chain's tip is Moment.Height. TargetRate is what the fee
	// source asks for now (0: unknown or stale, then nothing is bumped).
	NewBlock struct {
		lsp.Moment
		TargetRate ln.FeeRateSatPerKW `json:"target_rate_sat_per_kw,omitempty"`
	}
	// Tick: the time is Moment.At; ends an open past its deadline.
	Tick struct{ lsp.Moment }
	// Abandon: the owner or an operator wants it no more. Refused with
	// ErrTooLate once signed.
	Abandon struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
		// Spared: another channel of the batch is the cause.
		Spared bool `json:"spared,omitempty"`
	}
	// Release: the payment over a withheld channel was claimed; it is funded now.
	Release struct{ lsp.Moment }
	// ChannelUse answers AskUse, and Forget if Last.
	ChannelUse struct {
		lsp.Moment
		// Claimed says that the client has a balance that we did not push.
		Claimed bool `json:"claimed,omitempty"`
		// Htlcs are on the channel; the first of ours to expire does so at Expiry.
		Htlcs  int    `json:"htlcs,omitempty"`
		Expiry uint32 `json:"expiry,omitempty"`
		Last   bool   `json:"last,omitempty"`
		// Forgotten says that nothing was on it, and that lnd does not have it any more.
		Forgotten bool `json:"forgotten,omitempty"`
	}
)

func (Start) EventName() string             { return "start" }
func (CoinsLeased) EventName() string       { return "coins_leased" }
func (CoinsRefused) EventName() string      { return "coins_refused" }
func (FundingBuilt) EventName() string      { return "funding_built" }
func (OutputNamed) EventName() string       { return "output_named" }
func (FundingShared) EventName() string     { return "funding_shared" }
func (PeerRejected) EventName() string      { return "peer_rejected" }
func (NegotiationFailed) EventName() string { return "negotiation_failed" }
func (NegotiationLost) EventName() string   { return "negotiation_lost" }
func (PeerGone) EventName() string          { return "peer_gone" }
func (FundingPending) EventName() string    { return "funding_pending" }
func (NodeAnswered) EventName() string      { return "node_answered" }
func (FundingSigned) EventName() string     { return "funding_signed" }
func (SigningFailed) EventName() string     { return "signing_failed" }
func (FundingPublished) EventName() string  { return "funding_published" }
func (PublishFailed) EventName() string     { return "publish_failed" }
func (ChannelActive) EventName() string     { return "channel_active" }
func (ChannelInactive) EventName() string   { return "channel_inactive" }
func (FundingConfirmed) EventName() string  { return "funding_confirmed" }
func (FundingReorged) EventName() string    { return "funding_reorged" }
func (FundingConflicted) EventName() string { return "funding_conflicted" }
func (NewBlock) EventName() string          { return "new_block" }
func (Tick) EventName() string              { return "tick" }
func (Abandon) EventName() string           { return "abandon" }
func (Release) EventName() string           { return "release" }
func (ChannelUse) EventName() string        { return "channel_use" }
