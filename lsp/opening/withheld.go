package opening

import (
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// A withheld funding. The client trusts the gateway to publish it: until then an
// open whose payment fails costs no chain fee and ties up no coin for longer than
// the payment takes. What the gateway must not do is forget a channel in which the
// client has money. It never rests on one message: the owner's Release is the
// fast way, and with every block (and at every start) lnd is asked what is on the
// channel.

// withhold has the owner use the channel once it can.
func (s Pending) withhold() (State, []Effect, error) {
	if !s.Withhold || !s.Active {
		return s, nil, nil
	}
	next := Withheld{Plan: s.Plan, Coins: s.Coins, Unsigned: s.Unsigned, Link: s.Link}
	return next, []Effect{NotifyOwner{
		OpeningID: s.ID, Owner: s.Owner, Notice: NoticeUsable, Outpoint: s.Outpoint, ChanID: s.ChanID, Withheld: true,
	}}, nil
}

func stepWithheld(s Withheld, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Release:
		if s.Forgetting {
			// If there is something to claim, lnd is asked to forget in vain.
			return s, nil, nil
		}
		return s.release()
	case Abandon:
		if s.Withdrawn = v.Reason; s.Withdrawn.IsZero() {
			s.Withdrawn = lsp.Because(lsp.ReasonCancelled, "the channel is not wanted any more")
		}
		return s.look()
	case NewBlock:
		return s.look()
	case ChannelUse:
		return s.used(v)
	case NodeAnswered:
		if v.Presence == PresenceActive {
			s.Active, s.ChanID = true, v.ChanID
		}
		return s, nil, nil
	case ChannelActive:
		s.Active, s.ChanID = true, v.ChanID
		return s, nil, nil
	case ChannelInactive:
		s.Active = false
		return s, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// look asks what is on the channel, unless lnd is being made to forget it.
func (s Withheld) look() (State, []Effect, error) {
	if s.Forgetting {
		return s, nil, nil
	}
	return s, []Effect{AskUse{OpeningID: s.ID, Outpoint: s.Outpoint, Emptying: !s.Withdrawn.IsZero()}}, nil
}

// used: a channel that is not wanted any more and that nothing is on is forgotten, and its
// open given up only then. lnd forwards over any channel of a peer: what comes over this
// one until it is forgotten is the client's money, and the channel is funded.
func (s Withheld) used(v ChannelUse) (State, []Effect, error) {
	switch {
	case v.Last && !s.Forgetting:
		return nil, nil, fsm.Illegal(s, v)
	case s.Forgetting && !v.Last:
		// Seen before lnd was asked to forget.
		return s, nil, nil
	}
	s.Forgetting = false
	switch {
	case v.Claimed, v.Htlcs > 0 && s.expires(v):
		return s.release()
	case v.Forgotten:
		return ended(s, ending{temporary: true, reason: s.Withdrawn})
	case v.Htlcs == 0 && !s.Withdrawn.IsZero():
		s.Forgetting = true
		return s, []Effect{Forget{OpeningID: s.ID, Outpoint: s.Outpoint}}, nil
	}
	return s, nil, nil
}

// expires: lnd will close the channel by force for an HTLC, and then waits for
// a commitment that cannot confirm, until the incoming HTLC's peer closes as well.
func (s Withheld) expires(v ChannelUse) bool {
	return v.Expiry > 0 && uint64(v.Height)+uint64(s.WithholdMarginBlocks) >= uint64(v.Expiry)
}

// release: from here on the owner is told again when the transaction is public,
// since it may have given up the channel.
func (s Withheld) release() (State, []Effect, error) {
	next := Released{Plan: s.Plan, Coins: s.Coins, Unsigned: s.Unsigned, Link: s.Link}
	return next, []Effect{next.sign()}, nil
}

func (s Released) sign() Effect {
	return Sign{OpeningID: s.ID, Psbt: s.Psbt, Outpoint: s.Outpoint}
}

func stepReleased(s Released, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case FundingSigned:
		return signed(Signed{Plan: s.Plan, Coins: s.Coins, Unsigned: s.Unsigned, Link: s.Link}, v)
	case SigningFailed:
		s.Trouble = lsp.Because(lsp.ReasonOpenSlow,
			"the wallet does not sign the funding transaction of a channel in which the client has money (%s): it is asked again with every block", ln.Clip(v.Text, 200))
		return s, nil, nil
	case NewBlock:
		return s, []Effect{s.sign()}, nil
	case Abandon:
		return nil, nil, ErrTooLate
	case Release, ChannelUse:
		return s, nil, nil
	case ChannelActive:
		s.Active, s.ChanID = true, v.ChanID
		return s, nil, nil
	case ChannelInactive:
		s.Active = false
		return s, nil, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}
