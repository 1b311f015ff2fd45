package webhooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/lsp/lsps5"
)

var _ lsps5.Service = (*Service)(nil)

// Options are what the service runs on.
type Options struct {
	Node    Node
	Signer  Signer
	Sender  Sender
	Clients Clients
	DB      *store.DB
	// Fence refuses every write of a process that lost its lease; may be nil.
	Fence  func(ctx context.Context, tx *store.Tx) error
	Config Config
	Now    func() time.Time
	Random io.Reader
	Log    *zap.Logger
}

// Service keeps and calls webhooks.
type Service struct {
	opt Options
	cfg Config
	db  *store.DB
	log *zap.Logger

	// poke holds one wake-up of the delivery; peersKnown is closed once it is
	// known who is connected.
	poke       chan struct{}
	peersKnown chan struct{}

	mu  sync.Mutex
	ids *ulid.MonotonicEntropy
	// online are the connected peers; left is when one of those with webhooks
	// last went away.
	online map[ln.PubKey]bool
	left   map[ln.PubKey]time.Time
	// hooked are the clients that have webhooks.
	hooked map[ln.PubKey]bool
	// calling are the webhooks that are being called, and how many of each host.
	calling map[hookKey]bool
	perHost map[string]int
	stats   Stats
	wg      sync.WaitGroup
}

// hookKey names one webhook.
type hookKey struct {
	client ln.PubKey
	name   string
}

// New prepares the service; Run starts it.
func New(opt Options) (*Service, error) {
	if err := opt.Config.Validate(); err != nil {
		return nil, err
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	return &Service{
		opt: opt, cfg: opt.Config, db: opt.DB, log: opt.Log, poke: make(chan struct{}, 1), peersKnown: make(chan struct{}), ids: ulid.Monotonic(opt.Random, 0),
		online: make(map[ln.PubKey]bool), left: make(map[ln.PubKey]time.Time), hooked: make(map[ln.PubKey]bool),
		calling: make(map[hookKey]bool), perHost: make(map[string]int),
	}, nil
}

// Load reads who has webhooks. It comes before anything else.
func (s *Service) Load(ctx context.Context) error {
	clients, err := s.clients(ctx)
	if err != nil {
		return fmt.Errorf("webhooks: load: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range clients {
		if c.hooks > 0 {
			s.hooked[c.key] = true
		}
	}
	return nil
}

// Run serves until ctx ends, and returns once no webhook is being called.
func (s *Service) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { s.followPeers(ctx) })
	loops.Go(func() { s.followBlocks(ctx) })
	loops.Go(func() { s.deliver(ctx) })
	loops.Go(func() { s.sweepOften(ctx) })
	loops.Wait()
	s.wg.Wait()
}

// write is a transaction of a process that still has its lease.
func (s *Service) write(ctx context.Context, f func(ctx context.Context, tx *store.Tx) error) error {
	return s.db.WriteFenced(ctx, s.opt.Fence, f)
}

func (s *Service) newID() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := ulid.New(ulid.Timestamp(s.opt.Now()), s.ids)
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

func notFound(err error) bool { return errors.Is(store.MapError(err), store.ErrNotFound) }

func (s *Service) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// keep subscribes again whenever lnd ends a stream.
func (s *Service) keep(ctx context.Context, what string, subscribe func(context.Context) error) {
	pace.Keep(ctx, pace.Backoff{First: 100 * time.Millisecond, Most: 5 * time.Second, Healthy: time.Minute}, subscribe, func(err error) {
		s.log.Warn("lnd ended a subscription; subscribing again", zap.String("subscription", what), zap.Error(err))
	})
}
