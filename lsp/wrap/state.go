package wrap

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Terms are what an offer binds. They never change.
type Terms struct {
	ID     string    `json:"id"`
	Client ln.PubKey `json:"client"`
	Hash   ln.Hash   `json:"payment_hash"`
	// PayerMsat is the wrapped invoice's amount, WalletMsat the wallet's own
	// invoice's; the difference is FeeMsat.
	PayerMsat  ln.Msat `json:"payer_msat"`
	WalletMsat ln.Msat `json:"wallet_msat"`
	FeeMsat    ln.Msat `json:"fee_msat"`
	// WalletPaymentAddr and WalletFinalCltv are from the wallet's own invoice.
	WalletPaymentAddr [32]byte             `json:"wallet_payment_addr"`
	WalletFinalCltv   uint32               `json:"wallet_final_cltv"`
	Params            lsp.OpeningFeeParams `json:"opening_fee_params"`
	Description       string               `json:"description,omitempty"`
	DescriptionHash   []byte               `json:"description_hash,omitempty"`
	// HoldFinalCltv is the final CLTV delta that the wrapped invoice asks for;
	// HoldCltvFor computes it.
	HoldFinalCltv uint32 `json:"hold_final_cltv"`
	// PadBlocks are added to the wallet's final delta when it is paid, for
	// blocks that arrive on the way; MarginBlocks is law 4's; HoldExpiryDelta
	// is lnd's invoices.holdexpirydelta.
	PadBlocks       uint32 `json:"pad_blocks"`
	MarginBlocks    uint32 `json:"margin_blocks"`
	HoldExpiryDelta uint32 `json:"hold_expiry_delta"`
	ZeroConf        bool   `json:"zero_conf"`
	Confs           uint32 `json:"confs,omitempty"`
	// ClientTrusts: the funding of a channel opened for this payment is withheld
	// until the client has claimed it.
	ClientTrusts bool `json:"client_trusts_lsp,omitempty"`
	MayOpenMore  bool `json:"may_open_more"`
	// Room is the channel whose room this payment was promised, and no fee for
	// it; zero when a channel is to be opened.
	Room ln.SCID `json:"room,omitempty"`
	// ExpiresAt is the wrapped invoice's expiry.
	ExpiresAt time.Time `json:"expires_at"`
	// WaitFor bounds how long the held set waits for the wallet, OpenFor a
	// zero-conf open.
	WaitFor time.Duration `json:"wait_for"`
	OpenFor time.Duration `json:"open_for"`
	// HoldFor is how long it waits for a wallet that is offline, where that is longer.
	HoldFor time.Duration `json:"hold_for,omitempty"`
	// MaxOpens and MaxPayments bound the attempts.
	MaxOpens    uint32 `json:"max_opens"`
	MaxPayments uint32 `json:"max_payments"`
}

// Progress is what has been done so far.
type Progress struct {
	Bolt11   string  `json:"bolt11,omitempty"`
	Opens    uint32  `json:"opens,omitempty"`
	OpenLive bool    `json:"open_live,omitempty"`
	Chan     ln.SCID `json:"chan,omitempty"`
	// Withheld says that nothing funds Chan until ReleaseOpening.
	Withheld bool   `json:"withheld,omitempty"`
	Payments uint32 `json:"payments,omitempty"`
	// InvoiceGone: the node cancelled the hold invoice while a payment was in
	// flight.
	InvoiceGone bool       `json:"invoice_gone,omitempty"`
	Last        lsp.Reason `json:"last,omitzero"`
}

// Held is the set of HTLCs that the hold invoice accepted.
type Held struct {
	Htlcs []ln.InvoiceHtlc `json:"htlcs"`
	// EarliestExpiry is the lowest expiry height among them.
	EarliestExpiry uint32  `json:"earliest_expiry"`
	HeldMsat       ln.Msat `json:"held_msat"`
	// SatBlocks is what holding them costs, as it stood when they were accepted.
	SatBlocks uint64 `json:"sat_blocks,omitempty"`
}

// Offer is the part every state has.
type Offer struct {
	Terms
	Progress
}

// Route is one attempt to pay the wallet.
type Route struct {
	ChanID ln.SCID `json:"chan_id"`
	// ExpiryHeight is the outgoing HTLC's, absolute.
	ExpiryHeight uint32  `json:"expiry_height"`
	AmountMsat   ln.Msat `json:"amount_msat"`
}

// Ending names the final state that cancelling the invoice leads to.
type Ending string

// The endings.
const (
	EndCancelled Ending = "cancelled"
	EndExpired   Ending = "expired"
	EndRefunded  Ending = "refunded"
)

// State is one of the states below.
type State interface {
	StateName() string
	offer() Offer
}

// The states.
type (
	// Offered: agreed; the hold invoice may not exist yet.
	Offered struct{ Offer }
	// InvoiceMade: the client may check and show the wrapped invoice.
	InvoiceMade struct{ Offer }
	// Accepted: the whole set is held; its incoming channels are checked and
	// the wallet is awaited.
	Accepted struct {
		Offer
		Held
		// Safe says that every incoming channel is safe (law 12).
		Safe     bool      `json:"safe,omitempty"`
		Deadline time.Time `json:"deadline"`
	}
	// Opening: a channel is being opened for the payment.
	Opening struct {
		Offer
		Held
		OpeningID string    `json:"opening_id"`
		Deadline  time.Time `json:"deadline,omitzero"`
	}
	// Paying: a payment was, or is about to be, handed to lnd.
	Paying struct {
		Offer
		Held
		Route
	}
	// PaymentUnknown: as Paying, but the call's outcome was cut off; only
	// TrackPaymentV2 resolves it.
	PaymentUnknown struct {
		Offer
		Held
		Route
		Since time.Time `json:"since"`
	}
	// Settling: the wallet was paid, the preimage is stored; the hold invoice
	// is being settled with it, again and again until it is.
	Settling struct {
		Offer
		Held
		Route
		Preimage lsp.Secret `json:"preimage"`
	}
	// Cancelling: nothing is in flight; the hold invoice is being cancelled.
	Cancelling struct {
		Offer
		Ending Ending     `json:"ending"`
		Reason lsp.Reason `json:"reason"`
	}
	// Settled: final; both got what was agreed.
	Settled struct {
		Offer
		Held
		Route
		FeeEarnedMsat ln.Msat   `json:"fee_earned_msat"`
		At            time.Time `json:"at"`
	}
	// Refunded: final; the payer has the money back.
	Refunded struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
	// Expired: final; nobody paid in time.
	Expired struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
	// Cancelled: final; withdrawn before it was paid.
	Cancelled struct {
		Offer
		Reason lsp.Reason `json:"reason"`
	}
	// Lost: final, and never reached unless the node broke law 4's ground: the
	// wallet was paid and the hold invoice was gone. A person must look; the
	// preimage is kept for a claim on chain.
	Lost struct {
		Offer
		Held
		Route
		Preimage lsp.Secret `json:"preimage"`
		Reason   lsp.Reason `json:"reason"`
	}
)

func (o Offer) offer() Offer { return o }

// StateName is the stable text under which the state is stored.
func (Offered) StateName() string        { return "offered" }
func (InvoiceMade) StateName() string    { return "invoice_made" }
func (Accepted) StateName() string       { return "accepted" }
func (Opening) StateName() string        { return "opening" }
func (Paying) StateName() string         { return "paying" }
func (PaymentUnknown) StateName() string { return "payment_unknown" }
func (Settling) StateName() string       { return "settling" }
func (Cancelling) StateName() string     { return "cancelling" }
func (Settled) StateName() string        { return "settled" }
func (Refunded) StateName() string       { return "refunded" }
func (Expired) StateName() string        { return "expired" }
func (Cancelled) StateName() string      { return "cancelled" }
func (Lost) StateName() string           { return "lost" }

// OfferOf is the offer behind a state, with its progress.
func OfferOf(s State) Offer { return s.offer() }

// Final reports that the offer has ended.
func Final(s State) bool {
	switch s.(type) {
	case Settled, Refunded, Expired, Cancelled, Lost:
		return true
	}
	return false
}

// InFlight reports that a payment of ours may be in flight: nothing upstream
// may be cancelled.
func InFlight(s State) bool {
	switch s.(type) {
	case Paying, PaymentUnknown, Settling:
		return true
	}
	return false
}
