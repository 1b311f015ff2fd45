package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/lightningnetwork/lnd/brontide"
	"github.com/lightningnetwork/lnd/keychain"
	"github.com/lightningnetwork/lnd/lnwire"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/sluice-lsp/sluice/internal/auth"
)

func key(t testing.TB) *btcec.PrivateKey {
	t.Helper()
	k, err := btcec.NewPrivateKey()
	require.NoError(t, err)
	return k
}

// listen runs a listener that echoes the first message of each connection.
func listen(t testing.TB, change func(*Config), keys ...Key) (l *Listener, addr string, conns <-chan *Conn) {
	t.Helper()
	var lc net.ListenConfig
	tcp, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	got := make(chan *Conn, 100)
	cfg := Config{
		Listener: tcp, Handle: func(c *Conn) { got <- c }, Handshakes: auth.Rate{PerSecond: 1e6, Burst: 1e6},
		MaxConns: 100, MaxPerTenant: 100, Tracked: 100, Now: time.Now, Log: zaptest.NewLogger(t),
	}
	if change != nil {
		change(&cfg)
	}
	l = New(cfg)
	l.SetKeys(keys)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l, tcp.Addr().String(), got
}

// dial is what a stock client does.
func dial(t testing.TB, addr string, tower *btcec.PublicKey, session *btcec.PrivateKey) (*brontide.Conn, error) {
	t.Helper()
	at, err := net.ResolveTCPAddr("tcp", addr)
	require.NoError(t, err)
	return brontide.Dial(&keychain.PrivKeyECDH{PrivKey: session}, &lnwire.NetAddress{IdentityKey: tower, Address: at}, 10*time.Second, net.DialTimeout)
}

// TestEachTenantHasItsKey: a stock initiator reaches the tenant whose key it
// knows, the session key that it proved is what we see, and messages pass both
// ways.
func TestEachTenantHasItsKey(t *testing.T) {
	var keys []Key
	var private []*btcec.PrivateKey
	for i := range 20 {
		k := key(t)
		keys, private = append(keys, NewKey(int64(i+1), k)), append(private, k)
	}
	l, addr, conns := listen(t, nil, keys...)
	for _, i := range []int{0, 19, 7, 7, 0} {
		session := key(t)
		client, err := dial(t, addr, private[i].PubKey(), session)
		require.NoError(t, err)
		server := <-conns
		require.EqualValues(t, i+1, server.Tenant())
		require.True(t, server.RemotePub().IsEqual(session.PubKey()))
		for _, size := range []int{1, 314, 65535} {
			msg := bytes.Repeat([]byte{byte(size)}, size)
			require.NoError(t, client.WriteMessage(msg))
			_, err = client.Flush()
			require.NoError(t, err)
			got, err := server.ReadNextMessage()
			require.NoError(t, err)
			require.Equal(t, msg, got)
			_, err = server.Write(got)
			require.NoError(t, err)
			back, err := client.ReadNextMessage()
			require.NoError(t, err)
			require.Equal(t, msg, back)
		}
		require.NoError(t, server.Close())
		_ = client.Close()
	}
	require.Eventually(t, func() bool { return l.Connections() == 0 }, 10*time.Second, 5*time.Millisecond)
	require.EqualValues(t, 5, l.Counts().Succeeded)
}

// TestStrangersGetNothing: who knows no key hears nothing at all, whatever it
// sends; nor does one whose tenant's time is over.
func TestStrangersGetNothing(t *testing.T) {
	known := key(t)
	l, addr, conns := listen(t, nil, NewKey(1, known))
	strangers := map[string][]byte{
		"a wrong version": append([]byte{1}, make([]byte, brontide.ActOneSize-1)...),
		"no point":        make([]byte, brontide.ActOneSize),
	}
	machine := brontide.NewBrontideMachine(true, &keychain.PrivKeyECDH{PrivKey: key(t)}, key(t).PubKey())
	one, err := machine.GenActOne()
	require.NoError(t, err)
	strangers["another tower's key"] = one[:]
	for name, act := range strangers {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err, name)
		_, err = conn.Write(act)
		require.NoError(t, err, name)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, name)
		require.Zero(t, n, name)
		require.NoError(t, conn.Close())
	}
	l.SetKeys(nil)
	_, err = dial(t, addr, known.PubKey(), key(t))
	require.Error(t, err)
	require.Empty(t, conns)
	require.EqualValues(t, 2, l.Counts().Unknown)
	require.EqualValues(t, 2, l.Counts().Failed)
}

// TestFloods: connections beyond what is allowed are closed, and the others go
// on.
func TestFloods(t *testing.T) {
	first, second := key(t), key(t)
	l, addr, conns := listen(t, func(c *Config) { c.MaxConns, c.MaxPerTenant = 6, 2 }, NewKey(1, first), NewKey(2, second))
	var held []*Conn
	for range 2 {
		_, err := dial(t, addr, first.PubKey(), key(t))
		require.NoError(t, err)
		held = append(held, <-conns)
	}
	third, err := dial(t, addr, first.PubKey(), key(t))
	require.NoError(t, err)
	_, err = third.Read(make([]byte, 1))
	require.Error(t, err, "one tenant has its share")
	_, err = dial(t, addr, second.PubKey(), key(t))
	require.NoError(t, err, "another tenant has its own")
	held = append(held, <-conns)
	require.NoError(t, held[0].Close())
	_ = held[0].Close() // a second time gives no second place
	_, err = dial(t, addr, first.PubKey(), key(t))
	require.NoError(t, err)
	<-conns
	require.EqualValues(t, 1, l.Counts().Refused)
}

func TestAddressesAreLimited(t *testing.T) {
	known := key(t)
	now := time.Now()
	l, addr, _ := listen(t, func(c *Config) {
		c.Handshakes, c.Now = auth.Rate{PerSecond: 1, Burst: 3}, func() time.Time { return now }
	}, NewKey(1, known))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { _, _ = dial(t, addr, known.PubKey(), key(t)) })
	}
	wg.Wait()
	require.Eventually(t, func() bool {
		c := l.Counts()
		return c.Succeeded == 3 && c.Refused == 7
	}, 20*time.Second, 5*time.Millisecond)
}

func TestDerivedKeys(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	a, err := Derive(secret, "node:02aa")
	require.NoError(t, err)
	again, err := Derive(secret, "node:02aa")
	require.NoError(t, err)
	require.Equal(t, a.Serialize(), again.Serialize())
	for _, other := range []struct {
		secret   []byte
		identity string
	}{{secret, "node:02ab"}, {bytes.Repeat([]byte{8}, 32), "node:02aa"}} {
		b, err := Derive(other.secret, other.identity)
		require.NoError(t, err)
		require.NotEqual(t, a.Serialize(), b.Serialize())
	}
	_, err = Derive(nil, "node:02aa")
	require.Error(t, err)
}

// BenchmarkTrial is what one garbled first act costs, by the number of tenants.
func BenchmarkTrial(b *testing.B) {
	for _, tenants := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			var keys []Key
			for i := range tenants {
				keys = append(keys, NewKey(int64(i+1), key(b)))
			}
			machine := brontide.NewBrontideMachine(true, &keychain.PrivKeyECDH{PrivKey: key(b)}, key(b).PubKey())
			one, err := machine.GenActOne()
			require.NoError(b, err)
			act, err := parseFirstAct(one)
			require.NoError(b, err)
			for b.Loop() {
				for _, k := range keys {
					if _, err := act.meant(k); err == nil {
						b.Fatal("a stranger got in")
					}
				}
			}
		})
	}
}

func FuzzFirstAct(f *testing.F) {
	f.Add(make([]byte, brontide.ActOneSize))
	k := NewKey(1, key(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var one [brontide.ActOneSize]byte
		copy(one[:], raw)
		if act, err := parseFirstAct(one); err == nil {
			_, err = act.meant(k)
			require.Error(t, err)
		}
	})
}
