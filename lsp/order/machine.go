package order

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "lsp/order"

// ErrTooLate answers Cancel once the funding transaction is signed.
var ErrTooLate = errkind.New(errkind.Conflict, "the order's channel is funded: it can no longer be cancelled")

// Machine is the state machine of one order.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name: Name,
		Step: Step,
		States: []State{
			Created{},
			Awaiting{},
			Paid{},
			Queued{},
			Opening{},
			Abandoning{},
			Funding{},
			Settling{},
			Active{},
			Closing{},
			Ending{},
			Ended{},
			Unwinding{},
			Failed{},
			Lost{},
		},
		Events: []Event{
			Start{},
			InvoiceAdded{},
			InvoiceRefused{},
			SetAccepted{},
			IncomingChecked{},
			CoinsSeen{},
			PeerStatus{},
			PeerOnline{},
			Join{},
			OpenAlone{},
			OpeningSigned{},
			OpeningPublished{},
			OpeningConfirmed{},
			OpeningReorged{},
			OpeningFailed{},
			InvoiceSettled{},
			InvoiceCanceled{},
			RefundSent{},
			RefundEnded{},
			RefundVoid{},
			ChannelClosed{},
			NewBlock{},
			Tick{},
			Cancel{},
		},
		Effects: []Effect{
			MakeInvoice{},
			WatchInvoice{},
			CheckIncoming{},
			AskPeer{},
			OpenChannel{},
			AbandonOpening{},
			SettleInvoice{},
			CancelInvoice{},
			KeepCoins{},
			FreeCoins{},
			Refund{},
			DropRefund{},
			WarnLease{},
			CloseChannel{},
			Alarm{},
		},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// OpeningID names the n-th open (from 1) begun for an order.
func OpeningID(orderID string, n uint32) string { return fmt.Sprintf("%s-open-%d", orderID, n) }

// RefundID names the n-th refund (from 1) of an order.
func RefundID(orderID string, n uint32) string { return fmt.Sprintf("%s-refund-%d", orderID, n) }

// LeaseID is the id under which the coins that pay an order are leased.
func LeaseID(orderID string) [32]byte { return sha256.Sum256([]byte("sluice/order/" + orderID)) }

func deadline(s State) (time.Time, Event, bool) {
	var due time.Time
	o := Of(s)
	switch s := s.(type) {
	case Created:
		due = o.payBy()
	case Awaiting:
		due = o.payBy()
	case Paid:
		due = s.Deadline
	case Opening:
		due = s.Deadline
	case Ending:
		due = o.watchUntil()
	case Unwinding:
		due = o.watchUntil()
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
