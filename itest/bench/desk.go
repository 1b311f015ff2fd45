package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	interceptorstore "github.com/sluice-lsp/sluice/interceptor/store"
	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/engine"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// desk is the service of channels on demand on a database of its own, with
// everything durable that it makes durable in sluiced, and an lnd that answers
// at once: what is measured is Sluice.
type desk struct {
	stops
	db     *store.DB
	lease  *store.Lease
	holds  *holds
	engine *engine.Engine
}

// databases are the two engines.
func databases() []store.Engine { return []store.Engine{store.SQLite, store.Postgres} }

// openDesk starts the service on a fresh database, with so many clients that
// are connected, each with a channel with room if roomy.
func openDesk(ctx context.Context, kind store.Engine, clients int, roomy bool) (_ *desk, err error) {
	d := &desk{}
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
	cfg := store.Config{Engine: kind, Path: filepath.Join(dir, "sluice.db")}
	if kind == store.Postgres {
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // PostgreSQL's user passes through
			return nil, err
		}
		pg, err := devnet.StartPostgres(ctx, dir)
		if err != nil {
			return nil, err
		}
		d.stop = append(d.stop, func() { _ = pg.Close() })
		if cfg.DSN, err = pg.CreateDatabase(ctx, "sluice"); err != nil {
			return nil, err
		}
	}
	if d.db, err = store.Open(ctx, cfg); err != nil {
		return nil, err
	}
	d.stop = append(d.stop, func() { _ = d.db.Close() })
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, interceptorstore.Migrate, lspstore.Migrate} {
		if err := migrate(ctx, d.db); err != nil {
			return nil, err
		}
	}
	rows := interceptorstore.New(d.db, "gateway")
	if d.lease, err = rows.Acquire(ctx, store.LeaseConfig{Owner: "bench", TTL: time.Minute}); err != nil {
		return nil, err
	}
	if err := rows.PutHandler(ctx, d.lease.Epoch(), interceptor.HandlerConfig{Name: handlerName, Priority: 100, OnAbsent: interceptor.AbsentHold}); err != nil {
		return nil, err
	}
	d.holds = newHolds(rows, d.lease.Epoch())
	return d, d.start(ctx, clients, roomy)
}

func (d *desk) start(ctx context.Context, clients int, roomy bool) (err error) {
	node := &quietNode{clients: clients, roomy: roomy}
	cfg := engine.Defaults()
	cfg.Network, cfg.Self = "regtest", ln.PubKey{2, 1}
	// Limits would end a run before it measures anything.
	cfg.Caps = lsp.Caps{NewcomersPercent: 100}
	d.engine, err = engine.New(engine.Options{
		Node: engine.Node{
			Channels: node, Aliases: node, Opener: node, Coins: node, Chain: node, Invoices: node, Payments: node, Orders: node, Settings: node, Events: node, Forwards: node,
		},
		Routes: d.holds, Held: d.holds, Books: node, Closes: node, DB: d.db, Fence: d.lease.Check, Config: cfg, Now: time.Now, Random: rand.Reader, Log: zap.NewNop(),
	})
	if err != nil {
		return err
	}
	return d.serve(ctx, d.engine.Run)
}

// clientKey is the node key of one of the clients.
func clientKey(n int) ln.PubKey {
	k := ln.PubKey{2, 9}
	binary.BigEndian.PutUint64(k[2:], uint64(n)) //nolint:gosec // not negative
	return k
}

// quietNode is an lnd in which nothing happens and that answers at once.
type quietNode struct {
	engine.Opener
	engine.Invoices
	engine.Payments
	engine.Orders
	clients int
	roomy   bool
}

const quietHeight = 800_000

// SubscribeHtlcEvents has nothing to tell: each of the clients has one channel.
func (n *quietNode) SubscribeHtlcEvents(ctx context.Context, ready func(), _ func(ln.HtlcEvent)) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

func (n *quietNode) ListChannels(context.Context) ([]ln.Channel, error) {
	out := []ln.Channel{{ChanID: ln.NewSCID(700_000, 1, 0), Active: true, Peer: ln.PubKey{3, 1}, CapacitySat: 20_000_000_000, RemoteSat: 10_000_000_000, LocalSat: 10_000_000_000}}
	if !n.roomy {
		return out, nil
	}
	for i := range n.clients {
		out = append(out, ln.Channel{
			ChanID: ln.NewSCID(ln.AliasBlockStart+uint32(i), 1, 1), Outpoint: ln.Outpoint{TxID: ln.TxID{byte(i), byte(i >> 8), 1}}, Peer: clientKey(i), //nolint:gosec // few
			Active: true, Private: true, Initiator: true, ZeroConf: true, CapacitySat: 5_000_000_000, LocalSat: 4_900_000_000, LocalReserveSat: 1_000, CommitmentType: "ANCHORS",
		})
	}
	return out, nil
}
func (n *quietNode) PendingChannels(context.Context) ([]ln.PendingChannel, error) { return nil, nil }
func (n *quietNode) OwnPolicy(context.Context, ln.SCID, ln.PubKey) (ln.ChannelPolicy, error) {
	return ln.ChannelPolicy{TimeLockDelta: 80, MinHtlcMsat: 1_000}, nil
}
func (n *quietNode) SetPolicy(context.Context, ln.Outpoint, ln.ChannelPolicy) error { return nil }
func (n *quietNode) AddAlias(context.Context, ln.SCID, ln.SCID) error               { return nil }
func (n *quietNode) AliasOwner(context.Context, ln.SCID) (ln.SCID, error)           { return 0, nil }
func (n *quietNode) RemoveAlias(context.Context, ln.SCID, ln.SCID) error            { return nil }

func (n *quietNode) ListCoins(context.Context, int32) ([]ln.Coin, error) {
	return []ln.Coin{{Outpoint: ln.Outpoint{TxID: ln.TxID{1}}, AmountSat: 2_000_000_000, Confirmations: 6}}, nil
}

func (n *quietNode) LeaseCoin(context.Context, [32]byte, ln.Outpoint, time.Duration) error {
	return nil
}
func (n *quietNode) ReleaseCoin(context.Context, [32]byte, ln.Outpoint) error { return nil }
func (n *quietNode) ListLeases(context.Context) ([]ln.Lease, error)           { return nil, nil }
func (n *quietNode) NewChangeAddress(context.Context) (string, error) {
	return "", ln.ErrUnavailable
}

func (n *quietNode) FinalizePsbt(context.Context, []byte) ([]byte, error) {
	return nil, ln.ErrUnavailable
}
func (n *quietNode) Publish(context.Context, []byte, string) error { return ln.ErrUnavailable }
func (n *quietNode) BumpFee(context.Context, ln.Outpoint, uint64, ln.Sat) error {
	return ln.ErrUnavailable
}

func (n *quietNode) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return 500, 253, nil
}
func (n *quietNode) Transactions(context.Context, int32) ([]ln.WalletTx, error) { return nil, nil }

// SubscribeTransactions implements engine.Orders.
func (n *quietNode) SubscribeTransactions(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

func (n *quietNode) HoldExpiryDelta(context.Context) (uint32, error) { return 18, nil }

func (n *quietNode) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	handle(ln.Block{Height: quietHeight})
	<-ctx.Done()
	return ctx.Err()
}

func (n *quietNode) SubscribeChannelEvents(ctx context.Context, _ func(ln.ChannelEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (n *quietNode) SubscribePeers(ctx context.Context, _ func(ln.PeerEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (n *quietNode) ConnectedPeers(context.Context) ([]ln.PubKey, error) {
	out := make([]ln.PubKey, 0, n.clients)
	for i := range n.clients {
		out = append(out, clientKey(i))
	}
	return out, nil
}

func (n *quietNode) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{PubKey: ln.PubKey{2, 1}, Network: "regtest", BlockHeight: quietHeight, SyncedToChain: true}, nil
}

func (n *quietNode) WalletBalance(context.Context) (ln.Balances, error) { return ln.Balances{}, nil }
func (n *quietNode) ForwardingHistory(context.Context, time.Time, uint32, uint32) ([]ln.Forward, error) {
	return nil, nil
}

func (n *quietNode) SentPayments(context.Context, uint64) ([]ln.Payment, uint64, error) {
	return nil, 0, nil
}

func (n *quietNode) OpenInvoices(context.Context) ([]ln.Invoice, error) { return nil, nil }

func (n *quietNode) SettledInvoices(context.Context, uint64) (ln.InvoicePage, error) {
	return ln.InvoicePage{Done: true}, nil
}
func (n *quietNode) ClosedChannels(context.Context) ([]ln.ClosedChannel, error) { return nil, nil }
func (n *quietNode) TxInBlock(context.Context, uint32, ln.TxID) ([]byte, error) {
	return nil, ln.ErrNotFound
}

const handlerName = "lsp"

// holds is the interceptor's ledger: its rows are written as the interceptor
// writes them, those that come together in one transaction.
type holds struct {
	rows  *interceptorstore.Store
	epoch int64
	queue chan interceptor.Row

	mu       sync.Mutex
	sink     func(engine.HtlcEvent)
	attached chan struct{}
	failed   chan error
	live     map[ln.CircuitKey]interceptor.Row
	resumed  func(n int)
}

func newHolds(rows *interceptorstore.Store, epoch int64) *holds {
	return &holds{
		rows: rows, epoch: epoch, queue: make(chan interceptor.Row, 4096), attached: make(chan struct{}), failed: make(chan error, 1),
		live: map[ln.CircuitKey]interceptor.Row{}, resumed: func(int) {},
	}
}

// Claim implements engine.Routes.
func (h *holds) Claim(ctx context.Context, scids []ln.SCID, until time.Time) error {
	var routes []interceptor.Route
	for _, s := range scids {
		routes = append(routes, interceptor.Route{SCID: s, Until: until, Guarded: true})
	}
	return h.rows.PutRoutes(ctx, h.epoch, handlerName, routes)
}

// Release implements engine.Routes.
func (h *holds) Release(ctx context.Context, scids []ln.SCID) error {
	return h.rows.DeleteRoutes(ctx, h.epoch, handlerName, scids)
}

// Attach implements engine.Held.
func (h *holds) Attach(ctx context.Context, sink func(engine.HtlcEvent)) error {
	h.mu.Lock()
	h.sink = sink
	close(h.attached)
	h.mu.Unlock()
	sink(engine.HtlcEvent{Kind: engine.HtlcSynced})
	for {
		var batch []interceptor.Row
		select {
		case r := <-h.queue:
			batch = append(batch, r)
		case <-ctx.Done():
			return ctx.Err()
		}
		for more := true; more && len(batch) < 256; {
			select {
			case r := <-h.queue:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		if err := h.rows.Write(ctx, h.epoch, batch, nil); err != nil {
			h.failed <- err
			<-ctx.Done()
			return err
		}
		for _, r := range batch {
			h.mu.Lock()
			h.live[r.Key] = r
			h.mu.Unlock()
			sink(engine.HtlcEvent{Kind: engine.HtlcOffered, Htlc: htlcOf(r)})
		}
	}
}

func htlcOf(r interceptor.Row) ln.InterceptedHtlc {
	return ln.InterceptedHtlc{
		Key: r.Key, Hash: r.Hash, IncomingMsat: r.IncomingMsat, OutgoingMsat: r.OutgoingMsat, IncomingExpiry: r.IncomingExpiry,
		OutgoingExpiry: r.OutgoingExpiry, OutgoingSCID: r.OutgoingSCID, AutoFailHeight: r.AutoFailHeight,
	}
}

var errNotPlayed = errors.New("a benchmark refuses no payment")

// Decide implements engine.Held.
func (h *holds) Decide(_ context.Context, keys []ln.CircuitKey, v engine.Verdict, reason string) error {
	return fmt.Errorf("%w: %s of %d parts: %s", errNotPlayed, v, len(keys), reason)
}

// Resume implements engine.Held.
func (h *holds) Resume(ctx context.Context, forwards []engine.Forward, reason string) error {
	var rows []interceptor.Row
	h.mu.Lock()
	for _, f := range forwards {
		r := h.live[f.Key]
		if r.State == interceptor.StateResumed {
			continue
		}
		r.State, r.Reason, r.ExtraFeeMsat, r.DecidedAt, r.Version = interceptor.StateResumed, reason, f.ExtraFeeMsat, time.Now(), r.Version+1
		rows = append(rows, r)
	}
	h.mu.Unlock()
	if err := h.rows.Write(ctx, h.epoch, nil, rows); err != nil {
		return err
	}
	h.mu.Lock()
	for _, r := range rows {
		h.live[r.Key] = r
	}
	h.mu.Unlock()
	h.resumed(len(rows))
	return nil
}

// Acknowledge implements engine.Held.
func (h *holds) Acknowledge(context.Context, []ln.CircuitKey) error { return nil }

// Lookup implements engine.Held.
func (h *holds) Lookup(context.Context, ln.Hash) ([]engine.HtlcEvent, error) { return nil, nil }
