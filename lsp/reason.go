package lsp

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Moment is when an event happened.
type Moment = ln.Moment

// ReasonCode is the stable name of why something ended or was refused. It is
// stored, counted in metrics and returned by the API.
type ReasonCode string

// The reasons. What each means for the payer is decided by the machines.
const (
	ReasonNone            ReasonCode = ""
	ReasonWalletOffline   ReasonCode = "wallet_offline"
	ReasonWalletRejected  ReasonCode = "wallet_rejected_channel"
	ReasonWalletGone      ReasonCode = "wallet_disconnected_while_opening"
	ReasonWalletRefused   ReasonCode = "wallet_refused_payment"
	ReasonCoinsShort      ReasonCode = "gateway_coins_short"
	ReasonLimit           ReasonCode = "limit_reached"
	ReasonChainFees       ReasonCode = "chain_fees_too_high"
	ReasonNoConsent       ReasonCode = "wallet_did_not_agree_to_a_channel"
	ReasonPartMissing     ReasonCode = "part_missing"
	ReasonExtraPart       ReasonCode = "part_beyond_the_amount"
	ReasonTooManyParts    ReasonCode = "too_many_parts"
	ReasonOtherHash       ReasonCode = "other_payment_hash"
	ReasonFeeShort        ReasonCode = "fee_below_agreed"
	ReasonAmountShort     ReasonCode = "amount_below_agreed"
	ReasonAmountOver      ReasonCode = "amount_above_limit"
	ReasonSize            ReasonCode = "size_not_offered"
	ReasonPartTooSmall    ReasonCode = "part_below_htlc_minimum"
	ReasonCltv            ReasonCode = "cltv_too_short"
	ReasonExpiryNear      ReasonCode = "htlc_expiry_near"
	ReasonOfferExpired    ReasonCode = "offer_expired"
	ReasonCancelled       ReasonCode = "cancelled"
	ReasonOpenFailed      ReasonCode = "channel_open_failed"
	ReasonOpenCutOff      ReasonCode = "channel_open_cut_off"
	ReasonOpenSlow        ReasonCode = "channel_open_too_slow"
	ReasonNotMapped       ReasonCode = "channel_could_not_be_mapped"
	ReasonAttempts        ReasonCode = "attempts_used_up"
	ReasonNoRoom          ReasonCode = "no_room_in_channel"
	ReasonUnsafeIncoming  ReasonCode = "incoming_channel_not_safe"
	ReasonPaymentFailed   ReasonCode = "payment_to_wallet_failed"
	ReasonMargin          ReasonCode = "expiry_margin_too_small"
	ReasonInvoiceCanceled ReasonCode = "hold_invoice_cancelled_by_node"
	ReasonInvoiceFailed   ReasonCode = "hold_invoice_not_made"
	ReasonConflict        ReasonCode = "funding_conflict"
	ReasonPaymentGone     ReasonCode = "payment_left_the_chain"
	ReasonLost            ReasonCode = "paid_but_not_settled"
)

// Reason says why, to the operator and to the client alike: Text is a full
// sentence that contains no secret and tells the person what to do next.
type Reason struct {
	Code ReasonCode `json:"code,omitempty"`
	Text string     `json:"text,omitempty"`
}

// Because builds a Reason.
func Because(code ReasonCode, format string, args ...any) Reason {
	return Reason{Code: code, Text: fmt.Sprintf(format, args...)}
}

// IsZero reports that there is nothing to explain.
func (r Reason) IsZero() bool { return r.Code == ReasonNone && r.Text == "" }

func (r Reason) String() string {
	if r.Text == "" {
		return string(r.Code)
	}
	return r.Text
}
