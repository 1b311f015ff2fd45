package opening

import (
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// live is an open whose transaction is signed: Signed, Published, Usable,
// Confirmed and Buried are all of this shape.
type live Signed

// ready: HTLCs may be entrusted to the channel.
func (l live) ready(tip uint32) bool {
	return l.Active && (l.ZeroConf || ln.Confirmations(l.ConfirmedHeight, tip) >= max(l.Confs, 1))
}

// stepLive never abandons: the signed bytes may be anywhere.
func stepLive(s State, l live, v Event) (State, []Effect, error) {
	_, signedOnly := s.(Signed)
	switch v := v.(type) {
	case Abandon:
		return nil, nil, ErrTooLate
	case FundingPublished:
		l.Trouble = lsp.Reason{}
		l, effects := l.public(nil)
		return l.settle(false, v.Height, effects)
	case PublishFailed:
		if l.ConfirmedHeight > 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		// It stays where it is and is tried again at the next block: what the
		// network refuses today (a low fee, an unseen parent) it may take then.
		l.Trouble = lsp.Because(lsp.ReasonOpenSlow, "the network does not take the funding transaction yet (%s): it is sent again with every block", clip(v.Text))
		return l.settle(signedOnly, v.Height, nil)
	case ChannelActive:
		l.Active, l.ChanID = true, v.ChanID
		return l.settle(signedOnly, v.Height, nil)
	case ChannelInactive:
		l.Active = false
		return l.settle(signedOnly, v.Height, nil)
	case FundingConfirmed:
		if v.ConfirmedHeight == 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		l.Spender, l.SpenderHeight, l.Trouble = ln.TxID{}, 0, lsp.Reason{}
		l, effects := l.public(nil)
		if l.ConfirmedHeight == 0 {
			effects = append(effects, notify(l, NoticeConfirmed))
		}
		l.ConfirmedHeight = v.ConfirmedHeight
		return l.settle(false, v.Height, effects)
	case FundingReorged:
		var effects []Effect
		if l.ConfirmedHeight > 0 {
			effects = append(effects, notify(l, NoticeReorged))
		}
		l.ConfirmedHeight, l.Spender, l.SpenderHeight = 0, ln.TxID{}, 0
		effects = append(effects, publish(l), watch(l))
		return l.settle(signedOnly, v.Height, effects)
	case FundingConflicted:
		l.ConfirmedHeight = 0
		l.Spender, l.SpenderHeight = v.Spender, v.SpenderHeight
		l.Trouble = lsp.Because(lsp.ReasonConflict, "transaction %s spends a coin of this channel's funding: unless a reorg undoes it the channel will never exist", v.Spender)
		return l.block(signedOnly, v.Height, 0)
	case NewBlock:
		return l.block(signedOnly, v.Height, v.TargetRate)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// public tells an owner that waits for it that the network has the transaction.
func (l live) public(effects []Effect) (live, []Effect) {
	if !l.TellPublished || l.ToldPublished {
		return l, effects
	}
	l.ToldPublished = true
	return l, append(effects, notify(l, NoticePublished))
}

// block is what every new tip does to an open that is not buried.
func (l live) block(signedOnly bool, tip uint32, target ln.FeeRateSatPerKW) (State, []Effect, error) {
	if l.SpenderHeight > 0 {
		if tip >= l.SpenderHeight && tip-l.SpenderHeight+1 >= max(l.BuriedConfs, 1) {
			reason := lsp.Because(lsp.ReasonConflict,
				"transaction %s spent a coin of this channel's funding and is buried: the channel can never exist. Find out who spent it, and abandon the channel in lnd once no HTLC depends on it", l.Spender)
			end := Conflicted{Plan: l.Plan, Coins: l.Coins, Unsigned: l.Unsigned, Link: l.Link, Tx: l.Tx, Reason: reason}
			n := notify(l, NoticeConflicted)
			n.Reason = reason
			return end, []Effect{ReleaseCoins{OpeningID: l.ID, LeaseID: l.LeaseID()}, n}, nil
		}
		return l.settle(signedOnly, tip, nil)
	}
	if l.ConfirmedHeight > 0 {
		return l.settle(signedOnly, tip, nil)
	}
	effects := []Effect{publish(l)}
	if l.lags(tip) && target > l.Selection.FeeRate && !signedOnly {
		// Asked again and again: lnd may have refused, or forgotten it.
		l.BumpHeight, l.BumpRate = tip, max(target, l.BumpRate)
		effects = append(effects, BumpFee{OpeningID: l.ID, LeaseID: l.LeaseID(), Change: l.ChangeOutpoint, PackageRate: l.BumpRate})
	}
	return l.settle(signedOnly, tip, effects)
}

// lags: it has waited long enough for a bump, and has a handle to bump with.
func (l live) lags(tip uint32) bool {
	since := max(l.SignedHeight, l.BumpHeight)
	return l.BumpAfterBlocks > 0 && since > 0 && l.Selection.HasChange() && !l.ChangeOutpoint.IsZero() &&
		tip >= since && tip-since >= l.BumpAfterBlocks
}

// settle names the state that the facts amount to. Being told "usable" is
// never taken back: a reorg leaves a zero-conf channel usable and any other
// one Published, its HTLCs where they are.
func (l live) settle(signedOnly bool, tip uint32, effects []Effect) (State, []Effect, error) {
	if signedOnly {
		return Signed(l), effects, nil
	}
	buried := l.ConfirmedHeight > 0 && ln.Confirmations(l.ConfirmedHeight, tip) >= max(l.BuriedConfs, 1)
	// A channel that was used while it was withheld may be closed by now: it is told
	// of all the same, and the open ends.
	if !l.Told && (l.ready(tip) || l.Withhold && buried) && l.SpenderHeight == 0 {
		l.Told = true
		effects = append(effects, notify(l, NoticeUsable))
	}
	switch {
	case l.Told && buried:
		return Buried(l), append(effects, ReleaseCoins{OpeningID: l.ID, LeaseID: l.LeaseID()}), nil
	case l.Told && l.ConfirmedHeight > 0:
		return Confirmed(l), effects, nil
	case l.Told && l.ZeroConf && l.SpenderHeight == 0:
		return Usable(l), effects, nil
	}
	return Published(l), effects, nil
}

func publish(l live) Effect {
	label := "sluice open " + l.ID
	if l.Batch != "" {
		label = "sluice batch " + l.Batch
	}
	return Publish{OpeningID: l.ID, Raw: l.Raw, Label: label}
}

func watch(l live) Effect {
	inputs := make([]ln.Outpoint, 0, len(l.Selection.Inputs))
	for _, coin := range l.Selection.Inputs {
		inputs = append(inputs, coin.Outpoint)
	}
	return WatchChain{OpeningID: l.ID, Outpoint: l.Outpoint, Inputs: inputs, SinceHeight: l.SignedHeight}
}

func notify(l live, n Notice) NotifyOwner {
	return NotifyOwner{OpeningID: l.ID, Owner: l.Owner, Notice: n, Outpoint: l.Outpoint, ChanID: l.ChanID}
}
