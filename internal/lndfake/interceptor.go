package lndfake

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	rejectDelta     = 19 // lnd fails a held HTLC back this many blocks before it expires
	interceptMargin = 22 // and does not offer one that expires within this many
)

// interceptor is lnd's interceptable switch: the HTLCs it holds and the one client it knows.
type interceptor struct {
	client *feed[*routerrpc.ForwardHtlcInterceptRequest]
	held   map[circuitKey]*held
	order  []circuitKey
}

type held struct {
	f        *forward
	autoFail uint32
	onChain  bool
}

func (ic *interceptor) hold(h *held) {
	if ic.held[h.f.key] == nil {
		ic.order = append(ic.order, h.f.key)
	}
	ic.held[h.f.key] = h
}

func (ic *interceptor) pop(k circuitKey) {
	delete(ic.held, k)
	ic.order = slices.DeleteFunc(ic.order, func(o circuitKey) bool { return o == k })
}

// intercept offers a forward to the client, holds it, fails it, or lets it pass, as the switch decides.
func (n *Node) intercept(f *forward, replayed bool) {
	ic := &n.mem.intercept
	if f.expIn < n.w.chain.height()+interceptMargin {
		n.failBack(f, lnrpc.Failure_EXPIRY_TOO_SOON, "incoming expiry too soon to intercept")
		return
	}
	if ic.held[f.key] != nil {
		return
	}
	h := &held{f: f, autoFail: f.expIn - rejectDelta}
	if ic.client == nil {
		switch {
		case !n.cfg.RequireInterceptor:
			n.route(f)
		case !replayed:
			n.failBack(f, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, "interceptor required, none connected")
		default:
			ic.hold(h)
		}
		return
	}
	ic.hold(h)
	ic.client.push(h.request())
}

func (h *held) request() *routerrpc.ForwardHtlcInterceptRequest {
	f := h.f
	r := &routerrpc.ForwardHtlcInterceptRequest{
		IncomingCircuitKey: &routerrpc.CircuitKey{ChanId: f.key.chanID, HtlcId: f.key.htlcID},
		IncomingAmountMsat: uint64(f.amtIn), IncomingExpiry: f.expIn, PaymentHash: append([]byte(nil), f.hash[:]...),
		OutgoingRequestedChanId: f.scid, OutgoingAmountMsat: uint64(f.amt), OutgoingExpiry: f.expiry,
		CustomRecords: f.onion.hops[f.pos].records, OnionBlob: f.onion.blob(), AutoFailHeight: int32(h.autoFail),
	}
	if f.h != nil {
		r.InWireCustomRecords = f.h.wire
	}
	return r
}

func (o *onion) blob() []byte {
	b := make([]byte, 0, 1376)
	for len(b) < 1366 {
		sum := sha256.Sum256(append(o.id[:], byte(len(b)/32)))
		b = append(b, sum[:]...)
	}
	return b[:1366]
}

// expireHeld runs at every block.
func (n *Node) expireHeld() {
	ic := &n.mem.intercept
	height := n.w.chain.height()
	for _, k := range slices.Clone(ic.order) {
		h := ic.held[k]
		if height < h.autoFail {
			continue
		}
		ic.pop(k)
		if !h.onChain {
			n.failBack(h.f, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, "held until the auto-fail height")
		}
	}
}

// offerOnChain gives the client the chance to settle an HTLC whose channel went on chain.
func (n *Node) offerOnChain(f *forward) {
	ic := &n.mem.intercept
	if h := ic.held[f.key]; h != nil && h.onChain {
		return
	}
	h := &held{f: f, autoFail: f.expIn, onChain: true}
	ic.hold(h)
	if ic.client != nil {
		ic.client.push(h.request())
	}
}

// HtlcInterceptor implements routerrpc.RouterServer.
func (s *routerServer) HtlcInterceptor(stream routerrpc.Router_HtlcInterceptorServer) error {
	n := s.node
	f := newFeed[*routerrpc.ForwardHtlcInterceptRequest]()
	if err := s.do(func() error {
		ic := &n.mem.intercept
		if ic.client != nil {
			return errors.New("interceptor already exists")
		}
		ic.client = f
		order := slices.Clone(ic.order)
		n.w.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, k := range order {
			f.push(ic.held[k].request())
		}
		return nil
	}); err != nil {
		return err
	}
	ctx := stream.Context()
	go func() {
		for {
			r, err := f.next(ctx)
			if err != nil {
				return
			}
			if stream.Send(r) != nil {
				return
			}
		}
	}()
	defer func() { _ = s.do(func() error { n.interceptorGone(); return nil }) }()
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.do(func() error { return n.decide(r) }); err != nil {
			return err
		}
	}
}

// interceptorGone: without requireinterceptor all that is held off chain is resumed at once.
func (n *Node) interceptorGone() {
	ic := &n.mem.intercept
	ic.client = nil
	if n.cfg.RequireInterceptor {
		return
	}
	for _, k := range slices.Clone(ic.order) {
		if h := ic.held[k]; !h.onChain {
			ic.pop(k)
			n.route(h.f)
		}
	}
}

// decide applies one answer of the client's; an error ends the stream and leaves what was held held.
func (n *Node) decide(r *routerrpc.ForwardHtlcInterceptResponse) error {
	if r.IncomingCircuitKey == nil {
		return status.Error(codes.InvalidArgument, "CircuitKey missing from ForwardHtlcInterceptResponse")
	}
	ic := &n.mem.intercept
	key := circuitKey{r.IncomingCircuitKey.ChanId, r.IncomingCircuitKey.HtlcId}
	code := lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE
	opaque := false
	switch r.Action {
	case routerrpc.ResolveHoldForwardAction_FAIL:
		switch {
		case r.FailureMessage != nil && r.FailureCode != 0:
			return status.Error(codes.InvalidArgument, "failure message and failure code are mutually exclusive")
		case r.FailureMessage != nil && len(r.FailureMessage) != 292:
			return status.Error(codes.InvalidArgument, "failure message length invalid")
		case r.FailureMessage != nil:
			opaque, code = true, lnrpc.Failure_UNREADABLE_FAILURE
		}
		switch r.FailureCode {
		case 0:
		case lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, lnrpc.Failure_INVALID_ONION_HMAC, lnrpc.Failure_INVALID_ONION_KEY,
			lnrpc.Failure_INVALID_ONION_VERSION:
			code = r.FailureCode
		default:
			return status.Errorf(codes.InvalidArgument, "unsupported failure code: %v", r.FailureCode)
		}
	case routerrpc.ResolveHoldForwardAction_SETTLE:
		if r.Preimage == nil {
			return errors.New("missing preimage")
		}
		if len(r.Preimage) != 32 {
			return fmt.Errorf("invalid preimage length of %d, want 32", len(r.Preimage))
		}
	case routerrpc.ResolveHoldForwardAction_RESUME, routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED:
		for kind := range r.OutWireCustomRecords {
			if kind < 65536 {
				return status.Errorf(codes.InvalidArgument, "failed to validate custom records: type %d", kind)
			}
		}
	default:
		return status.Errorf(codes.InvalidArgument, "unrecognized resolve action %v", r.Action)
	}
	h := ic.held[key]
	if h == nil {
		return fmt.Errorf("forward does not exist: (Chan ID=%s, HTLC ID=%d)", scidString(key.chanID), key.htlcID)
	}
	if h.onChain && r.Action != routerrpc.ResolveHoldForwardAction_SETTLE {
		return fmt.Errorf("cannot %v an htlc that is on chain", r.Action)
	}
	switch r.Action {
	case routerrpc.ResolveHoldForwardAction_SETTLE:
		pre := [32]byte(r.Preimage)
		if sha(pre) != h.f.hash {
			return errors.New("preimage does not match hash")
		}
		ic.pop(key)
		if h.onChain {
			n.preimages[h.f.hash] = pre
			h.f.in.claimOnChain(key.htlcID, pre)
			return nil
		}
		e := n.htlcEvent(key, h.f.scid, 0)
		e.Event = &routerrpc.HtlcEvent_SettleEvent{SettleEvent: &routerrpc.SettleEvent{Preimage: pre[:]}}
		h.f.in.answerForward(key, h.f.ref, &resolution{preimage: &pre}, e)
	case routerrpc.ResolveHoldForwardAction_FAIL:
		ic.pop(key)
		// lnd tells of it as of a failure from further on.
		e := n.htlcEvent(key, h.f.scid, 0)
		e.Event = &routerrpc.HtlcEvent_ForwardFailEvent{ForwardFailEvent: &routerrpc.ForwardFailEvent{}}
		h.f.in.answerForward(key, h.f.ref, &resolution{
			failure: &failure{code: code, src: h.f.pos + 1, detail: "failed by the interceptor", opaque: opaque},
		}, e)
	case routerrpc.ResolveHoldForwardAction_RESUME:
		ic.pop(key)
		n.route(h.f)
	case routerrpc.ResolveHoldForwardAction_RESUME_MODIFIED:
		ic.pop(key)
		g := *h.f
		if r.InAmountMsat > 0 {
			g.amtIn = int64(r.InAmountMsat)
		}
		if r.OutAmountMsat > 0 {
			g.amt = int64(r.OutAmountMsat)
		}
		g.wire = r.OutWireCustomRecords
		n.route(&g)
	}
	return nil
}

func scidString(scid uint64) string {
	return fmt.Sprintf("%d:%d:%d", scid>>40, scid>>16&0xffffff, scid&0xffff)
}
