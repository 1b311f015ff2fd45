package wrap

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Effect is something to do once the state that asks for it is stored; it may
// run again. Effects of one offer run in the order in which they were asked for.
type Effect interface{ EffectName() string }

// The effects.
type (
	// MakeInvoice adds the hold invoice, or finds the one already made for this
	// hash with these terms. Answers: InvoiceAdded, InvoiceRefused.
	MakeInvoice struct {
		OfferID string                `json:"offer_id"`
		Invoice ln.HoldInvoiceRequest `json:"invoice"`
	}
	// WatchInvoice subscribes to the hold invoice, once per process, and
	// reports its present state first: SetAccepted, InvoiceSettled,
	// InvoiceCanceled.
	WatchInvoice struct {
		OfferID string  `json:"offer_id"`
		Hash    ln.Hash `json:"payment_hash"`
	}
	// CheckIncoming looks at the funding of every incoming channel (law 12).
	// Read-only. Answer: IncomingChecked.
	CheckIncoming struct {
		OfferID string           `json:"offer_id"`
		Htlcs   []ln.InvoiceHtlc `json:"htlcs"`
	}
	// AskWallet: as in package jit. Read-only. Answer: WalletStatus.
	AskWallet struct {
		OfferID    string    `json:"offer_id"`
		Client     ln.PubKey `json:"client"`
		AmountMsat ln.Msat   `json:"amount_msat"`
		Prefer     ln.SCID   `json:"prefer,omitempty"`
		Opens      uint32    `json:"opens"`
		FeeMsat    ln.Msat   `json:"fee_msat"`
		ZeroConf   bool      `json:"zero_conf"`
	}
	// WakeWallet pokes an offline wallet. Until is when the payment goes back.
	WakeWallet struct {
		OfferID    string    `json:"offer_id"`
		Client     ln.PubKey `json:"client"`
		Hash       ln.Hash   `json:"payment_hash"`
		AmountMsat ln.Msat   `json:"amount_msat"`
		Until      time.Time `json:"until,omitzero"`
	}
	// OpenChannel creates the open unless it exists and has it report (again):
	// OpeningUsable, OpeningFailed.
	OpenChannel struct {
		OfferID    string  `json:"offer_id"`
		OpeningID  string  `json:"opening_id"`
		Terms      Terms   `json:"terms"`
		AmountMsat ln.Msat `json:"amount_msat"`
	}
	// ReleaseOpening has the withheld funding published: the client has claimed.
	ReleaseOpening struct {
		OfferID   string `json:"offer_id"`
		OpeningID string `json:"opening_id"`
	}
	// AbandonOpening asks the open to end if it still can.
	AbandonOpening struct {
		OfferID   string     `json:"offer_id"`
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
	}
	// Pay first asks TrackPaymentV2: a payment that is known is followed, not
	// sent again, unless Attempt is above 1 and it is known as failed. Only if
	// lnd's tip is at most SendUntilHeight, the hold invoice is still accepted,
	// and each part that it holds could be taken back no earlier than
	// MarginBlocks after the payment's expiry (law 4, by what lnd says then), is
	// it sent (SendToRouteV2; lnd itself refuses a second payment of a hash in
	// flight). Answers: PaymentSucceeded, PaymentFailed,
	// PaymentNotSent, PaymentCutOff.
	Pay struct {
		OfferID         string           `json:"offer_id"`
		Attempt         uint32           `json:"attempt"`
		Payment         ln.DirectPayment `json:"payment"`
		SendUntilHeight uint32           `json:"send_until_height"`
		MarginBlocks    uint32           `json:"margin_blocks"`
		// Withheld names the open whose channel is paid over before it is funded.
		Withheld string `json:"withheld,omitempty"`
	}
	// TrackPayment follows TrackPaymentV2 until it is terminal. Read-only.
	// Answers: PaymentSucceeded, PaymentFailed; PaymentNotSent when lnd, whose
	// database is known to be current, has no record of it.
	TrackPayment struct {
		OfferID string  `json:"offer_id"`
		Hash    ln.Hash `json:"payment_hash"`
	}
	// LookForPayment asks whether the payment of a hash is Missing. Read-only.
	// Answer: PaymentMissing, or nothing: the next block asks again.
	LookForPayment struct {
		OfferID string  `json:"offer_id"`
		Hash    ln.Hash `json:"payment_hash"`
		Missing
	}
	// SettleInvoice settles the hold; settled already is success:
	// InvoiceSettled. Cancelled: InvoiceCanceled.
	SettleInvoice struct {
		OfferID  string     `json:"offer_id"`
		Hash     ln.Hash    `json:"payment_hash"`
		Preimage lsp.Secret `json:"preimage"`
	}
	// CancelInvoice cancels the hold; not found and cancelled are success:
	// InvoiceCanceled. Settled: InvoiceSettled. It first asks TrackPaymentV2: a
	// wallet that was paid from what is held, whatever the database says, is
	// PaidAfterAll, and while it may be nothing is cancelled. With Missing, what
	// lnd calls in flight is asked about once more, and may be nowhere.
	CancelInvoice struct {
		OfferID string   `json:"offer_id"`
		Hash    ln.Hash  `json:"payment_hash"`
		Missing *Missing `json:"missing,omitempty"`
	}
	// Alarm wakes the operator; repeats are harmless.
	Alarm struct {
		OfferID string     `json:"offer_id"`
		Reason  lsp.Reason `json:"reason"`
	}
)

// MissingAfterBlocks is how long after its expiry an HTLC that nobody has seen is
// looked for.
const MissingAfterBlocks = 20

// Missing is what proves that a payment which lnd calls in flight can succeed no
// more: its HTLC has expired MissingAfterBlocks ago, and the channel that it was
// sent over is open and does not have it. lnd closes a channel at the expiry of
// an HTLC that is in either side's commitment, however the peer behaves; so it is
// in none. Or the channel is closed and all of it resolved: then lnd would have
// told how such an HTLC ended. It happens when lnd dies between the record of an attempt and its
// commitment: lnd then waits for its outcome for ever.
type Missing struct {
	ChanID       ln.SCID `json:"chan_id"`
	ExpiryHeight uint32  `json:"expiry_height"`
}

func (r Route) missing() Missing { return Missing{ChanID: r.ChanID, ExpiryHeight: r.ExpiryHeight} }

func (MakeInvoice) EffectName() string    { return "make_invoice" }
func (WatchInvoice) EffectName() string   { return "watch_invoice" }
func (CheckIncoming) EffectName() string  { return "check_incoming" }
func (AskWallet) EffectName() string      { return "ask_wallet" }
func (WakeWallet) EffectName() string     { return "wake_wallet" }
func (OpenChannel) EffectName() string    { return "open_channel" }
func (ReleaseOpening) EffectName() string { return "release_opening" }
func (AbandonOpening) EffectName() string { return "abandon_opening" }
func (Pay) EffectName() string            { return "pay" }
func (TrackPayment) EffectName() string   { return "track_payment" }
func (LookForPayment) EffectName() string { return "look_for_payment" }
func (SettleInvoice) EffectName() string  { return "settle_invoice" }
func (CancelInvoice) EffectName() string  { return "cancel_invoice" }
func (Alarm) EffectName() string          { return "alarm" }
