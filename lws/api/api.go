// Package api serves holds for wallets that are offline, over gRPC and REST.
//
// It promises that a wallet registers, and sees what waits, for the node key alone that
// it proved at login; and that an engine that is not ready answers "unavailable".
package api

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	"github.com/sluice-lsp/sluice/lws/engine"
)

// Name is the service's word in macaroons and health checks.
const Name = "lws"

// Service plugs into rpcserver.
type Service struct{ engine atomic.Pointer[engine.Engine] }

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the running engine, or nil when it has ended.
func (s *Service) Ready(e *engine.Engine) { s.engine.Store(e) }

// Running is the engine that serves, or nil.
func (s *Service) Running() *engine.Engine { return s.engine.Load() }

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	wallets := auth.Permission{Service: Name, For: auth.Wallets}
	return auth.Permissions{
		lwsv1.HoldsService_SetHold_FullMethodName:           wallets,
		lwsv1.HoldsService_GetHold_FullMethodName:           wallets,
		lwsv1.HoldsService_RemoveHold_FullMethodName:        wallets,
		lwsv1.HoldsService_ExpectPayment_FullMethodName:     wallets,
		lwsv1.HoldsService_ReturnPayment_FullMethodName:     wallets,
		lwsv1.HoldsOperatorService_ListHolds_FullMethodName: {Service: Name, For: auth.Operators},
	}
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	lwsv1.RegisterHoldsServiceServer(r, &holds{s: s})
	lwsv1.RegisterHoldsOperatorServiceServer(r, &operator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := lwsv1.RegisterHoldsServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	return lwsv1.RegisterHoldsOperatorServiceHandler(ctx, mux, conn)
}

func (s *Service) running() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "the gateway is starting, on standby, or holds no payments: try again in a few seconds")
	}
	return e, nil
}

// wallet is the engine and the node key that the caller proved.
func (s *Service) wallet(ctx context.Context) (*engine.Engine, ln.PubKey, error) {
	e, err := s.running()
	if err != nil {
		return nil, ln.PubKey{}, err
	}
	client, err := auth.NodeOf(ctx)
	return e, client, err
}

type holds struct {
	lwsv1.UnimplementedHoldsServiceServer
	s *Service
}

func (h *holds) SetHold(ctx context.Context, r *lwsv1.SetHoldRequest) (*lwsv1.SetHoldResponse, error) {
	e, client, err := h.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	w := r.GetHold()
	if w == nil {
		return nil, errkind.New(errkind.Invalid, "hold is missing: say for how long, how many HTLCs, how many sats, and the final CLTV delta of your invoices")
	}
	return &lwsv1.SetHoldResponse{}, e.SetWish(ctx, client, lws.Wish{
		HoldFor: time.Duration(w.GetHoldForSeconds()) * time.Second, MaxHtlcs: int(w.GetMaxHtlcs()),
		MaxSat: ln.Sat(w.GetMaxSat()), FinalCltvDelta: w.GetFinalCltvDeltaBlocks(),
	})
}

func (h *holds) GetHold(ctx context.Context, _ *lwsv1.GetHoldRequest) (*lwsv1.GetHoldResponse, error) {
	e, client, err := h.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	out := &lwsv1.GetHoldResponse{}
	if w, ok := e.Wish(client); ok {
		out.Hold = &lwsv1.Hold{
			HoldForSeconds: uint32(w.HoldFor / time.Second), MaxHtlcs: uint32(w.MaxHtlcs), //nolint:gosec // checked when it was set
			MaxSat: uint64(w.MaxSat), FinalCltvDeltaBlocks: w.FinalCltvDelta,
		}
	}
	list, err := e.List(ctx, &client)
	if err != nil {
		return nil, err
	}
	out.Waiting = toWire(list)
	t := e.Terms()
	out.Terms = &lwsv1.HoldTerms{
		HoldForSeconds: uint32(t.HoldFor / time.Second), MaxHtlcs: uint32(t.Htlcs), MaxSat: uint64(t.Sat), //nolint:gosec // bounded by the settings
		MaxSatBlocks: t.SatBlocks, PriceMsatPerMillionSatBlocks: uint64(t.PriceMsat),
	}
	return out, nil
}

func (h *holds) ExpectPayment(ctx context.Context, r *lwsv1.ExpectPaymentRequest) (*lwsv1.ExpectPaymentResponse, error) {
	e, client, err := h.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := ln.HashFromBytes(r.GetPaymentHash())
	if err != nil {
		return nil, errkind.Wrap(errkind.Invalid, err, "the payment hash has 32 bytes")
	}
	return &lwsv1.ExpectPaymentResponse{}, e.Expect(ctx, client, lws.Expected{
		Hash: hash, FinalCltvDelta: r.GetFinalCltvDeltaBlocks(), Until: time.UnixMilli(r.GetUntilMs()).UTC(),
	})
}

func (h *holds) ReturnPayment(ctx context.Context, r *lwsv1.ReturnPaymentRequest) (*lwsv1.ReturnPaymentResponse, error) {
	e, client, err := h.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	return &lwsv1.ReturnPaymentResponse{}, e.Return(ctx, client, r.GetId())
}

func (h *holds) RemoveHold(ctx context.Context, _ *lwsv1.RemoveHoldRequest) (*lwsv1.RemoveHoldResponse, error) {
	e, client, err := h.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	return &lwsv1.RemoveHoldResponse{}, e.RemoveWish(ctx, client)
}

type operator struct {
	lwsv1.UnimplementedHoldsOperatorServiceServer
	s *Service
}

func (o *operator) ListHolds(ctx context.Context, _ *lwsv1.ListHoldsRequest) (*lwsv1.ListHoldsResponse, error) {
	e, err := o.s.running()
	if err != nil {
		return nil, err
	}
	list, err := e.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &lwsv1.ListHoldsResponse{Waiting: toWire(list), Registered: uint32(e.Registered())}, nil //nolint:gosec // bounded
}

func toWire(list []lws.Shown) []*lwsv1.WaitingPayment {
	out := make([]*lwsv1.WaitingPayment, 0, len(list))
	for _, p := range list {
		next, last := int64(0), int64(0)
		if !p.NextWake.IsZero() {
			next = p.NextWake.UnixMilli()
		}
		if !p.LastWake.IsZero() {
			last = p.LastWake.UnixMilli()
		}
		out = append(out, &lwsv1.WaitingPayment{
			Id: p.ID, PaymentHash: p.Hash[:], AmountMsat: uint64(p.AmountMsat), Htlcs: uint32(p.Htlcs), //nolint:gosec // bounded by channels' slots
			SinceMs: p.Since.UnixMilli(), UntilMs: p.Until.UnixMilli(), FailHeight: p.FailHeight, BlocksLeft: p.BlocksLeft,
			Wakes: p.Wakes, NextWakeMs: next, State: p.State, Client: p.Client[:],
			SatBlocks: p.SatBlocks, LastWakeMs: last, LastWake: p.WokeHow, Webhooks: p.Webhooks, Kind: string(p.Kind),
		})
	}
	return out
}
