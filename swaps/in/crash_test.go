package in

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
// that remember, with a crash at every commit: whatever happens, nothing is paid
// twice or too early, and what was paid for is taken.
func TestCrashes(t *testing.T) {
	fsmtest.Harness[State, Event, Effect]{
		World: func(rng *rand.Rand) fsmtest.World[State, Event, Effect] { return newWorld(rng) },
		Steps: 16, Runs: 150,
	}.Run(t)
}

// world is the node, the chain and the client.
type world struct {
	rng   *rand.Rand
	clock *fsmtest.Clock
	// what happens in this life
	refuses, cutsOff, keepsKey, wrongAmount, opens bool

	mu          sync.Mutex
	stumbles    int
	step        int
	height      uint32
	confirmed   uint32
	pay         ln.PaymentState
	attempts    int
	final       bool
	claimed     bool
	spentHeight uint32
	// channels are the opens that ended well; notOpened how many fail first.
	channels  map[string]bool
	notOpened int
	broken    []string
}

func newWorld(rng *rand.Rand) *world {
	one := func(n int) bool { return rng.IntN(n) == 0 }
	return &world{
		rng: rng, clock: fsmtest.NewClock(testStart()), stumbles: rng.IntN(4), height: 100, pay: ln.PaymentUnknown, refuses: one(5), cutsOff: one(2), keepsKey: one(2), wrongAmount: one(8),
		opens: one(2), notOpened: rng.IntN(3), channels: map[string]bool{},
	}
}

func (w *world) moment() swaps.Moment { return swaps.Moment{At: testStart(), Height: w.height} }

func (w *world) Boot(db *store.DB) (*fsm.Engine[State, Event, Effect], error) {
	return fsm.New(Machine(), fsm.Options[State, Event, Effect]{
		DB: db, Execute: w.execute, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, Clock: w.clock,
		Concurrent: func(f Effect) bool {
			return f.EffectName() == "pay" || f.EffectName() == "track_payment" || f.EffectName() == "open_channel"
		},
		Reconcile: func(_ context.Context, _ string, s State) ([]Event, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return append(ForgetChain(s, w.moment()), w.facts(s)...), nil
		},
	})
}

// facts are what the chain tells whoever asks now. In the end the swap is given
// what it waits for, or its time is over.
func (w *world) facts(s State) (events []Event) {
	late := swaps.Moment{At: testStart().Add(time.Hour), Height: w.height}
	if w.final {
		switch s.(type) {
		case Probing, Paid:
			events = append(events, Tick{late})
		case Waiting, Opening, Paying:
			if w.pay != ln.PaymentSucceeded {
				w.height = max(w.height, 900)
			}
		}
		if w.claimed {
			w.height = max(w.height, w.spentHeight+6)
		}
	}
	m := w.moment()
	if w.confirmed > 0 {
		found := OutputFound{m, outpoint(), 500_000, 1, w.confirmed}
		if w.wrongAmount {
			found.ValueSat--
		}
		events = append(events, found)
	}
	if w.claimed {
		events = append(events, OutputSpent{m, outpoint(), htlc.SpendKey, ln.TxID{}, w.spentHeight, 200})
	}
	return append(events, NewBlock{m, 500, 1_000_000, false})
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
	case Probe:
		return []Event{ProbePassed{m}}, nil
	case OpenChannel:
		if d := ln.Confirmations(w.confirmed, w.height); d < f.Plan.Confs && w.pay == ln.PaymentUnknown && !w.channels[f.OpeningID] {
			// A reorg between the decision and the open costs the open alone.
			return w.over(ChannelNotOpened{m, "the deposit is away", false}), nil
		}
		if w.notOpened > 0 {
			w.notOpened--
			return w.over(ChannelNotOpened{m, "no", w.rng.IntN(2) == 0}), nil
		}
		w.channels[f.OpeningID] = true
		if len(w.channels) > 1 {
			w.broken = append(w.broken, "two channels were opened")
		}
		return w.over(ChannelUsable{m, 77}), nil
	case AskTip:
		return []Event{NewBlock{m, 500, 1_000_000, false}}, nil
	case Pay:
		if w.opens != (f.ChanID == 77) || w.opens && len(w.channels) != 1 {
			w.broken = append(w.broken, "paid over another way than agreed")
		}
		// The node knows one payment of a hash, and asks itself first.
		if w.pay == ln.PaymentUnknown || w.pay == ln.PaymentFailed && f.Attempt > w.attempts {
			if d := ln.Confirmations(w.confirmed, w.height); d < f.MinConfs {
				if w.height > f.Plan.LastPayHeight() {
					return []Event{PaymentNotSent{m, "late"}}, nil
				}
				return nil, fmt.Errorf("%d confirmations", d)
			} else if d < f.Plan.Confs {
				w.broken = append(w.broken, fmt.Sprintf("paid at %d confirmations", d))
			}
			w.attempts = f.Attempt
			w.pay = ln.PaymentInFlight
		}
		if w.cutsOff {
			w.cutsOff = false
			return []Event{PaymentCutOff{m, "eof"}}, nil
		}
		return w.word(m), nil
	case TrackPayment:
		return w.word(m), nil
	case SignClaim:
		if w.pay != ln.PaymentSucceeded {
			w.broken = append(w.broken, "claimed what was not paid for")
		}
		return []Event{ClaimSigned{m, Claim{Raw: []byte("claim"), TxID: ln.TxID{8}, ClaimFeeSat: 200, Rate: 500}}}, nil
	case PublishClaim:
		if w.final && w.confirmed == 0 {
			w.confirmed = w.height
		}
		if w.confirmed > 0 && !w.claimed {
			w.claimed, w.spentHeight = true, w.height
		}
		if w.final {
			w.height = w.spentHeight + 6
			return []Event{OutputSpent{w.moment(), outpoint(), htlc.SpendKey, ln.TxID{}, w.spentHeight, 200}}, nil
		}
	}
	return nil, nil
}

// over adds the block that ends the swap, in the end.
func (w *world) over(v Event) []Event {
	if !w.final {
		return []Event{v}
	}
	w.height = max(w.height, 900)
	return []Event{v, NewBlock{w.moment(), 500, 0, false}}
}

// word is the node's terminal word about the payment.
func (w *world) word(m swaps.Moment) []Event {
	if w.pay == ln.PaymentInFlight {
		w.pay = ln.PaymentSucceeded
		if w.refuses {
			w.pay = ln.PaymentFailed
		}
	}
	switch w.pay {
	case ln.PaymentSucceeded:
		events := []Event{PaymentSucceeded{m, swaps.NewSecret(ln.Preimage{1}), 5}}
		if w.final {
			events = append(events, Tick{swaps.Moment{At: testStart().Add(time.Hour), Height: w.height}})
		}
		return events
	case ln.PaymentFailed:
		events := []Event{PaymentFailed{m, "no route", false}}
		if w.final {
			w.height = max(w.height, 900)
			events = append(events, NewBlock{w.moment(), 500, 0, false})
		}
		return events
	}
	return []Event{PaymentNotSent{m, "unknown"}}
}

func (w *world) Act(ctx context.Context, e *fsm.Engine[State, Event, Effect]) error {
	p := testPlan()
	var begun State = Probing{p}
	if w.opens {
		begun = Waiting{Plan: openPlan()}
	}
	if _, err := e.Create(ctx, p.ID(), begun, Start{w.moment()}); err != nil && !errors.Is(err, store.ErrUnique) {
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
	w.final = w.final || w.step > 11
	events := w.act(inst.State)
	w.mu.Unlock()
	for _, v := range events {
		if _, err := e.Send(ctx, p.ID(), v); err != nil && !errors.Is(err, fsm.ErrIllegal) {
			return err
		}
	}
	return nil
}

// act changes the world; what it tells may be lost in a crash.
func (w *world) act(s State) []Event {
	if w.final {
		return w.facts(s)
	}
	switch w.rng.IntN(5) {
	case 0:
		if w.confirmed == 0 {
			w.height++
			w.confirmed = w.height
		}
	case 1, 2:
		w.height += uint32(w.rng.IntN(3))
	case 3:
		// A reorg undoes what is not buried and not paid for.
		if w.confirmed > 0 && ln.Confirmations(w.confirmed, w.height) < 3 && w.pay == ln.PaymentUnknown {
			w.confirmed = 0
			return []Event{OutputReorged{w.moment(), outpoint(), false}}
		}
	case 4:
		if _, paid := s.(Paid); paid && !w.keepsKey {
			return []Event{KeyPushed{w.moment(), swaps.NewSecret(ln.Preimage{3})}}
		}
	}
	return w.facts(s)
}

func (w *world) Check(_ context.Context, _ *store.DB, settled bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.broken) > 0:
		return fmt.Errorf("%v", w.broken)
	case !settled:
		return nil
	case w.pay == ln.PaymentInFlight:
		return errors.New("over, with a payment in flight")
	case w.pay == ln.PaymentSucceeded && !w.claimed:
		return errors.New("the gateway paid and has nothing")
	case w.pay != ln.PaymentSucceeded && w.claimed:
		return errors.New("the client was robbed")
	case w.wrongAmount && w.pay != ln.PaymentUnknown:
		return errors.New("an output of another amount was paid for")
	}
	return nil
}
