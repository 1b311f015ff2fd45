package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/lightningnetwork/lnd/lnrpc"
	"github.com/lightningnetwork/lnd/lnrpc/routerrpc"
	"github.com/stretchr/testify/require"

	"github.com/sluice-lsp/sluice/internal/lndfake"
	"github.com/sluice-lsp/sluice/lsp/api/lspv1"
)

// TestManyToOneWallet: fourteen payments to one wallet at once, some in parts,
// some small enough for what others left, each with a channel of its own on
// demand. lnd puts the parts anywhere; all are paid at the first try, over one
// channel each.
func TestManyToOneWallet(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				const count, amount = 14, 100_000
				r := newRig(t, rigConfig{seed: seed, latency: lndfake.Observed(), configure: func(c *Config) { c.LSP.OpensPerHourEach = 0 }, job: job{name: "many", amountSat: amount, parts: 1, opens: true}})
				for range 3 {
					_, err := r.payer.Fund(5_000_000)
					require.NoError(t, err)
					_, err = r.w.OpenChannel(r.payer, r.gateway, 3_000_000, 0)
					require.NoError(t, err)
				}
				var agreements []agreement
				for range count {
					agreements = append(agreements, r.agree())
				}
				began := time.Now()
				var done []<-chan *lnrpc.Payment
				for i, a := range agreements {
					shard := uint64(0)
					if i%2 == 0 {
						shard = uint64(amount)*1000*2/3 + 1_000_000*uint64(i)
					}
					done = append(done, r.payInShards(a.bolt11, shard))
				}
				for i, a := range agreements {
					m := r.outcome(done[i])
					require.Equal(t, lnrpc.Payment_SUCCEEDED, m.Status, "payment %d (%s): %s, %v\n%s", i, a.id, m.FailureReason, m.Htlcs, r.stories())
					for _, h := range m.Htlcs {
						require.Equal(t, lnrpc.HTLCAttempt_SUCCEEDED, h.Status, "payment %d: a part of it came back", i)
					}
					r.await(a.id)
					p, err := r.service.Load().operator.ShowPayment(r.ctx, &lspv1.ShowPaymentRequest{IdOrHash: a.id})
					require.NoError(t, err)
					require.LessOrEqual(t, len(p.Openings), 1)
				}
				t.Logf("%d payments in %s", count, time.Since(began))
			})
		})
	}
}

func (r *rig) payInShards(bolt11 string, shardMsat uint64) <-chan *lnrpc.Payment {
	return r.send(&routerrpc.SendPaymentRequest{
		PaymentRequest: bolt11, TimeoutSeconds: 120, NoInflightUpdates: true, FeeLimitMsat: 100_000_000, MaxParts: 4, MaxShardSizeMsat: shardMsat,
	})
}
