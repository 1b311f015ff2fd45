package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"rsc.io/qr"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	lspagent "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/agent"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
)

// holdSettings are what is asked for until `holds on` or `holds off` says otherwise.
type holdSettings struct {
	Enabled   bool            `toml:"enabled" help:"have the LSPs that run Sluice hold payments while this wallet is offline; sluice-wallet holds on and off win over this"`
	HoldFor   config.Duration `toml:"hold_for" help:"how long a payment may wait; each LSP has its own limit" min:"1m" max:"7d"`
	MaxHtlcs  int             `toml:"max_htlcs" help:"how many HTLCs may wait at one LSP" min:"1" max:"482"`
	MaxSat    config.Sat      `toml:"max_sat" help:"how many satoshis may wait at one LSP" min:"1"`
	FinalCltv uint32          `toml:"final_cltv_delta_blocks" help:"the final CLTV delta of this wallet's invoices (a stock lnd's is 80): for so long your node can claim on chain what an LSP would not let go" min:"18" max:"500"`
}

func defaultHoldSettings() holdSettings {
	w := agent.DefaultWish()
	return holdSettings{HoldFor: config.Duration(w.HoldFor), MaxHtlcs: w.MaxHtlcs, MaxSat: config.Sat(w.MaxSat), FinalCltv: w.FinalCltvDelta}
}

// newHolds is the daemon's agent for holds.
func newHolds(dir string, s holdSettings, client *lnd.Client, lsps func() []lspagent.LSP, log *zap.Logger) (*agent.Agent, error) {
	return agent.New(agent.Config{
		DataDir: dir, Enabled: s.Enabled,
		Wish: lws.Wish{HoldFor: s.HoldFor.Std(), MaxHtlcs: s.MaxHtlcs, MaxSat: s.MaxSat.Amount(), FinalCltvDelta: s.FinalCltv},
	}, agent.Ports{
		Node: client, Reissue: client.ReissueInvoice, Decode: lnd.DecodeBolt11, Now: time.Now, Log: log.Named("holds"),
		Gateways: func() []agent.Gateway {
			var out []agent.Gateway
			for _, l := range lsps() {
				out = append(out, agent.Gateway{Name: l.Name, NodeKey: l.NodeKey, GRPC: l.GRPC, Certificate: l.Certificate})
			}
			return out
		},
		Connect: agent.Dial(func(ctx context.Context, text string) (string, error) { return client.SignMessage(ctx, []byte(text)) }, time.Now),
	})
}

type holdsCmd struct {
	List    holdsListCmd    `cmd:"" default:"1" help:"Show what each LSP was asked to hold, and what waits."`
	On      holdsOnCmd      `cmd:"" help:"Have every LSP hold payments while this wallet is offline."`
	Off     holdsOffCmd     `cmd:"" help:"Have payments held no more. What waits is held to its end."`
	Invoice holdsInvoiceCmd `cmd:"" help:"Make an invoice whose payment can wait for hours or days."`
	Return  holdsReturnCmd  `cmd:"" help:"Send a payment that waits back to its payer."`
}

type holdsListCmd struct{}

// Run lists.
func (holdsListCmd) Run(w *world, g *Globals) error {
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		r, err := d.holds.GetHolds(ctx, &holdagentv1.GetHoldsRequest{Fresh: true})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		showHolds(p, r)
		return p.Err
	})
}

// showHolds shows registrations, and what waits.
func showHolds(p *cli.Printer, r *holdagentv1.GetHoldsResponse) {
	t := cli.NewTable("WHILE OFFLINE", "HOLDS PAYMENTS", ">WAITING", "")
	for _, s := range r.GetGateways() {
		holds := "no"
		if s.GetRegistered() {
			holds = "up to " + cli.Duration(time.Duration(s.GetHoldForSeconds())*time.Second)
		}
		t.Row(cli.Clean(s.GetName()), holds, fmt.Sprint(len(s.GetWaiting())), cli.Clean(s.GetProblem()))
	}
	if len(r.GetGateways()) > 0 {
		p.Table(t)
	}
	if !r.GetWish().GetEnabled() {
		p.Printf("  Payments that come while this wallet is offline fail; `sluice-wallet holds on` has them wait.\n")
	}
	showWaiting(p, r.GetGateways())
}

func showWaiting(p *cli.Printer, gateways []*holdagentv1.Gateway) {
	t := cli.NewTable("WAITS", "AT", "BY", ">AMOUNT", "SINCE", "UNTIL", ">BLOCKS LEFT", ">WOKEN", "LAST WAKE")
	some, unknown := false, 0
	for _, s := range gateways {
		for _, w := range s.GetWaiting() {
			some = true
			last := "-"
			if w.GetLastWakeMs() != 0 {
				last = time.UnixMilli(w.GetLastWakeMs()).UTC().Format(time.TimeOnly) + ": " + strings.Join(append([]string{w.GetLastWake()}, w.GetWebhooks()...), "; ")
			}
			t.Row(fmt.Sprintf("%.8s", w.GetPaymentHash()), cli.Clean(s.GetName()), cli.Words(w.GetKind()), cli.MsatAsSat(w.GetAmountMsat()),
				cli.Ago(w.GetSinceMs(), time.Now()), time.UnixMilli(w.GetUntilMs()).UTC().Format(time.DateTime), fmt.Sprint(w.GetBlocksLeft()),
				fmt.Sprint(w.GetWakes()), last)
			if w.GetInvoice() == agent.InvoiceUnknown {
				unknown++
			}
		}
	}
	if some {
		p.Printf("\n")
		p.Table(t)
	}
	if unknown > 0 {
		p.Printf("  ! %d of them are for invoices that this node does not have, as after a restore from the seed: it cannot take them. `sluice-wallet holds return HASH` sends one back; else it goes back by itself.\n", unknown)
	}
}

// writeStatus prints both services' words as one value.
func writeStatus(w *world, s *agentv1.GetStatusResponse, holds *holdagentv1.GetHoldsResponse) error {
	status, err := cli.Raw(s)
	if err != nil {
		return err
	}
	held, err := cli.Raw(holds)
	if err != nil {
		return err
	}
	return cli.WriteJSON(w.stdout, joined{status, held})
}

// joined is a status with what is held beside its own fields.
type joined struct{ status, holds []byte }

// MarshalJSON implements json.Marshaler.
func (j joined) MarshalJSON() ([]byte, error) {
	body := strings.TrimSpace(string(j.status))
	if !strings.HasSuffix(body, "}") {
		return nil, fmt.Errorf("the status is no object")
	}
	return []byte(strings.TrimSuffix(body, "}") + `,"holds":` + string(j.holds) + "}"), nil
}

type holdsOnCmd struct {
	For      time.Duration `placeholder:"TIME" help:"How long a payment may wait (e.g. 6h). Each LSP has its own limit."`
	MaxHtlcs uint32        `name:"max-htlcs" placeholder:"N" help:"How many HTLCs may wait at one LSP."`
	MaxSat   uint64        `placeholder:"SAT" help:"How many satoshis may wait at one LSP."`
}

// Run registers.
func (c *holdsOnCmd) Run(w *world, g *Globals) error {
	if c.For < 0 || (c.For > 0 && c.For < time.Minute) || c.For > 7*24*time.Hour {
		return errkind.New(errkind.Invalid, "--for must be between 1m and 168h")
	}
	return g.setHolds(w, &holdagentv1.Wish{Enabled: true, HoldForSeconds: int64(c.For / time.Second), MaxHtlcs: c.MaxHtlcs, MaxSat: c.MaxSat})
}

type holdsOffCmd struct{}

// Run ends the registrations.
func (holdsOffCmd) Run(w *world, g *Globals) error {
	return g.setHolds(w, &holdagentv1.Wish{})
}

func (g *Globals) setHolds(w *world, wish *holdagentv1.Wish) error {
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		r, err := d.holds.SetHolds(ctx, &holdagentv1.SetHoldsRequest{Wish: wish})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		showHolds(p, &holdagentv1.GetHoldsResponse{Wish: wish, Gateways: r.GetGateways()})
		return p.Err
	})
}

type holdsInvoiceCmd struct {
	Amount      amountArg     `arg:"" help:"The amount in satoshis (or 1500msat)."`
	Wait        time.Duration `placeholder:"TIME" help:"How long its payment may wait (default: as long as the LSP holds)."`
	Expiry      time.Duration `default:"1h" help:"For how long the invoice can be paid."`
	Description string        `short:"d" help:"What the payer reads in the invoice."`
	Lsp         string        `placeholder:"NAME" help:"Over this LSP only."`
	NoQR        bool          `name:"no-qr" help:"No QR code."`
}

// Run makes the invoice.
func (c *holdsInvoiceCmd) Run(w *world, g *Globals) error {
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		r, err := d.holds.MakeInvoice(ctx, &holdagentv1.MakeInvoiceRequest{
			AmountMsat: uint64(c.Amount), Description: c.Description, ExpirySeconds: int64(c.Expiry / time.Second),
			WaitSeconds: int64(c.Wait / time.Second), Gateway: c.Lsp,
		})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		if !c.NoQR && w.terminal() {
			if code, err := qr.Encode(strings.ToUpper("lightning:"+r.GetBolt11()), qr.L); err == nil {
				p.Printf("%s", drawQR(code))
			}
		}
		p.Printf("%s\n\n", cli.Clean(r.GetBolt11()))
		t := cli.NewTable("", "")
		t.Row("Waits at", r.GetGateway())
		t.Row("Waits for", fmt.Sprintf("%d blocks, about %s", r.GetWaitBlocks(), cli.Duration(time.Duration(r.GetWaitBlocks())*10*time.Minute)))
		if r.GetPriceMsat() > 0 {
			t.Row("The payer pays", "about "+ln.Msat(r.GetPriceMsat()).String()+" for that, as a routing fee")
		}
		t.Row("What it means", fmt.Sprintf("the payer's money may be locked for %d blocks: some wallets refuse, or show the payment as stuck meanwhile", r.GetPayerFinalCltvDeltaBlocks()))
		t.Row("Pay before", time.UnixMilli(r.GetExpiresMs()).UTC().Format("2006-01-02 15:04:05 UTC"))
		p.Table(t)
		return p.Err
	})
}

type holdsReturnCmd struct {
	Payment string `arg:"" help:"The payment's hash, or its first digits."`
}

// Run sends it back.
func (c *holdsReturnCmd) Run(w *world, g *Globals) error {
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		if _, err := d.holds.ReturnPayment(ctx, &holdagentv1.ReturnPaymentRequest{Payment: c.Payment}); err != nil {
			return err
		}
		p := w.printer()
		if !g.JSON {
			p.Printf("It goes back to its payer.\n")
		}
		return p.Err
	})
}
