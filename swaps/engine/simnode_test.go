package engine

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// simNode is an lnd on a simChain. It remembers whatever happens to sluiced, answers
// now and then that it is away, sometimes after it did what it was asked, and its
// streams break off.
type simNode struct {
	*fakeNode
	chain *simChain
	// flaky calls of a hundred fail. The order of calls is not the seed's.
	flaky int
	luck  *rand.Rand
	// steady: clients' wallets answer at once, and opens end well.
	steady bool
	// broken ends the streams that are open.
	broken context.Context
	snap   context.CancelFunc
	coins_ []wire.OutPoint
	nextIn uint32
	// answers of clients' wallets, by hash.
	wallets map[ln.Hash]func(height uint32) ln.PaymentState
	prices  map[ln.Hash]simPay
	held    map[ln.Hash]uint32
	paid    map[ln.Hash]int
	change_ []byte
	// bad is what must never be asked of it.
	bad error
}

func (n *simNode) blame(err error) { n.change(func() { n.bad = err }) }

type simPay struct {
	preimage  ln.Preimage
	msat, fee ln.Msat
}

func newSimNode(seed uint64) *simNode {
	n := &simNode{
		fakeNode: newFakeNode(), chain: newSimChain(), luck: rand.New(rand.NewPCG(seed, 7)), wallets: map[ln.Hash]func(uint32) ln.PaymentState{},
		prices: map[ln.Hash]simPay{}, held: map[ln.Hash]uint32{}, paid: map[ln.Hash]int{},
		change_: append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{3}, 32)...),
	}
	n.broken, n.snap = context.WithCancel(context.Background())
	for i := range uint32(12) {
		n.coins_ = append(n.coins_, n.chain.coin(i, 2_000_000, n.change_))
	}
	n.nextIn = 1_000
	return n
}

func (n *simNode) ports() Node {
	return Node{Invoices: n, Sales: n, Wallet: n, Coins: n, Chain: n, Records: n, Keys: n, Events: n, Payments: n}
}

// breakStreams is lnd's restart, as far as streams are concerned.
func (n *simNode) breakStreams() {
	n.change(func() {
		n.snap()
		n.broken, n.snap = context.WithCancel(context.Background())
	})
}

// away: this call is not answered.
func (n *simNode) unanswered() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.luck.IntN(100) < n.flaky {
		return ln.ErrUnavailable
	}
	return nil
}

// twice calls f, which remembers, and may lose the answer.
func (n *simNode) twice(f func() error) error {
	if err := n.unanswered(); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return n.unanswered()
}

func (n *simNode) stream(ctx context.Context, look func() bool) error {
	n.mu.Lock()
	broken := n.broken
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(broken, cancel)
	defer stop()
	return n.followed(ctx, look)
}

func (n *simNode) Info(context.Context) (ln.NodeInfo, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ln.NodeInfo{BlockHeight: n.chain.height(), SyncedToChain: true}, nil
}

func (n *simNode) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	last := uint32(0)
	return n.followed(ctx, func() bool {
		n.mu.Lock()
		h := n.chain.height()
		n.mu.Unlock()
		if h != last {
			last = h
			handle(ln.Block{Height: h})
		}
		return false
	})
}

func (n *simNode) SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error {
	last := ln.InvoiceState("")
	return n.stream(ctx, func() bool {
		if inv, err := n.LookupInvoice(ctx, hash); err == nil && inv.State != last {
			last = inv.State
			handle(inv)
		}
		return false
	})
}

func (n *simNode) AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (text string, err error) {
	err = n.twice(func() (err error) { text, err = n.fakeNode.AddHoldInvoice(ctx, r); return err })
	return text, err
}

func (n *simNode) SettleInvoice(ctx context.Context, p ln.Preimage) error {
	return n.twice(func() error { return n.fakeNode.SettleInvoice(ctx, p) })
}

func (n *simNode) CancelInvoice(ctx context.Context, hash ln.Hash) error {
	return n.twice(func() error { return n.fakeNode.CancelInvoice(ctx, hash) })
}

// deadlines are what lnd does by itself when a block comes: it gives accepted
// payments back that expire, and clients' wallets give up what they hold.
func (n *simNode) deadlines() {
	h := n.chain.height()
	for _, inv := range n.invoices {
		if inv.State == ln.InvoiceAccepted && len(inv.Htlcs) > 0 && h+18 >= inv.Htlcs[0].Expiry {
			inv.State = ln.InvoiceCanceled
		}
	}
	for hash, until := range n.held {
		if p := n.payments[hash]; p.State == ln.PaymentInFlight && h >= until {
			n.resolve(hash)
		}
	}
}

// pay has a client's payment arrive.
func (n *simNode) arrives(hash ln.Hash) {
	n.change(func() {
		inv := n.invoices[hash]
		if inv == nil || inv.State != ln.InvoiceOpen {
			return
		}
		inv.State, inv.PaidMsat = ln.InvoiceAccepted, inv.AmountMsat
		inv.Htlcs = []ln.InvoiceHtlc{{Key: ln.CircuitKey{ChanID: 1}, AmtMsat: inv.AmountMsat, Expiry: n.chain.height() + inv.FinalCltvDelta, State: ln.InvoiceAccepted}}
	})
}

func (n *simNode) FundKeeping(_ context.Context, r ln.FundKeeping) (f []byte, err error) {
	err = n.twice(func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		var coin *wire.OutPoint
		for i, op := range n.coins_ {
			_, spent := n.chain.spent[op]
			point := ln.Outpoint{TxID: ln.TxID(op.Hash), Index: op.Index}
			if !spent && !slices.ContainsFunc(n.leases, func(l ln.Lease) bool { return l.Outpoint == point }) {
				coin = &n.coins_[i]
				n.leases = append(n.leases, ln.Lease{ID: r.LeaseID, Outpoint: point})
				break
			}
		}
		if coin == nil {
			return errors.New("insufficient funds")
		}
		n.funded++
		fee, _ := r.FeeRate.Fee(640)
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(coin, nil, nil))
		tx.AddTxOut(wire.NewTxOut(2_000_000-int64(r.AmountSat+fee), r.OwnScript))
		tx.AddTxOut(wire.NewTxOut(int64(r.AmountSat), r.Script))
		packet, err := psbt.NewFromUnsignedTx(tx)
		if err != nil {
			return err
		}
		packet.Inputs[0].WitnessUtxo = wire.NewTxOut(2_000_000, n.change_)
		var raw bytes.Buffer
		if err := packet.Serialize(&raw); err != nil {
			return err
		}
		f = raw.Bytes()
		return nil
	})
	return f, err
}

func (n *simNode) Publish(_ context.Context, raw []byte, _ string) error {
	tx := &wire.MsgTx{}
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	return n.twice(func() (err error) {
		n.change(func() { err = n.chain.publish(tx) })
		return err
	})
}

// WatchConf by script names the latest transaction that pays it to whoever asks anew,
// as lnd does, and stays with that one.
func (n *simNode) WatchConf(ctx context.Context, id ln.TxID, script []byte, _ uint32, handle func(ln.ConfEvent)) error {
	var last ln.ConfEvent
	watched := id
	return n.stream(ctx, func() bool {
		var ev ln.ConfEvent
		n.mu.Lock()
		for i, block := range n.chain.blocks {
			for _, tx := range block {
				is := ln.TxID(tx.TxHash())
				if watched != (ln.TxID{}) && is != watched || !slices.ContainsFunc(tx.TxOut, func(o *wire.TxOut) bool { return bytes.Equal(o.PkScript, script) }) {
					continue
				}
				ev = ln.ConfEvent{Height: n.chain.base + uint32(i) + 1, RawTx: rawOf(tx)}
			}
		}
		n.mu.Unlock()
		if id == (ln.TxID{}) {
			watched = idOf(ev.RawTx)
		}
		if ev.Height == last.Height && bytes.Equal(ev.RawTx, last.RawTx) {
			return false
		}
		if last.Height > 0 {
			handle(ln.ConfEvent{Reorged: true})
		}
		if last = ev; ev.Height > 0 {
			handle(ev)
		}
		return false
	})
}

func (n *simNode) WatchSpend(ctx context.Context, op ln.Outpoint, _ []byte, _ uint32, handle func(ln.SpendEvent)) error {
	var last simSpend
	point := wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}
	return n.stream(ctx, func() bool {
		n.mu.Lock()
		now := n.chain.spent[point]
		n.mu.Unlock()
		if now == last {
			return false
		}
		if last.height > 0 {
			handle(ln.SpendEvent{Reorged: true})
		}
		if last = now; now.height > 0 {
			handle(ln.SpendEvent{Height: now.height, RawTx: rawOf(now.tx), InputIndex: now.input})
		}
		return false
	})
}

// resolve ends a payment as the client's wallet wants it.
func (n *simNode) resolve(hash ln.Hash) {
	delete(n.held, hash)
	p := n.payments[hash]
	if p.State = n.wallets[hash](n.chain.height()); p.State == ln.PaymentSucceeded {
		price := n.prices[hash]
		p.Preimage, p.ValueMsat, p.FeeMsat, p.InFlight = price.preimage, price.msat, price.fee, 0
		n.paid[hash]++
	} else {
		p.State, p.Failure = ln.PaymentFailed, declined
	}
	n.payments[hash] = p
}

func (n *simNode) PayInvoice(ctx context.Context, r ln.InvoicePayment) (ln.Payment, error) {
	b, err := n.invoice(r.Bolt11)
	if err != nil {
		return ln.Payment{}, err
	}
	if err := n.unanswered(); err != nil {
		return ln.Payment{}, err
	}
	known := ln.Payment{}
	n.change(func() {
		known = n.payments[b.Hash]
		if known.State == ln.PaymentInFlight || known.State == ln.PaymentSucceeded {
			return
		}
		n.sent++
		n.payments[b.Hash] = ln.Payment{Hash: b.Hash, State: ln.PaymentInFlight, InFlight: 1}
		// What is held expires before the limit.
		n.held[b.Hash] = n.chain.height() + uint32(n.luck.IntN(int(min(r.CltvLimit, 30))))
		if n.steady || n.luck.IntN(3) > 0 {
			n.resolve(b.Hash)
		}
	})
	if known.State == ln.PaymentInFlight || known.State == ln.PaymentSucceeded {
		return ln.Payment{}, ln.ErrExists
	}
	if err := n.unanswered(); err != nil {
		return ln.Payment{}, err
	}
	return n.WaitPayment(ctx, b.Hash)
}

func (n *simNode) WaitPayment(ctx context.Context, hash ln.Hash) (p ln.Payment, err error) {
	err = n.stream(ctx, func() bool {
		p, err = n.TrackPayment(ctx, hash)
		return err != nil || p.State != ln.PaymentInFlight
	})
	if err != nil {
		return p, ln.ErrUnavailable
	}
	return p, nil
}

// clientTx is a transaction of a client's, from a coin of its own.
func (n *simNode) clientTx(outs ...*wire.TxOut) *wire.MsgTx {
	var sum int64
	for _, o := range outs {
		sum += o.Value
	}
	n.nextIn++
	tx := wire.NewMsgTx(2)
	op := n.chain.coin(n.nextIn, sum+500, []byte{txscript.OP_TRUE})
	tx.AddTxIn(wire.NewTxIn(&op, nil, nil))
	for _, o := range outs {
		tx.AddTxOut(o)
	}
	return tx
}

// outsideSat is what lnd's lists say that left the wallet for others, fees of its own
// transactions aside: lsp/books posts so much against equity/outside.
func (n *simNode) outsideSat() (sat int64) {
	own := func(script []byte) bool {
		return bytes.Equal(script, n.change_) || bytes.Equal(script, append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{4}, 32)...))
	}
	for _, block := range n.chain.blocks {
		for _, tx := range block {
			spends := false
			for _, in := range tx.TxIn {
				spends = spends || own(n.chain.outs[in.PreviousOutPoint].PkScript)
			}
			for _, o := range tx.TxOut {
				switch {
				case spends && !own(o.PkScript):
					sat += o.Value
				case !spends && own(o.PkScript):
					sat -= o.Value
				}
			}
		}
	}
	return sat
}
