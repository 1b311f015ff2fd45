package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/forget"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/in"
)

// concurrentIn names the effects that wait for as long as a client's wallet
// holds a payment.
func concurrentIn(f in.Effect) bool {
	switch f.(type) {
	case in.Probe, in.OpenChannel, in.Pay, in.TrackPayment:
		return true
	}
	return false
}

func (e *Engine) executeIn(ctx context.Context, t fsm.Task[in.Effect]) ([]in.Event, error) {
	switch f := t.Effect.(type) {
	case in.Probe:
		return e.probe(ctx, f.Plan)
	case in.WatchOutput:
		return nil, e.watchOutput(t.ID, f)
	case in.OpenChannel:
		return e.openChannel(ctx, t.ID, f)
	case in.AbandonChannel:
		return nil, e.abandonChannel(ctx, f)
	case in.AskTip:
		e.tipIn(t.ID)
		return nil, nil
	case in.ChannelPaid:
		return nil, e.channelPaid(ctx, t.ID, f)
	case in.Pay:
		return e.payIn(ctx, f)
	case in.TrackPayment:
		return e.trackIn(ctx, t.ID, f.Hash)
	case in.LookForPayment:
		return e.lookForPayment(ctx, t.ID, f.Hash)
	case in.SignClaim:
		return e.signClaim(ctx, t.ID, f)
	case in.PublishClaim:
		err := e.node.Chain.Publish(ctx, f.Raw, f.Label)
		if errors.Is(err, ln.ErrUnavailable) {
			return nil, err
		}
		if err != nil {
			e.log.Warn("the network does not take a swap's claim; the next block tries again", zap.String("swap", t.ID), zap.Error(err))
		}
		return nil, nil
	case in.WatchSpend:
		return nil, e.watchClaimed(t.ID, f)
	case in.ForgetTxs:
		return nil, forget.Txs(ctx, e.node.Records, e.log.With(zap.String("swap", t.ID)), f.TxIDs...)
	case in.Alarm:
		e.log.Error("a swap needs a person", zap.String("swap", t.ID), zap.String("reason", f.Text))
		return nil, nil
	default:
		return nil, fmt.Errorf("the swap machine asks for %q, which this version does not know", t.Effect.EffectName())
	}
}

// declined is what lnd says of a payment that reached the payee and was given
// back there: the route works.
const declined = "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS"

// probe pays an invoice that nobody can settle, and waits for lnd's word for as long
// as a client holds it.
func (e *Engine) probe(ctx context.Context, p in.Plan) ([]in.Event, error) {
	failed := func(text string) ([]in.Event, error) {
		return []in.Event{in.ProbeFailed{Moment: e.moment(), Text: text}}, nil
	}
	known, err := e.node.Payments.TrackPayment(ctx, p.ProbeHash)
	if err != nil {
		return nil, err
	}
	if known.State == ln.PaymentUnknown {
		inst, err := e.ins.Get(ctx, p.ID())
		if err != nil {
			return nil, err
		}
		if _, asked := inst.State.(in.Probing); !asked {
			return failed("it was never sent")
		}
		known, err = e.node.Payments.PayInvoice(ctx, ln.InvoicePayment{
			Bolt11: p.Probe, FeeLimitMsat: p.MaxRoutingMsat, CltvLimit: min(e.cltvLimit(p), p.MinCltvBlocks+probeRouteBlocks), LastHop: p.LastHop,
			Timeout: e.cfg.In.ProbeFor, MaxParts: e.cfg.In.MaxParts,
		})
		if err != nil {
			// Whether lnd goes on with it, only lnd's list of payments says.
			why := err.Error()
			if known, err = e.trackCutOff(ctx, p.ProbeHash); err != nil {
				return nil, err
			}
			if known.State == ln.PaymentUnknown {
				return failed(why)
			}
		}
	}
	if known.State == ln.PaymentInFlight {
		if known, err = e.node.Payments.WaitPayment(ctx, p.ProbeHash); err != nil {
			return nil, err
		}
	}
	switch {
	case known.State == ln.PaymentFailed && known.Failure == declined:
		return []in.Event{in.ProbePassed{Moment: e.moment()}}, nil
	case known.State == ln.PaymentSucceeded:
		e.log.Error("a probe was settled, which nobody should be able to do", zap.String("swap", p.ID()))
		return failed("the probe was settled")
	case known.State == ln.PaymentInFlight:
		return nil, errors.New("the probe is still in flight")
	}
	return failed(known.Failure)
}

// cltvLimit is how long a payment may be locked that is sent now: it must be
// resolved the margin before the client could take its output back.
func (e *Engine) cltvLimit(p in.Plan) uint32 {
	end, tip := p.Terms.ExpiryHeight, e.moment().Height
	return end - min(end, tip+p.PayMarginBlocks)
}

// payIn pays, if lnd knows of no payment and the margin still holds. What it
// cannot be sure of, it reports as cut off.
func (e *Engine) payIn(ctx context.Context, f in.Pay) ([]in.Event, error) {
	known, err := e.node.Payments.TrackPayment(ctx, f.Plan.Terms.Hash)
	if err != nil {
		return nil, err
	}
	switch {
	case known.State == ln.PaymentSucceeded, known.State == ln.PaymentInFlight, known.State == ln.PaymentFailed && f.Attempt <= 1:
		return e.paymentIn(known), nil
	}
	inst, err := e.ins.Get(ctx, f.Plan.ID())
	if err != nil {
		return nil, err
	}
	if now := in.OutputOf(inst.State).Outpoint; now != f.Outpoint {
		return []in.Event{in.PaymentNotSent{Moment: e.moment(), Text: "another transaction pays the swap since a reorg"}}, nil
	}
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return nil, err
	}
	late := func(tip uint32) bool { return tip > f.Plan.LastPayHeight() }
	if !late(info.BlockHeight) {
		if info.BlockHeight, err = e.stillThere(ctx, f); err != nil {
			return nil, err
		}
	}
	if limit := e.cltvLimit(f.Plan); limit < f.Plan.MinCltvBlocks || late(info.BlockHeight) {
		return []in.Event{in.PaymentNotSent{Moment: e.moment(), Text: "it could outlive the swap"}}, nil
	}
	if f.Plan.Open != nil {
		return e.payOver(ctx, f, info.BlockHeight)
	}
	result, err := e.node.Payments.PayInvoice(ctx, ln.InvoicePayment{
		Bolt11: f.Plan.Invoice, FeeLimitMsat: f.Plan.MaxRoutingMsat, CltvLimit: e.cltvLimit(f.Plan), LastHop: f.Plan.LastHop,
		Timeout: payFor, MaxParts: e.cfg.In.MaxParts,
	})
	if err != nil {
		e.log.Warn("the outcome of a swap's payment is not known yet", zap.String("swap", f.Plan.ID()), zap.Error(err))
		return []in.Event{in.PaymentCutOff{Moment: e.moment(), Text: err.Error()}}, nil
	}
	return e.paymentIn(result), nil
}

// lookFor bounds one look at the chain before a payment.
const lookFor = 15 * time.Second

// stillThere asks the chain whether the output that is about to be paid for is
// in the best chain, as deep as it was at the decision, and returns the tip. If
// not, the error has the payment tried again later.
func (e *Engine) stillThere(ctx context.Context, f in.Pay) (tip uint32, err error) {
	contract, err := htlc.New(f.Plan.Terms)
	if err != nil {
		return 0, fmt.Errorf("the contract of swap %s: %w", f.Plan.ID(), err)
	}
	look, done := context.WithTimeout(ctx, lookFor)
	defer done()
	var found in.OutputFound
	// The watch ends with the first answer, or without one.
	watchErr := e.node.Chain.WatchConf(look, f.Outpoint.TxID, contract.PkScript, max(f.Plan.BeginHeight, 1), func(ev ln.ConfEvent) {
		if !ev.Reorged && found.ConfirmedHeight == 0 {
			found, err = readOutput(contract.PkScript, ev)
			done()
		}
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("the output of swap %s: %w", f.Plan.ID(), err)
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case found.ConfirmedHeight == 0:
		return 0, fmt.Errorf("swap %s is not paid yet: its output is not in the chain any more (%w)", f.Plan.ID(), watchErr)
	case found.Outpoint != f.Outpoint:
		return 0, fmt.Errorf("swap %s is not paid: the chain has %s where %s was judged", f.Plan.ID(), found.Outpoint, f.Outpoint)
	}
	info, err := e.node.Events.Info(ctx)
	if err != nil {
		return 0, err
	}
	if d := ln.Confirmations(found.ConfirmedHeight, info.BlockHeight); d < f.MinConfs {
		return 0, fmt.Errorf("swap %s is not paid yet: a reorg left its output %d confirmations of %d", f.Plan.ID(), d, f.MinConfs)
	}
	return info.BlockHeight, nil
}

func (e *Engine) paymentIn(p ln.Payment) []in.Event {
	switch p.State {
	case ln.PaymentSucceeded:
		return []in.Event{in.PaymentSucceeded{Moment: e.moment(), Preimage: swaps.NewSecret(p.Preimage), FeeMsat: p.FeeMsat}}
	case ln.PaymentFailed:
		return []in.Event{in.PaymentFailed{Moment: e.moment(), Text: p.Failure}}
	case ln.PaymentUnknown:
		return []in.Event{in.PaymentNotSent{Moment: e.moment(), Text: "lnd never recorded the payment"}}
	case ln.PaymentInFlight:
	}
	return []in.Event{in.PaymentCutOff{Moment: e.moment(), Text: "the payment is in flight"}}
}

// ownScript is a fresh output script of the wallet.
func (e *Engine) ownScript(ctx context.Context) ([]byte, error) {
	address, err := e.node.Keys.NewAddress(ctx)
	if err != nil {
		return nil, err
	}
	decoded, err := btcutil.DecodeAddress(address, e.opt.Params)
	if err != nil {
		return nil, fmt.Errorf("the wallet's address: %w", err)
	}
	script, err := txscript.PayToAddrScript(decoded)
	if err != nil {
		return nil, fmt.Errorf("the wallet's address: %w", err)
	}
	return script, nil
}

// watchOutput follows the contract's script, and one transaction that pays it, until
// they are beyond reorgs.
func (e *Engine) watchOutput(id string, f in.WatchOutput) error {
	contract, err := htlc.New(f.Terms)
	if err != nil {
		return fmt.Errorf("the contract of swap %s: %w", id, err)
	}
	e.followOutput("output/"+id, id, contract, ln.TxID{}, f.SinceHeight)
	if !f.Outpoint.IsZero() {
		e.followOutput("output/"+id+"/"+f.Outpoint.TxID.String(), id, contract, f.Outpoint.TxID, f.SinceHeight)
	}
	return nil
}

func (e *Engine) followOutput(key, id string, contract *htlc.Contract, tx ln.TxID, since uint32) {
	var last ln.Outpoint
	followChain(e, key, func(event in.Event) bool { return e.tellIn(id, event) },
		func() in.Event { return in.OutputReorged{Moment: e.moment(), Outpoint: last, Unsure: true} },
		func(ctx context.Context, tell func(in.Event)) error {
			return e.node.Chain.WatchConf(ctx, tx, contract.PkScript, max(since, 1), func(ev ln.ConfEvent) {
				if ev.Reorged {
					tell(in.OutputReorged{Moment: e.moment(), Outpoint: last})
					return
				}
				found, err := readOutput(contract.PkScript, ev)
				if err != nil {
					e.log.Error("lnd tells of a transaction that cannot be read", zap.String("swap", id), zap.Error(err))
					return
				}
				last = found.Outpoint
				found.Moment = e.momentAt(ev.Height)
				tell(found)
				// After a restart it may have its confirmations already, and the next
				// block be long in coming.
				e.tipIn(id)
			})
		})
}

func readOutput(script []byte, ev ln.ConfEvent) (in.OutputFound, error) {
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(ev.RawTx)); err != nil {
		return in.OutputFound{}, err
	}
	found := in.OutputFound{ConfirmedHeight: ev.Height}
	for i, o := range tx.TxOut {
		if !bytes.Equal(o.PkScript, script) {
			continue
		}
		if found.Count == 0 {
			found.Outpoint = ln.Outpoint{TxID: ln.TxID(tx.TxHash()), Index: uint32(i)} //nolint:gosec // an index
			found.ValueSat = ln.Sat(o.Value)                                           //nolint:gosec // not negative in a block
		}
		found.Count++
	}
	return found, nil
}

func (e *Engine) watchClaimed(id string, f in.WatchSpend) error {
	contract, err := htlc.New(f.Terms)
	if err != nil {
		return fmt.Errorf("the contract of swap %s: %w", id, err)
	}
	followChain(e, "claim/"+id+"/"+f.Outpoint.String(), func(event in.Event) bool { return e.tellIn(id, event) },
		func() in.Event { return in.SpendReorged{Moment: e.moment(), Outpoint: f.Outpoint} },
		func(ctx context.Context, tell func(in.Event)) error {
			return e.node.Chain.WatchSpend(ctx, f.Outpoint, contract.PkScript, max(f.SinceHeight, 1), func(ev ln.SpendEvent) {
				if ev.Reorged {
					tell(in.SpendReorged{Moment: e.moment(), Outpoint: f.Outpoint})
					return
				}
				spent, err := readSpend(contract, f.AmountSat, ev)
				if err != nil {
					e.log.Error("a swap's output was spent in a way that its contract does not have", zap.String("swap", id), zap.Error(err))
					return
				}
				tell(in.OutputSpent{Moment: e.momentAt(ev.Height), Outpoint: f.Outpoint, How: spent.How, By: spent.By, SpentHeight: ev.Height, FeeSat: spent.FeeSat})
			})
		})
	return nil
}

// reconcileIn takes up a swap that an earlier process left. A payment that may be
// in flight has its effect pending, which asks lnd.
func (e *Engine) reconcileIn(_ context.Context, id string, s in.State) ([]in.Event, error) {
	p := in.PlanOf(s)
	switch s.(type) {
	case in.Probing, in.ProbeHeld:
		return nil, nil
	}
	// What is forgotten comes first: its effects follow the chain anew.
	forget := in.ForgetChain(s, e.moment())
	output, spend := false, false
	for _, event := range forget {
		switch event.(type) {
		case in.OutputReorged:
			output = true
		case in.SpendReorged:
			spend = true
		}
	}
	if !output {
		if err := e.watchOutput(id, in.WatchOutput{Terms: p.Terms, SinceHeight: p.BeginHeight, Outpoint: in.OutputOf(s).Outpoint}); err != nil {
			return nil, err
		}
	}
	if s, claims := s.(in.Claiming); claims && !spend {
		if err := e.watchClaimed(id, in.WatchSpend{Terms: p.Terms, AmountSat: p.AmountSat, Outpoint: s.Outpoint, SinceHeight: p.BeginHeight}); err != nil {
			return nil, err
		}
	}
	return forget, nil
}

// blockIn tells the tip to every swap in.
func (e *Engine) blockIn() {
	live, err := e.liveIns(e.ctx)
	if err != nil {
		e.log.Warn("swaps in could not be read for a new block; the next one tells them", zap.Error(err))
		return
	}
	for _, inst := range live {
		switch inst.State.(type) {
		case in.Probing, in.ProbeHeld:
		default:
			e.tipIn(inst.ID)
		}
	}
}

// tipIn tells one swap the tip, with how much more may be exposed and whether there
// is company: both and the transition are one transaction.
func (e *Engine) tipIn(id string) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		err := e.tellTip(id)
		if err == nil || errors.Is(err, fsm.ErrIllegal) || e.ctx.Err() != nil {
			return
		}
		// Swaps that move at the same time are in each other's way.
		if wait > time.Second || pace.Pause(e.ctx, wait) != nil {
			e.log.Warn("a swap in was not told of a block; the next one tells it", zap.String("swap", id), zap.Error(err))
			return
		}
	}
}

func (e *Engine) tellTip(id string) error {
	m := e.moment()
	e.mu.Lock()
	urgent := e.urgent
	e.mu.Unlock()
	return e.db.Write(e.ctx, func(ctx context.Context, tx *store.Tx) error {
		all, err := e.liveInsTx(ctx, tx)
		if err != nil {
			return err
		}
		free, company := e.cfg.In.MaxExposedSat, false
		for _, other := range all {
			free -= min(free, in.Exposed(other.State, m.Height))
			company = company || other.ID != id && in.Coming(other.State)
		}
		_, err = e.ins.SendTx(ctx, tx, id, in.NewBlock{Moment: m, TargetRate: urgent, FreeSat: free, Company: company})
		return err
	})
}

// recordIn posts what a transition of a swap in means in money.
func (e *Engine) recordIn(ctx context.Context, tx *store.Tx, t fsm.Transition[in.State, in.Event]) error {
	var claim in.Claim
	var pay in.Payment
	lost := false
	switch s := t.To.(type) {
	case in.Claimed:
		claim, pay = s.Claim, s.Payment
	case in.Lost:
		claim, pay, lost = s.Claim, s.Payment, true
	default:
		return nil
	}
	p := in.PlanOf(t.To)
	msat := func(s ln.Sat) int64 { return int64(s) * 1000 }   //nolint:gosec // bounded by all bitcoin where it was agreed
	paid, routing := int64(p.InvoiceMsat), int64(pay.FeeMsat) //nolint:gosec // amounts of lnd's
	lines := []ledger.Line{{Account: ownPayments, AmountMsat: -paid - routing}, {Account: routingFee, AmountMsat: routing}}
	if lost {
		lines = append(lines, ledger.Line{Account: swapLoss, AmountMsat: paid})
	} else {
		fee, opening := msat(claim.SpentFeeSat), int64(0)
		if p.Open != nil {
			opening = int64(p.Open.FeeMsat) //nolint:gosec // less than the amount
		}
		lines = append(lines,
			ledger.Line{Account: outside, AmountMsat: msat(p.AmountSat) - fee}, ledger.Line{Account: chainFee, AmountMsat: fee},
			ledger.Line{Account: swapFee, AmountMsat: paid - msat(p.AmountSat) + opening}, ledger.Line{Account: openingFee, AmountMsat: -opening})
	}
	return postSwap(ctx, tx, "swaps/in/"+t.ID, "swap in: "+t.To.StateName(), p.ID(), t.At, lines)
}
