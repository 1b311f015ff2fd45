package engine

import (
	"bytes"
	"context"
	"time"

	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// client lets a client do what it would do now.
func (s *sim) client(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, 40*time.Millisecond)
	defer cancel()
	switch {
	case !sw.begun && sw.open:
		s.beginOpen(sw)
	case !sw.begun && sw.in:
		s.beginIn(sw)
	case !sw.begun:
		s.beginOut(sw)
	case sw.in:
		s.actIn(ctx, sw)
	default:
		s.actOut(ctx, sw)
	}
}

// patient is how long a client waits for an answer.
const patient = 400 * time.Millisecond

func (s *sim) beginOut(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, patient)
	defer cancel()
	hash := sw.preimage.Hash()
	expiry := s.node.chain.height() + 100
	offer, err := s.e.OfferOut(ctx, OutWish{Hash: hash, Receiver: sw.key.PubKey(), AmountSat: sw.amount, ExpiryHeight: expiry, PublishBy: time.Now(), Client: "sim"})
	sw.begun = true // a hash is good for one swap, whatever came of it
	s.note("out %d of %s: %v", sw.preimage[0], sw.amount, err)
	if err != nil {
		sw.pays, sw.prepays = false, false
		return
	}
	terms := htlc.Terms{Hash: hash, ExpiryHeight: expiry, Sender: offer.Sender, Receiver: sw.key.PubKey(), SenderInternal: offer.Sender, ReceiverInternal: sw.key.PubKey()}
	sw.contract, _ = htlc.New(terms)
	s.node.change(func() { s.node.chain.contracts[string(sw.contract.PkScript)] = true })
}

func (s *sim) actOut(ctx context.Context, sw *simSwap) {
	hash := sw.preimage.Hash()
	inst, err := s.e.outs.Get(ctx, hash.String())
	if err != nil || sw.contract == nil {
		return
	}
	plan := out.PlanOf(inst.State)
	switch {
	case sw.pays:
		sw.pays = false
		s.node.arrives(hash)
		return
	case sw.prepays:
		sw.prepays = false
		s.node.arrives(plan.PrepayHash())
		return
	case sw.cancels:
		invoices, _ := out.InvoicesOf(inst.State)
		_ = s.e.CancelOut(ctx, hash, invoices.PaymentAddr[:], "enough")
		return
	}
	op, confirmed := s.output(sw)
	if !confirmed {
		return
	}
	invoices, _ := out.InvoicesOf(inst.State)
	if sw.hasty && !sw.onChain {
		s.cosweeps(ctx, sw, op, invoices)
	}
	if sw.noShow {
		return
	}
	if !sw.onChain {
		_ = s.e.PushPreimage(ctx, sw.preimage)
		sw.onChain = s.one(2)
		return
	}
	if !sw.byKey || !s.cosweeps(ctx, sw, op, invoices) {
		s.takes(sw, op)
	}
}

// output is the contract's, if it is in the chain.
func (s *sim) output(sw *simSwap) (op wire.OutPoint, confirmed bool) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	for _, block := range s.node.chain.blocks {
		for _, tx := range block {
			for i, o := range tx.TxOut {
				if sw.contract != nil && string(o.PkScript) == string(sw.contract.PkScript) {
					return wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}, true
				}
			}
		}
	}
	return op, false
}

// takes has the client take a swap out's output by the preimage.
func (s *sim) takes(sw *simSwap, op wire.OutPoint) {
	claim, err := sw.contract.Claim(sw.key, sw.preimage, ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}, sw.amount, []byte{txscript.OP_TRUE}, ln.FeeRateSatPerKW(300+s.rng.IntN(2_000)))
	if err == nil {
		err = s.send(claim.Raw)
	}
	s.note("client %d takes its output: %v", sw.preimage[0], err)
}

func (s *sim) send(raw []byte) (err error) {
	tx := &wire.MsgTx{}
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	s.node.change(func() { err = s.node.chain.publish(tx) })
	return err
}

func (s *sim) beginIn(sw *simSwap) {
	ctx, cancel := context.WithTimeout(s.ctx, patient)
	defer cancel()
	hash := sw.preimage.Hash()
	fee, err := s.e.QuoteIn(ctx, sw.amount)
	if err != nil {
		return
	}
	msat, _ := (sw.amount - fee).Msat()
	internal, _ := htlc.KeyFromShared(sw.internal)
	s.node.change(func() {
		for text, h := range map[string]ln.Hash{"swap" + hash.Short(): hash, "probe" + hash.Short(): ProbeHash(hash)} {
			s.node.foreign[text] = ln.Bolt11{Hash: h, AmountMsat: msat, CreatedAt: time.Now(), Expiry: time.Hour, FinalCltvDelta: 40, Payee: ln.PubKey{2, 5}}
		}
		s.node.wallets[ProbeHash(hash)] = func(uint32) ln.PaymentState { return ln.PaymentFailed }
		s.takesPayment(sw, simPay{sw.preimage, msat, 7_000})
	})
	offer, err := s.e.OfferIn(ctx, InWish{
		Hash: hash, Sender: sw.key.PubKey(), SenderInternal: internal.PubKey(), AmountSat: sw.amount, SwapInvoice: "swap" + hash.Short(), Probe: "probe" + hash.Short(), Client: "sim",
	})
	sw.begun = true
	s.note("in %d of %s: %v", sw.preimage[0], sw.amount, err)
	if err != nil {
		return
	}
	sw.contract, _ = htlc.New(htlc.Terms{
		Hash: hash, ExpiryHeight: offer.ExpiryHeight, Sender: sw.key.PubKey(), Receiver: offer.Receiver, SenderInternal: internal.PubKey(), ReceiverInternal: offer.ReceiverInternal,
	})
	s.node.change(func() { s.node.chain.contracts[string(sw.contract.PkScript)] = true })
}

// takesPayment says what a client's wallet does with its payment.
func (s *sim) takesPayment(sw *simSwap, price simPay) {
	s.node.wallets[sw.preimage.Hash()] = func(uint32) ln.PaymentState {
		if sw.takes {
			return ln.PaymentSucceeded
		}
		return ln.PaymentFailed
	}
	s.node.prices[sw.preimage.Hash()] = price
}

func (s *sim) actIn(ctx context.Context, sw *simSwap) {
	if sw.contract == nil {
		return
	}
	if sw.deposit == nil {
		value := int64(sw.amount)
		if sw.wrongAmount {
			value--
		}
		s.node.change(func() {
			sw.deposit = s.node.clientTx(wire.NewTxOut(value, sw.contract.PkScript))
			s.note("deposit of %d: %v", sw.preimage[0], s.node.chain.publish(sw.deposit))
		})
		return
	}
	s.node.mu.Lock()
	paid := s.node.paid[sw.preimage.Hash()] > 0
	s.node.mu.Unlock()
	if paid && sw.givesKey && sw.open {
		_ = s.e.GiveKey(ctx, sw.simWallet(), sw.preimage.Hash(), sw.internal)
		return
	}
	if paid && sw.givesKey {
		_ = s.e.PushKey(ctx, sw.preimage.Hash(), sw.internal)
		return
	}
	s.refund(sw)
}

// refund has the client take its deposit back, whether it was paid or not.
func (s *sim) refund(sw *simSwap) {
	op, confirmed := s.output(sw)
	if !confirmed || !sw.refunds || s.node.chain.height() < sw.contract.ExpiryHeight {
		return
	}
	value := ln.Sat(s.node.chain.outs[op].Value)
	raw, _, err := sw.contract.Refund(sw.key, ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}, value, []byte{txscript.OP_TRUE}, ln.FeeRateSatPerKW(300+s.rng.IntN(2_000)))
	if err == nil {
		err = s.send(raw)
	}
	if err == nil {
		s.note("client %d takes its deposit back", sw.preimage[0])
	}
}
