package agent

import (
	"context"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/agent/swapagentv1"
)

// RegisterControl serves the agent to the command line.
func (a *Agent) RegisterControl(r grpc.ServiceRegistrar) {
	swapagentv1.RegisterWalletSwapsServer(r, &control{agent: a})
}

type control struct {
	swapagentv1.UnimplementedWalletSwapsServer
	agent *Agent
}

func (c *control) Quote(ctx context.Context, r *swapagentv1.QuoteRequest) (*swapagentv1.QuoteResponse, error) {
	q, err := c.agent.Quote(ctx, r.GetGateway(), ln.Sat(r.GetAmountSat()))
	if err != nil {
		return nil, err
	}
	return &swapagentv1.QuoteResponse{
		Gateway: q.Gateway, AmountSat: uint64(q.AmountSat), InvoiceSat: uint64(q.InvoiceSat), SwapFeeSat: uint64(q.SwapFeeSat),
		OpeningFeeMsat: uint64(q.OpeningFeeMsat), ChannelCapacitySat: uint64(q.CapacitySat), Confirmations: q.Confs, ChannelConfirmations: q.ChannelConfs,
		ExpiryDeltaBlocks: q.ExpiryDelta, DepositWithinBlocks: q.DepositBlocks,
	}, nil
}

func (c *control) Begin(ctx context.Context, r *swapagentv1.BeginRequest) (*swapagentv1.BeginResponse, error) {
	record, err := c.agent.Begin(ctx, r.GetGateway(), ln.Sat(r.GetAmountSat()), ln.Sat(r.GetMaxFeeSat()))
	if err != nil {
		return nil, err
	}
	return &swapagentv1.BeginResponse{Swap: swapToWire(record)}, nil
}

func (c *control) List(_ context.Context, r *swapagentv1.ListRequest) (*swapagentv1.ListResponse, error) {
	out := &swapagentv1.ListResponse{}
	for _, record := range c.agent.Records() {
		if !r.GetLive() || !record.Phase.Over() {
			out.Swaps = append(out.Swaps, swapToWire(record))
		}
	}
	return out, nil
}

// swapToWire leaves the secrets where they are.
func swapToWire(r Record) *swapagentv1.Swap {
	out := &swapagentv1.Swap{
		PaymentHash: r.Hash.String(), Gateway: r.Gateway, Phase: string(r.Phase), State: r.State, Reason: r.Reason,
		AmountSat: uint64(r.AmountSat), InvoiceSat: uint64(r.InvoiceSat), SwapFeeSat: uint64(r.SwapFeeSat), OpeningFeeMsat: uint64(r.OpeningFeeMsat),
		ChannelCapacitySat: uint64(r.CapacitySat), Confirmations: r.Confs, ChannelConfirmations: r.ChannelConfs,
		Address: r.Address, DepositByHeight: r.DepositByHeight, ExpiryHeight: r.Terms.ExpiryHeight, CreatedMs: r.CreatedAt.UnixMilli(),
	}
	for _, d := range r.Deposits {
		wire := &swapagentv1.Deposit{
			Outpoint: d.Outpoint.String(), ValueSat: uint64(d.ValueSat), ConfirmedHeight: d.Height, Spent: string(d.Spent), SpentHeight: d.SpentHeight,
		}
		if d.Refund != nil {
			wire.RefundTx, wire.RefundFeeSat = d.Refund.Raw, uint64(d.Refund.FeeSat)
		}
		out.Deposits = append(out.Deposits, wire)
	}
	return out
}
