package refund

import (
	"fmt"
	"slices"
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
	case Sending:
		return stepSending(s, v)
	}
	return nil, nil, fsm.Illegal(s, v)
}

func stepPlanned(s Planned, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Start:
		return s, []Effect{Build{Plan: s.Plan}}, nil
	case Signed:
		if err := s.check(v.Tx); err != nil {
			return nil, nil, err
		}
		next := Sending{Plan: s.Plan, Txs: []Tx{v.Tx}}
		return next, []Effect{next.publish()}, nil
	case TooSmall:
		why := lsp.Because(lsp.ReasonAmountShort, "%s is too little to be sent back (%s): the gateway keeps it", s.OwedSat(), ln.Clip(v.Text, 200))
		return Kept{Plan: s.Plan, Reason: why}, []Effect{s.over(ln.TxID{})}, nil
	case CoinsGone:
		return void(s.Plan, coinsGone(), nil)
	}
	return nil, nil, fsm.Illegal(s, v)
}

// check keeps what a version may be: the client bears the fee and nothing else.
func (p Plan) check(t Tx) error {
	if sum, err := t.RefundSat.Add(t.FeeSat); err != nil || sum != p.OwedSat() || len(t.Raw) == 0 {
		return fmt.Errorf("refund %s: a transaction that returns %s and pays %s, of %s owed: it must not be published", p.ID, t.RefundSat, t.FeeSat, p.OwedSat())
	}
	return nil
}

func (p Plan) over(tx ln.TxID) Effect {
	return NotifyOrder{RefundID: p.ID, OrderID: p.OrderID, TxID: tx, Over: true}
}

func stepSending(s Sending, v Event) (State, []Effect, error) {
	switch v := v.(type) {
	case Signed:
		if err := s.check(v.Tx); err != nil {
			return nil, nil, err
		}
		if s.ConfirmedHeight > 0 || v.Tx.FeeSat <= s.latest().FeeSat {
			return s, nil, nil
		}
		s.Txs = append(slices.Clone(s.Txs), v.Tx)
		return s, []Effect{s.publish()}, nil
	case TooSmall:
		// It cannot pay more: it goes on as it is.
		return s, nil, nil
	case Published:
		s.Trouble = lsp.Reason{}
		if s.Sent == v.TxID {
			return s, nil, nil
		}
		s.Sent = v.TxID
		return s, []Effect{NotifyOrder{RefundID: s.ID, OrderID: s.OrderID, TxID: v.TxID}}, nil
	case PublishFailed:
		if s.ConfirmedHeight > 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.Trouble = lsp.Because(lsp.ReasonOpenSlow, "the network does not take the refund yet (%s): it is sent again with every block", ln.Clip(v.Text, 200))
		return s, nil, nil
	case Confirmed:
		if v.ConfirmedHeight == 0 || !slices.ContainsFunc(s.Txs, func(t Tx) bool { return t.TxID == v.TxID }) {
			return nil, nil, fsm.Illegal(s, v)
		}
		s.Confirmed, s.ConfirmedHeight, s.Trouble = v.TxID, v.ConfirmedHeight, lsp.Reason{}
		if ln.Confirmations(s.ConfirmedHeight, v.Height) >= max(s.BuriedConfs, 1) || s.Sent == v.TxID {
			return s.bury(v.Height)
		}
		s.Sent = v.TxID
		return s, []Effect{NotifyOrder{RefundID: s.ID, OrderID: s.OrderID, TxID: v.TxID}}, nil
	case Reorged:
		s.Confirmed, s.ConfirmedHeight = ln.TxID{}, 0
		return s, []Effect{s.publish()}, nil
	case Conflicted:
		if ln.Confirmations(v.SpenderHeight, v.Height) < max(s.BuriedConfs, 1) {
			return s, nil, nil
		}
		return void(s.Plan, lsp.Because(lsp.ReasonConflict, "transaction %s spent a coin that was to be returned, and is buried", v.Spender), v.Coins)
	case CoinsGone:
		if s.ConfirmedHeight > 0 {
			return nil, nil, fsm.Illegal(s, v)
		}
		// Its versions may come back with the coins, and confirm after all: they spend
		// what another refund of the same coins spends, and the chain takes one.
		return void(s.Plan, coinsGone(), nil)
	case NewBlock:
		if s.ConfirmedHeight > 0 {
			return s.bury(v.Height)
		}
		effects := []Effect{s.publish()}
		since := max(s.latest().Height, s.AskedHeight)
		if s.BumpAfterBlocks > 0 && v.Height >= since && v.Height-since >= s.BumpAfterBlocks && v.TargetRate > s.latest().FeeRate {
			var bump Effect
			s, bump = s.bump(v.Moment)
			effects = append(effects, bump)
		}
		return s, effects, nil
	case Tick:
		if s.ConfirmedHeight > 0 || v.At.Before(s.since().Add(bumpAfter)) {
			return nil, nil, fsm.Illegal(s, v)
		}
		next, bump := s.bump(v.Moment)
		return next, []Effect{bump}, nil
	}
	return nil, nil, fsm.Illegal(s, v)
}

// void ends a refund that returns nothing.
func void(p Plan, why lsp.Reason, spent []ln.Outpoint) (State, []Effect, error) {
	return Void{Plan: p, Reason: why}, []Effect{NotifyOrder{RefundID: p.ID, OrderID: p.OrderID, Void: true, Spent: spent}}, nil
}

func coinsGone() lsp.Reason {
	return lsp.Because(lsp.ReasonPaymentGone, "a payment that was to be returned with others left the chain: the others are returned without it")
}

func (s Sending) latest() Tx { return s.Txs[len(s.Txs)-1] }

// since is when something was last done about the fee.
func (s Sending) since() time.Time {
	if s.Asked.After(s.latest().At) {
		return s.Asked
	}
	return s.latest().At
}

// bump asks for a version that pays a quarter more; the network wants each
// replacement to pay for its own relay besides.
func (s Sending) bump(m lsp.Moment) (Sending, Effect) {
	s.Asked, s.AskedHeight = m.At, m.Height
	fee := s.latest().FeeSat
	return s, Build{Plan: s.Plan, MinFeeSat: fee + max(fee/4, 1)}
}

func (s Sending) bury(tip uint32) (State, []Effect, error) {
	if ln.Confirmations(s.ConfirmedHeight, tip) < max(s.BuriedConfs, 1) {
		return s, nil, nil
	}
	t, _ := Latest(s)
	return Returned{Plan: s.Plan, Tx: t}, []Effect{s.over(t.TxID)}, nil
}

func (s Sending) publish() Effect {
	t := s.latest()
	return Publish{RefundID: s.ID, OrderID: s.OrderID, TxID: t.TxID, Raw: t.Raw}
}
