package out

import (
	"crypto/sha256"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// Plan is what was agreed. It never changes while the swap lives.
type Plan struct {
	Terms     htlc.Terms `json:"terms"`
	AmountSat ln.Sat     `json:"amount_sat"`
	FeeSat    ln.Sat     `json:"fee_sat"`
	PrepaySat ln.Sat     `json:"prepay_sat"`
	// MaxMinerSat is the most that the funding transaction may pay.
	MaxMinerSat ln.Sat `json:"max_miner_sat"`
	// LeastChangeSat is what the funding transaction leaves to the wallet at least: a child
	// of that hurries it.
	LeastChangeSat ln.Sat `json:"least_change_sat,omitempty"`
	// PrepayPreimage is drawn at random.
	PrepayPreimage swaps.Secret `json:"prepay_preimage"`
	// Later: the client lets the publication wait, at a lower fee.
	Later bool `json:"later,omitempty"`
	// AcceptBy is when both payments must be held.
	AcceptBy      time.Time     `json:"accept_by"`
	InvoiceExpiry time.Duration `json:"invoice_expiry"`
	// FinalCltvDelta is the swap invoice's; MarginBlocks must lie between the
	// contract's expiry and the height at which the node takes the held payment
	// back (HoldExpiryDelta before its earliest expiry).
	FinalCltvDelta  uint32 `json:"final_cltv_delta"`
	MarginBlocks    uint32 `json:"margin_blocks"`
	HoldExpiryDelta uint32 `json:"hold_expiry_delta"`
	// MinPublishBlocks must be left until the expiry when the funding
	// transaction is signed: a stock client does not reveal in the last 20.
	MinPublishBlocks uint32 `json:"min_publish_blocks"`
	BuriedConfs      uint32 `json:"buried_confs"`
	BumpAfterBlocks  uint32 `json:"bump_after_blocks"`
	// Client is what it calls itself, Caller what it is capped by.
	Client string `json:"client,omitempty"`
	Caller string `json:"caller,omitempty"`
	// Token is the client's (L402), if it has one: notifications go there.
	Token string `json:"token,omitempty"`
}

// ID names the swap.
func (p Plan) ID() string { return p.Terms.Hash.String() }

// SwapInvoiceSat is the hold invoice's amount.
func (p Plan) SwapInvoiceSat() ln.Sat { return p.AmountSat + p.FeeSat - p.PrepaySat }

// PrepayHash is the prepay invoice's hash.
func (p Plan) PrepayHash() ln.Hash { return p.PrepayPreimage.Preimage().Hash() }

// PublishByHeight is the last height at which the output may still be published.
func (p Plan) PublishByHeight() uint32 {
	return p.Terms.ExpiryHeight - min(p.Terms.ExpiryHeight, p.MinPublishBlocks)
}

// LeaseID is the id under which this swap's coins are leased. It does not
// follow from the hash alone, which the client chose.
func (p Plan) LeaseID() [32]byte {
	secret := p.PrepayHash()
	return sha256.Sum256(append([]byte("sluice/swaps/out/lease/"), secret[:]...))
}

// Invoices are what the client was given.
type Invoices struct {
	SwapInvoice   string   `json:"swap_invoice"`
	PrepayInvoice string   `json:"prepay_invoice"`
	PaymentAddr   [32]byte `json:"payment_addr"`
}

// Held says which payments the node holds.
type Held struct {
	SwapHeld   bool `json:"swap_held,omitempty"`
	PrepayHeld bool `json:"prepay_held,omitempty"`
	// EarliestExpiry is that of the swap payment's HTLCs.
	EarliestExpiry uint32 `json:"earliest_expiry,omitempty"`
}

// Tx is the funding transaction, signed and stored.
type Tx struct {
	Raw      []byte        `json:"raw"`
	Outpoint ln.Outpoint   `json:"outpoint"`
	Inputs   []ln.Outpoint `json:"inputs"`
	MinerSat ln.Sat        `json:"miner_sat"`
	WeightWU uint64        `json:"weight_wu"`
	// InputScripts are those of the coins that Inputs name, in order.
	InputScripts   [][]byte           `json:"input_scripts,omitempty"`
	ChangeOutpoint ln.Outpoint        `json:"change_outpoint,omitzero"`
	ChangeSat      ln.Sat             `json:"change_sat,omitempty"`
	Rate           ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	SignedHeight   uint32             `json:"signed_height"`
}

// Life is what happened since the transaction was published.
type Life struct {
	ConfirmedHeight uint32 `json:"confirmed_height,omitempty"`
	// BumpHeight and BumpRate are the last bump asked for (a package rate).
	BumpHeight uint32             `json:"bump_height,omitempty"`
	BumpRate   ln.FeeRateSatPerKW `json:"bump_rate_sat_per_kw,omitempty"`
	// Preimage is the client's, once known; Settled: the hold invoice is.
	Preimage *swaps.Secret `json:"preimage,omitempty"`
	Settled  bool          `json:"settled,omitempty"`
	// Seen is the preimage as a spend showed it that is not buried, while a
	// refund may be public: a reorg could let the refund win after all, so the
	// payment is not taken for it yet.
	Seen *swaps.Secret `json:"seen,omitempty"`
	// Released: the node gave the held payment back although we did not ask.
	Released bool `json:"released,omitempty"`
	// Spent is how the contract's output was spent in the best chain.
	Spent       htlc.Spend `json:"spent,omitempty"`
	SpentBy     ln.TxID    `json:"spent_by,omitzero"`
	SpentHeight uint32     `json:"spent_height,omitempty"`
	SpentFeeSat ln.Sat     `json:"spent_fee_sat,omitempty"`
	// Refund is the latest refund; earlier ones spend the same output. Refunds are
	// all of them.
	Refund  *Refund         `json:"refund,omitempty"`
	Refunds []swaps.Version `json:"refunds,omitempty"`
	// TakenBy spends a coin of the funding transaction in the best chain, and is
	// another transaction: this one cannot confirm beside it.
	TakenBy     ln.TxID `json:"taken_by,omitzero"`
	TakenHeight uint32  `json:"taken_height,omitempty"`
	Trouble     string  `json:"trouble,omitempty"`
}

// Refund is a signed spend by the timeout leaf. Swaps whose refunds are due at
// the same time share one.
type Refund struct {
	Raw  []byte             `json:"raw"`
	TxID ln.TxID            `json:"txid,omitzero"`
	Rate ln.FeeRateSatPerKW `json:"rate_sat_per_kw"`
	// FeeSat is this swap's part of TxFeeSat, which the transaction pays; Shared is
	// how many swaps it serves.
	FeeSat   ln.Sat `json:"fee_sat"`
	TxFeeSat ln.Sat `json:"tx_fee_sat,omitempty"`
	Shared   int    `json:"shared,omitempty"`
	Height   uint32 `json:"height"`
}

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states. Each carries all that was known before.
type (
	// Offered: the invoices are being made.
	Offered struct{ Plan }
	// Invoiced: the client has its invoices; up to one payment is held.
	Invoiced struct {
		Plan
		Invoices
		Held
	}
	// Funding: both payments are held; the transaction is being built and
	// signed. None of it has left the process.
	Funding struct {
		Plan
		Invoices
		Held
	}
	// Funded: the signed transaction is stored and the prepay is being settled.
	Funded struct {
		Plan
		Invoices
		Held
		Tx
	}
	// Published: the transaction may be anywhere; the preimage is unknown.
	Published struct {
		Plan
		Invoices
		Held
		Tx
		Life
	}
	// Refunding: as Published, past the expiry; a refund may be public.
	Refunding struct {
		Plan
		Invoices
		Held
		Tx
		Life
	}
	// Revealed: the preimage is stored; the hold invoice is being settled.
	Revealed struct {
		Plan
		Invoices
		Held
		Tx
		Life
	}
	// Settled: the payment is ours, the output the client's. The transaction is
	// sent again until it is buried.
	Settled struct {
		Plan
		Invoices
		Held
		Tx
		Life
	}
	// Cancelling: nothing was published; the payments are being given back.
	// PrepayKept: the prepay was taken before that was known, and is owed to the client.
	Cancelling struct {
		Plan
		Invoices
		Reason     swaps.Reason `json:"reason"`
		PrepayKept bool         `json:"prepay_kept,omitempty"`
	}
	// Cancelled: final; nobody paid anything but routing attempts, and with PrepayKept
	// the prepay.
	Cancelled struct {
		Plan
		Invoices
		Reason     swaps.Reason `json:"reason"`
		PrepayKept bool         `json:"prepay_kept,omitempty"`
	}
	// Succeeded: final. The client may still ask for its key-path signature.
	Succeeded struct {
		Plan
		Invoices
		Held
		Tx
		Life
	}
	// Refunded: final; the amount is back, the held payment is the client's again,
	// the prepay paid for the transactions.
	Refunded struct {
		Plan
		Invoices
		Held
		Tx
		Life
		Reason swaps.Reason `json:"reason"`
	}
	// Lost: final; the client has the output and the payment went back. A person
	// must look.
	Lost struct {
		Plan
		Invoices
		Held
		Tx
		Life
		Reason swaps.Reason `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Offered) StateName() string    { return "offered" }
func (Invoiced) StateName() string   { return "invoiced" }
func (Funding) StateName() string    { return "funding" }
func (Funded) StateName() string     { return "funded" }
func (Published) StateName() string  { return "published" }
func (Refunding) StateName() string  { return "refunding" }
func (Revealed) StateName() string   { return "revealed" }
func (Settled) StateName() string    { return "settled" }
func (Cancelling) StateName() string { return "cancelling" }
func (Cancelled) StateName() string  { return "cancelled" }
func (Succeeded) StateName() string  { return "succeeded" }
func (Refunded) StateName() string   { return "refunded" }
func (Lost) StateName() string       { return "lost" }

// PlanOf is what the state's swap agreed.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Cancelled, Succeeded, Refunded, Lost:
		return true
	}
	return false
}

// Live is a swap whose transaction may be public: its parts, by name.
type Live Published

// LiveOf gives the parts of such a state.
func LiveOf(s State) (Live, bool) {
	switch s := s.(type) {
	case Published:
		return Live(s), true
	case Refunding:
		return Live(s), true
	case Revealed:
		return Live(s), true
	case Settled:
		return Live(s), true
	case Succeeded:
		return Live(s), true
	case Refunded:
		return Live{Plan: s.Plan, Invoices: s.Invoices, Held: s.Held, Tx: s.Tx, Life: s.Life}, true
	case Lost:
		return Live{Plan: s.Plan, Invoices: s.Invoices, Held: s.Held, Tx: s.Tx, Life: s.Life}, true
	}
	return Live{}, false
}

// InvoicesOf is what the client was given; ok is false before that.
func InvoicesOf(s State) (Invoices, bool) {
	switch s := s.(type) {
	case Invoiced:
		return s.Invoices, true
	case Funding:
		return s.Invoices, true
	case Funded:
		return s.Invoices, true
	case Cancelling:
		return s.Invoices, s.SwapInvoice != ""
	case Cancelled:
		return s.Invoices, s.SwapInvoice != ""
	}
	l, ok := LiveOf(s)
	return l.Invoices, ok
}

// TxOf is the funding transaction, once it is signed.
func TxOf(s State) (Tx, bool) {
	if s, ok := s.(Funded); ok {
		return s.Tx, true
	}
	l, ok := LiveOf(s)
	return l.Tx, ok
}

// ReasonOf is why a swap ended, or what troubles it.
func ReasonOf(s State) swaps.Reason {
	switch s := s.(type) {
	case Cancelling:
		return s.Reason
	case Cancelled:
		return s.Reason
	case Refunded:
		return s.Reason
	case Lost:
		return s.Reason
	}
	if l, ok := LiveOf(s); ok {
		return swaps.Reason{Text: l.Trouble}
	}
	return swaps.Reason{}
}

// PrepayKept says that a swap of which nothing was published took the prepay.
func PrepayKept(s State) bool {
	switch s := s.(type) {
	case Cancelling:
		return s.PrepayKept
	case Cancelled:
		return s.PrepayKept
	}
	return false
}

// MayCosign reports that the client's key-path signature is due: the payment
// is ours, so that the output is the client's alone.
func MayCosign(s State) bool {
	l, ok := LiveOf(s)
	return ok && l.Settled && l.Preimage != nil
}

// Promised is what the state may still take from the wallet: the amount, the most
// that funding it may pay, and the change that it must leave.
func Promised(s State) ln.Sat {
	switch s.(type) {
	case Offered, Invoiced, Funding:
		p := PlanOf(s)
		return p.AmountSat + p.MaxMinerSat + p.LeastChangeSat
	}
	return 0
}
