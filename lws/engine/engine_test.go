package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
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
	// decisions are the calls, in order.
	decisions [][]ln.CircuitKey
	// channels of lnd's beside that one; onChannel hears of them.
	channels  []ln.Channel
	onChannel func(ln.ChannelEvent)
	// hooks are those of the database.
	hooks *store.Hooks
	// otherwise is how an HTLC was decided by somebody else.
	otherwise map[ln.CircuitKey]error
	// clock is what has passed on the engine's clock, where a test moves it by itself.
	clock *atomic.Int64
}

func (a *away) now() time.Time {
	if a.clock == nil {
		return time.Now()
	}
	return time.Unix(1_800_000_000, a.clock.Load())
}

func (a *away) ListChannels(context.Context) ([]ln.Channel, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.channels != nil {
		return slices.Clone(a.channels), nil
	}
	return []ln.Channel{{Peer: a.wallet, ChanID: 5, Outpoint: ln.Outpoint{Index: 1}}}, nil
}

// set makes a channel active, or not, and tells.
func (a *away) set(index uint32, active bool) {
	a.mu.Lock()
	kind := ln.ChannelInactive
	if active {
		kind = ln.ChannelActive
	}
	for i := range a.channels {
		if a.channels[i].Outpoint.Index == index {
			a.channels[i].Active = active
		}
	}
	tell := a.onChannel
	a.mu.Unlock()
	tell(ln.ChannelEvent{Kind: kind, Outpoint: ln.Outpoint{Index: index}})
}

func (a *away) SubscribeChannelEvents(ctx context.Context, handle func(ln.ChannelEvent)) error {
	a.mu.Lock()
	a.onChannel = handle
	a.mu.Unlock()
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
	a.decisions = append(a.decisions, keys)
	for _, k := range keys {
		if err := a.otherwise[k]; err != nil {
			return err
		}
	}
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
	a := &away{wallet: ln.PubKey{2, 7}, resumed: map[ln.CircuitKey]bool{}}
	e := a.start(t)
	const swarm = 60
	for n := range swarm {
		a.offer(n, 1_000_000, 5)
	}
	// Whatever is not held was asked to go back.
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.resumed) == swarm-5
	}, time.Minute, time.Millisecond)
	list, err := e.List(t.Context(), &a.wallet)
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
	list, err = e.List(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, list)
}

func key(n int) ln.CircuitKey { return ln.CircuitKey{ChanID: 9, HtlcID: uint64(n)} } //nolint:gosec // small

// offer has the interceptor hold an HTLC whose onion names one of the wallet's channels.
func (a *away) offer(n int, msat ln.Msat, over ln.SCID) {
	a.attached()(HtlcEvent{Kind: HtlcOffered, Htlc: ln.InterceptedHtlc{
		Key: key(n), Hash: ln.Hash{1, byte(n)}, IncomingMsat: msat, OutgoingMsat: msat - 1, OutgoingSCID: over,
		IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
	}})
}

// start runs an engine until the end of the test.
func (a *away) start(t *testing.T) *Engine {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	db, err := store.Open(ctx, store.Config{Engine: store.SQLite, Path: filepath.Join(t.TempDir(), "db"), Hooks: a.hooks})
	require.NoError(t, err)
	require.NoError(t, fsm.Migrate(ctx, db))
	e, err := New(Options{
		Node: a, Holds: a, Wishes: a, DB: db, MarginBlocks: 10, Now: a.now, Random: rand.Reader, MaxWallets: 10,
		Limits: lws.Limits{
			HoldFor: time.Hour, Htlcs: 100, AllHtlcs: 100, Sat: 1_000_000, AllSat: 1_000_000, SatBlocks: 1 << 40, AllSatBlocks: 1 << 40,
			IncomingHtlcs: 100, MinHold: time.Hour, MinFinal: 18, MaxFinal: 2016,
		},
	})
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		_ = db.Close()
	})
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.sink != nil && a.onChannel != nil
	}, time.Minute, time.Millisecond)
	return e
}

// waits until so many payments are in the state.
func (a *away) waits(t *testing.T, e *Engine, n int, state string) {
	t.Helper()
	var list []lws.Shown
	require.Eventually(t, func() bool {
		var err error
		list, err = e.List(t.Context(), &a.wallet)
		in := 0
		for _, p := range list {
			if p.State == state {
				in++
			}
		}
		return err == nil && in == n && len(list) == n
	}, time.Minute, 5*time.Millisecond, "%v", list)
}

// withChannels is a wallet with two channels, both away, and a payer with one.
func withChannels(localSat ln.Sat) *away {
	w := ln.PubKey{2, 7}
	return &away{wallet: w, resumed: map[ln.CircuitKey]bool{}, otherwise: map[ln.CircuitKey]error{}, channels: []ln.Channel{
		{Peer: w, ChanID: 5, Outpoint: ln.Outpoint{Index: 1}, LocalSat: localSat},
		{Peer: w, ChanID: 6, Outpoint: ln.Outpoint{Index: 2}, LocalSat: 1_000_000},
		{Peer: ln.PubKey{3, 1}, ChanID: 9, Outpoint: ln.Outpoint{Index: 3}, Active: true},
	}}
}

func (a *away) calls() (out [][]ln.CircuitKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.decisions)
}

// What waits for a wallet is handed on in one decision when it comes, once lnd has both the
// channel that the onions name and the one that they came over.
func TestHandedOnInOneMoment(t *testing.T) {
	a := withChannels(1_000_000)
	e := a.start(t)
	for n := range 5 {
		a.offer(n, 1_000_000, 5)
	}
	a.waits(t, e, 5, "held")
	a.set(3, false)
	a.set(2, true)
	a.set(1, true)
	time.Sleep(2 * settleFor)
	require.Empty(t, a.calls(), "the payer's channel is not there")
	a.set(1, false)
	a.set(3, true)
	time.Sleep(2 * settleFor)
	require.Empty(t, a.calls(), "the channel that the onions name is not there")
	a.set(1, true)
	a.waits(t, e, 0, "held")
	require.Len(t, a.calls(), 1)
	require.Len(t, a.calls()[0], 5)
}

// What waits is made ready while the wallet's channel has been active for a moment only, and
// goes once the channel counts. If the channel goes before, it waits for the next time.
func TestReadyBeforeTheChannelCounts(t *testing.T) {
	a := withChannels(1_000_000)
	a.clock = &atomic.Int64{}
	e := a.start(t)
	for n := range 3 {
		a.offer(n, 1_000_000, 5)
	}
	a.waits(t, e, 3, "held")
	a.set(1, true)
	a.clock.Add(int64(prepareAfter))
	a.waits(t, e, 3, "resuming")
	a.set(1, false)
	a.waits(t, e, 3, "held")
	require.Empty(t, a.calls(), "the channel was active for a moment only")

	a.set(1, true)
	a.clock.Add(int64(prepareAfter))
	a.waits(t, e, 3, "resuming")
	require.Empty(t, a.calls(), "the channel does not count yet")
	a.clock.Add(int64(settleFor - prepareAfter))
	a.waits(t, e, 0, "held")
	require.Len(t, a.calls(), 1)
	require.Len(t, a.calls()[0], 3)
}

// One of its channels that stays away keeps the payments that name it only for a while.
func TestAnotherChannelWillDo(t *testing.T) {
	a := withChannels(1_000_000)
	e := a.start(t)
	a.offer(1, 1_000_000, 5)
	a.waits(t, e, 1, "held")
	a.set(2, true)
	a.waits(t, e, 0, "held")
	require.Len(t, a.calls(), 1)
}

// A small channel of the wallet's, into which lnd may put anything that fits alone, takes no
// more at a time than it has room for.
func TestSmallChannelIsNotFlooded(t *testing.T) {
	a := withChannels(3_500)
	e := a.start(t)
	for n := range 5 {
		a.offer(n, 1_000_000, 6)
	}
	a.waits(t, e, 5, "held")
	a.set(1, true)
	a.set(2, true)
	a.waits(t, e, 0, "held")
	require.Len(t, a.calls(), 2)
	require.Len(t, a.calls()[0], 3)
	require.Len(t, a.calls()[1], 2)
}

// A payment of which a part cannot be resumed is not handed on in part: its other parts go
// back. Others of the wallet's are handed on all the same.
func TestWhatCannotBeResumedGoesBackTogether(t *testing.T) {
	a := withChannels(1_000_000)
	e := a.start(t)
	offer := func(n int, hash byte) {
		a.attached()(HtlcEvent{Kind: HtlcOffered, Htlc: ln.InterceptedHtlc{
			Key: key(n), Hash: ln.Hash{hash}, IncomingMsat: 1_000_000, OutgoingMsat: 999_999, OutgoingSCID: 5,
			IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
		}})
	}
	offer(1, 1)
	offer(2, 1)
	offer(3, 2)
	a.waits(t, e, 2, "held")
	a.mu.Lock()
	a.otherwise[key(2)] = &DecidedError{Key: key(2), Err: errors.New("its channel is on chain")}
	a.mu.Unlock()
	a.set(1, true)
	require.Eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		one, asked := a.resumed[key(1)]
		return a.resumed[key(3)] && asked && !one
	}, time.Minute, time.Millisecond)
	a.waits(t, e, 1, "failing")
	a.attached()(HtlcEvent{Kind: HtlcGone, Htlc: ln.InterceptedHtlc{Key: key(2), Hash: ln.Hash{1}}})
	a.waits(t, e, 0, "failing")
}

// A part that the interceptor refused as it came is none of the payment's. Its siblings go
// back with it, if they came before it: later ones are the payer's next attempt.
func TestRefusedPartTakesItsSiblingsAlong(t *testing.T) {
	for _, kind := range []HtlcEventKind{HtlcDecided, HtlcGone} {
		a := withChannels(1_000_000)
		e := a.start(t)
		report := func(kind HtlcEventKind, n int, hash byte) {
			a.attached()(HtlcEvent{Kind: kind, Order: int64(n), Htlc: ln.InterceptedHtlc{
				Key: key(n), Hash: ln.Hash{hash}, IncomingMsat: 1_000_000, OutgoingMsat: 999_999, OutgoingSCID: 5,
				IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
			}})
		}
		report(HtlcOffered, 11, 1)
		report(HtlcOffered, 12, 1)
		report(HtlcOffered, 13, 2)
		a.waits(t, e, 2, "held")
		report(kind, 10, 1)
		report(kind, 14, 2)
		// Those of one payment are taken in order: once this one waits, the report of the
		// earlier attempt has been taken.
		report(HtlcOffered, 15, 1)
		require.Eventually(t, func() bool {
			list, err := e.List(t.Context(), &a.wallet)
			return err == nil && len(list) == 1 && list[0].Hash == ln.Hash{1} && list[0].State == "held" && list[0].Htlcs == 3
		}, time.Minute, 5*time.Millisecond)
		require.Equal(t, [][]ln.CircuitKey{{key(13)}}, a.calls())
		if kind == HtlcGone {
			require.Eventually(t, func() bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				return len(a.acked) == 2
			}, time.Minute, 5*time.Millisecond)
		}
	}
}

// What was refused and cannot go back, for lnd is paying its hash, counts until it has gone,
// and makes no room for others.
func TestWhatCannotGoBackCounts(t *testing.T) {
	a := withChannels(1_000_000)
	e := a.start(t)
	report := func(kind HtlcEventKind, n int, hash byte, paying bool) {
		a.attached()(HtlcEvent{Kind: kind, Paying: paying, Htlc: ln.InterceptedHtlc{
			Key: key(n), Hash: ln.Hash{hash}, IncomingMsat: 1_000_000, OutgoingMsat: 999_999, OutgoingSCID: 5,
			IncomingExpiry: 1163, OutgoingExpiry: 1083, AutoFailHeight: 1144,
		}})
	}
	decided := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			_, is := a.resumed[key(n)]
			return is
		}, time.Minute, time.Millisecond, "%d is decided", n)
	}
	for n := range 5 {
		report(HtlcOffered, n, 1, false)
	}
	require.Eventually(t, func() bool {
		list, err := e.List(t.Context(), &a.wallet)
		return err == nil && len(list) == 1 && list[0].Htlcs == 5
	}, time.Minute, time.Millisecond)
	a.mu.Lock()
	for n := range 5 {
		a.otherwise[key(n)] = &DecidedError{Key: key(n), Err: errors.New("lnd is paying its hash")}
	}
	a.mu.Unlock()
	require.NoError(t, e.Return(t.Context(), a.wallet, e.Waiting(a.wallet)[0].PaymentID))
	a.waits(t, e, 1, "failing")
	for n := range 5 {
		report(HtlcOffered, n, 1, true)
	}
	report(HtlcOffered, 10, 1, false)
	decided(10) // and with it all that was reported of that hash before
	report(HtlcOffered, 11, 2, false)
	decided(11)
	for n := range 5 {
		report(HtlcDecided, n, 1, false)
	}
	report(HtlcDecided, 10, 1, false)
	a.waits(t, e, 0, "failing")
	report(HtlcOffered, 12, 3, false)
	a.waits(t, e, 1, "held")
}

// A payment of which the answer to its first commit was lost is not begun twice.
func TestBegunOnce(t *testing.T) {
	faults := new(storetest.Faults)
	a := withChannels(1_000_000)
	a.hooks = faults.Hooks()
	e := a.start(t)
	faults.LoseAnswer(1)
	a.offer(1, 1_000_000, 5)
	a.waits(t, e, 1, "held")
	require.Eventually(t, func() bool { return len(e.Waiting(a.wallet)) == 1 }, time.Minute, time.Millisecond)
	a.waits(t, e, 1, "held")
	a.set(1, true)
	a.waits(t, e, 0, "held")
	require.Len(t, a.calls(), 1)
}

// What the interceptor does not report at an attachment is over: a process died after that
// was acknowledged and before it was stored.
func TestWhatIsNotReportedIsOver(t *testing.T) {
	a := withChannels(1_000_000)
	e := a.start(t)
	a.offer(1, 1_000_000, 5)
	a.offer(2, 1_000_000, 5)
	require.Eventually(t, func() bool { return len(e.Waiting(a.wallet)) == 2 }, time.Minute, time.Millisecond)
	e.mu.Lock()
	e.reported = map[ln.CircuitKey]bool{}
	e.mu.Unlock()
	a.offer(2, 1_000_000, 5)
	a.attached()(HtlcEvent{Kind: HtlcSynced})
	a.waits(t, e, 1, "held")
}
