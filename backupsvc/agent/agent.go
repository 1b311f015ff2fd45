package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-lsp/sluice/backupsvc/recovery"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/internal/durable"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// The names of what is always backed up.
const (
	channelsName = "channels"
	witnessName  = "witness"
	// fileThing begins the names of the owner's files.
	fileThing = "file/"
	// maxThing is below what vaults take of one value, with room for its seal.
	maxThing = 12 << 20
)

// Config says how the agent works.
type Config struct {
	// DataDir has the settings and the state.
	DataDir string
	Secret  seal.Secret
	// CallTimeout bounds one call of a provider.
	CallTimeout time.Duration
	// MinBackoff and MaxBackoff are between tries at a provider that fails.
	MinBackoff, MaxBackoff time.Duration
	// Poll is how often lnd is asked beside its stream, and settings and other
	// things are looked at.
	Poll time.Duration
	// Gather is how long receipts are waited for before they are noted at the
	// other providers.
	Gather time.Duration
}

// DefaultConfig leaves DataDir and Secret to be set.
func DefaultConfig() Config {
	return Config{
		CallTimeout: 30 * time.Second, MinBackoff: time.Second, MaxBackoff: time.Minute, Poll: 10 * time.Second, Gather: 300 * time.Millisecond,
	}
}

// thing is what is backed up under one name, as it is now.
type thing struct {
	name     string
	payload  []byte
	channels []string
	ref      recovery.Ref
	sealed   []byte
	// sum is the payload's hash.
	sum string
	// past are versions of it that were the present one a moment ago.
	past []past
}

// past is a version that was the present one until then.
type past struct {
	ref   recovery.Ref
	until time.Time
}

// lag is how long a version of something besides the channels counts after a
// newer one was made: a file that changes every minute is backed up, if each
// version gets there within that time.
const lag = 2 * time.Minute

// succeed carries what the versions before t were (under mu).
func (t *thing) succeed(before *thing) {
	if before == nil || before.ref.Number == 0 {
		return
	}
	now := time.Now()
	t.past = append(slices.Clone(before.past), past{before.ref, now})
	t.past = slices.DeleteFunc(t.past, func(p past) bool { return now.Sub(p.until) > lag })
}

// is says whether ref is the present version, or is as good as that.
func (t *thing) is(ref recovery.Ref) bool {
	if t.ref == ref {
		return true
	}
	// A channel that is in no backup is lost with the disk: there the present one
	// counts alone.
	return t.name != channelsName && slices.ContainsFunc(t.past, func(p past) bool { return p.ref == ref && time.Since(p.until) <= lag })
}

// Agent keeps a wallet's backups.
type Agent struct {
	cfg Config
	p   Ports

	// collecting is held while other things are read.
	collecting sync.Mutex

	mu       sync.Mutex
	self     ln.NodeInfo
	settings Settings
	state    State
	things   map[string]*thing
	workers  map[string]*worker
	// foreign is what other devices noted, and this one before its disk was lost.
	foreign recovery.Witness
	// abandoned are channels that the owner gave up.
	abandoned map[string]bool
	// marked is when a provider last acknowledged something.
	marked time.Time
	// collected says that the other things were looked at since the start.
	collected bool
	// trouble is what keeps the agent from knowing or remembering, by what fails.
	trouble map[string]string
	// wrongSince is since when each alarm lasts.
	wrongSince map[string]time.Time
	// wake is closed at every change.
	wake chan struct{}
	run  context.Context //nolint:containedctx // what workers live in, set by Run
	wg   sync.WaitGroup
}

// New makes an agent.
func New(cfg Config, p Ports) (*Agent, error) {
	if p.Random == nil {
		p.Random = rand.Reader
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.WriteFile == nil {
		p.WriteFile = func(path string, content []byte) error { return durable.WriteFile(path, content, 0o600) }
	}
	if p.ReadFile == nil {
		p.ReadFile = os.ReadFile
	}
	if p.Alarm == nil {
		p.Alarm = RunAlarm
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	settings, err := LoadSettings(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	var device [8]byte
	if _, err := p.Random.Read(device[:]); err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	state, damaged, err := loadState(cfg.DataDir, hex.EncodeToString(device[:]))
	if err != nil {
		return nil, err
	}
	if damaged {
		p.Log.Warn("the backup state was damaged and put aside; providers are read before anything is replaced")
	}
	return &Agent{
		cfg: cfg, p: p, settings: settings, state: state, things: map[string]*thing{}, workers: map[string]*worker{},
		abandoned: map[string]bool{}, trouble: map[string]string{}, wake: make(chan struct{}),
	}, nil
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.attach(ctx); err != nil {
		return nil //nolint:nilerr // stopped while it waited
	}
	group, ctx := errgroup.WithContext(ctx)
	a.mu.Lock()
	a.run = ctx
	a.employ()
	a.mu.Unlock()
	group.Go(func() error { a.follow(ctx); return nil })
	group.Go(func() error { pace.Every(ctx, a.cfg.Poll, a.export); return nil })
	group.Go(func() error { pace.Every(ctx, a.cfg.Poll, a.reload); return nil })
	group.Go(func() error { pace.Every(ctx, a.cfg.Poll, a.collect); return nil })
	group.Go(func() error { pace.Every(ctx, time.Minute, a.drillWhenDue); return nil })
	group.Go(func() error { pace.Every(ctx, alarmEvery, a.raise); return nil })
	err := group.Wait()
	a.wg.Wait()
	return err
}

// attach waits until lnd answers.
func (a *Agent) attach(ctx context.Context) error {
	for {
		self, err := a.p.Channels.Info(ctx)
		if err == nil && self.Network != a.cfg.Secret.Network {
			err = fmt.Errorf("lnd is on %s, the backup key is for %s: make the key anew (`sluice-wallet backup key`)", self.Network, a.cfg.Secret.Network)
		}
		a.report("lnd", err)
		if err == nil {
			a.mu.Lock()
			a.self = self
			a.mu.Unlock()
			return nil
		}
		if err := pace.Pause(ctx, a.cfg.MinBackoff); err != nil {
			return err
		}
	}
}

// report keeps what fails, until it no longer does.
func (a *Agent) report(what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note(what, err)
}

// note is report (under mu).
func (a *Agent) note(what string, err error) {
	switch {
	case errors.Is(err, context.Canceled):
	case err == nil:
		delete(a.trouble, what)
	default:
		if text := errkind.Told(err); a.trouble[what] != text {
			a.trouble[what] = text
			a.p.Log.Warn("backups: "+what, zap.Error(err))
		}
	}
}

// follow keeps lnd's stream.
func (a *Agent) follow(ctx context.Context) {
	wait := a.cfg.MinBackoff
	for ctx.Err() == nil {
		began := a.p.Now()
		err := a.p.Backups.SubscribeBackups(ctx, func(b ln.ChannelBackup) {
			a.take(b, false)
		})
		if ctx.Err() != nil {
			return
		}
		a.report("lnd's stream of channel backups", err)
		if a.p.Now().Sub(began) > a.cfg.MaxBackoff {
			wait = a.cfg.MinBackoff
		}
		_ = pace.Pause(ctx, wait)
		wait = min(2*wait, a.cfg.MaxBackoff)
	}
}

// export asks lnd beside its stream, which has no beginning and may break
// unnoticed.
func (a *Agent) export(ctx context.Context) {
	b, err := a.p.Backups.ExportBackup(ctx)
	a.report("lnd", err)
	if err == nil {
		a.take(b, false)
	}
}

// take makes a new version if the channels changed.
func (a *Agent) take(b ln.ChannelBackup, always bool) {
	channels := make([]string, 0, len(b.Channels))
	for _, op := range b.Channels {
		channels = append(channels, op.String())
	}
	slices.Sort(channels)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.trouble, "lnd's stream of channel backups")
	t := a.things[channelsName]
	if t != nil && !always && slices.Equal(t.channels, channels) {
		return
	}
	a.set(&thing{name: channelsName, payload: b.Multi, channels: channels})
}

// collect looks at the wallet's other things, and at the files that its owner
// wants backed up.
func (a *Agent) collect(ctx context.Context) {
	// What was read earlier must not be taken later.
	a.collecting.Lock()
	defer a.collecting.Unlock()
	reads := maps.Clone(a.p.Extras)
	if reads == nil {
		reads = map[string]Read{}
	}
	a.mu.Lock()
	for _, f := range a.settings.Files {
		reads[fileThing+f.Name] = func(context.Context) ([]byte, error) { return a.p.ReadFile(f.Path) }
	}
	a.mu.Unlock()
	for name, read := range reads {
		content, err := read(ctx)
		if err == nil && len(content) > maxThing {
			err = errkind.Newf(errkind.Invalid, "it has %d bytes: at most %d are backed up under one name", len(content), maxThing)
		}
		a.report(name, err)
		if err != nil || content == nil {
			continue
		}
		a.mu.Lock()
		if t := a.things[name]; t == nil || string(t.payload) != string(content) {
			a.set(&thing{name: name, payload: content})
		}
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.collected = a.collected || ctx.Err() == nil
	a.dismiss()
	a.signal()
}

// dismiss forgets files that are no longer wanted. What is stored of them stays
// where it is (under mu).
func (a *Agent) dismiss() {
	maps.DeleteFunc(a.things, func(name string, _ *thing) bool { return a.unwanted(name) })
	maps.DeleteFunc(a.trouble, func(name, _ string) bool { return a.unwanted(name) })
}

// unwanted says that a name is that of a file which the owner excluded (under mu).
func (a *Agent) unwanted(name string) bool {
	file, ours := strings.CutPrefix(name, fileThing)
	return ours && !slices.ContainsFunc(a.settings.Files, func(f FileConfig) bool { return f.Name == file })
}

// set makes a thing's content a new version (under mu).
func (a *Agent) set(t *thing) {
	sum := sha256.Sum256(t.payload)
	t.sum = hex.EncodeToString(sum[:])
	t.succeed(a.things[t.name])
	err := a.number(t)
	a.note("encryption of "+t.name, err)
	if err == nil {
		a.things[t.name] = t
		a.signal()
	}
}

// number seals a thing under the next number, which is noted before anything
// can be written with it (under mu). A number that could not be noted is used
// all the same: a backup with a number that may be used twice is better than
// none, and the time decides between the two.
func (a *Agent) number(t *thing) error {
	a.state.Numbers[t.name]++
	a.save()
	made, number := a.p.Now().UnixMilli(), a.state.Numbers[t.name]
	sealed, err := a.cfg.Secret.Seal(a.p.Random, seal.Header{
		Name: t.name, Number: number, MadeMs: made, Node: a.self.PubKey.String(), Device: a.state.Device, Channels: t.channels,
	}, t.payload)
	if err != nil {
		return err
	}
	t.sealed, t.ref = sealed, refOf(number, made, sealed)
	return nil
}

func refOf(number uint64, madeMs int64, sealed []byte) recovery.Ref {
	sum := sha256.Sum256(sealed)
	return recovery.Ref{Number: number, MadeMs: madeMs, SHA256: hex.EncodeToString(sum[:])}
}

// overtake makes sure that the next version of a thing is above one that
// somebody else made (under mu).
func (a *Agent) overtake(name string, seen recovery.Ref) {
	if seen.Number > a.state.Numbers[name] {
		a.state.Numbers[name] = seen.Number
	}
	if t := a.things[name]; t != nil && t.ref != seen && t.ref.Number <= seen.Number {
		t.succeed(t)
		a.note("encryption of "+name, a.number(t))
		a.signal()
	}
}

// signal wakes everybody who waits for a change (under mu).
func (a *Agent) signal() {
	close(a.wake)
	a.wake = make(chan struct{})
}

// save writes the state (under mu).
func (a *Agent) save() {
	raw, err := json.MarshalIndent(a.state, "", " ")
	if err == nil {
		err = a.p.WriteFile(filepath.Join(a.cfg.DataDir, stateFile), raw)
	}
	if err != nil {
		err = fmt.Errorf("what the providers acknowledged cannot be written down: %w", err)
	}
	a.note("this machine's disk", err)
}

// reload takes up changed settings.
func (a *Agent) reload(context.Context) {
	s, err := LoadSettings(a.cfg.DataDir)
	a.report("settings", err)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.Require == a.settings.Require && s.AlarmAfterHours == a.settings.AlarmAfterHours && s.DrillEveryHours == a.settings.DrillEveryHours &&
		slices.Equal(s.AlarmCommand, a.settings.AlarmCommand) && slices.Equal(s.Files, a.settings.Files) &&
		slices.Equal(s.Providers, a.settings.Providers) && len(a.workers) == len(s.Providers) {
		return
	}
	a.settings = s
	a.employ()
	a.dismiss()
	a.signal()
}

// employ starts and ends workers as the settings say (under mu).
func (a *Agent) employ() {
	for place, w := range a.workers {
		if !slices.Contains(a.settings.Providers, w.cfg) {
			w.cancel()
			delete(a.workers, place)
		}
	}
	for _, p := range a.settings.Providers {
		if _, have := a.workers[p.Place()]; have {
			continue
		}
		ctx, cancel := context.WithCancel(a.run)
		w := &worker{
			a: a, cfg: p, place: p.Place(), cancel: cancel, versions: map[string]string{}, looked: map[string]bool{},
			retries: map[string]retry{}, problems: map[string]string{}, reread: map[string]bool{}, unreadable: map[string]bool{},
		}
		a.workers[w.place] = w
		a.wg.Go(func() { w.work(ctx) })
	}
}

// known are all channels that lnd has or remembers.
func (a *Agent) known(ctx context.Context) ([]ln.Outpoint, error) {
	b, err := a.p.Backups.ExportBackup(ctx)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(b.Channels)
	open, err := a.p.Channels.ListChannels(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range open {
		out = append(out, c.Outpoint)
	}
	pending, err := a.p.Channels.PendingChannels(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range pending {
		out = append(out, c.Outpoint)
	}
	closed, err := a.p.Channels.ClosedChannels(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range closed {
		out = append(out, c.Outpoint)
	}
	return out, nil
}

// witness is what one provider keeps of all the others (under mu).
func (a *Agent) witness(place string) recovery.Witness {
	w := recovery.Witness{Require: a.settings.Needed(), Of: len(a.settings.Providers)}
	names := map[string]bool{}
	for name := range a.things {
		names[name] = true
	}
	for _, p := range a.settings.Providers {
		s := a.state.place(p.Place())
		m := recovery.Mark{Place: p.Place(), Name: p.Name, Things: map[string]recovery.Ref{}, Receipt: s.Noted, Binding: s.Binding}
		for name, t := range s.Things {
			if name == witnessName || t.Number == 0 || a.unwanted(name) {
				continue
			}
			// What was stored before the start is not read yet, perhaps, and is a thing.
			names[name] = true
			m.Things[name] = t.Ref
			m.AtMs = max(m.AtMs, t.AtMs)
		}
		if len(m.Things) > 0 {
			w.Marks = append(w.Marks, m)
		}
	}
	delete(names, channelsName)
	w.Names = slices.Sorted(maps.Keys(names))
	return w.Merge(a.foreign).Without(place)
}
