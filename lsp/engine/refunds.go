package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/funding"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/refund"
)

// beginRefund creates the refund unless it exists, and tells what it has come to.
func (e *Engine) beginRefund(ctx context.Context, f order.Refund) ([]order.Event, error) {
	plan := refund.Plan{
		ID: f.RefundID, OrderID: f.OrderID, Script: f.Script, ToScript: f.ToScript, KeepSat: f.KeepSat, Reason: f.Reason,
		BumpAfterBlocks: e.cfg.BumpAfterBlocks, BuriedConfs: e.cfg.BuriedConfs,
	}
	for _, c := range f.Coins {
		plan.Coins = append(plan.Coins, refund.Coin{Outpoint: c.Outpoint, AmountSat: c.AmountSat})
	}
	_, err := e.refunds.Create(ctx, f.RefundID, refund.Planned{Plan: plan}, refund.Start{Moment: e.moment()})
	if !errors.Is(err, store.ErrUnique) {
		return nil, err
	}
	inst, err := e.refunds.Get(ctx, f.RefundID)
	if err != nil {
		return nil, err
	}
	var events []order.Event
	if tx, sent := refund.Latest(inst.State); sent {
		events = append(events, order.RefundSent{Moment: e.moment(), RefundID: f.RefundID, TxID: tx.TxID})
	}
	if _, void := inst.State.(refund.Void); void {
		// The order took it up when it was told, and asks no more.
		return nil, nil
	}
	if refund.Final(inst.State) {
		events = append(events, order.RefundEnded{Moment: e.moment(), RefundID: f.RefundID})
	}
	return events, nil
}

func (e *Engine) executeRefund(ctx context.Context, t fsm.Task[refund.Effect]) ([]refund.Event, error) {
	switch f := t.Effect.(type) {
	case refund.Build:
		return e.buildRefund(ctx, f)
	case refund.Publish:
		err := e.node.Chain.Publish(ctx, f.Raw, "sluice refund "+f.OrderID)
		if errors.Is(err, ln.ErrUnavailable) {
			return nil, err
		}
		if err != nil {
			return []refund.Event{refund.PublishFailed{Moment: e.moment(), Text: err.Error()}}, nil //nolint:nilerr // the refusal is the event
		}
		return []refund.Event{refund.Published{Moment: e.moment(), TxID: f.TxID}}, nil
	case refund.NotifyOrder:
		return nil, e.notifyRefunded(ctx, f)
	default:
		return nil, fmt.Errorf("the refund machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// buildRefund makes and signs one version. One that would be dust at today's
// rate is tried at the lowest.
func (e *Engine) buildRefund(ctx context.Context, f refund.Build) ([]refund.Event, error) {
	r := funding.Return{ToScript: f.Plan.ToScript, KeepSat: f.Plan.KeepSat}
	for _, c := range f.Plan.Coins {
		r.Coins = append(r.Coins, ln.Coin{Outpoint: c.Outpoint, AmountSat: c.AmountSat, PkScript: f.Plan.Script})
	}
	if r.KeepSat > 0 {
		var err error
		if r.KeepScript, err = e.changeScript(ctx); err != nil {
			return nil, err
		}
	}
	weight, err := r.WeightWU()
	if err != nil {
		return nil, err
	}
	rates := []ln.FeeRateSatPerKW{max(e.fees.current().Rate, e.cfg.Fees.Floor)}
	if f.MinFeeSat == 0 {
		rates = append(rates, e.cfg.Fees.Floor)
	}
	for _, rate := range rates {
		fee, err := rate.Fee(weight)
		if err != nil {
			return nil, err
		}
		if f.MinFeeSat > 0 {
			// A replacement pays for its own relay besides (BIP 125).
			relay, err := ln.MinFeeRate.Fee(weight)
			if err != nil {
				return nil, err
			}
			fee = max(fee, f.MinFeeSat+relay)
			most, err := e.cfg.Fees.Ceiling.Fee(weight)
			if err != nil {
				return nil, err
			}
			if fee > most {
				return []refund.Event{refund.TooSmall{Moment: e.moment(), Text: "it pays the ceiling already"}}, nil
			}
		}
		psbt, id, returned, err := funding.BuildReturn(r, fee)
		if errors.Is(err, funding.ErrDust) {
			continue
		}
		if err != nil {
			return nil, err
		}
		raw, err := e.node.Chain.FinalizePsbt(ctx, psbt)
		if err != nil {
			return nil, err
		}
		m := e.moment()
		return []refund.Event{refund.Signed{Moment: m, Tx: refund.Tx{
			TxID: id, Raw: raw, FeeSat: fee, RefundSat: returned, FeeRate: rateOf(fee, weight), At: m.At, Height: m.Height,
		}}}, nil
	}
	return []refund.Event{refund.TooSmall{Moment: e.moment(), Text: "less than the fee and the network's dust limit"}}, nil
}

func rateOf(fee ln.Sat, weight uint64) ln.FeeRateSatPerKW {
	return ln.FeeRateSatPerKW(uint64(fee) * 1000 / max(weight, 1))
}

func (e *Engine) notifyRefunded(ctx context.Context, f refund.NotifyOrder) error {
	if f.TxID != (ln.TxID{}) {
		_, err := e.orders.Send(ctx, f.OrderID, order.RefundSent{Moment: e.moment(), RefundID: f.RefundID, TxID: f.TxID})
		if err = e.passOn(err); err != nil {
			return err
		}
	}
	if f.Void {
		_, err := e.orders.Send(ctx, f.OrderID, order.RefundVoid{Moment: e.moment(), RefundID: f.RefundID, Spent: f.Spent})
		return e.passOn(err)
	}
	if !f.Over {
		return nil
	}
	_, err := e.orders.Send(ctx, f.OrderID, order.RefundEnded{Moment: e.moment(), RefundID: f.RefundID})
	return e.passOn(err)
}

// tellRefund finds what became of a refund's transactions.
func (e *Engine) tellRefund(ctx context.Context, id string, txs []ln.WalletTx) {
	inst, err := e.refunds.Get(ctx, id)
	if err != nil {
		return
	}
	s, live := inst.State.(refund.Sending)
	if !live {
		return
	}
	versions, coins := make(map[ln.TxID]bool), make(map[ln.Outpoint]bool)
	for _, t := range s.Txs {
		versions[t.TxID] = true
	}
	for _, c := range s.Coins {
		coins[c.Outpoint] = true
	}
	var ev refund.Event
	for _, t := range txs {
		switch {
		case versions[t.TxID]:
			if t.Confirmations > 0 && (s.Confirmed != t.TxID || s.ConfirmedHeight != uint32(t.Height)) { //nolint:gosec // a height
				ev = refund.Confirmed{Moment: e.moment(), TxID: t.TxID, ConfirmedHeight: uint32(t.Height)} //nolint:gosec // a height
			}
			if t.Confirmations == 0 && s.Confirmed == t.TxID && ev == nil {
				ev = refund.Reorged{Moment: e.moment()}
			}
		case t.Confirmations > 0:
			var spent []ln.Outpoint
			for _, op := range t.Spends {
				if coins[op] {
					spent = append(spent, op)
				}
			}
			if len(spent) > 0 {
				ev = refund.Conflicted{Moment: e.moment(), Spender: t.TxID, SpenderHeight: uint32(t.Height), Coins: spent} //nolint:gosec // a height
			}
		}
	}
	if ev != nil {
		tell(e, e.refunds, id, ev)
	}
}
