package lnd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/chainrpc"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// PendingChannels lists channels that are opening or closing.
func (c *Client) PendingChannels(ctx context.Context) ([]ln.PendingChannel, error) {
	resp, err := c.lightning.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{IncludeRawTx: true})
	if err != nil {
		return nil, mapError("list pending channels", err)
	}
	var out []ln.PendingChannel
	var errs []error
	add := func(p ln.PendingChannel, err error) {
		out = append(out, p)
		errs = append(errs, err)
	}
	for _, p := range resp.PendingOpenChannels {
		pending, err := pendingFromRPC(ln.PendingOpen, p.Channel)
		pending.CommitFeeSat = sat(p.CommitFee)
		add(pending, err)
	}
	for _, p := range resp.WaitingCloseChannels {
		pending, err := waitingFromRPC(p)
		add(pending, err)
	}
	for _, p := range resp.PendingForceClosingChannels {
		pending, err := forceClosingFromRPC(p)
		add(pending, err)
	}
	return out, errors.Join(errs...)
}

func pendingFromRPC(kind ln.PendingKind, pc *lnrpc.PendingChannelsResponse_PendingChannel) (ln.PendingChannel, error) {
	op, err := ln.ParseOutpoint(pc.GetChannelPoint())
	if err != nil {
		return ln.PendingChannel{}, fmt.Errorf("lnd's pending channel: %w", err)
	}
	peer, err := ln.ParsePubKey(pc.RemoteNodePub)
	if err != nil {
		return ln.PendingChannel{}, fmt.Errorf("lnd's pending channel %s: %w", op, err)
	}
	return ln.PendingChannel{
		Kind: kind, Outpoint: op, Peer: peer, CapacitySat: sat(pc.Capacity),
		LocalSat: sat(pc.LocalBalance), RemoteSat: sat(pc.RemoteBalance),
		Initiator: pc.Initiator == lnrpc.Initiator_INITIATOR_LOCAL, Memo: pc.Memo,
	}, nil
}

func waitingFromRPC(p *lnrpc.PendingChannelsResponse_WaitingCloseChannel) (ln.PendingChannel, error) {
	out, err := pendingFromRPC(ln.PendingWaitingClose, p.Channel)
	if err != nil {
		return out, err
	}
	out.LimboSat = sat(p.LimboBalance)
	if p.ClosingTxid != "" {
		if out.CloseTx, err = ln.ParseTxID(p.ClosingTxid); err != nil {
			return out, fmt.Errorf("lnd's closing channel %s: %w", out.Outpoint, err)
		}
	}
	if out.CloseRaw, err = decodeHexField("closing transaction", p.ClosingTxHex); err != nil {
		return out, err
	}
	if cs := p.Commitments; cs != nil && p.ClosingTxid != "" {
		out.Commitment = p.ClosingTxid == cs.LocalTxid || p.ClosingTxid == cs.RemoteTxid || p.ClosingTxid == cs.RemotePendingTxid
	}
	return out, nil
}

func forceClosingFromRPC(p *lnrpc.PendingChannelsResponse_ForceClosedChannel) (ln.PendingChannel, error) {
	out, err := pendingFromRPC(ln.PendingForceClose, p.Channel)
	if err != nil {
		return out, err
	}
	out.LimboSat, out.RecoveredSat, out.Commitment = sat(p.LimboBalance), sat(p.RecoveredBalance), true
	if out.CloseTx, err = ln.ParseTxID(p.ClosingTxid); err != nil {
		return out, fmt.Errorf("lnd's closing channel %s: %w", out.Outpoint, err)
	}
	for _, h := range p.PendingHtlcs {
		out.LimboHtlcSat += sat(h.Amount)
		if h.Stage < 2 {
			out.OpenHtlcSat += sat(h.Amount)
		}
		op, err := ln.ParseOutpoint(h.Outpoint)
		if err != nil {
			return out, fmt.Errorf("lnd's closing channel %s: %w", out.Outpoint, err)
		}
		out.Stages = append(out.Stages, ln.StageOutput{Outpoint: op, AmountSat: sat(h.Amount)})
	}
	return out, nil
}

// ClosedChannels lists channels that are closed and resolved. lnd gives all of
// them or none: ask only when one is missed.
func (c *Client) ClosedChannels(ctx context.Context) ([]ln.ClosedChannel, error) {
	resp, err := c.lightning.ClosedChannels(ctx, &lnrpc.ClosedChannelsRequest{})
	if err != nil {
		return nil, mapError("list closed channels", err)
	}
	out := make([]ln.ClosedChannel, 0, len(resp.Channels))
	for _, rc := range resp.Channels {
		closed, err := closedFromRPC(rc)
		if err != nil {
			return nil, err
		}
		out = append(out, closed)
	}
	return out, nil
}

func closedFromRPC(rc *lnrpc.ChannelCloseSummary) (ln.ClosedChannel, error) {
	op, err := ln.ParseOutpoint(rc.ChannelPoint)
	if err != nil {
		return ln.ClosedChannel{}, fmt.Errorf("lnd's closed channel: %w", err)
	}
	fail := func(err error) (ln.ClosedChannel, error) {
		return ln.ClosedChannel{}, fmt.Errorf("lnd's closed channel %s: %w", op, err)
	}
	peer, err := ln.ParsePubKey(rc.RemotePubkey)
	if err != nil {
		return fail(err)
	}
	out := ln.ClosedChannel{
		ChanID: ln.SCID(rc.ChanId), ConfirmedSCID: ln.SCID(rc.ZeroConfConfirmedScid), Outpoint: op, Peer: peer,
		CapacitySat: sat(rc.Capacity), SettledSat: sat(rc.SettledBalance), CloseHeight: rc.CloseHeight, Kind: rc.CloseType.String(),
		Initiator: rc.OpenInitiator == lnrpc.Initiator_INITIATOR_LOCAL,
	}
	for _, a := range rc.AliasScids {
		out.Aliases = append(out.Aliases, ln.SCID(a))
	}
	if rc.ClosingTxHash != "" {
		if out.CloseTx, err = ln.ParseTxID(rc.ClosingTxHash); err != nil {
			return fail(err)
		}
	}
	for _, r := range rc.Resolutions {
		resolved := resolvedFromRPC(r)
		txid, err := ln.ParseTxID(r.GetOutpoint().GetTxidStr())
		if err != nil {
			return fail(err)
		}
		resolved.Outpoint = ln.Outpoint{TxID: txid, Index: r.GetOutpoint().GetOutputIndex()}
		if r.SweepTxid != "" {
			if resolved.SweepTx, err = ln.ParseTxID(r.SweepTxid); err != nil {
				return fail(err)
			}
		}
		out.Resolutions = append(out.Resolutions, resolved)
	}
	return out, nil
}

// resolvedFromRPC reads lnd's words. CLAIMED means claimed by whom the kind says:
// an outgoing HTLC by the peer, who had the preimage; TIMEOUT is its opposite.
func resolvedFromRPC(r *lnrpc.Resolution) ln.Resolved {
	out := ln.Resolved{AmountSat: ln.Sat(r.AmountSat)}
	claimed, timeout := r.Outcome == lnrpc.ResolutionOutcome_CLAIMED, r.Outcome == lnrpc.ResolutionOutcome_TIMEOUT
	switch r.ResolutionType {
	case lnrpc.ResolutionType_OUTGOING_HTLC:
		out.Ours = timeout
		out.Lost = !claimed && !timeout
	default:
		out.Ours, out.Lost = claimed, !claimed
	}
	if out.FirstStage = r.Outcome == lnrpc.ResolutionOutcome_FIRST_STAGE; out.FirstStage {
		out.Ours, out.Lost = false, false
	}
	return out
}

// TxInBlock reads a transaction out of the block at a height, or ln.ErrNotFound
// when that block has none of this id.
func (c *Client) TxInBlock(ctx context.Context, height uint32, id ln.TxID) ([]byte, error) {
	what := fmt.Sprintf("read transaction %s from block %d", id, height)
	at, err := c.blocks.GetBlockHash(ctx, &chainrpc.GetBlockHashRequest{BlockHeight: int64(height)})
	if err != nil {
		return nil, mapError(what, err)
	}
	resp, err := c.blocks.GetBlock(ctx, &chainrpc.GetBlockRequest{BlockHash: at.BlockHash})
	if err != nil {
		return nil, mapError(what, err)
	}
	var block wire.MsgBlock
	if err := block.Deserialize(bytes.NewReader(resp.RawBlock)); err != nil {
		return nil, fmt.Errorf("%s: lnd's block: %w", what, err)
	}
	for _, tx := range block.Transactions {
		if ln.TxID(tx.TxHash()) != id {
			continue
		}
		var raw bytes.Buffer
		if err := tx.Serialize(&raw); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		return raw.Bytes(), nil
	}
	return nil, fmt.Errorf("%s: %w", what, ln.ErrNotFound)
}
