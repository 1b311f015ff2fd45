package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/vault"
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
