package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// gone: nothing is there.
func (w *worker) gone(name string) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state.place(w.place)
	if had := s.Things[name]; had.Number > 0 {
		a.accuse(w, fmt.Sprintf("it has nothing of %s, but acknowledged version %d: it was emptied; it is stored again", name, had.Number))
		delete(s.Things, name)
		a.save()
	}
	w.readable(name)
}

// damaged: what is there does not open. Where this machine wrote before, it
// writes again. Where it did not, it is left as it is until the owner says
// otherwise: somebody may be able to mend it. Nothing else waits for that, or
// whoever stores rubbish could stop everything.
func (w *worker) damaged(name string, cause error) error {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state.place(w.place)
	if s.Things[name].Number == 0 && !a.abandoned[w.place] {
		w.unreadable[name] = true
		a.signal()
		return errkind.Wrap(errkind.Denied, cause, "what is stored there does not open ("+errkind.Told(cause)+"): it is not replaced unless you say so (`sluice-wallet backup now --abandon`)")
	}
	if s.Things[name].Number > 0 {
		a.accuse(w, "what it stores as "+name+" does not open any more: it is stored again")
		delete(s.Things, name)
		a.save()
	}
	w.readable(name)
	return nil
}

// readable ends what kept a provider's version of a thing from being replaced
// (under mu).
func (w *worker) readable(name string) {
	delete(w.unreadable, name)
	if name == channelsName {
		w.hold(nil, recovery.Ref{}, nil)
	}
}

// adopt judges what is there by what is known.
func (w *worker) adopt(ctx context.Context, name string, h seal.Header, payload, sealed []byte) error {
	a := w.a
	ref := refOf(h.Number, h.MadeMs, sealed)
	if name == channelsName {
		if err := w.accounted(ctx, ref, h.Channels, sealed); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(w.unreadable, name)
	s := a.state.place(w.place)
	had, now := s.Things[name], a.p.Now().UnixMilli()
	noted := a.noted(w.place, name)
	switch {
	case had.Ref == ref:
		had.ConfirmedMs = now
		s.Things[name] = had
	case a.things[name] != nil && a.things[name].ref == ref:
		// A write whose answer was lost had taken place.
		s.Things[name] = Stand{Ref: ref, AtMs: now, ConfirmedMs: now, Bytes: int64(len(sealed)), Payload: a.things[name].sum}
		a.marked = a.p.Now()
		s.Owed = name != witnessName
	case had.Number > 0 && had.Newer(ref):
		a.accuse(w, fmt.Sprintf("it has version %d of %s, but acknowledged version %d: it went back; the present one is stored again", ref.Number, name, had.Number))
		delete(s.Things, name)
	case had.Number == 0 && noted.Newer(ref):
		a.accuse(w, fmt.Sprintf("it has version %d of %s, but the others know that it acknowledged version %d: it went back; the present one is stored", ref.Number, name, noted.Number))
	case h.Device != a.state.Device:
		a.p.Log.Info("another device of this wallet wrote here; its version is accounted for and replaced",
			zap.String("provider", w.cfg.Name), zap.String("device", h.Device), zap.Uint64("number", h.Number))
	}
	if name == witnessName {
		if other, err := recovery.DecodeWitness(payload); err == nil {
			a.foreign = a.foreign.Merge(other)
			for place, o := range a.workers {
				// It is asked for its log at once.
				o.suspect = o.suspect || a.foreignHead(place) != nil
			}
			// Numbers go above what anybody acknowledged, also where that is lost: else a
			// restore would wait for it.
			for _, m := range other.Marks {
				for thing, ref := range m.Things {
					a.overtake(thing, ref)
				}
			}
		}
	}
	a.overtake(name, ref)
	a.save()
	return nil
}

// noted is the version that a provider acknowledged by what the others keep of it
// (under mu).
func (a *Agent) noted(place, name string) recovery.Ref {
	for _, m := range a.foreign.Marks {
		if m.Place == place {
			return m.Things[name]
		}
	}
	return recovery.Ref{}
}

// accounted holds everything back while a stored backup has channels that lnd
// knows nothing of; but one that something newer took the place of, as far as this
// machine is concerned, holds nothing. It is put aside before it is replaced.
func (w *worker) accounted(ctx context.Context, ref recovery.Ref, channels []string, sealed []byte) error {
	missing, older, err := w.missing(ctx, ref, channels)
	if err != nil {
		return err
	}
	a := w.a
	if len(missing) > 0 && older {
		if err := w.putAside(ref, sealed); err != nil {
			return err
		}
		a.p.Log.Warn("a backup is older than the one that was restored, or that was stored there: it is replaced",
			zap.String("provider", w.cfg.Name), zap.Uint64("number", ref.Number), zap.Strings("channels", missing))
		missing = nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.hold(missing, ref, channels)
	if len(missing) > 0 {
		return errkind.New(errkind.Denied, a.heldBack())
	}
	return nil
}

// missing are the channels of a stored version that lnd knows nothing of, and
// that the owner did not give up. older says that the version counts no more: a
// newer one was restored here, or acknowledged by the same provider. A fresh lnd
// knows the channels of the backup that it was given, and not those that closed
// before; a provider that was away since, or that goes back on purpose, would
// otherwise hold everything back for ever.
func (w *worker) missing(ctx context.Context, ref recovery.Ref, channels []string) (missing []string, older bool, err error) {
	a := w.a
	known, err := a.known(ctx)
	if err != nil {
		return nil, false, err
	}
	restored, _, err := LoadRestored(a.cfg.DataDir)
	if err != nil {
		return nil, false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	missing = slices.DeleteFunc(recovery.Unaccounted(channels, known), func(op string) bool { return a.abandoned[op] })
	older = restored != nil && restored.Given && restored.Newer(ref)
	if had := a.state.place(w.place).Things[channelsName]; had.Number > 0 && had.Newer(ref) {
		older = true
	}
	return missing, older, nil
}

// reconsider looks again at what was held back, without the provider: it may be
// away by now, and what it once showed must not hold others back when a restore
// has answered it.
func (w *worker) reconsider(ctx context.Context) error {
	a := w.a
	a.mu.Lock()
	held, ref, channels := len(w.held) > 0, w.heldBy, w.heldChannels
	a.mu.Unlock()
	if !held {
		return nil
	}
	missing, older, err := w.missing(ctx, ref, channels)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(missing) == 0 || older {
		// It is read again before it is replaced.
		w.hold(nil, recovery.Ref{}, nil)
		delete(w.looked, channelsName)
	}
	return nil
}

// putAside keeps a backup that is about to be replaced, in the data directory,
// for `sluice-wallet backup import`.
func (w *worker) putAside(ref recovery.Ref, sealed []byte) error {
	path := filepath.Join(w.a.cfg.DataDir, fmt.Sprintf("older-%s-%d.slb", w.cfg.Name, ref.Number))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return w.a.p.WriteFile(path, sealed)
}

// hold keeps everything from being written while something would be lost by it
// (under mu).
func (w *worker) hold(missing []string, ref recovery.Ref, channels []string) {
	w.heldBy, w.heldChannels = ref, channels
	if slices.Equal(w.held, missing) {
		return
	}
	w.held = missing
	w.a.signal()
	if len(missing) > 0 {
		w.a.p.Log.Error("backups are held back", zap.String("why", w.a.heldBack()))
	}
}

// heldBack says why nothing is written; empty if it is (under mu).
func (a *Agent) heldBack() string {
	var out []string
	for _, p := range a.settings.Providers {
		if w := a.workers[p.Place()]; w != nil && len(w.held) > 0 {
			some := w.held[:min(3, len(w.held))]
			out = append(out, fmt.Sprintf("%s has a backup with %d channel(s) that this node knows nothing of (%s)", p.Name, len(w.held), strings.Join(some, ", ")))
		}
	}
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, "; ") + ". Nothing is replaced: restore first (`sluice-wallet backup restore`), or give them up (`sluice-wallet backup now --abandon`)"
}

// accuse notes what an honest provider does not do (under mu).
func (a *Agent) accuse(w *worker, what string) {
	s := a.state.place(w.place)
	const enough = 1000
	if !strings.Contains(s.Alarm, what) {
		a.p.Log.Error("a backup provider did what an honest one does not", zap.String("provider", w.cfg.Name), zap.String("what", what))
	}
	// What it did first is not hidden by what it did next, nor is all of it kept.
	switch {
	case s.Alarm == "":
		s.Alarm = what
	case !strings.Contains(s.Alarm, what) && len(s.Alarm) < enough:
		s.Alarm += "; " + what
	}
	s.AlarmMs = a.p.Now().UnixMilli()
	a.save()
	a.signal()
}
