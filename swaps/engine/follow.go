package engine

import (
	"bytes"
	"context"
	"fmt"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// watchInvoice follows a hold invoice until it is settled or cancelled.
func (e *Engine) watchInvoice(id string, leg out.Leg, hash ln.Hash) {
	e.follow("invoice/"+hash.String(), func(ctx context.Context) {
		ctx, done := context.WithCancel(ctx)
		defer done()
		e.keep(ctx, "invoice", func(ctx context.Context) error {
			return e.node.Invoices.SubscribeInvoice(ctx, hash, func(inv ln.Invoice) {
				switch inv.State {
				case ln.InvoiceAccepted:
					if held, ok := e.judgeHeld(ctx, leg, inv); ok {
						e.tellOut(id, held)
					}
				case ln.InvoiceCanceled:
					e.tellOut(id, out.PaymentReleased{Moment: e.moment(), Leg: leg})
					done()
				case ln.InvoiceSettled:
					if leg == out.LegSwap {
						e.heardTaken(ctx, id, inv)
					}
					done()
				case ln.InvoiceOpen:
				}
			})
		})
	})
}

// heardTaken tells a swap that its payment is settled, unless it knows the preimage:
// then whoever settled it tells. A database that is an older copy of itself does not.
func (e *Engine) heardTaken(ctx context.Context, id string, inv ln.Invoice) {
	if inst, err := e.outs.Get(ctx, id); err == nil {
		if l, ok := out.LiveOf(inst.State); !ok || l.Preimage != nil {
			return
		}
	}
	if inv.Preimage.Hash() != inv.Hash {
		e.log.Error("lnd calls a swap's payment settled and does not say with what", zap.String("swap", id))
		return
	}
	e.tellOut(id, out.PaymentTaken{Moment: e.moment(), Preimage: swaps.NewSecret(inv.Preimage)})
}

// judgeHeld is law 12 (ln.DoubtOf). It asks until lnd answers, and there is no doubt that
// passes.
func (e *Engine) judgeHeld(ctx context.Context, leg out.Leg, inv ln.Invoice) (out.PaymentHeld, bool) {
	accepted := inv.HtlcsIn(ln.InvoiceAccepted)
	var why ln.Doubt
	ask, answered := context.WithCancel(ctx)
	defer answered()
	e.keep(ask, "channels", func(ctx context.Context) (err error) {
		if why, err = e.doubtOf(ctx, accepted); err == nil {
			answered()
		}
		return err
	})
	if ctx.Err() != nil {
		return out.PaymentHeld{}, false
	}
	held := out.PaymentHeld{Moment: e.moment(), Leg: leg, Unsafe: string(why)}
	for _, h := range accepted {
		if held.EarliestExpiry == 0 || h.Expiry < held.EarliestExpiry {
			held.EarliestExpiry = h.Expiry
		}
	}
	return held, true
}

// doubtOf is law 12; a doubt that passes is an error.
func (e *Engine) doubtOf(ctx context.Context, held []ln.InvoiceHtlc) (ln.Doubt, error) {
	channels, err := e.node.Events.ListChannels(ctx)
	if err != nil {
		return "", err
	}
	why, _ := ln.DoubtOf(held, channels, e.moment().Height)
	if err := why.TooEarly(); err != nil {
		return "", err
	}
	return why, nil
}

// watchHtlc follows the funding transaction and the contract's output.
func (e *Engine) watchHtlc(id string, f out.WatchHtlc) error {
	contract, err := htlc.New(f.Terms)
	if err != nil {
		return fmt.Errorf("the contract of swap %s: %w", id, err)
	}
	since := max(f.SinceHeight, 1)
	send := func(event out.Event) bool { return e.tellOut(id, event) }
	followChain(e, "confirmation/"+id, send, func() out.Event { return out.HtlcReorged{Moment: e.moment()} }, func(ctx context.Context, tell func(out.Event)) error {
		return e.node.Chain.WatchConf(ctx, f.Outpoint.TxID, contract.PkScript, since, func(ev ln.ConfEvent) {
			if ev.Reorged {
				tell(out.HtlcReorged{Moment: e.moment()})
				return
			}
			tell(out.HtlcConfirmed{Moment: e.momentAt(ev.Height), ConfirmedHeight: ev.Height})
		})
	})
	followChain(e, "spend/"+id, send, func() out.Event { return out.SpendReorged{Moment: e.moment()} }, func(ctx context.Context, tell func(out.Event)) error {
		return e.node.Chain.WatchSpend(ctx, f.Outpoint, contract.PkScript, since, func(ev ln.SpendEvent) {
			if ev.Reorged {
				tell(out.SpendReorged{Moment: e.moment()})
				return
			}
			spent, err := readSpend(contract, f.AmountSat, ev)
			if err != nil {
				e.log.Error("a swap's output was spent in a way that its contract does not have", zap.String("swap", id), zap.Error(err))
				return
			}
			spent.Moment = e.momentAt(ev.Height)
			tell(spent)
		})
	})
	e.watchCoins(id, f)
	return nil
}

// watchCoins follows the funding transaction's coins: spent by another transaction,
// they end it. lnd says that a spend is buried by ending the stream.
func (e *Engine) watchCoins(id string, f out.WatchHtlc) {
	for i, coin := range f.Coins[:min(len(f.Coins), len(f.Scripts))] {
		followChain(e, fmt.Sprintf("coin/%s/%d", id, i), func(event out.Event) bool { return e.tellOut(id, event) },
			func() out.Event { return out.CoinBack{Moment: e.moment()} },
			func(ctx context.Context, tell func(out.Event)) error {
				return e.node.Chain.WatchSpend(ctx, coin, f.Scripts[i], max(f.SinceHeight, 1), func(ev ln.SpendEvent) {
					if ev.Reorged {
						tell(out.CoinBack{Moment: e.moment()})
						return
					}
					var tx wire.MsgTx
					if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
						e.log.Error("lnd tells of a transaction that cannot be read", zap.String("swap", id), zap.Error(err))
						return
					}
					if by := ln.TxID(tx.TxHash()); by != f.Outpoint.TxID {
						tell(out.CoinTaken{Moment: e.momentAt(ev.Height), By: by, TakenHeight: ev.Height})
					}
				})
			})
	}
}

// followChain follows one thing on the chain until nothing can undo it, or the
// swap is over. When the stream broke off, what a reorg undid meanwhile would be
// told by nobody: so what was told before is forgotten first.
func followChain[V any](e *Engine, key string, send func(V) bool, forget func() V, watch func(ctx context.Context, tell func(V)) error) {
	e.follow(key, func(ctx context.Context) {
		ctx, done := context.WithCancel(ctx)
		defer done()
		tell := func(event V) {
			if !send(event) {
				done()
			}
		}
		again := false
		e.keep(ctx, key, func(ctx context.Context) error {
			if again {
				tell(forget())
			}
			again = true
			err := watch(ctx, tell)
			if err == nil {
				done()
			}
			return err
		})
	})
}

func readSpend(contract *htlc.Contract, amount ln.Sat, ev ln.SpendEvent) (out.HtlcSpent, error) {
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
		return out.HtlcSpent{}, fmt.Errorf("the spending transaction: %w", err)
	}
	if int(ev.InputIndex) >= len(tx.TxIn) {
		return out.HtlcSpent{}, fmt.Errorf("the spending transaction has no input %d", ev.InputIndex)
	}
	how, preimage, err := contract.Classify(tx.TxIn[ev.InputIndex].Witness)
	if err != nil {
		return out.HtlcSpent{}, err
	}
	spent := out.HtlcSpent{How: how, By: ln.TxID(tx.TxHash()), SpentHeight: ev.Height}
	if how == htlc.SpendSuccess {
		spent.Preimage = secretOf(preimage)
	}
	if len(tx.TxIn) == 1 {
		var paid ln.Sat
		for _, o := range tx.TxOut {
			paid += ln.Sat(o.Value) //nolint:gosec // not negative in a block
		}
		spent.FeeSat = amount - min(paid, amount)
	}
	return spent, nil
}

// reconcileOut takes up a swap that an earlier process left: what it waits for
// is followed again, and lnd tells the present state of each first.
func (e *Engine) reconcileOut(_ context.Context, id string, s out.State) ([]out.Event, error) {
	p := out.PlanOf(s)
	switch s.(type) {
	case out.Offered, out.Cancelling:
		return nil, nil // the effect that is pending runs again by itself
	}
	e.watchInvoice(id, out.LegSwap, p.Terms.Hash)
	e.watchInvoice(id, out.LegPrepay, p.PrepayHash())
	live, ok := out.LiveOf(s)
	if !ok {
		return nil, nil
	}
	// What is forgotten comes first: its effects follow the chain anew.
	if forget := out.ForgetChain(s, e.moment()); len(forget) > 0 {
		return forget, nil
	}
	return nil, e.watchHtlc(id, out.WatchHtlc{Terms: p.Terms, AmountSat: p.AmountSat, Outpoint: live.Outpoint, SinceHeight: live.SignedHeight, Coins: live.Inputs, Scripts: live.InputScripts})
}
