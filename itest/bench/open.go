package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

const (
	// maxChainRatio is the gate: chain bytes per open with the pool, what cuts it
	// included, against one large coin that spends its unconfirmed change.
	maxChainRatio = 1.3
	openMsat      = 20_000_000
	openBlocks    = 10
	openCoinSat   = 150_000
	// openWallets share the demand: a gateway has many customers with a channel or two
	// each, and payments to one wallet wait for each other.
	openWallets = 10
)

// demands are the opens that come between two blocks.
func demands() []int { return []int{5, 20, 50} }

// buyer is a gateway whose wallets are paid, again and again, for a channel each.
type buyer struct {
	name string
	*sluice
	wallets []*customer

	mu    sync.Mutex
	phase *phase
}

// phase is what one demand came to.
type phase struct {
	opened   int
	refusals map[string]int
	latency  []float64 // ms, of what was paid
	weight   int64     // wu of all that the gateway's wallet sent
}

func (p *phase) refused() (n int) {
	for _, times := range p.refusals {
		n += times
	}
	return n
}

// runOpen asks both gateways for as many channels on demand between two blocks: one
// keeps a pool of coins, the other has one large coin.
func runOpen(ctx context.Context, b *bench) (_ result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	defer cancel()
	n, err := b.startNodes(ctx, devnet.GatewayArgs(), devnet.GatewayArgs())
	if err != nil {
		return nil, err
	}
	defer func() { err = b.finish(n, err) }()
	arms, stop, err := openArms(ctx, b, n)
	if err != nil {
		return nil, err
	}
	defer stop()
	phases := make([][]*phase, len(arms))
	for _, d := range demands() {
		from, err := n.Miner().Height(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range arms {
			a.phase = &phase{refusals: map[string]int{}}
		}
		for i := range openBlocks {
			for j := range arms {
				if err := arms[(i+j)%len(arms)].buyMany(ctx, n, d); err != nil {
					return nil, err
				}
			}
			if err := n.Mine(ctx, 1); err != nil {
				return nil, err
			}
			if err := waitTip(ctx, n, arms); err != nil {
				return nil, err
			}
		}
		// What was cut for the next demand counts, too.
		if err := n.Mine(ctx, 1); err != nil {
			return nil, err
		}
		for i, a := range arms {
			if a.phase.weight, err = sentWeight(ctx, a.gateway, from+1); err != nil {
				return nil, err
			}
			phases[i] = append(phases[i], a.phase)
			b.say("%d opens between blocks, %s: %d opened, %d refused", d, a.name, a.phase.opened, a.phase.refused())
		}
	}
	return openReport(b, arms, phases)
}

// openArms gives each gateway one coin of the same size, sluiced, and a wallet.
func openArms(ctx context.Context, b *bench, n *nodes) (arms []*buyer, stop func(), err error) {
	wallets, err := openers(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	if err := n.Fund(ctx, devnet.Funding{Node: n.payer, CoinSat: 16_500_000, Coins: 4}); err != nil {
		return nil, nil, err
	}
	to := []*devnet.Node{n.first, n.second}
	var wishes []wish
	for _, g := range to {
		wishes = append(wishes, wish{n.payer, g, 16_000_000}, wish{n.payer, g, 16_000_000})
	}
	if _, err := n.openAll(ctx, wishes...); err != nil {
		return nil, nil, err
	}
	if err := n.Fund(ctx, devnet.Funding{Node: n.first, CoinSat: 100_000_000, Coins: 1}, devnet.Funding{Node: n.second, CoinSat: 100_000_000, Coins: 1}); err != nil {
		return nil, nil, err
	}
	streams, cancel := context.WithCancel(ctx)
	var closers []func()
	hangUp := func() {
		cancel()
		for _, c := range closers {
			c()
		}
	}
	defer func() {
		if err != nil {
			hangUp()
		}
	}()
	common := map[string]string{"lsp.min_channel_sat": "30000", "lsp.headroom_sat": "5000"}
	for i, gateway := range to {
		a := &buyer{name: "with the pool"}
		own := map[string]string{
			"lsp.pool_coins": "20", "lsp.pool_max_coins": "80", "lsp.pool_low": "20", "lsp.pool_coin_sat": fmt.Sprint(openCoinSat), "lsp.max_unconfirmed_depth": "4",
		}
		if i == 1 {
			a.name, own = "one large coin", map[string]string{"lsp.max_unconfirmed_depth": "20"}
		}
		if a.sluice, err = startSluice(ctx, n.Net, gateway, wallets[0], common, own); err != nil {
			return nil, nil, err
		}
		closers = append(closers, a.hangUp)
		a.wallets = []*customer{a.customer}
		for _, w := range wallets[1:] {
			c, err := a.login(w)
			if err != nil {
				return nil, nil, err
			}
			a.wallets = append(a.wallets, c)
		}
		arms = append(arms, a)
	}
	for _, c := range arms[0].wallets {
		acceptZeroConf(streams, c.wallet)
	}
	b.say("one gateway cuts its coin, the other keeps it whole")
	for range 2 {
		if err := n.Mine(ctx, 1); err != nil {
			return nil, nil, err
		}
		if err := waitTip(ctx, n, arms); err != nil {
			return nil, nil, err
		}
	}
	return arms, hangUp, devnet.WaitFor(ctx, "the pool to be cut", func(ctx context.Context) (bool, error) {
		s, err := arms[0].operator.GetStatus(ctx, &lspv1.GetStatusRequest{})
		if err != nil || s.GetCoinPool().GetReady() >= 20 {
			return err == nil, err
		}
		return false, n.Mine(ctx, 1)
	})
}

// openers are the wallets that both gateways open channels to.
func openers(ctx context.Context, n *nodes) ([]*devnet.Node, error) {
	var specs []devnet.NodeSpec
	for i := range openWallets - 1 {
		specs = append(specs, devnet.NodeSpec{Name: fmt.Sprintf("receiver%d", i+2)})
	}
	more, err := n.NewNodes(ctx, specs...)
	if err != nil {
		return nil, err
	}
	for _, w := range more {
		for _, g := range []*devnet.Node{n.first, n.second} {
			if err := n.Connect(ctx, w, g); err != nil {
				return nil, err
			}
		}
	}
	return append([]*devnet.Node{n.receiver}, more...), nil
}

// waitTip waits until both sluiceds, and the lnds beside them, have seen the tip.
func waitTip(ctx context.Context, n *nodes, arms []*buyer) error {
	tip, err := n.Miner().Height(ctx)
	if err != nil {
		return err
	}
	for _, a := range arms {
		if err := devnet.WaitFor(ctx, a.name+" to see the block", func(ctx context.Context) (bool, error) {
			s, err := a.operator.GetStatus(ctx, &lspv1.GetStatusRequest{})
			return err == nil && int64(s.BlockHeight) >= tip, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// buyMany asks for so many channels at once, and waits for all. Their payers are others than
// those before: what one lnd has learnt of refusals is forgotten.
func (a *buyer) buyMany(ctx context.Context, n *nodes, many int) error {
	if _, err := n.payer.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{}); err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, many)
	for i := range errs {
		all.Go(func() { errs[i] = a.buy(ctx, n, a.wallets[i%len(a.wallets)]) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	for _, c := range a.wallets {
		if err := c.node.WaitNoHTLCs(ctx); err != nil {
			return err
		}
	}
	return nil
}

// buy is one payment to a wallet that needs a channel of its own. Only what breaks the
// benchmark is an error.
func (a *buyer) buy(ctx context.Context, n *nodes, c *customer) error {
	secret, err := newSecret()
	if err != nil {
		return err
	}
	agreed, err := c.negotiate(ctx, secret.hash, openMsat)
	if err != nil {
		a.refuse("no quote: " + err.Error())
		return ctx.Err()
	}
	scid, err := ln.ParseSCID(agreed.JitScid)
	if err != nil {
		return err
	}
	bolt11, err := invoice(ctx, c.node, secret, openMsat, hint{
		gateway: a.gateway.PubKey, scid: uint64(scid), baseMsat: agreed.HintBaseFeeMsat, ppm: agreed.HintFeePpm, cltvDelta: agreed.HintCltvDeltaBlocks,
	})
	if err != nil {
		return err
	}
	began := time.Now()
	payment, err := n.payer.Send(ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, MaxParts: 1, TimeoutSeconds: 60, FeeLimitMsat: openMsat,
	})
	if err != nil {
		return err
	}
	if payment.Status != lnrpc.Payment_SUCCEEDED {
		a.refuse("refused when paid: " + payment.FailureReason.String())
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase.opened++
	a.phase.latency = append(a.phase.latency, ms(time.Since(began)))
	return nil
}

func (a *buyer) refuse(why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase.refusals[why]++
}

// sentWeight is what a node's wallet sent in blocks from a height on.
func sentWeight(ctx context.Context, node *devnet.Node, from int64) (wu int64, err error) {
	list, err := node.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{StartHeight: int32(from), EndHeight: -1}) //nolint:gosec // a height
	if err != nil {
		return 0, err
	}
	for _, t := range list.Transactions {
		ours := false
		for _, in := range t.PreviousOutpoints {
			ours = ours || in.IsOurOutput
		}
		if !ours || t.NumConfirmations == 0 {
			continue
		}
		raw, err := hex.DecodeString(t.RawTxHex)
		if err != nil {
			return 0, err
		}
		var tx wire.MsgTx
		if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
			return 0, err
		}
		wu += blockchain.GetTransactionWeight(btcutil.NewTx(&tx))
	}
	return wu, nil
}

func openReport(b *bench, arms []*buyer, phases [][]*phase) (result, error) {
	fmt.Fprintf(b.out, "\nchannels on demand between two blocks, over %d blocks each\n\n", openBlocks)
	table := tabwriter.NewWriter(b.out, 2, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tdemand\topened\trefused\tvB per open\tp50 ms\tp95 ms\t")
	perOpen := make([]float64, len(arms))
	for i, a := range arms {
		var weight, opened float64
		for j, p := range phases[i] {
			weight, opened = weight+float64(p.weight), opened+float64(p.opened)
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.0f\t%.0f\t%.0f\t\n", a.name, demands()[j], p.opened, p.refused(),
				float64(p.weight)/4/float64(max(p.opened, 1)), median(p.latency), quantile(p.latency, 0.95))
		}
		perOpen[i] = weight / 4 / max(opened, 1)
	}
	if err := table.Flush(); err != nil {
		return nil, err
	}
	for i, a := range arms {
		for j, p := range phases[i] {
			for why, n := range p.refusals {
				fmt.Fprintf(b.out, "%s, %d between blocks: %d times %s\n", a.name, demands()[j], n, why)
			}
		}
	}
	last := len(demands()) - 1
	ratio, refused := perOpen[0]/perOpen[1], phases[0][last].refused()
	fmt.Fprintf(b.out, "\n%.0f vB per open with the pool, all that cuts and joins it included, %.0f without: %.2f ×; the gate is %.1f, and no refusal with the pool\n\n",
		perOpen[0], perOpen[1], ratio, maxChainRatio)
	var r result
	r.add("refusals_50", "%d", refused)
	r.add("vb_ratio", "%.3f", ratio)
	r.add("p95_ms", "%.0f", quantile(phases[0][last].latency, 0.95))
	r.add("vb_pool", "%.0f", perOpen[0])
	r.add("vb_one_coin", "%.0f", perOpen[1])
	r.add("refusals_50_one_coin", "%d", phases[1][last].refused())
	var missed error
	for j, p := range phases[0] {
		if p.refused() > 0 {
			missed = errors.Join(missed, fmt.Errorf("%w: the pool refused %d of %d at a demand of %d", errMissed, p.refused(), demands()[j]*openBlocks, demands()[j]))
		}
	}
	if ratio > maxChainRatio {
		missed = errors.Join(missed, fmt.Errorf("%w: %.3f × the chain bytes of one large coin, at most %.1f is allowed", errMissed, ratio, maxChainRatio))
	}
	return r, missed
}
