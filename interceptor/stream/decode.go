package stream

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// decode reads one offer (routerrpc.ForwardHtlcInterceptRequest).
func decode(in *routerrpc.ForwardHtlcInterceptRequest) (ln.InterceptedHtlc, error) {
	key := in.GetIncomingCircuitKey()
	if key == nil {
		return ln.InterceptedHtlc{}, errors.New("an offer without a circuit key")
	}
	o := ln.InterceptedHtlc{
		Key:            ln.CircuitKey{ChanID: ln.SCID(key.GetChanId()), HtlcID: key.GetHtlcId()},
		IncomingMsat:   ln.Msat(in.GetIncomingAmountMsat()),
		OutgoingMsat:   ln.Msat(in.GetOutgoingAmountMsat()),
		IncomingExpiry: in.GetIncomingExpiry(),
		OutgoingExpiry: in.GetOutgoingExpiry(),
		OutgoingSCID:   ln.SCID(in.GetOutgoingRequestedChanId()),
	}
	var err error
	if o.Hash, err = ln.HashFromBytes(in.GetPaymentHash()); err != nil {
		return o, fmt.Errorf("offer %s: %w", o.Key, err)
	}
	if o.IncomingMsat > ln.MaxMsat || o.OutgoingMsat > ln.MaxMsat {
		return o, fmt.Errorf("offer %s: %d msat in, %d msat out: %w", o.Key, o.IncomingMsat, o.OutgoingMsat, ln.ErrOverflow)
	}
	// A height that lnd could not mean is left at 0, which settles or nothing.
	if h := in.GetAutoFailHeight(); h > 0 {
		o.AutoFailHeight = uint32(h)
	}
	if node := in.GetOutgoingRequestedNodeId(); len(node) > 0 {
		if o.OutgoingNode, err = ln.PubKeyFromBytes(node); err != nil {
			return o, fmt.Errorf("offer %s: %w", o.Key, err)
		}
		o.OutgoingSCID = ln.NodeAddressed
	}
	return o, nil
}

// extraFeeRecord is the type of extra_fee in update_add_htlc (bLIP-25).
const extraFeeRecord = 65_537

// encode writes one answer. The action is always set by name: the protocol's
// zero value is SETTLE.
func encode(a interceptor.Answer) (*routerrpc.ForwardHtlcInterceptResponse, error) {
	out := &routerrpc.ForwardHtlcInterceptResponse{
		IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: uint64(a.Key.ChanID), HtlcId: a.Key.HtlcID},
	}
	switch a.Action {
	case interceptor.AnswerResume:
		out.Action = routerrpc.ResolveHoldForwardAction_RESUME
		if a.OutgoingMsat == 0 && a.Records == "" {
			break
		}
		out.Action, out.OutAmountMsat = routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED, uint64(a.OutgoingMsat)
		if a.ExtraFeeMsat > 0 {
			out.OutWireCustomRecords = map[uint64][]byte{
				extraFeeRecord: binary.BigEndian.AppendUint64(nil, uint64(a.ExtraFeeMsat)),
			}
			break
		}
		records, err := a.Records.Map()
		if err != nil {
			return nil, fmt.Errorf("answer to %s: %w: %w", a.Key, ErrBadAnswer, err)
		}
		out.OutWireCustomRecords = records
	case interceptor.AnswerFail:
		out.Action = routerrpc.ResolveHoldForwardAction_FAIL
	case interceptor.AnswerSettle:
		out.Action = routerrpc.ResolveHoldForwardAction_SETTLE
		out.Preimage = a.Preimage.Bytes()
	default:
		return nil, fmt.Errorf("answer %q to %s: %w", a.Action, a.Key, ErrBadAnswer)
	}
	return out, nil
}
