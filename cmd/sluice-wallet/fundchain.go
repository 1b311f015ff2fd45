package main

import (
	"context"

	"github.com/sluice-lsp/sluice/internal/cli"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

type fundChainCmd struct {
	Amount  uint64  `required:"" placeholder:"SAT" help:"What you will pay, to the satoshi. The LSP's fee comes out of it; the rest is yours in the channel."`
	Inbound uint64  `placeholder:"SAT" help:"What the LSP puts on top, to receive (default: as much again, within what it sells)."`
	Refund  string  `required:"" placeholder:"ADDRESS" help:"An address of yours: there the money comes back if no channel comes of it."`
	Lsp     string  `placeholder:"NAME" help:"The LSP, where there are several."`
	Confs   *uint32 `placeholder:"N" help:"Confirmations before the channel is used (default: none if you trust the LSP with that and it sells such, else 3)."`
	MaxFee  uint64  `placeholder:"SAT" help:"Refuse a higher fee; the order then lapses unpaid."`
	Wait    bool    `short:"w" help:"Show what happens until the channel is there; exit code 4 if none comes."`
}

// Run orders and shows where to pay.
func (c *fundChainCmd) Run(w *world, g *Globals) error {
	return g.wallet(w.ctx, func(ctx context.Context, wallet agentv1.WalletClient) error {
		r, err := wallet.FundOnChain(ctx, &agentv1.FundOnChainRequest{
			Lsp: c.Lsp, AmountSat: c.Amount, InboundSat: c.Inbound, Confirmations: c.Confs, RefundAddress: c.Refund, MaxFeeSat: c.MaxFee,
		})
		if err != nil {
			return err
		}
		o := r.GetOrder()
		if g.JSON {
			err = cli.WriteJSONLine(w.stdout, o)
		} else {
			p := w.printer()
			p.Printf("Pay exactly %s, in one transaction, to\n\n  %s\n\n", cli.Sat(o.GetChainTotalSat()), cli.Clean(o.GetAddress()))
			orderTable(p, o)
			p.Printf("\nWhat is not paid so comes back to %s, less the fee of the transaction. Until the channel opens the LSP holds the money.\n", cli.Clean(o.GetRefundAddress()))
			err = p.Err
		}
		if err != nil || !c.Wait {
			return err
		}
		return waitOrder(ctx, w, g, wallet, o.GetOrderId())
	})
}
