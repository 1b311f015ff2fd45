package opening

import (
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/lsp"
)

// A channel that shares its funding transaction with others. The open is its own
// until the peer's commitment signature is there; then it waits for the batch. The
// batch's signature reaches all its channels in one transaction of the database, and
// so not one of them can leave a transaction that is signed: an open that has ended
// by then makes that transaction of the database fail as a whole.

func (s Joined) negotiate() Effect {
	return Negotiate{Plan: s.Plan, PendingID: s.PendingID(0)}
}

func stepJoined(s Joined, v Event) (State, []Effect, error) {
	now := s.PendingID(0)
	switch v := v.(type) {
	case OutputNamed:
		if v.PendingID != now || len(v.Script) == 0 || len(s.Script) > 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.Script = v.Script
		return s, []Effect{TellBatch{OpeningID: s.ID, Batch: s.Batch, News: BatchOutput, Script: s.Script}}, nil
	case FundingShared:
		if len(s.Script) == 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		if v.Outpoint.IsZero() || len(v.Psbt) == 0 || v.Share == nil || len(v.Selection.Inputs) == 0 {
			return nil, nil, fmt.Errorf("open %s: a shared funding transaction without outpoint, PSBT, coins or share", s.ID)
		}
		next := Built{Plan: s.Plan, Coins: v.Coins, Unsigned: v.Unsigned}
		return next, []Effect{Verify{OpeningID: s.ID, PendingID: now, Psbt: v.Psbt, Outpoint: v.Outpoint}}, nil
	case NegotiationLost:
		// Nothing was verified, and the other channels do not wait until the peer is
		// asked anew: the next batch has it again.
		e := openFailed(v.Text)
		e.spared = true
		return ended(s, e)
	case PeerGone:
		return ended(s, walletGone())
	}
	return negotiating(s, now, v)
}

// shareOf is the channel's part in a transaction of several, nil if it has its own.
func shareOf(s State) *Share {
	switch s := s.(type) {
	case Built:
		return s.Share
	case Unknown:
		return s.Share
	case Pending:
		return s.Share
	case Signed:
		return s.Share
	case Published:
		return s.Share
	case Usable:
		return s.Share
	case Confirmed:
		return s.Share
	case Buried:
		return s.Share
	case Conflicted:
		return s.Share
	}
	return nil
}

// SharedReason tells an open's owner that it ended for the sake of others.
func SharedReason() lsp.Reason {
	return lsp.Because(lsp.ReasonOpenFailed,
		"another channel that was to share the funding transaction did not come about: nothing was spent, and the others are tried again at once")
}
