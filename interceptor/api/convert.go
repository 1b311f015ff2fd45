package api

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/interceptor"
	pb "github.com/sluice-lsp/sluice/interceptor/api/interceptorv1"
	"github.com/sluice-lsp/sluice/internal/ln"
)

const errorDomain = "interceptor.sluice"

// wireErrors pairs each error that callers act on with its code and the reason
// that travels in google.rpc.ErrorInfo.
func wireErrors() []struct {
	err    error
	code   codes.Code
	reason string
} {
	return []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{interceptor.ErrDecided, codes.FailedPrecondition, "DECIDED"},
		{interceptor.ErrPaying, codes.FailedPrecondition, "PAYING"},
		{interceptor.ErrOnChain, codes.FailedPrecondition, "ON_CHAIN"},
		{interceptor.ErrDeadline, codes.FailedPrecondition, "DEADLINE"},
		{interceptor.ErrUnknownRow, codes.NotFound, "UNKNOWN_ROW"},
		{interceptor.ErrUnknownHandler, codes.NotFound, "UNKNOWN_HANDLER"},
		{interceptor.ErrPreimage, codes.InvalidArgument, "PREIMAGE"},
		{interceptor.ErrInvalid, codes.InvalidArgument, "INVALID"},
		{interceptor.ErrReplaced, codes.Aborted, "REPLACED"},
		{interceptor.ErrLeaseLost, codes.Unavailable, "LEASE_LOST"},
		{interceptor.ErrUnavailable, codes.Unavailable, "UNAVAILABLE"},
	}
}

func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, w := range wireErrors() {
		if !errors.Is(err, w.err) {
			continue
		}
		info := &errdetails.ErrorInfo{Reason: w.reason, Domain: errorDomain}
		var row *interceptor.RowError
		if errors.As(err, &row) {
			info.Metadata = map[string]string{"key": row.Key.String(), "state": string(row.State)}
		}
		st, derr := status.New(w.code, err.Error()).WithDetails(info)
		if derr != nil {
			return status.Error(w.code, err.Error())
		}
		return st.Err()
	}
	return status.FromContextError(err).Err()
}

// fromStatus gives the error back that the server had. Whatever cannot be told
// apart leaves open what happened: interceptor.ErrUnavailable.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != errorDomain {
			continue
		}
		for _, w := range wireErrors() {
			if w.reason != info.GetReason() {
				continue
			}
			var key ln.CircuitKey
			if text, has := info.GetMetadata()["key"]; has && key.UnmarshalText([]byte(text)) == nil {
				return &interceptor.RowError{Key: key, State: interceptor.State(info.GetMetadata()["state"]), Err: w.err}
			}
			return fmt.Errorf("%w: %s", w.err, st.Message())
		}
	}
	return fmt.Errorf("%w: %w", interceptor.ErrUnavailable, err)
}

func keyToWire(k ln.CircuitKey) *pb.CircuitKey {
	return &pb.CircuitKey{ChanId: uint64(k.ChanID), HtlcId: k.HtlcID}
}

func keyFromWire(k *pb.CircuitKey) (ln.CircuitKey, error) {
	if k == nil {
		return ln.CircuitKey{}, fmt.Errorf("a circuit key is missing: %w", interceptor.ErrInvalid)
	}
	return ln.CircuitKey{ChanID: ln.SCID(k.GetChanId()), HtlcID: k.GetHtlcId()}, nil
}

func keysToWire(keys []ln.CircuitKey) []*pb.CircuitKey {
	out := make([]*pb.CircuitKey, len(keys))
	for i, k := range keys {
		out[i] = keyToWire(k)
	}
	return out
}

func keysFromWire(in []*pb.CircuitKey) ([]ln.CircuitKey, error) {
	out := make([]ln.CircuitKey, len(in))
	for i, k := range in {
		key, err := keyFromWire(k)
		if err != nil {
			return nil, err
		}
		out[i] = key
	}
	return out, nil
}

func toMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMs(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// rowToWire leaves the preimage out: nobody needs it from here.
func rowToWire(r interceptor.Row) *pb.Row {
	return &pb.Row{
		Id: r.ID, Key: keyToWire(r.Key), PaymentHash: r.Hash[:],
		IncomingMsat: uint64(r.IncomingMsat), OutgoingMsat: uint64(r.OutgoingMsat),
		IncomingExpiry: r.IncomingExpiry, OutgoingExpiry: r.OutgoingExpiry, OutgoingScid: uint64(r.OutgoingSCID),
		AutoFailHeight: r.AutoFailHeight, FailHeight: r.FailHeight, OfferHeight: r.OfferHeight,
		OnChain: r.OnChain, Handler: r.Handler, State: string(r.State), Reason: r.Reason,
		OfferedMs: toMs(r.OfferedAt), DecidedMs: toMs(r.DecidedAt), GoneMs: toMs(r.GoneAt),
		Outcome: string(r.Outcome), Acked: r.Acked, Version: r.Version, ExtraFeeMsat: uint64(r.ExtraFeeMsat),
	}
}

func rowFromWire(r *pb.Row) (interceptor.Row, error) {
	key, err := keyFromWire(r.GetKey())
	if err != nil {
		return interceptor.Row{}, err
	}
	hash, err := ln.HashFromBytes(r.GetPaymentHash())
	if err != nil {
		return interceptor.Row{}, fmt.Errorf("row %s: %w", key, err)
	}
	state := interceptor.State(r.GetState())
	if !state.Valid() {
		return interceptor.Row{}, fmt.Errorf("row %s: state %q: %w", key, r.GetState(), interceptor.ErrInvalid)
	}
	if r.GetIncomingMsat() > uint64(ln.MaxMsat) || r.GetOutgoingMsat() > uint64(ln.MaxMsat) {
		return interceptor.Row{}, fmt.Errorf("row %s: %w", key, ln.ErrOverflow)
	}
	if r.GetExtraFeeMsat() > 0 && r.GetExtraFeeMsat() >= r.GetOutgoingMsat() {
		return interceptor.Row{}, fmt.Errorf("row %s: %d msat withheld of %d: %w", key, r.GetExtraFeeMsat(), r.GetOutgoingMsat(), interceptor.ErrInvalid)
	}
	return interceptor.Row{
		ID: r.GetId(), Key: key, Hash: hash, ExtraFeeMsat: ln.Msat(r.GetExtraFeeMsat()),
		IncomingMsat: ln.Msat(r.GetIncomingMsat()), OutgoingMsat: ln.Msat(r.GetOutgoingMsat()),
		IncomingExpiry: r.GetIncomingExpiry(), OutgoingExpiry: r.GetOutgoingExpiry(),
		OutgoingSCID: ln.SCID(r.GetOutgoingScid()), AutoFailHeight: r.GetAutoFailHeight(),
		FailHeight: r.GetFailHeight(), OfferHeight: r.GetOfferHeight(), OnChain: r.GetOnChain(),
		Handler: r.GetHandler(), State: state, Reason: r.GetReason(),
		OfferedAt: fromMs(r.GetOfferedMs()), DecidedAt: fromMs(r.GetDecidedMs()), GoneAt: fromMs(r.GetGoneMs()),
		Outcome: interceptor.Outcome(r.GetOutcome()), Acked: r.GetAcked(), Version: r.GetVersion(),
	}, nil
}

func decisionFromWire(d *pb.Decision) (interceptor.Decision, error) {
	key, err := keyFromWire(d.GetKey())
	if err != nil {
		return interceptor.Decision{}, err
	}
	out := interceptor.Decision{
		Key: key, Action: interceptor.Action(d.GetAction()), Reason: d.GetReason(), ExtraFeeMsat: ln.Msat(d.GetExtraFeeMsat()),
	}
	if out.Action == interceptor.ActionSettle || len(d.GetPreimage()) > 0 {
		if out.Preimage, err = ln.PreimageFromBytes(d.GetPreimage()); err != nil {
			return out, fmt.Errorf("decision about %s: %w: %w", key, interceptor.ErrInvalid, err)
		}
	}
	return out, nil
}

func clampInt32(v int) int32 {
	return int32(min(max(v, math.MinInt32), math.MaxInt32)) //nolint:gosec // bounded
}
