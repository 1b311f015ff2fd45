package lnd_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg"
	"github.com/btcsuite/btcd/txscript"
	"github.com/btcsuite/btcd/wire"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/internal/psbts"
)

// The change is there whatever coins the wallet has: two for an amount that one would
// pay without any, and none of them when both are too few.
func TestFundKeepingLeavesChange(t *testing.T) {
	w := lndfake.New(lndfake.Config{Seed: 1})
	t.Cleanup(w.Close)
	node, err := w.AddNode("gateway", lndfake.NodeConfig{})
	require.NoError(t, err)
	for range 2 {
		_, err = node.Fund(500_400)
		require.NoError(t, err)
	}
	w.Mine(1)
	client, err := lnd.Dial(lnd.Config{Address: "passthrough:///gateway", Network: "regtest", DialOptions: node.DialOptions()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	address, err := client.NewAddress(t.Context())
	require.NoError(t, err)
	decoded, err := btcutil.DecodeAddress(address, &chaincfg.RegressionNetParams)
	require.NoError(t, err)
	own, err := txscript.PayToAddrScript(decoded)
	require.NoError(t, err)
	contract := append([]byte{txscript.OP_1, 32}, bytes.Repeat([]byte{2}, 32)...)
	ask := ln.FundKeeping{
		Script: contract, AmountSat: 500_000, OwnScript: own, LeastSat: 60_000, FeeRate: 500, MinConfs: 1, LeaseFor: time.Hour,
	}
	for first, id := range [][32]byte{{4}, {5}} {
		ask.LeaseID = id
		raw, err := client.FundKeeping(t.Context(), ask)
		require.NoError(t, err)
		p, err := psbts.Parse(raw)
		require.NoError(t, err)
		require.Len(t, p.UnsignedTx.TxIn, 2)
		require.Len(t, p.UnsignedTx.TxOut, 2)
		require.Equal(t, wire.NewTxOut(500_000, contract), p.UnsignedTx.TxOut[first], "which is whose follows from the lease")
		require.Equal(t, own, p.UnsignedTx.TxOut[1-first].PkScript)
		require.Greater(t, p.UnsignedTx.TxOut[1-first].Value, int64(400_000))
		leases, err := client.ListLeases(t.Context())
		require.NoError(t, err)
		require.Len(t, leases, 2)
		for _, l := range leases {
			require.Equal(t, id, l.ID)
			require.NoError(t, client.ReleaseCoin(t.Context(), l.ID, l.Outpoint))
		}
	}
	ask.AmountSat = 950_000
	_, err = client.FundKeeping(t.Context(), ask)
	require.Error(t, err)
	ask.LeastSat = 10_000
	_, err = client.FundKeeping(t.Context(), ask)
	require.NoError(t, err)
}
