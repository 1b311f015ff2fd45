package out

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "swaps/out"

// ErrTooLate answers a cancellation once the funding transaction is signed.
var ErrTooLate = errkind.New(errkind.Conflict, "the swap's transaction is signed and may be public: it can no longer be cancelled")

// ErrRefunding answers a preimage that comes once a refund may be public.
var ErrRefunding = errkind.New(errkind.Conflict, "the swap has expired and its refund may be public: take the output with the preimage on chain, if it is still there")

// ErrNoOutput answers a preimage for an output that cannot be.
var ErrNoOutput = errkind.New(errkind.Conflict, "the swap's output cannot confirm as things stand: keep the preimage to yourself, the payment goes back")

// Machine is the state machine of one swap out.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Offered{}, Invoiced{}, Funding{}, Funded{}, Published{}, Refunding{}, Revealed{}, Settled{}, Cancelling{}, Cancelled{}, Succeeded{}, Refunded{}, Lost{}},
		Events:   []Event{Start{}, InvoicesMade{}, InvoicesRefused{}, PaymentHeld{}, PaymentReleased{}, CancelAsked{}, HtlcFunded{}, FundingRefused{}, PrepaySettled{}, PrepayLost{}, HtlcPublished{}, PublishFailed{}, HtlcConfirmed{}, HtlcReorged{}, HtlcSpent{}, SpendReorged{}, CoinTaken{}, CoinBack{}, PreimagePushed{}, PaymentTaken{}, SwapSettled{}, SwapUnsettled{}, RefundSigned{}, RefundRefused{}, InvoicesCancelled{}, NewBlock{}, Tick{}},
		Effects:  []Effect{MakeInvoices{}, WatchInvoices{}, FundHtlc{}, SettlePrepay{}, PublishHtlc{}, WatchHtlc{}, BumpHtlc{}, SettleSwap{}, SignRefund{}, PublishRefund{}, CancelInvoices{}, ReleaseCoins{}, ForgetTxs{}, Alarm{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// deadline bounds the wait for both payments. Funding is bounded by the
// wallet's answer; afterwards only the chain ends a swap.
func deadline(s State) (time.Time, Event, bool) {
	switch s.(type) {
	case Offered, Invoiced:
	default:
		return time.Time{}, nil, false
	}
	t := Tick{}
	t.At = PlanOf(s).AcceptBy
	return t.At, t, !t.At.IsZero()
}
