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

// queuedOrder waits for others.
func queuedOrder() *lspv1.Order {
	x := fakeOrder()
	x.State, x.Reason = "queued", "paid; waits for other orders to share its funding transaction, until block 800,012 at the latest"
	x.FundingOutpoint, x.LeaseEndHeight, x.WaitsUntilHeight, x.PaidBy = "", 0, 800_012, "bolt11"
	return x
}

// ListBatches has one batch of two channels, and an order that waits for the next.
func (fakeOrders) ListBatches(_ context.Context, r *lspv1.ListBatchesRequest) (*lspv1.ListBatchesResponse, error) {
	out := &lspv1.ListBatchesResponse{Height: 800_000, BatchOrders: 8}
	if r.GetOpenOnly() {
		return out, nil
	}
	out.Waiting = []*lspv1.Order{queuedOrder()}
	out.Batches = []*lspv1.Batch{{
		BatchId: "01KXBATCH", State: "signed", Reason: "one transaction funds 2 channels", Terminal: true, Channels: 2, FundingSat: 1_100_000, FeeSat: 1_240,
		Txid: fakeTxID, CreatedMs: ms(time.Hour), UpdatedMs: ms(time.Hour),
		Openings: []*lspv1.Opening{{PaymentId: fakeOrder().OrderId, State: "confirmed"}, {PaymentId: "0c0ffee0-8334-49d8-9463-90a6d413af7c", State: "confirmed"}},
	}}
	return out, nil
}

func (fakeOrders) FindOrders(_ context.Context, r *lspv1.FindOrdersRequest) (*lspv1.FindOrdersResponse, error) {
	if r.GetState() == "queued" {
		return &lspv1.FindOrdersResponse{Orders: []*lspv1.Order{queuedOrder()}}, nil
	}
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
