package agent_test

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// lostRecords is a wallet whose swap records changed after its channels did, and
// whose disk is gone. old are the providers as they were before that.
func lostRecords(t *testing.T) (r *rig, old map[string]*fakePlace) {
	t.Helper()
	r = newRig(t, 2, three())
	r.lnd.open = []ln.Outpoint{outpoint(1)}
	set := r.keep("swaps.json", "towers.json")
	a, stop := r.start()
	settle(time.Minute)
	old = map[string]*fakePlace{}
	puts := 0
	for name, p := range r.places {
		old[name] = p.snapshot()
		puts += p.puts
	}
	set("swaps.json", "swap 2")
	settle(10 * time.Minute)
	require.True(t, a.Status().BackedUp)
	// What the providers keep of each other settles, and is not written for ever.
	now := 0
	for _, p := range r.places {
		now += p.puts
	}
	require.LessOrEqual(t, now-puts, 2*3*len(r.places), "each provider is told of each other's write once")
	settle(2 * time.Hour)
	for _, p := range r.places {
		now -= p.puts
	}
	require.Zero(t, now, "nothing changes, and something is written")
	stop()
	return r, old
}

// TestNothingGoesBackUnnoticed: a provider that goes back by less than a change of
// the channels, in swap records or preimages, is convicted from the seed alone, and
// what the others have is taken.
func TestNothingGoesBackUnnoticed(t *testing.T) {
	for _, c := range []struct {
		name    string
		gone    string
		verdict vault.Verdict
		says    string
	}{
		{"a vault", "a", vault.RolledBack, "its log went back"},
		{"a directory", "c", "", "swaps.json at c: shows version 1, but acknowledged version 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, old := lostRecords(t)
				r.places[c.gone].goBack(old[c.gone])
				a, s := survey(t, r.newMachine())
				require.Empty(t, s.Choice.Against, "it is one")
				content, told, err := a.Extras(t.Context(), s, false)
				require.NoError(t, err)
				require.Equal(t, "swap 2", string(content["swaps.json"]))
				require.Equal(t, "towers.json 1", string(content["towers.json"]))
				text := strings.Join(told, "\n")
				for _, f := range s.Findings {
					text += "\n" + s.Choice.Notes[f.Place]
					if f.Name == c.gone {
						require.Equal(t, c.verdict, f.Verdict)
						require.Equal(t, c.verdict != "", f.Evidence != nil)
						continue
					}
					require.Empty(t, s.Choice.Notes[f.Place])
					require.Nil(t, f.Evidence)
				}
				require.Contains(t, text, c.says)
			})
		})
	}
}

// TestOlderRecordsAreNotRestoredSilently: while a newer version of a thing is known
// to exist, or may, it is left out, and nothing else with it.
func TestOlderRecordsAreNotRestoredSilently(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig, old map[string]*fakePlace)
		says string
	}{
		{"known to exist", func(r *rig, old map[string]*fakePlace) {
			id, err := r.secret.ID("swaps.json")
			require.NoError(r.t, err)
			for name, p := range r.places {
				p.set(func() { p.values[id], p.held[id] = old[name].values[id], old[name].held[id] })
			}
		}, "acknowledged version 2; the newest that could be read is 1"},
		{"may exist", func(r *rig, old map[string]*fakePlace) {
			r.places["a"].goBack(old["a"])
			r.places["b"].set(func() {
				id, err := r.secret.ID("swaps.json")
				require.NoError(r.t, err)
				r.places["b"].before = func(_, at string) error {
					if at == id {
						return errDown()
					}
					return nil
				}
			})
		}, "1 provider(s) did not answer with anything that opens, 1 showed less"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, old := lostRecords(t)
				c.do(r, old)
				a, s := survey(t, r.newMachine())
				content, told, err := a.Extras(t.Context(), s, false)
				require.NoError(t, err)
				require.NotContains(t, content, "swaps.json")
				require.Equal(t, "towers.json 1", string(content["towers.json"]))
				require.Contains(t, strings.Join(told, "\n"), "swaps.json is not restored: ")
				require.Contains(t, strings.Join(told, "\n"), c.says)
				content, _, err = a.Extras(t.Context(), s, true)
				require.NoError(t, err)
				require.Contains(t, content, "swaps.json")
			})
		})
	}
}

// TestAWriteWhoseAnswerWasLostIsNoted: the provider has no excuse in an answer
// that did not arrive.
func TestAWriteWhoseAnswerWasLostIsNoted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		set := r.keep("swaps.json")
		_, stop := r.start()
		settle(time.Minute)
		old := r.places["a"].snapshot()
		id, err := r.secret.ID("swaps.json")
		require.NoError(t, err)
		r.places["a"].set(func() {
			r.places["a"].before = func(op, at string) error {
				r.places["a"].lose = op == "put" && at == id
				return nil
			}
		})
		set("swaps.json", "swap 2")
		settle(10 * time.Minute)
		stop()
		r.places["a"].set(func() { r.places["a"].before, r.places["a"].lose = nil, false })
		r.places["a"].goBack(old)
		_, s := survey(t, r.newMachine())
		require.Equal(t, vault.RolledBack, s.Findings[0].Verdict)
		require.NotNil(t, s.Findings[0].Evidence)
	})
}

// TestAValueThatTheLogKnowsBetter: a vault shows its log as it is and serves an old
// value under it, or nothing. With one provider nobody else can tell; its own log
// does.
func TestAValueThatTheLogKnowsBetter(t *testing.T) {
	for _, trimmed := range []bool{false, true} {
		for _, thing := range []string{"channels", "witness", "swaps.json"} {
			for _, withheld := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s withheld %t trimmed %t", thing, withheld, trimmed), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						r := newRig(t, 1, map[string]*fakePlace{"a": newVault(1), "b": newVault(2)})
						r.lnd.open = []ln.Outpoint{outpoint(1)}
						set := r.keep("swaps.json")
						_, stop := r.start()
						settle(time.Minute)
						p, old := r.places["a"], r.places["a"].snapshot()
						known := p.acc.Seq
						r.lnd.openChannel(2)
						set("swaps.json", "swap 2")
						settle(10 * time.Minute)
						stop()
						id, err := r.secret.ID(thing)
						require.NoError(t, err)
						p.set(func() {
							if trimmed {
								p.trimmed = known
							}
							p.serve = func(at string, o provider.Object) (provider.Object, error) {
								switch {
								case at != id:
									return o, nil
								case withheld:
									return provider.Object{}, errkind.New(errkind.NotFound, "nothing")
								}
								o.Value = old.values[id]
								return o, nil
							}
						})
						m := r.newMachine()
						m.configure(1)
						a, s := survey(t, m)
						_, told, err := a.Extras(t.Context(), s, false)
						require.NoError(t, err)
						text := strings.Join(told, "\n") + "\n" + s.Choice.Notes[s.Findings[0].Place]
						if thing == "swaps.json" {
							// What the other keeps of it tells of the version as well.
							require.Regexp(t, "swaps.json at a: (has nothing|shows version 1), but acknowledged version 2|serves something else", text)
							return
						}
						if thing != "channels" || !trimmed {
							require.Equal(t, vault.Contradicted, s.Findings[0].Verdict)
						}
						// Of what was written before the newest note, that note tells.
						require.NotEmpty(t, s.Choice.Notes[s.Findings[0].Place])
						require.NotEmpty(t, s.Choice.Against, "each version was wanted at one, and one does not tell the truth")
						require.Nil(t, s.Findings[1].Evidence)
						require.NotEqual(t, vault.Contradicted, s.Findings[1].Verdict)
					})
				})
			}
		}
	}
}

// TestTheOnlyProviderAgainstItsOwnLog: nobody else keeps anything of it.
func TestTheOnlyProviderAgainstItsOwnLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, map[string]*fakePlace{"a": newVault(1)})
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		set := r.keep("swaps.json")
		_, stop := r.start()
		settle(time.Minute)
		p, old := r.places["a"], r.places["a"].snapshot()
		r.lnd.openChannel(2)
		set("swaps.json", "swap 2")
		settle(10 * time.Minute)
		stop()
		honest := r.newMachine()
		honest.configure(1)
		a, s := survey(t, honest)
		require.Empty(t, s.Choice.Notes)
		content, told, err := a.Extras(t.Context(), s, false)
		require.NoError(t, err)
		require.Empty(t, told)
		require.Equal(t, "swap 2", string(content["swaps.json"]))

		p.set(func() {
			p.serve = func(id string, o provider.Object) (provider.Object, error) {
				o.Value = old.values[id]
				return o, nil
			}
		})
		m := r.newMachine()
		m.configure(1)
		a, s = survey(t, m)
		require.Equal(t, vault.Contradicted, s.Findings[0].Verdict)
		_, err = a.Restore(t.Context(), s, false, m.lnd)
		require.ErrorContains(t, err, "1 showed less than acknowledged")
		content, told, err = a.Extras(t.Context(), s, false)
		require.NoError(t, err)
		require.NotContains(t, content, "swaps.json")
		require.Contains(t, strings.Join(told, "\n"), "swaps.json is not restored")
	})
}

// TestAnotherDeviceWritesDuringARestore: an honest provider is not accused because
// the value was read before a write and the log after it.
func TestAnotherDeviceWritesDuringARestore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := lost(t)
		id, err := r.secret.ID("channels")
		require.NoError(t, err)
		p, writes := r.places["a"], 2
		p.set(func() {
			p.before = func(op, _ string) error {
				if op == "prove" && writes > 0 {
					writes--
					sealed, err := r.secret.Seal(rand.Reader, seal.Header{Name: "channels", Number: uint64(50 - writes), MadeMs: 1}, []byte("multi #1"))
					require.NoError(t, err)
					_, err = p.put(id, strconv.FormatInt(p.held[id].Version, 10), sealed)
					require.NoError(t, err)
				}
				return nil
			}
		})
		_, s := survey(t, r.newMachine())
		require.Zero(t, writes)
		require.NotEqual(t, vault.Contradicted, s.Findings[0].Verdict)
		require.Empty(t, s.Choice.Notes)
	})
}

// TestARunningAgentReadsTheLogToo: another device's newer version is in the log, and
// the vault serves this device its own older one.
func TestARunningAgentReadsTheLogToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 1, map[string]*fakePlace{"a": newVault(1), "b": newVault(2)})
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		a, stop := r.start()
		defer stop()
		settle(time.Minute)
		require.NoError(t, a.Drill(t.Context()))
		settle(time.Minute)
		require.Empty(t, a.Status().Alarms)
		id, err := r.secret.ID("channels")
		require.NoError(t, err)
		sealed, err := r.secret.Seal(rand.Reader, seal.Header{Name: "channels", Number: 9, MadeMs: 1, Device: "other"}, []byte("multi #1"))
		require.NoError(t, err)
		p := r.places["a"]
		old := p.snapshot()
		p.set(func() {
			_, err = p.put(id, strconv.FormatInt(p.held[id].Version, 10), sealed)
			p.serve = func(at string, o provider.Object) (provider.Object, error) {
				if at == id {
					o.Value = old.values[id]
				}
				return o, nil
			}
		})
		require.NoError(t, err)
		require.NoError(t, a.Drill(t.Context()), "by itself it is what this device wrote")
		settle(time.Minute)
		require.Contains(t, strings.Join(a.Status().Alarms, "\n"), "a: it serves another version of channels than its own log ends with")
	})
}
