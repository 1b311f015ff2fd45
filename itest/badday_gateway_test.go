//go:build itest

package itest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestOnDemandBadDaysOfTheGateway are the days on which the gateway is short
// of coins, and the days on which its funding transactions wait.
func TestOnDemandBadDaysOfTheGateway(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{GatewayCoins: 1, GatewayCoinSat: 700_000}, devnet.SluicedConfig{
		Settings: map[string]string{"lsp.bump_after_blocks": "1"},
	})
	w := sc.first(ctx)

	// Nothing is agreed that could not be funded.
	sc.day(ctx, "too few coins for an agreement: refused", func(sc *scene) {
		_, err := w.in(sc).tryNegotiate(ctx, 900_000_000, nil, offerWish{})
		requireRefusal(sc.t, err, "too few free coins")
	})

	// Refunded: the coins went elsewhere after the agreement. Paid, when tried
	// again with coins back.
	for i, by := range ways() {
		sc.day(ctx, "the coins are gone when the payment comes, the "+by.name+": refunded, then paid", func(sc *scene) {
			w := w.in(sc)
			before := w.purse(ctx)
			d := w.agree(ctx, by, ln.Msat(i+1)*100_000_000+100_000_000, dealWish{})
			address, err := sc.Payer.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
			require.NoError(sc.t, err)
			_, err = sc.Gateway.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: address.Address, SendAll: true, SatPerVbyte: 2})
			require.NoError(sc.t, err)
			require.NoError(sc.t, sc.Mine(ctx, 1))
			d.pay(ctx)
			failed := d.endsRefunded(ctx, refundedWithin, "too few free coins")
			require.Equal(sc.t, []lnrpc.Failure_FailureCode{by.soon}, failureCodes(failed))
			require.Equal(sc.t, i, w.channels(ctx))
			require.NoError(sc.t, sc.Fund(ctx, devnet.Funding{Node: sc.Gateway, CoinSat: 2_000_000, Coins: 1}))
			d = d.again(ctx)
			d.endsPaid(ctx, paidWithin)
			require.Equal(sc.t, i+1, w.channels(ctx))
			before.moved(ctx, d)
			if i == 0 {
				require.NoError(sc.t, sc.Mine(ctx, 6)) // the change, to be sent away as well
			}
		})
	}

	// Paid twice, the second channel funded from the first one's change.
	sc.day(ctx, "only unconfirmed change is left: paid", func(sc *scene) {
		w := w.in(sc)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 400_000_000, offerWish{another: true})
		sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, before+1, w.channels(ctx))
		require.NoError(sc.t, sc.Mine(ctx, 6))
	})

	// Paid at once, zero-conf; then the fees rise, blocks leave the funding
	// transaction out, and a child of its change lifts it.
	sc.day(ctx, "the funding transaction lags: paid, and bumped", func(sc *scene) {
		w := w.in(sc)
		o := w.negotiate(ctx, 600_000_000, offerWish{another: true})
		sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		point := w.waitFunding(ctx, o.PaymentId)
		const rate = 20
		sc.Fees().SetSatPerVByte(rate)
		defer sc.Fees().SetSatPerVByte(devnet.DefaultFeeRateSatPerVByte)
		require.NoError(sc.t, sc.s.Stop(ctx))
		require.NoError(sc.t, sc.s.Start(ctx), "a start asks for the fees at once")
		for range 2 {
			require.NoError(sc.t, sc.Miner().MineOnly(ctx))
			require.NoError(sc.t, sc.WaitSynced(ctx))
		}
		waitCtx, cancel := context.WithTimeout(ctx, paidWithin)
		defer cancel()
		child := childOf(waitCtx, sc.t, sc.Net, sc.Gateway, point.Hash)
		parent, _, err := sc.Miner().Tx(ctx, point.Hash)
		require.NoError(sc.t, err)
		fee, size := packageOf(ctx, sc.t, sc.Net, parent, child)
		sc.t.Logf("parent and child pay %d sat for %d vbytes", fee, size)
		require.GreaterOrEqual(sc.t, fee, int64(rate*size*95/100))
		require.NoError(sc.t, sc.Mine(ctx, 6))
		_, err = w.node.WaitChannelActive(ctx, point)
		require.NoError(sc.t, err)
	})

	// Refunded: an opening would cost far more than the fee that was agreed when
	// the chain was cheap. Paid, when tried again after the spike. Meanwhile the
	// menu covers the chain, and above the ceiling there is none.
	sc.day(ctx, "the chain's fees spike after the agreement: refunded, then paid", func(sc *scene) {
		w := w.in(sc)
		sc.chainAsks(ctx, devnet.DefaultFeeRateSatPerVByte)
		before := w.channels(ctx)
		o := w.negotiate(ctx, 150_000_000, offerWish{another: true})
		bolt11 := w.invoice(ctx, o)
		sc.chainAsks(ctx, 60)
		defer sc.Fees().SetSatPerVByte(devnet.DefaultFeeRateSatPerVByte)
		failed := sc.refunded(sc.pay(ctx, bolt11), refundedWithin)
		require.Equal(sc.t, []lnrpc.Failure_FailureCode{lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE}, failureCodes(failed))
		w.waitReason(ctx, o.PaymentId, "the chain's fees have risen", "offered")
		require.Empty(sc.t, sc.openings(ctx, o.PaymentId), "no coin was touched")
		require.EqualValues(sc.t, 14_805_000, w.menu(ctx).OpeningFeeParamsMenu[0].MinFeeMsat)

		sc.chainAsks(ctx, 201)
		none, err := w.api.GetMenu(ctx, &lspv1.GetMenuRequest{})
		require.NoError(sc.t, err)
		require.Empty(sc.t, none.OpeningFeeParamsMenu)
		require.Contains(sc.t, none.Refusal, "higher than this gateway pays")

		sc.chainAsks(ctx, devnet.DefaultFeeRateSatPerVByte)
		sc.paid(sc.payInParts(ctx, bolt11), paidWithin)
		w.waitState(ctx, o.PaymentId, "paid")
		require.Equal(sc.t, before+1, w.channels(ctx))
		require.NoError(sc.t, sc.Mine(ctx, 6))
	})
}

// chainAsks sets what the chain asks. A start of sluiced asks for the fees at
// once; otherwise it learns of them within a minute.
func (sc *scene) chainAsks(ctx context.Context, satPerVByte uint32) {
	sc.t.Helper()
	sc.Fees().SetSatPerVByte(satPerVByte)
	require.NoError(sc.t, sc.s.Stop(ctx))
	require.NoError(sc.t, sc.s.Start(ctx))
	sc.waitStatus(ctx, "the chain's fees are seen", func(s *lspv1.GetStatusResponse) bool {
		return s.FeeRateEstimateSatPerKw == uint64(satPerVByte)*250 && s.FeeRateAgeMs < 60_000
	})
}

// TestOnDemandTwentyAtOnce: 20 payments at once, to two wallets in turn, each
// for itself and in parts in turn. All are paid, over at most one channel each.
func TestOnDemandTwentyAtOnce(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{Settings: map[string]string{
		"lsp.opens_per_hour_per_client": "0", "lsp.collect_for": "30s",
	}})
	// The third has no channel when it agrees: room that is there then would be
	// promised to each payment, and serve the first few.
	wallets := append(sc.persons(ctx, "second", "third"), sc.first(ctx))
	for _, each := range []struct {
		name    string
		wallets []*person
	}{
		{"to two wallets", []*person{wallets[0], wallets[2]}},
		{"to one wallet", wallets[1:2]},
	} {
		sc.day(ctx, each.name+": all paid", func(sc *scene) {
			const count, amount = 20, ln.Msat(60_000_000)
			before := map[*person]int{}
			for _, w := range each.wallets {
				before[w] = w.in(sc).channels(ctx)
			}
			offers := make([]offer, count)
			var payments []*routerrpc.SendPaymentRequest
			for i := range offers {
				w := each.wallets[i%len(each.wallets)].in(sc)
				// Another amount each time, so that a mix-up would show.
				offers[i] = w.negotiate(ctx, amount+ln.Msat(i)*1_000_000, offerWish{another: true})
				req := &routerrpc.SendPaymentRequest{PaymentRequest: w.invoice(ctx, offers[i]), MaxParts: 16}
				if i%4 < 2 {
					req.MaxShardSizeMsat = uint64(amount)*2/3 + 1_000_000
				}
				payments = append(payments, req)
			}
			began := time.Now()
			var done []<-chan outcome
			for _, req := range payments {
				done = append(done, sc.attempt(ctx, req))
			}
			for i := range done {
				sc.paid(done[i], 3*paidWithin)
			}
			sc.t.Logf("20 payments in %s", time.Since(began).Round(time.Millisecond))
			opened := 0
			for i, o := range offers {
				each.wallets[i%len(each.wallets)].in(sc).waitState(ctx, o.PaymentId, "paid")
				live := 0
				for _, x := range sc.openings(ctx, o.PaymentId) {
					if x.State != "failed" {
						live++
					}
				}
				require.LessOrEqual(sc.t, live, 1, "payment %s opened %d channels", o.PaymentId, live)
				opened += live
			}
			for _, w := range each.wallets {
				opened -= w.in(sc).channels(ctx) - before[w]
			}
			require.Zero(sc.t, opened, "every channel belongs to a payment")
		})
	}
}

// bothWays plays the main job: a payment whose payer pays the fee, and one
// whose receiver does.
func bothWays(ctx context.Context, sc *scene, w *person) {
	sc.t.Helper()
	o := w.negotiate(ctx, 100_000_000, offerWish{})
	sc.paid(sc.pay(ctx, w.invoice(ctx, o)), paidWithin)
	w.waitState(ctx, o.PaymentId, "paid")
	agreed, _ := w.receiveReceiverPays(ctx, 500_000_000, &lspv1.ChannelWish{ZeroConf: true, AllowAnotherChannel: true})
	sc.paid(sc.pay(ctx, agreed.Bolt11), paidWithin)
	w.waitState(ctx, agreed.PaymentId, "settled")
	require.Equal(sc.t, 2, w.channels(ctx))
}

// TestOnDemandTaprootOnPostgres is the main job over simple taproot channels,
// with PostgreSQL as the database: paid, both ways.
func TestOnDemandTaprootOnPostgres(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	pg, err := net.StartPostgres(ctx)
	if errors.Is(err, devnet.ErrNoPostgres) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dsn, err := pg.CreateDatabase(ctx, "sluice")
	require.NoError(t, err)
	sc := sceneOn(ctx, t, net, devnet.SluicedConfig{DSN: dsn, Settings: map[string]string{"lsp.taproot": "true"}})
	w := sc.first(ctx)
	sc.day(ctx, "both ways: paid", func(sc *scene) {
		bothWays(ctx, sc, w.in(sc))
		channels, err := sc.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: w.key[:]})
		require.NoError(sc.t, err)
		for _, c := range channels.Channels {
			require.Equal(sc.t, lnrpc.CommitmentType_SIMPLE_TAPROOT, c.CommitmentType)
		}
		require.NoError(sc.t, sc.Mine(ctx, 6))
	})
}
