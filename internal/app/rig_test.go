package app

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
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
	// lsps2: the wallet is an LSPS2 client, which takes less than its onions ask.
	lsps2 bool
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
	step      time.Duration
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
	// restored: the database is known to be an older copy. puts counts those.
	restored atomic.Bool
	puts     atomic.Int64
}

// services are a process's APIs, called without a wire in between.
type services struct {
	channels lspv1.ChannelsServiceServer
	operator lspv1.OperatorServiceServer
	shop     lspv1.OrdersServiceServer
	orders   lspv1.OrdersOperatorServiceServer
	lsps     lspsv1.LspsOperatorServiceServer
	holds    lwsv1.HoldsServiceServer
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
	// configure changes sluiced's configuration.
	configure func(*Config)
}

func newRig(t *testing.T, c rigConfig) *rig {
	t.Helper()
	r := &rig{
		t: t, rng: rand.New(rand.NewPCG(c.seed, 0xc0ffee)), job: c.job, dir: memoryDir(t), conns: make(map[*lndfake.Node]*grpc.ClientConn),
		w: lndfake.New(lndfake.Config{Seed: c.seed, Latency: c.latency}), step: 500 * time.Millisecond,
		log: zap.NewNop(), kill: make(chan struct{}), before: make(map[*lndfake.Node]int64), configure: c.configure,
	}
	r.trace()
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if c.postgres {
		r.step = 20 * time.Millisecond
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
	for range c.job.parts {
		_, err := r.w.OpenChannel(r.payer, r.gateway, perPart, 0)
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
		if len(list.Channels) == 1 {
			r.channelsBefore = 1
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
	if r.job.lsps2 {
		// An agreement whose answer was lost lasts as long as its offer.
		cfg.LSP.OfferFor = config.Duration(10 * time.Minute)
	}
	if r.configure != nil {
		r.configure(&cfg)
	}
	d := &Daemon{
		cfg: cfg, roles: Roles{Interceptor: true, LSP: true}, log: r.log, now: time.Now,
		registry: prometheus.NewRegistry(), db: db, lnd: client, lsp: lspapi.New(), lws: lwsapi.New(), restored: Roles{Interceptor: r.restored.Load(), LSP: r.restored.Load()},
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
	served := &services{}
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
	r.faults.LoseAnswer(-r.faults.Commits())
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

func (r *rig) asWallet() context.Context { return asWallet(r, r.walletKey) }

func asWallet(r *rig, key ln.PubKey) context.Context {
	return auth.WithIdentity(r.ctx, auth.Identity{Kind: auth.KindWallet, NodeKey: key, Services: []string{lspapi.Name, lwsapi.Name}})
}

func (r *rig) ln(n *lndfake.Node) lnrpc.LightningClient { return lnrpc.NewLightningClient(r.conns[n]) }

// agreement is an invoice that the wallet shows to the payer.
type agreement struct {
	id     string
	hash   ln.Hash
	bolt11 string
	// The wallet gets amount; the payer's fee on top of it, or the fee taken off.
	walletMsat, payerMsat int64
	opens                 bool
}

// ask gets an invoice as a wallet's agent does: with a new hash for each try.
func (r *rig) ask() (agreement, error) {
	if r.job.lsps2 {
		return r.askLSPS()
	}
	s := r.service.Load()
	if s == nil {
		return agreement{}, errAway
	}
	menu, err := s.channels.GetMenu(r.asWallet(), &lspv1.GetMenuRequest{})
	if err != nil {
		return agreement{}, err
	}
	if len(menu.OpeningFeeParamsMenu) == 0 {
		return agreement{}, errors.New(menu.Refusal)
	}
	return r.askFor(s, menu.OpeningFeeParamsMenu[0])
}

// askFor gets an invoice under an item of the menu; nil is none.
func (r *rig) askFor(s *services, params *lspv1.OpeningFeeParams) (agreement, error) {
	ctx := r.asWallet()
	wish := &lspv1.ChannelWish{ZeroConf: r.job.confs == 0, MinConfirmations: r.job.confs, AllowAnotherChannel: true}
	amount := r.job.amountSat * 1000
	var preimage ln.Preimage
	for i := range 4 {
		binary.BigEndian.PutUint64(preimage[8*i:], r.rng.Uint64())
	}
	hash := preimage.Hash()
	if r.job.receiverPays {
		fee := int64(0)
		if r.job.opens {
			fee = max(int64(params.MinFeeMsat), (amount*int64(params.ProportionalPpm)+999_999)/1_000_000)
		}
		own, err := r.ln(r.wallet).AddInvoice(ctx, &lnrpc.Invoice{RPreimage: preimage.Bytes(), ValueMsat: amount - fee, Expiry: 1200 + 3600*int64(r.job.confs), CltvExpiry: 80})
		if err != nil {
			return agreement{}, err
		}
		w, err := s.channels.Wrap(ctx, &lspv1.WrapRequest{
			Bolt11: own.PaymentRequest, AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
		})
		if err != nil {
			return agreement{}, err
		}
		return agreement{id: w.PaymentId, hash: hash, bolt11: w.Bolt11, walletMsat: amount - fee, payerMsat: amount, opens: r.job.opens}, nil
	}
	a, err := s.channels.Negotiate(ctx, &lspv1.NegotiateRequest{
		PaymentHash: hash[:], AmountMsat: uint64(amount), OpeningFeeParams: params, Channel: wish,
		FinalCltvDeltaBlocks: 80, InvoiceExpiresMs: time.Now().Add(10 * time.Minute).UnixMilli(),
	})
	if err != nil {
		return agreement{}, err
	}
	scid, err := ln.ParseSCID(a.JitScid)
	if err != nil {
		return agreement{}, err
	}
	own, err := r.ln(r.wallet).AddInvoice(ctx, &lnrpc.Invoice{
		RPreimage: preimage.Bytes(), ValueMsat: amount, Expiry: 600, CltvExpiry: 80,
		RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: r.gateway.PubKey(), ChanId: uint64(scid), FeeBaseMsat: a.HintBaseFeeMsat,
			FeeProportionalMillionths: a.HintFeePpm, CltvExpiryDelta: a.HintCltvDeltaBlocks,
		}}}},
	})
	if err != nil {
		return agreement{}, err
	}
	return agreement{
		id: a.PaymentId, hash: hash, bolt11: own.PaymentRequest, walletMsat: amount,
		payerMsat: amount + int64(a.FeeMsat), opens: a.OpensChannel,
	}, nil
}

// agree asks until it has an invoice.
func (r *rig) agree() agreement {
	r.t.Helper()
	var last error
	for range 200 {
		a, err := r.ask()
		if err == nil {
			return a
		}
		last = err
		r.pause(r.step)
	}
	r.t.Fatalf("no agreement: %v", last)
	return agreement{}
}

// openBooks lets the books begin with what lnd holds.
func (r *rig) openBooks() { r.reconcile() }

// reconcile asks as a person does: again, while sluiced is away or cannot reach
// an lnd that has just been killed.
func (r *rig) reconcile() *lspv1.ReconcileResponse {
	r.t.Helper()
	var books *lspv1.ReconcileResponse
	var last error
	for range 200 {
		if s := r.service.Load(); s != nil {
			if books, last = s.operator.Reconcile(r.ctx, &lspv1.ReconcileRequest{}); last == nil {
				return books
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("the books cannot be reconciled: %v", last)
	return nil
}

// pay is the payer: it tries for the time-out that a phone would.
func (r *rig) pay(bolt11 string) <-chan *lnrpc.Payment {
	r.t.Helper()
	out := make(chan *lnrpc.Payment, 1)
	stream, err := routerrpc.NewRouterClient(r.conns[r.payer]).SendPaymentV2(r.ctx, &routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 120, NoInflightUpdates: true, FeeLimitMsat: 100_000_000, MaxParts: 4,
	})
	require.NoError(r.t, err)
	r.running.Go(func() {
		m, err := stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			return
		}
		out <- m
	})
	return out
}

// outcome waits for the payer's result, mining now and then: somebody always
// mines, and what waits for confirmations needs it.
func (r *rig) outcome(paid <-chan *lnrpc.Payment) *lnrpc.Payment {
	r.t.Helper()
	for i := range 2000 {
		select {
		case m := <-paid:
			return m
		case <-time.After(r.step):
		}
		if i%40 == 39 || (r.job.confs > 0 && i%4 == 3) {
			r.w.Mine(1)
		}
	}
	r.t.Fatalf("the payer is neither paid nor refunded; in flight: payer %d, gateway %d msat",
		r.w.Wealth(r.payer).InFlightMsat, r.w.Wealth(r.gateway).InFlightMsat)
	return nil
}

// await waits until the payment has ended in sluiced's own eyes. One that was
// refunded ends with its invoice, which ask lets live for hours where
// confirmations are awaited.
func (r *rig) await(id string) {
	r.t.Helper()
	for until := time.Now().Add(time.Hour * time.Duration(1+r.job.confs)); time.Now().Before(until); {
		if s := r.service.Load(); s != nil {
			p, err := s.channels.GetPayment(r.asWallet(), &lspv1.GetPaymentRequest{PaymentId: id})
			if err == nil && p.Payment.Terminal {
				return
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("payment %s does not end\n%s", id, r.stories())
}

// settle brings everything back and waits until nothing moves any more.
func (r *rig) settle() {
	r.t.Helper()
	r.w.OnRPC(nil)
	var why string
	for i := range 3000 {
		for _, n := range r.nodes() {
			require.NoError(r.t, n.Start())
		}
		r.w.Connect(r.payer, r.gateway)
		r.w.Connect(r.gateway, r.wallet)
		if why = r.moving(); why == "" {
			return
		}
		r.pause(r.step)
		if i%20 == 19 {
			r.w.Mine(1)
		}
	}
	r.t.Fatalf("it does not come to rest: %s\n%s", why, r.stories())
}

// moving names something that is not at rest.
func (r *rig) moving() string {
	for _, n := range r.nodes() {
		if v := r.w.Wealth(n).InFlightMsat; v != 0 {
			return fmt.Sprintf("%s has %d msat in flight", n.Name(), v)
		}
	}
	if len(r.w.Mempool()) > 0 {
		return "transactions are unconfirmed"
	}
	s := r.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{OpenOnly: true})
	if err != nil {
		return err.Error()
	}
	for _, p := range payments.Payments {
		return fmt.Sprintf("payment %s is %s", p.PaymentId, p.State)
	}
	opens, err := s.operator.ListOpenings(r.ctx, &lspv1.ListOpeningsRequest{OpenOnly: true})
	if err != nil {
		return err.Error()
	}
	for _, o := range opens.Openings {
		return fmt.Sprintf("opening %s is %s (%s)", o.OpeningId, o.State, o.Reason)
	}
	if r.restored.Load() {
		return ""
	}
	// Coins are released after the state that lets go of them is stored. (An older
	// copy may not know the open whose they are; then they stay leased for a day.)
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	if err != nil {
		return err.Error()
	}
	for _, l := range leases.LockedUtxos {
		return fmt.Sprintf("coin %s is leased", l.Outpoint)
	}
	return ""
}

// stories is everything that happened, for people.
func (r *rig) stories() string {
	s := r.service.Load()
	if s == nil {
		return "sluiced is away"
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{})
	if err != nil {
		return err.Error()
	}
	out := ""
	for _, p := range payments.Payments {
		shown, err := s.operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: p.PaymentId})
		if err != nil {
			return err.Error()
		}
		out += fmt.Sprintf("payment %s: %s (%s)\n", p.PaymentId, p.State, p.Reason)
		for _, e := range shown.Story {
			out += fmt.Sprintf("  %s\n", e)
		}
	}
	return out
}

// check holds the run against what must be true after every day, good or bad.
func (r *rig) check(a agreement, m *lnrpc.Payment) {
	t := r.t
	t.Helper()
	s := r.service.Load()
	require.NotNil(t, s)
	require.NoError(t, r.w.Err())
	paid := m.Status == lnrpc.Payment_SUCCEEDED
	spent := r.before[r.payer] - r.w.Wealth(r.payer).TotalMsat()
	got := r.w.Wealth(r.wallet).TotalMsat() - r.before[r.wallet]
	if r.closed && got == 330_000 {
		got = 0 // its anchor on chain, which the gateway paid
	}
	if paid {
		require.Equal(t, m.ValueMsat+m.FeeMsat, spent, "what the payer spent\n%s", r.stories())
		require.Equal(t, a.walletMsat, got, "what the wallet got\n%s", r.stories())
		require.GreaterOrEqual(t, spent, a.payerMsat, "the payer owes the fee agreed")
		// The hint's rate is rounded up to a part per million.
		require.LessOrEqual(t, spent, a.payerMsat+a.walletMsat/1_000_000+1, "the payer owes no more than the fee agreed")
	} else {
		require.Zero(t, spent, "a payer who was refunded lost money\n%s", r.stories())
		require.Zero(t, got, "a payer who was refunded paid all the same\n%s", r.stories())
	}
	payments, err := s.operator.FindPayments(r.ctx, &lspv1.FindPaymentsRequest{Limit: 500})
	require.NoError(t, err)
	for _, p := range payments.Payments {
		done := p.State == "paid" || p.State == "settled"
		require.Equal(t, p.PaymentId == a.id && paid, done, "payment %s is %s, the payer saw %s\n%s", p.PaymentId, p.State, m.Status, r.stories())
		if !done {
			require.NotEmpty(t, p.Reason, "payment %s ended %s without a reason", p.PaymentId, p.State)
		}
		shown, err := s.operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: p.PaymentId})
		require.NoError(t, err)
		channels := 0
		for _, o := range shown.Openings {
			require.True(t, o.Terminal)
			if o.State == "buried" {
				channels++
			} else {
				require.NotEmpty(t, o.Reason, "opening %s ended %s without a reason", o.OpeningId, o.State)
			}
		}
		require.LessOrEqual(t, channels, 1, "channels for one payment\n%s", r.stories())
	}
	require.LessOrEqual(t, r.channels(), r.channelsBefore+1, "channels of the wallet\n%s", r.stories())
	leases, err := walletrpc.NewWalletKitClient(r.conns[r.gateway]).ListLeases(r.ctx, &walletrpc.ListLeasesRequest{})
	require.NoError(t, err)
	require.Empty(t, leases.LockedUtxos, "leases left over\n%s", r.stories())
	books := r.reconcile()
	require.True(t, books.Balanced, "the books: %s\n%s", books, r.stories())
	for _, l := range books.Lines {
		if l.Account == "trial balance" {
			require.Zero(t, l.BooksMsat, "trial balance")
		}
	}
	status, err := s.operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, spent-got, status.FeesEarnedMsat, "fees in the books")
	earned := r.w.Wealth(r.gateway).TotalMsat() - r.before[r.gateway]
	if r.closed {
		require.Less(t, earned, spent-got-int64(status.ChainFeesMsat))
		return
	}
	require.Equal(t, spent-got-int64(status.ChainFeesMsat), earned, "the gateway earns the fees less what the chain took\n%s", r.stories())
}

// channels counts what the gateway and the wallet have with each other,
// pending or open.
func (r *rig) channels() int {
	r.t.Helper()
	open, err := r.ln(r.wallet).ListChannels(r.ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(r.t, err)
	pending, err := r.ln(r.gateway).PendingChannels(r.ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(r.t, err)
	return len(open.Channels) + len(pending.PendingOpenChannels)
}

// migrate is what openStore does after store.Open.
func migrate(ctx context.Context, db *store.DB) error {
	for _, f := range []func(context.Context, *store.DB) error{
		fsm.Migrate, ledger.Migrate, interceptorstore.Migrate, lspstore.Migrate, hookstore.Migrate, lwsstore.Migrate,
	} {
		if err := f(ctx, db); err != nil {
			return err
		}
	}
	return nil
}
