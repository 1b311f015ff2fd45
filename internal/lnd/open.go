package lnd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/status"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// OpenStream is one channel negotiation that waits for our funding
// transaction. Cancelling its context does not cancel the channel in lnd once
// the PSBT was verified.
type OpenStream struct {
	pending ln.PendingChanID
	stream  lnrpc.Lightning_OpenChannelClient
}

// OpenChannel starts a channel through a PSBT shim with no_publish: nobody but
// us will ever broadcast its funding transaction. The first update asks for
// the funding output, the next says that commitments are exchanged.
func (c *Client) OpenChannel(ctx context.Context, r ln.OpenRequest) (*OpenStream, error) {
	capacity, err := r.CapacitySat.Int64()
	if err != nil {
		return nil, err
	}
	push, err := r.PushSat.Int64()
	if err != nil {
		return nil, err
	}
	commitment, ok := lnrpc.CommitmentType_value[string(r.Type)]
	if !ok {
		return nil, fmt.Errorf("open a channel: lnd has no commitment type %q", r.Type)
	}
	stream, err := c.lightning.OpenChannel(ctx, &lnrpc.OpenChannelRequest{
		NodePubkey: r.Peer[:], LocalFundingAmount: capacity, PushSat: push,
		Private: r.Private, ZeroConf: r.ZeroConf, ScidAlias: r.ScidAlias,
		CommitmentType: lnrpc.CommitmentType(commitment),
		MaxLocalCsv:    uint32(r.MaxLocalCSV), RemoteCsvDelay: uint32(r.RemoteCSV),
		// The fee policy is always ours to name: lnd's default would charge
		// the wallet's payer a fee that no invoice mentions.
		UseBaseFee: true, BaseFee: uint64(r.BaseFeeMsat), UseFeeRate: true, FeeRate: r.FeePPM,
		RemoteChanReserveSat: uint64(r.RemoteReserveSat), Memo: r.Memo,
		FundingShim: &lnrpc.FundingShim{Shim: &lnrpc.FundingShim_PsbtShim{PsbtShim: &lnrpc.PsbtShim{
			PendingChanId: r.PendingID[:], NoPublish: true,
		}}},
	})
	if err != nil {
		return nil, mapError("open a channel to "+r.Peer.String(), err)
	}
	return &OpenStream{pending: r.PendingID, stream: stream}, nil
}

// Next waits for the next update.
func (s *OpenStream) Next() (ln.OpenUpdate, error) {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return ln.OpenUpdate{}, openError(err)
		}
		switch u := msg.Update.(type) {
		case *lnrpc.OpenStatusUpdate_PsbtFund:
			return ln.OpenUpdate{Fund: &ln.FundRequest{
				Address: u.PsbtFund.FundingAddress, AmountSat: sat(u.PsbtFund.FundingAmount), Psbt: u.PsbtFund.Psbt,
			}}, nil
		case *lnrpc.OpenStatusUpdate_ChanPending:
			op, err := outpointFromBytes(u.ChanPending.Txid, u.ChanPending.OutputIndex)
			return ln.OpenUpdate{Pending: &op}, err
		case *lnrpc.OpenStatusUpdate_ChanOpen:
			op, err := outpointFromRPC(u.ChanOpen.ChannelPoint)
			return ln.OpenUpdate{Open: &op}, err
		}
	}
}

// openError is mapError with the peer's own words first: lnd puts them behind
// two ids, where whoever shortens the text loses them.
func openError(err error) error {
	mapped := mapError("open a channel", err)
	if !errors.Is(mapped, ln.ErrPeerRejected) {
		return mapped
	}
	_, words, found := strings.Cut(status.Convert(err).Message(), ", err=")
	if !found {
		return mapped
	}
	if refusedForNow(words) {
		return fmt.Errorf("%w: %s", ln.ErrPeerNotNow, words)
	}
	return fmt.Errorf("%w: %s", ln.ErrPeerRejected, words)
}

// VerifyPsbt hands lnd the unsigned funding transaction. With skip_finalize
// lnd exchanges commitment signatures at once and never asks for the signed
// transaction: its txid must not change any more.
func (c *Client) VerifyPsbt(ctx context.Context, id ln.PendingChanID, psbt []byte) error {
	_, err := c.lightning.FundingStateStep(ctx, &lnrpc.FundingTransitionMsg{
		Trigger: &lnrpc.FundingTransitionMsg_PsbtVerify{PsbtVerify: &lnrpc.FundingPsbtVerify{
			FundedPsbt: psbt, PendingChanId: id[:], SkipFinalize: true,
		}},
	})
	return mapError("verify the funding transaction", err)
}

// CancelShim ends a negotiation that was not verified yet. After verify lnd
// has no such intent any more and answers with an error.
func (c *Client) CancelShim(ctx context.Context, id ln.PendingChanID) error {
	_, err := c.lightning.FundingStateStep(ctx, &lnrpc.FundingTransitionMsg{
		Trigger: &lnrpc.FundingTransitionMsg_ShimCancel{ShimCancel: &lnrpc.FundingShimCancel{PendingChanId: id[:]}},
	})
	return mapError("cancel a channel negotiation", err)
}

// RunAcceptor answers every channel that peers propose, until the stream ends.
// decide must answer from memory: lnd's funding of all peers waits for it.
func (c *Client) RunAcceptor(ctx context.Context, decide func(ln.OpenProposal) ln.AcceptVerdict) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.lightning.ChannelAcceptor(ctx)
	if err != nil {
		return mapError("attach the channel acceptor", err)
	}
	for {
		req, err := stream.Recv()
		if err != nil {
			return mapError("channel acceptor", err)
		}
		resp := &lnrpc.ChannelAcceptResponse{PendingChanId: req.PendingChanId}
		proposal, err := proposalFromRPC(req)
		if err != nil {
			resp.Error = "this node could not read the proposal"
		} else {
			applyVerdict(resp, decide(proposal))
		}
		if err := stream.Send(resp); err != nil {
			return mapError("channel acceptor", err)
		}
	}
}

// maxRefusalChars is lnd's limit on the text that the peer gets.
const maxRefusalChars = 500

func applyVerdict(resp *lnrpc.ChannelAcceptResponse, v ln.AcceptVerdict) {
	if !v.Accept {
		resp.Error = ln.Clip(v.Refusal, maxRefusalChars)
		return
	}
	resp.Accept, resp.ZeroConf = true, v.ZeroConf
	resp.CsvDelay, resp.ReserveSat = v.CsvDelay, uint64(v.ReserveSat)
	resp.InFlightMaxMsat, resp.MaxHtlcCount, resp.MinHtlcIn = uint64(v.InFlightMaxMsat), v.MaxHtlcs, uint64(v.MinHtlcInMsat)
	resp.UpfrontShutdown = v.UpfrontShutdown
	if !v.ZeroConf {
		resp.MinAcceptDepth = v.MinDepth
	}
}

func proposalFromRPC(r *lnrpc.ChannelAcceptRequest) (ln.OpenProposal, error) {
	peer, err := ln.PubKeyFromBytes(r.NodePubkey)
	if err != nil {
		return ln.OpenProposal{}, err
	}
	p := ln.OpenProposal{
		Peer: peer, CapacitySat: ln.Sat(r.FundingAmt), PushMsat: ln.Msat(r.PushAmt),
		DustLimitSat: ln.Sat(r.DustLimit), ReserveSat: ln.Sat(r.ChannelReserve), CsvDelay: r.CsvDelay,
		MaxHtlcs: r.MaxAcceptedHtlcs, MinHtlcMsat: ln.Msat(r.MinHtlc), FeeRate: ln.FeeRateSatPerKW(r.FeePerKw),
		WantsZeroConf: r.WantsZeroConf, WantsScidAlias: r.WantsScidAlias,
		// Bit 0 of channel_flags is announce_channel (BOLT 2, open_channel).
		Announce: r.ChannelFlags&1 == 1, CommitmentType: ln.CommitmentType(r.CommitmentType.String()), Wire: r,
	}
	if len(r.PendingChanId) != len(p.PendingID) {
		return p, fmt.Errorf("pending channel id has %d bytes", len(r.PendingChanId))
	}
	copy(p.PendingID[:], r.PendingChanId)
	return p, nil
}
