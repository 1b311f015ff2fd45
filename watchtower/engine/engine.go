// Package engine runs the tower: it listens for clients, has lnd's tower server
// speak with them, brings what arrives together into one commit, and searches
// the chain while it has the lease.
//
// It promises that a client hears that its update is accepted only after the
// commit it is in; that every connection acts for the tenant whose tower key it
// knew, and no other; that who is over a limit, expired or suspended is refused
// without anybody else noticing; and that sessions are made only once a block
// was fixed from which on every block is searched.
package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/watchtower/wtserver"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/auth"
	"github.com/sluice-lsp/sluice/internal/groupcommit"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/watchtower"
	"github.com/sluice-lsp/sluice/watchtower/lookout"
	tower "github.com/sluice-lsp/sluice/watchtower/store"
	"github.com/sluice-lsp/sluice/watchtower/transport"
)

// Config is what the service allows.
type Config struct {
	Terms  watchtower.Terms
	Depths watchtower.Depths
	// Addresses are how clients reach the listener, host:port, for the URIs.
	Addresses []string
	// Allow names the nodes that may register; empty lets every node.
	Allow map[ln.PubKey]bool
	// MaxTenants and MaxBytes close the tower for new registrations, and the latter
	// for new sessions of all. Sessions that exist go on.
	MaxTenants int64
	MaxBytes   int64
	// NewPerHour is how many may register in an hour, NewPerAddress how many of
	// them from one address.
	NewPerHour    int
	NewPerAddress int
	// Handshakes is how often one address may connect.
	Handshakes auth.Rate
	// MaxConns and MaxConnsEach bound open connections, in all and of a tenant.
	MaxConns     int
	MaxConnsEach int
	Tracked      int
}

// Defaults suit some hundred wallets.
func Defaults() Config {
	return Config{
		Terms: watchtower.Terms{
			Limits: watchtower.Limits{Sessions: 1000, Updates: 1_000_000, Bytes: 512 << 20, Free: 10_000},
			For:    365 * 24 * time.Hour, Notice: 30 * 24 * time.Hour, Grace: 60 * 24 * time.Hour,
			MinSweepFee: watchtower.LeastSweepFee, MaxUpdates: 65_535,
		},
		Depths:     watchtower.Depths{Bury: 144, Forget: 2016},
		MaxTenants: 1000, MaxBytes: 100 << 30, NewPerHour: 100, NewPerAddress: 10,
		Handshakes: auth.Rate{PerSecond: 20, Burst: 200}, MaxConns: 4000, MaxConnsEach: 200, Tracked: 10_000,
	}
}

// Validate names the first setting that cannot work.
func (c Config) Validate() error {
	if err := c.Terms.Check(); err != nil {
		return err
	}
	switch {
	case c.Depths.Bury < 1 || c.Depths.Bury > 2016 || c.Depths.Forget < 1:
		return errors.New("a breach is buried by 1 to 2016 blocks")
	case c.MaxTenants < 1 || c.MaxBytes < 1 || c.NewPerHour < 1 || c.NewPerAddress < 1 || c.Tracked < 1:
		return errors.New("tenants, bytes and new registrations per hour must be at least 1")
	case !(c.Handshakes.PerSecond > 0) || c.Handshakes.Burst < 1:
		return errors.New("the rate of handshakes must be positive")
	case c.MaxConns < 1 || c.MaxConnsEach < 1:
		return errors.New("connections must be at least 1")
	}
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("address %q: want host:port", a)
		}
	}
	return nil
}

// Lease is the right to search the chain.
type Lease interface {
	Check(ctx context.Context, tx *store.Tx) error
	Lost() <-chan struct{}
	Release(ctx context.Context) error
}

// Options are what an engine needs.
type Options struct {
	DB *store.DB
	// Secret is what tower keys come from.
	Secret    []byte
	Chain     lookout.Chain
	ChainHash chainhash.Hash
	Listener  net.Listener
	// Acquire waits for the lease to search the chain, and to sell credit.
	Acquire func(ctx context.Context) (Lease, error)
	// Invoices and Channels are what the sale of credit needs; nil sells none.
	Invoices Invoices
	Channels Channels
	// Random draws preimages; nil is the system's.
	Random io.Reader
	Config Config
	Now    func() time.Time
	Log    *zap.Logger
}

// Engine runs the tower.
type Engine struct {
	o        Options
	store    *tower.Store
	listener *transport.Listener
	signer   *btcec.PrivateKey
	newcomer *rate.Limiter
	newFrom  *auth.Limiters
	totals   atomic.Pointer[tower.Totals]
	tally    atomic.Pointer[[]tower.Tally]
	queue    *groupcommit.Queue[*tower.Job]
	metrics  *Metrics
	searched *lookout.Metrics
	searches atomic.Pointer[lookout.Lookout]
	sales    atomic.Pointer[sales]

	mu      sync.Mutex
	servers map[int64]*wtserver.Server
	ended   bool
}

// New makes an engine.
func New(o Options) (*Engine, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("watchtower: %w", err)
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	signer, err := transport.Derive(o.Secret, signerName)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		o: o, store: tower.New(o.DB), signer: signer,
		newcomer: rate.NewLimiter(rate.Limit(float64(o.Config.NewPerHour)/time.Hour.Seconds()), o.Config.NewPerHour),
		newFrom:  auth.NewLimiters(auth.Rate{PerSecond: float64(o.Config.NewPerAddress) / time.Hour.Seconds(), Burst: o.Config.NewPerAddress}, o.Config.Tracked),
		metrics:  newMetrics(), searched: lookout.NewMetrics(), servers: map[int64]*wtserver.Server{},
	}
	e.totals.Store(&tower.Totals{})
	e.tally.Store(&[]tower.Tally{})
	e.queue = groupcommit.New(e.commits())
	if o.Listener != nil {
		e.listener = transport.New(transport.Config{
			Listener: o.Listener, Handle: e.handle, Handshakes: o.Config.Handshakes, MaxConns: o.Config.MaxConns,
			MaxPerTenant: o.Config.MaxConnsEach, Tracked: o.Config.Tracked, Now: o.Now, Log: o.Log.Named("transport"),
		})
	}
	return e, nil
}

// signerName is no identity: those have a scheme that it has not.
const signerName = "statements"

// Config is what the engine was made with.
func (e *Engine) Config() Config { return e.o.Config }

// Now is the engine's clock.
func (e *Engine) Now() time.Time { return e.o.Now() }

// Connections are clients' that are open.
func (e *Engine) Connections() int {
	if e.listener == nil {
		return 0
	}
	return e.listener.Connections()
}

// Begin fixes the first block. It waits for lnd until ctx ends, and is to return
// before Run.
func (e *Engine) Begin(ctx context.Context) error {
	for {
		err := lookout.Begin(ctx, e.o.Chain, e.store)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		e.o.Log.Warn("the first block could not be fixed; trying again", zap.Error(err))
		_ = pace.Pause(ctx, time.Second)
	}
}

// Run works until ctx ends. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// Before the listener: a tenant whose key is not loaded yet would look like a
	// stranger.
	changed := e.o.DB.Listen(ctx, tower.TopicTenants)
	if err := e.loadKeys(ctx); err != nil {
		e.o.Log.Warn("tower keys could not be read; trying again", zap.Error(err))
	}
	group.Go(func() error { return e.queue.Run(ctx) })
	group.Go(func() error { e.followKeys(ctx, changed); return nil })
	group.Go(func() error { pace.Every(ctx, sumEvery, e.sum); return nil })
	group.Go(func() error { pace.Every(ctx, sweepEvery, e.sweep); return nil })
	group.Go(func() error { pace.Every(ctx, bookEvery, e.book); return nil })
	group.Go(func() error { return e.search(ctx) })
	if e.listener != nil {
		group.Go(func() error { return e.listener.Run(ctx) })
	}
	// Clients are answered until the last of their updates is.
	defer e.stopServers()
	return group.Wait()
}

// How often totals are summed up and expired tenants are looked after.
const (
	sumEvery   = 10 * time.Second
	sweepEvery = time.Minute
	bookEvery  = time.Minute
	keysEvery  = 30 * time.Second
)

func (e *Engine) sum(ctx context.Context) {
	totals, err := e.store.Totals(ctx)
	if err == nil {
		e.totals.Store(&totals)
		var tally []tower.Tally
		if tally, err = e.store.Tally(ctx); err == nil {
			e.tally.Store(&tally)
		}
	}
	if err != nil && ctx.Err() == nil {
		e.o.Log.Warn("what is stored could not be summed up", zap.Error(err))
	}
}

func (e *Engine) sweep(ctx context.Context) {
	for {
		n, err := e.store.Sweep(ctx, e.o.Config.Terms)
		if err != nil && ctx.Err() == nil {
			e.o.Log.Warn("expired sessions were not deleted; trying again", zap.Error(err))
		}
		if n == 0 || err != nil || ctx.Err() != nil {
			return
		}
		e.o.Log.Info("sessions were deleted whose registration expired and was not renewed", zap.Int("sessions", n))
	}
}

// book brings the income from updates into the books.
func (e *Engine) book(ctx context.Context) {
	for {
		n, err := e.store.BookDrawn(ctx)
		if err != nil && ctx.Err() == nil {
			e.o.Log.Warn("what updates cost was not booked; trying again", zap.Error(err))
		}
		if n == 0 || err != nil || ctx.Err() != nil {
			return
		}
	}
}

func (e *Engine) loadKeys(ctx context.Context) error {
	rows, err := e.store.Keys(ctx, e.o.Config.Terms)
	if err != nil {
		return err
	}
	keys := make([]transport.Key, 0, len(rows))
	for _, r := range rows {
		private, err := transport.Derive(e.o.Secret, r.Identity)
		if err != nil {
			return err
		}
		k := transport.NewKey(r.Tenant, private)
		if k.PubKey() != r.Key {
			return fmt.Errorf("the tower's secret is not the one that %s got its URI from: bring the secret's file back", r.Identity)
		}
		keys = append(keys, k)
	}
	if e.listener != nil {
		e.listener.SetKeys(keys)
	}
	return nil
}

// followKeys loads the keys again when a tenant comes or goes.
func (e *Engine) followKeys(ctx context.Context, changed <-chan struct{}) {
	ticker := time.NewTicker(keysEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changed:
			if !ok {
				return
			}
		case <-ticker.C:
		}
		if err := e.loadKeys(ctx); err != nil && ctx.Err() == nil {
			e.o.Log.Error("tower keys could not be loaded; those from before stay", zap.Error(err))
		}
	}
}

// search runs the lookout, and sells credit, whenever this process has the lease.
func (e *Engine) search(ctx context.Context) error {
	for ctx.Err() == nil {
		lease, err := e.o.Acquire(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to stop while waiting
			}
			return err
		}
		l := lookout.New(lookout.Config{
			Chain: e.o.Chain, Store: e.store.Fenced(lease.Check), Depths: e.o.Config.Depths, Now: e.o.Now, Log: e.o.Log.Named("lookout"),
		}, e.searched)
		e.searches.Store(l)
		tenure, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-lease.Lost():
				cancel()
			case <-tenure.Done():
			}
		}()
		sold := make(chan struct{})
		go func() {
			defer close(sold)
			e.sell(tenure, lease.Check)
		}()
		err = l.Run(tenure)
		cancel()
		e.searches.Store(nil)
		<-sold
		if releaseErr := lease.Release(context.WithoutCancel(ctx)); releaseErr != nil {
			e.o.Log.Warn("the lease could not be given back; it will run out", zap.Error(releaseErr))
		}
		if err != nil && ctx.Err() == nil {
			e.o.Log.Warn("the lookout ended; it begins again", zap.Error(err))
			_ = pace.Pause(ctx, time.Second)
		}
	}
	return nil
}

// View is how the lookout stands; false while another process has it.
func (e *Engine) View() (lookout.View, bool) {
	if l := e.searches.Load(); l != nil {
		return l.View(), true
	}
	return lookout.View{}, false
}

// Totals are what was stored a few seconds ago.
func (e *Engine) Totals() tower.Totals { return *e.totals.Load() }
