package api

import (
	"context"
	"time"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/engine"
	"github.com/sluice-lsp/sluice/swaps/htlc"
	"github.com/sluice-lsp/sluice/swaps/out"
)

// loopServer is the server's half of the Loop protocol.
type loopServer struct {
	looprpc.UnimplementedSwapServerServer
	s *Service
}

func (l *loopServer) LoopOutTerms(ctx context.Context, r *looprpc.ServerLoopOutTermsRequest) (*looprpc.ServerLoopOutTerms, error) {
	e, err := l.s.enter(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	t, err := e.OutTerms(ctx)
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopOutTerms{
		MinSwapAmount: uint64(t.MinSat), MaxSwapAmount: uint64(t.MaxSat),
		MinCltvDelta: int32(t.MinCltvDelta), MaxCltvDelta: int32(t.MaxCltvDelta), //nolint:gosec // at most 1,000
	}, nil
}

func (l *loopServer) LoopOutQuote(ctx context.Context, r *looprpc.ServerLoopOutQuoteRequest) (*looprpc.ServerLoopOutQuote, error) {
	e, err := l.s.enter(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	price, err := e.QuoteOut(ctx, ln.Sat(r.Amt), deadline(r.SwapPublicationDeadline))
	if err != nil {
		return nil, err
	}
	fee, err := price.FeeSat.Int64()
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopOutQuote{SwapPaymentDest: e.Self().String(), SwapFee: fee, PrepayAmt: uint64(price.PrepaySat)}, nil
}

// deadline is a time of the protocol; what is no time is "at once".
func deadline(unix int64) time.Time {
	const farthest = 1 << 33 // the year 2242
	if unix <= 0 || unix > farthest {
		return time.Time{}
	}
	return time.Unix(unix, 0)
}

func (l *loopServer) NewLoopOutSwap(ctx context.Context, r *looprpc.ServerLoopOutRequest) (*looprpc.ServerLoopOutResponse, error) {
	if r.UserAgent == "resume_swap" && len(r.ReceiverKey) == 0 {
		// A client that lost its own data asks for an invoice of before.
		return nil, errkind.New(errkind.NotFound, "swaps cannot be resumed without the client's own data")
	}
	e, who, err := l.s.begin(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	hash, err := fixed[ln.Hash]("swap_hash", r.SwapHash)
	if err != nil {
		return nil, err
	}
	key, err := ln.PubKeyFromBytes(r.ReceiverKey)
	if err != nil {
		return nil, errkind.Newf(errkind.Invalid, "receiver_key: %v", err)
	}
	if r.Expiry <= 0 {
		return nil, errkind.New(errkind.Invalid, "expiry is not a block height")
	}
	offer, err := e.OfferOut(ctx, engine.OutWish{
		Hash: hash, Receiver: key, AmountSat: ln.Sat(r.Amt), PublishBy: deadline(r.SwapPublicationDeadline),
		ExpiryHeight: uint32(r.Expiry), Client: agent(r.UserAgent), Caller: who.caller, Token: who.token,
	})
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopOutResponse{SwapInvoice: offer.SwapInvoice, PrepayInvoice: offer.PrepayInvoice, SenderKey: offer.Sender[:]}, nil
}

func (l *loopServer) LoopOutPushPreimage(ctx context.Context, r *looprpc.ServerLoopOutPushPreimageRequest) (*looprpc.ServerLoopOutPushPreimageResponse, error) {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	preimage, err := fixed[ln.Preimage]("preimage", r.Preimage)
	if err != nil {
		return nil, err
	}
	if err := e.PushPreimage(ctx, preimage); err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopOutPushPreimageResponse{}, nil
}

func (l *loopServer) MuSig2SignSweep(ctx context.Context, r *looprpc.MuSig2SignSweepReq) (*looprpc.MuSig2SignSweepRes, error) {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	w := engine.SweepWish{PaymentAddr: r.PaymentAddress, Psbt: r.SweepTxPsbt}
	if w.Hash, err = fixed[ln.Hash]("swap_hash", r.SwapHash); err != nil {
		return nil, err
	}
	if w.Nonce, err = fixed[[66]byte]("nonce", r.Nonce); err != nil {
		return nil, err
	}
	for _, p := range r.PrevoutInfo {
		id, err := fixed[ln.TxID]("txid_bytes", p.TxidBytes)
		if err != nil {
			return nil, err
		}
		w.Prevouts = append(w.Prevouts, htlc.Prevout{
			Outpoint: ln.Outpoint{TxID: id, Index: p.OutputIndex}, ValueSat: ln.Sat(p.Value), PkScript: p.PkScript,
		})
	}
	nonce, partial, err := e.SignSweep(ctx, w)
	if err != nil {
		return nil, err
	}
	return &looprpc.MuSig2SignSweepRes{Nonce: nonce[:], PartialSignature: partial[:]}, nil
}

func (l *loopServer) CancelLoopOutSwap(ctx context.Context, r *looprpc.CancelLoopOutSwapRequest) (*looprpc.CancelLoopOutSwapResponse, error) {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	hash, err := fixed[ln.Hash]("swap_hash", r.SwapHash)
	if err != nil {
		return nil, err
	}
	// Stock clients name the wrong payment when the prepay fails, so the type is
	// only repeated, never believed.
	if err := e.CancelOut(ctx, hash, r.PaymentAddress, r.GetRouteCancel().GetFailure().String()); err != nil {
		return nil, err
	}
	return &looprpc.CancelLoopOutSwapResponse{}, nil
}

func (l *loopServer) SubscribeLoopOutUpdates(r *looprpc.SubscribeUpdatesRequest, stream looprpc.SwapServer_SubscribeLoopOutUpdatesServer) error {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return err
	}
	hash, err := fixed[ln.Hash]("swap_hash", r.SwapHash)
	if err != nil {
		return err
	}
	last := looprpc.ServerSwapState(-1)
	return e.WatchOut(stream.Context(), hash, func(s out.State, at time.Time) error {
		state := wire(s)
		if state == last {
			return nil
		}
		last = state
		return stream.Send(&looprpc.SubscribeLoopOutUpdatesResponse{TimestampNs: at.UnixNano(), State: state})
	})
}

// wire is a state as the protocol names it: a projection, never stored.
func wire(s out.State) looprpc.ServerSwapState {
	switch s := s.(type) {
	case out.Published:
		if s.ConfirmedHeight > 0 {
			return looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED
		}
		return looprpc.ServerSwapState_SERVER_HTLC_PUBLISHED
	case out.Refunding:
		return looprpc.ServerSwapState_SERVER_TIMEOUT_PUBLISHED
	case out.Revealed, out.Settled:
		return looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED
	case out.Succeeded:
		return looprpc.ServerSwapState_SERVER_SUCCESS
	case out.Refunded:
		return looprpc.ServerSwapState_SERVER_FAILED_TIMEOUT
	case out.Lost:
		return looprpc.ServerSwapState_SERVER_UNEXPECTED_FAILURE
	case out.Cancelling:
		return failure(s.Reason.Code)
	case out.Cancelled:
		return failure(s.Reason.Code)
	}
	return looprpc.ServerSwapState_SERVER_INITIATED
}

func (l *loopServer) RecommendRoutingPlugin(context.Context, *looprpc.RecommendRoutingPluginReq) (*looprpc.RecommendRoutingPluginRes, error) {
	return &looprpc.RecommendRoutingPluginRes{Plugin: looprpc.RoutingPlugin_NONE}, nil
}

func (l *loopServer) ReportRoutingResult(context.Context, *looprpc.ReportRoutingResultReq) (*looprpc.ReportRoutingResultRes, error) {
	return &looprpc.ReportRoutingResultRes{}, nil
}

func failure(code swaps.ReasonCode) looprpc.ServerSwapState {
	switch code {
	case swaps.ReasonClientCancelled, swaps.ReasonReleased:
		return looprpc.ServerSwapState_SERVER_CLIENT_INVOICE_CANCEL
	case swaps.ReasonPrepayLost:
		return looprpc.ServerSwapState_SERVER_CLIENT_PREPAY_CANCEL
	case swaps.ReasonUnpaid, swaps.ReasonLate:
		return looprpc.ServerSwapState_SERVER_FAILED_SWAP_DEADLINE
	case swaps.ReasonCoins:
		return looprpc.ServerSwapState_SERVER_FAILED_HTLC_PUBLICATION
	case swaps.ReasonInvoicesFailed:
		return looprpc.ServerSwapState_SERVER_FAILED_INITIALIZATION
	}
	return looprpc.ServerSwapState_SERVER_UNEXPECTED_FAILURE
}
