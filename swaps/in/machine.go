package in

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "swaps/in"

// Machine is the state machine of one swap in.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Probing{}, ProbeHeld{}, Waiting{}, Opening{}, Paying{}, Paid{}, Claiming{}, Claimed{}, Failed{}, Lost{}},
		Events:   []Event{Start{}, ProbePassed{}, ProbeFailed{}, OutputFound{}, OutputReorged{}, NewBlock{}, ChannelUsable{}, ChannelNotOpened{}, PaymentSucceeded{}, PaymentFailed{}, PaymentCutOff{}, PaymentNotSent{}, PaymentMissing{}, KeyPushed{}, ClaimSigned{}, ClaimRefused{}, OutputSpent{}, SpendReorged{}, Tick{}},
		Effects:  []Effect{Probe{}, WatchOutput{}, OpenChannel{}, AbandonChannel{}, AskTip{}, ChannelPaid{}, Pay{}, TrackPayment{}, LookForPayment{}, SignClaim{}, PublishClaim{}, WatchSpend{}, ForgetTxs{}, Alarm{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

func deadline(s State) (time.Time, Event, bool) {
	var due time.Time
	switch s := s.(type) {
	case Probing:
		due = s.ProbeBy
	case Paid:
		if !s.KeyLate {
			due = s.KeyBy
		}
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
