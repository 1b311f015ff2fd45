package lndsuite

import (
	"context"
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"
)

// jit is the request of recipe A: private, zero-conf, no fees of our own.
func (e *env) jit(capacity int64) *lnrpc.OpenChannelRequest {
	return &lnrpc.OpenChannelRequest{
		NodePubkey: e.pubBytes(Wallet), LocalFundingAmount: capacity, Private: true, ZeroConf: true, ScidAlias: true,
		CommitmentType: lnrpc.CommitmentType_ANCHORS, UseBaseFee: true, UseFeeRate: true, SpendUnconfirmed: true,
	}
}

// open opens a channel and waits for its ACTIVE event at the gateway.
func (e *env) open(r *lnrpc.OpenChannelRequest) *lnrpc.Channel {
	e.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	events, err := e.ln(Gateway).SubscribeChannelEvents(ctx, &lnrpc.ChannelEventSubscription{})
	e.ok(err)
	active := make(chan *lnrpc.ChannelPoint, 100)
	go func() {
		for {
			ev, err := events.Recv()
			if err != nil {
				return
			}
			if ev.Type == lnrpc.ChannelEventUpdate_ACTIVE_CHANNEL {
				active <- ev.GetActiveChannel()
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	s, err := e.ln(Gateway).OpenChannel(e.ctx, r)
	e.ok(err)
	u, err := s.Recv()
	e.ok(err)
	p := u.GetChanPending()
	require.NotNil(e.T, p, "%v", u)
	for {
		select {
		case a := <-active:
			if string(a.GetFundingTxidBytes()) == string(p.Txid) {
				return e.find(p)
			}
		case <-time.After(deadline):
			e.Fatal("the channel never became active")
		}
	}
}

func (e *env) find(p *lnrpc.PendingUpdate) *lnrpc.Channel {
	e.Helper()
	for _, c := range e.channels(Gateway) {
		txid, err := lnrpc.GetChanPointFundingTxid(pointOf(c))
		e.ok(err)
		if string(txid[:]) == string(p.Txid) {
			return c
		}
	}
	e.Fatal("an active channel is not listed")
	return nil
}

func pointOf(c *lnrpc.Channel) *lnrpc.ChannelPoint {
	for i := range c.ChannelPoint {
		if c.ChannelPoint[i] == ':' {
			idx := uint32(0)
			for _, d := range c.ChannelPoint[i+1:] {
				idx = idx*10 + uint32(d-'0')
			}
			return &lnrpc.ChannelPoint{
				FundingTxid: &lnrpc.ChannelPoint_FundingTxidStr{FundingTxidStr: c.ChannelPoint[:i]}, OutputIndex: idx,
			}
		}
	}
	return &lnrpc.ChannelPoint{}
}

func (e *env) openFails(r *lnrpc.OpenChannelRequest, why string) {
	e.Helper()
	s, err := e.ln(Gateway).OpenChannel(e.ctx, r)
	if err == nil {
		_, err = s.Recv()
	}
	require.ErrorContains(e.T, err, why)
}

func (e *env) alias(c *lnrpc.Channel) error {
	_, err := e.router(Gateway).XAddLocalChanAliases(e.ctx, &routerrpc.AddAliasesRequest{AliasMaps: []*lnrpc.AliasMap{{
		BaseScid: c.ChanId, Aliases: []uint64{e.x},
	}}})
	return err
}

// unalias takes X from a channel.
func (e *env) unalias(c *lnrpc.Channel) error {
	_, err := e.router(Gateway).XDeleteLocalChanAliases(e.ctx, &routerrpc.DeleteAliasesRequest{AliasMaps: []*lnrpc.AliasMap{{
		BaseScid: c.ChanId, Aliases: []uint64{e.x},
	}}})
	return err
}

// owner is the channel that X belongs to at the gateway, 0 if none.
func (e *env) owner() uint64 {
	e.Helper()
	r, err := e.ln(Gateway).ListAliases(e.ctx, &lnrpc.ListAliasesRequest{})
	e.ok(err)
	for _, m := range r.AliasMaps {
		if slices.Contains(m.Aliases, e.x) {
			return m.BaseScid
		}
	}
	return 0
}

// closed closes a channel and waits until neither node lists it.
func (e *env) closed(c *lnrpc.Channel) {
	e.Helper()
	e.peerPolicy(c)
	s, err := e.ln(Gateway).CloseChannel(e.ctx, &lnrpc.CloseChannelRequest{ChannelPoint: pointOf(c), SatPerVbyte: 2})
	e.ok(err)
	_, err = s.Recv()
	e.ok(err)
	// With the other blocks at once lnd now and then never takes the closing transaction
	// for confirmed: it begins to watch it when it sees it mined.
	e.Mine(e.T, 1)
	time.Sleep(settled)
	e.Mine(e.T, 5)
	e.until("the channel is closed", func() bool {
		r, err := e.ln(Gateway).PendingChannels(e.ctx, &lnrpc.PendingChannelsRequest{})
		// Of this channel only: another test's may be there for that reason.
		return err == nil && !slices.ContainsFunc(r.WaitingCloseChannels, func(x *lnrpc.PendingChannelsResponse_WaitingCloseChannel) bool {
			return x.Channel.ChannelPoint == c.ChannelPoint
		}) && !slices.ContainsFunc(e.channels(Gateway), func(x *lnrpc.Channel) bool {
			return x.ChannelPoint == c.ChannelPoint
		})
	})
}

// channel makes an on-demand channel of 1,000,000 sat that X maps to, and waits for its policy.
func (e *env) channel() *lnrpc.Channel {
	e.Helper()
	e.acceptor(true)
	c := e.open(e.jit(1_000_000))
	e.ok(e.alias(c))
	e.policy(c)
	return c
}

// policy waits until the gateway's own policy is in its own graph.
func (e *env) policy(c *lnrpc.Channel) {
	e.Helper()
	e.until("the own policy is in the graph", func() bool { return e.hasPolicy(c) })
}

// knows waits until both policies of a channel are in a node's graph: before that
// it may find no route.
func (e *env) knows(node string, chanID uint64) {
	e.Helper()
	e.until("the channel is in the graph of "+node, func() bool {
		i, err := e.ln(node).GetChanInfo(e.ctx, &lnrpc.ChanInfoRequest{ChanId: chanID})
		return err == nil && i.Node1Policy != nil && i.Node2Policy != nil
	})
}

func (e *env) hasPolicy(c *lnrpc.Channel) bool {
	e.Helper()
	return e.policyAt(Gateway, c.ChanId)
}

// peerPolicy waits until the wallet has its own policy of a channel, which it knows under
// an alias of its own. Until then its lnd takes a shutdown for an error ("unable to disable
// channel: edge not found"), and the links of both are gone until they connect again.
func (e *env) peerPolicy(c *lnrpc.Channel) {
	e.Helper()
	e.until("the wallet's own policy is in its graph", func() bool {
		return slices.ContainsFunc(e.channels(Wallet), func(x *lnrpc.Channel) bool {
			return x.ChannelPoint == c.ChannelPoint && e.policyAt(Wallet, x.ChanId)
		})
	})
}

func (e *env) policyAt(node string, scid uint64) bool {
	e.Helper()
	me := e.pub(node)
	i, err := e.ln(node).GetChanInfo(e.ctx, &lnrpc.ChanInfoRequest{ChanId: scid})
	return err == nil && (i.Node1Pub == me && i.Node1Policy != nil || i.Node2Pub == me && i.Node2Policy != nil)
}

func (e *env) active(node, peer string) {
	e.Helper()
	pub := e.pub(peer)
	e.until("the channel is active", func() bool {
		r, err := e.ln(node).ListChannels(e.ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false
		}
		for _, c := range r.Channels {
			if c.RemotePubkey == pub && !c.Active {
				return false
			}
		}
		return true
	})
}

// flap cuts the connection and waits until the channels are active again.
func (e *env) flap(a, b string) {
	e.Helper()
	e.Flap(e.T, a, b)
	time.Sleep(50 * time.Millisecond)
	e.active(a, b)
	e.active(b, a)
}

// restart kills a node and starts it, and waits until its channels are active.
func (e *env) restart(node string, peers ...string) {
	e.Helper()
	e.Kill(e.T, node)
	e.comeBack(node, peers...)
}

// restartInOrder is restart with an orderly end before.
func (e *env) restartInOrder(node string, peers ...string) {
	e.Helper()
	e.Stop(e.T, node)
	e.comeBack(node, peers...)
}

func (e *env) comeBack(node string, peers ...string) {
	e.Helper()
	e.Start(e.T, node)
	for _, p := range peers {
		e.active(node, p)
		e.active(p, node)
	}
}

// entry is what ListChannels says of an incoming HTLC and of an outgoing one with the same hash.
type entry struct {
	present bool
	forward uint64
	out     bool
}

func (e *env) entry(q *routerrpc.ForwardHtlcInterceptRequest) (v entry) {
	e.Helper()
	v, _, err := e.look(q)
	e.ok(err)
	return v
}

// look also says whether the incoming HTLC is locked in: it is when it is offered, and no more while it is taken off the
// commitments.
func (e *env) look(q *routerrpc.ForwardHtlcInterceptRequest) (v entry, locked bool, err error) {
	r, err := e.ln(Gateway).ListChannels(e.ctx, &lnrpc.ListChannelsRequest{})
	if err != nil {
		return v, false, err
	}
	for _, c := range r.Channels {
		for _, h := range c.PendingHtlcs {
			switch {
			case h.Incoming && c.ChanId == q.IncomingCircuitKey.ChanId && h.HtlcIndex == q.IncomingCircuitKey.HtlcId:
				v.present, v.forward, locked = true, h.ForwardingChannel, h.LockedIn
			case !h.Incoming && string(h.HashLock) == string(q.PaymentHash):
				v.out = true
			}
		}
	}
	return v, locked, nil
}
