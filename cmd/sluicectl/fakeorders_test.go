package main

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// fakeOrders has one order, paid on chain twice.
type fakeOrders struct {
	lspv1.UnimplementedOrdersOperatorServiceServer
}

func fakeOrder() *lspv1.Order {
	return &lspv1.Order{
		OrderId: "bb4b5d0a-8334-49d8-9463-90a6d413af7c", ClientNodeKey: unhex(fakeClient), State: "active", Reason: "the channel's lease runs",
		PaidBy: "onchain", LspBalanceSat: 500_000, ClientBalanceSat: 50_000, FeeSat: 4_600, AnnounceChannel: true,
		FundingOutpoint: fakeTxID + ":1", LeaseEndHeight: 804_320, CreatedMs: ms(2 * time.Hour), UpdatedMs: ms(3 * time.Second),
	}
}

func (fakeOrders) FindOrders(_ context.Context, r *lspv1.FindOrdersRequest) (*lspv1.FindOrdersResponse, error) {
	if r.GetState() == "nowhere" {
		return &lspv1.FindOrdersResponse{}, nil
	}
	return &lspv1.FindOrdersResponse{Orders: []*lspv1.Order{fakeOrder()}}, nil
}

func (fakeOrders) ShowOrder(_ context.Context, r *lspv1.ShowOrderRequest) (*lspv1.ShowOrderResponse, error) {
	if r.GetOrderId() != fakeOrder().OrderId {
		return nil, errkind.New(errkind.NotFound, "There is no such order: check the id.")
	}
	return &lspv1.ShowOrderResponse{
		Order: fakeOrder(),
		Story: []*lspv1.StoryEvent{{AtMs: ms(2 * time.Hour), Event: "start", From: "created", To: "created", Machine: "order"}},
		Refunds: []*lspv1.OrderRefund{{
			RefundId: "bb4b5d0a-8334-49d8-9463-90a6d413af7c-refund-1", State: "sending", Reason: "the order was paid already", OwedSat: 54_600, FeeSat: 130, Txid: fakeTxID,
		}},
	}, nil
}

func (fakeOrders) WithdrawOrder(context.Context, *lspv1.WithdrawOrderRequest) (*lspv1.WithdrawOrderResponse, error) {
	return nil, errkind.New(errkind.Conflict, "The order's channel is funded: it can no longer be cancelled.")
}
