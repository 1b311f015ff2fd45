// Package engine runs the interceptor: it ties lnd's stream, the classifier,
// the ledger and the handlers together under the database lease.
//
// It promises the laws of the interceptor:
//   - an ordinary forward is resumed without the database and without an RPC;
//   - whatever is decided about a held HTLC is committed before it is sent, and
//     every later offer of the same key gets the same answer;
//   - what lnd no longer has is failed and never resumed; what may have been
//     resumed is never failed; what lnd is paying for us is neither;
//   - every held HTLC ends some blocks before lnd's own auto-fail;
//   - without database or lease only ordinary forwards, phantoms and what is
//     already decided are answered; at shutdown nothing held is failed.
//
// One goroutine commits (committer), one reads offers (intake), one lists
// channels (lister). The mutex guards memory only: nothing holds it across I/O.
package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/interceptor"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Config says what the engine works with. The zero value of a number means its
// default.
type Config struct {
	// Open opens a stream that lnd has accepted (stream.Open).
	Open func(ctx context.Context) (Session, error)
	// Acquire waits for the lease.
	Acquire  func(ctx context.Context) (Lease, error)
	Rows     Rows
	Handlers Handlers
	Node     Node
	// Outcomes may be nil: then outcomes come from decisions alone.
	Outcomes Outcomes
	// Screener may be nil: then no program of others has a say.
	Screener Screener

	// KeepForwarding: when the lease cannot be renewed, keep the stream and
	// answer by law 8 while trying to get the lease back. It is right for a
	// database that only this process uses. With replicas leave it false: the
	// stream is closed at once, so that a standby can take over.
	KeepForwarding bool
	// DistrustRows: the database was restored from an older copy, so that rows
	// that say held may have been resumed since; they are only resumed.
	DistrustRows bool

	// FailSafetyBlocks is how long before lnd's auto-fail a held HTLC is failed
	// (6). NearBlocks before that the handler is warned (12).
	FailSafetyBlocks, NearBlocks uint32
	// MaxHeldPerChannel (300), MaxHeld (2000) and MaxHeldMsat (10 BTC) bound
	// what is held; the rest is failed with TEMPORARY_CHANNEL_FAILURE.
	MaxHeldPerChannel, MaxHeld int
	MaxHeldMsat                ln.Msat
	// AbsentGrace is how long a handler may be away before its policy applies
	// to what is already held for it (30 s).
	AbsentGrace time.Duration
	// PollEvery is the time between listings that look for ended HTLCs (10 s);
	// PollSoon is the most when one is about to end (1 s).
	PollEvery, PollSoon time.Duration
	// LeaveWithin is how long an HTLC that has ended on its way out stays in the
	// channel that it came in on, while its payer is there and signs (3 s).
	LeaveWithin time.Duration
	// Retention is how long finished rows are kept (180 days).
	Retention time.Duration

	// Backoff gives the wait before each attempt to open the stream, counted
	// from 0 after a success (nil: the function of that name).
	Backoff func(attempt int) time.Duration
	// Now is the wall clock.
	Now func() time.Time
	// Log may be nil.
	Log *zap.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Open == nil || c.Acquire == nil || c.Rows == nil || c.Handlers == nil || c.Node == nil {
		return c, errors.New("the interceptor needs a stream, a lease, a ledger and a node")
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.AbsentGrace, 30*time.Second)
	def(&c.PollEvery, 10*time.Second)
	def(&c.PollSoon, time.Second)
	def(&c.LeaveWithin, 3*time.Second)
	def(&c.Retention, 180*24*time.Hour)
	if c.FailSafetyBlocks == 0 {
		c.FailSafetyBlocks = 6
	}
	if c.NearBlocks == 0 {
		c.NearBlocks = 12
	}
	if c.MaxHeldPerChannel == 0 {
		c.MaxHeldPerChannel = 300
	}
	if c.MaxHeldPerChannel >= 483 {
		return c, fmt.Errorf("at most 482 HTLCs can be held per channel, not %d: a channel has 483 slots", c.MaxHeldPerChannel)
	}
	if c.MaxHeld == 0 {
		c.MaxHeld = 2000
	}
	if c.MaxHeldMsat == 0 {
		c.MaxHeldMsat = 10 * 100_000_000 * 1000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Backoff == nil {
		c.Backoff = Backoff
	}
	return c, nil
}

// Backoff spaces attempts to have lnd's stream: the first is immediate, the next few
// come within a quarter of a second, because with requireinterceptor lnd fails every
// new forward while nobody is attached.
func Backoff(attempt int) time.Duration {
	if attempt == 0 {
		return 0
	}
	ceiling := min(500*time.Millisecond, 10*time.Millisecond<<min(attempt-1, 10))
	if attempt <= 10 {
		ceiling = min(ceiling, 250*time.Millisecond)
	}
	return ceiling/2 + rand.N(ceiling/2+1)
}

// Engine implements interceptor.Registry and interceptor.Ledger.
type Engine struct {
	cfg Config
	log *zap.Logger

	mu sync.Mutex
	// t is the tenure under way, nil on standby; turned is closed whenever it
	// begins or ends.
	t        *tenure
	turned   chan struct{}
	attached map[string]*attachment
	// away says since when a registered handler has not been attached.
	away   map[string]time.Time
	height uint32
	lastID int64
	stats  stats
}

type stats struct {
	streamEnds                    uint64
	lastStreamEnd                 string
	resumed, phantoms, resumeOnly uint64
	pruned                        uint64
}

var (
	_ interceptor.Registry = (*Engine)(nil)
	_ interceptor.Ledger   = (*Engine)(nil)
)

// New checks the configuration. Nothing happens before Run.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Engine{
		cfg: cfg, log: cfg.Log, turned: make(chan struct{}),
		attached: make(map[string]*attachment), away: make(map[string]time.Time),
	}, nil
}

// Run owns the interceptor whenever it has the lease, until ctx ends; then it
// fails nothing, sends what was decided, and releases the lease.
func (e *Engine) Run(ctx context.Context) error {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	helpers.Go(func() { e.followBlocks(ctx) })
	for failures := 0; ctx.Err() == nil; {
		lease, err := e.cfg.Acquire(ctx)
		if err != nil {
			if ctx.Err() == nil {
				e.log.Error("the interceptor's lease cannot be had", zap.Error(err))
				_ = pace.Pause(ctx, time.Second)
			}
			continue
		}
		began := time.Now()
		err = e.serve(ctx, lease)
		if ctx.Err() == nil {
			e.log.Warn("the interceptor is on standby again", zap.Error(err))
			if time.Since(began) > time.Second {
				failures = 0
			}
			// One that cannot begin leaves others the lease for a while.
			_ = pace.Pause(ctx, min(5*time.Second, 50*time.Millisecond<<min(failures, 7)))
			failures++
		}
	}
	return nil
}

// WaitActive waits until this process owns the interceptor.
func (e *Engine) WaitActive(ctx context.Context) error {
	for {
		e.mu.Lock()
		active, turned := e.t != nil, e.turned
		e.mu.Unlock()
		if active {
			return nil
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) followBlocks(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := e.cfg.Node.SubscribeBlocks(ctx, func(b ln.Block) {
			attempt = 0
			e.mu.Lock()
			e.height = b.Height
			if e.t != nil {
				wake(e.t.chores)
			}
			e.mu.Unlock()
		})
		if ctx.Err() == nil {
			e.log.Warn("blocks are not being followed", zap.Error(err))
			_ = pace.Pause(ctx, e.cfg.Backoff(min(attempt+1, 20)))
		}
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func unavailable(why string, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s", interceptor.ErrUnavailable, why)
	}
	if errors.Is(err, interceptor.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", interceptor.ErrUnavailable, why, err)
}
