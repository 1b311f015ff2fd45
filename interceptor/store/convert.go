package store

import (
	"fmt"
	"math"
	"time"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/interceptor/store/storedb"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func toInt64(v uint64) (int64, error) {
	if v > math.MaxInt64 {
		return 0, fmt.Errorf("HTLC index %d: %w", v, interceptor.ErrInvalid)
	}
	return int64(v), nil //nolint:gosec // bounded just above
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

func preimageBytes(p ln.Preimage) []byte {
	if p == (ln.Preimage{}) {
		return []byte{}
	}
	return p.Bytes()
}

func insertParams(r interceptor.Row) (storedb.InsertRowParams, error) {
	id, err := toInt64(r.Key.HtlcID)
	if err != nil {
		return storedb.InsertRowParams{}, err
	}
	in, err := r.IncomingMsat.Int64()
	if err != nil {
		return storedb.InsertRowParams{}, err
	}
	out, err := r.OutgoingMsat.Int64()
	if err != nil {
		return storedb.InsertRowParams{}, err
	}
	return storedb.InsertRowParams{
		ChanID: r.Key.ChanID.Bytes(), HtlcID: id, ID: r.ID, PaymentHash: r.Hash[:],
		IncomingMsat: in, OutgoingMsat: out,
		IncomingExpiry: int64(r.IncomingExpiry), OutgoingExpiry: int64(r.OutgoingExpiry),
		OutgoingScid: r.OutgoingSCID.Bytes(), AutoFailHeight: int64(r.AutoFailHeight),
		FailHeight: int64(r.FailHeight), OfferHeight: int64(r.OfferHeight), OnChain: r.OnChain,
		Handler: r.Handler, State: string(r.State), Reason: r.Reason, Preimage: preimageBytes(r.Preimage),
		OfferedMs: toMs(r.OfferedAt), DecidedMs: toMs(r.DecidedAt), GoneMs: toMs(r.GoneAt),
		Outcome: string(r.Outcome), Acked: r.Acked, Live: r.Live(), Version: r.Version,
		ExtraFeeMsat: int64(r.ExtraFeeMsat), //nolint:gosec // less than OutgoingMsat
		SendMsat:     int64(r.Send.Msat),    //nolint:gosec // at most OutgoingMsat
		SendRecords:  []byte(r.Send.Records), Ballot: r.Ballot, AfterState: string(r.After),
	}, nil
}

func updateParams(r interceptor.Row) storedb.UpdateRowParams {
	return storedb.UpdateRowParams{
		AutoFailHeight: int64(r.AutoFailHeight), FailHeight: int64(r.FailHeight), OnChain: r.OnChain,
		State: string(r.State), Reason: r.Reason, Preimage: preimageBytes(r.Preimage),
		DecidedMs: toMs(r.DecidedAt), GoneMs: toMs(r.GoneAt), Outcome: string(r.Outcome),
		Acked: r.Acked, Live: r.Live(), ExtraFeeMsat: int64(r.ExtraFeeMsat), //nolint:gosec // less than OutgoingMsat
		SendMsat: int64(r.Send.Msat), SendRecords: []byte(r.Send.Records), Ballot: r.Ballot, AfterState: string(r.After), //nolint:gosec // at most OutgoingMsat
		ChanID: r.Key.ChanID.Bytes(), HtlcID: int64(r.Key.HtlcID), //nolint:gosec // bounded at insertion
		Version: r.Version - 1,
	}
}

func toRows(in []storedb.InterceptorRow) ([]interceptor.Row, error) {
	out := make([]interceptor.Row, 0, len(in))
	for _, r := range in {
		row, err := toRow(r)
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, nil
}

// toRow refuses what this program did not write: acting on a row that is
// misread could lose its amount.
func toRow(r storedb.InterceptorRow) (interceptor.Row, error) {
	bad := func(err error) (interceptor.Row, error) {
		return interceptor.Row{}, fmt.Errorf("row %d: %w", r.ID, err)
	}
	chanID, err := ln.SCIDFromBytes(r.ChanID)
	if err != nil {
		return bad(err)
	}
	hash, err := ln.HashFromBytes(r.PaymentHash)
	if err != nil {
		return bad(err)
	}
	outgoing, err := ln.SCIDFromBytes(r.OutgoingScid)
	if err != nil {
		return bad(err)
	}
	var preimage ln.Preimage
	if len(r.Preimage) > 0 {
		if preimage, err = ln.PreimageFromBytes(r.Preimage); err != nil {
			return bad(err)
		}
	}
	state := interceptor.State(r.State)
	if !state.Valid() {
		return bad(fmt.Errorf("state %q is not known to this program", r.State))
	}
	after := interceptor.State(r.AfterState)
	if after != "" && (state != interceptor.StatePaying || after != interceptor.StateHeld && after != interceptor.StateFailed) {
		return bad(fmt.Errorf("it is %s and %q afterwards", state, after))
	}
	for _, v := range []int64{r.HtlcID, r.IncomingMsat, r.OutgoingMsat} {
		if v < 0 {
			return bad(fmt.Errorf("negative value %d", v))
		}
	}
	if r.ExtraFeeMsat < 0 || r.ExtraFeeMsat > 0 && r.ExtraFeeMsat >= r.OutgoingMsat {
		return bad(fmt.Errorf("%d msat withheld of %d", r.ExtraFeeMsat, r.OutgoingMsat))
	}
	send := interceptor.Sending{Msat: ln.Msat(r.SendMsat), Records: interceptor.WireRecords(r.SendRecords)} //nolint:gosec // checked just below
	if r.SendMsat < 0 || !send.Within(ln.Msat(r.IncomingMsat), ln.Msat(r.OutgoingMsat)) {
		return bad(fmt.Errorf("%d msat to send of %d", r.SendMsat, r.OutgoingMsat))
	}
	if err := send.Records.Validate(); err != nil {
		return bad(err)
	}
	for _, h := range []int64{r.IncomingExpiry, r.OutgoingExpiry, r.AutoFailHeight, r.FailHeight, r.OfferHeight} {
		if h < 0 || h > math.MaxUint32 {
			return bad(fmt.Errorf("height %d is out of range", h))
		}
	}
	return interceptor.Row{
		ID: r.ID, Key: ln.CircuitKey{ChanID: chanID, HtlcID: uint64(r.HtlcID)}, Hash: hash,
		IncomingMsat: ln.Msat(r.IncomingMsat), OutgoingMsat: ln.Msat(r.OutgoingMsat),
		IncomingExpiry: uint32(r.IncomingExpiry), OutgoingExpiry: uint32(r.OutgoingExpiry),
		OutgoingSCID: outgoing, AutoFailHeight: uint32(r.AutoFailHeight), FailHeight: uint32(r.FailHeight),
		OfferHeight: uint32(r.OfferHeight), OnChain: r.OnChain, Handler: r.Handler, State: state, After: after,
		Reason: r.Reason, Preimage: preimage, ExtraFeeMsat: ln.Msat(r.ExtraFeeMsat), Send: send, Ballot: r.Ballot, OfferedAt: fromMs(r.OfferedMs), DecidedAt: fromMs(r.DecidedMs),
		GoneAt: fromMs(r.GoneMs), Outcome: interceptor.Outcome(r.Outcome), Acked: r.Acked, Version: r.Version,
	}, nil
}
