//go:build itest

package itest

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestCollaborativeElsewhere: a channel with the coins of another wallet, which signs
// a file.
func TestCollaborativeElsewhere(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := startJoint(ctx, t)

	// The payer's lnd plays the other wallet: it makes a payment ready, and signs
	// what it is given.
	cold := dialNode(t, n.Payer)
	before, wallet := n.holdings(ctx, n.Payer), n.holdings(ctx, n.Wallet)
	address, err := cold.NewChangeAddress(ctx)
	require.NoError(t, err)
	packet, err := cold.FundPsbt(ctx, ln.FundOutput{Address: address, AmountSat: 420_000, FeeRate: 500, MinConfs: 1, LeaseID: [32]byte{9}, LeaseFor: time.Hour})
	require.NoError(t, err)
	dir := t.TempDir()
	coins, toSign, signed := filepath.Join(dir, "coins.psbt"), filepath.Join(dir, "sign.psbt"), filepath.Join(dir, "signed.psbt")
	require.NoError(t, os.WriteFile(coins, []byte(base64.StdEncoding.EncodeToString(packet.Psbt)+"\n"), 0o600))
	f := n.fund(ctx, "--amount", "400000", "--inbound", "600000", "--psbt", coins)
	require.Equal(t, "ready", f.Phase)
	_, err = n.agent.Command(ctx, "fund", "sign", f.Key)
	require.Error(t, err, "lnd cannot sign for another wallet")
	_, err = n.agent.Command(ctx, "fund", "export", f.Key, toSign)
	require.NoError(t, err)
	raw, err := os.ReadFile(toSign)
	require.NoError(t, err)
	done, _, err := cold.SignPsbt(ctx, raw)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(signed, done, 0o600))
	n.fund(ctx, "sign", f.Key, "--psbt", signed)
	txid, err := chainhash.NewHashFromStr(strings.Split(f.Channel, ":")[0])
	require.NoError(t, err)
	require.NoError(t, n.Miner().WaitTxInMempool(ctx, *txid))
	require.NoError(t, n.Mine(ctx, 6))
	n.phase(ctx, f.Key, "done")
	require.EqualValues(t, 400_000, n.channel(ctx, n.Wallet, f.Channel).LocalBalance)
	require.Equal(t, before.onchain-400_000-f.ServiceFeeSat-f.ChainFeeSat, n.holdings(ctx, n.Payer).onchain)
	require.Equal(t, holdings{wallet.onchain, wallet.channels + 400_000}, n.holdings(ctx, n.Wallet))
	n.op.waitBalanced(ctx)
}
