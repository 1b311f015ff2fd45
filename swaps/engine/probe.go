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

	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/pace"
	"github.com/sluice-lsp/sluice/internal/store"
	swapsstore "github.com/sluice-lsp/sluice/swaps/store"
)

// Probes for the asking lock the gateway's money and fill lnd's list of payments:
// so few of them, and few at a time. A client that holds one keeps its place until
// it gives it back.
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
	all   *rate.Limiter
	slots chan struct{}

	mu      sync.Mutex
	callers map[string]*rate.Limiter
}

func newProbes() *probes {
	return &probes{
		all: rate.NewLimiter(rate.Every(allProbeEvery), allProbeBurst), slots: make(chan struct{}, probesAtOnce), callers: map[string]*rate.Limiter{},
	}
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
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	default:
		return nil, errkind.New(errkind.Exhausted, "too many probes are under way: ask for a quote without one, or again in a minute")
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
	if err != nil {
		free()
		return err
	}
	answer := make(chan error, 1)
	begun := e.spawnForCall(func() {
		defer free()
		p, err := e.node.Payments.ProbeRoute(e.ctx, probe)
		answer <- judgeProbe(p, err)
		// The place is the probe's until lnd has its money back.
		for (err != nil || p.State == ln.PaymentInFlight) && e.ctx.Err() == nil {
			if p, err = e.node.Payments.WaitPayment(e.ctx, probe.Hash); err == nil && p.State == ln.PaymentUnknown {
				return
			}
			if err != nil && pace.Pause(e.ctx, time.Second) != nil {
				return
			}
		}
	})
	if !begun {
		free()
		return errStopping
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
