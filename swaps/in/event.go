package in

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Event is one of the events below.
type Event interface{ EventName() string }

// The events.
type (
	// Start begins the swap.
	Start struct{ swaps.Moment }
	// ProbePassed and ProbeFailed answer Probe.
	ProbePassed struct{ swaps.Moment }
	ProbeFailed struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// OutputFound: a transaction in a block pays the contract. Count are its
	// outputs that do; the others describe the first.
	OutputFound struct {
		swaps.Moment
		Outpoint        ln.Outpoint `json:"outpoint"`
		ValueSat        ln.Sat      `json:"value_sat"`
		Count           int         `json:"count"`
		ConfirmedHeight uint32      `json:"confirmed_height"`
	}
	// OutputReorged: no block holds it any more. Unsure: nobody followed it for a
	// while, and it is looked for anew.
	OutputReorged struct {
		swaps.Moment
		Outpoint ln.Outpoint `json:"outpoint,omitzero"`
		Unsure   bool        `json:"unsure,omitempty"`
	}
	// NewBlock carries the tip, what the chain asks now, how much more may be exposed
	// to a short reorg, and whether other swaps may want to claim soon.
	NewBlock struct {
		swaps.Moment
		TargetRate ln.FeeRateSatPerKW `json:"target_rate_sat_per_kw,omitempty"`
		FreeSat    ln.Sat             `json:"free_sat,omitempty"`
		Company    bool               `json:"company,omitempty"`
	}
	// ChannelUsable and ChannelNotOpened answer OpenChannel. Begun says that an open
	// failed, rather than that none could be begun now.
	ChannelUsable struct {
		swaps.Moment
		ChanID ln.SCID `json:"chan_id"`
	}
	ChannelNotOpened struct {
		swaps.Moment
		Text  string `json:"text"`
		Begun bool   `json:"begun,omitempty"`
	}
	// PaymentSucceeded, PaymentFailed (terminal, nothing in flight),
	// PaymentCutOff (nobody knows) and PaymentNotSent answer Pay and TrackPayment.
	PaymentSucceeded struct {
		swaps.Moment
		Preimage swaps.Secret `json:"preimage"`
		FeeMsat  ln.Msat      `json:"fee_msat,omitempty"`
	}
	PaymentFailed struct {
		swaps.Moment
		Text string `json:"text"`
		// Refused: by the client's own wallet, which will not take it later either.
		Refused bool `json:"refused,omitempty"`
	}
	PaymentCutOff struct {
		swaps.Moment
		Text string `json:"text"`
	}
	PaymentNotSent struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// PaymentMissing answers LookForPayment: the node calls the payment in flight,
	// and it can succeed no more.
	PaymentMissing struct{ swaps.Moment }
	// KeyPushed: the client gave its internal private key, which was checked.
	KeyPushed struct {
		swaps.Moment
		Key swaps.Secret `json:"key"`
	}
	// ClaimSigned and ClaimRefused answer SignClaim.
	ClaimSigned struct {
		swaps.Moment
		Claim Claim `json:"claim"`
	}
	ClaimRefused struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// OutputSpent, SpendReorged: the client's output in the best chain.
	OutputSpent struct {
		swaps.Moment
		Outpoint    ln.Outpoint `json:"outpoint"`
		How         htlc.Spend  `json:"how"`
		By          ln.TxID     `json:"by,omitzero"`
		SpentHeight uint32      `json:"spent_height"`
		FeeSat      ln.Sat      `json:"fee_sat,omitempty"`
	}
	SpendReorged struct {
		swaps.Moment
		Outpoint ln.Outpoint `json:"outpoint"`
	}
	// Tick is the time-out of the probe, and of waiting for the client's key.
	Tick struct{ swaps.Moment }
)

// EventName is the stable text under which the event is stored.
func (Start) EventName() string            { return "start" }
func (ProbePassed) EventName() string      { return "probe_passed" }
func (ProbeFailed) EventName() string      { return "probe_failed" }
func (OutputFound) EventName() string      { return "output_found" }
func (OutputReorged) EventName() string    { return "output_reorged" }
func (NewBlock) EventName() string         { return "new_block" }
func (ChannelUsable) EventName() string    { return "channel_usable" }
func (ChannelNotOpened) EventName() string { return "channel_not_opened" }
func (PaymentSucceeded) EventName() string { return "payment_succeeded" }
func (PaymentFailed) EventName() string    { return "payment_failed" }
func (PaymentCutOff) EventName() string    { return "payment_cut_off" }
func (PaymentNotSent) EventName() string   { return "payment_not_sent" }
func (PaymentMissing) EventName() string   { return "payment_missing" }
func (KeyPushed) EventName() string        { return "key_pushed" }
func (ClaimSigned) EventName() string      { return "claim_signed" }
func (ClaimRefused) EventName() string     { return "claim_refused" }
func (OutputSpent) EventName() string      { return "output_spent" }
func (SpendReorged) EventName() string     { return "spend_reorged" }
func (Tick) EventName() string             { return "tick" }

// Effect is something to do once the state that asks for it is stored. Every
// effect may run more than once; each says what makes that harmless.
type Effect interface{ EffectName() string }

// The effects.
type (
	// Probe pays the probe invoice, which the client gives back: ProbePassed or
	// ProbeFailed. One that was sent already is only asked about.
	Probe struct {
		Plan Plan `json:"plan"`
	}
	// WatchOutput follows the contract's script, and the transaction of an output that
	// is paid for, once per process: OutputFound, OutputReorged. Of several that pay
	// the script the node names one, and not the same one to whoever asks later.
	WatchOutput struct {
		Terms       htlc.Terms  `json:"terms"`
		SinceHeight uint32      `json:"since_height"`
		Outpoint    ln.Outpoint `json:"outpoint,omitzero"`
	}
	// OpenChannel opens a channel for the client under a name, or finds the one of
	// that name: ChannelUsable or ChannelNotOpened.
	OpenChannel struct {
		Plan      Plan   `json:"plan"`
		OpeningID string `json:"opening_id"`
	}
	// AbandonChannel gives an open up that nothing was published of; what is too
	// late for that goes on.
	AbandonChannel struct {
		OpeningID string `json:"opening_id"`
	}
	// AskTip has the swap told the tip, for one that waited for something else.
	AskTip struct{}
	// ChannelPaid says that the client paid for its channel.
	ChannelPaid struct {
		PaymentID string `json:"payment_id"`
	}
	// Pay pays the client's invoice, unless the node knows of a payment for its
	// hash already: PaymentSucceeded, PaymentFailed, PaymentCutOff or
	// PaymentNotSent. Between the decision and now lie a write, and perhaps a
	// restart or a node that does not answer: so who pays asks the chain once more
	// whether the output is there, as deep as it was.
	Pay struct {
		Plan     Plan        `json:"plan"`
		Attempt  int         `json:"attempt"`
		Outpoint ln.Outpoint `json:"outpoint"`
		MinConfs uint32      `json:"min_confs"`
		// ChanID is the channel that was opened for it, ExpiryHeight the payment's.
		ChanID       ln.SCID `json:"chan_id,omitempty"`
		ExpiryHeight uint32  `json:"expiry_height,omitempty"`
	}
	// TrackPayment waits for the node's terminal word.
	TrackPayment struct {
		Hash ln.Hash `json:"hash"`
	}
	// LookForPayment looks for the proof that a payment which the node calls in flight
	// can succeed no more: PaymentMissing, or nothing. Every attempt's HTLC has expired
	// MissingAfterBlocks ago, and the channel that it was sent over is open and does
	// not have it, or is closed and all of it resolved. The node closes a channel at
	// the expiry of an HTLC that is in either side's commitment, so it is in none. It
	// happens when the node dies between the record of an attempt and its commitment.
	LookForPayment struct {
		Hash ln.Hash `json:"hash"`
	}
	// SignClaim signs a spend, by the key path with the client's key and by the
	// success leaf without, together with other swaps that can be claimed (see
	// batch): ClaimSigned, for each of them, or ClaimRefused. It publishes nothing. A
	// swap that has a claim of this rate by now needs none; Rate 0 is today's.
	SignClaim struct {
		Terms     htlc.Terms         `json:"terms"`
		AmountSat ln.Sat             `json:"amount_sat"`
		Outpoint  ln.Outpoint        `json:"outpoint"`
		Preimage  swaps.Secret       `json:"preimage"`
		ClientKey swaps.Secret       `json:"client_key,omitzero"`
		Rate      ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	}
	// PublishClaim hands the claim to the node.
	PublishClaim struct {
		Raw   []byte `json:"raw"`
		Label string `json:"label"`
	}
	// WatchSpend follows an output, once per process: OutputSpent, SpendReorged.
	WatchSpend struct {
		Terms       htlc.Terms  `json:"terms"`
		AmountSat   ln.Sat      `json:"amount_sat"`
		Outpoint    ln.Outpoint `json:"outpoint"`
		SinceHeight uint32      `json:"since_height"`
	}
	// ForgetTxs takes transactions out of the node's wallet that can never confirm, and
	// that it would count for ever. One that it does not have is success.
	ForgetTxs struct {
		TxIDs []ln.TxID `json:"txids"`
	}
	// Alarm tells the operator.
	Alarm struct {
		Text string `json:"text"`
	}
)

// EffectName is the stable text under which the effect is stored.
func (Probe) EffectName() string          { return "probe" }
func (WatchOutput) EffectName() string    { return "watch_output" }
func (OpenChannel) EffectName() string    { return "open_channel" }
func (AbandonChannel) EffectName() string { return "abandon_channel" }
func (AskTip) EffectName() string         { return "ask_tip" }
func (ChannelPaid) EffectName() string    { return "channel_paid" }
func (Pay) EffectName() string            { return "pay" }
func (TrackPayment) EffectName() string   { return "track_payment" }
func (LookForPayment) EffectName() string { return "look_for_payment" }
func (SignClaim) EffectName() string      { return "sign_claim" }
func (PublishClaim) EffectName() string   { return "publish_claim" }
func (WatchSpend) EffectName() string     { return "watch_spend" }
func (ForgetTxs) EffectName() string      { return "forget_txs" }
func (Alarm) EffectName() string          { return "alarm" }
