package fsm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/store"
)

// The toy: somebody's money is taken in, paid on, and handed over or given back.

type (
	state  interface{ fsm.State }
	event  interface{ fsm.Event }
	effect interface{ fsm.Effect }

	stNew       struct{}
	stPaying    struct{ Amount int64 }
	stSettling  struct{ Amount int64 }
	stRefunding struct {
		Amount int64
		Reason string
	}
	stDone     struct{ Amount int64 }
	stRefunded struct{ Reason string }

	evOffered   struct{ Amount int64 }
	evDelivered struct{}
	evRejected  struct{ Reason string }
	evSettled   struct{}
	evGivenBack struct{}
	evTimeOut   struct{ At time.Time }

	efPay    struct{ Amount int64 }
	efSettle struct{ Amount int64 }
	efRefund struct{ Amount int64 }
)

func (stNew) StateName() string       { return "new" }
func (stPaying) StateName() string    { return "paying" }
func (stSettling) StateName() string  { return "settling" }
func (stRefunding) StateName() string { return "refunding" }
func (stDone) StateName() string      { return "done" }
func (stRefunded) StateName() string  { return "refunded" }

func (evOffered) EventName() string   { return "offered" }
func (evDelivered) EventName() string { return "delivered" }
func (evRejected) EventName() string  { return "rejected" }
func (evSettled) EventName() string   { return "settled" }
func (evGivenBack) EventName() string { return "given_back" }
func (evTimeOut) EventName() string   { return "time_out" }

func (v evTimeOut) EventTime() time.Time { return v.At }

func (efPay) EffectName() string    { return "pay" }
func (efSettle) EffectName() string { return "settle" }
func (efRefund) EffectName() string { return "refund" }

func step(s state, v event) (state, []effect, error) {
	switch s := s.(type) {
	case stNew:
		if v, ok := v.(evOffered); ok {
			return stPaying(v), []effect{efPay(v)}, nil
		}
	case stPaying:
		switch v := v.(type) {
		case evDelivered:
			return stSettling(s), []effect{efSettle(s)}, nil
		case evRejected:
			return stRefunding{s.Amount, v.Reason}, []effect{efRefund(s)}, nil
		}
	case stSettling:
		if _, ok := v.(evSettled); ok {
			return stDone(s), nil, nil
		}
	case stRefunding:
		if _, ok := v.(evGivenBack); ok {
			return stRefunded{s.Reason}, nil, nil
		}
	case stRefunded:
		if _, ok := v.(evGivenBack); ok {
			return nil, nil, fsm.Repeated(s, v)
		}
	}
	return nil, nil, fsm.Illegal(s, v)
}

func escrow() fsm.Machine[state, event, effect] {
	return fsm.Machine[state, event, effect]{
		Name:    "escrow",
		Step:    step,
		States:  []state{stNew{}, stPaying{}, stSettling{}, stRefunding{}, stDone{}, stRefunded{}},
		Events:  []event{evOffered{}, evDelivered{}, evRejected{}, evSettled{}, evGivenBack{}, evTimeOut{}},
		Effects: []effect{efPay{}, efSettle{}, efRefund{}},
		Terminal: func(s state) bool {
			switch s.(type) {
			case stDone, stRefunded:
				return true
			}
			return false
		},
		Edges: []fsm.Edge{
			{From: "new", Event: "offered", To: "paying", Effects: []string{"pay"}},
			{From: "paying", Event: "delivered", To: "settling", Effects: []string{"settle"}},
			{From: "paying", Event: "rejected", To: "refunding", Effects: []string{"refund"}},
			{From: "settling", Event: "settled", To: "done"},
			{From: "refunding", Event: "given_back", To: "refunded"},
		},
	}
}

func samples() fsmtest.Samples[state, event] {
	return fsmtest.Samples[state, event]{
		Initial: []state{stNew{}},
		Events: func(state) []event {
			return []event{evOffered{5}, evDelivered{}, evRejected{"no"}, evSettled{}, evGivenBack{}, evTimeOut{}}
		},
	}
}

// bank is the other side of the effects. It takes each key once, as lnd takes a
// payment hash once, and remembers what it answered.
type bank struct {
	mu      sync.Mutex
	rng     *rand.Rand
	answers map[string]event
	asked   map[string]fsm.Task[effect]
	order   map[string][]string // per instance, the effects in the order of arrival
	wallet  map[string]int64    // held, payee, payer: what really moved
	offered map[string]int64
	n       int
	breach  error
}

func newBank(rng *rand.Rand) fsmtest.World[state, event, effect] {
	// Effects run in goroutines, so what they draw from is theirs alone.
	return &bank{
		rng: rng, answers: make(map[string]event), asked: make(map[string]fsm.Task[effect]),
		order: make(map[string][]string), wallet: make(map[string]int64), offered: make(map[string]int64),
	}
}

func (b *bank) Boot(db *store.DB) (*fsm.Engine[state, event, effect], error) {
	return fsm.New(escrow(), fsm.Options[state, event, effect]{
		DB: db, Execute: b.execute, Reconcile: b.reconcile, InTx: post, Log: zap.NewNop(),
		RetryMin: time.Millisecond, RetryMax: 4 * time.Millisecond,
	})
}

func post(ctx context.Context, tx *store.Tx, t fsm.Transition[state, event]) error {
	entry := ledger.Entry{
		Key: fmt.Sprintf("escrow/%s/%d", t.ID, t.Seq), At: t.At, Reason: t.Event.EventName(), Reference: t.ID,
	}
	held := ledger.Account("held/" + t.ID)
	switch to := t.To.(type) {
	case stPaying:
		entry.Lines = ledger.Move("payer", held, to.Amount)
	case stDone:
		entry.Lines = ledger.Move(held, "payee", to.Amount)
	case stRefunded:
		entry.Lines = ledger.Move(held, "payer", t.From.(stRefunding).Amount)
	default:
		return nil
	}
	return ledger.Post(ctx, tx, entry)
}

func (b *bank) execute(_ context.Context, task fsm.Task[effect]) ([]event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, again := b.asked[task.Key]; again {
		if old.ID != task.ID || old.Effect != task.Effect {
			b.breach = fmt.Errorf("key %s was used for %v and for %v", task.Key, old, task)
		}
		return []event{b.answers[task.Key]}, nil
	}
	// Some keys fail at first.
	if task.Attempt == 1 && len(task.Key)%3 == 0 {
		return nil, errors.New("try again")
	}
	b.asked[task.Key] = task
	b.order[task.ID] = append(b.order[task.ID], task.Effect.EffectName())
	var answer event
	switch f := task.Effect.(type) {
	case efPay:
		if f.Amount%2 == 0 {
			answer = evDelivered{}
			b.wallet["payee"] += f.Amount
			b.wallet["bank"] -= f.Amount
		} else {
			answer = evRejected{"odd"}
		}
	case efSettle:
		answer = evSettled{}
		b.wallet["bank"] += f.Amount
		b.wallet["payer"] -= f.Amount
	case efRefund:
		answer = evGivenBack{}
	}
	b.answers[task.Key] = answer
	return []event{answer}, nil
}

// reconcile knows some outcomes before the effects run again.
func (b *bank) reconcile(_ context.Context, id string, s state) ([]event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, paying := s.(stPaying); !paying || len(id)%2 == 0 {
		return nil, nil
	}
	for key, task := range b.asked {
		if _, pay := task.Effect.(efPay); pay && task.ID == id {
			return []event{b.answers[key]}, nil
		}
	}
	return nil, nil
}

func (b *bank) Act(ctx context.Context, e *fsm.Engine[state, event, effect]) error {
	b.n++
	id, amount := fmt.Sprintf("p%0*d", 1+b.n%2, b.n), 1+b.rng.Int64N(1000)
	b.mu.Lock()
	b.offered[id] = amount
	b.mu.Unlock()
	_, err := e.Create(ctx, id, stNew{}, evOffered{amount})
	return err
}

func (b *bank) Check(ctx context.Context, db *store.DB, settled bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.breach != nil {
		return b.breach
	}
	for id, names := range b.order {
		if len(names) > 2 || names[0] != "pay" {
			return fmt.Errorf("%s: effects came as %v", id, names)
		}
	}
	e, err := b.Boot(db)
	if err != nil {
		return err
	}
	defer e.Close()
	all, err := e.List(ctx, fsm.Filter{})
	if err != nil {
		return err
	}
	stored := make(map[string]state)
	for _, inst := range all {
		stored[inst.ID] = inst.State
	}
	var paid int64
	for id, names := range b.order {
		if stored[id] == nil {
			return fmt.Errorf("%s: effects %v ran, but nothing is stored", id, names)
		}
	}
	for id, s := range stored {
		switch s := s.(type) {
		case stDone:
			if s.Amount%2 != 0 || s.Amount != b.offered[id] || len(b.order[id]) != 2 {
				return fmt.Errorf("%s: done with %d of %d after %v", id, s.Amount, b.offered[id], b.order[id])
			}
			paid += s.Amount
		case stRefunded:
			if b.offered[id]%2 == 0 || len(b.order[id]) != 2 {
				return fmt.Errorf("%s: refunded %d after %v", id, b.offered[id], b.order[id])
			}
		default:
			if settled {
				return fmt.Errorf("%s: still %s", id, s.StateName())
			}
		}
	}
	return db.Read(ctx, func(ctx context.Context, tx *store.Tx) error {
		sum, err := ledger.TrialBalance(ctx, tx)
		if err != nil || sum != 0 {
			return fmt.Errorf("trial balance %d: %w", sum, err)
		}
		books, err := ledger.Balances(ctx, tx)
		if err != nil || !settled {
			return err
		}
		if b.wallet["bank"] != 0 || b.wallet["payee"] != paid {
			return fmt.Errorf("the bank is left with %v after paying %d", b.wallet, paid)
		}
		observed := map[ledger.Account]int64{"payee": 1000 * b.wallet["payee"], "payer": 1000 * b.wallet["payer"]}
		for account := range books {
			books[account] *= 1000 // the toy counts in sats
		}
		for account, msat := range books {
			if msat != observed[account] && (observed[account] != 0 || strings.HasPrefix(string(account), "held/")) {
				return fmt.Errorf("books and bank differ: %s: %d and %d", account, msat, observed[account])
			}
		}
		return nil
	})
}

// A crash at every commit, before and after, loses no effect, pays nothing twice
// and keeps the books right.
func TestCrashes(t *testing.T) {
	fsmtest.Harness[state, event, effect]{World: newBank, Migrate: ledger.Migrate}.Run(t)
}

func TestEdges(t *testing.T) {
	fsmtest.CheckEdges(t, escrow(), samples())
	fsmtest.CheckDiagram(t, escrow(), "testdata/escrow.md", samples())
}
