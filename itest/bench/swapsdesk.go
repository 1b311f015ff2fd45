package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/swaps/api"
	"github.com/sluice-lsp/sluice/swaps/engine"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// swapDesk is the swap service in this process, on a database of its own, beside a
// real lnd: so what each request spends in lnd can be told from the rest.
type swapDesk struct {
	stops
	engine *engine.Engine
	client looprpc.SwapServerClient
	calls  *lndCalls
}

func openSwapDesk(ctx context.Context, gateway *devnet.Node) (_ *swapDesk, err error) {
	d := &swapDesk{calls: &lndCalls{names: map[string]string{}, spent: map[string][]span{}}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	d.stop = append(d.stop, func() { _ = os.RemoveAll(dir) })
	db, err := store.Open(ctx, store.Config{Engine: store.SQLite, Path: filepath.Join(dir, "sluice.db")})
	if err != nil {
		return nil, err
	}
	d.stop = append(d.stop, func() { _ = db.Close() })
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, swapsstore.Migrate} {
		if err := migrate(ctx, db); err != nil {
			return nil, err
		}
	}
	node, err := lnd.Dial(lnd.Config{Address: gateway.RPCAddr, TLSCertFile: gateway.TLSCertPath, MacaroonFile: gateway.AdminMacaroonPath(), Network: "regtest"})
	if err != nil {
		return nil, err
	}
	d.stop = append(d.stop, func() { _ = node.Close() })
	if err := d.startEngine(ctx, db, node, gateway); err != nil {
		return nil, err
	}
	return d, d.answer()
}

func (d *swapDesk) startEngine(ctx context.Context, db *store.DB, node *lnd.Client, gateway *devnet.Node) error {
	self, err := ln.ParsePubKey(gateway.PubKey)
	if err != nil {
		return err
	}
	params, err := lnd.ChainParams("regtest")
	if err != nil {
		return err
	}
	cfg := engine.Defaults()
	cfg.Network, cfg.Self = "regtest", self
	// Limits would end a run before it measures anything.
	cfg.MinSat, cfg.In.MinSat, cfg.MaxUnpaid, cfg.MaxUnpaidPerClient, cfg.In.MaxProbes, cfg.In.MaxProbesPerClient = 20_000, 20_000, 1_000, 1_000, 100, 100
	cfg.MaxOpenSat, cfg.MaxPerClientSat, cfg.In.MaxExposedSat = 1_000_000_000, 1_000_000_000, 1_000_000_000
	cfg.In.Confs = []engine.ConfsUpTo{{UpToSat: cfg.In.MaxSat, Confs: 1}}
	timed := timedNode{Client: node, calls: d.calls}
	d.engine, err = engine.New(engine.Options{
		Node: engine.Node{Invoices: timed, Sales: node, Wallet: timed, Coins: timed, Chain: node, Records: node, Keys: timed, Events: timed, Payments: node},
		DB:   db, Params: params, Config: cfg, Random: rand.Reader, Log: zap.NewNop(),
		DecodeBolt11: func(text string) (ln.Bolt11, error) { return lnd.DecodeBolt11("regtest", text) },
	})
	if err != nil {
		return err
	}
	return d.serve(ctx, d.engine.Run)
}

// answer answers over a connection, as clients ask.
func (d *swapDesk) answer() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	service := api.New()
	service.Ready(d.engine)
	server := grpc.NewServer()
	service.RegisterGRPC(server)
	go func() { _ = server.Serve(listener) }()
	d.stop = append(d.stop, server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	d.stop = append(d.stop, func() { _ = conn.Close() })
	d.client = looprpc.NewSwapServerClient(conn)
	return nil
}

// span is from when to when a call of lnd took.
type span struct{ from, to time.Time }

// lndCalls remembers for whom lnd was asked: requests carry their name, and what is
// done for them later carries the swap's hash.
type lndCalls struct {
	mu    sync.Mutex
	names map[string]string // by a hash, or the first half of one, in hexadecimal
	spent map[string][]span
}

// requestKey carries a request's name.
const requestKey = "bench-request"

// named is a request's context.
func (c *lndCalls) named(ctx context.Context, name string, hash ln.Hash) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[hash.String()], c.names[hash.String()[:16]] = name, name
	return metadata.AppendToOutgoingContext(ctx, requestKey, name)
}

func (c *lndCalls) know(hash ln.Hash, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[hash.String()] = name
}

// of is whose a call is.
func (c *lndCalls) of(ctx context.Context, keys ...string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := md.Get(requestKey); len(got) == 1 {
		return got[0]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		if name := c.names[k]; name != "" {
			return name
		}
	}
	return ""
}

func (c *lndCalls) begin(name string) (end func()) {
	from := time.Now()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spent[name] = append(c.spent[name], span{from, time.Now()})
	}
}

// shared is the name of what is asked for several requests at once.
const shared = ""

// outside is what of a time was not spent in lnd for these names.
func (c *lndCalls) outside(from, to time.Time, names ...string) time.Duration {
	var spans []span
	c.mu.Lock()
	for _, name := range names {
		spans = append(spans, c.spent[name]...)
	}
	c.mu.Unlock()
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	own, at := to.Sub(from), from
	for _, s := range spans {
		if s.from.Before(at) {
			s.from = at
		}
		if s.to.After(to) {
			s.to = to
		}
		if s.to.After(s.from) {
			own -= s.to.Sub(s.from)
			at = s.to
		}
	}
	return own
}

// timedNode is lnd, with the time of every call that beginning a swap makes.
type timedNode struct {
	*lnd.Client
	calls *lndCalls
}

func (t timedNode) AddHoldInvoice(ctx context.Context, r ln.HoldInvoiceRequest) (string, error) {
	words := strings.Fields(r.Memo)
	if len(words) < 2 {
		return "", errors.New("a memo that names no swap")
	}
	name := t.calls.of(ctx, r.Hash.String(), words[len(words)-2])
	t.calls.know(r.Hash, name)
	defer t.calls.begin(name)()
	return t.Client.AddHoldInvoice(ctx, r)
}

func (t timedNode) LookupInvoice(ctx context.Context, hash ln.Hash) (ln.Invoice, error) {
	defer t.calls.begin(t.calls.of(ctx, hash.String()))()
	return t.Client.LookupInvoice(ctx, hash)
}

func (t timedNode) WalletBalance(ctx context.Context) (ln.Balances, error) {
	defer t.calls.begin(t.calls.of(ctx))()
	return t.Client.WalletBalance(ctx)
}

func (t timedNode) ListChannels(ctx context.Context) ([]ln.Channel, error) {
	defer t.calls.begin(t.calls.of(ctx))()
	return t.Client.ListChannels(ctx)
}

func (t timedNode) HoldExpiryDelta(ctx context.Context) (uint32, error) {
	defer t.calls.begin(t.calls.of(ctx))()
	return t.Client.HoldExpiryDelta(ctx)
}

func (t timedNode) SharedKey(ctx context.Context, key ln.KeyLocator, point ln.PubKey) ([32]byte, error) {
	defer t.calls.begin(t.calls.of(ctx))()
	return t.Client.SharedKey(ctx, key, point)
}
