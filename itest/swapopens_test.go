//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// openNet is the standard network with a wallet that has coins and no channel.
type openNet struct {
	*devnet.Standard
	t     *testing.T
	s     *devnet.Sluiced
	agent *devnet.WalletAgent
	op    *operator
}

// walletSwap is what sluice-wallet prints of one.
type walletSwap struct {
	PaymentHash  string `json:"payment_hash"`
	Phase        string `json:"phase"`
	State        string `json:"state"`
	Reason       string `json:"reason"`
	Address      string `json:"address"`
	AmountSat    int64  `json:"amount_sat,string"`
	InvoiceSat   int64  `json:"invoice_sat,string"`
	ExpiryHeight int64  `json:"expiry_height"`
	Deposits     []struct {
		Outpoint     string `json:"outpoint"`
		RefundTx     string `json:"refund_tx"`
		RefundFeeSat int64  `json:"refund_fee_sat,string"`
		Spent        string `json:"spent"`
	} `json:"deposits"`
}

func (n *openNet) begin(ctx context.Context, amount int64) (w walletSwap) {
	n.t.Helper()
	out, err := n.agent.Command(ctx, "--json", "swap", "in", "--open-channel", strconv.FormatInt(amount, 10))
	require.NoError(n.t, err)
	require.NoError(n.t, json.Unmarshal(out, &w), "%s", out)
	require.Equal(n.t, "agreed", w.Phase)
	require.Equal(n.t, amount, w.AmountSat)
	return w
}

func (n *openNet) swap(ctx context.Context, hash string) walletSwap {
	n.t.Helper()
	w, err := n.ask(ctx, hash)
	require.NoError(n.t, err)
	return w
}

func (n *openNet) ask(ctx context.Context, hash string) (walletSwap, error) {
	out, err := n.agent.Command(ctx, "--json", "swap", "status", hash)
	if err != nil {
		return walletSwap{}, err
	}
	var list struct {
		Swaps []walletSwap `json:"swaps"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return walletSwap{}, err
	}
	if len(list.Swaps) != 1 {
		return walletSwap{}, fmt.Errorf("%d swaps", len(list.Swaps))
	}
	return list.Swaps[0], nil
}

// reaches makes a block whenever nothing has happened for a moment.
func (n *openNet) reaches(ctx context.Context, hash, phase string) walletSwap {
	n.t.Helper()
	for blocks := 0; ; blocks++ {
		var last walletSwap
		wait, cancel := context.WithTimeout(ctx, 8*time.Second)
		err := devnet.WaitFor(wait, "the swap to be "+phase, func(ctx context.Context) (bool, error) {
			// The time that is up cuts a question off.
			now, err := n.ask(ctx, hash)
			if err == nil {
				last = now
			}
			return err == nil && now.Phase == phase, nil
		})
		cancel()
		if err == nil {
			return last
		}
		require.NoError(n.t, ctx.Err())
		require.Less(n.t, blocks, 30, "%+v", last)
		require.NoError(n.t, n.Mine(ctx, 1))
	}
}

// deposit pays on chain from the wallet's lnd and returns what that cost.
func (n *openNet) deposit(ctx context.Context, address string, sat int64) (fee int64) {
	n.t.Helper()
	sent, err := n.Wallet.LN.SendCoins(ctx, &lnrpc.SendCoinsRequest{Addr: address, Amount: sat, SatPerVbyte: 5, SpendUnconfirmed: true})
	require.NoError(n.t, err)
	txs, err := n.Wallet.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{EndHeight: -1})
	require.NoError(n.t, err)
	for _, tx := range txs.Transactions {
		if tx.TxHash == sent.Txid {
			return tx.TotalFees
		}
	}
	require.Fail(n.t, "the deposit is not in the wallet")
	return 0
}

func (n *openNet) onchain(ctx context.Context, node *devnet.Node) int64 {
	n.t.Helper()
	b, err := node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(n.t, err)
	return b.TotalBalance
}

// TestSwapOpensChannel: a wallet with on-chain bitcoin only. It deposits, the
// gateway opens a channel and pays it there; programs die in between. Then a
// gateway that does not pay: the wallet alone takes its deposits back, one by its
// daemon and one from its record.
func TestSwapOpensChannel(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Wallet, CoinSat: 1_000_000, Coins: 3}))
	s, err := net.StartSluiced(ctx, net.Gateway, lnd.GatewayAndSwapsRights(), devnet.SluicedConfig{
		Settings: map[string]string{"swaps.enabled": "true", "swaps.in_expiry_delta": "250", "swaps.in_pay_margin_blocks": "40"},
	})
	require.NoError(t, err)
	n := &openNet{Standard: net, t: t, s: s, op: newOperator(t, s)}
	n.op.reconcile(ctx)
	n.agent, err = net.StartWalletAgent(ctx, net.Wallet, net.Gateway, s, append(lnd.WalletRights(), lnd.WalletSwapRights()...))
	require.NoError(t, err)

	const amount = 500_000
	walletBefore, gatewayBefore := n.onchain(ctx, net.Wallet), n.onchain(ctx, net.Gateway)
	w := n.begin(ctx, amount)
	require.NoError(t, n.agent.Kill())
	depositFee := n.deposit(ctx, w.Address, amount)
	require.NoError(t, net.Mine(ctx, 1))
	require.NoError(t, n.agent.Start(ctx))
	require.NoError(t, net.Mine(ctx, 1))
	funding, err := net.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	require.Len(t, funding, 1, "the channel's funding, and nothing was claimed yet")
	// The gateway comes back knowing what it is waiting for.
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start(ctx))
	require.NoError(t, net.Mine(ctx, 3))
	paid := n.reaches(ctx, w.PaymentHash, "paid")
	t.Logf("%+v", paid)
	claims, err := net.Miner().WaitMempool(ctx, 1)
	require.NoError(t, err)
	claim, _, err := net.Miner().Tx(ctx, claims[0])
	require.NoError(t, err)
	require.Len(t, claim.TxIn, 1)
	require.Len(t, claim.TxIn[0].Witness, 1, "a key spend: the wallet gave its key away")
	require.NoError(t, net.Mine(ctx, 6))
	n.reaches(ctx, w.PaymentHash, "done")

	require.Equal(t, walletBefore-amount-depositFee, n.onchain(ctx, net.Wallet))
	channels, err := net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1)
	require.Equal(t, w.InvoiceSat, channels.Channels[0].LocalBalance, "what was agreed, to the sat")
	fund, _, err := net.Miner().Tx(ctx, funding[0])
	require.NoError(t, err)
	fundingFee := n.feeOfGateway(ctx, fund.TxHash().String())
	require.Equal(t, gatewayBefore+claim.TxOut[0].Value-channels.Channels[0].Capacity-fundingFee, n.onchain(ctx, net.Gateway))
	require.Less(t, amount-claim.TxOut[0].Value+fundingFee, amount-w.InvoiceSat, "the fees bear both transactions")
	n.op.waitBalanced(ctx)

	// A gateway that does not pay: it is away while it could.
	walletBefore = n.onchain(ctx, net.Wallet)
	b, c := n.begin(ctx, 400_000), n.begin(ctx, 300_000)
	require.NoError(t, s.Kill())
	fees := n.deposit(ctx, b.Address, 400_000) + n.deposit(ctx, c.Address, 300_000)
	require.NoError(t, net.Mine(ctx, 1))
	require.NoError(t, devnet.WaitFor(ctx, "the deposits to be seen", func(ctx context.Context) (bool, error) {
		first, err := n.ask(ctx, b.PaymentHash)
		if err != nil {
			return false, err
		}
		second, err := n.ask(ctx, c.PaymentHash)
		return len(first.Deposits) == 1 && len(second.Deposits) == 1, err
	}))
	outpoint := n.swap(ctx, c.PaymentHash).Deposits[0].Outpoint
	require.NoError(t, n.agent.Kill())
	height, err := net.Miner().Height(ctx)
	require.NoError(t, err)
	require.NoError(t, net.Mine(ctx, int(c.ExpiryHeight-height)))
	// From the record alone: no daemon, no lnd, no gateway.
	address, err := net.Wallet.LN.NewAddress(ctx, &lnrpc.NewAddressRequest{Type: lnrpc.AddressType_TAPROOT_PUBKEY})
	require.NoError(t, err)
	out, err := n.agent.Command(ctx, "--json", "swap", "refund", c.PaymentHash, "--outpoint", outpoint, "--amount", "300000", "--to", address.Address, "--fee-rate", "3")
	require.NoError(t, err)
	var byHand struct {
		RawTx  string `json:"raw_tx"`
		FeeSat int64  `json:"fee_sat"`
	}
	require.NoError(t, json.Unmarshal(out, &byHand))
	require.NoError(t, net.Miner().Publish(ctx, decodeTx(t, byHand.RawTx)))
	require.NoError(t, net.Mine(ctx, 1))
	// The gateway is back and pays nothing; the daemon is back and takes the other.
	require.NoError(t, s.Start(ctx))
	require.NoError(t, n.agent.Start(ctx))
	require.NoError(t, devnet.WaitFor(ctx, "the refund to be published", func(ctx context.Context) (bool, error) {
		ids, err := net.Miner().Mempool(ctx)
		return len(ids) == 1, err
	}))
	refunded := n.reaches(ctx, b.PaymentHash, "refunded")
	n.reaches(ctx, c.PaymentHash, "refunded")
	back := decodeTx(t, refunded.Deposits[0].RefundTx).TxOut[0].Value
	require.Equal(t, 400_000-refunded.Deposits[0].RefundFeeSat, back)
	require.Equal(t, walletBefore-fees-byHand.FeeSat-refunded.Deposits[0].RefundFeeSat, n.onchain(ctx, net.Wallet))
	channels, err = net.Wallet.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
	require.NoError(t, err)
	require.Len(t, channels.Channels, 1, "nothing was opened for them")
	n.op.waitBalanced(ctx)
}

// feeOfGateway is what a transaction of the gateway's wallet paid.
func (n *openNet) feeOfGateway(ctx context.Context, txid string) int64 {
	n.t.Helper()
	txs, err := n.Gateway.LN.GetTransactions(ctx, &lnrpc.GetTransactionsRequest{})
	require.NoError(n.t, err)
	for _, tx := range txs.Transactions {
		if tx.TxHash == txid {
			return tx.TotalFees
		}
	}
	require.Fail(n.t, "the transaction is not in the wallet", txid)
	return 0
}
