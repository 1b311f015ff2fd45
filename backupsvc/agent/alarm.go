package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// When the owner's alarm command is called.
const (
	// alarmSettle is how long something must be wrong before it is told: a restart
	// of lnd or of a provider is no alarm.
	alarmSettle = 10 * time.Minute
	// alarmAgain is how often it is told while it lasts.
	alarmAgain = 24 * time.Hour
	// alarmTimeout bounds the command.
	alarmTimeout = time.Minute
	alarmEvery   = time.Minute
)

// What the alarm command finds in SLUICE_BACKUP.
const (
	AlarmRaised = "alarm"
	AlarmOver   = "over"
)

// alarm is something that is wrong. Its key stays the same while its text, which
// may tell an age, does not.
type alarm struct{ key, text string }

// aboutPlace is what is wrong with one provider (under mu).
func (a *Agent) aboutPlace(p ProviderConfig, now time.Time) (out []alarm) {
	s := a.state.place(p.Place())
	if s.Alarm != "" {
		out = append(out, alarm{"accused " + p.Place(), p.Name + ": " + s.Alarm})
	} else if old := a.old(s, now); len(old) > 0 {
		text := fmt.Sprintf("%s: its backup was last seen %s ago", p.Name, now.Sub(fromMs(s.Things[old[0]].ConfirmedMs)).Round(time.Minute))
		if old[0] != channelsName {
			text += " (" + strings.Join(old, ", ") + ")"
		}
		out = append(out, alarm{"old " + p.Place(), text})
	}
	if w := a.workers[p.Place()]; w != nil && len(w.unreadable) > 0 {
		out = append(out, alarm{"unreadable " + p.Place(), p.Name + ": what is stored there as " + strings.Join(slices.Sorted(maps.Keys(w.unreadable)), ", ") + " does not open, and this machine did not write it: it is not replaced unless you say so (`sluice-wallet backup now --abandon`)"})
	}
	if problem := a.drillProblem(s); problem != "" {
		out = append(out, alarm{"drill " + p.Place(), p.Name + ": the last drill failed: " + problem})
	}
	return out
}

// old are the things that a provider was not seen to have for long, the channels
// first (under mu).
func (a *Agent) old(s *PlaceState, now time.Time) (names []string) {
	for _, name := range append([]string{channelsName}, slices.Sorted(maps.Keys(a.things))...) {
		stand := s.Things[name]
		if stand.Number > 0 && now.Sub(fromMs(stand.ConfirmedMs)) > a.settings.alarmAfter() && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// drillProblem is what the last drills at a provider failed of; empty if nothing
// (under mu).
func (a *Agent) drillProblem(s *PlaceState) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.DrillFailed)) {
		switch {
		case name == channelsName:
			out = append(out, s.DrillFailed[name])
		case a.things[name] != nil:
			out = append(out, name+": "+s.DrillFailed[name])
		}
	}
	return strings.Join(out, "; ")
}

// alarms are all that the status shows as alarms (under mu).
func (a *Agent) alarms(now time.Time) (out []alarm) {
	for _, p := range a.settings.Providers {
		out = append(out, a.aboutPlace(p, now)...)
	}
	for _, what := range slices.Sorted(maps.Keys(a.trouble)) {
		out = append(out, alarm{"trouble " + what, what + ": " + a.trouble[what]})
	}
	if have, need := len(a.settings.Providers), a.settings.Needed(); have < need {
		out = append(out, alarm{"few", fmt.Sprintf("%d provider(s) are configured, but each version is wanted at %d", have, need)})
	}
	return out
}

// wrong is what the owner is told of: the alarms, and that the present version is
// not where it is wanted.
func (a *Agent) wrong() []alarm {
	s := a.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.alarms(a.p.Now())
	if s.HeldBack != "" {
		return append(out, alarm{"held", s.HeldBack})
	}
	behind := s.Behind()
	for i, name := range slices.Sorted(maps.Keys(behind)) {
		text := "not backed up: " + behind[name]
		for _, p := range s.Providers {
			if p.Problem != "" && i == 0 {
				text += fmt.Sprintf("; %s: %s", p.Name, p.Problem)
			}
		}
		out = append(out, alarm{"behind " + name, text})
	}
	return out
}

// raise calls the owner's alarm command when something has been wrong for a
// while, again while it lasts, and once when it is over. What was told is
// remembered, so that a restart tells nothing twice.
func (a *Agent) raise(ctx context.Context) {
	wrong := a.wrong()
	a.mu.Lock()
	command, message, state := a.settings.AlarmCommand, "", ""
	keys := a.settled(wrong)
	told := a.state.Told
	now := a.p.Now()
	since := now.Sub(fromMs(told.AtMs))
	switch {
	case len(command) == 0:
	case len(keys) == 0 && len(wrong) == 0 && len(told.Keys) > 0:
		state, message = AlarmOver, "The backups are in order again.\n"
	case len(keys) > 0 && (!covers(told.Keys, keys) || since >= alarmAgain || since < 0):
		state = AlarmRaised
		for _, w := range wrong {
			if slices.Contains(keys, w.key) {
				message += clean(w.text) + "\n"
			}
		}
	}
	a.mu.Unlock()
	if state == "" {
		return
	}
	err := a.p.Alarm(ctx, command, state, message)
	if ctx.Err() != nil {
		return
	}
	a.report("the alarm command", err)
	if err != nil {
		return // tried again in a minute
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Told = Told{Keys: keys, AtMs: now.UnixMilli()}
	a.save()
}

// settled are the keys of what has been wrong for long enough (under mu).
func (a *Agent) settled(wrong []alarm) (keys []string) {
	now, before := a.p.Now(), a.wrongSince
	a.wrongSince = map[string]time.Time{}
	for _, w := range wrong {
		at, lasting := before[w.key]
		if !lasting || at.After(now) {
			at = now
		}
		a.wrongSince[w.key] = at
		// What was told already needs no time to settle: it is not over by a restart.
		if now.Sub(at) >= alarmSettle || slices.Contains(a.state.Told.Keys, w.key) {
			keys = append(keys, w.key)
		}
	}
	return keys
}

func covers(told, keys []string) bool {
	return !slices.ContainsFunc(keys, func(k string) bool { return !slices.Contains(told, k) })
}

// clean makes one printable line of what providers may have had a word in.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// RunAlarm runs an alarm command: what is wrong is on its standard input, a line
// each, and SLUICE_BACKUP is "alarm" or "over". Nothing of it is an argument, and
// no shell reads it, since providers have a word in it.
func RunAlarm(ctx context.Context, command []string, state, message string) error {
	ctx, cancel := context.WithTimeout(ctx, alarmTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the owner's own setting
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(message), &said, &said
	cmd.Env = append(os.Environ(), "SLUICE_BACKUP="+state)
	// A child that goes on with our end of the pipe open must not hold us up.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return errkind.Wrap(errkind.Unavailable, err, fmt.Sprintf("%s failed (%v): %s", command[0], err, clip(clean(said.String()))))
	}
	return nil
}
