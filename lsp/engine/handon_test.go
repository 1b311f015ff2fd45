package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// queues is lnd between a RESUME and the moment at which a channel has the HTLC:
// what was handed on waits until the test lets it be placed.
type queues struct {
	Held
	mu      sync.Mutex
	resumed []ln.CircuitKey
	report  map[ln.CircuitKey]HtlcEvent
	events  chan ln.HtlcEvent
	// end ends a subscription to HTLC events.
	end chan struct{}
	// handed is told of each call of Resume.
	handed chan []Forward
}

func newQueues() *queues {
	return &queues{report: make(map[ln.CircuitKey]HtlcEvent), events: make(chan ln.HtlcEvent), end: make(chan struct{}), handed: make(chan []Forward, 16)}
}

func (q *queues) Resume(_ context.Context, all []Forward, _ string) error {
	q.mu.Lock()
	for _, f := range all {
		q.resumed = append(q.resumed, f.Key)
	}
	q.mu.Unlock()
	q.handed <- all
	return nil
}

func (q *queues) Lookup(context.Context, ln.Hash) (out []HtlcEvent, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range q.report {
		out = append(out, r)
	}
	return out, nil
}

func (q *queues) SubscribeHtlcEvents(ctx context.Context, ready func(), handle func(ln.HtlcEvent)) error {
	ready()
	for {
		select {
		case ev := <-q.events:
			handle(ev)
		case <-q.end:
			return errors.New("lnd restarts")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *queues) tell(t *testing.T, key ln.CircuitKey, kind ln.HtlcEventKind) {
	t.Helper()
	select {
	case q.events <- ln.HtlcEvent{Kind: kind, Incoming: key}:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody follows lnd's HTLC events")
	}
}

func (q *queues) next(t *testing.T) []ln.CircuitKey {
	t.Helper()
	select {
	case all := <-q.handed:
		keys := make([]ln.CircuitKey, 0, len(all))
		for _, f := range all {
			keys = append(keys, f.Key)
		}
		return keys
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is handed on")
		return nil
	}
}

func (q *queues) nothing(t *testing.T) {
	t.Helper()
	select {
	case all := <-q.handed:
		t.Fatalf("%v was handed on while another HTLC was in a queue", all)
	case <-time.After(50 * time.Millisecond):
	}
}

// Where a wallet has several channels its HTLCs are handed on one after the other,
// whichever payment they are of and wherever lnd puts them, each once the one before
// is in a channel or refused; ours wait for them, and they for ours.
func TestOneAfterTheOther(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	q := newQueues()
	b.e.opt.Held, b.e.node.Forwards = q, q
	client, other := key(2), key(3)
	const amount = ln.Msat(100_000_000)
	var all []jit.ResumeParts
	for i := range uint64(3) {
		a, hash := b.agree(client, amount)
		require.NoError(t, b.part(a, hash, 10*i))
		f := jit.ResumeParts{OfferID: a.PaymentID}
		for part := range uint64(2) {
			htlc := ln.InterceptedHtlc{Key: ln.CircuitKey{ChanID: 7, HtlcID: 10*i + part}, Hash: hash}
			f.Keys = append(f.Keys, htlc.Key)
			q.report[htlc.Key] = HtlcEvent{Kind: HtlcOffered, Htlc: htlc}
		}
		all = append(all, f)
		b.e.spots[a.PaymentID] = spot{client: client, hash: hash, amount: amount, via: 50, decided: true, since: time.Now()}
	}
	channel := func(n byte, peer ln.PubKey) {
		b.e.world.channelEvent(ln.ChannelEvent{
			Kind: ln.ChannelOpened, Outpoint: ln.Outpoint{TxID: ln.TxID{n}}, Channel: &ln.Channel{Peer: peer, ChanID: ln.SCID(n)},
		})
	}
	var wg sync.WaitGroup
	handOn := func(f jit.ResumeParts) {
		wg.Go(func() {
			events, err := b.e.resumeParts(t.Context(), f)
			require.NoError(t, err)
			require.IsType(t, jit.PartsResumed{}, events[0])
		})
	}

	// One channel: there is no choice, and lnd gets all at once.
	channel(1, client)
	channel(2, other)
	channel(3, other)
	handOn(all[0])
	require.Equal(t, all[0].Keys, q.next(t))
	wg.Wait()

	channel(4, client)
	handOn(all[0])
	require.Equal(t, all[0].Keys[:1], q.next(t))
	handOn(all[1])
	q.nothing(t)
	q.tell(t, all[1].Keys[0], ln.HtlcForwarded)
	q.nothing(t)
	q.tell(t, all[0].Keys[0], ln.HtlcForwarded)
	require.Equal(t, all[0].Keys[1:], q.next(t))
	q.nothing(t)
	q.tell(t, all[0].Keys[1], ln.HtlcForwardFail)
	require.Equal(t, all[1].Keys[:1], q.next(t), "the second payment's turn")

	// A payment of ours waits for it, and is waited for until lnd shows it.
	direct := spot{client: client, hash: ln.Hash{9}, amount: amount, via: 4, decided: true, direct: true, since: time.Now()}
	b.e.mu.Lock()
	b.e.spots["direct"] = direct
	b.e.mu.Unlock()
	sent := make(chan struct{})
	wg.Go(func() {
		leave, err := b.e.gates.enter(t.Context(), client)
		require.NoError(t, err)
		leave()
		close(sent)
	})
	handOn(all[2])
	select {
	case <-sent:
		t.Fatal("a payment of ours was sent between two HTLCs that are being handed on")
	case <-time.After(50 * time.Millisecond):
	}
	q.tell(t, all[1].Keys[0], ln.HtlcForwarded)
	require.Equal(t, all[1].Keys[1:], q.next(t))
	q.tell(t, all[1].Keys[1], ln.HtlcForwarded)
	<-sent
	q.nothing(t)
	shown := roomy(client, 4, 150_000)
	shown.Htlcs = []ln.ChannelHtlc{{Hash: direct.hash, AmtMsat: amount}}
	b.node.mu.Lock()
	b.node.channels = []ln.Channel{shown}
	b.node.mu.Unlock()
	require.Equal(t, all[2].Keys[:1], q.next(t))
	q.tell(t, all[2].Keys[0], ln.HtlcForwarded)
	require.Equal(t, all[2].Keys[1:], q.next(t))
	q.tell(t, all[2].Keys[1], ln.HtlcForwarded)
	wg.Wait()
	require.Empty(t, b.e.gates.of, "nobody hands anything on")
}

// threeParts are held of a payment to a wallet with two channels, and are to be handed on.
func threeParts(t *testing.T) (b *office, q *queues, f jit.ResumeParts, hash ln.Hash) {
	t.Helper()
	b = newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	q = newQueues()
	b.e.opt.Held, b.e.node.Forwards = q, q
	client := key(2)
	for n := range byte(2) {
		b.e.world.channelEvent(ln.ChannelEvent{
			Kind: ln.ChannelOpened, Outpoint: ln.Outpoint{TxID: ln.TxID{n}}, Channel: &ln.Channel{Peer: client, ChanID: ln.SCID(n)},
		})
	}
	a, paid := b.agree(client, 100_000_000)
	require.NoError(t, b.part(a, paid, 0))
	f = jit.ResumeParts{OfferID: a.PaymentID}
	for part := range uint64(3) {
		htlc := ln.InterceptedHtlc{Key: ln.CircuitKey{ChanID: 7, HtlcID: part}, Hash: paid}
		f.Keys = append(f.Keys, htlc.Key)
		q.report[htlc.Key] = HtlcEvent{Kind: HtlcOffered, Htlc: htlc}
	}
	b.e.spots[a.PaymentID] = spot{client: client, hash: paid, amount: 1, via: 50, decided: true, since: time.Now()}
	return b, q, f, paid
}

// A set of which one part went on chain is not begun; one that was begun before a
// crash is finished, and what lnd has already is not waited for.
func TestHandingOnAgain(t *testing.T) {
	b, q, f, hash := threeParts(t)
	var forwards []Forward
	for _, k := range f.Keys {
		forwards = append(forwards, Forward{Key: k})
	}

	last := f.Keys[2]
	for _, bad := range []HtlcEvent{{Kind: HtlcGone}, {Kind: HtlcOffered, OnChain: true}} {
		bad.Htlc = ln.InterceptedHtlc{Key: last, Hash: hash}
		q.report[last] = bad
		require.ErrorIs(t, b.e.handOn(t.Context(), f, forwards, "test"), ErrDecided)
		require.Empty(t, q.resumed)
	}

	q.report[last] = HtlcEvent{Kind: HtlcOffered, Htlc: ln.InterceptedHtlc{Key: last, Hash: hash}}
	for _, k := range f.Keys[:2] {
		q.report[k] = HtlcEvent{Kind: HtlcDecided, Resumed: true, Htlc: ln.InterceptedHtlc{Key: k, Hash: hash}}
	}
	done := make(chan error, 1)
	go func() { done <- b.e.handOn(t.Context(), f, forwards, "test") }()
	for _, k := range f.Keys {
		require.Equal(t, []ln.CircuitKey{k}, q.next(t))
	}
	q.tell(t, last, ln.HtlcForwarded)
	require.NoError(t, <-done)
}

// When lnd's events end in the midst of a set, nothing is waited for that nobody would
// hear of: the rest is handed on, one after the other, by a new subscription.
func TestHandingOnAfterEventsEnded(t *testing.T) {
	b, q, f, hash := threeParts(t)
	done := make(chan error, 1)
	handOn := func() {
		go func() {
			_, err := b.e.resumeParts(t.Context(), f)
			done <- err
		}()
	}
	handOn()
	require.Equal(t, f.Keys[:1], q.next(t))
	q.end <- struct{}{}
	require.ErrorIs(t, <-done, ln.ErrUnavailable)
	require.Empty(t, q.handed, "nothing is handed on blindly")
	q.mu.Lock()
	q.report[f.Keys[0]] = HtlcEvent{Kind: HtlcDecided, Resumed: true, Htlc: ln.InterceptedHtlc{Key: f.Keys[0], Hash: hash}}
	q.mu.Unlock()
	handOn()
	for i, k := range f.Keys {
		require.Equal(t, []ln.CircuitKey{k}, q.next(t))
		if i > 0 {
			q.nothing(t)
			q.tell(t, k, ln.HtlcForwarded)
		}
	}
	require.NoError(t, <-done)
}
