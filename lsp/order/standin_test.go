package order

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// A payment that was taken unconfirmed is replaced, or a second one confirms first: it pays
// for the channel that is there. What is too much once both confirmed goes back, and what
// is missing goes on missing.
func TestAnotherPaymentStandsIn(t *testing.T) {
	m := moment(testHeight)
	active := func() State {
		o := scenario(unconfirmed)
		o.BuriedConfs = 4
		zero := coins(testHeight, seen(1, testTotal, 0))
		zero.ZeroConf = true
		s, _ := walk(t, Created{o}, Start{m}, zero, PeerStatus{m, true}, OpeningPublished{m, OpeningID(o.ID, 1), testFunding}, OpeningConfirmed{m, OpeningID(o.ID, 1)})
		require.IsType(t, Active{}, s)
		return s
	}
	buried := NewBlock{Moment: moment(testHeight + 3)}
	first, second := seen(1, testTotal, testHeight+1), seen(2, testTotal, testHeight+1)
	pending := seen(1, testTotal, 0)
	lost := func(s State) ln.Msat {
		t.Helper()
		missing, err := Of(s).LostMsat()
		require.NoError(t, err)
		return missing
	}

	// The first is replaced.
	s, effects := walk(t, active(), coins(testHeight+1, second))
	require.Len(t, effects, 1)
	require.IsType(t, KeepCoins{}, effects[0])
	require.Zero(t, lost(s))
	s, effects = walk(t, s, buried)
	require.Equal(t, []Effect{FreeCoins{OrderID: unconfirmed, LeaseID: LeaseID(unconfirmed), Coins: []ln.Outpoint{second.Outpoint}}}, effects)
	require.Zero(t, Of(s).RiskSat())
	// Should it come after all, it goes back, and it alone.
	_, effects = walk(t, s, coins(testHeight+4, first, second))
	require.Equal(t, []Coin{{Outpoint: first.Outpoint, AmountSat: testTotal, Height: testHeight + 1, SeenAt: testStart, Zero: true}}, effects[0].(Refund).Coins)
	require.Zero(t, effects[0].(Refund).KeepSat)

	// Both confirm before the funding is buried: the total is kept, and one of them goes back.
	s, effects = walk(t, active(), coins(testHeight+1, pending, second), coins(testHeight+2, first, second))
	require.Empty(t, effects)
	_, effects = walk(t, s, buried)
	require.EqualValues(t, testTotal, effects[0].(Refund).KeepSat)
	require.Len(t, effects[0].(Refund).Coins, 2)

	// A payment of a part is kept towards the whole.
	part := seen(2, testTotal-2_000, testHeight+1)
	s, effects = walk(t, active(), coins(testHeight+1, part), buried)
	require.Empty(t, effects)
	require.Equal(t, ln.Msat(2_000_000), lost(s))
	require.False(t, Of(s).Taken)
}
