package order

import (
	"slices"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// OrderState is bLIP-51's order_state.
type OrderState string

// The states of an order on the wire.
const (
	WireCreated   OrderState = "CREATED"
	WireCompleted OrderState = "COMPLETED"
	WireFailed    OrderState = "FAILED"
)

// PaymentState is bLIP-51's payment.state.
type PaymentState string

// The states of a payment on the wire.
const (
	ExpectPayment PaymentState = "EXPECT_PAYMENT"
	Hold          PaymentState = "HOLD"
	PaymentPaid   PaymentState = "PAID"
	Refunded      PaymentState = "REFUNDED"
)

// View is what a client is shown of an order. A way to pay that is not open to
// it is left out.
type View struct {
	State     OrderState
	Lightning PaymentState
	OnChain   PaymentState
	Channel   *Channel
}

// Show computes what a client is shown.
func Show(s State) View {
	o := Of(s)
	v := View{State: WireCreated}
	switch s.(type) {
	case Unwinding, Failed, Lost:
		v.State = WireFailed
	default:
		if o.Channel != nil {
			v.State, v.Channel = WireCompleted, o.Channel
		}
	}
	if o.Lightning != nil {
		v.Lightning = o.lightning(s)
	}
	if o.OnChain != nil {
		v.OnChain = o.onChain(s)
	}
	return v
}

func (o Order) lightning(s State) PaymentState {
	switch {
	case o.Settled:
		return PaymentPaid
	case o.InvoiceGone:
		return Refunded
	case o.PaidBy == PaidByLightning:
		return Hold
	case o.PaidBy == PaidByOnChain || !Undecided(s):
		// It is being cancelled.
		return Refunded
	}
	return ExpectPayment
}

func (o Order) onChain(s State) PaymentState {
	switch s.(type) {
	case Unwinding, Failed, Lost:
		// PAID until what was paid is on its way back.
		for _, c := range o.Coins {
			if !c.Gone && c.Height > 0 && c.RefundTx == (ln.TxID{}) && !c.RefundOver {
				return PaymentPaid
			}
		}
		return Refunded
	}
	switch o.PaidBy {
	case PaidByOnChain:
		return PaymentPaid
	case PaidByNobody:
		return ExpectPayment
	case PaidByLightning:
	}
	// The order was paid otherwise: what arrives here goes back.
	return Refunded
}

// ReasonOf is what a person should know about the state, in a sentence.
func ReasonOf(s State) lsp.Reason {
	switch s := s.(type) {
	case Created:
		return lsp.Because(lsp.ReasonNone, "the invoice is being made")
	case Awaiting:
		return lsp.Because(lsp.ReasonNone, "waiting for the client's payment")
	case Paid:
		return s.why(lsp.Because(lsp.ReasonNone, "paid; waiting for the client's node to connect"))
	case Queued:
		return lsp.Because(lsp.ReasonNone, "paid; waits for other orders to share its funding transaction, until block %d at the latest", s.UntilHeight)
	case Opening:
		return lsp.Because(lsp.ReasonNone, "paid; channel %s is being opened", OpeningID(s.ID, s.Opens))
	case Abandoning:
		return s.Reason
	case Funding:
		return lsp.Because(lsp.ReasonNone, "the funding transaction is signed and being published")
	case Settling:
		return lsp.Because(lsp.ReasonNone, "the channel is funded; the payment is being taken")
	case Active:
		return s.why(lsp.Because(lsp.ReasonNone, "the channel's lease runs"))
	case Closing:
		return lsp.Because(lsp.ReasonNone, "the lease is over; the channel is closed once the client's node agrees")
	case Ending:
		return s.Reason
	case Ended:
		return s.Reason
	case Unwinding:
		return s.Reason
	case Failed:
		return s.Reason
	case Lost:
		return s.Reason
	}
	return lsp.Reason{}
}

// HeldOf is what is held for the order by a hold invoice that is neither
// settled nor cancelled.
func HeldOf(s State) Held {
	o := Of(s)
	if Final(s) || o.Settled || o.InvoiceGone || o.PaidBy != PaidByLightning {
		return Held{}
	}
	return o.Held
}

// PriceOf is what the order costs in the way that it was paid, or may be.
func PriceOf(o Order) Price { return o.price() }

// Wants reports what an order that is not final waits for: its client's node, and
// the chain: for as long as its address is watched, and what was paid is on its way
// back.
func Wants(s State) (peer, chain bool) {
	o := Of(s)
	switch s.(type) {
	case Paid, Closing:
		peer = true
	}
	return peer, o.OnChain != nil && !Final(s) && (!o.Unwatched || slices.ContainsFunc(o.Coins, Coin.returning))
}

// WaitsUntil is the height until which an order waits for others at the latest; false
// if it does not wait.
func WaitsUntil(s State) (uint32, bool) {
	q, ok := s.(Queued)
	return q.UntilHeight, ok
}

// InBatch is the batch that an order's channel is being opened with; empty for none.
func InBatch(s State) string {
	if o, ok := s.(Opening); ok {
		return o.Batch
	}
	return ""
}

// Returning says that an order whose batch was undone is on its way back to those
// that wait.
func Returning(s State) bool {
	switch s := s.(type) {
	case Paid:
		return s.Safe && s.mayWait()
	case Opening:
		return s.Batch != ""
	}
	return false
}

// ChannelOf is the channel that an order has, and whether it should be listed by
// the node: its funding is confirmed, and nobody has said that it is closed.
func ChannelOf(s State) (op ln.Outpoint, listed bool) {
	o := Of(s)
	if o.Channel == nil {
		return ln.Outpoint{}, false
	}
	switch s.(type) {
	case Active, Closing:
		return o.Channel.Outpoint, o.Channel.ConfirmedHeight > 0
	}
	return o.Channel.Outpoint, false
}
