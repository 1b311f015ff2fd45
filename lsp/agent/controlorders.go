package agent

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/agent/agentv1"
)

// Kinds of offers.
const (
	KindOnDemand = "on_demand"
	KindLSPS2    = "lsps2"
	KindOrder    = "order"
)

func (c *control) CreateOrder(ctx context.Context, r *agentv1.CreateOrderRequest) (*agentv1.CreateOrderResponse, error) {
	confs := -1
	if r.Confirmations != nil {
		confs = int(min(r.GetConfirmations(), 1<<16))
	}
	o, err := c.agent.Order(ctx, OrderRequest{
		LSP: r.GetLsp(), LspBalanceSat: ln.Sat(r.GetLspBalanceSat()), ClientBalanceSat: ln.Sat(r.GetClientBalanceSat()),
		Confirmations: confs, LeaseBlocks: r.GetLeaseBlocks(), Announce: r.GetAnnounce(), Token: r.GetToken(),
		RefundAddress: r.GetRefundAddress(), MaxFeeSat: ln.Sat(r.GetMaxFeeSat()), ConfirmWithin: r.GetConfirmsWithinBlocks(),
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.CreateOrderResponse{Order: orderToProto(o)}, nil
}

func (c *control) FundOnChain(ctx context.Context, r *agentv1.FundOnChainRequest) (*agentv1.FundOnChainResponse, error) {
	confs := -1
	if r.Confirmations != nil {
		confs = int(min(r.GetConfirmations(), 1<<16))
	}
	o, err := c.agent.FundOnChain(ctx, OnChainRequest{
		LSP: r.GetLsp(), AmountSat: ln.Sat(r.GetAmountSat()), InboundSat: ln.Sat(r.GetInboundSat()), Confirmations: confs,
		RefundAddress: r.GetRefundAddress(), MaxFeeSat: ln.Sat(r.GetMaxFeeSat()),
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.FundOnChainResponse{Order: orderToProto(o)}, nil
}

func (c *control) ListOrders(context.Context, *agentv1.ListOrdersRequest) (*agentv1.ListOrdersResponse, error) {
	out := &agentv1.ListOrdersResponse{}
	for _, o := range c.agent.Orders() {
		out.Orders = append(out.Orders, orderToProto(o))
	}
	return out, nil
}

func (c *control) WatchOrder(r *agentv1.WatchOrderRequest, stream grpc.ServerStreamingServer[agentv1.WatchOrderResponse]) error {
	if r.GetOnce() {
		o, err := c.agent.RefreshOrder(stream.Context(), r.GetOrderId())
		if err != nil {
			return err
		}
		return stream.Send(&agentv1.WatchOrderResponse{Order: orderToProto(o)})
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var sendErr error
	_, err := c.agent.WatchOrder(ctx, r.GetOrderId(), func(o Order) {
		if sendErr = stream.Send(&agentv1.WatchOrderResponse{Order: orderToProto(o)}); sendErr != nil {
			cancel()
		}
	})
	return errors.Join(sendErr, err)
}

func (c *control) SetWebhook(ctx context.Context, r *agentv1.SetWebhookRequest) (*agentv1.SetWebhookResponse, error) {
	got, err := c.agent.SetWebhook(ctx, r.GetLsp(), r.GetAppName(), r.GetUrl())
	if err != nil {
		return nil, err
	}
	return &agentv1.SetWebhookResponse{Webhooks: uint32(got.NumWebhooks), MaxWebhooks: uint32(got.MaxWebhooks), NoChange: got.NoChange}, nil //nolint:gosec // read as 32 bits
}

func (c *control) ListWebhooks(ctx context.Context, r *agentv1.ListWebhooksRequest) (*agentv1.ListWebhooksResponse, error) {
	got, err := c.agent.Webhooks(ctx, r.GetLsp())
	if err != nil {
		return nil, err
	}
	return &agentv1.ListWebhooksResponse{AppNames: got.AppNames, MaxWebhooks: uint32(got.MaxWebhooks)}, nil //nolint:gosec // read as 32 bits
}

func (c *control) RemoveWebhook(ctx context.Context, r *agentv1.RemoveWebhookRequest) (*agentv1.RemoveWebhookResponse, error) {
	return &agentv1.RemoveWebhookResponse{}, c.agent.RemoveWebhook(ctx, r.GetLsp(), r.GetAppName())
}

// orderOffers are what channels cost outright.
func (c *control) orderOffers(ctx context.Context, amount ln.Msat, out *agentv1.ListOffersResponse) {
	for _, o := range c.agent.OrderOffers(ctx, amount) {
		p := &agentv1.Offer{Lsp: o.LSP.Name, Kind: KindOrder, LspBalanceSat: uint64(o.LspSat)}
		if o.Err != nil {
			p.Unfit = errkind.Told(o.Err)
		} else {
			p.FeeMsat, p.MinFeeMsat = uint64(o.Order.FeeSat)*1000, uint64(o.Order.FeeSat)*1000
			p.MinLifetimeBlocks, p.ValidUntilMs = o.Order.ExpiryBlocks, o.Order.ExpiresAt.UnixMilli()
		}
		out.Offers = append(out.Offers, p)
	}
}

func orderToProto(o Order) *agentv1.Order {
	p := &agentv1.Order{
		Lsp: o.LSP, OrderId: o.ID, LspBalanceSat: uint64(o.LspBalanceSat), ClientBalanceSat: uint64(o.ClientBalanceSat),
		Confirmations: uint32(o.RequiredConfs), LeaseBlocks: o.ExpiryBlocks, Announce: o.Announce,
		FeeSat: uint64(o.FeeSat), TotalSat: uint64(o.TotalSat), Bolt11: o.Bolt11,
		Address: o.Address, ChainTotalSat: uint64(o.ChainTotalSat), RefundAddress: o.RefundAddress,
		RefundPromise: o.Promise, RefundPromiseSignature: o.PromiseSignature,
		State: printable(string(o.State)), PaymentState: string(o.PaymentState), FundingOutpoint: o.Outpoint,
		CreatedMs: o.CreatedAt.UnixMilli(), ExpiresMs: o.ExpiresAt.UnixMilli(), Over: o.Over(),
	}
	if !o.LeaseEndsAt.IsZero() {
		p.LeaseEndsMs = o.LeaseEndsAt.UnixMilli()
	}
	return p
}
