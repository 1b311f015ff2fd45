package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/brontide"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/auth"
)

// Config is what a listener needs.
type Config struct {
	Listener net.Listener
	// Handle is given every connection whose handshake succeeded. It returns when
	// the connection is taken care of elsewhere.
	Handle func(*Conn)
	// Handshakes is how often one address may begin a handshake.
	Handshakes auth.Rate
	// MaxConns and MaxPerTenant bound the connections that are open at once,
	// those whose handshake is under way included in the first.
	MaxConns     int
	MaxPerTenant int
	Tracked      int
	Now          func() time.Time
	Log          *zap.Logger
}

// How handshakes are bounded.
const (
	// handshakeTimeout is lnd's own.
	handshakeTimeout = 5 * time.Second
	// trials is how many first acts are compared with the keys at once: a garbled
	// one costs a multiplication for every key.
	trials = 2
	// remembered is how many addresses' last keys are tried first.
	remembered = 4096
)

// Counts are what became of handshakes since the start.
type Counts struct{ Succeeded, Unknown, Failed, Refused int64 }

// Listener accepts connections for many tower keys.
type Listener struct {
	cfg   Config
	rates *auth.Limiters
	slots chan struct{}
	trial chan struct{}
	keys  atomic.Pointer[[]Key]

	mu      sync.Mutex
	open    map[int64]int
	recent  map[netip.Addr]int64
	current map[net.Conn]struct{}

	succeeded, unknown, failed, refused atomic.Int64
}

// New makes a listener without keys: nobody gets in before SetKeys.
func New(cfg Config) *Listener {
	l := &Listener{
		cfg: cfg, rates: auth.NewLimiters(cfg.Handshakes, cfg.Tracked), slots: make(chan struct{}, cfg.MaxConns),
		trial: make(chan struct{}, trials), open: map[int64]int{}, recent: map[netip.Addr]int64{}, current: map[net.Conn]struct{}{},
	}
	l.SetKeys(nil)
	return l
}

// SetKeys replaces the keys. Connections that are open stay.
func (l *Listener) SetKeys(keys []Key) { l.keys.Store(&keys) }

// Counts tells what became of handshakes.
func (l *Listener) Counts() Counts {
	return Counts{Succeeded: l.succeeded.Load(), Unknown: l.unknown.Load(), Failed: l.failed.Load(), Refused: l.refused.Load()}
}

// Connections are open now.
func (l *Listener) Connections() int { return len(l.slots) }

// Run accepts until ctx ends, then closes every connection and waits for those
// whose handshake is under way.
func (l *Listener) Run(ctx context.Context) error {
	var under sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = l.cfg.Listener.Close() })
	defer func() {
		stop()
		_ = l.cfg.Listener.Close()
		l.mu.Lock()
		for conn := range l.current {
			_ = conn.Close()
		}
		l.mu.Unlock()
		under.Wait()
	}()
	for {
		conn, err := l.cfg.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("the tower's listener: %w", err)
		case err != nil:
			// Out of descriptors, for example: a moment may give some back.
			l.cfg.Log.Warn("a connection could not be accepted", zap.Error(err))
			select {
			case <-time.After(acceptAgain):
			case <-ctx.Done():
			}
			continue
		}
		if !l.admit(conn) {
			l.refused.Add(1)
			_ = conn.Close()
			continue
		}
		under.Go(func() { l.serve(conn) })
	}
}

const acceptAgain = 100 * time.Millisecond

// admit takes a slot for a connection, unless its address begins too many.
func (l *Listener) admit(conn net.Conn) bool {
	if !l.rates.Allow(auth.AddressKey(address(conn)), l.cfg.Now()) {
		return false
	}
	select {
	case l.slots <- struct{}{}:
	default:
		return false
	}
	l.mu.Lock()
	l.current[conn] = struct{}{}
	l.mu.Unlock()
	return true
}

func address(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (l *Listener) release(conn net.Conn, tenant int64) {
	l.mu.Lock()
	delete(l.current, conn)
	if tenant != 0 {
		if l.open[tenant]--; l.open[tenant] == 0 {
			delete(l.open, tenant)
		}
	}
	l.mu.Unlock()
	<-l.slots
}

func (l *Listener) serve(raw net.Conn) {
	conn, err := l.handshake(raw)
	if err != nil {
		if errors.Is(err, errNotMeant) {
			l.unknown.Add(1)
		} else {
			l.failed.Add(1)
		}
		_ = raw.Close()
		l.release(raw, 0)
		l.cfg.Log.Debug("handshake failed", zap.Stringer("address", raw.RemoteAddr()), zap.Error(err))
		return
	}
	l.mu.Lock()
	full := l.open[conn.tenant] >= l.cfg.MaxPerTenant
	if !full {
		l.open[conn.tenant]++
	}
	l.mu.Unlock()
	if full {
		l.refused.Add(1)
		_ = raw.Close()
		l.release(raw, 0)
		return
	}
	conn.closed = func() { l.release(raw, conn.tenant) }
	l.succeeded.Add(1)
	l.cfg.Handle(conn)
}

func (l *Listener) handshake(raw net.Conn) (*Conn, error) {
	if err := deadline(raw, handshakeTimeout); err != nil {
		return nil, err
	}
	var one [brontide.ActOneSize]byte
	if _, err := io.ReadFull(raw, one[:]); err != nil {
		return nil, err
	}
	act, err := parseFirstAct(one)
	if err != nil {
		return nil, err
	}
	key, state, err := l.find(address(raw), act)
	if err != nil {
		return nil, err
	}
	var ephemeral *btcec.PrivateKey
	machine := brontide.NewBrontideMachine(false, key.ecdh, nil, brontide.EphemeralGenerator(func() (*btcec.PrivateKey, error) {
		var err error
		ephemeral, err = btcec.NewPrivateKey()
		return ephemeral, err
	}))
	if err := machine.RecvActOne(one); err != nil {
		return nil, err
	}
	two, err := machine.GenActTwo()
	if err != nil {
		return nil, err
	}
	if err := deadline(raw, handshakeTimeout); err != nil {
		return nil, err
	}
	if _, err := raw.Write(two[:]); err != nil {
		return nil, err
	}
	var three [brontide.ActThreeSize]byte
	if _, err := io.ReadFull(raw, three[:]); err != nil {
		return nil, err
	}
	if err := machine.RecvActThree(three); err != nil {
		return nil, err
	}
	remote, err := state.caller(act, ephemeral, two, three)
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &Conn{Conn: raw, tenant: key.Tenant, machine: machine, remote: remote}, nil
}

// find tries the keys, first the one that this address knew last. Which key it
// was is no secret to who knows it, and how long the search took tells others at
// most how many keys there are.
func (l *Listener) find(from netip.Addr, act firstAct) (Key, symmetric, error) {
	l.trial <- struct{}{}
	defer func() { <-l.trial }()
	keys := *l.keys.Load()
	l.mu.Lock()
	last := l.recent[from]
	l.mu.Unlock()
	if last != 0 {
		for _, k := range keys {
			if k.Tenant == last {
				if s, err := act.meant(k); err == nil {
					return k, s, nil
				}
			}
		}
	}
	for _, k := range keys {
		if k.Tenant == last {
			continue
		}
		s, err := act.meant(k)
		if errors.Is(err, errNotMeant) {
			continue
		}
		if err != nil {
			return Key{}, s, err
		}
		l.mu.Lock()
		if len(l.recent) >= remembered {
			clear(l.recent)
		}
		l.recent[from] = k.Tenant
		l.mu.Unlock()
		return k, s, nil
	}
	return Key{}, symmetric{}, errNotMeant
}
