package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/term"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/lnd"
	wallet "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/collab/agent"
	"github.com/sluice-lsp/sluice/lsp/collab/agent/fundagentv1"
)

type fundCmd struct {
	Open    fundOpenCmd    `cmd:"" default:"withargs" help:"Open a channel with coins of this wallet and of an LSP, after a review."`
	Onchain fundChainCmd   `cmd:"" help:"Show an address: what is paid to it becomes a channel, with inbound liquidity on top. For who has bitcoin elsewhere."`
	Sign    fundSignCmd    `cmd:"" help:"Sign a joint funding that was reviewed."`
	Replace fundReplaceCmd `cmd:"" help:"Negotiate another transaction of the same coins, which pays more, for a signed joint funding that does not confirm."`
	Hurry   fundHurryCmd   `cmd:"" help:"Have a child of your change pay for a joint funding that does not confirm; the channel's own transaction stays."`
	Export  fundExportCmd  `cmd:"" help:"Write the PSBT that another wallet is to sign, for a joint funding that was begun with --psbt."`
	List    fundListCmd    `cmd:"" help:"List the joint fundings of this wallet, and what needs attention; exit code 1 when something does."`
	Abort   fundAbortCmd   `cmd:"" help:"End a joint funding that was not signed: the coins are free at once."`
	Reclaim fundReclaimCmd `cmd:"" help:"Take the coins of a signed joint funding back that the LSP does not publish, by spending them."`
}

// newFunding is the daemon's agent for joint fundings.
func newFunding(dir string, client *lnd.Client, lsps func() []wallet.LSP, log *zap.Logger) (*agent.Agent, error) {
	sign := func(ctx context.Context, msg string) (string, error) { return client.SignMessage(ctx, []byte(msg)) }
	return agent.New(dir, agent.Ports{
		Wallet: client, Chain: client, Channels: client, Spender: client, LSPs: lsps, Connect: agent.Dial(sign, time.Now), Log: log.Named("fund"),
	})
}

type fundOpenCmd struct {
	Amount        uint64 `required:"" placeholder:"SAT" help:"What of this wallet's coins goes into the channel: its balance, to send."`
	Inbound       uint64 `required:"" placeholder:"SAT" help:"What the LSP puts into it: what can be received."`
	Lsp           string `placeholder:"NAME" help:"The LSP, where there are several."`
	ZeroConf      bool   `help:"Use it before it confirms: receiving works at once, sending once it is buried."`
	Taproot       bool   `help:"A simple taproot channel."`
	MaxServiceFee uint64 `placeholder:"SAT" help:"The most that the LSP may ask for its part."`
	MaxFeeRate    uint64 `placeholder:"SAT/VB" help:"The most that the transaction may pay, in sat per vbyte."`
	Psbt          string `type:"existingfile" placeholder:"FILE" help:"Bring the coins of another wallet, a hardware wallet's for example: a payment of its coins that it has not signed."`
	Change        string `placeholder:"ADDRESS" help:"Where the change of --psbt goes, if the PSBT does not mark it."`
	Since         uint32 `placeholder:"HEIGHT" help:"A block at or before those that hold the coins of --psbt, if they are older than a month."`
	Yes           bool   `short:"y" help:"Sign without asking."`
}

// Run opens, shows what it means, and signs.
func (c *fundOpenCmd) Run(w *world, g *Globals) error {
	psbt, err := readPsbt(c.Psbt)
	if err != nil {
		return err
	}
	switch {
	case c.Psbt == "" && (c.Change != "" || c.Since != 0):
		return errkind.New(errkind.Invalid, "--change and --since are about the coins of --psbt")
	case c.Psbt != "" && c.Yes:
		return errkind.New(errkind.Invalid, "another wallet signs the coins of --psbt: leave --yes out")
	}
	var f *fundagentv1.Funding
	err = g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		got, err := d.funding.Open(ctx, &fundagentv1.OpenRequest{
			Lsp: c.Lsp, WalletSat: c.Amount, InboundSat: c.Inbound, ZeroConf: c.ZeroConf, Taproot: c.Taproot,
			MaxServiceFeeSat: c.MaxServiceFee, MaxFeeRateSatPerKw: c.MaxFeeRate * 250,
			Psbt: psbt, ChangeAddress: c.Change, SinceHeight: c.Since,
		})
		f = got.GetFunding()
		return err
	})
	if err != nil {
		return fundRights(err)
	}
	return decide(w, g, f, c.Yes)
}

// decide shows what was negotiated, and signs it or not.
func decide(w *world, g *Globals, f *fundagentv1.Funding, sign bool) error {
	switch {
	case sign && !f.GetElsewhere():
		if !g.JSON {
			if err := review(w, f); err != nil {
				return err
			}
		}
	case g.JSON:
		return cli.WriteJSON(w.stdout, f)
	case f.GetElsewhere():
		if err := review(w, f); err != nil {
			return err
		}
		p := w.printer()
		p.Printf("\nNothing is signed. Write what the other wallet is to sign with `sluice-wallet fund export %s FILE`, or end it with `sluice-wallet fund abort %s`.\n", f.GetKey(), f.GetKey())
		return p.Err
	case !askable(w):
		if err := review(w, f); err != nil {
			return err
		}
		p := w.printer()
		p.Printf("\nNothing is signed. Sign it with `sluice-wallet fund sign %s`, or end it with `sluice-wallet fund abort %s`.\n", f.GetKey(), f.GetKey())
		return p.Err
	default:
		if err := review(w, f); err != nil {
			return err
		}
		yes, err := ask(w, "\nSign it? Once it is signed the LSP can publish it. [y/N] ")
		if err != nil {
			return err
		}
		if !yes {
			return (&fundAbortCmd{Key: f.GetKey()}).Run(w, g)
		}
	}
	return (&fundSignCmd{Key: f.GetKey()}).Run(w, g)
}

type fundReplaceCmd struct {
	Key        string `arg:"" help:"The funding, as fund list names it."`
	MaxFeeRate uint64 `placeholder:"SAT/VB" help:"The most that the transaction may pay, in sat per vbyte."`
	Yes        bool   `short:"y" help:"Sign without asking."`
}

// Run negotiates, shows what it means, and signs.
func (c *fundReplaceCmd) Run(w *world, g *Globals) error {
	var f *fundagentv1.Funding
	err := g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		got, err := d.funding.Replace(ctx, &fundagentv1.ReplaceRequest{Key: c.Key, MaxFeeRateSatPerKw: c.MaxFeeRate * 250})
		f = got.GetFunding()
		return err
	})
	if err != nil {
		return fundRights(err)
	}
	return decide(w, g, f, c.Yes)
}

// review shows what signing means, in sats.
func review(w *world, f *fundagentv1.Funding) error {
	p := w.printer()
	p.Printf("Channel with %s at %s\n\n", cli.Clean(f.GetLsp()), cli.Clean(f.GetChannel()))
	t := cli.NewTable("", ">SAT")
	t.Row("Your coins ("+fmt.Sprint(f.GetCoins())+")", cli.Group(f.GetCoinsSat()))
	t.Row("  your balance in the channel", cli.Group(f.GetWalletSat()))
	t.Row("  fee of the LSP for its part", cli.Group(f.GetServiceFeeSat()))
	t.Row("  your share of the chain fee", cli.Group(f.GetChainFeeSat()))
	t.Row("  change, back to your wallet", cli.Group(f.GetChangeSat()))
	t.Row("What you can receive (the LSP's part)", cli.Group(f.GetInboundSat()))
	p.Table(t)
	if f.GetReplaces() != "" {
		p.Printf("\nIt takes the place of %s, and spends the same coins. Whichever confirms counts; both are kept until one is buried.\n", cli.Clean(f.GetReplaces()))
	}
	if f.GetZeroConf() {
		p.Printf("\nIt is used before it confirms: receiving works at once, sending once it is buried.\n")
	}
	p.Printf("\nThis wallet's own node shows the channel with exactly this balance, and its output pays to the keys of both nodes.\n")
	return p.Err
}

// askable says that a person is there to answer.
func askable(w *world) bool {
	return w.terminal() && w.stdin != nil && term.IsTerminal(int(w.stdin.Fd())) //nolint:gosec // a file descriptor
}

func ask(w *world, question string) (bool, error) {
	p := w.printer()
	p.Printf("%s", question)
	if p.Err != nil {
		return false, p.Err
	}
	line, err := bufio.NewReader(w.stdin).ReadString('\n')
	if err != nil {
		return false, nil //nolint:nilerr // no answer is no
	}
	word := strings.ToLower(strings.TrimSpace(line))
	return word == "y" || word == "yes", nil
}

// fundRights names the macaroon where lnd refused.
func fundRights(err error) error {
	if strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "macaroon does not allow") {
		return errkind.Wrap(errkind.Denied, err, "lnd's macaroon does not allow spending coins: bake one as `sluice-wallet macaroon --fund` prints, and start the daemon again")
	}
	return err
}

type fundSignCmd struct {
	Key  string `arg:"" help:"The funding, as fund list names it."`
	Psbt string `type:"existingfile" placeholder:"FILE" help:"What the wallet that has the coins signed of it."`
}

// Run signs.
func (c *fundSignCmd) Run(w *world, g *Globals) error {
	psbt, err := readPsbt(c.Psbt)
	if err != nil {
		return err
	}
	return c.show(w, g, func(ctx context.Context, d *daemon) (*fundagentv1.Funding, error) {
		got, err := d.funding.Sign(ctx, &fundagentv1.SignRequest{Key: c.Key, SignedPsbt: psbt})
		return got.GetFunding(), err
	}, "Signed and handed over. The LSP publishes it; `sluice-wallet fund list` shows when it is buried.")
}

func (c *fundSignCmd) show(w *world, g *Globals, call func(context.Context, *daemon) (*fundagentv1.Funding, error), said string) error {
	var f *fundagentv1.Funding
	err := g.control(w.ctx, func(ctx context.Context, d *daemon) (err error) {
		f, err = call(ctx, d)
		return err
	})
	if err != nil {
		return fundRights(err)
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, f)
	}
	p := w.printer()
	p.Printf("%s\n", said)
	if f.GetAlarm() != "" {
		p.Printf("  ! %s\n", cli.Clean(f.GetAlarm()))
	}
	return p.Err
}

type fundListCmd struct{}

// Run lists.
func (fundListCmd) Run(w *world, g *Globals) error {
	var list []*fundagentv1.Funding
	err := g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		got, err := d.funding.List(ctx, &fundagentv1.ListRequest{})
		list = got.GetFundings()
		return err
	})
	if err != nil {
		return err
	}
	alarms := 0
	if g.JSON {
		err = cli.WriteJSON(w.stdout, &fundagentv1.ListResponse{Fundings: list})
	} else {
		p := w.printer()
		t := cli.NewTable("KEY", "LSP", "PHASE", ">YOURS", ">THEIRS", "CHANNEL", "LSP SAYS")
		for _, f := range list {
			t.Row(f.GetKey(), cli.Clean(f.GetLsp()), f.GetPhase(), cli.Group(f.GetWalletSat()), cli.Group(f.GetInboundSat()), cli.Clean(f.GetChannel()), cli.Clean(f.GetState()))
		}
		p.Table(t)
		for _, f := range list {
			if f.GetAlarm() != "" {
				p.Printf("  ! %s: %s\n", f.GetKey(), cli.Clean(f.GetAlarm()))
			}
		}
		err = p.Err
	}
	for _, f := range list {
		if f.GetAlarm() != "" {
			alarms++
		}
	}
	if err == nil && alarms > 0 {
		return exitCode(exitFailed)
	}
	return err
}

type fundAbortCmd struct {
	Key string `arg:"" help:"The funding, as fund list names it."`
}

// Run ends it.
func (c *fundAbortCmd) Run(w *world, g *Globals) error {
	return (&fundSignCmd{}).show(w, g, func(ctx context.Context, d *daemon) (*fundagentv1.Funding, error) {
		got, err := d.funding.Abort(ctx, &fundagentv1.AbortRequest{Key: c.Key})
		return got.GetFunding(), err
	}, "Ended. Nothing was signed, and the coins are free.")
}

type fundReclaimCmd struct {
	Key string `arg:"" help:"The funding, as fund list names it."`
}

// Run takes the coins back.
func (c *fundReclaimCmd) Run(w *world, g *Globals) error {
	return (&fundSignCmd{}).show(w, g, func(ctx context.Context, d *daemon) (*fundagentv1.Funding, error) {
		got, err := d.funding.Reclaim(ctx, &fundagentv1.ReclaimRequest{Key: c.Key})
		return got.GetFunding(), err
	}, "Published. The channel is kept until one of the two transactions is buried.")
}
