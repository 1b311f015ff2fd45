package main

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/watchtower/agent"
	"github.com/sluice-lsp/sluice/watchtower/api/towerv1"
)

type towersCreditCmd struct {
	nodeFlags
	Name    string `arg:"" help:"The tower's name."`
	Updates int64  `placeholder:"N" help:"Buy so many. Without it, what was bought is listed."`
	MaxSat  uint64 `name:"max-sat" placeholder:"SAT" help:"Refuse when they cost more."`
	Pay     bool   `help:"Pay the invoice at once (needs sluice-wallet macaroon --towers --pay)."`
}

// Run buys, or lists.
func (c *towersCreditCmd) Run(w *world, g *Globals) error {
	client, service, err := c.tower(w, g, c.Name)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if c.Updates == 0 {
		return c.list(w, g, client, service)
	}
	info, err := client.Info(w.ctx)
	if err != nil {
		return err
	}
	var got *towerv1.Purchase
	err = withTower(w.ctx, client, service, func(ctx context.Context, tower towerv1.TowerServiceClient) error {
		standing, err := tower.GetTower(ctx, &towerv1.GetTowerRequest{})
		if err != nil {
			return err
		}
		bought, err := tower.BuyCredit(ctx, &towerv1.BuyCreditRequest{Updates: c.Updates})
		if err != nil {
			return err
		}
		got = bought.GetPurchase()
		return agent.CheckPurchase(got, c.Updates, standing.GetTower().GetPriceMsat(), c.MaxSat, func(text string) (ln.Bolt11, error) { return lnd.DecodeBolt11(info.Network, text) })
	})
	if err != nil {
		return err
	}
	if c.Pay {
		amount := ln.Msat(max(0, got.GetAmountMsat())) //nolint:gosec // not negative
		if _, err := (payer{client}).PayInvoice(w.ctx, got.GetBolt11(), 0, max(amount/100, minFeeLimitMsat)); err != nil {
			return err
		}
	}
	if g.JSON {
		return cli.WriteJSON(w.stdout, got)
	}
	p := w.printer()
	if c.Pay {
		p.Printf("Paid %s for %s updates at %s.\n", cli.SignedMsatAsSat(got.GetAmountMsat()), cli.Group(uint64(c.Updates)), c.Name) //nolint:gosec // positive
		return p.Err
	}
	p.Printf("Pay %s for %s updates at %s until %s; it is taken once they are credited:\n\n%s\n", cli.SignedMsatAsSat(got.GetAmountMsat()), cli.Group(uint64(c.Updates)), c.Name, //nolint:gosec // positive
		time.UnixMilli(got.GetExpiresMs()).UTC().Format(time.DateTime), cli.Clean(got.GetBolt11()))
	return p.Err
}

// minFeeLimitMsat lets a small payment find a route.
const minFeeLimitMsat ln.Msat = 5_000

func (c *towersCreditCmd) list(w *world, g *Globals, client *lnd.Client, service agent.Service) error {
	var got *towerv1.ListPurchasesResponse
	err := withTower(w.ctx, client, service, func(ctx context.Context, tower towerv1.TowerServiceClient) (err error) {
		got, err = tower.ListPurchases(ctx, &towerv1.ListPurchasesRequest{})
		return err
	})
	switch {
	case err != nil:
		return err
	case g.JSON:
		return cli.WriteJSON(w.stdout, got)
	}
	p := w.printer()
	if len(got.GetPurchases()) == 0 {
		p.Printf("No credit was bought at %s.\n", c.Name)
		return p.Err
	}
	t := cli.NewTable("PURCHASE", "STATE", ">ASKED", ">CREDITED", "CREATED", "")
	for _, b := range got.GetPurchases() {
		t.Row(cli.ShortHex(b.GetPaymentHash()), cli.Clean(b.GetState()), cli.SignedMsatAsSat(b.GetAmountMsat()), cli.SignedMsatAsSat(b.GetPaidMsat()),
			cli.Time(b.GetCreatedMs()), cli.Clean(b.GetReason()))
	}
	p.Table(t)
	return p.Err
}
