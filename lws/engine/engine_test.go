package engine

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lws"
	"github.com/sluice-lsp/sluice/lws/hold"
)

// away is an lnd with one channel whose peer is away, and an interceptor that does what it
// is asked to.
type away struct {
	wallet ln.PubKey

	mu      sync.Mutex
	sink    func(HtlcEvent)
	resumed map[ln.CircuitKey]bool
	acked   []ln.CircuitKey
}

func (a *away) ListChannels(context.Context) ([]ln.Channel, error) {
	return []ln.Channel{{Peer: a.wallet, ChanID: 5, Outpoint: ln.Outpoint{Index: 1}}}, nil
}

func (a *away) SubscribeChannelEvents(ctx context.Context, _ func(ln.ChannelEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (a *away) SubscribeBlocks(ctx context.Context, handle func(ln.Block)) error {
	handle(ln.Block{Height: 1000})
	<-ctx.Done()
	return ctx.Err()
}

func (a *away) Claim(context.Context, []ln.SCID, time.Time) error { return nil }
func (a *away) Release(context.Context, []ln.SCID) error          { return nil }

func (a *away) Attach(ctx context.Context, sink func(HtlcEvent)) error {
	a.mu.Lock()
	a.sink = sink
	a.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func (a *away) attached() func(HtlcEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sink
}

func (a *away) Decide(_ context.Context, keys []ln.CircuitKey, resume bool, _ string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range keys {
		a.resumed[k] = resume
	}
	return nil
}

func (a *away) Acknowledge(_ context.Context, keys []ln.CircuitKey) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acked = append(a.acked, keys...)
	return nil
}

func (a *away) Wishes(context.Context) (map[ln.PubKey]lws.Wish, error) {
	return map[ln.PubKey]lws.Wish{a.wallet: {HoldFor: time.Hour, MaxHtlcs: 5, MaxSat: 1_000_000, FinalCltvDelta: 80}}, nil
}

func (a *away) Put(context.Context, ln.PubKey, lws.Wish, bool, int64, time.Time) (bool, error) {
	return true, nil
}
func (a *away) Delete(context.Context, ln.PubKey) error { return nil }

// TestSwarm: HTLCs of many payments come in one moment. They are judged beside each other
// and counted exactly; their ends are acknowledged.
func TestSwarm(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	db, err := store.Open(ctx, store.Config{Engine: store.SQLite, Path: filepath.Join(t.TempDir(), "db")})
	require.NoError(t, err)
	defer func() { _ = db.Close() }()
	require.NoError(t, fsm.Migrate(ctx, db))
	a := &away{wallet: ln.PubKey{2, 7}, resumed: map[ln.CircuitKey]bool{}}
	e, err := New(Options{
		Node: a, Holds: a, Wishes: a, DB: db, MarginBlocks: 10, Now: time.Now, Random: rand.Reader, MaxWallets: 10,
		Limits: lws.Limits{
			HoldFor: time.Hour, Htlcs: 100, AllHtlcs: 100, Sat: 1_000_000, AllSat: 1_000_000, SatBlocks: 1 << 40, AllSatBlocks: 1 << 40,
			IncomingHtlcs: 100, MinHold: time.Hour, MinFinal: 18, MaxFinal: 2016,
		},
	})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx, func() {}) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()
	require.Eventually(t, func() bool { return a.attached() != nil }, time.Minute, time.Millisecond)
	const swarm = 60
	key := func(n int) ln.CircuitKey { return ln.CircuitKey{ChanID: 9, HtlcID: uint64(n)} } //nolint:gosec // small
	for n := range swarm {
		a.attached()(HtlcEvent{Kind: HtlcOffered, Htlc: ln.InterceptedHtlc{
			Key: key(n), Hash: ln.Hash{1, byte(n)}, IncomingMsat: 1_000_000, OutgoingMsat: 999_000, OutgoingSCID: 5,
			IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
		}})
	}
	// Whatever is not held was asked to go back.
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.resumed) == swarm-5
	}, time.Minute, time.Millisecond)
	list, err := e.List(ctx, &a.wallet)
	require.NoError(t, err)
	held := 0
	for _, p := range list {
		if p.State == (hold.Held{}).StateName() {
			held++
		}
	}
	require.Equal(t, 5, held)
	a.mu.Lock()
	for k, resumed := range a.resumed {
		require.False(t, resumed, "%s", k)
	}
	a.mu.Unlock()

	for n := range swarm {
		a.attached()(HtlcEvent{Kind: HtlcGone, Htlc: ln.InterceptedHtlc{Key: key(n), Hash: ln.Hash{1, byte(n)}}})
	}
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.acked) == swarm
	}, time.Minute, time.Millisecond)
	list, err = e.List(ctx, nil)
	require.NoError(t, err)
	require.Empty(t, list)
}
