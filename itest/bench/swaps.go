package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

const (
	swapsAtOnce  = 50
	swapSat      = 50_000
	swapsSwept   = 10
	swapsRefused = 5
	swapsIn      = 10
	swapBlocks   = 100
	aimOwnP99    = 20
)

// swapBench is the service beside the gateway's lnd, and a client that does what the
// stock one does, beside its own.
type swapBench struct {
	*bench
	*devnet.Net
	desk            *swapDesk
	gateway, client *devnet.Node
}

// runSwaps begins 50 swaps out at once, and then looks at the chain: what
// cooperative spends cost, and what transactions that swaps share.
func runSwaps(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	b.say("starting btcd and two lnds")
	network, err := devnet.Start(ctx, devnet.Config{KeepDir: b.keep})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	s := &swapBench{bench: b, Net: network}
	nodes, err := network.NewNodes(ctx, devnet.NodeSpec{Name: "gateway"}, devnet.NodeSpec{Name: "client"})
	if err != nil {
		return nil, err
	}
	s.gateway, s.client = nodes[0], nodes[1]
	if err := network.Connect(ctx, s.client, s.gateway); err != nil {
		return nil, err
	}
	if err := network.Fund(ctx, devnet.Funding{Node: s.gateway, CoinSat: 500_000, Coins: 60}, devnet.Funding{Node: s.client, CoinSat: 16_500_000, Coins: 2}); err != nil {
		return nil, err
	}
	if _, err := network.OpenChannel(ctx, s.client, s.gateway, devnet.ChannelParams{CapacitySat: 16_000_000, PushSat: 4_000_000}); err != nil {
		return nil, err
	}
	if s.desk, err = openSwapDesk(ctx, s.gateway); err != nil {
		return nil, err
	}
	defer s.desk.close()

	b.say("%d swaps out at once, three times", swapsAtOnce)
	var wall, own []float64
	var begun []*outSwap
	for range 3 {
		round, err := s.beginAll(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range round {
			wall, own = append(wall, o.wallMs), append(own, o.ownMs)
		}
		begun = round
	}
	b.say("quote and NewLoopOutSwap: p50 %.1f ms, p99 %.1f ms; outside lnd p50 %.1f ms, p99 %.1f ms (the aim is %d ms)",
		median(wall), quantile(wall, 0.99), median(own), quantile(own, 0.99), aimOwnP99)

	sizes, err := s.onChain(ctx, begun)
	if err != nil {
		return nil, err
	}
	var r result
	r.add("wall_p99_ms", "%.0f", quantile(wall, 0.99))
	r.add("own_p99_ms", "%.1f", quantile(own, 0.99))
	return r, sizes.report(b, &r)
}

// outSwap is a swap out as its client has it.
type outSwap struct {
	secret
	private       *btcec.PrivateKey
	expiry        int32
	terms         htlc.Terms
	swap, prepay  string
	paymentAddr   [32]byte
	wallMs, ownMs float64
}

// beginAll quotes and begins them, all at once.
func (s *swapBench) beginAll(ctx context.Context) ([]*outSwap, error) {
	height, err := s.Miner().Height(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*outSwap, swapsAtOnce)
	for i := range all {
		sec, err := newSecret()
		if err != nil {
			return nil, err
		}
		all[i] = &outSwap{secret: sec, expiry: int32(height) + swapBlocks} //nolint:gosec // a height
		raw, err := newRaw()
		if err != nil {
			return nil, err
		}
		all[i].private, _ = btcec.PrivKeyFromBytes(raw[:])
	}
	start := make(chan struct{})
	var ready sync.WaitGroup
	group, groupCtx := errgroup.WithContext(ctx)
	for i, o := range all {
		ready.Add(1)
		group.Go(func() error {
			ready.Done()
			<-start
			return s.begin(groupCtx, fmt.Sprintf("%d/%s", i, o.hash.Short()), o)
		})
	}
	ready.Wait()
	close(start)
	return all, group.Wait()
}

func (s *swapBench) begin(ctx context.Context, name string, o *outSwap) error {
	named := s.desk.calls.named(ctx, name, o.hash)
	deadline := time.Now().Unix()
	from := time.Now()
	quote, err := s.desk.client.LoopOutQuote(named, &looprpc.ServerLoopOutQuoteRequest{
		Amt: swapSat, SwapPublicationDeadline: deadline, ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, Expiry: o.expiry,
	})
	if err != nil {
		return fmt.Errorf("quote: %w", err)
	}
	quoted := time.Now()
	receiver := ln.PubKey(o.private.PubKey().SerializeCompressed())
	got, err := s.desk.client.NewLoopOutSwap(named, &looprpc.ServerLoopOutRequest{
		ReceiverKey: receiver[:], SwapHash: o.hash[:], Amt: swapSat, SwapPublicationDeadline: deadline,
		ProtocolVersion: looprpc.ProtocolVersion_MUSIG2, Expiry: o.expiry, UserAgent: "bench",
	})
	to := time.Now()
	if err != nil {
		return fmt.Errorf("begin a swap out: %w", err)
	}
	// Quotes that come together share an answer of lnd's.
	o.wallMs, o.ownMs = ms(to.Sub(from)), ms(s.desk.calls.outside(from, quoted, name, shared)+s.desk.calls.outside(quoted, to, name))
	o.swap, o.prepay = got.SwapInvoice, got.PrepayInvoice
	sender, err := ln.PubKeyFromBytes(got.SenderKey)
	if err != nil {
		return err
	}
	o.terms = htlc.Terms{Hash: o.hash, ExpiryHeight: uint32(o.expiry), Sender: sender, Receiver: receiver, SenderInternal: sender, ReceiverInternal: receiver} //nolint:gosec // a height
	swap, err := s.desk.decode(got.SwapInvoice)
	if err != nil {
		return err
	}
	prepay, err := s.desk.decode(got.PrepayInvoice)
	if err != nil {
		return err
	}
	// What a stock client checks.
	if total := swap.AmountMsat + prepay.AmountMsat; swap.Hash != o.hash || uint64(total) != uint64(swapSat+quote.SwapFee)*1000 { //nolint:gosec // positive
		return fmt.Errorf("the invoices ask for %s, the quote was %d sat", total, quote.SwapFee)
	}
	o.paymentAddr = swap.PaymentAddr
	return nil
}

// sizes are what was found in blocks.
type sizes struct {
	sweep, claim, refund *wire.MsgTx
}

func weightOf(tx *wire.MsgTx) uint64 {
	return uint64(blockchain.GetTransactionWeight(btcutil.NewTx(tx))) //nolint:gosec // a weight
}

// report prints them beside what the same would cost alone, and by script. A batch
// that costs more than an input for each swap misses the gate.
func (z sizes) report(b *bench, r *result) error {
	fmt.Fprintf(b.out, "\nvbytes on chain, of transactions that swaps share\n\n")
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tswaps\tvbytes\tper swap\teach more\talone\talone, by script\t")
	vb := func(wu uint64) float64 { return float64(wu) / 4 }
	var missed error
	for _, row := range []struct {
		what        string
		tx          *wire.MsgTx
		way, script htlc.Spend
	}{
		{"swaps out, swept by the client with our signatures", z.sweep, htlc.SpendKey, htlc.SpendSuccess},
		{"swaps in, claimed with the clients' keys", z.claim, htlc.SpendKey, htlc.SpendSuccess},
		{"swaps out, taken back at the expiry", z.refund, htlc.SpendTimeout, htlc.SpendTimeout},
	} {
		n, weight := uint64(len(row.tx.TxIn)), weightOf(row.tx)
		more := vb(weight-htlc.TogetherWU(row.way)) / float64(n-1)
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", row.what, n, vb(weight), vb(weight)/float64(n), more, vb(htlc.TogetherWU(row.way)), vb(htlc.TogetherWU(row.script)))
		if most := htlc.TogetherWU(row.way) + (n-1)*row.way.InputWU(); weight > most {
			missed = errors.Join(missed, fmt.Errorf("%w: %s: %d weight units of %d swaps, at most %d are allowed", errMissed, row.what, weight, n, most))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	r.add("batch_vb_per_swap", "%.1f", vb(weightOf(z.claim))/float64(len(z.claim.TxIn)))
	r.add("sweep_vb_per_swap", "%.1f", vb(weightOf(z.sweep))/float64(len(z.sweep.TxIn)))
	r.add("refund_vb_per_swap", "%.1f", vb(weightOf(z.refund))/float64(len(z.refund.TxIn)))
	r.add("script_vb", "%.1f", vb(htlc.ClaimWU))
	return missed
}

// onChain plays swaps to their ends and finds their transactions.
func (s *swapBench) onChain(ctx context.Context, begun []*outSwap) (z sizes, err error) {
	s.say("%d of them are paid", swapsSwept+swapsRefused)
	paying, stop := context.WithCancel(ctx)
	defer stop()
	for _, o := range begun[:swapsSwept+swapsRefused] {
		s.pay(paying, o.swap)
		s.pay(paying, o.prepay)
	}
	outpoints := make([]ln.Outpoint, swapsSwept+swapsRefused)
	for i, o := range begun[:len(outpoints)] {
		if err := devnet.WaitFor(ctx, "a swap's output", func(ctx context.Context) (bool, error) {
			v, _, err := s.desk.engine.Show(ctx, o.hash)
			outpoints[i] = v.Outpoint
			return err == nil && v.State == "published", err
		}); err != nil {
			return z, err
		}
	}
	if _, err := s.Miner().WaitMempool(ctx, len(outpoints)); err != nil {
		return z, err
	}
	if err := s.Mine(ctx, 1); err != nil {
		return z, err
	}
	if z.sweep, err = s.sweep(ctx, begun[:swapsSwept], outpoints); err != nil {
		return z, err
	}
	s.say("%d outputs are swept with both signatures", swapsSwept)
	if z.claim, err = s.swapIn(ctx); err != nil {
		return z, err
	}
	s.say("%d swaps in are claimed", swapsIn)
	for {
		height, err := s.Miner().Height(ctx)
		if err != nil {
			return z, err
		}
		left := int64(begun[0].expiry) - height
		if left <= 0 {
			break
		}
		if err := s.Mine(ctx, int(min(left, 20))); err != nil {
			return z, err
		}
	}
	z.refund, err = s.spendOf(ctx, outpoints[swapsSwept])
	s.say("%d outputs that nobody took are taken back", swapsRefused)
	if err == nil && len(z.refund.TxIn) != swapsRefused {
		err = fmt.Errorf("the refund takes %d outputs back, not %d", len(z.refund.TxIn), swapsRefused)
	}
	return z, err
}

// spendOf waits until a transaction that spends the output is in the mempool.
func (s *swapBench) spendOf(ctx context.Context, op ln.Outpoint) (*wire.MsgTx, error) {
	point := wire.OutPoint{Hash: chainhash.Hash(op.TxID), Index: op.Index}
	if err := s.Miner().WaitSpendInMempool(ctx, point); err != nil {
		return nil, err
	}
	pool, err := s.Miner().Mempool(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range pool {
		tx, _, err := s.Miner().Tx(ctx, id)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool { return in.PreviousOutPoint == point }) {
			return tx, nil
		}
	}
	return nil, fmt.Errorf("what spends %s is not in the mempool any more", op)
}
