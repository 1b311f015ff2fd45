package app

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// The gateway's wallet signs the funding transaction while the client's node signs its
// commitment. Until then the transaction is nobody's: an answer that is lost, or that a new
// block may have spoiled, is asked for again, and the transaction of a channel that the
// node does not sign is never published.
func TestTheWalletSignsAhead(t *testing.T) {
	for name, day := range map[string]struct {
		lost, gone, block bool
		signs             int64
	}{
		"in time":              {signs: 1},
		"the answer is lost":   {lost: true, signs: 2},
		"the client's is gone": {gone: true, signs: 1},
		"a block comes first":  {block: true, signs: 2},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				r := newRig(t, rigConfig{seed: drawnSeed(t), job: jobs()[0], latency: lndfake.Observed()})
				r.openBooks()
				a := r.agree()
				var signs, publishes, ahead atomic.Int64
				r.w.OnRPC(func(c lndfake.Call) lndfake.Verdict {
					if c.Node != r.gateway.Name() || c.Phase != lndfake.BeforeCall {
						return lndfake.Pass
					}
					switch c.Method {
					case "/walletrpc.WalletKit/FinalizePsbt":
						first := signs.Add(1) == 1
						if first {
							ahead.Store(time.Now().UnixMilli())
						}
						if first && day.block {
							r.w.Mine(1)
						}
						if first && day.gone {
							r.w.Disconnect(r.gateway, r.wallet)
						}
						if first && day.lost {
							return lndfake.Lose
						}
					case "/walletrpc.WalletKit/PublishTransaction":
						publishes.Add(1)
					}
					return lndfake.Pass
				})
				m := r.outcome(r.pay(a.bolt11))
				r.w.OnRPC(nil)
				require.Equal(t, day.signs, signs.Load())
				if day.gone {
					require.Equal(t, lnrpc.Payment_FAILED, m.Status, r.stories())
					require.Zero(t, publishes.Load())
				} else {
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, r.stories())
					pending, signed := r.eventAt(a.id, "funding_pending"), r.eventAt(a.id, "funding_signed")
					require.Less(t, ahead.Load(), pending.UnixMilli(), "it signs ahead")
					require.False(t, signed.Before(pending), "it is stored before the peer has signed")
				}
				r.settle()
				r.check(a, m)
			})
		})
	}
}

// eventAt is when the payment, or its open, had an event.
func (r *rig) eventAt(id, name string) time.Time {
	r.t.Helper()
	shown, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: id})
	require.NoError(r.t, err)
	for _, e := range shown.Story {
		if e.Event == name {
			return time.UnixMilli(e.AtMs)
		}
	}
	r.t.Fatalf("no %s\n%s", name, r.stories())
	return time.Time{}
}
