package order

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Terms are what an order binds. They never change.
type Terms struct {
	ID     string    `json:"id"`
	Client ln.PubKey `json:"client"`
	Wish
	CreatedAt time.Time `json:"created_at"`
	// Lightning and OnChain are the ways to pay; nil is not offered.
	Lightning *Lightning `json:"lightning,omitempty"`
	OnChain   *OnChain   `json:"onchain,omitempty"`
	// WaitFor is how long a paid order waits for its client's node and for the
	// open to succeed.
	WaitFor time.Duration `json:"wait_for"`
	// HoldMarginBlocks is how long before lnd takes a held payment back it is
	// given up; HoldExpiryDelta is lnd's invoices.holdexpirydelta.
	HoldMarginBlocks uint32 `json:"hold_margin_blocks"`
	HoldExpiryDelta  uint32 `json:"hold_expiry_delta"`
	MaxOpens         uint32 `json:"max_opens"`
	BuriedConfs      uint32 `json:"buried_confs"`
	// WaitBlocks is how many blocks the paid order may wait for others to share its
	// funding transaction; 0: it does not.
	WaitBlocks uint32 `json:"wait_blocks,omitempty"`
	// Openly: who ordered proved no key: whoever has the id may see the order.
	Openly bool `json:"openly,omitempty"`
	// NullToken: the client wrote null for no token, and is shown its order as one
	// that does can read it.
	NullToken bool `json:"null_token,omitempty"`
}

// Wish is the channel that the client wants (bLIP-51, create_order).
type Wish struct {
	LspBalanceSat    ln.Sat `json:"lsp_balance_sat"`
	ClientBalanceSat ln.Sat `json:"client_balance_sat"`
	RequiredConfs    uint16 `json:"required_channel_confirmations"`
	// ConfirmWithin is in how many blocks the funding transaction confirms.
	ConfirmWithin uint16 `json:"funding_confirms_within_blocks"`
	ExpiryBlocks  uint32 `json:"channel_expiry_blocks"`
	Token         string `json:"token,omitempty"`
	Announce      bool   `json:"announce_channel"`
}

// CapacitySat is the channel's capacity.
func (w Wish) CapacitySat() (ln.Sat, error) { return w.LspBalanceSat.Add(w.ClientBalanceSat) }

// Price is what one way to pay asks: the fee, and with it the balance that the
// client gets.
type Price struct {
	FeeSat   ln.Sat `json:"fee_total_sat"`
	TotalSat ln.Sat `json:"order_total_sat"`
}

// Lightning is payment by a hold invoice of the gateway's.
type Lightning struct {
	Price
	Hash      ln.Hash    `json:"payment_hash"`
	Preimage  lsp.Secret `json:"preimage"`
	FinalCltv uint32     `json:"final_cltv"`
	ExpiresAt time.Time  `json:"expires_at"`
}

// OnChain is payment to an address of the gateway's wallet.
type OnChain struct {
	Price
	Address string `json:"address"`
	Script  []byte `json:"script"`
	// SinceHeight is the tip when the address was made: no payment is older.
	SinceHeight uint32    `json:"since_height"`
	ExpiresAt   time.Time `json:"expires_at"`
	// A payment that was seen before ExpiresAt has until ConfirmBy to confirm.
	// The address is watched until WatchUntil: what comes late goes back.
	ConfirmBy  time.Time `json:"confirm_by"`
	WatchUntil time.Time `json:"watch_until"`
	// MinConfs of 0: one payment of the whole total counts unconfirmed, while
	// the limits for that last.
	MinConfs       uint16             `json:"min_onchain_payment_confirmations"`
	MinFeeFor0Conf ln.FeeRateSatPerKW `json:"min_fee_for_0conf"`
	RefundAddress  string             `json:"refund_onchain_address"`
	RefundScript   []byte             `json:"refund_script"`
	// Promise is the refund promise, signed with the gateway's node key.
	Promise   string `json:"refund_promise"`
	Signature string `json:"refund_promise_signature"`
}

// PaidBy is how an order was paid.
type PaidBy string

// The ways to pay.
const (
	PaidByNobody    PaidBy = ""
	PaidByLightning PaidBy = "bolt11"
	PaidByOnChain   PaidBy = "onchain"
)

// Coin is an output that pays the order's address.
type Coin struct {
	Outpoint  ln.Outpoint `json:"outpoint"`
	AmountSat ln.Sat      `json:"amount_sat"`
	// Height is the block that has it; 0 while unconfirmed.
	Height uint32    `json:"height,omitempty"`
	SeenAt time.Time `json:"seen_at"`
	// Replaceable says that its transaction signals that it may be replaced.
	Replaceable bool `json:"replaceable,omitempty"`
	// Gone: lnd's wallet does not list it any more.
	Gone bool `json:"gone,omitempty"`
	// Used: it pays for the channel. Zero: it was taken unconfirmed.
	Used bool `json:"used,omitempty"`
	Zero bool `json:"zero,omitempty"`
	// Refund is the refund that spends it; RefundTx the transaction, once sent;
	// RefundOver says that nothing more happens to it.
	Refund     string  `json:"refund,omitempty"`
	RefundTx   ln.TxID `json:"refund_tx,omitzero"`
	RefundOver bool    `json:"refund_over,omitempty"`
	// LostHeight is since when a coin that is being returned is in no block.
	LostHeight uint32 `json:"lost_height,omitempty"`
}

// Held is the set of HTLCs that the hold invoice accepted.
type Held struct {
	Htlcs []ln.InvoiceHtlc `json:"htlcs,omitempty"`
	// EarliestExpiry is the lowest expiry height among them.
	EarliestExpiry uint32  `json:"earliest_expiry,omitempty"`
	HeldMsat       ln.Msat `json:"held_msat,omitempty"`
	SatBlocks      uint64  `json:"sat_blocks,omitempty"`
}

// Channel is what was opened.
type Channel struct {
	Outpoint ln.Outpoint `json:"outpoint"`
	FundedAt time.Time   `json:"funded_at"`
	// ExpiresAt is the earliest moment at which the gateway may close it.
	ExpiresAt time.Time `json:"expires_at"`
	// ConfirmedHeight and EndHeight are 0 while the funding is unconfirmed: the
	// lease is counted in blocks from its confirmation.
	ConfirmedHeight uint32 `json:"confirmed_height,omitempty"`
	EndHeight       uint32 `json:"end_height,omitempty"`
}

// Progress is what has happened so far.
type Progress struct {
	Bolt11 string `json:"bolt11,omitempty"`
	PaidBy PaidBy `json:"paid_by,omitempty"`
	// PaidHeight is the tip when it was paid: what was promised is counted from it.
	PaidHeight uint32 `json:"paid_height,omitempty"`
	Held       Held   `json:"held,omitzero"`
	Coins      []Coin `json:"coins,omitempty"`
	// Refunds counts the refunds that were begun; the ids follow from it.
	Refunds uint32 `json:"refunds,omitempty"`
	// Settled and InvoiceGone say how the hold invoice ended.
	Settled     bool `json:"settled,omitempty"`
	InvoiceGone bool `json:"invoice_gone,omitempty"`
	// Unwatched: the address is watched no more.
	Unwatched bool `json:"unwatched,omitempty"`
	// Opens counts the opens that were begun; Spared of them ended for the sake of
	// others, and do not count as tries.
	Opens  uint32 `json:"opens,omitempty"`
	Spared uint32 `json:"spared,omitempty"`
	// Batch is the batch that its last open is, or was, part of. Alone: it has waited,
	// and its channel has a transaction of its own.
	Batch   string   `json:"batch,omitempty"`
	Alone   bool     `json:"alone,omitempty"`
	Channel *Channel `json:"channel,omitempty"`
	// WarnedHeight is where operator and client were last told that the lease ends.
	WarnedHeight uint32 `json:"warned_height,omitempty"`
	// Taken: the funding is buried, so that the coins that paid for it are ours;
	// what they held too much is on its way back.
	Taken bool `json:"taken,omitempty"`
	// Void: the funding transaction can never confirm.
	Void bool       `json:"void,omitempty"`
	Last lsp.Reason `json:"last,omitzero"`
}

// Order is the part every state has.
type Order struct {
	Terms
	Progress
}

// State is one of the states below.
type State interface {
	StateName() string
	order() Order
}

// The states.
type (
	// Created: agreed; the hold invoice may not exist yet.
	Created struct{ Order }
	// Awaiting: the client may pay.
	Awaiting struct{ Order }
	// Paid: the money is there; the client's node is awaited.
	Paid struct {
		Order
		// Safe says that the held payment's channels are safe (law 12).
		Safe     bool      `json:"safe,omitempty"`
		Deadline time.Time `json:"deadline"`
	}
	// Queued: the money is there and the order can wait; at UntilHeight at the latest
	// its channel is opened, with others or without.
	Queued struct {
		Order
		UntilHeight uint32 `json:"until_height"`
	}
	// Opening: the channel is being opened and can still be given up.
	Opening struct {
		Order
		Deadline time.Time `json:"deadline"`
	}
	// Abandoning: the open is to be given up. Its answer decides: only when
	// there will be no channel does the money go back.
	Abandoning struct {
		Order
		Reason lsp.Reason `json:"reason"`
		// Reawait: it is the on-chain payment that went away, and it may return.
		Reawait bool `json:"reawait,omitempty"`
	}
	// Funding: the funding transaction is signed and stored, so that the channel
	// will exist; it is not known to be published.
	Funding struct{ Order }
	// Settling: the held payment is being taken, again and again until it is.
	Settling struct{ Order }
	// Active: the channel is the client's, and its lease runs.
	Active struct{ Order }
	// Closing: the lease is over and the channel is being closed.
	Closing struct{ Order }
	// Ending: the lease is over; refunds and the address's watch may go on.
	Ending struct {
		Order
		Reason lsp.Reason `json:"reason"`
	}
	// Ended: final, and as agreed.
	Ended struct {
		Order
		Reason lsp.Reason `json:"reason"`
	}
	// Unwinding: there is no channel; what was paid is going back, and what may
	// still be paid will.
	Unwinding struct {
		Order
		Reason lsp.Reason `json:"reason"`
	}
	// Failed: final; the client has its money back, or never paid.
	Failed struct {
		Order
		Reason lsp.Reason `json:"reason"`
	}
	// Lost: final; the payment was taken and the channel cannot exist, which
	// only a double-spend by the gateway's own wallet can do. A person must pay
	// the client back.
	Lost struct {
		Order
		Reason lsp.Reason `json:"reason"`
	}
)

func (o Order) order() Order { return o }

// StateName is the stable text under which the state is stored.
func (Created) StateName() string    { return "created" }
func (Awaiting) StateName() string   { return "awaiting_payment" }
func (Paid) StateName() string       { return "paid" }
func (Queued) StateName() string     { return "queued" }
func (Opening) StateName() string    { return "opening" }
func (Abandoning) StateName() string { return "abandoning" }
func (Funding) StateName() string    { return "funding" }
func (Settling) StateName() string   { return "settling" }
func (Active) StateName() string     { return "active" }
func (Closing) StateName() string    { return "closing" }
func (Ending) StateName() string     { return "ending" }
func (Ended) StateName() string      { return "ended" }
func (Unwinding) StateName() string  { return "unwinding" }
func (Failed) StateName() string     { return "failed" }
func (Lost) StateName() string       { return "lost" }

// Of is the order behind a state, with its progress.
func Of(s State) Order { return s.order() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Ended, Failed, Lost:
		return true
	}
	return false
}

// Undecided reports that the order is neither delivered nor refused: it counts
// against what may be open.
func Undecided(s State) bool {
	switch s.(type) {
	case Created, Awaiting, Paid, Queued, Opening, Abandoning, Funding, Settling:
		return true
	}
	return false
}

// InvoiceMemo is the description of an order's hold invoice: lnd keeps it, so that the
// order is known by it.
func InvoiceMemo(id string) string { return "channel order " + id }
