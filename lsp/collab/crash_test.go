package collab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// TestCrashes plays one joint funding's life after the other, against a node, a
// wallet and a chain that remember, with a crash at every commit: whatever
// happens, coins are free when nothing can take them any more and not before, and
// no channel is forgotten that could still be funded.
func TestCrashes(t *testing.T) {
	ours, tx := testOurs(t, testPlan()), testTx(t, testPlan())
	require.NotEqual(t, ours.Gateway.Inputs[0].Outpoint, testPlan().Inputs[0].Outpoint)
	fsmtest.Harness[State, Event, Effect]{
		World: func(rng *rand.Rand) fsmtest.World[State, Event, Effect] { return newWorld(rng, ours, tx) },
		Steps: 18, Runs: 200,
	}.Run(t)
}

// world is the gateway's node, the wallet and the chain.
type world struct {
	rng   *rand.Rand
	clock *fsmtest.Clock
	fsm   *fsm.Engine[State, Event, Effect]
	ours  Ours
	tx    funding.JointTx
	// what happens in this life
	refused, short, silent, cutsOff, thief bool

	mu       sync.Mutex
	stumbles int
	refusals int
	step     int
	final    bool
	height   uint32
	// stream is a negotiation that this process holds.
	stream    bool
	leased    bool
	known     bool
	half      bool
	signed    bool
	published bool
	// spentBy is what the best chain has for the first input, in spentAt.
	spentBy ln.TxID
	spentAt uint32
	broken  []string
}

func newWorld(rng *rand.Rand, ours Ours, tx funding.JointTx) *world {
	one := func(n int) bool { return rng.IntN(n) == 0 }
	return &world{
		rng: rng, clock: fsmtest.NewClock(testStart()), ours: ours, tx: tx, stumbles: rng.IntN(4), refusals: rng.IntN(3),
		refused: one(12), short: one(12), silent: one(6), cutsOff: one(5), thief: one(3), height: testHeight,
	}
}

func (w *world) moment() lsp.Moment { return lsp.Moment{At: testStart(), Height: w.height} }

func (w *world) Boot(db *store.DB) (*fsm.Engine[State, Event, Effect], error) {
	w.mu.Lock()
	w.stream = false
	w.mu.Unlock()
	var err error
	w.fsm, err = fsm.New(Machine(), fsm.Options[State, Event, Effect]{
		DB: db, Execute: w.execute, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, Clock: w.clock,
		Concurrent: func(f Effect) bool { return f.EffectName() == "negotiate" || f.EffectName() == "verify" },
		Reconcile: func(_ context.Context, _ string, s State) ([]Event, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			// Whoever follows the chain anew forgets what it said before.
			return append([]Event{SpendReorged{Moment: w.moment(), Input: testPlan().Inputs[0].Outpoint}}, w.facts(s)...), nil
		},
	})
	return w.fsm, err
}

// gone says that another transaction spends an input and is buried: the complete
// one is worthless.
func (w *world) gone() bool {
	return w.spentAt > 0 && w.spentBy != w.tx.Funding.TxID && ln.Confirmations(w.spentAt, w.height) >= testPlan().BuriedConfs
}

func (w *world) confirmed() bool { return w.spentAt > 0 && w.spentBy == w.tx.Funding.TxID }

func (w *world) execute(ctx context.Context, t fsm.Task[Effect]) ([]Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stumbles > 0 && t.Attempt == 1 {
		w.stumbles--
		return nil, errors.New("the node does not answer")
	}
	m := w.moment()
	switch f := t.Effect.(type) {
	case CheckInputs:
		if w.refused {
			return []Event{InputsRefused{m, "it is not there"}}, nil
		}
		return []Event{InputsChecked{m}}, nil
	case LeaseCoins:
		if w.short {
			return []Event{CoinsRefused{m, true, "short"}}, nil
		}
		w.leased = true
		return []Event{CoinsLeased{m, w.ours}}, nil
	case Negotiate:
		w.stream = true
		return []Event{FundingBuilt{m, w.tx}}, nil
	case Verify:
		if !w.stream {
			return []Event{NegotiationEnded{m, false, "sluiced restarted"}}, nil
		}
		inst, err := w.fsm.Get(ctx, f.ID)
		if err != nil {
			return nil, err
		}
		w.stream = false
		if Final(inst.State) {
			// Given up, and forgotten, while lnd was asked: whoever asked sees to
			// it that lnd keeps nothing.
			return nil, nil
		}
		w.known = true
		if w.cutsOff {
			return []Event{NegotiationEnded{m, false, "eof"}}, nil
		}
		return []Event{FundingPending{m, w.tx.Funding}}, nil
	case Sign:
		if !w.half {
			w.broken = append(w.broken, "the gateway signed before the wallet")
		}
		w.signed = true
		return []Event{FundingSigned{m, w.tx.Funding.TxID, []byte("raw")}}, nil
	case Publish:
		if !w.signed || string(f.Raw) != "raw" {
			w.broken = append(w.broken, "published what was not signed")
		}
		w.published = true // whoever saw it may send it again
		if w.refusals > 0 {
			w.refusals--
			return []Event{PublishFailed{m, "min relay fee"}}, nil
		}
		return []Event{FundingPublished{m}}, nil
	case AbandonChannel:
		if w.published && !w.gone() {
			w.broken = append(w.broken, "a channel that may yet be funded was forgotten")
		}
		w.known = false
	case ReleaseCoins:
		if w.published && !w.gone() && !w.confirmed() {
			w.broken = append(w.broken, "coins of a transaction that is out were released")
		}
		w.leased = false
	}
	return nil, nil
}

// facts are what the chain and the wallet tell whoever asks now. In the end the
// wallet signs or its time is over, and the transaction confirms.
func (w *world) facts(s State) (events []Event) {
	m := w.moment()
	late := lsp.Moment{At: testStart().Add(2 * time.Hour), Height: w.height}
	if w.spentAt > 0 {
		in := testPlan().Inputs[0].Outpoint
		events = append(events, InputSpent{m, Spend{in, w.spentBy, w.spentAt}})
	}
	if w.final {
		switch s.(type) {
		case Checking, Choosing, Negotiating, Built, Ready:
			events = append(events, Tick{late})
		}
		if w.published && w.spentAt == 0 {
			w.spentBy, w.spentAt = w.tx.Funding.TxID, w.height
		}
		w.height++
	}
	return append(events, NewBlock{w.moment(), 2_000})
}

func (w *world) Act(ctx context.Context, e *fsm.Engine[State, Event, Effect]) error {
	p := testPlan()
	if _, err := e.Create(ctx, p.ID, Checking{p}, Start{w.moment()}); err != nil && !errors.Is(err, store.ErrUnique) {
		return err
	}
	return w.Tell(ctx, e)
}

// Tell lets a step pass and says what it was.
func (w *world) Tell(ctx context.Context, e *fsm.Engine[State, Event, Effect]) error {
	w.clock.Advance(10 * time.Millisecond)
	inst, err := e.Get(ctx, testPlan().ID)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.step++
	w.final = w.final || w.step > 14
	events := w.act(inst.State)
	w.mu.Unlock()
	for _, v := range events {
		if _, err := e.Send(ctx, testPlan().ID, v); err != nil && !errors.Is(err, fsm.ErrIllegal) && !errors.Is(err, ErrTooLate) {
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
	_, isReady := s.(Ready)
	switch w.rng.IntN(8) {
	case 0, 1, 2:
		if isReady && !w.silent {
			w.half = true
			return []Event{WalletSigned{w.moment(), []byte("half")}}
		}
	case 3:
		if w.rng.IntN(4) == 0 {
			return []Event{Abort{w.moment(), w.rng.IntN(2) == 0, "changed its mind"}}
		}
	case 4:
		if w.thief && w.spentAt == 0 {
			w.spentBy, w.spentAt = ln.TxID{99}, w.height
		}
	case 5:
		if w.published && w.spentAt == 0 {
			w.height++
			w.spentBy, w.spentAt = w.tx.Funding.TxID, w.height
		}
	case 6:
		// A reorg undoes what is not buried.
		if w.spentAt > 0 && ln.Confirmations(w.spentAt, w.height) < testPlan().BuriedConfs {
			w.spentAt = 0
			return []Event{SpendReorged{Moment: w.moment(), Input: testPlan().Inputs[0].Outpoint}}
		}
	case 7:
		w.height++
	}
	return w.facts(s)
}

func (w *world) Check(ctx context.Context, db *store.DB, settled bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.broken) > 0:
		return fmt.Errorf("%v", w.broken)
	case !settled:
		return nil
	case w.leased:
		return errors.New("over, with coins leased")
	case w.published && !w.gone() && !w.confirmed():
		return errors.New("over, with a transaction that may confirm or not")
	case w.known && (!w.published || w.gone()):
		return errors.New("over, with a channel in lnd that nothing funds")
	case !w.known && w.confirmed():
		return errors.New("the channel is funded and forgotten")
	}
	return nil
}
