package interceptor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// Chain knows every registered handler and the routes it claims. It is kept
// whole in memory, so that an ordinary forward costs one map look-up. It is
// not safe for concurrent use; its owner serialises.
type Chain struct {
	handlers map[string]HandlerConfig
	// claims keeps the claims on each SCID, the winner first.
	claims map[ln.SCID][]claim
	routes map[string]int
}

type claim struct {
	handler  string
	priority int
	until    time.Time
	guarded  bool
}

// NewChain is an empty chain: every forward is ordinary.
func NewChain() *Chain {
	return &Chain{
		handlers: make(map[string]HandlerConfig),
		claims:   make(map[ln.SCID][]claim),
		routes:   make(map[string]int),
	}
}

// Validate checks a registration: a name of 1 to 32 lower-case letters, digits
// or '-', and a known policy.
func (c HandlerConfig) Validate() error {
	if len(c.Name) == 0 || len(c.Name) > 32 {
		return fmt.Errorf("handler name of %d bytes: want 1 to 32: %w", len(c.Name), ErrInvalid)
	}
	for _, b := range []byte(c.Name) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return fmt.Errorf("handler name %q: only a-z, 0-9 and '-': %w", c.Name, ErrInvalid)
		}
	}
	switch c.OnAbsent {
	case AbsentHold, AbsentResume, AbsentFail:
		return nil
	}
	return fmt.Errorf("handler %q: policy %q: want hold, resume or fail: %w", c.Name, c.OnAbsent, ErrInvalid)
}

// Put registers a handler or changes its registration.
func (c *Chain) Put(h HandlerConfig) {
	old, had := c.handlers[h.Name]
	c.handlers[h.Name] = h
	if !had || old.Priority == h.Priority {
		return
	}
	for _, list := range c.claims {
		for i := range list {
			if list[i].handler == h.Name {
				list[i].priority = h.Priority
			}
		}
		slices.SortFunc(list, compareClaims)
	}
}

// Handler gives a registration.
func (c *Chain) Handler(name string) (HandlerConfig, bool) {
	h, ok := c.handlers[name]
	return h, ok
}

// Handlers lists the registrations by name.
func (c *Chain) Handlers() []HandlerConfig {
	out := make([]HandlerConfig, 0, len(c.handlers))
	for _, h := range c.handlers {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b HandlerConfig) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Routes counts a handler's claims.
func (c *Chain) Routes(handler string) int { return c.routes[handler] }

// Claim adds a route, or moves its end, which ends its guard. The handler must
// be registered.
func (c *Chain) Claim(handler string, r Route) error {
	h, ok := c.handlers[handler]
	if !ok {
		return fmt.Errorf("handler %q: %w", handler, ErrUnknownHandler)
	}
	list := c.claims[r.SCID]
	for i := range list {
		if list[i].handler == handler {
			list[i].until, list[i].guarded = r.Until, false
			return nil
		}
	}
	list = append(list, claim{handler: handler, priority: h.Priority, until: r.Until, guarded: r.Guarded})
	slices.SortFunc(list, compareClaims)
	c.claims[r.SCID] = list
	c.routes[handler]++
	return nil
}

// Release drops a handler's claim on an SCID, if there is one.
func (c *Chain) Release(handler string, scid ln.SCID) {
	list := c.claims[scid]
	kept := slices.DeleteFunc(list, func(cl claim) bool { return cl.handler == handler })
	if len(kept) == len(list) {
		return
	}
	c.routes[handler]--
	if len(kept) == 0 {
		delete(c.claims, scid)
		return
	}
	c.claims[scid] = kept
}

// Match finds the handler that wants a forward over scid at this time.
func (c *Chain) Match(scid ln.SCID, at time.Time) (HandlerConfig, bool) {
	for _, cl := range c.claims[scid] {
		if cl.until.IsZero() || at.Before(cl.until) {
			return c.handlers[cl.handler], true
		}
	}
	return HandlerConfig{}, false
}

// Claimed reports a claim on scid, lapsed or not, by whichever handler. Such an
// HTLC gets a row before anything is answered, a RESUME included.
func (c *Chain) Claimed(scid ln.SCID) bool { return len(c.claims[scid]) > 0 }

// Guarded reports that scid has been claimed without a break since before any
// HTLC could name it. So none of them was ever resumed without a row.
func (c *Chain) Guarded(scid ln.SCID) bool {
	return slices.ContainsFunc(c.claims[scid], func(cl claim) bool { return cl.guarded })
}

// EndGuards ends every guard: something else than the owners of this ledger may
// have answered, or the ledger may have forgotten what they answered.
func (c *Chain) EndGuards() {
	for _, list := range c.claims {
		for i := range list {
			list[i].guarded = false
		}
	}
}

// Expired lists claims that have lapsed by this time, for housekeeping.
func (c *Chain) Expired(at time.Time) map[string][]ln.SCID {
	out := make(map[string][]ln.SCID)
	for scid, list := range c.claims {
		for _, cl := range list {
			if !cl.until.IsZero() && !at.Before(cl.until) {
				out[cl.handler] = append(out[cl.handler], scid)
			}
		}
	}
	return out
}

func compareClaims(a, b claim) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.handler, b.handler))
}
