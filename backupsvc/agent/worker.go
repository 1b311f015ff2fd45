package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/internal/errkind"
)

// worker brings one provider up to date, by itself: it knows what is there only
// by having read it, or by its own last write.
type worker struct {
	a      *Agent
	cfg    ProviderConfig
	place  string
	cancel context.CancelFunc
	open   provider.Place
	// versions are the provider's words for what is there, of names looked at.
	versions map[string]string
	looked   map[string]bool

	// Under the agent's mu. retries and problems are of what was tried, by its name.
	retries  map[string]retry
	problems map[string]string
	// asked says that its channels were asked for once, whatever came of it.
	asked bool
	// reread are things that are to be read again although they look stored.
	reread map[string]bool
	// held are channels in what it stores that lnd knows nothing of; heldBy is the
	// version that they are in, and all its channels.
	held         []string
	heldBy       recovery.Ref
	heldChannels []string
	// unreadable are things that it stores, that do not open, and that this machine
	// did not write.
	unreadable map[string]bool
	// suspect says that what is there is to be read again.
	suspect bool
}

// retry is when a thing that a provider did not take is tried there again.
type retry struct {
	// tried is when it was last tried, due when it may be again.
	tried, due time.Time
	// wait is between tries; quick counts conflicts in a row.
	wait  time.Duration
	quick int
}

func (w *worker) work(ctx context.Context) {
	defer func() {
		if w.open != nil {
			_ = w.open.Close()
		}
	}()
	for ctx.Err() == nil {
		name, wake, delay := w.next()
		if name == "" {
			idle(ctx, wake, delay)
			continue
		}
		err := w.store(ctx, name)
		if ctx.Err() != nil {
			return
		}
		w.tell(name, err)
	}
}

func idle(ctx context.Context, wake <-chan struct{}, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// tell notes how a try ended. What one thing failed of may be its own (it is too
// large there, say), so each waits for itself, and none keeps the others from
// their turn.
func (w *worker) tell(name string, err error) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	// The clock of the process: the wall's may be set back for a year.
	now := time.Now()
	w.asked = w.asked || name == channelsName
	r := w.retries[name]
	r.tried = now
	switch {
	case err == nil:
		r = retry{tried: now}
	case errors.Is(err, errkind.Conflict) && r.quick < 3:
		// Somebody else wrote: read, and try at once.
		r.quick++
	default:
		r.wait = min(max(2*r.wait, a.cfg.MinBackoff), a.cfg.MaxBackoff)
		r.due, r.quick = now.Add(r.wait/2+rand.N(r.wait)), 0 //nolint:gosec // spreads retries
	}
	w.retries[name] = r
	text := ""
	if err != nil && !errors.Is(err, errkind.Conflict) {
		text = errkind.Told(err)
	}
	if text != "" && text != w.problems[name] {
		a.p.Log.Warn("a backup provider has not got the present version", zap.String("provider", w.cfg.Name), zap.String("name", name), zap.Error(err))
	}
	if text == "" {
		delete(w.problems, name)
	} else {
		w.problems[name] = text
	}
	a.signal()
}

// next says what to store next, or for how long to wait. The channels come
// first, unless they failed and must wait themselves; then what was not tried
// for longest, so that something that always fails keeps nothing else away.
func (w *worker) next() (name string, wake <-chan struct{}, delay time.Duration) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.suspect {
		w.suspect = false
		clear(w.looked)
	}
	delay = time.Minute
	lacking, settles := w.lacking()
	if settles > 0 {
		delay = min(delay, settles)
	}
	now := time.Now()
	for _, n := range lacking {
		r := w.retries[n]
		if left := r.due.Sub(now); left > 0 {
			delay = min(delay, left)
			continue
		}
		if n == channelsName {
			return n, a.wake, 0
		}
		if name == "" || r.tried.Before(w.retries[name].tried) {
			name = n
		}
	}
	if w.reread[name] {
		delete(w.looked, name)
	}
	return name, a.wake, delay
}

// lacking are the things that are to be read or written at this provider, the
// channels first. settles is after how long the witness will be one of them, if
// what it tells has not settled yet (under mu).
func (w *worker) lacking() (names []string, settles time.Duration) {
	a := w.a
	channels := a.things[channelsName]
	if channels == nil {
		return nil, 0
	}
	stands := a.state.place(w.place).Things
	if !w.looked[channelsName] || len(w.held) > 0 {
		names = append(names, channelsName)
	} else if !a.holding() && !a.listening() && stands[channelsName].Ref != channels.ref {
		names = append(names, channelsName)
	}
	if a.holding() || a.listening() {
		return names, 0
	}
	for _, n := range slices.Sorted(maps.Keys(a.things)) {
		if n != channelsName && (stands[n].Ref != a.things[n].ref || w.reread[n]) {
			names = append(names, n)
		}
	}
	// What others acknowledged is noted once it has settled.
	if _, sum := w.note(); stands[witnessName].Payload != sum {
		if left := a.cfg.Gather - a.p.Now().Sub(a.marked); left > 0 && left <= a.cfg.Gather {
			return names, left
		}
		names = append(names, witnessName)
	}
	return names, 0
}

// problem is what the owner reads of what the provider does not take; empty if
// it takes everything (under mu).
func (w *worker) problem() string {
	by := map[string][]string{}
	for name, text := range w.problems {
		if _, ours := w.a.things[name]; ours || name == witnessName {
			by[text] = append(by[text], name)
		}
	}
	var out []string
	for text, names := range by {
		slices.Sort(names)
		if !slices.Contains(names, channelsName) {
			text = strings.Join(names, ", ") + ": " + text
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// holding says that some provider keeps channels that lnd knows nothing of:
// then nothing is written anywhere (under mu).
func (a *Agent) holding() bool {
	for _, w := range a.workers {
		if len(w.held) > 0 {
			return true
		}
	}
	return false
}

// listening says that this machine has stored nothing anywhere yet, and that some
// provider was not even asked what it has. Until then nothing is written: a version
// beside one that was not seen yet would get its number, or one above it, and pass
// for the newer one at a restore (under mu).
func (a *Agent) listening() bool {
	for _, s := range a.state.Places {
		if s.Things[channelsName].Number > 0 {
			return false
		}
	}
	for _, w := range a.workers {
		if !w.asked {
			return true
		}
	}
	return false
}

// note is the content of this provider's witness (under mu).
func (w *worker) note() ([]byte, string) {
	raw, err := json.Marshal(w.a.witness(w.place))
	if err != nil {
		w.a.note("witness", err)
	}
	sum := sha256.Sum256(raw)
	return raw, hex.EncodeToString(sum[:])
}

// store brings one thing up to date at the provider.
func (w *worker) store(ctx context.Context, name string) error {
	a := w.a
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	if err := w.reconsider(ctx); err != nil {
		return err
	}
	if err := w.dial(); err != nil {
		return err
	}
	for _, n := range []string{channelsName, name} {
		if !w.looked[n] {
			if err := w.look(ctx, n); err != nil {
				return err
			}
		}
	}
	a.mu.Lock()
	delete(w.reread, name)
	a.mu.Unlock()
	t, err := w.wanted(name)
	if t == nil {
		return err
	}
	id, err := a.cfg.Secret.ID(name)
	if err != nil {
		return err
	}
	stored, err := w.open.Put(ctx, id, w.versions[name], t.sealed)
	if err != nil {
		// Whether it took place is unknown, or somebody else wrote.
		w.looked[name] = false
		return err
	}
	w.versions[name] = stored.Version
	now := a.p.Now().UnixMilli()
	stand := Stand{Ref: t.ref, AtMs: now, ConfirmedMs: now, Bytes: int64(len(t.sealed)), Payload: t.sum}
	a.mu.Lock()
	s := a.state.place(w.place)
	s.Things[name] = stand
	if name != witnessName {
		a.marked = a.p.Now()
		if stored.Receipt != nil {
			s.Noted, s.Owed = recovery.FromSigned(stored.Receipt.Head), false
		}
	}
	a.save()
	a.signal()
	a.mu.Unlock()
	if stored.Receipt != nil {
		return w.followed(ctx, *stored.Receipt)
	}
	return nil
}

// wanted is what the provider lacks of a thing, as it is at this moment; nil
// when it lacks nothing, or nothing may be written.
func (w *worker) wanted(name string) (*thing, error) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	stand := a.state.place(w.place).Things[name]
	if a.holding() || a.listening() {
		return nil, nil
	}
	if name != witnessName {
		t := a.things[name]
		if t == nil || stand.Ref == t.ref {
			return nil, nil
		}
		same := *t
		return &same, nil
	}
	raw, sum := w.note()
	if stand.Payload == sum {
		return nil, nil
	}
	t := &thing{name: witnessName, payload: raw, sum: sum}
	if err := a.number(t); err != nil {
		return nil, err
	}
	return t, nil
}

func (w *worker) dial() error {
	if w.open != nil {
		return nil
	}
	w.a.mu.Lock()
	self := w.a.self
	w.a.mu.Unlock()
	open, err := w.a.p.Open(w.cfg, self)
	if err != nil {
		return err
	}
	w.open = open
	return nil
}

// look reads what the provider has of a thing, before it is replaced.
func (w *worker) look(ctx context.Context, name string) error {
	a := w.a
	id, err := a.cfg.Secret.ID(name)
	if err != nil {
		return err
	}
	obj, err := w.open.Get(ctx, id)
	switch {
	case errors.Is(err, errkind.NotFound):
		w.gone(name)
		w.versions[name] = provider.Absent
	case err != nil:
		return err
	default:
		h, payload, openErr := a.cfg.Secret.Open(name, obj.Value)
		if openErr != nil {
			err = w.damaged(name, openErr)
		} else {
			err = w.adopt(ctx, name, h, payload, obj.Value)
		}
		if err != nil {
			return err
		}
		w.versions[name] = obj.Version
	}
	w.looked[name] = true
	a.mu.Lock()
	owed := a.state.place(w.place).Owed
	a.mu.Unlock()
	if name != channelsName && !owed {
		return nil
	}
	p, err := w.prove(ctx)
	if err != nil {
		return err
	}
	return w.fits(ctx, p, name, id, obj.Value)
}
