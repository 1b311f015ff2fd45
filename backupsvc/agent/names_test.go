package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// refuses makes every provider refuse one thing, with an error that no retry helps.
func (r *rig) refuses(name string, err error) {
	r.t.Helper()
	id, idErr := r.secret.ID(name)
	require.NoError(r.t, idErr)
	for _, p := range r.places {
		p.set(func() {
			p.before = func(op, at string) error {
				if op == "put" && at == id {
					return err
				}
				return nil
			}
		})
	}
}

// has says whether a provider has anything under a name.
func (r *rig) has(place, name string) bool {
	r.t.Helper()
	id, err := r.secret.ID(name)
	require.NoError(r.t, err)
	p := r.places[place]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.values[id] != nil
}

// TestOneThatIsRefusedStarvesNoOther: whatever is refused for good, and whether
// it says so or looks like a provider that is away, everything else is stored,
// and what the others acknowledged is noted.
func TestOneThatIsRefusedStarvesNoOther(t *testing.T) {
	all := []string{"channels", "aaa", "invoices.json", "swaps.json", "witness"}
	for _, refused := range all {
		for kind, err := range map[string]error{
			"for good": errkind.New(errkind.Exhausted, "too large"), "like one that is away": errDown(),
		} {
			t.Run(refused+" "+kind, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, 2, three())
					r.lnd.open = []ln.Outpoint{outpoint(1)}
					r.extras = map[string]agent.Read{}
					for _, name := range all[1:4] {
						r.extras[name] = func(context.Context) ([]byte, error) { return []byte(name), nil }
					}
					r.refuses(refused, err)
					a, stop := r.start()
					defer stop()
					settle(10 * time.Minute)
					for place := range r.places {
						for _, name := range all {
							require.Equal(t, name != refused, r.has(place, name), "%s at %s", name, place)
						}
					}
					for _, p := range a.Status().Providers {
						require.Contains(t, p.Problem, errkind.Told(err))
						require.Equal(t, refused != "channels", strings.Contains(p.Problem, refused), p.Problem)
					}
					// A change of the channels gets through at once all the same.
					if refused != "channels" {
						r.lnd.openChannel(2)
						settle(time.Second)
						h, _ := r.stored("a")
						require.Len(t, h.Channels, 2)
					}
				})
			})
		}
	}
}

// keep makes a rig back up things with a content that tests change.
func (r *rig) keep(names ...string) (set func(name, content string)) {
	var mu sync.Mutex
	now := map[string]string{}
	r.extras = map[string]agent.Read{}
	for _, name := range names {
		now[name] = name + " 1"
		r.extras[name] = func(context.Context) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			if now[name] == "" {
				return nil, errors.New("it cannot be read")
			}
			return []byte(now[name]), nil
		}
	}
	return func(name, content string) {
		mu.Lock()
		defer mu.Unlock()
		now[name] = content
	}
}

// spoil changes what a provider has under a name, or makes it forget it.
func (r *rig) spoil(place, name string, change func([]byte) []byte) {
	r.t.Helper()
	id, err := r.secret.ID(name)
	require.NoError(r.t, err)
	p := r.places[place]
	p.set(func() {
		if v := change(p.values[id]); v != nil {
			p.values[id] = v
			return
		}
		delete(p.values, id)
		delete(p.held, id)
	})
}

// TestBackedUpIsEverything: the channels everywhere are not enough while anything
// else is at fewer providers than the owner asked for, and the owner is told.
func TestBackedUpIsEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.keep("invoices.json", "swaps.json")
		p := r.page(t)
		r.refuses("swaps.json", errkind.New(errkind.Exhausted, "too large"))
		r.places["a"].set(func() { r.places["a"].before = nil })
		a, stop := r.start()
		defer stop()
		settle(time.Hour)
		s := a.Status()
		require.Equal(t, 3, s.Good, "the channels are everywhere")
		require.False(t, s.BackedUp)
		require.Equal(t, map[string]string{"swaps.json": "version 1 of swaps.json is at 1 of 2 provider(s) that are wanted"}, s.Behind())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorContains(t, a.BackUpNow(ctx, false), "swaps.json is at 1 of 2")
		heard := p.take()
		require.Len(t, heard, 1)
		require.Contains(t, heard[0], "not backed up: version 1 of swaps.json")
		require.Contains(t, heard[0], "b: swaps.json: too large")
		r.places["b"].set(func() { r.places["b"].before = nil })
		settle(10 * time.Minute)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		require.Len(t, p.take(), 1, "it is over")
		require.NoError(t, a.BackUpNow(t.Context(), false))
	})
}

// TestAFileThatAlwaysChanges is backed up as long as each version gets to the
// providers within two minutes, and no longer.
func TestAFileThatAlwaysChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		set := r.keep("invoices.json")
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		for _, p := range r.places {
			p.set(func() { p.hang = 10 * time.Second })
		}
		for n := range 60 {
			set("invoices.json", fmt.Sprint("invoice ", n))
			settle(10 * time.Second)
			require.True(t, a.Status().BackedUp, "%d: %+v", n, a.Status())
		}
		r.refuses("invoices.json", errDown())
		set("invoices.json", "more")
		settle(lookEvery)
		set("invoices.json", "and more")
		settle(3 * time.Minute)
		require.False(t, a.Status().BackedUp)
		require.Equal(t, 3, a.Status().Good)
	})
}

// TestWhatCannotBeReadIsNotBackedUp: the last content that could be is stored, and
// is not what the owner has.
func TestWhatCannotBeReadIsNotBackedUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		set := r.keep("swaps.json")
		r.read = func(string) ([]byte, error) { return nil, errors.New("it is not there") }
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		require.True(t, a.Status().BackedUp)
		set("swaps.json", "")
		settle(2 * lookEvery)
		require.False(t, a.Status().BackedUp)
		set("swaps.json", "swap 2")
		settle(2 * lookEvery)
		require.True(t, a.Status().BackedUp)
		s, err := agent.LoadSettings(r.dir)
		require.NoError(t, err)
		s.Files = []agent.FileConfig{{Name: "gone", Path: "/gone"}}
		require.NoError(t, agent.SaveSettings(r.dir, s))
		settle(3 * lookEvery)
		require.False(t, a.Status().BackedUp, "it was asked for, and never seen")
	})
}

// TestDrillsAreOfEverything: what was stored of anything is read, opened, and
// stored again where it does not hold.
func TestDrillsAreOfEverything(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(now, old []byte) []byte
		says  string
	}{
		{"damaged", func(now, _ []byte) []byte { return append([]byte("x"), now...) }, "swaps.json"},
		{"lost", func(_, _ []byte) []byte { return nil }, "it was emptied"},
		{"old", func(_, old []byte) []byte { return old }, "acknowledged version 2"},
	} {
		for _, place := range []string{"a", "c"} {
			t.Run(c.name+" "+place, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, 2, three())
					set := r.keep("swaps.json", "towers.json")
					a, stop := r.start()
					defer stop()
					settle(time.Minute)
					var old []byte
					r.spoil(place, "swaps.json", func(v []byte) []byte { old = v; return v })
					set("swaps.json", "swap 2")
					settle(2 * lookEvery)
					require.NoError(t, a.Drill(t.Context()))
					r.spoil(place, "swaps.json", func(v []byte) []byte { return c.spoil(v, old) })
					require.ErrorContains(t, a.Drill(t.Context()), place+": swaps.json: ")
					settle(5 * time.Minute)
					alarms := strings.Join(a.Status().Alarms, "\n")
					require.Contains(t, alarms, place+": ")
					require.Contains(t, alarms, c.says)
					require.True(t, r.has(place, "swaps.json"), "it is stored again")
					require.NoError(t, a.Forgive(place))
					require.NoError(t, a.Drill(t.Context()))
					settle(time.Minute)
					require.Equal(t, 3, a.Status().Good, "%+v", a.Status())
					require.True(t, a.Status().BackedUp)
				})
			})
		}
	}
}

// TestOldIsAnAlarmForEverything: one thing that a provider does not show any more
// is an alarm, though it shows the rest.
func TestOldIsAnAlarmForEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.keep("swaps.json")
		a, stop := r.start()
		defer stop()
		settle(time.Minute)
		id, err := r.secret.ID("swaps.json")
		require.NoError(t, err)
		r.places["c"].set(func() {
			r.places["c"].before = func(_, at string) error {
				if at == id {
					return errDown()
				}
				return nil
			}
		})
		settle(100 * time.Hour)
		require.Len(t, a.Status().Alarms, 1)
		require.Contains(t, a.Status().Alarms[0], "c: its backup was last seen")
		require.Contains(t, a.Status().Alarms[0], "swaps.json")
		require.False(t, a.Status().BackedUp)
		require.Equal(t, 3, a.Status().Good)
	})
}
