package lndfake

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/lightningnetwork/lnd/zpay32"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const keysendRecord = 5482373484

// invoiceRegistry is a node's invoice database. All of it is on disk.
type invoiceRegistry struct {
	n           *Node
	byHash      map[[32]byte]*invoice
	order       []*invoice
	settleIndex uint64
	settled     []*invoice
}

type invoice struct {
	hash, addr [32]byte
	preimage   *[32]byte
	hold       bool
	keysend    bool
	private    bool
	valueMsat  int64
	paidMsat   int64
	memo       string
	descHash   []byte
	created    time.Time
	settledAt  time.Time
	expiry     time.Duration
	cltv       uint32
	request    string
	hints      []*lnrpc.RouteHint
	state      lnrpc.Invoice_InvoiceState
	addIndex   uint64
	settleIdx  uint64
	htlcs      map[circuitKey]*invoiceHTLC
	keys       []circuitKey
	total      int64
}

type invoiceHTLC struct {
	amt, total int64
	extra      int64 // withheld on the way, beyond amt
	expiry     uint32
	state      lnrpc.InvoiceHTLCState
	height     uint32
	accepted   time.Time
	resolved   time.Time
	records    map[uint64][]byte
}

func newInvoiceRegistry(n *Node) invoiceRegistry {
	return invoiceRegistry{n: n, byHash: map[[32]byte]*invoice{}}
}

// forgetOpen drops what nobody has begun to pay.
func (r *invoiceRegistry) forgetOpen() {
	r.order = slices.DeleteFunc(r.order, func(inv *invoice) bool {
		forgotten := inv.state == lnrpc.Invoice_OPEN && len(inv.htlcs) == 0
		if forgotten {
			delete(r.byHash, inv.hash)
		}
		return forgotten
	})
}

// load arms the timers again after a start.
func (r *invoiceRegistry) load() {
	for _, inv := range r.order {
		r.armExpiry(inv)
		if inv.state == lnrpc.Invoice_OPEN && inv.acceptedMsat() > 0 {
			r.armMPP(inv)
		}
	}
}

func (r *invoiceRegistry) armExpiry(inv *invoice) {
	if inv.state != lnrpc.Invoice_OPEN || inv.expiry == 0 {
		return
	}
	inst := r.n.inst
	r.n.w.after(max(time.Until(inv.created.Add(inv.expiry)), time.Nanosecond), func() {
		if r.n.inst == inst && inv.state == lnrpc.Invoice_OPEN && inv.acceptedMsat() == 0 {
			r.cancel(inv)
		}
	})
}

// armMPP gives an incomplete set of parts its time.
func (r *invoiceRegistry) armMPP(inv *invoice) {
	r.n.mem.mppTimers[inv.hash]++
	at, inst := r.n.mem.mppTimers[inv.hash], r.n.inst
	r.n.w.after(r.n.cfg.MPPTimeout, func() {
		if r.n.inst != inst || r.n.mem.mppTimers[inv.hash] != at || inv.state != lnrpc.Invoice_OPEN {
			return
		}
		for _, k := range inv.keys {
			if h := inv.htlcs[k]; h.state == lnrpc.InvoiceHTLCState_ACCEPTED {
				r.resolveHTLC(inv, k, nil, lnrpc.Failure_MPP_TIMEOUT)
			}
		}
		inv.total = 0
		r.armExpiry(inv)
	})
}

func (inv *invoice) acceptedMsat() (sum int64) {
	for _, h := range inv.htlcs {
		if h.state == lnrpc.InvoiceHTLCState_ACCEPTED {
			sum += h.amt + h.extra
		}
	}
	return sum
}

// extraFee is what was withheld of an HTLC to this node, and that it takes that; 0 if it does not.
func (n *Node) extraFee(h *htlc, key circuitKey) int64 {
	const record = 65_537
	b := h.wire[record]
	if len(b) != 8 {
		return 0
	}
	extra := binary.BigEndian.Uint64(b)
	withheld := uint64(0)
	if inv := n.invoices.byHash[h.hash]; inv != nil {
		for k, other := range inv.htlcs {
			if k != key && other.state == lnrpc.InvoiceHTLCState_ACCEPTED {
				withheld += uint64(other.extra)
			}
		}
	}
	if most := uint64(n.cfg.TakesExtraFeeMsat); extra > most || withheld > most-extra {
		return 0
	}
	return int64(extra)
}

// receivedMsat is what came of that.
func (inv *invoice) receivedMsat() int64 {
	sum := inv.acceptedMsat()
	for _, h := range inv.htlcs {
		if h.state == lnrpc.InvoiceHTLCState_ACCEPTED {
			sum -= h.extra
		}
	}
	return sum
}

func incorrectDetails(pos int, detail string) *resolution {
	return &resolution{failure: &failure{
		code: lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS, src: pos + 1, detail: detail,
	}}
}

// exitHop takes an HTLC that ends here.
func (n *Node) exitHop(s *side, h *htlc, at hop, ref addRef, key circuitKey) {
	refuse := func(code lnrpc.Failure_FailureCode, detail string) {
		s.answer(key, h.id, ref, &resolution{failure: &failure{code: code, src: h.pos + 1, detail: detail}})
	}
	switch {
	case h.amt+n.extraFee(h, key) < at.amt:
		refuse(lnrpc.Failure_FINAL_INCORRECT_HTLC_AMOUNT, "amount below the onion's")
		return
	case h.expiry < at.expiry:
		refuse(lnrpc.Failure_FINAL_INCORRECT_CLTV_EXPIRY, "expiry below the onion's")
		return
	}
	if res := n.invoices.notify(h, at, key, ref); res != nil {
		s.answer(key, h.id, ref, res)
	}
}

// notify decides about an HTLC for an invoice: nil means that it is held. A replay gets the same decision.
func (r *invoiceRegistry) notify(h *htlc, at hop, key circuitKey, ref addRef) *resolution {
	height := r.n.w.chain.height()
	inv := r.byHash[h.hash]
	extra := r.n.extraFee(h, key)
	if pre := at.records[keysendRecord]; inv == nil && len(pre) == 32 && sha256.Sum256(pre) == h.hash {
		p := [32]byte(pre)
		inv = &invoice{hash: h.hash, preimage: &p, keysend: true, valueMsat: at.amt, created: time.Now(), cltv: rejectDelta}
		r.insert(inv)
	}
	if inv == nil {
		return incorrectDetails(h.pos, "unknown invoice")
	}
	if old := inv.htlcs[key]; old != nil {
		switch old.state {
		case lnrpc.InvoiceHTLCState_SETTLED:
			return &resolution{preimage: inv.preimage}
		case lnrpc.InvoiceHTLCState_CANCELED:
			return incorrectDetails(h.pos, "canceled")
		default:
			r.n.mem.hodl[key] = ref
			return nil
		}
	}
	total := at.totalMsat
	if at.addr == nil {
		total = h.amt
	}
	switch {
	case inv.state != lnrpc.Invoice_OPEN:
		return incorrectDetails(h.pos, "invoice not open")
	case at.addr == nil && !inv.keysend:
		return incorrectDetails(h.pos, "no payment address")
	case at.addr != nil && *at.addr != inv.addr:
		return incorrectDetails(h.pos, "address mismatch")
	case total < inv.valueMsat:
		return incorrectDetails(h.pos, "set total too low for invoice")
	case inv.total != 0 && inv.total != total && inv.acceptedMsat() > 0:
		return incorrectDetails(h.pos, "set total mismatch")
	case h.expiry < height+inv.cltv || h.expiry < height+rejectDelta:
		return incorrectDetails(h.pos, "expiry too soon")
	case inv.acceptedMsat()+h.amt+extra > total:
		return incorrectDetails(h.pos, "set overpaid")
	}
	inv.total = total
	inv.htlcs[key] = &invoiceHTLC{
		amt: h.amt, extra: extra, total: total, expiry: h.expiry, state: lnrpc.InvoiceHTLCState_ACCEPTED, height: height,
		accepted: time.Now(), records: at.records,
	}
	inv.keys = append(inv.keys, key)
	r.n.mem.hodl[key] = ref
	if inv.acceptedMsat() < total {
		r.armMPP(inv)
		return nil
	}
	inv.paidMsat = inv.receivedMsat()
	if inv.hold && inv.preimage == nil {
		inv.state = lnrpc.Invoice_ACCEPTED
		r.publish(inv)
		return nil
	}
	r.settle(inv)
	return nil
}

func (r *invoiceRegistry) settle(inv *invoice) {
	inv.state, inv.settledAt = lnrpc.Invoice_SETTLED, time.Now()
	inv.paidMsat = inv.receivedMsat()
	r.settleIndex++
	inv.settleIdx = r.settleIndex
	r.settled = append(r.settled, inv)
	for _, k := range inv.keys {
		if inv.htlcs[k].state == lnrpc.InvoiceHTLCState_ACCEPTED {
			r.resolveHTLC(inv, k, inv.preimage, 0)
		}
	}
	r.publish(inv)
}

func (r *invoiceRegistry) cancel(inv *invoice) {
	inv.state = lnrpc.Invoice_CANCELED
	for _, k := range inv.keys {
		if inv.htlcs[k].state == lnrpc.InvoiceHTLCState_ACCEPTED {
			r.resolveHTLC(inv, k, nil, lnrpc.Failure_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS)
		}
	}
	inv.paidMsat = 0
	r.publish(inv)
}

// resolveHTLC tells the link, if it has offered the HTLC since the node started; if not, its replay will learn.
func (r *invoiceRegistry) resolveHTLC(inv *invoice, k circuitKey, pre *[32]byte, code lnrpc.Failure_FailureCode) {
	h := inv.htlcs[k]
	h.resolved = time.Now()
	res := &resolution{preimage: pre}
	if pre != nil {
		h.state = lnrpc.InvoiceHTLCState_SETTLED
		r.n.preimages[inv.hash] = *pre
	} else {
		h.state = lnrpc.InvoiceHTLCState_CANCELED
		res.failure = &failure{code: code}
	}
	s := r.n.byChanID(k.chanID)
	ref, offered := r.n.mem.hodl[k]
	if s == nil {
		return
	}
	if in := s.c.incoming(s, k.htlcID); in != nil && res.failure != nil {
		res.failure.src = in.pos + 1
	}
	if offered {
		delete(r.n.mem.hodl, k)
		s.answer(k, k.htlcID, ref, res)
	} else if pre != nil && s.c.phase != phaseOpen {
		s.claimOnChain(k.htlcID, *pre)
	}
}

// expire cancels accepted invoices whose HTLCs come too close to their expiry.
func (r *invoiceRegistry) expire() {
	height := r.n.w.chain.height()
	for _, inv := range slices.Clone(r.order) {
		if inv.state != lnrpc.Invoice_ACCEPTED {
			continue
		}
		for _, h := range inv.htlcs {
			if h.state == lnrpc.InvoiceHTLCState_ACCEPTED && h.expiry <= height+r.n.cfg.HoldExpiryDelta {
				r.cancel(inv)
				break
			}
		}
	}
}

func (r *invoiceRegistry) insert(inv *invoice) {
	inv.htlcs = map[circuitKey]*invoiceHTLC{}
	r.byHash[inv.hash] = inv
	r.order = append(r.order, inv)
	inv.addIndex = uint64(len(r.order))
	r.armExpiry(inv)
	r.publish(inv)
}

func (r *invoiceRegistry) publish(inv *invoice) {
	m := inv.rpc()
	if inv.state == lnrpc.Invoice_OPEN || inv.state == lnrpc.Invoice_SETTLED {
		r.n.mem.invoices.publish(m)
	}
	if t := r.n.mem.oneInvoice[inv.hash]; t != nil {
		t.publish(m)
	}
}

func (inv *invoice) rpc() *lnrpc.Invoice {
	m := &lnrpc.Invoice{
		Memo: inv.memo, RHash: append([]byte(nil), inv.hash[:]...), Value: inv.valueMsat / 1000, ValueMsat: inv.valueMsat,
		CreationDate: inv.created.Unix(), PaymentRequest: inv.request, DescriptionHash: inv.descHash,
		Expiry: int64(inv.expiry / time.Second), CltvExpiry: uint64(inv.cltv), RouteHints: inv.hints, Private: inv.private,
		AddIndex: inv.addIndex, SettleIndex: inv.settleIdx, State: inv.state, IsKeysend: inv.keysend,
		PaymentAddr: append([]byte(nil), inv.addr[:]...), Features: map[uint32]*lnrpc.Feature{},
		Settled: inv.state == lnrpc.Invoice_SETTLED,
	}
	if inv.state == lnrpc.Invoice_SETTLED {
		m.SettleDate = inv.settledAt.Unix()
	}
	if inv.state == lnrpc.Invoice_SETTLED || inv.state == lnrpc.Invoice_ACCEPTED {
		m.AmtPaidMsat, m.AmtPaidSat, m.AmtPaid = inv.paidMsat, inv.paidMsat/1000, inv.paidMsat
	}
	if inv.preimage != nil && (!inv.hold || inv.state == lnrpc.Invoice_SETTLED) {
		m.RPreimage = append([]byte(nil), inv.preimage[:]...)
	}
	for _, k := range inv.keys {
		h := inv.htlcs[k]
		e := &lnrpc.InvoiceHTLC{
			ChanId: k.chanID, HtlcIndex: k.htlcID, AmtMsat: uint64(h.amt), AcceptHeight: int32(h.height),
			AcceptTime: h.accepted.Unix(), ExpiryHeight: int32(h.expiry), State: h.state, MppTotalAmtMsat: uint64(h.total),
			CustomRecords: h.records,
		}
		if !h.resolved.IsZero() {
			e.ResolveTime = h.resolved.Unix()
		}
		m.Htlcs = append(m.Htlcs, e)
	}
	return m
}

var errNoInvoice = status.Error(codes.NotFound, "unable to locate invoice")

// add makes and signs an invoice. Private ones carry a hint for each channel whose peer's update has arrived.
func (r *invoiceRegistry) add(inv *invoice) error {
	n := r.n
	if r.byHash[inv.hash] != nil {
		return status.Error(codes.AlreadyExists, "invoice with payment hash already exists")
	}
	if inv.expiry == 0 {
		inv.expiry = 24 * time.Hour
	}
	if inv.cltv == 0 {
		inv.cltv = 80
	} else if inv.cltv < 24 {
		return fmt.Errorf("CLTV delta of %d must be greater than minimum of 24", inv.cltv)
	}
	if inv.private {
		inv.hints = append(inv.hints, n.privateHints()...)
	}
	opts := []func(*zpay32.Invoice){
		zpay32.CLTVExpiry(uint64(inv.cltv)), zpay32.Expiry(inv.expiry), zpay32.PaymentAddr(inv.addr),
		zpay32.Features(lnwire.NewFeatureVector(lnwire.NewRawFeatureVector(
			lnwire.TLVOnionPayloadRequired, lnwire.PaymentAddrRequired, lnwire.MPPOptional,
		), lnwire.Features)),
	}
	if inv.descHash != nil {
		if len(inv.descHash) != 32 {
			return errors.New("description hash must be 32 bytes")
		}
		opts = append(opts, zpay32.DescriptionHash([32]byte(inv.descHash)))
	} else {
		opts = append(opts, zpay32.Description(inv.memo))
	}
	if inv.valueMsat < 0 {
		return fmt.Errorf("payments of negative value are not allowed, value is %d", inv.valueMsat)
	}
	if inv.valueMsat > 0 {
		opts = append(opts, zpay32.Amount(lnwire.MilliSatoshi(inv.valueMsat)))
	}
	for _, hint := range inv.hints {
		hops, err := parseHint(hint)
		if err != nil {
			return err
		}
		opts = append(opts, zpay32.RouteHint(hops))
	}
	inv.created = time.Now()
	z, err := zpay32.NewInvoice(n.w.chain.params, inv.hash, inv.created.Truncate(time.Second), opts...)
	if err != nil {
		return err
	}
	inv.request, err = z.Encode(zpay32.MessageSigner{SignCompact: func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		return ecdsa.SignCompact(n.key, digest[:], true), nil
	}})
	if err != nil {
		return err
	}
	r.insert(inv)
	return nil
}

func parseHint(hint *lnrpc.RouteHint) ([]zpay32.HopHint, error) {
	var hops []zpay32.HopHint
	for _, h := range hint.HopHints {
		key, err := parsePub(h.NodeId)
		if err != nil {
			return nil, err
		}
		pub, err := btcec.ParsePubKey(key)
		if err != nil {
			return nil, fmt.Errorf("hop hint: %w", err)
		}
		hops = append(hops, zpay32.HopHint{
			NodeID: pub, ChannelID: h.ChanId, FeeBaseMSat: h.FeeBaseMsat,
			FeeProportionalMillionths: h.FeeProportionalMillionths, CLTVExpiryDelta: uint16(h.CltvExpiryDelta),
		})
	}
	return hops, nil
}

func (n *Node) privateHints() []*lnrpc.RouteHint {
	var hints []*lnrpc.RouteHint
	for _, c := range n.w.channels {
		s := c.sideOf(n)
		if s == nil || !c.private || !s.active() || !s.peerOK {
			continue
		}
		o := s.other()
		p := o.wanted
		if o.graph != nil {
			p = *o.graph
		}
		hints = append(hints, &lnrpc.RouteHint{HopHints: []*lnrpc.HopHint{{
			NodeId: o.node.pub, ChanId: o.alias, FeeBaseMsat: uint32(p.baseMsat),
			FeeProportionalMillionths: uint32(p.ratePPM), CltvExpiryDelta: p.delta,
		}}})
	}
	sort.SliceStable(hints, func(i, j int) bool { return hints[i].HopHints[0].ChanId < hints[j].HopHints[0].ChanId })
	return hints
}
