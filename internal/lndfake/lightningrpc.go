package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/zpay32"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type lightningServer struct {
	lnrpc.UnimplementedLightningServer
	*instance
}

// GetInfo implements lnrpc.LightningServer.
func (s *lightningServer) GetInfo(context.Context, *lnrpc.GetInfoRequest) (*lnrpc.GetInfoResponse, error) {
	out := &lnrpc.GetInfoResponse{}
	err := s.do(func() error {
		n, w := s.node, s.node.w
		tip := w.chain.tip()
		*out = lnrpc.GetInfoResponse{
			Version: n.cfg.Version + " commit=v" + n.cfg.Version, IdentityPubkey: n.pub, Alias: n.name,
			BlockHeight: tip.height, BlockHash: tip.hash.String(), BestHeaderTimestamp: tip.header.Timestamp.Unix(),
			SyncedToChain: !n.behind, SyncedToGraph: true, Chains: []*lnrpc.Chain{{Chain: "bitcoin", Network: "regtest"}},
			Uris: []string{n.pub + "@" + n.name + ":9735"}, Features: map[uint32]*lnrpc.Feature{},
		}
		if !n.cfg.NoZeroConf {
			out.Features[51] = &lnrpc.Feature{Name: "zero-conf", IsKnown: true}
		}
		if !n.cfg.NoScidAlias {
			out.Features[47] = &lnrpc.Feature{Name: "scid-alias", IsKnown: true}
		}
		for _, c := range w.channels {
			sd := c.sideOf(n)
			switch {
			case sd == nil || sd.gone:
			case c.phase == phasePending:
				out.NumPendingChannels++
			case sd.active():
				out.NumActiveChannels++
			case c.phase == phaseOpen:
				out.NumInactiveChannels++
			}
		}
		for _, c := range w.conns {
			if c.has(n) && c.up {
				out.NumPeers++
			}
		}
		return nil
	})
	return out, err
}

// GetDebugInfo implements lnrpc.LightningServer with the settings that the fake has.
func (s *lightningServer) GetDebugInfo(context.Context, *lnrpc.GetDebugInfoRequest) (*lnrpc.GetDebugInfoResponse, error) {
	c := s.node.cfg
	return &lnrpc.GetDebugInfoResponse{Config: map[string]string{
		"requireinterceptor": fmt.Sprint(c.RequireInterceptor), "bitcoin.basefee": fmt.Sprint(*c.BaseFeeMsat),
		"bitcoin.feerate": fmt.Sprint(*c.FeeRatePPM), "bitcoin.timelockdelta": fmt.Sprint(c.TimeLockDelta),
		"invoices.holdexpirydelta": fmt.Sprint(c.HoldExpiryDelta), "protocol.zero-conf": fmt.Sprint(!c.NoZeroConf),
		"protocol.option-scid-alias": fmt.Sprint(!c.NoScidAlias), "rejectpush": fmt.Sprint(c.RejectPush),
		"maxpendingchannels": fmt.Sprint(c.MaxPendingChannels), "bitcoin.regtest": "true",
	}}, nil
}

// CheckMacaroonPermissions implements lnrpc.LightningServer: the fake has no macaroons, so anybody may do anything.
func (s *lightningServer) CheckMacaroonPermissions(context.Context, *lnrpc.CheckMacPermRequest) (*lnrpc.CheckMacPermResponse, error) {
	return &lnrpc.CheckMacPermResponse{Valid: true}, nil
}

// StopDaemon implements lnrpc.LightningServer.
func (s *lightningServer) StopDaemon(context.Context, *lnrpc.StopRequest) (*lnrpc.StopResponse, error) {
	go s.node.Kill()
	return &lnrpc.StopResponse{Status: "shutdown initiated, check logs for progress"}, nil
}

func (n *Node) sides(keep func(*side) bool) (out []*side) {
	for _, c := range n.w.channels {
		if s := c.sideOf(n); s != nil && !s.gone && keep(s) {
			out = append(out, s)
		}
	}
	return out
}

// ListChannels implements lnrpc.LightningServer.
func (s *lightningServer) ListChannels(_ context.Context, r *lnrpc.ListChannelsRequest) (*lnrpc.ListChannelsResponse, error) {
	out := &lnrpc.ListChannelsResponse{}
	err := s.do(func() error {
		for _, sd := range s.node.sides((*side).listed) {
			if len(r.Peer) > 0 && hex.EncodeToString(r.Peer) != sd.other().node.pub || r.ActiveOnly && !sd.active() ||
				r.InactiveOnly && sd.active() || r.PrivateOnly && !sd.c.private || r.PublicOnly && sd.c.private {
				continue
			}
			out.Channels = append(out.Channels, sd.rpc())
		}
		return nil
	})
	return out, err
}

func (s *side) pendingRPC() *lnrpc.PendingChannelsResponse_PendingChannel {
	return &lnrpc.PendingChannelsResponse_PendingChannel{
		RemoteNodePub: s.other().node.pub, ChannelPoint: s.c.pointString(), Capacity: s.c.capacity, LocalBalance: s.localSat(),
		RemoteBalance: s.other().localSat(), LocalChanReserveSat: s.c.reserveSat(), RemoteChanReserveSat: s.c.reserveSat(),
		Initiator: initiator(s.i), CommitmentType: s.c.taproot, Private: s.c.private, Memo: s.memo(),
		NumForwardingPackages: int64(len(s.pkgs)), ChanStatusFlags: "ChanStatusDefault",
	}
}

// PendingChannels implements lnrpc.LightningServer.
func (s *lightningServer) PendingChannels(_ context.Context, r *lnrpc.PendingChannelsRequest) (*lnrpc.PendingChannelsResponse, error) {
	out := &lnrpc.PendingChannelsResponse{}
	err := s.do(func() error {
		for _, sd := range s.node.sides(func(*side) bool { return true }) {
			c, cl := sd.c, sd.c.closing
			switch {
			case c.phase == phasePending:
				confs := c.w.chain.confirmations(c.op.Hash)
				out.PendingOpenChannels = append(out.PendingOpenChannels, &lnrpc.PendingChannelsResponse_PendingOpenChannel{
					Channel: sd.pendingRPC(), CommitFee: c.commitFeeSat(), CommitWeight: c.weight(0), FeePerKw: c.feePerKW,
					ConfirmationsUntilActive: c.numConfs - min(confs, c.numConfs), FundingExpiryBlocks: 2016,
				})
			case sd.listed():
			case c.phase == phaseClosing && (!cl.confirmed || !cl.force && !sd.over):
				out.WaitingCloseChannels = append(out.WaitingCloseChannels, sd.waitingRPC(r.IncludeRawTx))
			case c.phase == phaseClosing && !sd.over && !(cl.breach && cl.initiator != sd.i):
				// lnd lists a channel nowhere while it takes back the money of a breach.
				limbo, recovered, htlcs := sd.limbo()
				f := &lnrpc.PendingChannelsResponse_ForceClosedChannel{
					Channel: sd.pendingRPC(), ClosingTxid: cl.tx.TxHash().String(), LimboBalance: limbo, RecoveredBalance: recovered,
					PendingHtlcs: htlcs,
				}
				f.Channel.LocalBalance = cl.settled[sd.i]
				out.PendingForceClosingChannels = append(out.PendingForceClosingChannels, f)
			}
		}
		return nil
	})
	return out, err
}

func (s *side) waitingRPC(raw bool) *lnrpc.PendingChannelsResponse_WaitingCloseChannel {
	cl := s.c.closing
	txid := cl.tx.TxHash().String()
	m := &lnrpc.PendingChannelsResponse_WaitingCloseChannel{
		Channel: s.pendingRPC(), ClosingTxid: txid, LimboBalance: s.localSat(), Commitments: &lnrpc.PendingChannelsResponse_Commitments{},
	}
	if raw {
		m.ClosingTxHex = hex.EncodeToString(encodeTx(cl.tx))
	}
	switch {
	case cl.force && cl.initiator == s.i:
		m.Commitments.LocalTxid = txid
	case cl.force:
		m.Commitments.RemoteTxid = txid
	}
	return m
}

// ClosedChannels implements lnrpc.LightningServer.
func (s *lightningServer) ClosedChannels(context.Context, *lnrpc.ClosedChannelsRequest) (*lnrpc.ClosedChannelsResponse, error) {
	out := &lnrpc.ClosedChannelsResponse{}
	err := s.do(func() error {
		for _, c := range s.node.w.channels {
			if sd := c.sideOf(s.node); sd != nil && (sd.gone || sd.over) {
				out.Channels = append(out.Channels, sd.closeSummary())
			}
		}
		return nil
	})
	return out, err
}

// SubscribeChannelEvents implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeChannelEvents(_ *lnrpc.ChannelEventSubscription, stream lnrpc.Lightning_SubscribeChannelEventsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.chanEvents, nil, stream.Send)
}

// CloseChannel implements lnrpc.LightningServer.
func (s *lightningServer) CloseChannel(r *lnrpc.CloseChannelRequest, stream lnrpc.Lightning_CloseChannelServer) error {
	var c *channel
	var by int
	if err := s.do(func() error {
		sd, err := s.node.findPoint(r.ChannelPoint)
		if err != nil {
			return err
		}
		c, by = sd.c, sd.i
		switch {
		case r.Force:
			return c.forceClose(by)
		case r.NoWait:
			return c.mayShutDown()
		}
		return c.closeCooperatively(by, s.node.feeRate(int64(r.SatPerVbyte), r.TargetConf))
	}); err != nil {
		return err
	}
	if r.NoWait {
		// lnd says so before it has begun, whatever comes of it.
		if err := stream.Send(&lnrpc.CloseStatusUpdate{Update: &lnrpc.CloseStatusUpdate_CloseInstant{CloseInstant: &lnrpc.InstantUpdate{}}}); err != nil || r.Force {
			return err
		}
		return s.do(func() error {
			c.shutDown(by, s.node.feeRate(int64(r.SatPerVbyte), r.TargetConf))
			return nil
		})
	}
	txid := c.closing.tx.TxHash()
	if err := stream.Send(&lnrpc.CloseStatusUpdate{Update: &lnrpc.CloseStatusUpdate_ClosePending{
		ClosePending: &lnrpc.PendingUpdate{Txid: txid[:]},
	}}); err != nil {
		return err
	}
	if err := pump(s.instance, stream.Context(), &s.mem.chainTopic, func(f *feed[chainEvent]) { f.push(chainEvent{}) },
		func(chainEvent) error {
			return s.do(func() error {
				if c.w.chain.confirmations(txid) > 0 {
					return errDone
				}
				return nil
			})
		}); !errors.Is(err, errDone) {
		return err
	}
	return stream.Send(&lnrpc.CloseStatusUpdate{Update: &lnrpc.CloseStatusUpdate_ChanClose{
		ChanClose: &lnrpc.ChannelCloseUpdate{ClosingTxid: txid[:], Success: true},
	}})
}

var errDone = errors.New("done")

// DecodePayReq implements lnrpc.LightningServer.
func (s *lightningServer) DecodePayReq(_ context.Context, r *lnrpc.PayReqString) (*lnrpc.PayReq, error) {
	inv, err := zpay32.Decode(r.PayReq, s.node.w.chain.params)
	if err != nil {
		return nil, err
	}
	m := &lnrpc.PayReq{
		Destination: hex.EncodeToString(inv.Destination.SerializeCompressed()), PaymentHash: hex.EncodeToString(inv.PaymentHash[:]),
		Timestamp: inv.Timestamp.Unix(), Expiry: int64(inv.Expiry() / time.Second), CltvExpiry: int64(inv.MinFinalCLTVExpiry()),
		RouteHints: hintsRPC(inv), Features: map[uint32]*lnrpc.Feature{},
	}
	inv.PaymentAddr.WhenSome(func(a [32]byte) { m.PaymentAddr = a[:] })
	if inv.MilliSat != nil {
		m.NumMsat = int64(*inv.MilliSat)
		m.NumSatoshis = m.NumMsat / 1000
	}
	if inv.Description != nil {
		m.Description = *inv.Description
	}
	if inv.DescriptionHash != nil {
		m.DescriptionHash = hex.EncodeToString(inv.DescriptionHash[:])
	}
	return m, nil
}

// ListPayments implements lnrpc.LightningServer.
func (s *lightningServer) ListPayments(_ context.Context, r *lnrpc.ListPaymentsRequest) (*lnrpc.ListPaymentsResponse, error) {
	out := &lnrpc.ListPaymentsResponse{}
	err := s.do(func() error {
		order := s.node.payments.order
		if r.Reversed {
			order = newest(order, func(p *payment) uint64 { return p.index }, r.IndexOffset, r.MaxPayments)
		}
		for _, p := range order {
			if !r.Reversed && p.index <= r.IndexOffset || !r.IncludeIncomplete && p.status != lnrpc.Payment_SUCCEEDED {
				continue
			}
			if r.MaxPayments > 0 && uint64(len(out.Payments)) >= r.MaxPayments {
				break
			}
			out.Payments = append(out.Payments, p.rpc())
			if out.FirstIndexOffset == 0 {
				out.FirstIndexOffset = p.index
			}
			out.LastIndexOffset = p.index
		}
		return nil
	})
	return out, err
}

// ForwardingHistory implements lnrpc.LightningServer.
func (s *lightningServer) ForwardingHistory(_ context.Context, r *lnrpc.ForwardingHistoryRequest) (*lnrpc.ForwardingHistoryResponse, error) {
	out := &lnrpc.ForwardingHistoryResponse{}
	err := s.do(func() error {
		limit := int(r.NumMaxEvents)
		if limit == 0 {
			limit = 100
		}
		for i, e := range s.node.forwards {
			if i < int(r.IndexOffset) || e.Timestamp < r.StartTime || r.EndTime > 0 && e.Timestamp > r.EndTime {
				continue
			}
			if len(out.ForwardingEvents) == limit {
				break
			}
			out.ForwardingEvents = append(out.ForwardingEvents, e)
			out.LastOffsetIndex = uint32(i + 1)
		}
		return nil
	})
	return out, err
}

// LookupHtlcResolution implements lnrpc.LightningServer.
func (s *lightningServer) LookupHtlcResolution(_ context.Context, r *lnrpc.LookupHtlcResolutionRequest) (*lnrpc.LookupHtlcResolutionResponse, error) {
	out := &lnrpc.LookupHtlcResolutionResponse{}
	err := s.do(func() error {
		settled, ok := s.node.resolved[circuitKey{r.ChanId, r.HtlcIndex}]
		if !ok {
			return status.Error(codes.NotFound, "htlc unknown")
		}
		out.Settled, out.Offchain = settled, true
		return nil
	})
	return out, err
}
