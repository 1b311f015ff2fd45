package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/lsp"
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

// leasedOpen is an open that asks its wallet for a channel.
func leasedOpen(t *testing.T, e *Engine, n *fakeNode, id string) opening.Plan {
	t.Helper()
	plan, err := e.planOpening(machineJit, "p", id, openingWish{
		client: ln.PubKey{2, 1}, amountMsat: 100_000_000, feeMsat: 2_000_000, zeroConf: true, openFor: time.Minute,
	})
	require.NoError(t, err)
	_, err = e.openings.Create(t.Context(), id, opening.Planned{Plan: plan}, opening.Start{Moment: at(100)})
	require.NoError(t, err)
	select {
	case <-n.opened:
	case <-time.After(10 * time.Second):
		t.Fatal("no channel is asked for")
	}
	return plan
}

// TestARenewalDoesNotOutliveItsOpen: the open ends, and lets go of its coins,
// between a renewal's look at it and its lease.
func TestARenewalDoesNotOutliveItsOpen(t *testing.T) {
	n := newFakeNode()
	n.rich()
	e := newEngine(t, database(t), n, nil)
	close(e.world.follow.picture)
	_, err := e.openings.Recover(t.Context())
	require.NoError(t, err)
	leasedOpen(t, e, n, "p-open-1")

	released := make(chan struct{}, 8)
	n.mu.Lock()
	n.onRelease = func(ln.Outpoint) { released <- struct{}{} }
	n.onLease = func(ln.Outpoint) {
		_, err := e.openings.Send(t.Context(), "p-open-1", opening.Abandon{Moment: at(100), Reason: lsp.Because(lsp.ReasonCancelled, "withdrawn")})
		require.NoError(t, err)
		select {
		case <-released:
		case <-time.After(10 * time.Second):
			t.Error("the open does not let go of its coins")
		}
	}
	n.mu.Unlock()
	e.renewLeases(t.Context(), "p-open-1")
	n.mu.Lock()
	defer n.mu.Unlock()
	require.Empty(t, n.leases)
}

// TestLeasesOfOpensThatAreOverAreSwept: lnd took a lease whose answer was lost
// with the process that asked, and the open is over.
func TestLeasesOfOpensThatAreOverAreSwept(t *testing.T) {
	n := newFakeNode()
	n.rich()
	e := newEngine(t, database(t), n, nil)
	close(e.world.follow.picture)
	_, err := e.openings.Recover(t.Context())
	require.NoError(t, err)
	over := leasedOpen(t, e, n, "p-open-1")
	released := make(chan struct{}, 8)
	n.mu.Lock()
	n.onRelease = func(ln.Outpoint) { released <- struct{}{} }
	n.mu.Unlock()
	_, err = e.openings.Send(t.Context(), "p-open-1", opening.Abandon{Moment: at(100), Reason: lsp.Because(lsp.ReasonCancelled, "withdrawn")})
	require.NoError(t, err)
	<-released
	live := leasedOpen(t, e, n, "p-open-2")

	unknown := over
	unknown.Seed[0]++
	others := [32]byte{0xee}
	late, ofUnknown, ofOthers := ln.Outpoint{TxID: ln.TxID{7}}, ln.Outpoint{TxID: ln.TxID{8}}, ln.Outpoint{TxID: ln.TxID{9}}
	n.mu.Lock()
	n.leases[late], n.leases[ofUnknown], n.leases[ofOthers] = over.LeaseID(), unknown.LeaseID(), others
	n.mu.Unlock()
	for range 2 {
		require.NoError(t, e.sweepLeases(t.Context()))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	require.NotContains(t, n.leases, late, "no open needs it")
	require.Equal(t, unknown.LeaseID(), n.leases[ofUnknown], "an older database may not know whose it is")
	require.Equal(t, others, n.leases[ofOthers], "another program's")
	kept := 0
	for _, id := range n.leases {
		if id == live.LeaseID() {
			kept++
		}
	}
	require.NotZero(t, kept, "the coins of an open that goes on stay its own")
}
