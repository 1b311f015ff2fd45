//go:build itest

package itest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/btcsuite/btcd/wire"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/ln"
)

// TestOnDemandOnChain are the days on which a payment on demand ends on chain: behind
// the gateway, where its wallet keeps it and says no more, and before the gateway.
func TestOnDemandOnChain(t *testing.T) {
	together(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	sc := newScene(ctx, t, devnet.StandardConfig{}, devnet.SluicedConfig{Settings: map[string]string{"lsp.collect_for": "5m"}})
	w := sc.first(ctx)
	// To claim by its own commitment a node pays the fees from coins of its own.
	require.NoError(t, sc.Fund(ctx, devnet.Funding{Node: w.node, CoinSat: 500_000, Coins: 3}))

	// The wallet has three HTLCs, and never speaks again. Two it keeps: the gateway's lnd
	// goes on chain when their time is over, takes them back, and only then the payer's go
	// back, on its open channel. The third it claims on chain, while the gateway's lnd is
	// down, which learns of it thirty blocks after its time was over: so long, and longer,
	// the gateway's hold invoice lives, and the payer ends paid.
	t.Run("the wallet keeps them and is silent until they expire", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		amount := growing(400_000_000, 100_000_000)
		before, walletSat := w.purse(ctx), onChainSat(ctx, t, w.node)
		deals := w.keeps(ctx, amount)
		late := w.agree(ctx, receiverPays(), amount(), dealWish{held: true})
		late.pay(ctx)
		late.waitSent(ctx)
		fundings := map[*deal]wire.OutPoint{late: w.waitFunding(ctx, late.id)}
		for _, d := range deals {
			fundings[d] = w.waitFunding(ctx, d.id)
		}
		w.goOffline(ctx)
		// lnd gives an accepted hold invoice up 18 blocks before its time is over, and
		// goes on chain with what it can claim 10 blocks before.
		require.NoError(t, sc.Mine(ctx, 60))
		late.claim(ctx)
		w.waitInvoice(ctx, late.hash(), lnrpc.Invoice_SETTLED)
		require.NoError(t, sc.Gateway.Kill())
		require.NoError(t, sc.Mine(ctx, 13))
		sc.waitSpend(ctx, fundings[late])
		require.NoError(t, sc.Mine(ctx, 1))
		// lnd waits for more confirmations of a close the larger the channel is.
		sc.mineUntilSpent(ctx, sc.htlcOutput(ctx, sc.spender(ctx, fundings[late]), late.walletMsat))
		require.NoError(t, sc.Mine(ctx, 36))
		sc.gatewayBack(ctx, []*devnet.Node{sc.Payer})
		for _, d := range deals {
			sc.waitSpend(ctx, fundings[d]) // by the gateway
			if d.wrapped {
				require.Equal(t, lnrpc.Invoice_ACCEPTED, d.heldState(ctx))
			}
		}
		late.wasPaid(ctx, sc.mineUntilEnded(ctx, late.done).payment)
		for _, d := range deals {
			require.Equal(t, lnrpc.Payment_FAILED, sc.mineUntilEnded(ctx, d.done).payment.Status)
		}
		open, err := sc.Payer.FindChannel(ctx, sc.PayerChannel.Point)
		require.NoError(t, err)
		require.NotNil(t, open, "the payer's channel stayed open")
		sc.mineUntilResolved(ctx, func(string) { sc.op.waitBalanced(ctx) })
		require.Equal(t, lnrpc.Invoice_SETTLED, late.heldState(ctx))
		w.comeOnline(ctx)
		for _, d := range deals {
			d.wasRefunded(ctx, "did not take the payment")
		}
		resolveOnChain(ctx, t, sc.Standard, w.node)
		// The wallet's is on chain, and only the payer's is in channels.
		paid := *late
		paid.walletMsat = 0
		before.moved(ctx, append(deals, &paid)...)
		for d, funding := range fundings {
			closing := sc.spender(ctx, funding)
			tree := treeOf(ctx, t, sc.Standard, closing, sc.Gateway, w.node)
			taker := sc.Gateway
			if d == late {
				taker = w.node
				tree.arrived(ctx, w.node, walletSat)
			}
			require.Equal(t, taker, tree.takers[sc.htlcOutput(ctx, closing, d.walletMsat)], d.way.name)
		}
	})

	// The payer's channel goes on chain while two payments wait for the wallet, and one is
	// at the wallet. A channel for those that wait would be opened for nothing: their payer
	// has them back. The third the wallet claims, and the gateway claims it with that on
	// chain: its payer ends paid.
	t.Run("the incoming channel goes on chain", func(t *testing.T) {
		sc := sc.on(ctx, t)
		w := w.in(sc)
		amount := growing(700_000_000, 100_000_000)
		sent := w.agree(ctx, receiverPays(), amount(), dealWish{held: true})
		sent.pay(ctx)
		sent.waitSent(ctx)
		w.waitFunding(ctx, sent.id)
		before, walletMsat := w.channels(ctx), channelMsat(ctx, t, w.node)
		waiting := []*deal{
			// There is time for the close: the wallet asks for more than it needs.
			w.agree(ctx, payerPays(), amount(), dealWish{finalCltv: 120}),
			w.agree(ctx, receiverPays(), amount(), dealWish{}),
		}
		w.goOffline(ctx)
		for _, d := range waiting {
			d.pay(ctx)
			d.waitHeld(ctx)
		}
		closing := closeChannel(ctx, t, sc.Net, sc.Payer, sc.PayerChannel, true)
		// lnd waits for more confirmations of a close the larger the channel is.
		require.NoError(t, sc.Mine(ctx, 6))
		w.waitReason(ctx, waiting[0].id, "went on chain", waiting[0].refunded)
		w.comeOnline(ctx)
		w.waitReason(ctx, waiting[1].id, "no longer open", waiting[1].refunded)
		sent.claim(ctx)
		sc.mineUntilResolved(ctx, func(string) { sc.op.waitBalanced(ctx) })
		sent.wasPaid(ctx, sc.mineUntilEnded(ctx, sent.done).payment)
		for _, d := range waiting {
			last := sc.mineUntilEnded(ctx, d.done)
			require.Equal(t, lnrpc.Payment_FAILED, last.payment.Status, "the payer's node took it back on chain")
			require.Empty(t, sc.openings(ctx, d.id), "nothing was opened")
		}
		require.Equal(t, before, w.channels(ctx))
		require.Equal(t, walletMsat+uint64(sent.walletMsat), channelMsat(ctx, t, w.node))
		// What else the payer has in its channel waits for two thousand blocks.
		whose := whoseTransactions(ctx, t, []*devnet.Node{sc.Payer, sc.Gateway})
		for _, each := range []struct {
			htlc  ln.Msat
			taker *devnet.Node
		}{{sent.amount, sc.Gateway}, {waiting[0].amount + waiting[0].feeMsat, sc.Payer}, {waiting[1].amount, sc.Payer}} {
			require.Equal(t, each.taker, whose[sc.spender(ctx, sc.htlcOutput(ctx, closing, each.htlc))], "who took %s", each.htlc)
		}
		sc.op.waitBalanced(ctx)
	})
}

// spender is the transaction in a block that spends the outpoint.
func (sc *scene) spender(ctx context.Context, point wire.OutPoint) chainhash.Hash {
	sc.t.Helper()
	tip, err := sc.Miner().Height(ctx)
	require.NoError(sc.t, err)
	for height := tip; height > tip-600 && height > 0; height-- {
		hash, err := sc.Miner().BlockHash(ctx, height)
		require.NoError(sc.t, err)
		block, err := sc.Miner().Block(ctx, hash)
		require.NoError(sc.t, err)
		for _, tx := range block.Transactions {
			for _, in := range tx.TxIn {
				if in.PreviousOutPoint == point {
					return tx.TxHash()
				}
			}
		}
	}
	require.Fail(sc.t, "nothing spends "+point.String())
	return chainhash.Hash{}
}

// htlcOutput is the only output of a commitment that holds this much.
func (sc *scene) htlcOutput(ctx context.Context, commitment chainhash.Hash, amount ln.Msat) wire.OutPoint {
	sc.t.Helper()
	tx, _, err := sc.Miner().Tx(ctx, commitment)
	require.NoError(sc.t, err)
	var found []wire.OutPoint
	for i, out := range tx.TxOut {
		if ln.Msat(out.Value)*1000 == amount-amount%1000 {
			found = append(found, wire.OutPoint{Hash: commitment, Index: uint32(i)}) //nolint:gosec // a handful
		}
	}
	require.Len(sc.t, found, 1, "outputs of %s", amount)
	return found[0]
}

// waitSpend waits until the mempool has a transaction that spends the outpoint.
func (sc *scene) waitSpend(ctx context.Context, point wire.OutPoint) {
	sc.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, afterOutage)
	defer cancel()
	require.NoError(sc.t, sc.Miner().WaitSpendInMempool(ctx, point))
}

// mineUntilSpent is waitSpend where the spender waits for blocks.
func (sc *scene) mineUntilSpent(ctx context.Context, point wire.OutPoint) {
	sc.t.Helper()
	sc.mineUntil(ctx, "a spend of "+point.String(), 20, func(ctx context.Context) bool {
		return sc.Miner().WaitSpendInMempool(ctx, point) == nil
	})
}

// mineUntilEnded mines until the payment is over.
func (sc *scene) mineUntilEnded(ctx context.Context, done <-chan outcome) outcome {
	sc.t.Helper()
	var last outcome
	sc.mineUntil(ctx, "the end of the payment", 400, func(ctx context.Context) bool {
		select {
		case last = <-done:
			return true
		case <-ctx.Done():
			return false
		}
	})
	require.NoError(sc.t, last.err)
	return last
}

// mineUntil mines until it is so; over waits until its context ends. lnd's sweeper works by
// blocks, and needs a moment for each.
func (sc *scene) mineUntil(ctx context.Context, what string, most int, over func(context.Context) bool) {
	sc.t.Helper()
	for range most {
		wait, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		is := over(wait)
		cancel()
		if is {
			return
		}
		require.NoError(sc.t, ctx.Err(), what)
		require.NoError(sc.t, sc.Mine(ctx, 1))
	}
	require.Fail(sc.t, fmt.Sprintf("%d blocks did not bring %s", most, what))
}
