package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
	"github.com/sluice-lsp/sluice/lws/agent/holdagentv1"
)

type statusCmd struct{}

// Run shows the overview.
func (c *statusCmd) Run(w *world, g *Globals) error {
	return g.control(w.ctx, func(ctx context.Context, d *daemon) error {
		s, err := d.wallet.GetStatus(ctx, &agentv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		holds, err := d.holds.GetHolds(ctx, &holdagentv1.GetHoldsRequest{Fresh: true})
		if err != nil {
			return err
		}
		if g.JSON {
			return writeStatus(w, s, holds)
		}
		p := w.printer()
		show(p, s, holds)
		towerAlarms(p, g.DataDir)
		return p.Err
	})
}

func show(p *cli.Printer, s *agentv1.GetStatusResponse, holds *holdagentv1.GetHoldsResponse) {
	t := cli.NewTable("", "")
	t.Row("Node", s.GetNodeKey()+"  "+s.GetAlias())
	synced := ""
	if !s.GetSynced() {
		synced = " (still catching up with the chain)"
	}
	t.Row("lnd", fmt.Sprintf("%s on %s, block %d%s", s.GetLndVersion(), s.GetNetwork(), s.GetBlockHeight(), synced))
	t.Row("Can receive", cli.Sat(s.GetInboundSat())+" at once without a new channel")
	t.Row("Can send", cli.Sat(s.GetOutboundSat()))
	p.Table(t)
	if !s.GetAcceptorAttached() {
		p.Printf("  ! lnd's channel acceptor is not attached: no LSP can open a channel on demand now. The daemon's log says why.\n")
	}
	for _, text := range s.GetAlarms() {
		p.Printf("  ! %s\n", cli.Clean(text))
	}
	p.Printf("\n")
	lspTable(p, s.GetLsps())
	p.Printf("\n")
	channelTable(p, s.GetChannels())
	if len(s.GetPayments()) > 0 {
		p.Printf("\n")
		paymentTable(p, s.GetPayments())
	}
	p.Printf("\n")
	showHolds(p, holds)
	p.Printf("\n")
	showBlockers(p, s.GetBlockers())
}

func channelTable(p *cli.Printer, all []*agentv1.Channel) {
	if len(all) == 0 {
		p.Printf("No channel yet: `sluice-wallet receive` gets one with the first payment.\n")
		return
	}
	t := cli.NewTable("CHANNEL", "WITH", ">CAPACITY", ">INBOUND", ">OUTBOUND", ">IN FLIGHT", "STATE")
	for _, ch := range all {
		with, state := ch.GetLsp(), cli.Words(ch.GetState())
		if with == "" {
			with = fmt.Sprintf("%.16s", ch.GetPeer())
		}
		if state == "open" && !ch.GetActive() {
			state = "inactive (is the peer connected?)"
		}
		if ch.GetUnconfirmed() {
			state += ", unconfirmed"
		}
		t.Row(short(ch.GetOutpoint()), with, cli.Sat(ch.GetCapacitySat()), cli.Sat(ch.GetInboundSat()),
			cli.Sat(ch.GetOutboundSat()), cli.Group(uint64(ch.GetPendingHtlcs())), state)
	}
	p.Table(t)
}

// short is an outpoint with the middle of its transaction id left out.
func short(outpoint string) string {
	txid, index, ok := strings.Cut(outpoint, ":")
	if !ok || len(txid) != 64 {
		return outpoint
	}
	return txid[:8] + "…" + txid[60:] + ":" + index
}

func paymentTable(p *cli.Printer, all []*agentv1.Payment) {
	t := cli.NewTable("PAYMENT", "LSP", ">AMOUNT", ">FEE", "FEE BY", "STATE", "AGREED", "WHAT IT MEANS")
	for _, pay := range all {
		by := "receiver"
		if pay.GetFeePayer() == agentv1.FeePayer_FEE_PAYER_PAYER {
			by = "payer"
		}
		t.Row(fmt.Sprintf("%.8s", pay.GetPaymentHash()), pay.GetLsp(), cli.MsatAsSat(pay.GetAmountMsat()), cli.MsatAsSat(pay.GetFeeMsat()),
			by, cli.Words(pay.GetState()), time.UnixMilli(pay.GetCreatedMs()).UTC().Format("2006-01-02 15:04:05"), pay.GetReason())
	}
	p.Table(t)
}

func showBlockers(p *cli.Printer, all []*agentv1.Blocker) {
	switch {
	case len(all) == 0:
		p.Printf("Safe to go offline.\n")
		return
	case notYet(all):
		p.Printf("Stay online (`sluice-wallet offline --wait` says when not):\n")
	default:
		p.Printf("Safe to go offline, as far as is known:\n")
	}
	for _, b := range all {
		p.Printf("  - %s\n", cli.Clean(b.GetReason()))
	}
}

// notYet says whether anything stands against going offline; what is merely
// not known does not.
func notYet(all []*agentv1.Blocker) bool {
	for _, b := range all {
		if b.GetKind() != "unknown" {
			return true
		}
	}
	return false
}

type offlineCmd struct {
	Wait bool `short:"w" help:"Wait until it is safe."`
}

// Run says whether it is safe to go offline: exit code 0 if so, 3 if not.
func (c *offlineCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := wallet.WatchOffline(ctx, &agentv1.WatchOfflineRequest{})
		if err != nil {
			return err
		}
		p := w.printer()
		for p.Err == nil {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				if !g.JSON {
					p.Printf("Safe to go offline now.\n")
				}
				return p.Err
			}
			if err != nil {
				return err
			}
			switch {
			case g.JSON:
				p.Err = cli.WriteJSONLine(w.stdout, r)
			case len(r.GetBlockers()) > 0:
				showBlockers(p, r.GetBlockers())
			}
			if p.Err == nil && notYet(r.GetBlockers()) && !c.Wait {
				return exitCode(exitNotYet)
			}
		}
		return p.Err
	})
}

type paymentsCmd struct {
	Limit uint32 `default:"50" help:"At most so many per LSP."`
	Open  bool   `help:"Only those that are not over."`
}

// Run lists payments.
func (c *paymentsCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.ListPayments(ctx, &agentv1.ListPaymentsRequest{Limit: c.Limit, OpenOnly: c.Open})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		paymentTable(p, r.GetPayments())
		problems(p, r.GetUnreachable())
		return p.Err
	})
}

type payCmd struct {
	Invoice string    `arg:"" help:"The invoice (BOLT 11)."`
	Amount  amountArg `placeholder:"AMOUNT" help:"The amount in satoshis, for an invoice that names none."`
	MaxFee  amountArg `placeholder:"AMOUNT" help:"The most to pay in routing fees (default 5 % and at least 10 sat)."`
}

// Run pays.
func (c *payCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.Pay(ctx, &agentv1.PayRequest{Bolt11: c.Invoice, AmountMsat: uint64(c.Amount), MaxFeeMsat: uint64(c.MaxFee)})
		switch {
		case err != nil:
			return err
		case g.JSON:
			return cli.WriteJSON(w.stdout, r)
		}
		p := w.printer()
		p.Printf("Paid %s, routing fee %s.\npreimage %s\n", cli.MsatAsSat(r.GetAmountMsat()), cli.MsatAsSat(r.GetFeeMsat()), r.GetPreimage())
		return p.Err
	})
}
