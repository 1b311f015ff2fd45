package lndfake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/zpay32"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type routerServer struct {
	routerrpc.UnimplementedRouterServer
	*instance
}

func (n *Node) parsePayment(r *routerrpc.SendPaymentRequest) (*payment, error) {
	p := &payment{
		request: r.PaymentRequest, maxParts: int(r.MaxParts), shardMax: int64(r.MaxShardSizeMsat), outgoing: r.OutgoingChanIds,
		records: r.DestCustomRecords, cltvMax: uint32(r.CltvLimit), value: r.AmtMsat,
	}
	if p.maxParts == 0 {
		p.maxParts = 16
	}
	if r.Amt != 0 {
		p.value = r.Amt * 1000
	}
	timeout := time.Duration(r.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = time.Minute
	}
	p.deadline = time.Now().Add(timeout)
	if r.Amp {
		return nil, errors.New("AMP is not supported by the fake")
	}
	if r.PaymentRequest == "" {
		if len(r.PaymentHash) != 32 || len(r.Dest) != 33 {
			return nil, errors.New("destination and payment hash must be given without an invoice")
		}
		p.dest, p.hash, p.hints, p.delta = hex.EncodeToString(r.Dest), [32]byte(r.PaymentHash), r.RouteHints, uint32(r.FinalCltvDelta)
		if p.delta == 0 {
			p.delta = 80
		}
		if len(r.PaymentAddr) == 32 {
			a := [32]byte(r.PaymentAddr)
			p.addr = &a
		}
	} else {
		inv, err := zpay32.Decode(r.PaymentRequest, n.w.chain.params)
		if err != nil {
			return nil, err
		}
		if time.Now().After(inv.Timestamp.Add(inv.Expiry())) {
			return nil, fmt.Errorf("invoice expired. Valid until %v", inv.Timestamp.Add(inv.Expiry()))
		}
		if inv.MilliSat != nil {
			if p.value != 0 {
				return nil, errors.New("amount must not be specified when paying a non-zero amount invoice")
			}
			p.value = int64(*inv.MilliSat)
		}
		p.dest, p.hash = hex.EncodeToString(inv.Destination.SerializeCompressed()), *inv.PaymentHash
		p.delta = uint32(inv.MinFinalCLTVExpiry())
		p.hints = append(r.RouteHints, hintsRPC(inv)...)
		inv.PaymentAddr.WhenSome(func(a [32]byte) { p.addr = &a })
	}
	if p.value <= 0 {
		return nil, errors.New("amount must be specified when paying a zero amount invoice")
	}
	p.feeLimit = p.value
	if r.FeeLimitMsat > 0 || r.FeeLimitSat > 0 {
		p.feeLimit = r.FeeLimitMsat + r.FeeLimitSat*1000
	}
	if p.dest == n.pub && !r.AllowSelfPayment {
		return nil, errors.New("self-payments not allowed")
	}
	return p, nil
}

func hintsRPC(inv *zpay32.Invoice) (out []*lnrpc.RouteHint) {
	for _, h := range inv.RouteHints {
		m := &lnrpc.RouteHint{}
		for _, x := range h {
			m.HopHints = append(m.HopHints, &lnrpc.HopHint{
				NodeId: hex.EncodeToString(x.NodeID.SerializeCompressed()), ChanId: x.ChannelID, FeeBaseMsat: x.FeeBaseMSat,
				FeeProportionalMillionths: x.FeeProportionalMillionths, CltvExpiryDelta: uint32(x.CLTVExpiryDelta),
			})
		}
		out = append(out, m)
	}
	return out
}

func (st *paymentStore) mayStart(hash [32]byte) error {
	if old := st.byHash[hash]; old != nil {
		switch old.status {
		case lnrpc.Payment_SUCCEEDED:
			return status.Error(codes.AlreadyExists, "invoice is already paid")
		case lnrpc.Payment_IN_FLIGHT:
			return status.Error(codes.AlreadyExists, "payment is in transition")
		}
	}
	return nil
}

// SendPaymentV2 implements routerrpc.RouterServer.
func (s *routerServer) SendPaymentV2(r *routerrpc.SendPaymentRequest, stream routerrpc.Router_SendPaymentV2Server) error {
	st := &s.node.payments
	f := newFeed[*lnrpc.Payment]()
	err := s.do(func() error {
		p, err := s.node.parsePayment(r)
		if err != nil {
			return err
		}
		if err := st.mayStart(p.hash); err != nil {
			return err
		}
		st.add(p)
		p.waiters = append(p.waiters, f)
		st.advance(p)
		return nil
	})
	if err != nil {
		return err
	}
	return sendPayments(stream.Context(), f, r.NoInflightUpdates, stream.Send)
}

func sendPayments(ctx context.Context, f *feed[*lnrpc.Payment], finalOnly bool, send func(*lnrpc.Payment) error) error {
	for {
		m, err := f.next(ctx)
		if err != nil {
			return err
		}
		final := m.Status == lnrpc.Payment_SUCCEEDED || m.Status == lnrpc.Payment_FAILED
		if final || !finalOnly {
			if err := send(m); err != nil {
				return err
			}
		}
		if final {
			return nil
		}
	}
}

// TrackPaymentV2 implements routerrpc.RouterServer.
func (s *routerServer) TrackPaymentV2(r *routerrpc.TrackPaymentRequest, stream routerrpc.Router_TrackPaymentV2Server) error {
	f := newFeed[*lnrpc.Payment]()
	err := s.do(func() error {
		if len(r.PaymentHash) != 32 {
			return errors.New("invalid hash length")
		}
		p := s.node.payments.byHash[[32]byte(r.PaymentHash)]
		if p == nil {
			return status.Error(codes.NotFound, "payment isn't initiated")
		}
		f.push(p.rpc())
		p.waiters = append(p.waiters, f)
		return nil
	})
	if err != nil {
		return err
	}
	return sendPayments(stream.Context(), f, r.NoInflightUpdates, stream.Send)
}

// TrackPayments implements routerrpc.RouterServer.
func (s *routerServer) TrackPayments(r *routerrpc.TrackPaymentsRequest, stream routerrpc.Router_TrackPaymentsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.payments, nil, func(m *lnrpc.Payment) error {
		if r.NoInflightUpdates && m.Status == lnrpc.Payment_IN_FLIGHT {
			return nil
		}
		return stream.Send(m)
	})
}

// SendToRouteV2 implements routerrpc.RouterServer. Giving up the call does not give up the HTLC.
func (s *routerServer) SendToRouteV2(ctx context.Context, r *routerrpc.SendToRouteRequest) (*lnrpc.HTLCAttempt, error) {
	var a *attempt
	st := &s.node.payments
	err := s.do(func() error {
		if len(r.PaymentHash) != 32 || r.Route == nil || len(r.Route.Hops) == 0 {
			return errors.New("unable to send, no routes provided or invalid hash")
		}
		hash := [32]byte(r.PaymentHash)
		o, err := s.node.parseRoute(r.Route)
		if err != nil {
			return err
		}
		last := o.hops[len(o.hops)-1]
		p := st.byHash[hash]
		if p == nil || p.terminal() || last.addr == nil || p.value != last.totalMsat {
			if err := st.mayStart(hash); err != nil {
				return err
			}
			p = &payment{hash: hash, value: max(last.totalMsat, last.amt), dest: last.node, addr: last.addr, manual: true}
			st.add(p)
		}
		_, flying := p.inFlight()
		if flying+last.amt > p.value {
			return errors.New("attempted value exceeds payment amount")
		}
		a = st.send(p, o)
		a.skipTemp = r.SkipTempErr
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.wait(ctx, a.closed); err != nil {
		return nil, err
	}
	var m *lnrpc.HTLCAttempt
	err = s.do(func() error { m = a.rpc(); return nil })
	return m, err
}

func (n *Node) parseRoute(r *lnrpc.Route) (*onion, error) {
	o := &onion{id: n.w.random32()}
	total := r.TotalAmtMsat
	lock := r.TotalTimeLock
	for i, h := range r.Hops {
		x := hop{node: h.PubKey, scid: h.ChanId, amt: h.AmtToForwardMsat, expiry: h.Expiry, records: h.CustomRecords}
		if x.amt == 0 {
			x.amt = h.AmtToForward * 1000
		}
		if _, err := parsePub(h.PubKey); err != nil {
			return nil, err
		}
		if h.MppRecord != nil && len(h.MppRecord.PaymentAddr) == 32 {
			a := [32]byte(h.MppRecord.PaymentAddr)
			x.addr, x.totalMsat = &a, h.MppRecord.TotalAmtMsat
		}
		if i == 0 && total == 0 {
			total = x.amt + h.FeeMsat
		}
		x.amtInto, x.expiryInto = total, lock
		total, lock = x.amt, x.expiry
		o.hops = append(o.hops, x)
	}
	return o, nil
}

// ResetMissionControl implements routerrpc.RouterServer.
func (s *routerServer) ResetMissionControl(context.Context, *routerrpc.ResetMissionControlRequest) (*routerrpc.ResetMissionControlResponse, error) {
	err := s.do(func() error { s.node.mission.failed = nil; return nil })
	return &routerrpc.ResetMissionControlResponse{}, err
}

// BuildRoute implements routerrpc.RouterServer for routes over known channels without hints.
func (s *routerServer) BuildRoute(_ context.Context, r *routerrpc.BuildRouteRequest) (*routerrpc.BuildRouteResponse, error) {
	var out *lnrpc.Route
	err := s.do(func() error {
		if len(r.HopPubkeys) == 0 {
			return errors.New("no hops given")
		}
		n := s.node
		p := &payment{
			value: r.AmtMsat, dest: hex.EncodeToString(r.HopPubkeys[len(r.HopPubkeys)-1]), delta: uint32(max(r.FinalCltvDelta, 80)),
			feeLimit: 1 << 60, maxParts: 1,
		}
		if len(r.PaymentAddr) == 32 {
			a := [32]byte(r.PaymentAddr)
			p.addr = &a
		}
		o := n.findRoute(p, n.edges(nil, p.dest), p.value)
		if o == nil {
			return errors.New("no matching outgoing channel available for node 1")
		}
		last := o.hops[len(o.hops)-1]
		out = (&attempt{onion: o, amt: last.amt, fee: o.hops[0].amtInto - last.amt, lock: o.hops[0].expiryInto}).route()
		return nil
	})
	return &routerrpc.BuildRouteResponse{Route: out}, err
}

// SubscribeHtlcEvents implements routerrpc.RouterServer.
func (s *routerServer) SubscribeHtlcEvents(_ *routerrpc.SubscribeHtlcEventsRequest, stream routerrpc.Router_SubscribeHtlcEventsServer) error {
	return pump(s.instance, stream.Context(), &s.mem.htlcEvents, func(f *feed[*routerrpc.HtlcEvent]) {
		f.push(&routerrpc.HtlcEvent{Event: &routerrpc.HtlcEvent_SubscribedEvent{SubscribedEvent: &routerrpc.SubscribedEvent{}}})
	}, stream.Send)
}

// XAddLocalChanAliases implements routerrpc.RouterServer.
func (s *routerServer) XAddLocalChanAliases(_ context.Context, r *routerrpc.AddAliasesRequest) (*routerrpc.AddAliasesResponse, error) {
	out := &routerrpc.AddAliasesResponse{}
	n := s.node
	err := s.do(func() error {
		for _, m := range r.AliasMaps {
			base := n.byChanID(m.BaseScid)
			for _, a := range m.Aliases {
				switch {
				case !isAlias(a):
					return fmt.Errorf("no valid alias: SCID alias %s is not a valid alias", scidString(a))
				case base == nil:
					return fmt.Errorf("base scid %s not found", scidString(m.BaseScid))
				case n.aliases[a] != nil:
					return fmt.Errorf("alias already exists: SCID alias %d already exists", a)
				}
				n.aliases[a] = base
				delete(n.mem.switched, a)
				n.addedAlias[base] = append(n.addedAlias[base], a)
				if base.gone || base.c.phase != phaseOpen || !base.c.up {
					return fmt.Errorf("error adding scid alias, base_scid=%s, alias_scid=%s: channel link not found",
						scidString(m.BaseScid), scidString(a))
				}
			}
		}
		out.AliasMaps = n.aliasMaps()
		return nil
	})
	return out, err
}

// XDeleteLocalChanAliases implements routerrpc.RouterServer.
func (s *routerServer) XDeleteLocalChanAliases(_ context.Context, r *routerrpc.DeleteAliasesRequest) (*routerrpc.DeleteAliasesResponse, error) {
	out := &routerrpc.DeleteAliasesResponse{}
	n := s.node
	err := s.do(func() error {
		for _, m := range r.AliasMaps {
			base := n.byChanID(m.BaseScid)
			for _, a := range m.Aliases {
				failed := func(why string) error {
					return fmt.Errorf("error deleting scid alias, base_scid=%s, alias_scid=%s: %s",
						scidString(m.BaseScid), scidString(a), why)
				}
				if base == nil || n.aliases[a] != base || a == base.alias {
					return failed("alias not found")
				}
				delete(n.aliases, a)
				n.addedAlias[base] = slices.DeleteFunc(n.addedAlias[base], func(x uint64) bool { return x == a })
				if base.c.zeroConf {
					// The switch keeps what it learned of a zero-conf link.
					n.mem.switched[a] = base
				}
				if base.gone || base.c.phase != phaseOpen || !base.c.up {
					return failed("channel link not found")
				}
			}
		}
		out.AliasMaps = n.aliasMaps()
		return nil
	})
	return out, err
}

// aliasMaps lists every alias there is: lnd keeps those of channels that are closed.
func (n *Node) aliasMaps() (out []*lnrpc.AliasMap) {
	for _, c := range n.w.channels {
		s := c.sideOf(n)
		if s == nil || s.chanID() == 0 {
			continue
		}
		out = append(out, &lnrpc.AliasMap{BaseScid: s.chanID(), Aliases: append([]uint64{s.alias}, n.addedAlias[s]...)})
	}
	return out
}
