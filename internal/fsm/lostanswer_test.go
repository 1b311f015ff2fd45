package fsm_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/fsm/fsmtest"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
)

// A commit whose answer is lost is found out about: its effects run, once, and a
// result that was stored is not stored again.
func TestLostAnswers(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var (
			faults storetest.Faults
			mu     sync.Mutex
			ran    = make(map[string]int)
			told   = make(map[string][]int64)
		)
		cfg.Hooks = faults.Hooks()
		e := started(t, newEngine(t, storetest.Open(t, cfg), escrow(), options{
			Follow: func(tr fsm.Transition[state, event]) {
				mu.Lock()
				defer mu.Unlock()
				told[tr.ID] = append(told[tr.ID], tr.Seq)
			},
			Execute: func(_ context.Context, task fsm.Task[effect]) ([]event, error) {
				mu.Lock()
				defer mu.Unlock()
				ran[task.Key]++
				if _, ok := task.Effect.(efPay); ok {
					return []event{evDelivered{}}, nil
				}
				return []event{evSettled{}}, nil
			},
		}))
		for n := range int64(3) {
			id := fmt.Sprint("p", n)
			faults.LoseAnswer(n + 1)
			_, err := e.Create(t.Context(), id, stNew{}, evOffered{2})
			if n == 0 {
				require.ErrorIs(t, err, store.ErrOutcomeUnknown)
			} else {
				require.NoError(t, err)
			}
			require.Eventually(t, func() bool {
				inst, err := e.Get(t.Context(), id)
				return err == nil && inst.Terminal
			}, 15*time.Second, time.Millisecond)
			story, err := e.History(t.Context(), id)
			require.NoError(t, err)
			require.Len(t, story, 3)
			// Of a commit without answer it is told, unless the next one has come.
			require.Eventually(t, func() bool {
				mu.Lock()
				defer mu.Unlock()
				seqs := told[id]
				return slices.IsSorted(seqs) && len(seqs) >= 2 && seqs[len(seqs)-1] == 3
			}, 15*time.Second, time.Millisecond)
			for _, record := range story {
				for _, f := range record.Effects {
					require.Empty(t, f.Note)
					require.Equal(t, 1, ran[f.Key], f.Key)
				}
			}
		}
	})
}

// A commit of before Recover whose answer was lost is told, whoever learns of it first.
func TestLostAnswerBeforeRecover(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		told := make(chan fsm.Transition[state, event], 10)
		e := newEngine(t, storetest.Open(t, cfg), escrow(), options{
			Clock:  fsmtest.NewClock(time.UnixMilli(1_700_000_000_000)),
			Follow: func(tr fsm.Transition[state, event]) { told <- tr },
		})
		faults.LoseAnswer(1)
		_, err := e.Create(t.Context(), "p", stNew{}, evOffered{2})
		require.ErrorIs(t, err, store.ErrOutcomeUnknown)
		started(t, e)
		select {
		case tr := <-told:
			require.Equal(t, "p", tr.ID)
			require.EqualValues(t, 1, tr.Seq)
		case <-time.After(15 * time.Second):
			require.Fail(t, "nobody was told")
		}
	})
}

// However long the database is away after a commit without an answer: what took place
// goes on.
func TestLostAnswerAndALongOutage(t *testing.T) {
	storetest.EachConfig(t, func(t *testing.T, cfg store.Config) {
		var faults storetest.Faults
		cfg.Hooks = faults.Hooks()
		begin, committed := cfg.Hooks.Begin, cfg.Hooks.AfterCommit
		asked := make(chan struct{}, 1000)
		cfg.Hooks.Begin = func(readOnly bool) error {
			err := begin(readOnly)
			if err != nil && readOnly {
				asked <- struct{}{}
			}
			return err
		}
		cfg.Hooks.AfterCommit = func() error {
			err := committed()
			if err != nil {
				faults.Set(storetest.Gone)
			}
			return err
		}
		clock := fsmtest.NewClock(time.UnixMilli(1_700_000_000_000))
		e := started(t, newEngine(t, storetest.Open(t, cfg), escrow(), options{
			Clock: clock,
			Execute: func(context.Context, fsm.Task[effect]) ([]event, error) {
				return []event{evDelivered{}}, nil
			},
		}))
		faults.LoseAnswer(1)
		_, err := e.Create(t.Context(), "p", stNew{}, evOffered{2})
		require.ErrorIs(t, err, store.ErrOutcomeUnknown)
		<-asked
		clock.Advance(time.Hour)
		faults.Set(storetest.Healthy)
		require.Eventually(t, func() bool {
			clock.Advance(time.Second)
			inst, err := e.Get(t.Context(), "p")
			return err == nil && inst.Version > 1
		}, 15*time.Second, time.Millisecond)
	})
}
