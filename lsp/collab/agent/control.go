package agent

import (
	"context"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab/agent/fundagentv1"
)

// RegisterControl serves the agent to the command line.
func (a *Agent) RegisterControl(r grpc.ServiceRegistrar) {
	fundagentv1.RegisterWalletFundingServer(r, &control{a: a})
}

type control struct {
	fundagentv1.UnimplementedWalletFundingServer
	a *Agent
}

func (c *control) Open(ctx context.Context, r *fundagentv1.OpenRequest) (*fundagentv1.OpenResponse, error) {
	q := Request{
		LSP: r.GetLsp(), WalletSat: ln.Sat(r.GetWalletSat()), InboundSat: ln.Sat(r.GetInboundSat()), ZeroConf: r.GetZeroConf(), Taproot: r.GetTaproot(),
		MaxServiceFeeSat: ln.Sat(r.GetMaxServiceFeeSat()), MaxFeeRate: ln.FeeRateSatPerKW(r.GetMaxFeeRateSatPerKw()),
	}
	if len(r.GetPsbt()) > 0 {
		q.Elsewhere = &Elsewhere{Psbt: r.GetPsbt(), Change: r.GetChangeAddress(), Since: r.GetSinceHeight()}
	}
	got, err := c.a.Open(ctx, q)
	if err != nil {
		return nil, err
	}
	return &fundagentv1.OpenResponse{Funding: toWire(got)}, nil
}

func (c *control) Sign(ctx context.Context, r *fundagentv1.SignRequest) (*fundagentv1.SignResponse, error) {
	got, err := c.a.Sign(ctx, r.GetKey(), r.GetSignedPsbt())
	if err != nil {
		return nil, err
	}
	return &fundagentv1.SignResponse{Funding: toWire(got)}, nil
}

func (c *control) Abort(ctx context.Context, r *fundagentv1.AbortRequest) (*fundagentv1.AbortResponse, error) {
	got, err := c.a.Abort(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	return &fundagentv1.AbortResponse{Funding: toWire(got)}, nil
}

func (c *control) Replace(ctx context.Context, r *fundagentv1.ReplaceRequest) (*fundagentv1.ReplaceResponse, error) {
	got, err := c.a.Replace(ctx, r.GetKey(), ln.FeeRateSatPerKW(r.GetMaxFeeRateSatPerKw()))
	if err != nil {
		return nil, err
	}
	return &fundagentv1.ReplaceResponse{Funding: toWire(got)}, nil
}

func (c *control) Hurry(ctx context.Context, r *fundagentv1.HurryRequest) (*fundagentv1.HurryResponse, error) {
	f := c.a.PlanHurry
	if r.GetAct() {
		f = c.a.Hurry
	}
	got, child, err := f(ctx, r.GetKey(), Hurry{SatPerVByte: r.GetSatPerVbyte(), MaxFeeSat: ln.Sat(r.GetMaxFeeSat())})
	if err != nil {
		return nil, err
	}
	return &fundagentv1.HurryResponse{
		Funding: toWire(got), ParentSatPerVbyte: child.ParentSatPerVByte, TogetherSatPerVbyte: child.TogetherSatPerVByte,
		FeeSat: uint64(child.FeeSat), MostSat: uint64(child.MostSat), ChangeSat: uint64(child.ChangeSat), Change: child.Change.String(), Capped: child.Capped, Asked: r.GetAct(),
	}, nil
}

func (c *control) Reclaim(ctx context.Context, r *fundagentv1.ReclaimRequest) (*fundagentv1.ReclaimResponse, error) {
	got, err := c.a.Reclaim(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	return &fundagentv1.ReclaimResponse{Funding: toWire(got)}, nil
}

func (c *control) List(context.Context, *fundagentv1.ListRequest) (*fundagentv1.ListResponse, error) {
	out := &fundagentv1.ListResponse{}
	for _, r := range c.a.List() {
		out.Fundings = append(out.Fundings, toWire(r))
	}
	return out, nil
}

func toWire(r Record) *fundagentv1.Funding {
	out := &fundagentv1.Funding{
		Key: r.Key(), Lsp: r.LSP, Phase: string(r.Phase), Over: r.Phase.Over(), WalletSat: uint64(r.WalletSat), InboundSat: uint64(r.InboundSat),
		ServiceFeeSat: uint64(r.ServiceFeeSat), ChainFeeSat: uint64(r.ChainFeeSat), ChangeSat: uint64(r.ChangeSat), Coins: uint32(len(r.Inputs)), //nolint:gosec // few
		ZeroConf: r.ZeroConf, Taproot: r.Taproot, State: r.State, Reason: r.Reason, Alarm: r.Alarm, CreatedMs: r.CreatedAt.UnixMilli(),
		Elsewhere: r.Elsewhere, PsbtToSign: r.ToSign(), PsbtToTakeBack: r.ToTakeBack(), Replaces: r.Replaces,
	}
	for _, in := range r.Inputs {
		out.CoinsSat += uint64(in.AmountSat)
	}
	if !r.Channel.IsZero() {
		out.Channel = r.Channel.String()
	}
	return out
}
