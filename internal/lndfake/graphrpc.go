package lndfake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
