//go:build itest

package itest

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chaincfg/chainhash"
	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/lightningnetwork/lnd/lnrpc/walletrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/devnet"
	"github.com/sluice-lsp/sluice/internal/lnd"
)

// jointNet is the standard network with a sluiced that offers joint fundings, and
// sluice-wallet beside a wallet's lnd that has coins.
type jointNet struct {
	*devnet.Standard
	t     *testing.T
	s     *devnet.Sluiced
	agent *devnet.WalletAgent
	op    *operator
}

// jointFunding is what sluice-wallet prints of one.
type jointFunding struct {
	Key, Phase, State, Reason, Alarm, Channel                    string
	WalletSat, InboundSat, ServiceFeeSat, ChainFeeSat, ChangeSat int64
}

func startJoint(ctx context.Context, t *testing.T) *jointNet {
	t.Helper()
	net := devnet.StartStandard(t, devnet.StandardConfig{})
	require.NoError(t, net.Fund(ctx, devnet.Funding{Node: net.Wallet, CoinSat: 300_000, Coins: 6}))
	s, err := net.StartSluiced(ctx, net.Gateway, append(lnd.GatewayRights(), lnd.JointRights()...), devnet.SluicedConfig{
		Settings: map[string]string{"joint.enabled": "true", "joint.zero_conf": "true", "joint.max_each": "5"},
	})
	require.NoError(t, err)
	n := &jointNet{Standard: net, t: t, s: s, op: newOperator(t, s)}
	n.op.reconcile(ctx)
	n.agent, err = net.StartWalletAgent(ctx, net.Wallet, net.Gateway, s, append(lnd.WalletRights(), lnd.WalletFundRights()...))
	require.NoError(t, err)
	return n
}

// fund runs a fund command and reads what it prints.
func (n *jointNet) fund(ctx context.Context, args ...string) jointFunding {
	n.t.Helper()
	out, err := n.agent.Command(ctx, append([]string{"--json", "fund"}, args...)...)
	require.NoError(n.t, err)
	return n.read(out)
}

func (n *jointNet) read(raw []byte) (f jointFunding) {
	n.t.Helper()
	var m map[string]any
	require.NoError(n.t, json.Unmarshal(raw, &m), "%s", raw)
	text := func(k string) string { s, _ := m[k].(string); return s }
	amount := func(k string) int64 {
		switch v := m[k].(type) {
		case float64:
			return int64(v)
		case string:
			i, err := strconv.ParseInt(v, 10, 64)
			require.NoError(n.t, err)
			return i
		}
		return 0
	}
	return jointFunding{
		Key: text("key"), Phase: text("phase"), State: text("state"), Reason: text("reason"), Alarm: text("alarm"), Channel: text("channel"),
		WalletSat: amount("wallet_sat"), InboundSat: amount("inbound_sat"), ServiceFeeSat: amount("service_fee_sat"),
		ChainFeeSat: amount("chain_fee_sat"), ChangeSat: amount("change_sat"),
	}
}

// phase waits until the wallet says so.
func (n *jointNet) phase(ctx context.Context, key, want string) (f jointFunding) {
	n.t.Helper()
	require.NoError(n.t, devnet.WaitFor(ctx, "the joint funding to be "+want, func(ctx context.Context) (bool, error) {
		// An alarm is exit code 1, and the list is printed all the same.
		out, _ := n.agent.Command(ctx, "--json", "fund", "list")
		var list struct{ Fundings []json.RawMessage }
		if err := json.Unmarshal(out, &list); err != nil {
			return false, err
		}
		for _, raw := range list.Fundings {
			if got := n.read(raw); got.Key == key {
				f = got
			}
		}
		return f.Phase == want, nil
	}), "%+v", f)
	return f
}

type holdings struct{ onchain, channels int64 }

func (n *jointNet) holdings(ctx context.Context, node *devnet.Node) holdings {
	n.t.Helper()
	wallet, err := node.LN.WalletBalance(ctx, &lnrpc.WalletBalanceRequest{})
	require.NoError(n.t, err)
	b, err := node.Balances(ctx)
	require.NoError(n.t, err)
	return holdings{onchain: wallet.TotalBalance, channels: int64(b.LocalMsat+b.PendingLocalMsat) / 1000}
}

func (n *jointNet) channel(ctx context.Context, node *devnet.Node, point string) *lnrpc.Channel {
	n.t.Helper()
	var found *lnrpc.Channel
	require.NoError(n.t, devnet.WaitFor(ctx, "the channel to be active at "+node.Name, func(ctx context.Context) (bool, error) {
		list, err := node.LN.ListChannels(ctx, &lnrpc.ListChannelsRequest{})
		if err != nil {
			return false, err
		}
		for _, c := range list.Channels {
			if c.ChannelPoint == point && c.Active {
				found = c
			}
		}
		return found != nil, nil
	}))
	return found
}

// pays says whether a payment goes through, trying for a while: the graph of a
// fresh channel is late by a second.
func (n *jointNet) pays(ctx context.Context, from, to *devnet.Node, sat int64) {
	n.t.Helper()
	require.NoError(n.t, devnet.WaitFor(ctx, from.Name+" to pay "+to.Name, func(ctx context.Context) (bool, error) {
		inv, err := to.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: sat, Private: true})
		if err != nil {
			return false, err
		}
		p, err := from.Pay(ctx, inv.PaymentRequest)
		if err != nil {
			return false, err
		}
		if p.Status != lnrpc.Payment_SUCCEEDED {
			_, _ = from.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
		}
		return p.Status == lnrpc.Payment_SUCCEEDED, nil
	}))
}

// TestCollaborative: a wallet and the gateway fund channels together, through
// sluice-wallet and sluiced, on stock lnds; who has which sats at the end.
func TestCollaborative(t *testing.T) {
	untilTrusted(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := startJoint(ctx, t)

	t.Run("confirmed", func(t *testing.T) {
		n.t = t
		gateway, wallet := n.holdings(ctx, n.Gateway), n.holdings(ctx, n.Wallet)
		f := n.fund(ctx, "--amount", "400000", "--inbound", "600000")
		require.Equal(t, "ready", f.Phase)
		pool, err := n.Miner().Mempool(ctx)
		require.NoError(t, err)
		require.Empty(t, pool, "nobody has signed")
		// sluiced dies while the user reviews.
		require.NoError(t, n.s.Kill())
		require.NoError(t, n.s.Start(ctx))
		n.fund(ctx, "sign", f.Key)
		txid, err := chainhash.NewHashFromStr(strings.Split(f.Channel, ":")[0])
		require.NoError(t, err)
		require.NoError(t, n.Miner().WaitTxInMempool(ctx, *txid))
		tx, _, err := n.Miner().Tx(ctx, *txid)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(tx.TxIn), 3, "coins of both")
		require.NoError(t, n.Mine(ctx, 6))
		theirs, ours := n.channel(ctx, n.Wallet, f.Channel), n.channel(ctx, n.Gateway, f.Channel)
		n.phase(ctx, f.Key, "done")

		require.EqualValues(t, 1_000_000, theirs.Capacity)
		require.EqualValues(t, 400_000, theirs.LocalBalance)
		after := n.holdings(ctx, n.Wallet)
		require.Equal(t, wallet.onchain-400_000-f.ServiceFeeSat-f.ChainFeeSat, after.onchain)
		require.Equal(t, wallet.channels+400_000, after.channels)
		var in, out int64
		for _, txIn := range tx.TxIn {
			prev, _, err := n.Miner().Tx(ctx, txIn.PreviousOutPoint.Hash)
			require.NoError(t, err)
			in += prev.TxOut[txIn.PreviousOutPoint.Index].Value
		}
		for _, o := range tx.TxOut {
			out += o.Value
		}
		gatewayFee := in - out - f.ChainFeeSat
		require.Positive(t, gatewayFee)
		gatewayAfter := n.holdings(ctx, n.Gateway)
		require.Equal(t, gateway.onchain-600_000+f.ServiceFeeSat-gatewayFee, gatewayAfter.onchain)
		// Its balance lacks the commitment fee and both anchors, which its opener pays.
		require.Equal(t, gateway.channels+600_000-ours.CommitFee-660, gatewayAfter.channels)
		n.pays(ctx, n.Wallet, n.Payer, 100_000)
		n.pays(ctx, n.Payer, n.Wallet, 300_000)
		require.NoError(t, n.Wallet.WaitNoHTLCs(ctx))
		n.op.waitBalanced(ctx)
	})

	t.Run("zero-conf", func(t *testing.T) {
		n.t = t
		wallet := n.holdings(ctx, n.Wallet)
		// The first channel would carry everything: it steps aside.
		f := n.fund(ctx, "--amount", "500000", "--inbound", "700000", "--zero-conf", "--taproot", "--yes")
		n.phase(ctx, f.Key, "signed")
		c := n.channel(ctx, n.Wallet, f.Channel)
		require.True(t, c.ZeroConf)
		require.Equal(t, lnrpc.CommitmentType_SIMPLE_TAPROOT, c.CommitmentType)
		txid, err := chainhash.NewHashFromStr(strings.Split(f.Channel, ":")[0])
		require.NoError(t, err)
		require.NoError(t, n.Miner().WaitTxInMempool(ctx, *txid))

		// What the wallet sends over it is refused until it is buried; what it
		// receives arrives.
		require.NoError(t, devnet.WaitFor(ctx, "the gateway to refuse what the wallet sends", func(ctx context.Context) (bool, error) {
			inv, err := n.Payer.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: 20_000})
			if err != nil {
				return false, err
			}
			p, err := n.Wallet.Send(ctx, sendOver(inv.PaymentRequest, c.ChanId))
			if err != nil {
				return false, err
			}
			require.Equal(t, lnrpc.Payment_FAILED, p.Status)
			_, _ = n.Wallet.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
			// Before the wallet's graph has the channel it finds no route by itself.
			for _, h := range p.Htlcs {
				if h.Failure.GetFailureSourceIndex() == 1 {
					require.Equal(t, lnrpc.Failure_TEMPORARY_CHANNEL_FAILURE, h.Failure.Code)
					return true, nil
				}
			}
			return false, nil
		}))
		before := n.channel(ctx, n.Wallet, f.Channel).LocalBalance
		require.EqualValues(t, 500_000, before)
		received, err := n.Wallet.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: 40_000, RouteHints: []*lnrpc.RouteHint{{HopHints: []*lnrpc.HopHint{{
			NodeId: n.Gateway.PubKey, ChanId: c.PeerScidAlias, CltvExpiryDelta: 80,
		}}}}})
		require.NoError(t, err)
		p, err := n.Payer.Pay(ctx, received.PaymentRequest)
		require.NoError(t, err)
		require.Equal(t, lnrpc.Payment_SUCCEEDED, p.Status, p.FailureReason)
		require.NoError(t, n.Mine(ctx, 7))
		n.phase(ctx, f.Key, "done")
		require.NoError(t, devnet.WaitFor(ctx, "the wallet to send over the buried channel", func(ctx context.Context) (bool, error) {
			_, _ = n.Wallet.Router.ResetMissionControl(ctx, &routerrpc.ResetMissionControlRequest{})
			inv, err := n.Payer.LN.AddInvoice(ctx, &lnrpc.Invoice{Value: 20_000})
			if err != nil {
				return false, err
			}
			p, err := n.Wallet.Send(ctx, sendOver(inv.PaymentRequest, c.ChanId))
			return err == nil && p.Status == lnrpc.Payment_SUCCEEDED, err
		}))
		after := n.holdings(ctx, n.Wallet)
		require.Equal(t, wallet.onchain-500_000-f.ServiceFeeSat-f.ChainFeeSat, after.onchain)
		require.NoError(t, n.Wallet.WaitNoHTLCs(ctx))
		n.op.waitBalanced(ctx)
	})

	// Blocks leave the transaction out, and the wallet hurries it by a child of its own
	// change; the id stays, and the channel opens.
	t.Run("hurried by the wallet", func(t *testing.T) {
		n.t = t
		const rate = 30
		wallet := n.holdings(ctx, n.Wallet)
		f := n.fund(ctx, "--amount", "200000", "--inbound", "300000", "--yes")
		txid, err := chainhash.NewHashFromStr(strings.Split(n.phase(ctx, f.Key, "signed").Channel, ":")[0])
		require.NoError(t, err)
		require.NoError(t, n.Miner().WaitTxInMempool(ctx, *txid))
		hurry := []string{"fund", "hurry", f.Key, "--sat-per-vbyte", strconv.Itoa(rate), "--max-fee", "40000"}
		seen, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		require.NoError(t, devnet.WaitFor(seen, "the wallet's node to see the transaction", func(ctx context.Context) (bool, error) {
			out, err := n.agent.Command(ctx, hurry...)
			if err != nil && strings.Contains(err.Error(), "does not have transaction") {
				return false, nil
			}
			return strings.Contains(string(out), "Nothing is asked of lnd"), err
		}))
		sweeps, err := n.Wallet.Wallet.PendingSweeps(ctx, &walletrpc.PendingSweepsRequest{})
		require.NoError(t, err)
		require.Empty(t, sweeps.PendingSweeps, "it was only shown")
		out, err := n.agent.Command(ctx, append([]string{"--json"}, append(hurry, "--yes")...)...)
		require.NoError(t, err)
		var said struct {
			FeeSat  int64 `json:"fee_sat,string"`
			MostSat int64 `json:"most_sat,string"`
			Asked   bool
		}
		require.NoError(t, json.Unmarshal(out, &said), "%s", out)
		require.True(t, said.Asked)
		child := childOf(ctx, t, n.Net, n.Wallet, *txid)
		parent, _, err := n.Miner().Tx(ctx, *txid)
		require.NoError(t, err)
		fee, size := packageOf(ctx, t, n.Net, parent, child)
		t.Logf("parent and child pay %d sat for %d vbytes", fee, size)
		require.GreaterOrEqual(t, fee, int64(rate*size*95/100))
		paid := parent.TxOut[child.TxIn[0].PreviousOutPoint.Index].Value - child.TxOut[0].Value
		require.LessOrEqual(t, paid, said.MostSat)
		require.NoError(t, n.Mine(ctx, 6))
		f = n.phase(ctx, f.Key, "done")
		require.EqualValues(t, 200_000, n.channel(ctx, n.Wallet, f.Channel).LocalBalance)
		require.Equal(t, holdings{wallet.onchain - 200_000 - f.ServiceFeeSat - f.ChainFeeSat - paid, wallet.channels + 200_000}, n.holdings(ctx, n.Wallet))
		_, err = n.agent.Command(ctx, hurry...)
		require.Error(t, err, "it is confirmed")
		n.op.waitBalanced(ctx)
	})

	t.Run("ended before it is signed", func(t *testing.T) {
		n.t = t
		gateway, wallet := n.holdings(ctx, n.Gateway), n.holdings(ctx, n.Wallet)
		f := n.fund(ctx, "--amount", "200000", "--inbound", "300000")
		ended := n.fund(ctx, "abort", f.Key)
		require.Equal(t, "given_up", ended.Phase)
		n.nothingPending(ctx)
		require.Equal(t, wallet, n.holdings(ctx, n.Wallet))
		require.NoError(t, devnet.WaitFor(ctx, "the gateway's coins to be free", func(ctx context.Context) (bool, error) {
			b, err := n.Gateway.Balances(ctx)
			return b.WalletLockedSat == 0, err
		}))
		require.Equal(t, gateway, n.holdings(ctx, n.Gateway))
	})

	t.Run("the gateway never publishes", func(t *testing.T) {
		n.t = t
		wallet := n.holdings(ctx, n.Wallet)
		f := n.fund(ctx, "--amount", "200000", "--inbound", "300000")
		require.NoError(t, n.s.Kill())
		_, err := n.agent.Command(ctx, "fund", "sign", f.Key)
		require.Error(t, err, "nobody takes the signature")
		n.phase(ctx, f.Key, "signed")
		_, err = n.agent.Command(ctx, "fund", "abort", f.Key)
		require.Error(t, err, "it may have arrived")
		n.fund(ctx, "reclaim", f.Key)
		_, err = n.Miner().WaitMempool(ctx, 1)
		require.NoError(t, err)
		require.NoError(t, n.Mine(ctx, 1))
		pending, err := n.Wallet.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
		require.NoError(t, err)
		require.Len(t, pending.PendingOpenChannels, 1, "a reorg could undo it")
		require.NoError(t, n.Mine(ctx, 5))
		n.phase(ctx, f.Key, "void")
		require.NoError(t, n.s.Start(ctx))
		n.nothingPending(ctx)
		after := n.holdings(ctx, n.Wallet)
		require.Less(t, wallet.onchain-after.onchain, int64(2_000), "it cost one transaction's fee")
		n.op.waitBalanced(ctx)
	})
}

// nothingPending waits until neither side has a channel that is opening.
func (n *jointNet) nothingPending(ctx context.Context) {
	n.t.Helper()
	for _, node := range []*devnet.Node{n.Wallet, n.Gateway} {
		require.NoError(n.t, devnet.WaitFor(ctx, "the channel to be forgotten at "+node.Name, func(ctx context.Context) (bool, error) {
			list, err := node.LN.PendingChannels(ctx, &lnrpc.PendingChannelsRequest{})
			if err != nil {
				return false, err
			}
			return len(list.PendingOpenChannels) == 0, nil
		}))
	}
}

// sendOver pays over one channel of the payer's.
func sendOver(bolt11 string, chanID uint64) *routerrpc.SendPaymentRequest {
	return &routerrpc.SendPaymentRequest{PaymentRequest: bolt11, TimeoutSeconds: 20, FeeLimitMsat: 20_000, OutgoingChanIds: []uint64{chanID}}
}
