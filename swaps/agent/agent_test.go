package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// world is the wallet's lnd, its chain and a gateway, all of which remember.
type world struct {
	mu       sync.Mutex
	height   uint32
	looks    int
	invoices map[ln.Hash]ln.Invoice
	deposits map[string]ln.ConfEvent
	// later pay the one script of a test as well.
	later     []ln.ConfEvent
	spends    map[ln.Outpoint]ln.SpendEvent
	published []*wire.MsgTx
	changed   chan struct{}
	// gateway is what it answers; agreed is what it was asked.
	answer *swapsv1.CreateChannelSwapResponse
	refuse error
	agreed []*swapsv1.CreateChannelSwapRequest
	keys   [][]byte
	// onAgree runs while the gateway is being asked.
	onAgree func()
}

func point(n byte) []byte {
	_, pub := btcec.PrivKeyFromBytes([]byte{31: n})
	return pub.SerializeCompressed()
}

func newWorld() *world {
	return &world{
		height: 500, invoices: map[ln.Hash]ln.Invoice{}, deposits: map[string]ln.ConfEvent{}, spends: map[ln.Outpoint]ln.SpendEvent{}, changed: make(chan struct{}),
		answer: &swapsv1.CreateChannelSwapResponse{ClaimKey: point(1), InternalKey: point(2), ExpiryHeight: 1500, DepositByHeight: 644},
	}
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) Info(context.Context) (ln.NodeInfo, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	return ln.NodeInfo{PubKey: ln.PubKey{2, 5}, BlockHeight: w.height, Network: "regtest"}, nil
}

func (w *world) AddInvoice(_ context.Context, r ln.InvoiceRequest) (string, ln.Hash, error) {
	hash := r.Preimage.Hash()
	w.change(func() { w.invoices[hash] = ln.Invoice{Hash: hash, State: ln.InvoiceOpen, AmountMsat: r.AmountMsat} })
	return "lnbcrt" + hash.Short(), hash, nil
}

func (w *world) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if inv, ok := w.invoices[hash]; ok {
		return inv, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (w *world) CancelInvoice(_ context.Context, hash ln.Hash) (err error) {
	w.change(func() {
		inv := w.invoices[hash]
		if inv.State == ln.InvoiceSettled {
			err = ln.ErrInvoiceClosed
			return
		}
		inv.State = ln.InvoiceCanceled
		w.invoices[hash] = inv
	})
	return err
}

func (w *world) NewAddress(context.Context) (string, error) {
	return "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", nil
}

func (w *world) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return 1000, 253, nil
}

func (w *world) Publish(_ context.Context, raw []byte, _ string) error {
	tx := &wire.MsgTx{}
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		return err
	}
	w.change(func() { w.published = append(w.published, tx) })
	return nil
}

func (w *world) follow(ctx context.Context, look func()) error {
	for {
		w.mu.Lock()
		changed := w.changed
		w.mu.Unlock()
		look()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WatchConf names the latest of those that pay a script, as lnd does to whoever asks
// anew, and stays with that one.
func (w *world) WatchConf(ctx context.Context, _ ln.TxID, script []byte, since uint32, handle func(ln.ConfEvent)) error {
	last := uint32(0)
	var named []byte
	return w.follow(ctx, func() {
		w.mu.Lock()
		var ev ln.ConfEvent
		for _, d := range append([]ln.ConfEvent{w.deposits[string(script)]}, w.later...) {
			if d.Height >= since && d.Height > ev.Height && (named == nil || bytes.Equal(named, d.RawTx)) {
				ev = d
			}
		}
		w.mu.Unlock()
		named = ev.RawTx
		if ev.Height != last {
			last = ev.Height
			ev.Reorged = ev.Height == 0
			handle(ev)
		}
	})
}

func (w *world) WatchSpend(ctx context.Context, op ln.Outpoint, _ []byte, _ uint32, handle func(ln.SpendEvent)) error {
	last := uint32(0)
	return w.follow(ctx, func() {
		w.mu.Lock()
		ev := w.spends[op]
		w.mu.Unlock()
		if ev.Height != last {
			last = ev.Height
			ev.Reorged = ev.Height == 0
			handle(ev)
		}
	})
}

func (w *world) QuoteChannelSwap(_ context.Context, r *swapsv1.QuoteChannelSwapRequest, _ ...grpc.CallOption) (*swapsv1.QuoteChannelSwapResponse, error) {
	return &swapsv1.QuoteChannelSwapResponse{Quote: &swapsv1.ChannelSwapQuote{
		AmountSat: r.AmountSat, InvoiceSat: r.AmountSat - 3_000, SwapFeeSat: 1_000, OpeningFeeMsat: 2_000_000, ChannelCapacitySat: 600_000,
		Confirmations: 2, ChannelConfirmations: 3, ExpiryDeltaBlocks: 1_000, DepositWithinBlocks: 144,
	}}, nil
}

func (w *world) CreateChannelSwap(_ context.Context, r *swapsv1.CreateChannelSwapRequest, _ ...grpc.CallOption) (*swapsv1.CreateChannelSwapResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onAgree != nil {
		w.onAgree()
	}
	w.agreed = append(w.agreed, r)
	return w.answer, w.refuse
}

func (w *world) GetChannelSwap(context.Context, *swapsv1.GetChannelSwapRequest, ...grpc.CallOption) (*swapsv1.GetChannelSwapResponse, error) {
	return &swapsv1.GetChannelSwapResponse{Swap: &swapsv1.ChannelSwap{State: "waiting"}}, nil
}

func (w *world) GiveKey(_ context.Context, r *swapsv1.GiveKeyRequest, _ ...grpc.CallOption) (*swapsv1.GiveKeyResponse, error) {
	w.change(func() { w.keys = append(w.keys, r.InternalPrivateKey) })
	return &swapsv1.GiveKeyResponse{}, nil
}

// rig is an agent that can be stopped and started again.
type rig struct {
	*Agent
	t    *testing.T
	w    *world
	dir  string
	stop func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, w: newWorld(), dir: t.TempDir()}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	a, err := New(Config{DataDir: r.dir, Every: 5 * time.Millisecond}, Ports{
		Node: r.w, Chain: r.w, Now: time.Now, Random: rand.Reader,
		Gateways: func() []Gateway { return []Gateway{{Name: "gw", NodeKey: ln.PubKey{2, 1}}} },
		Connect: func(Gateway, ln.PubKey) (swapsv1.ChannelSwapsServiceClient, func() error, error) {
			return r.w, func() error { return nil }, nil
		},
	})
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.Agent = a
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(r.t, <-done)
		}
	}
}

func (r *rig) begin() Record {
	r.t.Helper()
	record, err := r.Begin(context.Background(), "", 500_000, 0)
	require.NoError(r.t, err)
	return record
}

// looked returns once all swaps have been looked at since.
func (r *rig) looked() {
	r.t.Helper()
	looks := func() int { r.w.mu.Lock(); defer r.w.mu.Unlock(); return r.w.looks }
	begun := looks()
	require.Eventually(r.t, func() bool { return looks() >= begun+3 }, 20*time.Second, time.Millisecond)
}

func (r *rig) reaches(hash ln.Hash, phase Phase) Record {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		got, err := r.Record(hash)
		require.NoError(r.t, err)
		return got.Phase == phase
	}, 20*time.Second, 2*time.Millisecond, "%s", phase)
	got, _ := r.Record(hash)
	return got
}

// deposit has a transaction with these values confirm in the next block.
func (r *rig) deposit(record Record, values ...int64) *wire.MsgTx {
	r.t.Helper()
	contract, err := htlc.New(record.Terms)
	require.NoError(r.t, err)
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{}, nil, nil))
	for _, v := range values {
		tx.AddTxOut(wire.NewTxOut(v, contract.PkScript))
	}
	var raw bytes.Buffer
	require.NoError(r.t, tx.Serialize(&raw))
	r.w.change(func() {
		r.w.height++
		r.w.deposits[string(contract.PkScript)] = ln.ConfEvent{Height: r.w.height, RawTx: raw.Bytes()}
	})
	require.Eventually(r.t, func() bool { got, _ := r.Record(record.Hash); return len(got.Deposits) == len(values) }, 20*time.Second, 2*time.Millisecond)
	return tx
}

// confirm has a transaction of ours spend a deposit in the next block.
func (r *rig) confirm(tx *wire.MsgTx) {
	r.t.Helper()
	var raw bytes.Buffer
	require.NoError(r.t, tx.Serialize(&raw))
	r.w.change(func() {
		r.w.height++
		op := ln.Outpoint{TxID: ln.TxID(tx.TxIn[0].PreviousOutPoint.Hash), Index: tx.TxIn[0].PreviousOutPoint.Index}
		r.w.spends[op] = ln.SpendEvent{Height: r.w.height, RawTx: raw.Bytes()}
	})
}

// The address is told only when the file alone can take the deposit back.
func TestTheRecordIsThereFirst(t *testing.T) {
	r := newRig(t)
	r.w.onAgree = func() {
		records, err := OpenRecords(r.dir)
		require.NoError(t, err)
		require.Len(t, records.All(), 1)
		require.Equal(t, PhaseMade, records.All()[0].Phase)
		require.Empty(t, records.All()[0].Address)
	}
	record := r.begin()
	require.True(t, strings.HasPrefix(record.Address, "bcrt1p"), record.Address)
	r.stop()
	info, err := os.Stat(filepath.Join(r.dir, RecordsFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	// Nothing but the file: no agent, no node.
	records, err := OpenRecords(r.dir)
	require.NoError(t, err)
	again, err := records.Get(record.Hash)
	require.NoError(t, err)
	to, err := again.ScriptOf("bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080")
	require.NoError(t, err)
	_, err = again.ScriptOf("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
	require.ErrorIs(t, err, errkind.Invalid, "an address of another network")
	raw, fee, err := again.Refund(ln.Outpoint{TxID: ln.TxID{7}}, 500_000, to, 1000)
	require.NoError(t, err)
	checkRefund(t, again, raw, 500_000, fee)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", again, again, again), fmt.Sprintf("%x", again.RefundKey[:]))
}

// checkRefund runs the network's own script interpreter over it.
func checkRefund(t *testing.T, r Record, raw []byte, value int64, fee ln.Sat) *wire.MsgTx {
	t.Helper()
	tx := &wire.MsgTx{}
	require.NoError(t, tx.Deserialize(bytes.NewReader(raw)))
	require.Equal(t, r.Terms.ExpiryHeight, tx.LockTime)
	require.EqualValues(t, value-int64(fee), tx.TxOut[0].Value)
	contract, err := htlc.New(r.Terms)
	require.NoError(t, err)
	fetcher := txscript.NewCannedPrevOutputFetcher(contract.PkScript, value)
	vm, err := txscript.NewEngine(contract.PkScript, tx, 0, txscript.StandardVerifyFlags, nil, txscript.NewTxSigHashes(tx, fetcher), value, fetcher)
	require.NoError(t, err)
	require.NoError(t, vm.Execute())
	return tx
}

// Paid: the key is given away then, and not before; the deposit is the gateway's.
func TestPaid(t *testing.T) {
	r := newRig(t)
	_, waits := r.Awaits(ln.PubKey{2, 9})
	require.False(t, waits)
	record := r.begin()
	confs, waits := r.Awaits(record.GatewayKey)
	require.True(t, waits)
	require.Equal(t, max(record.ChannelConfs, 1), confs)
	_, waits = r.Awaits(ln.PubKey{3, 9})
	require.False(t, waits)
	r.deposit(record, 500_000)
	r.stop()
	r.start()
	require.Empty(t, r.w.keys)
	// Even long past the expiry nothing is taken back of what was paid.
	r.w.change(func() {
		inv := r.w.invoices[record.Hash]
		inv.State = ln.InvoiceSettled
		r.w.invoices[record.Hash] = inv
		r.w.height = 2_000
	})
	got := r.reaches(record.Hash, PhasePaid)
	_, waits = r.Awaits(record.GatewayKey)
	require.False(t, waits, "what it pays now buys no deposit")
	require.Eventually(t, func() bool { got, _ = r.Record(record.Hash); return got.KeyGiven }, 20*time.Second, 2*time.Millisecond)
	require.Equal(t, got.InternalKey[:], r.w.keys[0])
	require.Empty(t, r.w.published)
	claim := wire.NewMsgTx(2)
	claim.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: [32]byte(got.Deposits[0].Outpoint.TxID), Index: 0}, nil, [][]byte{make([]byte, 64)}))
	r.confirm(claim)
	r.w.change(func() { r.w.height += 5 })
	r.reaches(record.Hash, PhaseDone)
	require.Empty(t, r.w.published)
}

// Not paid: nothing before the expiry; then the invoice is cancelled first, and
// every output comes back, at a rising fee, through restarts.
func TestTakenBack(t *testing.T) {
	r := newRig(t)
	record := r.begin()
	r.deposit(record, 500_000, 10_000)
	r.w.change(func() { r.w.height = 1_499 })
	r.looked()
	require.Equal(t, PhaseAgreed, r.reaches(record.Hash, PhaseAgreed).Phase)
	r.stop()
	r.w.change(func() { r.w.height = 1_500 })
	r.start()
	r.reaches(record.Hash, PhaseRefunding)
	require.Equal(t, ln.InvoiceCanceled, r.w.invoices[record.Hash].State)
	require.Eventually(t, func() bool { r.w.mu.Lock(); defer r.w.mu.Unlock(); return len(r.w.published) >= 2 }, 20*time.Second, 2*time.Millisecond)
	got, err := r.Record(record.Hash)
	require.NoError(t, err)
	for i, value := range []int64{500_000, 10_000} {
		checkRefund(t, got, got.Deposits[i].Refund.Raw, value, got.Deposits[i].Refund.FeeSat)
	}
	first := got.Deposits[0].Refund.Rate
	r.stop()
	r.start()
	r.w.change(func() { r.w.height += bumpEvery })
	require.Eventually(t, func() bool { got, _ = r.Record(record.Hash); return got.Deposits[0].Refund.Rate > first }, 20*time.Second, 2*time.Millisecond)
	require.Equal(t, got.RefundScript, mustTx(t, got.Deposits[0].Refund.Raw).TxOut[0].PkScript)
	for _, d := range got.Deposits {
		r.confirm(mustTx(t, d.Refund.Raw))
	}
	// A reorg takes the refund away: it is not over.
	op := got.Deposits[0].Outpoint
	var spend ln.SpendEvent
	r.w.change(func() { spend = r.w.spends[op]; delete(r.w.spends, op); r.w.height += 20 })
	require.Eventually(t, func() bool {
		got, _ = r.Record(record.Hash)
		return got.Deposits[0].Spent == "" && got.Deposits[1].Spent != ""
	}, 20*time.Second, 2*time.Millisecond)
	require.Equal(t, PhaseRefunding, got.Phase)
	r.w.change(func() { r.w.spends[op] = spend; r.w.height = spend.Height })
	require.Eventually(t, func() bool { got, _ = r.Record(record.Hash); return got.Deposits[0].Spent != "" }, 20*time.Second, 2*time.Millisecond)
	// And one that nobody saw: it happened while the daemon was away.
	r.stop()
	r.w.change(func() { delete(r.w.spends, op); r.w.height += 20 })
	r.start()
	require.Eventually(t, func() bool { got, _ = r.Record(record.Hash); return got.Deposits[0].Spent == "" }, 20*time.Second, 2*time.Millisecond)
	r.looked()
	require.Equal(t, PhaseRefunding, r.reaches(record.Hash, PhaseRefunding).Phase)
	r.w.change(func() { r.w.spends[op] = spend })
	r.reaches(record.Hash, PhaseRefunded)
}

// Whoever likes can send something to the address: what the wallet deposited is taken
// back all the same, whichever of them lnd names.
func TestStrangersDeposits(t *testing.T) {
	r := newRig(t)
	record := r.begin()
	r.deposit(record, 4_000)
	contract, err := htlc.New(record.Terms)
	require.NoError(t, err)
	pays := func(n uint32, value int64) *wire.MsgTx {
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: n}, nil, nil))
		tx.AddTxOut(wire.NewTxOut(value, contract.PkScript))
		var raw bytes.Buffer
		require.NoError(t, tx.Serialize(&raw))
		r.w.change(func() {
			r.w.height++
			r.w.later = append(r.w.later, ln.ConfEvent{Height: r.w.height, RawTx: raw.Bytes()})
		})
		return tx
	}
	known := func(n int) func() bool {
		return func() bool { got, _ := r.Record(record.Hash); return len(got.Deposits) == n }
	}
	own := pays(7, 500_000)
	require.Eventually(t, known(2), 20*time.Second, 2*time.Millisecond, "a stranger came first")
	pays(8, 5_000)
	require.Eventually(t, known(3), 20*time.Second, 2*time.Millisecond)
	// A daemon that was away is told of the last one.
	r.stop()
	pays(9, 6_000)
	r.start()
	require.Eventually(t, known(4), 20*time.Second, 2*time.Millisecond)
	r.w.change(func() { r.w.height = 1_500 })
	r.reaches(record.Hash, PhaseRefunding)
	var got Record
	require.Eventually(t, func() bool {
		got, _ = r.Record(record.Hash)
		for _, d := range got.Deposits {
			if d.Refund == nil {
				return false
			}
		}
		return true
	}, 20*time.Second, 2*time.Millisecond)
	require.Equal(t, ln.TxID(own.TxHash()), got.Deposits[1].Outpoint.TxID)
	checkRefund(t, got, got.Deposits[1].Refund.Raw, 500_000, got.Deposits[1].Refund.FeeSat)
	for _, d := range got.Deposits[1:] {
		r.confirm(mustTx(t, d.Refund.Raw))
	}
	r.w.change(func() { r.w.height += 20 })
	r.looked()
	require.Equal(t, PhaseRefunding, r.reaches(record.Hash, PhaseRefunding).Phase, "one is not back")
	r.confirm(mustTx(t, got.Deposits[0].Refund.Raw))
	r.w.change(func() { r.w.height += 20 })
	r.reaches(record.Hash, PhaseRefunded)
}

func mustTx(t *testing.T, raw []byte) *wire.MsgTx {
	t.Helper()
	tx := &wire.MsgTx{}
	require.NoError(t, tx.Deserialize(bytes.NewReader(raw)))
	return tx
}

// What a gateway may answer, and what is not taken: nothing of that is agreed on,
// and its invoice is cancelled.
func TestAnswersThatAreNotTaken(t *testing.T) {
	for name, change := range map[string]func(*world){
		"an error":               func(w *world) { w.refuse = errors.New("no room") },
		"no key":                 func(w *world) { w.answer.ClaimKey = nil },
		"a key that is no point": func(w *world) { w.answer.InternalKey = append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...) },
		"it expires at once":     func(w *world) { w.answer.ExpiryHeight = 599 },
		"it never expires":       func(w *world) { w.answer.ExpiryHeight = 500 + 2_017 },
		"no time to deposit":     func(w *world) { w.answer.DepositByHeight = 500 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			change(r.w)
			_, err := r.Begin(context.Background(), "", 500_000, 0)
			require.Error(t, err)
			got := r.Records()[0]
			require.Equal(t, PhaseGivenUp, got.Phase)
			require.Empty(t, got.Address)
			require.Equal(t, ln.InvoiceCanceled, r.w.invoices[got.Hash].State)
		})
	}
	r := newRig(t)
	_, err := r.Begin(context.Background(), "", 500_000, 2_999)
	require.ErrorIs(t, err, errkind.Conflict)
	require.Empty(t, r.w.agreed, "too dear: nothing was asked for")
	_, err = r.Begin(context.Background(), "other", 500_000, 0)
	require.ErrorIs(t, err, errkind.NotFound)
}

func TestADamagedFileIsAnError(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, RecordsFile), []byte("[{"), 0o600))
	_, err := OpenRecords(dir)
	require.ErrorContains(t, err, "damaged")
}

// What is decided, row by row.
func TestNext(t *testing.T) {
	terms := htlc.Terms{ExpiryHeight: 1000}
	open := Deposit{Height: 900, ValueSat: 100_000}
	signed, spent, took := open, open, open
	signed.Refund = &Refund{Height: 1000}
	spent.Spent, spent.SpentHeight = htlc.SpendKey, 1000
	took.Spent, took.SpentHeight = htlc.SpendTimeout, 1000
	for name, c := range map[string]struct {
		phase    Phase
		deposits []Deposit
		tip      uint32
		invoice  ln.InvoiceState
		act      Act
		next     Phase
	}{
		"nobody was told an address":             {PhaseMade, nil, 900, ln.InvoiceOpen, ActGiveUp, PhaseGivenUp},
		"waits":                                  {PhaseAgreed, []Deposit{open}, 999, ln.InvoiceOpen, ActNone, PhaseAgreed},
		"expired":                                {PhaseAgreed, []Deposit{open}, 1000, ln.InvoiceOpen, ActCancel, PhaseRefunding},
		"expired while it is being paid":         {PhaseAgreed, []Deposit{open}, 1000, ln.InvoiceAccepted, ActNone, PhaseAgreed},
		"paid at the last moment":                {PhaseAgreed, []Deposit{open}, 1000, ln.InvoiceSettled, ActPaid, PhasePaid},
		"paid, the key is not given":             {PhasePaid, []Deposit{open}, 950, ln.InvoiceSettled, ActGiveKey, PhasePaid},
		"paid and taken":                         {PhasePaid, []Deposit{spent}, 1005, ln.InvoiceSettled, ActEnd, PhaseDone},
		"paid and taken, not buried":             {PhasePaid, []Deposit{spent}, 1004, ln.InvoiceSettled, ActNone, PhasePaid},
		"nothing was deposited yet":              {PhaseRefunding, nil, 1000, ln.InvoiceCanceled, ActNone, PhaseRefunding},
		"nothing was deposited at all":           {PhaseRefunding, nil, 2008, ln.InvoiceCanceled, ActEnd, PhaseLapsed},
		"to be signed":                           {PhaseRefunding, []Deposit{open}, 1000, ln.InvoiceCanceled, ActRefund, PhaseRefunding},
		"to be published again":                  {PhaseRefunding, []Deposit{signed}, 1002, ln.InvoiceCanceled, ActPublish, PhaseRefunding},
		"to pay more":                            {PhaseRefunding, []Deposit{signed}, 1003, ln.InvoiceCanceled, ActRefund, PhaseRefunding},
		"one of two is back":                     {PhaseRefunding, []Deposit{took, signed}, 1005, ln.InvoiceCanceled, ActRefund, PhaseRefunding},
		"a reorg took it away":                   {PhaseRefunding, []Deposit{{ValueSat: 9}, took}, 1005, ln.InvoiceCanceled, ActPublish, PhaseRefunding},
		"it did not come back":                   {PhaseRefunding, []Deposit{{ValueSat: 9}, took}, 2008, ln.InvoiceCanceled, ActEnd, PhaseRefunded},
		"one is worth nothing":                   {PhaseRefunding, []Deposit{open, took}, 2008, ln.InvoiceCanceled, ActEnd, PhaseRefunded},
		"both are back":                          {PhaseRefunding, []Deposit{took, took}, 1005, ln.InvoiceCanceled, ActEnd, PhaseRefunded},
		"the gateway had the preimage all along": {PhaseRefunding, []Deposit{spent}, 1005, ln.InvoiceCanceled, ActEnd, PhaseDone},
	} {
		act, next := Next(Record{Phase: c.phase, Terms: terms, Deposits: c.deposits}, c.tip, c.invoice)
		require.Equal(t, c.act, act, name)
		require.Equal(t, c.next, next, name)
	}
	require.Zero(t, refundRate(Deposit{ValueSat: 200}, 253), "it would cost more than half")
	require.EqualValues(t, 1251, refundRate(Deposit{ValueSat: 300_000, Refund: &Refund{Rate: 1000}}, 253))
}
