package order

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Effect is something to do once the state that asks for it is stored; it may
// run again. Effects of one order run in the order in which they were asked for.
type Effect interface{ EffectName() string }

// The effects.
type (
	// MakeInvoice adds the hold invoice, or finds the one already made for this
	// hash with these terms. Answers: InvoiceAdded, InvoiceRefused.
	MakeInvoice struct {
		OrderID string                `json:"order_id"`
		Invoice ln.HoldInvoiceRequest `json:"invoice"`
	}
	// WatchInvoice subscribes to the hold invoice, once per process, and reports
	// its present state first: SetAccepted, InvoiceSettled, InvoiceCanceled.
	WatchInvoice struct {
		OrderID string  `json:"order_id"`
		Hash    ln.Hash `json:"payment_hash"`
	}
	// CheckIncoming looks at the funding of every incoming channel (law 12).
	// Read-only. Answer: IncomingChecked.
	CheckIncoming struct {
		OrderID string           `json:"order_id"`
		Htlcs   []ln.InvoiceHtlc `json:"htlcs"`
	}
	// AskPeer looks whether the client's node is connected. Read-only. Answer:
	// PeerStatus.
	AskPeer struct {
		OrderID string    `json:"order_id"`
		Client  ln.PubKey `json:"client"`
	}
	// OpenChannel creates the open unless it exists and has it report (again):
	// OpeningSigned, OpeningPublished, OpeningFailed.
	OpenChannel struct {
		OrderID   string    `json:"order_id"`
		OpeningID string    `json:"opening_id"`
		Client    ln.PubKey `json:"client"`
		Wish      Wish      `json:"wish"`
		FeeSat    ln.Sat    `json:"fee_sat"`
		// Try counts the opens of this order from 1.
		Try uint32 `json:"try"`
		// Batch is the batch whose transaction funds it; empty: one of its own does.
		Batch string `json:"batch,omitempty"`
	}
	// AbandonOpening asks the open to end if it still can, and has it report how
	// it ended, or that it is signed.
	AbandonOpening struct {
		OrderID   string     `json:"order_id"`
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
	}
	// SettleInvoice settles the hold; settled already is success:
	// InvoiceSettled. Cancelled: InvoiceCanceled.
	SettleInvoice struct {
		OrderID  string     `json:"order_id"`
		Hash     ln.Hash    `json:"payment_hash"`
		Preimage lsp.Secret `json:"preimage"`
	}
	// CancelInvoice cancels the hold; not found and cancelled are success:
	// InvoiceCanceled. Settled: InvoiceSettled.
	CancelInvoice struct {
		OrderID string  `json:"order_id"`
		Hash    ln.Hash `json:"payment_hash"`
	}
	// KeepCoins leases coins that pay the order, so that nothing else spends
	// them. One that is spent already is passed over.
	KeepCoins struct {
		OrderID string        `json:"order_id"`
		LeaseID [32]byte      `json:"lease_id"`
		Coins   []ln.Outpoint `json:"coins"`
	}
	// FreeCoins gives back the leases of these coins, of all if none is named;
	// none left is success.
	FreeCoins struct {
		OrderID string        `json:"order_id"`
		LeaseID [32]byte      `json:"lease_id"`
		Coins   []ln.Outpoint `json:"coins,omitempty"`
	}
	// Refund creates the refund unless it exists and has it report (again):
	// RefundSent, RefundEnded, RefundVoid.
	Refund struct {
		OrderID  string `json:"order_id"`
		RefundID string `json:"refund_id"`
		Coins    []Coin `json:"coins"`
		// KeepSat of what they hold stays ours; the client bears the fee.
		KeepSat  ln.Sat     `json:"keep_sat,omitempty"`
		Script   []byte     `json:"script"`
		ToScript []byte     `json:"to_script"`
		Reason   lsp.Reason `json:"reason"`
	}
	// DropRefund tells a refund that these of its coins left the chain and are waited
	// for no longer. Answer, unless a version of it is in a block: RefundVoid.
	DropRefund struct {
		OrderID  string        `json:"order_id"`
		RefundID string        `json:"refund_id"`
		Coins    []ln.Outpoint `json:"coins"`
	}
	// WarnLease tells the operator that the lease is nearly over, and a client that is
	// away if the channel is closed then.
	WarnLease struct {
		OrderID string    `json:"order_id"`
		Client  ln.PubKey `json:"client"`
		Channel Channel   `json:"channel"`
		Closes  bool      `json:"closes,omitempty"`
	}
	// CloseChannel asks for a cooperative close. A client that is away is asked
	// again with a later block; the channel is never forced.
	CloseChannel struct {
		OrderID  string      `json:"order_id"`
		Outpoint ln.Outpoint `json:"outpoint"`
	}
	// Alarm tells a person.
	Alarm struct {
		OrderID string     `json:"order_id"`
		Reason  lsp.Reason `json:"reason"`
	}
)

func (MakeInvoice) EffectName() string    { return "make_invoice" }
func (WatchInvoice) EffectName() string   { return "watch_invoice" }
func (CheckIncoming) EffectName() string  { return "check_incoming" }
func (AskPeer) EffectName() string        { return "ask_peer" }
func (OpenChannel) EffectName() string    { return "open_channel" }
func (AbandonOpening) EffectName() string { return "abandon_opening" }
func (SettleInvoice) EffectName() string  { return "settle_invoice" }
func (CancelInvoice) EffectName() string  { return "cancel_invoice" }
func (KeepCoins) EffectName() string      { return "keep_coins" }
func (FreeCoins) EffectName() string      { return "free_coins" }
func (Refund) EffectName() string         { return "refund" }
func (DropRefund) EffectName() string     { return "drop_refund" }
func (WarnLease) EffectName() string      { return "warn_lease" }
func (CloseChannel) EffectName() string   { return "close_channel" }
func (Alarm) EffectName() string          { return "alarm" }
