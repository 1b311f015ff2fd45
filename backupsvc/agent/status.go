package agent

import (
	"context"
	"maps"
	"slices"
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

// Status is how a wallet's backups stand.
type Status struct {
	Require, Good int
	// BackedUp is true only while enough providers have the present version.
	BackedUp  bool
	Number    uint64
	MadeMs    int64
	Channels  int
	HeldBack  string
	Alarms    []string
	Providers []ProviderStatus
	Names     []string
	Device    string
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
		if n != channelsName {
			s.Names = append(s.Names, n)
		}
	}
	for _, p := range a.settings.Providers {
		st := a.state.place(p.Place())
		stand := st.Things[channelsName]
		ps := ProviderStatus{
			ProviderConfig: p, Stand: stand, Receipts: stand.Receipt != nil, Bound: st.Binding != "",
			DrilledMs: st.DrilledMs, DrillProblem: st.DrillProblem, Alarm: st.Alarm,
		}
		if w := a.workers[p.Place()]; w != nil {
			ps.Problem = w.problem()
		}
		fresh := now.Sub(fromMs(stand.ConfirmedMs)) <= a.settings.alarmAfter()
		ps.Good = t != nil && stand.Ref == t.ref && fresh && st.Alarm == "" && st.DrillProblem == ""
		if ps.Good {
			s.Good++
		}
		s.Providers = append(s.Providers, ps)
	}
	for _, w := range a.alarms(now) {
		s.Alarms = append(s.Alarms, w.text)
	}
	// What lnd has now is known only while it answers.
	_, blind := a.trouble["lnd"]
	s.BackedUp = s.Good >= s.Require && s.HeldBack == "" && !blind && s.Number > 0
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
			return errkind.Newf(errkind.Unavailable, "not backed up: %d of %d provider(s) that are wanted have it; `sluice-wallet backup status` shows why", s.Good, s.Require)
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
		if len(w.held) > 0 {
			a.abandoned[w.place] = true
			w.held, w.suspect = nil, true
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
