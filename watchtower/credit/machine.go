package credit

import (
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Name is the machine's name in the database.
const Name = "watchtower/credit"

// Plan is what is bought. It never changes.
type Plan struct {
	Tenant   int64  `json:"tenant"`
	Identity string `json:"identity"`
	// Preimage is drawn by the tower and kept to itself until the credit is
	// recorded: whoever knows it has the payment.
	Preimage   Secret    `json:"preimage"`
	AmountMsat ln.Msat   `json:"amount_msat"`
	At         time.Time `json:"at"`
	Expires    time.Time `json:"expires"`
}

// Hash is the payment's.
func (p Plan) Hash() ln.Hash { return p.Preimage.Preimage().Hash() }

// ID names the purchase.
func (p Plan) ID() string { return p.Hash().String() }

// Secret is a preimage inside a stored state.
type Secret = ln.Secret

// NewSecret keeps a preimage for storage.
func NewSecret(p ln.Preimage) Secret { return ln.NewSecret(p) }

// State is one of the states below.
type State interface {
	StateName() string
	plan() Plan
}

// The states.
type (
	// Planned: the node may have the invoice; nobody was told it.
	Planned struct{ Plan }
	// Offered: the tenant has the invoice.
	Offered struct {
		Plan
		Bolt11 string `json:"bolt11"`
	}
	// Credited: the node holds the payment, and the credit is recorded. The invoice
	// is to be settled.
	Credited struct {
		Plan
		PaidMsat ln.Msat `json:"paid_msat"`
	}
	// Refusing: the payment is not accepted and goes back.
	Refusing struct {
		Plan
		Reason string `json:"reason"`
	}
	// Settled: final; the payment is ours and the credit is the tenant's.
	Settled struct {
		Plan
		PaidMsat ln.Msat `json:"paid_msat"`
	}
	// TakenBack: final; the node had given the payment back before it was settled,
	// so the credit is taken back as well.
	TakenBack struct {
		Plan
		PaidMsat ln.Msat `json:"paid_msat"`
	}
	// Over: final; nothing was paid, or it went back.
	Over struct {
		Plan
		Reason string `json:"reason"`
	}
)

func (p Plan) plan() Plan { return p }

// StateName is the stable text under which the state is stored.
func (Planned) StateName() string   { return "planned" }
func (Offered) StateName() string   { return "offered" }
func (Credited) StateName() string  { return "credited" }
func (Refusing) StateName() string  { return "refusing" }
func (Settled) StateName() string   { return "settled" }
func (TakenBack) StateName() string { return "taken_back" }
func (Over) StateName() string      { return "over" }

// PlanOf is what the state's purchase set out to do.
func PlanOf(s State) Plan { return s.plan() }

// Final reports that no event will change the state any more.
func Final(s State) bool {
	switch s.(type) {
	case Settled, TakenBack, Over:
		return true
	}
	return false
}

// RecordedMsat is the credit that is recorded in a state. What a transition adds
// to it is what the tenant's account gets, or loses.
func RecordedMsat(s State) ln.Msat {
	switch s := s.(type) {
	case Credited:
		return s.PaidMsat
	case Settled:
		return s.PaidMsat
	}
	return 0
}

// ReasonOf is what a person should know about the state.
func ReasonOf(s State) string {
	switch s := s.(type) {
	case Refusing:
		return s.Reason
	case TakenBack:
		return "the node gave the payment back before it could be settled: the credit was taken back"
	case Over:
		return s.Reason
	}
	return ""
}

// Event is something that happened to a purchase.
type Event interface{ EventName() string }

// Moment is when it happened.
type Moment struct {
	At time.Time `json:"at"`
}

// EventTime gives the event's time to the engine.
func (m Moment) EventTime() time.Time { return m.At }

// The events.
type (
	// Start begins a Planned purchase.
	Start struct{ Moment }
	// InvoiceMade answers MakeInvoice.
	InvoiceMade struct {
		Moment
		Bolt11 string `json:"bolt11"`
	}
	// InvoiceRefused answers MakeInvoice: the node makes no such invoice.
	InvoiceRefused struct {
		Moment
		Text string `json:"text"`
	}
	// PaymentHeld: the node holds the whole payment. Unsafe says why it must not be
	// accepted (law 12), if so.
	PaymentHeld struct {
		Moment
		PaidMsat ln.Msat `json:"paid_msat"`
		Unsafe   string  `json:"unsafe,omitempty"`
	}
	// PaymentSettled: the node shows the invoice settled.
	PaymentSettled struct {
		Moment
		PaidMsat ln.Msat `json:"paid_msat"`
	}
	// PaymentReleased: the node shows the invoice cancelled, or does not know it.
	PaymentReleased struct{ Moment }
)

func (Start) EventName() string           { return "start" }
func (InvoiceMade) EventName() string     { return "invoice_made" }
func (InvoiceRefused) EventName() string  { return "invoice_refused" }
func (PaymentHeld) EventName() string     { return "payment_held" }
func (PaymentSettled) EventName() string  { return "payment_settled" }
func (PaymentReleased) EventName() string { return "payment_released" }

// Effect is something to do once the state that asks for it is stored; it may
// run again.
type Effect interface{ EffectName() string }

// The effects.
type (
	// MakeInvoice adds the hold invoice, or finds the one that an earlier attempt
	// added. Answers: InvoiceMade, InvoiceRefused.
	MakeInvoice struct {
		Plan Plan `json:"plan"`
	}
	// WatchInvoice follows it until it is settled or cancelled.
	WatchInvoice struct {
		Hash ln.Hash `json:"hash"`
	}
	// SettleInvoice takes the payment. Answers: PaymentSettled, PaymentReleased.
	SettleInvoice struct {
		Preimage Secret  `json:"preimage"`
		PaidMsat ln.Msat `json:"paid_msat"`
	}
	// CancelInvoice gives it back. Answers: PaymentReleased.
	CancelInvoice struct {
		Hash ln.Hash `json:"hash"`
	}
)

func (MakeInvoice) EffectName() string   { return "make_invoice" }
func (WatchInvoice) EffectName() string  { return "watch_invoice" }
func (SettleInvoice) EffectName() string { return "settle_invoice" }
func (CancelInvoice) EffectName() string { return "cancel_invoice" }

// Machine is the state machine of one purchase.
func Machine() fsm.Machine[State, Event, Effect] {
	return fsm.Machine[State, Event, Effect]{
		Name:     Name,
		Step:     Step,
		States:   []State{Planned{}, Offered{}, Credited{}, Refusing{}, Settled{}, TakenBack{}, Over{}},
		Events:   []Event{Start{}, InvoiceMade{}, InvoiceRefused{}, PaymentHeld{}, PaymentSettled{}, PaymentReleased{}},
		Effects:  []Effect{MakeInvoice{}, WatchInvoice{}, SettleInvoice{}, CancelInvoice{}},
		Terminal: Final,
		Edges:    edges(),
	}
}
