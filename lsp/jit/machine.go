package jit

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "lsp/jit"

// ErrTooLate answers Cancel once the payment is being forwarded.
var ErrTooLate = errkind.New(errkind.Conflict, "the payment is already on its way to the wallet: it can no longer be cancelled, only the wallet can refuse it")

// Machine is the state machine of one offer.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Offered{}, Collecting{}, Opening{}, Mapping{}, Resuming{}, Forwarded{}, Paid{}, Refunded{}, Expired{}, Cancelled{}},
		Events:   []Event{Start{}, PartArrived{}, PartGone{}, PartRefused{}, WalletStatus{}, WalletOnline{}, OpeningUsable{}, OpeningFailed{}, Mapped{}, MapFailed{}, PayerAway{}, PartsResumed{}, PartSettled{}, PartFailed{}, NewBlock{}, Tick{}, DatabaseRestored{}, Cancel{}},
		Effects:  []Effect{AskWallet{}, WakeWallet{}, OpenChannel{}, ReleaseOpening{}, AbandonOpening{}, MapChannel{}, ResumeParts{}, RefuseParts{}, ReleaseSCID{}, WatchParts{}},
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
	case Collecting:
		due = s.Deadline
	case Opening:
		due = s.Deadline
	case Mapping:
		due = s.Deadline
	case Resuming:
		due = Forwarded(s).waitUntil()
	case Forwarded:
		due = s.waitUntil()
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
