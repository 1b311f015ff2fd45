package out

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// TestCrashes plays one swap's life after the other, against a node and a chain
// that remember, with a crash at every commit, before and after it became
// durable: at the end each sat is where the contract says.
func TestCrashes(t *testing.T) {
	fsmtest.Harness[State, Event, Effect]{
		World: func(rng *rand.Rand) fsmtest.World[State, Event, Effect] { return newWorld(rng) },
		Steps: 18, Runs: 150,
	}.Run(t)
}

// world is the node, the chain and the client.
type world struct {
	rng   *rand.Rand
	clock *fsmtest.Clock
	// what the client does in this life
	noShow, prepays, gives, onChain, cancels, releases, releasesLate bool

	mu       sync.Mutex
	stumbles int
	step     int
	height   uint32
	// invoices
	swap, prepay ln.InvoiceState
	released     bool
	leased       bool
	signed       int
	raw          string
	confirmed    uint32
	spent        htlc.Spend
	spentHeight  uint32
	final        bool
	broken       []string
}

func newWorld(rng *rand.Rand) *world {
	one := func(n int) bool { return rng.IntN(n) == 0 }
	return &world{
		rng: rng, clock: fsmtest.NewClock(testStart()), stumbles: rng.IntN(4), height: 100, noShow: one(3), prepays: !one(6), gives: !one(3), onChain: one(3), cancels: one(6), releases: one(8),
		releasesLate: one(8),
	}
}

func (w *world) breach(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func (w *world) moment() swaps.Moment { return swaps.Moment{At: testStart(), Height: w.height} }

func (w *world) Boot(db *store.DB) (*fsm.Engine[State, Event, Effect], error) {
	return fsm.New(Machine(), fsm.Options[State, Event, Effect]{
		DB: db, Execute: w.execute, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, Clock: w.clock,
		Reconcile: func(_ context.Context, _ string, s State) ([]Event, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			// What a reorg undid meanwhile nobody tells: everything is told anew.
			return append(ForgetChain(s, w.moment()), w.facts(s)...), nil
		},
	})
}

// facts are what the node and the chain tell whoever asks now.
func (w *world) facts(s State) (events []Event) {
	m := w.moment()
	for leg, state := range map[Leg]ln.InvoiceState{LegSwap: w.swap, LegPrepay: w.prepay} {
		switch state {
		case ln.InvoiceAccepted:
			events = append(events, PaymentHeld{m, leg, 500, ""})
		case ln.InvoiceCanceled:
			events = append(events, PaymentReleased{m, leg})
		}
	}
	if w.final {
		switch s.(type) {
		case Offered, Invoiced:
			return append(events, Tick{swaps.Moment{At: testStart().Add(2 * time.Hour), Height: w.height}})
		}
	}
	return append(events, w.chain()...)
}

// chain is what the chain shows. In the end everything that can confirm does.
func (w *world) chain() (events []Event) {
	if w.final && w.raw != "" {
		w.height = max(w.height, testExpiry+20)
		if w.confirmed == 0 {
			w.confirmed = testExpiry - 40
		}
	}
	m := w.moment()
	if w.confirmed > 0 {
		events = append(events, HtlcConfirmed{m, w.confirmed})
	}
	if w.spent != "" {
		spend := HtlcSpent{m, w.spent, ln.TxID{5}, w.spentHeight, 200, nil}
		if w.spent == htlc.SpendSuccess {
			preimage := testPreimage()
			spend.Preimage = &preimage
		}
		events = append(events, spend)
	}
	return append(events, NewBlock{m, 500})
}

func (w *world) execute(_ context.Context, t fsm.Task[Effect]) ([]Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stumbles > 0 && t.Attempt == 1 {
		w.stumbles--
		return nil, errors.New("the node does not answer")
	}
	m := w.moment()
	switch f := t.Effect.(type) {
	case MakeInvoices:
		if w.swap == "" {
			w.swap, w.prepay = ln.InvoiceOpen, ln.InvoiceOpen
		}
		return []Event{InvoicesMade{m, Invoices{SwapInvoice: "a", PrepayInvoice: "b"}}}, nil
	case FundHtlc:
		if w.prepay != ln.InvoiceAccepted {
			return []Event{FundingRefused{m, "no prepay"}}, nil
		}
		w.leased = true
		w.signed++
		tx := testTx()
		tx.Raw = fmt.Appendf(nil, "funding %d", w.signed)
		return []Event{HtlcFunded{m, tx}}, nil
	case SettlePrepay:
		switch {
		case w.prepay == ln.InvoiceCanceled, w.swap != ln.InvoiceAccepted && w.prepay != ln.InvoiceSettled:
			return []Event{PrepayLost{m, "gone", false}}, nil
		case w.swap == ln.InvoiceCanceled:
			return []Event{PrepayLost{m, "gone", true}}, nil
		}
		w.prepay = ln.InvoiceSettled
		if w.releasesLate && w.swap == ln.InvoiceAccepted {
			// In the moment between looking and taking.
			w.swap, w.released = ln.InvoiceCanceled, true
			return []Event{PaymentReleased{m, LegSwap}, PrepaySettled{m}}, nil
		}
		return []Event{PrepaySettled{m}}, nil
	case PublishHtlc:
		if w.prepay != ln.InvoiceSettled {
			w.breach("published without the prepay")
		}
		if w.releasesLate && w.raw == "" {
			w.breach("published although the payment is gone")
		}
		if w.raw != "" && w.raw != string(f.Raw) {
			w.breach("published %q after %q", f.Raw, w.raw)
		}
		w.raw = string(f.Raw)
		events := []Event{HtlcPublished{m}}
		if w.final {
			events = append(events, w.chain()...)
		}
		return events, nil
	case SettleSwap:
		if f.Preimage.Preimage() != (ln.Preimage{1}) {
			w.breach("settled with another preimage")
		}
		if w.swap == ln.InvoiceCanceled {
			return []Event{SwapUnsettled{m}}, nil
		}
		w.swap = ln.InvoiceSettled
		events := []Event{SwapSettled{m}}
		if w.final {
			events = append(events, w.chain()...)
		}
		return events, nil
	case SignRefund:
		return []Event{RefundSigned{m, Refund{Raw: []byte("refund"), Rate: f.Rate, FeeSat: 200}}}, nil
	case PublishRefund:
		if w.height < testExpiry {
			w.breach("refund at height %d", w.height)
		}
		if w.final && w.spent == "" {
			w.spent, w.spentHeight = htlc.SpendTimeout, w.height-10
			return w.chain(), nil
		}
	case CancelInvoices:
		if w.raw != "" && w.swap == ln.InvoiceAccepted && (w.spent != htlc.SpendTimeout || ln.Confirmations(w.spentHeight, w.height) < 6) {
			w.breach("the payment went back while the output could be taken")
		}
		if w.swap != ln.InvoiceSettled {
			w.swap = ln.InvoiceCanceled
		}
		if f.Prepay != nil && w.prepay != ln.InvoiceSettled {
			w.prepay = ln.InvoiceCanceled
		}
		return []Event{InvoicesCancelled{m}}, nil
	case ReleaseCoins:
		w.leased = false
	}
	return nil, nil
}

func (w *world) Act(ctx context.Context, e *fsm.Engine[State, Event, Effect]) error {
	p := testPlan()
	if _, err := e.Create(ctx, p.ID(), Offered{p}, Start{w.moment()}); err != nil && !errors.Is(err, store.ErrUnique) {
		return err
	}
	return w.Tell(ctx, e)
}

// Tell lets a step pass and says what it was. The clock is that of the engine's
// retries, not of the events.
func (w *world) Tell(ctx context.Context, e *fsm.Engine[State, Event, Effect]) error {
	w.clock.Advance(10 * time.Millisecond)
	p := testPlan()
	inst, err := e.Get(ctx, p.ID())
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.step++
	w.final = w.final || w.step > 13
	events := w.act(inst.State)
	w.mu.Unlock()
	for _, v := range events {
		_, err := e.Send(ctx, p.ID(), v)
		if err != nil && !errors.Is(err, fsm.ErrIllegal) && !errors.Is(err, ErrTooLate) && !errors.Is(err, ErrRefunding) {
			return err
		}
	}
	return nil
}

// act changes the world; what it tells may be lost in a crash.
func (w *world) act(s State) []Event {
	m := w.moment()
	if w.final {
		return w.facts(s)
	}
	live, isLive := LiveOf(s)
	var can []func() []Event
	may := func(when bool, times int, f func() []Event) {
		for range times {
			if when {
				can = append(can, f)
			}
		}
	}
	told := func(f func()) func() []Event { return func() []Event { f(); return w.facts(s) } }
	may(w.gives && w.swap == ln.InvoiceOpen, 3, told(func() { w.swap = ln.InvoiceAccepted }))
	may(w.prepays && w.prepay == ln.InvoiceOpen, 3, told(func() { w.prepay = ln.InvoiceAccepted }))
	may(w.cancels, 1, func() []Event { return []Event{CancelAsked{m, "enough"}} })
	may(w.releases && w.swap == ln.InvoiceAccepted, 1, told(func() { w.swap, w.released = ln.InvoiceCanceled, true }))
	may(w.raw != "" && w.confirmed == 0, 3, told(func() { w.height++; w.confirmed = w.height }))
	may(w.confirmed > 0 && w.spent == "", 2, told(func() { w.height = max(w.height, testExpiry-uint32(w.rng.IntN(2))) }))
	may(true, 1, told(func() { w.height += uint32(w.rng.IntN(4)) }))
	// A reorg undoes what is not buried, spends before what they spend.
	may(w.spent != "" && ln.Confirmations(w.spentHeight, w.height) < 6, 1, func() []Event { w.spent, w.spentHeight = "", 0; return []Event{SpendReorged{m}} })
	may(w.spent == "" && w.confirmed > 0 && ln.Confirmations(w.confirmed, w.height) < 6, 1, func() []Event { w.confirmed = 0; return []Event{HtlcReorged{m}} })
	// The client takes its money, one way or the other, also too late. The chain
	// decides between it and the refund.
	may(!w.noShow && !w.onChain && w.confirmed > 0 && w.spent == "", 2, func() []Event { return []Event{PreimagePushed{m, testPreimage()}} })
	may(!w.noShow && w.onChain && w.confirmed > 0 && w.spent == "", 2, told(func() { w.height++; w.spent, w.spentHeight = htlc.SpendSuccess, w.height }))
	may(isLive && live.Refund != nil && w.confirmed > 0 && w.spent == "", 2, told(func() { w.height++; w.spent, w.spentHeight = htlc.SpendTimeout, w.height }))
	return can[w.rng.IntN(len(can))]()
}

func (w *world) Check(ctx context.Context, db *store.DB, settled bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.broken) > 0 {
		return fmt.Errorf("%v", w.broken)
	}
	if w.swap == ln.InvoiceSettled && w.spent == htlc.SpendTimeout {
		return errors.New("the client was robbed: its payment was taken and the output, too")
	}
	if !settled {
		return nil
	}
	switch {
	case w.leased:
		return errors.New("coins are still leased")
	case w.swap == ln.InvoiceOpen, w.swap == ln.InvoiceAccepted:
		return fmt.Errorf("the payment is still %s", w.swap)
	case w.swap == ln.InvoiceSettled && (w.prepay != ln.InvoiceSettled || w.raw == ""):
		return errors.New("the payment was taken without an output")
	case w.swap == ln.InvoiceCanceled && w.raw != "" && w.spent != htlc.SpendTimeout && !w.released:
		return errors.New("the gateway was robbed: the output is the client's, the payment went back")
	case w.raw == "" && w.prepay == ln.InvoiceSettled && !w.released:
		return errors.New("the prepay was taken for nothing")
	case w.spent == htlc.SpendSuccess && w.swap != ln.InvoiceSettled && !w.released:
		return errors.New("the client took the output and did not pay")
	}
	return nil
}
