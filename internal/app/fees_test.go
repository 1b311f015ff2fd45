package app

import (
	"strings"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/config"
	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// The figures of these tests: an opening weighs 658 weight units; the least fee
// covers half as much again; a promise is kept up to twice its fee. At the
// fake's 2,500 sat/kw that is 1,645 sat, a fee of 2,468 and a bound of 4,936.
const (
	usualRate   = 2_500
	dearRate    = 5_000  // 3,290 sat: kept
	dearerRate  = 10_000 // 6,580 sat: not kept
	aboveTheCap = 60_000
)

// chain sets what the chain asks, and waits until sluiced has seen it.
func (r *rig) chain(satPerKW int64) {
	r.t.Helper()
	r.w.SetFeeRate(satPerKW)
	r.until("the fee rate is seen", func(s *lspv1.GetStatusResponse) bool {
		return s.FeeRateEstimateSatPerKw == uint64(satPerKW)
	})
}

func (r *rig) until(what string, done func(*lspv1.GetStatusResponse) bool) {
	r.t.Helper()
	for range 1000 {
		if s := r.service.Load(); s != nil {
			if got, err := s.operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{}); err == nil && done(got) {
				return
			}
		}
		r.pause(r.step)
	}
	r.t.Fatalf("it never comes to this: %s", what)
}

func (r *rig) menu() *lspv1.GetMenuResponse {
	r.t.Helper()
	r.up()
	menu, err := r.service.Load().channels.GetMenu(r.asWallet(), &lspv1.GetMenuRequest{})
	require.NoError(r.t, err)
	return menu
}

func (r *rig) show(id string) *lspv1.ShowPaymentResponse {
	r.t.Helper()
	shown, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
	require.NoError(r.t, err)
	return shown
}

// bothWays plays a test for each way of paying the fee.
func bothWays(t *testing.T, c rigConfig, play func(t *testing.T, r *rig)) {
	t.Helper()
	for _, j := range jobs()[:2] {
		t.Run(j.name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				if c.job.amountSat > 0 {
					j.amountSat = c.job.amountSat
				}
				r := newRig(t, rigConfig{seed: 1, job: j, configure: c.configure})
				r.openBooks()
				play(t, r)
			})
		})
	}
}

// TestThePriceFollowsTheChain: the least fee covers what an opening costs, and
// a payment at that price leaves the gateway no loss.
func TestThePriceFollowsTheChain(t *testing.T) {
	bothWays(t, rigConfig{}, func(t *testing.T, r *rig) {
		require.EqualValues(t, 2_468_000, r.menu().OpeningFeeParamsMenu[0].MinFeeMsat)
		r.chain(dearerRate)
		item := r.menu().OpeningFeeParamsMenu[0]
		require.EqualValues(t, 9_870_000, item.MinFeeMsat)
		require.EqualValues(t, 10_000_000, item.MinPaymentSizeMsat)
		a := r.agree()
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		r.settle()
		r.check(a, m)
		status, err := r.service.Load().operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
		require.NoError(t, err)
		require.Greater(t, status.FeesEarnedMsat, status.ChainFeesMsat)
		require.EqualValues(t, 9_870, status.OpeningCostCoveredSat)
	})
}

// TestAnEarlierPromiseIsKept: the chain has become dearer since, the menu shows
// other prices, and what was promised is what is paid.
func TestAnEarlierPromiseIsKept(t *testing.T) {
	bothWays(t, rigConfig{}, func(t *testing.T, r *rig) {
		promised := r.menu().OpeningFeeParamsMenu[0]
		r.chain(dearRate)
		require.Greater(t, r.menu().OpeningFeeParamsMenu[0].MinFeeMsat, promised.MinFeeMsat)
		a, err := r.askFor(r.service.Load(), promised)
		require.NoError(t, err)
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		require.EqualValues(t, 2_468_000, r.show(a.id).Payment.FeeMsat)
		r.settle()
		r.check(a, m)
	})
}

// TestAPromiseHasItsLimits: where an opening would cost more than twice the fee
// promised, no agreement is made under it, and one that was made is not opened
// for: the payer has the money back at once, and the story says why.
func TestAPromiseHasItsLimits(t *testing.T) {
	bothWays(t, rigConfig{}, func(t *testing.T, r *rig) {
		promised := r.menu().OpeningFeeParamsMenu[0]
		a := r.agree()
		r.chain(dearerRate)
		_, err := r.askFor(r.service.Load(), promised)
		require.ErrorIs(t, err, errkind.Unavailable)
		require.Contains(t, errkind.Sentence(err), "more than 200 % of the opening fee of 2468 sat")

		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_FAILED, m.Status, r.stories())
		shown := r.show(a.id)
		require.Empty(t, shown.Openings, "no coin was touched")
		require.Contains(t, shown.Payment.Reason, "the chain's fees have risen: opening the channel would cost 6580 sat")
		said := false
		for _, e := range shown.Story {
			said = said || strings.Contains(e.Reason, "the chain's fees have risen")
		}
		require.True(t, said, "%s", r.stories())
		if !r.job.receiverPays {
			// The payer was told to try again: it does, and the chain is cheap again.
			last := m.Htlcs[len(m.Htlcs)-1].Failure
			require.Equal(t, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, last.Code)
			r.chain(usualRate)
			// The fake's payers never forget a failure, lnd's do.
			_, err := routerrpc.NewRouterClient(r.conns[r.payer]).ResetMissionControl(r.ctx, &routerrpc.ResetMissionControlRequest{})
			require.NoError(t, err)
			m = r.outcome(r.pay(a.bolt11))
			require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		}
		r.settle()
		r.check(a, m)
	})
}

// TestAboveTheCeilingNothingIsOffered, with a reason; and a promise whose fee
// bears it is kept, at the ceiling and no higher.
func TestAboveTheCeilingNothingIsOffered(t *testing.T) {
	bothWays(t, rigConfig{job: job{amountSat: 1_700_000}}, func(t *testing.T, r *rig) {
		promised := r.menu().OpeningFeeParamsMenu[0]
		r.chain(aboveTheCap)
		menu := r.menu()
		require.Empty(t, menu.OpeningFeeParamsMenu)
		require.Contains(t, menu.Refusal, "higher than this gateway pays")
		require.EqualValues(t, 600, menu.RetryAfterSeconds)
		require.True(t, menu.Accepting, "it is not the operator's doing")
		status, err := r.service.Load().operator.GetStatus(r.ctx, &lspv1.GetStatusRequest{})
		require.NoError(t, err)
		require.True(t, status.FeeRateAboveCeiling)
		require.EqualValues(t, 50_000, status.FeeRateSatPerKw)
		require.EqualValues(t, 50_000, status.FeeRateCeilingSatPerKw)
		require.Equal(t, menu.Refusal, status.MenuRefusal)

		large := r.job.amountSat
		r.job.amountSat = 100_000
		_, err = r.askFor(r.service.Load(), promised)
		require.ErrorIs(t, err, errkind.Unavailable)
		r.job.amountSat = large

		// 17,000 sat were promised for 1.7 million; the opening costs 32,900.
		a, err := r.askFor(r.service.Load(), promised)
		require.NoError(t, err)
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		require.LessOrEqual(t, r.show(a.id).Openings[0].ChainFeeSat, uint64(32_900))
		r.settle()
		r.check(a, m)
	})
}

// TestAStaleEstimateStopsOffersOnly: lnd gives no estimate any more. Nothing
// new is offered; a payment that was agreed is opened for at the last rate.
func TestAStaleEstimateStopsOffersOnly(t *testing.T) {
	stale := func(c *Config) { c.LSP.FeeStaleAfter = config.Duration(time.Minute) }
	bothWays(t, rigConfig{configure: stale}, func(t *testing.T, r *rig) {
		promised := r.menu().OpeningFeeParamsMenu[0]
		a := r.agree()
		r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
			if strings.HasSuffix(c.Method, "/EstimateFee") {
				return lndfake.Lose
			}
			return lndfake.Pass
		})
		r.until("the estimate is stale", func(s *lspv1.GetStatusResponse) bool { return s.FeeRateStale })
		menu := r.menu()
		require.Empty(t, menu.OpeningFeeParamsMenu)
		require.Contains(t, menu.Refusal, "does not know what the chain asks")
		_, err := r.askFor(r.service.Load(), promised)
		require.ErrorIs(t, err, errkind.Unavailable)

		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		r.w.OnRPC(nil)
		r.until("the estimate is back", func(s *lspv1.GetStatusResponse) bool { return !s.FeeRateStale && len(s.Menu) == 1 })
		r.settle()
		r.check(a, m)
	})
}

// TestRoomNeedsNoMenu: while nothing is offered, what a present channel can
// receive is agreed on all the same, and nothing else.
func TestRoomNeedsNoMenu(t *testing.T) {
	virtual(t, func(t *testing.T) {
		r := newRig(t, rigConfig{seed: 1, job: job{name: "room", amountSat: 100_000, parts: 1, channelSat: 500_000}})
		r.openBooks()
		r.chain(aboveTheCap)
		r.job.amountSat = 600_000
		_, err := r.askFor(r.service.Load(), nil)
		require.ErrorIs(t, err, errkind.Conflict)
		require.Contains(t, errkind.Sentence(err), "ask for the menu")
		r.job.amountSat = 100_000
		_, err = r.askFor(r.service.Load(), &lspv1.OpeningFeeParams{})
		require.ErrorIs(t, err, errkind.Invalid, "an item without a promise is none of ours")

		a, err := r.askFor(r.service.Load(), nil)
		require.NoError(t, err)
		require.False(t, a.opens)
		require.Equal(t, a.walletMsat, a.payerMsat)
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "%s\n%s", m.FailureReason, r.stories())
		r.settle()
		r.check(a, m)
	})
}

// TestManySmallCoinsCostMore: the bound holds for the transaction that is
// really built, not for the one expected: two coins are needed where one was
// reckoned with.
func TestManySmallCoinsCostMore(t *testing.T) {
	tight := func(c *Config) { c.LSP.FeeTolerance = 8 } // 2,000 of 25,000 sat; one coin costs 1,645, two 2,325
	bothWays(t, rigConfig{job: job{amountSat: 2_500_000}, configure: tight}, func(t *testing.T, r *rig) {
		a := r.agree()
		m := r.outcome(r.pay(a.bolt11))
		require.Equal(t, lnrpc.Payment_FAILED, m.Status, r.stories())
		shown := r.show(a.id)
		require.Contains(t, shown.Payment.Reason, "would pay 2325 sat (it must spend 2 coins), more than the 2000 sat")
		require.NotEmpty(t, shown.Openings)
		require.Empty(t, shown.Openings[0].FundingOutpoint)
		r.settle()
		r.check(a, m)
	})
}
