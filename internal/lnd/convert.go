package lnd

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// sat takes an amount of lnd's; a negative one is lnd's error, not ours, and
// must not become a huge unsigned number.
func sat(v int64) ln.Sat {
	if v < 0 {
		return 0
	}
	return ln.Sat(v)
}

func msat(v int64) ln.Msat {
	if v < 0 {
		return 0
	}
	return ln.Msat(v)
}

func outpointFromRPC(cp *lnrpc.ChannelPoint) (ln.Outpoint, error) {
	if cp == nil {
		return ln.Outpoint{}, fmt.Errorf("lnd sent no channel point")
	}
	switch id := cp.FundingTxid.(type) {
	case *lnrpc.ChannelPoint_FundingTxidBytes:
		return outpointFromBytes(id.FundingTxidBytes, cp.OutputIndex)
	case *lnrpc.ChannelPoint_FundingTxidStr:
		txid, err := ln.ParseTxID(id.FundingTxidStr)
		return ln.Outpoint{TxID: txid, Index: cp.OutputIndex}, err
	default:
		return ln.Outpoint{}, fmt.Errorf("lnd sent a channel point without a transaction id")
	}
}

func outpointFromBytes(b []byte, index uint32) (ln.Outpoint, error) {
	o := ln.Outpoint{Index: index}
	if len(b) != len(o.TxID) {
		return o, fmt.Errorf("lnd sent a transaction id of %d bytes", len(b))
	}
	copy(o.TxID[:], b)
	return o, nil
}

func channelPoint(o ln.Outpoint) *lnrpc.ChannelPoint {
	return &lnrpc.ChannelPoint{
		FundingTxid: &lnrpc.ChannelPoint_FundingTxidBytes{FundingTxidBytes: o.TxID[:]},
		OutputIndex: o.Index,
	}
}

func rpcOutpoint(o ln.Outpoint) *lnrpc.OutPoint {
	return &lnrpc.OutPoint{TxidBytes: o.TxID[:], TxidStr: o.TxID.String(), OutputIndex: o.Index}
}

func channelFromRPC(c *lnrpc.Channel) (ln.Channel, error) {
	op, err := ln.ParseOutpoint(c.ChannelPoint)
	if err != nil {
		return ln.Channel{}, fmt.Errorf("lnd's channel %d: %w", c.ChanId, err)
	}
	peer, err := ln.ParsePubKey(c.RemotePubkey)
	if err != nil {
		return ln.Channel{}, fmt.Errorf("lnd's channel %s: %w", op, err)
	}
	out := ln.Channel{
		ChanID: ln.SCID(c.ChanId), Outpoint: op, Peer: peer,
		Active: c.Active, Private: c.Private, Initiator: c.Initiator, ZeroConf: c.ZeroConf,
		ConfirmedSCID: ln.SCID(c.ZeroConfConfirmedScid), SeenFor: time.Duration(c.Lifetime) * time.Second, Commitments: c.NumUpdates,
		CapacitySat: sat(c.Capacity), LocalSat: sat(c.LocalBalance), RemoteSat: sat(c.RemoteBalance),
		CommitFeeSat: sat(c.CommitFee), UnsettledSat: sat(c.UnsettledBalance), PushSat: ln.Sat(c.PushAmountSat), SentSat: sat(c.TotalSatoshisSent),
		CommitmentType: c.CommitmentType.String(), Memo: c.Memo,
	}
	if !c.ZeroConf {
		out.ConfirmedSCID = out.ChanID
	}
	if lc := c.LocalConstraints; lc != nil {
		out.LocalReserveSat, out.LocalCSV = ln.Sat(lc.ChanReserveSat), lc.CsvDelay
	}
	if rc := c.RemoteConstraints; rc != nil {
		out.RemoteReserveSat, out.RemoteCSV = ln.Sat(rc.ChanReserveSat), rc.CsvDelay
	}
	for _, a := range c.AliasScids {
		out.Aliases = append(out.Aliases, ln.SCID(a))
	}
	for _, h := range c.PendingHtlcs {
		hash, err := ln.HashFromBytes(h.HashLock)
		if err != nil {
			return ln.Channel{}, fmt.Errorf("lnd's channel %s: %w", op, err)
		}
		out.Htlcs = append(out.Htlcs, ln.ChannelHtlc{
			Incoming: h.Incoming, Index: h.HtlcIndex, AmtMsat: msat(h.Amount * 1000), Hash: hash,
			Expiry: h.ExpirationHeight, LockedIn: h.LockedIn,
			ForwardingChan: ln.SCID(h.ForwardingChannel), ForwardingIndex: h.ForwardingHtlcIndex,
		})
	}
	return out, nil
}

func hintsToRPC(hints []ln.RouteHint) []*lnrpc.RouteHint {
	out := make([]*lnrpc.RouteHint, 0, len(hints))
	for _, h := range hints {
		out = append(out, &lnrpc.RouteHint{HopHints: []*lnrpc.HopHint{hopToRPC(h)}})
	}
	return out
}

func hopToRPC(h ln.RouteHint) *lnrpc.HopHint {
	return &lnrpc.HopHint{
		NodeId: h.Node.String(), ChanId: uint64(h.SCID), FeeBaseMsat: h.BaseFeeMsat,
		FeeProportionalMillionths: h.FeePPM, CltvExpiryDelta: uint32(h.CltvDelta),
	}
}

func decodeHexField(what, s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("lnd's %s is not hex: %w", what, err)
	}
	return b, nil
}
