package cpfp

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/sluice-lsp/sluice/internal/ln"
)

type node struct {
	txs                   []ln.WalletTx
	listing, lease, bumps error
	leased                ln.Outpoint
	asked                 []ln.Outpoint
	budget                ln.Sat
}

func (n *node) Transactions(context.Context, int32) ([]ln.WalletTx, error) { return n.txs, n.listing }

func (n *node) LeaseCoin(_ context.Context, _ [32]byte, op ln.Outpoint, _ time.Duration) error {
	n.leased = op
	return n.lease
}

func (n *node) BumpFee(_ context.Context, op ln.Outpoint, _ uint64, budget ln.Sat) error {
	n.asked, n.budget = append(n.asked, op), budget
	return n.bumps
}

func TestAsk(t *testing.T) {
	tx := walletTx(t, 100, []ln.Outpoint{{TxID: ln.TxID{1}}}, false, true)
	change := ln.Outpoint{TxID: tx.TxID, Index: 1}
	bump := func(n *node, most ln.Sat) error {
		return ask(t.Context(), Node{n, n, n}, Request{
			Parent: Parent{Change: change}, LeaseID: [32]byte{5}, Target: 2_000, Limits: Limits{Ceiling: 9_000, MostSat: most},
		})
	}
	n := &node{txs: []ln.WalletTx{tx}}
	require.NoError(t, bump(n, 1_000))
	require.Equal(t, []ln.Outpoint{change}, n.asked)
	require.Equal(t, change, n.leased, "nobody builds on it meanwhile")
	require.LessOrEqual(t, n.budget, ln.Sat(1_000))

	lost, refused := ln.ErrUnavailable, errors.New("insufficient funds")
	for name, c := range map[string]struct {
		node   node
		most   ln.Sat
		notNow bool
		want   error
		asks   int
	}{
		"the wallet does not list":         {node: node{listing: lost}, want: lost, most: 1_000},
		"there is no such transaction":     {node: node{}, notNow: true, want: ErrNoBump, most: 1_000},
		"nothing may be paid":              {node: node{txs: n.txs}, notNow: true, want: ErrNoBump},
		"something is built on the change": {node: node{txs: n.txs, lease: ln.ErrLeased}, notNow: true, want: ln.ErrLeased, most: 1_000},
		"the lease's outcome is not known": {node: node{txs: n.txs, lease: lost}, want: lost, most: 1_000},
		"an earlier child spends it":       {node: node{txs: n.txs, lease: refused}, most: 1_000, asks: 1},
		"lnd refuses":                      {node: node{txs: n.txs, bumps: refused}, notNow: true, want: refused, most: 1_000, asks: 1},
		"whether lnd took it is not known": {node: node{txs: n.txs, bumps: lost}, want: lost, most: 1_000, asks: 1},
	} {
		err := bump(&c.node, c.most)
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, c.notNow, errors.Is(err, errNotNow), name)
		require.Len(t, c.node.asked, c.asks, name)
		if c.notNow {
			require.Equal(t, errors.Is(err, ln.ErrLeased), level(err) == zapcore.InfoLevel, name)
		}
	}
}
