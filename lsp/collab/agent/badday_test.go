package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
	wallet "github.com/sluice-lsp/sluice/lsp/agent"
	"github.com/sluice-lsp/sluice/lsp/collab/api/collabv1"
)

// An LSP that names another channel of the wallet's as the new one gets no signature,
// and that channel is not forgotten when the wallet lets go.
func TestALiarNamesAnotherChannel(t *testing.T) {
	n := newNet(t)
	point, err := n.w.OpenChannel(n.gatewayNode, n.node, 1_000_000, 400_000)
	require.NoError(t, err)
	n.w.Mine(6)
	other, err := ln.ParseOutpoint(point)
	require.NoError(t, err)
	n.mu.Lock()
	n.lie = func(f *collabv1.Funding) {
		if f.GetChannel() != "" {
			f.Channel = other.String()
		}
	}
	n.mu.Unlock()
	_, err = n.a.Open(t.Context(), request())
	require.Error(t, err)
	require.Zero(t, n.signed)
	require.Equal(t, PhaseGivenUp, n.a.List()[0].Phase)
	open, err := n.wallet.ListChannels(t.Context())
	require.NoError(t, err)
	require.Len(t, open, 1)
	require.Equal(t, other, open[0].Outpoint)
	n.mu.Lock()
	n.lie = nil
	n.mu.Unlock()
}

// The LSP disappears at each of its calls, before it did what it was asked or after:
// what was not signed leaves nothing behind, what was is seen through.
func TestTheLSPDisappearsAtEachCall(t *testing.T) {
	for _, method := range []string{"GetTerms", "OfferInputs", "WatchFunding", "SignFunding"} {
		for name, after := range map[string]bool{"before": false, "after": true} {
			t.Run(method+" "+name, func(t *testing.T) {
				n := newNet(t)
				gone := errors.New("the line went dead")
				n.mu.Lock()
				n.fail = func(called string, done bool) error {
					if called == "/"+collabv1.JointFundingService_ServiceDesc.ServiceName+"/"+method && done == after {
						return gone
					}
					return nil
				}
				n.mu.Unlock()
				r, err := n.a.Open(t.Context(), request())
				if method == "SignFunding" {
					require.NoError(t, err)
					_, err = n.a.Sign(t.Context(), r.Key(), nil)
					require.Error(t, err)
					require.Equal(t, PhaseSigned, n.a.List()[0].Phase)
					n.mu.Lock()
					n.fail = nil
					n.mu.Unlock()
					n.restart()
					require.Eventually(t, func() bool { n.a.wake(); return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
					n.w.Mine(3)
					n.phase(r.Key(), PhaseDone)
					require.NoError(t, n.w.Err())
					return
				}
				require.Error(t, err)
				require.Zero(t, n.signed)
				require.Zero(t, n.leases(), "the coins are free")
				require.Eventually(t, func() bool { return n.channels() == 0 }, time.Minute, 10*time.Millisecond, "no channel is left")
				require.EqualValues(t, n.before, n.w.Wealth(n.node).TotalMsat()/1000)
				for _, r := range n.a.List() {
					require.Equal(t, PhaseGivenUp, r.Phase)
				}
			})
		}
	}
}

// A hostile LSP keeps the signature and publishes much later. The wallet has kept the
// channel, so it has it then.
func TestPublishedLate(t *testing.T) {
	n := newNet(t)
	r, err := n.a.Open(t.Context(), request())
	require.NoError(t, err)
	n.w.RejectPublications(errors.New("not yet"))
	_, err = n.a.Sign(t.Context(), r.Key(), nil)
	require.NoError(t, err)
	n.w.Mine(30)
	n.restart()
	_, err = n.a.Abort(t.Context(), r.Key())
	require.Equal(t, errkind.Conflict, errkind.Of(err))
	require.Equal(t, PhaseSigned, n.phase(r.Key(), PhaseSigned).Phase)
	require.Equal(t, 1, n.channels())
	n.w.RejectPublications(nil)
	n.w.Mine(1)
	require.Eventually(t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond, "it is sent with every block")
	n.w.Mine(3)
	n.phase(r.Key(), PhaseDone)
	require.EqualValues(t, 400_000, n.w.Wealth(n.node).ChannelMsat/1000)
	require.NoError(t, n.w.Err())
}

// The wallet's own lnd dies at each of its calls, or its answer is lost: no coin stays
// leased and no channel stays behind that was not signed, and what was signed is seen
// through.
func TestTheWalletsNodeDiesAtEachCall(t *testing.T) {
	day := func(t *testing.T, at int, lose bool) int {
		n := newNet(t)
		calls := 0
		n.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
			if c.Node != n.node.Name() || c.Phase != lndfake.BeforeCall && c.Phase != lndfake.AfterCall {
				return lndfake.Pass
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			if c.Phase == lndfake.BeforeCall {
				calls++
			}
			if calls != at || lose != (c.Phase == lndfake.AfterCall) {
				return lndfake.Pass
			}
			t.Logf("--- at %s", c.Method)
			calls++ // once
			if lose {
				return lndfake.Lose
			}
			n.node.Kill()
			time.AfterFunc(300*time.Millisecond, func() { _ = n.node.Start() })
			return lndfake.Pass
		})
		r, err := n.a.Open(t.Context(), request())
		if err == nil {
			_, err = n.a.Sign(t.Context(), r.Key(), nil)
		}
		if err != nil {
			t.Log(err)
		}
		n.mu.Lock()
		total := calls
		n.mu.Unlock()
		n.restart()
		for left := 3_000; ; left-- {
			list := n.a.List()
			if len(list) == 0 {
				break // it could not even begin
			}
			r = list[0]
			switch r.Phase {
			case PhaseReady:
				_, _ = n.a.Sign(t.Context(), r.Key(), nil)
			case PhaseSigned:
				n.w.Mine(1)
			}
			if r.Phase.Over() {
				break
			}
			require.Positive(t, left, "it is %s", r.Phase)
			n.a.wake()
			time.Sleep(20 * time.Millisecond)
		}
		require.Eventually(t, func() bool {
			_, err := n.wallet.Info(t.Context())
			return err == nil
		}, time.Minute, 10*time.Millisecond)
		left := int64(0)
		if r.Phase == PhaseDone {
			left = int64(r.ServiceFeeSat) + int64(r.ChainFeeSat)
			require.Equal(t, 1, n.channels())
		} else {
			require.Zero(t, n.leases())
			require.Eventually(t, func() bool { return n.channels() == 0 }, time.Minute, 10*time.Millisecond)
		}
		require.EqualValues(t, n.before-left, n.w.Wealth(n.node).TotalMsat()/1000)
		require.NoError(t, n.w.Err())
		return total
	}
	total := day(t, 0, false)
	require.GreaterOrEqual(t, total, 6)
	for at := 1; at <= total; at++ {
		for name, lose := range map[string]bool{"dies": false, "answer lost": true} {
			t.Run(fmt.Sprintf("%s %d", name, at), func(t *testing.T) { day(t, at, lose) })
		}
	}
}

// The LSP spends a coin of its own otherwise, before the wallet signs or after: there
// will be no channel. The wallet's coins are its own all the time: it is told to take
// them back, and forgets the channel once that is buried.
func TestTheLSPDoubleSpends(t *testing.T) {
	for name, after := range map[string]bool{"before the wallet signs": false, "after it signed": true} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			r, err := n.a.Open(t.Context(), request())
			require.NoError(t, err)
			if !after {
				n.gatewaySpends(r)
			}
			_, err = n.a.Sign(t.Context(), r.Key(), nil)
			require.NoError(t, err)
			if after {
				require.Eventually(t, func() bool { return len(n.w.Mempool()) == 1 }, time.Minute, 10*time.Millisecond)
				n.w.DropFromMempool([32]byte(r.Channel.TxID))
				n.gatewaySpends(r)
			}
			n.w.Mine(1)
			n.a.wake()
			require.Equal(t, 1, n.channels(), "a reorg could undo it")
			n.w.Mine(5)
			require.Eventually(t, func() bool {
				n.a.wake()
				return strings.Contains(n.phase(r.Key(), PhaseSigned).Alarm, "fund reclaim")
			}, time.Minute, 20*time.Millisecond, "the user is told what to do")
			require.Equal(t, 1, n.channels(), "the LSP's word is not enough to forget it")
			_, err = n.a.Reclaim(t.Context(), r.Key())
			require.NoError(t, err)
			n.w.Mine(3)
			n.phase(r.Key(), PhaseVoid)
			require.Zero(t, n.channels())
			require.Zero(t, n.leases())
			cost := n.before - n.w.Wealth(n.node).TotalMsat()/1000
			require.Positive(t, cost)
			require.Less(t, cost, int64(2_000), "a transaction's fee")
			require.NoError(t, n.w.Err())
		})
	}
}

// gatewaySpends has the gateway's wallet spend a coin that it brought to the channel.
func (n *net5) gatewaySpends(r Record) {
	n.t.Helper()
	ctx := n.t.Context()
	leases, err := n.gateway.ListLeases(ctx)
	require.NoError(n.t, err)
	require.NotEmpty(n.t, leases)
	for _, l := range leases {
		require.NoError(n.t, n.gateway.ReleaseCoin(ctx, l.ID, l.Outpoint))
	}
	address, err := n.gateway.NewChangeAddress(ctx)
	require.NoError(n.t, err)
	coins, err := n.gateway.ListCoins(ctx, 1)
	require.NoError(n.t, err)
	var all ln.Sat
	for _, c := range coins {
		all += c.AmountSat
	}
	packet, err := n.gateway.FundPsbt(ctx, ln.FundOutput{Address: address, AmountSat: all - 10_000, FeeRate: 2_000, MinConfs: 1, LeaseID: [32]byte{9}, LeaseFor: time.Hour})
	require.NoError(n.t, err)
	raw, err := n.gateway.FinalizePsbt(ctx, packet.Psbt)
	require.NoError(n.t, err)
	require.NoError(n.t, n.gateway.Publish(ctx, raw, "double-spend of "+r.Key()))
}

// An LSP of another network, another node, or with terms out of all reason is left
// before a coin is leased.
func TestTermsAreJudged(t *testing.T) {
	l := wallet.LSP{Name: "gateway", NodeKey: ln.PubKey{2, 7}}
	good := func() *collabv1.GetTermsResponse {
		return &collabv1.GetTermsResponse{
			GatewayNodeKey: l.NodeKey[:], Network: "mainnet", MinWalletSat: 20_000, MinInboundSat: 50_000, MaxCapacitySat: 10_000_000,
			BaseFeeSat: 500, FeePpm: 4_000, FeeRateSatPerKw: 500, MinInputConfirmations: 1, BuriedConfirmations: 6,
		}
	}
	info := ln.NodeInfo{Network: "mainnet"}
	require.NoError(t, judgeTerms(request(), l, info, good()))
	for name, edit := range map[string]func(*collabv1.GetTermsResponse){
		"a foreign network": func(t *collabv1.GetTermsResponse) { t.Network = "testnet" },
		"another node":      func(t *collabv1.GetTermsResponse) { t.GatewayNodeKey = append([]byte{3}, l.NodeKey[1:]...) },
		"no node":           func(t *collabv1.GetTermsResponse) { t.GatewayNodeKey = nil },
		"a refusal":         func(t *collabv1.GetTermsResponse) { t.Refusal = "fees are high" },
		"a fee of a third":  func(t *collabv1.GetTermsResponse) { t.FeePpm = 333_333 },
		"a fee beyond all":  func(t *collabv1.GetTermsResponse) { t.BaseFeeSat = 1 << 63 },
		"parts of parts":    func(t *collabv1.GetTermsResponse) { t.FeePpm = 1 << 40 },
		"no fee rate":       func(t *collabv1.GetTermsResponse) { t.FeeRateSatPerKw = 0 },
		"a mad fee rate":    func(t *collabv1.GetTermsResponse) { t.FeeRateSatPerKw = 1 << 40 },
		"smaller channels":  func(t *collabv1.GetTermsResponse) { t.MaxCapacitySat = 900_000 },
		"larger parts":      func(t *collabv1.GetTermsResponse) { t.MinInboundSat = 700_000 },
	} {
		terms := good()
		edit(terms)
		require.Error(t, judgeTerms(request(), l, info, terms), name)
	}
	for _, said := range []uint32{0, 1} {
		require.EqualValues(t, leastBuried, buriedConfs(said), "an LSP does not have channels forgotten after one block")
	}
	require.EqualValues(t, 6, buriedConfs(6))
	require.EqualValues(t, mostBuried, buriedConfs(1<<31))
}
