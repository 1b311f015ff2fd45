package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type orderCmd struct {
	New  orderNewCmd  `cmd:"" default:"withargs" help:"Order a channel and show what is to be paid."`
	List orderListCmd `cmd:"" help:"List the channels that were ordered here."`
	Show orderShowCmd `cmd:"" help:"Ask the LSP how an order stands, or wait until it is over."`
}

type orderNewCmd struct {
	Amount   amountArg `arg:"" help:"What shall be receivable through the channel, in satoshis."`
	Lsp      string    `placeholder:"NAME" help:"The LSP, where there are several."`
	Balance  amountArg `placeholder:"AMOUNT" help:"What you have in the channel from the start: you pay for it beside the fee."`
	Confs    *uint32   `placeholder:"N" help:"Confirmations before the channel is used (default: none if you trust the LSP with that and it sells such, else 3)."`
	Within   uint32    `placeholder:"BLOCKS" help:"Within how many blocks the funding shall confirm (default: six, or the LSP's fewest). With time, and confirmations, the LSP may open the channel together with others': the payment is held meanwhile."`
	Lease    uint32    `placeholder:"BLOCKS" help:"How long the channel stays at least (default: three months, or the LSP's most)."`
	Announce bool      `help:"An announced channel."`
	Token    string    `help:"A token of the LSP's, such as a coupon."`
	Refund   string    `placeholder:"ADDRESS" help:"Allows payment on chain: where money comes back if no channel comes of it."`
	MaxFee   amountArg `placeholder:"AMOUNT" help:"Refuse a higher fee; the order then lapses unpaid."`
	Pay      bool      `help:"Pay the invoice at once, through the wallet's own channels."`
	Wait     bool      `short:"w" help:"Show what happens until the channel is there; exit code 4 if none comes."`
	NoQR     bool      `name:"no-qr" help:"No QR code."`
}

func wholeSat(what string, a amountArg) (uint64, error) {
	if a%1000 != 0 {
		return 0, errkind.Newf(errkind.Invalid, "%s must be whole satoshis: channels have no parts of one", what)
	}
	return uint64(a) / 1000, nil
}

// Run orders.
func (c *orderNewCmd) Run(w *world, g *Globals) error {
	amount, err := wholeSat("AMOUNT", c.Amount)
	if err != nil {
		return err
	}
	balance, err := wholeSat("--balance", c.Balance)
	if err != nil {
		return err
	}
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.CreateOrder(ctx, &agentv1.CreateOrderRequest{
			Lsp: c.Lsp, LspBalanceSat: amount, ClientBalanceSat: balance, Confirmations: c.Confs, LeaseBlocks: c.Lease, ConfirmsWithinBlocks: c.Within,
			Announce: c.Announce, Token: c.Token, RefundAddress: c.Refund, MaxFeeSat: uint64(ln.Msat(c.MaxFee).ToSatFloor()),
		})
		if err != nil {
			return err
		}
		o := r.GetOrder()
		if g.JSON {
			err = cli.WriteJSONLine(w.stdout, o)
		} else {
			err = c.show(w, o)
		}
		if err != nil {
			return err
		}
		if c.Pay {
			if err := c.pay(ctx, w, g, wallet, o); err != nil {
				return err
			}
		}
		if !c.Wait {
			return nil
		}
		return waitOrder(ctx, w, g, wallet, o.GetOrderId())
	})
}

// pay pays the invoice. It is a hold invoice: the payment ends when the channel's
// funding is published, so that the order is watched meanwhile.
func (c *orderNewCmd) pay(ctx context.Context, w *world, g *Globals, wallet agentv1.WalletClient, o *agentv1.Order) error {
	if o.GetBolt11() == "" {
		return errkind.New(errkind.Invalid, "the LSP gave no invoice: this order can be paid on chain only")
	}
	paid, err := wallet.Pay(ctx, &agentv1.PayRequest{Bolt11: o.GetBolt11()})
	if err != nil || g.JSON {
		return err
	}
	p := w.printer()
	p.Printf("Paid %s, %s of it for the route.\n", cli.MsatAsSat(paid.GetAmountMsat()+paid.GetFeeMsat()), cli.MsatAsSat(paid.GetFeeMsat()))
	return p.Err
}

func (c *orderNewCmd) show(w *world, o *agentv1.Order) error {
	p := w.printer()
	if !c.NoQR && w.terminal() && o.GetBolt11() != "" {
		if code, err := qr.Encode(strings.ToUpper("lightning:"+o.GetBolt11()), qr.L); err == nil {
			p.Printf("%s", drawQR(code))
		}
	}
	if o.GetBolt11() != "" {
		p.Printf("%s\n\n", cli.Clean(o.GetBolt11()))
	}
	orderTable(p, o)
	return p.Err
}

func orderTable(p *cli.Printer, o *agentv1.Order) {
	t := cli.NewTable("", "")
	t.Row("Order", fmt.Sprintf("%s, at %s", cli.Clean(o.GetOrderId()), o.GetLsp()))
	t.Row("Channel", fmt.Sprintf("you can receive %s through it, and have %s in it%s", cli.Sat(o.GetLspBalanceSat()), cli.Sat(o.GetClientBalanceSat()), announced(o)))
	if n := o.GetConfirmations(); n > 0 {
		t.Row("Usable", fmt.Sprintf("after %d confirmation(s)", n))
	} else {
		t.Row("Usable", fmt.Sprintf("at once: until it confirms you trust %s not to double-spend it", o.GetLsp()))
	}
	t.Row("Stays", fmt.Sprintf("%s blocks at least, about %d days", cli.Group(uint64(o.GetLeaseBlocks())), o.GetLeaseBlocks()/144))
	t.Row("Fee", cli.Sat(o.GetFeeSat()))
	t.Row("To pay", cli.Sat(o.GetTotalSat()))
	if o.GetAddress() != "" {
		t.Row("On chain", fmt.Sprintf("%s to %s", cli.Sat(o.GetChainTotalSat()), cli.Clean(o.GetAddress())))
		promise := "its node has signed what comes back, and to where (--json shows it)"
		if o.GetRefundPromise() == "" {
			promise = "it has signed nothing about that: between payment and opening you trust it with the money"
		}
		t.Row("If no channel comes", fmt.Sprintf("it comes back to %s; %s", cli.Clean(o.GetRefundAddress()), promise))
	}
	t.Row("Pay before", time.UnixMilli(o.GetExpiresMs()).UTC().Format("2006-01-02 15:04:05 UTC"))
	t.Row("Stands", orderWords(o))
	p.Table(t)
}

func announced(o *agentv1.Order) string {
	if o.GetAnnounce() {
		return "; announced"
	}
	return ""
}

// orderWords say how an order stands.
func orderWords(o *agentv1.Order) string {
	switch {
	case o.GetState() == "COMPLETED":
		return "the channel is funded: " + cli.Clean(o.GetFundingOutpoint())
	case o.GetState() == "FAILED" && o.GetPaymentState() == "REFUNDED":
		return "no channel came of it, and what was paid went back"
	case o.GetState() == "FAILED":
		return "no channel came of it"
	}
	switch o.GetPaymentState() {
	case "HOLD":
		return "paid for: the LSP holds the payment until it has funded the channel"
	case "PAID":
		return "paid for: the LSP opens the channel"
	case "REFUNDED":
		return "what was paid goes back"
	}
	return "to be paid"
}

type orderListCmd struct{}

// Run lists.
func (c *orderListCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.ListOrders(ctx, &agentv1.ListOrdersRequest{})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		if len(r.GetOrders()) == 0 {
			p.Printf("No channel was ordered here: `sluice-wallet order AMOUNT` orders one.\n")
			return p.Err
		}
		t := cli.NewTable("ORDER", "LSP", ">RECEIVABLE", ">YOURS", ">FEE", "ORDERED", "")
		for _, o := range r.GetOrders() {
			t.Row(fmt.Sprintf("%.8s", cli.Clean(o.GetOrderId())), o.GetLsp(), cli.Sat(o.GetLspBalanceSat()), cli.Sat(o.GetClientBalanceSat()),
				cli.Sat(o.GetFeeSat()), time.UnixMilli(o.GetCreatedMs()).UTC().Format("2006-01-02 15:04"), orderWords(o))
		}
		p.Table(t)
		return p.Err
	})
}

type orderShowCmd struct {
	ID   string `arg:"" help:"The order's id, or the beginning of it."`
	Wait bool   `short:"w" help:"Show what happens until the order is over; exit code 4 if no channel comes of it."`
}

// Run shows.
func (c *orderShowCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		if c.Wait {
			return waitOrder(ctx, w, g, wallet, c.ID)
		}
		stream, err := wallet.WatchOrder(ctx, &agentv1.WatchOrderRequest{OrderId: c.ID, Once: true})
		if err != nil {
			return err
		}
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, r.GetOrder())
		}
		p := w.printer()
		orderTable(p, r.GetOrder())
		return p.Err
	})
}

func waitOrder(ctx context.Context, w *world, g *Globals, wallet agentv1.WalletClient, id string) error {
	stream, err := wallet.WatchOrder(ctx, &agentv1.WatchOrderRequest{OrderId: id})
	if err != nil {
		return err
	}
	p := w.printer()
	var last *agentv1.Order
	for p.Err == nil {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = r.GetOrder()
		if g.JSON {
			p.Err = cli.WriteJSONLine(w.stdout, last)
			continue
		}
		p.Printf("%s  %s\n", time.Now().UTC().Format("15:04:05"), orderWords(last))
	}
	if p.Err != nil || last.GetState() == "COMPLETED" {
		return p.Err
	}
	_, _ = fmt.Fprintln(w.stderr, "sluice-wallet: "+cli.Stop(orderWords(last)))
	return exitCode(exitNotArrived)
}

type webhooksCmd struct {
	List   webhooksListCmd   `cmd:"" default:"1" help:"List the webhooks that an LSP keeps for this wallet."`
	Set    webhooksSetCmd    `cmd:"" help:"Have an LSP call a URL when a payment waits for this wallet (LSPS5)."`
	Remove webhooksRemoveCmd `cmd:"" help:"Take a webhook out."`
}

type webhooksListCmd struct {
	Lsp string `placeholder:"NAME" help:"The LSP, where there are several."`
}

// Run lists.
func (c *webhooksListCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.ListWebhooks(ctx, &agentv1.ListWebhooksRequest{Lsp: c.Lsp})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		for _, name := range r.GetAppNames() {
			p.Printf("%s\n", cli.Clean(name))
		}
		p.Printf("%d of %d webhooks\n", len(r.GetAppNames()), r.GetMaxWebhooks())
		return p.Err
	})
}

type webhooksSetCmd struct {
	Name string `arg:"" help:"What the webhook is called; one of the same name is moved."`
	URL  string `arg:"" name:"url" help:"The https URL."`
	Lsp  string `placeholder:"NAME" help:"The LSP, where there are several."`
}

// Run registers.
func (c *webhooksSetCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.SetWebhook(ctx, &agentv1.SetWebhookRequest{Lsp: c.Lsp, AppName: c.Name, Url: c.URL})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		if r.GetNoChange() {
			p.Printf("It was registered so before.\n")
		}
		p.Printf("%d of %d webhooks\n", r.GetWebhooks(), r.GetMaxWebhooks())
		return p.Err
	})
}

type webhooksRemoveCmd struct {
	Name string `arg:"" help:"What the webhook is called."`
	Lsp  string `placeholder:"NAME" help:"The LSP, where there are several."`
}

// Run removes.
func (c *webhooksRemoveCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.RemoveWebhook(ctx, &agentv1.RemoveWebhookRequest{Lsp: c.Lsp, AppName: c.Name})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		p.Printf("Removed.\n")
		return p.Err
	})
}
