package fsm_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// A counter asks for one effect with each step.
type (
	stCount struct{ N int }
	evNext  struct{}
	efDo    struct{ N int }
)

func (stCount) StateName() string { return "count" }
func (evNext) EventName() string  { return "next" }
func (efDo) EffectName() string   { return "do" }

func counter() fsm.Machine[state, event, effect] {
	return fsm.Machine[state, event, effect]{
		Name: "counter", States: []state{stCount{}}, Events: []event{evNext{}}, Effects: []effect{efDo{}},
		Step: func(s state, _ event) (state, []effect, error) {
			n := s.(stCount).N + 1
			return stCount{n}, []effect{efDo{n}}, nil
		},
		Terminal: func(state) bool { return false },
	}
}

// TestEffectsAreLoadedOnce: transitions that commit while the outbox is being
// read are seen by that query and learned of by themselves. Their effects must
// run once all the same: a second run, after its successors, acts on a world
// that has moved on.
func TestEffectsAreLoadedOnce(t *testing.T) {
	var (
		during atomic.Pointer[func()]
		mu     sync.Mutex
		done   []int
	)
	cfg := storetest.SQLite(t)
	cfg.Hooks = &store.Hooks{Begin: func(readOnly bool) error {
		if f := during.Load(); readOnly && f != nil {
			(*f)()
		}
		return nil
	}}
	e := newEngine(t, storetest.Open(t, cfg), counter(), options{
		Execute: func(_ context.Context, task fsm.Task[effect]) ([]event, error) {
			mu.Lock()
			defer mu.Unlock()
			done = append(done, task.Effect.(efDo).N)
			return nil, nil
		},
	})
	_, err := e.Create(t.Context(), "a", stCount{}, evNext{})
	require.NoError(t, err)
	// The reads are Recover's list and then the instance's outbox: as often as
	// there is something new in it, which here is three times.
	reads := 0
	next := func() {
		if reads++; reads > 1 && reads <= 4 {
			_, err := e.Send(context.Background(), "a", evNext{})
			require.NoError(t, err)
		}
	}
	during.Store(&next)
	started(t, e)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(done) >= 3
	}, 10*time.Second, time.Millisecond)
	during.Store(nil)
	_, err = e.Send(t.Context(), "a", evNext{})
	require.NoError(t, err)
	inst, err := e.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return done[len(done)-1] == inst.State.(stCount).N
	}, 10*time.Second, time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	for i, n := range done {
		require.Equal(t, i+1, n, "the effects ran as %v", done)
	}
}
