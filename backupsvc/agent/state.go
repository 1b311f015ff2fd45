package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-lsp/sluice/backupsvc/recovery"
)

// Stand is what one provider acknowledged of one thing.
type Stand struct {
	recovery.Ref
	// AtMs is when, ConfirmedMs when it was last seen to have it.
	AtMs        int64 `json:"at_ms"`
	ConfirmedMs int64 `json:"confirmed_ms"`
	Bytes       int64 `json:"bytes"`
	// Payload is the hash of what was sealed.
	Payload string `json:"payload"`
}

// PlaceState is what is remembered of one provider.
type PlaceState struct {
	Things map[string]Stand `json:"things"`
	// Newest is the newest head that it signed; whatever it shows later must
	// continue it.
	Newest *recovery.Head `json:"newest,omitempty"`
	// Noted says where its log stood after the last write of anything but the
	// witness: it is what the other providers keep of it. With the witness's own
	// writes in it the providers' notes of each other would never settle. Owed says
	// that a write took place whose answer was lost: the next head is noted.
	Noted   *recovery.Head `json:"noted,omitempty"`
	Owed    bool           `json:"owed,omitempty"`
	Binding string         `json:"binding,omitempty"`
	// Crossed is the signature of the last head that another device was shown, and
	// that was compared with what this one is shown.
	Crossed string `json:"crossed,omitempty"`
	// Alarm is what it did that an honest provider does not. It stays until the
	// owner forgives.
	Alarm   string `json:"alarm,omitempty"`
	AlarmMs int64  `json:"alarm_ms,omitempty"`
	// DrilledMs is when everything was drilled last, DrillFailed why things do not
	// open, by their names.
	DrilledMs   int64             `json:"drilled_ms,omitempty"`
	DrillFailed map[string]string `json:"drill_failed,omitempty"`
}

// State is what the agent remembers. Nothing in it is needed to restore, and
// losing it loses no backup: what providers have is read before it is replaced.
// With it goes what proves that a provider went back, but for what the other
// providers keep of it.
type State struct {
	Device string `json:"device"`
	// Numbers are the last version numbers that were given out, each noted
	// before anything is written with it.
	Numbers map[string]uint64      `json:"numbers"`
	Places  map[string]*PlaceState `json:"places"`
	Told    Told                   `json:"told"`
}

// Told is what the alarm command was last told.
type Told struct {
	Keys []string `json:"keys,omitempty"`
	AtMs int64    `json:"at_ms,omitempty"`
}

func newState(device string) State {
	return State{Device: device, Numbers: map[string]uint64{}, Places: map[string]*PlaceState{}}
}

// loadState reads the file. One that is damaged is put aside: the providers
// know what is stored.
func loadState(dir, device string) (s State, damaged bool, err error) {
	path := filepath.Join(dir, stateFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newState(device), false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("backup state: %w", err)
	}
	s = newState(device)
	if json.Unmarshal(raw, &s) != nil || s.Device == "" || s.Numbers == nil || s.Places == nil {
		return newState(device), true, os.Rename(path, path+".damaged")
	}
	for _, p := range s.Places {
		if p == nil || p.Things == nil {
			return newState(device), true, os.Rename(path, path+".damaged")
		}
	}
	return s, false, nil
}

// place gives what is remembered of a provider.
func (s State) place(place string) *PlaceState {
	p, ok := s.Places[place]
	if !ok {
		p = &PlaceState{Things: map[string]Stand{}}
		s.Places[place] = p
	}
	return p
}
