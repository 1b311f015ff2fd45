package engine

import (
	"bytes"
	"context"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cpfp"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// bumpHtlc asks for a child that lifts a funding transaction to the rate, and what others
// of the gateway built on its change.
func (e *Engine) bumpHtlc(ctx context.Context, id string, f out.BumpHtlc) error {
	log := e.log.With(zap.String("swap", id))
	return cpfp.Ask(ctx, cpfp.Node{Records: e.node.Records, Coins: e.node.Coins, Sweeper: e.node.Chain}, log, cpfp.Request{
		Parent: parentOf(f.Tx), LeaseID: f.LeaseID, Target: f.PackageRate, TipHeight: e.moment().Height,
		Limits: cpfp.Limits{Ceiling: e.cfg.Ceiling, MostSat: f.MostSat},
	})
}

// parentOf has the change's script from the transaction that was signed.
func parentOf(tx out.Tx) cpfp.Parent {
	p := cpfp.Parent{Change: tx.ChangeOutpoint, ChangeSat: tx.ChangeSat, FeeSat: tx.MinerSat, WeightWU: tx.WeightWU}
	var raw wire.MsgTx
	if err := raw.Deserialize(bytes.NewReader(tx.Raw)); err == nil && int(p.Change.Index) < len(raw.TxOut) {
		p.ChangeScript = raw.TxOut[p.Change.Index].PkScript
	}
	return p
}
