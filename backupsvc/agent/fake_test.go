package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/backupsvc/agent"
	"github.com/sluice-lsp/sluice/backupsvc/provider"
	"github.com/sluice-lsp/sluice/backupsvc/seal"
	"github.com/sluice-lsp/sluice/backupsvc/vault"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// fakeLnd has channels, and backups that are lists of them.
type fakeLnd struct {
	mu      sync.Mutex
	open    []ln.Outpoint
	pending []ln.PendingChannel
	closed  []ln.Outpoint
	watch   map[int]func(ln.ChannelBackup)
	n       int
	// down makes every call fail.
	down bool
	// restores are the backups that it was given; fails makes it die half-way.
	restores []string
	fails    bool
	// power, if set, may end before each channel that a restore makes.
	power *power
}

func nodeKey() ln.PubKey {
	k, err := ln.ParsePubKey("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
	if err != nil {
		panic(err)
	}
	return k
}

func outpoint(n int) ln.Outpoint {
	return ln.Outpoint{TxID: ln.TxID{byte(n), byte(n >> 8), 1}, Index: 1}
}

func (f *fakeLnd) backup() ln.ChannelBackup {
	all := slices.Clone(f.open)
	for _, p := range f.pending {
		all = append(all, p.Outpoint)
	}
	f.n++
	text := "multi"
	for _, op := range all {
		text += " " + op.String()
	}
	return ln.ChannelBackup{Multi: []byte(fmt.Sprintf("%s #%d", text, f.n)), Channels: all}
}

func (f *fakeLnd) err() error {
	if f.down {
		return errkind.New(errkind.Unavailable, "lnd is away")
	}
	return nil
}

func (f *fakeLnd) SubscribeBackups(ctx context.Context, handle func(ln.ChannelBackup)) error {
	f.mu.Lock()
	if err := f.err(); err != nil {
		f.mu.Unlock()
		return err
	}
	if f.watch == nil {
		f.watch = map[int]func(ln.ChannelBackup){}
	}
	f.n++
	id := f.n
	f.watch[id] = handle
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watch, id)
	return ctx.Err()
}

func (f *fakeLnd) ExportBackup(context.Context) (ln.ChannelBackup, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.backup(), f.err()
}

func (f *fakeLnd) VerifyBackup(_ context.Context, multi []byte) ([]ln.Outpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return inside(multi)
}

func inside(multi []byte) (out []ln.Outpoint, err error) {
	words := strings.Fields(string(multi))
	if len(words) < 2 || words[0] != "multi" {
		return nil, errors.New("not lnd's")
	}
	for _, w := range words[1 : len(words)-1] {
		op, err := ln.ParseOutpoint(w)
		if err != nil {
			return nil, err
		}
		out = append(out, op)
	}
	return out, nil
}

func (f *fakeLnd) RestoreBackup(_ context.Context, multi []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops, err := inside(multi)
	if err != nil {
		return 0, err
	}
	f.restores = append(f.restores, string(multi))
	for i, op := range ops {
		if f.fails && i == len(ops)/2 || f.power != nil && !f.power.spend() {
			return i, errkind.New(errkind.Unavailable, "lnd died")
		}
		if !slices.ContainsFunc(f.pending, func(p ln.PendingChannel) bool { return p.Outpoint == op }) {
			f.pending = append(f.pending, ln.PendingChannel{Kind: ln.PendingWaitingClose, Outpoint: op, CapacitySat: 1000})
		}
	}
	return len(ops), nil
}

func (f *fakeLnd) Info(context.Context) (ln.NodeInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ln.NodeInfo{PubKey: nodeKey(), Network: "regtest"}, f.err()
}

func (f *fakeLnd) ListChannels(context.Context) (out []ln.Channel, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.open {
		out = append(out, ln.Channel{Outpoint: op})
	}
	return out, f.err()
}

func (f *fakeLnd) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.pending), f.err()
}

func (f *fakeLnd) ClosedChannels(context.Context) (out []ln.ClosedChannel, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.closed {
		out = append(out, ln.ClosedChannel{Outpoint: op, SettledSat: 7})
	}
	return out, f.err()
}

func (f *fakeLnd) ConnectedPeers(context.Context) ([]ln.PubKey, error) { return nil, nil }

// change alters the channels, and tells whoever watches.
func (f *fakeLnd) change(alter func()) {
	f.mu.Lock()
	alter()
	b := f.backup()
	watchers := slices.Collect(maps.Values(f.watch))
	f.mu.Unlock()
	for _, w := range watchers {
		w(b)
	}
}

func (f *fakeLnd) openChannel(n int) { f.change(func() { f.open = append(f.open, outpoint(n)) }) }

// errDown is what a provider answers that is not there.
func errDown() error { return errkind.New(errkind.Unavailable, "it is down") }

// fakePlace is a provider with every fault. With a signer it is a vault.
type fakePlace struct {
	mu     sync.Mutex
	signer *vault.Signer
	epoch  vault.Epoch
	acc    vault.Account
	held   map[string]vault.Held
	values map[string][]byte
	log    []vault.Entry
	// trimmed is up to where the log is not shown any more.
	trimmed uint64
	// clock is one for all the logs that the provider keeps.
	clock *atomic.Int64
	puts  int
	// wrote hears of every value that was ever stored.
	wrote func(id string, value []byte)
	// before may refuse or delay a call; lose takes a put and refuses its answer.
	before func(op, id string) error
	lose   bool
	// hang delays every call.
	hang time.Duration
	// serve may change what a get answers.
	serve func(id string, o provider.Object) (provider.Object, error)
}

func identity() vault.Identity { return vault.Identity("node:" + nodeKey().String()) }

func newVault(b byte) *fakePlace {
	s, err := vault.NewSigner(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		panic(err)
	}
	p := newPlain()
	p.signer, p.acc = s, vault.NewAccount(s.Key(), identity())
	return p
}

func newPlain() *fakePlace {
	return &fakePlace{held: map[string]vault.Held{}, values: map[string][]byte{}, acc: vault.NewAccount(vault.ServerKey{}, identity()), clock: new(atomic.Int64)}
}

// snapshot is a copy of all that a provider has, to go back to.
func (p *fakePlace) snapshot() *fakePlace {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &fakePlace{
		signer: p.signer, epoch: p.epoch, acc: p.acc, held: maps.Clone(p.held), values: maps.Clone(p.values), log: slices.Clone(p.log), clock: p.clock,
	}
}

func (p *fakePlace) goBack(to *fakePlace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acc, p.held, p.values, p.log = to.acc, maps.Clone(to.held), maps.Clone(to.values), slices.Clone(to.log)
}

func (p *fakePlace) empty() {
	p.goBack(&fakePlace{acc: vault.NewAccount(p.acc0(), identity())})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held, p.values = map[string]vault.Held{}, map[string][]byte{}
}

func (p *fakePlace) acc0() vault.ServerKey {
	if p.signer == nil {
		return vault.ServerKey{}
	}
	return p.signer.Key()
}

func (p *fakePlace) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *fakePlace) delay() {
	p.mu.Lock()
	d := p.hang
	p.mu.Unlock()
	time.Sleep(d)
}

func (p *fakePlace) now() time.Time {
	return time.UnixMilli(1_700_000_000_000 + p.clock.Add(1))
}

func (p *fakePlace) Get(_ context.Context, id string) (provider.Object, error) {
	p.delay()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		if err := p.before("get", id); err != nil {
			return provider.Object{}, err
		}
	}
	h, ok := p.held[id]
	o, err := provider.Object{Value: p.values[id], Version: strconv.FormatInt(h.Version, 10)}, error(nil)
	if !ok {
		o, err = provider.Object{}, errkind.New(errkind.NotFound, "nothing")
	}
	if p.serve != nil {
		return p.serve(id, o)
	}
	return o, err
}

func (p *fakePlace) Put(_ context.Context, id, known string, value []byte) (provider.Stored, error) {
	p.delay()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		if err := p.before("put", id); err != nil {
			return provider.Stored{}, err
		}
	}
	return p.put(id, known, value)
}

// put is Put (under mu).
func (p *fakePlace) put(id, known string, value []byte) (provider.Stored, error) {
	version := int64(0)
	if known != provider.Absent {
		version, _ = strconv.ParseInt(known, 10, 64)
	}
	quota := vault.Quota{Bytes: 1 << 30, Objects: 100, ObjectBytes: 1 << 28, DayWrites: 1 << 40, DayBytes: 1 << 40, HistoryBytes: 1}
	plan, err := vault.Decide(p.acc, p.held, vault.Write{Store: provider.Store, Puts: []vault.Item{{Key: id, Version: version, Value: value}}}, quota, p.now())
	if err != nil {
		return provider.Stored{}, err
	}
	p.puts++
	if p.wrote != nil {
		p.wrote(id, value)
	}
	c := plan.Changes[0]
	p.acc, p.log, p.values[id] = plan.Account, append(p.log, c.Entry), bytes.Clone(value)
	p.held[id] = vault.Held{Version: c.Entry.Version, Size: c.Entry.Size, Seq: c.Entry.Seq, Created: c.Created}
	if p.lose {
		return provider.Stored{}, errDown()
	}
	out := provider.Stored{Version: strconv.FormatInt(c.Entry.Version, 10)}
	if p.signer != nil {
		r, err := p.signer.Receipt(plan, p.epoch, p.now())
		if err != nil {
			return provider.Stored{}, err
		}
		out.Receipt = &r
	}
	return out, nil
}

func (p *fakePlace) Close() error { return nil }

// attestedPlace is a fakePlace with a signer.
type attestedPlace struct{ *fakePlace }

func (p attestedPlace) Prove(_ context.Context, after uint64) (provider.Proof, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.before != nil {
		if err := p.before("prove", ""); err != nil {
			return provider.Proof{}, err
		}
	}
	head, err := p.signer.Head(p.acc, p.epoch, p.now(), make([]byte, vault.NonceSize))
	out := provider.Proof{Shown: head, Binding: "bound"}
	if after >= p.trimmed && after < uint64(len(p.log)) {
		out.Entries = slices.Clone(p.log[after:])
	}
	return out, err
}

func (p attestedPlace) Binding(context.Context) (vault.ServerKey, string, error) {
	return p.signer.Key(), "bound", nil
}

// lookEvery is how often a rig looks at its files, and at its settings.
const lookEvery = time.Minute

// rig is a wallet with its providers.
type rig struct {
	t      *testing.T
	lnd    *fakeLnd
	places map[string]*fakePlace
	dir    string
	secret seal.Secret
	extras map[string]agent.Read
	read   func(path string) ([]byte, error)
	write  func(string, []byte) error
	alarm  func(ctx context.Context, command []string, state, message string) error
	skew   atomic.Int64
}

// newRig makes a wallet with providers, each version wanted at require of them.
func newRig(t *testing.T, require int, places map[string]*fakePlace) *rig {
	t.Helper()
	r := &rig{t: t, lnd: &fakeLnd{}, places: places, dir: t.TempDir(), secret: testSecret(t)}
	r.configure(require)
	return r
}

func sealOf() (seal.Secret, error) { return seal.OfSeed("regtest", sha256.Sum256([]byte("seed"))) }

func testSecret(t *testing.T) seal.Secret {
	t.Helper()
	s, err := seal.OfSeed("regtest", sha256.Sum256([]byte("seed")))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *rig) configure(need int) {
	s := agent.DefaultSettings()
	s.Require = need
	for _, name := range slices.Sorted(maps.Keys(r.places)) {
		s.Providers = append(s.Providers, agent.ProviderConfig{Name: name, Kind: agent.KindDir, Address: "/" + name})
	}
	require.NoError(r.t, agent.SaveSettings(r.dir, s))
}

func (r *rig) agent() *agent.Agent {
	r.t.Helper()
	cfg := agent.DefaultConfig()
	cfg.DataDir, cfg.Secret, cfg.Poll = r.dir, r.secret, lookEvery
	a, err := agent.New(cfg, agent.Ports{
		Backups: r.lnd, Channels: r.lnd, Extras: r.extras, ReadFile: r.read, WriteFile: r.write, Alarm: r.alarm, Log: zap.NewNop(),
		Now: func() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) },
		Open: func(p agent.ProviderConfig, _ ln.NodeInfo) (provider.Place, error) {
			place := r.places[p.Name]
			if place.signer != nil {
				return attestedPlace{place}, nil
			}
			return place, nil
		},
	})
	require.NoError(r.t, err)
	return a
}

// start runs an agent until stop.
func (r *rig) start() (a *agent.Agent, stop func()) {
	a = r.agent()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	synctest.Wait()
	return a, func() { cancel(); <-done }
}

// settle lets the wallet's clock run until it has nothing more to do.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// newMachine is the same wallet after its disk was lost.
func (r *rig) newMachine() *rig {
	o := &rig{t: r.t, lnd: &fakeLnd{}, places: r.places, dir: r.t.TempDir(), secret: r.secret}
	o.configure(2)
	return o
}

func (r *rig) stored(place string) (seal.Header, []byte) {
	r.t.Helper()
	id, err := r.secret.ID("channels")
	require.NoError(r.t, err)
	p := r.places[place]
	p.mu.Lock()
	defer p.mu.Unlock()
	h, payload, err := r.secret.Open("channels", p.values[id])
	require.NoError(r.t, err)
	return h, payload
}
