package ln

import "time"

// InterceptedHtlc is a forward that lnd offers its one interceptor.
type InterceptedHtlc struct {
	Key          CircuitKey
	Hash         Hash
	IncomingMsat Msat
	OutgoingMsat Msat
	// IncomingExpiry and OutgoingExpiry are absolute block heights.
	IncomingExpiry uint32
	OutgoingExpiry uint32
	// OutgoingSCID is the channel that the onion names; AllOnes when it names a
	// node instead (OutgoingNode).
	OutgoingSCID SCID
	OutgoingNode PubKey
	// AutoFailHeight is where lnd fails it back by itself; equal to
	// IncomingExpiry it marks an HTLC whose channel went on chain: then it may
	// be settled with the preimage or left, never failed or resumed.
	AutoFailHeight uint32
}

// NodeAddressed is the outgoing SCID of a forward that names a node.
const NodeAddressed = SCID(^uint64(0))

// OnChain reports that the incoming channel has gone to chain.
func (h InterceptedHtlc) OnChain() bool { return h.AutoFailHeight == h.IncomingExpiry }

// InvoiceState is the state of an invoice at our own node.
type InvoiceState string

// lnd's invoice states. Accepted means that the whole set of HTLCs is held.
const (
	InvoiceOpen     InvoiceState = "open"
	InvoiceAccepted InvoiceState = "accepted"
	InvoiceSettled  InvoiceState = "settled"
	InvoiceCanceled InvoiceState = "canceled"
)

// HoldInvoiceRequest asks lnd for an invoice that only Settle completes.
type HoldInvoiceRequest struct {
	Hash       Hash
	AmountMsat Msat
	Memo       string
	// DescriptionHash, when set, takes the description's place (BOLT 11, 'h').
	DescriptionHash []byte
	Expiry          time.Duration
	FinalCltvDelta  uint32
	Private         bool
	RouteHints      []RouteHint
}

// InvoiceRequest asks lnd for an ordinary invoice, which lnd settles by itself.
type InvoiceRequest struct {
	// Preimage is chosen by us where the hash must be known beforehand; lnd
	// makes it when it is zero.
	Preimage       Preimage
	AmountMsat     Msat
	Memo           string
	Expiry         time.Duration
	FinalCltvDelta uint32
	RouteHints     []RouteHint
	// Private asks lnd to add hints for private channels of its own.
	Private bool
}

// Reissue is what an invoice of ours shows payers that lnd's database has otherwise.
type Reissue struct {
	// FinalCltvDelta is at least the database's.
	FinalCltvDelta uint32
	// Expiry is no longer than the database's, from the same moment.
	Expiry time.Duration
	// Via leaves only the route hints over this node; the zero key leaves all.
	Via PubKey
	// ExtraPPM is added to the fee of the last hop of each hint.
	ExtraPPM uint32
}

// RouteHint is one single-hop hint (BOLT 11, 'r').
type RouteHint struct {
	Node        PubKey
	SCID        SCID
	BaseFeeMsat uint32
	FeePPM      uint32
	CltvDelta   uint16
}

// Invoice is an invoice in lnd's database.
type Invoice struct {
	Hash           Hash
	Bolt11         string
	State          InvoiceState
	AmountMsat     Msat
	PaidMsat       Msat
	PaymentAddr    [32]byte
	FinalCltvDelta uint32
	CreatedAt      time.Time
	ExpiresAt      time.Time
	Memo           string
	// Preimage is zero until a hold invoice is settled.
	Preimage Preimage
	Htlcs    []InvoiceHtlc
	// SettleIndex is lnd's own count of settled invoices; 0 before.
	SettleIndex uint64
}

// HtlcsIn are the invoice's HTLCs in one state: those of earlier, failed attempts to pay
// it are listed as well.
func (i Invoice) HtlcsIn(state InvoiceState) []InvoiceHtlc {
	out := make([]InvoiceHtlc, 0, len(i.Htlcs))
	for _, h := range i.Htlcs {
		if h.State == state {
			out = append(out, h)
		}
	}
	return out
}

// InvoiceHtlc is one HTLC that pays an invoice of ours.
type InvoiceHtlc struct {
	Key          CircuitKey
	AmtMsat      Msat
	ResolvedAt   time.Time
	AcceptHeight uint32
	Expiry       uint32
	State        InvoiceState
}

// InvoicePage is one page of a node's invoices, in the order of their making.
type InvoicePage struct {
	Settled []Invoice
	// Next is where the next page begins; Done says that there is none.
	Next uint64
	Done bool
	// From is the last index before the page's first invoice that may still be
	// settled: nothing up to it needs to be read again. Open says that there is
	// such an invoice.
	From uint64
	Open bool
}

// Bolt11 is what a payment request says (BOLT 11), checked and decoded.
type Bolt11 struct {
	Text            string
	Network         string
	Hash            Hash
	Payee           PubKey
	PaymentAddr     [32]byte
	HasPaymentAddr  bool
	AmountMsat      Msat // 0: the payer chooses
	Description     string
	DescriptionHash []byte
	CreatedAt       time.Time
	Expiry          time.Duration
	FinalCltvDelta  uint32
	RouteHints      [][]RouteHint
}

// ExpiresAt is when the payer may no longer start to pay.
func (b Bolt11) ExpiresAt() time.Time { return b.CreatedAt.Add(b.Expiry) }

// PaymentState is the state of a payment that we send.
type PaymentState string

// Unknown means that lnd has no record: a payment that was never handed to it.
const (
	PaymentUnknown   PaymentState = "unknown"
	PaymentInFlight  PaymentState = "in_flight"
	PaymentSucceeded PaymentState = "succeeded"
	PaymentFailed    PaymentState = "failed"
)

// Payment is what TrackPaymentV2 says of a hash.
type Payment struct {
	Hash      Hash
	State     PaymentState
	ValueMsat Msat
	FeeMsat   Msat
	Preimage  Preimage
	// Failure is lnd's reason, for people.
	Failure string
	// FailedHere, of PayDirect: it never left the node.
	FailedHere bool
	// InFlight counts attempts that are not resolved.
	InFlight int
	// Index is lnd's own count of payments.
	Index uint64
	// Direct: it was sent without a payment request, over one channel to the peer at its
	// end, as a wallet is paid for a wrapped invoice.
	Direct bool
	// Parts are the attempts that succeeded, Open those that are not resolved.
	Parts []PaymentPart
	Open  []PaymentAttempt
}

// PaymentAttempt is one that is not resolved.
type PaymentAttempt struct {
	// ChanID is the first hop's channel, ExpiryHeight that of its HTLC.
	ChanID       SCID
	ExpiryHeight uint32
}

// PaymentPart is what one successful attempt took out of a channel.
type PaymentPart struct {
	// ChanID is the first hop's channel: lnd sends a payment of its own over
	// exactly that one.
	ChanID  SCID
	AmtMsat Msat
	EndedAt time.Time
}

// DirectPayment asks to pay an invoice's hash over one channel of ours to the
// peer at its other end, with an onion of our own making.
type DirectPayment struct {
	Hash        Hash
	PaymentAddr [32]byte
	AmountMsat  Msat
	ChanID      SCID
	Peer        PubKey
	// ExpiryHeight is absolute; the peer's final delta counts down from it.
	ExpiryHeight uint32
}

// HtlcEventKind is what lnd said of a forward.
type HtlcEventKind string

// The kinds of HTLC event.
const (
	HtlcForwarded   HtlcEventKind = "forward"
	HtlcForwardFail HtlcEventKind = "forward_fail"
	HtlcSettled     HtlcEventKind = "settle"
	HtlcLinkFail    HtlcEventKind = "link_fail"
	HtlcFinal       HtlcEventKind = "final"
)

// HtlcEvent is one event of lnd's HTLC event stream; it has no replay.
type HtlcEvent struct {
	Kind     HtlcEventKind
	Incoming CircuitKey
	Outgoing CircuitKey
	// Settled and OffChain qualify HtlcFinal.
	Settled  bool
	OffChain bool
	Failure  string
	At       time.Time
}

// Resolution is the final outcome of an incoming HTLC, where lnd keeps it
// (store-final-htlc-resolutions).
type Resolution struct {
	Known    bool
	Settled  bool
	OffChain bool
}

// Forward is one settled forward of lnd's forwarding history.
type Forward struct {
	At           time.Time
	Incoming     CircuitKey
	Outgoing     CircuitKey
	IncomingMsat Msat
	OutgoingMsat Msat
	// HasIndexes says that this lnd recorded the HTLC indexes.
	HasIndexes bool
	// Offset is this event's index in lnd's history.
	Offset uint64
}
