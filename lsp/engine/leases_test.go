package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp/opening"
)

// TestARestartWhilePlannedKeepsTheCoins: sluiced died before an open's coins
// were recorded. The next process leases them once: were it to lease them again,
// it would let go of coins that the open already counts on, and another open
// would spend the same ones.
func TestARestartWhilePlannedKeepsTheCoins(t *testing.T) {
	cfg := database(t)
	n := newFakeNode()
	n.rich()
	rival := [32]byte{0xee}
	n.onRelease = func(op ln.Outpoint) { n.leases[op] = rival }

	dead := newEngine(t, cfg, n, nil)
	plan, err := dead.planOpening(machineJit, "p", "p-open-1", openingWish{
		client: ln.PubKey{2, 1}, amountMsat: 100_000_000, feeMsat: 2_000_000, zeroConf: true, openFor: time.Minute,
	})
	require.NoError(t, err)
	_, err = dead.openings.Create(t.Context(), "p-open-1", opening.Planned{Plan: plan}, opening.Start{Moment: at(100)})
	require.NoError(t, err)
	dead.stop()

	e := newEngine(t, cfg, n, nil)
	close(e.world.follow.picture) // channels are followed
	_, err = e.openings.Recover(t.Context())
	require.NoError(t, err)
	select {
	case <-n.opened:
		// Effects of one open run in order: all that leases coins came before.
	case <-time.After(10 * time.Second):
		t.Fatal("no channel is asked for")
	}
	inst, err := e.openings.Get(t.Context(), "p-open-1")
	require.NoError(t, err)
	leased, ok := inst.State.(opening.Leased)
	require.True(t, ok, "the open is %s", inst.State.StateName())
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range leased.Selection.Inputs {
		require.Equal(t, plan.LeaseID(), n.leases[c.Outpoint], "coin %s of the open is another's", c.Outpoint)
	}
}
