package main

import (
	"strings"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// BatchesCmd lists funding transactions that several orders share.
type BatchesCmd struct {
	Page
}

// firstOf is enough of an order's id to find it among others.
func firstOf(id string) string { return id[:min(len(id), 8)] }

// Run implements the command.
func (c BatchesCmd) Run(w *world, g *Globals) error {
	return g.with(func(s *session) error {
		got, err := call(w.ctx, s, s.orders.ListBatches, &lspv1.ListBatchesRequest{Limit: c.Limit, BeforeId: c.Before, OpenOnly: c.Open})
		if err != nil {
			return err
		}
		if g.JSON {
			return cli.WriteJSON(w.stdout, got)
		}
		p := w.printer()
		if len(got.GetBatches()) == 0 {
			p.Printf("No batches match.\n")
		} else {
			t := cli.NewTable("BATCH", ">CHANNELS", ">FUNDING", ">FEE", "STATE", "TRANSACTION", "UPDATED", "WHY", "ORDERS")
			for _, x := range got.GetBatches() {
				var orders []string
				for _, o := range x.GetOpenings() {
					orders = append(orders, firstOf(o.GetPaymentId())+" ("+cli.Words(o.GetState())+")")
				}
				t.Row(x.GetBatchId(), cli.Group(uint64(x.GetChannels())), cli.Sat(x.GetFundingSat()), cli.Sat(x.GetFeeSat()),
					cli.Words(x.GetState())+over(x.GetTerminal()), x.GetTxid(), cli.Ago(x.GetUpdatedMs(), w.now()), cli.Clean(x.GetReason()), strings.Join(orders, ", "))
			}
			p.Table(t)
			c.more(p, len(got.GetBatches()), got.GetBatches()[len(got.GetBatches())-1].GetBatchId())
		}
		waiting := got.GetWaiting()
		switch {
		case len(waiting) == 0 && got.GetBatchOrders() < 2:
			p.Printf("\nOrders share no transactions: lsp.orders.batch_orders is %d.\n", got.GetBatchOrders())
		case len(waiting) == 0:
			p.Printf("\nNo order waits for a batch; %d would make one at once.\n", got.GetBatchOrders())
		default:
			p.Printf("\n%d of %d orders wait for a batch, at block %s:\n\n", len(waiting), got.GetBatchOrders(), cli.Group(uint64(got.GetHeight())))
			t := cli.NewTable("ORDER", "CLIENT", ">OURS", ">THEIRS", "PAID BY", ">WAITS UNTIL")
			for _, x := range waiting {
				t.Row(x.GetOrderId(), cli.ShortHex(x.GetClientNodeKey()), cli.Sat(x.GetLspBalanceSat()), cli.Sat(x.GetClientBalanceSat()), paidBy(x), atBlock(x.GetWaitsUntilHeight()))
			}
			p.Table(t)
		}
		return p.Err
	})
}
