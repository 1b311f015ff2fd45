package agent_test

import (
	"context"
	"strings"
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
