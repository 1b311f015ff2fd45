package out

import (
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Event is one of the events below.
type Event interface{ EventName() string }

// Leg is one of the two payments.
type Leg string

// The legs.
const (
	LegSwap   Leg = "swap"
	LegPrepay Leg = "prepay"
)

// The events.
type (
	// Start begins the swap.
	Start struct{ swaps.Moment }
	// InvoicesMade answers MakeInvoices.
	InvoicesMade struct {
		swaps.Moment
		Invoices
	}
	// InvoicesRefused: the node will not make them, ever.
	InvoicesRefused struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// PaymentHeld: the node holds the whole payment. Unsafe says why its money
	// must not be accepted (law 12), if so.
	PaymentHeld struct {
		swaps.Moment
		Leg            Leg    `json:"leg"`
		EarliestExpiry uint32 `json:"earliest_expiry"`
		Unsafe         string `json:"unsafe,omitempty"`
	}
	// PaymentReleased: the node cancelled the invoice.
	PaymentReleased struct {
		swaps.Moment
		Leg Leg `json:"leg"`
	}
	// CancelAsked: the client, who proved to be the swap's, gives up.
	CancelAsked struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// HtlcFunded answers FundHtlc.
	HtlcFunded struct {
		swaps.Moment
		Tx
	}
	// FundingRefused: the wallet cannot, or it costs more than agreed.
	FundingRefused struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// PrepaySettled and PrepayLost answer SettlePrepay. Kept: the prepay was taken,
	// and then the node gave the swap payment back.
	PrepaySettled struct{ swaps.Moment }
	PrepayLost    struct {
		swaps.Moment
		Text string `json:"text"`
		Kept bool   `json:"kept,omitempty"`
	}
	// HtlcPublished and PublishFailed answer PublishHtlc.
	HtlcPublished struct{ swaps.Moment }
	PublishFailed struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// HtlcConfirmed, HtlcReorged: the funding transaction in the best chain.
	HtlcConfirmed struct {
		swaps.Moment
		ConfirmedHeight uint32 `json:"confirmed_height"`
	}
	HtlcReorged struct{ swaps.Moment }
	// HtlcSpent, SpendReorged: the contract's output in the best chain.
	HtlcSpent struct {
		swaps.Moment
		How         htlc.Spend    `json:"how"`
		By          ln.TxID       `json:"by"`
		SpentHeight uint32        `json:"spent_height"`
		FeeSat      ln.Sat        `json:"fee_sat,omitempty"`
		Preimage    *swaps.Secret `json:"preimage,omitempty"`
	}
	SpendReorged struct{ swaps.Moment }
	// CoinTaken, CoinBack: another transaction in the best chain spends a coin of
	// the funding transaction, or none does any more.
	CoinTaken struct {
		swaps.Moment
		By          ln.TxID `json:"by"`
		TakenHeight uint32  `json:"taken_height"`
	}
	CoinBack struct{ swaps.Moment }
	// PreimagePushed: the client sent it.
	PreimagePushed struct {
		swaps.Moment
		Preimage swaps.Secret `json:"preimage"`
	}
	// PaymentTaken: the node says that the swap payment is settled, and with what. It
	// does so whatever the database remembers.
	PaymentTaken struct {
		swaps.Moment
		Preimage swaps.Secret `json:"preimage"`
	}
	// SwapSettled and SwapUnsettled answer SettleSwap.
	SwapSettled   struct{ swaps.Moment }
	SwapUnsettled struct{ swaps.Moment }
	// RefundSigned and RefundRefused answer SignRefund.
	RefundSigned struct {
		swaps.Moment
		Refund Refund `json:"refund"`
	}
	RefundRefused struct {
		swaps.Moment
		Text string `json:"text"`
	}
	// InvoicesCancelled answers CancelInvoices.
	InvoicesCancelled struct{ swaps.Moment }
	// NewBlock carries the tip and what the chain asks now.
	NewBlock struct {
		swaps.Moment
		TargetRate ln.FeeRateSatPerKW `json:"target_rate_sat_per_kw,omitempty"`
	}
	// Tick is the time-out of waiting for the payments.
	Tick struct{ swaps.Moment }
)

// EventName is the stable text under which the event is stored.
func (Start) EventName() string             { return "start" }
func (InvoicesMade) EventName() string      { return "invoices_made" }
func (InvoicesRefused) EventName() string   { return "invoices_refused" }
func (PaymentHeld) EventName() string       { return "payment_held" }
func (PaymentReleased) EventName() string   { return "payment_released" }
func (CancelAsked) EventName() string       { return "cancel_asked" }
func (HtlcFunded) EventName() string        { return "htlc_funded" }
func (FundingRefused) EventName() string    { return "funding_refused" }
func (PrepaySettled) EventName() string     { return "prepay_settled" }
func (PrepayLost) EventName() string        { return "prepay_lost" }
func (HtlcPublished) EventName() string     { return "htlc_published" }
func (PublishFailed) EventName() string     { return "publish_failed" }
func (HtlcConfirmed) EventName() string     { return "htlc_confirmed" }
func (HtlcReorged) EventName() string       { return "htlc_reorged" }
func (HtlcSpent) EventName() string         { return "htlc_spent" }
func (SpendReorged) EventName() string      { return "spend_reorged" }
func (CoinTaken) EventName() string         { return "coin_taken" }
func (CoinBack) EventName() string          { return "coin_back" }
func (PreimagePushed) EventName() string    { return "preimage_pushed" }
func (PaymentTaken) EventName() string      { return "payment_taken" }
func (SwapSettled) EventName() string       { return "swap_settled" }
func (SwapUnsettled) EventName() string     { return "swap_unsettled" }
func (RefundSigned) EventName() string      { return "refund_signed" }
func (RefundRefused) EventName() string     { return "refund_refused" }
func (InvoicesCancelled) EventName() string { return "invoices_cancelled" }
func (NewBlock) EventName() string          { return "new_block" }
func (Tick) EventName() string              { return "tick" }
