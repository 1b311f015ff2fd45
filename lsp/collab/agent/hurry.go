package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/cpfp"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// The transaction of a joint funding is never replaced by one of the same channel: another
// id would void the commitments. A child of the wallet's own change has a block take both.

const (
	// maxHurry bounds the rate that a person may ask for: more is a slip.
	maxHurry = 1_000
	// A child that costs more than a fiftieth of the channel, and more than cheapChild,
	// needs the person's own bound.
	hurryShare, cheapChild = 50, ln.Sat(20_000)
)

// Hurry asks for a child of the wallet's change.
type Hurry struct {
	// SatPerVByte is what transaction and child together shall pay.
	SatPerVByte uint64
	// MaxFeeSat is the most that the child may pay; 0 has the default.
	MaxFeeSat ln.Sat
}

// Child is what hurrying costs, and brings.
type Child struct {
	// ParentSatPerVByte is what the transaction pays by itself, Together what both pay.
	ParentSatPerVByte, TogetherSatPerVByte uint64
	FeeSat                                 ln.Sat
	// MostSat is the most that lnd may pay, where it has to raise the fee later.
	MostSat   ln.Sat
	ChangeSat ln.Sat
	Change    ln.Outpoint
	// Capped: the change holds too little for the rate that was asked for.
	Capped bool
	// satPerVByte is what lnd is told: it prices the child alone.
	satPerVByte uint64
}

// PlanHurry says what a child would cost. It asks lnd for nothing.
func (a *Agent) PlanHurry(ctx context.Context, key string, h Hurry) (Record, Child, error) {
	r, release, err := a.claim(ctx, key)
	if err != nil {
		return r, Child{}, err
	}
	defer release()
	c, err := a.plan(ctx, r, h)
	return r, c, err
}

// Hurry has lnd make the child with the next block. MaxFeeSat is what the person saw as
// the most, so that nothing dearer is made than was agreed to.
func (a *Agent) Hurry(ctx context.Context, key string, h Hurry) (Record, Child, error) {
	r, release, err := a.claim(ctx, key)
	if err != nil {
		return r, Child{}, err
	}
	defer release()
	c, err := a.plan(ctx, r, h)
	if err != nil {
		return r, c, err
	}
	before := r.Hurry
	if err := a.keepChange(ctx, r, c); err != nil {
		return r, c, err
	}
	// On disk before lnd is asked: lnd forgets the request when it ends before the next
	// block, and is asked again then.
	r.Hurry = &h
	if err := a.save(r); err != nil {
		return r, c, err
	}
	err = a.ports.Spender.BumpFee(ctx, c.Change, c.satPerVByte, c.MostSat)
	if err == nil || errors.Is(err, ln.ErrUnavailable) {
		return r, c, err
	}
	// Refused: nothing is made later of what the person was told is not.
	r.Hurry = before
	if before == nil {
		err = errors.Join(err, a.ports.Wallet.ReleaseCoin(ctx, r.leaseID(), c.Change))
	}
	return r, c, errors.Join(err, a.save(r))
}

// keepChange has nobody build on the change while its child is made.
func (a *Agent) keepChange(ctx context.Context, r Record, c Child) error {
	err := leases.ForChild(ctx, a.ports.Wallet, r.leaseID(), c.Change)
	if errors.Is(err, ln.ErrLeased) {
		return errkind.Wrap(errkind.Conflict, err, fmt.Sprintf("something is being built on the change %s: wait until it is done", c.Change))
	}
	return err
}

// plan computes the child, or says why there is none to make.
func (a *Agent) plan(ctx context.Context, r Record, h Hurry) (Child, error) {
	if h.SatPerVByte == 0 || h.SatPerVByte > maxHurry {
		return Child{}, errkind.Newf(errkind.Invalid, "name a rate of 1 to %d sat per vbyte", maxHurry)
	}
	if err := a.hurryable(r); err != nil {
		return Child{}, err
	}
	txs, err := a.ports.Chain.Transactions(ctx, r.since())
	if err != nil {
		return Child{}, err
	}
	parent, err := r.parent(txs)
	if err != nil {
		return Child{}, err
	}
	earlier, err := spenderOf(txs, parent.Change)
	if err != nil {
		return Child{}, err
	}
	lift, err := cpfp.LiftOf(txs, parent)
	if err != nil {
		return Child{}, err
	}
	limit := h.MaxFeeSat
	if limit == 0 {
		limit = max(r.CapacitySat()/hurryShare, cheapChild)
	}
	target := ln.FeeRateSatPerKW(h.SatPerVByte * 250)
	all, err := cpfp.ChildOf(lift, target, cpfp.Limits{Ceiling: maxHurry * 250, MostSat: cpfp.AllOfTheChange})
	if errors.Is(err, cpfp.ErrNoBump) {
		return Child{}, errkind.Wrap(errkind.Conflict, err, fmt.Sprintf("the transaction pays %d sat per vbyte already, or the change of %s is too small for a child", perVByte(lift.FeeSat, lift.WeightWU), lift.ChangeSat))
	}
	if err != nil {
		return Child{}, err
	}
	if all.FeeSat > limit {
		return Child{}, errkind.Newf(errkind.Invalid, "a child for %d sat per vbyte costs %s, more than %s: choose a lower rate, or allow it with --max-fee", h.SatPerVByte, all.FeeSat, limit)
	}
	c, err := cpfp.ChildOf(lift, target, cpfp.Limits{Ceiling: maxHurry * 250, MostSat: limit})
	if err != nil {
		return Child{}, err
	}
	if earlier.FeeSat >= c.FeeSat {
		return Child{}, errkind.Newf(errkind.Conflict, "the child %s pays %s for it already: a new one must pay more than that", earlier.TxID, earlier.FeeSat)
	}
	return Child{
		ParentSatPerVByte: perVByte(lift.FeeSat, lift.WeightWU), TogetherSatPerVByte: perVByte(lift.FeeSat+c.FeeSat, lift.WeightWU+c.WeightWU),
		FeeSat: c.FeeSat, MostSat: c.BudgetSat, ChangeSat: lift.ChangeSat, Change: lift.Change, Capped: c.Capped, satPerVByte: c.RateSatPerVByte,
	}, nil
}

func perVByte(fee ln.Sat, weight uint64) uint64 { return uint64(fee) * 4 / max(weight, 1) }

// hurryable refuses what a child cannot help, by what the record says.
func (a *Agent) hurryable(r Record) error {
	switch {
	case r.Phase == PhaseDone:
		return errkind.New(errkind.Conflict, "it is confirmed: there is nothing to hurry")
	case r.Phase != PhaseSigned:
		return errkind.Newf(errkind.Conflict, "the joint funding is %s: only what is signed and not confirmed is hurried", r.Phase)
	case r.Alarm == takingBack:
		return errkind.New(errkind.Conflict, "its coins are being taken back: a child would hurry the other transaction")
	case r.Elsewhere:
		return errkind.New(errkind.Conflict, "its change is another wallet's: have that wallet spend the change at a high rate")
	case r.ChangeSat == 0:
		return errkind.Newf(errkind.Conflict, "nothing of it came back as change, so that there is nothing to make a child of: the LSP hurries it with its own, or `sluice-wallet fund replace %s`", r.Key())
	}
	for _, other := range a.List() {
		if other.Replaces == r.Key() && other.Phase == PhaseSigned {
			return errkind.Newf(errkind.Conflict, "the joint funding %s takes its place: hurry that one", other.Key())
		}
	}
	return nil
}

// since is a height from which on the transaction may have confirmed.
func (r Record) since() int32 {
	var height uint32
	for _, in := range r.Inputs {
		height = max(height, in.Height)
	}
	return int32(height) //nolint:gosec // a height
}

// parent is the transaction as lnd's wallet and the agreed PSBT say it. lnd knows the fee
// of none in which others pay; the amounts of the LSP's coins are its word, which can cost
// no more than the person agrees to.
func (r Record) parent(txs []ln.WalletTx) (cpfp.Parent, error) {
	none := func(format string, args ...any) (cpfp.Parent, error) {
		return cpfp.Parent{}, errkind.Newf(errkind.Conflict, format, args...)
	}
	i := slices.IndexFunc(txs, func(t ln.WalletTx) bool { return t.TxID == r.Channel.TxID })
	switch {
	case i < 0:
		return none("this wallet's node does not have transaction %s: the LSP has not published it yet, or the network dropped it. The LSP publishes it again with each block", r.Channel.TxID)
	case txs[i].Confirmations > 0:
		return none("it is in block %d: there is nothing to hurry", txs[i].Height)
	}
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(txs[i].RawTx)); err != nil {
		return cpfp.Parent{}, fmt.Errorf("transaction %s: %w", r.Channel.TxID, err)
	}
	change := slices.IndexFunc(tx.TxOut, func(o *wire.TxOut) bool {
		return bytes.Equal(o.PkScript, r.ChangeScript) && o.Value == int64(r.ChangeSat) //nolint:gosec // bounded by all bitcoin
	})
	if change < 0 {
		return none("transaction %s has no change of this wallet's", r.Channel.TxID)
	}
	p, err := funding.ParsePsbt(r.Psbt)
	if err != nil {
		return cpfp.Parent{}, err
	}
	const most = 21_000_000 * 100_000_000
	var fee int64
	for _, in := range p.Inputs {
		if in.WitnessUtxo == nil || in.WitnessUtxo.Value < 0 || in.WitnessUtxo.Value > most {
			return cpfp.Parent{}, fmt.Errorf("the agreed transaction %s does not say what its coins hold", r.Channel.TxID)
		}
		fee += in.WitnessUtxo.Value
	}
	for _, o := range tx.TxOut {
		fee -= o.Value
	}
	if fee < 0 {
		return cpfp.Parent{}, fmt.Errorf("the agreed transaction %s pays out more than its coins hold", r.Channel.TxID)
	}
	return cpfp.Parent{
		Change: ln.Outpoint{TxID: r.Channel.TxID, Index: uint32(change)}, ChangeSat: r.ChangeSat, ChangeScript: r.ChangeScript, //nolint:gosec // an output's index
		FeeSat: ln.Sat(fee), WeightWU: uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&tx))), //nolint:gosec // not negative
	}, nil
}

// spenderOf is an earlier child of the change. What pays others is none: it is the
// wallet's own payment, and hurries the transaction by itself.
func spenderOf(txs []ln.WalletTx, change ln.Outpoint) (ln.WalletTx, error) {
	for _, t := range txs {
		if !slices.Contains(t.Spends, change) {
			continue
		}
		if t.PaysOthers() || t.Confirmations > 0 {
			return t, errkind.Newf(errkind.Conflict, "the change is spent by transaction %s: what hurries that one hurries both", t.TxID)
		}
		return t, nil
	}
	return ln.WalletTx{}, nil
}

// hurryOn asks lnd once more for a child that it forgot: lnd keeps no such request over
// its end, and makes the child only with the next block.
func (a *Agent) hurryOn(ctx context.Context, r Record, height uint32) {
	if r.Hurry == nil {
		return
	}
	a.mu.Lock()
	asked := a.hurried[r.Key()]
	a.hurried[r.Key()] = height
	a.mu.Unlock()
	if asked == height {
		return
	}
	c, err := a.plan(ctx, r, *r.Hurry)
	if err == nil {
		err = a.keepChange(ctx, r, c)
	}
	if err == nil {
		err = a.ports.Spender.BumpFee(ctx, c.Change, c.satPerVByte, c.MostSat)
	}
	switch {
	case err == nil:
	case errors.Is(err, errkind.Conflict):
		a.log.Debug("no child is made of a joint funding's change now", zap.String("joint", r.Key()), zap.Error(err))
	default:
		a.log.Warn("a joint funding could not be hurried; it is tried again with the next block", zap.String("joint", r.Key()), zap.Error(err))
	}
}
