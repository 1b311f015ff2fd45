package swaps

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Moment is when an event happened.
type Moment = ln.Moment

// ReasonCode is the stable name of why a swap ended.
type ReasonCode string

// The reasons.
const (
	ReasonClientCancelled ReasonCode = "client_cancelled"
	ReasonInvoicesFailed  ReasonCode = "invoices_not_made"
	ReasonUnpaid          ReasonCode = "payments_not_held_in_time"
	ReasonReleased        ReasonCode = "payment_released_by_node"
	ReasonUnsafeIncoming  ReasonCode = "incoming_channel_not_safe"
	ReasonMargin          ReasonCode = "held_payment_expires_too_early"
	ReasonLate            ReasonCode = "too_late_to_publish"
	ReasonCoins           ReasonCode = "coins_short_or_fees_too_high"
	ReasonPrepayLost      ReasonCode = "prepay_lost"
	ReasonTimeout         ReasonCode = "client_never_revealed_the_preimage"
	ReasonProbe           ReasonCode = "probe_failed"
	ReasonOutputs         ReasonCode = "several_outputs"
	ReasonAmount          ReasonCode = "output_of_another_amount"
	ReasonPayment         ReasonCode = "payment_failed"
	ReasonNoDeposit       ReasonCode = "no_deposit_in_time"
	ReasonNoChannel       ReasonCode = "channel_not_opened"
	ReasonLost            ReasonCode = "money_lost"
	ReasonForeignSpend    ReasonCode = "funding_coin_spent_elsewhere"
)

// Reason is why something ended, for people and for counting.
type Reason struct {
	Code ReasonCode `json:"code"`
	Text string     `json:"text"`
}

// Because makes a reason.
func Because(code ReasonCode, format string, args ...any) Reason {
	return Reason{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Version is one of the transactions that were signed for the same output, and
// what it costs this swap: of a transaction that several swaps share, a part.
type Version struct {
	TxID   ln.TxID `json:"txid"`
	FeeSat ln.Sat  `json:"fee_sat"`
}

// AddVersion remembers a transaction once.
func AddVersion(versions []Version, v Version) []Version {
	if _, known := CostOf(versions, v.TxID); known {
		return versions
	}
	return append(versions[:len(versions):len(versions)], v)
}

// CostOf is what a transaction costs the swap, if it is one of its versions.
func CostOf(versions []Version, id ln.TxID) (ln.Sat, bool) {
	for _, v := range versions {
		if v.TxID == id {
			return v.FeeSat, true
		}
	}
	return 0, false
}

// Secret is a preimage inside a stored state.
type Secret = ln.Secret

// NewSecret keeps a preimage for storage.
func NewSecret(p ln.Preimage) Secret { return ln.NewSecret(p) }
