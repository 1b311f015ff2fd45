package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/forget"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/psbts"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// leaseFor is longer than any contract lives: a transaction that the network
// dropped must find its coins again.
const leaseFor = 30 * 24 * time.Hour

// coinsFor is how long a swap that is paid waits for coins, coinsEvery how often it looks.
const (
	coinsFor   = 2 * time.Hour
	coinsEvery = 5 * time.Second
)

// payFor bounds one attempt to pay a client; what is in flight then goes on.
const payFor = time.Minute

// prepayCltvDelta holds the prepay for as long as the swap payment may take.
const prepayCltvDelta = 144

func (e *Engine) executeOut(ctx context.Context, t fsm.Task[out.Effect]) ([]out.Event, error) {
	switch f := t.Effect.(type) {
	case out.MakeInvoices:
		return e.makeInvoices(ctx, f.Plan)
	case out.WatchInvoices:
		e.watchInvoice(t.ID, out.LegSwap, f.Hash)
		e.watchInvoice(t.ID, out.LegPrepay, f.Prepay)
		return nil, nil
	case out.FundHtlc:
		return e.fundHtlc(ctx, f.Plan)
	case out.SettlePrepay:
		return e.settlePrepay(ctx, f)
	case out.PublishHtlc:
		err := e.node.Chain.Publish(ctx, f.Raw, f.Label)
		if errors.Is(err, ln.ErrUnavailable) {
			return nil, err
		}
		if err != nil {
			e.log.Warn("the network does not take a swap's transaction; the next block tries again", zap.String("swap", t.ID), zap.Error(err))
			return []out.Event{out.PublishFailed{Moment: e.moment(), Text: err.Error()}}, nil
		}
		return []out.Event{out.HtlcPublished{Moment: e.moment()}}, nil
	case out.WatchHtlc:
		return nil, e.watchHtlc(t.ID, f)
	case out.BumpHtlc:
		return nil, e.bumpHtlc(ctx, t.ID, f)
	case out.SettleSwap:
		return e.settleSwap(ctx, f)
	case out.SignRefund:
		return e.signRefund(ctx, t.ID, f)
	case out.PublishRefund:
		err := e.node.Chain.Publish(ctx, f.Raw, f.Label)
		if errors.Is(err, ln.ErrUnavailable) {
			return nil, err
		}
		if err != nil {
			e.log.Warn("the network does not take a swap's refund; the next block tries again", zap.String("swap", t.ID), zap.Error(err))
		}
		return nil, nil
	case out.CancelInvoices:
		return e.cancelInvoices(ctx, t.ID, f)
	case out.ReleaseCoins:
		return nil, e.releaseCoins(ctx, f.LeaseID)
	case out.ForgetTxs:
		return nil, forget.Txs(ctx, e.node.Records, e.log.With(zap.String("swap", t.ID)), f.TxIDs...)
	case out.Alarm:
		e.log.Error("a swap needs a person", zap.String("swap", t.ID), zap.String("reason", f.Text))
		return nil, nil
	default:
		return nil, fmt.Errorf("the swap machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

func memo(id string, leg out.Leg) string { return "sluice swap out " + id[:16] + " " + string(leg) }

// makeInvoices adds both hold invoices or finds those that an earlier attempt added.
func (e *Engine) makeInvoices(ctx context.Context, p out.Plan) ([]out.Event, error) {
	refused := func(err error) ([]out.Event, error) {
		return []out.Event{out.InvoicesRefused{Moment: e.moment(), Text: err.Error()}}, nil
	}
	invoices := out.Invoices{}
	for _, leg := range []struct {
		leg    out.Leg
		hash   ln.Hash
		amount ln.Sat
		cltv   uint32
		text   *string
	}{
		{out.LegSwap, p.Terms.Hash, p.SwapInvoiceSat(), p.FinalCltvDelta, &invoices.SwapInvoice},
		{out.LegPrepay, p.PrepayHash(), p.PrepaySat, prepayCltvDelta, &invoices.PrepayInvoice},
	} {
		amount, err := leg.amount.Msat()
		if err != nil {
			return refused(err)
		}
		request := ln.HoldInvoiceRequest{
			Hash: leg.hash, AmountMsat: amount, Memo: memo(p.ID(), leg.leg), Expiry: p.InvoiceExpiry, FinalCltvDelta: leg.cltv,
		}
		inv, no, err := payhash.HoldInvoice(ctx, e.node.Invoices, request)
		if err != nil {
			return nil, err
		}
		if no != "" {
			return refused(errors.New(no))
		}
		*leg.text = inv.Bolt11
		if leg.leg == out.LegSwap {
			invoices.PaymentAddr = inv.PaymentAddr
		}
	}
	return []out.Event{out.InvoicesMade{Moment: e.moment(), Invoices: invoices}}, nil
}

// fundHtlc has the wallet build and sign the transaction. Nobody has seen an
// earlier attempt's: had it been stored, this effect would be done. Coins that are on
// their way, the change of another swap mostly, are waited for: the client has paid.
func (e *Engine) fundHtlc(ctx context.Context, p out.Plan) ([]out.Event, error) {
	own, err := e.ownScript(ctx)
	if err != nil {
		return nil, err
	}
	for until := e.opt.Now().Add(coinsFor); ; {
		events, short, err := e.fundNow(ctx, p, own)
		if short == "" || err != nil {
			return events, err
		}
		coming, err := e.coinsComing(ctx, p)
		if err != nil {
			return nil, err
		}
		if !coming || e.opt.Now().After(until) || e.moment().Height > p.PublishByHeight() {
			return []out.Event{out.FundingRefused{Moment: e.moment(), Text: short}}, nil
		}
		if err := pace.Pause(ctx, coinsEvery); err != nil {
			return nil, err
		}
	}
}

// coinsComing says that the wallet has enough for a swap once what is unconfirmed is
// in a block.
func (e *Engine) coinsComing(ctx context.Context, p out.Plan) (bool, error) {
	b, err := e.node.Wallet.WalletBalance(ctx)
	if err != nil {
		return false, err
	}
	return b.UnconfirmedSat > 0 && b.ConfirmedSat+b.UnconfirmedSat >= b.ReservedSat+p.AmountSat+p.MaxMinerSat+p.LeastChangeSat, nil
}

// fundNow is one attempt. short is why the wallet's confirmed coins are too few.
func (e *Engine) fundNow(ctx context.Context, p out.Plan, own []byte) (events []out.Event, short string, err error) {
	refused := func(format string, args ...any) ([]out.Event, string, error) {
		return []out.Event{out.FundingRefused{Moment: e.moment(), Text: fmt.Sprintf(format, args...)}}, "", e.releaseCoins(ctx, p.LeaseID())
	}
	inst, err := e.outs.Get(ctx, p.ID())
	if err != nil {
		return nil, "", err
	}
	if _, wanted := inst.State.(out.Funding); !wanted {
		return nil, "", nil
	}
	// A prepay that is settled says that a transaction was stored once: the
	// database is an older copy of itself, and another one must not be made.
	prepay, err := e.node.Invoices.LookupInvoice(ctx, p.PrepayHash())
	if err != nil {
		return nil, "", err
	}
	if prepay.State != ln.InvoiceAccepted {
		return refused("the node does not hold the prepay")
	}
	why, err := e.doubtHeld(ctx, p, prepay)
	if err != nil {
		return nil, "", err
	}
	if why != "" {
		return refused("%s", why)
	}
	if err := e.releaseCoins(ctx, p.LeaseID()); err != nil {
		return nil, "", err
	}
	contract, err := htlc.New(p.Terms)
	if err != nil {
		return refused("the contract: %v", err)
	}
	rates, err := e.window().Latest(e.opt.Now(), e.cfg.StaleAfter)
	if err != nil {
		return refused("%v", err)
	}
	rate := rates.Of(p.Later)
	funded, err := e.node.Wallet.FundKeeping(ctx, ln.FundKeeping{
		Script: contract.PkScript, AmountSat: p.AmountSat, OwnScript: own, LeastSat: p.LeastChangeSat, FeeRate: rate, MinConfs: 1,
		LeaseID: p.LeaseID(), LeaseFor: leaseFor,
	})
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, "", err
	}
	if err != nil {
		return nil, err.Error(), e.releaseCoins(ctx, p.LeaseID())
	}
	signed, err := e.node.Wallet.FinalizePsbt(ctx, funded)
	if errors.Is(err, ln.ErrUnavailable) {
		return nil, "", err
	}
	if err != nil {
		return refused("%v", err)
	}
	tx, err := readFunding(funded, signed, contract.PkScript, own, p.AmountSat)
	if err != nil {
		return refused("%v", err)
	}
	if tx.ChangeSat < p.LeastChangeSat {
		return refused("the transaction leaves %s to the wallet, less than the %s that can hurry it", tx.ChangeSat, p.LeastChangeSat)
	}
	if tx.MinerSat > p.MaxMinerSat {
		return refused("the transaction would pay %s, more than the %s that the swap's fee bears", tx.MinerSat, p.MaxMinerSat)
	}
	tx.Rate = rate
	return []out.Event{out.HtlcFunded{Moment: e.moment(), Tx: tx}}, "", nil
}

// doubtHeld is law 12 once more before the gateway's coins go out: a swap may have waited
// for them for long, and lnd goes on calling an invoice accepted whose channel is on chain,
// or whose HTLC it has failed.
func (e *Engine) doubtHeld(ctx context.Context, p out.Plan, prepay ln.Invoice) (ln.Doubt, error) {
	swap, err := e.node.Invoices.LookupInvoice(ctx, p.Terms.Hash)
	if err != nil {
		return "", err
	}
	return e.doubtOf(ctx, append(prepay.HtlcsIn(ln.InvoiceAccepted), swap.HtlcsIn(ln.InvoiceAccepted)...))
}

// readFunding reads what the wallet signed, and believes nothing about it that
// it does not show: exactly one output pays the contract, exactly the amount, and what
// is our own is there.
func readFunding(funded, signed, script, own []byte, amount ln.Sat) (out.Tx, error) {
	packet, err := psbts.Parse(funded)
	if err != nil {
		return out.Tx{}, fmt.Errorf("the wallet's PSBT cannot be read: %w", err)
	}
	var msg wire.MsgTx
	if err := msg.Deserialize(bytes.NewReader(signed)); err != nil {
		return out.Tx{}, fmt.Errorf("the wallet's transaction cannot be read: %w", err)
	}
	id := ln.TxID(msg.TxHash())
	if id != ln.TxID(packet.UnsignedTx.TxHash()) {
		return out.Tx{}, errors.New("the wallet signed another transaction than it built")
	}
	tx := out.Tx{Raw: signed, WeightWU: uint64(blockchain.GetTransactionWeight(btcutil.NewTx(&msg)))} //nolint:gosec // a weight
	var in, paid int64
	for i, input := range packet.Inputs {
		if input.WitnessUtxo == nil {
			return out.Tx{}, errors.New("the wallet would spend an output that is not SegWit")
		}
		in += input.WitnessUtxo.Value
		prev := packet.UnsignedTx.TxIn[i].PreviousOutPoint
		tx.Inputs = append(tx.Inputs, ln.Outpoint{TxID: ln.TxID(prev.Hash), Index: prev.Index})
		tx.InputScripts = append(tx.InputScripts, input.WitnessUtxo.PkScript)
	}
	found := 0
	for i, o := range msg.TxOut {
		paid += o.Value
		op := ln.Outpoint{TxID: id, Index: uint32(i)} //nolint:gosec // an index
		switch {
		case bytes.Equal(o.PkScript, script) && ln.Sat(o.Value) == amount: //nolint:gosec // not negative in a transaction
			tx.Outpoint = op
			found++
		case bytes.Equal(o.PkScript, script):
			found = 2
		case bytes.Equal(o.PkScript, own):
			tx.ChangeOutpoint, tx.ChangeSat = op, ln.Sat(o.Value) //nolint:gosec // not negative
		}
	}
	if found != 1 || in < paid {
		return out.Tx{}, errors.New("the wallet's transaction does not pay the contract once and exactly")
	}
	tx.MinerSat = ln.Sat(in - paid)
	return tx, nil
}

// releaseCoins gives back every coin leased under the id.
func (e *Engine) releaseCoins(ctx context.Context, id [32]byte) error {
	_, err := leases.Release(ctx, e.node.Coins, id)
	return err
}

// settlePrepay takes the prepay only while the swap payment is held, and in time:
// from here on the output is published. One that an earlier attempt took stays taken.
func (e *Engine) settlePrepay(ctx context.Context, f out.SettlePrepay) ([]out.Event, error) {
	m := e.moment()
	lost := func(kept bool, text string) ([]out.Event, error) {
		return []out.Event{out.PrepayLost{Moment: m, Text: text, Kept: kept}}, nil
	}
	prepay, err := e.node.Invoices.LookupInvoice(ctx, f.Hash)
	if err != nil {
		return nil, err
	}
	swap, err := e.node.Invoices.LookupInvoice(ctx, f.Swap)
	if err != nil {
		return nil, err
	}
	taken := prepay.State == ln.InvoiceSettled
	switch {
	case swap.State == ln.InvoiceAccepted && taken, swap.State == ln.InvoiceSettled && taken:
		return []out.Event{out.PrepaySettled{Moment: m}}, nil
	case swap.State != ln.InvoiceAccepted:
		return lost(taken, "the node no longer holds the swap payment")
	}
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return nil, err
	}
	if m = e.momentAt(info.BlockHeight); m.Height > f.ByHeight {
		return lost(false, fmt.Sprintf("height %d is too late to publish", m.Height))
	}
	err = e.node.Invoices.SettleInvoice(ctx, f.Preimage.Preimage())
	if err == nil {
		return []out.Event{out.PrepaySettled{Moment: m}}, nil
	}
	if errors.Is(err, ln.ErrInvoiceClosed) {
		inv, lookErr := e.node.Invoices.LookupInvoice(ctx, f.Hash)
		if lookErr == nil && inv.State == ln.InvoiceCanceled {
			return lost(false, "the node no longer holds it")
		}
	}
	return nil, err
}

func (e *Engine) settleSwap(ctx context.Context, f out.SettleSwap) ([]out.Event, error) {
	err := e.node.Invoices.SettleInvoice(ctx, f.Preimage.Preimage())
	if err == nil {
		return []out.Event{out.SwapSettled{Moment: e.moment()}}, nil
	}
	if errors.Is(err, ln.ErrInvoiceClosed) {
		inv, lookErr := e.node.Invoices.LookupInvoice(ctx, f.Preimage.Preimage().Hash())
		if lookErr == nil && inv.State == ln.InvoiceCanceled {
			return []out.Event{out.SwapUnsettled{Moment: e.moment()}}, nil
		}
	}
	return nil, err
}

// cancelInvoices gives payments back. Before any output is published both are,
// unless lnd knows better: a settled prepay beside a held payment says that the
// output exists, and that the database is an older copy of itself.
func (e *Engine) cancelInvoices(ctx context.Context, id string, f out.CancelInvoices) ([]out.Event, error) {
	if f.Prepay == nil {
		if err := e.refundStands(ctx, id); err != nil {
			return nil, err
		}
	}
	if f.Prepay != nil {
		published, err := e.mayBePublished(ctx, f)
		if err != nil {
			return nil, err
		}
		if published {
			return nil, errors.New("the prepay is settled, so the output may be public: the payment is not given back. Is the database an older copy?")
		}
	}
	hashes := []ln.Hash{f.Swap}
	if f.Prepay != nil {
		hashes = append(hashes, *f.Prepay)
	}
	for _, hash := range hashes {
		err := e.node.Invoices.CancelInvoice(ctx, hash)
		// One that is settled (a prepay) or was never made has nothing to give back.
		if err != nil && !errors.Is(err, ln.ErrNotFound) && !errors.Is(err, ln.ErrInvoiceClosed) {
			return nil, err
		}
	}
	return []out.Event{out.InvoicesCancelled{Moment: e.moment()}}, nil
}

// refundStands asks the chain once more before a payment goes back for a refund: what a
// reorg undid may be told after the block that made it look buried. If it does not stand,
// the error has the payment held until it does.
func (e *Engine) refundStands(ctx context.Context, id string) error {
	inst, err := e.outs.Get(ctx, id)
	if err != nil {
		return err
	}
	r, ok := inst.State.(out.Refunded)
	if !ok || r.Spent != htlc.SpendTimeout {
		return nil
	}
	contract, err := htlc.New(r.Terms)
	if err != nil {
		return fmt.Errorf("the contract of swap %s: %w", id, err)
	}
	look, done := context.WithTimeout(ctx, lookFor)
	defer done()
	var height uint32
	// The watch ends with the first answer, or without one.
	watchErr := e.node.Chain.WatchSpend(look, r.Outpoint, contract.PkScript, max(r.SignedHeight, 1), func(ev ln.SpendEvent) {
		if spent, err := readSpend(contract, r.AmountSat, ev); !ev.Reorged && err == nil && spent.How == htlc.SpendTimeout {
			height = ev.Height
			done()
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return err
	}
	if d := ln.Confirmations(height, info.BlockHeight); height == 0 || d < max(r.BuriedConfs, 1) {
		return fmt.Errorf("the payment of swap %s does not go back yet: its refund has %d confirmations (%w)", id, d, watchErr)
	}
	return nil
}

func (e *Engine) mayBePublished(ctx context.Context, f out.CancelInvoices) (bool, error) {
	state := func(hash ln.Hash) (ln.InvoiceState, error) {
		inv, err := e.node.Invoices.LookupInvoice(ctx, hash)
		if errors.Is(err, ln.ErrNotFound) {
			return ln.InvoiceCanceled, nil
		}
		return inv.State, err
	}
	prepay, err := state(*f.Prepay)
	if err != nil || prepay != ln.InvoiceSettled {
		return false, err
	}
	swap, err := state(f.Swap)
	return swap == ln.InvoiceAccepted, err
}

func secretOf(p ln.Preimage) *swaps.Secret {
	s := swaps.NewSecret(p)
	return &s
}
