package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
	"github.com/sluice-lsp/sluice/lsp/funding"
)

// estimator is lnd's fee estimate, as the test sets it.
type estimator struct {
	Chain
	rate, relay ln.FeeRateSatPerKW
	err         error
}

func (e *estimator) EstimateFee(context.Context, int32) (rate, relay ln.FeeRateSatPerKW, err error) {
	return e.rate, e.relay, e.err
}

// priced is an engine with a fee source and a clock, and nothing else.
func priced(t *testing.T) (*Engine, *estimator, *time.Time, *observer.ObservedLogs) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	core, logs := observer.New(zapcore.InfoLevel)
	lnd := &estimator{rate: 500, relay: 253}
	clock := func() time.Time { return now }
	cfg := Defaults()
	cfg.Network, cfg.Self = "regtest", ln.PubKey{2, 1}
	require.NoError(t, cfg.Validate())
	return &Engine{
		cfg: cfg, opt: Options{Now: clock}, fees: newFeeSource(cfg.Fees, lnd, clock, zap.New(core)), keys: &keyring{now: clock}, menus: &menus{configured: configuredMenus(cfg)}, log: zap.NewNop(),
	}, lnd, &now, logs
}

// TestTheFeeSourceRaisesItsAlarmOnce: stale and above the ceiling are said when
// they begin and when they end, and never stop what is in progress.
func TestTheFeeSourceRaisesItsAlarmOnce(t *testing.T) {
	e, lnd, now, logs := priced(t)
	said := func() (texts []string) {
		for _, entry := range logs.TakeAll() {
			texts = append(texts, entry.Message)
		}
		return texts
	}
	require.False(t, e.fees.current().Known())
	_, reason := e.openingRate(2_000_000, true)
	require.Equal(t, lsp.ReasonChainFees, reason.Code, "nobody knows what a transaction costs")
	require.Zero(t, e.fees.target())

	lnd.err = errors.New("no estimate")
	require.Error(t, e.fees.refresh(t.Context()))
	require.Error(t, e.fees.refresh(t.Context()))
	require.Len(t, said(), 1)

	lnd.err = nil
	require.NoError(t, e.fees.refresh(t.Context()))
	require.Len(t, said(), 1)
	require.EqualValues(t, 500, e.fees.target())
	require.NoError(t, e.newAgreement(2_000_000, true))

	// The estimate grows old.
	lnd.err = errors.New("no estimate")
	*now = now.Add(e.cfg.Fees.StaleAfter + time.Second)
	require.Error(t, e.fees.refresh(t.Context()))
	require.Contains(t, said()[0], "1h0m1s old")
	require.ErrorIs(t, e.newAgreement(2_000_000, true), errStaleFees)
	_, err := e.prices(e.fees.current(), e.cfg.Menu)
	require.ErrorIs(t, err, errStaleFees)
	require.Zero(t, e.fees.target(), "nothing is bumped to it")
	rate, reason := e.openingRate(2_000_000, true)
	require.True(t, reason.IsZero(), "a payment that has arrived does not wait for it")
	require.EqualValues(t, 500, rate)

	// It comes back, above the ceiling.
	lnd.err, lnd.rate = nil, e.cfg.Fees.Ceiling+1
	require.NoError(t, e.fees.refresh(t.Context()))
	require.Contains(t, said()[0], "more than the ceiling")
	require.Equal(t, e.cfg.Fees.Ceiling, e.fees.target(), "what is public is bumped, but no further")
	lnd.rate = e.cfg.Fees.Ceiling
	require.NoError(t, e.fees.refresh(t.Context()))
	require.Contains(t, said()[0], "well again")

	// An answer of nothing is none, and never the floor.
	lnd.rate, lnd.relay = 0, 0
	require.Error(t, e.fees.refresh(t.Context()))
	require.Equal(t, e.cfg.Fees.Ceiling, e.fees.current().Asked)
}

// TestTheMenuFollowsTheChain, to the satoshi: 658 weight units and half as much
// again.
func TestTheMenuFollowsTheChain(t *testing.T) {
	e, lnd, _, _ := priced(t)
	require.EqualValues(t, 658, e.cfg.Prices.OpeningWU)
	at := func(rate ln.FeeRateSatPerKW) ([]lsp.OpeningFeeParams, error) {
		lnd.rate = rate
		require.NoError(t, e.fees.refresh(t.Context()))
		return e.prices(e.fees.current(), e.cfg.Menu)
	}
	for rate, want := range map[ln.FeeRateSatPerKW]ln.Msat{
		253: 2_000_000, 2_025: 2_000_000, 2_026: 2_001_000, 5_000: 4_935_000, 50_000: 49_350_000,
	} {
		menu, err := at(rate)
		require.NoError(t, err)
		require.Equal(t, want, menu[0].MinFeeMsat, "at %d sat/kw", rate)
		require.EqualValues(t, max(10_000_000, want+1_000), menu[0].MinPaymentSizeMsat)
	}
	_, err := at(50_001)
	require.ErrorIs(t, err, errHighFees)
	require.ErrorIs(t, err, errkind.Unavailable)
	require.Contains(t, errkind.Sentence(err), "try again in about 10 minutes")
	require.EqualValues(t, 2_000_000, e.cfg.Menu[0].MinFeeMsat, "the operator's own menu stays as it is")

	e.cfg.Menu[0].MaxPaymentSizeMsat = 40_000_000
	_, err = at(50_000)
	require.ErrorIs(t, err, errDearMenu)
	s := e.feeStatus()
	require.Empty(t, s.Menu)
	require.Contains(t, s.Refusal, "more than the largest payment")
	require.EqualValues(t, 49_350, s.CoverSat)
}

// TestWhatAFeeBears: an agreement is kept while the opening costs no more of
// its fee than the operator tolerates, above the ceiling as well.
func TestWhatAFeeBears(t *testing.T) {
	e, _, _, _ := priced(t)
	e.cfg.Prices = lsp.ChainPrices{OpeningWU: 1_000, MarginPercent: 150, TolerancePercent: 200}
	rate := func(asked ln.FeeRateSatPerKW) funding.Rate {
		return e.cfg.Fees.policy().Decide(funding.Estimate{Rate: asked, At: e.opt.Now()}, e.opt.Now())
	}
	for name, c := range map[string]struct {
		asked    ln.FeeRateSatPerKW
		fee      ln.Msat
		zeroConf bool
		kept     bool
	}{
		"twice the fee":             {4_000, 2_000_000, true, true},
		"a sat more":                {4_001, 2_000_000, true, false},
		"confirmations":             {4_000, 2_000_000, false, true},
		"for nothing":               {253, 0, true, false},
		"above the ceiling":         {60_000, 25_000_000, true, true}, // it pays the ceiling
		"above the ceiling, short":  {60_000, 24_999_000, true, false},
		"above it cannot confirm":   {60_000, 100_000_000, false, false},
		"an estimator gone mad":     {1 << 62, 25_000_000, true, true},
		"an estimator gone mad too": {1 << 62, 2_000_000, true, false},
	} {
		reason := e.cfg.bears(rate(c.asked), c.fee, c.zeroConf)
		require.Equal(t, c.kept, reason.IsZero(), "%s: %s", name, reason.Text)
		if !c.kept {
			require.Equal(t, lsp.ReasonChainFees, reason.Code)
			require.Contains(t, reason.Text, "try again in about 10 minutes")
		}
	}
	e.cfg.Prices.TolerancePercent = 0
	require.True(t, e.cfg.bears(rate(60_000), 1, true).IsZero(), "the operator keeps every promise")
}

// TestFeeMetrics: what an alarm is set on is there, and what is not known is
// absent rather than 0.
func TestFeeMetrics(t *testing.T) {
	e, lnd, now, _ := priced(t)
	e.keys.keys = []lsp.PromiseKey{{Version: 7, Secret: [32]byte{1}, Made: now.Add(-time.Hour)}}
	var err error
	e.keys.promiser, err = lsp.NewPromiserAt(e.keys.keys, *now)
	require.NoError(t, err)
	read := func() map[string]float64 {
		registry := prometheus.NewRegistry()
		registry.MustRegister(NewCollector(func(context.Context) (Status, error) { return Status{Fees: e.feeStatus()}, nil }, zap.NewNop()))
		families, err := registry.Gather()
		require.NoError(t, err)
		out := map[string]float64{}
		for _, f := range families {
			out[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
		}
		return out
	}
	before := read()
	require.EqualValues(t, 1, before["sluice_lsp_fee_rate_stale"])
	require.NotContains(t, before, "sluice_lsp_fee_rate_age_seconds")
	require.NotContains(t, before, "sluice_lsp_menu_min_fee_msat")

	lnd.rate = 5_000
	require.NoError(t, e.fees.refresh(t.Context()))
	*now = now.Add(time.Minute)
	for name, want := range map[string]float64{
		"fee_rate_stale": 0, "fee_rate_above_ceiling": 0, "fee_rate_age_seconds": 60, "fee_rate_estimate_sat_per_kw": 5_000,
		"fee_rate_sat_per_kw": 5_000, "fee_rate_ceiling_sat_per_kw": 50_000, "opening_cost_covered_sat": 4_935,
		"menu_min_fee_msat": 4_935_000, "menu_items": 1, "promise_keys": 1, "promise_key_age_seconds": 3_660,
	} {
		require.EqualValues(t, want, read()["sluice_lsp_"+name], name)
	}
	lnd.rate = 60_000
	require.NoError(t, e.fees.refresh(t.Context()))
	after := read()
	require.EqualValues(t, 1, after["sluice_lsp_fee_rate_above_ceiling"])
	require.Zero(t, after["sluice_lsp_menu_items"])
}
