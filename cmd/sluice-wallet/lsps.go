package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type lspsCmd struct {
	List   lspsListCmd   `cmd:"" default:"1" help:"List the LSPs and how they stand."`
	Add    lspsAddCmd    `cmd:"" help:"Add an LSP."`
	Remove lspsRemoveCmd `cmd:"" aliases:"leave" help:"Leave an LSP: its zero-conf channels are no longer accepted. Channels that exist stay."`
}

type lspsListCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists.
func (c *lspsListCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.ListLsps(ctx, &agentv1.ListLspsRequest{})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		case len(r.GetLsps()) == 0:
			fmt.Println("No LSP is configured: add one with `sluice-wallet lsps add`.")
			return nil
		}
		return lspTable(r.GetLsps())
	})
}

func lspTable(all []*agentv1.Lsp) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LSP\tNODE\tCONNECTED\tLOGGED IN\tOPEN FOR BUSINESS\tZERO-CONF")
	for _, l := range all {
		fmt.Fprintf(t, "%s\t%.16s\t%s\t%s\t%s\t%s\n", l.GetName(), l.GetNodeKey(),
			yes(l.GetConnected()), yes(l.GetLoggedIn()), yes(l.GetAccepting()), yes(l.GetZeroConf()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range all {
		if l.GetProblem() != "" {
			fmt.Printf("  ! %s: %s\n", l.GetName(), l.GetProblem())
		}
	}
	return nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type lspsAddCmd struct {
	Name      string `arg:"" help:"A short name of your choice."`
	URI       string `arg:"" name:"uri" help:"The LSP's node as NODEKEY@HOST:PORT, as its operator publishes it."`
	GRPC      string `name:"grpc" required:"" placeholder:"HOST:PORT" help:"The LSP's service."`
	Cert      string `type:"existingfile" placeholder:"FILE" help:"The service's TLS certificate; its key is pinned. Without it the system's roots decide."`
	ZeroConf  bool   `default:"true" negatable:"" help:"Trust this LSP's channels before they confirm."`
	Unchecked bool   `help:"Add it although it does not answer now."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// Run adds.
func (c *lspsAddCmd) Run(ctx context.Context, g *cli) error {
	key, address, ok := strings.Cut(c.URI, "@")
	if !ok {
		return errkind.Newf(errkind.Invalid, "%q: want NODEKEY@HOST:PORT", clip(c.URI))
	}
	cert, err := absolute(c.Cert)
	if err != nil {
		return err
	}
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.AddLsp(ctx, &agentv1.AddLspRequest{Unchecked: c.Unchecked, Lsp: &agentv1.Lsp{
			Name: c.Name, NodeKey: key, Address: address, Grpc: c.GRPC, Certificate: cert, ZeroConf: c.ZeroConf,
		}})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		}
		fmt.Printf("Added %s.\n", c.Name)
		return lspTable([]*agentv1.Lsp{r.GetLsp()})
	})
}

type lspsRemoveCmd struct {
	Name string `arg:"" help:"The LSP's name."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run removes.
func (c *lspsRemoveCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.RemoveLsp(ctx, &agentv1.RemoveLspRequest{Name: c.Name})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		}
		fmt.Printf("Left %s: its zero-conf channels are no longer accepted.\n", c.Name)
		if n := r.GetChannels(); n > 0 {
			fmt.Printf("%d channel(s) with it stay and keep working; close them with lncli if you like.\n", n)
		}
		return nil
	})
}

type offersCmd struct {
	Amount amountArg `arg:"" help:"The amount in satoshis (or 1500msat)."`
	JSON   bool      `name:"json" help:"Print JSON."`
}

// Run compares.
func (c *offersCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.ListOffers(ctx, &agentv1.ListOffersRequest{AmountMsat: uint64(c.Amount)})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		}
		t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "LSP\tFEE\tAT LEAST\tPPM\tPAYMENTS\tLIFETIME\tVALID UNTIL\t")
		for _, o := range r.GetOffers() {
			fee := ln.Msat(o.GetFeeMsat()).String()
			if o.GetUnfit() != "" {
				fee = "-"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s to %s\t%d blocks\t%s\t%s\n", o.GetLsp(), fee, ln.Msat(o.GetMinFeeMsat()),
				o.GetProportionalPpm(), ln.Msat(o.GetMinPaymentSizeMsat()), ln.Msat(o.GetMaxPaymentSizeMsat()),
				o.GetMinLifetimeBlocks(), time.UnixMilli(o.GetValidUntilMs()).Local().Format("15:04:05"), o.GetUnfit())
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, l := range r.GetUnreachable() {
			fmt.Printf("  ! %s: %s\n", l.GetName(), l.GetProblem())
		}
		return nil
	})
}
