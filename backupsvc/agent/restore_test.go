package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// lost is a wallet with channels, backed up everywhere, whose disk is gone. old
// are the providers as they were before the last channel.
func lost(t *testing.T) (r *rig, old map[string]*fakePlace) {
	t.Helper()
	r = newRig(t, 2, three())
	r.lnd.open = []ln.Outpoint{outpoint(1), outpoint(2)}
	_, stop := r.start()
	settle(time.Second)
	old = map[string]*fakePlace{}
	for name, p := range r.places {
		old[name] = p.snapshot()
	}
	r.lnd.openChannel(3)
	settle(time.Minute)
	stop()
	return r, old
}

func survey(t *testing.T, r *rig) (*agent.Agent, agent.Survey) {
	t.Helper()
	a := r.agent()
	s, err := a.Look(t.Context())
	require.NoError(t, err)
	return a, s
}

func TestRestoreFromSeedAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := lost(t)
		m := r.newMachine()
		a, s := survey(t, m)
		require.Empty(t, s.Choice.Against)
		got, err := a.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		require.True(t, got.Given)
		require.Len(t, got.Channels, 3)
		require.Len(t, m.lnd.pending, 3)
		back, err := a.Progress(t.Context(), got.Channels)
		require.NoError(t, err)
		require.Equal(t, agent.StepWaitsForPeer, back[0].Step)
		m.lnd.change(func() {
			m.lnd.pending[0].CloseTx = ln.TxID{1}
			m.lnd.pending[1].Kind, m.lnd.pending[1].LimboSat = ln.PendingForceClose, 500
			m.lnd.closed, m.lnd.pending = []ln.Outpoint{m.lnd.pending[2].Outpoint}, m.lnd.pending[:2]
		})
		back, err = a.Progress(t.Context(), append(got.Channels, outpoint(99).String()))
		require.NoError(t, err)
		steps := map[agent.ChannelStep]bool{}
		for _, b := range back {
			steps[b.Step] = true
			require.NotEmpty(t, b.Then)
		}
		require.Equal(t, map[agent.ChannelStep]bool{agent.StepClosing: true, agent.StepMaturing: true, agent.StepDone: true, agent.StepUnknown: true}, steps)
	})
}

// TestWhatARestoreSees: one provider of three misbehaves; with what the others
// keep of it this is seen, and proved where it signed, from the seed alone.
func TestWhatARestoreSees(t *testing.T) {
	forge := func(p, old *fakePlace) {
		// The log from before the last channel, with another write in its place.
		p.goBack(old)
		for len(p.log) < 20 {
			_, err := p.Put(nil, fmt.Sprint("x", len(p.log)), provider.Absent, []byte("x")) //nolint:staticcheck // a fake
			if err != nil {
				panic(err)
			}
		}
	}
	for _, c := range []struct {
		name    string
		do      func(p, old *fakePlace)
		verdict vault.Verdict
		note    string
		proof   bool
	}{
		{"back without a word", func(p, old *fakePlace) { p.goBack(old) }, vault.RolledBack, "acknowledged version 2", true},
		{"emptied", func(p, _ *fakePlace) { p.empty() }, vault.RolledBack, "has nothing", true},
		{"another history", forge, vault.Disconnected, "acknowledged version 2", false},
		{"back, and says so", func(p, old *fakePlace) { p.goBack(old); p.epoch = vault.Epoch{9} }, vault.Restored, "acknowledged version 2", false},
		{"honest", func(_, _ *fakePlace) {}, vault.Continues, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, old := lost(t)
				c.do(r.places["a"], old["a"])
				m := r.newMachine()
				a, s := survey(t, m)
				f := s.Findings[0]
				require.Equal(t, c.verdict, f.Verdict)
				if c.note != "" {
					require.Contains(t, s.Choice.Notes[f.Place], c.note)
				} else {
					require.Empty(t, s.Choice.Notes)
				}
				require.Equal(t, c.proof, f.Evidence != nil)
				if c.proof {
					raw, err := json.Marshal(f.Evidence)
					require.NoError(t, err)
					var e recovery.Evidence
					require.NoError(t, json.Unmarshal(raw, &e))
					e.Binding = ""
					text, err := e.Verify(nil)
					require.NoError(t, err)
					require.Contains(t, text, "acknowledged entry")
					e.Known, e.Shown = e.Shown, e.Known
					_, err = e.Verify(nil)
					require.Error(t, err, "the other way round it proves nothing")
				}
				// The others have the newest, and it is taken.
				got, err := a.Restore(t.Context(), s, false, m.lnd)
				require.NoError(t, err)
				require.Len(t, got.Channels, 3)
			})
		})
	}
}

// TestTwoThatWentBack: a version was where the owner wanted it, at two of three,
// and both of them go back. The third never had it. What it has is not restored
// without a word, for nobody can know.
func TestTwoThatWentBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		settle(time.Second)
		old := map[string]*fakePlace{}
		for name, p := range r.places {
			old[name] = p.snapshot()
		}
		r.lnd.openChannel(2)
		settle(time.Minute)
		r.places["b"].set(func() { r.places["b"].before = func(_, _ string) error { return errDown() } })
		r.lnd.openChannel(3)
		settle(time.Minute)
		require.True(t, a.Status().BackedUp)
		stop()
		r.places["b"].set(func() { r.places["b"].before = nil })
		r.places["a"].goBack(old["a"])
		r.places["c"].goBack(old["c"])
		m := r.newMachine()
		ag, s := survey(t, m)
		require.Len(t, s.Choice.Notes, 2)
		_, err := ag.Restore(t.Context(), s, false, m.lnd)
		require.ErrorContains(t, err, "2 showed less than acknowledged")
		require.Empty(t, m.lnd.restores)
		got, err := ag.Restore(t.Context(), s, true, m.lnd)
		require.NoError(t, err)
		require.Len(t, got.Channels, 2)
		// Begun again it is what was decided.
		_, err = ag.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
	})
}

// TestRestoreRefusesAnOlderOne: while a newer version is known to exist, or may.
func TestRestoreRefusesAnOlderOne(t *testing.T) {
	down := func(_, _ string) error { return errDown() }
	for _, c := range []struct {
		name string
		do   func(places, old map[string]*fakePlace)
		says string
	}{
		{"known to exist", func(p, old map[string]*fakePlace) {
			// b has the note that a acknowledged version 2, but not the version itself.
			p["a"].before = down
			p["c"].goBack(old["c"])
			id, _ := testSecretOf("channels")
			p["b"].set(func() { p["b"].values[id], p["b"].held[id] = old["b"].values[id], old["b"].held[id] })
		}, "acknowledged version 2"},
		{"may exist", func(p, old map[string]*fakePlace) {
			p["a"].before, p["b"].before = down, down
			p["c"].goBack(old["c"])
		}, "2 provider(s) did not answer"},
		{"nothing opens", func(p, _ map[string]*fakePlace) {
			for _, place := range p {
				place.set(func() {
					for id := range place.values {
						place.values[id] = []byte("garbage")
					}
				})
			}
		}, "no backup was found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, old := lost(t)
				c.do(r.places, old)
				m := r.newMachine()
				a, s := survey(t, m)
				_, err := a.Restore(t.Context(), s, false, m.lnd)
				require.ErrorContains(t, err, c.says)
				require.Empty(t, m.lnd.restores, "lnd was given nothing")
				if c.name == "nothing opens" {
					_, err = a.Restore(t.Context(), s, true, m.lnd)
					require.ErrorIs(t, err, errkind.NotFound)
					return
				}
				got, err := a.Restore(t.Context(), s, true, m.lnd)
				require.NoError(t, err)
				require.Len(t, got.Channels, 2)
				// The newer one turns up: it is restored on top.
				for _, p := range r.places {
					p.set(func() { p.before = nil })
				}
				if c.name == "known to exist" {
					s, err = a.Look(t.Context())
					require.NoError(t, err)
					// Two went back: even that may not be the newest.
					_, err = a.Restore(t.Context(), s, false, m.lnd)
					require.ErrorContains(t, err, "2 showed less than acknowledged")
					got, err = a.Restore(t.Context(), s, true, m.lnd)
					require.NoError(t, err)
					require.Len(t, got.Channels, 3)
				}
			})
		})
	}
}

func testSecretOf(name string) (string, error) {
	s, err := sealOf()
	if err != nil {
		return "", err
	}
	return s.ID(name)
}

// TestRestoreInterrupted: lnd dies in the middle, the machine dies before and
// after, and the restore is begun again.
func TestRestoreInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, old := lost(t)
		m := r.newMachine()
		m.lnd.fails = true
		a, s := survey(t, m)
		_, err := a.Restore(t.Context(), s, false, m.lnd)
		require.Error(t, err)
		require.Len(t, m.lnd.pending, 1)
		begun, _, err := agent.LoadRestored(m.dir)
		require.NoError(t, err)
		require.False(t, begun.Given)
		// Meanwhile every provider but one went back: that must not become the restore.
		m.lnd.fails = false
		keep := r.places["b"].snapshot()
		for name, p := range r.places {
			p.goBack(old[name])
		}
		_, s = survey(t, m)
		_, err = a.Restore(t.Context(), s, false, m.lnd)
		require.ErrorContains(t, err, "a restore of version 2 was begun here")
		r.places["b"].goBack(keep)
		_, s = survey(t, m)
		got, err := a.Restore(t.Context(), s, false, m.lnd)
		require.NoError(t, err)
		require.Len(t, m.lnd.pending, 3)
		require.True(t, got.Given)
	})
}

// TestRestoreKilledAtEveryPoint: the machine dies before and after each write of
// its own and each channel that lnd makes. Begun again, the restore ends with
// every channel once, from the newest version, and writes nothing to a provider.
func TestRestoreKilledAtEveryPoint(t *testing.T) {
	for n, whole := 0, false; !whole; n++ {
		bubble(t, func(t *testing.T) {
			r, _ := lost(t)
			before, _ := r.stored("a")
			m := r.newMachine()
			p := &power{left: n}
			m.cut(p)
			m.lnd.power = p
			a, s := survey(t, m)
			_, err := a.Restore(t.Context(), s, false, m.lnd)
			whole = err == nil
			m.restorePower()
			m.lnd.power = nil
			// Whoever starts again has the disk as it was, and reads everything anew.
			_, damaged, err := agent.LoadRestored(m.dir)
			require.NoError(t, err)
			require.False(t, damaged)
			a, s = survey(t, m)
			got, err := a.Restore(t.Context(), s, false, m.lnd)
			require.NoError(t, err, "killed after %d effects", n)
			require.True(t, got.Given)
			require.Len(t, got.Channels, 3)
			require.Len(t, m.lnd.pending, 3)
			back, err := a.Progress(t.Context(), got.Channels)
			require.NoError(t, err)
			require.Len(t, back, 3)
			for name := range r.places {
				h, _ := r.stored(name)
				require.Equal(t, before, h, "untouched at %s", name)
			}
		})
		require.Less(t, n, 20, "the restore no longer ends")
	}
}

// TestTwoDevicesSeeTwoLogs: two devices beside one lnd, and a provider that keeps a
// log for each of them, both with everything that each of them wrote. By what the
// others keep of it one of them finds it out: notes that are joined keep the longer
// log's head, so that it may be the one with the shorter alone.
func TestTwoDevicesSeeTwoLogs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		defer stop()
		settle(time.Minute)
		other := &rig{t: t, lnd: r.lnd, dir: t.TempDir(), secret: r.secret, places: map[string]*fakePlace{
			"a": r.places["a"].snapshot(), "b": r.places["b"], "c": r.places["c"],
		}}
		other.configure(2)
		b, stop := other.start()
		defer stop()
		for n := range 4 {
			r.lnd.openChannel(n + 2)
			settle(time.Hour)
		}
		proofs, accused := 0, 0
		for _, device := range []struct {
			*agent.Agent
			dir string
		}{{a, r.dir}, {b, other.dir}} {
			for _, p := range device.Status().Providers {
				if p.Name != "a" {
					require.Empty(t, p.Alarm, p.Name)
				} else if p.Alarm != "" {
					accused++
					require.Regexp(t, "two logs that exclude each other|its log went back|cannot show that its log continues", p.Alarm)
				}
			}
			files, err := filepath.Glob(filepath.Join(device.dir, "evidence-*.json"))
			require.NoError(t, err)
			for _, file := range files {
				raw, err := os.ReadFile(file)
				require.NoError(t, err)
				var e recovery.Evidence
				require.NoError(t, json.Unmarshal(raw, &e))
				e.Binding = ""
				_, err = e.Verify(nil)
				require.NoError(t, err, "%s", raw)
				proofs++
			}
		}
		require.NotZero(t, accused)
		t.Logf("%d device(s) found it out, with %d proof(s) for others", accused, proofs)
	})
}

// TestALogThatIsExchanged: a provider goes over to another log of the same length.
// The device that comes back finds it, with proof.
func TestALogThatIsExchanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		settle(time.Minute)
		fork := r.places["a"].snapshot()
		r.lnd.openChannel(2)
		settle(time.Minute)
		require.Empty(t, a.Status().Alarms)
		// The other history: as many entries, with another content.
		r.places["a"].set(func() { r.places["a"].before = func(_, _ string) error { return errDown() } })
		for uint64(len(fork.log)) < r.places["a"].acc.Seq {
			_, err := fork.Put(t.Context(), fmt.Sprint("x", len(fork.log)), provider.Absent, []byte("x"))
			require.NoError(t, err)
		}
		r.places["a"].goBack(fork)
		r.places["a"].set(func() { r.places["a"].before = nil })
		require.Error(t, a.Drill(t.Context()))
		settle(time.Minute)
		stop()
		files, err := filepath.Glob(filepath.Join(r.dir, "evidence-a-*.json"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		raw, err := os.ReadFile(files[0])
		require.NoError(t, err)
		var e recovery.Evidence
		require.NoError(t, json.Unmarshal(raw, &e))
		require.Equal(t, vault.Forked, e.Verdict)
		e.Binding = ""
		text, err := e.Verify(nil)
		require.NoError(t, err)
		require.Contains(t, text, "exclude each other")
	})
}
