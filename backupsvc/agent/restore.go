package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// Finding is what one provider had to show.
type Finding struct {
	recovery.Found
	// Verdict is what its log says of it, by what the other providers keep;
	// empty where nothing is known. Evidence proves it, if it convinces others.
	Verdict  vault.Verdict
	Evidence *recovery.Evidence

	multi []byte
	open  provider.Place
	proof provider.Proof
	// got are the values by their ids, nil for none.
	got map[string][]byte
}

// Survey is what all providers had to show.
type Survey struct {
	Self     ln.NodeInfo
	Findings []Finding
	Choice   recovery.Choice

	require int
}

// Look asks every provider what it has, and judges each by what the others keep
// of it. It changes nothing.
func (a *Agent) Look(ctx context.Context) (Survey, error) {
	self, err := a.p.Channels.Info(ctx)
	if err != nil {
		return Survey{}, err
	}
	if self.Network != a.cfg.Secret.Network {
		return Survey{}, errkind.Newf(errkind.Invalid, "lnd is on %s, the backup key is for %s: make the key anew (`sluice-wallet backup key`)", self.Network, a.cfg.Secret.Network)
	}
	a.mu.Lock()
	a.self = self
	providers, require := a.settings.Providers, a.settings.Require
	a.mu.Unlock()
	if len(providers) == 0 {
		return Survey{}, errkind.New(errkind.Invalid, "no provider is configured: add those of the lost machine (`sluice-wallet backup add`)")
	}
	s := Survey{Self: self, Findings: make([]Finding, len(providers))}
	var wg sync.WaitGroup
	for i, p := range providers {
		wg.Go(func() { s.Findings[i] = a.ask(ctx, p) })
	}
	wg.Wait()
	found := s.found()
	for i := range s.Findings {
		wg.Go(func() { a.judge(ctx, found, &s.Findings[i], providers[i]) })
	}
	wg.Wait()
	s.Choice = recovery.Choose(s.found(), channelsName, require)
	s.require = require
	return s, nil
}

func (s Survey) found() []recovery.Found {
	out := make([]recovery.Found, 0, len(s.Findings))
	for _, f := range s.Findings {
		out = append(out, f.Found)
	}
	return out
}

// Close ends the connections of a survey.
func (s Survey) Close() {
	for _, f := range s.Findings {
		if f.open != nil {
			_ = f.open.Close()
		}
	}
}

func (a *Agent) ask(ctx context.Context, p ProviderConfig) Finding {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
	defer cancel()
	f := Finding{Found: recovery.Found{Place: p.Place(), Name: p.Name}}
	var err error
	if f.open, err = a.p.Open(p, a.self); err != nil {
		f.Err = errkind.Told(err)
		return f
	}
	// Another device may write while this one reads: what does not fit is read again.
	for range readAgain {
		f.Snapshot, f.Witness, f.Damaged, f.Shown, f.got = nil, nil, "", nil, map[string][]byte{}
		if err := a.read(ctx, &f); err != nil {
			f.Err = errkind.Told(err)
			return f
		}
		if !f.contradicted(nil) {
			return f
		}
	}
	f.accuseOfContradiction()
	return f
}

// readAgain is how often something is read that does not fit the log.
const readAgain = 3

// contradicted says that something of what was read is not what the log ends with.
func (f *Finding) contradicted(known *vault.Head) bool {
	if f.Shown == nil {
		return false
	}
	for id, value := range f.got {
		if f.proof.Contradicts(known, id, value) {
			return true
		}
	}
	return false
}

// stillContradicted compares what was read with the entries after a known point of
// a log that is not shown whole, and reads again what does not fit.
func (a *Agent) stillContradicted(ctx context.Context, f *Finding, known vault.Head) bool {
	attested, ok := f.open.(provider.Attested)
	if !ok {
		return false
	}
	for range readAgain {
		if !f.contradicted(&known) {
			return false
		}
		call, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
		for id := range f.got {
			obj, err := f.open.Get(call, id)
			if err != nil && !errors.Is(err, errkind.NotFound) {
				break
			}
			f.got[id] = obj.Value
		}
		again, err := attested.Prove(call, known.Seq)
		cancel()
		if err != nil {
			return false // it does not answer any more
		}
		f.proof = again
	}
	return true
}

func (f *Finding) accuseOfContradiction() {
	f.Verdict, f.Suspect = vault.Contradicted, "it serves something else than what its own log ends with"
}

// read fills a finding; its error says that the provider did not answer.
func (a *Agent) read(ctx context.Context, f *Finding) error {
	get := func(name string, use func(header headerOf, payload, sealed []byte) error) error {
		id, err := a.cfg.Secret.ID(name)
		if err != nil {
			return err
		}
		obj, err := f.open.Get(ctx, id)
		if errors.Is(err, errkind.NotFound) {
			f.got[id] = nil
			return nil
		}
		if err != nil {
			return err
		}
		f.got[id] = obj.Value
		h, payload, err := a.cfg.Secret.Open(name, obj.Value)
		if err == nil {
			err = use(headerOf{h.Number, h.MadeMs, h.Device, h.Channels}, payload, obj.Value)
		}
		if err != nil && f.Damaged == "" {
			f.Damaged = name + ": " + errkind.Told(err)
		}
		return nil
	}
	if err := get(channelsName, func(h headerOf, multi, sealed []byte) error {
		f.Snapshot = &recovery.Snapshot{Ref: refOf(h.number, h.madeMs, sealed), Device: h.device, Channels: h.channels}
		f.multi = multi
		return nil
	}); err != nil {
		return err
	}
	if err := get(witnessName, func(_ headerOf, payload, _ []byte) error {
		w, err := recovery.DecodeWitness(payload)
		f.Witness = &w
		return err
	}); err != nil {
		return err
	}
	attested, ok := f.open.(provider.Attested)
	if !ok {
		return nil
	}
	proof, err := attested.Prove(ctx, 0)
	if err != nil {
		return err
	}
	f.Shown, f.proof = &proof.Shown, proof
	return nil
}

// headerOf is what a restore needs of a header.
type headerOf struct {
	number   uint64
	madeMs   int64
	device   string
	channels []string
}

// judge compares where a provider's log stands with the newest receipt that the
// others keep.
func (a *Agent) judge(ctx context.Context, found []recovery.Found, f *Finding, p ProviderConfig) {
	mark, ok := recovery.Known(found, f.Found)
	if !ok || mark.Receipt == nil || f.Shown == nil {
		return
	}
	known, err := mark.Receipt.Signed()
	if err != nil {
		return // what somebody noted wrongly proves nothing
	}
	entries := f.proof.Entries
	if known.Seq <= uint64(len(entries)) {
		entries = entries[known.Seq:]
	} else if attested, ok := f.open.(provider.Attested); ok && known.Seq < f.Shown.Seq {
		ctx, cancel := context.WithTimeout(ctx, a.cfg.CallTimeout)
		defer cancel()
		if again, err := attested.Prove(ctx, known.Seq); err == nil {
			f.Shown, entries = &again.Shown, again.Entries
			f.proof = again
		}
	}
	verdict, bad := judge(mark.Receipt, *f.Shown, entries)
	if bad || f.Verdict == "" {
		f.Verdict = verdict
	}
	if f.proof.Shown.Seq-known.Seq == uint64(len(f.proof.Entries)) && a.stillContradicted(ctx, f, known.Head) {
		f.accuseOfContradiction()
	}
	if bad {
		f.Suspect = suspicion(verdict)
	}
	if bad && recovery.Convicts(verdict, mark.Receipt, recovery.FromSigned(*f.Shown)) {
		f.Evidence = &recovery.Evidence{
			Verdict: verdict, Provider: p.Name, Node: p.NodeKey.String(), Binding: mark.Binding, Known: mark.Receipt, Shown: recovery.FromSigned(*f.Shown),
		}
	}
}

// suspicion is a verdict for people.
func suspicion(v vault.Verdict) string {
	switch v {
	case vault.RolledBack:
		return "its log went back"
	case vault.Forked:
		return "it signed two logs that exclude each other"
	case vault.Disconnected:
		return "it cannot show that its log went on from what it acknowledged"
	case vault.Restored:
		return "it says that its database went back to an older copy"
	}
	return "it signs with another key than before"
}

// Restored is a restore that was begun.
type Restored struct {
	recovery.Ref
	Provider string   `json:"provider"`
	Channels []string `json:"channels"`
	BegunMs  int64    `json:"begun_ms"`
	// Given says that lnd took the channels.
	Given bool `json:"given"`
}

// LoadRestored reads what was begun before; nil if nothing was. A file that is
// damaged is put aside: nothing in it is needed to begin again.
func LoadRestored(dir string) (r *Restored, damaged bool, err error) {
	path := filepath.Join(dir, restoreFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if json.Unmarshal(raw, &r) != nil || r == nil || r.BegunMs == 0 {
		return nil, true, os.Rename(path, path+".damaged")
	}
	return r, false, nil
}

// Restore gives lnd the newest channel backup of a survey. With reasons against
// it only if the owner says so (older). It may be begun again at any time.
func (a *Agent) Restore(ctx context.Context, s Survey, older bool, restorer Restorer) (Restored, error) {
	if s.Choice.Best < 0 {
		return Restored{}, errkind.New(errkind.NotFound, strings.Join(s.Choice.Against, "; "))
	}
	best := s.Findings[s.Choice.Best]
	reasons := slices.Clone(s.Choice.Against)
	before, damaged, err := LoadRestored(a.cfg.DataDir)
	if err != nil {
		return Restored{}, err
	}
	if damaged {
		a.p.Log.Warn("what was noted of an earlier restore was damaged and put aside; the restore begins anew")
	}
	switch {
	case before == nil:
	case before.Ref == best.Snapshot.Ref:
		// It was decided when it was begun; going on with it loses nothing more.
		reasons = nil
	case before.Newer(best.Snapshot.Ref):
		reasons = append(reasons, fmt.Sprintf("a restore of version %d was begun here; the newest that could be read now is %d", before.Number, best.Snapshot.Number))
	}
	if len(reasons) > 0 && !older {
		return Restored{}, errkind.New(errkind.Conflict, "not restored: "+strings.Join(reasons, "; ")+". With an older backup the money of channels opened since is not asked for. Try again when the others answer, or say --older")
	}
	r := Restored{Ref: best.Snapshot.Ref, Provider: best.Name, Channels: best.Snapshot.Channels, BegunMs: a.p.Now().UnixMilli()}
	return r, a.give(ctx, &r, best.multi, restorer)
}

// give hands a backup to lnd: first it is proved that it is what it says.
func (a *Agent) give(ctx context.Context, r *Restored, multi []byte, restorer Restorer) error {
	if len(r.Channels) > 0 {
		if err := a.sameInside(ctx, multi, r.Channels); err != nil {
			return err
		}
	}
	if err := a.saveRestored(*r); err != nil {
		return err
	}
	if len(r.Channels) > 0 {
		if _, err := restorer.RestoreBackup(ctx, multi); err != nil {
			return err
		}
	}
	r.Given = true
	return a.saveRestored(*r)
}

func (a *Agent) saveRestored(r Restored) error {
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return a.p.WriteFile(filepath.Join(a.cfg.DataDir, restoreFile), raw)
}

// sameInside has lnd open a backup, and compares what is in it.
func (a *Agent) sameInside(ctx context.Context, multi []byte, channels []string) error {
	inside, err := a.p.Backups.VerifyBackup(ctx, multi)
	if err != nil {
		return fmt.Errorf("lnd does not open it: %w", err)
	}
	got := make([]string, 0, len(inside))
	for _, op := range inside {
		got = append(got, op.String())
	}
	if !recovery.SameChannels(got, channels) {
		return errors.New("lnd finds other channels in it than its header names")
	}
	return nil
}

// FileName gives the name of an owner's file among a survey's things.
func FileName(thing string) (string, bool) {
	name, ok := strings.CutPrefix(thing, fileThing)
	return name, ok && validName(name)
}

// Export gives the backup as one file: lnd's own, or sealed. n is how many
// channels are in it.
func (a *Agent) Export(ctx context.Context, sealed bool) (file []byte, n int, err error) {
	self, err := a.p.Channels.Info(ctx)
	if err != nil {
		return nil, 0, err
	}
	b, err := a.p.Backups.ExportBackup(ctx)
	if err != nil {
		return nil, 0, err
	}
	if !sealed {
		return b.Multi, len(b.Channels), nil
	}
	h := seal.Header{Name: channelsName, MadeMs: a.p.Now().UnixMilli(), Node: self.PubKey.String(), Device: a.state.Device}
	for _, op := range b.Channels {
		h.Channels = append(h.Channels, op.String())
	}
	file, err = a.cfg.Secret.Seal(a.p.Random, h, b.Multi)
	return file, len(b.Channels), err
}

// Import gives lnd a file of Export's, or its own.
func (a *Agent) Import(ctx context.Context, file []byte, restorer Restorer) (Restored, error) {
	multi := file
	r := Restored{Provider: "a file", BegunMs: a.p.Now().UnixMilli()}
	if _, sealed := seal.Sealed(file); sealed {
		h, payload, err := a.cfg.Secret.Open(channelsName, file)
		if err != nil {
			return r, err
		}
		r.Ref, multi = refOf(h.Number, h.MadeMs, file), payload
	}
	inside, err := a.p.Backups.VerifyBackup(ctx, multi)
	if err != nil {
		return r, fmt.Errorf("lnd does not open it: %w", err)
	}
	for _, op := range inside {
		r.Channels = append(r.Channels, op.String())
	}
	return r, a.give(ctx, &r, multi, restorer)
}
