package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// ProviderStatus is one provider as its owner sees it.
type ProviderStatus struct {
	ProviderConfig
	Stand        Stand
	Receipts     bool
	Bound        bool
	Good         bool
	DrilledMs    int64
	DrillProblem string
	Problem      string
	Alarm        string
}

// ThingStatus is one thing besides the channels.
type ThingStatus struct {
	Name   string
	Number uint64
	MadeMs int64
	Bytes  int
	// Good is at how many providers it is, as it is now or was within the last two
	// minutes.
	Good int
}

// Status is how a wallet's backups stand.
type Status struct {
	// Good is at how many providers the channels are, as they are now.
	Require, Good int
	// BackedUp is true only while enough providers have every thing.
	BackedUp  bool
	Number    uint64
	MadeMs    int64
	Channels  int
	HeldBack  string
	Alarms    []string
	Providers []ProviderStatus
	Things    []ThingStatus
	Device    string
	// Blind says that what there is to back up is not known, as its alarm tells.
	Blind bool
}

// Behind tells of what is not at enough providers, by its name.
func (s Status) Behind() map[string]string {
	out := map[string]string{}
	if s.Good < s.Require || s.Number == 0 {
		out[channelsName] = fmt.Sprintf("version %d is at %d of %d provider(s) that are wanted", s.Number, s.Good, s.Require)
	}
	for _, t := range s.Things {
		if t.Good < s.Require {
			out[t.Name] = fmt.Sprintf("version %d of %s is at %d of %d provider(s) that are wanted", t.Number, t.Name, t.Good, s.Require)
		}
	}
	return out
}

// behind is Behind in a line.
func (s Status) behind() string {
	b, out := s.Behind(), []string(nil)
	for _, name := range slices.Sorted(maps.Keys(b)) {
		out = append(out, b[name])
	}
	return strings.Join(out, "; ")
}

// goodAt says whether a provider counts for a thing (under mu).
func (a *Agent) goodAt(p ProviderConfig, t *thing, now time.Time) bool {
	st := a.state.place(p.Place())
	if t == nil || st.Alarm != "" || a.drillProblem(st) != "" {
		return false
	}
	stand := st.Things[t.name]
	return t.is(stand.Ref) && now.Sub(fromMs(stand.ConfirmedMs)) <= a.settings.alarmAfter()
}

// blind says that what there is to back up is not known (under mu).
func (a *Agent) blind() bool {
	// What lnd has now is known only while it answers; and a file that cannot be
	// read is not backed up as it is, whatever there is of it.
	if _, lnd := a.trouble["lnd"]; lnd || !a.collected {
		return true
	}
	for name := range a.p.Extras {
		if _, bad := a.trouble[name]; bad {
			return true
		}
	}
	return slices.ContainsFunc(a.settings.Files, func(f FileConfig) bool {
		_, bad := a.trouble[fileThing+f.Name]
		return bad || a.things[fileThing+f.Name] == nil
	})
}

// Status tells how it stands now.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.p.Now()
	s := Status{Require: a.settings.Needed(), HeldBack: a.heldBack(), Device: a.state.Device}
	t := a.things[channelsName]
	if t != nil {
		s.Number, s.MadeMs, s.Channels = t.ref.Number, t.ref.MadeMs, len(t.channels)
	}
	for _, n := range slices.Sorted(maps.Keys(a.things)) {
		if n == channelsName {
			continue
		}
		o := a.things[n]
		ts := ThingStatus{Name: n, Number: o.ref.Number, MadeMs: o.ref.MadeMs, Bytes: len(o.payload)}
		for _, p := range a.settings.Providers {
			if a.goodAt(p, o, now) {
				ts.Good++
			}
		}
		s.Things = append(s.Things, ts)
	}
	for _, p := range a.settings.Providers {
		st := a.state.place(p.Place())
		stand := st.Things[channelsName]
		ps := ProviderStatus{
			ProviderConfig: p, Stand: stand, Receipts: st.Newest != nil, Bound: st.Binding != "",
			DrilledMs: st.DrilledMs, DrillProblem: a.drillProblem(st), Alarm: st.Alarm,
		}
		if w := a.workers[p.Place()]; w != nil {
			ps.Problem = w.problem()
		}
		if ps.Good = a.goodAt(p, t, now); ps.Good {
			s.Good++
		}
		s.Providers = append(s.Providers, ps)
	}
	for _, w := range a.alarms(now) {
		s.Alarms = append(s.Alarms, w.text)
	}
	s.Blind = a.blind()
	s.BackedUp = len(s.Behind()) == 0 && s.HeldBack == "" && !s.Blind
	return s
}

func fromMs(ms int64) time.Time { return time.UnixMilli(ms) }

// BackUpNow makes a new version and waits until enough providers have it.
// abandon gives up what held backups back.
func (a *Agent) BackUpNow(ctx context.Context, abandon bool) error {
	if abandon {
		a.abandon()
	}
	b, err := a.p.Backups.ExportBackup(ctx)
	if err != nil {
		return err
	}
	a.take(b, true)
	a.collect(ctx)
	for {
		a.mu.Lock()
		wake := a.wake
		a.mu.Unlock()
		switch s := a.Status(); {
		case s.BackedUp:
			return nil
		case s.HeldBack != "":
			return errkind.New(errkind.Denied, s.HeldBack)
		}
		select {
		case <-ctx.Done():
			s := a.Status()
			return errkind.Newf(errkind.Unavailable, "not backed up: %s; `sluice-wallet backup status` shows why", cmp.Or(s.behind(), strings.Join(s.Alarms, "; "), "not everything was read yet"))
		case <-wake:
		}
	}
}

func (a *Agent) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		for _, op := range w.held {
			a.abandoned[op] = true
		}
		if len(w.held) > 0 || len(w.unreadable) > 0 {
			a.abandoned[w.place] = true
			w.held, w.suspect = nil, true
			clear(w.unreadable)
			clear(w.retries)
		}
	}
	a.signal()
}

// Forgive ends the alarm about a provider.
func (a *Agent) Forgive(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.settings.Providers {
		if p.Name == name {
			s := a.state.place(p.Place())
			s.Alarm, s.AlarmMs = "", 0
			a.save()
			a.signal()
			return nil
		}
	}
	return errkind.Newf(errkind.NotFound, "there is no provider named %s", clip(name))
}
