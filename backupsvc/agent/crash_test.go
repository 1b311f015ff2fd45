package agent_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// power ends after so many effects: nothing that the machine tries afterwards
// reaches the world, as after a kill -9.
type power struct {
	mu   sync.Mutex
	left int
	used int
}

// spend uses power for one effect, and says whether there was some.
func (p *power) spend() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used++
	if p.left == 0 {
		return false
	}
	p.left--
	return true
}

func (p *power) off() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left == 0
}

var errOff = errors.New("the power is off")

// cut makes every effect of a rig spend power. An odd effect is cut off after
// it took place and before its answer, an even one before.
func (r *rig) cut(p *power) {
	r.write = func(path string, content []byte) error {
		if !p.spend() {
			return errOff
		}
		if err := durable.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if p.off() {
			return errOff
		}
		return nil
	}
	for _, place := range r.places {
		place.set(func() {
			place.before = func(op, _ string) error {
				place.lose = false
				if op == "put" && !p.spend() || op != "put" && p.off() {
					return errOff
				}
				place.lose = op == "put" && p.off()
				return nil
			}
		})
	}
}

// restorePower lets a rig's effects take place again.
func (r *rig) restorePower() {
	r.write = nil
	for _, place := range r.places {
		place.set(func() { place.before, place.lose = nil, false })
	}
}

// TestKilledAtEveryPoint: the machine dies after each single write, to disk or
// to a provider. What it said before was true; what starts again brings
// everybody up to date, accuses nobody, and uses no number for two contents.
func TestKilledAtEveryPoint(t *testing.T) {
	script := func(r *rig) {
		r.lnd.openChannel(2)
		settle(time.Second)
		r.lnd.change(func() { r.lnd.closed, r.lnd.open = r.lnd.open[:1], r.lnd.open[1:] })
		settle(time.Second)
		r.lnd.openChannel(3)
		settle(time.Second)
	}
	whole := &power{left: -1}
	bubble(t, func(t *testing.T) {
		r := newRig(t, 2, three())
		r.lnd.open = []ln.Outpoint{outpoint(1)}
		r.cut(whole)
		_, stop := r.start()
		defer stop()
		script(r)
	})
	require.Greater(t, whole.used, 40, "the run no longer writes")
	for n := range 2 * whole.used {
		n, forgets := n/2, n%2 == 1
		t.Run(fmt.Sprint("after ", n, " forgetting ", forgets), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 2, three())
				if !forgets {
					r.record()
				}
				r.lnd.open = []ln.Outpoint{outpoint(1)}
				r.cut(&power{left: n})
				a, stop := r.start()
				script(r)
				r.checkWord(a)
				stop()
				r.restorePower()
				if forgets {
					// The disk came back without what the agent remembered.
					require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "backups-state.json")))
				}
				// One that may have the last write is away at first.
				r.places["a"].set(func() { r.places["a"].before = func(_, _ string) error { return errDown() } })
				a, stop = r.start()
				defer stop()
				settle(time.Minute)
				r.places["a"].set(func() { r.places["a"].before = nil })
				settle(10 * time.Minute)
				s := a.Status()
				require.True(t, s.BackedUp, "%+v", s)
				require.Empty(t, s.Alarms)
				require.Equal(t, 3, s.Good)
				for name := range r.places {
					h, _ := r.stored(name)
					require.Len(t, h.Channels, 2)
					require.Equal(t, s.Number, h.Number)
				}
				// And a restore from the seed alone sees no fault.
				m := r.newMachine()
				_, found := survey(t, m)
				require.Empty(t, found.Choice.Against)
				require.Empty(t, found.Choice.Notes)
			})
		})
	}
}

// checkWord compares what the agent says with what is so.
func (r *rig) checkWord(a *agent.Agent) {
	s := a.Status()
	if !s.BackedUp {
		return
	}
	good := 0
	for name := range r.places {
		if h, _ := r.stored(name); h.Number == s.Number {
			good++
		}
	}
	require.GreaterOrEqual(r.t, good, s.Require, "it says backed up, and is not")
}

// record notes the contents of channel backups by their numbers, whoever stores
// them, and fails when a number gets a second one.
func (r *rig) record() {
	id, err := r.secret.ID("channels")
	require.NoError(r.t, err)
	var mu sync.Mutex
	seen := map[uint64]string{}
	for _, p := range r.places {
		p.set(func() {
			p.wrote = func(at string, value []byte) {
				mu.Lock()
				defer mu.Unlock()
				if at != id {
					return
				}
				h, _, err := r.secret.Open("channels", value)
				if err != nil {
					r.t.Errorf("stored, and does not open: %v", err)
				}
				sum := fmt.Sprintf("%x", sha256.Sum256(value))
				if have, ok := seen[h.Number]; ok && have != sum {
					r.t.Errorf("number %d has two contents", h.Number)
				}
				seen[h.Number] = sum
			}
		})
	}
}

// TestRefsDecideAlike: whatever two machines wrote, everybody takes the same
// one for the newest.
func TestRefsDecideAlike(t *testing.T) {
	a, b := recovery.Ref{Number: 2, MadeMs: 5, SHA256: "aa"}, recovery.Ref{Number: 2, MadeMs: 5, SHA256: "ab"}
	require.True(t, b.Newer(a))
	require.False(t, a.Newer(b))
	require.True(t, recovery.Ref{Number: 3}.Newer(b))
	require.True(t, recovery.Ref{Number: 2, MadeMs: 6}.Newer(b))
	require.False(t, a.Newer(a))
}
