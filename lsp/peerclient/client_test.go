package peerclient

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

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/lsps0"
	"github.com/sluice-lsp/sluice/lsp/lsps1"
	"github.com/sluice-lsp/sluice/lsp/lsps2"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/peerrpc"
)

func peer(n byte) ln.PubKey { return ln.PubKey{2, n} }

// wire is the connection: what the client sends goes to answer, and deliver brings
// what comes.
type wire struct {
	answer func(m ln.PeerMessage)

	mu     sync.Mutex
	handle func(ln.PeerMessage)
	end    chan error
	sent   []ln.PeerMessage
}

func (w *wire) SubscribeMessages(ctx context.Context, handle func(ln.PeerMessage)) error {
	end := make(chan error, 1)
	w.mu.Lock()
	w.handle, w.end = handle, end
	w.mu.Unlock()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *wire) SendMessage(_ context.Context, m ln.PeerMessage) error {
	w.mu.Lock()
	w.sent = append(w.sent, m)
	w.mu.Unlock()
	if w.answer != nil {
		w.answer(m)
	}
	return nil
}

func (w *wire) deliver(from ln.PubKey, text string) {
	w.mu.Lock()
	handle := w.handle
	w.mu.Unlock()
	handle(ln.PeerMessage{Peer: from, Type: lsps0.MessageType, Data: []byte(text)})
}

func (w *wire) last() ln.PeerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[len(w.sent)-1]
}

func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end <- err
}

func idOf(t *testing.T, m ln.PeerMessage) string {
	t.Helper()
	var r struct {
		ID string `json:"id"`
	}
	require.NoError(t, json.Unmarshal(m.Data, &r))
	require.GreaterOrEqual(t, len(r.ID), 16, "80 random bits at least")
	return r.ID
}

// start runs a client within a bubble of its own time.
func start(t *testing.T, w *wire, f func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := New(w, nil)
		done := make(chan struct{})
		go func() { defer close(done); c.Serve(ctx, nobody{}) }()
		synctest.Wait()
		f(t, c)
		cancel()
		<-done
		require.Empty(t, c.asked, "nothing is remembered of what is over")
	})
}

type nobody struct{}

func (nobody) SubscribePeers(ctx context.Context, _ func(ln.PeerEvent)) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestOnlyAnswersToWhatWasAskedCount(t *testing.T) {
	w := &wire{}
	result := func(id string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,"result":{"protocols":[1,2]}}`, id)
	}
	w.answer = func(m ln.PeerMessage) {
		id := idOf(t, m)
		w.deliver(peer(9), result(id))                                        // another node
		w.deliver(m.Peer, `{"jsonrpc":"2.0","id":"other","result":{}}`)       // another request
		w.deliver(m.Peer, `{"jsonrpc":"2.0","method":"lsps0.x","params":{}}`) // a notification
		w.deliver(m.Peer, strings.Replace(result(id), `[1,2]`, `[5,1]`, 1))   // the answer
		w.deliver(m.Peer, result(id))                                         // once more
		w.deliver(m.Peer, `[]`)                                               // nobody asked any more
		require.Equal(t, uint32(lsps0.MessageType), m.Type)
	}
	start(t, w, func(t *testing.T, c *Client) {
		for range 2 {
			served, err := c.Protocols(t.Context(), peer(1))
			require.NoError(t, err)
			require.Equal(t, []int{5, 1}, served)
		}
		require.NotEqual(t, idOf(t, w.sent[0]), idOf(t, w.sent[1]))
	})
}

func TestABadMessageEndsTheConversation(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":                `nonsense`,
		"a complaint":            `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`,
		"neither nor":            `{"jsonrpc":"2.0","id":"x"}`,
		"a zero byte":            "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}\x00",
		"a result not an object": `{"jsonrpc":"2.0","id":"x","result":7}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := &wire{}
			w.answer = func(m ln.PeerMessage) { w.deliver(m.Peer, text) }
			start(t, w, func(t *testing.T, c *Client) {
				_, err := c.Protocols(t.Context(), peer(1))
				require.ErrorIs(t, err, ErrBadMessage)
				_, err = c.Protocols(t.Context(), peer(1))
				require.ErrorIs(t, err, ErrBadMessage)
				require.Len(t, w.sent, 1, "nothing more is sent on this connection")
				c.PeerChanged(peer(1))
				_, err = c.Protocols(t.Context(), peer(1))
				require.ErrorIs(t, err, ErrBadMessage)
				require.Len(t, w.sent, 2)
			})
		})
	}
}

func TestSilence(t *testing.T) {
	w := &wire{}
	start(t, w, func(t *testing.T, c *Client) {
		began := time.Now()
		_, err := c.Protocols(t.Context(), peer(1))
		require.ErrorIs(t, err, ErrNoAnswer)
		require.LessOrEqual(t, time.Since(began), answerWithin)

		// Who goes away, and a stream that ends, answer nothing.
		for _, end := range []func(){func() { c.PeerChanged(peer(1)) }, func() { w.fail(errors.New("lnd is restarted")) }} {
			errs := make(chan error, 1)
			go func() {
				_, err := c.Protocols(t.Context(), peer(1))
				errs <- err
			}()
			time.Sleep(time.Second)
			late := w.last()
			end()
			require.ErrorIs(t, <-errs, ErrNoAnswer)
			time.Sleep(time.Second)
			w.deliver(peer(1), fmt.Sprintf(`{"jsonrpc":"2.0","id":%q,"result":{}}`, idOf(t, late)))
		}
		errs := make(chan error, 2*mostAsked)
		for range 2 * mostAsked {
			go func() {
				_, err := c.Protocols(t.Context(), peer(1))
				errs <- err
			}()
		}
		refused := 0
		for range 2 * mostAsked {
			if errors.Is(<-errs, errTooMany) {
				refused++
			}
		}
		require.Equal(t, mostAsked, refused)
	})
}

func TestWithoutLndsStreamNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(&wire{}, nil)
		_, err := c.Protocols(t.Context(), peer(1))
		require.Equal(t, errkind.Unavailable, errkind.Of(err))
		require.ErrorContains(t, err, "lnd does not deliver")
	})
}

// shop is an LSP of our own behind the messages.
type shop struct {
	orders map[string]lsps1.Order
	hooks  map[string]string
}

func (s *shop) Options(context.Context) (lsps1.Options, error) {
	return lsps1.Options{MinConfirmWithin: 6, MaxExpiryBlocks: 1000, MaxClientSat: 10, MinLspSat: 100_000, MaxLspSat: 1_000_000, MinChannelSat: 100_000, MaxChannelSat: 1_000_000}, nil
}

func (s *shop) Create(_ context.Context, _ ln.PubKey, r lsps1.CreateOrderRequest) (lsps1.Order, error) {
	if err := func() error { o, _ := s.Options(context.Background()); return o.Check(r.Wish) }(); err != nil {
		return lsps1.Order{}, err
	}
	if r.Token != "" {
		return lsps1.Order{}, lsps1.ErrToken
	}
	o := lsps1.Order{
		OrderID: fmt.Sprintf("order-%d", len(s.orders)), LspBalanceSat: lsps0.Sat(r.LspBalanceSat), ExpiryBlocks: r.ExpiryBlocks, ConfirmWithin: r.ConfirmWithin,
		State: order.WireCreated, Payment: lsps1.Payment{Bolt11: &lsps1.Bolt11{State: order.ExpectPayment, FeeSat: 7, TotalSat: 7, Invoice: "lnbcrt1"}},
	}
	s.orders[o.OrderID] = o
	return o, nil
}

func (s *shop) Get(_ context.Context, _ ln.PubKey, id string) (lsps1.Order, error) {
	o, ok := s.orders[id]
	if !ok {
		return o, lsps1.ErrNotFound
	}
	return o, nil
}

func (s *shop) Menu(_ context.Context, _ ln.PubKey, token string) ([]lsp.OpeningFeeParams, error) {
	if token != "" {
		return nil, lsps2.ErrToken
	}
	return []lsp.OpeningFeeParams{{MinFeeMsat: 5, ProportionalPPM: 3, ValidUntil: time.Now().Add(time.Hour), MinLifetimeBlocks: 1, MaxClientToSelfDelay: 2, MinPaymentSizeMsat: 1, MaxPaymentSizeMsat: 9, Promise: "p"}}, nil
}

func (s *shop) Buy(context.Context, ln.PubKey, lsps2.BuyRequest) (lsps2.BuyResult, error) {
	return lsps2.BuyResult{SCID: ln.NewSCID(16_100_000, 1, 2), CltvExpiryDelta: 80}, nil
}

func (s *shop) Set(_ context.Context, _ ln.PubKey, h lsps5.Hook) (lsps5.SetResult, error) {
	if len(s.hooks) >= 2 {
		return lsps5.SetResult{}, lsps5.TooManyWebhooks(2)
	}
	s.hooks[h.AppName] = h.Target.Host
	return lsps5.SetResult{NumWebhooks: len(s.hooks), MaxWebhooks: 2}, nil
}

func (s *shop) List(context.Context, ln.PubKey) (lsps5.ListResult, error) {
	r := lsps5.ListResult{MaxWebhooks: 2}
	for name := range s.hooks {
		r.AppNames = append(r.AppNames, name)
	}
	return r, nil
}

func (s *shop) Remove(_ context.Context, _ ln.PubKey, app string) error {
	if _, ok := s.hooks[app]; !ok {
		return lsps5.AppNameNotFound()
	}
	delete(s.hooks, app)
	return nil
}

// The client and the server of this repository understand each other, in every
// method and in every error.
func TestAgainstOurOwnServer(t *testing.T) {
	s := &shop{orders: map[string]lsps1.Order{}, hooks: map[string]string{}}
	ours, theirs := &wire{}, &wire{}
	me, lspKey := peer(1), peer(2)
	server, err := peerrpc.New(peerrpc.Options{
		Messages: theirs, Peers: nobody{}, Limits: peerrpc.DefaultLimits(),
		Methods: map[string]peerrpc.Method{
			lsps0.MethodListProtocols: func(context.Context, ln.PubKey, lsps0.Params) (any, error) {
				return lsps0.NewListProtocols(1, 2, 5), nil
			},
			lsps1.MethodGetInfo: lsps1.GetInfo(s), lsps1.MethodCreateOrder: lsps1.CreateOrder(s), lsps1.MethodGetOrder: lsps1.GetOrder(s),
			lsps2.MethodGetInfo: lsps2.GetInfo(s), lsps2.MethodBuy: lsps2.Buy(s),
			lsps5.MethodSetWebhook: lsps5.SetWebhook(s), lsps5.MethodListWebhooks: lsps5.ListWebhooks(s), lsps5.MethodRemoveWebhook: lsps5.RemoveWebhook(s),
		},
	})
	require.NoError(t, err)
	ours.answer = func(m ln.PeerMessage) { theirs.deliver(me, string(m.Data)) }
	theirs.answer = func(m ln.PeerMessage) { ours.deliver(lspKey, string(m.Data)) }
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c := New(ours, nil)
	running.Go(func() { server.Run(ctx) })
	running.Go(func() { c.Serve(ctx, nobody{}) })
	defer running.Wait()
	defer cancel()
	require.Eventually(t, func() bool {
		theirs.mu.Lock()
		defer theirs.mu.Unlock()
		return theirs.handle != nil
	}, 30*time.Second, time.Millisecond)

	served, err := c.Protocols(ctx, lspKey)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 5}, served)
	options, err := c.OrderOptions(ctx, lspKey)
	require.NoError(t, err)
	want, _ := s.Options(ctx)
	require.Equal(t, want, options)
	wish := order.Wish{LspBalanceSat: 200_000, ConfirmWithin: 6, ExpiryBlocks: 10}
	o, err := c.CreateOrder(ctx, lspKey, lsps1.CreateOrderRequest{Wish: wish})
	require.NoError(t, err)
	again, err := c.Order(ctx, lspKey, o.OrderID)
	require.NoError(t, err)
	require.Equal(t, o, again)
	_, err = c.Order(ctx, lspKey, "none")
	require.Equal(t, errkind.NotFound, errkind.Of(err), "%v", err)
	wish.ExpiryBlocks = 5000
	_, err = c.CreateOrder(ctx, lspKey, lsps1.CreateOrderRequest{Wish: wish})
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	require.ErrorContains(t, err, "channel_expiry_blocks must be at most 1000")
	wish.ExpiryBlocks, wish.Token = 10, "x"
	_, err = c.CreateOrder(ctx, lspKey, lsps1.CreateOrderRequest{Wish: wish})
	require.ErrorContains(t, err, "does not know the token")

	menu, err := c.Menu(ctx, lspKey, "")
	require.NoError(t, err)
	require.Len(t, menu, 1)
	_, err = c.Menu(ctx, lspKey, "x")
	require.ErrorContains(t, err, "does not know the token")
	bought, err := c.Buy(ctx, lspKey, lsps2.BuyRequest{Params: menu[0], SizeMsat: 9, HasSize: true})
	require.NoError(t, err)
	require.EqualValues(t, 80, bought.CltvExpiryDelta)

	set, err := c.SetWebhook(ctx, lspKey, "phone", "https://example.com/x")
	require.NoError(t, err)
	require.Equal(t, lsps5.SetResult{NumWebhooks: 1, MaxWebhooks: 2}, set)
	list, err := c.Webhooks(ctx, lspKey)
	require.NoError(t, err)
	require.Equal(t, []string{"phone"}, list.AppNames)
	_, err = c.SetWebhook(ctx, lspKey, "other", "http://example.com/x")
	require.Equal(t, errkind.Invalid, errkind.Of(err))
	_, err = c.SetWebhook(ctx, lspKey, "other", "https://example.com/x")
	require.NoError(t, err)
	_, err = c.SetWebhook(ctx, lspKey, "third", "https://example.com/x")
	require.Equal(t, errkind.Exhausted, errkind.Of(err))
	require.NoError(t, c.RemoveWebhook(ctx, lspKey, "phone"))
	require.Equal(t, errkind.NotFound, errkind.Of(c.RemoveWebhook(ctx, lspKey, "phone")))
	_, err = c.Call(ctx, lspKey, "lsps9.what", nil)
	require.Equal(t, errkind.NotFound, errkind.Of(told("lsps9.what", err)))
}

// Whatever comes on the wire, a client neither fails nor takes it for an answer.
func FuzzTake(f *testing.F) {
	for _, text := range []string{`{}`, `[]`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`, `{"jsonrpc":"2.0","id":"a","result":{}}`, "\x00", `{"jsonrpc":"2.0","method":"m"}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := New(&wire{}, nil)
		ch := make(chan answer, 1)
		id := lsps0.StringID("4f1c2b9d6e8a4f1c2b9d6e8a")
		require.NoError(t, c.expect(peer(1), id, ch))
		c.take(ln.PeerMessage{Peer: peer(1), Type: lsps0.MessageType, Data: data})
		select {
		case a := <-ch:
			require.True(t, a.err != nil || a.ID == id)
		default:
		}
	})
}
