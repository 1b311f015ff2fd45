//go:build itest

package itest

import (
	"bytes"
	"context"
	"encoding/hex"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire"
	looprpc "github.com/lightninglabs/loop/swapserverrpc"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// swapNet is the standard network with a sluiced that swaps and a stock loopd
// beside the payer's lnd.
type swapNet struct {
	*devnet.Standard
	t     *testing.T
	s     *devnet.Sluiced
	loopd *devnet.Loopd
	op    *operator
}

func startSwaps(ctx context.Context, t *testing.T) *swapNet {
	t.Helper()
	return startSwapsWith(ctx, t, "", nil)
}

func startSwapsWith(ctx context.Context, t *testing.T, dsn string, settings map[string]string) *swapNet {
	t.Helper()
	// Most of the payer's channel is on its side, so that it can be paid out of.
	return swapsOn(ctx, t, devnet.StartStandard(t, devnet.StandardConfig{}), dsn, settings)
}

func swapsOn(ctx context.Context, t *testing.T, net *devnet.Standard, dsn string, settings map[string]string) *swapNet {
	t.Helper()
	all := map[string]string{"swaps.enabled": "true", "swaps.max_sat": "5000000"}
	maps.Copy(all, settings)
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayAndSwapsRights(), devnet.SluicedConfig{DSN: dsn, Settings: all})
	require.NoError(t, err)
	n := &swapNet{Standard: net, t: t, s: s, op: newOperator(t, s)}
	n.op.reconcile(ctx)
	n.loopd, err = net.StartLoopd(ctx, net.Payer, s.GRPC, s.TLSCert)
	require.NoError(t, err)
	return n
}

// mineUntil makes a block whenever nothing has happened for a moment, until the
// client's newest swap is in the state.
func (n *swapNet) mineUntil(ctx context.Context, state string) devnet.LoopSwap {
	n.t.Helper()
	var last devnet.LoopSwap
	for blocks := 0; ; blocks++ {
		require.Less(n.t, blocks, 60, "the swap is %s (%s), not %s", last.State, last.FailureReason, state)
		wait, cancel := context.WithTimeout(ctx, 4*time.Second)
		err := devnet.WaitFor(wait, "the swap to be "+state, func(ctx context.Context) (bool, error) {
			list, err := n.loopd.Swaps(ctx)
			if err != nil || len(list) == 0 {
				return false, nil //nolint:nilerr // asked again until the time is up
			}
			last = list[0]
			return last.State == state, nil
		})
		cancel()
		if err == nil {
			return last
		}
		require.NoError(n.t, ctx.Err())
		require.NotEqual(n.t, "FAILED", last.State, last.FailureReason)
		require.NoError(n.t, n.Mine(ctx, 1))
	}
}

type balances struct{ onchain, channel int64 }

func (n *swapNet) balances(ctx context.Context, node *devnet.Node) balances {
	n.t.Helper()
	wallet, err := node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(n.t, err)
	channels, err := node.LN.ChannelBalance(ctx, &lnrpc.ChannelBalanceRequest{})
	require.NoError(n.t, err)
	return balances{onchain: wallet.TotalBalance, channel: int64(channels.LocalBalance.Msat) / 1000}
}

// TestLoopOut: the unmodified loopd swaps out through sluiced: cooperative
// sweep, and who has which sats at the end.
func TestLoopOut(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 500_000
	gatewayBefore, clientBefore := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)

	text, err := n.loopd.Command(ctx, "quote", "out", strconv.Itoa(amount))
	require.NoError(t, err)
	t.Logf("quote: %s", text)
	text, err = n.loopd.Command(ctx, "out", "--force", "--fast", "--amt", strconv.Itoa(amount))
	require.NoError(t, err)
	t.Logf("out: %s", text)
	_, err = n.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err, "the funding transaction")
	list, err := n.loopd.Swaps(ctx)
	require.NoError(t, err)
	// A client of ours hears how the swap goes: the present state first, then each other
	// once, until it is over.
	told := n.follow(ctx, list[0], false)
	told.tell(ctx, looprpc.ServerSwapState_SERVER_HTLC_PUBLISHED)
	require.NoError(t, n.Mine(ctx, 1))
	told.tell(ctx, looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED)

	swap := n.mineUntil(ctx, "SUCCESS")
	t.Logf("%+v", swap)
	require.NoError(t, n.Mine(ctx, 6))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	told.tell(ctx, looprpc.ServerSwapState_SERVER_SUCCESS)
	told.over(ctx)
	late := n.follow(ctx, swap, false)
	late.tell(ctx, looprpc.ServerSwapState_SERVER_SUCCESS)
	late.over(ctx)

	gateway, client := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	// The client paid amount and fee over Lightning, and got the amount less its
	// own sweep. The gateway paid the amount and its transaction.
	require.EqualValues(t, amount+swap.CostServer+swap.CostOffchain, clientBefore.channel-client.channel)
	require.EqualValues(t, amount-swap.CostOnchain, client.onchain-clientBefore.onchain)
	require.EqualValues(t, amount+swap.CostServer, gateway.channel-gatewayBefore.channel)
	miner := gatewayBefore.onchain - gateway.onchain - amount
	require.Positive(t, miner)
	require.Less(t, miner, swap.CostServer)
	require.Equal(t, "key", n.spendOf(ctx, swap), "the client swept with both signatures")
	n.op.waitBalanced(ctx)
}

// TestLoopIn: the unmodified loopd swaps in through sluiced: the probe, a payment
// once the output has its confirmations and not before, the client's key, and
// a claim of the size of a key spend.
func TestLoopIn(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 500_000
	gatewayBefore, clientBefore := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)

	text, err := n.loopd.Command(ctx, "in", "--force", "--amt", strconv.Itoa(amount))
	require.NoError(t, err)
	t.Logf("in: %s", text)
	locked, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	list, err := n.loopd.Swaps(ctx)
	require.NoError(t, err)
	told := n.follow(ctx, list[0], true)
	told.tell(ctx, looprpc.ServerSwapState_SERVER_INITIATED)
	require.NoError(t, n.Mine(ctx, 1))
	told.tell(ctx, looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED)
	select {
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
	}
	require.Equal(t, gatewayBefore.channel, n.balances(ctx, n.Gateway).channel, "one confirmation is not enough")
	// sluiced comes back knowing what it waits for.
	require.NoError(t, n.s.Kill())
	require.NoError(t, n.s.Start(ctx))
	// It asks lnd anew what is confirmed.
	n.stands(ctx, list[0], "waiting")
	told = n.follow(ctx, list[0], true)
	told.come(ctx, looprpc.ServerSwapState_SERVER_INITIATED, looprpc.ServerSwapState_SERVER_HTLC_CONFIRMED)
	require.NoError(t, n.Mine(ctx, 1))
	claims, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	require.Len(t, claims, 1, "the gateway's claim")
	claim, _, err := n.Miner().Tx(ctx, claims[0])
	require.NoError(t, err)
	require.Len(t, claim.TxIn, 1)
	require.Len(t, claim.TxIn[0].Witness, 1, "a key spend")
	swap := n.mineUntil(ctx, "SUCCESS")
	t.Logf("%+v", swap)
	require.NoError(t, n.Mine(ctx, 6))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	told.tell(ctx, looprpc.ServerSwapState_SERVER_SUCCESS)
	told.over(ctx)

	gateway, client := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	require.EqualValues(t, amount-swap.CostServer, client.channel-clientBefore.channel)
	require.EqualValues(t, amount-swap.CostServer, gatewayBefore.channel-gateway.channel)
	// What loopd calls its cost is an estimate of this.
	require.EqualValues(t, amount+n.feeOf(ctx, n.Payer, locked[0].String()), clientBefore.onchain-client.onchain)
	require.Equal(t, claim.TxOut[0].Value, gateway.onchain-gatewayBefore.onchain)
	require.Less(t, amount-claim.TxOut[0].Value, swap.CostServer)
	n.op.waitBalanced(ctx)
}

// feeOf is what a transaction of a node's wallet paid.
func (n *swapNet) feeOf(ctx context.Context, node *devnet.Node, txid string) int64 {
	n.t.Helper()
	txs, err := node.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(n.t, err)
	for _, tx := range txs.Transactions {
		if tx.TxHash == txid {
			return tx.TotalFees
		}
	}
	require.Fail(n.t, "the transaction is not in the wallet", txid)
	return 0
}

// spendOf says how the contract's output was spent, by the size of the witness.
func (n *swapNet) spendOf(ctx context.Context, swap devnet.LoopSwap) string {
	n.t.Helper()
	txs, err := n.Payer.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(n.t, err)
	for _, tx := range txs.Transactions {
		if tx.Amount != swap.Amount-swap.CostOnchain {
			continue
		}
		raw := decodeTx(n.t, tx.RawTxHex)
		switch len(raw.TxIn[0].Witness) {
		case 1:
			return "key"
		case 3:
			return "timeout"
		case 4:
			return "success"
		}
	}
	require.Fail(n.t, "the client's sweep is not in its wallet")
	return ""
}

func decodeTx(t *testing.T, text string) *wire.MsgTx {
	t.Helper()
	raw, err := hex.DecodeString(text)
	require.NoError(t, err)
	tx := &wire.MsgTx{}
	require.NoError(t, tx.Deserialize(bytes.NewReader(raw)))
	return tx
}

// TestSwapToken: a gateway that begins nothing without a token. The unmodified loopd buys
// one, once, swaps with it, and keeps it over a restart.
func TestSwapToken(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	const price, amount = 123, 300_000
	n := startSwapsWith(ctx, t, "", map[string]string{"swaps.l402": "true", "swaps.l402_required": "true", "swaps.l402_price_sat": strconv.Itoa(price)})
	bought := func() (times int) {
		list, err := n.Payer.LN.ListPayments(ctx, &lnrpc.ListPaymentsRequest{})
		require.NoError(t, err)
		for _, p := range list.Payments {
			if p.ValueSat == price && p.Status == lnrpc.Payment_SUCCEEDED {
				times++
			}
		}
		return times
	}
	_, err := n.loopd.Command(ctx, "fetchl402")
	require.NoError(t, err)
	text, err := n.loopd.Command(ctx, "listauth")
	require.NoError(t, err)
	require.Contains(t, text, "preimage")
	require.Equal(t, 1, bought())
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	require.NoError(t, n.Gateway.WaitNoHTLCs(ctx))
	before := n.sides(ctx)
	_, funding := n.out(ctx, amount, 2)
	require.NoError(t, n.loopd.Kill())
	require.NoError(t, n.loopd.Start(ctx))
	swap := n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.tookOut(ctx, before, swap, funding)
	require.Equal(t, 1, bought(), "once is enough")
	n.op.waitBalanced(ctx)
}
