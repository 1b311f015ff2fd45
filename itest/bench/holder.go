package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"

	"github.com/sluice-lsp/sluice/internal/devnet"
)

// arrivals notes when a gateway's channels become active.
type arrivals struct {
	mu    sync.Mutex
	first time.Time
	then  func()
}

// follow reads the gateway's channel events until ctx ends.
func (a *arrivals) follow(ctx context.Context, gateway *devnet.Node) error {
	events, err := gateway.LN.SubscribeChannelEvents(ctx, &lnrpc.ChannelEventSubscription{})
	if err != nil {
		return fmt.Errorf("channel events: %w", err)
	}
	go func() {
		for {
			e, err := events.Recv()
			if err != nil {
				return
			}
			if e.GetActiveChannel() == nil {
				continue
			}
			a.mu.Lock()
			then := a.then
			if a.first.IsZero() {
				a.first = time.Now()
			} else {
				then = nil
			}
			a.mu.Unlock()
			if then != nil {
				then()
			}
		}
	}()
	return nil
}

// arm forgets what was active: the next one counts, and does then.
func (a *arrivals) arm(then func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.first, a.then = time.Time{}, then
}

func (a *arrivals) at() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.first
}

// holder is the least program that holds payments: it resumes all at once when it is
// told to, and what comes later at once. It writes nothing down and would lose money at
// the first restart: it is the yardstick.
type holder struct {
	mu      sync.Mutex
	stream  routerrpc.Router_HtlcInterceptorClient
	holding bool
	held    []*routerrpc.CircuitKey
	failure error
}

func startHolder(ctx context.Context, gateway *devnet.Node) (*holder, error) {
	stream, err := gateway.Router.HtlcInterceptor(ctx)
	if err != nil {
		return nil, fmt.Errorf("interceptor: %w", err)
	}
	h := &holder{stream: stream}
	go func() {
		for {
			htlc, err := stream.Recv()
			h.mu.Lock()
			if err != nil {
				h.failure = err
				h.mu.Unlock()
				return
			}
			if h.holding {
				h.held = append(h.held, htlc.IncomingCircuitKey)
			} else {
				h.resume(htlc.IncomingCircuitKey)
			}
			h.mu.Unlock()
		}
	}()
	return h, nil
}

// resume sends one answer (under mu).
func (h *holder) resume(key *routerrpc.CircuitKey) {
	if err := h.stream.Send(&routerrpc.ForwardHtlcInterceptResponse{
		IncomingCircuitKey: key, Action: routerrpc.ResolveHoldForwardAction_RESUME,
	}); err != nil {
		h.failure = err
	}
}

func (h *holder) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = true
}

func (h *holder) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = false
	for _, key := range h.held {
		h.resume(key)
	}
	h.held = nil
}

func (h *holder) count() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held), h.failure
}
