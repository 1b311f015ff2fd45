package main

import (
	"context"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

// fakeFundings has one joint funding, which the wallet has yet to sign.
type fakeFundings struct {
	collabv1.UnimplementedJointFundingOperatorServiceServer
}

const fakeFundingID = "01JFUND1"

func fakeFunding() *collabv1.Funding {
	return &collabv1.Funding{
		FundingId: fakeFundingID, ClientNodeKey: unhex(fakeClient), State: "awaiting_signature", CapacitySat: 800_000, WalletSat: 300_000, InboundSat: 500_000,
		ServiceFeeSat: 2_500, WalletChainFeeSat: 700, GatewayChainFeeSat: 900, WalletChangeSat: 96_800, FeeRateSatPerKw: 2_500, ZeroConf: true, Taproot: true,
		Channel: fakeTxID + ":0", SignByMs: ms(-20 * time.Minute), CreatedMs: ms(10 * time.Minute), UpdatedMs: ms(9 * time.Minute),
	}
}

func (fakeFundings) FindFundings(_ context.Context, r *collabv1.FindFundingsRequest) (*collabv1.FindFundingsResponse, error) {
	if r.GetBeforeId() != "" {
		return &collabv1.FindFundingsResponse{}, nil
	}
	return &collabv1.FindFundingsResponse{Fundings: []*collabv1.Funding{fakeFunding()}}, nil
}

func (fakeFundings) ShowFunding(_ context.Context, r *collabv1.ShowFundingRequest) (*collabv1.ShowFundingResponse, error) {
	if r.GetFundingId() != fakeFundingID {
		return nil, errkind.New(errkind.NotFound, "There is no such funding: check the id.")
	}
	return &collabv1.ShowFundingResponse{Funding: fakeFunding(), Story: []*collabv1.Step{
		{AtMs: ms(10 * time.Minute), Event: "start", From: "offered", To: "offered", Effects: []string{"lease_coins"}},
		{AtMs: ms(9 * time.Minute), Event: "commitments_exchanged", From: "negotiating", To: "awaiting_signature"},
	}}, nil
}

func (fakeFundings) EndFunding(_ context.Context, r *collabv1.EndFundingRequest) (*collabv1.EndFundingResponse, error) {
	if r.GetFundingId() != fakeFundingID {
		return nil, errkind.New(errkind.NotFound, "There is no such funding: check the id.")
	}
	return nil, errkind.New(errkind.Conflict, "A signature of the gateway's has left: the funding can no longer be ended.")
}

func (fakeFundings) GetSpendLimit(_ context.Context, r *collabv1.GetSpendLimitRequest) (*collabv1.GetSpendLimitResponse, error) {
	return &collabv1.GetSpendLimitResponse{Limit: &collabv1.SpendLimit{ClientNodeKey: r.GetClientNodeKey()}}, nil
}

func (fakeFundings) SetSpendLimit(_ context.Context, r *collabv1.SetSpendLimitRequest) (*collabv1.SetSpendLimitResponse, error) {
	return &collabv1.SetSpendLimitResponse{Limit: &collabv1.SpendLimit{ClientNodeKey: r.GetClientNodeKey(), LimitSat: r.GetLimitSat(), UsedSat: 20_000}}, nil
}
