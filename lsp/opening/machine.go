package opening

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
)

// Name is the machine's name in the database.
const Name = "lsp/opening"

// askAgain is how long a peer is left alone that could not take the channel: an lnd is
// behind its chain for a second after a block.
const askAgain = 5 * time.Second

// ErrTooLate answers Abandon once the transaction is signed.
var ErrTooLate = errkind.New(errkind.Conflict, "the funding transaction is signed and may be public: the channel can only be closed once it is open")

// Machine is the state machine of one open.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Planned{}, Joined{}, Leased{}, Built{}, Unknown{}, Pending{}, Withheld{}, Released{}, Signed{}, Published{}, Usable{}, Confirmed{}, Buried{}, Rejected{}, Failed{}, Conflicted{}},
		Events:   []Event{Start{}, CoinsLeased{}, CoinsRefused{}, FundingBuilt{}, OutputNamed{}, FundingShared{}, PeerRejected{}, NegotiationFailed{}, NegotiationLost{}, PeerGone{}, FundingPending{}, NodeAnswered{}, FundingSigned{}, SigningFailed{}, FundingPublished{}, PublishFailed{}, ChannelActive{}, ChannelInactive{}, FundingConfirmed{}, FundingReorged{}, FundingConflicted{}, NewBlock{}, Tick{}, Abandon{}, Release{}, ChannelUse{}},
		Effects:  []Effect{LeaseCoins{}, Negotiate{}, Verify{}, AskNode{}, Sign{}, Publish{}, WatchChain{}, AskUse{}, Forget{}, AbandonChannel{}, ReleaseCoins{}, BumpFee{}, TellBatch{}, NotifyOwner{}},
		Terminal: Final,
		Deadline: deadline,
		Edges:    edges(),
	}
}

// deadline bounds an open until it is used or signed; afterwards only its owner or
// the chain ends it.
func deadline(s State) (time.Time, Event, bool) {
	if _, withheld := s.(Withheld); withheld || !CanAbandon(s) {
		return time.Time{}, nil, false
	}
	due := PlanOf(s).Deadline
	if l, ok := s.(Leased); ok && !l.AskAt.IsZero() {
		due = l.AskAt
	}
	t := Tick{}
	t.At = due
	return due, t, !due.IsZero()
}
