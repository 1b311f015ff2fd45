package api

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
	"github.com/sluice-lsp/sluice/lsp/engine"
)

// errNobodyListens says that the wallet has no stream open.
var errNobodyListens = errkind.New(errkind.NotFound, "the wallet does not listen")

// Wake tells wallets that listen on a stream.
func (s *Service) Wake(_ context.Context, w engine.Waiting) error {
	if s.listeners.tell(w) == 0 {
		return errNobodyListens
	}
	return nil
}

// AlsoWaiting names another service that holds payments: a wallet that begins to listen
// is told what waits there, too.
func (s *Service) AlsoWaiting(waiting func(ln.PubKey) []engine.Waiting) { s.elsewhere.Store(&waiting) }

func (c *channels) WatchWaiting(_ *lspv1.WatchWaitingRequest, stream grpc.ServerStreamingServer[lspv1.WatchWaitingResponse]) error {
	ctx := stream.Context()
	e, client, err := c.s.wallet(ctx)
	if err != nil {
		return err
	}
	// It listens first and then asks what waits already: in between nothing is
	// missed, at worst heard twice.
	l := c.s.listeners.add(client)
	defer c.s.listeners.remove(client, l)
	if c.s.engine.Load() != e {
		return errStopping
	}
	waiting, err := e.Waiting(ctx, client)
	if err != nil {
		return err
	}
	if s := c.s.elsewhere.Load(); s != nil {
		waiting = append(waiting, (*s)(client)...)
	}
	for _, w := range waiting {
		l.put(w)
	}
	// The headers tell the wallet that it is listened for from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.dismissed:
			return errStopping
		case <-l.poke:
		}
		for _, w := range l.take() {
			if err := stream.Send(&lspv1.WatchWaitingResponse{
				PaymentId: w.PaymentID, PaymentHash: w.Hash[:], AmountMsat: uint64(w.AmountMsat), UntilMs: w.Until.UnixMilli(),
			}); err != nil {
				return err
			}
		}
	}
}

// listeners are the wallets that listen, by node key. The zero value has none.
type listeners struct {
	mu sync.Mutex
	by map[ln.PubKey]map[*listener]struct{}
}

func (ls *listeners) add(client ln.PubKey) *listener {
	l := &listener{pending: map[string]engine.Waiting{}, poke: make(chan struct{}, 1), dismissed: make(chan struct{})}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.by == nil {
		ls.by = map[ln.PubKey]map[*listener]struct{}{}
	}
	if ls.by[client] == nil {
		ls.by[client] = map[*listener]struct{}{}
	}
	ls.by[client][l] = struct{}{}
	return l
}

func (ls *listeners) remove(client ln.PubKey, l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.by[client], l)
	if len(ls.by[client]) == 0 {
		delete(ls.by, client)
	}
}

// tell gives the word to the wallet's streams and counts them.
func (ls *listeners) tell(w engine.Waiting) int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for l := range ls.by[w.Client] {
		l.put(w)
	}
	return len(ls.by[w.Client])
}

// dismiss ends all streams: their wallets come again.
func (ls *listeners) dismiss() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, of := range ls.by {
		for l := range of {
			close(l.dismissed)
		}
	}
	ls.by = nil
}

// listener is one stream. It keeps the latest word of each payment, so that a
// wallet that reads slowly costs no more memory than what is held for it.
type listener struct {
	mu      sync.Mutex
	pending map[string]engine.Waiting
	// poke holds one wake-up.
	poke      chan struct{}
	dismissed chan struct{}
}

func (l *listener) put(w engine.Waiting) {
	l.mu.Lock()
	l.pending[w.PaymentID] = w
	l.mu.Unlock()
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

func (l *listener) take() []engine.Waiting {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]engine.Waiting, 0, len(l.pending))
	for _, w := range l.pending {
		out = append(out, w)
	}
	clear(l.pending)
	slices.SortFunc(out, func(a, b engine.Waiting) int { return cmp.Compare(a.PaymentID, b.PaymentID) })
	return out
}
