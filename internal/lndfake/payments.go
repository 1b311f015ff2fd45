package lndfake

import (
	"encoding/hex"
	"slices"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
)

const minShardMsat = 10_000_000 // lnd does not split below 10,000 sat

// paymentStore is a node's payment database, on disk, with the loop that drives each payment.
type paymentStore struct {
	n        *Node
	byHash   map[[32]byte]*payment
	order    []*payment
	attempts map[uint64]*attempt
	nextID   uint64
}

type payment struct {
	hash     [32]byte
	preimage *[32]byte
	request  string
	value    int64
	dest     string
	addr     *[32]byte
	feeLimit int64
	cltvMax  uint32
	delta    uint32
	hints    []*lnrpc.RouteHint
	outgoing []uint64
	records  map[uint64][]byte
	maxParts int
	shardMax int64
	created  time.Time
	deadline time.Time
	index    uint64
	status   lnrpc.Payment_PaymentStatus
	reason   lnrpc.PaymentFailureReason
	attempts []*attempt
	manual   bool // by SendToRouteV2: nobody retries
	waiters  []*feed[*lnrpc.Payment]
}

type attempt struct {
	id       uint64
	p        *payment
	onion    *onion
	amt, fee int64 // delivered, and paid on top
	status   lnrpc.HTLCAttempt_HTLCStatus
	failure  *failure
	preimage []byte
	sent     time.Time
	done     time.Time
	lock     uint32
	skipTemp bool
	closed   chan struct{}
}

func newPaymentStore(n *Node) paymentStore {
	return paymentStore{n: n, byHash: map[[32]byte]*payment{}, attempts: map[uint64]*attempt{}}
}

// load fails the attempts that have no circuit, and goes on with what is unfinished. One whose circuit was written and
// whose HTLC never reached a commitment stays in flight for ever, as in lnd: nothing sends it, and nothing ends it.
func (st *paymentStore) load() {
	for _, p := range slices.Clone(st.order) {
		p.waiters = nil
		if p.status != lnrpc.Payment_IN_FLIGHT {
			continue
		}
		for _, a := range p.attempts {
			if a.status == lnrpc.HTLCAttempt_IN_FLIGHT && st.n.circuits[circuitKey{0, a.id}] == nil {
				st.resolve(a.id, &resolution{failure: &failure{
					code: lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, detail: "lost in a restart",
				}})
			}
		}
	}
}

func (st *paymentStore) add(p *payment) {
	p.created = time.Now()
	p.status = lnrpc.Payment_IN_FLIGHT
	st.order = slices.DeleteFunc(st.order, func(x *payment) bool { return x.hash == p.hash })
	st.byHash[p.hash] = p
	st.order = append(st.order, p)
	p.index = uint64(len(st.order))
}

func (p *payment) inFlight() (count int, msat int64) {
	for _, a := range p.attempts {
		if a.status == lnrpc.HTLCAttempt_IN_FLIGHT {
			count++
			msat += a.amt
		}
	}
	return count, msat
}

func (p *payment) feesMsat() (sum int64) {
	for _, a := range p.attempts {
		if a.status != lnrpc.HTLCAttempt_FAILED {
			sum += a.fee
		}
	}
	return sum
}

// advance sends what is still missing of a payment, in as many parts as it takes.
func (st *paymentStore) advance(p *payment) {
	for p.status == lnrpc.Payment_IN_FLIGHT && !p.manual {
		count, flying := p.inFlight()
		missing := p.value - flying
		if p.preimage != nil || p.reason != lnrpc.PaymentFailureReason_FAILURE_REASON_NONE || missing <= 0 {
			break
		}
		if !p.deadline.IsZero() && !time.Now().Before(p.deadline) {
			p.reason = lnrpc.PaymentFailureReason_FAILURE_REASON_TIMEOUT
			break
		}
		rt, reason := st.n.findShard(p, missing, p.maxParts-count)
		if rt == nil {
			if count == 0 || len(p.attempts) > 0 {
				p.reason = reason
			}
			break
		}
		st.send(p, rt)
	}
	st.finish(p)
}

// finish makes a payment terminal when nothing of it is in flight any more, or when its preimage is known.
func (st *paymentStore) finish(p *payment) {
	if p.status != lnrpc.Payment_IN_FLIGHT {
		return
	}
	count, _ := p.inFlight()
	switch {
	case count > 0:
		return
	case p.preimage != nil:
		p.status, p.reason = lnrpc.Payment_SUCCEEDED, lnrpc.PaymentFailureReason_FAILURE_REASON_NONE
	case p.reason != lnrpc.PaymentFailureReason_FAILURE_REASON_NONE:
		p.status = lnrpc.Payment_FAILED
	default:
		return
	}
	st.publish(p)
}

func (st *paymentStore) send(p *payment, o *onion) *attempt {
	st.nextID++
	last := o.hops[len(o.hops)-1]
	a := &attempt{
		id: st.nextID, p: p, onion: o, amt: last.amt, fee: o.hops[0].amtInto - last.amt, sent: time.Now(),
		lock: o.hops[0].expiryInto, closed: make(chan struct{}),
	}
	st.attempts[a.id] = a
	p.attempts = append(p.attempts, a)
	st.publish(p)
	n := st.n
	n.w.after(0, func() {
		if a.status != lnrpc.HTLCAttempt_IN_FLIGHT || !n.up {
			return
		}
		n.route(&forward{
			key: circuitKey{0, a.id}, amtIn: o.hops[0].amtInto, amt: o.hops[0].amtInto, expiry: o.hops[0].expiryInto,
			expIn: o.hops[0].expiryInto, scid: o.hops[0].scid, hash: p.hash, onion: o, pos: -1,
		})
	})
	return a
}

// resolve is the end of an attempt.
func (st *paymentStore) resolve(id uint64, res *resolution) {
	a := st.attempts[id]
	if a == nil || a.status != lnrpc.HTLCAttempt_IN_FLIGHT {
		return
	}
	p := a.p
	a.done = time.Now()
	defer close(a.closed)
	if res.preimage != nil {
		a.status, a.preimage = lnrpc.HTLCAttempt_SUCCEEDED, append([]byte(nil), res.preimage[:]...)
		p.preimage = res.preimage
	} else {
		a.status, a.failure = lnrpc.HTLCAttempt_FAILED, res.failure
		reason := st.n.mission.report(st.n, a)
		temporary := a.skipTemp && reason == lnrpc.PaymentFailureReason_FAILURE_REASON_NONE
		if p.manual && !temporary && reason == lnrpc.PaymentFailureReason_FAILURE_REASON_NONE {
			reason = lnrpc.PaymentFailureReason_FAILURE_REASON_ERROR
		}
		if p.reason == lnrpc.PaymentFailureReason_FAILURE_REASON_NONE {
			p.reason = reason
		}
	}
	st.publish(p)
	st.advance(p)
}

func (st *paymentStore) publish(p *payment) {
	m := p.rpc()
	st.n.mem.payments.publish(m)
	for _, w := range p.waiters {
		w.push(m)
	}
}

func (p *payment) terminal() bool {
	return p.status == lnrpc.Payment_SUCCEEDED || p.status == lnrpc.Payment_FAILED
}

func (p *payment) rpc() *lnrpc.Payment {
	m := &lnrpc.Payment{
		PaymentHash: hex.EncodeToString(p.hash[:]), Value: p.value / 1000, ValueSat: p.value / 1000, ValueMsat: p.value,
		CreationDate: p.created.Unix(), CreationTimeNs: p.created.UnixNano(), PaymentRequest: p.request, Status: p.status,
		PaymentIndex: p.index, FailureReason: p.reason, PaymentPreimage: hex.EncodeToString(make([]byte, 32)),
	}
	if p.preimage != nil && p.status == lnrpc.Payment_SUCCEEDED {
		m.PaymentPreimage = hex.EncodeToString(p.preimage[:])
	}
	for _, a := range p.attempts {
		m.Htlcs = append(m.Htlcs, a.rpc())
		if a.status == lnrpc.HTLCAttempt_SUCCEEDED {
			m.FeeMsat += a.fee
		}
	}
	m.FeeSat = m.FeeMsat / 1000
	m.Fee = m.FeeSat
	return m
}

func (a *attempt) rpc() *lnrpc.HTLCAttempt {
	m := &lnrpc.HTLCAttempt{
		AttemptId: a.id, Status: a.status, Route: a.route(), AttemptTimeNs: a.sent.UnixNano(), Preimage: a.preimage,
	}
	if !a.done.IsZero() {
		m.ResolveTimeNs = a.done.UnixNano()
	}
	if a.failure != nil {
		m.Failure = &lnrpc.Failure{Code: a.failure.code, FailureSourceIndex: uint32(a.failure.src)}
	}
	return m
}

func (a *attempt) route() *lnrpc.Route {
	r := &lnrpc.Route{
		TotalTimeLock: a.lock, TotalAmtMsat: a.amt + a.fee, TotalAmt: (a.amt + a.fee) / 1000, TotalFeesMsat: a.fee,
		TotalFees: a.fee / 1000,
	}
	for i, h := range a.onion.hops {
		x := &lnrpc.Hop{
			ChanId: h.scid, AmtToForwardMsat: h.amt, AmtToForward: h.amt / 1000, Expiry: h.expiry, PubKey: h.node,
			TlvPayload: true, FeeMsat: h.amtInto - h.amt, Fee: (h.amtInto - h.amt) / 1000, CustomRecords: h.records,
		}
		if i == len(a.onion.hops)-1 && h.addr != nil {
			x.MppRecord = &lnrpc.MPPRecord{PaymentAddr: h.addr[:], TotalAmtMsat: h.totalMsat}
		}
		r.Hops = append(r.Hops, x)
	}
	return r
}
