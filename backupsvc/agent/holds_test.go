package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// lostWithAnOldCopy is a wallet whose disk is gone, and of whose two channels one
// closed before that: c has, or shows, the version from before. A fresh lnd learns
// of the other channel alone.
func lostWithAnOldCopy(t *testing.T) (r *rig, stale *fakePlace) {
	t.Helper()
	r = newRig(t, 2, three())
	r.lnd.open = []ln.Outpoint{outpoint(1), outpoint(2)}
	_, stop := r.start()
	settle(time.Second)
	stale = r.places["c"].snapshot()
	r.lnd.change(func() { r.lnd.closed, r.lnd.open = r.lnd.open[:1], r.lnd.open[1:] })
	settle(time.Minute)
	stop()
	r.places["c"].goBack(stale)
	return r, stale
}

// TestAnOldCopyHoldsNothingBack: an authentic version that is older than the one
// that was restored is put aside and replaced, and nobody waits for it.
func TestAnOldCopyHoldsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := lostWithAnOldCopy(t)
		m := r.newMachine()
		ag, s := survey(t, m)
		_, err := ag.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		a, stop := m.start()
		defer stop()
		settle(10 * time.Minute)
		m.lnd.openChannel(9)
		settle(time.Minute)
		st := a.Status()
		require.True(t, st.BackedUp, "%+v", st)
		require.Empty(t, st.HeldBack)
		for name := range r.places {
			h, _ := r.stored(name)
			require.Equal(t, st.Number, h.Number, name)
			require.Len(t, h.Channels, 2, name)
		}
		// Should it have mattered after all, it can be imported.
		file, err := os.ReadFile(filepath.Join(m.dir, "older-c-1.slb"))
		require.NoError(t, err)
		got, err := m.agent().Import(t.Context(), file, &fakeLnd{})
		require.NoError(t, err)
		require.Len(t, got.Channels, 2)
	})
}

// TestWhatGoesBackLaterHoldsNothingBack: after a restore, and all its own writes, a
// provider shows a version from before the restore again and again.
func TestWhatGoesBackLaterHoldsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, stale := lostWithAnOldCopy(t)
		m := r.newMachine()
		ag, s := survey(t, m)
		_, err := ag.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		a, stop := m.start()
		defer stop()
		settle(10 * time.Minute)
		for n := range 3 {
			r.places["c"].goBack(stale)
			require.Error(t, a.Drill(t.Context()))
			m.lnd.openChannel(10 + n)
			settle(10 * time.Minute)
			st := a.Status()
			require.Empty(t, st.HeldBack)
			require.True(t, st.BackedUp, "two of three have it: %+v", st)
			require.Contains(t, strings.Join(st.Alarms, "\n"), "c: it has version 1 of channels, but acknowledged version")
			require.NoError(t, a.Forgive("c"))
		}
	})
}

// TestOneThatVanishesHoldsNothingBack: it shows an old version while the wallet is
// fresh, and is never seen again. The restore answers it.
func TestOneThatVanishesHoldsNothingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := lostWithAnOldCopy(t)
		m := r.newMachine()
		a, stop := m.start()
		defer stop()
		settle(time.Minute)
		require.Contains(t, a.Status().HeldBack, "c has a backup with 2 channel(s)")
		s, err := a.Look(t.Context())
		require.NoError(t, err)
		r.places["c"].set(func() { r.places["c"].before = func(_, _ string) error { return errDown() } })
		_, err = a.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		settle(10 * time.Minute)
		require.Empty(t, a.Status().HeldBack)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
	})
}

// TestANewerCopyHoldsEverythingBack: an older one was restored on purpose, and the
// newer one turns up.
func TestANewerCopyHoldsEverythingBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, old := lost(t)
		keep := r.places["c"].snapshot()
		for name, p := range r.places {
			p.goBack(old[name])
		}
		m := r.newMachine()
		ag, s := survey(t, m)
		got, err := ag.Restore(t.Context(), s, true, m.lnd)
		require.NoError(t, err)
		require.Len(t, got.Channels, 2)
		r.places["c"].goBack(keep)
		a, stop := m.start()
		defer stop()
		settle(10 * time.Minute)
		require.Contains(t, a.Status().HeldBack, "c has a backup with 1 channel(s)")
		require.False(t, a.Status().BackedUp)
		s, err = a.Look(t.Context())
		require.NoError(t, err)
		got, err = a.Restore(t.Context(), s, true, m.lnd)
		require.NoError(t, err)
		require.Len(t, got.Channels, 3)
		settle(10 * time.Minute)
		// The two that went back are known from what c keeps of them.
		require.Len(t, a.Status().Alarms, 2, "%+v", a.Status())
		require.NoError(t, a.Forgive("a"))
		require.NoError(t, a.Forgive("b"))
		settle(time.Hour)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		require.Empty(t, a.Status().Alarms, "the same is not told again")
	})
}

// TestRubbishStopsNobodyElse: a provider that is new here stores what does not open.
// It is not replaced, the owner is told, and the others get everything.
func TestRubbishStopsNobodyElse(t *testing.T) {
	for _, name := range []string{"channels", "swaps.json", "witness"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 2, three())
				r.keep("swaps.json")
				r.lnd.open = []ln.Outpoint{outpoint(1)}
				id, err := r.secret.ID(name)
				require.NoError(t, err)
				_, err = r.places["c"].Put(t.Context(), id, provider.Absent, []byte("rubbish"))
				require.NoError(t, err)
				a, stop := r.start()
				defer stop()
				settle(10 * time.Minute)
				s := a.Status()
				require.True(t, s.BackedUp, "%+v", s)
				require.Empty(t, s.HeldBack)
				require.Contains(t, strings.Join(s.Alarms, "\n"), "c: what is stored there as "+name+" does not open")
				require.Equal(t, "rubbish", string(r.places["c"].values[id]))
				require.NoError(t, a.BackUpNow(t.Context(), true))
				settle(10 * time.Minute)
				require.Equal(t, 3, a.Status().Good)
				require.Empty(t, a.Status().Alarms)
			})
		})
	}
}

// TestADamagedRestoreStateIsPutAside: nothing in it is needed to begin again.
func TestADamagedRestoreStateIsPutAside(t *testing.T) {
	for name, content := range map[string]string{"half": `{"number": 2, "provi`, "empty": "", "null": "null", "another": "{}"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, _ := lost(t)
				m := r.newMachine()
				m.lnd.fails = true
				a, s := survey(t, m)
				_, err := a.Restore(t.Context(), s, false, m.lnd)
				require.ErrorIs(t, err, errkind.Unavailable)
				m.lnd.fails = false
				path := filepath.Join(m.dir, "restore-state.json")
				require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
				got, err := a.Restore(t.Context(), s, false, m.lnd)
				require.NoError(t, err)
				require.True(t, got.Given)
				require.Len(t, m.lnd.pending, 3)
				aside, err := os.ReadFile(path + ".damaged")
				require.NoError(t, err)
				require.Equal(t, content, string(aside))
				begun, damaged, err := agent.LoadRestored(m.dir)
				require.NoError(t, err)
				require.False(t, damaged)
				require.True(t, begun.Given)
			})
		})
	}
}

// TestAFreshMachineAsksEverybodyFirst: what one provider has, and is slow to show,
// is known before anything is written at the others: else what is written would have
// its number, and pass for the newer one.
func TestAFreshMachineAsksEverybodyFirst(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("away ", away), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 1, three())
				r.lnd.open = []ln.Outpoint{outpoint(1)}
				r.places["a"].before = func(_, _ string) error { return errDown() }
				r.places["b"].before = r.places["a"].before
				_, stop := r.start()
				settle(time.Minute)
				stop()
				m := r.newMachine()
				for _, p := range r.places {
					p.set(func() { p.before = nil })
				}
				r.places["c"].set(func() {
					r.places["c"].hang = 20 * time.Second
					if away {
						r.places["c"].hang = time.Hour
						r.places["c"].before = func(_, _ string) error { return errDown() }
					}
				})
				a, stop := m.start()
				defer stop()
				settle(10 * time.Second)
				require.False(t, r.has("a", "channels"))
				settle(10 * time.Minute)
				if away {
					// The fake does not mind its caller's patience: nobody waits for it
					// longer than it takes to fail.
					r.places["c"].set(func() { r.places["c"].hang = 0 })
					settle(2 * time.Hour)
					require.True(t, r.has("a", "channels"))
					require.True(t, a.Status().BackedUp)
					return
				}
				require.False(t, r.has("a", "channels"))
				require.Contains(t, a.Status().HeldBack, "c has a backup with 1 channel(s)")
			})
		})
	}
}
