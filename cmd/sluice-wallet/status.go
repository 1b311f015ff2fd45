package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type statusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run shows the overview.
func (c *statusCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		s, err := w.GetStatus(ctx, &agentv1.GetStatusRequest{})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, s)
		}
		return show(s)
	})
}

func show(s *agentv1.GetStatusResponse) error {
	fmt.Printf("Node      %s  %s\n", s.GetNodeKey(), s.GetAlias())
	fmt.Printf("lnd       %s on %s, block %d%s\n", s.GetLndVersion(), s.GetNetwork(), s.GetBlockHeight(), unless(s.GetSynced(), "  (still catching up with the chain)"))
	fmt.Printf("Can       receive %s at once, send %s\n", ln.Sat(s.GetInboundSat()), ln.Sat(s.GetOutboundSat()))
	if !s.GetAcceptorAttached() {
		fmt.Println("  ! lnd's channel acceptor is not attached: no LSP can open a channel on demand now. The daemon's log says why.")
	}
	fmt.Println()
	if len(s.GetLsps()) == 0 {
		fmt.Println("No LSP is configured: add one with `sluice-wallet lsps add`.")
	} else if err := lspTable(s.GetLsps()); err != nil {
		return err
	}
	fmt.Println()
	if err := channelTable(s.GetChannels()); err != nil {
		return err
	}
	if len(s.GetPayments()) > 0 {
		fmt.Println()
		if err := paymentTable(s.GetPayments()); err != nil {
			return err
		}
	}
	fmt.Println()
	showBlockers(s.GetBlockers())
	return nil
}

func unless(ok bool, text string) string {
	if ok {
		return ""
	}
	return text
}

func channelTable(all []*agentv1.Channel) error {
	if len(all) == 0 {
		fmt.Println("No channel yet: `sluice-wallet receive` gets one with the first payment.")
		return nil
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANNEL\tWITH\tCAPACITY\tINBOUND\tOUTBOUND\tIN FLIGHT\tSTATE")
	for _, ch := range all {
		with, state := ch.GetLsp(), ch.GetState()
		if with == "" {
			with = fmt.Sprintf("%.8s", ch.GetPeer())
		}
		if state == "open" && !ch.GetActive() {
			state = "inactive (is the peer connected?)"
		}
		if ch.GetUnconfirmed() {
			state += ", unconfirmed"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", short(ch.GetOutpoint()), with, ln.Sat(ch.GetCapacitySat()),
			ln.Sat(ch.GetInboundSat()), ln.Sat(ch.GetOutboundSat()), ch.GetPendingHtlcs(), state)
	}
	return t.Flush()
}

// short keeps both ends of an outpoint.
func short(outpoint string) string {
	if len(outpoint) < 24 {
		return outpoint
	}
	return outpoint[:8] + "…" + outpoint[64-4:]
}

func paymentTable(all []*agentv1.Payment) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PAYMENT\tLSP\tAMOUNT\tFEE\tFEE BY\tSTATE\tAGREED\tREASON")
	for _, p := range all {
		by := "receiver"
		if p.GetFeePayer() == agentv1.FeePayer_FEE_PAYER_PAYER {
			by = "payer"
		}
		fmt.Fprintf(t, "%.8s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.GetPaymentHash(), p.GetLsp(), ln.Msat(p.GetAmountMsat()), ln.Msat(p.GetFeeMsat()),
			by, p.GetState(), time.UnixMilli(p.GetCreatedMs()).Local().Format("01-02 15:04:05"), p.GetReason())
	}
	return t.Flush()
}

func showBlockers(all []*agentv1.Blocker) {
	if len(all) == 0 {
		fmt.Println("Safe to go offline.")
		return
	}
	if notYet(all) {
		fmt.Println("Stay online (`sluice-wallet offline --wait` says when not):")
	} else {
		fmt.Println("Safe to go offline, as far as is known:")
	}
	for _, b := range all {
		fmt.Println("  -", b.GetReason())
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
	JSON bool `name:"json" help:"Print one line of JSON per change."`
}

// Run says whether it is safe to go offline: exit code 0 if so, 3 if not.
func (c *offlineCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := w.WatchOffline(ctx, &agentv1.WatchOfflineRequest{})
		if err != nil {
			return err
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				if !c.JSON {
					fmt.Println("Safe to go offline now.")
				}
				return nil
			}
			if err != nil {
				return err
			}
			if c.JSON {
				if err := printJSON(os.Stdout, r); err != nil {
					return err
				}
			} else if len(r.GetBlockers()) > 0 {
				showBlockers(r.GetBlockers())
			}
			if notYet(r.GetBlockers()) && !c.Wait {
				return exitError{code: exitNotYet}
			}
		}
	})
}

type paymentsCmd struct {
	Limit uint32 `default:"50" help:"At most so many per LSP."`
	Open  bool   `help:"Only those that are not over."`
	JSON  bool   `name:"json" help:"Print JSON."`
}

// Run lists payments.
func (c *paymentsCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.ListPayments(ctx, &agentv1.ListPaymentsRequest{Limit: c.Limit, OpenOnly: c.Open})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		}
		if err := paymentTable(r.GetPayments()); err != nil {
			return err
		}
		for _, l := range r.GetUnreachable() {
			fmt.Println("  !", l.GetProblem())
		}
		return nil
	})
}

type payCmd struct {
	Invoice string    `arg:"" help:"The invoice (BOLT 11)."`
	Amount  amountArg `placeholder:"AMOUNT" help:"The amount in satoshis, for an invoice that names none."`
	MaxFee  amountArg `placeholder:"AMOUNT" help:"The most to pay in routing fees (default 5 % and at least 10 sat)."`
	JSON    bool      `name:"json" help:"Print JSON."`
}

// Run pays.
func (c *payCmd) Run(ctx context.Context, g *cli) error {
	return g.wallet(ctx, func(ctx context.Context, w agentv1.WalletClient) error {
		r, err := w.Pay(ctx, &agentv1.PayRequest{Bolt11: c.Invoice, AmountMsat: uint64(c.Amount), MaxFeeMsat: uint64(c.MaxFee)})
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(os.Stdout, r)
		}
		fmt.Printf("paid %s, routing fee %s\npreimage %s\n", ln.Msat(r.GetAmountMsat()), ln.Msat(r.GetFeeMsat()), r.GetPreimage())
		return nil
	})
}
