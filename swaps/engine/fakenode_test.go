package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/btcutil/psbt"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// fakeNode is an lnd with one large coin and one channel, as far as swaps use it.
type fakeNode struct {
	mu       sync.Mutex
	height   uint32
	blocks   chan uint32
	rate     ln.FeeRateSatPerKW
	invoices map[ln.Hash]*ln.Invoice
	foreign  map[string]ln.Bolt11
	changed  chan struct{}
	leases   []ln.Lease
	funded   int
	// published are transactions by id, in the order of their first publication.
	published []*wire.MsgTx
	confirmed map[ln.TxID]uint32
	spends    map[ln.Outpoint]ln.SpendEvent
	zeroConf  bool
	coins     ln.Sat
	// payments by hash; outcome answers new ones.
	payments map[ln.Hash]ln.Payment
	outcome  func(ln.InvoicePayment, ln.Hash) (ln.Payment, error)
	sent     int
	// htlcs are in the channel.
	htlcs []ln.ChannelHtlc
	// direct are payments over one channel.
	direct []ln.DirectPayment
	// probed are probes for the asking.
	probed []ln.RouteProbe
	// away is set while lnd does not answer for payments.
	away bool
	// forgot are transactions that the wallet was to forget.
	forgot []ln.TxID
	// outputs are transactions that pay scripts, by script.
	outputs map[string]ln.ConfEvent
	// bumps were asked for.
	bumps []bump
	// keepsLess has it leave less change than it was asked for.
	keepsLess bool
	// wallet are the wallet's transactions, as far as a test cares.
	wallet []ln.WalletTx
	// late are payments that it knows of once it was asked in vain after they were sent.
	late map[ln.Hash]ln.Payment
	// wanted counts the transactions that were asked for.
	wanted int
	// unconfirmed coins are on their way, locked are leased or were once.
	unconfirmed, locked ln.Sat
	// failed: the channel does not hold what invoices have accepted; unproven: it may
	// yet fail it. listings counts how often that was told.
	failed, unproven bool
	listings         int
}

type bump struct {
	op          ln.Outpoint
	satPerVByte uint64
	budget      ln.Sat
}

// invoice is what fake clients' invoices say: their text is their hash.
func (n *fakeNode) invoice(text string) (ln.Bolt11, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b, ok := n.foreign[text]
	if !ok {
		return ln.Bolt11{}, errors.New("no invoice")
	}
	return b, nil
}

func (n *fakeNode) PayInvoice(_ context.Context, p ln.InvoicePayment) (ln.Payment, error) {
	b, err := n.invoice(p.Bolt11)
	if err != nil {
		return ln.Payment{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	result, err := n.outcome(p, b.Hash)
	n.payments[b.Hash] = result
	return result, err
}

func (n *fakeNode) ProbeRoute(_ context.Context, p ln.RouteProbe) (ln.Payment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.probed = append(n.probed, p)
	result, err := n.outcome(ln.InvoicePayment{}, p.Hash)
	n.payments[p.Hash] = result
	return result, err
}

func (n *fakeNode) PayDirect(_ context.Context, p ln.DirectPayment) (ln.Payment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent++
	n.direct = append(n.direct, p)
	result, err := n.outcome(ln.InvoicePayment{}, p.Hash)
	n.payments[p.Hash] = result
	return result, err
}

func (n *fakeNode) TrackPayment(_ context.Context, hash ln.Hash) (ln.Payment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.away {
		return ln.Payment{}, ln.ErrUnavailable
	}
	if p, ok := n.late[hash]; ok && n.payments[hash].Hash == hash && n.payments[hash].State == ln.PaymentUnknown {
		n.payments[hash] = p
		return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
	}
	if p, ok := n.payments[hash]; ok {
		return p, nil
	}
	return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
}

func (n *fakeNode) WaitPayment(ctx context.Context, hash ln.Hash) (p ln.Payment, err error) {
	err = n.followed(ctx, func() bool {
		p, err = n.TrackPayment(ctx, hash)
		return err != nil || p.State != ln.PaymentInFlight
	})
	return p, err
}

func newFakeNode() *fakeNode {
	return &fakeNode{
		height: 500, blocks: make(chan uint32, 100), rate: 1000, invoices: map[ln.Hash]*ln.Invoice{}, changed: make(chan struct{}),
		foreign: map[string]ln.Bolt11{}, payments: map[ln.Hash]ln.Payment{}, outputs: map[string]ln.ConfEvent{},
		confirmed: map[ln.TxID]uint32{}, spends: map[ln.Outpoint]ln.SpendEvent{}, coins: 20_000_000,
	}
}

func (n *fakeNode) node() Node {
	return Node{Invoices: n, Sales: n, Wallet: n, Coins: n, Chain: n, Records: n, Keys: n, Events: n, Payments: n}
}

// change runs f and wakes whoever follows something.
func (n *fakeNode) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// followed calls look after every change until it says that it has seen enough,
// or ctx ends.
func (n *fakeNode) followed(ctx context.Context, look func() bool) error {
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		if look() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *fakeNode) AddHoldInvoice(_ context.Context, r ln.HoldInvoiceRequest) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.invoices[r.Hash] != nil {
		return "", ln.ErrExists
	}
	addr := sha256.Sum256(r.Hash[:])
	n.invoices[r.Hash] = &ln.Invoice{
		Hash: r.Hash, Bolt11: "lnbcrt" + r.Hash.Short(), State: ln.InvoiceOpen, AmountMsat: r.AmountMsat, Memo: r.Memo,
		PaymentAddr: addr, FinalCltvDelta: r.FinalCltvDelta,
	}
	return n.invoices[r.Hash].Bolt11, nil
}

func (n *fakeNode) AddInvoice(_ context.Context, r ln.InvoiceRequest) (string, ln.Hash, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	hash := r.Preimage.Hash()
	n.invoices[hash] = &ln.Invoice{Hash: hash, Bolt11: "lnbcrt" + hash.Short(), State: ln.InvoiceOpen, AmountMsat: r.AmountMsat}
	return n.invoices[hash].Bolt11, hash, nil
}

func (n *fakeNode) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if inv := n.invoices[hash]; inv != nil {
		return *inv, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (n *fakeNode) SubscribeInvoice(ctx context.Context, hash ln.Hash, handle func(ln.Invoice)) error {
	last := ln.InvoiceState("")
	return n.followed(ctx, func() bool {
		if inv, err := n.LookupInvoice(ctx, hash); err == nil && inv.State != last {
			last = inv.State
			handle(inv)
		}
		return false
	})
}

func (n *fakeNode) SettleInvoice(_ context.Context, p ln.Preimage) (err error) {
	n.change(func() {
		inv := n.invoices[p.Hash()]
		switch {
		case inv == nil:
			err = ln.ErrNotFound
		case inv.State == ln.InvoiceAccepted || inv.State == ln.InvoiceSettled:
			inv.State, inv.Preimage = ln.InvoiceSettled, p
		default:
			err = ln.ErrInvoiceClosed
		}
	})
	return err
}

func (n *fakeNode) CancelInvoice(_ context.Context, hash ln.Hash) (err error) {
	n.change(func() {
		inv := n.invoices[hash]
		switch {
		case inv == nil:
			err = ln.ErrNotFound
		case inv.State == ln.InvoiceSettled:
			err = ln.ErrInvoiceClosed
		default:
			inv.State = ln.InvoiceCanceled
		}
	})
	return err
}

// pay has the client's payment arrive.
func (n *fakeNode) pay(hash ln.Hash) {
	n.change(func() {
		inv := n.invoices[hash]
		inv.State, inv.PaidMsat = ln.InvoiceAccepted, inv.AmountMsat
		inv.Htlcs = []ln.InvoiceHtlc{{Key: ln.CircuitKey{ChanID: 1}, AmtMsat: inv.AmountMsat, Expiry: n.height + inv.FinalCltvDelta, State: ln.InvoiceAccepted}}
	})
}

func (n *fakeNode) FundKeeping(_ context.Context, r ln.FundKeeping) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.leases {
		if l.ID == r.LeaseID {
			return nil, errors.New("insufficient funds")
		}
	}
	fee, _ := r.FeeRate.Fee(640)
	n.wanted++
	if n.coins < r.AmountSat+fee+r.LeastSat {
		return nil, errors.New("insufficient funds")
	}
	n.funded++
	own := append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{3}, 32)...)
	tx := wire.NewMsgTx(2)
	coin := ln.Outpoint{TxID: ln.TxID{1}, Index: uint32(n.funded)}
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(coin.TxID), Index: coin.Index}, nil, nil))
	change := n.coins - r.AmountSat - fee
	if n.keepsLess {
		change = r.LeastSat - 1
	}
	tx.AddTxOut(wire.NewTxOut(int64(change), r.OwnScript))
	tx.AddTxOut(wire.NewTxOut(int64(r.AmountSat), r.Script))
	packet, err := psbt.NewFromUnsignedTx(tx)
	if err != nil {
		return nil, err
	}
	packet.Inputs[0].WitnessUtxo = wire.NewTxOut(int64(n.coins), own)
	var raw bytes.Buffer
	if err := packet.Serialize(&raw); err != nil {
		return nil, err
	}
	n.leases = append(n.leases, ln.Lease{ID: r.LeaseID, Outpoint: coin})
	return raw.Bytes(), nil
}

func (n *fakeNode) FinalizePsbt(_ context.Context, raw []byte) ([]byte, error) {
	packet, err := psbt.NewFromRawBytes(bytes.NewReader(raw), false)
	if err != nil {
		return nil, err
	}
	tx := packet.UnsignedTx.Copy()
	tx.TxIn[0].Witness = wire.TxWitness{make([]byte, 64)}
	var out bytes.Buffer
	err = tx.Serialize(&out)
	return out.Bytes(), err
}

func (n *fakeNode) LeaseCoin(_ context.Context, id [32]byte, op ln.Outpoint, _ time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.leases {
		if l.Outpoint == op && l.ID != id {
			return ln.ErrLeased
		}
	}
	n.leases = append(n.leases, ln.Lease{ID: id, Outpoint: op})
	return nil
}

func (n *fakeNode) Transactions(context.Context, int32) ([]ln.WalletTx, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.wallet), nil
}

func (n *fakeNode) ListLeases(context.Context) ([]ln.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]ln.Lease(nil), n.leases...), nil
}

func (n *fakeNode) ReleaseCoin(_ context.Context, id [32]byte, op ln.Outpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	kept := n.leases[:0]
	for _, l := range n.leases {
		if l.ID != id || l.Outpoint != op {
			kept = append(kept, l)
		}
	}
	n.leases = kept
	return nil
}

func (n *fakeNode) WalletBalance(context.Context) (ln.Balances, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ln.Balances{ConfirmedSat: n.coins, UnconfirmedSat: n.unconfirmed, LockedSat: n.locked}, nil
}

func (n *fakeNode) Publish(_ context.Context, raw []byte, _ string) error {
	tx := &wire.MsgTx{}
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	n.change(func() {
		for _, p := range n.published {
			if p.TxHash() == tx.TxHash() {
				return
			}
		}
		n.published = append(n.published, tx)
	})
	return nil
}

func (n *fakeNode) ForgetTx(_ context.Context, id ln.TxID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forgot = append(n.forgot, id)
	return ln.ErrNotFound
}

func (n *fakeNode) BumpFee(_ context.Context, op ln.Outpoint, satPerVByte uint64, budget ln.Sat) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bumps = append(n.bumps, bump{op, satPerVByte, budget})
	return nil
}

func (n *fakeNode) EstimateFee(_ context.Context, target int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if target > 20 {
		return n.rate / 2, ln.MinFeeRate, nil
	}
	return n.rate, ln.MinFeeRate, nil
}

func (n *fakeNode) WatchConf(ctx context.Context, id ln.TxID, script []byte, _ uint32, handle func(ln.ConfEvent)) error {
	last := uint32(0)
	return n.followed(ctx, func() bool {
		n.mu.Lock()
		ev := ln.ConfEvent{Height: n.confirmed[id]}
		if pays, ok := n.outputs[string(script)]; id == (ln.TxID{}) || ok && idOf(pays.RawTx) == id {
			ev = pays
		}
		n.mu.Unlock()
		if ev.Height != last {
			last = ev.Height
			ev.Reorged = ev.Height == 0
			handle(ev)
		}
		return false
	})
}

func idOf(raw []byte) ln.TxID {
	var tx wire.MsgTx
	if tx.Deserialize(bytes.NewReader(raw)) != nil {
		return ln.TxID{}
	}
	return ln.TxID(tx.TxHash())
}

func (n *fakeNode) WatchSpend(ctx context.Context, op ln.Outpoint, _ []byte, _ uint32, handle func(ln.SpendEvent)) error {
	told := false
	return n.followed(ctx, func() bool {
		n.mu.Lock()
		spend, spent := n.spends[op]
		n.mu.Unlock()
		if spent != told {
			told = spent
			spend.Reorged = !spent
			handle(spend)
		}
		return false
	})
}

func (n *fakeNode) SharedKey(_ context.Context, key ln.KeyLocator, point ln.PubKey) ([32]byte, error) {
	return sha256.Sum256(fmt.Appendf(point[:], "seed %d %d", key.Family, key.Index)), nil
}

func (n *fakeNode) NewAddress(context.Context) (string, error) {
	address, err := btcutil.NewAddressTaproot(bytes.Repeat([]byte{4}, 32), &chaincfg.RegressionNetParams)
	if err != nil {
		return "", err
	}
	return address.EncodeAddress(), nil
}

func (n *fakeNode) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	n.mu.Lock()
	height := n.height
	n.mu.Unlock()
	handle(ln.Block{Height: height})
	for {
		select {
		case h := <-n.blocks:
			handle(ln.Block{Height: h})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *fakeNode) Info(context.Context) (ln.NodeInfo, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ln.NodeInfo{BlockHeight: n.height, SyncedToChain: true}, nil
}

// heldHtlcs are those that invoices have accepted, as a channel lists them.
func heldHtlcs(invoices map[ln.Hash]*ln.Invoice) (out []ln.ChannelHtlc) {
	for hash, inv := range invoices {
		for _, h := range inv.HtlcsIn(ln.InvoiceAccepted) {
			out = append(out, ln.ChannelHtlc{Incoming: true, Index: h.Key.HtlcID, Hash: hash, AmtMsat: h.AmtMsat})
		}
	}
	return out
}

func (n *fakeNode) ListChannels(context.Context) ([]ln.Channel, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	htlcs := n.htlcs
	if !n.failed {
		htlcs = append(heldHtlcs(n.invoices), htlcs...)
	}
	if n.unproven {
		n.listings++
		for i := range htlcs {
			htlcs[i].Unproven = true
		}
	}
	return []ln.Channel{{ChanID: 1, Active: true, RemoteSat: 10_000_000, LocalSat: 10_000_000, ZeroConf: n.zeroConf, Htlcs: htlcs}}, nil
}

func (n *fakeNode) ClosedChannels(context.Context) ([]ln.ClosedChannel, error) {
	return []ln.ClosedChannel{{ChanID: 2}}, nil
}

func (n *fakeNode) HoldExpiryDelta(context.Context) (uint32, error) { return 18, nil }

// mine makes a block that holds every published transaction that spends what is
// there, or empty ones.
func (n *fakeNode) mine(count int, full bool) {
	for range count {
		n.change(func() {
			n.height++
			if !full {
				return
			}
			for i, tx := range n.published {
				if n.confirmed[ln.TxID(tx.TxHash())] == 0 && !n.conflicts(i) {
					n.confirmed[ln.TxID(tx.TxHash())] = n.height
					n.spend(tx)
				}
			}
		})
		n.blocks <- n.height
	}
}

// conflicts says that a published transaction spends what is spent already, or what
// a later one, its replacement, spends.
func (n *fakeNode) conflicts(i int) bool {
	for _, in := range n.published[i].TxIn {
		if _, spent := n.spends[ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}]; spent {
			return true
		}
		for _, later := range n.published[i+1:] {
			for _, other := range later.TxIn {
				if other.PreviousOutPoint == in.PreviousOutPoint {
					return true
				}
			}
		}
	}
	return false
}

// spend records what a transaction in the tip spends.
func (n *fakeNode) spend(tx *wire.MsgTx) {
	var raw bytes.Buffer
	_ = tx.Serialize(&raw)
	for i, in := range tx.TxIn {
		op := ln.Outpoint{TxID: ln.TxID(in.PreviousOutPoint.Hash), Index: in.PreviousOutPoint.Index}
		n.spends[op] = ln.SpendEvent{Height: n.height, RawTx: raw.Bytes(), InputIndex: uint32(i)}
	}
}
