package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
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
			SyncedToChain: true, SyncedToGraph: true, Chains: []*lnrpc.Chain{{Chain: "bitcoin", Network: "regtest"}},
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
		for _, sd := range s.node.sides(func(x *side) bool { return x.c.phase == phaseOpen }) {
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
func (s *lightningServer) PendingChannels(context.Context, *lnrpc.PendingChannelsRequest) (*lnrpc.PendingChannelsResponse, error) {
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
			case c.phase == phaseClosing && !cl.confirmed:
				out.WaitingCloseChannels = append(out.WaitingCloseChannels, &lnrpc.PendingChannelsResponse_WaitingCloseChannel{
					Channel: sd.pendingRPC(), ClosingTxid: cl.tx.TxHash().String(), LimboBalance: sd.localSat(),
				})
			case c.phase == phaseClosing:
				f := &lnrpc.PendingChannelsResponse_ForceClosedChannel{
					Channel: sd.pendingRPC(), ClosingTxid: cl.tx.TxHash().String(), LimboBalance: sd.localSat(),
				}
				for _, k := range cl.contracts {
					if !k.done {
						f.PendingHtlcs = append(f.PendingHtlcs, &lnrpc.PendingHTLC{
							Incoming: k.h.from != sd.i, Amount: k.h.amt / 1000, Outpoint: k.op.String(), MaturityHeight: k.h.expiry, Stage: 1,
						})
					}
				}
				out.PendingForceClosingChannels = append(out.PendingForceClosingChannels, f)
			}
		}
		return nil
	})
	return out, err
}

// ClosedChannels implements lnrpc.LightningServer.
func (s *lightningServer) ClosedChannels(context.Context, *lnrpc.ClosedChannelsRequest) (*lnrpc.ClosedChannelsResponse, error) {
	out := &lnrpc.ClosedChannelsResponse{}
	err := s.do(func() error {
		for _, c := range s.node.w.channels {
			if sd := c.sideOf(s.node); sd != nil && (sd.gone || c.phase == phaseClosed) {
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
	if err := s.do(func() error {
		sd, err := s.node.findPoint(r.ChannelPoint)
		if err != nil {
			return err
		}
		c = sd.c
		if r.Force {
			return c.forceClose(sd.i)
		}
		return c.closeCooperatively(sd.i, s.node.feeRate(int64(r.SatPerVbyte), r.TargetConf))
	}); err != nil {
		return err
	}
	txid := c.closing.tx.TxHash()
	if err := stream.Send(&lnrpc.CloseStatusUpdate{Update: &lnrpc.CloseStatusUpdate_ClosePending{
		ClosePending: &lnrpc.PendingUpdate{Txid: txid[:]},
	}}); err != nil || r.NoWait {
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

// ListPeers implements lnrpc.LightningServer.
func (s *lightningServer) ListPeers(context.Context, *lnrpc.ListPeersRequest) (*lnrpc.ListPeersResponse, error) {
	out := &lnrpc.ListPeersResponse{}
	err := s.do(func() error {
		for _, c := range s.node.w.conns {
			if c.has(s.node) && c.up {
				out.Peers = append(out.Peers, &lnrpc.Peer{
					PubKey: c.other(s.node).pub, Address: c.other(s.node).name + ":9735", SyncType: lnrpc.Peer_ACTIVE_SYNC,
				})
			}
		}
		sort.Slice(out.Peers, func(i, j int) bool { return out.Peers[i].PubKey < out.Peers[j].PubKey })
		return nil
	})
	return out, err
}

// SubscribePeerEvents implements lnrpc.LightningServer. As in lnd there is no initial snapshot.
func (s *lightningServer) SubscribePeerEvents(_ *lnrpc.PeerEventSubscription, stream lnrpc.Lightning_SubscribePeerEventsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.peerEvents, nil, stream.Send)
}

// ConnectPeer implements lnrpc.LightningServer; the host is not looked at.
func (s *lightningServer) ConnectPeer(_ context.Context, r *lnrpc.ConnectPeerRequest) (*lnrpc.ConnectPeerResponse, error) {
	err := s.do(func() error {
		if r.Addr == nil {
			return errors.New("need: lnc pubkeyhash@hostname")
		}
		peer := s.node.w.byPub[r.Addr.Pubkey]
		switch {
		case peer == s.node:
			return errors.New("cannot make connection to self")
		case peer == nil || !peer.up || peer.frozen:
			return fmt.Errorf("dial proxy failed: no node %s", r.Addr.Pubkey)
		case s.node.connected(peer):
			return fmt.Errorf("already connected to peer: %s@%s:9735", peer.pub, peer.name)
		}
		c := s.node.w.conn(s.node, peer)
		c.wanted = true
		c.establish()
		return nil
	})
	return &lnrpc.ConnectPeerResponse{}, err
}

// DisconnectPeer implements lnrpc.LightningServer.
func (s *lightningServer) DisconnectPeer(_ context.Context, r *lnrpc.DisconnectPeerRequest) (*lnrpc.DisconnectPeerResponse, error) {
	err := s.do(func() error {
		peer := s.node.w.byPub[r.PubKey]
		if peer == nil || !s.node.connected(peer) {
			return fmt.Errorf("peer %s is not connected", r.PubKey)
		}
		c := s.node.w.conn(s.node, peer)
		c.wanted = len(s.node.sides(func(x *side) bool { return x.other().node == peer && x.canUse() })) > 0
		c.drop()
		c.reconnect()
		return nil
	})
	return &lnrpc.DisconnectPeerResponse{}, err
}

func (s *side) policyRPC() *lnrpc.RoutingPolicy {
	if s.graph == nil {
		return nil
	}
	p := *s.graph
	return &lnrpc.RoutingPolicy{
		TimeLockDelta: p.delta, MinHtlc: p.minMsat, FeeBaseMsat: p.baseMsat, FeeRateMilliMsat: p.ratePPM,
		Disabled: p.disabled, MaxHtlcMsat: uint64(p.maxMsat), LastUpdate: uint32(p.updated),
	}
}

func (s *side) edgeRPC() *lnrpc.ChannelEdge {
	o := s.other()
	e := &lnrpc.ChannelEdge{
		ChannelId: s.chanID(), ChanPoint: s.c.pointString(), Capacity: s.c.capacity, Node1Pub: s.node.pub, Node2Pub: o.node.pub,
		Node1Policy: s.policyRPC(),
	}
	if s.peerOK {
		e.Node2Policy = o.policyRPC()
	}
	if e.Node1Pub > e.Node2Pub {
		e.Node1Pub, e.Node2Pub, e.Node1Policy, e.Node2Policy = e.Node2Pub, e.Node1Pub, e.Node2Policy, e.Node1Policy
	}
	return e
}

// GetChanInfo implements lnrpc.LightningServer.
func (s *lightningServer) GetChanInfo(_ context.Context, r *lnrpc.ChanInfoRequest) (out *lnrpc.ChannelEdge, err error) {
	err = s.do(func() error {
		for _, c := range s.node.w.channels {
			sd := c.sideOf(s.node)
			if sd == nil && !c.private {
				sd = c.sides[0]
			}
			if sd == nil || c.phase != phaseOpen || sd.graph == nil && !sd.peerOK {
				continue
			}
			if r.ChanPoint != "" && r.ChanPoint == c.pointString() || r.ChanId != 0 && (r.ChanId == sd.chanID() || s.node.aliases[r.ChanId] == sd) {
				out = sd.edgeRPC()
				return nil
			}
		}
		return status.Error(codes.NotFound, "edge not found")
	})
	return out, err
}

// UpdateChannelPolicy implements lnrpc.LightningServer.
func (s *lightningServer) UpdateChannelPolicy(_ context.Context, r *lnrpc.PolicyUpdateRequest) (*lnrpc.PolicyUpdateResponse, error) {
	out := &lnrpc.PolicyUpdateResponse{}
	err := s.do(func() error {
		if r.TimeLockDelta < 18 {
			return fmt.Errorf("time lock delta of %d is too small, minimum supported is 18", r.TimeLockDelta)
		}
		var op *wire.OutPoint
		if cp := r.GetChanPoint(); cp != nil {
			p, err := parsePoint(cp)
			if err != nil {
				return err
			}
			op = &p
		} else if !r.GetGlobal() {
			return errors.New("unknown scope")
		}
		for _, sd := range s.node.sides(func(x *side) bool { return x.c.phase == phaseOpen }) {
			if op != nil && sd.c.op != *op {
				continue
			}
			if sd.graph == nil && (!r.CreateMissingEdge || op == nil) {
				out.FailedUpdates = append(out.FailedUpdates, &lnrpc.FailedUpdate{
					Outpoint: outpointRPC(sd.c.op), Reason: lnrpc.UpdateFailure_UPDATE_FAILURE_NOT_FOUND, UpdateError: "edge not found",
				})
				continue
			}
			p := sd.link
			p.baseMsat, p.ratePPM, p.delta = r.BaseFeeMsat, int64(r.FeeRatePpm), r.TimeLockDelta
			if r.FeeRate > 0 {
				p.ratePPM = int64(r.FeeRate * 1e6) // the wire's own unit is a float here
			}
			if r.MaxHtlcMsat > 0 {
				p.maxMsat = int64(r.MaxHtlcMsat)
			}
			if r.MinHtlcMsatSpecified {
				p.minMsat = int64(r.MinHtlcMsat)
			}
			p.updated = time.Now().Unix()
			sd.graph, sd.link = &p, p
			if sd.c.up {
				sd.other().peerOK = true
			}
		}
		return nil
	})
	return out, err
}

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
		for _, p := range s.node.payments.order {
			if p.index <= r.IndexOffset || !r.IncludeIncomplete && p.status != lnrpc.Payment_SUCCEEDED {
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

// SendCustomMessage implements lnrpc.LightningServer.
func (s *lightningServer) SendCustomMessage(_ context.Context, r *lnrpc.SendCustomMessageRequest) (*lnrpc.SendCustomMessageResponse, error) {
	err := s.do(func() error {
		peer := s.node.w.byPub[hex.EncodeToString(r.Peer)]
		switch {
		case peer == nil || !s.node.connected(peer):
			return status.Error(codes.NotFound, "peer is not connected")
		case r.Type < 32768:
			return fmt.Errorf("custom type %d is below the custom range", r.Type)
		case len(r.Data) > 65533:
			s.node.w.conn(s.node, peer).drop()
			s.node.w.conn(s.node, peer).reconnect()
			return nil
		}
		conn := s.node.w.conn(s.node, peer)
		gen := conn.gen
		data := slices.Clone(r.Data)
		from := slices.Clone(s.node.key.PubKey().SerializeCompressed())
		s.node.w.after(s.node.w.cfg.Latency.Message, func() {
			if conn.up && conn.gen == gen {
				peer.mem.custom.publish(&lnrpc.CustomMessage{Peer: from, Type: r.Type, Data: data})
			}
		})
		return nil
	})
	return &lnrpc.SendCustomMessageResponse{Status: "message sent successfully"}, err
}

// SubscribeCustomMessages implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeCustomMessages(_ *lnrpc.SubscribeCustomMessagesRequest, stream lnrpc.Lightning_SubscribeCustomMessagesServer) error {
	return pump(s.instance, stream.Context(), &s.mem.custom, nil, stream.Send)
}

const signedPrefix = "Lightning Signed Message:"

const zbase32 = "ybndrfg8ejkmcpqxot1uwisza345h769"

func zEncode(b []byte) string {
	var sb strings.Builder
	for bit := 0; bit < len(b)*8; bit += 5 {
		v := 0
		for k := range 5 {
			v <<= 1
			if i := bit + k; i < len(b)*8 && b[i/8]>>(7-i%8)&1 == 1 {
				v |= 1
			}
		}
		sb.WriteByte(zbase32[v])
	}
	return sb.String()
}

func zDecode(s string) ([]byte, error) {
	out := make([]byte, len(s)*5/8)
	for i, r := range s {
		v := strings.IndexRune(zbase32, r)
		if v < 0 {
			return nil, errors.New("failed to decode signature")
		}
		for k := range 5 {
			if bit := i*5 + k; bit/8 < len(out) && v>>(4-k)&1 == 1 {
				out[bit/8] |= 1 << (7 - bit%8)
			}
		}
	}
	return out, nil
}

// SignMessage implements lnrpc.LightningServer.
func (s *lightningServer) SignMessage(_ context.Context, r *lnrpc.SignMessageRequest) (*lnrpc.SignMessageResponse, error) {
	if r.Msg == nil {
		return nil, errors.New("need a message to sign")
	}
	msg := append([]byte(signedPrefix), r.Msg...)
	digest := chainhash.DoubleHashB(msg)
	if r.SingleHash {
		digest = chainhash.HashB(msg)
	}
	return &lnrpc.SignMessageResponse{Signature: zEncode(ecdsa.SignCompact(s.node.key, digest, true))}, nil
}

// VerifyMessage implements lnrpc.LightningServer; valid means that the key is a node of the world's, as lnd's means
// a node of the graph.
func (s *lightningServer) VerifyMessage(_ context.Context, r *lnrpc.VerifyMessageRequest) (*lnrpc.VerifyMessageResponse, error) {
	sig, err := zDecode(r.Signature)
	if err != nil {
		return nil, err
	}
	pub, _, err := ecdsa.RecoverCompact(sig, chainhash.DoubleHashB(append([]byte(signedPrefix), r.Msg...)))
	if err != nil {
		return &lnrpc.VerifyMessageResponse{}, nil
	}
	out := &lnrpc.VerifyMessageResponse{Pubkey: hex.EncodeToString(pub.SerializeCompressed())}
	err = s.do(func() error { out.Valid = s.node.w.byPub[out.Pubkey] != nil; return nil })
	return out, err
}

// WalletBalance implements lnrpc.LightningServer.
func (s *lightningServer) WalletBalance(context.Context, *lnrpc.WalletBalanceRequest) (*lnrpc.WalletBalanceResponse, error) {
	out := &lnrpc.WalletBalanceResponse{}
	err := s.do(func() error {
		c, u, l := s.node.wallet.balances()
		out.ConfirmedBalance, out.UnconfirmedBalance, out.LockedBalance, out.TotalBalance = c, u, l, c+u+l
		out.AccountBalance = map[string]*lnrpc.WalletAccountBalance{"default": {ConfirmedBalance: c, UnconfirmedBalance: u}}
		return nil
	})
	return out, err
}

// ChannelBalance implements lnrpc.LightningServer.
func (s *lightningServer) ChannelBalance(context.Context, *lnrpc.ChannelBalanceRequest) (*lnrpc.ChannelBalanceResponse, error) {
	out := &lnrpc.ChannelBalanceResponse{}
	err := s.do(func() error {
		var local, remote int64
		for _, sd := range s.node.sides(func(x *side) bool { return x.c.phase == phaseOpen }) {
			local += sd.localSat()
			remote += sd.other().localSat()
		}
		out.Balance, out.LocalBalance = local, &lnrpc.Amount{Sat: uint64(local), Msat: uint64(local * 1000)}
		out.RemoteBalance = &lnrpc.Amount{Sat: uint64(remote), Msat: uint64(remote * 1000)}
		return nil
	})
	return out, err
}

// concerns says whether the wallet gains or loses by the transaction.
func (n *Node) concerns(e *mempoolTx) bool {
	mine := func(o *wire.TxOut) bool { return n.w.chain.owner[string(o.PkScript)] == n }
	for _, k := range e.prev {
		if mine(k.out) {
			return true
		}
	}
	return slices.ContainsFunc(e.tx.TxOut, mine)
}

func (n *Node) txRPC(e *mempoolTx) *lnrpc.Transaction {
	chain := n.w.chain
	m := &lnrpc.Transaction{
		TxHash: e.txid.String(), NumConfirmations: int32(chain.confirmations(e.txid)), BlockHeight: int32(e.height),
		TimeStamp: e.arrived.Unix(), RawTxHex: hex.EncodeToString(encodeTx(e.tx)), Label: e.label,
	}
	spends := false
	for _, k := range e.prev {
		if chain.owner[string(k.out.PkScript)] == n {
			m.Amount -= k.out.Value
			spends = true
		}
	}
	for i, o := range e.tx.TxOut {
		mine := chain.owner[string(o.PkScript)] == n
		if mine {
			m.Amount += o.Value
		}
		m.OutputDetails = append(m.OutputDetails, &lnrpc.OutputDetail{
			PkScript: hex.EncodeToString(o.PkScript), OutputIndex: int64(i), Amount: o.Value, IsOurAddress: mine,
		})
	}
	for _, ti := range e.tx.TxIn {
		k := e.prev[ti.PreviousOutPoint]
		m.PreviousOutpoints = append(m.PreviousOutpoints, &lnrpc.PreviousOutPoint{
			Outpoint: ti.PreviousOutPoint.String(), IsOurOutput: k != nil && chain.owner[string(k.out.PkScript)] == n,
		})
	}
	if spends {
		m.TotalFees = e.feeSat
	}
	if e.height > 0 {
		for _, b := range chain.blocks {
			if b.height == e.height {
				m.BlockHash = b.hash.String()
			}
		}
	}
	return m
}

func (n *Node) announceTx(e *mempoolTx) {
	if n.concerns(e) {
		n.mem.transactions.publish(n.txRPC(e))
	}
}

// GetTransactions implements lnrpc.LightningServer, newest first.
func (s *lightningServer) GetTransactions(_ context.Context, r *lnrpc.GetTransactionsRequest) (*lnrpc.TransactionDetails, error) {
	out := &lnrpc.TransactionDetails{}
	err := s.do(func() error {
		chain := s.node.w.chain
		all := slices.Clone(chain.mempool)
		slices.Reverse(all)
		for i := len(chain.blocks) - 1; i >= 0; i-- {
			all = append(all, chain.blocks[i].txs...)
		}
		for _, e := range all {
			if s.node.concerns(e) && (e.height == 0 || int32(e.height) >= r.StartHeight) {
				out.Transactions = append(out.Transactions, s.node.txRPC(e))
			}
		}
		return nil
	})
	return out, err
}

// SubscribeTransactions implements lnrpc.LightningServer.
func (s *lightningServer) SubscribeTransactions(_ *lnrpc.GetTransactionsRequest, stream lnrpc.Lightning_SubscribeTransactionsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.transactions, nil, stream.Send)
}

// ListUnspent implements lnrpc.LightningServer.
func (s *lightningServer) ListUnspent(_ context.Context, r *lnrpc.ListUnspentRequest) (*lnrpc.ListUnspentResponse, error) {
	out := &lnrpc.ListUnspentResponse{}
	err := s.do(func() error { out.Utxos = s.node.wallet.utxos(r.MinConfs, r.MaxConfs); return nil })
	return out, err
}

// NewAddress implements lnrpc.LightningServer.
func (s *lightningServer) NewAddress(_ context.Context, r *lnrpc.NewAddressRequest) (*lnrpc.NewAddressResponse, error) {
	out := &lnrpc.NewAddressResponse{}
	err := s.do(func() error {
		taproot := r.Type == lnrpc.AddressType_TAPROOT_PUBKEY || r.Type == lnrpc.AddressType_UNUSED_TAPROOT_PUBKEY
		_, addr, err := s.node.wallet.newScript(taproot)
		if err == nil {
			out.Address = addr.EncodeAddress()
		}
		return err
	})
	return out, err
}

// SendCoins implements lnrpc.LightningServer.
func (s *lightningServer) SendCoins(_ context.Context, r *lnrpc.SendCoinsRequest) (*lnrpc.SendCoinsResponse, error) {
	out := &lnrpc.SendCoinsResponse{}
	err := s.do(func() error {
		if r.SendAll {
			return status.Error(codes.Unimplemented, "SendCoins with send_all is not implemented by the fake")
		}
		script, err := s.node.addrScript(r.Addr)
		if err != nil {
			return err
		}
		minConfs := r.MinConfs
		if !r.SpendUnconfirmed && minConfs == 0 {
			minConfs = 1
		}
		tx, err := s.node.wallet.send([]*wire.TxOut{wire.NewTxOut(r.Amount, script)}, s.node.feeRate(int64(r.SatPerVbyte), r.TargetConf), minConfs, r.Label)
		if err == nil {
			out.Txid = tx.TxHash().String()
		}
		return err
	})
	return out, err
}

// EstimateFee implements lnrpc.LightningServer.
func (s *lightningServer) EstimateFee(_ context.Context, r *lnrpc.EstimateFeeRequest) (*lnrpc.EstimateFeeResponse, error) {
	out := &lnrpc.EstimateFeeResponse{}
	err := s.do(func() error {
		var outs []*wire.TxOut
		for a, v := range r.AddrToAmount {
			script, err := s.node.addrScript(a)
			if err != nil {
				return err
			}
			outs = append(outs, wire.NewTxOut(v, script))
		}
		rate := s.node.feeRate(0, r.TargetConf)
		p, _, err := s.node.wallet.build(outs, rate, r.MinConfs, nil)
		if err != nil {
			return err
		}
		for _, in := range p.Inputs {
			out.FeeSat += in.WitnessUtxo.Value
		}
		for _, o := range p.UnsignedTx.TxOut {
			out.FeeSat -= o.Value
		}
		out.SatPerVbyte = uint64((rate + 249) / 250)
		return nil
	})
	return out, err
}

// DescribeGraph implements lnrpc.LightningServer.
func (s *lightningServer) DescribeGraph(_ context.Context, r *lnrpc.ChannelGraphRequest) (*lnrpc.ChannelGraph, error) {
	out := &lnrpc.ChannelGraph{}
	err := s.do(func() error {
		for _, n := range s.node.w.order {
			out.Nodes = append(out.Nodes, &lnrpc.LightningNode{PubKey: n.pub, Alias: n.name})
		}
		for _, c := range s.node.w.channels {
			sd := c.sideOf(s.node)
			if c.phase != phaseOpen || c.private && (!r.IncludeUnannounced || sd == nil) {
				continue
			}
			if sd == nil {
				sd = c.sides[0]
			}
			if sd.graph != nil {
				out.Edges = append(out.Edges, sd.edgeRPC())
			}
		}
		return nil
	})
	return out, err
}

// GetNodeInfo implements lnrpc.LightningServer.
func (s *lightningServer) GetNodeInfo(_ context.Context, r *lnrpc.NodeInfoRequest) (*lnrpc.NodeInfo, error) {
	out := &lnrpc.NodeInfo{}
	err := s.do(func() error {
		n := s.node.w.byPub[r.PubKey]
		if n == nil {
			return status.Error(codes.NotFound, "unable to find node")
		}
		out.Node = &lnrpc.LightningNode{PubKey: n.pub, Alias: n.name}
		for _, sd := range n.sides(func(x *side) bool { return x.c.phase == phaseOpen && !x.c.private }) {
			out.NumChannels++
			out.TotalCapacity += sd.c.capacity
		}
		return nil
	})
	return out, err
}

// ListAliases implements lnrpc.LightningServer.
func (s *lightningServer) ListAliases(context.Context, *lnrpc.ListAliasesRequest) (*lnrpc.ListAliasesResponse, error) {
	out := &lnrpc.ListAliasesResponse{}
	err := s.do(func() error { out.AliasMaps = s.node.aliasMaps(); return nil })
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
