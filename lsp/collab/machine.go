package collab

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "lsp/collab"

// ErrTooLate answers Abort once the wallet's signatures, or ours, are out.
var ErrTooLate = errkind.New(errkind.Conflict, "the funding transaction is signed and may be public: the channel can only be closed once it is open")

// Machine is the state machine of one joint funding.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Checking{}, Choosing{}, Negotiating{}, Built{}, Ready{}, Countersigning{}, Signed{}, Published{}, Confirmed{}, Buried{}, Failed{}, Conflicted{}},
		Events:   []Event{Start{}, InputsChecked{}, InputsRefused{}, CoinsLeased{}, CoinsRefused{}, FundingBuilt{}, NegotiationEnded{}, FundingPending{}, WalletSigned{}, FundingSigned{}, SigningFailed{}, FundingPublished{}, PublishFailed{}, InputSpent{}, SpendReorged{}, NewBlock{}, Tick{}, Abort{}},
		Effects:  []Effect{CheckInputs{}, LeaseCoins{}, Negotiate{}, Verify{}, Sign{}, Publish{}, WatchInputs{}, AbandonChannel{}, ReleaseCoins{}, BumpFee{}, ForgetTx{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// deadline bounds an open until the wallet has signed; afterwards only our own
// wallet and the chain end it.
func deadline(s State) (time.Time, Event, bool) {
	due := PlanOf(s).NegotiateBy
	switch s := s.(type) {
	case Checking, Choosing, Negotiating, Built:
	case Ready:
		due = s.SignBy
	default:
		return time.Time{}, nil, false
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
