package main

import (
	"context"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
)

// fakeSwaps has a swap in each direction.
type fakeSwaps struct {
	swapsv1.UnimplementedSwapsOperatorServiceServer
}

func fakeSwap() *swapsv1.Swap {
	return &swapsv1.Swap{
		Hash: strings.Repeat("ab", 32), Direction: swapsv1.Direction_DIRECTION_OUT, State: "published", AmountSat: 500_000, FeeSat: 1_950, PrepaySat: 1_354,
		ExpiryHeight: 900_100, DueHeight: 900_100, Due: "the output is taken back", Outpoint: strings.Repeat("cd", 32) + ":0", ConfirmedHeight: 900_001,
		CreatedMs: ms(20 * time.Minute), UpdatedMs: ms(time.Minute), Client: "loopd/v0.34.0",
		Transactions: []*swapsv1.SwapTx{{What: "funding", Txid: strings.Repeat("cd", 32), FeeSat: 321}},
	}
}

func (fakeSwaps) GetStatus(context.Context, *swapsv1.GetStatusRequest) (*swapsv1.GetStatusResponse, error) {
	left := int32(44)
	return &swapsv1.GetStatusResponse{
		InboundSat: 11_000_000, OutboundSat: 5_000_000, CoinsSat: 20_000_000, RefundBlocksLeft: &left, Troubled: 1,
		OpenOut: 1, OpenOutSat: 500_000, OpenIn: 1, OpenInSat: 300_000, MaxOpenSat: 50_000_000, ExposedSat: 300_000, MaxExposedSat: 5_000_000,
		RoomOutSat: 4_000_000, RoomInSat: 2_000_000, FeesMsat: 12_345_000, RoutingMsat: 1_001, Height: 900_050,
	}, nil
}

func (fakeSwaps) ListSwaps(_ context.Context, r *swapsv1.ListSwapsRequest) (*swapsv1.ListSwapsResponse, error) {
	if r.After != "" || r.Direction == swapsv1.Direction_DIRECTION_IN && r.Live {
		return &swapsv1.ListSwapsResponse{}, nil
	}
	v := fakeSwap()
	if r.Direction == swapsv1.Direction_DIRECTION_IN {
		v.Direction, v.State, v.Terminal, v.DueHeight, v.Due = r.Direction, "failed", true, 0, ""
		v.Reason = "the output holds 499999 sat where 500000 sat were agreed"
	}
	return &swapsv1.ListSwapsResponse{Swaps: []*swapsv1.Swap{v}}, nil
}

func (fakeSwaps) ShowSwap(_ context.Context, r *swapsv1.ShowSwapRequest) (*swapsv1.ShowSwapResponse, error) {
	if r.Hash != fakeSwap().Hash {
		return nil, errkind.New(errkind.NotFound, "There is no such swap.")
	}
	return &swapsv1.ShowSwapResponse{Swap: fakeSwap(), Story: []*swapsv1.Step{
		{AtMs: ms(20 * time.Minute), Event: "start", From: "offered", To: "offered", Effects: []string{"make_invoices"}},
		{AtMs: ms(time.Minute), Event: "prepay_settled", From: "funded", To: "published", Effects: []string{"publish_htlc (pending): lnd is away"}},
	}}, nil
}
