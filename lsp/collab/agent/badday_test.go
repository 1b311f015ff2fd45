package agent

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/errkind"
	"github.com/sluice-lsp/sluice/internal/ln"
	"github.com/sluice-lsp/sluice/internal/lndfake"
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
		deadline := time.Now().Add(2 * time.Minute)
		for {
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
			require.True(t, time.Now().Before(deadline), "it is %s", r.Phase)
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
