package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lnd"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
	"github.com/sluice-lsp/sluice/lsp/collab/engine"
)

// coldWallet has coins and no channels: what it is asked to sign it signs.
type coldWallet struct {
	*lnd.Client
	node   *lndfake.Node
	before int64
}

func (n *net5) cold() *coldWallet {
	n.t.Helper()
	node, err := n.w.AddNode("cold", lndfake.NodeConfig{})
	require.NoError(n.t, err)
	client, err := lnd.Dial(lnd.Config{Address: "passthrough:///cold", Network: "regtest", DialOptions: node.DialOptions()})
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = client.Close() })
	for range 3 {
		_, err := node.Fund(300_000)
		require.NoError(n.t, err)
	}
	n.w.Mine(3)
	return &coldWallet{client, node, n.w.Wealth(node).TotalMsat() / 1000}
}

// pays makes a payment ready, and a change address.
func (c *coldWallet) pays(t *testing.T, amount ln.Sat) *Elsewhere {
	t.Helper()
	address, err := c.NewChangeAddress(t.Context())
	require.NoError(t, err)
	packet, err := c.FundPsbt(t.Context(), ln.FundOutput{Address: address, AmountSat: amount, FeeRate: 500, MinConfs: 1, LeaseID: [32]byte{8}, LeaseFor: time.Hour})
	require.NoError(t, err)
	change, err := c.NewChangeAddress(t.Context())
	require.NoError(t, err)
	return &Elsewhere{Psbt: packet.Psbt, Change: change}
}

// The coins are another wallet's, which signs what it is shown and nothing before:
// its coins pay what the review says, to the sat, and the channel is this node's.
func TestFundWithAnotherWallet(t *testing.T) {
	n := newNet(t)
	cold := n.cold()
	q := request()
	q.Elsewhere = cold.pays(t, 400_000)
	r, err := n.a.Open(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, PhaseReady, r.Phase)
	require.Zero(t, n.leases(), "lnd has none of these coins")
	require.Nil(t, r.ToTakeBack())
	n.restart()

	// What is not signed, or something else that is, changes nothing.
	another, _, err := cold.SignPsbt(t.Context(), q.Elsewhere.Psbt)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		psbt []byte
		kind errkind.Kind
	}{
		"nothing": {nil, errkind.Conflict}, "unsigned": {r.ToSign(), errkind.Invalid}, "its own payment": {another, errkind.Invalid}, "nonsense": {[]byte("psbt"), errkind.Invalid},
	} {
		_, err := n.a.Sign(t.Context(), r.Key(), c.psbt)
		require.Equal(t, c.kind, errkind.Of(err), "%s: %v", name, err)
		require.Equal(t, PhaseReady, n.a.List()[0].Phase, name)
	}
	signed, inputs, err := cold.SignPsbt(t.Context(), r.ToSign())
	require.NoError(t, err)
	require.Equal(t, len(r.Inputs), inputs)
	got, err := n.a.Sign(t.Context(), r.Key(), signed)
	require.NoError(t, err)
	require.Equal(t, PhaseSigned, got.Phase)
	require.Zero(t, n.signed, "this wallet has signed nothing")
	n.restart()
	require.Eventually(t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
	n.w.Mine(3)
	done := n.phase(r.Key(), PhaseDone)
	require.Nil(t, done.ToSign())
	require.Nil(t, done.ToTakeBack())
	require.EqualValues(t, cold.before-400_000-int64(r.ServiceFeeSat)-int64(r.ChainFeeSat), n.w.Wealth(cold.node).TotalMsat()/1000)
	require.EqualValues(t, n.before+400_000, n.w.Wealth(n.node).TotalMsat()/1000)
	require.NoError(t, n.w.Err())
}

// What another wallet signed it can take back, while the gateway does not publish.
func TestAnotherWalletTakesItsCoinsBack(t *testing.T) {
	n := newNet(t)
	cold := n.cold()
	q := request()
	q.Elsewhere = cold.pays(t, 400_000)
	r, err := n.a.Open(t.Context(), q)
	require.NoError(t, err)
	n.mu.Lock()
	n.fail = func(method string, _ bool) error {
		if method == collabv1.JointFundingService_SignFunding_FullMethodName {
			return errors.New("the line went dead")
		}
		return nil
	}
	n.mu.Unlock()
	signed, _, err := cold.SignPsbt(t.Context(), r.ToSign())
	require.NoError(t, err)
	_, err = n.a.Sign(t.Context(), r.Key(), signed)
	require.Error(t, err)
	n.restart()
	r = n.phase(r.Key(), PhaseSigned)
	_, err = n.a.Reclaim(t.Context(), r.Key())
	require.Equal(t, errkind.Conflict, errkind.Of(err))
	require.ErrorContains(t, err, "fund export")
	raw, err := cold.FinalizePsbt(t.Context(), r.ToTakeBack())
	require.NoError(t, err)
	require.NoError(t, cold.Publish(t.Context(), raw, "back"))
	n.w.Mine(1)
	n.a.wake()
	require.Equal(t, 1, n.channels(), "a reorg could undo it")
	n.w.Mine(2)
	n.phase(r.Key(), PhaseVoid)
	require.Zero(t, n.channels())
	require.Less(t, cold.before-n.w.Wealth(cold.node).TotalMsat()/1000, int64(2_000), "it cost a transaction's fee")
	require.NoError(t, n.w.Err())
}

// What cannot be is refused before the gateway hears of it.
func TestAnotherWalletsCoinsAreJudged(t *testing.T) {
	n := newNet(t)
	cold := n.cold()
	good := cold.pays(t, 400_000)
	for name, from := range map[string]Elsewhere{
		"nonsense":         {Psbt: []byte("psbt"), Change: good.Change},
		"no change":        {Psbt: good.Psbt},
		"a foreign change": {Psbt: good.Psbt, Change: "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"},
		"too little":       *cold.pays(t, 100_000),
	} {
		q := request()
		q.Elsewhere = &from
		_, err := n.a.Open(t.Context(), q)
		require.Equal(t, errkind.Invalid, errkind.Of(err), "%s: %v", name, err)
	}
	list, err := n.e.List(t.Context(), engine.Filter{})
	require.NoError(t, err)
	require.Empty(t, list)
	for _, r := range n.a.List() {
		require.Equal(t, PhaseGivenUp, r.Phase)
	}
}
