package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// errNoAnswer says that a drill did not get to see anything.
var errNoAnswer = errors.New("it did not answer")

// drillOf is a drill at one provider.
type drillOf struct {
	provider ProviderConfig
	// wants are the things, and what was acknowledged of each.
	wants map[string]Stand
	// whole says that it is of all that the provider has.
	whole bool
}

// drillAll is a drill of everything at a provider (under mu).
func (a *Agent) drillAll(p ProviderConfig) drillOf {
	s := a.state.place(p.Place())
	d := drillOf{provider: p, wants: map[string]Stand{channelsName: s.Things[channelsName]}, whole: true}
	for name := range a.things {
		if stand := s.Things[name]; stand.Number > 0 {
			d.wants[name] = stand
		}
	}
	return d
}

// drillWhenDue drills where the last one is long ago, and again what failed.
func (a *Agent) drillWhenDue(ctx context.Context) {
	a.mu.Lock()
	var due []drillOf
	now := a.p.Now()
	for _, p := range a.settings.Providers {
		s := a.state.place(p.Place())
		at := fromMs(s.DrilledMs)
		d := a.drillAll(p)
		switch {
		case s.Things[channelsName].Number == 0:
		// A clock that went back must not put drills off for ever.
		case now.Sub(at) >= a.settings.drillEvery() || at.After(now):
			due = append(due, d)
		case a.drillProblem(s) != "":
			// Not everything: what opens may be large.
			d.whole = false
			maps.DeleteFunc(d.wants, func(name string, _ Stand) bool { return s.DrillFailed[name] == "" })
			due = append(due, d)
		}
	}
	a.mu.Unlock()
	// What failed is in the state, and in the log.
	_ = a.drillAt(ctx, due)
}

// Drill reads every provider's backups as a stranger would, and has lnd open
// that of the channels. What fails is in the state; the error says that there was
// something.
func (a *Agent) Drill(ctx context.Context) error {
	a.mu.Lock()
	drills := make([]drillOf, 0, len(a.settings.Providers))
	for _, p := range a.settings.Providers {
		drills = append(drills, a.drillAll(p))
	}
	a.mu.Unlock()
	return a.drillAt(ctx, drills)
}

func (a *Agent) drillAt(ctx context.Context, drills []drillOf) error {
	a.mu.Lock()
	self := a.self
	a.mu.Unlock()
	errs := make([]error, len(drills))
	var wg sync.WaitGroup
	for i, d := range drills {
		wg.Go(func() { errs[i] = a.drill(ctx, d, self) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *Agent) drill(ctx context.Context, d drillOf, self ln.NodeInfo) error {
	place, err := a.p.Open(d.provider, self)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", d.provider.Name, errNoAnswer, err)
	}
	defer func() { _ = place.Close() }()
	results := map[string]error{}
	for _, name := range slices.Sorted(maps.Keys(d.wants)) {
		call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
		results[name] = a.opens(call, place, name, d.wants[name])
		cancel()
	}
	return a.drilled(d, results)
}

// opens proves that what is stored is what was acknowledged, and restores.
func (a *Agent) opens(ctx context.Context, place provider.Place, name string, want Stand) error {
	id, err := a.cfg.Secret.ID(name)
	if err != nil {
		return err
	}
	obj, err := place.Get(ctx, id)
	if errors.Is(err, errkind.NotFound) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	h, multi, err := a.cfg.Secret.Open(name, obj.Value)
	if err != nil {
		return err
	}
	if ref := refOf(h.Number, h.MadeMs, obj.Value); want.Newer(ref) {
		return fmt.Errorf("it serves version %d, but acknowledged version %d", ref.Number, want.Number)
	}
	if name != channelsName || len(h.Channels) == 0 {
		return nil // lnd has nothing to open
	}
	return a.sameInside(ctx, multi, h.Channels)
}

// drilled notes what came of a drill.
func (a *Agent) drilled(d drillOf, results map[string]error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, s, now := d.provider, a.state.place(d.provider.Place()), a.p.Now().UnixMilli()
	var errs []error
	answered := false
	w := a.workers[p.Place()]
	for _, name := range slices.Sorted(maps.Keys(results)) {
		err := results[name]
		if errors.Is(err, errNoAnswer) || errors.Is(err, ln.ErrUnavailable) || errors.Is(err, context.Canceled) {
			// It proved nothing: what is not seen for long is an alarm by its age.
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			continue
		}
		answered = answered || name == channelsName
		if err != nil {
			if s.DrillFailed == nil {
				s.DrillFailed = map[string]string{}
			}
			s.DrillFailed[name] = errkind.Told(err)
			a.p.Log.Error("a backup drill failed", zap.String("provider", p.Name), zap.String("name", name), zap.Error(err))
			errs = append(errs, fmt.Errorf("%s: %s: %s", p.Name, name, s.DrillFailed[name]))
			if w != nil {
				w.reread[name] = true
			}
			continue
		}
		delete(s.DrillFailed, name)
		if have, ok := s.Things[name]; ok && have.Ref == d.wants[name].Ref {
			have.ConfirmedMs = now
			s.Things[name] = have
		}
	}
	if answered && d.whole {
		s.DrilledMs = now
	}
	// The worker reads the channels again: it knows what to do about what is
	// missing, and asks for the log's head.
	if w != nil && (answered || len(w.reread) > 0) {
		w.suspect = true
	}
	a.save()
	a.signal()
	return errors.Join(errs...)
}
