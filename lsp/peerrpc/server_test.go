package peerrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
)

// wire is lnd as the server sees it, played by the test. Everything runs in a
// synctest bubble: time moves when all wait.
type wire struct {
	mu       sync.Mutex
	messages func(ln.PeerMessage)
	peers    func(ln.PeerEvent)
	cut      map[string]chan error
	began    int
	sent     map[ln.PubKey][]string
	// slow holds up what is sent to a peer until closed.
	slow map[ln.PubKey]chan struct{}
	gone map[ln.PubKey]bool
}

func (w *wire) subscribe(ctx context.Context, what string, set func()) error {
	w.mu.Lock()
	set()
	w.began++
	cut := make(chan error)
	w.cut[what] = cut
	w.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-cut:
		return err
	}
}

func (w *wire) SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error {
	return w.subscribe(ctx, "messages", func() { w.messages = handle })
}

func (w *wire) SubscribePeers(ctx context.Context, handle func(ln.PeerEvent)) error {
	return w.subscribe(ctx, "peers", func() { w.peers = handle })
}

func (w *wire) SendMessage(ctx context.Context, m ln.PeerMessage) error {
	w.mu.Lock()
	slow, gone := w.slow[m.Peer], w.gone[m.Peer]
	w.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if gone {
		return ln.ErrPeerOffline
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Type != lsps0.MessageType {
		return fmt.Errorf("type %d", m.Type)
	}
	w.sent[m.Peer] = append(w.sent[m.Peer], string(m.Data))
	return nil
}

// to gives what was sent to a peer since last asked.
func (w *wire) to(peer ln.PubKey) []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.sent[peer]
	delete(w.sent, peer)
	return out
}

func (w *wire) from(peer ln.PubKey, payload string) {
	w.messages(ln.PeerMessage{Peer: peer, Type: lsps0.MessageType, Data: []byte(payload)})
}

func (w *wire) ask(peer ln.PubKey, id, method string) {
	w.from(peer, fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,"method":%q,"params":{}}`, id, method))
}

func (w *wire) leave(peer ln.PubKey) { w.peers(ln.PeerEvent{Peer: peer}) }

type rig struct {
	*wire
	*peerrpc.Server
	// gates hold up calls of "wait" until closed, by client.
	release chan struct{}
	ended   chan error
}

func serve(t *testing.T, limits peerrpc.Limits, test func(*testing.T, *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{
			wire: &wire{
				cut: map[string]chan error{}, sent: map[ln.PubKey][]string{}, slow: map[ln.PubKey]chan struct{}{}, gone: map[ln.PubKey]bool{},
			},
			release: make(chan struct{}), ended: make(chan error, 10_000),
		}
		server, err := peerrpc.New(peerrpc.Options{
			Messages: r.wire, Peers: r.wire, Limits: limits, Log: zaptest.NewLogger(t),
			Methods: map[string]peerrpc.Method{
				"who": func(_ context.Context, client ln.PubKey, _ lsps0.Params) (any, error) {
					return map[string]any{"you": client}, nil
				},
				"refuse": func(context.Context, ln.PubKey, lsps0.Params) (any, error) { return nil, lsps0.ClientRejected("no") },
				"secret": func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
					return nil, errkind.New(errkind.Internal, "hush")
				},
				"enormous": func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
					return map[string]any{"x": strings.Repeat("x", 70_000)}, nil
				},
				"wait": func(ctx context.Context, _ ln.PubKey, _ lsps0.Params) (any, error) {
					select {
					case <-r.release:
						return struct{}{}, nil
					case <-ctx.Done():
						r.ended <- ctx.Err()
						return nil, ctx.Err()
					}
				},
			},
		})
		require.NoError(t, err)
		r.Server = server
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { server.Run(ctx) })
		synctest.Wait()
		test(t, r)
		cancel()
		wg.Wait() // nothing of the server is left behind
	})
}

func peer(n int) ln.PubKey { return ln.PubKey{2, byte(n >> 8), byte(n)} }

// read reads an answer as a client does.
func read(t *testing.T, payload string) lsps0.Message {
	t.Helper()
	m, err := lsps0.ParseMessage([]byte(payload))
	require.NoError(t, err, payload)
	return m
}

// codes are the error codes of the answers by id; 0 is a result.
func codes(t *testing.T, payloads []string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, p := range payloads {
		m := read(t, p)
		require.NotContains(t, out, m.ID.String(), "two answers for one id")
		out[m.ID.String()] = 0
		if m.Error != nil {
			out[m.ID.String()] = m.Error.Code
		}
	}
	return out
}

func TestAnswersByID(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a, b := peer(1), peer(2)
		r.ask(a, "slow", "wait")
		r.ask(a, "fast", "who")
		r.ask(b, "fast", "who")
		answers := r.to(a)
		require.Len(t, answers, 1, "a slow request holds up no other")
		require.JSONEq(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":"fast","result":{"you":%q}}`, a), answers[0])
		require.JSONEq(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":"fast","result":{"you":%q}}`, b), r.to(b)[0])
		close(r.release)
		require.Equal(t, map[string]int{`"slow"`: 0}, codes(t, r.to(a)))

		r.ask(a, "1", "nothing")
		r.ask(a, "2", "refuse")
		r.ask(a, "3", "secret")
		r.ask(a, "4", "enormous")
		r.from(a, `{"jsonrpc":"2.0","id":"5","method":"who","params":[]}`)
		got := r.to(a)
		require.Equal(t, map[string]int{
			`"1"`: lsps0.CodeMethodNotFound, `"2"`: lsps0.CodeClientRejected, `"3"`: lsps0.CodeInternal,
			`"4"`: lsps0.CodeInternal, `"5"`: lsps0.CodeInvalidParams,
		}, codes(t, got))
		require.NotContains(t, strings.Join(got, ""), "hush")
	})
}

func TestNobodyIsSpokenToFirst(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		stranger := peer(9)
		r.peers(ln.PeerEvent{Peer: stranger, Online: true})
		r.messages(ln.PeerMessage{Peer: stranger, Type: lsps0.MessageType + 2, Data: []byte(`{"jsonrpc":"2.0","id":"a","method":"who"}`)})
		r.leave(stranger)
		require.Empty(t, r.to(stranger))
		require.Zero(t, r.Stats())
	})
}

func TestBadMessages(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a := peer(1)
		for _, bad := range []string{"", "nonsense", `[{"jsonrpc":"2.0","id":"a","method":"who"}]`, `{"jsonrpc":"2.0","id":"x","result":{}}`} {
			r.from(a, bad)
			require.Equal(t, []string{`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`}, r.to(a), bad)
		}
		// Two LSPs that complain to each other must not go on for ever.
		r.from(a, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`)
		require.Empty(t, r.to(a))
		require.Equal(t, uint64(1), r.Stats().Complaints)
		// Who complained could not read data (LDK): it gets none from now on,
		// also after it has connected again.
		r.ask(a, "1", "refuse")
		require.NotContains(t, r.to(a)[0], "data")
		r.leave(a)
		r.ask(a, "2", "refuse")
		require.NotContains(t, r.to(a)[0], "data")
		r.ask(peer(2), "1", "refuse")
		require.Contains(t, r.to(peer(2))[0], "data")
	})
}

func TestTheEleventhPendingRequest(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a, b := peer(1), peer(2)
		for i := range 10 {
			r.ask(a, fmt.Sprint(i), "wait")
		}
		require.Empty(t, r.to(a))
		r.ask(a, "again", "who")
		m := read(t, r.to(a)[0])
		require.Equal(t, lsps0.CodeClientRejected, m.Error.Code)
		var data struct{ Message string }
		require.NoError(t, json.Unmarshal(m.Error.Data, &data))
		require.Contains(t, data.Message, "pending")
		r.ask(b, "other", "who")
		require.Equal(t, map[string]int{`"other"`: 0}, codes(t, r.to(b)))
		close(r.release)
		require.Len(t, codes(t, r.to(a)), 10)
		r.ask(a, "again", "who")
		require.Equal(t, map[string]int{`"again"`: 0}, codes(t, r.to(a)))
		require.Zero(t, r.Stats().Pending)
	})
}

// Many peers that together fill every slot leave others an answer, and the
// slots come back.
func TestTheGlobalCap(t *testing.T) {
	limits := peerrpc.DefaultLimits()
	limits.AllPending = 50
	serve(t, limits, func(t *testing.T, r *rig) {
		for p := range 5 {
			for i := range 10 {
				r.ask(peer(p), fmt.Sprint(i), "wait")
			}
		}
		r.ask(peer(100), "x", "who")
		require.Equal(t, map[string]int{`"x"`: lsps0.CodeClientRejected}, codes(t, r.to(peer(100))))
		r.leave(peer(0))
		synctest.Wait()
		require.Equal(t, 40, r.Stats().Pending, "who leaves frees its slots")
		r.ask(peer(100), "y", "who")
		require.Equal(t, map[string]int{`"y"`: 0}, codes(t, r.to(peer(100))))
		close(r.release)
	})
}

func TestSlowPeerHoldsUpNobody(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a, b := peer(1), peer(2)
		r.mu.Lock()
		r.slow[a] = make(chan struct{})
		r.mu.Unlock()
		r.ask(a, "1", "who")
		r.ask(b, "1", "who")
		require.Len(t, r.to(b), 1)
		require.Empty(t, r.to(a))
		require.Equal(t, 1, r.Stats().Pending, "an unwritten answer keeps its slot")
		time.Sleep(peerrpc.DefaultLimits().SendFor)
		synctest.Wait()
		require.Zero(t, r.Stats().Pending)
		require.Equal(t, uint64(1), r.Stats().Lost)
	})
}

func TestSlowMethodsEnd(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		r.ask(peer(1), "1", "wait")
		time.Sleep(peerrpc.DefaultLimits().CallFor)
		require.Equal(t, map[string]int{`"1"`: lsps0.CodeInternal}, codes(t, r.to(peer(1))))
		require.ErrorIs(t, <-r.ended, context.DeadlineExceeded)
	})
}

// No answer crosses a reconnect, even one that is ready only then.
func TestNoAnswerCrossesAReconnect(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a := peer(1)
		r.ask(a, "old", "wait")
		synctest.Wait()
		r.leave(a)
		r.peers(ln.PeerEvent{Peer: a, Online: true})
		require.ErrorIs(t, <-r.ended, context.Canceled, "nobody works for who has left")
		r.ask(a, "new", "who")
		require.Equal(t, map[string]int{`"new"`: 0}, codes(t, r.to(a)))
		require.Equal(t, uint64(1), r.Stats().Lost)
	})
}

// A peer's first request may be here before lnd's word that the peer came.
func TestFirstRequestBeforeTheNewsOfItsPeer(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		r.ask(peer(1), "1", "wait")
		synctest.Wait()
		r.peers(ln.PeerEvent{Peer: peer(1), Online: true})
		close(r.release)
		require.Equal(t, map[string]int{`"1"`: 0}, codes(t, r.to(peer(1))))
	})
}

func TestPeersAreForgotten(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		for i := range 100 {
			r.ask(peer(i), "1", "who")
		}
		synctest.Wait()
		require.Equal(t, 100, r.Stats().Peers)
		time.Sleep(time.Minute) // their shares are full again
		for i := range 100 {
			r.leave(peer(i))
		}
		require.Zero(t, r.Stats().Peers)
	})
}

// Who connects again has not got a new share by it.
func TestReconnectingRenewsNoShare(t *testing.T) {
	limits := peerrpc.DefaultLimits()
	serve(t, limits, func(t *testing.T, r *rig) {
		a, answered := peer(1), 0
		for i := range 200 {
			r.ask(a, fmt.Sprint(i), "who")
			answered += len(r.to(a))
			r.leave(a)
		}
		require.Equal(t, limits.PeerBurst, answered)
		require.Equal(t, uint64(200-limits.PeerBurst), r.Stats().Dropped)
		time.Sleep(time.Second)
		for i := range 10 {
			r.ask(a, fmt.Sprint(i), "who")
		}
		require.Len(t, r.to(a), int(limits.PeerPerSecond))
	})
}

func TestBytesAreBounded(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a := peer(1)
		large := `{"jsonrpc":"2.0","id":"%d","method":"who"}` + strings.Repeat(" ", 60_000)
		for i := range 10 {
			r.from(a, fmt.Sprintf(large, i))
		}
		require.Len(t, r.to(a), 1)
		r.ask(peer(2), "1", "who")
		require.Len(t, r.to(peer(2)), 1)
	})
}

func TestPeersRememberedAreBounded(t *testing.T) {
	limits := peerrpc.DefaultLimits()
	limits.Peers = 10
	serve(t, limits, func(t *testing.T, r *rig) {
		for i := range 11 {
			r.ask(peer(i), "1", "who")
		}
		require.Equal(t, 10, r.Stats().Peers)
		require.Empty(t, r.to(peer(10)))
		for i := range 10 {
			r.leave(peer(i))
		}
		time.Sleep(time.Second)
		r.ask(peer(10), "2", "who")
		require.Len(t, r.to(peer(10)), 1)
	})
}

func TestOneIDInFlightTwice(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a := peer(1)
		r.ask(a, "1", "wait")
		r.ask(a, "1", "wait")
		close(r.release)
		require.Len(t, r.to(a), 1)
		r.ask(a, "1", "who")
		require.Len(t, r.to(a), 1)
	})
}

// lnd ending a stream is no end: both are begun again; while nobody saw who
// came and went, no earlier request is answered.
func TestStreamsComeBack(t *testing.T) {
	serve(t, peerrpc.DefaultLimits(), func(t *testing.T, r *rig) {
		a := peer(1)
		r.ask(a, "1", "wait")
		synctest.Wait()
		for _, what := range []string{"messages", "peers"} {
			r.cut[what] <- errors.New("lnd restarts")
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		require.Equal(t, 4, r.began)
		require.ErrorIs(t, <-r.ended, context.Canceled)
		r.ask(a, "2", "who")
		require.Equal(t, map[string]int{`"2"`: 0}, codes(t, r.to(a)))
		r.mu.Lock()
		r.gone[a] = true
		r.mu.Unlock()
		r.ask(a, "3", "who")
		require.Empty(t, r.to(a))
		require.Equal(t, uint64(2), r.Stats().Lost)
	})
}

func TestLimitsAreChecked(t *testing.T) {
	_, err := peerrpc.New(peerrpc.Options{})
	require.Error(t, err)
	l := peerrpc.DefaultLimits()
	require.NoError(t, l.Validate())
	l.AllPending = l.PeerPending - 1
	require.Error(t, l.Validate())
}
