package auth

import (
	"container/list"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-lsp/sluice/internal/errkind"
)

// Rate is a steady number of calls per second and a burst above it.
type Rate struct {
	PerSecond float64 `toml:"per_second" help:"calls per second, steadily"`
	Burst     int     `toml:"burst" help:"calls at once above the steady rate"`
}

// Limits bound what each caller may use.
type Limits struct {
	Wallet          Rate `toml:"wallet" help:"each logged-in wallet"`
	Operator        Rate `toml:"operator" help:"all callers with the operator's macaroon"`
	Address         Rate `toml:"address" help:"each address, for calls without a valid macaroon (IPv6: each /64)"`
	Unauthenticated Rate `toml:"unauthenticated" help:"all calls without a valid macaroon"`
	// Tracked is how many wallets, and how many addresses, are remembered at
	// once; the one longest unseen makes room.
	Tracked int `toml:"tracked" help:"wallets and addresses remembered at once"`
	// Streams is how many streams one wallet or address may hold open.
	Streams int `toml:"streams" help:"open streams of one wallet or address"`
}

// DefaultLimits suit a gateway with some thousand wallets.
func DefaultLimits() Limits {
	return Limits{
		Wallet:          Rate{PerSecond: 20, Burst: 100},
		Operator:        Rate{PerSecond: 500, Burst: 1000},
		Address:         Rate{PerSecond: 5, Burst: 100},
		Unauthenticated: Rate{PerSecond: 500, Burst: 1000},
		Tracked:         10_000,
		Streams:         32,
	}
}

// Validate names the first limit that would refuse everything.
func (l Limits) Validate() error {
	for name, r := range map[string]Rate{
		"wallet": l.Wallet, "operator": l.Operator, "address": l.Address, "unauthenticated": l.Unauthenticated,
	} {
		if !(r.PerSecond > 0) || r.Burst < 1 {
			return fmt.Errorf("limit %s: per_second and burst must be positive", name)
		}
	}
	if l.Tracked < 1 || l.Streams < 1 {
		return fmt.Errorf("limits: tracked and streams must be at least 1")
	}
	return nil
}

// limiters is a bounded set of rate limiters, least recently used first out.
type limiters struct {
	rate Rate
	max  int

	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List
}

type limiterEntry struct {
	key     string
	limiter *rate.Limiter
}

func newLimiters(r Rate, maxKeys int) *limiters {
	return &limiters{rate: r, max: maxKeys, byKey: map[string]*list.Element{}, order: list.New()}
}

func (l *limiters) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byKey[key]
	if !ok {
		if l.order.Len() >= l.max {
			oldest := l.order.Back()
			delete(l.byKey, oldest.Value.(*limiterEntry).key)
			l.order.Remove(oldest)
		}
		e = l.order.PushFront(&limiterEntry{key: key, limiter: rate.NewLimiter(rate.Limit(l.rate.PerSecond), l.rate.Burst)})
		l.byKey[key] = e
	}
	l.order.MoveToFront(e)
	return e.Value.(*limiterEntry).limiter.AllowN(now, 1)
}

// Limiters give many callers one rate each, for servers that the guard does not
// stand before. It forgets the caller longest unseen when there are too many.
type Limiters struct{ set *limiters }

// NewLimiters makes the set for at most so many callers at once.
func NewLimiters(r Rate, tracked int) *Limiters { return &Limiters{set: newLimiters(r, tracked)} }

// Allow takes one call from a caller's allowance.
func (l *Limiters) Allow(caller string, now time.Time) bool { return l.set.allow(caller, now) }

// AddressKey is the caller that an address stands for: an IPv4 address, an IPv6
// /64.
func AddressKey(a netip.Addr) string { return addressKey(a) }

// streamCounter bounds open streams per key. It holds only keys that have
// streams open.
type streamCounter struct {
	mu   sync.Mutex
	open map[string]int
}

func (s *streamCounter) acquire(key string, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key] >= limit {
		return errkind.Newf(errkind.Exhausted, "There are already %d streams open for this caller: close some first.", limit)
	}
	s.open[key]++
	return nil
}

func (s *streamCounter) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key]--; s.open[key] <= 0 {
		delete(s.open, key)
	}
}

// addressKey groups addresses as one subscriber holds them: an IPv4 address,
// an IPv6 /64.
func addressKey(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
