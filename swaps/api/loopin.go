package api

import (
	"context"
	"math"
	"time"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/engine"
	"github.com/sluice-lsp/sluice/swaps/in"
)

func (l *loopServer) LoopInTerms(ctx context.Context, r *looprpc.ServerLoopInTermsRequest) (*looprpc.ServerLoopInTerms, error) {
	e, err := l.s.enter(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	least, most, err := e.InTerms(ctx)
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopInTerms{MinSwapAmount: uint64(least), MaxSwapAmount: uint64(most)}, nil
}

func (l *loopServer) LoopInQuote(ctx context.Context, r *looprpc.ServerLoopInQuoteRequest) (*looprpc.ServerLoopInQuoteResponse, error) {
	e, err := l.s.enter(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	if r.NumStaticAddressDeposits > 0 {
		return nil, notOffered("static addresses")
	}
	fee, err := e.QuoteIn(ctx, ln.Sat(r.Amt))
	if err != nil {
		return nil, err
	}
	sat, err := fee.Int64()
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopInQuoteResponse{SwapFee: sat, CltvDelta: int32(e.InExpiryDelta())}, nil //nolint:gosec // at most 1,400
}

func (l *loopServer) NewLoopInSwap(ctx context.Context, r *looprpc.ServerLoopInRequest) (*looprpc.ServerLoopInResponse, error) {
	e, who, err := l.s.begin(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	w := engine.InWish{AmountSat: ln.Sat(r.Amt), SwapInvoice: r.SwapInvoice, Probe: r.ProbeInvoice, Client: agent(r.UserAgent), Caller: who.caller}
	if w.Hash, err = fixed[ln.Hash]("swap_hash", r.SwapHash); err != nil {
		return nil, err
	}
	if w.Sender, err = ln.PubKeyFromBytes(r.SenderKey); err != nil {
		return nil, errkind.Newf(errkind.Invalid, "sender_key: %v", err)
	}
	if w.SenderInternal, err = ln.PubKeyFromBytes(r.SenderInternalPubkey); err != nil {
		return nil, errkind.Newf(errkind.Invalid, "sender_internal_pubkey: %v", err)
	}
	if len(r.LastHop) > 0 {
		if w.LastHop, err = ln.PubKeyFromBytes(r.LastHop); err != nil {
			return nil, errkind.Newf(errkind.Invalid, "last_hop: %v", err)
		}
	}
	offer, err := e.OfferIn(ctx, w)
	if err != nil {
		return nil, err
	}
	return &looprpc.ServerLoopInResponse{
		ReceiverKey: offer.Receiver[:], ReceiverInternalPubkey: offer.ReceiverInternal[:], Expiry: int32(offer.ExpiryHeight), //nolint:gosec // a height
	}, nil
}

// Probe tries whether the client could be paid. Stock clients ask for it before each
// quote of a swap in, and go on without it.
func (l *loopServer) Probe(ctx context.Context, r *looprpc.ServerProbeRequest) (*looprpc.ServerProbeResponse, error) {
	e, who, err := l.s.begin(ctx, r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	w := engine.RouteWish{Caller: who.caller, AmountSat: ln.Sat(r.Amt)}
	if w.Target, err = ln.PubKeyFromBytes(r.Target); err != nil {
		return nil, errkind.Newf(errkind.Invalid, "target: %v", err)
	}
	if len(r.LastHop) > 0 {
		if w.LastHop, err = ln.PubKeyFromBytes(r.LastHop); err != nil {
			return nil, errkind.Newf(errkind.Invalid, "last_hop: %v", err)
		}
	}
	if w.Hints, err = hintsOf(r.RouteHints); err != nil {
		return nil, err
	}
	if err := e.ProbeRoute(ctx, w); err != nil {
		return nil, err
	}
	return &looprpc.ServerProbeResponse{}, nil
}

// maxHints and maxHops bound what one probe may name.
const (
	maxHints = 20
	maxHops  = 8
)

func hintsOf(hints []*looprpc.RouteHint) ([][]ln.RouteHint, error) {
	if len(hints) > maxHints {
		return nil, errkind.Newf(errkind.Invalid, "%d route hints: %d are enough", len(hints), maxHints)
	}
	out := make([][]ln.RouteHint, 0, len(hints))
	for _, h := range hints {
		if len(h.GetHopHints()) > maxHops {
			return nil, errkind.Newf(errkind.Invalid, "a route hint of %d hops: %d are enough", len(h.GetHopHints()), maxHops)
		}
		var hops []ln.RouteHint
		for _, hop := range h.GetHopHints() {
			node, err := ln.ParsePubKey(hop.GetNodeId())
			if err != nil {
				return nil, errkind.Newf(errkind.Invalid, "route_hints: %v", err)
			}
			if hop.GetCltvExpiryDelta() > math.MaxUint16 {
				return nil, errkind.Newf(errkind.Invalid, "route_hints: a CLTV delta of %d blocks", hop.GetCltvExpiryDelta())
			}
			hops = append(hops, ln.RouteHint{
				Node: node, SCID: ln.SCID(hop.GetChanId()), BaseFeeMsat: hop.GetFeeBaseMsat(), FeePPM: hop.GetFeeProportionalMillionths(),
				CltvDelta: uint16(hop.GetCltvExpiryDelta()), //nolint:gosec // checked just here
			})
		}
		out = append(out, hops)
	}
	return out, nil
}

func (l *loopServer) PushKey(ctx context.Context, r *looprpc.ServerPushKeyReq) (*looprpc.ServerPushKeyRes, error) {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return nil, err
	}
	hash, err := fixed[ln.Hash]("swap_hash", r.SwapHash)
	if err != nil {
		return nil, err
	}
	key, err := fixed[ln.Preimage]("internal_privkey", r.InternalPrivkey)
	if err != nil {
		return nil, err
	}
	if err := e.PushKey(ctx, hash, key); err != nil {
		return nil, err
	}
	return &looprpc.ServerPushKeyRes{}, nil
}

func (l *loopServer) SubscribeLoopInUpdates(r *looprpc.SubscribeUpdatesRequest, stream looprpc.SwapServer_SubscribeLoopInUpdatesServer) error {
	e, err := l.s.fresh(r.ProtocolVersion)
	if err != nil {
		return err
	}
	hash, err := fixed[ln.Hash]("swap_hash", r.SwapHash)
	if err != nil {
		return err
	}
	last := looprpc.ServerSwapState(-1)
	return e.WatchIn(stream.Context(), hash, func(s in.State, at time.Time) error {
		state := wireIn(s)
		if state == last {
			return nil
		}
		last = state
		return stream.Send(&looprpc.SubscribeLoopInUpdatesResponse{TimestampNs: at.UnixNano(), State: state})
	})
}

// wireIn is a state as the protocol names it: a projection, never stored.
func wireIn(s in.State) looprpc.ServerSwapState {
	switch s := s.(type) {
	case in.Waiting:
		if s.ConfirmedHeight > 0 {
			return looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED
		}
	case in.Opening, in.Paying, in.Paid, in.Claiming:
		return looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED
	case in.Claimed:
		return looprpc.ServerSwapState_SERVER_SUCCESS
	case in.Lost:
		return looprpc.ServerSwapState_SERVER_UNEXPECTED_FAILURE
	case in.Failed:
		switch s.Reason.Code {
		case swaps.ReasonProbe:
			return looprpc.ServerSwapState_SERVER_FAILED_INITIALIZATION
		case swaps.ReasonOutputs:
			return looprpc.ServerSwapState_SERVER_FAILED_MULTIPLE_SWAP_SCRIPTS
		case swaps.ReasonAmount:
			return looprpc.ServerSwapState_SERVER_FAILED_INVALID_HTLC_AMOUNT
		case swaps.ReasonPayment:
			return looprpc.ServerSwapState_SERVER_FAILED_OFF_CHAIN_TIMEOUT
		}
		return looprpc.ServerSwapState_SERVER_FAILED_NO_HTLC
	}
	return looprpc.ServerSwapState_SERVER_INITIATED
}
