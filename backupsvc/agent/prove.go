package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// knownHead is the newest that a provider signed: for this machine, or as the
// other providers keep it (under mu).
func (a *Agent) knownHead(place string) *recovery.Head {
	if s := a.state.place(place); s.Newest != nil {
		return s.Newest
	}
	for _, m := range a.foreign.Marks {
		if m.Place == place {
			return m.Receipt
		}
	}
	return nil
}

// followed checks that a receipt continues what was known.
func (w *worker) followed(ctx context.Context, r vault.Receipt) error {
	a := w.a
	a.mu.Lock()
	known := a.knownHead(w.place)
	a.mu.Unlock()
	if known == nil {
		return w.prove(ctx)
	}
	before, err := known.Signed()
	if err == nil && before.Server == r.Head.Server && before.Epoch == r.Head.Epoch && before.Seq+uint64(len(r.Entries)) == r.Head.Seq && before.Hash == r.Prev {
		w.remember(r.Head, "")
		return nil
	}
	// Another device wrote in between, or it is another log.
	if verdict, bad := judge(known, r.Head, nil); bad {
		w.convict(verdict, known, r.Head)
		return nil
	}
	return w.prove(ctx)
}

// judge compares heads; bad says that the later one does not continue the
// earlier, as far as they tell.
func judge(known *recovery.Head, shown vault.SignedHead, entries []vault.Entry) (vault.Verdict, bool) {
	before, err := known.Signed()
	if err != nil {
		return vault.Unproven, false
	}
	verdict, err := vault.Compare(before.Head, shown.Head, entries)
	if err != nil {
		return vault.Unproven, before.Server != shown.Server
	}
	return verdict, verdict != vault.Same && verdict != vault.Continues && verdict != vault.Unproven
}

// prove asks the provider where its log stands now, and judges it by the newest
// that it signed before.
func (w *worker) prove(ctx context.Context) error {
	a := w.a
	attested, ok := w.open.(provider.Attested)
	if !ok {
		return nil
	}
	a.mu.Lock()
	known := a.knownHead(w.place)
	a.mu.Unlock()
	var after uint64
	if known != nil {
		after = known.Seq
	}
	proof, err := attested.Prove(ctx, after)
	if err != nil {
		return err
	}
	if known == nil {
		w.remember(proof.Shown, proof.Binding)
		return nil
	}
	verdict, bad := judge(known, proof.Shown, proof.Entries)
	if bad {
		w.convict(verdict, known, proof.Shown)
	}
	w.remember(proof.Shown, proof.Binding)
	return nil
}

// remember keeps the newest head.
func (w *worker) remember(h vault.SignedHead, binding string) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state.place(w.place)
	s.Newest = recovery.FromSigned(h)
	if t, ok := s.Things[channelsName]; ok && t.Receipt == nil {
		// The answer to the write was lost; a head after it says no less.
		t.Receipt = s.Newest
		s.Things[channelsName] = t
	}
	if binding != "" {
		s.Binding = binding
	}
	a.save()
}

// convict notes a verdict, and writes evidence where it convinces others.
func (w *worker) convict(verdict vault.Verdict, known *recovery.Head, shown vault.SignedHead) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	var text string
	switch verdict {
	case vault.RolledBack:
		text = fmt.Sprintf("its log went back from entry %d to %d without its saying so", known.Seq, shown.Seq)
	case vault.Forked:
		text = fmt.Sprintf("it signed two logs that exclude each other, both at entry %d", known.Seq)
	case vault.Disconnected:
		text = "it cannot show that its log continues what it signed before"
	case vault.Restored:
		text = "it says that its database went back to an older copy; what it lost is stored again"
		// Everything is read again before it is taken for stored.
		clear(w.looked)
	default:
		text = "it signs with another key than before: it is another server"
		clear(w.looked)
	}
	if recovery.Convicts(verdict) {
		file, err := a.writeEvidence(recovery.Evidence{
			Verdict: verdict, Provider: w.cfg.Name, Node: w.cfg.NodeKey.String(), Binding: a.state.place(w.place).Binding,
			Known: known, Shown: recovery.FromSigned(shown),
		})
		if err != nil {
			a.note("evidence", err)
		} else {
			text += "; the proof is in " + file
		}
	}
	a.accuse(w, text)
}

// writeEvidence keeps a proof (under mu).
func (a *Agent) writeEvidence(e recovery.Evidence) (string, error) {
	raw, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.cfg.DataDir, fmt.Sprintf("evidence-%s-%d.json", e.Provider, e.Shown.AtMs))
	if err := a.p.WriteFile(path, append(raw, '\n')); err != nil {
		return "", err
	}
	a.p.Log.Error("evidence against a backup provider was written", zap.String("file", path), zap.String("verdict", string(e.Verdict)))
	return path, nil
}

// errNoAnswer says that a drill did not get to see anything.
var errNoAnswer = errors.New("it did not answer")

// drillWhenDue drills where the last one is long ago, or failed.
func (a *Agent) drillWhenDue(ctx context.Context) {
	a.mu.Lock()
	var due []ProviderConfig
	now := a.p.Now()
	for _, p := range a.settings.Providers {
		s := a.state.place(p.Place())
		at := fromMs(s.DrilledMs)
		// A clock that went back must not put drills off for ever.
		if s.Things[channelsName].Number > 0 && (now.Sub(at) >= a.settings.drillEvery() || at.After(now) || s.DrillProblem != "") {
			due = append(due, p)
		}
	}
	a.mu.Unlock()
	// What failed is in the state, and in the log.
	_ = a.drillAt(ctx, due)
}

// Drill reads every provider's backup as a stranger would, and has lnd open it.
// What fails is in the state; the error says that there was something.
func (a *Agent) Drill(ctx context.Context) error {
	a.mu.Lock()
	providers := a.settings.Providers
	a.mu.Unlock()
	return a.drillAt(ctx, providers)
}

func (a *Agent) drillAt(ctx context.Context, providers []ProviderConfig) error {
	a.mu.Lock()
	self := a.self
	a.mu.Unlock()
	errs := make([]error, len(providers))
	var wg sync.WaitGroup
	for i, p := range providers {
		wg.Go(func() {
			errs[i] = a.drill(ctx, p, func() (provider.Place, error) { return a.p.Open(p, self) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *Agent) drill(ctx context.Context, p ProviderConfig, open func() (provider.Place, error)) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	place, err := open()
	if err != nil {
		return a.drilled(p, Stand{}, fmt.Errorf("%w: %w", errNoAnswer, err))
	}
	defer func() { _ = place.Close() }()
	a.mu.Lock()
	want := a.state.place(p.Place()).Things[channelsName]
	a.mu.Unlock()
	return a.drilled(p, want, a.opens(ctx, place, want))
}

// opens proves that what is stored is what was acknowledged, and restores.
func (a *Agent) opens(ctx context.Context, place provider.Place, want Stand) error {
	id, err := a.cfg.Secret.ID(channelsName)
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
	h, multi, err := a.cfg.Secret.Open(channelsName, obj.Value)
	if err != nil {
		return err
	}
	if ref := refOf(h.Number, h.MadeMs, obj.Value); want.Newer(ref) {
		return fmt.Errorf("it serves version %d, but acknowledged version %d", ref.Number, want.Number)
	}
	if len(h.Channels) == 0 {
		return nil // lnd has nothing to open
	}
	return a.sameInside(ctx, multi, h.Channels)
}

func (a *Agent) drilled(p ProviderConfig, tried Stand, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(err, errNoAnswer) || errors.Is(err, ln.ErrUnavailable) || errors.Is(err, context.Canceled) {
		// It proved nothing: what is not seen for long is an alarm by its age.
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	s := a.state.place(p.Place())
	s.DrilledMs, s.DrillProblem = a.p.Now().UnixMilli(), ""
	if err != nil {
		s.DrillProblem = errkind.Told(err)
		a.p.Log.Error("a backup drill failed", zap.String("provider", p.Name), zap.Error(err))
		err = fmt.Errorf("%s: %s", p.Name, s.DrillProblem)
	} else if have, ok := s.Things[channelsName]; ok && have.Ref == tried.Ref {
		have.ConfirmedMs = s.DrilledMs
		s.Things[channelsName] = have
	}
	// The worker reads again: it knows what to do about what is missing, and asks
	// for the log's head.
	if w := a.workers[p.Place()]; w != nil {
		w.suspect = true
	}
	a.save()
	a.signal()
	return err
}
