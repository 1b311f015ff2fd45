package wrap

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Event is something that happened to an offer.
type Event interface{ EventName() string }

// The events. One that a state does not admit (fsm.ErrIllegal) changes nothing:
// whoever reports the world may take that for "too late".
type (
	// Start begins an Offered offer; it may be repeated after a crash.
	Start struct{ lsp.Moment }
	// InvoiceAdded: the hold invoice exists at our node.
	InvoiceAdded struct {
		lsp.Moment
		Bolt11 string `json:"bolt11"`
	}
	// InvoiceRefused: the node would not make it (e.g. the hash was used).
	InvoiceRefused struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// SetAccepted: lnd holds the complete set of HTLCs.
	SetAccepted struct {
		lsp.Moment
		Htlcs []ln.InvoiceHtlc `json:"htlcs"`
		// Refusal says why they may not be held: a limit, judged in the
		// transaction that stores this event.
		Refusal lsp.Reason `json:"refusal,omitzero"`
	}
	// IncomingChecked answers CheckIncoming.
	IncomingChecked struct {
		lsp.Moment
		Safe bool   `json:"safe"`
		Text string `json:"text,omitempty"`
	}
	// WalletStatus answers AskWallet (as in package jit).
	WalletStatus struct {
		lsp.Moment
		Online   bool       `json:"online"`
		Wait     bool       `json:"wait,omitempty"`
		Room     ln.SCID    `json:"room,omitempty"`
		Channels int        `json:"channels"`
		Refusal  lsp.Reason `json:"refusal,omitzero"`
	}
	// WalletOnline: the wallet's node connected, or it is this payment's turn.
	WalletOnline struct{ lsp.Moment }
	// OpeningUsable: the named open's channel can carry the payment.
	OpeningUsable struct {
		lsp.Moment
		OpeningID string  `json:"opening_id"`
		ChanID    ln.SCID `json:"chan_id"`
		// Withheld says that nothing funds the channel until ReleaseOpening.
		Withheld bool `json:"withheld,omitempty"`
	}
	// OpeningFailed: the named open made no channel and never will.
	OpeningFailed struct {
		lsp.Moment
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
		Temporary bool       `json:"temporary"`
	}
	// PaymentSucceeded carries the preimage, checked against the hash.
	PaymentSucceeded struct {
		lsp.Moment
		Preimage lsp.Secret `json:"preimage"`
	}
	// PaymentFailed: TrackPaymentV2 says that it failed for good. Retry says
	// that the same payment may succeed now (a link that flapped).
	PaymentFailed struct {
		lsp.Moment
		Text  string `json:"text"`
		Retry bool   `json:"retry"`
	}
	// PaymentNotSent: the executor found at the moment of sending that the
	// margin no longer holds, and TrackPaymentV2 knows no such payment.
	PaymentNotSent struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// PaymentCutOff: the call ended without an outcome.
	PaymentCutOff struct {
		lsp.Moment
		Text string `json:"text"`
	}
	// PaymentMissing: lnd will say "in flight" for ever, and the HTLC is nowhere
	// (see Missing).
	PaymentMissing struct{ lsp.Moment }
	// PaidAfterAll: lnd has paid the wallet, although the offer is being given
	// up: the database is an older copy of itself. Htlcs are those that the hold
	// invoice holds, or was settled with.
	PaidAfterAll struct {
		lsp.Moment
		Preimage lsp.Secret       `json:"preimage"`
		Htlcs    []ln.InvoiceHtlc `json:"htlcs"`
	}
	// InvoiceSettled: the hold invoice is settled.
	InvoiceSettled struct{ lsp.Moment }
	// InvoiceCanceled: the hold invoice is cancelled, by us or by the node.
	InvoiceCanceled struct{ lsp.Moment }
	// NewBlock: the tip is Moment.Height.
	NewBlock struct{ lsp.Moment }
	// Tick: the time is Moment.At.
	Tick struct{ lsp.Moment }
	// Cancel by client or operator; ErrTooLate while a payment may be in flight.
	Cancel struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
	}
)

func (Start) EventName() string            { return "start" }
func (InvoiceAdded) EventName() string     { return "invoice_added" }
func (InvoiceRefused) EventName() string   { return "invoice_refused" }
func (SetAccepted) EventName() string      { return "set_accepted" }
func (IncomingChecked) EventName() string  { return "incoming_checked" }
func (WalletStatus) EventName() string     { return "wallet_status" }
func (WalletOnline) EventName() string     { return "wallet_online" }
func (OpeningUsable) EventName() string    { return "opening_usable" }
func (OpeningFailed) EventName() string    { return "opening_failed" }
func (PaymentSucceeded) EventName() string { return "payment_succeeded" }
func (PaymentFailed) EventName() string    { return "payment_failed" }
func (PaymentNotSent) EventName() string   { return "payment_not_sent" }
func (PaymentCutOff) EventName() string    { return "payment_cut_off" }
func (PaymentMissing) EventName() string   { return "payment_missing" }
func (PaidAfterAll) EventName() string     { return "paid_after_all" }
func (InvoiceSettled) EventName() string   { return "invoice_settled" }
func (InvoiceCanceled) EventName() string  { return "invoice_canceled" }
func (NewBlock) EventName() string         { return "new_block" }
func (Tick) EventName() string             { return "tick" }
func (Cancel) EventName() string           { return "cancel" }
