package order

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Event is something that happened to an order.
type Event interface{ EventName() string }

// The events. One that a state does not admit (fsm.ErrIllegal) changes nothing:
// whoever reports the world may take that for "too late".
type (
	// Start begins an order; it may be repeated after a crash.
	Start struct{ lsp.Moment }
	// InvoiceAdded: the hold invoice exists at our node.
	InvoiceAdded struct {
		lsp.Moment
		Bolt11 string `json:"bolt11"`
	}
	// InvoiceRefused: the node would not make it.
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
	// CoinsSeen: these outputs pay the address, all that lnd's wallet lists.
	CoinsSeen struct {
		lsp.Moment
		Coins []SeenCoin `json:"coins"`
		// ZeroConf: the limits allow to take this payment unconfirmed, judged in
		// the transaction that stores this event.
		ZeroConf bool `json:"zero_conf,omitempty"`
	}
	// PeerStatus answers AskPeer.
	PeerStatus struct {
		lsp.Moment
		Online bool `json:"online"`
	}
	// PeerOnline: the client's node connected.
	PeerOnline struct{ lsp.Moment }
	// Join: the batch's moment has come, and the order is in it. The channel is opened
	// with the others'.
	Join struct {
		lsp.Moment
		BatchID string `json:"batch_id"`
	}
	// OpenAlone: it has waited, and there is nobody to share a transaction with.
	OpenAlone struct{ lsp.Moment }
	// OpeningSigned: the named open can no longer be given up.
	OpeningSigned struct {
		lsp.Moment
		OpeningID string      `json:"opening_id"`
		Outpoint  ln.Outpoint `json:"outpoint"`
	}
	// OpeningPublished: the network has its transaction.
	OpeningPublished struct {
		lsp.Moment
		OpeningID string      `json:"opening_id"`
		Outpoint  ln.Outpoint `json:"outpoint"`
	}
	// OpeningConfirmed: a block has it; Moment.Height is no lower than that
	// block.
	OpeningConfirmed struct {
		lsp.Moment
		OpeningID string `json:"opening_id"`
	}
	// OpeningReorged: no block has it any more.
	OpeningReorged struct {
		lsp.Moment
		OpeningID string `json:"opening_id"`
	}
	// OpeningFailed: the named open made no channel and never will.
	OpeningFailed struct {
		lsp.Moment
		OpeningID string     `json:"opening_id"`
		Reason    lsp.Reason `json:"reason"`
		Temporary bool       `json:"temporary"`
		// Spared: another channel of its batch is the cause.
		Spared bool `json:"spared,omitempty"`
	}
	// InvoiceSettled: the hold invoice is settled.
	InvoiceSettled struct{ lsp.Moment }
	// InvoiceCanceled: the hold invoice is cancelled, by us or by the node.
	InvoiceCanceled struct{ lsp.Moment }
	// RefundSent: the network has a transaction of the refund.
	RefundSent struct {
		lsp.Moment
		RefundID string  `json:"refund_id"`
		TxID     ln.TxID `json:"txid"`
	}
	// RefundEnded: nothing more happens to the refund: its transaction is
	// buried, or its coins are too little to send.
	RefundEnded struct {
		lsp.Moment
		RefundID string `json:"refund_id"`
	}
	// RefundVoid: the refund returns nothing and never will. Of its coins only Spent
	// are spent.
	RefundVoid struct {
		lsp.Moment
		RefundID string        `json:"refund_id"`
		Spent    []ln.Outpoint `json:"spent,omitempty"`
	}
	// ChannelClosed: the channel is closed or closing, whoever did it.
	ChannelClosed struct{ lsp.Moment }
	// NewBlock: the tip is Moment.Height. CloseAtEnd and WarnBlocks are the
	// operator's choice for leases as it is now.
	NewBlock struct {
		lsp.Moment
		CloseAtEnd bool   `json:"close_at_end,omitempty"`
		WarnBlocks uint32 `json:"warn_blocks,omitempty"`
	}
	// Tick: the time is Moment.At.
	Tick struct{ lsp.Moment }
	// Cancel by the operator; ErrTooLate once the funding is signed.
	Cancel struct {
		lsp.Moment
		Reason lsp.Reason `json:"reason"`
	}
)

// SeenCoin is an output that pays the order's address, as lnd lists it.
type SeenCoin struct {
	Outpoint    ln.Outpoint `json:"outpoint"`
	AmountSat   ln.Sat      `json:"amount_sat"`
	Height      uint32      `json:"height,omitempty"`
	Replaceable bool        `json:"replaceable,omitempty"`
	// At is when lnd's wallet first saw it.
	At time.Time `json:"at"`
	// Spent: a transaction of the wallet spends it already.
	Spent bool `json:"spent,omitempty"`
}

func (Start) EventName() string            { return "start" }
func (InvoiceAdded) EventName() string     { return "invoice_added" }
func (InvoiceRefused) EventName() string   { return "invoice_refused" }
func (SetAccepted) EventName() string      { return "set_accepted" }
func (IncomingChecked) EventName() string  { return "incoming_checked" }
func (CoinsSeen) EventName() string        { return "coins_seen" }
func (PeerStatus) EventName() string       { return "peer_status" }
func (PeerOnline) EventName() string       { return "peer_online" }
func (Join) EventName() string             { return "join" }
func (OpenAlone) EventName() string        { return "open_alone" }
func (OpeningSigned) EventName() string    { return "opening_signed" }
func (OpeningPublished) EventName() string { return "opening_published" }
func (OpeningConfirmed) EventName() string { return "opening_confirmed" }
func (OpeningReorged) EventName() string   { return "opening_reorged" }
func (OpeningFailed) EventName() string    { return "opening_failed" }
func (InvoiceSettled) EventName() string   { return "invoice_settled" }
func (InvoiceCanceled) EventName() string  { return "invoice_canceled" }
func (RefundSent) EventName() string       { return "refund_sent" }
func (RefundEnded) EventName() string      { return "refund_ended" }
func (RefundVoid) EventName() string       { return "refund_void" }
func (ChannelClosed) EventName() string    { return "channel_closed" }
func (NewBlock) EventName() string         { return "new_block" }
func (Tick) EventName() string             { return "tick" }
func (Cancel) EventName() string           { return "cancel" }
