package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// Payments to one wallet take turns: who has chosen keeps the others waiting
// until lnd's balances show its HTLC, wherever it went. The order is that of
// their coming, and a payment that does not get on holds nobody up for long.
func TestTurns(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	now := time.Now()
	b.e.opt.Now = func() time.Time { return now }
	client := key(2)
	const amount = ln.Msat(100_000_000)
	type payment struct {
		id   string
		hash ln.Hash
	}
	var all []payment
	for i := range 5 {
		a, hash := b.agree(client, amount)
		require.NoError(t, b.part(a, hash, uint64(i+1)))
		all = append(all, payment{a.PaymentID, hash})
	}
	ask := func(i int) room {
		t.Helper()
		r, err := b.e.takeRoom(t.Context(), all[i].id, client, amount, 0, true)
		require.NoError(t, err)
		return r
	}
	answer := func(i int, r room) {
		t.Helper()
		_, err := b.e.jits.Send(t.Context(), all[i].id, jit.WalletStatus{Moment: b.e.moment(), Online: true, Wait: r.wait, Room: r.via, Channels: r.channels})
		require.NoError(t, err)
	}
	stateOf := func(i int) string { return b.state(all[i].id).StateName() }
	called := func(i int) {
		t.Helper()
		require.Eventually(t, func() bool {
			inst, err := b.e.jits.Get(t.Context(), all[i].id)
			require.NoError(t, err)
			return inst.Version > 2
		}, 20*time.Second, time.Millisecond, "payment %d was not called", i)
	}

	first := ask(0)
	require.Equal(t, room{}, first, "nobody is before it and there is no channel")
	require.True(t, ask(1).wait, "the first has not said yet what it does")
	answer(0, first)
	require.Equal(t, "opening", stateOf(0))
	r := ask(1)
	require.True(t, r.wait)
	answer(1, r)
	require.Equal(t, "collecting", stateOf(1))
	require.True(t, ask(2).wait)

	// The first has its channel, and room there. Whoever came may not use it.
	b.node.mu.Lock()
	b.node.channels = []ln.Channel{roomy(client, 50, 150_000)}
	b.node.mu.Unlock()
	b.e.world.name(ln.Outpoint{}, 50)
	_, err := b.e.jits.Send(t.Context(), all[0].id, jit.OpeningUsable{Moment: b.e.moment(), OpeningID: all[0].id + "-open-1", ChanID: 50})
	require.NoError(t, err)
	require.True(t, ask(1).wait)
	_, err = b.e.jits.Send(t.Context(), all[0].id, jit.Mapped{Moment: b.e.moment(), Via: 50})
	require.NoError(t, err)
	_, err = b.e.jits.Send(t.Context(), all[0].id, jit.PartsResumed{Moment: b.e.moment()})
	require.NoError(t, err)
	require.True(t, ask(2).wait, "lnd does not show it yet")
	require.True(t, ask(1).wait)

	// It is there: the next is called, and nobody overtakes it.
	b.node.mu.Lock()
	b.node.channels[0].LocalSat = 50_000
	b.node.channels[0].Htlcs = []ln.ChannelHtlc{{Hash: all[0].hash, AmtMsat: amount}}
	b.node.mu.Unlock()
	called(1)
	require.True(t, ask(2).wait, "the second came before it")
	second := ask(1)
	require.False(t, second.wait)
	require.Zero(t, second.via)
	answer(1, second)
	require.Equal(t, "opening", stateOf(1))

	// A channel that takes everybody who is on their way needs no turn.
	b.node.mu.Lock()
	b.node.channels = append(b.node.channels, roomy(client, 51, 250_000))
	b.node.mu.Unlock()
	third := ask(2)
	require.False(t, third.wait)
	require.EqualValues(t, 51, third.via)
	answer(2, third)
	require.True(t, ask(3).wait, "but not for one more")

	// The second and the third do not get on.
	now = now.Add(turnWithin)
	fourth := ask(3)
	require.False(t, fourth.wait)
	require.EqualValues(t, 51, fourth.via, "beside the third, which is late and keeps its room")
	answer(3, fourth)
	require.Equal(t, "mapping", stateOf(3))

	// Who goes back is waited for no longer.
	require.True(t, ask(4).wait)
	for _, i := range []int{1, 3} {
		_, err = b.e.jits.Send(t.Context(), all[i].id, jit.Cancel{Moment: b.e.moment()})
		require.NoError(t, err)
	}
	called(4)
	require.False(t, ask(4).wait)
}
