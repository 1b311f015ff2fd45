package main

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// OrdersCmd lists channel orders.
type OrdersCmd struct {
	Page
	Client string `placeholder:"KEY" help:"Only those of the wallet with this node key (66 hex digits)."`
	State  string `placeholder:"STATE" help:"Only those in this state, such as awaiting_payment, queued, active, lost; docs/protocol.md lists them."`
	Ending bool   `help:"Only those whose lease ends within lsp.orders.lease_warning_blocks, or is over while the channel waits to be closed."`
}

// Run implements the command.
func (c OrdersCmd) Run(w *world, g *Globals) error {
	req := &lspv1.FindOrdersRequest{Limit: c.Limit, BeforeId: c.Before, OpenOnly: c.Open, State: c.State, LeaseEnding: c.Ending}
	if c.Client != "" {
		key, err := keyArg("--client", c.Client)
		if err != nil {
			return err
		}
		req.ClientNodeKey = key[:]
	}
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.orders.FindOrders, req)
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetOrders()) == 0 {
			p.Printf("No orders match.\n")
			return p.Err
		}
		t := cli.NewTable("ORDER", "CLIENT", ">OURS", ">THEIRS", ">FEE", "PAID BY", "STATE", ">WAITS UNTIL", ">LEASE ENDS", "UPDATED", "WHY")
		for _, x := range got.GetOrders() {
			t.Row(x.GetOrderId(), cli.ShortHex(x.GetClientNodeKey()), cli.Sat(x.GetLspBalanceSat()), cli.Sat(x.GetClientBalanceSat()), cli.Sat(x.GetFeeSat()),
				paidBy(x), cli.Words(x.GetState())+over(x.GetTerminal()), atBlock(x.GetWaitsUntilHeight()), atBlock(x.GetLeaseEndHeight()), cli.Ago(x.GetUpdatedMs(), w.now()), x.GetReason())
		}
		p.Table(t)
		c.more(p, len(got.GetOrders()), got.GetOrders()[len(got.GetOrders())-1].GetOrderId())
		return p.Err
	})
}

func paidBy(x *lspv1.Order) string {
	switch x.GetPaidBy() {
	case "bolt11":
		return "Lightning"
	case "onchain":
		return "on chain"
	}
	return "-"
}

func atBlock(height uint32) string {
	if height == 0 {
		return "-"
	}
	return "block " + cli.Group(uint64(height))
}

// OrderCmd shows one order, or ends it.
type OrderCmd struct {
	ID       string `arg:"" name:"id" help:"The order's id."`
	Withdraw string `placeholder:"TEXT" help:"End it, if its channel is not funded yet, with this reason, which the client reads too. What was paid goes back."`
}

// Run implements the command.
func (c OrderCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		if c.Withdraw != "" {
			if _, err := call(w.ctx, s, s.orders.WithdrawOrder, &lspv1.WithdrawOrderRequest{OrderId: c.ID, Reason: c.Withdraw}); err != nil {
				return err
			}
		}
		got, err := call(w.ctx, s, s.orders.ShowOrder, &lspv1.ShowOrderRequest{OrderId: c.ID})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		p.Table(orderFacts(got.GetOrder(), w.now()))
		if len(got.GetStory()) > 0 {
			p.Printf("\n")
			p.Table(story(got.GetStory()))
		}
		if len(got.GetOpenings()) > 0 {
			p.Printf("\n")
			p.Table(openings(got.GetOpenings(), w.now()))
		}
		if len(got.GetRefunds()) > 0 {
			p.Printf("\n")
			t := cli.NewTable("REFUND", ">OWED", ">FEE", "STATE", "TRANSACTION", "WHY")
			for _, r := range got.GetRefunds() {
				t.Row(r.GetRefundId(), cli.Sat(r.GetOwedSat()), cli.Sat(r.GetFeeSat()), cli.Words(r.GetState())+over(r.GetTerminal()), r.GetTxid(), r.GetReason())
			}
			p.Table(t)
		}
		return p.Err
	})
}

func orderFacts(x *lspv1.Order, now time.Time) *cli.Table {
	t := cli.NewTable("", "")
	t.Row("Order", x.GetOrderId())
	t.Row("Client", cli.Hex(x.GetClientNodeKey()))
	t.Row("State", cli.Words(x.GetState())+over(x.GetTerminal()))
	t.Row("Why", x.GetReason())
	t.Row("Channel", cli.Sat(x.GetLspBalanceSat())+" ours, "+cli.Sat(x.GetClientBalanceSat())+" the client's")
	t.Row("Announced", cli.YesNo(x.GetAnnounceChannel()))
	t.Row("Fee", cli.Sat(x.GetFeeSat()))
	t.Row("Paid by", paidBy(x))
	if x.GetHeldMsat() > 0 {
		t.Row("Held now", cli.MsatAsSat(x.GetHeldMsat()))
	}
	if x.GetUnconfirmedSat() > 0 {
		t.Row("Unconfirmed", cli.Sat(x.GetUnconfirmedSat())+" taken for paid")
	}
	if x.GetFundingOutpoint() != "" {
		t.Row("Funding", x.GetFundingOutpoint())
	}
	if x.GetWaitsUntilHeight() > 0 {
		t.Row("Waits for others", "until "+atBlock(x.GetWaitsUntilHeight()))
	}
	if x.GetBatchId() != "" {
		t.Row("Batch", x.GetBatchId())
	}
	t.Row("Lease ends", atBlock(x.GetLeaseEndHeight()))
	t.Row("Ordered", cli.Time(x.GetCreatedMs())+" UTC, "+cli.Ago(x.GetCreatedMs(), now))
	t.Row("Updated", cli.Time(x.GetUpdatedMs())+" UTC, "+cli.Ago(x.GetUpdatedMs(), now))
	return t
}
