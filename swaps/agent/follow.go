package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// look takes every swap a step further.
func (a *Agent) look(ctx context.Context) {
	var info ln.NodeInfo
	asked := false
	for _, r := range a.records.All() {
		if r.Phase.Over() {
			continue
		}
		if !asked {
			var err error
			if info, err = a.ports.Node.Info(ctx); err != nil {
				a.log.Debug("lnd does not answer; swaps wait for it", zap.Error(err))
				return
			}
			asked = true
		}
		if r.Phase != PhaseMade {
			a.follow(ctx, r)
		}
		if err := a.step(ctx, r, info); err != nil && ctx.Err() == nil {
			a.log.Warn("a swap waits", zap.Stringer("swap", r.Hash), zap.Error(err))
		}
	}
}

// madeFor is how long an agreement may be under way before it counts as failed.
const madeFor = 2 * time.Minute

func (a *Agent) step(ctx context.Context, r Record, info ln.NodeInfo) error {
	if r.Phase == PhaseMade && a.ports.Now().Before(r.CreatedAt.Add(madeFor)) {
		return nil
	}
	if (r.Phase == PhasePaid || r.Phase == PhaseRefunding) && !a.known(r) {
		return nil
	}
	invoice, err := a.ports.Node.LookupInvoice(ctx, r.Hash)
	if errors.Is(err, ln.ErrNotFound) {
		// A node that was restored from its seed: then nobody can be paid by it.
		invoice.State, err = ln.InvoiceCanceled, nil
	}
	if err != nil {
		return err
	}
	act, phase := Next(r, info.BlockHeight, invoice.State)
	enter := func() error {
		return a.records.change(r.Hash, func(have *Record) bool { have.Phase = phase; return true })
	}
	switch act {
	case ActNone:
		a.askGateway(ctx, r, info.PubKey)
		return nil
	case ActGiveUp, ActCancel:
		err := a.ports.Node.CancelInvoice(ctx, r.Hash)
		if errors.Is(err, ln.ErrInvoiceClosed) {
			return nil // settled meanwhile: the next look sees it
		}
		if err != nil && !errors.Is(err, ln.ErrNotFound) {
			return err
		}
		return enter()
	case ActPaid:
		a.log.Info("paid over the new channel", zap.Stringer("swap", r.Hash), zap.Stringer("amount", r.InvoiceSat))
		return enter()
	case ActGiveKey:
		if a.due("key/" + r.Hash.String()) {
			return a.giveKey(ctx, r, info.PubKey)
		}
		return nil
	case ActRefund:
		return a.refund(ctx, r, info.BlockHeight)
	case ActPublish:
		return a.publish(ctx, r)
	case ActEnd:
		a.log.Info("a swap is over", zap.Stringer("swap", r.Hash), zap.String("phase", string(phase)))
		if phase == PhaseRefunded && !r.sawDeposit() {
			a.log.Warn("what came back is not the amount that was agreed: if you paid that as well, take it back with `sluice-wallet swap refund`", zap.Stringer("swap", r.Hash))
		}
		return enter()
	}
	return nil
}

// askGateway keeps the gateway's word for people; nothing rests on it.
func (a *Agent) askGateway(ctx context.Context, r Record, self ln.PubKey) {
	g, err := a.gateway(r.Gateway)
	if err != nil || g.NodeKey != r.GatewayKey || !a.due("state/"+r.Hash.String()) {
		return
	}
	client, err := a.client(g, self)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	got, err := client.GetChannelSwap(ctx, &swapsv1.GetChannelSwapRequest{PaymentHash: r.Hash[:]})
	if err != nil {
		return
	}
	s := got.GetSwap()
	err = a.records.change(r.Hash, func(have *Record) bool {
		if have.State == s.GetState() && have.Reason == s.GetReason() {
			return false
		}
		have.State, have.Reason = ln.Clip(s.GetState(), 40), ln.Clip(s.GetReason(), 300)
		return true
	})
	if err != nil {
		a.log.Debug("the gateway's word was not kept", zap.Error(err))
	}
}

// giveKey lets the gateway take what is its own by the smallest spend. It is a
// courtesy: without it the gateway uses the preimage.
func (a *Agent) giveKey(ctx context.Context, r Record, self ln.PubKey) error {
	g, err := a.gateway(r.Gateway)
	if err != nil {
		return err
	}
	client, err := a.client(g, self)
	if err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	if _, err := client.GiveKey(call, &swapsv1.GiveKeyRequest{PaymentHash: r.Hash[:], InternalPrivateKey: r.InternalKey[:]}); err != nil {
		return said(g, err)
	}
	return a.records.change(r.Hash, func(have *Record) bool { have.KeyGiven = true; return true })
}

// refund signs what needs a signature, stores it, and publishes.
func (a *Agent) refund(ctx context.Context, r Record, tip uint32) error {
	if len(r.RefundScript) == 0 {
		address, err := a.ports.Chain.NewAddress(ctx)
		if err != nil {
			return err
		}
		if r.RefundScript, err = r.ScriptOf(address); err != nil {
			return err
		}
	}
	const target = 6
	rate, relay, err := a.ports.Chain.EstimateFee(ctx, target)
	if err != nil {
		rate, relay = ln.MinFeeRate, ln.MinFeeRate // a low fee is bumped, no refund is lost
	}
	for i, d := range r.Deposits {
		if d.Spent != "" || d.Height == 0 || d.Refund != nil && tip < d.Refund.Height+bumpEvery {
			continue
		}
		pays := refundRate(d, max(rate, relay))
		if pays == 0 {
			continue
		}
		raw, fee, err := r.Refund(d.Outpoint, d.ValueSat, r.RefundScript, pays)
		if err != nil {
			return err
		}
		r.Deposits[i].Refund = &Refund{Raw: raw, FeeSat: fee, Rate: pays, Height: tip}
	}
	err = a.records.change(r.Hash, func(have *Record) bool {
		have.RefundScript = r.RefundScript
		for _, d := range r.Deposits {
			for i := range have.Deposits {
				if have.Deposits[i].Outpoint == d.Outpoint {
					have.Deposits[i].Refund = d.Refund
				}
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return a.publish(ctx, r)
}

func (a *Agent) publish(ctx context.Context, r Record) error {
	var errs []error
	for _, d := range r.Deposits {
		if d.Spent == "" && d.Refund != nil {
			errs = append(errs, a.ports.Chain.Publish(ctx, d.Refund.Raw, "sluice swap refund "+r.Hash.Short()))
		}
	}
	return errors.Join(errs...)
}

// follow watches a swap's outputs, once per process.
func (a *Agent) follow(ctx context.Context, r Record) {
	contract, err := htlc.New(r.Terms)
	if err != nil {
		a.log.Error("a record of a swap is damaged", zap.Stringer("swap", r.Hash), zap.Error(err))
		return
	}
	since := max(r.BeginHeight, 1)
	a.followDeposits(ctx, r.Hash, contract, since)
	for _, d := range r.Deposits {
		// lnd names one transaction that pays the address, and whoever likes can send
		// something there: so the blocks after each are asked about as well. An lnd that
		// runs on may name the same one again.
		if d.Height > 0 {
			a.followDeposits(ctx, r.Hash, contract, d.Height+1)
		}
	}
	for _, d := range r.Deposits {
		a.once(ctx, "spend/"+d.Outpoint.String(), func(ctx context.Context) error {
			a.anew(r.Hash, d.Outpoint)
			return a.ports.Chain.WatchSpend(ctx, d.Outpoint, contract.PkScript, since, func(ev ln.SpendEvent) { a.spent(r.Hash, contract, d.Outpoint, ev) })
		})
	}
}

// once runs a subscription until it ends by itself, again when it breaks off.
func (a *Agent) once(ctx context.Context, key string, watch func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.followed[key] || ctx.Err() != nil {
		return
	}
	a.followed[key] = true
	a.wg.Go(func() {
		ctx, done := context.WithCancel(ctx)
		defer done()
		pace.Keep(ctx, pace.Backoff{First: a.cfg.Every, Most: 10 * a.cfg.Every, Healthy: time.Minute}, func(ctx context.Context) error {
			err := watch(ctx)
			if err == nil {
				done() // nothing can undo it any more
			}
			return err
		}, func(err error) {
			a.log.Debug("lnd ended a subscription; subscribing again", zap.String("subscription", key), zap.Error(err))
		})
	})
}

// anew forgets how a deposit was spent: what a reorg undid while nobody looked would be
// told by nobody. Whoever follows it is told the present state at once.
func (a *Agent) anew(hash ln.Hash, op ln.Outpoint) {
	a.mu.Lock()
	a.since[op] = a.ports.Now()
	a.mu.Unlock()
	a.note(hash, func(have *Record) bool {
		for i := range have.Deposits {
			if d := &have.Deposits[i]; d.Outpoint == op && d.Spent != "" {
				d.Spent, d.SpentHeight = "", 0
				return true
			}
		}
		return false
	})
}

// known says that the chain has had time to tell how each deposit was spent.
func (a *Agent) known(r Record) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range r.Deposits {
		since, ok := a.since[d.Outpoint]
		if !ok || a.ports.Now().Before(since.Add(5*a.cfg.Every)) {
			return false
		}
	}
	return true
}

// followDeposits follows what pays the address, from a height on.
func (a *Agent) followDeposits(ctx context.Context, hash ln.Hash, contract *htlc.Contract, since uint32) {
	var told []ln.Outpoint
	a.once(ctx, fmt.Sprintf("deposit/%s/%d", hash, since), func(ctx context.Context) error {
		return a.ports.Chain.WatchConf(ctx, ln.TxID{}, contract.PkScript, since, func(ev ln.ConfEvent) { told = a.deposited(hash, contract, ev, told) })
	})
}

// deposited takes note of outputs that pay the address, beside those that are known.
// told are those that a reorg undoes now, if it is one.
func (a *Agent) deposited(hash ln.Hash, contract *htlc.Contract, ev ln.ConfEvent, told []ln.Outpoint) []ln.Outpoint {
	if ev.Reorged {
		a.note(hash, func(have *Record) bool {
			changed := false
			for i := range have.Deposits {
				// A refund of it is kept: the output comes back.
				if d := &have.Deposits[i]; slices.Contains(told, d.Outpoint) && d.Height > 0 {
					d.Height, changed = 0, true
				}
			}
			return changed
		})
		return nil
	}
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
		a.log.Error("lnd tells of a transaction that cannot be read", zap.Stringer("swap", hash), zap.Error(err))
		return told
	}
	var found []Deposit
	told = nil
	for i, o := range tx.TxOut {
		if bytes.Equal(o.PkScript, contract.PkScript) {
			op := ln.Outpoint{TxID: ln.TxID(tx.TxHash()), Index: uint32(i)}                            //nolint:gosec // of a transaction
			found = append(found, Deposit{Outpoint: op, ValueSat: ln.Sat(o.Value), Height: ev.Height}) //nolint:gosec // of a block
			told = append(told, op)
		}
	}
	a.note(hash, func(have *Record) bool {
		changed := false
		for _, d := range found {
			i := slices.IndexFunc(have.Deposits, func(old Deposit) bool { return old.Outpoint == d.Outpoint })
			switch {
			case i < 0 && len(have.Deposits) < maxDeposits:
				have.Deposits, changed = append(have.Deposits, d), true
			case i >= 0 && have.Deposits[i].Height != d.Height:
				have.Deposits[i].Height, changed = d.Height, true
			}
		}
		return changed
	})
	return told
}

// maxDeposits bounds what strangers can fill a record with.
const maxDeposits = 50

func (a *Agent) spent(hash ln.Hash, contract *htlc.Contract, op ln.Outpoint, ev ln.SpendEvent) {
	how, height := htlc.Spend(""), uint32(0)
	if !ev.Reorged {
		var tx wire.MsgTx
		if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil || int(ev.InputIndex) >= len(tx.TxIn) {
			a.log.Error("lnd tells of a spend that cannot be read", zap.Stringer("swap", hash), zap.Error(err))
			return
		}
		var err error
		if how, _, err = contract.Classify(tx.TxIn[ev.InputIndex].Witness); err != nil {
			a.log.Error("a deposit was spent in a way that its contract does not have", zap.Stringer("swap", hash), zap.Error(err))
			return
		}
		height = ev.Height
	}
	a.note(hash, func(have *Record) bool {
		for i := range have.Deposits {
			if have.Deposits[i].Outpoint == op {
				have.Deposits[i].Spent, have.Deposits[i].SpentHeight = how, height
			}
		}
		return true
	})
}

// note stores what the chain told; a disk that is full is asked again at the next
// event, and the restart tells all of it anew.
func (a *Agent) note(hash ln.Hash, f func(*Record) bool) {
	if err := a.records.change(hash, f); err != nil {
		a.log.Error("what the chain tells of a swap could not be stored", zap.Stringer("swap", hash), zap.Error(err))
	}
}
