package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// Elsewhere are coins of another wallet, a hardware wallet's for example. lnd can
// neither lease nor sign them: their wallet must leave them alone until the channel
// is confirmed, and signs what [Record.ToSign] gives.
type Elsewhere struct {
	// Psbt is a payment that the wallet made ready and did not sign.
	Psbt []byte
	// Change is the address for the rest; empty where the PSBT tells it.
	Change string
	// Since is a block at or before those that hold the coins; 0: a month ago.
	Since uint32
}

const (
	// aMonth is how far back coins are looked for, in blocks.
	aMonth = 30 * 144
	// findFor bounds the search for the blocks of all coins.
	findFor = 2 * time.Minute
)

// bring takes the coins of another wallet's PSBT for a record.
func (a *Agent) bring(ctx context.Context, r Record, from Elsewhere, rate ln.FeeRateSatPerKW) (Record, error) {
	info, err := a.ports.Chain.Info(ctx)
	if err != nil {
		return r, err
	}
	var change []byte
	if from.Change != "" {
		if change, err = funding.ScriptOf(from.Change, info.Network); err != nil {
			return r, errkind.Wrap(errkind.Invalid, err, err.Error())
		}
	}
	offered, err := funding.ReadOffered(from.Psbt, change)
	if err != nil {
		return r, err
	}
	r.Elsewhere, r.Own, r.FeeRate, r.ChangeScript = true, from.Psbt, rate, offered.ChangeScript
	since := from.Since
	if since == 0 {
		since = info.BlockHeight - min(info.BlockHeight, aMonth)
	}
	ctx, cancel := context.WithTimeout(ctx, findFor)
	defer cancel()
	for _, c := range offered.Coins {
		height, err := a.blockOf(ctx, c, max(since, 1))
		if err != nil {
			return r, err
		}
		r.Inputs = append(r.Inputs, collab.Input{Coin: c, Height: height})
	}
	r.MaxChainFee, err = ownFee(r, rate)
	return r, err
}

// blockOf is the block that holds a coin.
func (a *Agent) blockOf(ctx context.Context, c ln.Coin, since uint32) (height uint32, err error) {
	found, cancel := context.WithCancel(ctx)
	defer cancel()
	err = a.ports.Chain.WatchConf(found, c.Outpoint.TxID, c.PkScript, since, func(ev ln.ConfEvent) {
		if !ev.Reorged && height == 0 {
			height = ev.Height
			cancel()
		}
	})
	if height > 0 {
		return height, nil
	}
	if ctx.Err() != nil || err == nil {
		return 0, errkind.Newf(errkind.NotFound, "coin %s is in no block from %d on: where it is older, say so (--since), and where it is not confirmed, wait", c.Outpoint, since)
	}
	return 0, fmt.Errorf("look for the block of coin %s: %w", c.Outpoint, err)
}

// ToSign is what the other wallet is to sign; nil unless it is.
func (r Record) ToSign() []byte {
	if !r.Elsewhere || r.Phase != PhaseReady {
		return nil
	}
	raw, err := funding.ForSigner(r.Psbt, r.Own)
	if err != nil {
		return nil // check has read both
	}
	return raw
}

// ToTakeBack is a transaction that takes the coins of another wallet back, for it to
// sign and to broadcast: any other that spends one of them does as well. nil unless
// the signature has left.
func (r Record) ToTakeBack() []byte {
	if !r.Elsewhere || r.Phase != PhaseSigned {
		return nil
	}
	raw, err := funding.TakeBack(funding.Offered{Coins: r.coins(), ChangeScript: r.ChangeScript}, r.Own, r.FeeRate)
	if err != nil {
		return nil // coins that pay for a channel pay for less
	}
	return raw
}

func (r Record) coins() []ln.Coin {
	out := make([]ln.Coin, 0, len(r.Inputs))
	for _, in := range r.Inputs {
		out = append(out, in.Coin)
	}
	return out
}

// sign makes the wallet's signatures, or takes those of the wallet that has the
// coins: of exactly this transaction, and valid.
func (a *Agent) sign(ctx context.Context, r Record, elsewhere []byte) ([]byte, error) {
	switch {
	case r.Elsewhere && len(elsewhere) == 0:
		return nil, errkind.Newf(errkind.Conflict, "its coins are another wallet's: have that sign what `sluice-wallet fund export %s FILE` writes, and hand it over with --psbt", r.Key())
	case !r.Elsewhere && len(elsewhere) > 0:
		return nil, errkind.New(errkind.Invalid, "its coins are this wallet's, which signs by itself: leave --psbt out")
	case r.Elsewhere:
		ops := make([]ln.Outpoint, 0, len(r.Inputs))
		for _, in := range r.Inputs {
			ops = append(ops, in.Outpoint)
		}
		return funding.TakeSignatures(r.Psbt, elsewhere, ops)
	}
	raw, err := funding.ForSigner(r.Psbt, r.Own)
	if err != nil {
		return nil, err
	}
	signed, inputs, err := a.ports.Wallet.SignPsbt(ctx, raw)
	if err != nil {
		return nil, err
	}
	if inputs != len(r.Inputs) {
		return nil, fmt.Errorf("lnd signed %d inputs, and the wallet brought %d: nothing is handed over", inputs, len(r.Inputs))
	}
	return signed, nil
}

// lease keeps the coins of a record. Another wallet's cannot be kept, and those of a
// replacement are kept for what it replaces.
func (a *Agent) lease(ctx context.Context, r Record) error {
	if r.Elsewhere || r.Replaces != "" {
		return nil
	}
	for _, in := range r.Inputs {
		if err := a.ports.Wallet.LeaseCoin(ctx, r.leaseID(), in.Outpoint, leaseFor); err != nil {
			return err
		}
	}
	return nil
}
