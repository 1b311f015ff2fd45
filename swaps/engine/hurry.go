package engine

import (
	"bytes"
	"context"
	"errors"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// bumpHtlc asks lnd's sweeper for a child that lifts a funding transaction to the rate, and
// what others of the gateway built on its change. lnd prices the child alone.
func (e *Engine) bumpHtlc(ctx context.Context, id string, f out.BumpHtlc) error {
	log := e.log.With(zap.String("swap", id))
	txs, err := e.node.Records.Transactions(ctx, int32(e.moment().Height)) //nolint:gosec // a height
	if err != nil {
		return err
	}
	l, ok := liftOf(f.Tx, txs)
	if !ok {
		log.Warn("a swap's transaction cannot be hurried now: what was built on it has no change")
		return nil
	}
	rate, budget, err := l.child(min(f.PackageRate, e.cfg.Ceiling), f.MostSat)
	if err != nil || rate == 0 {
		return err
	}
	err = leases.ForChild(ctx, e.node.Coins, f.LeaseID, l.change)
	if errors.Is(err, ln.ErrLeased) {
		log.Warn("another transaction is being built on a swap's change: it is hurried once that is there")
		return nil
	}
	if err != nil {
		return err
	}
	err = e.node.Chain.BumpFee(ctx, l.change, rate, budget)
	if err != nil && !errors.Is(err, ln.ErrUnavailable) {
		log.Warn("lnd would not bump a swap's transaction", zap.Error(err))
		return nil
	}
	return err
}

// lift is what a child is to pay for: transactions that spend each other's change, and
// the last one's change, which the child spends.
type lift struct {
	change              ln.Outpoint
	changeSat, minerSat ln.Sat
	weightWU            uint64
}

// child is its rate in sat per vbyte, and the most that it may pay, so that all pay the
// rate together; 0 where they do already.
func (l lift) child(rate ln.FeeRateSatPerKW, most ln.Sat) (perVByte uint64, budget ln.Sat, err error) {
	want, err := rate.Fee(l.weightWU + out.ChildWU)
	if err != nil || want <= l.minerSat || l.changeSat <= dustSat {
		return 0, 0, err
	}
	most = min(l.changeSat-dustSat, most)
	const vbytes = uint64(out.ChildWU+3) / 4
	perVByte = (uint64(want-l.minerSat) + vbytes - 1) / vbytes
	perVByte = min(perVByte, uint64(most)/(vbytes+2))
	// lnd's sweeper wants a budget that leaves the rate room to rise.
	return perVByte, min(most, ln.Sat(2*perVByte*vbytes)), nil
}

// maxChain is the longest chain of unconfirmed transactions that nodes take.
const maxChain = 25

// liftOf follows a funding transaction's change through the wallet's unconfirmed
// transactions. What pays the wallet alone is the child of an earlier bump, which lnd
// replaces.
func liftOf(tx out.Tx, txs []ln.WalletTx) (lift, bool) {
	spender := make(map[ln.Outpoint]ln.WalletTx)
	for _, t := range txs {
		if t.Confirmations > 0 || !t.PaysOthers() {
			continue
		}
		for _, op := range t.Spends {
			spender[op] = t
		}
	}
	l := lift{change: tx.ChangeOutpoint, changeSat: tx.ChangeSat, minerSat: tx.MinerSat, weightWU: tx.WeightWU}
	for range maxChain {
		next, spent := spender[l.change]
		if !spent {
			return l, true
		}
		var raw wire.MsgTx
		if err := raw.Deserialize(bytes.NewReader(next.RawTx)); err != nil {
			return lift{}, false
		}
		l.minerSat += next.FeeSat
		l.weightWU += uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&raw))) //nolint:gosec // a weight
		best := -1
		for i, o := range next.Outputs {
			if o.Ours && (best < 0 || o.ValueSat > next.Outputs[best].ValueSat) {
				best = i
			}
		}
		if best < 0 {
			return lift{}, false
		}
		l.change = ln.Outpoint{TxID: next.TxID, Index: uint32(best)} //nolint:gosec // an index
		l.changeSat = ln.Sat(next.Outputs[best].ValueSat)            //nolint:gosec // not negative
	}
	return lift{}, false
}
