package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/agent/loopd"
)

// loopFlags say where the user's loopd is.
type loopFlags struct {
	Loopd   string `default:"localhost:8081" env:"SLUICE_WALLET_LOOPD" placeholder:"HOST:PORT" help:"loopd's REST listener (its restlisten)."`
	LoopDir string `type:"path" default:"${loop_dir}" env:"SLUICE_WALLET_LOOP_DIR" placeholder:"DIR" help:"loopd's directory of your network, with tls.cert and loop.macaroon."`
}

func (f loopFlags) open() (*loopd.Client, error) {
	return loopd.Open(loopd.Config{Address: f.Loopd, Dir: f.LoopDir})
}

// waitFor is how long a swap out that is not fast may wait to be published: the stock
// client's half hour.
const waitFor = 30 * time.Minute

type swapOutCmd struct {
	Amount amountArg `arg:"" help:"What arrives on chain, in satoshis, less the sweep's own fee."`
	To     string    `placeholder:"ADDRESS" help:"Where it arrives; a fresh address of lnd's wallet otherwise."`
	Fast   bool      `help:"Publish at once, for a higher fee, rather than within half an hour."`
	Confs  int32     `default:"1" help:"Confirmations of the gateway's output before the preimage is told."`
	MaxFee uint64    `placeholder:"SAT" help:"The most that the swap's fee and the estimated sweep may be."`
	Yes    bool      `short:"y" help:"Agree without asking."`
	loopFlags
}

// Run has loopd swap out.
func (c *swapOutCmd) Run(w *world, g *Globals) error {
	sat, err := c.Amount.sat()
	if err != nil {
		return err
	}
	client, err := c.open()
	if err != nil {
		return err
	}
	publishBy := time.Now()
	if !c.Fast {
		publishBy = publishBy.Add(waitFor)
	}
	q, err := client.QuoteOut(w.ctx, sat, publishBy)
	if err != nil {
		return err
	}
	routing, miner := q.OutLimits()
	if err := withinMaxFee(c.MaxFee, q.FeeSat+q.SweepSat); err != nil {
		return err
	}
	agreed, err := agree(w, g, c.Yes, func(p *cli.Printer) {
		t := cli.NewTable("", ">SAT")
		t.Row("You pay over Lightning", cli.Group(uint64(q.AmountSat+q.FeeSat)))
		t.Row("  fee of the swap", cli.Group(uint64(q.FeeSat)))
		t.Row("  paid first, and lost if the output is never taken", cli.Group(uint64(q.PrepaySat)))
		t.Row("  routing, at most besides", cli.Group(uint64(routing)))
		t.Row("You receive on chain, less the sweep", cli.Group(uint64(q.AmountSat)))
		t.Row("  the sweep, as estimated", cli.Group(uint64(q.SweepSat)))
		t.Row("  the sweep, at most", cli.Group(uint64(miner)))
		p.Table(t)
		p.Printf("\nloopd must run until the swap is over: it alone has the preimage.\n")
	})
	if err != nil || !agreed {
		return err
	}
	b, err := client.Out(w.ctx, q, c.To, c.Confs)
	if err != nil {
		return err
	}
	return showBegun(w, g, b)
}

// agree shows a price and asks. Nobody's money moves because nobody could be asked.
func agree(w *world, g *Globals, yes bool, show func(*cli.Printer)) (bool, error) {
	if yes {
		return true, nil
	}
	if g.JSON || !askable(w) {
		return false, errkind.New(errkind.Invalid, "this moves money, and nobody can be asked: name --yes")
	}
	p := w.printer()
	show(p)
	if p.Err != nil {
		return false, p.Err
	}
	return ask(w, "\nAgree? [y/N] ")
}

func withinMaxFee(most uint64, fees ln.Sat) error {
	if most > 0 && uint64(fees) > most {
		return errkind.Newf(errkind.Conflict, "it costs %s, more than --max-fee: nothing was begun", fees)
	}
	return nil
}

// sat is an amount on chain.
func (a amountArg) sat() (ln.Sat, error) {
	if uint64(a)%1000 != 0 {
		return 0, errkind.New(errkind.Invalid, "on chain there are whole satoshis only")
	}
	return ln.Msat(a).ToSatFloor(), nil
}

func showBegun(w *world, g *Globals, b loopd.Begun) error {
	if g.JSON {
		return cli.WriteJSON(w.stdout, b)
	}
	p := w.printer()
	p.Printf("Swap %s is under way: `sluice-wallet swap status` says how it goes.\n", b.ID)
	if b.Message != "" {
		p.Printf("The gateway says: %s\n", cli.Clean(ln.Clip(b.Message, 300)))
	}
	return p.Err
}

// loopIn has loopd swap in, for a wallet that has channels.
func (c *swapInCmd) loopIn(w *world, g *Globals) error {
	sat, err := c.Amount.sat()
	if err != nil {
		return err
	}
	if c.Lsp != "" {
		return errkind.New(errkind.Invalid, "--lsp chooses who opens a channel; loopd swaps with the server that it was started with")
	}
	client, err := c.open()
	if errors.Is(err, loopd.ErrNone) {
		return errkind.New(errkind.NotFound, "for a wallet without channels name --open-channel to have one opened; one that has channels swaps in with its loopd, and there is none here: name its network's directory with --loop-dir")
	}
	if err != nil {
		return err
	}
	q, err := client.QuoteIn(w.ctx, sat)
	if err != nil {
		return err
	}
	if err := withinMaxFee(c.MaxFee, q.FeeSat+q.PublishSat); err != nil {
		return err
	}
	agreed, err := agree(w, g, c.Yes, func(p *cli.Printer) {
		t := cli.NewTable("", ">SAT")
		t.Row("lnd's wallet pays on chain", cli.Group(uint64(q.AmountSat+q.PublishSat)))
		t.Row("  the deposit's transaction, as estimated", cli.Group(uint64(q.PublishSat)))
		t.Row("  fee of the swap", cli.Group(uint64(q.FeeSat)))
		t.Row("You receive over Lightning", cli.Group(uint64(q.AmountSat-min(q.FeeSat, q.AmountSat))))
		p.Table(t)
		p.Printf("\nIf you are not paid, loopd takes the deposit back after %d blocks: keep it and its directory until then.\n", q.CltvDelta)
	})
	if err != nil || !agreed {
		return err
	}
	b, err := client.In(w.ctx, q)
	if err != nil {
		return err
	}
	return showBegun(w, g, b)
}

// loopSwaps are those of the user's loopd; none where there is no loopd.
func (f loopFlags) loopSwaps(ctx context.Context) ([]loopd.Swap, error) {
	client, err := f.open()
	if errors.Is(err, loopd.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return client.Swaps(ctx)
}

func showLoopSwaps(p *cli.Printer, list []loopd.Swap, now time.Time) {
	t := cli.NewTable("SWAP OF LOOPD", "", ">AMOUNT", "STATE", ">SERVER", ">ON CHAIN", ">ROUTING", "BEGUN", "")
	for _, s := range list {
		way := "out"
		if s.Type == "LOOP_IN" {
			way = "in"
		}
		t.Row(s.ID[:min(12, len(s.ID))], way, cli.Group(uint64(s.AmountSat)), cli.Words(cli.Clean(s.State)), fmt.Sprint(s.ServerSat), fmt.Sprint(s.OnchainSat), fmt.Sprint(s.OffchainSat),
			cli.Ago(s.Begun.UnixMilli(), now), cli.Words(cli.Clean(s.FailureReason)))
	}
	p.Table(t)
}
