package lndfake

import (
	"slices"

	"github.com/lightningnetwork/lnd/lnrpc"
)

const blockPadding = 3 // what an lnd payer adds to the final expiry

type pair struct{ from, to string }

// missionControl is what a payer remembers of failures: the least amount that failed from one node to another. It
// is on disk, and does not decay here.
type missionControl struct {
	failed map[pair]int64
}

func (m *missionControl) fail(from, to string, amt int64) {
	if m.failed == nil {
		m.failed = map[pair]int64{}
	}
	p := pair{from, to}
	if old, ok := m.failed[p]; !ok || amt < old {
		m.failed[p] = amt
	}
}

func (m *missionControl) allows(from, to string, amt int64) bool {
	f, ok := m.failed[pair{from, to}]
	return !ok || amt < f
}

// report learns from a failed attempt and says whether the payment has failed for good.
func (m *missionControl) report(n *Node, a *attempt) lnrpc.PaymentFailureReason {
	f, hops := a.failure, a.onion.hops
	node := func(i int) string {
		if i == 0 {
			return n.pub
		}
		return hops[i-1].node
	}
	final := f.src == len(hops)
	both := func(i int) { // everything around node i
		if i > 0 {
			m.fail(node(i-1), node(i), 0)
			m.fail(node(i), node(i-1), 0)
		}
		if i < len(hops) {
			m.fail(node(i), node(i+1), 0)
			m.fail(node(i+1), node(i), 0)
		}
	}
	switch {
	case f.opaque:
		for i := range hops {
			m.fail(node(i), node(i+1), 0)
		}
	case final && f.code == lnrpc.Failure_MPP_TIMEOUT:
	case final && f.code == lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS:
		return lnrpc.PaymentFailureReason_FAILURE_REASON_INCORRECT_PAYMENT_DETAILS
	case final && f.code == lnrpc.Failure_INVALID_ONION_VERSION:
		m.fail(node(f.src-1), node(f.src), 0)
	case final:
		return lnrpc.PaymentFailureReason_FAILURE_REASON_ERROR
	case f.code == lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE:
		if f.src < len(hops) {
			m.fail(node(f.src), node(f.src+1), hops[f.src].amtInto)
		}
	case f.code == lnrpc.Failure_TEMPORARY_NODE_FAILURE, f.code == lnrpc.Failure_PERMANENT_NODE_FAILURE:
		both(f.src)
	default: // UNKNOWN_NEXT_PEER and all else that the hop says of the channel after it
		m.fail(node(f.src), node(f.src+1), 0)
	}
	return lnrpc.PaymentFailureReason_FAILURE_REASON_NONE
}

type edge struct {
	from, to string
	scid     uint64
	policy   policy
	own      *side
	max      int64
}

// edges are the channels the node knows: its own once their private edge is in its graph, all announced ones, and
// those of the payment's hints.
func (n *Node) edges(hints []*lnrpc.RouteHint, dest string) []edge {
	var out []edge
	for _, c := range n.w.channels {
		if c.phase != phaseOpen || c.sides[0].gone || c.sides[1].gone {
			continue
		}
		for _, s := range c.sides {
			e := edge{from: s.node.pub, to: s.other().node.pub, scid: s.chanID(), max: c.capacity * 1000}
			switch {
			case s.node == n && s.active() && s.graph != nil:
				e.own = s
			case s.node == n, c.private, s.graph == nil:
				continue
			default:
				e.policy = *s.graph
				if e.policy.disabled {
					continue
				}
			}
			out = append(out, e)
		}
	}
	for _, h := range hints {
		for i, x := range h.HopHints {
			to := dest
			if i+1 < len(h.HopHints) {
				to = h.HopHints[i+1].NodeId
			}
			if x.NodeId == n.pub {
				continue
			}
			out = append(out, edge{from: x.NodeId, to: to, scid: x.ChanId, max: 1 << 62, policy: policy{
				baseMsat: int64(x.FeeBaseMsat), ratePPM: int64(x.FeeProportionalMillionths), delta: x.CltvExpiryDelta,
			}})
		}
	}
	return out
}

// findShard finds the cheapest route for the amount, or for a half of it, a quarter, and so on.
func (n *Node) findShard(p *payment, amt int64, parts int) (*onion, lnrpc.PaymentFailureReason) {
	edges := n.edges(p.hints, p.dest)
	if p.shardMax > 0 {
		amt = min(amt, p.shardMax)
	}
	var spendable int64
	for _, e := range edges {
		if e.own != nil {
			spendable += e.own.sendableMsat()
		}
	}
	if spendable < amt {
		return nil, lnrpc.PaymentFailureReason_FAILURE_REASON_INSUFFICIENT_BALANCE
	}
	for parts > 0 {
		if o := n.findRoute(p, edges, amt); o != nil {
			return o, 0
		}
		if parts == 1 || p.addr == nil || amt/2 < minShardMsat {
			break
		}
		parts--
		amt = (amt + 1) / 2
	}
	return nil, lnrpc.PaymentFailureReason_FAILURE_REASON_NO_ROUTE
}

func (n *Node) findRoute(p *payment, edges []edge, amt int64) *onion {
	var best []hop
	var walk func(to string, into int64, expiry uint32, hops []hop)
	height := n.w.chain.height()
	walk = func(to string, into int64, expiry uint32, hops []hop) {
		if len(hops) > 6 {
			return
		}
		for _, e := range edges {
			if e.to != to || slices.ContainsFunc(hops, func(h hop) bool { return h.node == e.from }) {
				continue
			}
			if into > e.max || into < e.policy.minMsat || !n.mission.allows(e.from, e.to, into) {
				continue
			}
			first := hops[0]
			first.scid, first.amtInto, first.expiryInto = e.scid, into, expiry
			chainHops := append([]hop{first}, hops[1:]...)
			if e.own != nil {
				if into > e.own.sendableMsat() || len(p.outgoing) > 0 && !slices.Contains(p.outgoing, e.scid) {
					continue
				}
				if into-amt+p.feesMsat() > p.feeLimit || p.cltvMax > 0 && expiry > height+p.cltvMax {
					continue
				}
				if best == nil || into < best[0].amtInto {
					best = slices.Clone(chainHops)
				}
				continue
			}
			if e.from == n.pub {
				continue
			}
			walk(e.from, into+e.policy.fee(into), expiry+e.policy.delta, append([]hop{{node: e.from, amt: into, expiry: expiry}}, chainHops...))
		}
	}
	expiry := height + p.delta + blockPadding
	walk(p.dest, amt, expiry, []hop{{
		node: p.dest, amt: amt, expiry: expiry, addr: p.addr, totalMsat: p.value, records: p.records,
	}})
	if best == nil {
		return nil
	}
	return &onion{id: n.w.random32(), hops: best}
}
