package leases_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/leases"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// wallet is one that leases, and fails at the coin that broken names.
type wallet struct {
	held   map[ln.Outpoint][32]byte
	broken ln.Outpoint
}

var errBroken = errors.New("lnd does not answer")

func (w *wallet) LeaseCoin(_ context.Context, id [32]byte, op ln.Outpoint, _ time.Duration) error {
	if op == w.broken {
		return errBroken
	}
	if other, taken := w.held[op]; taken && other != id {
		return ln.ErrLeased
	}
	w.held[op] = id
	return nil
}

func (w *wallet) ListLeases(context.Context) (list []ln.Lease, err error) {
	for op, id := range w.held {
		list = append(list, ln.Lease{ID: id, Outpoint: op})
	}
	return list, nil
}

func (w *wallet) ReleaseCoin(_ context.Context, id [32]byte, op ln.Outpoint) error {
	if op == w.broken {
		return errBroken
	}
	if w.held[op] != id {
		return errors.New("another's lease")
	}
	delete(w.held, op)
	return nil
}

func TestLeases(t *testing.T) {
	mine, theirs := [32]byte{1}, [32]byte{2}
	coins := []ln.Coin{{Outpoint: ln.Outpoint{Index: 1}}, {Outpoint: ln.Outpoint{Index: 2}}, {Outpoint: ln.Outpoint{Index: 3}}}
	other := ln.Outpoint{Index: 9}
	w := &wallet{held: map[ln.Outpoint][32]byte{other: theirs}}

	require.NoError(t, leases.All(t.Context(), w, mine, coins, time.Hour))
	require.NoError(t, leases.All(t.Context(), w, mine, coins, time.Hour), "again prolongs")
	require.Len(t, w.held, 4)
	require.ErrorIs(t, leases.All(t.Context(), w, theirs, coins, time.Hour), ln.ErrLeased)
	require.ErrorIs(t, leases.ForChild(t.Context(), w, theirs, coins[0].Outpoint), ln.ErrLeased)
	require.NoError(t, leases.ForChild(t.Context(), w, mine, coins[0].Outpoint))

	w.broken = coins[0].Outpoint
	delete(w.held, coins[1].Outpoint)
	require.ErrorIs(t, leases.Renew(t.Context(), w, mine, coins, time.Hour, true), errBroken)
	require.Equal(t, mine, w.held[coins[1].Outpoint], "one that fails keeps it from no other")

	// A call that broke off is finished by the next.
	w.broken = coins[1].Outpoint
	require.NoError(t, leases.ForChild(t.Context(), w, mine, w.broken), "what lnd cannot lease, an earlier child spends")
	_, err := leases.Release(t.Context(), w, mine)
	require.ErrorIs(t, err, errBroken)
	w.broken = ln.Outpoint{}
	found, err := leases.Release(t.Context(), w, mine)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, map[ln.Outpoint][32]byte{other: theirs}, w.held)

	found, err = leases.Release(t.Context(), w, mine)
	require.NoError(t, err)
	require.False(t, found, "nothing was left")
}
