package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// memoryFile is what is kept between checks, in the data directory. Without it
// nothing is lost but the ages of backlogs and alarms, and the record of what
// towers gave back: that begins anew.
const memoryFile = "towerchecks.json"

// Memory is what is kept between checks.
type Memory struct {
	// Scheduled is when a check last ran by itself.
	Scheduled time.Time `json:"scheduled,omitzero"`
	// Told is when somebody was last told of the present alarm.
	Told time.Time `json:"told,omitzero"`
	// Backlog is what waits for any tower at all.
	Backlog Waiting `json:"backlog,omitzero"`
	// Towers are by their keys, as lnd knows them.
	Towers map[string]Record `json:"towers,omitempty"`
}

// Record is what is kept of one tower.
type Record struct {
	// Checked is when it last answered, Agreed when it last did without an alarm.
	Checked time.Time `json:"checked,omitzero"`
	Agreed  time.Time `json:"agreed,omitzero"`
	// AlarmSince is when the present alarm began, if there is one.
	AlarmSince time.Time `json:"alarm_since,omitzero"`
	Alarms     []string  `json:"alarms,omitempty"`
	Backlog    Waiting   `json:"backlog,omitzero"`
	// Samples are updates that the tower gave back, and what it gave.
	Samples []Sample `json:"samples,omitempty"`
	// Wrong are updates that it did not give back as it must. Every check asks for
	// them again: an alarm must not end because others were drawn.
	Wrong []Sample `json:"wrong,omitempty"`
}

// Waiting is what waits to be uploaded, and since when nothing of it has moved.
type Waiting struct {
	Updates      uint64    `json:"updates"`
	Acknowledged uint64    `json:"acknowledged"`
	Since        time.Time `json:"since,omitzero"`
}

// Next is what waits now, by what waited before: any progress begins its age
// anew.
func (w Waiting) Next(updates, acknowledged uint64, now time.Time) Waiting {
	next := Waiting{Updates: updates, Acknowledged: acknowledged}
	switch {
	case updates == 0:
	case w.Updates == 0 || w.Since.IsZero() || acknowledged > w.Acknowledged:
		next.Since = now
	default:
		next.Since = w.Since
	}
	return next
}

// Age is how long nothing has moved.
func (w Waiting) Age(now time.Time) time.Duration {
	if w.Updates == 0 || w.Since.IsZero() {
		return 0
	}
	return max(0, now.Sub(w.Since))
}

// Sample is an update that the tower gave back once. Whatever it gave it must give
// again: an update that was acknowledged never changes.
type Sample struct {
	Session ln.PubKey `json:"session"`
	Seq     uint16    `json:"seq"`
	// Digest is of all that is held under the number.
	Digest ln.Hash `json:"digest"`
}

// mostSamples and mostWrong bound the record of a tower.
const (
	mostSamples = 1000
	mostWrong   = 20
)

// LoadMemory reads what was kept.
func LoadMemory(dir string) (Memory, error) {
	m := Memory{Towers: map[string]Record{}}
	raw, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("record of checks: %w", err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("record of checks %s is damaged: delete it; it begins anew: %w", memoryFile, err)
	}
	if m.Towers == nil {
		m.Towers = map[string]Record{}
	}
	return m, nil
}

// updateMemory changes it in one step.
func updateMemory(dir string, change func(*Memory)) error {
	return locked(dir, func() error {
		m, err := LoadMemory(dir)
		if err != nil {
			return err
		}
		change(&m)
		if err := save(dir, memoryFile, m); err != nil {
			return fmt.Errorf("record of checks: %w", err)
		}
		return nil
	})
}

// remember adds what a check saw; samples of sessions that lnd has no more are
// dropped, and the oldest beyond the bound.
func (r Record) remember(seen []Sample, known ln.ClientTower) Record {
	r.Samples = slices.DeleteFunc(slices.Clone(r.Samples), func(s Sample) bool {
		return !slices.ContainsFunc(known.Sessions, func(k ln.ClientSession) bool { return k.ID == s.Session })
	})
	for _, s := range seen {
		if _, ok := r.sample(s.Session, s.Seq); !ok {
			r.Samples = append(r.Samples, s)
		}
	}
	if over := len(r.Samples) - mostSamples; over > 0 {
		r.Samples = r.Samples[over:]
	}
	return r
}

func (r Record) sample(session ln.PubKey, seq uint16) (Sample, bool) {
	for _, s := range r.Samples {
		if s.Session == session && s.Seq == seq {
			return s, true
		}
	}
	return Sample{}, false
}
