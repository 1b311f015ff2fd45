package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// pager records what it is told; while it is broken it hears nothing.
type pager struct {
	mu     sync.Mutex
	heard  []string
	broken bool
}

func (p *pager) alarm(_ context.Context, command []string, state, message string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return errors.New("no route to the pager")
	}
	p.heard = append(p.heard, strings.Join(command, " ")+" "+state+": "+message)
	return nil
}

// take gives what was heard since the last time.
func (p *pager) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.heard
	p.heard = nil
	return out
}

func (r *rig) page(t *testing.T) *pager {
	t.Helper()
	p := &pager{}
	r.alarm = p.alarm
	s, err := agent.LoadSettings(r.dir)
	require.NoError(t, err)
	s.AlarmCommand = []string{"/bin/page", "me"}
	require.NoError(t, agent.SaveSettings(r.dir, s))
	return p
}

// TestAlarmCommand: what lasts is told once, again each day, not anew by a
// restart, and when it is over.
func TestAlarmCommand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 3, three())
		p := r.page(t)
		a, stop := r.start()
		settle(time.Hour)
		require.Empty(t, p.take(), "all is well")

		// Away for a moment is no alarm.
		down := func(_, _ string) error { return errDown() }
		r.places["c"].set(func() { r.places["c"].before = down })
		r.lnd.openChannel(1)
		settle(5 * time.Minute)
		r.places["c"].set(func() { r.places["c"].before = nil })
		settle(time.Hour)
		require.True(t, a.Status().BackedUp)
		require.Empty(t, p.take())

		// Away for long is: the present version is at two of three.
		r.places["c"].set(func() { r.places["c"].before = down })
		r.lnd.openChannel(2)
		settle(time.Hour)
		heard := p.take()
		require.Len(t, heard, 1)
		require.Contains(t, heard[0], "/bin/page me alarm: not backed up")
		require.Contains(t, heard[0], "at 2 of 3")
		require.Contains(t, heard[0], "c: it is down")
		stop()
		_, stop = r.start()
		settle(12 * time.Hour)
		require.Empty(t, p.take(), "a restart tells nothing twice")
		settle(12 * time.Hour)
		require.Len(t, p.take(), 1, "it is told again after a day")

		// Something else besides is told at its time.
		r.lnd.change(func() { r.lnd.down = true })
		settle(time.Hour)
		heard = p.take()
		require.Len(t, heard, 1)
		require.Contains(t, heard[0], "lnd: lnd is away")

		r.lnd.change(func() { r.lnd.down = false })
		r.places["c"].set(func() { r.places["c"].before = nil })
		settle(time.Hour)
		require.Equal(t, []string{"/bin/page me over: The backups are in order again.\n"}, p.take())
		settle(48 * time.Hour)
		require.Empty(t, p.take())
		stop()
	})
}

// TestWhatIsAlarming: a drill that fails, a backup that is old, one that is held
// back, and a provider that went back.
func TestWhatIsAlarming(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *rig, old *fakePlace)
		wait time.Duration
		says string
	}{
		{"a drill that fails", func(r *rig, _ *fakePlace) {
			r.places["c"].set(func() {
				r.places["c"].serve = func(_ string, o provider.Object) (provider.Object, error) {
					o.Value = []byte("rot")
					return o, nil
				}
			})
		}, 25 * time.Hour, "c: the last drill failed"},
		{"old", func(r *rig, _ *fakePlace) {
			r.places["c"].set(func() { r.places["c"].before = func(_, _ string) error { return errDown() } })
		}, 80 * time.Hour, "c: its backup was last seen"},
		{"went back", func(r *rig, old *fakePlace) { r.places["a"].goBack(old) }, 25 * time.Hour, "a: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, 0, three())
				p := r.page(t)
				r.lnd.open = []ln.Outpoint{outpoint(1)}
				_, stop := r.start()
				defer stop()
				settle(time.Minute)
				old := r.places["a"].snapshot()
				r.lnd.openChannel(2)
				settle(time.Minute)
				c.do(r, old)
				settle(c.wait)
				require.Contains(t, strings.Join(p.take(), "\n"), c.says)
			})
		})
	}
	t.Run("held back", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, 0, three())
			r.lnd.open = []ln.Outpoint{outpoint(1)}
			_, stop := r.start()
			settle(time.Minute)
			stop()
			fresh := r.newMachine()
			p := fresh.page(t)
			_, stop = fresh.start()
			defer stop()
			settle(time.Hour)
			require.Contains(t, strings.Join(p.take(), "\n"), "restore first")
		})
	})
}

// TestBrokenPager: an alarm that could not be told is told later, and its failure
// is shown.
func TestBrokenPager(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, 0, three())
		p := r.page(t)
		p.broken = true
		r.places["c"].before = func(_, _ string) error { return errDown() }
		a, stop := r.start()
		defer stop()
		settle(time.Hour)
		require.Contains(t, strings.Join(a.Status().Alarms, "\n"), "the alarm command: no route to the pager")
		p.mu.Lock()
		p.broken = false
		p.mu.Unlock()
		settle(5 * time.Minute)
		require.NotEmpty(t, p.take())
		require.Empty(t, a.Status().Alarms)
	})
}

// TestRunAlarm: nothing that a provider says becomes an argument or a command,
// and a program that hangs on to its output holds nobody up.
func TestRunAlarm(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "page")
	script := "#!/bin/sh\necho \"$SLUICE_BACKUP $# $1\" > " + dir + "/args\ncat > " + dir + "/text\nsleep 60 &\n"
	require.NoError(t, os.WriteFile(program, []byte(script), 0o700))
	began := time.Now()
	require.NoError(t, agent.RunAlarm(t.Context(), []string{program, "one"}, agent.AlarmRaised, "$(touch "+dir+"/pwned)\n"))
	require.Less(t, time.Since(began), 30*time.Second)
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	require.NoError(t, err)
	require.Equal(t, "alarm 1 one\n", string(args))
	text, err := os.ReadFile(filepath.Join(dir, "text"))
	require.NoError(t, err)
	require.Equal(t, "$(touch "+dir+"/pwned)\n", string(text))
	require.NoFileExists(t, filepath.Join(dir, "pwned"))
	require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\necho the pager is out of paper >&2\nexit 1\n"), 0o700))
	require.ErrorContains(t, agent.RunAlarm(t.Context(), []string{program}, agent.AlarmOver, ""), "out of paper")
	require.Error(t, agent.RunAlarm(t.Context(), []string{filepath.Join(dir, "nothing")}, agent.AlarmOver, ""))

	s := agent.DefaultSettings()
	s.AlarmCommand = []string{"page"}
	require.Error(t, s.Validate(), "what it is must not depend on a PATH")
}
