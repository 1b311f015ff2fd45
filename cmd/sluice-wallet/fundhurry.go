package main

import (
	"context"
	"fmt"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/collab/agent/fundagentv1"
)

type fundHurryCmd struct {
	Key         string `arg:"" help:"The funding, as fund list names it."`
	SatPerVbyte uint64 `required:"" name:"sat-per-vbyte" placeholder:"N" help:"What the channel's transaction and its child shall pay together, in sat per vbyte."`
	MaxFee      uint64 `placeholder:"SAT" help:"The most that the child may cost: a fiftieth of the channel by default, and at least 20,000 sat."`
	Yes         bool   `short:"y" help:"Have it made without asking."`
}

// Run shows what a child costs, and has it made.
func (c *fundHurryCmd) Run(w *world, g *Globals) error {
	got, err := c.ask(w, g, c.MaxFee, false)
	if err != nil {
		return err
	}
	if !c.Yes {
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		if err := hurryReview(w, got); err != nil {
			return err
		}
		if !askable(w) {
			p := w.printer()
			p.Printf("\nNothing is asked of lnd. Do it with --yes.\n")
			return p.Err
		}
		yes, err := ask(w, "\nHave it made? [y/N] ")
		if err != nil || !yes {
			return err
		}
	}
	// What was shown is the most that may be paid.
	if got, err = c.ask(w, g, got.GetMostSat(), true); err != nil {
		return err
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, got)
	}
	if c.Yes {
		if err := hurryReview(w, got); err != nil {
			return err
		}
	}
	p := w.printer()
	p.Printf("\nlnd makes the child with the next block.\n")
	return p.Err
}

func (c *fundHurryCmd) ask(w *world, g *Globals, most uint64, act bool) (got *fundagentv1.HurryResponse, err error) {
	err = g.control(w.ctx, func(ctx context.Context, d *daemon) (err error) {
		got, err = d.funding.Hurry(ctx, &fundagentv1.HurryRequest{Key: c.Key, SatPerVbyte: c.SatPerVbyte, MaxFeeSat: most, Act: act})
		return err
	})
	if err != nil {
		return nil, fundRights(err)
	}
	if act != got.GetAsked() {
		return nil, errkind.New(errkind.Internal, "the daemon is of another version: start it again")
	}
	return got, nil
}

// hurryReview shows what the child costs, in sats.
func hurryReview(w *world, got *fundagentv1.HurryResponse) error {
	p := w.printer()
	p.Printf("Channel %s: a child of your change %s pays for it and for itself\n\n", cli.Clean(got.GetFunding().GetChannel()), cli.Clean(got.GetChange()))
	t := cli.NewTable("", ">")
	t.Row("Its transaction pays", fmt.Sprintf("%d sat/vbyte", got.GetParentSatPerVbyte()))
	t.Row("Both together pay", fmt.Sprintf("%d sat/vbyte", got.GetTogetherSatPerVbyte()))
	t.Row("Your change", cli.Group(got.GetChangeSat())+" sat")
	t.Row("  fee of the child", cli.Group(got.GetFeeSat())+" sat")
	t.Row("  at most, if lnd has to raise it", cli.Group(got.GetMostSat())+" sat")
	p.Table(t)
	if got.GetCapped() {
		p.Printf("\nThat is less than you asked for: there is no more in the change.\n")
	}
	p.Printf("\nThe channel's own transaction stays as it is: another one would void the channel.\n")
	return p.Err
}
