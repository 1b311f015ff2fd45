package engine

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
)

// roomy is an active channel that the gateway opened to the wallet.
func roomy(client ln.PubKey, id ln.SCID, local ln.Sat) ln.Channel {
	return ln.Channel{
		Private: true, ChanID: id, Peer: client, Active: true, Initiator: true, CommitmentType: string(ln.CommitmentAnchors),
		CapacitySat: local + 50_000, LocalSat: local, LocalReserveSat: 5_000, CommitFeeSat: 3_000,
	}
}

// Room is promised once, however many ask for it at once, and comes free when
// the agreement ends; who finds none is offered a channel for its fee.
func TestRoomIsPromisedOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		client := key(2)
		b.node.channels = []ln.Channel{roomy(client, 50, 350_000), roomy(client, 51, 150_000), roomy(key(3), 52, 900_000)}
		// An announced channel charges for what it forwards: it is no room.
		announced := roomy(client, 53, 900_000)
		announced.Private = false
		b.node.channels = append(b.node.channels, announced)
		var mu sync.Mutex
		var free []Agreement
		atOnce(12, func(int) bool {
			a, _, err := b.negotiate(client, 100_000_000)
			require.NoError(t, err)
			require.Equal(t, a.OpensChannel, a.Quote.FeeMsat > 0)
			mu.Lock()
			defer mu.Unlock()
			if !a.OpensChannel {
				free = append(free, a)
			}
			return true
		})
		require.Len(t, free, 4, "three in one channel, one in the other")

		// A payment that pays for a channel doesn't take promised room either.
		paying, hash := b.agree(client, 100_000_000)
		require.True(t, paying.OpensChannel)
		require.NoError(t, b.part(paying, hash, 1))
		found, err := b.e.takeRoom(t.Context(), paying.PaymentID, client, 100_000_000, 0, true)
		require.NoError(t, err)
		require.Zero(t, found.via)
		require.False(t, found.wait)
		// One that was promised room finds its own, once nobody is on the way.
		_, err = b.e.jits.Send(t.Context(), paying.PaymentID, jit.Cancel{Moment: b.e.moment()})
		require.NoError(t, err)
		via := jit.OfferOf(b.state(free[0].PaymentID)).Room
		require.NotZero(t, via)
		found, err = b.e.takeRoom(t.Context(), free[0].PaymentID, client, 100_000_000, via, true)
		require.NoError(t, err)
		require.Equal(t, via, found.via)

		_, err = b.e.jits.Send(t.Context(), free[0].PaymentID, jit.Cancel{Moment: b.e.moment()})
		require.NoError(t, err)
		next, _ := b.agree(client, 100_000_000)
		require.False(t, next.OpensChannel, "the room came free")

		// Promises outlive a restart.
		b.e.promises = map[string]spot{}
		require.NoError(t, b.e.load(t.Context()))
		next, _ = b.agree(client, 100_000_000)
		require.True(t, next.OpensChannel)
	})
}

// The wallet's promised room is gone when the payment comes: it goes back with a
// reason that says so, unless the operator opens a channel for it.
func TestPromisedRoomIsGone(t *testing.T) {
	for name, allowed := range map[string]bool{"off": false, "on": true} {
		t.Run(name, func(t *testing.T) {
			db := storetest.Open(t, storetest.SQLite(t))
			b := newOffice(t, db, func(c *Config) { c.OpenForLostRoom = allowed })
			client := key(2)
			b.node.channels = []ln.Channel{roomy(client, 50, 200_000)}
			a, hash := b.agree(client, 100_000_000)
			require.False(t, a.OpensChannel)
			b.node.channels[0].LocalSat = 50_000
			require.NoError(t, b.part(a, hash, 1))
			_, err := b.e.jits.Send(t.Context(), a.PaymentID, jit.WalletStatus{Moment: b.e.moment(), Online: true, Channels: 1})
			require.NoError(t, err)
			s := b.state(a.PaymentID)
			if allowed {
				require.Equal(t, "opening", s.StateName())
				return
			}
			require.Equal(t, "offered", s.StateName())
			require.Equal(t, lsp.ReasonNoRoom, jit.OfferOf(s).Last.Code)
		})
	}
}

// A retry whose SCID leads to another channel of the wallet is served by it
// while it is active; from a channel that is closed or inactive the SCID moves.
func TestMapAlias(t *testing.T) {
	const scid, other = ln.SCID(99), ln.SCID(60)
	client := key(2)
	for name, c := range map[string]struct {
		channels []ln.Channel
		owner    ln.SCID
		taken    bool
	}{
		"not mapped yet":                    {owner: 50, channels: []ln.Channel{roomy(client, 50, 1)}},
		"mapped to it already":              {owner: 50, channels: []ln.Channel{roomy(client, 50, 1)}},
		"mapped to an active channel":       {owner: other, channels: []ln.Channel{roomy(client, 50, 1), roomy(client, other, 1)}},
		"mapped to one that is closed":      {owner: 50, channels: []ln.Channel{roomy(client, 50, 1)}},
		"mapped to one that is not active":  {owner: 50, channels: []ln.Channel{roomy(client, 50, 1), {ChanID: other, Peer: client}}},
		"mapped to a channel of a stranger": {owner: other, taken: true, channels: []ln.Channel{roomy(client, 50, 1), roomy(key(3), other, 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
			b.node.channels = c.channels
			switch name {
			case "not mapped yet":
			case "mapped to it already":
				b.node.aliases[scid] = 50
			default:
				b.node.aliases[scid] = other
			}
			err := b.e.mapAlias(t.Context(), jit.MapChannel{Client: client, SCID: scid, Via: 50})
			require.Equal(t, c.taken, err != nil, "%v", err)
			require.Equal(t, c.owner, b.node.aliases[scid])
		})
	}
}

// TestRoomOnceTheChannelIsUp: a wallet's node has connected, and its channel is active a
// moment later. Who was promised room in it waits for that moment; who finds no room
// anyway, or whose wallet is gone again, does not wait.
func TestRoomOnceTheChannelIsUp(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	client := key(2)
	ch := roomy(client, 50, 350_000)
	ch.Active = false
	b.node.channels = []ln.Channel{ch}
	presence := func(online bool) {
		b.e.world.mu.Lock()
		defer b.e.world.mu.Unlock()
		b.e.world.peers[client] = online
	}
	take := func(amount ln.Msat) (ln.SCID, time.Duration) {
		began := time.Now()
		r, err := b.e.takeRoomOnceUp(t.Context(), "payment", client, amount, 0, true)
		require.NoError(t, err)
		return r.via, time.Since(began)
	}
	presence(true)
	via, took := take(900_000_000)
	require.Zero(t, via)
	require.Less(t, took, comesUpWithin, "it would have no room there")
	presence(false)
	via, took = take(100_000_000)
	require.Zero(t, via)
	require.Less(t, took, comesUpWithin, "nobody is there")
	presence(true)
	b.node.upAfter = 3
	via, _ = take(100_000_000)
	require.EqualValues(t, 50, via)
}

// A wallet that declines zero-conf is not paid over a channel that it took
// unconfirmed for another payment: until that has confirmed it is no room.
func TestNoRoomInAnUnconfirmedChannelForWhoDeclinesZeroConf(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	client := key(2)
	unconfirmed := roomy(client, 50, 350_000)
	unconfirmed.ZeroConf = true
	b.node.channels = []ln.Channel{unconfirmed}
	room := func(zeroConf bool) (scid ln.SCID) {
		scid, channels, err := b.e.promiseRoom(t.Context(), "payment", client, ln.Hash{1}, 100_000_000, zeroConf)
		require.NoError(t, err)
		require.Equal(t, 1, channels)
		b.e.breakPromise("payment")
		taken, err := b.e.takeRoom(t.Context(), "payment", client, 100_000_000, 0, zeroConf)
		require.NoError(t, err)
		require.Equal(t, scid, taken.via)
		return scid
	}
	require.Zero(t, room(false))
	require.EqualValues(t, 50, room(true))
	b.node.channels[0].ConfirmedSCID = 7 << 40
	require.EqualValues(t, 50, room(false))
}

// TestAChannelCarriesAsManyPartsAsAreLetIn: whatever the payer splits its payment
// into, the channel that was opened for it takes it.
func TestAChannelCarriesAsManyPartsAsAreLetIn(t *testing.T) {
	e := newEngine(t, database(t), newFakeNode(), nil)
	e.cfg.Capacity.HeadroomSat, e.cfg.Capacity.HeadroomPPM, e.cfg.Capacity.MinSat, e.cfg.Capacity.StressPercent = 0, 0, 0, 100
	for _, rate := range []ln.FeeRateSatPerKW{ln.MinFeeRate, 1_000, maxCommitRate} {
		const amount = 100_000_000
		capacity, err := e.capacityAt(amount, rate)
		require.NoError(t, err)
		commitFee, err := lsp.CommitFee(e.cfg.Type, rate, 0)
		require.NoError(t, err)
		spendable, err := lsp.Spendable(ln.Channel{
			LocalSat: capacity - commitFee - 660, LocalReserveSat: e.cfg.Capacity.Reserve(capacity),
			CommitFeeSat: commitFee, CommitmentType: string(e.cfg.Type), Initiator: true,
		}, rate, e.cfg.MaxParts)
		require.NoError(t, err)
		require.GreaterOrEqual(t, spendable, ln.Msat(amount), "at %d sat/kw a channel of %s", rate, capacity)
	}
}

// A payment that lnd has settled counts twice until its end is known: it has left the
// channel's balance and has its spot. Its end is waited for before a channel is called for.
func TestRoomOfAPaymentThatIsEnding(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	client := key(2)
	b.node.channels = []ln.Channel{roomy(client, 50, 200_000)}
	b.e.spots["ending"] = spot{client: client, hash: ln.Hash{1}, amount: 100_000_000, via: 50, decided: true}
	b.node.onList = func(times int) {
		if times == 2 {
			b.e.mu.Lock()
			delete(b.e.spots, "ending")
			b.e.mu.Unlock()
		}
	}
	via, _, err := b.e.promiseRoom(t.Context(), "next", client, ln.Hash{2}, 100_000_000, true)
	require.NoError(t, err)
	require.EqualValues(t, 50, via)

	// What was promised, and not taken, is nobody's to wait for.
	began := time.Now()
	via, _, err = b.e.promiseRoom(t.Context(), "third", client, ln.Hash{3}, 100_000_000, true)
	require.NoError(t, err)
	require.Zero(t, via)
	require.Less(t, time.Since(began), endsWithin)
}

// A wallet that goes while it is asked about, with the gateway's own lnd maybe, is waited
// for: what its channels lack then says nothing of what they have when it is back.
func TestAWalletGoesWhileItIsAskedAbout(t *testing.T) {
	for _, has := range []bool{true, false} {
		b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
		client := key(2)
		b.node.channels = []ln.Channel{roomy(client, 50, 350_000)}
		a, hash := b.agree(client, 100_000_000)
		require.False(t, a.OpensChannel)
		require.NoError(t, b.part(a, hash, 1))
		b.node.channels[0].Active = false
		if !has {
			b.node.channels = nil
		}
		come := func(online bool) { b.e.world.peer(ln.PeerEvent{Peer: client, Online: online}) }
		come(true)
		b.node.onList = func(int) { come(false) }
		ask := func() walletStatus {
			status, err := b.e.askWallet(t.Context(), a.PaymentID, client, 100_000_000, 0, 50, true, true)
			require.NoError(t, err)
			return status
		}
		require.False(t, ask().online)
		require.NotContains(t, b.e.spots, a.PaymentID, "it keeps nobody waiting")
		come(true)
		b.node.onList, b.node.channels = nil, []ln.Channel{roomy(client, 50, 350_000)}
		status := ask()
		require.True(t, status.online)
		require.EqualValues(t, 50, status.via)
	}
}
