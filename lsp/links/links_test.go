package links

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/sluice-lsp/sluice/internal/ln"
)

func key(b byte) (k ln.PubKey) {
	k[0], k[1] = 2, b
	return k
}

func channel(peer byte, index uint32) ln.Channel {
	return ln.Channel{Peer: key(peer), Outpoint: ln.Outpoint{TxID: ln.TxID{peer}, Index: index}}
}

func TestWatch(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	down := []ln.Channel{channel(1, 0)}
	online := []ln.PubKey{key(1), key(2)}
	none := []ln.PubKey(nil)
	one := []ln.PubKey{key(1)}

	t.Run("a connected peer whose channel stays inactive is due, later and later", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		var due []int
		for m := range 200 {
			if got := w.Look(at(m), down, online, 100); len(got) > 0 {
				require.Equal(t, one, got)
				due = append(due, m)
			}
		}
		require.Equal(t, []int{2, 6, 14, 30, 62, 122, 182}, due)
	})
	t.Run("one that is away is waited for", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		for m := range 100 {
			require.Empty(t, w.Look(at(m), down, none, 100))
		}
		require.Empty(t, w.Look(at(100), down, online, 100), "it has just come")
		require.Empty(t, w.Look(at(101), down, online, 100))
		require.Equal(t, one, w.Look(at(102), down, online, 100))
	})
	t.Run("a link that fails after each start keeps its count and ends as dead", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		attempts := 0
		for m := range 40 {
			inactive := down
			if m%4 == 3 {
				inactive = nil // it is up for a moment
			}
			attempts += len(w.Look(at(m), inactive, online, 100))
		}
		require.Equal(t, 4, attempts)
		require.Equal(t, []Dead{{Peer: key(1), Outpoint: down[0].Outpoint, Attempts: 4}}, w.Dead())
	})
	t.Run("one that recovered begins anew", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		for m := range 10 {
			w.Look(at(m), down, online, 100)
		}
		for m := 10; m < 14; m++ {
			require.Empty(t, w.Look(at(m), nil, online, 100))
		}
		require.Empty(t, w.peers)
		require.Empty(t, w.Dead())
		require.Empty(t, w.Look(at(20), down, online, 100))
		require.Equal(t, one, w.Look(at(22), down, online, 100))
	})
	t.Run("all channels of a peer are one turn", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		both := []ln.Channel{channel(1, 0), channel(1, 1), channel(2, 0)}
		require.Empty(t, w.Look(at(0), both, online, 100))
		require.Equal(t, []ln.PubKey{key(1), key(2)}, w.Look(at(2), both, online, 100))
	})
}

// TestStalled: an HTLC of an active channel near its expiry.
func TestStalled(t *testing.T) {
	const height = 1000
	start := time.Unix(1_800_000_000, 0)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	online, one := []ln.PubKey{key(1)}, []ln.PubKey{key(1)}
	with := func(active bool, htlcs ...ln.ChannelHtlc) []ln.Channel {
		c := channel(1, 0)
		c.Active, c.Htlcs = active, htlcs
		return []ln.Channel{c}
	}
	out := func(index uint64, expiry uint32) ln.ChannelHtlc { return ln.ChannelHtlc{Index: index, Expiry: expiry} }
	in := func(index uint64, expiry uint32) ln.ChannelHtlc {
		return ln.ChannelHtlc{Incoming: true, Index: index, Expiry: expiry}
	}
	// turns are the minutes of an hour at which its peer's turn is.
	turns := func(look func(minute int) []ln.Channel) (due []int) {
		w := NewWatch(2 * time.Minute)
		for m := range 60 {
			if got := w.Look(at(m), look(m), online, height); len(got) > 0 {
				require.Equal(t, one, got)
				due = append(due, m)
			}
		}
		return due
	}
	t.Run("one that stays is reason enough, later and later", func(t *testing.T) {
		require.Equal(t, []int{2, 6, 14, 30}, turns(func(int) []ln.Channel { return with(true, out(7, height+36)) }))
		require.Equal(t, []int{2, 6, 14, 30}, turns(func(int) []ln.Channel { return with(true, in(7, height+18)) }))
	})
	t.Run("one that has time is not, nor what may be held for that long", func(t *testing.T) {
		require.Empty(t, turns(func(int) []ln.Channel { return with(true, out(7, height+37), in(8, height+19)) }))
	})
	t.Run("a channel through which one after the other passes works", func(t *testing.T) {
		require.Empty(t, turns(func(m int) []ln.Channel { return with(true, out(uint64(m), height+20), out(uint64(m+1), height+20)) })) //nolint:gosec // small
	})
	t.Run("what waits while the channel is inactive gets its time once it is active", func(t *testing.T) {
		require.Equal(t, []int{13}, turns(func(m int) []ln.Channel {
			if m == 14 {
				return nil // it is closed, or done
			}
			return with(m >= 11 || m%2 == 1, out(7, height+20))
		})[:1])
	})
	t.Run("the most urgent of several is named", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		for m := range 40 {
			w.Look(at(m), with(true, out(1, height+9), out(2, height+5), in(3, height+7)), online, height)
		}
		require.Equal(t, []Dead{{Peer: key(1), Outpoint: channel(1, 0).Outpoint, Attempts: 4, Stalled: true, Expiry: height + 5}}, w.Dead())
	})
	t.Run("nobody is connected anew for a channel whose peer is away", func(t *testing.T) {
		w := NewWatch(2 * time.Minute)
		for m := range 60 {
			require.Empty(t, w.Look(at(m), with(true, out(1, height+9)), nil, height))
		}
	})
}

// fake is an lnd whose only peer's channel is inactive until it was connected
// anew that often, or active with an HTLC that does not go until then.
type fake struct {
	mu sync.Mutex
	// halfSigned: what stalls has been signed by one side only, until a nudge.
	halfSigned bool
	nudges     []ln.DirectPayment
	stalls     bool
	connected  bool
	inbound    bool
	heals      int
	dialled    []string
	cut        int
	// lingers is for how many more calls lnd still lists a peer that was cut.
	lingers int
}

func (f *fake) ListChannels(context.Context) ([]ln.Channel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := channel(1, 0)
	c.Active = f.connected && (f.stalls || f.cut >= f.heals)
	if f.stalls && f.cut < f.heals {
		c.Htlcs = []ln.ChannelHtlc{{Expiry: 120, LockedIn: !f.halfSigned}}
		if f.halfSigned && len(f.nudges) > 0 {
			c.Htlcs = nil
		}
	}
	return []ln.Channel{c}, nil
}

func (f *fake) Info(context.Context) (ln.NodeInfo, error) {
	return ln.NodeInfo{BlockHeight: 100}, nil
}

func (f *fake) Peers(context.Context) ([]ln.Peer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.connected {
		if f.lingers == 0 {
			return nil, nil
		}
		f.lingers--
	}
	return []ln.Peer{{Key: key(1), Address: "peer.example:9735", Inbound: f.inbound}}, nil
}

func (f *fake) DisconnectPeer(context.Context, ln.PubKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected, f.lingers = f.inbound, 3
	f.cut++
	return nil
}

func (f *fake) ConnectPeer(_ context.Context, _ ln.PubKey, at string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lingers == 0 {
		f.connected = true
	}
	f.dialled = append(f.dialled, at)
	return nil
}

func (f *fake) PayDirect(_ context.Context, p ln.DirectPayment) (ln.Payment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nudges = append(f.nudges, p)
	return ln.Payment{State: ln.PaymentFailed}, nil
}

func TestKeeper(t *testing.T) {
	run := func(t *testing.T, f *fake, d time.Duration) (k *Keeper) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			k = NewKeeper(Options{Node: f, Payer: f, Payments: func() []OnItsWay { return nil }, After: 2 * time.Minute, Now: time.Now, Log: zap.NewNop()})
			k.Run(ctx)
		})
		return k
	}
	t.Run("a peer that we dialled is dialled again once lnd let go of it", func(t *testing.T) {
		f := &fake{connected: true, heals: 1}
		k := run(t, f, 30*time.Minute)
		require.Equal(t, []string{"peer.example:9735"}, f.dialled)
		require.Equal(t, 1, f.cut)
		require.True(t, f.connected)
		require.Empty(t, k.Dead())
	})
	t.Run("a peer that dialled us dials by itself", func(t *testing.T) {
		f := &fake{connected: true, inbound: true, heals: 2}
		run(t, f, 30*time.Minute)
		require.Empty(t, f.dialled)
		require.Equal(t, 2, f.cut)
	})
	t.Run("a link that nothing helps is reported", func(t *testing.T) {
		f := &fake{connected: true, inbound: true, heals: 1000}
		k := run(t, f, 20*time.Minute)
		require.Equal(t, []Dead{{Peer: key(1), Outpoint: channel(1, 0).Outpoint, Attempts: 3}}, k.Dead())
	})
	t.Run("an HTLC that nears its expiry and does not go: its peer is connected anew, in time", func(t *testing.T) {
		f := &fake{connected: true, stalls: true, heals: 1}
		k := run(t, f, 5*time.Minute)
		require.Equal(t, 1, f.cut)
		require.Equal(t, []string{"peer.example:9735"}, f.dialled)
		require.Empty(t, k.Dead())
	})
	t.Run("one that never goes is reported", func(t *testing.T) {
		f := &fake{connected: true, stalls: true, heals: 1000}
		k := run(t, f, 25*time.Minute)
		require.Equal(t, []Dead{{Peer: key(1), Outpoint: channel(1, 0).Outpoint, Attempts: 3, Stalled: true, Expiry: 120}}, k.Dead())
	})
	t.Run("what one side alone has signed gets a payment that changes nothing, at once", func(t *testing.T) {
		f := &fake{connected: true, stalls: true, heals: 1, halfSigned: true}
		run(t, f, time.Minute)
		require.Len(t, f.nudges, 1)
		n := f.nudges[0]
		require.Equal(t, ln.DirectPayment{Hash: n.Hash, PaymentAddr: n.PaymentAddr, AmountMsat: 1000, Peer: key(1), ExpiryHeight: 100 + 2000}, n)
		require.NotZero(t, n.Hash)
		require.Zero(t, f.cut)
	})
}
