//go:build itest

package itest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil"
	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/swaps/api/swapsv1"
	"github.com/sluice-lsp/sluice/swaps/htlc"
)

// out begins a swap out and returns once its output confirmed and the client
// has not acted on that yet: it wants more confirmations.
func (n *swapNet) out(ctx context.Context, amount, confs int) (devnet.LoopSwap, chainhash.Hash) {
	n.t.Helper()
	// Its connection to a sluiced that was away is tried again with pauses.
	require.NoError(n.t, devnet.WaitFor(ctx, "the client to reach the gateway", func(ctx context.Context) (bool, error) {
		_, err := n.loopd.Command(ctx, "quote", "out", strconv.Itoa(amount))
		return err == nil, nil //nolint:nilerr // asked again
	}))
	_, err := n.loopd.Command(ctx, "out", "--force", "--fast", "--htlc_confs", strconv.Itoa(confs), "--amt", strconv.Itoa(amount))
	require.NoError(n.t, err)
	pending, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(n.t, err)
	require.Len(n.t, pending, 1, "the funding transaction")
	require.NoError(n.t, n.Mine(ctx, 1))
	list, err := n.loopd.Swaps(ctx)
	require.NoError(n.t, err)
	return list[0], pending[0]
}

// TestSwapFaults: who has which sats when one side is away.
func TestSwapFaults(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 400_000

	// The gateway is away while the client sweeps: it takes the output with the
	// preimage, and sluiced finds that on the chain when it is back.
	gatewayBefore, clientBefore := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	n.out(ctx, amount, 2)
	require.NoError(t, n.s.Kill())
	n.mineSwept(ctx)
	require.NoError(t, n.s.Start(ctx))
	require.NoError(t, n.Mine(ctx, 1))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	swap := n.mineUntil(ctx, "SUCCESS")
	require.NoError(t, n.Mine(ctx, 6))
	gateway, client := n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	require.Equal(t, "success", n.spendOf(ctx, swap))
	require.EqualValues(t, amount+swap.CostServer, gateway.channel-gatewayBefore.channel)
	require.EqualValues(t, amount-swap.CostOnchain, client.onchain-clientBefore.onchain)

	// A reorg takes the output's block away before the client has acted on it: the
	// same transaction confirms again.
	gatewayBefore, clientBefore = n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	n.out(ctx, amount, 3)
	require.NoError(t, n.Mine(ctx, 1))
	_, err := n.Miner().Reorg(ctx, 2, 3)
	require.NoError(t, err)
	require.NoError(t, n.WaitSynced(ctx))
	swap = n.mineUntil(ctx, "SUCCESS")
	require.NoError(t, n.Mine(ctx, 6))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	gateway, client = n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	require.EqualValues(t, amount+swap.CostServer, gateway.channel-gatewayBefore.channel)
	require.EqualValues(t, amount-swap.CostOnchain, client.onchain-clientBefore.onchain)

	// The client is gone for good once the output is published: the amount comes
	// back to the gateway at the expiry, the held payment to the client, and the
	// prepay pays for the transactions.
	gatewayBefore, clientBefore = n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	n.out(ctx, amount, 6)
	require.NoError(t, n.loopd.Kill())
	held, err := n.Payer.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
	require.NoError(t, err)
	require.Empty(t, held.WaitingCloseChannels)
	require.NoError(t, n.Mine(ctx, 100))
	// sluiced dies between signing and burying the refund.
	refund, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	require.Len(t, refund, 1)
	require.NoError(t, n.s.Kill())
	require.NoError(t, n.Mine(ctx, 1))
	require.NoError(t, n.s.Start(ctx))
	require.NoError(t, n.Mine(ctx, 6))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	gateway, client = n.balances(ctx, n.Gateway), n.balances(ctx, n.Payer)
	prepay := clientBefore.channel - client.channel
	require.Equal(t, prepay, gateway.channel-gatewayBefore.channel, "the client lost its prepay and nothing else")
	miner := gatewayBefore.onchain - gateway.onchain
	require.Positive(t, miner)
	require.LessOrEqual(t, miner, prepay, "the prepay covers a no-show")
	require.Equal(t, clientBefore.onchain, client.onchain)
	n.op.waitBalanced(ctx)
}

// mineSwept makes blocks until the client's sweep confirmed.
func (n *swapNet) mineSwept(ctx context.Context) {
	n.t.Helper()
	require.NoError(n.t, n.Mine(ctx, 1))
	pending, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(n.t, err)
	require.Len(n.t, pending, 1, "the client's sweep")
	require.NoError(n.t, n.Mine(ctx, 1))
}

// sides are what both have before something happens.
type sides struct{ gateway, client balances }

func (n *swapNet) sides(ctx context.Context) sides {
	n.t.Helper()
	return sides{gateway: n.balances(ctx, n.Gateway), client: n.balances(ctx, n.Payer)}
}

// tookOut holds who has which sats after a swap out that ended well.
func (n *swapNet) tookOut(ctx context.Context, before sides, swap devnet.LoopSwap, funding chainhash.Hash) {
	n.t.Helper()
	after := n.sides(ctx)
	require.EqualValues(n.t, swap.Amount+swap.CostServer, after.gateway.channel-before.gateway.channel)
	require.EqualValues(n.t, swap.Amount+swap.CostServer+swap.CostOffchain, before.client.channel-after.client.channel)
	require.EqualValues(n.t, swap.Amount-swap.CostOnchain, after.client.onchain-before.client.onchain)
	require.EqualValues(n.t, swap.Amount+n.feeOf(ctx, n.Gateway, funding.String()), before.gateway.onchain-after.gateway.onchain)
}

// tookIn is the same of a swap in: what the gateway got is what its claim says.
func (n *swapNet) tookIn(ctx context.Context, before sides, swap devnet.LoopSwap, deposit chainhash.Hash) {
	n.t.Helper()
	after := n.sides(ctx)
	require.EqualValues(n.t, swap.Amount-swap.CostServer, after.client.channel-before.client.channel)
	require.EqualValues(n.t, swap.Amount-swap.CostServer, before.gateway.channel-after.gateway.channel)
	require.EqualValues(n.t, swap.Amount+n.feeOf(ctx, n.Payer, deposit.String()), before.client.onchain-after.client.onchain)
	claim := n.claimOf(ctx, deposit)
	require.Equal(n.t, claim.TxOut[0].Value, after.gateway.onchain-before.gateway.onchain)
	require.Less(n.t, swap.Amount-claim.TxOut[0].Value, swap.CostServer)
}

// claimOf is the gateway's transaction that spends a deposit.
func (n *swapNet) claimOf(ctx context.Context, deposit chainhash.Hash) *wire.MsgTx {
	n.t.Helper()
	txs, err := n.Gateway.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(n.t, err)
	for _, tx := range txs.Transactions {
		raw := decodeTx(n.t, tx.RawTxHex)
		if tx.NumConfirmations > 0 && raw.TxIn[0].PreviousOutPoint.Hash == deposit {
			return raw
		}
	}
	require.Fail(n.t, "no claim of this deposit is in the gateway's wallet")
	return nil
}

// in begins a swap in and returns its deposit, unconfirmed.
func (n *swapNet) in(ctx context.Context, amount int) chainhash.Hash {
	n.t.Helper()
	_, err := n.loopd.Command(ctx, "in", "--force", "--amt", strconv.Itoa(amount))
	require.NoError(n.t, err)
	pending, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(n.t, err)
	require.Len(n.t, pending, 1, "the deposit")
	return pending[0]
}

// stands waits until the gateway's swap is in a state.
func (n *swapNet) stands(ctx context.Context, swap devnet.LoopSwap, state string) *swapsv1.Swap {
	n.t.Helper()
	var got *swapsv1.Swap
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := devnet.WaitFor(wait, "the gateway's swap to be "+state, func(ctx context.Context) (bool, error) {
		r, err := n.op.swaps.ShowSwap(ctx, &swapsv1.ShowSwapRequest{Hash: swap.ID})
		got = r.GetSwap()
		return err == nil && got.GetState() == state, err
	})
	require.NoError(n.t, err, "%v", got)
	return got
}

// buries ends what the last block began.
func (n *swapNet) buries(ctx context.Context) {
	n.t.Helper()
	require.NoError(n.t, n.Mine(ctx, 6))
	require.NoError(n.t, n.Payer.WaitNoHTLCs(ctx))
}

// TestSwapFaultsReorgs: two and six blocks are undone at each end of a swap; the same
// transactions confirm again, and nobody has a sat more or less.
func TestSwapFaultsReorgs(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 400_000
	undo := func(depth int, of chainhash.Hash) {
		_, confirmed, err := n.Miner().Tx(ctx, of)
		require.NoError(t, err)
		require.LessOrEqual(t, confirmed, int64(depth), "it would not be undone")
		_, err = n.Miner().Reorg(ctx, depth, depth+1)
		require.NoError(t, err)
		require.NoError(t, n.WaitSynced(ctx))
	}

	// Out: six blocks, output and sweep, after the client has its money.
	before := n.sides(ctx)
	_, funding := n.out(ctx, amount, 1)
	swap := n.mineUntil(ctx, "SUCCESS")
	undo(6, funding)
	n.buries(ctx)
	n.stands(ctx, swap, "succeeded")
	n.tookOut(ctx, before, swap, funding)

	// In: the two blocks for which it was paid.
	before = n.sides(ctx)
	deposit := n.in(ctx, amount)
	require.NoError(t, n.Mine(ctx, 2))
	_, err := n.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err, "the claim")
	undo(2, deposit)
	swap = n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "claimed")
	n.tookIn(ctx, before, swap, deposit)

	// In: six blocks, deposit and claim.
	before = n.sides(ctx)
	deposit = n.in(ctx, amount)
	require.NoError(t, n.Mine(ctx, 2))
	swap = n.mineUntil(ctx, "SUCCESS")
	undo(6, deposit)
	n.buries(ctx)
	n.stands(ctx, swap, "claimed")
	n.tookIn(ctx, before, swap, deposit)
	n.op.waitBalanced(ctx)
}

// external begins a swap in whose deposit the miner makes.
func (n *swapNet) external(ctx context.Context, amount int64) (devnet.LoopSwap, chainhash.Hash) {
	n.t.Helper()
	_, err := n.loopd.Command(ctx, "in", "--external", "--force", "--amt", strconv.FormatInt(amount, 10))
	require.NoError(n.t, err)
	list, err := n.loopd.Swaps(ctx)
	require.NoError(n.t, err)
	sent, err := n.Miner().Send(ctx, devnet.Output{Address: list[0].HtlcAddress, AmountSat: amount})
	require.NoError(n.t, err)
	return list[0], sent
}

// TestSwapFaultsDoubleSpend: a reorg undoes a deposit, and its coins go elsewhere: at one
// confirmation the gateway has paid nothing; at the two that this amount asks for it has,
// and loses what it paid, which is the stated exposure.
func TestSwapFaultsDoubleSpend(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	n := startSwapsWith(ctx, t, "", map[string]string{"swaps.in_expiry_delta": "190", "swaps.in_pay_margin_blocks": "40"})
	const amount = 400_000
	before := n.sides(ctx)
	swap, deposit := n.external(ctx, amount)
	elsewhere, err := n.Miner().Respend(ctx, deposit)
	require.NoError(t, err)
	require.NoError(t, n.Mine(ctx, 1))
	_, err = n.Miner().ReorgWith(ctx, 1, []*wire.MsgTx{elsewhere}, nil)
	require.NoError(t, err)
	require.NoError(t, n.WaitSynced(ctx))
	require.NoError(t, n.Mine(ctx, 3))
	n.stands(ctx, swap, "waiting")
	require.Equal(t, before.gateway.channel, n.sides(ctx).gateway.channel)

	lost, deposit := n.external(ctx, amount)
	elsewhere, err = n.Miner().Respend(ctx, deposit)
	require.NoError(t, err)
	require.NoError(t, n.Mine(ctx, 2))
	n.stands(ctx, lost, "claiming")
	status, err := n.op.swaps.GetStatus(ctx, &swapsv1.GetStatusRequest{})
	require.NoError(t, err)
	require.EqualValues(t, amount, status.ExposedSat, "the operator sees what a reorg could take")
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	_, err = n.Miner().ReorgWith(ctx, 2, []*wire.MsgTx{elsewhere}, nil, nil)
	require.NoError(t, err)
	require.NoError(t, n.WaitSynced(ctx))
	fee := n.stands(ctx, lost, "claiming").FeeSat
	for range 10 {
		require.NoError(t, n.Mine(ctx, 20))
	}
	n.stands(ctx, lost, "lost")
	n.stands(ctx, swap, "failed")
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	after := n.sides(ctx)
	paid := int64(amount) - int64(fee)
	require.Equal(t, paid, before.gateway.channel-after.gateway.channel, "it lost what it paid, once")
	require.Equal(t, paid, after.client.channel-before.client.channel)
	// The claim can never confirm: lnd's wallet forgets it.
	require.NoError(t, devnet.WaitFor(ctx, "the gateway's wallet to forget the claim", func(ctx context.Context) (bool, error) {
		wallet, err := n.Gateway.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
		return err == nil && wallet.TotalBalance == before.gateway.onchain, err
	}))
	status, err = n.op.swaps.GetStatus(ctx, &swapsv1.GetStatusRequest{})
	require.NoError(t, err)
	require.Equal(t, paid*1000, status.LossMsat)

	// The client's own replacement is in the reorg's blocks instead, after the payment:
	// that one is claimed.
	before = n.sides(ctx)
	moved, deposit := n.external(ctx, amount)
	replacement, err := n.Miner().Respend(ctx, deposit, devnet.Output{Address: moved.HtlcAddress, AmountSat: amount})
	require.NoError(t, err)
	require.NoError(t, n.Mine(ctx, 2))
	n.stands(ctx, moved, "claiming")
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	_, err = n.Miner().ReorgWith(ctx, 2, []*wire.MsgTx{replacement}, nil, nil)
	require.NoError(t, err)
	require.NoError(t, n.WaitSynced(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the gateway to find the replacement", func(ctx context.Context) (bool, error) {
		r, err := n.op.swaps.ShowSwap(ctx, &swapsv1.ShowSwapRequest{Hash: moved.ID})
		return err == nil && r.GetSwap().GetReason() != "", err
	}))
	claimed := wire.OutPoint{Hash: replacement.TxHash()}
	for range 9 {
		require.NoError(t, n.Mine(ctx, 1))
		wait, cancel := context.WithTimeout(ctx, 3*time.Second)
		err = n.Miner().WaitSpendInMempool(wait, claimed)
		cancel()
		if err == nil {
			break
		}
	}
	require.NoError(t, err, "the claim of the replacement")
	n.buries(ctx)
	got := n.stands(ctx, moved, "claimed")
	require.Equal(t, replacement.TxHash().String()+":0", got.Outpoint)
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	after = n.sides(ctx)
	require.Equal(t, int64(amount)-int64(got.FeeSat), before.gateway.channel-after.gateway.channel)
	claim := n.claimOf(ctx, replacement.TxHash()).TxOut[0].Value
	require.NoError(t, devnet.WaitFor(ctx, "the gateway's wallet to have the claim, and to forget that of the first deposit", func(ctx context.Context) (bool, error) {
		wallet, err := n.Gateway.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
		return err == nil && wallet.TotalBalance == before.gateway.onchain+claim, err
	}))
	n.op.waitBalanced(ctx)
}

// TestSwapFaultsFees: fees jump while a claim, a funding transaction or a refund waits:
// what was signed is replaced by what the chain asks then, or gets a child that pays for
// both, and goes to the miners of the one block that takes it.
func TestSwapFaultsFees(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 400_000

	before := n.sides(ctx)
	n.in(ctx, amount)
	require.NoError(t, n.Mine(ctx, 2))
	claim := n.spike(ctx, n.onlyOne(ctx))
	pays := int64(amount) - claim.TxOut[0].Value
	require.GreaterOrEqual(t, pays, int64(200*htlc.KeyClaimWU/4-200), "what the chain asks now")
	require.LessOrEqual(t, pays, int64(amount/2))
	swap := n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "claimed")
	after := n.sides(ctx)
	require.EqualValues(t, swap.Amount-swap.CostServer, after.client.channel-before.client.channel)
	require.EqualValues(t, swap.Amount-swap.CostServer, before.gateway.channel-after.gateway.channel)
	require.Equal(t, claim.TxOut[0].Value, after.gateway.onchain-before.gateway.onchain)
	require.NoError(t, n.s.Kill())
	require.NoError(t, n.s.Start(ctx))

	n.hurriesFunding(ctx, amount)
	require.NoError(t, n.s.Kill())
	require.NoError(t, n.s.Start(ctx))

	before = n.sides(ctx)
	swap, funding := n.out(ctx, amount, 6)
	require.NoError(t, n.loopd.Kill())
	require.NoError(t, n.Mine(ctx, 100))
	refund := n.spike(ctx, n.onlyOne(ctx))
	pays = int64(amount) - refund.TxOut[0].Value
	require.GreaterOrEqual(t, pays, int64(200*htlc.RefundWU/4-200), "what the chain asks now")
	require.LessOrEqual(t, pays, int64(amount/2))
	n.buries(ctx)
	n.stands(ctx, swap, "refunded")
	after = n.sides(ctx)
	prepay := before.client.channel - after.client.channel
	require.Positive(t, prepay)
	require.Equal(t, prepay, after.gateway.channel-before.gateway.channel, "the client lost its prepay and nothing else")
	require.Equal(t, before.client.onchain, after.client.onchain)
	require.Equal(t, n.feeOf(ctx, n.Gateway, funding.String())+pays, before.gateway.onchain-after.gateway.onchain)
	n.op.waitBalanced(ctx)
}

// hurriesFunding has fees jump before a swap out's output is in a block: a child of its
// change lifts both to what the chain asks, and the client has its swap.
func (n *swapNet) hurriesFunding(ctx context.Context, amount int) {
	n.t.Helper()
	before := n.sides(ctx)
	require.NoError(n.t, devnet.WaitFor(ctx, "the client to reach the gateway", func(ctx context.Context) (bool, error) {
		_, err := n.loopd.Command(ctx, "quote", "out", strconv.Itoa(amount))
		return err == nil, nil //nolint:nilerr // asked again
	}))
	_, err := n.loopd.Command(ctx, "out", "--force", "--fast", "--htlc_confs", "1", "--amt", strconv.Itoa(amount))
	require.NoError(n.t, err)
	funding := n.onlyOne(ctx)
	n.Fees().SetSatPerVByte(200)
	require.NoError(n.t, n.s.Kill())
	require.NoError(n.t, n.s.Start(ctx))
	for range 3 {
		require.NoError(n.t, n.Miner().MineOnly(ctx))
		require.NoError(n.t, n.WaitSynced(ctx))
	}
	child := childOf(ctx, n.t, n.Net, n.Gateway, funding.TxHash())
	n.Fees().SetSatPerVByte(devnet.DefaultFeeRateSatPerVByte)
	require.NoError(n.t, n.Mine(ctx, 1))
	fees := n.feeOf(ctx, n.Gateway, funding.TxHash().String()) + n.feeOf(ctx, n.Gateway, child.TxHash().String())
	vbytes := (blockchain.GetTransactionWeight(btcutil.NewTx(funding)) + blockchain.GetTransactionWeight(btcutil.NewTx(child)) + 3) / 4
	require.GreaterOrEqual(n.t, fees, 195*vbytes, "what the chain asks of both")
	require.LessOrEqual(n.t, fees, int64(amount/2))
	swap := n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "succeeded")
	after := n.sides(ctx)
	require.EqualValues(n.t, swap.Amount+swap.CostServer, after.gateway.channel-before.gateway.channel)
	require.EqualValues(n.t, swap.Amount-swap.CostOnchain, after.client.onchain-before.client.onchain)
	require.Equal(n.t, swap.Amount+fees, before.gateway.onchain-after.gateway.onchain)
}

// spike lets fees jump to two hundred sat per vbyte while a transaction waits, and others'
// transactions fill the blocks, and returns its replacement.
func (n *swapNet) spike(ctx context.Context, first *wire.MsgTx) (second *wire.MsgTx) {
	n.t.Helper()
	n.Fees().SetSatPerVByte(200)
	defer n.Fees().SetSatPerVByte(devnet.DefaultFeeRateSatPerVByte)
	// What lnd says now is asked for at the start, and every minute.
	require.NoError(n.t, n.s.Kill())
	require.NoError(n.t, n.s.Start(ctx))
	for range 3 {
		require.NoError(n.t, n.Miner().MineOnly(ctx))
		require.NoError(n.t, n.WaitSynced(ctx))
	}
	require.NoError(n.t, devnet.WaitFor(ctx, "a dearer transaction", func(ctx context.Context) (bool, error) {
		second = n.onlyOne(ctx)
		return second.TxHash() != first.TxHash(), nil
	}))
	require.Equal(n.t, first.TxIn[0].PreviousOutPoint, second.TxIn[0].PreviousOutPoint)
	return second
}

// onlyOne is the one transaction of the mempool, as it is after any replacement.
func (n *swapNet) onlyOne(ctx context.Context) (tx *wire.MsgTx) {
	n.t.Helper()
	require.NoError(n.t, devnet.WaitFor(ctx, "the one transaction of the mempool", func(ctx context.Context) (bool, error) {
		pending, err := n.Miner().WaitMempool(ctx, 1)
		if err != nil || len(pending) != 1 {
			return false, err
		}
		// It may be replaced between the two questions.
		tx, _, err = n.Miner().Tx(ctx, pending[0])
		return err == nil, nil
	}))
	return tx
}

// TestSwapFaultsGone: the payer vanishes, its node and all, once its payments are held,
// and comes back after the refund: nobody has a sat that is not its own.
func TestSwapFaultsGone(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := startSwaps(ctx, t)
	const amount = 400_000
	before := n.sides(ctx)
	swap, funding := n.out(ctx, amount, 6)
	require.NoError(t, n.loopd.Kill())
	require.NoError(t, n.Payer.Kill())
	require.NoError(t, n.Mine(ctx, 100))
	pays := int64(amount) - n.onlyOne(ctx).TxOut[0].Value
	require.NoError(t, n.Mine(ctx, 7))
	n.stands(ctx, swap, "refunded")
	require.NoError(t, n.Payer.Start(ctx))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	after := n.sides(ctx)
	prepay := before.client.channel - after.client.channel
	require.Positive(t, prepay)
	require.Equal(t, prepay, after.gateway.channel-before.gateway.channel, "the client lost its prepay and nothing else")
	require.Equal(t, before.client.onchain, after.client.onchain)
	miner := n.feeOf(ctx, n.Gateway, funding.String()) + pays
	require.Equal(t, miner, before.gateway.onchain-after.gateway.onchain)
	require.LessOrEqual(t, miner, prepay, "the prepay covers a no-show")
	n.op.waitBalanced(ctx)
}

// TestSwapFaultsAway: each of those that a swap needs is away in the middle of it: lnd is
// killed, loopd is killed and resumed, the database is lost for a minute.
func TestSwapFaultsAway(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	pg := startPostgres(ctx, t, net)
	dsn, err := pg.CreateDatabase(ctx, "sluice")
	require.NoError(t, err)
	n := swapsOn(ctx, t, net, dsn, nil)
	const amount = 400_000

	// lnd, while the client waits for confirmations.
	before := n.sides(ctx)
	_, funding := n.out(ctx, amount, 3)
	require.NoError(t, n.Gateway.Kill())
	require.NoError(t, n.Mine(ctx, 1))
	require.NoError(t, n.Gateway.Start(ctx))
	require.NoError(t, n.s.WaitReady(ctx))
	swap := n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "succeeded")
	n.tookOut(ctx, before, swap, funding)

	// loopd, once its payments are held and before it acts on the output.
	before = n.sides(ctx)
	_, funding = n.out(ctx, amount, 2)
	require.NoError(t, n.loopd.Kill())
	require.NoError(t, n.Mine(ctx, 2))
	require.NoError(t, n.loopd.Start(ctx))
	swap = n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "succeeded")
	n.tookOut(ctx, before, swap, funding)

	// loopd, once its deposit is out and before it is paid: its node takes the payment,
	// and the key comes when it is back, or the claim does without.
	before = n.sides(ctx)
	deposit := n.in(ctx, amount)
	require.NoError(t, n.loopd.Kill())
	require.NoError(t, n.Mine(ctx, 2))
	require.NoError(t, n.Payer.WaitNoHTLCs(ctx))
	require.NoError(t, n.loopd.Start(ctx))
	swap = n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "claimed")
	n.tookIn(ctx, before, swap, deposit)

	// The database, for the minute in which the deposit becomes deep enough.
	before = n.sides(ctx)
	deposit = n.in(ctx, amount)
	require.NoError(t, n.Mine(ctx, 1))
	require.NoError(t, pg.Stop(ctx))
	require.NoError(t, n.Mine(ctx, 1))
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
	}
	require.Equal(t, before.gateway.channel, n.sides(ctx).gateway.channel, "nothing is paid that could not be written down")
	require.NoError(t, pg.Start(ctx))
	require.NoError(t, n.s.WaitReady(ctx))
	swap = n.mineUntil(ctx, "SUCCESS")
	n.buries(ctx)
	n.stands(ctx, swap, "claimed")
	n.tookIn(ctx, before, swap, deposit)
	n.op.waitBalanced(ctx)
}
