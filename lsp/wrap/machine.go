package wrap

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "lsp/wrap"

// ErrTooLate answers Cancel while a payment to the wallet may be in flight.
var ErrTooLate = errkind.New(errkind.Conflict, "the wallet is being paid: the offer can no longer be cancelled, wait for the payment's outcome")

// Machine is the state machine of one wrapped invoice.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Offered{}, InvoiceMade{}, Accepted{}, Opening{}, Paying{}, PaymentUnknown{}, Settling{}, Cancelling{}, Settled{}, Refunded{}, Expired{}, Cancelled{}, Lost{}},
		Events:   []Event{Start{}, InvoiceAdded{}, InvoiceRefused{}, SetAccepted{}, IncomingChecked{}, WalletStatus{}, WalletOnline{}, OpeningUsable{}, OpeningFailed{}, PaymentSucceeded{}, PaymentFailed{}, PaymentNotSent{}, PaymentCutOff{}, PaymentMissing{}, PaidAfterAll{}, InvoiceSettled{}, InvoiceCanceled{}, NewBlock{}, Tick{}, Cancel{}},
		Effects:  []Effect{MakeInvoice{}, WatchInvoice{}, CheckIncoming{}, AskWallet{}, WakeWallet{}, OpenChannel{}, ReleaseOpening{}, AbandonOpening{}, Pay{}, TrackPayment{}, LookForPayment{}, SettleInvoice{}, CancelInvoice{}, Alarm{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// OpeningID names the n-th open (from 1) begun for an offer.
func OpeningID(offerID string, n uint32) string { return fmt.Sprintf("%s-open-%d", offerID, n) }

func deadline(s State) (time.Time, Event, bool) {
	var due time.Time
	switch s := s.(type) {
	case Offered:
		due = s.ExpiresAt
	case InvoiceMade:
		due = s.ExpiresAt
	case Accepted:
		due = s.Deadline
	case Opening:
		due = s.Deadline
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
