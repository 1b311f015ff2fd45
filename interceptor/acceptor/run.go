package acceptor

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
)

// Node is what the acceptor needs of lnd.
type Node interface {
	// RunAcceptor answers every proposal until its stream ends. While no
	// acceptor is attached lnd takes what its own settings allow.
	RunAcceptor(ctx context.Context, decide func(ln.OpenProposal) ln.AcceptVerdict) error
	// PendingChannels lists what is opening or closing.
	PendingChannels(ctx context.Context) ([]ln.PendingChannel, error)
}

// Config says how to run an Acceptor.
type Config struct {
	Node Node
	// Consult may narrow what the policy takes, or refuse it; it must answer well
	// within lnd's acceptortimeout (15 s). It may be nil.
	Consult func(context.Context, ln.OpenProposal, ln.AcceptVerdict) ln.AcceptVerdict
	Log     *zap.Logger
}

// Run keeps the acceptor attached until ctx ends.
func (a *Acceptor) Run(ctx context.Context, cfg Config) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.refresh(ctx, cfg)
	}()
	defer func() { <-done }()
	for attempt := 0; ctx.Err() == nil; attempt++ {
		if attempt > 0 {
			_ = pace.Pause(ctx, min(time.Second, 20*time.Millisecond<<min(attempt-1, 6)))
		}
		started := a.now()
		err := cfg.Node.RunAcceptor(ctx, func(p ln.OpenProposal) ln.AcceptVerdict {
			v := a.Decide(p)
			if !v.Accept && a.counted(p) && a.lookAgain(ctx, cfg) {
				v = a.Decide(p)
			}
			if v.Accept && cfg.Consult != nil {
				if v = cfg.Consult(ctx, p, v); !v.Accept {
					v.Refusal = ln.Clip(v.Refusal, MaxRefusal)
					a.forget(p)
				}
			}
			cfg.Log.Info("channel proposal", zap.Stringer("peer", p.Peer), zap.Stringer("capacity", p.CapacitySat),
				zap.Bool("zero_conf", p.WantsZeroConf), zap.Bool("accepted", v.Accept), zap.String("refusal", v.Refusal))
			return v
		})
		if ctx.Err() == nil {
			cfg.Log.Warn("the channel acceptor is detached; lnd's own settings apply meanwhile", zap.Error(err))
		}
		if a.now().Sub(started) > 10*time.Second {
			attempt = -1
		}
	}
}

func (a *Acceptor) refresh(ctx context.Context, cfg Config) {
	for ctx.Err() == nil {
		a.look(ctx, cfg)
		_ = pace.Pause(ctx, refreshEvery)
	}
}

func (a *Acceptor) look(ctx context.Context, cfg Config) bool {
	since := a.now()
	channels, err := cfg.Node.PendingChannels(ctx)
	if err != nil {
		if ctx.Err() == nil {
			cfg.Log.Debug("pending channels cannot be listed", zap.Error(err))
		}
		return false
	}
	// What was proposed shortly before the call may not be listed yet.
	a.SetOpening(channels, since.Add(-5*time.Second))
	return true
}

const (
	// refreshEvery is the time between looks at what is opening.
	refreshEvery = 30 * time.Second
	// lookWithin bounds how long every peer's funding waits for one look.
	lookWithin = 2 * time.Second
	// lookAgainAfter bounds how often a peer at its limit can have lnd asked.
	lookAgainAfter = time.Second
)

// lookAgain asks lnd before a peer is refused for what may be open by now.
func (a *Acceptor) lookAgain(ctx context.Context, cfg Config) bool {
	a.mu.Lock()
	now := a.now()
	due := now.Sub(a.looked) >= lookAgainAfter
	if due {
		a.looked = now
	}
	a.mu.Unlock()
	if !due {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	return a.look(ctx, cfg)
}
