package webhooks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	hookstore "github.com/sluice-lsp/sluice/lsp/webhooks/store"
	"github.com/sluice-lsp/sluice/lsp/webhooks/store/hookdb"
)

// world is lnd, the internet, and who is a client; and it has the time.
type world struct {
	mu       sync.Mutex
	now      time.Time
	channels []ln.Channel
	pending  []ln.PendingChannel
	known    map[ln.PubKey]bool
	// answer is what a webhook at a host answers; 200 otherwise.
	answer map[string]func(call) (int, error)
	calls  []call
}

type call struct {
	url, timestamp, signature, body string
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) SubscribePeers(ctx context.Context, _ func(ln.PeerEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}
func (w *world) ConnectedPeers(context.Context) ([]ln.PubKey, error) { return nil, nil }
func (w *world) SubscribeBlocks(ctx context.Context, _ func(ln.Block)) error {
	<-ctx.Done()
	return ctx.Err()
}
func (w *world) ListChannels(context.Context) ([]ln.Channel, error) { return w.channels, nil }
func (w *world) PendingChannels(context.Context) ([]ln.PendingChannel, error) {
	return w.pending, nil
}

func (w *world) SignMessage(_ context.Context, msg []byte) (string, error) {
	return "signed<" + string(msg) + ">", nil
}

func (w *world) Known(_ context.Context, client ln.PubKey) (bool, error) {
	return w.known == nil || w.known[client], nil
}
func (w *world) Allowed(a netip.Addr) bool { return lsps5.IsPublic(a) }

func (w *world) Post(_ context.Context, target lsps5.Target, header http.Header, body []byte) (int, error) {
	c := call{target.URL, header.Get(lsps5.HeaderTimestamp), header.Get(lsps5.HeaderSignature), string(body)}
	w.mu.Lock()
	w.calls = append(w.calls, c)
	answer := w.answer[target.Host]
	w.mu.Unlock()
	if answer == nil {
		return 200, nil
	}
	return answer(c)
}

// took are the calls since the last time, as "host method".
func (w *world) took() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.calls {
		_, host, _ := strings.Cut(c.url, "//")
		host, _, _ = strings.Cut(host, "/")
		_, method, _ := strings.Cut(c.body, `"method":"lsps5.`)
		method, _, _ = strings.Cut(method, `"`)
		out = append(out, host+" "+method)
	}
	w.calls = nil
	return out
}

type fixture struct {
	*Service
	t *testing.T
	w *world
}

func eachDB(t *testing.T, cfg Config, f func(t *testing.T, x *fixture)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		db := open()
		require.NoError(t, hookstore.Migrate(t.Context(), db))
		w := &world{now: time.UnixMilli(1_700_000_000_123), answer: map[string]func(call) (int, error){}}
		f(t, newService(t, db, w, cfg))
	})
}

func newService(t *testing.T, db *store.DB, w *world, cfg Config) *fixture {
	t.Helper()
	s, err := New(Options{
		Node: w, Signer: w, Sender: w, Clients: w, DB: db, Config: cfg, Now: w.time, Random: rand.Reader,
	})
	require.NoError(t, err)
	require.NoError(t, s.Load(t.Context()))
	return &fixture{Service: s, t: t, w: w}
}

func alice() ln.PubKey { return ln.PubKey{2, 1} }
func bob() ln.PubKey   { return ln.PubKey{2, 2} }

func (x *fixture) set(client ln.PubKey, name, host string) (lsps5.SetResult, error) {
	x.t.Helper()
	target, refused := lsps5.ParseTarget("https://" + host + "/x")
	require.Nil(x.t, refused)
	return x.Set(x.t.Context(), client, lsps5.Hook{AppName: name, Target: target})
}

func (x *fixture) mustSet(client ln.PubKey, name, host string) lsps5.SetResult {
	x.t.Helper()
	r, err := x.set(client, name, host)
	require.NoError(x.t, err)
	return r
}

// work does what is due, to its end, and gives what was called.
func (x *fixture) work() []string {
	x.t.Helper()
	for range 50 {
		before := len(x.w.calls)
		_, err := x.dispatch(x.t.Context())
		require.NoError(x.t, err)
		x.wg.Wait()
		if len(x.w.calls) == before {
			break
		}
	}
	return x.w.took()
}

func (x *fixture) pass(d time.Duration) {
	x.w.mu.Lock()
	x.w.now = x.w.now.Add(d)
	x.w.mu.Unlock()
}

func (x *fixture) peer(client ln.PubKey, online bool) {
	x.onPeer(ln.PeerEvent{Peer: client, Online: online}, &seenSince{listed: true})
}

func (x *fixture) incoming(client ln.PubKey, for_ time.Duration) error {
	return x.PaymentIncoming(x.t.Context(), client, x.w.time().Add(for_))
}

func (x *fixture) ledger() map[string]int {
	x.t.Helper()
	out := map[string]int{}
	require.NoError(x.t, x.db.Read(x.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		rows, err := hookdb.New(tx).NotificationStates(ctx)
		for _, r := range rows {
			out[r.State] = int(r.Notifications)
		}
		return err
	}))
	return out
}

func code(err error) int {
	if e := (*lsps0.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestRegister(t *testing.T) {
	cfg := DefaultConfig()
	cfg.PerClient, cfg.SetsPerHour = 2, 5
	eachDB(t, cfg, func(t *testing.T, x *fixture) {
		ctx := t.Context()
		require.Equal(t, lsps5.SetResult{NumWebhooks: 1, MaxWebhooks: 2}, x.mustSet(alice(), "one", "a.example"))
		require.Equal(t, []string{"a.example webhook_registered"}, x.work(), "at once, even while it is connected")
		require.Equal(t, lsps5.SetResult{NumWebhooks: 1, MaxWebhooks: 2, NoChange: true}, x.mustSet(alice(), "one", "a.example"))
		require.Empty(t, x.work(), "nothing changed")
		require.Equal(t, lsps5.SetResult{NumWebhooks: 2, MaxWebhooks: 2}, x.mustSet(alice(), "two\x00", "b.example"))
		_, err := x.set(alice(), "three", "c.example")
		require.Equal(t, lsps5.CodeTooManyWebhooks, code(err))
		require.Equal(t, lsps5.SetResult{NumWebhooks: 2, MaxWebhooks: 2}, x.mustSet(alice(), "one", "c.example"), "replacing succeeds at the limit")
		require.ElementsMatch(t, []string{"b.example webhook_registered", "c.example webhook_registered"}, x.work(), "only what is new is told")

		list, err := x.List(ctx, alice())
		require.NoError(t, err)
		require.Equal(t, lsps5.ListResult{AppNames: []string{"one", "two\x00"}, MaxWebhooks: 2}, list)
		none, err := x.List(ctx, bob())
		require.NoError(t, err)
		require.Empty(t, none.AppNames, "another's are nobody's business")
		require.Equal(t, lsps5.CodeAppNameNotFound, code(x.Remove(ctx, bob(), "one")))
		require.NoError(t, x.Remove(ctx, alice(), "two\x00"))
		require.Equal(t, lsps5.CodeAppNameNotFound, code(x.Remove(ctx, alice(), "two\x00")))

		// What was set survives the process.
		again := newService(t, x.db, x.w, cfg)
		require.NoError(t, again.incoming(alice(), time.Minute))
		require.Equal(t, []string{"c.example payment_incoming"}, again.work())

		// Each change is a call to a URL of the client's choice: only so many.
		x.mustSet(alice(), "one", "d.example")
		x.mustSet(alice(), "one", "e.example")
		_, err = x.set(alice(), "one", "f.example")
		require.ErrorIs(t, err, errTooOften)
		x.mustSet(bob(), "one", "f.example")
		x.pass(time.Hour + time.Second)
		x.mustSet(alice(), "one", "f.example")
	})
}

func TestStrangersAndPrivateNetworks(t *testing.T) {
	cfg := DefaultConfig()
	cfg.PerClient, cfg.All = 2, 3
	eachDB(t, cfg, func(t *testing.T, x *fixture) {
		x.w.known = map[ln.PubKey]bool{alice(): true, bob(): true}
		_, err := x.set(ln.PubKey{2, 3}, "one", "a.example")
		require.ErrorIs(t, err, errStranger)
		for _, host := range []string{"10.0.0.1", "[::1]", "169.254.169.254", "a.example:22"} {
			_, err := x.set(alice(), "one", host)
			require.ErrorIs(t, err, errForbidden, host)
		}
		x.mustSet(alice(), "one", "a.example")
		x.mustSet(alice(), "two", "a.example")
		x.mustSet(bob(), "one", "b.example")
		_, err = x.set(bob(), "two", "b.example")
		require.ErrorIs(t, err, errFull)
		require.Equal(t, 3, x.ledger()[StatePending])
	})
}

// A webhook hears first that it was registered, and everything else only while
// its client is away.
func TestNotifications(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		require.ErrorIs(t, x.incoming(alice(), time.Minute), ErrNoWebhook)
		x.mustSet(alice(), "one", "a.example")
		x.mustSet(alice(), "two", "b.example")
		x.mustSet(bob(), "one", "bob.example")
		require.NoError(t, x.incoming(alice(), time.Minute))
		got := x.work()
		require.ElementsMatch(t, []string{
			"a.example webhook_registered", "b.example webhook_registered", "bob.example webhook_registered",
			"a.example payment_incoming", "b.example payment_incoming",
		}, got, "all webhooks of the client, and no other's")
		for _, host := range []string{"a.example", "b.example"} {
			first := index(got, host+" webhook_registered")
			require.Less(t, first, index(got, host+" payment_incoming"))
		}
		x.pass(time.Hour)
		x.peer(alice(), true)
		require.NoError(t, x.incoming(alice(), time.Minute))
		require.Empty(t, x.work(), "it is connected")

		// It comes while a webhook is tried: the rest is needless.
		x.peer(alice(), false)
		x.w.answer["a.example"] = func(call) (int, error) { return 500, nil }
		require.NoError(t, x.incoming(alice(), time.Minute))
		require.Len(t, x.work(), 2)
		x.peer(alice(), true)
		x.pass(10 * time.Second)
		require.Empty(t, x.work())
		require.Equal(t, 1, x.ledger()[StateNeedless])
	})
}

func index(list []string, want string) int {
	for i, s := range list {
		if s == want {
			return i
		}
	}
	return -1
}

func TestCooldownOfAMethod(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		x.mustSet(alice(), "one", "a.example")
		x.work()
		heard := []string{"a.example payment_incoming"}
		require.NoError(t, x.incoming(alice(), 90*time.Second))
		require.Equal(t, heard, x.work())
		told := x.w.time()
		require.Equal(t, []string{"one at a.example: told at " + told.UTC().Format(time.TimeOnly)}, x.said(alice(), told))
		require.Empty(t, x.said(alice(), told.Add(time.Second)), "not since then")
		require.Empty(t, x.said(bob(), told))
		// Another payment soon after: told when the cooldown ends, if it waits so long.
		x.pass(30 * time.Second)
		require.NoError(t, x.incoming(alice(), 60*time.Second))
		require.Empty(t, x.work())
		x.pass(30 * time.Second)
		require.NoError(t, x.incoming(alice(), 90*time.Second))
		require.NoError(t, x.incoming(alice(), 80*time.Second))
		require.Empty(t, x.work())
		require.Equal(t, []string{"one at a.example: called at " + told.Add(2*time.Minute).UTC().Format(time.TimeOnly) + ", once its cooldown is over"}, x.said(alice(), told.Add(time.Minute)))
		x.pass(60 * time.Second)
		require.Equal(t, heard, x.work(), "once for both")
		// Another method has a cooldown of its own.
		require.NoError(t, x.notify(t.Context(), alice(), lsps5.ExpirySoon, lsps5.ExpiryBody(7), x.w.time().Add(time.Minute)))
		require.Equal(t, []string{"a.example expiry_soon"}, x.work())

		// Coming and going lifts it, but only so often: a client that does nothing
		// else has its webhooks called no more than that.
		calls := 0
		for range 600 {
			x.pass(time.Second)
			x.peer(alice(), true)
			x.peer(alice(), false)
			require.NoError(t, x.incoming(alice(), 90*time.Second))
			calls += len(x.work())
		}
		require.InDelta(t, 600/20, calls, 2)

		// The cooldown outlives the process.
		again := newService(t, x.db, x.w, DefaultConfig())
		require.NoError(t, again.incoming(alice(), 10*time.Second))
		require.Empty(t, again.work())
	})
}

// said is what became of the calls of a client's webhooks since a moment.
func (x *fixture) said(client ln.PubKey, since time.Time) (out []string) {
	list, err := x.LastCalls(context.Background(), client, since)
	if err != nil {
		panic(err)
	}
	for _, n := range list {
		out = append(out, n.Text(x.w.time()))
	}
	return out
}

// TestCallsInWords: each outcome has its own words.
func TestCallsInWords(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, n := range map[string]Notification{
		"app at h: being called":                                        {State: StatePending, Due: now},
		"app at h: called at 12:01:00, once its cooldown is over":       {State: StatePending, Due: now.Add(time.Minute)},
		"app at h: call 2 failed: status 500; again at 12:00:07":        {State: StatePending, Attempts: 2, Outcome: "status 500", Due: now.Add(7 * time.Second)},
		"app at h: given up after 5 calls: connect: connection refused": {State: StateFailed, Attempts: 5, Outcome: "connect: connection refused"},
		"app at h: told at 12:00:00":                                    {State: StateDelivered, Attempts: 1, Outcome: "200", Updated: now},
		"app at h: not called: the client came":                         {State: StateNeedless, Outcome: "the client came"},
		"app at h: not called: the webhook was removed":                 {State: StateDropped, Outcome: "the webhook was removed"},
	} {
		n.AppName, n.Host = "app", "h"
		require.Equal(t, want, n.Text(now))
	}
	require.Equal(t, "a? at h: being called", Notification{AppName: "a\xff", Host: "h", State: StatePending, Due: now}.Text(now))
}

// What a webhook answers is recorded, and tried again for as long as it is of
// use; the client hears nothing of it.
func TestDelivery(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		failures := 3
		x.w.answer["a.example"] = func(call) (int, error) {
			if failures--; failures >= 0 {
				return 0, errors.New("connection refused")
			}
			return 200, nil
		}
		x.mustSet(alice(), "one", "a.example")
		var calls []call
		for range 40 {
			_, err := x.dispatch(t.Context())
			require.NoError(t, err)
			x.wg.Wait()
			x.pass(time.Second)
		}
		x.w.mu.Lock()
		calls = append(calls, x.w.calls...)
		x.w.mu.Unlock()
		require.Len(t, calls, 4)
		for _, c := range calls {
			require.Equal(t, calls[0], c, "the same notification, with the time that it was made at")
		}
		require.Equal(t, "2023-11-14T22:13:20.123Z", calls[0].timestamp)
		require.Equal(t, `signed<LSPS5: DO NOT SIGN THIS MESSAGE MANUALLY: LSP: At 2023-11-14T22:13:20.123Z I notify `+calls[0].body+`>`, calls[0].signature)
		require.Equal(t, map[string]int{StateDelivered: 1}, x.ledger())

		// Nobody is there: it ends.
		x.w.took()
		x.w.answer["a.example"] = func(call) (int, error) { return 0, errors.New("connection refused") }
		require.NoError(t, x.incoming(alice(), time.Hour))
		for range 600 {
			_, err := x.dispatch(t.Context())
			require.NoError(t, err)
			x.wg.Wait()
			x.pass(time.Second)
		}
		require.Len(t, x.w.took(), 8)
		require.Equal(t, map[string]int{StateDelivered: 1, StateFailed: 1}, x.ledger())
		list, err := x.List(t.Context(), alice())
		require.NoError(t, err)
		require.Len(t, list.AppNames, 1, "a webhook that fails is no less registered")
		// Of no use any more: the payment went back.
		x.pass(time.Hour)
		require.NoError(t, x.incoming(alice(), 3*time.Second))
		x.work()
		x.pass(2 * time.Second)
		x.work()
		x.pass(10 * time.Second)
		require.Empty(t, x.work())
		require.Equal(t, map[string]int{StateDelivered: 1, StateFailed: 2}, x.ledger())
	})
}

// LDK's validator takes its own form of the timestamp only: it is found out, and
// kept.
func TestFormOfTimestamps(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		x.w.answer["ldk.example"] = func(c call) (int, error) {
			if strings.HasSuffix(c.timestamp, "+00:00") {
				return 200, nil
			}
			return 401, nil
		}
		x.mustSet(alice(), "one", "ldk.example")
		x.work()
		x.pass(3 * time.Second)
		require.Len(t, x.work(), 1)
		require.Equal(t, map[string]int{StateDelivered: 1}, x.ledger())
		x.pass(time.Hour)
		require.NoError(t, x.incoming(alice(), time.Minute))
		require.Len(t, x.work(), 1, "the first attempt is in the form that it takes")
		require.Equal(t, map[string]int{StateDelivered: 2}, x.ledger())
	})
}

// A webhook that is changed or removed meanwhile is not called any more.
func TestChangedMeanwhile(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		x.mustSet(alice(), "one", "a.example")
		x.mustSet(alice(), "one", "b.example")
		require.Equal(t, []string{"b.example webhook_registered"}, x.work())
		require.NoError(t, x.incoming(alice(), time.Minute))
		x.mustSet(alice(), "one", "c.example")
		require.ElementsMatch(t, []string{"c.example payment_incoming", "c.example webhook_registered"}, x.work())
		x.pass(time.Hour)
		require.NoError(t, x.incoming(alice(), time.Minute))
		require.NoError(t, x.Remove(t.Context(), alice(), "one"))
		require.Empty(t, x.work())
		require.Equal(t, map[string]int{StateDropped: 2, StateDelivered: 3}, x.ledger())
		require.ErrorIs(t, x.incoming(alice(), time.Minute), ErrNoWebhook)
	})
}

// A host that hangs has its share of the calls, and no other waits for it.
func TestSlowHost(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Parallel, cfg.PerHost = 4, 2
	eachDB(t, cfg, func(t *testing.T, x *fixture) {
		release := make(chan struct{})
		x.w.answer["slow.example"] = func(call) (int, error) {
			<-release
			return 200, nil
		}
		for i := range page + 5 {
			x.mustSet(ln.PubKey{2, 9, byte(i), byte(i >> 8)}, "one", "slow.example")
		}
		x.mustSet(bob(), "one", "bob.example")
		_, err := x.dispatch(t.Context())
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			x.w.mu.Lock()
			defer x.w.mu.Unlock()
			return len(x.w.calls) == 3
		}, 10*time.Second, 5*time.Millisecond)
		require.Contains(t, x.w.took(), "bob.example webhook_registered")
		require.Eventually(t, func() bool { return x.Stats().Calling == 2 }, 10*time.Second, 5*time.Millisecond, "the host's share, and no more")
		close(release)
		x.wg.Wait()
	})
}

func TestRetention(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Retain = 8 * 24 * time.Hour
	eachDB(t, cfg, func(t *testing.T, x *fixture) {
		has := func(client ln.PubKey) bool {
			t.Helper()
			list, err := x.List(t.Context(), client)
			require.NoError(t, err)
			return len(list.AppNames) > 0
		}
		day := func(n int) {
			t.Helper()
			for range 24 * n {
				x.pass(time.Hour)
				require.NoError(t, x.sweep(t.Context()))
			}
		}
		require.NoError(t, x.sweep(t.Context()))
		x.mustSet(alice(), "one", "a.example")
		x.mustSet(bob(), "one", "b.example")
		x.w.channels = []ln.Channel{{Peer: alice()}}
		day(7)
		require.True(t, has(bob()), "7 days at least")
		day(2)
		require.False(t, has(bob()))
		require.ErrorIs(t, x.incoming(bob(), time.Minute), ErrNoWebhook)
		day(30)
		require.True(t, has(alice()), "as long as it has a channel")
		x.w.channels, x.w.pending = nil, []ln.PendingChannel{{Peer: alice()}}
		day(10)
		require.True(t, has(alice()), "one that opens or closes counts")
		// The gateway is away for a month, in which the last channel closes.
		x.w.pending = nil
		x.pass(30 * 24 * time.Hour)
		require.NoError(t, x.sweep(t.Context()))
		require.True(t, has(alice()), "nobody knows when it closed")
		day(7)
		require.True(t, has(alice()))
		day(3)
		require.False(t, has(alice()))
		// Outcomes are forgotten later.
		day(31)
		require.Empty(t, x.ledger()[StateDelivered])
	})
}

func TestExpirySoon(t *testing.T) {
	eachDB(t, DefaultConfig(), func(t *testing.T, x *fixture) {
		x.mustSet(alice(), "one", "a.example")
		x.mustSet(bob(), "one", "b.example")
		x.work()
		htlc := func(incoming bool, expiry uint32) ln.ChannelHtlc {
			return ln.ChannelHtlc{Incoming: incoming, Expiry: expiry, LockedIn: true}
		}
		x.w.channels = []ln.Channel{
			{Peer: alice(), Htlcs: []ln.ChannelHtlc{htlc(false, 1030), htlc(false, 1024), htlc(true, 1001)}},
			{Peer: bob(), Htlcs: []ln.ChannelHtlc{htlc(false, 1025), htlc(true, 1001)}},
			{Peer: ln.PubKey{2, 7}, Htlcs: []ln.ChannelHtlc{htlc(false, 1001)}},
		}
		require.NoError(t, x.expirySoon(t.Context(), 1000))
		require.Equal(t, []string{"a.example expiry_soon"}, x.work(), "within 24 blocks, and only what closes a channel")
		require.NoError(t, x.expirySoon(t.Context(), 1001))
		require.Equal(t, []string{"b.example expiry_soon"}, x.work(), "alice has heard it")
		x.pass(3 * time.Minute)
		require.NoError(t, x.expirySoon(t.Context(), 1002))
		require.Len(t, x.work(), 2)
	})
}

// A process that dies at any commit has answered only what is durable, and tells
// again what it may not have told.
func TestCrashes(t *testing.T) {
	for n := int64(1); n <= 6; n++ {
		for _, point := range []storetest.Point{storetest.BeforeCommit, storetest.AfterCommit} {
			t.Run(fmt.Sprintf("%d-%s", n, point), func(t *testing.T) {
				faults := &storetest.Faults{}
				cfg := storetest.SQLite(t)
				cfg.Hooks = faults.Hooks()
				db := storetest.Open(t, cfg)
				require.NoError(t, hookstore.Migrate(t.Context(), db))
				w := &world{now: time.UnixMilli(1_700_000_000_000), answer: map[string]func(call) (int, error){}}
				x := newService(t, db, w, DefaultConfig())
				faults.CrashAt(faults.Commits()+n, point)
				_, setErr := x.set(alice(), "one", "a.example")
				_, _ = x.dispatch(t.Context())
				x.wg.Wait()
				_ = x.incoming(alice(), time.Minute)
				_, _ = x.dispatch(t.Context())
				x.wg.Wait()
				faults.Restart()

				again := newService(t, db, w, DefaultConfig())
				list, err := again.List(t.Context(), alice())
				require.NoError(t, err)
				if setErr == nil {
					require.Equal(t, []string{"one"}, list.AppNames, "it was answered")
				}
				again.pass(5 * time.Minute)
				again.work()
				again.mustSet(alice(), "one", "a.example")
				require.NoError(t, again.incoming(alice(), time.Minute))
				again.work()
				require.Zero(t, again.ledger()[StatePending])
				require.NotZero(t, again.ledger()[StateDelivered])
			})
		}
	}
}
