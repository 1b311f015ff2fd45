package api

import (
	"context"
	"math"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/engine"
)

type operator struct {
	swapsv1.UnimplementedSwapsOperatorServiceServer
	s *Service
}

func (o *operator) GetStatus(ctx context.Context, _ *swapsv1.GetStatusRequest) (*swapsv1.GetStatusResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	v, err := e.Overview(ctx)
	if err != nil {
		return nil, err
	}
	left := func(blocks *int64) *int32 {
		if blocks == nil {
			return nil
		}
		n := int32(max(min(*blocks, math.MaxInt32), math.MinInt32)) //nolint:gosec // bounded just here
		return &n
	}
	return &swapsv1.GetStatusResponse{
		InboundSat: uint64(v.InboundSat), OutboundSat: uint64(v.OutboundSat), CoinsSat: uint64(v.CoinsSat),
		RefundBlocksLeft: left(v.RefundLeft), ClaimBlocksLeft: left(v.ClaimLeft), Troubled: uint64(v.Troubled), //nolint:gosec // a count
		OpenOut: uint64(v.OpenOut), OpenOutSat: uint64(v.OpenOutSat), OpenIn: uint64(v.OpenIn), OpenInSat: uint64(v.OpenInSat), //nolint:gosec // counts
		MaxOpenSat: uint64(v.MaxOpenSat), ExposedSat: uint64(v.ExposedSat), MaxExposedSat: uint64(v.MaxExposedSat),
		RoomOutSat: uint64(v.RoomOutSat), RoomInSat: uint64(v.RoomInSat),
		FeesMsat: v.FeesMsat, NoShowMsat: v.NoShowMsat, RoutingMsat: v.RoutingMsat, LossMsat: v.LossMsat, Height: v.Height,
	}, nil
}

func (o *operator) ListSwaps(ctx context.Context, r *swapsv1.ListSwapsRequest) (*swapsv1.ListSwapsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	if r.Direction == swapsv1.Direction_DIRECTION_UNSPECIFIED {
		return nil, errkind.New(errkind.Invalid, "name a direction: out or in")
	}
	views, err := e.List(ctx, r.Direction == swapsv1.Direction_DIRECTION_IN, r.Live, r.After)
	if err != nil {
		return nil, err
	}
	out := &swapsv1.ListSwapsResponse{}
	for _, v := range views {
		out.Swaps = append(out.Swaps, swapOf(v))
	}
	return out, nil
}

func (o *operator) ShowSwap(ctx context.Context, r *swapsv1.ShowSwapRequest) (*swapsv1.ShowSwapResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	hash, err := ln.ParseHash(r.Hash)
	if err != nil {
		return nil, errkind.Newf(errkind.Invalid, "%v", err)
	}
	view, story, err := e.Show(ctx, hash)
	if err != nil {
		return nil, err
	}
	out := &swapsv1.ShowSwapResponse{Swap: swapOf(view)}
	for _, record := range story {
		out.Story = append(out.Story, stepOf(record))
	}
	return out, nil
}

func swapOf(v engine.View) *swapsv1.Swap {
	out := &swapsv1.Swap{
		Hash: v.Hash.String(), Direction: swapsv1.Direction_DIRECTION_OUT, State: v.State, Reason: v.Reason, Terminal: v.Terminal,
		AmountSat: uint64(v.AmountSat), FeeSat: uint64(v.FeeSat), PrepaySat: uint64(v.PrepaySat),
		ExpiryHeight: v.ExpiryHeight, DueHeight: v.DueHeight, Due: v.Due, Spent: v.Spent, ConfirmedHeight: v.ConfirmedHeight,
		CreatedMs: v.Created.UnixMilli(), UpdatedMs: v.Updated.UnixMilli(), Client: v.Client,
	}
	if v.In {
		out.Direction = swapsv1.Direction_DIRECTION_IN
	}
	out.RoutingFeeMsat = uint64(v.RoutingFeeMsat)
	for _, tx := range v.Transactions {
		out.Transactions = append(out.Transactions, &swapsv1.SwapTx{What: tx.What, Txid: tx.TxID.String(), FeeSat: uint64(tx.FeeSat), Spends: tx.Spends})
	}
	if !v.Outpoint.IsZero() {
		out.Outpoint = v.Outpoint.String()
	}
	return out
}

// stepOf leaves out the data of events and effects: it holds preimages.
func stepOf(r fsm.Record) *swapsv1.Step {
	return &swapsv1.Step{AtMs: r.At.UnixMilli(), Event: r.Event, From: r.From, To: r.To, Effects: r.EffectTexts()}
}
