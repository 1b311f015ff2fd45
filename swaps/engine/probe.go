package engine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// Probes for the asking lock the gateway's money and fill lnd's list of payments:
// so few of them, and few at a time. A client that holds one keeps its place until
// it gives it back, also over a restart: they are written down before they are sent.
const (
	probeEvery    = 10 * time.Second
	probeBurst    = 4
	allProbeEvery = 2 * time.Second
	allProbeBurst = 10
	probesAtOnce  = 4
	// askFor is how long a route is looked for: a stock client waits, and does nothing
	// else meanwhile.
	askFor = 8 * time.Second
	// probeFinalDelta is lnd's final delta of invoices.
	probeFinalDelta = 80
	// probeOverAfter is how many blocks after its last time lock a probe that lnd still
	// calls in flight is none: it can lose one in a restart, and calls it so for ever.
	probeOverAfter = 144
)

// RouteWish is a client's question whether it could be paid.
type RouteWish struct {
	Caller          string
	AmountSat       ln.Sat
	Target, LastHop ln.PubKey
	Hints           [][]ln.RouteHint
}

// probes bounds them.
type probes struct {
	all *rate.Limiter

	mu      sync.Mutex
	taken   int
	callers map[string]*rate.Limiter
}

func newProbes() *probes {
	return &probes{all: rate.NewLimiter(rate.Every(allProbeEvery), allProbeBurst), callers: map[string]*rate.Limiter{}}
}

// admit takes a place that free gives back.
func (p *probes) admit(caller string, now time.Time) (free func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.callers[caller]
	if own == nil {
		if len(p.callers) >= maxTracked {
			clear(p.callers)
		}
		own = rate.NewLimiter(rate.Every(probeEvery), probeBurst)
		p.callers[caller] = own
	}
	if !own.AllowN(now, 1) || !p.all.AllowN(now, 1) {
		return nil, errkind.New(errkind.Exhausted, "too many probes: ask for a quote without one, or again in a minute")
	}
	if p.taken >= probesAtOnce {
		return nil, errkind.New(errkind.Exhausted, "too many probes are under way: ask for a quote without one, or again in a minute")
	}
	p.taken++
	return p.free, nil
}

func (p *probes) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
}

// loadProbes gives the probes that an earlier process left their places again.
func (e *Engine) loadProbes(ctx context.Context) error {
	var left []swapsstore.Probe
	err := e.db.Read(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		left, err = swapsstore.Probes(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	e.probes.mu.Lock()
	defer e.probes.mu.Unlock()
	for _, p := range left {
		e.probes.taken++
		e.spawn(func() { e.probeEnds(p) })
	}
	return nil
}

// probeEnds waits until lnd has a probe's money back, forgets it and frees its place.
func (e *Engine) probeEnds(p swapsstore.Probe) {
	for unknown := false; ; {
		wait, done := context.WithTimeout(e.ctx, trackFor)
		now, err := e.node.Payments.WaitPayment(wait, p.Hash)
		done()
		if err == nil && now.State != ln.PaymentInFlight && (now.State != ln.PaymentUnknown || unknown) {
			break
		}
		pause := time.Second
		if unknown = err == nil && now.State == ln.PaymentUnknown; unknown {
			pause = e.unknownFor // see there
		}
		if e.moment().Height > p.UntilHeight {
			e.log.Warn("lnd calls a probe in flight whose time locks are long over: it holds no place any more", zap.Stringer("hash", p.Hash))
			break
		}
		if pace.Pause(e.ctx, pause) != nil {
			return // the next process goes on
		}
	}
	e.dropProbe(p)
	e.probes.free()
}

func (e *Engine) dropProbe(p swapsstore.Probe) {
	for {
		err := e.db.WriteFenced(e.ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error { return swapsstore.DropProbe(ctx, tx, p.Hash) })
		if err == nil || pace.Pause(e.ctx, time.Second) != nil {
			return
		}
	}
}

// ProbeRoute tries whether a client could be paid an amount. It promises nothing: a
// swap in is probed again when it is begun.
func (e *Engine) ProbeRoute(ctx context.Context, w RouteWish) error {
	c := e.cfg.In
	switch {
	case w.AmountSat < c.MinSat || w.AmountSat > c.MaxSat:
		return errkind.Newf(errkind.Invalid, "a swap in is %s to %s: choose an amount between", c.MinSat, c.MaxSat)
	case w.Target == e.cfg.Self:
		return errkind.New(errkind.Invalid, "this is the gateway's own node")
	}
	free, err := e.probes.admit(w.Caller, e.opt.Now())
	if err != nil {
		return err
	}
	probe := ln.RouteProbe{Target: w.Target, LastHop: w.LastHop, Hints: w.Hints, FinalCltvDelta: probeFinalDelta, CltvLimit: probeFinalDelta + probeRouteBlocks, Timeout: askFor, MaxParts: c.MaxParts}
	if probe.AmountMsat, err = w.AmountSat.Msat(); err == nil {
		probe.FeeLimitMsat, err = c.Price.RoutingMsat(w.AmountSat)
	}
	if err == nil {
		err = e.draw(probe.Hash[:], probe.PaymentAddr[:])
	}
	kept := swapsstore.Probe{Hash: probe.Hash, UntilHeight: e.moment().Height + probe.CltvLimit + probeOverAfter}
	if err == nil {
		err = e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) error { return swapsstore.AddProbe(ctx, tx, kept) })
	}
	if err != nil {
		free()
		return err
	}
	answer := make(chan error, 1)
	err = e.spawnForCall(func() {
		p, err := e.node.Payments.ProbeRoute(e.ctx, probe)
		answer <- judgeProbe(p, err)
		e.probeEnds(kept)
	})
	if err != nil {
		// The next process finds that it was never sent.
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(askFor + time.Second):
		return errkind.New(errkind.Unavailable, "no route to this node was found in time")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// judgeProbe: the payee gave it back, as it must, so the route works.
func judgeProbe(p ln.Payment, err error) error {
	switch {
	case err != nil:
		return errkind.Wrap(errkind.Unavailable, err, "the gateway's node could not probe now")
	case p.State == ln.PaymentFailed && p.Failure == declined:
		return nil
	case p.State == ln.PaymentFailed:
		return errkind.Newf(errkind.Unavailable, "this amount does not reach the node now (%s)", p.Failure)
	}
	return errkind.New(errkind.Unavailable, "the probe was not given back")
}

func (e *Engine) draw(into ...[]byte) error {
	for _, b := range into {
		if _, err := io.ReadFull(e.opt.Random, b); err != nil {
			return fmt.Errorf("draw random bytes: %w", err)
		}
	}
	return nil
}

// loadCallers reads the secret under which callers' addresses are kept, or draws it
// at the first start.
func (e *Engine) loadCallers(ctx context.Context) error {
	var fresh [32]byte
	if err := e.draw(fresh[:]); err != nil {
		return err
	}
	return e.db.WriteFenced(ctx, e.opt.Fence, func(ctx context.Context, tx *store.Tx) (err error) {
		e.callers, err = swapsstore.Secret(ctx, tx, "callers", fresh, e.opt.Now())
		return err
	})
}

// Caller is what a client is capped by: its token, or else its address, of which
// nothing can be read in the database.
func (e *Engine) Caller(token, address string) string {
	if token != "" {
		return "token:" + token
	}
	mac := hmac.New(sha256.New, e.callers[:])
	_, _ = mac.Write([]byte(address))
	return "address:" + hex.EncodeToString(mac.Sum(nil)[:12])
}

// ofCaller caps what one client begins and locks.
type ofCaller struct {
	open           ln.Sat
	unpaid, probes int
}

func (c ofCaller) check(amount ln.Sat, cfg Config) error {
	switch {
	case c.unpaid >= cfg.MaxUnpaidPerClient:
		return errkind.Newf(errkind.Exhausted, "%d swaps of yours wait for their payments already: pay or cancel one of them first", c.unpaid)
	case c.open+amount > cfg.MaxPerClientSat:
		return errkind.Newf(errkind.Exhausted, "swaps of one client lock at most %s at a time, and yours lock %s: wait until one of them is over", cfg.MaxPerClientSat, c.open)
	}
	return nil
}
