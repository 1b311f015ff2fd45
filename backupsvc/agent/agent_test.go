package agent_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

func three() map[string]*fakePlace {
	return map[string]*fakePlace{"a": newVault(1), "b": newVault(2), "c": newPlain()}
}

// bubble runs a test in a world whose clock is virtual.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestWritesAtTheStartAndAtEveryChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		s := a.Status()
		require.True(t, s.BackedUp, "%+v", s)
		require.Equal(t, 3, s.Good)
		require.Empty(t, s.Alarms)
		first := s.Number
		for n := 2; n < 6; n++ {
			r.lnd.openChannel(n)
			settle(50 * time.Millisecond)
			require.True(t, a.Status().BackedUp, "at once: %+v", a.Status())
		}
		settle(10 * time.Second)
		s = a.Status()
		require.EqualValues(t, first+4, s.Number)
		for name := range r.places {
			h, payload := r.stored(name)
			require.Equal(t, s.Number, h.Number)
			require.Len(t, h.Channels, 5)
			require.True(t, strings.HasPrefix(string(payload), "multi "))
		}
		// Nothing more happens while nothing changes.
		puts := r.places["a"].puts
		settle(2 * time.Hour)
		require.Equal(t, puts, r.places["a"].puts)
		require.True(t, a.Status().BackedUp)
	})
}

func TestNeverSaysBackedUpForLess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		down := func(_, _ string) error { return errDown() }
		r.places["b"].before, r.places["c"].before = down, down
		a, stop := r.start()
		defer stop()
		settle(time.Minute)
		require.False(t, a.Status().BackedUp)
		require.Equal(t, 1, a.Status().Good)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorContains(t, a.BackUpNow(ctx, false), "1 of 2")
		r.places["c"].set(func() { r.places["c"].before = nil })
		settle(2 * time.Minute)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		// b stays away for a week, while channels come: nobody waits for it.
		for n := range 7 {
			r.lnd.openChannel(n)
			settle(24 * time.Hour)
			require.True(t, a.Status().BackedUp, "day %d: %+v", n, a.Status())
		}
		require.NotEmpty(t, a.Status().Providers[1].Problem)
		r.places["b"].set(func() { r.places["b"].before = nil })
		settle(2 * time.Minute)
		require.Equal(t, 3, a.Status().Good)
		h, _ := r.stored("b")
		require.Len(t, h.Channels, 7, "it got the present one, not those between")
		// lnd away: what it has now is not known.
		r.lnd.change(func() { r.lnd.down = true })
		settle(2 * time.Minute)
		require.False(t, a.Status().BackedUp)
	})
}

// TestDishonestOrDamaged: what a provider does that an honest one does not is
// noticed by the drill at the latest, mended, and not forgotten until forgiven.
func TestDishonestOrDamaged(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig, p, old *fakePlace)
		says string
	}{
		{"emptied", func(_ *rig, p, _ *fakePlace) { p.empty() }, "emptied"},
		{"back to an older copy", func(_ *rig, p, old *fakePlace) { p.goBack(old) }, "went back"},
		{"damaged", func(r *rig, p, _ *fakePlace) {
			p.set(func() {
				for id := range p.values {
					p.values[id] = append([]byte("x"), p.values[id]...)
				}
			})
		}, "does not open"},
		{"another's data", func(r *rig, p, _ *fakePlace) {
			other, err := r.secret.ID("witness")
			require.NoError(r.t, err)
			p.set(func() {
				for id := range p.values {
					p.values[id] = p.values[other]
				}
			})
		}, "does not open"},
	} {
		for _, kind := range []string{"a", "c"} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, 0, three())
					a, stop := r.start()
					defer stop()
					settle(time.Second)
					old := r.places[kind].snapshot()
					r.lnd.openChannel(1)
					settle(time.Second)
					require.True(t, a.Status().BackedUp)
					c.do(r, r.places[kind], old)
					require.Error(t, a.Drill(t.Context()))
					settle(time.Minute)
					s := a.Status()
					require.False(t, s.BackedUp, "an accused provider does not count")
					require.Equal(t, 2, s.Good)
					require.Contains(t, strings.Join(s.Alarms, "\n"), kind+": ")
					if kind == "c" || c.says == "does not open" {
						require.Contains(t, strings.Join(s.Alarms, "\n"), c.says)
					}
					h, _ := r.stored(kind)
					require.Len(t, h.Channels, 1, "it is stored again")
					require.NoError(t, a.Forgive(kind))
					require.NoError(t, a.Drill(t.Context()))
					settle(time.Minute)
					require.True(t, a.Status().BackedUp, "%+v", a.Status())
				})
			})
		}
	}
}

// TestAFreshNodeReplacesNothing: a wallet that was made anew from its seed has
// no channels, and must not overwrite the backup that knows them.
func TestAFreshNodeReplacesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.lnd.open = []ln.Outpoint{outpoint(1), outpoint(2)}
		_, stop := r.start()
		settle(time.Second)
		stop()
		before, _ := r.stored("a")
		fresh := r.newMachine()
		a, stop := fresh.start()
		defer stop()
		settle(10 * time.Minute)
		require.False(t, a.Status().BackedUp)
		require.Contains(t, a.Status().HeldBack, "2 channel(s)")
		err := a.BackUpNow(t.Context(), false)
		require.ErrorIs(t, err, errkind.Denied)
		for name := range r.places {
			h, _ := r.stored(name)
			require.Equal(t, before, h, "untouched at %s", name)
		}
		// A restore brings the channels back: then it goes on, above the old number.
		s, err := a.Look(t.Context())
		require.NoError(t, err)
		_, err = a.Restore(t.Context(), s, false, fresh.lnd)
		require.NoError(t, err)
		settle(10 * time.Minute)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
		after, _ := r.stored("a")
		require.Greater(t, after.Number, before.Number)
		require.Len(t, after.Channels, 2)
	})
}

func TestGivingUpChannels(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		_, stop := r.start()
		settle(time.Second)
		stop()
		fresh := r.newMachine()
		a, stop := fresh.start()
		defer stop()
		settle(time.Minute)
		require.NotEmpty(t, a.Status().HeldBack)
		require.NoError(t, a.BackUpNow(t.Context(), true))
		settle(time.Minute) // it waits for two of the three
		h, _ := r.stored("a")
		require.Empty(t, h.Channels)
	})
}

// TestClosedChannelsAreAccountedFor: a backup with channels that lnd closed is
// replaced.
func TestClosedChannelsAreAccountedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		settle(time.Second)
		r.lnd.change(func() { r.lnd.open, r.lnd.closed = nil, r.lnd.open })
		settle(time.Second)
		require.True(t, a.Status().BackedUp)
		stop()
		a, stop = r.start()
		defer stop()
		settle(time.Second)
		require.True(t, a.Status().BackedUp, "%+v", a.Status())
	})
}

// TestTwoDevices: two agents beside one lnd write as they like; both end with
// the present version everywhere, and nobody is accused.
func TestTwoDevices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		other := &rig{t: t, lnd: r.lnd, places: r.places, dir: t.TempDir(), secret: r.secret}
		other.configure(0)
		a, stopA := r.start()
		defer stopA()
		b, stopB := other.start()
		defer stopB()
		for n := range 5 {
			r.lnd.openChannel(n)
			settle(time.Second)
		}
		settle(30 * time.Minute)
		for name := range r.places {
			h, _ := r.stored(name)
			require.Len(t, h.Channels, 5, name)
		}
		require.Empty(t, a.Status().Alarms)
		require.Empty(t, b.Status().Alarms)
	})
}

// TestALostAnswer: the provider took the write, and its answer was lost.
func TestALostAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		channels, err := r.secret.ID("channels")
		require.NoError(t, err)
		written := 0
		r.places["a"].wrote = func(id string, _ []byte) {
			if id == channels {
				written++
			}
		}
		r.places["a"].lose = true
		a, stop := r.start()
		defer stop()
		settle(200 * time.Millisecond)
		h, _ := r.stored("a")
		require.Empty(t, h.Channels)
		require.EqualValues(t, 1, h.Number, "it was taken")
		r.places["a"].set(func() { r.places["a"].lose = false })
		settle(time.Minute)
		require.True(t, a.Status().BackedUp)
		require.EqualValues(t, 1, a.Status().Number)
		require.Equal(t, 1, written, "it is read, not written again")
		// Beside it what the others acknowledged, again if one of them did so later.
		require.Contains(t, []int{2, 3}, r.places["a"].puts)
	})
}

func TestDiskFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		var full atomic.Bool
		full.Store(true)
		r.write = func(path string, content []byte) error {
			if full.Load() {
				return errors.New("no space left on device")
			}
			return durable.WriteFile(path, content, 0o600)
		}
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		s := a.Status()
		require.True(t, s.BackedUp, "what matters is stored all the same: %+v", s)
		require.Contains(t, strings.Join(s.Alarms, "\n"), "this machine's disk")
		full.Store(false)
		r.lnd.openChannel(1)
		settle(time.Second)
		require.Empty(t, a.Status().Alarms)
	})
}

// TestClocks: a clock that is wrong by a day, either way and in between,
// changes no order.
func TestClocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		a, stop := r.start()
		defer stop()
		for n, skew := range []time.Duration{24 * time.Hour, -24 * time.Hour, 0} {
			r.skew.Store(int64(skew))
			r.lnd.openChannel(n)
			settle(time.Minute)
			require.True(t, a.Status().BackedUp, "%s: %+v", skew, a.Status())
		}
		h, _ := r.stored("c")
		require.Len(t, h.Channels, 3)
	})
}

func named(s agent.Status) (names []string) {
	for _, t := range s.Things {
		names = append(names, t.Name)
	}
	return names
}

func TestOtherThings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		var content atomic.Value
		content.Store([]byte("one"))
		r.extras = map[string]agent.Read{
			"lsps":    func(context.Context) ([]byte, error) { return content.Load().([]byte), nil },
			"missing": func(context.Context) ([]byte, error) { return nil, nil },
		}
		a, stop := r.start()
		settle(time.Second)
		content.Store([]byte("two"))
		settle(time.Minute)
		require.Equal(t, []string{"lsps"}, named(a.Status()))
		stop()
		fresh := r.newMachine().agent()
		s, err := fresh.Look(t.Context())
		require.NoError(t, err)
		got, told, err := fresh.Extras(t.Context(), s, false)
		require.Empty(t, told)
		require.NoError(t, err)
		require.Equal(t, map[string][]byte{"lsps": []byte("two")}, got)
	})
}

// TestOwnersFiles: files of other programs go the same way, each under its name,
// as the settings say; one that cannot be read or is too large is an alarm.
func TestOwnersFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		var content atomic.Value
		content.Store([]byte("swap 1"))
		r.read = func(path string) ([]byte, error) {
			switch path {
			case "/swaps.db":
				return content.Load().([]byte), nil
			case "/large":
				return make([]byte, 13<<20), nil
			}
			return nil, errors.New(path + " is not there")
		}
		include := func(files ...agent.FileConfig) {
			s, err := agent.LoadSettings(r.dir)
			require.NoError(t, err)
			s.Files = files
			require.NoError(t, agent.SaveSettings(r.dir, s))
			settle(3 * time.Minute)
		}
		a, stop := r.start()
		defer stop()
		swaps := agent.FileConfig{Name: "swaps", Path: "/swaps.db"}
		include(swaps)
		content.Store([]byte("swap 2"))
		settle(2 * time.Minute)
		require.Equal(t, []string{"file/swaps"}, named(a.Status()))
		fresh := r.newMachine().agent()
		s, err := fresh.Look(t.Context())
		require.NoError(t, err)
		got, told, err := fresh.Extras(t.Context(), s, false)
		require.Empty(t, told)
		require.NoError(t, err)
		require.Equal(t, map[string][]byte{"file/swaps": []byte("swap 2")}, got)

		include(swaps, agent.FileConfig{Name: "gone", Path: "/gone"}, agent.FileConfig{Name: "large", Path: "/large"})
		alarms := strings.Join(a.Status().Alarms, "\n")
		require.Contains(t, alarms, "file/gone: /gone is not there")
		require.Contains(t, alarms, "file/large: it has")
		include()
		require.Empty(t, a.Status().Alarms)
		require.Empty(t, named(a.Status()))
	})
	for name, files := range map[string][]agent.FileConfig{
		"a path in a name": {{Name: "../x", Path: "/x"}},
		"no whole path":    {{Name: "x", Path: "x"}},
		"twice":            {{Name: "x", Path: "/x"}, {Name: "x", Path: "/y"}},
	} {
		s := agent.DefaultSettings()
		s.Files = files
		require.Error(t, s.Validate(), name)
	}
	for thing, want := range map[string]bool{"file/swaps": true, "file/../x": false, "file/": false, "swaps": false, "file/a/b": false} {
		_, ok := agent.FileName(thing)
		require.Equal(t, want, ok, thing)
	}
}

func TestDrillsOnSchedule(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		defer stop()
		settle(25 * time.Hour)
		for _, p := range a.Status().Providers {
			require.NotZero(t, p.DrilledMs)
			require.Empty(t, p.DrillProblem)
		}
		// It reads, once a day: what serves something else is noticed.
		r.places["c"].set(func() {
			r.places["c"].serve = func(_ string, o provider.Object) (provider.Object, error) {
				o.Value = append([]byte(nil), o.Value...)
				o.Value[len(o.Value)/2] ^= 1
				return o, nil
			}
		})
		settle(25 * time.Hour)
		require.Contains(t, strings.Join(a.Status().Alarms, "\n"), "c: the last drill failed")
		require.False(t, a.Status().BackedUp)
	})
}

func TestOldIsAnAlarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		r.places["c"].set(func() { r.places["c"].before = func(_, _ string) error { return errDown() } })
		settle(80 * time.Hour)
		require.False(t, a.Status().BackedUp)
		require.Contains(t, strings.Join(a.Status().Alarms, "\n"), "c: ")
	})
}

// TestOneThatHangsDelaysNoOther: nor does it delay the next version.
func TestOneThatHangsDelaysNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		r.places["a"].set(func() { r.places["a"].hang = 10 * time.Second })
		for n := range 3 {
			r.lnd.openChannel(n)
			settle(100 * time.Millisecond)
			require.True(t, a.Status().BackedUp)
		}
		settle(10 * time.Minute)
		require.Equal(t, 3, a.Status().Good)
	})
}

func TestOneFileByHand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		r.lnd.open = []ln.Outpoint{outpoint(1), outpoint(2)}
		a := r.agent()
		for _, sealed := range []bool{false, true} {
			file, n, err := a.Export(t.Context(), sealed)
			require.NoError(t, err)
			require.Equal(t, 2, n)
			require.Equal(t, !sealed, strings.HasPrefix(string(file), "multi "), "without the seal it is lnd's own")
			m := r.newMachine()
			got, err := m.agent().Import(t.Context(), file, m.lnd)
			require.NoError(t, err)
			require.Len(t, got.Channels, 2)
			require.Len(t, m.lnd.pending, 2)
		}
		_, err := a.Import(t.Context(), []byte("garbage"), r.lnd)
		require.Error(t, err)
	})
}

// TestSettings: what is wrong is named, and a running agent takes up changes.
func TestSettings(t *testing.T) {
	good := agent.ProviderConfig{Name: "a", Kind: agent.KindDir, Address: "/a"}
	for name, p := range map[string]agent.ProviderConfig{
		"name":       {Name: "A b", Kind: agent.KindDir, Address: "/x"},
		"kind":       {Name: "x", Kind: "tape", Address: "/x"},
		"no key":     {Name: "x", Kind: agent.KindGateway, Address: "h:1"},
		"no port":    {Name: "x", Kind: agent.KindGateway, Address: "h", NodeKey: nodeKey()},
		"http":       {Name: "x", Kind: agent.KindVSS, Address: "http://h/vss"},
		"no secret":  {Name: "x", Kind: agent.KindS3, Address: "https://h/b"},
		"relative":   {Name: "x", Kind: agent.KindDir, Address: "x"},
		"same name":  {Name: "a", Kind: agent.KindDir, Address: "/b"},
		"same place": {Name: "b", Kind: agent.KindDir, Address: "/a"},
	} {
		s, err := agent.DefaultSettings().Add(good)
		require.NoError(t, err)
		_, err = s.Add(p)
		require.Error(t, err, name)
		require.NotEmpty(t, errkind.Sentence(err), name)
	}
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		all, err := agent.LoadSettings(r.dir)
		require.NoError(t, err)
		two, err := all.Remove("c")
		require.NoError(t, err)
		require.NoError(t, agent.SaveSettings(r.dir, two))
		a, stop := r.start()
		defer stop()
		settle(time.Second)
		require.Equal(t, 2, a.Status().Good)
		require.NoError(t, agent.SaveSettings(r.dir, all))
		settle(2 * time.Minute)
		require.Equal(t, 3, a.Status().Good)
		require.True(t, a.Status().BackedUp)
		one, err := two.Remove("a")
		require.NoError(t, err)
		require.NoError(t, agent.SaveSettings(r.dir, one))
		settle(2 * time.Minute)
		require.Len(t, a.Status().Providers, 1)
	})
}
