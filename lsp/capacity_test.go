package lsp_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
)

// passes plays BOLT 2's rules for the opener of a fresh channel that adds the
// parts one after the other: after each, at twice the rate and with one HTLC
// more, it must still pay the commitment fee, both anchors and keep its reserve.
// It is written from the specification, not from the code under test.
func passes(capacity ln.Sat, parts []ln.Msat, weight uint64, rate, reserve uint64) bool {
	balance := int64(capacity)*1000 - 660_000
	for i, p := range parts {
		balance -= int64(p)
		w := weight + 172*uint64(i+2)
		fee := (2*rate*w + 999) / 1000
		if balance < int64(fee+reserve)*1000 {
			return false
		}
	}
	return true
}

func TestCapacityLetsThePaymentPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind, weight := ln.CommitmentAnchors, uint64(1124)
		if rapid.Bool().Draw(t, "taproot") {
			kind, weight = ln.CommitmentSimpleTaproot, 968
		}
		rate := rapid.Uint64Range(253, 50_000).Draw(t, "rate")
		stress := rapid.Uint32Range(0, 500).Draw(t, "stress")
		p := lsp.CapacityPolicy{
			CommitFeeRate: ln.FeeRateSatPerKW(rate), StressPercent: stress, DustLimitSat: 354,
			HeadroomPPM: rapid.Uint32Range(0, 500_000).Draw(t, "headroom"),
			ReserveSat:  ln.Sat(rapid.Uint64Range(0, 20_000).Draw(t, "reserve")),
			MinSat:      20_000,
		}
		var parts []ln.Msat
		var sum ln.Msat
		for range rapid.IntRange(1, 16).Draw(t, "parts") {
			part := ln.Msat(rapid.Uint64Range(1000, 5_000_000_000).Draw(t, "part"))
			parts = append(parts, part)
			sum += part
		}
		capacity, err := p.Capacity(sum, len(parts), kind)
		require.NoError(t, err)
		at := rate * uint64(max(stress, 100)) / 100
		reserve := max(uint64(capacity+99)/100, 354)
		if p.ReserveSat > 0 {
			reserve = max(uint64(p.ReserveSat), 354)
		}
		require.True(t, passes(capacity, parts, weight, at, reserve))
		// Enough is not waste: less by the headroom, the peer's reserve and a
		// few sats would do no longer.
		if p.HeadroomPPM == 0 && capacity > p.MinSat {
			tight := capacity - ln.Sat(reserve) - 10
			require.False(t, passes(tight, parts, weight, at, reserve))
		}
	})
}

// On real nodes at 498 sat/kw a channel of the payment and 3,000 sat failed and
// one with 4,000 sat worked: the least capacity, without headroom and the
// peer's reserve, lies between.
func TestCapacityAgreesWithRealNodes(t *testing.T) {
	p := lsp.CapacityPolicy{CommitFeeRate: 498, DustLimitSat: 354}
	capacity, err := p.Capacity(100_000_000, 1, ln.CommitmentAnchors)
	require.NoError(t, err)
	own := capacity - p.Reserve(capacity)
	require.Greater(t, own, ln.Sat(103_000))
	require.LessOrEqual(t, own, ln.Sat(104_000))
}

func TestCapacityLimits(t *testing.T) {
	p := lsp.CapacityPolicy{CommitFeeRate: 500, DustLimitSat: 354, HeadroomSat: 1_000_000, MaxSat: 200_000, MinSat: 20_000}
	capacity, err := p.Capacity(100_000_000, 1, ln.CommitmentAnchors)
	require.NoError(t, err)
	require.Equal(t, ln.Sat(200_000), capacity, "headroom is given up first")
	_, err = p.Capacity(199_000_000, 1, ln.CommitmentAnchors)
	require.ErrorIs(t, err, lsp.ErrChannelTooLarge)
	_, err = p.Capacity(100_000_000, 1, "LEGACY")
	require.Error(t, err)
	p.HeadroomSat = 0
	capacity, err = p.Capacity(1000, 1, ln.CommitmentAnchors)
	require.NoError(t, err)
	require.Equal(t, ln.Sat(20_000), capacity)
}

func TestSpendable(t *testing.T) {
	ch := ln.Channel{Initiator: true, LocalSat: 100_000, LocalReserveSat: 1000, CommitFeeSat: 560, CommitmentType: "ANCHORS"}
	// 2·498 sat/kw for 1124+2·172 WU is 1463 sat, of which 560 are paid.
	got, err := lsp.Spendable(ch, 498, 1)
	require.NoError(t, err)
	require.Equal(t, ln.Msat((100_000-1000-(1463-560))*1000), got)
	ch.Initiator = false
	got, err = lsp.Spendable(ch, 498, 1)
	require.NoError(t, err)
	require.Equal(t, ln.Msat(99_000_000), got)
	ch.LocalSat = 500
	got, err = lsp.Spendable(ch, 498, 1)
	require.NoError(t, err)
	require.Zero(t, got)
}

func TestAdmit(t *testing.T) {
	caps := lsp.Caps{
		Client:           lsp.Load{OpenRequests: 2, QuotedSat: 300, UnpaidSat: 500, HeldSat: 100, HeldSatBlocks: 1000, OpensLastHour: 3},
		All:              lsp.Load{OpenRequests: 4, UnpaidSat: 900, UnconfirmedSat: 700},
		NewcomersPercent: 50,
	}
	offer := lsp.Request{NewOffer: true, QuoteSat: 100}
	rich := lsp.Usage{Fundable: lsp.Fundable{Sat: 10_000}}
	require.NoError(t, lsp.Admit(offer, rich, caps))
	for name, c := range map[string]struct {
		r lsp.Request
		u func(*lsp.Usage)
	}{
		"client's offers": {offer, func(u *lsp.Usage) { u.Client.OpenRequests = 2 }},
		"all offers":      {offer, func(u *lsp.Usage) { u.All.OpenRequests = 4 }},
		"quoted":          {offer, func(u *lsp.Usage) { u.Client.QuotedSat = 201 }},
		"held":            {lsp.Request{HoldSat: 51}, func(u *lsp.Usage) { u.Client.HeldSat = 50 }},
		"sat blocks":      {lsp.Request{HoldSat: 10, HoldSatBlocks: 1010}, func(*lsp.Usage) {}},
		"overflow":        {lsp.Request{HoldSat: 1, HoldSatBlocks: 1<<64 - 1}, func(u *lsp.Usage) { u.Client.HeldSatBlocks = 1 }},
		"unpaid":          {lsp.Request{NewOpen: true, CapacitySat: 501}, func(*lsp.Usage) {}},
		"all unpaid":      {lsp.Request{NewOpen: true, CapacitySat: 500}, func(u *lsp.Usage) { u.All.UnpaidSat = 401 }},
		"unconfirmed": {
			lsp.Request{NewOpen: true, CapacitySat: 1, UnconfirmedSat: 1}, func(u *lsp.Usage) { u.All.UnconfirmedSat = 700 },
		},
		"unconfirmed when it is quoted": {lsp.Request{UnconfirmedSat: 101}, func(u *lsp.Usage) { u.All.UnconfirmedSat = 600 }},
		"newcomers' unconfirmed":        {lsp.Request{UnconfirmedSat: 101}, func(u *lsp.Usage) { u.Newcomer, u.Newcomers.UnconfirmedSat = true, 250 }},
		"opens":                         {lsp.Request{NewOpen: true, CapacitySat: 1}, func(u *lsp.Usage) { u.Client.OpensLastHour = 3 }},
	} {
		u := rich
		c.u(&u)
		err := lsp.Admit(c.r, u, caps)
		require.Equal(t, errkind.Exhausted, errkind.Of(err), name)
		require.NotEmpty(t, errkind.Sentence(err), name)
	}
	full := lsp.Usage{All: lsp.Load{UnconfirmedSat: 5_000, UnpaidSat: 900}}
	require.NoError(t, lsp.Admit(lsp.Request{NewOpen: true}, full, caps), "what is paid for is opened, however much is not confirmed")
	poor := lsp.Usage{Fundable: lsp.Fundable{Sat: 199}, Unfunded: lsp.Quoted{Channels: 1, Sat: 100}}
	require.Equal(t, errkind.Unavailable, errkind.Of(lsp.Admit(offer, poor, caps)), "what is quoted must be fundable")
	require.NoError(t, lsp.Admit(lsp.Request{NewOffer: true}, poor, caps), "room that is there needs no coins")
	cut := lsp.Usage{Fundable: lsp.Fundable{Sat: 10_000, Channels: 3, Counted: true}, Unfunded: lsp.Quoted{Channels: 2, Sat: 200}}
	require.NoError(t, lsp.Admit(offer, cut, caps), "a coin is left")
	cut.Unfunded.Channels = 3
	require.Equal(t, errkind.Unavailable, errkind.Of(lsp.Admit(offer, cut, caps)), "every coin is promised")
	require.NoError(t, lsp.Admit(lsp.Request{NewOffer: true}, cut, caps), "room that is there needs no coin")
	cut.NewcomersUnfunded.Channels = 1
	require.NoError(t, lsp.Admit(offer, cut, caps), "newcomers' quotes keep no coin from clients that are known")
	draining := lsp.Usage{Fundable: lsp.Fundable{Sat: 10_000}, Draining: true}
	require.ErrorIs(t, lsp.Admit(offer, draining, caps), lsp.ErrDraining)
	require.NoError(t, lsp.Admit(lsp.Request{NewOpen: true, CapacitySat: 1}, draining, caps), "what is held is still served")
}

// Whoever makes up node keys uses up the newcomers' part, and neither the rest
// nor the coins that clients with a history are promised.
func TestAdmitNewcomers(t *testing.T) {
	caps := lsp.Caps{
		All:              lsp.Load{OpenRequests: 4, UnpaidSat: 901, HeldSat: 100, HeldSatBlocks: 1000, OpensLastHour: 1},
		NewcomersPercent: 50,
	}
	require.Equal(t, lsp.Load{OpenRequests: 2, UnpaidSat: 450, HeldSat: 50, HeldSatBlocks: 500, OpensLastHour: 1}, caps.Newcomers(),
		"rounded down, but never to no limit at all")
	used := lsp.Load{OpenRequests: 2, UnpaidSat: 450, HeldSat: 50, HeldSatBlocks: 500}
	crowd := lsp.Usage{Newcomer: true, Newcomers: used, All: used, Fundable: lsp.Fundable{Sat: 100}, Unfunded: lsp.Quoted{Channels: 1, Sat: 100}, NewcomersUnfunded: lsp.Quoted{Channels: 1, Sat: 100}}
	known := crowd
	known.Newcomer = false
	for name, r := range map[string]lsp.Request{
		"offer": {NewOffer: true, QuoteSat: 100}, "hold": {HoldSat: 1}, "hold for long": {HoldSatBlocks: 1}, "open": {NewOpen: true, CapacitySat: 1},
	} {
		err := lsp.Admit(r, crowd, caps)
		require.Equal(t, errkind.Exhausted, errkind.Of(err), name)
		require.ErrorContains(t, err, "new clients'", name)
		require.NoError(t, lsp.Admit(r, known, caps), name)
	}
	known.Unfunded.Sat = 101
	require.Equal(t, errkind.Unavailable, errkind.Of(lsp.Admit(lsp.Request{NewOffer: true, QuoteSat: 100}, known, caps)),
		"what others with a history were promised counts")
	all := lsp.Caps{All: caps.All, NewcomersPercent: 100}
	require.Equal(t, all.All, all.Newcomers())
}

func TestSatBlocks(t *testing.T) {
	require.EqualValues(t, 2*144, lsp.SatBlocks(1_001, 100, 244), "satoshis are rounded up")
	require.EqualValues(t, 7, lsp.SatBlocks(7_000, 100, 100), "what may go back at once costs a block")
	require.EqualValues(t, 7, lsp.SatBlocks(7_000, 100, 3))
	require.EqualValues(t, 1<<50, lsp.SatBlocks(ln.MaxMsat, 0, 1<<32-1), "bounded, so that sums do not wrap")
}
