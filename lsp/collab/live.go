package collab

import (
	"slices"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// live is an open whose transaction is complete: Signed, Published, Confirmed and
// Buried are all of this shape.
type live Signed

func liveOf(s State) (live, bool) {
	switch s := s.(type) {
	case Signed:
		return live(s), true
	case Published:
		return live(s), true
	case Confirmed:
		return live(s), true
	case Buried:
		return live(s), true
	case Conflicted:
		return live{Plan: s.Plan, Ours: s.Ours, JointTx: s.JointTx, Tx: s.Tx}, true
	}
	return live{}, false
}

// confirmed is the block that holds our transaction, 0 if none.
func (l live) confirmed() uint32 {
	for _, s := range l.Spends {
		if s.By == l.Funding.TxID {
			return s.Height
		}
	}
	return 0
}

// conflict is the oldest spend of an input by another transaction.
func (l live) conflict() (Spend, bool) {
	var oldest Spend
	for _, s := range l.Spends {
		if s.By != l.Funding.TxID && (oldest.Height == 0 || s.Height < oldest.Height) {
			oldest = s
		}
	}
	return oldest, oldest.Height > 0
}

// stepLive never gives up: the complete transaction may be anywhere. Only a block ends
// it, once whoever tells of it has looked whether the chain still has what was told of
// spends (NewBlock): each spend comes by a stream of its own, and after a reorg the news
// of one may come before that another is gone.
func stepLive(s State, l live, v Event) (State, []Effect, error) {
	_, signedOnly := s.(Signed)
	switch v := v.(type) {
	case Abort:
		return nil, nil, ErrTooLate
	case WalletSigned:
		return s, nil, nil
	case FundingPublished:
		l.Trouble = lsp.Reason{}
		return l.stand(false, nil)
	case PublishFailed:
		if l.confirmed() > 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		// What the network refuses today (a low fee) it may take at the next block.
		l.Trouble = lsp.Because(lsp.ReasonOpenSlow, "the network does not take the funding transaction yet (%s): it is sent again with every block", clip(v.Text))
		return l.stand(signedOnly, nil)
	case InputSpent:
		if v.Spend.Height == 0 || !l.spends(v.Spend.Input) {
			return nil, nil, fsm.Illegal(s, v)
		}
		l.Spends = append(l.without(v.Spend.Input), v.Spend)
		if v.Spend.By == l.Funding.TxID {
			l.Trouble, signedOnly = lsp.Reason{}, false
		} else {
			l.Trouble = lsp.Because(lsp.ReasonConflict, "transaction %s spends a coin of this channel's funding: unless a reorg undoes it the channel will never exist", v.Spend.By)
		}
		return l.stand(signedOnly, nil)
	case SpendReorged:
		if v.SpendHeight != 0 && !slices.Contains(l.Spends, Spend{Input: v.Input, By: v.By, Height: v.SpendHeight}) {
			return nil, nil, fsm.Illegal(s, v)
		}
		before := l.confirmed()
		l.Spends = l.without(v.Input)
		var effects []Effect
		if l.confirmed() == 0 && before > 0 {
			effects = append(effects, publish(l))
		}
		if _, conflicts := l.conflict(); !conflicts && l.Trouble.Code == lsp.ReasonConflict {
			l.Trouble = lsp.Reason{}
		}
		return l.stand(signedOnly, effects)
	case NewBlock:
		return l.block(signedOnly, v.Height, v.TargetRate)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func (l live) spends(op ln.Outpoint) bool {
	is := func(c ln.Coin) bool { return c.Outpoint == op }
	return slices.ContainsFunc(l.Gateway.Inputs, is) || slices.ContainsFunc(l.wallet().Inputs, is)
}

// without is a copy of the spends but that of one input.
func (l live) without(op ln.Outpoint) []Spend {
	var out []Spend
	for _, s := range l.Spends {
		if s.Input != op {
			out = append(out, s)
		}
	}
	return out
}

// block is what every new tip does.
func (l live) block(signedOnly bool, tip uint32, target ln.FeeRateSatPerKW) (State, []Effect, error) {
	_, conflicts := l.conflict()
	if l.confirmed() > 0 || conflicts {
		return l.settle(signedOnly, tip, nil)
	}
	effects := []Effect{publish(l)}
	if l.lags(tip) && target > l.Joint.FeeRate && !signedOnly {
		// Asked again and again: lnd may have refused, or forgotten it.
		l.BumpHeight, l.BumpRate = tip, max(target, l.BumpRate)
		effects = append(effects, BumpFee{
			ID: l.ID, LeaseID: l.LeaseID(), Change: l.GatewayChange, ChangeSat: l.Joint.Gateway.ChangeSat, ChangeScript: l.Gateway.ChangeScript,
			ParentFee: l.Joint.FeeSat, ParentWU: l.Joint.WeightWU, PackageRate: l.BumpRate,
		})
	}
	return l.settle(signedOnly, tip, effects)
}

// lags: it has waited long enough for a bump, and we have a change to bump with.
func (l live) lags(tip uint32) bool {
	since := max(l.SignedHeight, l.BumpHeight)
	return l.BumpAfterBlocks > 0 && since > 0 && !l.GatewayChange.IsZero() && tip >= since && tip-since >= l.BumpAfterBlocks
}

// settle ends what nothing can undo any more.
func (l live) settle(signedOnly bool, tip uint32, effects []Effect) (State, []Effect, error) {
	release := ReleaseCoins{ID: l.ID, LeaseID: l.LeaseID()}
	if spend, conflicts := l.conflict(); conflicts && ln.Confirmations(spend.Height, tip) >= max(l.BuriedConfs, 1) {
		reason := lsp.Because(lsp.ReasonConflict, "transaction %s spent a coin of this channel's funding and is buried: the channel can never exist", spend.By)
		// Where the wallet's coin was spent, nothing in that transaction is ours, and
		// lnd's wallet does not see it.
		return Conflicted{Plan: l.Plan, Ours: l.Ours, JointTx: l.JointTx, Tx: l.Tx, Reason: reason},
			append(effects, AbandonChannel{ID: l.ID, PendingID: l.PendingID(), Channel: l.Funding, Signed: true}, ForgetTx{ID: l.ID, TxID: l.Funding.TxID}, release), nil
	}
	if height := l.confirmed(); height > 0 && ln.Confirmations(height, tip) >= max(l.BuriedConfs, 1) {
		return Buried(l), append(effects, release), nil
	}
	return l.stand(signedOnly, effects)
}

// stand names the state that the facts amount to, none of which is final.
func (l live) stand(signedOnly bool, effects []Effect) (State, []Effect, error) {
	switch {
	case l.confirmed() > 0:
		return Confirmed(l), effects, nil
	case signedOnly:
		return Signed(l), effects, nil
	}
	return Published(l), effects, nil
}

func publish(l live) Effect {
	return Publish{ID: l.ID, Raw: l.Raw, Label: "sluice joint funding " + l.ID}
}

// watch follows all inputs. Ours were unspent when they were signed.
func watch(l live) Effect {
	inputs := slices.Clone(l.Inputs)
	for _, c := range l.Gateway.Inputs {
		inputs = append(inputs, Input{Coin: c, Height: l.SignedHeight})
	}
	return WatchInputs{ID: l.ID, Inputs: inputs}
}

// Doubtful are the spends by which an open may be over at this tip: they are looked up
// before it is told of it.
func Doubtful(s State, tip uint32) (out []Spend) {
	l, ok := liveOf(s)
	if !ok || Final(s) {
		return nil
	}
	for _, spend := range l.Spends {
		if ln.Confirmations(spend.Height, tip) >= max(l.BuriedConfs, 1) {
			out = append(out, spend)
		}
	}
	return out
}

// WatchOf is what an unfinished open follows on the chain, for whoever takes it
// up after a crash.
func WatchOf(s State) (WatchInputs, bool) {
	if l, ok := liveOf(s); ok && !Final(s) {
		return watch(l).(WatchInputs), true
	}
	switch s.(type) {
	case Choosing, Negotiating, Built, Ready, Countersigning:
		p := PlanOf(s)
		return WatchInputs{ID: p.ID, Inputs: p.Inputs}, true
	}
	return WatchInputs{}, false
}
