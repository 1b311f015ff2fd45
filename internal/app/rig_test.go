package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	"github.com/sluice-lsp/sluice/lsp/api/lspsv1"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/peerrpc/peerrpctest"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
	hookstore "github.com/sluice-lsp/sluice/lsp/webhooks/store"
	lwsapi "github.com/sluice-lsp/sluice/lws/api"
	"github.com/sluice-lsp/sluice/lws/api/lwsv1"
	lwsstore "github.com/sluice-lsp/sluice/lws/store"
)

// job is one kind of payment.
type job struct {
	name         string
	receiverPays bool
	amountSat    int64
	// parts is how many channels the payer has, none of which carries more than
	// its share.
	parts int
	// channelSat is a channel to the wallet that exists before.
	channelSat int64
	// confs, if the wallet declines zero-conf.
	confs uint32
	// opens says that the payment needs a channel.
	opens bool
	// holdFor is how long the wallet wants to be waited for.
	holdFor time.Duration
	// lsps2: the wallet is an LSPS2 client, which takes less than its onions ask.
	lsps2 bool
	// trust: the wallet trusts the gateway with the funding until it has claimed.
	trust bool
}

func jobs() []job {
	// Tests name some by their place.
	return append([]job{
		{name: "payer-pays", amountSat: 100_000, parts: 1, opens: true},
		{name: "receiver-pays", receiverPays: true, amountSat: 100_000, parts: 1, opens: true},
		{name: "payer-pays-in-two-parts", amountSat: 600_000, parts: 2, opens: true},
		{name: "receiver-pays-in-two-parts", receiverPays: true, amountSat: 600_000, parts: 2, opens: true},
		{name: "payer-pays-room", amountSat: 100_000, parts: 1, channelSat: 500_000},
		{name: "receiver-pays-room", receiverPays: true, amountSat: 100_000, parts: 1, channelSat: 500_000},
		{name: "payer-pays-second-channel", amountSat: 400_000, parts: 1, channelSat: 200_000, opens: true},
		{name: "receiver-pays-second-channel", receiverPays: true, amountSat: 400_000, parts: 1, channelSat: 200_000, opens: true},
		{name: "receiver-pays-confirmed", receiverPays: true, amountSat: 100_000, parts: 1, confs: 2, opens: true},
	}, lspsJobs()...)
}

// rig is a payer, a gateway and a wallet on the fake, and a sluiced that a
// supervisor starts again whenever it died.
type rig struct {
	t      *testing.T
	rng    *rand.Rand
	job    job
	w      *lndfake.World
	dir    string
	log    *zap.Logger
	store  store.Config
	faults storetest.Faults
	// step is the pause between two looks at something awaited.
	step time.Duration
	// realTime: the clock is the machine's, and not a bubble's.
	realTime  bool
	configure func(*Config)

	payer, gateway, wallet *lndfake.Node
	conns                  map[*lndfake.Node]*grpc.ClientConn
	walletKey              ln.PubKey
	walletClient           *lnd.Client
	lsps                   *peerrpctest.Client
	before                 map[*lndfake.Node]int64
	channelsBefore         int

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	// kill ends the process.
	kill    chan struct{}
	service atomic.Pointer[services]
	starts  atomic.Int64
	// closed: a channel was closed, which costs more than opens do.
	closed bool
	// refusal is what the wallet answers to a channel, nothing if it accepts.
	refusal atomic.Pointer[string]
	// beforeStart runs once, before sluiced is started again (under mu).
	beforeStart func()
	// restore puts the copy that was made in the database's place.
	restore func() error
	// restored: the database is known to be an older copy. puts counts those.
	restored atomic.Bool
	puts     atomic.Int64
	// silent: nothing beside the database says so, as after a restore of the whole disk.
	// told is what lnd told of it instead.
	silent bool
	told   atomic.Pointer[string]
	// skew is how far sluiced's clock is ahead, in nanoseconds.
	skew atomic.Int64
}

// services are a process's APIs, called without a wire in between.
type services struct {
	api      *lspapi.Service
	channels lspv1.ChannelsServiceServer
	operator lspv1.OperatorServiceServer
	shop     lspv1.OrdersServiceServer
	orders   lspv1.OrdersOperatorServiceServer
	lsps     lspsv1.LspsOperatorServiceServer
	holds    lwsv1.HoldsServiceServer
	waiting  lwsv1.HoldsOperatorServiceServer
}

func (s *services) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch impl := impl.(type) {
	case lspv1.ChannelsServiceServer:
		s.channels = impl
	case lspv1.OperatorServiceServer:
		s.operator = impl
	case lspv1.OrdersServiceServer:
		s.shop = impl
	case lspv1.OrdersOperatorServiceServer:
		s.orders = impl
	case lspsv1.LspsOperatorServiceServer:
		s.lsps = impl
	case lwsv1.HoldsServiceServer:
		s.holds = impl
	case lwsv1.HoldsOperatorServiceServer:
		s.waiting = impl
	}
}

// template is a migrated SQLite file, made once: migrations are most of the
// cost of a fresh database.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "sluice-template-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg := DefaultConfig()
	cfg.DataDir = dir
	if err := Migrate(context.Background(), cfg, zap.NewNop()); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, fileDatabase))
})

// memoryDir is a directory in memory where there is one: processes die here,
// not machines, and waiting for the disk is most of a run.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sluice-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

type rigConfig struct {
	seed    uint64
	job     job
	latency lndfake.Latency
	// postgres runs in real time: the clock of a bubble stands still while a
	// connection waits for the server.
	postgres bool
	// forgets has a node that dies forget what it owes its peer's signature; see lndfake.Config.
	forgets bool
	// configure changes sluiced's configuration.
	configure func(*Config)
}

func newRig(t *testing.T, c rigConfig) *rig {
	t.Helper()
	r := &rig{
		t: t, rng: rand.New(rand.NewPCG(c.seed, 0xc0ffee)), job: c.job, dir: memoryDir(t), conns: make(map[*lndfake.Node]*grpc.ClientConn),
		w: lndfake.New(lndfake.Config{Seed: c.seed, Latency: c.latency, ForgetsSignatures: c.forgets}), step: 500 * time.Millisecond,
		log: zap.NewNop(), kill: make(chan struct{}), before: make(map[*lndfake.Node]int64), configure: c.configure,
	}
	r.trace()
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if c.postgres {
		r.step, r.realTime = 20*time.Millisecond, true
		r.store = storetest.Postgres(t)
	} else {
		raw, err := template()
		require.NoError(t, err)
		r.store = store.Config{Engine: store.SQLite, Path: filepath.Join(r.dir, fileDatabase)}
		require.NoError(t, os.WriteFile(r.store.Path, raw, 0o600))
	}
	r.store.Hooks, r.store.Log = r.faults.Hooks(), r.log
	add := func(name string, cfg lndfake.NodeConfig) *lndfake.Node {
		n, err := r.w.AddNode(name, cfg)
		require.NoError(t, err)
		r.conns[n], err = n.Dial()
		require.NoError(t, err)
		return n
	}
	r.payer = add("payer", lndfake.NodeConfig{})
	r.gateway = add("gateway", lndfake.NodeConfig{RequireInterceptor: true})
	wallet := lndfake.NodeConfig{}
	if c.job.lsps2 {
		wallet.TakesExtraFeeMsat = 100_000_000
	}
	r.wallet = add("wallet", wallet)
	var err error
	r.walletKey, err = ln.ParsePubKey(r.wallet.PubKey())
	require.NoError(t, err)
	for range 4 {
		_, err := r.payer.Fund(5_000_000)
		require.NoError(t, err)
		_, err = r.gateway.Fund(2_000_000)
		require.NoError(t, err)
	}
	perPart := int64(3_000_000)
	if c.job.parts > 1 {
		perPart = c.job.amountSat*3/4 + 20_000
	}
	ours := int64(0)
	if c.forgets {
		ours = perPart / 50 // beyond its reserve, or the gateway can't make the channel sign
	}
	for range c.job.parts {
		_, err := r.w.OpenChannel(r.payer, r.gateway, perPart+ours, ours)
		require.NoError(t, err)
	}
	if c.job.channelSat > 0 {
		r.privateChannel()
	}
	r.w.Connect(r.gateway, r.wallet)
	for _, n := range r.nodes() {
		r.before[n] = r.w.Wealth(n).TotalMsat()
	}
	r.walletClient = r.dial(r.wallet)
	// What a wallet's agent does: accept the gateway's channels.
	r.running.Go(func() {
		for r.ctx.Err() == nil {
			_ = r.walletClient.RunAcceptor(r.ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
				if words := r.refusal.Load(); words != nil && *words != "" {
					return ln.AcceptVerdict{Refusal: *words}
				}
				return ln.AcceptVerdict{Accept: true, ZeroConf: p.WantsZeroConf}
			})
			r.pause(20 * time.Millisecond)
		}
	})
	gatewayKey, err := ln.ParsePubKey(r.gateway.PubKey())
	require.NoError(t, err)
	r.lsps = peerrpctest.New(r.walletClient, gatewayKey)
	r.running.Go(func() { r.lsps.Run(r.ctx) })
	r.running.Go(r.supervise)
	t.Cleanup(r.close)
	return r
}

// privateChannel is one that an earlier payment opened: private, like all of
// the wallet's.
func (r *rig) privateChannel() {
	r.t.Helper()
	r.privateChannelBeside(0)
}

// privateChannelBeside is one more than the wallet has.
func (r *rig) privateChannelBeside(others int) {
	r.t.Helper()
	r.w.Connect(r.gateway, r.wallet)
	_, err := r.ln(r.gateway).OpenChannelSync(r.ctx, &lnrpc.OpenChannelRequest{
		NodePubkey: r.walletKey[:], LocalFundingAmount: r.job.channelSat, Private: true, CommitmentType: lnrpc.CommitmentType_ANCHORS,
		SatPerVbyte: 2,
	})
	require.NoError(r.t, err)
	r.w.Mine(6)
	for range 500 {
		list, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{ActiveOnly: true})
		require.NoError(r.t, err)
		if len(list.Channels) == others+1 {
			r.channelsBefore = others + 1
			return
		}
		r.pause(r.step)
	}
	r.t.Fatal("the wallet's first channel does not become active")
}

// trace logs everything when SLUICE_TRACE is set.
func (r *rig) trace() {
	if os.Getenv("SLUICE_TRACE") == "" {
		return
	}
	began := time.Now()
	var mu sync.Mutex
	say := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%9.3f %s\n", time.Since(began).Seconds(), s)
	}
	r.w.SetTrace(say)
	encoder := zap.NewDevelopmentEncoderConfig()
	encoder.TimeKey = ""
	r.log = zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoder), zapcore.AddSync(writer(say)), zapcore.DebugLevel))
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p[:len(p)-1]))
	return len(p), nil
}

func (r *rig) close() {
	r.cancel()
	r.running.Wait()
	_ = r.walletClient.Close()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.w.Close()
}

func (r *rig) nodes() []*lndfake.Node { return []*lndfake.Node{r.payer, r.gateway, r.wallet} }

func (r *rig) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

func (r *rig) dial(n *lndfake.Node) *lnd.Client {
	c, err := lnd.Dial(lnd.Config{
		Address: "passthrough:///" + n.Name(), Network: "regtest", DialOptions: n.DialOptions(), Log: r.log,
	})
	require.NoError(r.t, err)
	return c
}

// supervise is systemd: it starts sluiced again whenever it died.
func (r *rig) supervise() {
	for r.ctx.Err() == nil {
		err := r.process()
		r.log.Info("--- the process is gone", zap.Error(err))
		if r.faults.Crashed() {
			r.faults.Restart()
		}
		r.mu.Lock()
		if r.beforeStart != nil {
			r.beforeStart()
			r.beforeStart = nil
		}
		r.mu.Unlock()
		r.pause(100 * time.Millisecond)
	}
}

// process is the life of one sluiced, wired as in Run.
func (r *rig) process() error {
	r.starts.Add(1)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	client := r.dial(r.gateway)
	defer func() { _ = client.Close() }()
	r.mu.Lock()
	r.kill = make(chan struct{})
	kill := r.kill
	r.mu.Unlock()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-kill:
		case <-ctx.Done():
			return
		}
		// A dead process says nothing more to lnd.
		_ = client.Close()
		cancel()
	})
	db, err := store.Open(ctx, r.store)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Lnd.Network = r.dir, "regtest"
	// Runs last for weeks: each look at lnd's channels costs as much as on one of them.
	cfg.LSP.ReconnectAfter = config.Duration(10 * time.Minute)
	if r.job.lsps2 {
		// An agreement whose answer was lost lasts as long as its offer.
		cfg.LSP.OfferFor = config.Duration(10 * time.Minute)
	}
	if r.job.trust {
		cfg.LSP.Trust = string(lsp.TrustAlways)
	}
	if r.configure != nil {
		r.configure(&cfg)
	}
	d := &Daemon{
		cfg: cfg, roles: Roles{Interceptor: true, LSP: true}, log: r.log, now: func() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) },
		registry: prometheus.NewRegistry(), db: db, lnd: client, lsp: cfg.lspAPI(), lws: lwsapi.New(),
	}
	if r.restored.Load() && !r.silent {
		d.restored = Roles{Interceptor: true, LSP: true}
	}
	if r.store.Engine == store.Postgres {
		if err := migrate(ctx, db); err != nil {
			return err
		}
	}
	if err := client.WaitReady(ctx); err != nil {
		return err
	}
	if d.info, err = client.Info(ctx); err != nil {
		return err
	}
	if err := d.askLnd(ctx); err != nil {
		return err
	}
	if why := d.restoredWhy; why != "" {
		r.told.Store(&why)
		if r.puts.Load() == 0 {
			r.t.Errorf("lnd is said to know more than a database that nobody put back: %s", why)
		}
	}
	served := &services{api: d.lsp}
	d.lsp.RegisterGRPC(served)
	d.lws.RegisterGRPC(served)
	r.service.Store(served)
	defer r.service.Store(nil)
	if err := d.newInterceptor(); err != nil {
		return err
	}
	group, both := errgroup.WithContext(ctx)
	group.Go(func() error { return d.hold.Run(both) })
	group.Go(func() error { return d.serve(both) })
	return group.Wait()
}

// crashAt plans the death of the process at a commit.
func (r *rig) crashAt(n int64, p storetest.Point) {
	crashed := r.faults.CrashAt(n, p)
	r.running.Go(func() {
		select {
		case <-crashed:
			r.killProcess()
		case <-r.ctx.Done():
		}
	})
}

// calm forgets a crash that was planned and did not come.
func (r *rig) calm() {
	r.faults.Restart()
	r.faults.LoseAnswers(0, 0)
	r.faults.Set(storetest.Healthy)
	r.up()
}

// up waits until sluiced serves.
func (r *rig) up() {
	r.t.Helper()
	var last error
	for range 500 {
		if s := r.service.Load(); s != nil {
			if _, last = s.operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{}); last == nil {
				return
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("sluiced does not come up, after %d starts: %v", r.starts.Load(), last)
}

// killProcess is kill -9 at any moment.
func (r *rig) killProcess() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.kill:
	default:
		close(r.kill)
	}
}

var errAway = errors.New("sluiced is away")

// migrate is what openStore does after store.Open.
func migrate(ctx context.Context, db *store.DB) error {
	for _, f := range []func(context.Context, *store.DB) error{
		fsm.Migrate, ledger.Migrate, payhash.Migrate, interceptorstore.Migrate, lspstore.Migrate, hookstore.Migrate, lwsstore.Migrate,
	} {
		if err := f(ctx, db); err != nil {
			return err
		}
	}
	return nil
}

// gatewayDies kills the gateway's lnd, which is back soon.
func (r *rig) gatewayDies() {
	r.gateway.Kill()
	r.running.Go(func() {
		r.pause(700 * time.Millisecond)
		_ = r.gateway.Start()
	})
}
