package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type lspsCmd struct {
	List   lspsListCmd   `cmd:"" default:"1" help:"List the LSPs and how they stand."`
	Add    lspsAddCmd    `cmd:"" help:"Add an LSP."`
	Remove lspsRemoveCmd `cmd:"" aliases:"leave" help:"Leave an LSP: its zero-conf channels are no longer accepted. Channels that exist stay."`
}

type lspsListCmd struct{}

// Run lists.
func (c *lspsListCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.ListLsps(ctx, &agentv1.ListLspsRequest{})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		lspTable(p, r.GetLsps())
		return p.Err
	})
}

func lspTable(p *cli.Printer, all []*agentv1.Lsp) {
	if len(all) == 0 {
		p.Printf("No LSP is configured: add one with `sluice-wallet lsps add`.\n")
		return
	}
	t := cli.NewTable("LSP", "NODE", "CONNECTED", "SPEAKS", "OPEN FOR BUSINESS", "ZERO-CONF")
	for _, l := range all {
		t.Row(l.GetName(), fmt.Sprintf("%.16s", l.GetNodeKey()), cli.YesNo(l.GetConnected()), speaks(l),
			cli.YesNo(l.GetAccepting()), cli.YesNo(l.GetZeroConf()))
	}
	p.Table(t)
	problems(p, all)
}

// speaks says how an LSP is asked.
func speaks(l *agentv1.Lsp) string {
	if l.GetGrpc() != "" {
		if l.GetLoggedIn() {
			return "gRPC, logged in"
		}
		return "gRPC, not logged in"
	}
	if len(l.GetLsps()) == 0 {
		return "LSPS"
	}
	var numbers []string
	for _, n := range l.GetLsps() {
		numbers = append(numbers, strconv.FormatUint(uint64(n), 10))
	}
	return "LSPS " + strings.Join(numbers, ", ")
}

func problems(p *cli.Printer, all []*agentv1.Lsp) {
	for _, l := range all {
		if l.GetProblem() != "" {
			p.Printf("  ! %s\n", cli.Clean(l.GetProblem()))
		}
	}
}

type lspsAddCmd struct {
	Name      string `arg:"" help:"A short name of your choice."`
	URI       string `arg:"" name:"uri" help:"The LSP's node as NODEKEY@HOST:PORT, as its operator publishes it."`
	GRPC      string `name:"grpc" placeholder:"HOST:PORT" help:"The service of an LSP that runs Sluice. Without it the LSP is asked over the Lightning connection (LSPS)."`
	Cert      string `type:"existingfile" placeholder:"FILE" help:"The service's TLS certificate; its key is pinned. Without it the system's roots decide."`
	ZeroConf  bool   `default:"true" negatable:"" help:"Trust this LSP's channels before they confirm."`
	Unchecked bool   `help:"Add it although it does not answer now."`
}

// Run adds.
func (c *lspsAddCmd) Run(w *world, g *Globals) error {
	key, address, ok := strings.Cut(c.URI, "@")
	if !ok {
		return errkind.Newf(errkind.Invalid, "%q: want NODEKEY@HOST:PORT", clip(c.URI))
	}
	cert, err := absolute(c.Cert)
	if err != nil {
		return err
	}
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.AddLsp(ctx, &agentv1.AddLspRequest{Unchecked: c.Unchecked, Lsp: &agentv1.Lsp{
			Name: c.Name, NodeKey: key, Address: address, Grpc: c.GRPC, Certificate: cert, ZeroConf: c.ZeroConf,
		}})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		p.Printf("Added %s.\n", c.Name)
		lspTable(p, []*agentv1.Lsp{r.GetLsp()})
		return p.Err
	})
}

type lspsRemoveCmd struct {
	Name string `arg:"" help:"The LSP's name."`
}

// Run removes.
func (c *lspsRemoveCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.RemoveLsp(ctx, &agentv1.RemoveLspRequest{Name: c.Name})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		p.Printf("Left %s: its zero-conf channels are no longer accepted.\n", c.Name)
		if n := r.GetChannels(); n > 0 {
			p.Printf("%d channel(s) with it stay and keep working; close them with lncli if you like.\n", n)
		}
		return p.Err
	})
}

type offersCmd struct {
	Amount amountArg `arg:"" help:"The amount in satoshis (or 1500msat)."`
	Orders bool      `help:"Also ask what a channel for the amount costs outright (LSPS1). That makes an order at each LSP, which lapses unpaid."`
}

// Run compares.
func (c *offersCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.ListOffers(ctx, &agentv1.ListOffersRequest{AmountMsat: uint64(c.Amount), Orders: c.Orders})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		t := cli.NewTable("LSP", "KIND", ">FEE", ">AT LEAST", ">PPM", ">FROM", ">TO", ">LIFETIME", "VALID UNTIL", "")
		for _, o := range r.GetOffers() {
			fee := cli.MsatAsSat(o.GetFeeMsat())
			if o.GetFeeMsat() == 0 {
				fee = "-"
			}
			lifetime, until := "-", "-"
			if o.GetValidUntilMs() > 0 {
				lifetime = fmt.Sprintf("%d blocks", o.GetMinLifetimeBlocks())
				until = time.UnixMilli(o.GetValidUntilMs()).UTC().Format("15:04:05 UTC")
			}
			ppm, from, to, note := cli.Group(uint64(o.GetProportionalPpm())), cli.MsatAsSat(o.GetMinPaymentSizeMsat()), cli.MsatAsSat(o.GetMaxPaymentSizeMsat()), o.GetUnfit()
			if o.GetKind() == agent.KindOrder {
				ppm, from, to = "-", "-", "-"
				if note == "" {
					note = "a channel through which " + cli.Sat(o.GetLspBalanceSat()) + " can come, in all"
				}
			}
			t.Row(o.GetLsp(), cli.Words(o.GetKind()), fee, cli.MsatAsSat(o.GetMinFeeMsat()), ppm, from, to, lifetime, until, note)
		}
		p := w.printer()
		p.Table(t)
		problems(p, r.GetUnreachable())
		return p.Err
	})
}
