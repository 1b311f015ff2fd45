package api

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/order"
)

// orders serves LSPS1 over gRPC and REST: the same business as over the peer
// connection.
type orders struct {
	lspv1.UnimplementedOrdersServiceServer
	s *Service
}

func (o *orders) GetInfo(ctx context.Context, _ *lspv1.GetInfoRequest) (*lspv1.GetInfoResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	options, err := engine.LSPS1{Engine: e}.Options(ctx)
	if err != nil {
		return nil, err
	}
	return &lspv1.GetInfoResponse{
		MinRequiredChannelConfirmations: uint32(options.MinRequiredConfs), MinFundingConfirmsWithinBlocks: uint32(options.MinConfirmWithin),
		MaxChannelExpiryBlocks:     options.MaxExpiryBlocks,
		MinInitialClientBalanceSat: uint64(options.MinClientSat), MaxInitialClientBalanceSat: uint64(options.MaxClientSat),
		MinInitialLspBalanceSat: uint64(options.MinLspSat), MaxInitialLspBalanceSat: uint64(options.MaxLspSat),
		MinChannelBalanceSat: uint64(options.MinChannelSat), MaxChannelBalanceSat: uint64(options.MaxChannelSat), Uris: e.Config().URIs,
	}, nil
}

func (o *orders) CreateOrder(ctx context.Context, r *lspv1.CreateOrderRequest) (*lspv1.CreateOrderResponse, error) {
	e, client, openly, err := o.buyer(ctx, r.PublicKey)
	if err != nil {
		return nil, err
	}
	const most = 1<<16 - 1
	switch {
	case len(r.Token) > lsps1.MaxToken:
		return nil, lsps1.Bad("token", "it is too long")
	case len(r.RefundOnchainAddress) > lsps1.MaxAddress:
		return nil, lsps1.Bad("refund_onchain_address", "it is too long")
	case r.RequiredChannelConfirmations > most:
		return nil, lsps1.Bad("required_channel_confirmations", "it must be an integer of at most 16 bits")
	case r.FundingConfirmsWithinBlocks > most:
		return nil, lsps1.Bad("funding_confirms_within_blocks", "it must be an integer of at most 16 bits")
	}
	create := engine.LSPS1{Engine: e}.Create
	if openly {
		create = engine.LSPS1{Engine: e}.CreateOpen
	}
	made, err := create(ctx, client, lsps1.CreateOrderRequest{
		Wish: order.Wish{
			LspBalanceSat: ln.Sat(r.LspBalanceSat), ClientBalanceSat: ln.Sat(r.ClientBalanceSat),
			RequiredConfs: uint16(r.RequiredChannelConfirmations), ConfirmWithin: uint16(r.FundingConfirmsWithinBlocks), //nolint:gosec // bounded just above
			ExpiryBlocks: r.ChannelExpiryBlocks, Token: r.Token, Announce: r.AnnounceChannel,
		},
		RefundAddress: r.RefundOnchainAddress,
	})
	if err != nil {
		return nil, err
	}
	return &lspv1.CreateOrderResponse{
		OrderId: made.OrderID, LspBalanceSat: uint64(made.LspBalanceSat), ClientBalanceSat: uint64(made.ClientBalanceSat),
		RequiredChannelConfirmations: uint32(made.RequiredConfs), FundingConfirmsWithinBlocks: uint32(made.ConfirmWithin),
		ChannelExpiryBlocks: made.ExpiryBlocks, Token: tokenOf(made), CreatedAt: made.CreatedAt.String(), AnnounceChannel: made.Announce,
		OrderState: string(made.State), Payment: paymentOf(made), Channel: channelOf(made),
	}, nil
}

// buyer is whom an order is for: the node that logged in, or, where nobody did and the
// operator allows it, the one that is named.
func (o *orders) buyer(ctx context.Context, named string) (e *engine.Engine, node ln.PubKey, openly bool, err error) {
	if e, err = o.s.running(); err != nil {
		return nil, node, false, err
	}
	var public ln.PubKey
	if named != "" {
		if public, err = ln.ParsePubKey(named); err != nil {
			return nil, node, false, lsps1.Bad("public_key", "it is no node's public key: want 66 hex digits")
		}
	}
	if _, known := auth.FromContext(ctx); known || o.s.openly == nil {
		node, err = auth.NodeOf(ctx)
		if err == nil && named != "" && public != node {
			err = lsps1.Bad("public_key", "it is not the node that logged in: leave it out")
		}
		return e, node, false, err
	}
	switch {
	case named == "":
		return nil, node, false, errkind.New(errkind.Unauthenticated, "Name the node that the channel is for in public_key, or log in with its key.")
	case !o.s.openly.Allow(auth.CallerOf(ctx), time.Now()):
		return nil, node, false, errkind.New(errkind.Exhausted, "Too many orders without a login from this address: wait an hour, or log in with the node's key.")
	}
	return e, public, true, nil
}

// get finds an order of the node that logged in, or one that was made without a login.
func (o *orders) get(ctx context.Context, id string) (lsps1.Order, error) {
	if _, known := auth.FromContext(ctx); !known && o.s.openly != nil {
		e, err := o.s.running()
		if err != nil {
			return lsps1.Order{}, err
		}
		return engine.LSPS1{Engine: e}.GetOpen(ctx, id)
	}
	e, client, err := o.s.wallet(ctx)
	if err != nil {
		return lsps1.Order{}, err
	}
	return engine.LSPS1{Engine: e}.Get(ctx, client, id)
}

func (o *orders) GetOrder(ctx context.Context, r *lspv1.GetOrderRequest) (*lspv1.GetOrderResponse, error) {
	if len(r.OrderId) > lsps1.MaxOrderID {
		return nil, lsps1.ErrNotFound
	}
	got, err := o.get(ctx, r.OrderId)
	if err != nil {
		return nil, err
	}
	return &lspv1.GetOrderResponse{
		OrderId: got.OrderID, LspBalanceSat: uint64(got.LspBalanceSat), ClientBalanceSat: uint64(got.ClientBalanceSat),
		RequiredChannelConfirmations: uint32(got.RequiredConfs), FundingConfirmsWithinBlocks: uint32(got.ConfirmWithin),
		ChannelExpiryBlocks: got.ExpiryBlocks, Token: tokenOf(got), CreatedAt: got.CreatedAt.String(), AnnounceChannel: got.Announce,
		OrderState: string(got.State), Payment: paymentOf(got), Channel: channelOf(got),
	}, nil
}

func tokenOf(o lsps1.Order) string {
	if o.Token == nil {
		return ""
	}
	return *o.Token
}

func paymentOf(o lsps1.Order) *lspv1.OrderPayment {
	out := &lspv1.OrderPayment{}
	if b := o.Payment.Bolt11; b != nil {
		out.Bolt11 = &lspv1.OrderBolt11{
			State: string(b.State), ExpiresAt: b.ExpiresAt.String(), FeeTotalSat: uint64(b.FeeSat), OrderTotalSat: uint64(b.TotalSat), Invoice: b.Invoice,
		}
	}
	if c := o.Payment.OnChain; c != nil {
		out.Onchain = &lspv1.OrderOnChain{
			State: string(c.State), ExpiresAt: c.ExpiresAt.String(), FeeTotalSat: uint64(c.FeeSat), OrderTotalSat: uint64(c.TotalSat),
			Address: c.Address, MinOnchainPaymentConfirmations: uint32(c.MinConfs), MinFeeFor_0Conf: c.MinFee, RefundOnchainAddress: c.RefundAddress,
			RefundPromise: &lspv1.RefundPromise{Message: c.RefundPromise.Message, Signature: c.RefundPromise.Signature},
		}
	}
	return out
}

func channelOf(o lsps1.Order) *lspv1.OrderedChannel {
	if o.Channel == nil {
		return nil
	}
	return &lspv1.OrderedChannel{FundedAt: o.Channel.FundedAt.String(), FundingOutpoint: o.Channel.Outpoint, ExpiresAt: o.Channel.ExpiresAt.String()}
}

// orderOperator serves the operator's view of orders.
type orderOperator struct {
	lspv1.UnimplementedOrdersOperatorServiceServer
	s *Service
}

func (o *orderOperator) FindOrders(ctx context.Context, r *lspv1.FindOrdersRequest) (*lspv1.FindOrdersResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	f := engine.OrderFilter{State: r.State, OpenOnly: r.OpenOnly, EndingOnly: r.LeaseEnding, BeforeID: r.BeforeId, Limit: int(r.Limit)}
	if len(r.ClientNodeKey) > 0 {
		if f.Client, err = clientKey(r.ClientNodeKey); err != nil {
			return nil, err
		}
	}
	list, err := e.Orders(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &lspv1.FindOrdersResponse{}
	for _, row := range list {
		out.Orders = append(out.Orders, orderToWire(row))
	}
	return out, nil
}

func orderToWire(r engine.OrderRow) *lspv1.Order {
	return &lspv1.Order{
		OrderId: r.ID, ClientNodeKey: r.Client[:], State: r.State, Reason: r.Reason, Terminal: r.Terminal, PaidBy: r.PaidBy,
		LspBalanceSat: uint64(r.LspBalanceSat), ClientBalanceSat: uint64(r.ClientBalanceSat), FeeSat: uint64(r.FeeSat), AnnounceChannel: r.Announce,
		HeldMsat: uint64(r.HeldMsat), UnconfirmedSat: uint64(r.RiskSat), FundingOutpoint: r.Outpoint, LeaseEndHeight: r.LeaseEndHeight,
		CreatedMs: r.Created.UnixMilli(), UpdatedMs: r.Updated.UnixMilli(),
		WaitsUntilHeight: r.WaitsUntil, BatchId: r.BatchID,
	}
}

func (o *orderOperator) ListBatches(ctx context.Context, r *lspv1.ListBatchesRequest) (*lspv1.ListBatchesResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	list, err := e.Batches(ctx, engine.BatchFilter{OpenOnly: r.OpenOnly, BeforeID: r.BeforeId, Limit: int(r.Limit)})
	if err != nil {
		return nil, err
	}
	out := &lspv1.ListBatchesResponse{Height: list.Height, BatchOrders: uint32(list.Most)} //nolint:gosec // bounded by the settings
	for _, b := range list.Batches {
		out.Batches = append(out.Batches, &lspv1.Batch{
			BatchId: b.ID, State: b.State, Reason: b.Reason, Terminal: b.Terminal, Channels: uint32(b.Channels), //nolint:gosec // bounded by the settings
			FundingSat: uint64(b.FundingSat), FeeSat: uint64(b.FeeSat), Txid: b.TxID, Openings: opensToWire(b.Opens),
			CreatedMs: b.Created.UnixMilli(), UpdatedMs: b.Updated.UnixMilli(),
		})
	}
	for _, row := range list.Waiting {
		out.Waiting = append(out.Waiting, orderToWire(row))
	}
	return out, nil
}

func (o *orderOperator) ShowOrder(ctx context.Context, r *lspv1.ShowOrderRequest) (*lspv1.ShowOrderResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	row, refunds, err := e.Order(ctx, r.OrderId)
	if err != nil {
		return nil, err
	}
	story, err := e.OrderStory(ctx, row.ID)
	if err != nil {
		return nil, err
	}
	opens, err := e.Opens(ctx, engine.OpenFilter{PaymentID: row.ID})
	if err != nil {
		return nil, err
	}
	out := &lspv1.ShowOrderResponse{Order: orderToWire(row), Story: storyToWire(story), Openings: opensToWire(opens)}
	for _, f := range refunds {
		out.Refunds = append(out.Refunds, &lspv1.OrderRefund{
			RefundId: f.ID, State: f.State, Reason: f.Reason, Terminal: f.Terminal, OwedSat: uint64(f.OwedSat), FeeSat: uint64(f.FeeSat), Txid: f.TxID,
		})
	}
	return out, nil
}

func (o *orderOperator) WithdrawOrder(ctx context.Context, r *lspv1.WithdrawOrderRequest) (*lspv1.WithdrawOrderResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	if len(r.Reason) > 300 {
		return nil, errkind.New(errkind.Invalid, "the reason may have 300 bytes")
	}
	row, err := e.CancelOrder(ctx, r.OrderId, r.Reason)
	if err != nil {
		return nil, err
	}
	return &lspv1.WithdrawOrderResponse{Order: orderToWire(row)}, nil
}
