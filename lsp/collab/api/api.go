// Package api serves joint fundings over gRPC and REST: it turns messages into
// calls of the engine and back.
//
// It promises that a wallet acts only for the node key it proved at login, that
// every length is checked before use, that an unsigned transaction is shown to its
// wallet alone, and that an engine which is not ready answers "unavailable".
package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/collab"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/collab/engine"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

const (
	// Name is the service's word in health checks.
	Name = "joint-funding"
	// macaroons is the word in macaroons: joint fundings belong to the service that
	// opens channels.
	macaroons = "lsp"
	// maxID bounds an id that a caller sends, maxInputs a list before it is read,
	// maxScript a script.
	maxID, maxInputs, maxScript = 64, 10_000, 100
)

// Service plugs into rpcserver.
type Service struct {
	engine atomic.Pointer[engine.Engine]
}

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the running engine, or nil when it has ended.
func (s *Service) Ready(e *engine.Engine) { s.engine.Store(e) }

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	wallets := auth.Permission{Service: macaroons, For: auth.Wallets}
	operators := auth.Permission{Service: macaroons, For: auth.Operators}
	table := auth.Permissions{}
	for _, list := range []struct {
		desc grpc.ServiceDesc
		who  auth.Permission
	}{{collabv1.JointFundingService_ServiceDesc, wallets}, {collabv1.JointFundingOperatorService_ServiceDesc, operators}} {
		for _, m := range list.desc.Methods {
			table["/"+list.desc.ServiceName+"/"+m.MethodName] = list.who
		}
		for _, m := range list.desc.Streams {
			table["/"+list.desc.ServiceName+"/"+m.StreamName] = list.who
		}
	}
	return table
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	collabv1.RegisterJointFundingServiceServer(r, &wallets{s: s})
	collabv1.RegisterJointFundingOperatorServiceServer(r, &operator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := collabv1.RegisterJointFundingServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return collabv1.RegisterJointFundingOperatorServiceHandler(ctx, mux, conn)
}

func (s *Service) running() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "joint fundings are starting, or the gateway is on standby: try again in a few seconds")
	}
	return e, nil
}

// wallet is the engine and the node key that the caller proved.
func (s *Service) wallet(ctx context.Context, id string) (*engine.Engine, ln.PubKey, error) {
	e, err := s.running()
	if err != nil {
		return nil, ln.PubKey{}, err
	}
	client, err := auth.NodeOf(ctx)
	if err != nil {
		return nil, ln.PubKey{}, err
	}
	if len(id) > maxID {
		return nil, ln.PubKey{}, errkind.New(errkind.Invalid, "the funding's id is too long")
	}
	return e, client, nil
}

type wallets struct {
	collabv1.UnimplementedJointFundingServiceServer
	s *Service
}

func (w *wallets) GetTerms(ctx context.Context, _ *collabv1.GetTermsRequest) (*collabv1.GetTermsResponse, error) {
	e, _, err := w.s.wallet(ctx, "")
	if err != nil {
		return nil, err
	}
	t := e.Terms()
	out := &collabv1.GetTermsResponse{
		GatewayNodeKey: t.Self[:], Network: t.Network, MinWalletSat: uint64(t.MinWalletSat), MinInboundSat: uint64(t.MinInboundSat),
		MaxCapacitySat: uint64(t.MaxCapacitySat), BaseFeeSat: uint64(t.BaseSat), FeePpm: t.PPM, FeeRateSatPerKw: uint64(t.FeeRate),
		MaxInputs: uint32(t.MaxInputs), MinInputConfirmations: t.MinInputConfs, ZeroConf: t.ZeroConf, //nolint:gosec // at most 100
		SignForSeconds: uint32(t.SignFor / time.Second), BuriedConfirmations: t.BuriedConfs, //nolint:gosec // less than a day
	}
	if t.Refusal != nil {
		out.Refusal = errkind.Sentence(t.Refusal)
	}
	return out, nil
}

func (w *wallets) OfferInputs(ctx context.Context, r *collabv1.OfferInputsRequest) (*collabv1.OfferInputsResponse, error) {
	e, client, err := w.s.wallet(ctx, "")
	if err != nil {
		return nil, err
	}
	o := engine.Offer{
		Client: client, WalletSat: ln.Sat(r.WalletSat), InboundSat: ln.Sat(r.InboundSat), ChangeScript: r.ChangeScript,
		MaxServiceFeeSat: ln.Sat(r.MaxServiceFeeSat), MaxChainFeeSat: ln.Sat(r.MaxChainFeeSat), ZeroConf: r.ZeroConf, Taproot: r.Taproot,
		Replaces: r.ReplacesFundingId,
	}
	switch {
	case len(r.ReplacesFundingId) > maxID:
		return nil, errkind.New(errkind.Invalid, "the id of the funding to be replaced is too long")
	case len(r.Nonce) != len(o.Nonce):
		return nil, errkind.Newf(errkind.Invalid, "nonce has %d bytes, not %d", len(r.Nonce), len(o.Nonce))
	case len(r.Inputs) > maxInputs:
		return nil, errkind.Newf(errkind.Invalid, "%d coins are offered: join them first", len(r.Inputs))
	case len(r.ChangeScript) > maxScript:
		return nil, errkind.New(errkind.Invalid, "change_script is too long")
	}
	o.Nonce = [32]byte(r.Nonce)
	for _, in := range r.Inputs {
		op, err := ln.ParseOutpoint(in.GetOutpoint())
		if err != nil || len(in.GetPkScript()) > maxScript {
			return nil, errkind.New(errkind.Invalid, "a coin is named as txid:index, with its script")
		}
		o.Inputs = append(o.Inputs, collab.Input{
			Coin: ln.Coin{Outpoint: op, AmountSat: ln.Sat(in.GetAmountSat()), PkScript: in.GetPkScript()}, Height: in.GetHeight(),
		})
	}
	v, err := e.Offer(ctx, o)
	if err != nil {
		return nil, err
	}
	return &collabv1.OfferInputsResponse{Funding: toWire(v, true)}, nil
}

func (w *wallets) GetFunding(ctx context.Context, r *collabv1.GetFundingRequest) (*collabv1.GetFundingResponse, error) {
	e, client, err := w.s.wallet(ctx, r.FundingId)
	if err != nil {
		return nil, err
	}
	v, err := e.Get(ctx, client, r.FundingId)
	if err != nil {
		return nil, err
	}
	return &collabv1.GetFundingResponse{Funding: toWire(v, true)}, nil
}

func (w *wallets) ListFundings(ctx context.Context, r *collabv1.ListFundingsRequest) (*collabv1.ListFundingsResponse, error) {
	e, client, err := w.s.wallet(ctx, r.BeforeId)
	if err != nil {
		return nil, err
	}
	list, err := e.List(ctx, engine.Filter{Client: client, OpenOnly: r.OpenOnly, BeforeID: r.BeforeId})
	if err != nil {
		return nil, err
	}
	out := &collabv1.ListFundingsResponse{}
	for _, v := range list {
		out.Fundings = append(out.Fundings, toWire(v, false))
	}
	return out, nil
}

func (w *wallets) WatchFunding(r *collabv1.WatchFundingRequest, stream grpc.ServerStreamingServer[collabv1.WatchFundingResponse]) error {
	ctx := stream.Context()
	e, client, err := w.s.wallet(ctx, r.FundingId)
	if err != nil {
		return err
	}
	changes, err := e.Watch(ctx, client, r.FundingId)
	if err != nil {
		return err
	}
	over := false
	for v := range changes {
		over = v.Over
		if err := stream.Send(&collabv1.WatchFundingResponse{Funding: toWire(v, true)}); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case over:
		return nil
	}
	return errkind.New(errkind.Unavailable, "the gateway is stopping: watch again in a few seconds")
}

func (w *wallets) SignFunding(ctx context.Context, r *collabv1.SignFundingRequest) (*collabv1.SignFundingResponse, error) {
	e, client, err := w.s.wallet(ctx, r.FundingId)
	if err != nil {
		return nil, err
	}
	if len(r.SignedPsbt) > funding.MaxPsbtBytes {
		return nil, errkind.New(errkind.Invalid, "signed_psbt is too large")
	}
	v, err := e.Sign(ctx, client, r.FundingId, r.SignedPsbt)
	if err != nil {
		return nil, err
	}
	return &collabv1.SignFundingResponse{Funding: toWire(v, true)}, nil
}

func (w *wallets) AbortFunding(ctx context.Context, r *collabv1.AbortFundingRequest) (*collabv1.AbortFundingResponse, error) {
	e, client, err := w.s.wallet(ctx, r.FundingId)
	if err != nil {
		return nil, err
	}
	v, err := e.Abort(ctx, client, r.FundingId)
	if err != nil {
		return nil, err
	}
	return &collabv1.AbortFundingResponse{Funding: toWire(v, true)}, nil
}

func toWire(v engine.View, withTx bool) *collabv1.Funding {
	p := v.Plan
	out := &collabv1.Funding{
		FundingId: v.ID, ClientNodeKey: v.Client[:], State: v.State, Reason: v.Reason, Terminal: v.Over,
		CapacitySat: uint64(p.CapacitySat), WalletSat: uint64(p.WalletSat), InboundSat: uint64(p.CapacitySat - p.WalletSat), ServiceFeeSat: uint64(p.ServiceFeeSat),
		WalletChainFeeSat: uint64(v.Ours.Joint.Wallet.FeeSat), GatewayChainFeeSat: uint64(v.Ours.Joint.Gateway.FeeSat),
		WalletChangeSat: uint64(v.Ours.Joint.Wallet.ChangeSat), FeeRateSatPerKw: uint64(p.FeeRate), ZeroConf: p.ZeroConf,
		Taproot: p.Type == ln.CommitmentSimpleTaproot, ConfirmedHeight: v.ConfirmedHeight,
		CreatedMs: v.Created.UnixMilli(), UpdatedMs: v.Updated.UnixMilli(), ReplacesFundingId: p.Replaces, SpendSat: uint64(p.SpendSat),
	}
	if !v.Tx.Funding.IsZero() {
		out.Channel = v.Tx.Funding.String()
	}
	if !v.SignBy.IsZero() {
		out.SignByMs = v.SignBy.UnixMilli()
	}
	if withTx {
		out.Psbt = v.Tx.Psbt
	}
	return out
}

type operator struct {
	collabv1.UnimplementedJointFundingOperatorServiceServer
	s *Service
}

func (o *operator) FindFundings(ctx context.Context, r *collabv1.FindFundingsRequest) (*collabv1.FindFundingsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	f := engine.Filter{OpenOnly: r.OpenOnly, BeforeID: r.BeforeId, Limit: int(r.Limit)}
	if len(r.ClientNodeKey) > 0 {
		if f.Client, err = clientKey(r.ClientNodeKey); err != nil {
			return nil, err
		}
	}
	list, err := e.List(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &collabv1.FindFundingsResponse{}
	for _, v := range list {
		out.Fundings = append(out.Fundings, toWire(v, false))
	}
	return out, nil
}

func (o *operator) ShowFunding(ctx context.Context, r *collabv1.ShowFundingRequest) (*collabv1.ShowFundingResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	v, story, err := e.Show(ctx, r.FundingId)
	if err != nil {
		return nil, err
	}
	out := &collabv1.ShowFundingResponse{Funding: toWire(v, false)}
	for _, record := range story {
		out.Story = append(out.Story, stepOf(record))
	}
	return out, nil
}

// stepOf leaves out the data of events and effects: it holds signatures.
func stepOf(r fsm.Record) *collabv1.Step {
	return &collabv1.Step{AtMs: r.At.UnixMilli(), Event: r.Event, From: r.From, To: r.To, Effects: r.EffectTexts()}
}

func (o *operator) EndFunding(ctx context.Context, r *collabv1.EndFundingRequest) (*collabv1.EndFundingResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	v, err := e.End(ctx, r.FundingId)
	if err != nil {
		return nil, err
	}
	return &collabv1.EndFundingResponse{Funding: toWire(v, false)}, nil
}

func clientKey(raw []byte) (ln.PubKey, error) {
	key, err := ln.PubKeyFromBytes(raw)
	if err != nil {
		return key, errkind.New(errkind.Invalid, "client_node_key must have 33 bytes")
	}
	return key, nil
}

func limitOf(s engine.Spend) *collabv1.SpendLimit {
	return &collabv1.SpendLimit{ClientNodeKey: s.Client[:], LimitSat: uint64(s.LimitSat), UsedSat: uint64(s.UsedSat)}
}

func (o *operator) GetSpendLimit(ctx context.Context, r *collabv1.GetSpendLimitRequest) (*collabv1.GetSpendLimitResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	client, err := clientKey(r.ClientNodeKey)
	if err != nil {
		return nil, err
	}
	got, err := e.Spend(ctx, client)
	if err != nil {
		return nil, err
	}
	return &collabv1.GetSpendLimitResponse{Limit: limitOf(got)}, nil
}

func (o *operator) SetSpendLimit(ctx context.Context, r *collabv1.SetSpendLimitRequest) (*collabv1.SetSpendLimitResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	client, err := clientKey(r.ClientNodeKey)
	if err != nil {
		return nil, err
	}
	got, err := e.SetSpend(ctx, client, ln.Sat(r.LimitSat))
	if err != nil {
		return nil, err
	}
	return &collabv1.SetSpendLimitResponse{Limit: limitOf(got)}, nil
}
