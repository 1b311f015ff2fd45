package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"rsc.io/qr"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	lspagent "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/swaps/agent"
	"github.com/sluice-lsp/sluice/swaps/agent/loopd"
	"github.com/sluice-lsp/sluice/swaps/agent/swapagentv1"
)

type swapCmd struct {
	Out    swapOutCmd    `cmd:"" help:"Bring bitcoin from Lightning to the chain, with your loopd."`
	In     swapInCmd     `cmd:"" help:"Bring bitcoin from the chain to Lightning: with your loopd, or into a channel that an LSP opens."`
	Status swapStatusCmd `cmd:"" help:"List swaps, those of your loopd as well, and what each waits for."`
	Refund swapRefundCmd `cmd:"" help:"Sign a refund from the record alone, without lnd and without the daemon."`
}

// newSwaps is the daemon's agent for swaps that open a channel.
func newSwaps(dir string, client *lnd.Client, lsps func() []lspagent.LSP, log *zap.Logger) (*agent.Agent, error) {
	sign := func(ctx context.Context, text string) (string, error) { return client.SignMessage(ctx, []byte(text)) }
	return agent.New(agent.Config{DataDir: dir}, agent.Ports{
		Node: client, Chain: client, Connect: agent.Dial(sign, time.Now), Now: time.Now, Random: rand.Reader, Log: log.Named("swaps"),
		Gateways: func() []agent.Gateway {
			var out []agent.Gateway
			for _, l := range lsps() {
				out = append(out, agent.Gateway{Name: l.Name, NodeKey: l.NodeKey, GRPC: l.GRPC, Certificate: l.Certificate})
			}
			return out
		},
	})
}

type swapInCmd struct {
	Amount amountArg `arg:"" help:"What is deposited on chain, in satoshis."`
	loopFlags
	OpenChannel bool   `help:"Have the LSP open a channel to this wallet and pay it there: for a wallet that has none."`
	Lsp         string `placeholder:"NAME" help:"The LSP, where there are several."`
	MaxFee      uint64 `placeholder:"SAT" help:"The most that both fees may be."`
	Yes         bool   `short:"y" help:"Agree without asking."`
	NoQR        bool   `name:"no-qr" help:"No QR code."`
}

// Run agrees on a swap and shows where to deposit.
func (c *swapInCmd) Run(w *world, g *Globals) error {
	if !c.OpenChannel {
		return c.loopIn(w, g)
	}
	amount, err := c.Amount.sat()
	if err != nil {
		return err
	}
	sat := uint64(amount)
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		if !c.Yes && !g.JSON && askable(w) {
			q, err := d.swaps.Quote(ctx, &swapagentv1.QuoteRequest{Gateway: c.Lsp, AmountSat: sat})
			if err != nil {
				return swapRights(err)
			}
			p := w.printer()
			showQuote(p, q)
			if p.Err != nil {
				return p.Err
			}
			if yes, err := ask(w, "\nAgree? Nothing is deposited by this. [y/N] "); err != nil || !yes {
				return err
			}
		}
		r, err := d.swaps.Begin(ctx, &swapagentv1.BeginRequest{Gateway: c.Lsp, AmountSat: sat, MaxFeeSat: c.MaxFee})
		if err != nil {
			return swapRights(err)
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, r.GetSwap())
		}
		return c.show(w, g, r.GetSwap())
	})
}

func showQuote(p *cli.Printer, q *swapagentv1.QuoteResponse) {
	t := cli.NewTable("", ">SAT")
	t.Row("You deposit on chain", cli.Group(q.GetAmountSat()))
	t.Row("  fee of the swap, to "+cli.Clean(q.GetGateway()), cli.Group(q.GetSwapFeeSat()))
	t.Row("  fee of the channel", cli.Group((q.GetOpeningFeeMsat()+999)/1000))
	t.Row("You receive over Lightning", cli.Group(q.GetInvoiceSat()))
	t.Row("In a channel of", cli.Group(q.GetChannelCapacitySat()))
	p.Table(t)
	p.Printf("\nIt takes %d confirmation(s) of the deposit and %d of the channel. If you are not paid, this wallet takes the deposit back by itself, about %s after agreeing.\n",
		q.GetConfirmations(), q.GetChannelConfirmations(), cli.Duration(time.Duration(q.GetExpiryDeltaBlocks())*10*time.Minute))
}

func (c *swapInCmd) show(w *world, g *Globals, s *swapagentv1.Swap) error {
	p := w.printer()
	if !c.NoQR && w.terminal() {
		if code, err := qr.Encode(fmt.Sprintf("bitcoin:%s?amount=%d.%08d", s.GetAddress(), s.GetAmountSat()/1e8, s.GetAmountSat()%1e8), qr.L); err == nil {
			p.Printf("%s", drawQR(code))
		}
	}
	p.Printf("%s\n\n", cli.Clean(s.GetAddress()))
	t := cli.NewTable("", "")
	t.Row("Deposit exactly", cli.Sat(s.GetAmountSat())+", in one payment")
	t.Row("You receive", cli.Sat(s.GetInvoiceSat())+" over Lightning, in a new channel of "+cli.Sat(s.GetChannelCapacitySat()))
	t.Row("Must confirm by", fmt.Sprintf("block %d", s.GetDepositByHeight()))
	t.Row("Taken back", fmt.Sprintf("by this wallet from block %d on, unless it was paid", s.GetExpiryHeight()))
	t.Row("Swap", s.GetPaymentHash())
	p.Table(t)
	p.Printf("\nAny other amount, a second payment, and one that confirms later are not paid for: you get them back after block %d.\n", s.GetExpiryHeight())
	p.Printf("Keep the daemon running, and %s safe until the swap is over: it alone takes the deposit back.\n", filepath.Join(g.DataDir, agent.RecordsFile))
	return p.Err
}

// swapRights names the macaroon where lnd refused.
func swapRights(err error) error {
	if strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "macaroon does not allow") {
		return errkind.Wrap(errkind.Denied, err, "lnd's macaroon does not allow watching deposits: bake one as `sluice-wallet macaroon --swap` prints, and start the daemon again")
	}
	return err
}

type swapStatusCmd struct {
	Hash string `arg:"" optional:"" help:"One swap, by its hash or its first digits."`
	Live bool   `help:"Only those that are not over."`
	loopFlags
}

// Run lists: what the daemon has, and what loopd has, as far as they are there.
func (c *swapStatusCmd) Run(w *world, g *Globals) error {
	list := &swapagentv1.ListResponse{}
	ownErr := g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		r, err := d.swaps.List(ctx, &swapagentv1.ListRequest{Live: c.Live})
		for _, s := range r.GetSwaps() {
			if strings.HasPrefix(s.GetPaymentHash(), strings.ToLower(c.Hash)) {
				list.Swaps = append(list.Swaps, s)
			}
		}
		return err
	})
	all, err := c.loopSwaps(w.ctx)
	// One of both is enough.
	if err != nil {
		return errors.Join(err, ownErr)
	}
	var loops []loopd.Swap
	for _, s := range all {
		if strings.HasPrefix(s.ID, strings.ToLower(c.Hash)) && !(c.Live && s.Over()) {
			loops = append(loops, s)
		}
	}
	if ownErr != nil && len(all) == 0 {
		return ownErr
	}
	if c.Hash != "" && len(list.Swaps)+len(loops) == 0 {
		return errkind.New(errkind.NotFound, "there is no such swap: `sluice-wallet swap status` lists them")
	}
	return showSwaps(w, g, list, loops)
}

func showSwaps(w *world, g *Globals, list *swapagentv1.ListResponse, loops []loopd.Swap) error {
	if g.JSON {
		own := make([]json.RawMessage, 0, len(list.Swaps))
		for _, s := range list.Swaps {
			raw, err := cli.Raw(s)
			if err != nil {
				return err
			}
			own = append(own, raw)
		}
		return cli.WriteJSON(w.stdout, map[string]any{"swaps": own, "loop_swaps": append([]loopd.Swap{}, loops...)})
	}
	p := w.printer()
	if len(list.Swaps) > 0 || len(loops) == 0 {
		t := cli.NewTable("SWAP", "LSP", ">DEPOSIT", ">RECEIVE", "PHASE", ">EXPIRES", "")
		for _, s := range list.Swaps {
			t.Row(s.GetPaymentHash()[:min(12, len(s.GetPaymentHash()))], cli.Clean(s.GetGateway()), cli.Group(s.GetAmountSat()), cli.Group(s.GetInvoiceSat()),
				cli.Words(s.GetPhase()), fmt.Sprint(s.GetExpiryHeight()), waitsFor(s))
		}
		p.Table(t)
	}
	if len(list.Swaps) > 0 && len(loops) > 0 {
		p.Printf("\n")
	}
	if len(loops) > 0 {
		showLoopSwaps(p, loops, time.Now())
	}
	return p.Err
}

// waitsFor says in words what a swap waits for.
func waitsFor(s *swapagentv1.Swap) string {
	switch agent.Phase(s.GetPhase()) {
	case agent.PhaseAgreed:
		if len(s.GetDeposits()) == 0 {
			return fmt.Sprintf("deposit %s to %s, confirmed by block %d", cli.Sat(s.GetAmountSat()), s.GetAddress(), s.GetDepositByHeight())
		}
		text := "the gateway: " + cli.Words(cli.Clean(s.GetState()))
		if s.GetReason() != "" {
			text += ", " + cli.Clean(s.GetReason())
		}
		return text
	case agent.PhaseRefunding:
		if len(s.GetDeposits()) == 0 {
			return "a deposit may still appear"
		}
		return "the refund confirms"
	case agent.PhasePaid:
		return "paid; the gateway takes the deposit"
	}
	return cli.Clean(s.GetReason())
}

type swapRefundCmd struct {
	Hash     string `arg:"" help:"The swap's hash, or its first digits."`
	Outpoint string `required:"" placeholder:"TXID:N" help:"The deposit's output."`
	Amount   uint64 `required:"" placeholder:"SAT" help:"What the output holds."`
	To       string `required:"" placeholder:"ADDRESS" help:"Where the refund goes."`
	FeeRate  uint64 `default:"5" placeholder:"SAT/VB" help:"What it pays, in sat per vbyte."`
	Records  string `type:"path" placeholder:"DIR" help:"The directory of swaps.json, where it is not the data directory."`
}

// Run prints the transaction, for any node to publish.
func (c *swapRefundCmd) Run(w *world, g *Globals) error {
	dir := c.Records
	if dir == "" {
		dir = g.DataDir
	}
	records, err := agent.OpenRecords(dir)
	if err != nil {
		return err
	}
	var found []agent.Record
	for _, r := range records.All() {
		if strings.HasPrefix(r.Hash.String(), strings.ToLower(c.Hash)) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return errkind.Newf(errkind.NotFound, "%d swaps in %s begin with these digits: name one", len(found), filepath.Join(dir, agent.RecordsFile))
	}
	op, err := ln.ParseOutpoint(c.Outpoint)
	if err != nil {
		return errkind.Wrap(errkind.Invalid, err, err.Error())
	}
	script, err := found[0].ScriptOf(c.To)
	if err != nil {
		return err
	}
	const perVByte = 250
	raw, fee, err := found[0].Refund(op, ln.Sat(c.Amount), script, ln.FeeRateSatPerKW(min(c.FeeRate, 100_000)*perVByte))
	if err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, map[string]any{"raw_tx": hex.EncodeToString(raw), "fee_sat": uint64(fee), "valid_from_height": found[0].Terms.ExpiryHeight})
	}
	p := w.printer()
	p.Printf("%s\n", hex.EncodeToString(raw))
	_, _ = fmt.Fprintf(w.stderr, "It pays %s, and nodes take it from height %d on.\n", cli.Sat(uint64(fee)), found[0].Terms.ExpiryHeight)
	return p.Err
}
