// Package api serves channels on demand over gRPC and REST: it turns messages
// into calls of the engine and back.
//
// It promises that a wallet acts only for the node key it proved at login and
// sees only its own payments, that every length is checked before use, and
// that an engine that is not ready yet answers "unavailable" rather than not
// at all.
package api

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/engine"
)

// Name is the service's word in macaroons and health checks.
const Name = "lsp"

// lndMaxCSV is the longest to_self_delay that a stock lnd asks of its peer: it
// scales with the channel and ends at two weeks.
const lndMaxCSV = 2016

// Service plugs into rpcserver.
type Service struct {
	engine    atomic.Pointer[engine.Engine]
	ledger    atomic.Pointer[Ledger]
	listeners listeners
	// elsewhere is what another service holds for a wallet.
	elsewhere atomic.Pointer[func(ln.PubKey) []engine.Waiting]
	// openly bounds orders of callers without a login; nil where there are none.
	openly *auth.Limiters
}

// SellOpenly lets callers without a login order, each address as often as rate says.
// It comes before the permissions are asked for.
func (s *Service) SellOpenly(rate auth.Rate) { s.openly = auth.NewLimiters(rate, maxAddresses) }

// maxAddresses is how many addresses are remembered that ordered without a login.
const maxAddresses = 10_000

// New makes the service; calls are refused until Ready.
func New() *Service { return &Service{} }

// Ready hands over the running engine, or nil when it has ended. Wallets that
// listened to the one before listen again.
func (s *Service) Ready(e *engine.Engine) {
	s.engine.Store(e)
	s.listeners.dismiss()
}

// Running is the engine that serves, or nil.
func (s *Service) Running() *engine.Engine { return s.engine.Load() }

// Webhooks hands over what webhooks were told; nil when there are none.
func (s *Service) Webhooks(l Ledger) {
	if l == nil {
		s.ledger.Store(nil)
		return
	}
	s.ledger.Store(&l)
}

// Status is the engine's, or that it does not run now.
func (s *Service) Status(ctx context.Context) (engine.Status, error) {
	e, err := s.running()
	if err != nil {
		return engine.Status{}, err
	}
	return e.Status(ctx)
}

// Name implements rpcserver.Service.
func (s *Service) Name() string { return Name }

// Permissions implements rpcserver.Service.
func (s *Service) Permissions() auth.Permissions {
	wallets := auth.Permission{Service: Name, For: auth.Wallets}
	operators := auth.Permission{Service: Name, For: auth.Operators}
	buyers := wallets
	buyers.Nobody = s.openly != nil
	return auth.Permissions{
		lspv1.ChannelsService_GetMenu_FullMethodName:              wallets,
		lspv1.ChannelsService_Negotiate_FullMethodName:            wallets,
		lspv1.ChannelsService_Wrap_FullMethodName:                 wallets,
		lspv1.ChannelsService_GetPayment_FullMethodName:           wallets,
		lspv1.ChannelsService_ListPayments_FullMethodName:         wallets,
		lspv1.ChannelsService_WatchPayment_FullMethodName:         wallets,
		lspv1.ChannelsService_WatchWaiting_FullMethodName:         wallets,
		lspv1.ChannelsService_PromiseFunding_FullMethodName:       wallets,
		lspv1.ChannelsService_CancelPayment_FullMethodName:        wallets,
		lspv1.OperatorService_GetStatus_FullMethodName:            operators,
		lspv1.OperatorService_FindPayments_FullMethodName:         operators,
		lspv1.OperatorService_ShowPayment_FullMethodName:          operators,
		lspv1.OperatorService_WithdrawPayment_FullMethodName:      operators,
		lspv1.OperatorService_ListOpenings_FullMethodName:         operators,
		lspv1.OperatorService_ShowClient_FullMethodName:           operators,
		lspv1.OperatorService_ForgiveClient_FullMethodName:        operators,
		lspv1.OperatorService_SetClientTrust_FullMethodName:       operators,
		lspv1.OperatorService_SetBusiness_FullMethodName:          operators,
		lspv1.OperatorService_Reconcile_FullMethodName:            operators,
		lspv1.OperatorService_GetReconcileProgress_FullMethodName: operators,
		lspv1.OrdersService_GetInfo_FullMethodName:                {For: auth.Public},
		lspv1.OrdersService_CreateOrder_FullMethodName:            buyers,
		lspv1.OrdersService_GetOrder_FullMethodName:               buyers,
		lspv1.OrdersOperatorService_FindOrders_FullMethodName:     operators,
		lspv1.OrdersOperatorService_ShowOrder_FullMethodName:      operators,
		lspv1.OrdersOperatorService_ListBatches_FullMethodName:    operators,
		lspv1.OrdersOperatorService_WithdrawOrder_FullMethodName:  operators,

		lspsv1.LspsOperatorService_ListMenus_FullMethodName:         operators,
		lspsv1.LspsOperatorService_SetMenu_FullMethodName:           operators,
		lspsv1.LspsOperatorService_WithdrawToken_FullMethodName:     operators,
		lspsv1.LspsOperatorService_ResetMenu_FullMethodName:         operators,
		lspsv1.LspsOperatorService_ListLimits_FullMethodName:        operators,
		lspsv1.LspsOperatorService_SetLimits_FullMethodName:         operators,
		lspsv1.LspsOperatorService_ResetLimits_FullMethodName:       operators,
		lspsv1.LspsOperatorService_ListNotifications_FullMethodName: operators,
	}
}

// RegisterGRPC implements rpcserver.Service.
func (s *Service) RegisterGRPC(r grpc.ServiceRegistrar) {
	lspv1.RegisterChannelsServiceServer(r, &channels{s: s})
	lspv1.RegisterOperatorServiceServer(r, &operator{s: s})
	lspv1.RegisterOrdersServiceServer(r, &orders{s: s})
	lspv1.RegisterOrdersOperatorServiceServer(r, &orderOperator{s: s})
	lspsv1.RegisterLspsOperatorServiceServer(r, &lspsOperator{s: s})
}

// RegisterREST implements rpcserver.Service.
func (s *Service) RegisterREST(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error {
	if err := lspv1.RegisterChannelsServiceHandler(ctx, mux, conn); err != nil {
		return err
	}
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		lspv1.RegisterOperatorServiceHandler, lspv1.RegisterOrdersServiceHandler, lspv1.RegisterOrdersOperatorServiceHandler,
		lspsv1.RegisterLspsOperatorServiceHandler,
	} {
		if err := register(ctx, mux, conn); err != nil {
			return err
		}
	}
	return nil
}

// errStopping ends streams whose engine ends.
var errStopping = errkind.New(errkind.Unavailable, "the gateway is stopping: watch again in a few seconds")

// Engine is the one that serves now, for another service of the same process.
func (s *Service) Engine() (*engine.Engine, error) { return s.running() }

func (s *Service) running() (*engine.Engine, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, errkind.New(errkind.Unavailable, "the gateway is starting, or is on standby: try again in a few seconds")
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

type channels struct {
	lspv1.UnimplementedChannelsServiceServer
	s *Service
}

func (c *channels) GetMenu(ctx context.Context, _ *lspv1.GetMenuRequest) (*lspv1.GetMenuResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	cfg := e.Config()
	out := &lspv1.GetMenuResponse{
		GatewayNodeKey: cfg.Self[:], GatewayUris: cfg.URIs, CltvDeltaBlocks: cfg.CltvDelta, Accepting: e.Accepting(),
		Network: cfg.Network, MaxChannelSat: uint64(cfg.Capacity.MaxSat), MaxWalletToSelfDelayBlocks: lndMaxCSV,
	}
	menu, err := e.Menu(ctx, client)
	if err != nil {
		return nil, err
	}
	for _, p := range menu.Items {
		out.OpeningFeeParamsMenu = append(out.OpeningFeeParamsMenu, ParamsToWire(p))
	}
	if out.ClientTrustsLsp, err = e.WantsTrust(ctx, client); err != nil {
		return nil, err
	}
	if menu.Refusal != nil {
		out.Refusal, out.RetryAfterSeconds = errkind.Sentence(menu.Refusal), uint32(menu.RetryAfter/time.Second) //nolint:gosec // minutes
	}
	return out, nil
}

func (c *channels) Negotiate(ctx context.Context, r *lspv1.NegotiateRequest) (*lspv1.NegotiateResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := ln.HashFromBytes(r.PaymentHash)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "payment_hash must have 32 bytes")
	}
	var params *lsp.OpeningFeeParams
	if r.OpeningFeeParams != nil {
		chosen, err := ParamsFromWire(r.OpeningFeeParams)
		if err != nil {
			return nil, err
		}
		params = &chosen
	}
	if ln.Msat(r.AmountMsat) > ln.MaxMsat {
		return nil, errkind.New(errkind.Invalid, "amount_msat is more than can exist")
	}
	a, err := e.Negotiate(ctx, engine.NegotiateRequest{
		Client: client, Hash: hash, AmountMsat: ln.Msat(r.AmountMsat), Params: params, Wish: wish(r.Channel),
		FinalCltvDelta: r.FinalCltvDeltaBlocks, InvoiceExpires: time.UnixMilli(r.InvoiceExpiresMs).UTC(),
	})
	if err != nil {
		return nil, err
	}
	return &lspv1.NegotiateResponse{
		PaymentId: a.PaymentID, JitScid: a.SCID.String(), HintFeePpm: a.Quote.HintPPM, HintCltvDeltaBlocks: a.CltvDelta,
		FeeMsat: uint64(a.Quote.FeeMsat), PayerPaysMsat: uint64(a.Quote.PayerMsat), ExpiresMs: a.ExpiresAt.UnixMilli(),
		OpensChannel: a.OpensChannel, ChannelCapacitySat: uint64(a.CapacitySat), ClientTrustsLsp: a.ClientTrusts,
	}, nil
}

func (c *channels) Wrap(ctx context.Context, r *lspv1.WrapRequest) (*lspv1.WrapResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	params, err := ParamsFromWire(r.OpeningFeeParams)
	if err != nil {
		return nil, err
	}
	if ln.Msat(r.AmountMsat) > ln.MaxMsat {
		return nil, errkind.New(errkind.Invalid, "amount_msat is more than can exist")
	}
	a, err := e.Wrap(ctx, engine.WrapRequest{
		Client: client, Bolt11: r.Bolt11, AmountMsat: ln.Msat(r.AmountMsat), Params: params, Wish: wish(r.Channel),
	})
	if err != nil {
		return nil, err
	}
	return &lspv1.WrapResponse{
		PaymentId: a.PaymentID, Bolt11: a.Bolt11, FeeMsat: uint64(a.Quote.FeeMsat), ExpiresMs: a.ExpiresAt.UnixMilli(), MaxWaitBlocks: a.MaxWaitBlocks,
		OpensChannel: a.OpensChannel, ChannelCapacitySat: uint64(a.CapacitySat), ClientTrustsLsp: a.ClientTrusts,
	}, nil
}

func (c *channels) PromiseFunding(ctx context.Context, r *lspv1.PromiseFundingRequest) (*lspv1.PromiseFundingResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.PromiseFunding(ctx, client, r.PaymentId)
	if err != nil {
		return nil, err
	}
	return &lspv1.PromiseFundingResponse{
		FundingOutpoint: p.Outpoint.String(), ChannelCapacitySat: uint64(p.CapacitySat), Text: p.Text(), Signature: p.Signature,
	}, nil
}

func (c *channels) GetPayment(ctx context.Context, r *lspv1.GetPaymentRequest) (*lspv1.GetPaymentResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.Payment(ctx, client, r.PaymentId)
	if err != nil {
		return nil, err
	}
	story, err := e.Story(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	for i := range story {
		story[i].Detail = ""
	}
	return &lspv1.GetPaymentResponse{Payment: paymentToWire(p), Story: storyToWire(story)}, nil
}

func (c *channels) ListPayments(ctx context.Context, r *lspv1.ListPaymentsRequest) (*lspv1.ListPaymentsResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	list, err := e.Payments(ctx, engine.PaymentFilter{
		Client: client, OpenOnly: r.OpenOnly, BeforeID: r.BeforeId, Limit: int(r.Limit),
	})
	if err != nil {
		return nil, err
	}
	return &lspv1.ListPaymentsResponse{Payments: paymentsToWire(list)}, nil
}

func (c *channels) WatchPayment(r *lspv1.WatchPaymentRequest, stream grpc.ServerStreamingServer[lspv1.WatchPaymentResponse]) error {
	e, client, err := c.s.wallet(stream.Context())
	if err != nil {
		return err
	}
	states, err := e.Watch(stream.Context(), client, r.PaymentId)
	if err != nil {
		return err
	}
	for p := range states {
		if err := stream.Send(&lspv1.WatchPaymentResponse{Payment: paymentToWire(p)}); err != nil {
			return err
		}
		if p.Terminal {
			return nil
		}
	}
	if stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	return errStopping
}

func (c *channels) CancelPayment(ctx context.Context, r *lspv1.CancelPaymentRequest) (*lspv1.CancelPaymentResponse, error) {
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return nil, err
	}
	p, err := e.Cancel(ctx, client, r.PaymentId, "the wallet cancelled it")
	if err != nil {
		return nil, err
	}
	return &lspv1.CancelPaymentResponse{Payment: paymentToWire(p)}, nil
}

func wish(w *lspv1.ChannelWish) engine.Wish {
	return engine.Wish{ZeroConf: w.GetZeroConf(), Confs: w.GetMinConfirmations(), AllowAnother: w.GetAllowAnotherChannel(), HoldFor: time.Duration(w.GetHoldForSeconds()) * time.Second, TrustMsat: ln.Msat(w.GetTrustMsat())}
}

// ParamsToWire gives an item of the menu as a message.
func ParamsToWire(p lsp.OpeningFeeParams) *lspv1.OpeningFeeParams {
	return &lspv1.OpeningFeeParams{
		MinFeeMsat: uint64(p.MinFeeMsat), ProportionalPpm: uint64(p.ProportionalPPM), ValidUntilMs: p.ValidUntil.UnixMilli(),
		MinLifetimeBlocks: p.MinLifetimeBlocks, MaxClientToSelfDelayBlocks: p.MaxClientToSelfDelay,
		MinPaymentSizeMsat: uint64(p.MinPaymentSizeMsat), MaxPaymentSizeMsat: uint64(p.MaxPaymentSizeMsat), Promise: p.Promise,
	}
}

// ParamsFromWire reads an item of the menu. What the promise covers is checked
// by whoever verifies it.
func ParamsFromWire(p *lspv1.OpeningFeeParams) (lsp.OpeningFeeParams, error) {
	if p == nil {
		return lsp.OpeningFeeParams{}, errkind.New(errkind.Invalid, "opening_fee_params is missing: choose an item of the menu")
	}
	if p.ProportionalPpm > 1<<32-1 || len(p.Promise) > lsp.MaxPromiseLen {
		return lsp.OpeningFeeParams{}, lsp.ErrPromiseBad
	}
	return lsp.OpeningFeeParams{
		MinFeeMsat: ln.Msat(p.MinFeeMsat), ProportionalPPM: uint32(p.ProportionalPpm), ValidUntil: time.UnixMilli(p.ValidUntilMs).UTC(),
		MinLifetimeBlocks: p.MinLifetimeBlocks, MaxClientToSelfDelay: p.MaxClientToSelfDelayBlocks,
		MinPaymentSizeMsat: ln.Msat(p.MinPaymentSizeMsat), MaxPaymentSizeMsat: ln.Msat(p.MaxPaymentSizeMsat), Promise: p.Promise,
	}, nil
}

func paymentToWire(p engine.Payment) *lspv1.Payment {
	mode := lspv1.PaymentMode_PAYMENT_MODE_PAYER_PAYS
	scid := p.SCID.String()
	if p.ReceiverPays {
		mode, scid = lspv1.PaymentMode_PAYMENT_MODE_RECEIVER_PAYS, ""
	}
	return &lspv1.Payment{
		PaymentId: p.ID, ClientNodeKey: p.Client[:], Mode: mode, PaymentHash: p.Hash[:], AmountMsat: uint64(p.AmountMsat),
		FeeMsat: uint64(p.FeeMsat), ReceivedMsat: uint64(p.HeldMsat), State: p.State, Reason: p.Reason, Terminal: p.Terminal,
		CreatedMs: p.Created.UnixMilli(), UpdatedMs: p.Updated.UnixMilli(), ExpiresMs: p.Expires.UnixMilli(),
		FundingOutpoint: p.Outpoint, BlocksLeft: p.BlocksLeft, JitScid: scid, GivenUpOutpoints: p.GivenUp,
	}
}

func paymentsToWire(list []engine.Payment) []*lspv1.Payment {
	out := make([]*lspv1.Payment, 0, len(list))
	for _, p := range list {
		out = append(out, paymentToWire(p))
	}
	return out
}

func storyToWire(story []engine.StoryEvent) []*lspv1.StoryEvent {
	out := make([]*lspv1.StoryEvent, 0, len(story))
	for _, s := range story {
		out = append(out, &lspv1.StoryEvent{
			AtMs: s.At.UnixMilli(), Event: s.Event, From: s.From, To: s.To, Reason: cmp.Or(s.Reason, s.Detail), Machine: s.Machine,
		})
	}
	return out
}
