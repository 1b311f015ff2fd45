package engine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/fsm"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/store"
	"github.com/sluice-lsp/sluice/internal/store/storetest"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/jit"
	"github.com/sluice-lsp/sluice/lsp/liquidity"
	"github.com/sluice-lsp/sluice/lsp/order"
	"github.com/sluice-lsp/sluice/lsp/store/lspdb"
	"github.com/sluice-lsp/sluice/lsp/wrap"
)

// atOnce calls f n times at once and counts the successes.
func atOnce(n int, f func(i int) bool) int {
	var wg sync.WaitGroup
	var ok atomic.Int64
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			if f(i) {
				ok.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	return int(ok.Load())
}

// However many ask at once, no cap is exceeded by one request, one satoshi or
// one satoshi-block, and all that fits is admitted.
func TestCapsHoldAgainstMany(t *testing.T) {
	const many = 24
	t.Run("open requests", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			b := newOffice(t, open(), func(c *Config) { c.Caps.Client.OpenRequests, c.Caps.All.OpenRequests = 5, 8 })
			admitted := atOnce(many, func(i int) bool {
				_, _, err := b.negotiate(key(2+uint64(i%2)), 100_000_000)
				if err != nil {
					require.Equal(t, errkind.Exhausted, errkind.Of(err), "%v", err)
				}
				return err == nil
			})
			require.Equal(t, 8, admitted)
			u := b.usage(key(2))
			require.Equal(t, 8, u.All.OpenRequests)
			require.LessOrEqual(t, u.Client.OpenRequests, 5)
			require.LessOrEqual(t, u.All.OpenRequests-u.Client.OpenRequests, 5)
			require.EqualValues(t, 8, b.routes.claimed.Load()-b.routes.released.Load(), "who is refused keeps no claim")
		})
	})
	t.Run("coins promised", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			b := newOffice(t, open(), func(*Config) {})
			capacity, err := b.e.capacityFor(100_000_000)
			require.NoError(t, err)
			b.node.coins = 6*capacity + b.e.anchorReserve(0)
			require.Equal(t, 6, atOnce(many, func(i int) bool {
				_, _, err := b.negotiate(key(uint64(i)+2), 100_000_000)
				return err == nil
			}))
			require.Equal(t, 6*capacity, b.usage(ln.PubKey{}).Unfunded.Sat)
		})
	})
	t.Run("coins that are cut", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			b := newOffice(t, open(), func(c *Config) { c.Pool = liquidity.Policy{Coins: 5, CoinSat: 1_000_000} })
			b.node.coins, b.node.cut = 6_000_000, 6
			require.Equal(t, 5, atOnce(many, func(i int) bool {
				_, _, err := b.negotiate(key(uint64(i)+2), 100_000_000)
				return err == nil
			}), "as many as there are coins, but for the one that holds the reserve; the sats would do for more")
			require.Equal(t, 5, b.usage(ln.PubKey{}).Unfunded.Channels)
		})
	})
	t.Run("held sats", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			// 102,001 sat each, rounded up: nine fit in all, five of one client.
			b := newOffice(t, open(), func(c *Config) { c.Caps.Client.HeldSat, c.Caps.All.HeldSat = 510_005, 918_009 })
			b.holdMany(many, 9, 5)
			u := b.usage(key(2))
			require.LessOrEqual(t, u.All.HeldSat, ln.Sat(918_009))
			require.LessOrEqual(t, u.Client.HeldSat, ln.Sat(510_005))
		})
	})
	t.Run("held sats times blocks", func(t *testing.T) {
		storetest.Each(t, func(t *testing.T, open func() *store.DB) {
			const each = 102_001 * 144
			b := newOffice(t, open(), func(c *Config) { c.Caps.Client.HeldSatBlocks, c.Caps.All.HeldSatBlocks = 5*each, 9*each })
			b.holdMany(many, 9, 5)
			u := b.usage(key(2))
			require.EqualValues(t, 9*each, u.All.HeldSatBlocks)
			require.LessOrEqual(t, u.Client.HeldSatBlocks, uint64(5*each))
		})
	})
	for name, cap := range map[string]func(*Config, ln.Sat){
		"unpaid": func(c *Config, capacity ln.Sat) {
			c.Caps.Client.UnpaidSat, c.Caps.All.UnpaidSat = 5*capacity, 9*capacity
		},
		"unconfirmed": func(c *Config, capacity ln.Sat) {
			c.Caps.Client.OpensLastHour, c.Caps.All.UnconfirmedSat = 5, 9*capacity
		},
		"opens per hour": func(c *Config, _ ln.Sat) { c.Caps.Client.OpensLastHour, c.Caps.All.OpensLastHour = 5, 9 },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, open func() *store.DB) {
				b := newOffice(t, open(), func(*Config) {})
				capacity, err := b.e.capacityFor(100_000_000)
				require.NoError(t, err)
				cap(&b.e.cfg, capacity)
				var agreed [many]Agreement
				for i := range agreed {
					agreed[i], _ = b.agree(key(2+uint64(i%2)), 100_000_000)
				}
				require.Equal(t, 9, atOnce(many, func(i int) bool {
					id, reason := b.open(agreed[i], key(2+uint64(i%2)))
					_, err := b.e.openings.Get(context.Background(), id)
					require.Equal(t, reason.IsZero(), err == nil, "an open is begun or a reason given")
					if !reason.IsZero() {
						require.Equal(t, lsp.ReasonLimit, reason.Code)
					}
					return reason.IsZero()
				}))
				u := b.usage(key(2))
				require.Equal(t, 9*capacity, u.All.UnpaidSat)
				require.Equal(t, 9, u.All.OpensLastHour)
				require.LessOrEqual(t, u.Client.OpensLastHour, 5)
				require.LessOrEqual(t, u.All.OpensLastHour-u.Client.OpensLastHour, 5)
				require.Equal(t, (many-9)*capacity, u.Unfunded.Sat, "what is being funded is no longer only promised")
			})
		})
	}
}

// holdMany offers HTLCs for many agreements of two clients at once and expects
// that so many are held, and the others refused whole, with a reason.
func (b *office) holdMany(many, inAll, each int) {
	b.t.Helper()
	type offer struct {
		a    Agreement
		hash ln.Hash
	}
	offers := make([]offer, many)
	for i := range offers {
		offers[i].a, offers[i].hash = b.agree(key(2+uint64(i%2)), 100_000_000)
	}
	require.Equal(b.t, many, atOnce(many, func(i int) bool { return b.part(offers[i].a, offers[i].hash, uint64(i)) == nil })) //nolint:gosec // an index
	held := map[ln.PubKey]int{}
	for _, o := range offers {
		s := b.state(o.a.PaymentID)
		if len(jit.PartsOf(s)) > 0 {
			held[jit.OfferOf(s).Client]++
			continue
		}
		require.Equal(b.t, "offered", s.StateName())
		require.Equal(b.t, lsp.ReasonLimit, jit.OfferOf(s).Last.Code)
		require.NotEmpty(b.t, jit.ReasonOf(s).Text)
	}
	require.Equal(b.t, inAll, held[key(2)]+held[key(3)])
	require.LessOrEqual(b.t, held[key(2)], each)
	require.LessOrEqual(b.t, held[key(3)], each)
}

// Payments that need no channel, and wrapped ones, are held against the same
// limits.
func TestHeldCapsOnEveryWay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) { c.Caps.Client.HeldSat = 250_000 })
		client := key(2)
		b.node.channels = []ln.Channel{roomy(client, 50, 900_000)}
		free, hash := b.agree(client, 200_000_000)
		require.False(t, free.OpensChannel)
		require.NoError(t, b.part(free, hash, 1))
		require.Equal(t, "collecting", b.state(free.PaymentID).StateName())

		b.wrapped("wrapped", client)
		htlcs := []ln.InvoiceHtlc{{Key: ln.CircuitKey{ChanID: 7, HtlcID: 2}, AmtMsat: 60_000_000, Expiry: testHeight + 183}}
		require.NoError(t, tellJudged(b.e, b.e.wraps, "wrapped", b.e.judgeSet("wrapped", htlcs)))
		inst, err := b.e.wraps.Get(t.Context(), "wrapped")
		require.NoError(t, err)
		require.Equal(t, "cancelling", inst.State.StateName())
		require.Equal(t, lsp.ReasonLimit, wrap.ReasonOf(inst.State).Code)
		require.Equal(t, ln.Sat(200_001), b.usage(client).Client.HeldSat, "only the first is held")
	})
}

// wrapped gives an agreement on a wrapped invoice that waits for its payer.
func (b *office) wrapped(id string, client ln.PubKey) {
	b.t.Helper()
	offer := wrap.Offer{Terms: wrap.Terms{
		ID: id, Client: client, Hash: ln.Hash(sha256.Sum256([]byte(id))), PayerMsat: 60_000_000, WalletMsat: 58_000_000, FeeMsat: 2_000_000,
		WalletFinalCltv: 80, PadBlocks: 3, MarginBlocks: 60, HoldExpiryDelta: 18, ExpiresAt: time.Now().Add(time.Hour),
	}}
	require.NoError(b.t, b.e.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		if err := b.e.indexAgreement(ctx, tx, client, offerRequest{}, lspdb.InsertPaymentParams{
			ID: id, Machine: machineWrap, PaymentHash: offer.Hash[:], AmountMsat: 58_000_000,
		}); err != nil {
			return err
		}
		_, err := b.e.wraps.CreateTx(ctx, tx, id, wrap.Offered{Offer: offer}, wrap.Start{Moment: b.e.moment()})
		return err
	}))
	_, err := b.e.wraps.Send(b.t.Context(), id, wrap.InvoiceAdded{Moment: b.e.moment(), Bolt11: "lnbcrt1"})
	require.NoError(b.t, err)
}

// ordered gives an order that waits for its payment.
func (b *office) ordered(id string, client ln.PubKey) {
	b.t.Helper()
	preimage := ln.Preimage(sha256.Sum256([]byte(id)))
	terms := order.Terms{
		ID: id, Client: client, Wish: order.Wish{LspBalanceSat: 500_000}, CreatedAt: b.e.moment().At, WaitFor: time.Hour, HoldMarginBlocks: 12, HoldExpiryDelta: 18,
		Lightning: &order.Lightning{Price: order.Price{TotalSat: 60_000}, Hash: preimage.Hash(), Preimage: lsp.NewSecret(preimage), ExpiresAt: time.Now().Add(time.Hour)},
	}
	require.NoError(b.t, b.e.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		isNew, err := b.e.admitOffer(ctx, tx, machineOrder, id, client, offerRequest{capacity: 500_000, fundable: lsp.Fundable{Sat: 100_000_000}})
		if err != nil {
			return err
		}
		if err := lspdb.New(tx).InsertOrder(ctx, lspdb.InsertOrderParams{ID: id, Client: client[:], State: "created", Newcomer: isNew, LspBalanceSat: 500_000}); err != nil {
			return err
		}
		_, err = b.e.orders.CreateTx(ctx, tx, id, order.Created{Order: order.Order{Terms: terms}}, order.Start{Moment: b.e.moment()})
		return err
	}))
	_, err := b.e.orders.Send(b.t.Context(), id, order.InvoiceAdded{Moment: b.e.moment(), Bolt11: "lnbcrt1"})
	require.NoError(b.t, err)
}

// htlcsOn are n HTLCs that together bring an amount over one channel.
func htlcsOn(scid ln.SCID, n int, amount ln.Msat) (out []ln.InvoiceHtlc) {
	for i := range n {
		each := amount / ln.Msat(n) //nolint:gosec // a count
		if i == 0 {
			each += amount % ln.Msat(n) //nolint:gosec // a count
		}
		out = append(out, ln.InvoiceHtlc{Key: ln.CircuitKey{ChanID: scid, HtlcID: uint64(i)}, AmtMsat: each, Expiry: testHeight + 183}) //nolint:gosec // an index
	}
	return out
}

// set has a hold invoice accept HTLCs, and tells what its agreement came to.
func (b *office) set(machine, id string, htlcs []ln.InvoiceHtlc) (state string, reason lsp.Reason) {
	b.t.Helper()
	if machine == machineWrap {
		require.NoError(b.t, tellJudged(b.e, b.e.wraps, id, b.e.judgeSet(id, htlcs)))
		inst, err := b.e.wraps.Get(b.t.Context(), id)
		require.NoError(b.t, err)
		return inst.State.StateName(), wrap.ReasonOf(inst.State)
	}
	require.NoError(b.t, tellJudged(b.e, b.e.orders, id, b.e.judgeOrderSet(id, htlcs)))
	inst, err := b.e.orders.Get(b.t.Context(), id)
	require.NoError(b.t, err)
	return inst.State.StateName(), order.ReasonOf(inst.State)
}

// A payment to a hold invoice in 483 HTLCs takes every slot of its channel: it goes
// back at once, whichever invoice it came to, and nothing of it counts.
func TestHoldInvoicesTakeNoChannelsEverySlot(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) { c.Caps = Defaults().Caps })
		parts := b.e.cfg.MaxParts
		for _, machine := range []string{machineWrap, machineOrder} {
			agree, refused, held := b.wrapped, "cancelling", "accepted"
			if machine == machineOrder {
				agree, refused, held = b.ordered, "unwinding", "paid"
			}
			for i, n := range []int{lsp.ChannelSlots, parts + 1, parts} {
				id := fmt.Sprint(machine, " in ", n)
				agree(id, key(uint64(2+i))) //nolint:gosec // an index
				state, reason := b.set(machine, id, htlcsOn(7, n, 60_000_000))
				if n > parts {
					require.Equal(t, refused, state, id)
					require.Equal(t, lsp.ReasonTooManyParts, reason.Code, id)
					continue
				}
				require.Equal(t, held, state, id)
			}
		}
		all, _ := b.e.loads.sum.Incoming(lsp.Slots{{Chan: 7, Htlcs: 1}})
		require.Equal(t, 2*parts, all.Of(7), "only what is held counts")
		require.Equal(t, 2*parts, b.usage(key(4)).Client.HeldHtlcs)
	})
}

// In sets that are small enough each: what waits by hold invoice, for orders and
// what was intercepted shares the limits of a client and of an incoming channel, and
// one that is jammed leaves the others alone.
func TestSlotsAreSharedByEveryWay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) {
			c.Caps.Client.HeldHtlcs, c.Caps.All.HeldHtlcs, c.Caps.IncomingHtlcs = 60, 1_000, 100
		})
		next := 0
		try := func(machine string, client ln.PubKey, scid ln.SCID, n int) bool {
			next++
			id := fmt.Sprint(machine, next)
			if machine == machineWrap {
				b.wrapped(id, client)
			} else {
				b.ordered(id, client)
			}
			state, reason := b.set(machine, id, htlcsOn(scid, n, 60_000_000))
			refused := state == "cancelling" || state == "unwinding"
			require.Equal(t, refused, reason.Code == lsp.ReasonLimit, "%s: %s", state, reason)
			return !refused
		}
		part := func(client ln.PubKey, n uint64) bool {
			a, hash := b.agree(client, 100_000_000)
			require.NoError(t, b.part(a, hash, n))
			return len(jit.PartsOf(b.state(a.PaymentID))) == 1
		}
		require.True(t, try(machineWrap, key(2), 7, 30))
		require.True(t, try(machineOrder, key(2), 8, 29))
		require.True(t, part(key(2), 500), "the 60th HTLC of the client")
		require.False(t, part(key(2), 501), "the 61st")
		require.False(t, try(machineWrap, key(2), 9, 1))
		require.False(t, try(machineOrder, key(2), 9, 1))

		// 31 of channel 7 so far. Other keys are free, its slots are not.
		require.True(t, try(machineOrder, key(3), 7, 30))
		require.True(t, try(machineWrap, key(4), 7, 30))
		require.False(t, try(machineWrap, key(5), 7, 10), "91 and 10")
		require.True(t, try(machineWrap, key(5), 7, 9))
		require.False(t, try(machineOrder, key(6), 7, 1))
		require.False(t, part(key(7), 502))
		require.True(t, try(machineOrder, key(6), 8, 30), "through another channel business goes on")
		status, err := b.e.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, lsp.Slot{Chan: 7, Htlcs: 100}, status.Busiest)

		// What ends makes room, and a start knows as much.
		_, err = b.e.orders.Send(t.Context(), fmt.Sprint(machineOrder, 5), order.Cancel{Moment: b.e.moment()})
		require.NoError(t, err)
		b.e.loads.sum = lsp.NewLoads()
		require.NoError(t, b.e.loadLoads(t.Context()))
		require.True(t, try(machineWrap, key(8), 7, 30))
	})
}

// Newcomers leave customers their part of every incoming channel.
func TestNewcomersLeaveSlotsOfEachChannel(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(c *Config) {
		c.Caps.IncomingHtlcs, c.Caps.NewcomersPercent = 40, 50
	})
	b.ordered("a", key(2))
	state, _ := b.set(machineOrder, "a", htlcsOn(7, 20, 60_000_000))
	require.Equal(t, "paid", state)
	b.ordered("b", key(3))
	state, reason := b.set(machineOrder, "b", htlcsOn(7, 1, 60_000_000))
	require.Equal(t, "unwinding", state)
	require.Equal(t, lsp.ReasonLimit, reason.Code)
	first, _ := b.agree(key(4), 100_000_000)
	_, reason = b.open(first, key(4))
	require.True(t, reason.IsZero())
	require.NoError(t, b.e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return b.e.settleDebt(ctx, tx, first.PaymentID, key(4), first.Quote.FeeMsat)
	}))
	b.ordered("c", key(4))
	state, _ = b.set(machineOrder, "c", htlcsOn(7, 20, 60_000_000))
	require.Equal(t, "paid", state)
}

// Keys are free: a crowd of new ones uses up the newcomers' part of every limit,
// and the coins with its quotes, and a client that has paid for a channel still
// does business.
func TestACrowdOfNewKeysLeavesRoomForCustomers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) {
			c.Caps = lsp.Caps{All: lsp.Load{OpenRequests: 11, HeldSat: 700_000, OpensLastHour: 5}, NewcomersPercent: 50}
		})
		customer := key(2)
		first, hash := b.agree(customer, 100_000_000)
		require.True(t, b.usage(customer).Newcomer)
		require.NoError(t, b.part(first, hash, 0))
		_, reason := b.open(first, customer)
		require.True(t, reason.IsZero())
		require.NoError(t, b.e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return b.e.settleDebt(ctx, tx, first.PaymentID, customer, first.Quote.FeeMsat)
		}))
		u := b.usage(customer)
		require.False(t, u.Newcomer)
		require.Zero(t, u.Newcomers, "what it has is no longer the newcomers'")
		require.Equal(t, 1, u.All.OpenRequests)

		// Each attacker has a key of its own; only one limit after the other stops
		// them, and quotes alone would take all coins.
		capacity, err := b.e.capacityFor(100_000_000)
		require.NoError(t, err)
		b.node.coins = 5*capacity + b.e.anchorReserve(0)
		b.e.coins.changed()
		var crowd []Agreement
		var hashes []ln.Hash
		for i := range uint64(20) {
			if a, hash, err := b.negotiate(key(100+i), 100_000_000); err == nil {
				crowd, hashes = append(crowd, a), append(hashes, hash)
			} else {
				require.ErrorContains(t, err, "new clients'")
			}
		}
		require.Len(t, crowd, 5)
		_, _, err = b.negotiate(customer, 100_000_000)
		require.NoError(t, err, "neither requests nor coins are used up for a customer")

		opened, held := 0, 0
		for i, a := range crowd {
			require.NoError(t, b.part(a, hashes[i], uint64(i)+1)) //nolint:gosec // an index
			held += len(jit.PartsOf(b.state(a.PaymentID)))
			if _, reason := b.open(a, key(100+uint64(i))); reason.IsZero() { //nolint:gosec // an index
				opened++
			}
		}
		require.Equal(t, 3, held, "of 102,001 sat each in 350,000 sat")
		require.Equal(t, 2, opened)
		again, hash := b.agree(customer, 100_000_000)
		require.NoError(t, b.part(again, hash, 90))
		require.Len(t, jit.PartsOf(b.state(again.PaymentID)), 1)
		_, reason = b.open(again, customer)
		require.True(t, reason.IsZero())
	})
}

// A channel counts as unpaid until one of the ends that are named, and no
// longer: each in turn.
func TestUnpaidIsForgotten(t *testing.T) {
	client := key(2)
	pay := func(b *office, id string, fee ln.Msat) {
		require.NoError(b.t, b.e.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return b.e.settleDebt(ctx, tx, id, client, fee)
		}))
	}
	for name, end := range map[string]func(b *office, paymentID, openingID, outpoint string){
		"its payment succeeded": func(b *office, id, _, _ string) { pay(b, id, 0) },
		"a later fee paid for it": func(b *office, _, _, _ string) {
			other, _ := b.agree(client, 50_000_000)
			pay(b, other.PaymentID, other.Quote.FeeMsat)
		},
		"its channel was closed": func(b *office, _, _, outpoint string) { b.e.markClosed(b.t.Context(), outpoint) },
		"its close was missed": func(b *office, _, openingID, _ string) {
			b.e.lookForClosed(b.t.Context())
			require.NotZero(b.t, b.usage(client).Client.UnpaidSat, "an open that is not buried is not judged by lnd's list")
			b.sql("UPDATE lsp_openings SET terminal = TRUE, state = 'buried' WHERE id = $1", openingID)
			b.node.pending = []ln.PendingChannel{{Outpoint: ln.Outpoint{TxID: ln.TxID{1}}, Kind: ln.PendingOpen}}
			b.e.lookForClosed(b.t.Context())
			require.NotZero(b.t, b.usage(client).Client.UnpaidSat, "one that lnd calls pending is there")
			b.node.pending = nil
			b.e.lookForClosed(b.t.Context())
		},
		"the client was forgiven": func(b *office, _, _, _ string) {
			f, err := b.e.Forgive(b.t.Context(), client, "its phone broke")
			require.NoError(b.t, err)
			require.Equal(b.t, 1, f.Channels)
			_, err = b.e.Forgive(b.t.Context(), client, "again")
			require.Equal(b.t, errkind.NotFound, errkind.Of(err))
		},
		"it grew old": func(b *office, _, openingID, _ string) {
			b.sql("UPDATE lsp_openings SET created_ms = $1 WHERE id = $2", time.Now().Add(-90*24*time.Hour-time.Second).UnixMilli(), openingID)
		},
		"it made no channel": func(b *office, _, openingID, _ string) {
			require.NoError(b.t, b.e.db.Write(b.t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return b.e.countOpening(ctx, tx, openingID, machineJit, "", false, true)
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, open func() *store.DB) {
				b := newOffice(t, open(), func(c *Config) { c.Caps.Client.UnpaidSat = 200_000 })
				a, _ := b.agree(client, 100_000_000)
				id, reason := b.open(a, client)
				require.True(t, reason.IsZero())
				outpoint := ln.Outpoint{TxID: ln.TxID{1}}.String()
				b.sql("UPDATE lsp_openings SET outpoint = $1 WHERE id = $2", outpoint, id)
				capacity := b.usage(client).Client.UnpaidSat
				require.NotZero(t, capacity)
				second, _ := b.agree(client, 100_000_000)
				_, reason = b.open(second, client)
				require.Equal(t, lsp.ReasonLimit, reason.Code, "the cap is one channel")

				// What merely went through pays for nothing.
				pay(b, second.PaymentID, 0)
				require.Equal(t, capacity, b.usage(client).Client.UnpaidSat)

				end(b, a.PaymentID, id, outpoint)
				u := b.usage(client)
				require.Zero(t, u.Client.UnpaidSat)
				require.Zero(t, u.All.UnpaidSat)
				_, reason = b.open(second, client)
				require.True(t, reason.IsZero())
				list, err := b.e.Opens(t.Context(), OpenFilter{UnpaidOnly: true, Client: client})
				require.NoError(t, err)
				for _, o := range list {
					require.Equal(t, o.Unpaid, o.PaymentID == second.PaymentID, "%+v", o)
				}
			})
		})
	}
}

// Without caps nothing is limited, whatever the sums.
func TestNoCaps(t *testing.T) {
	b := newOffice(t, storetest.Open(t, storetest.SQLite(t)), func(*Config) {})
	a, hash := b.agree(key(2), 9_000_000_000)
	b.e.world.height = 1
	require.NoError(t, b.part(a, hash, math.MaxInt64))
	require.Len(t, jit.PartsOf(b.state(a.PaymentID)), 1)
	s, err := b.e.Status(t.Context())
	require.NoError(t, err)
	for _, x := range s.Exposures() {
		if x.Kind != "quoted" {
			require.Zero(t, x.Cap, x.Kind)
		}
	}
}

// A channel is paid for by a payment that was claimed as a whole and brought the fee agreed
// on: not by a msat that nobody asked for, nor by a part that a wallet took of it.
func TestAMsatPaysForNoChannel(t *testing.T) {
	client := key(2)
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(*Config) {})
		a, _ := b.agree(client, 100_000_000)
		_, reason := b.open(a, client)
		require.True(t, reason.IsZero())
		b.sql("UPDATE lsp_openings SET outpoint = $1", ln.Outpoint{TxID: ln.TxID{1}}.String())
		owed := b.usage(client).Client.UnpaidSat
		require.NotZero(t, owed)
		paid := func(id string, agreed, earned ln.Msat, claimed ...bool) {
			state := b.state(id)
			s := jit.Paid{Offer: jit.OfferOf(state), FeeEarnedMsat: earned, ForwardedMsat: 1_000, At: time.Now()}
			s.Part.FeeMsat = agreed
			for _, c := range claimed {
				p := jit.Part{Htlc: ln.InterceptedHtlc{OutgoingMsat: s.Part.AmountMsat / ln.Msat(len(claimed))}, Outcome: jit.OutcomeFailed}
				if c {
					p.Outcome = jit.OutcomeSettled
				}
				s.Parts = append(s.Parts, p)
			}
			require.NoError(t, b.e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return b.e.recordJit(ctx, tx, fsm.Transition[jit.State, jit.Event]{ID: id, Seq: 2, From: state, To: s, At: time.Now()})
			}))
		}
		fee := a.Quote.FeeMsat
		room, _ := b.agree(client, 50_000_000)
		paid(room.PaymentID, 0, 1, true)
		require.Equal(t, owed, b.usage(client).Client.UnpaidSat, "nothing was agreed on for it")
		paid(a.PaymentID, fee, fee/2, true, false)
		require.Equal(t, owed, b.usage(client).Client.UnpaidSat, "one of two parts")
		paid(a.PaymentID, fee, fee-1, true, true)
		require.Zero(t, b.usage(client).Client.UnpaidSat, "less a msat of rounding")
	})
}

// What is opened and in no block yet is capped: what is quoted then is refused with the
// reason, and possible again after the block. An order that is paid for is opened all the
// same, and counts.
func TestUnconfirmedIsCapped(t *testing.T) {
	storetest.Each(t, func(t *testing.T, open func() *store.DB) {
		b := newOffice(t, open(), func(c *Config) { c.Caps.NewcomersPercent = 50 })
		capacity, err := b.e.capacityFor(100_000_000)
		require.NoError(t, err)
		b.e.cfg.Caps.All.UnconfirmedSat = 4 * capacity
		quoted := make([]Agreement, 5)
		for i := range quoted {
			quoted[i], _ = b.agree(key(uint64(i)+2), 100_000_000) //nolint:gosec // small
		}
		begun := func(i int) lsp.Reason {
			_, reason := b.open(quoted[i], key(uint64(i)+2)) //nolint:gosec // small
			return reason
		}
		refused := func(client ln.PubKey, whose string) {
			t.Helper()
			_, _, err := b.negotiate(client, 100_000_000)
			require.Equal(t, errkind.Exhausted, errkind.Of(err), "%v", err)
			require.ErrorContains(t, err, whose)
			require.ErrorContains(t, err, "after the next block")
			_, _, err = b.e.PriceForeign(t.Context(), client, 100_000_000)
			require.Equal(t, errkind.Exhausted, errkind.Of(err), "%v", err)
		}
		require.True(t, begun(0).IsZero())
		require.True(t, begun(1).IsZero())
		require.Equal(t, 2*capacity, b.usage(key(2)).Newcomers.UnconfirmedSat)
		require.Equal(t, lsp.ReasonLimit, begun(2).Code, "newcomers have their half")
		refused(key(9), "new clients'")

		// Who has paid for a channel has the rest.
		require.NoError(t, b.e.db.Write(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			return b.e.settleDebt(ctx, tx, quoted[0].PaymentID, key(2), quoted[0].Quote.FeeMsat)
		}))
		known := func(n int) lsp.Reason {
			reason, err := b.e.beginOpening(t.Context(), machineJit, fmt.Sprint("known-", n), fmt.Sprint("known-", n, "-open-1"), openingWish{
				client: key(2), amountMsat: 100_000_000, feeMsat: 2_000_000, zeroConf: true, openFor: time.Minute,
			})
			require.NoError(t, err)
			return reason
		}
		require.True(t, known(1).IsZero())
		require.True(t, known(2).IsZero())
		require.Equal(t, 4*capacity, b.usage(key(2)).All.UnconfirmedSat)
		require.Contains(t, known(3).Text, "the gateway's channels whose funding is in no block yet")
		refused(key(2), "the gateway's")
		reason, err := b.e.refusal(t.Context(), key(2), 100_000_000, 2_000_000, true)
		require.NoError(t, err)
		require.Equal(t, lsp.ReasonLimit, reason.Code, "the wallet is not asked for a channel that would be refused")

		// An order that is paid for goes on.
		reason, err = b.e.beginOpening(t.Context(), machineOrder, "order", "order-open-1", openingWish{
			client: key(3), feeMsat: 2_000_000, zeroConf: true, openFor: time.Minute, ordered: &orderedChannel{capacity: capacity},
		})
		require.NoError(t, err)
		require.True(t, reason.IsZero(), reason.Text)
		s, err := b.e.Status(t.Context())
		require.NoError(t, err)
		require.Contains(t, s.Exposures(), Exposure{Kind: "unconfirmed", Unit: "sat", Used: uint64(5 * capacity), Cap: uint64(4 * capacity)})

		// A block.
		b.sql("UPDATE lsp_openings SET confirmed = TRUE")
		_, _, err = b.negotiate(key(2), 100_000_000)
		require.NoError(t, err)
		require.True(t, known(4).IsZero())

		// No limit at all.
		require.NoError(t, b.e.SetLimits(t.Context(), map[string]uint64{"unconfirmed_sat": 0}))
		for n := range 8 {
			require.True(t, known(10+n).IsZero())
		}
	})
}
