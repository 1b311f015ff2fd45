package agent

import (
	"context"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// OnChainRequest is a channel that holds what a person pays to an address.
type OnChainRequest struct {
	// LSP may be empty if there is one only.
	LSP string
	// AmountSat is what is paid: what the fee leaves of it is the wallet's in the
	// channel.
	AmountSat ln.Sat
	// InboundSat is what the LSP puts on top; 0 is as much again, within what it sells.
	InboundSat ln.Sat
	// Confirmations as in OrderRequest.
	Confirmations int
	// RefundAddress is where the payment goes back if no channel comes of it.
	RefundAddress string
	// MaxFeeSat refuses a dearer one; 0 means no limit.
	MaxFeeSat ln.Sat
}

// onChainTries is how often the price may move between two orders.
const onChainTries = 4

// FundOnChain orders a channel that costs exactly the amount on chain. LSPS1 tells a
// price only of an order, so that one is made to learn it, and lapses unpaid. What
// is paid is the LSP's until the channel opens: without its node's signed promise
// of what comes back nothing is shown to pay to.
func (a *Agent) FundOnChain(ctx context.Context, r OnChainRequest) (Order, error) {
	if r.RefundAddress == "" {
		return Order{}, errkind.New(errkind.Invalid, "name an address of yours to which the money comes back if no channel comes of it")
	}
	l, err := a.orderLSP(r.LSP)
	if err != nil {
		return Order{}, err
	}
	options, err := a.ports.LSPS.OrderOptions(ctx, l.NodeKey)
	if err != nil {
		return Order{}, prefixed(l.Name, err)
	}
	if r.InboundSat == 0 {
		r.InboundSat = min(max(r.AmountSat, options.MinLspSat), options.MaxLspSat)
	}
	fee := ln.Sat(0)
	for range onChainTries {
		if r.AmountSat <= fee {
			return Order{}, errkind.Newf(errkind.Invalid, "%s: its fee of %s leaves nothing of %s: pay more, or ask for less inbound liquidity", l.Name, fee, r.AmountSat)
		}
		o, err := a.orderFor(ctx, l, r, fee)
		if err != nil {
			return Order{}, prefixed(l.Name, err)
		}
		if o.ChainTotalSat == r.AmountSat {
			if err := a.orders.put(o, a.now()); err != nil {
				return Order{}, err
			}
			a.log.Info("ordered a channel for a payment on chain", zap.String("lsp", l.Name), zap.String("order_id", o.ID),
				zap.Uint64("amount_sat", uint64(r.AmountSat)), zap.Uint64("fee_sat", uint64(o.ChainFeeSat)))
			return o, nil
		}
		fee = o.ChainTotalSat - o.ClientBalanceSat
	}
	return Order{}, errkind.Newf(errkind.Unavailable, "%s: its price moves too fast: try again in a few minutes", l.Name)
}

// orderFor orders with what a fee would leave.
func (a *Agent) orderFor(ctx context.Context, l LSP, r OnChainRequest, fee ln.Sat) (Order, error) {
	o, err := a.order(ctx, l, OrderRequest{
		LspBalanceSat: r.InboundSat, ClientBalanceSat: r.AmountSat - fee, Confirmations: r.Confirmations, RefundAddress: r.RefundAddress,
	})
	switch {
	case err != nil:
		return Order{}, err
	case o.Address == "":
		return Order{}, errkind.New(errkind.Invalid, "it takes no payment on chain for such a channel")
	case o.Promise == "":
		return Order{}, errkind.New(errkind.Invalid, "its node signs nothing about what comes back if no channel comes: do not pay it on chain")
	case o.ChainTotalSat < o.ClientBalanceSat:
		return Order{}, errkind.New(errkind.Invalid, "it asks for less than you would have in the channel: something is wrong")
	case r.MaxFeeSat > 0 && o.ChainTotalSat-o.ClientBalanceSat > r.MaxFeeSat:
		return Order{}, errkind.Newf(errkind.Invalid, "the fee would be %s, above your limit of %s (the order lapses unpaid): raise --max-fee, or ask for less inbound liquidity", o.ChainTotalSat-o.ClientBalanceSat, r.MaxFeeSat)
	}
	return o, nil
}
