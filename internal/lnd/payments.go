package lnd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// PayDirect sends one HTLC over one named channel to the peer at its end and
// waits for its result. An error that is ln.ErrUnavailable or ln.ErrExists
// says nothing about the HTLC: ask TrackPayment until it is terminal. A
// context that ends does not cancel the HTLC.
func (c *Client) PayDirect(ctx context.Context, p ln.DirectPayment) (ln.Payment, error) {
	amount, err := p.AmountMsat.Int64()
	if err != nil {
		return ln.Payment{}, err
	}
	attempt, err := c.router.SendToRouteV2(ctx, &routerrpc.SendToRouteRequest{
		PaymentHash: p.Hash[:],
		Route: &lnrpc.Route{
			TotalTimeLock: p.ExpiryHeight, TotalAmtMsat: amount,
			Hops: []*lnrpc.Hop{{
				ChanId: uint64(p.ChanID), PubKey: p.Peer.String(), Expiry: p.ExpiryHeight,
				AmtToForwardMsat: amount, TlvPayload: true,
				MppRecord: &lnrpc.MPPRecord{PaymentAddr: p.PaymentAddr[:], TotalAmtMsat: amount},
			}},
		},
	})
	if err != nil {
		return ln.Payment{}, mapError("pay "+p.Hash.Short(), err)
	}
	out := ln.Payment{Hash: p.Hash, ValueMsat: p.AmountMsat}
	switch attempt.Status {
	case lnrpc.HTLCAttempt_SUCCEEDED:
		out.State = ln.PaymentSucceeded
		if out.Preimage, err = ln.PreimageFromBytes(attempt.Preimage); err != nil {
			return out, fmt.Errorf("pay %s: %w", p.Hash.Short(), err)
		}
		if out.Preimage.Hash() != p.Hash {
			return out, fmt.Errorf("pay %s: lnd's preimage does not open the hash", p.Hash.Short())
		}
	case lnrpc.HTLCAttempt_FAILED:
		out.State = ln.PaymentFailed
		out.Failure = attempt.Failure.GetCode().String()
		out.FailedHere = attempt.Failure.GetFailureSourceIndex() == 0
	default:
		out.State, out.InFlight = ln.PaymentInFlight, 1
	}
	return out, nil
}

// TrackPayment is the present state of a payment of ours; PaymentUnknown when
// lnd never recorded one for the hash.
func (c *Client) TrackPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error) {
	return c.trackPayment(ctx, hash, false)
}

// WaitPayment waits until a payment of ours is terminal. One that lnd never
// recorded is PaymentUnknown at once.
func (c *Client) WaitPayment(ctx context.Context, hash ln.Hash) (ln.Payment, error) {
	return c.trackPayment(ctx, hash, true)
}

func (c *Client) trackPayment(ctx context.Context, hash ln.Hash, untilTerminal bool) (ln.Payment, error) {
	if !untilTerminal {
		var cancelTimeout context.CancelFunc
		ctx, cancelTimeout = context.WithTimeout(ctx, c.cfg.CallTimeout)
		defer cancelTimeout()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.router.TrackPaymentV2(ctx, &routerrpc.TrackPaymentRequest{PaymentHash: hash[:]})
	if err != nil {
		return ln.Payment{}, mapError("track payment "+hash.Short(), err)
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			mapped := mapError("track payment "+hash.Short(), err)
			if errors.Is(mapped, ln.ErrNotFound) {
				return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
			}
			return ln.Payment{}, mapped
		}
		p, err := paymentFromRPC(hash, msg)
		if err != nil {
			return p, err
		}
		if !untilTerminal || p.State == ln.PaymentSucceeded || p.State == ln.PaymentFailed {
			return p, nil
		}
	}
}

func paymentFromRPC(hash ln.Hash, p *lnrpc.Payment) (ln.Payment, error) {
	out := ln.Payment{
		Hash: hash, ValueMsat: msat(p.ValueMsat), FeeMsat: msat(p.FeeMsat), Index: p.PaymentIndex,
		Direct: p.PaymentRequest == "" && len(p.Htlcs) > 0,
	}
	for _, h := range p.Htlcs {
		out.Direct = out.Direct && len(h.GetRoute().GetHops()) == 1
		switch h.Status {
		case lnrpc.HTLCAttempt_IN_FLIGHT:
			out.InFlight++
			open := ln.PaymentAttempt{ExpiryHeight: h.GetRoute().GetTotalTimeLock()}
			if hops := h.GetRoute().GetHops(); len(hops) > 0 {
				open.ChanID = ln.SCID(hops[0].ChanId)
			}
			out.Open = append(out.Open, open)
		case lnrpc.HTLCAttempt_SUCCEEDED:
			part := ln.PaymentPart{AmtMsat: msat(h.GetRoute().GetTotalAmtMsat()), EndedAt: time.Unix(0, h.ResolveTimeNs)}
			if hops := h.GetRoute().GetHops(); len(hops) > 0 {
				part.ChanID = ln.SCID(hops[0].ChanId)
			}
			out.Parts = append(out.Parts, part)
		default:
		}
	}
	switch p.Status {
	case lnrpc.Payment_SUCCEEDED:
		out.State = ln.PaymentSucceeded
		raw, err := decodeHexField("preimage", p.PaymentPreimage)
		if err != nil {
			return out, fmt.Errorf("payment %s: lnd's preimage is not hex", hash.Short())
		}
		if out.Preimage, err = ln.PreimageFromBytes(raw); err != nil {
			return out, err
		}
	case lnrpc.Payment_FAILED:
		out.State, out.Failure = ln.PaymentFailed, p.FailureReason.String()
		// A payment may be marked failed while an attempt still is in flight:
		// until that attempt is resolved the money can still move.
		if out.InFlight > 0 {
			out.State = ln.PaymentInFlight
		}
	default:
		out.State = ln.PaymentInFlight
	}
	return out, nil
}

// PayRequest pays a BOLT 11 invoice through the network.
type PayRequest struct {
	Bolt11 string
	// AmountMsat is for invoices without an amount.
	AmountMsat     ln.Msat
	FeeLimitMsat   ln.Msat
	TimeoutSeconds int32
	MaxParts       uint32
}

// Pay pays an invoice and waits for the result.
func (c *Client) Pay(ctx context.Context, r PayRequest) (ln.Payment, error) {
	return c.sendPayment(ctx, "pay", &routerrpc.SendPaymentRequest{
		PaymentRequest: r.Bolt11, AmtMsat: int64(r.AmountMsat), FeeLimitMsat: int64(r.FeeLimitMsat),
		TimeoutSeconds: r.TimeoutSeconds, MaxParts: r.MaxParts,
	})
}

// sendPayment begins a payment and follows it to its end. An error leaves open whether
// lnd goes on with it.
func (c *Client) sendPayment(ctx context.Context, what string, req *routerrpc.SendPaymentRequest) (ln.Payment, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.router.SendPaymentV2(ctx, req)
	if err != nil {
		return ln.Payment{}, mapError(what, err)
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			return ln.Payment{}, mapError(what, err)
		}
		hash, err := ln.ParseHash(msg.PaymentHash)
		if err != nil {
			return ln.Payment{}, err
		}
		p, err := paymentFromRPC(hash, msg)
		if err != nil || p.State == ln.PaymentSucceeded || p.State == ln.PaymentFailed {
			return p, err
		}
	}
}

// SentPayments lists the payments this node sent from an index on, with the
// index to go on from.
func (c *Client) SentPayments(ctx context.Context, after uint64) ([]ln.Payment, uint64, error) {
	resp, err := c.lightning.ListPayments(ctx, &lnrpc.ListPaymentsRequest{
		IncludeIncomplete: true, IndexOffset: after, MaxPayments: 1000,
	})
	if err != nil {
		return nil, after, mapError("list payments", err)
	}
	out := make([]ln.Payment, 0, len(resp.Payments))
	for _, p := range resp.Payments {
		hash, err := ln.ParseHash(p.PaymentHash)
		if err != nil {
			return nil, after, err
		}
		converted, err := paymentFromRPC(hash, p)
		if err != nil {
			return nil, after, err
		}
		out = append(out, converted)
	}
	if len(out) == 0 {
		return nil, after, nil
	}
	return out, resp.LastIndexOffset, nil
}
