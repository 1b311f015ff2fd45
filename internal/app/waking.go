package app

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	lspapi "github.com/sluice-lsp/sluice/lsp/api"
	lspengine "github.com/sluice-lsp/sluice/lsp/engine"
	"github.com/sluice-lsp/sluice/lsp/webhooks"
	lwsengine "github.com/sluice-lsp/sluice/lws/engine"
)

// waking pokes wallets by every way that leads to them, for all services that hold
// payments for them.
type waking struct {
	streams *lspapi.Service
	hooks   func() *webhooks.Service
	now     func() time.Time

	mu sync.Mutex
	// called is when a wallet's webhooks were told last, and what came of it: payments that
	// come together are told to them once.
	called map[ln.PubKey]hookCall
}

func newWaking(streams *lspapi.Service, hooks func() *webhooks.Service, now func() time.Time) *waking {
	return &waking{streams: streams, hooks: hooks, now: now, called: map[ln.PubKey]hookCall{}}
}

type hookCall struct {
	at  time.Time
	err error
}

// calledWithin is how long one word to a wallet's webhooks stands for what comes next.
const calledWithin = time.Second

func (w *waking) callHooks(ctx context.Context, hooks *webhooks.Service, p lspengine.Waiting) error {
	now := w.now()
	w.mu.Lock()
	last, again := w.called[p.Client]
	again = again && now.Sub(last.at).Abs() < calledWithin
	if !again {
		maps.DeleteFunc(w.called, func(_ ln.PubKey, c hookCall) bool { return now.Sub(c.at).Abs() >= calledWithin })
		w.called[p.Client] = hookCall{at: now}
	}
	w.mu.Unlock()
	if again {
		return last.err
	}
	err := hooks.PaymentIncoming(ctx, p.Client, p.Until)
	w.mu.Lock()
	w.called[p.Client] = hookCall{at: now, err: err}
	w.mu.Unlock()
	return err
}

// Wake implements the waker of on-demand payments: it succeeded when one way did. What
// becomes of a webhook's call is known later: Calls tells.
func (w *waking) Wake(ctx context.Context, p lspengine.Waiting) (string, error) {
	said := "its program was told over gRPC"
	err := w.streams.Wake(ctx, p)
	if err != nil {
		said = "its program does not listen"
	}
	hooks := w.hooks()
	if hooks == nil {
		return said, err
	}
	hookErr := w.callHooks(ctx, hooks, p)
	switch {
	case hookErr == nil:
		return said + "; its webhooks are to be called", nil
	case errkind.Of(hookErr) == errkind.NotFound:
		said += "; it has no webhook"
	default:
		said += "; its webhooks could not be called: " + hookErr.Error()
	}
	if err == nil {
		return said, nil
	}
	return said, errors.Join(err, hookErr)
}

// Calls says what became of the calls of a wallet's webhooks since a moment.
func (w *waking) Calls(ctx context.Context, client ln.PubKey, since time.Time) ([]string, error) {
	hooks := w.hooks()
	if hooks == nil {
		return nil, nil
	}
	list, err := hooks.LastCalls(ctx, client, since)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(list))
	for _, n := range list {
		out = append(out, n.Text(w.now()))
	}
	return out, nil
}

// lwsWaker is the same for the wallet server.
type lwsWaker struct{ *waking }

// Wake implements the engine's Waker.
func (w lwsWaker) Wake(ctx context.Context, p lwsengine.Waiting) (string, error) {
	return w.waking.Wake(ctx, lspengine.Waiting{PaymentID: p.PaymentID, Client: p.Client, Hash: p.Hash, AmountMsat: p.AmountMsat, Until: p.Until})
}
