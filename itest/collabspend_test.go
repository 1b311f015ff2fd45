//go:build itest

package itest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

// TestCollaborativeSpends: the operator lets a wallet spend 50,000 sat over its
// zero-conf channel before that is buried. It spends what it can, receives, and takes its
// own coins back in a block. The gateway has lost what it passed on less what came in,
// and no more than the limit.
func TestCollaborativeSpends(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := startJoint(ctx, t)
	const limit = 50_000
	walletKey, err := hex.DecodeString(n.Wallet.PubKey)
	require.NoError(t, err)
	set, err := n.op.joint.SetSpendLimit(ctx, &collabv1.SetSpendLimitRequest{ClientNodeKey: walletKey, LimitSat: limit})
	require.NoError(t, err)
	require.EqualValues(t, limit, set.GetLimit().GetLimitSat())
	msat := func(node *devnet.Node) int64 {
		t.Helper()
		wallet, err := node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
		require.NoError(t, err)
		b, err := node.Balances(ctx)
		require.NoError(t, err)
		return wallet.TotalBalance*1000 + int64(b.LocalMsat+b.PendingLocalMsat)
	}
	before := msat(n.Gateway)

	f := n.fund(ctx, "--amount", "500000", "--inbound", "700000", "--zero-conf")
	back := n.takesBack(ctx, f.Key)
	n.fund(ctx, "sign", f.Key)
	c := n.channel(ctx, n.Wallet, f.Channel)
	txid, err := chainhash.NewHashFromStr(strings.Split(f.Channel, ":")[0])
	require.NoError(t, err)
	require.NoError(t, n.Miner().WaitTxInMempool(ctx, *txid))

	spent := int64(0)
	spends := func(sat int64) (ok bool) {
		t.Helper()
		require.NoError(t, devnet.WaitFor(ctx, "the gateway's answer", func(ctx context.Context) (bool, error) {
			_, _ = n.Wallet.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
			inv, err := n.Payer.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: sat})
			if err != nil {
				return false, err
			}
			p, err := n.Wallet.Send(ctx, sendOver(inv.PaymentRequest, c.ChanId))
			if err != nil {
				return false, err
			}
			if ok = p.Status == lnrpc.Payment_SUCCEEDED; ok {
				spent += sat
				return true, nil
			}
			// Before the wallet's graph has the channel it finds no route by itself.
			for _, h := range p.Htlcs {
				if h.Failure.GetFailureSourceIndex() == 1 {
					require.Equal(t, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, h.Failure.Code)
					return true, nil
				}
			}
			return false, nil
		}))
		return ok
	}
	require.True(t, spends(30_000))
	require.False(t, spends(30_000), "too much in all")
	inv, err := n.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: 40_000, RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
		NodeId: n.Gateway.PubKey, ChanId: c.PeerScidAlias, CltvExpiryDelta: 80,
	}}}}})
	require.NoError(t, err)
	p, err := n.Payer.Pay(ctx, inv.PaymentRequest)
	require.NoError(t, err)
	require.Equal(t, lnrpc.Payment_SUCCEEDED, p.Status, p.FailureReason)
	require.False(t, spends(30_000), "what it received is no more to spend")
	// sluiced dies: what it has spent stands in lnd.
	require.NoError(t, n.s.Kill())
	require.NoError(t, n.s.Start(ctx))
	require.True(t, spends(19_000))
	require.False(t, spends(5_000))
	require.NoError(t, n.Wallet.WaitNoHTLCs(ctx))

	require.NoError(t, n.Miner().MineOnly(ctx, back))
	require.NoError(t, n.Mine(ctx, 6))
	require.NoError(t, devnet.WaitFor(ctx, "the gateway to give the channel up", func(ctx context.Context) (bool, error) {
		got, err := n.op.joint.FindFundings(ctx, &collabv1.FindFundingsRequest{})
		return err == nil && len(got.GetFundings()) == 1 && got.GetFundings()[0].GetState() == "conflicted", err
	}))
	n.phase(ctx, f.Key, "void")
	require.NoError(t, devnet.WaitFor(ctx, "the channel to be forgotten", func(ctx context.Context) (bool, error) {
		list, err := n.Gateway.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{Peer: walletKey})
		return err == nil && len(list.GetChannels()) == 0, err
	}))
	require.LessOrEqual(t, spent, int64(limit))
	want := before - spent*1000 + p.ValueMsat + p.FeeMsat
	var have int64
	require.NoError(t, devnet.WaitFor(ctx, "the gateway's coins to be free", func(context.Context) (bool, error) {
		have = msat(n.Gateway)
		return have == want, nil
	}), "it has %d, not %d: what it had, less what it passed on, and what came in", have, want)
	n.op.waitBalanced(ctx)
}

// takesBack is the transaction by which the wallet spends the coins of a funding to
// itself.
func (n *jointNet) takesBack(ctx context.Context, key string) *wire.MsgTx {
	n.t.Helper()
	content, err := os.ReadFile(filepath.Join(n.agent.Dir, "fundings", key+".json"))
	require.NoError(n.t, err)
	var record struct {
		Own []byte `json:"own"`
	}
	require.NoError(n.t, json.Unmarshal(content, &record))
	done, err := n.Wallet.Wallet.FinalizePsbt(ctx, &walletrpc.FinalizePsbtRequest{FundedPsbt: record.Own})
	require.NoError(n.t, err)
	tx := wire.NewMsgTx(2)
	require.NoError(n.t, tx.Deserialize(bytes.NewReader(done.RawFinalTx)))
	return tx
}
