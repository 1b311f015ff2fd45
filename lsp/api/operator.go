package api

import (
	"context"
	"strings"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/engine"
)

type operator struct {
	lspv1.UnimplementedOperatorServiceServer
	s *Service
}

func (o *operator) GetStatus(ctx context.Context, _ *lspv1.GetStatusRequest) (*lspv1.GetStatusResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	s, err := e.Status(ctx)
	if err != nil {
		return nil, err
	}
	self := e.Config().Self
	out := &lspv1.GetStatusResponse{
		Accepting: s.Accepting, StoppedReason: s.StoppedReason, PaymentsByState: counts(s.Payments), OpeningsByState: counts(s.Openings),
		FeesEarnedMsat: uint64(s.FeesEarned), ChainFeesMsat: uint64(s.ChainFees), UsableCoinsSat: uint64(s.Usage.Fundable.Sat),
		AnchorReserveSat: uint64(s.ReserveSat), GatewayNodeKey: self[:], BlockHeight: s.Height, Drained: s.Drained, RestoredReason: s.RestoredWhy,
	}
	feesToWire(out, s.Fees)
	out.Exposures = exposuresToWire(s.Exposures())
	pool, err := e.Pool(ctx)
	if err != nil {
		return nil, err
	}
	if pool.Wanted > 0 {
		out.CoinPool = &lspv1.CoinPool{
			Wanted: uint32(pool.Wanted), CoinSat: uint64(pool.CoinSat), Ready: uint32(pool.Ready), Coming: uint32(pool.Coming), //nolint:gosec // counts
			Small: uint32(pool.Small), OpensLeft: uint32(pool.OpensLeft), //nolint:gosec // counts
			Promised: uint32(pool.Promised), Refill: string(pool.Refill), //nolint:gosec // a count
		}
	}
	trust, err := e.TrustNow(ctx, ln.PubKey{})
	if err != nil {
		return nil, err
	}
	out.FundingTrust = &lspv1.FundingTrust{
		Mode: string(trust.Policy.Mode), Unclaimed: uint32(trust.Opens.All), UnderAttack: trust.Attacked, //nolint:gosec // a count
		AttackFrom: uint32(trust.Policy.Unclaimed), AttackFromPerClient: uint32(trust.Policy.UnclaimedEach), //nolint:gosec // counts
	}
	cfg, kept := e.Config(), e.Kept()
	out.Settings = &lspv1.GatewaySettings{
		Network: cfg.Network, CltvDelta: cfg.CltvDelta, HoldExpiryDelta: cfg.HoldExpiryDelta,
		MinChannelSat: uint64(cfg.Capacity.MinSat), MaxChannelSat: uint64(cfg.Capacity.MaxSat),
		ReservePerChannelSat: uint64(kept.PerChannelSat), MinReserveSat: uint64(kept.LeastSat), MaxReserveSat: uint64(kept.MostSat), KeepSat: uint64(kept.BesideSat),
	}
	return out, nil
}

func feesToWire(out *lspv1.GetStatusResponse, f engine.FeeStatus) {
	out.FeeRateSatPerKw, out.FeeRateEstimateSatPerKw, out.FeeRateAgeMs = uint64(f.Rate.Rate), uint64(f.Asked), f.Age.Milliseconds()
	out.FeeRateFloorSatPerKw, out.FeeRateCeilingSatPerKw = uint64(f.Floor), uint64(f.Ceiling)
	out.FeeRateStale, out.FeeRateAboveCeiling = f.Stale, f.High
	out.OpeningCostCoveredSat, out.MenuRefusal = uint64(f.CoverSat), f.Refusal
	for _, item := range f.Menu {
		wire := ParamsToWire(item)
		wire.ValidUntilMs = 0
		out.Menu = append(out.Menu, wire)
	}
	for _, k := range f.Keys {
		out.PromiseKeys = append(out.PromiseKeys, &lspv1.PromiseKey{
			Version: k.Version, MadeMs: k.Made.UnixMilli(), SignsFromMs: k.SignsFrom.UnixMilli(), Signs: k.Signs,
		})
	}
}

func exposuresToWire(list []engine.Exposure) []*lspv1.Exposure {
	out := make([]*lspv1.Exposure, 0, len(list))
	for _, x := range list {
		out = append(out, &lspv1.Exposure{Kind: x.Kind, Used: x.Used, Cap: x.Cap, Unit: x.Unit})
	}
	return out
}

// clientKey reads the node key that an operator named.
func clientKey(raw []byte) (ln.PubKey, error) {
	key, err := ln.PubKeyFromBytes(raw)
	if err != nil {
		return key, errkind.New(errkind.Invalid, "client_node_key must be a compressed key of 33 bytes")
	}
	return key, nil
}

func (o *operator) ShowClient(ctx context.Context, r *lspv1.ShowClientRequest) (*lspv1.ShowClientResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	client, err := clientKey(r.ClientNodeKey)
	if err != nil {
		return nil, err
	}
	c, err := e.Client(ctx, client)
	if err != nil {
		return nil, err
	}
	trust, err := e.TrustNow(ctx, client)
	if err != nil {
		return nil, err
	}
	return &lspv1.ShowClientResponse{
		ClientNodeKey: client[:], Newcomer: c.Newcomer, Exposures: exposuresToWire(c.Exposures),
		Trust: string(e.TrustOf(client)), Unclaimed: uint32(trust.Opens.Client), //nolint:gosec // a count
	}, nil
}

func (o *operator) SetClientTrust(ctx context.Context, r *lspv1.SetClientTrustRequest) (*lspv1.SetClientTrustResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	client, err := clientKey(r.ClientNodeKey)
	if err != nil {
		return nil, err
	}
	return &lspv1.SetClientTrustResponse{}, e.SetTrust(ctx, client, lsp.TrustMode(r.Mode))
}

func (o *operator) ForgiveClient(ctx context.Context, r *lspv1.ForgiveClientRequest) (*lspv1.ForgiveClientResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	client, err := clientKey(r.ClientNodeKey)
	if err != nil {
		return nil, err
	}
	if len(r.Reason) > 300 {
		return nil, errkind.New(errkind.Invalid, "the reason may have 300 bytes")
	}
	f, err := e.Forgive(ctx, client, r.Reason)
	if err != nil {
		return nil, err
	}
	return &lspv1.ForgiveClientResponse{Channels: uint32(f.Channels), CapacitySat: uint64(f.CapacitySat)}, nil //nolint:gosec // a count of rows
}

func counts(in map[string]int64) map[string]uint64 {
	out := make(map[string]uint64, len(in))
	for k, v := range in {
		out[k] = uint64(max(0, v))
	}
	return out
}

func (o *operator) FindPayments(ctx context.Context, r *lspv1.FindPaymentsRequest) (*lspv1.FindPaymentsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	f := engine.PaymentFilter{State: r.State, OpenOnly: r.OpenOnly, BeforeID: r.BeforeId, Limit: int(r.Limit)}
	if len(r.ClientNodeKey) > 0 {
		if f.Client, err = clientKey(r.ClientNodeKey); err != nil {
			return nil, err
		}
	}
	if len(r.PaymentHash) > 0 {
		hash, err := ln.HashFromBytes(r.PaymentHash)
		if err != nil {
			return nil, errkind.New(errkind.Invalid, "payment_hash must have 32 bytes")
		}
		f.Hash = &hash
	}
	list, err := e.Payments(ctx, f)
	if err != nil {
		return nil, err
	}
	return &lspv1.FindPaymentsResponse{Payments: paymentsToWire(list)}, nil
}

func (o *operator) ShowPayment(ctx context.Context, r *lspv1.ShowPaymentRequest) (*lspv1.ShowPaymentResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	var p engine.Payment
	if hash, parseErr := ln.ParseHash(strings.ToLower(r.IdOrHash)); parseErr == nil {
		p, err = e.PaymentByHash(ctx, hash)
	} else {
		p, err = e.Payment(ctx, ln.PubKey{}, r.IdOrHash)
	}
	if err != nil {
		return nil, err
	}
	story, err := e.Story(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	opens, err := e.Opens(ctx, engine.OpenFilter{PaymentID: p.ID})
	if err != nil {
		return nil, err
	}
	return &lspv1.ShowPaymentResponse{Payment: paymentToWire(p), Story: storyToWire(story), Openings: opensToWire(opens)}, nil
}

func (o *operator) WithdrawPayment(ctx context.Context, r *lspv1.WithdrawPaymentRequest) (*lspv1.WithdrawPaymentResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	why := r.Reason
	if why == "" {
		why = "the operator withdrew it"
	}
	if len(why) > 300 {
		return nil, errkind.New(errkind.Invalid, "the reason may have 300 bytes")
	}
	p, err := e.Cancel(ctx, ln.PubKey{}, r.PaymentId, why)
	if err != nil {
		return nil, err
	}
	return &lspv1.WithdrawPaymentResponse{Payment: paymentToWire(p)}, nil
}

func (o *operator) ListOpenings(ctx context.Context, r *lspv1.ListOpeningsRequest) (*lspv1.ListOpeningsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	f := engine.OpenFilter{OpenOnly: r.OpenOnly, UnpaidOnly: r.UnpaidOnly, BeforeID: r.BeforeId, Limit: int(r.Limit)}
	if len(r.ClientNodeKey) > 0 {
		if f.Client, err = clientKey(r.ClientNodeKey); err != nil {
			return nil, err
		}
	}
	opens, err := e.Opens(ctx, f)
	if err != nil {
		return nil, err
	}
	return &lspv1.ListOpeningsResponse{Openings: opensToWire(opens)}, nil
}

func (o *operator) SetBusiness(ctx context.Context, r *lspv1.SetBusinessRequest) (*lspv1.SetBusinessResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	if len(r.Reason) > 300 {
		return nil, errkind.New(errkind.Invalid, "the reason may have 300 bytes")
	}
	if err := e.SetBusiness(ctx, r.Accepting, r.Reason); err != nil {
		return nil, err
	}
	return &lspv1.SetBusinessResponse{Accepting: r.Accepting}, nil
}

func (o *operator) Reconcile(ctx context.Context, _ *lspv1.ReconcileRequest) (*lspv1.ReconcileResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	report, err := e.Reconcile(ctx)
	if err != nil {
		return nil, err
	}
	out := &lspv1.ReconcileResponse{Balanced: report.Balanced, InFlight: report.InFlight}
	for _, l := range report.Lines {
		out.Lines = append(out.Lines, &lspv1.ReconcileLine{
			Account: l.Account, BooksMsat: l.BooksMsat, LndMsat: l.NodeMsat, DifferenceMsat: l.NodeMsat - l.BooksMsat, Note: l.Note,
		})
	}
	for _, d := range report.Details {
		out.Details = append(out.Details, &lspv1.ReconcileDetail{
			Account: d.Account, BooksMsat: d.BooksMsat, LndMsat: d.NodeMsat, DifferenceMsat: d.NodeMsat - d.BooksMsat,
			Reference: d.Reference, Note: d.Note,
		})
	}
	return out, nil
}

func (o *operator) GetReconcileProgress(context.Context, *lspv1.GetReconcileProgressRequest) (*lspv1.GetReconcileProgressResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	p := e.ReconcileProgress()
	return &lspv1.GetReconcileProgressResponse{Step: p.Step, Entries: uint64(max(0, p.Count))}, nil
}

func opensToWire(opens []engine.Open) []*lspv1.Opening {
	out := make([]*lspv1.Opening, 0, len(opens))
	for _, x := range opens {
		out = append(out, &lspv1.Opening{
			OpeningId: x.ID, PaymentId: x.PaymentID, ClientNodeKey: x.Client[:], State: x.State, Reason: x.Reason,
			Terminal: x.Terminal, CapacitySat: uint64(x.CapacitySat), ChainFeeSat: uint64(x.ChainFeeSat),
			FundingOutpoint: x.Outpoint, ZeroConf: x.ZeroConf, CreatedMs: x.Created.UnixMilli(), UpdatedMs: x.Updated.UnixMilli(),
			Unpaid: x.Unpaid, Paid: x.Paid, Closed: x.Closed, Forgiven: x.Forgiven,
		})
	}
	return out
}
