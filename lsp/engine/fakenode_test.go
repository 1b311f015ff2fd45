package engine

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ledger"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/payhash"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	lspstore "github.com/sluice-lsp/sluice/lsp/store"
)

// fakeNode is an lnd of which a test plays the parts that it needs; what it
// does not play is a nil pointer, so that a call of it shows.
type fakeNode struct {
	Channels
	Opener
	Coins
	Chain
	Invoices
	Payments
	Events

	mu       sync.Mutex
	channels []ln.Channel
	pending  []ln.PendingChannel
	coins    []ln.Coin
	leases   map[ln.Outpoint][32]byte
	// onRelease runs after a coin was released, before anybody else can act;
	// onLease before a coin is leased.
	onRelease, onLease func(ln.Outpoint)
	// opened is told of each channel that is asked for.
	opened chan ln.OpenRequest
	// forget is asked whenever a channel is to be abandoned.
	forget   func(ln.Outpoint) error
	payments map[ln.Hash]ln.Payment
	invoices map[ln.Hash]ln.Invoice
	settled  []ln.Hash
	txs      []ln.WalletTx
	// onList hears of every listing of channels, before its answer; onTrack of every
	// question after a payment.
	onList, onTrack func()
}

func newFakeNode() *fakeNode {
	return &fakeNode{
		leases: map[ln.Outpoint][32]byte{}, onRelease: func(ln.Outpoint) {}, onLease: func(ln.Outpoint) {}, opened: make(chan ln.OpenRequest, 16),
		forget: func(ln.Outpoint) error { return nil }, payments: map[ln.Hash]ln.Payment{}, invoices: map[ln.Hash]ln.Invoice{},
	}
}

func (n *fakeNode) node() Node {
	return Node{Channels: n, Opener: n, Coins: n, Chain: n, Invoices: n, Payments: n, Settings: n, Events: n}
}

// HoldExpiryDelta is what the macaroon may not ask: the configured one stands.
func (n *fakeNode) HoldExpiryDelta(context.Context) (uint32, error) { return 0, ln.ErrPermission }

func (n *fakeNode) ListChannels(context.Context) ([]ln.Channel, error) {
	if n.onList != nil {
		n.onList()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]ln.Channel(nil), n.channels...), nil
}

func (n *fakeNode) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	return n.pending, nil
}

func (n *fakeNode) OpenChannel(ctx context.Context, r ln.OpenRequest) (Negotiation, error) {
	n.opened <- r
	<-ctx.Done()
	return nil, ln.ErrUnavailable
}

func (n *fakeNode) CancelShim(context.Context, ln.PendingChanID) error { return nil }

func (n *fakeNode) AbandonChannel(_ context.Context, op ln.Outpoint) error { return n.forget(op) }

func (n *fakeNode) ListCoins(context.Context, int32) ([]ln.Coin, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []ln.Coin
	for _, c := range n.coins {
		if _, leased := n.leases[c.Outpoint]; !leased {
			out = append(out, c)
		}
	}
	return out, nil
}

func (n *fakeNode) LeaseCoin(_ context.Context, id [32]byte, op ln.Outpoint, _ time.Duration) error {
	n.mu.Lock()
	onLease := n.onLease
	n.mu.Unlock()
	onLease(op)
	n.mu.Lock()
	defer n.mu.Unlock()
	if by, leased := n.leases[op]; leased && by != id {
		return ln.ErrLeased
	}
	n.leases[op] = id
	return nil
}

func (n *fakeNode) ReleaseCoin(_ context.Context, id [32]byte, op ln.Outpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leases[op] == id {
		delete(n.leases, op)
		n.onRelease(op)
	}
	return nil
}

func (n *fakeNode) ListLeases(context.Context) ([]ln.Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []ln.Lease
	for op, id := range n.leases {
		out = append(out, ln.Lease{ID: id, Outpoint: op})
	}
	return out, nil
}

func (n *fakeNode) NewChangeAddress(context.Context) (string, error) {
	return "bcrt1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqvg32hk", nil
}

func (n *fakeNode) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return 1_000, ln.MinFeeRate, nil
}

func (n *fakeNode) Transactions(context.Context, int32) ([]ln.WalletTx, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.txs, nil
}

func (n *fakeNode) TrackPayment(_ context.Context, hash ln.Hash) (ln.Payment, error) {
	if n.onTrack != nil {
		n.onTrack()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, ok := n.payments[hash]; ok {
		return p, nil
	}
	return ln.Payment{Hash: hash, State: ln.PaymentUnknown}, nil
}

func (n *fakeNode) LookupInvoice(_ context.Context, hash ln.Hash) (ln.Invoice, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if inv, ok := n.invoices[hash]; ok {
		return inv, nil
	}
	return ln.Invoice{}, ln.ErrNotFound
}

func (n *fakeNode) SubscribeInvoice(ctx context.Context, hash ln.Hash, got func(ln.Invoice)) error {
	if inv, err := n.LookupInvoice(ctx, hash); err == nil {
		got(inv)
	}
	<-ctx.Done()
	return ln.ErrUnavailable
}

func (n *fakeNode) AddHoldInvoice(_ context.Context, r ln.HoldInvoiceRequest) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.invoices[r.Hash]; ok {
		return "", ln.ErrExists
	}
	n.invoices[r.Hash] = ln.Invoice{Hash: r.Hash, Bolt11: "wrapped", AmountMsat: r.AmountMsat, Memo: r.Memo, FinalCltvDelta: r.FinalCltvDelta, State: ln.InvoiceOpen}
	return "wrapped", nil
}

func (n *fakeNode) SettleInvoice(_ context.Context, p ln.Preimage) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.settled = append(n.settled, p.Hash())
	return nil
}

func (n *fakeNode) CancelInvoice(context.Context, ln.Hash) error { return nil }

// noRoutes is an interceptor that is asked for nothing.
type noRoutes struct {
	Routes
	Held
}

// database is a migrated SQLite database, which each call opens again as
// another process would.
func database(t *testing.T) store.Config {
	t.Helper()
	cfg := storetest.SQLite(t)
	db := storetest.Open(t, cfg)
	for _, migrate := range []func(context.Context, *store.DB) error{fsm.Migrate, ledger.Migrate, payhash.Migrate, lspstore.Migrate} {
		require.NoError(t, migrate(t.Context(), db))
	}
	return cfg
}

// newEngine is one process's engine: loaded, nothing running.
func newEngine(t *testing.T, cfg store.Config, n *fakeNode, change func(*Options)) *Engine {
	t.Helper()
	config := Defaults()
	config.Network, config.Self = "regtest", ln.PubKey{2, 9}
	opt := Options{
		Node: n.node(), Routes: noRoutes{}, Held: noRoutes{}, DB: storetest.Open(t, cfg), Config: config,
		Random: rand.Reader, Log: zaptest.NewLogger(t),
	}
	if change != nil {
		change(&opt)
	}
	e, err := New(opt)
	require.NoError(t, err)
	t.Cleanup(e.stop)
	require.NoError(t, e.load(t.Context()))
	require.NoError(t, e.fees.refresh(t.Context()))
	return e
}

// rich gives the node coins to open channels with.
func (n *fakeNode) rich() {
	script := append([]byte{0x51, 32}, make([]byte, 32)...)
	for i := range byte(3) {
		n.coins = append(n.coins, ln.Coin{
			Outpoint: ln.Outpoint{TxID: ln.TxID{i + 1}}, AmountSat: 1_000_000 + ln.Sat(i), PkScript: script, Confirmations: 6,
		})
	}
}

func at(height uint32) lsp.Moment { return lsp.Moment{At: time.Now().UTC(), Height: height} }
