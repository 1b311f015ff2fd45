package opening

import (
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// Step decides. It is pure; see fsm.Machine.
func Step(s State, v Event) (State, []Effect, error) {
	switch s := s.(type) {
	case Planned:
		return stepPlanned(s, v)
	case Joined:
		return stepJoined(s, v)
	case Leased:
		return stepLeased(s, v)
	case Built:
		return stepBuilt(s, v)
	case Unknown:
		return stepUnknown(s, v)
	case Pending:
		return stepPending(s, v)
	case Withheld:
		return stepWithheld(s, v)
	case Released:
		return stepReleased(s, v)
	case Signed:
		return stepLive(s, live(s), v)
	case Published:
		return stepLive(s, live(s), v)
	case Usable:
		return stepLive(s, live(s), v)
	case Confirmed:
		return stepLive(s, live(s), v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepPlanned(s Planned, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		if s.Batch != "" {
			next := Joined{Plan: s.Plan}
			return next, []Effect{next.negotiate()}, nil
		}
		return s, []Effect{LeaseCoins{OpeningID: s.ID, LeaseID: s.LeaseID(), CapacitySat: s.CapacitySat, FeeRate: s.FeeRate, MaxFeeSat: s.MaxFeeSat}}, nil
	case CoinsLeased:
		if v.Selection.FundingSat != s.CapacitySat || len(v.Selection.Inputs) == 0 {
			return nil, nil, fmt.Errorf("open %s: coins for %d sat were leased, not for its %d sat", s.ID, v.Selection.FundingSat, s.CapacitySat)
		}
		next := Leased{Plan: s.Plan, Coins: Coins{Selection: v.Selection, ChangeScript: v.ChangeScript}}
		return next, []Effect{negotiate(next)}, nil
	case CoinsRefused:
		if v.FeeSat > 0 {
			return ended(s, ending{temporary: true, reason: lsp.Because(lsp.ReasonChainFees,
				"the funding transaction would pay %s (%s), more than the %s that the agreed opening fee bears: the payment went back; try again in about 10 minutes", v.FeeSat, v.Text, s.MaxFeeSat)})
		}
		return ended(s, ending{temporary: true, reason: lsp.Because(lsp.ReasonCoinsShort,
			"the gateway has too few free coins to open the channel: the payment went back; try again later")})
	}
	return early(s, v)
}

func stepLeased(s Leased, v Event) (State, []Effect, error) {
	now := s.PendingID(s.Negotiation)
	switch v := v.(type) {
	case FundingBuilt:
		if v.PendingID != now || !s.AskAt.IsZero() {
			// A negotiation that was cut off and cancelled: not ours any more. Or one
			// that was not begun.
			return nil, nil, fsm.Illegal(s, v)
		}
		if v.Outpoint.IsZero() || len(v.Psbt) == 0 {
			return nil, nil, fmt.Errorf("open %s: a funding transaction without outpoint or PSBT", s.ID)
		}
		next := Built{Plan: s.Plan, Coins: s.Coins, Unsigned: v.Unsigned}
		// An owner that waits for the transaction to be public is in no hurry, and may
		// not want it any more when it is to be signed.
		ahead := !s.Withhold && !s.TellPublished
		return next, []Effect{Verify{OpeningID: s.ID, PendingID: now, Psbt: v.Psbt, Outpoint: v.Outpoint, SignAhead: ahead}}, nil
	case NegotiationLost:
		if !s.AskAt.IsZero() {
			return s, nil, nil
		}
		// Nothing was verified, so lnd holds no commitment: asking again with
		// the same coins is safe once the old shim is cancelled.
		if s.Negotiation+1 >= max(s.MaxNegotiations, 1) {
			return ended(s, openFailed(v.Text))
		}
		s.Negotiation++
		return s, []Effect{negotiate(s)}, nil
	case PeerGone:
		return ended(s, walletGone())
	case PeerRejected:
		// Nothing was built, so the same coins can be offered to it once more.
		at := v.At.Add(askAgain)
		if v.PendingID != now || !v.NotNow || s.Negotiation+1 >= s.MaxNegotiations || !at.Before(s.Deadline) {
			break
		}
		s.Negotiation++
		s.AskAt = at
		return s, nil, nil
	case Tick:
		if s.AskAt.IsZero() || v.At.Before(s.AskAt) || !v.At.Before(s.Deadline) {
			break
		}
		s.AskAt = time.Time{}
		return s, []Effect{negotiate(s)}, nil
	}
	return negotiating(s, now, v)
}

func stepBuilt(s Built, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case FundingPending:
		if v.Outpoint != s.Outpoint {
			return nil, nil, otherOutpoint(s.ID, s.Outpoint, v.Outpoint)
		}
		return committed(Pending(s))
	case ChannelActive:
		s.Active, s.ChanID = true, v.ChanID
		return committed(Pending(s))
	case NegotiationLost, PeerGone:
		return Unknown(s), []Effect{askNode(Unknown(s))}, nil
	}
	return negotiating(s, s.PendingID(s.Negotiation), v)
}

func stepUnknown(s Unknown, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case NodeAnswered:
		switch v.Presence {
		case PresenceAbsent:
			return ended(s, ending{temporary: true, reason: lsp.Because(lsp.ReasonOpenCutOff,
				"the channel's negotiation was cut off and the node does not know the channel: nothing was spent; try again")})
		case PresenceActive:
			s.Active, s.ChanID = true, v.ChanID
		case PresencePending:
		default:
			return nil, nil, fmt.Errorf("open %s: presence %q is not known", s.ID, v.Presence)
		}
		return committed(Pending(s))
	case FundingPending:
		if v.Outpoint != s.Outpoint {
			return nil, nil, otherOutpoint(s.ID, s.Outpoint, v.Outpoint)
		}
		return committed(Pending(s))
	case ChannelActive:
		s.Active, s.ChanID = true, v.ChanID
		return committed(Pending(s))
	case NegotiationLost:
		return s, []Effect{askNode(s)}, nil
	}
	return negotiating(s, s.PendingID(s.Negotiation), v)
}

func stepPending(s Pending, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case FundingSigned:
		if s.Withhold {
			return nil, nil, fsm.Illegal(s, v)
		}
		return signed(Signed{Plan: s.Plan, Coins: s.Coins, Unsigned: s.Unsigned, Link: s.Link}, v)
	case SigningFailed:
		if s.Withhold {
			return nil, nil, fsm.Illegal(s, v)
		}
		return ended(s, openFailed("the wallet would not sign the funding transaction: "+v.Text))
	case NodeAnswered:
		if v.Presence == PresenceAbsent {
			return ended(s, openFailed("the node has lost the channel before it was funded"))
		}
		if v.Presence == PresenceActive {
			s.Active, s.ChanID = true, v.ChanID
		}
		return s.withhold()
	case ChannelActive:
		s.Active, s.ChanID = true, v.ChanID
		return s.withhold()
	case ChannelInactive:
		s.Active = false
		return s, nil, nil
	case FundingPending:
		if v.Outpoint == s.Outpoint {
			// lnd's word of the channel came first.
			return nil, nil, fsm.Repeated(s, v)
		}
	}
	return early(s, v)
}

// committed: both sides hold the other's commitment signature. The transaction is
// signed at once, unless it is withheld.
func committed(s Pending) (State, []Effect, error) {
	if s.Withhold {
		return s.withhold()
	}
	if s.Batch != "" {
		// It signs for all its channels, or for none.
		return s, []Effect{TellBatch{OpeningID: s.ID, Batch: s.Batch, News: BatchPending, Outpoint: s.Outpoint}}, nil
	}
	return s, []Effect{sign(s)}, nil
}

// signed stores the transaction, if it is the one that the commitments are for.
func signed(next Signed, v FundingSigned) (State, []Effect, error) {
	if v.TxID != next.Outpoint.TxID || len(v.Raw) == 0 {
		return nil, nil, fmt.Errorf("open %s: the signed transaction is %s, but the commitments are for %s: it must not be published", next.ID, v.TxID, next.Outpoint.TxID)
	}
	next.Tx = Tx{Raw: v.Raw, SignedHeight: v.Height}
	return next, []Effect{publish(live(next)), watch(live(next)), notify(live(next), NoticeSigned)}, nil
}

// negotiating is what the states have in common in which the peer may say no, or lnd that
// the negotiation of that id has failed. One of an earlier id was cut off and cancelled.
func negotiating(s State, now ln.PendingChanID, v Event) (State, []Effect, error) {
	var (
		id ln.PendingChanID
		e  ending
	)
	switch v := v.(type) {
	case PeerRejected:
		id, e = v.PendingID, rejected(v)
	case NegotiationFailed:
		id, e = v.PendingID, openFailed(v.Text)
	default:
		return early(s, v)
	}
	if id != now {
		return nil, nil, fsm.Illegal(s, v)
	}
	return ended(s, e)
}

// early is what every state before Signed has in common: it may be given up.
func early(s State, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Tick:
		if v.At.Before(PlanOf(s).Deadline) {
			return nil, nil, fsm.Illegal(s, v)
		}
		return ended(s, ending{temporary: true, reason: lsp.Because(lsp.ReasonOpenSlow,
			"the channel was not ready to be funded in time: the open was given up and costs nothing; try again")})
	case Abandon:
		return ended(s, ending{temporary: true, reason: v.Reason, spared: v.Spared})
	}
	return nil, nil, fsm.Illegal(s, v)
}

// ending says how an open that was never signed ends.
type ending struct {
	reason    lsp.Reason
	rejected  string
	byPeer    bool
	temporary bool
	spared    bool
}

func rejected(v PeerRejected) ending {
	e := ending{byPeer: true, rejected: v.Text, temporary: v.NotNow, reason: lsp.Because(lsp.ReasonWalletRejected,
		"the wallet's node refused the channel (%q): check that sluice-wallet runs and accepts channels of this LSP", clip(v.Text))}
	if v.NotNow {
		e.reason.Text += ", that the node is synced to the chain, and that no other channel of it waits for its funding"
	}
	return e
}

func openFailed(text string) ending {
	return ending{temporary: true, reason: lsp.Because(lsp.ReasonOpenFailed,
		"the channel could not be opened (%s): nothing was spent; try again", clip(text))}
}

func walletGone() ending {
	return ending{temporary: true, reason: lsp.Because(lsp.ReasonWalletGone,
		"the wallet disconnected while its channel was being opened: bring it online and try again")}
}

// ended gives up an open of which no signed transaction was ever stored: the
// node forgets the channel, the coins are free again, the owner is told.
func ended(s State, e ending) (State, []Effect, error) {
	p := PlanOf(s)
	var (
		effects  []Effect
		outpoint ln.Outpoint
	)
	forget := func(negotiation uint32) {
		effects = append(effects, AbandonChannel{OpeningID: p.ID, CancelShims: shims(p, negotiation+1), Outpoint: outpoint})
	}
	switch s := s.(type) {
	case Joined:
		forget(0)
	case Leased:
		forget(s.Negotiation)
	case Built:
		outpoint = s.Outpoint
		forget(s.Negotiation)
	case Unknown:
		outpoint = s.Outpoint
		forget(s.Negotiation)
	case Pending:
		outpoint = s.Outpoint
		forget(s.Negotiation)
	case Withheld:
		outpoint = s.Outpoint
		forget(s.Negotiation)
	}
	if p.Batch == "" {
		// Also from Planned: a crash may have left leases without CoinsLeased.
		effects = append(effects, ReleaseCoins{OpeningID: p.ID, LeaseID: p.LeaseID()})
	} else {
		// The coins are the batch's: others may still be funded with them.
		effects = append(effects, TellBatch{OpeningID: p.ID, Batch: p.Batch, News: BatchLeft, Reason: e.reason})
	}
	n := NotifyOwner{
		OpeningID: p.ID, Owner: p.Owner, Notice: NoticeFailed, Reason: e.reason, Temporary: e.temporary, Spared: e.spared, Outpoint: outpoint,
	}
	if e.byPeer {
		n.Notice = NoticeRejected
		return Rejected{Plan: p, Text: e.rejected, Reason: e.reason, NotNow: e.temporary, Outpoint: outpoint}, append(effects, n), nil
	}
	return Failed{Plan: p, Reason: e.reason, Temporary: e.temporary, Spared: e.spared, Outpoint: outpoint}, append(effects, n), nil
}

func negotiate(s Leased) Effect {
	return Negotiate{Plan: s.Plan, PendingID: s.PendingID(s.Negotiation), CancelShims: shims(s.Plan, s.Negotiation), Selection: s.Selection, ChangeScript: s.ChangeScript}
}

func sign(s Pending) Effect {
	return Sign{OpeningID: s.ID, Psbt: s.Psbt, Outpoint: s.Outpoint}
}

func askNode(s Unknown) Effect {
	return AskNode{OpeningID: s.ID, PendingID: s.PendingID(s.Negotiation), Outpoint: s.Outpoint}
}

func shims(p Plan, n uint32) []ln.PendingChanID {
	var ids []ln.PendingChanID
	for i := range n {
		ids = append(ids, p.PendingID(i))
	}
	return ids
}

func otherOutpoint(id string, want, have ln.Outpoint) error {
	return fmt.Errorf("open %s: the node reports funding outpoint %s, but %s was built", id, have, want)
}

// clip bounds what is repeated of somebody else's words.
func clip(s string) string { return ln.Clip(s, 200) }
