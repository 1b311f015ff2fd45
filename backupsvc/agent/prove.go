package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
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
		_, err := w.prove(ctx)
		return err
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
	_, err = w.prove(ctx)
	return err
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

// proved is what a provider showed of its log, and what it was judged by; both are
// nil if it gives no proofs.
type proved struct {
	proof *provider.Proof
	known *vault.Head
}

// prove asks the provider where its log stands now, and judges it by the newest
// that it signed before.
func (w *worker) prove(ctx context.Context) (proved, error) {
	a := w.a
	attested, ok := w.open.(provider.Attested)
	if !ok {
		return proved{}, nil
	}
	a.mu.Lock()
	known, cross := a.knownHead(w.place), a.foreignHead(w.place)
	a.mu.Unlock()
	var after uint64
	if known != nil {
		after = known.Seq
	}
	if cross != nil {
		after = min(after, cross.Seq)
	}
	proof, err := attested.Prove(ctx, after)
	if err != nil {
		return proved{}, err
	}
	if cross != nil {
		w.cross(cross, proof)
	}
	if known != nil {
		proof.Entries = since(proof.Entries, known.Seq)
	}
	out := proved{proof: &proof}
	if known == nil {
		w.remember(proof.Shown, proof.Binding)
		return out, nil
	}
	verdict, bad := judge(known, proof.Shown, proof.Entries)
	if bad {
		w.convict(verdict, known, proof.Shown)
	} else if before, err := known.Signed(); err == nil {
		out.known = &before.Head
	} else {
		out.proof = nil
	}
	w.remember(proof.Shown, proof.Binding)
	return out, nil
}

// since are the entries of a log after one; nil if they do not reach back to it.
func since(entries []vault.Entry, seq uint64) []vault.Entry {
	for i, e := range entries {
		if e.Seq == seq+1 {
			return entries[i:]
		}
	}
	return nil
}

// foreignHead is a head that another device was shown by this provider, and that was
// not compared yet with what this one is shown (under mu).
func (a *Agent) foreignHead(place string) *recovery.Head {
	for _, m := range a.foreign.Marks {
		if m.Place == place && m.Receipt != nil && m.Receipt.Signature != a.state.place(place).Crossed {
			return m.Receipt
		}
	}
	return nil
}

// cross compares what the provider shows this device with what it showed another.
// Both are of one log, or it keeps two.
func (w *worker) cross(other *recovery.Head, proof provider.Proof) {
	verdict, bad := judge(other, proof.Shown, since(proof.Entries, other.Seq))
	if bad {
		w.convict(verdict, other, proof.Shown)
	}
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	w.a.state.place(w.place).Crossed = other.Signature
}

// fits compares what was read with what the log ends with. Another device may have
// written in between: so both are read again some times before it is an accusation.
func (w *worker) fits(ctx context.Context, p proved, name, id string, value []byte) error {
	attested, ok := w.open.(provider.Attested)
	if !ok || p.proof == nil || !p.proof.Contradicts(p.known, id, value) {
		return nil
	}
	var after uint64
	if p.known != nil {
		after = p.known.Seq
	}
	for range readAgain {
		obj, err := attested.Get(ctx, id)
		if err != nil && !errors.Is(err, errkind.NotFound) {
			return err
		}
		again, err := attested.Prove(ctx, after)
		if err != nil {
			return err
		}
		if !again.Contradicts(p.known, id, obj.Value) {
			// Somebody wrote: what is there is judged anew.
			w.looked[name] = false
			return errkind.New(errkind.Conflict, "it changed while it was read")
		}
	}
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	w.a.accuse(w, "it serves another version of "+name+" than its own log ends with")
	return nil
}

// remember keeps the newest head.
func (w *worker) remember(h vault.SignedHead, binding string) {
	a := w.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state.place(w.place)
	s.Newest = recovery.FromSigned(h)
	if s.Owed {
		// A head after the write says no less than its receipt.
		s.Noted, s.Owed = s.Newest, false
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
	if recovery.Convicts(verdict, known, recovery.FromSigned(shown)) {
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
